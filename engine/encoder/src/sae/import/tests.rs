//! Folders that the tools wrote (see `tests/parity/sae_architectures.py`), wrong combinations, and a hub on this machine.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;

use super::*;
use crate::progress::Silent;
use crate::sae::Architecture;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/dictionaries").join(name)
}

/// Options whose cache is empty, so that no reader is at hand.
fn options(source: &Path) -> ImportOptions {
    let cache_dir = std::env::temp_dir().join("saequel-test-empty-cache");
    let reader_options = ReaderOptions { threads: 1, cache_dir, ..ReaderOptions::default() };
    ImportOptions { source: source.display().to_string(), reader_options, ..ImportOptions::default() }
}

/// Imports a fixture, and compares what it encodes with what its source did.
fn agrees(name: &str) -> (Sae, ImportReport) {
    let dir = fixture(name);
    let (sae, report) = import(&options(&dir), &Silent).unwrap();
    let expected: Value = serde_json::from_slice(&std::fs::read(dir.join("expected.json")).unwrap()).unwrap();
    let states: Vec<f32> = expected["states"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|row| row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32))
        .collect();
    // Saved and loaded, it must be the same dictionary.
    let folder = tempfile::tempdir().unwrap();
    sae.save(folder.path()).unwrap();
    let loaded = Sae::load(folder.path()).unwrap();
    assert_eq!(loaded.describe(), sae.describe());
    for sae in [&sae, &loaded] {
        let rows = sae.encode_states(&states).unwrap();
        for (row, want) in rows.iter().zip(expected["rows"].as_array().unwrap()) {
            let want: Vec<(u32, f32)> = serde_json::from_value(want.clone()).unwrap();
            let features = |row: &[(u32, f32)]| row.iter().map(|(feature, _)| *feature).collect::<Vec<_>>();
            assert_eq!(features(row), features(&want), "{name}");
            let largest = want.iter().map(|(_, x)| *x).fold(0.0, f32::max);
            for ((_, got), (_, want)) in row.iter().zip(&want) {
                assert!((got - want).abs() <= 1e-5 * largest, "{name}: {got} for {want}");
            }
        }
        assert!(rows.iter().any(|row| !row.is_empty()));
    }
    (sae, report)
}

#[test]
fn a_saelens_folder_encodes_as_sae_lens_does() {
    let (sae, report) = agrees("saelens");
    assert_eq!((report.format, report.hook.to_string().as_str()), ("SAELens", "residual.6"));
    assert_eq!((sae.architecture(), sae.name()), (Architecture::JumpRelu, "gpt2-l6-token-24"));
    assert!(report.notes.iter().any(|note| note.contains("BOS")), "{:?}", report.notes);
}

#[test]
fn a_gemma_scope_npz_names_its_reader_by_its_folder() {
    let (sae, report) = agrees("gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82");
    assert_eq!((report.format, report.model.as_deref()), ("Gemma Scope", Some("google/gemma-2-2b")));
    assert_eq!((sae.hook(), sae.precision()), (Hook::residual(13), Precision::F32));
}

#[test]
fn a_signed_sparsify_folder_gives_two_features_a_latent() {
    let (sae, report) = agrees("sparsify/layers.2");
    assert_eq!((sae.width(), sae.latents().len(), report.format), (48, 48, "sparsify"));
    assert_eq!(sae.latents()[25].label, "latent 1, negative");
    assert!(report.notes.iter().any(|note| note.contains("24 to 47")), "{:?}", report.notes);
    // One unit of the negative feature takes away what one of the positive one adds.
    let (up, down) = (sae.rebuild(&[(1, 1.0)]), sae.rebuild(&[(25, 1.0)]));
    let rest = sae.rebuild(&[]);
    assert!(up.iter().zip(&down).zip(&rest).all(|((up, down), rest)| (up + down - 2.0 * rest).abs() < 1e-6));
}

#[test]
fn a_temporal_saelens_folder_encodes_a_sequence_as_sae_lens_does() {
    let (sae, report) = agrees("temporal");
    let expected = Architecture::Temporal { layers: 1, heads: 2, keys: 8, k: Some(5), tied: true };
    assert_eq!((sae.architecture(), sae.name()), (expected, "gpt2-l6-token-24"));
    assert_eq!(sae.normalization(), InputNormalization::Scale { factor: 0.5 });
    assert!(report.notes.iter().any(|note| note.contains("what the tokens before do not predict")), "{report:?}");
    let spans = ImportOptions { level: Some(Level::Span), ..options(&fixture("temporal")) };
    assert!(refused(&spans).contains("cannot be of level span; leave --level out"));
    let scaled = ImportOptions { input_scale: Some(2.0), ..options(&fixture("temporal")) };
    assert!(refused(&scaled).contains("does not go with normalize_activations 'constant_scalar_rescale'"));
}

/// The SAELens folder `temporal` in the layout of temporalSAEs.
fn temporal_saes(dir: &Path, conf: &str) -> PathBuf {
    use safetensors::SafeTensors;
    let folder = dir.join("gemma-2-2B/layer_12/temporal");
    std::fs::create_dir_all(&folder).unwrap();
    let bytes = std::fs::read(fixture("temporal").join("sae_weights.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let name = |name: String| match name.as_str() {
        "W_dec" => "D".to_owned(),
        "b_dec" => "b".to_owned(),
        _ => name,
    };
    let tensors = tensors.tensors().into_iter().map(|(of, tensor)| (name(of), tensor));
    let bytes = safetensors::serialize(tensors.collect::<Vec<_>>(), None).unwrap();
    std::fs::write(folder.join("latest_ckpt.safetensors"), bytes).unwrap();
    std::fs::write(folder.join("conf.yaml"), conf).unwrap();
    folder
}

const TEMPORAL_CONF: &str = "\
deploy: True
data:
  dtype: \"bfloat16\"
llm:
  model_hf_name: \"google/gemma-2-2b\" # the model
  dimin: 8

sae:
  sae_type: 'temporal'
  sae_diff_type: 'topk' # Options: 'relu', 'topk', 'nullify'
  tied_weights: True
  exp_factor: 3
  kval_topk: 5
  n_heads: 2
  n_attn_layers: 1
  bottleneck_factor: 3 # bottleneck_factor = dimin / sparsity
  scaling_factor: 0.5 # for gemma2-2b
defaults:
  - override hydra/job_logging: disabled
";

#[test]
fn a_folder_of_temporal_saes_is_the_same_dictionary() {
    let dir = tempfile::tempdir().unwrap();
    let folder = temporal_saes(dir.path(), TEMPORAL_CONF);
    let (sae, report) = import(&options(&folder), &Silent).unwrap();
    let (same, _) = import(&options(&fixture("temporal")), &Silent).unwrap();
    assert_eq!((report.format, report.model.as_deref()), ("temporalSAEs", Some("google/gemma-2-2b")));
    assert_eq!((sae.hook(), sae.architecture()), (Hook::residual(13), same.architecture()));
    let states: Vec<f32> = (0..40 * 8).map(|i| (i * 37 % 101) as f32 / 25.0 - 2.0).collect();
    assert_eq!(sae.encode_states(&states).unwrap(), same.encode_states(&states).unwrap());
    for (from, to, reason) in [
        ("'topk' #", "'nullify' #", "sae_diff_type 'nullify' is not known; known are relu and topk"),
        ("n_heads: 2", "n_heads: 5", "5 heads do not divide 24 latents and 8 keys"),
        ("n_attn_layers: 1", "n_attn_layers: 2", "it has no tensor attn_layers.1.q_target.weight"),
        ("dimin: 8", "dimin: 9", "dimin is 9, but the weights have 8"),
        ("tied_weights: True", "tied_weights: False", "it has no tensor E"),
        ("  scaling_factor: 0.5", "  # none", "expected scaling_factor"),
    ] {
        assert!(TEMPORAL_CONF.contains(from), "{from}");
        let folder = temporal_saes(dir.path(), &TEMPORAL_CONF.replace(from, to));
        let message = refused(&options(&folder));
        assert!(message.contains(reason), "{message}");
    }
    let scaled = ImportOptions { input_scale: Some(2.0), ..options(&temporal_saes(dir.path(), TEMPORAL_CONF)) };
    assert!(refused(&scaled).contains("conf.yaml says scaling_factor 0.5"));
}

fn refused(options: &ImportOptions) -> String {
    let error = import(options, &Silent).unwrap_err();
    error.message().to_owned()
}

#[test]
fn what_does_not_fit_is_refused_with_the_reason() {
    let wrong_reader = ImportOptions { reader: Some("all-MiniLM-L6-v2".to_owned()), ..options(&fixture("saelens")) };
    let message = refused(&wrong_reader);
    assert!(message.contains("trained on 'gpt2-small', not on 'all-MiniLM-L6-v2'"), "{message}");
    assert!(message.contains("--same-model"), "{message}");
    let at = |hook: &str| ImportOptions { hook: Some(hook.parse().unwrap()), ..options(&fixture("saelens")) };
    let message = refused(&at("blocks.4.hook_resid_post"));
    assert!(message.contains("trained at 'blocks.5.hook_resid_post', not at residual.5"), "{message}");
    assert!(refused(&at("heads.5")).contains("not at heads.5 (blocks.5.attn.hook_z)"));
    // The same place under another name.
    assert_eq!(import(&at("blocks.6.hook_resid_pre"), &Silent).unwrap().0.hook(), Hook::residual(6));
    // The same model under another name is none of this test's business.
    let renamed =
        ImportOptions { reader: Some("my-gpt2".to_owned()), same_model: true, ..options(&fixture("saelens")) };
    assert_eq!(import(&renamed, &Silent).unwrap().0.reader(), "my-gpt2");
    let gpt2 = ImportOptions { reader: Some("openai-community/gpt2".to_owned()), ..options(&fixture("saelens")) };
    assert_eq!(import(&gpt2, &Silent).unwrap().0.reader(), "openai-community/gpt2");

    let message = Sae::load(&fixture("saelens")).unwrap_err().to_string();
    assert!(message.contains("`saequel sae import") && message.contains("no sae.json"), "{message}");

    let dir = tempfile::tempdir().unwrap();
    let message = refused(&options(dir.path()));
    assert!(message.contains("no dictionary of a known format; expected cfg.json"), "{message}");
    let message = refused(&options(&dir.path().join("nothing")));
    assert!(message.contains("cannot fetch") || message.contains("not found"), "{message}");
    assert_eq!(
        import(&ImportOptions { source: "xyz".to_owned(), ..options(dir.path()) }, &Silent).unwrap_err().kind(),
        ErrorKind::NotFound
    );

    // Cut off, of another shape, with a number that is none.
    let copy = |change: &dyn Fn(&mut Vec<u8>)| {
        for file in ["cfg.json", "sae_weights.safetensors"] {
            std::fs::copy(fixture("saelens").join(file), dir.path().join(file)).unwrap();
        }
        let path = dir.path().join("sae_weights.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes);
        std::fs::write(path, bytes).unwrap();
        refused(&options(dir.path()))
    };
    let message = copy(&|bytes| bytes.truncate(bytes.len() - 4));
    assert!(message.contains("cut off"), "{message}");
    let message = copy(&|bytes| {
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    assert!(message.contains("is NaN"), "{message}");
    let cfg = std::fs::read_to_string(fixture("saelens").join("cfg.json")).unwrap();
    std::fs::copy(fixture("saelens").join("sae_weights.safetensors"), dir.path().join("sae_weights.safetensors"))
        .unwrap();
    for (from, to, reason) in [
        ("\"d_sae\": 24", "\"d_sae\": 25", "d_sae is 25, but the weights have 24"),
        ("\"jumprelu\"", "\"temporal\"", "expected a number above 0 for n_attn_layers"),
        ("\"jumprelu\"", "\"crosscoder\"", "architecture 'crosscoder' is not known; known are standard, gated"),
        ("hook_resid_post", "hook_q", "hook point 'blocks.5.hook_q' not found"),
        ("\"normalize_activations\": \"none\"", "\"normalize_activations\": \"l1\"", "'l1' is not known"),
    ] {
        assert!(cfg.contains(from), "{from}");
        std::fs::write(dir.path().join("cfg.json"), cfg.replace(from, to)).unwrap();
        let message = refused(&options(dir.path()));
        assert!(message.contains(reason), "{message}");
    }
    let scaled = ImportOptions { input_scale: Some(-1.0), ..options(&fixture("saelens")) };
    assert!(refused(&scaled).contains("expected a number above 0"));
}

#[test]
fn a_reader_that_is_there_is_compared_with() {
    let reader_options = ReaderOptions { threads: 2, ..ReaderOptions::default() };
    Reader::load(crate::reader::DEFAULT_READER, &reader_options, &Silent).unwrap();
    let shipped = Sae::open(super::super::DEFAULT.as_ref()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    // The shipped dictionary as a SAELens folder: x is scaled and centred in its weights.
    let folder = saelens_of(&shipped, dir.path());
    let with = |hook: &str| ImportOptions {
        reader: Some(crate::reader::DEFAULT_READER.to_owned()),
        hook: Some(hook.parse().unwrap()),
        same_model: true,
        reader_options: reader_options.clone(),
        ..options(&folder)
    };
    let (_, report) = import(&with("4"), &Silent).unwrap();
    assert!(report.check.real && report.check.fvu < 0.5 && report.check.l0 > 4.0, "{:?}", report.check);
    let (_, elsewhere) = import(&with("1"), &Silent).unwrap();
    assert!(elsewhere.check.fvu > 1.5 * report.check.fvu, "{:?} {:?}", elsewhere.check, report.check);
    let message = refused(&with("9"));
    assert!(message.contains("does not fit the reader") && message.contains("residuals 0 to 6"), "{message}");
    let narrow = ImportOptions { source: fixture("saelens").display().to_string(), ..with("6") };
    let message = refused(&narrow);
    assert!(message.contains("reads 8 values, but reader 'all-MiniLM-L6-v2' has 384 at residual.6"), "{message}");
}

/// Writes a token-level dictionary of ours as SAELens would.
fn saelens_of(sae: &Sae, dir: &Path) -> PathBuf {
    use safetensors::tensor::{Dtype, TensorView};
    let (width, inputs) = (sae.width(), sae.input_width());
    let InputNormalization::Centred { scale, unit: false } = sae.normalization() else { panic!("token level") };
    let Architecture::BatchTopk { threshold, .. } = sae.architecture() else { panic!("one threshold") };
    let weights = &sae.weights;
    // y = (x - mean) scale: the factor goes into the encoder, the mean is the decoder's bias.
    let encoder: Vec<f32> = tensors::transpose(&weights.encoder, width, inputs).iter().map(|x| x * scale).collect();
    let decoder: Vec<f32> = weights.decoder.iter().map(|x| x / scale).collect();
    let bias: Vec<f32> = weights.mean.iter().zip(&weights.decoder_bias).map(|(mean, d)| mean + d / scale).collect();
    let shift: Vec<f32> = weights.decoder_bias.clone();
    let e: Vec<f32> = weights
        .encoder
        .chunks_exact(inputs)
        .zip(&weights.encoder_bias)
        .map(|(row, e)| e + row.iter().zip(&shift).map(|(w, d)| w * d).sum::<f32>())
        .collect();
    let bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let parts = [
        ("W_enc", vec![inputs, width], bytes(&encoder)),
        ("W_dec", vec![width, inputs], bytes(&decoder)),
        ("b_enc", vec![width], bytes(&e)),
        ("b_dec", vec![inputs], bytes(&bias)),
        ("threshold", vec![width], bytes(&vec![threshold; width])),
    ];
    let views =
        parts.iter().map(|(name, shape, bytes)| (*name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    let bytes = safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap();
    let folder = dir.join("saelens");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("sae_weights.safetensors"), bytes).unwrap();
    let cfg = serde_json::json!({
        "architecture": "jumprelu", "d_in": inputs, "d_sae": width, "apply_b_dec_to_input": true,
        "normalize_activations": "none", "metadata": { "sae_lens_version": "6.0.0", "model_name": "minilm" },
    });
    std::fs::write(folder.join("cfg.json"), cfg.to_string()).unwrap();
    folder
}

#[test]
fn a_released_name_is_fetched_from_the_hub() {
    // A hub that has one dictionary, under the path that the release's table says.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { break };
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            let path = line.split(' ').nth(1).unwrap_or_default();
            let prefix = "/google/gemma-scope-2b-pt-res/resolve/main/layer_12/width_16k/average_l0_82/";
            let body = path.strip_prefix(prefix).and_then(|file| {
                std::fs::read(fixture("gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82").join(file)).ok()
            });
            let (status, body) = body.map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body));
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        }
    });
    let cache = tempfile::tempdir().unwrap();
    let released = registry::find("gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82").unwrap().unwrap();
    let place = hub::fetch_from(&format!("http://{address}"), &released, cache.path(), &Silent).unwrap();
    assert_eq!(place.address, "google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82");
    let found = detect(&place, &options(cache.path()), Some(&released)).unwrap();
    assert_eq!((found.format, found.hook.as_deref()), ("Gemma Scope", Some("blocks.12.hook_resid_post")));
    // What is there is not fetched again; what the hub does not have is said.
    let gone = "http://127.0.0.1:9";
    assert!(hub::fetch_from(gone, &released, cache.path(), &Silent).is_ok());
    let other = registry::find("google/gemma-scope-2b-pt-res/layer_3").unwrap().unwrap();
    let error = hub::fetch_from(&format!("http://{address}"), &other, cache.path(), &Silent).unwrap_err();
    assert!(error.message().contains("holds no dictionary that is known here"), "{error}");
    let error = hub::fetch_from(gone, &other, cache.path(), &Silent).unwrap_err();
    assert!(error.message().contains("HF_ENDPOINT") && error.message().contains("put the files"), "{error}");
    // A slip in a release's name looks like a repository.
    assert_eq!(registry::resembling("gpt2-small-res-jbb/blocks.8.hook_resid_pre")[0], "gpt2-small-res-jb");
    assert!(registry::resembling("gpt2-small-res-jb/blocks.8.hook_resid_pre").is_empty());
    assert!(registry::resembling("EleutherAI/sae-pythia-70m-32k/layers.3").is_empty());
}

#[test]
fn missing_and_cut_files_are_named() {
    let from = fixture("saelens");
    let with = |files: &[(&str, Vec<u8>)]| {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        import(&options(dir.path()), &Silent).unwrap_err()
    };
    let (cfg, weights) = ("cfg.json", "sae_weights.safetensors");
    let read = |name: &str| std::fs::read(from.join(name)).unwrap();
    let error = with(&[(weights, read(weights))]);
    assert!(error.kind() == ErrorKind::Query && error.message().contains("its cfg.json is missing"), "{error}");
    for n_bytes in [0, 4] {
        let error = with(&[(cfg, read(cfg)), (weights, read(weights)[..n_bytes].to_vec())]);
        assert!(error.kind() == ErrorKind::Corrupt && error.message().contains("empty or cut off"), "{error}");
    }
}
