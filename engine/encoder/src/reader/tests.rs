//! Readers made on the spot: folders with random weights, and names that are none.

use super::*;
use crate::progress::Silent;

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
