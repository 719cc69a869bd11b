//! What the end-to-end tests share: one small real database, made by the real reader.

use std::path::PathBuf;

use saequel_engine::{Engine, EngineOptions};
use tempfile::TempDir;

/// A file of `tests/fixtures`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A database with the corpus `answers`: twelve prompts, two assistants. Removed with the folder.
pub(crate) async fn database() -> (TempDir, Engine) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = Engine::open(folder.path().join("test.saequel"), EngineOptions::default()).await.expect("it opens");
    let create = format!(
        "CREATE CORPUS answers FROM '{}' TEXT (output) KEY (id)",
        fixture("answers.jsonl").display().to_string().replace('\'', "''")
    );
    engine.sql_collect(&create).await.expect("the corpus is made");
    (folder, engine)
}
