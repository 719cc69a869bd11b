//! The encoder on the real model with the dictionary that is shipped. Fetches the reader if it is not in the cache.

use std::path::Path;
use std::sync::{LazyLock, Mutex};

use super::*;
use crate::options::ReaderOptions;
use crate::progress::Silent;
use crate::testing;

static ENCODER: LazyLock<Mutex<Encoder>> = LazyLock::new(|| {
    let options = ReaderOptions { threads: 2, ..ReaderOptions::default() };
    let reader = Reader::load(crate::reader::DEFAULT_READER, &options, &Silent).unwrap();
    Mutex::new(
        Encoder::new(Arc::new(reader), vec![Arc::new(Sae::open(crate::sae::DEFAULT.as_ref()).unwrap())]).unwrap(),
    )
});

fn encoder() -> Encoder {
    ENCODER.lock().unwrap().clone()
}

/// Labels of the present features, strongest (by activation / q90) first.
fn labels<'a>(encoder: &'a Encoder, document: &EncodedDocument) -> Vec<&'a str> {
    let latents = encoder.saes()[0].latents();
    let features = &document.features[0];
    let mut strengths: Vec<(f32, u32)> = features
        .latents
        .iter()
        .zip(&features.activations)
        .map(|(&latent, activation)| (activation.to_f32() / latents[latent as usize].q90, latent))
        .collect();
    strengths.sort_by(|a, b| b.0.total_cmp(&a.0));
    strengths.into_iter().map(|(_, latent)| latents[latent as usize].label.as_str()).collect()
}

#[test]
fn embeddings_agree_with_sentence_transformers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/parity/reference.jsonl");
    let lines: Vec<serde_json::Value> =
        std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.len() >= 100);
    let texts: Vec<&str> = lines.iter().map(|line| line["text"].as_str().unwrap()).collect();
    let documents = encoder().encode(&texts).unwrap();
    let mut worst = 1.0f64;
    for (line, document) in lines.iter().zip(&documents) {
        let text: String = line["text"].as_str().unwrap().chars().take(40).collect();
        assert_eq!(u64::from(document.n_tokens), line["n_tokens"].as_u64().unwrap(), "tokens of {text:?}");
        let hex = line["embedding"].as_str().unwrap();
        let byte = |i: usize| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap();
        let want: Vec<f64> =
            (0..hex.len() / 4).map(|i| f16::from_le_bytes([byte(2 * i), byte(2 * i + 1)]).to_f64()).collect();
        let got: Vec<f64> = document.embedding.iter().map(|value| value.to_f64()).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let cosine = dot(&got, &want) / (dot(&got, &got) * dot(&want, &want)).sqrt();
        assert!(cosine >= 0.9999, "cosine {cosine} for {text:?}");
        worst = worst.min(cosine);
    }
    println!("worst cosine of {} texts: {worst:.7}", lines.len());
}

#[test]
fn features_say_what_texts_are_about() {
    let encoder = encoder();
    let texts = ["I am so sorry, please accept my apologies.", "Perhaps it might rain, maybe it will not."];
    let documents = encoder.encode(&texts).unwrap();
    for (document, word) in documents.iter().zip(["sorry", "maybe"]) {
        let labels = labels(&encoder, document);
        assert!(labels.iter().take(10).any(|label| label.contains(word)), "{word} is not in {labels:?}");
        assert!(document.features[0].fvu < 0.5);
        assert!((0.3..=1.0).contains(&document.features[0].explained), "{}", document.features[0].explained);
    }
}

#[test]
fn a_text_gives_the_same_alone_and_in_any_batch() {
    let encoder = encoder();
    let long = "The committee met on Tuesday. It decided nothing, as ever! ".repeat(400);
    let texts = ["", "short", long.as_str(), "A list:\n- one\n- two", "\u{0}\u{fffd} \u{1F600}"];
    let together = encoder.encode(&texts).unwrap();
    assert!(together[2].n_tokens > 4000 && together[2].n_spans > 400, "several pieces of several windows");
    for (text, document) in texts.iter().zip(&together) {
        let alone = encoder.encode(&[text]).unwrap().remove(0);
        let ids = |document: &EncodedDocument| document.features[0].latents.clone();
        assert_eq!(ids(&alone), ids(document), "{:?}", &text[..text.len().min(20)]);
        assert!(ids(document).len() <= max_features(Level::Token) && ids(document).is_sorted());
        assert_eq!((alone.n_tokens, alone.n_spans), (document.n_tokens, document.n_spans));
        let length: f32 = document.embedding.iter().map(|value| value.to_f32().powi(2)).sum();
        assert!((length - 1.0).abs() < 0.01);
    }
    assert!(together[0].n_tokens == 0 && together[0].features[0].latents.is_empty());
    assert!(together[0].features[0].fvu.is_nan() && together[0].features[0].explained.is_nan());
}

#[test]
fn tokens_are_counted_while_a_long_text_is_read() {
    let shared = encoder();
    // Others read with clones of that one.
    let encoder = Encoder::new(Arc::clone(shared.reader()), shared.saes().to_vec()).unwrap();
    let long = "The committee met on Tuesday. It decided nothing, as ever! ".repeat(400);
    let mut seen = Vec::new();
    let n_tokens = std::thread::scope(|scope| {
        let reading = scope.spawn(|| encoder.encode(&[long.as_str(), "short"]).unwrap());
        while !reading.is_finished() {
            seen.push(encoder.tokens_read());
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        reading.join().unwrap().iter().map(|document| u64::from(document.n_tokens)).sum::<u64>()
    });
    assert_eq!(encoder.tokens_read(), n_tokens);
    assert!(seen.is_sorted() && seen.iter().any(|n| (1..n_tokens).contains(n)), "{seen:?} of {n_tokens}");
}

#[test]
fn tokens_cover_the_text_and_their_maximum_is_the_document() {
    let encoder = encoder();
    let text = "I'm sorry, but the naïve résumé was lost — twice.";
    let tokens = encoder.tokens(text).unwrap();
    let words: Vec<&str> = tokens.iter().map(|token| &text[token.start..token.end]).collect();
    assert_eq!(words[..5], ["I", "'", "m", "sorry", ","]);
    assert!(words.contains(&"naïve"));
    let document = encoder.encode(&[text]).unwrap().remove(0);
    assert_eq!(document.n_tokens as usize, tokens.len());
    for (latent, activation) in document.features[0].latents.iter().zip(&document.features[0].activations) {
        let fired = tokens.iter().flat_map(|token| &token.latents[0]).filter(|(id, _)| id == latent);
        let max = fired.map(|(_, activation)| *activation).fold(0.0, f32::max);
        assert!((activation.to_f32() / max - 1.0).abs() < 0.01, "latent {latent}: {activation} and {max}");
        let info = &encoder.saes()[0].latents()[*latent as usize];
        assert!(max >= info.presence_threshold * 0.999);
    }
    assert!(encoder.tokens("").unwrap().is_empty());
}

#[test]
fn a_dictionary_of_another_reader_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    Sae::open(crate::sae::DEFAULT.as_ref()).unwrap().save(dir.path()).unwrap();
    let json = std::fs::read_to_string(dir.path().join("sae.json")).unwrap();
    std::fs::write(dir.path().join("sae.json"), json.replace("all-MiniLM-L6-v2", "other")).unwrap();
    let other = Sae::load(dir.path()).unwrap();
    let error = Encoder::new(encoder().reader().clone(), vec![Arc::new(other)]).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Query);
    assert!(error.message().contains("belongs to reader 'other'"), "{error}");

    // A shape that does not fit is named.
    std::fs::write(dir.path().join("sae.json"), json.replace("\"width\": 4096", "\"width\": 4095")).unwrap();
    let error = Sae::load(dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().contains("sae.safetensors: encoder.weight: expected shape [4095, 384]"), "{error}");
    let error = Sae::load(&dir.path().join("none")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn bf16_keeps_embeddings_and_nearly_all_features() {
    let options = ReaderOptions { threads: 2, precision: crate::Precision::Bf16, ..ReaderOptions::default() };
    let exact = encoder();
    let reader = Reader::load(crate::reader::DEFAULT_READER, &options, &Silent).unwrap();
    let rounded = Encoder::new(Arc::new(reader), exact.saes().to_vec()).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/parity/reference.jsonl");
    let texts: Vec<String> = std::fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["text"].as_str().unwrap().to_owned())
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let (exact, rounded) = (exact.encode(&texts).unwrap(), rounded.encode(&texts).unwrap());
    let (mut kept, mut all, mut different) = (0, 0, false);
    for (exact, rounded) in exact.iter().zip(&rounded) {
        let dot: f32 = exact.embedding.iter().zip(&rounded.embedding).map(|(a, b)| a.to_f32() * b.to_f32()).sum();
        assert!(dot > 0.999, "cosine {dot}");
        different |= exact.embedding != rounded.embedding;
        let (before, after) = (&exact.features[0].latents, &rounded.features[0].latents);
        kept += before.iter().filter(|latent| after.contains(latent)).count();
        all += before.len();
    }
    println!("{kept} of {all} features are kept");
    assert!(different, "the precision has no effect");
    assert!(kept as f32 >= 0.97 * all as f32, "{kept} of {all} features are kept");
}

/// Tokens per second of processor time on one thread: `cargo test -p saequel-encoder --lib -- --ignored --nocapture
/// tokens_per_second`.
#[test]
#[ignore = "prints a measurement"]
fn tokens_per_second() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/parity/reference.jsonl");
    let texts: Vec<String> = std::fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["text"].as_str().unwrap().to_owned())
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).take(40).collect();
    // Nanoseconds that this thread has run, where Linux tells them; else the clock.
    let begin = std::time::Instant::now();
    let seconds = || {
        let ran = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
        let ran = ran.and_then(|line| line.split(' ').next()?.parse::<f64>().ok());
        ran.map_or(begin.elapsed().as_secs_f64(), |nanoseconds| nanoseconds * 1e-9)
    };
    let options = ReaderOptions { threads: 1, ..ReaderOptions::default() };
    let reader = Arc::new(Reader::load(crate::reader::DEFAULT_READER, &options, &Silent).unwrap());
    let saes = encoder().saes().to_vec();
    let screened = Encoder::new(reader.clone(), saes).unwrap();
    let mut dense = screened.clone();
    for packed in &mut dense.packed {
        *packed = packed.as_ref().map(|packed| Arc::new(packed.without_screen()));
    }
    let encoders = [
        ("reading", Encoder::new(reader, Vec::new()).unwrap()),
        ("with the dictionary, all latents", dense),
        ("with the dictionary, screened", screened),
    ];
    let mut best = [0.0f64; 3];
    for _ in 0..5 {
        for ((_, encoder), best) in encoders.iter().zip(&mut best) {
            let start = seconds();
            let tokens: u32 = encoder.encode(&texts).unwrap().iter().map(|document| document.n_tokens).sum();
            *best = best.max(f64::from(tokens) / (seconds() - start));
        }
    }
    for ((what, _), best) in encoders.iter().zip(best) {
        println!("{what}: {best:.0} tokens/s");
    }
}

/// A temporal dictionary of random weights over states of the reader's fourth layer, all latents of any strength present.
fn temporal(reader: &Reader) -> Sae {
    use crate::sae::{Architecture, AttentionWeights, Spec, Weights};
    const WIDTH: usize = 96;
    const KEYS: usize = 16;
    let hook = Hook::residual(4);
    let inputs = reader.hook_width(hook).unwrap();
    let mut seed = 0;
    let mut numbers = |n: usize, spread: f32| -> Vec<f32> {
        seed += 1;
        testing::numbers(seed, 3, n, spread)
    };
    let architecture = Architecture::Temporal { layers: 1, heads: 4, keys: KEYS, k: None, tied: true };
    let spec = Spec {
        name: "temporal".to_owned(),
        reader: reader.name().to_owned(),
        hook,
        ..testing::spec(architecture, WIDTH, inputs)
    };
    let weights = Weights {
        decoder: numbers(WIDTH * inputs, 1.0),
        decoder_bias: vec![0.0; inputs],
        attention: AttentionWeights {
            query: numbers(KEYS * WIDTH, 30.0),
            query_bias: numbers(KEYS, 1.0),
            key: numbers(KEYS * WIDTH, 30.0),
            value: numbers(WIDTH * WIDTH, 5.0),
            value_bias: numbers(WIDTH, 0.1),
            output: numbers(WIDTH * WIDTH, 0.5),
            output_bias: numbers(WIDTH, 0.1),
        },
        ..Weights::default()
    };
    Sae::new(spec, weights)
}

#[test]
fn a_temporal_dictionary_reads_whole_windows_whatever_else_is_in_the_batch() {
    let reader = Arc::clone(encoder().reader());
    let sae = Arc::new(temporal(&reader));
    let shipped = Arc::new(Sae::open(crate::sae::DEFAULT.as_ref()).unwrap());
    let encoder = Encoder::new(Arc::clone(&reader), vec![shipped, Arc::clone(&sae)]).unwrap();
    let sentences = ["The committee met on Tuesday.", "It decided nothing, as ever!", "Then 14 members left for Rome."];
    let long = (0..340).map(|i| sentences[i * i % 7 % 3]).collect::<Vec<_>>().join(" ");
    let texts = ["", "It decided nothing, as ever!", long.as_str(), "A list:\n- one\n- two"];
    // A latent near 0 may fire in one of two readings that differ by rounding.
    let same = |a: &[(u32, f32)], b: &[(u32, f32)], what: &str| {
        let of =
            |row: &[(u32, f32)], latent: u32| row.iter().find(|(l, _)| *l == latent).map_or(0.0, |(_, value)| *value);
        let largest = b.iter().fold(0.0f32, |most, (_, value)| most.max(*value));
        let differs = |latent: &u32| (of(a, *latent) - of(b, *latent)).abs() > 2e-3 * largest;
        let latent = (0..sae.width() as u32).find(differs);
        assert!(latent.is_none(), "{what}, latent {latent:?}: {a:?} {b:?}");
    };
    // Each window as the model reads it, special tokens included, encoded by itself.
    let around = reader.ids("").unwrap();
    let (first, last) = (around[0], around[1]);
    let tokenized = reader.tokenize(&texts).unwrap();
    assert!(tokenized[2].pieces.len() > 1 && tokenized[2].pieces[0].windows.len() > 1);
    for (text, tokenized) in texts.iter().zip(&tokenized) {
        let tokens = encoder.tokens(text).unwrap();
        assert_eq!(tokens.len(), tokenized.tokens.len());
        for window in tokenized.pieces.iter().flat_map(|piece| &piece.windows) {
            let ids = tokenized.tokens[window.read.clone()].iter().map(|token| token.id);
            let ids: Vec<u32> = std::iter::once(first).chain(ids).chain([last]).collect();
            let states = reader.raw_states(&[ids], &[sae.hook()]).unwrap().remove(0);
            let rows = sae.encode_states(&states).unwrap();
            for i in window.own.clone() {
                let alone = &rows[1 + i - window.read.start];
                same(&tokens[i].latents[1], alone, &format!("token {i} of {:?}", &text[..text.len().min(20)]));
            }
        }
    }
    let together = encoder.encode(&texts).unwrap();
    for (text, document) in texts.iter().zip(&together) {
        let alone = encoder.encode(&[text]).unwrap().remove(0);
        let (a, b) = (&alone.features[1], &document.features[1]);
        let pairs = |of: &SparseFeatures| -> Vec<(u32, f32)> {
            of.latents.iter().copied().zip(of.activations.iter().map(|value| value.to_f32())).collect()
        };
        same(&pairs(a), &pairs(b), &format!("{:?}", &text[..text.len().min(20)]));
        assert_eq!(a.latents.is_empty(), text.is_empty());
        assert!(a.fvu.is_nan() && b.fvu.is_nan() || (a.fvu - b.fvu).abs() < 1e-4 && a.fvu > 0.0, "{a:?}");
    }
    // What measures and surveys dictionaries gives them the same windows.
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("texts.jsonl");
    std::fs::write(&input, serde_json::json!({ "text": long }).to_string()).unwrap();
    sae.save(&dir.path().join("sae")).unwrap();
    let reader_options = ReaderOptions { threads: 2, ..ReaderOptions::default() };
    let options = crate::sae::EvalOptions {
        dictionary: Some(dir.path().join("sae")),
        input: vec![input],
        text_column: "text".to_owned(),
        tokens: 0,
        labelled: None,
        reader_options,
    };
    let fvu = f64::from(together[2].features[1].fvu);
    let report = crate::sae::evaluate(&options, &Silent).unwrap();
    assert!((report.fvu.unwrap() / fvu - 1.0).abs() < 1e-3, "{:?} for {fvu}", report.fvu);
    let mut source = crate::sae::texts::TextSource::open(&options.input, "text", 8).unwrap();
    let survey = crate::sae::survey::Survey::of_texts(&sae, &reader, &mut source, 0, &Silent).unwrap();
    assert!((survey.fvu() / fvu - 1.0).abs() < 1e-3, "{} for {fvu}", survey.fvu());
    assert!((survey.l0() / report.l0 - 1.0).abs() < 1e-2, "{} for {}", survey.l0(), report.l0);
}
