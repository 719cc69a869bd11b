//! What the tests of several modules are made of: small dictionaries, numbers, a small reader.

use std::path::Path;

use crate::level::Level;
use crate::options::ReaderOptions;
use crate::progress::Silent;
use crate::reader::{Hook, Reader};
use crate::sae::random::Random;
use crate::sae::{Architecture, InputNormalization, Precision, Spec};

/// A dictionary of tokens over the residual stream after the first block.
pub(crate) fn spec(architecture: Architecture, width: usize, input_width: usize) -> Spec {
    Spec {
        format: Spec::FORMAT,
        name: "test".to_owned(),
        reader: "reader".to_owned(),
        hook: Hook::residual(1),
        level: Level::Token,
        width,
        input_width,
        output: None,
        k: 0,
        architecture,
        normalization: InputNormalization::None,
        prefixes: Vec::new(),
        precision: Precision::F32,
        sees: String::new(),
        misses: String::new(),
        training: serde_json::Value::Null,
        source: serde_json::Value::Null,
    }
}

/// Numbers from `-spread` to `spread`.
pub(crate) fn numbers(seed: u64, stream: u64, n: usize, spread: f32) -> Vec<f32> {
    let mut random = Random::new(seed, stream);
    (0..n).map(|_| (random.below(20_001) as f32 / 10_000.0 - 1.0) * spread).collect()
}

/// A Gemma 3 of two blocks with states that transformers computed (`tests/parity/readers.py --fixture`). Its windows have
/// 70 tokens, so that texts are long soon.
pub(crate) fn gemma() -> Reader {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/readers/gemma3");
    let options =
        ReaderOptions { threads: 2, context: Some(70), device: Some("cpu".to_owned()), ..ReaderOptions::default() };
    Reader::load(&dir.to_string_lossy(), &options, &Silent).unwrap()
}
