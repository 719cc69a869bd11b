//! Readers made on the spot: folders with random weights, and names that are none.

use super::ops::tests::as_on_a_device;
use super::*;
use crate::progress::Silent;
use crate::testing::gemma;

/// A matrix of normal numbers.
pub(super) fn random(rows: usize, columns: usize) -> Tensor {
    Tensor::randn(0f32, 1.0, (rows, columns), &Device::Cpu).unwrap()
}

/// The largest difference of two tensors of one shape.
pub(super) fn distance(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

#[test]
fn names_of_the_hub_are_told_from_others() {
    assert!(on_hub("google/gemma-3-270m") && on_hub("o/r/model-q8_0.gguf"));
    for name in ["gemma", "a/b/c", "../secret/x", "a//b", "/abs/path", "o/r/x.safetensors"] {
        assert!(!on_hub(name), "{name}");
    }
}

#[test]
fn unknown_readers_are_refused_with_what_there_is() {
    let error = Reader::load("nobody", &ReaderOptions::default(), &Silent).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.message().contains("gemma-3-270m") && error.message().contains("owner/name"), "{error}");
}

#[test]
fn what_is_at_hand_is_known_without_fetching() {
    let dir = tempfile::tempdir().unwrap();
    let at_hand = |name: &str| Reader::is_at_hand(name, dir.path());
    assert!(!at_hand("all-MiniLM-L6-v2").unwrap() && !at_hand("owner/name").unwrap());
    assert!(at_hand(&dir.path().to_string_lossy()).unwrap());
    assert_eq!(at_hand("nope").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn an_incomplete_folder_is_refused_with_the_file_that_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let load = || Reader::load(&dir.path().to_string_lossy(), &ReaderOptions::default(), &Silent).err().unwrap();
    assert!(load().message().contains("config.json"));
    std::fs::write(dir.path().join("config.json"), "{\"model_type\": \"mamba\"}").unwrap();
    assert!(load().message().contains("tokenizer.json"));
}

#[test]
fn devices_are_named() {
    let named = |name: &str| device(&ReaderOptions { device: Some(name.to_owned()), ..ReaderOptions::default() });
    assert!(named("cpu").unwrap().is_cpu());
    assert!(named("tpu").unwrap_err().message().contains("expected cpu, cuda, cuda:N or metal"));
    if !cfg!(feature = "cuda") {
        assert!(named("cuda:1").unwrap_err().message().contains("without the feature cuda"));
    }
}

/// Compares the states of [`gemma`] with those that transformers computed.
fn assert_agrees_with_transformers(reader: &Reader) {
    let path = Path::new(reader.name()).join("expected.json");
    let expected: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let windows: Vec<Vec<u32>> = serde_json::from_value(expected["windows"].clone()).unwrap();
    let mut hooks: Vec<Hook> =
        expected["states"].as_object().unwrap().keys().map(|name| name.parse().unwrap()).collect();
    hooks.sort_unstable();
    let states = reader.raw_states(&windows, &hooks).unwrap();
    for (hook, states) in hooks.iter().zip(&states) {
        let want: Vec<Vec<f32>> = serde_json::from_value(expected["states"][hook.to_string()].clone()).unwrap();
        let width = reader.hook_width(*hook).unwrap();
        assert_eq!(states.len(), want.len() * width, "{hook}");
        let largest = want.iter().flatten().fold(0.0f32, |a, b| a.max(b.abs()));
        for (row, want) in states.chunks(width).zip(&want) {
            for (got, want) in row.iter().zip(want) {
                assert!((got - want).abs() < 1e-4 * largest + 1e-5, "{hook}: {got}, expected {want}");
            }
        }
    }
}

#[test]
fn a_small_gemma_agrees_with_transformers_at_its_hook_points() {
    let reader = gemma();
    assert_eq!((reader.n_layers(), reader.width(), reader.is_causal()), (2, 16, true));
    assert_agrees_with_transformers(&reader);
    assert!(reader.raw_states(&[vec![1, 2]], &["residual.3".parse().unwrap()]).is_err());
    assert!(reader.raw_states(&[vec![64]], &[Hook::residual(0)]).is_err(), "not in the vocabulary");
}

#[test]
fn a_small_gemma_agrees_with_transformers_in_the_operations_of_other_devices() {
    as_on_a_device(|| assert_agrees_with_transformers(&gemma()));
}

#[test]
fn a_small_bert_gives_the_same_states_in_the_operations_of_other_devices() {
    let config = serde_json::json!({
        "model_type": "bert", "hidden_act": "gelu", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
        "intermediate_size": 40, "vocab_size": 50, "max_position_embeddings": 64, "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
    });
    let config = bert::Config::of(&config).unwrap();
    let mut tensors = HashMap::new();
    let mut add = |name: String, rows: usize, columns: usize| {
        tensors.insert(name, (random(rows, columns) * 0.3).unwrap());
    };
    for (name, rows) in [("word", 50), ("position", 64), ("token_type", 2)] {
        add(format!("embeddings.{name}_embeddings.weight"), rows, 24);
    }
    let linear = [
        ("attention.self.query", 24, 24),
        ("attention.self.key", 24, 24),
        ("attention.self.value", 24, 24),
        ("attention.output.dense", 24, 24),
        ("intermediate.dense", 24, 40),
        ("output.dense", 40, 24),
    ];
    let mut vectors =
        vec![("embeddings.LayerNorm.weight".to_owned(), 24), ("embeddings.LayerNorm.bias".to_owned(), 24)];
    for block in 0..2 {
        for (name, inputs, outputs) in linear {
            add(format!("encoder.layer.{block}.{name}.weight"), outputs, inputs);
            vectors.push((format!("encoder.layer.{block}.{name}.bias"), outputs));
        }
        for name in ["attention.output.LayerNorm", "output.LayerNorm"] {
            for part in ["weight", "bias"] {
                vectors.push((format!("encoder.layer.{block}.{name}.{part}"), 24));
            }
        }
    }
    for (name, width) in vectors {
        tensors.insert(name, random(1, width).get(0).unwrap());
    }
    let folder = tempfile::tempdir().unwrap();
    let files = [folder.path().join("model.safetensors")];
    candle_core::safetensors::save(&tensors, &files[0]).unwrap();
    let hooks: Vec<Hook> = (0..=2).map(Hook::residual).collect();
    let ids: Vec<u32> = (0..40).collect();
    let states = || {
        let weights = Weights::safetensors(&files).unwrap();
        let model = bert::Bert::load(config.clone(), weights, Device::Cpu, Precision::F32).unwrap();
        model.forward(&ids, &[5, 1, 34], &hooks).unwrap()
    };
    for (got, want) in as_on_a_device(states).iter().zip(states()) {
        assert!(distance(got, &want) < 1e-4);
    }
}

#[test]
fn a_decoder_reads_long_texts_in_windows_and_leaves_its_first_token_out() {
    let reader = gemma();
    assert_eq!(reader.ids("A B").unwrap(), [1, 3, 4]);
    let long = ["A B C D E F G"; 40].join(" ");
    let texts = reader.tokenize(&[&long, "A B", ""]).unwrap();
    assert_eq!(texts[0].tokens.len(), 280);
    let hook = Hook::residual(1);
    let rows = reader
        .read(&texts, &[Wanted::states(hook)], |(): &mut (), batch| {
            assert!(batch.windows(0, 16).is_empty());
            let row_sets = batch.pieces.iter().map(|piece| {
                assert_eq!(piece.n_special, 0);
                batch.layers[0][piece.rows.start * 16..piece.rows.end * 16].to_vec()
            });
            Ok(row_sets.collect())
        })
        .unwrap();
    let counts: Vec<usize> = rows.iter().map(|pieces| pieces.iter().map(Vec::len).sum::<usize>() / 16).collect();
    assert_eq!(counts, [280, 2, 0]);
    // The short text as the model alone sees it, but for tokens that read as the mean.
    let raw = reader.raw_states(&[vec![1, 3, 4]], &[hook]).unwrap();
    let calm = reader.calm(&[hook]).unwrap()[0].clone().unwrap();
    let mut want = raw[0][16..].to_vec();
    calm.apply(&mut want);
    let got = &rows[1][0];
    assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-4), "{got:?} and {want:?}");
    assert_eq!(reader.embedding_hook(&[hook]), hook);
    // Each window with what it reads before its own tokens: the first token in its state, the overlap as in the rows.
    let leads = reader
        .read(&texts, &[Wanted::windows(hook)], |(): &mut (), batch| {
            let windows = batch.windows(0, 16);
            assert!(windows.iter().flat_map(|window| window.rows.clone()).eq(0..batch.layers[0].len() / 16));
            let mut leads = windows.iter().map(|window| window.lead.to_vec());
            let of_piece = |piece: &PieceStates| -> Vec<Vec<f32>> {
                leads.by_ref().take(texts[piece.doc].pieces[piece.piece].windows.len()).collect()
            };
            Ok(batch.pieces.iter().map(of_piece).collect::<Vec<_>>())
        })
        .unwrap();
    for (text, leads) in texts.iter().zip(&leads) {
        let windows = text.pieces.iter().flat_map(|piece| &piece.windows);
        for (window, lead) in windows.zip(leads.iter().flatten()) {
            let ids: Vec<u32> =
                std::iter::once(1).chain(text.tokens[window.read.clone()].iter().map(|token| token.id)).collect();
            let mut want = reader.raw_states(&[ids], &[hook]).unwrap().remove(0);
            calm.apply(&mut want[16..]);
            want.truncate(16 * (1 + window.own.start - window.read.start));
            assert_eq!(lead.len(), want.len());
            assert!(lead.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-4), "{lead:?} and {want:?}");
        }
    }
    assert!(leads[0].iter().flatten().any(|lead| lead.len() > 16));
}

/// The same weights as a GGUF file: gains with the 1 added, other names, the tokenizer in the metadata.
#[test]
fn a_gguf_file_gives_the_states_of_the_folder_that_it_was_made_from() {
    use candle_core::quantized::gguf_file::Value as Entry;
    use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
    let folder = gemma();
    let weights = Weights::safetensors(&[Path::new(folder.name()).join(fetch::WEIGHTS)]).unwrap();
    let names = [
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("post_attention_layernorm", "post_attention_norm"),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
    ];
    let mut renamed = vec![
        ("model.embed_tokens.weight".to_owned(), "token_embd.weight".to_owned()),
        ("model.norm.weight".to_owned(), "output_norm.weight".to_owned()),
    ];
    for block in 0..2 {
        let both =
            |(theirs, ours)| (format!("model.layers.{block}.{theirs}.weight"), format!("blk.{block}.{ours}.weight"));
        renamed.extend(names.map(both));
    }
    let tensor = |from: &str| {
        let tensor = weights.tensor(from).unwrap();
        let tensor = if from.ends_with("norm.weight") { (tensor + 1.0).unwrap() } else { tensor };
        QTensor::quantize(&tensor, GgmlDType::F32).unwrap()
    };
    let tensors: Vec<(String, QTensor)> = renamed.iter().map(|(from, to)| (to.clone(), tensor(from))).collect();
    let texts = |texts: &[&str]| Entry::Array(texts.iter().map(|text| Entry::String((*text).to_owned())).collect());
    let tokens = ["<unk>", "<bos>", "a", "b", "ab", "▁", "▁ab", "<x>"];
    let scores = [0.0, 0.0, -3.0, -4.0, -1.0, -5.0, -2.0, 0.0];
    let kinds = [2, 3, 1, 1, 1, 1, 1, 4];
    let count = |n: u32| Entry::U32(n);
    let metadata = [
        ("general.architecture", Entry::String("gemma3".to_owned())),
        ("gemma3.embedding_length", count(16)),
        ("gemma3.block_count", count(2)),
        ("gemma3.attention.head_count", count(2)),
        ("gemma3.attention.head_count_kv", count(1)),
        ("gemma3.attention.key_length", count(8)),
        ("gemma3.attention.sliding_window", count(7)),
        ("gemma3.attention.layer_norm_rms_epsilon", Entry::F32(1e-6)),
        ("gemma3.context_length", count(128)),
        ("gemma3.rope.freq_base", Entry::F32(1e6)),
        ("tokenizer.ggml.model", Entry::String("llama".to_owned())),
        ("tokenizer.ggml.tokens", texts(&tokens)),
        ("tokenizer.ggml.scores", Entry::Array(scores.map(Entry::F32).to_vec())),
        ("tokenizer.ggml.token_type", Entry::Array(kinds.map(Entry::I32).to_vec())),
        ("tokenizer.ggml.bos_token_id", count(1)),
        ("tokenizer.ggml.add_bos_token", Entry::Bool(true)),
        ("tokenizer.ggml.add_space_prefix", Entry::Bool(false)),
        ("tokenizer.chat_template", Entry::String("{{ bos_token }}{{ messages[0].content }}!".to_owned())),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.gguf");
    let metadata: Vec<(&str, &Entry)> = metadata.iter().map(|(key, entry)| (*key, entry)).collect();
    let views: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut std::fs::File::create(&path).unwrap(), &metadata, &views).unwrap();

    let options = ReaderOptions { threads: 1, context: Some(70), ..ReaderOptions::default() };
    let reader = Reader::load(&path.to_string_lossy(), &options, &Silent).unwrap();
    // The better score wins: "ab" before "▁a"; what was defined by a user stays whole.
    assert_eq!(reader.ids("ab ab<x>b").unwrap(), [1, 4, 6, 7, 3]);
    // Without an instruction to the contrary the first block of six sees a window only; the second is not compared.
    let hooks = [Hook::residual(0), Hook::new(Site::Heads, 0), Hook::residual(1)];
    let windows = [vec![1, 4, 6, 7, 3], (0..30).collect()];
    let (got, want) = (reader.raw_states(&windows, &hooks).unwrap(), folder.raw_states(&windows, &hooks).unwrap());
    for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
        assert!((got - want).abs() < 1e-4, "{got}, expected {want}");
    }
    let message = Message { role: "user".to_owned(), content: "Hi".to_owned() };
    assert_eq!(reader.chat_template().unwrap().render(&[message], false).unwrap(), "Hi!");
}
