//! Every database that an earlier version wrote must open and say what it said (`migrations/fixtures`).

use std::fs;
use std::path::{Path, PathBuf};

use arrow::util::pretty::pretty_format_batches;
use saequel_engine::{Engine, EngineOptions, ErrorKind};

fn fixture(version: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../migrations/fixtures").join(version).join("database")
}

/// A copy, since opening an old database for writing brings it up to date.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("the fixture is there") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() { copy(&path, &target) } else { fs::copy(&path, &target).map(drop).expect("copied") }
    }
}

async fn answer(engine: &Engine, statement: &str) -> String {
    let batches = engine.sql_collect(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    pretty_format_batches(&batches).expect("printable").to_string()
}

/// What version 1's fixture holds, asked in SQL.
async fn says_what_v1_said(engine: &Engine) {
    let documents = "SELECT doc_id, text, score, n, ok, at, tags, n_tokens, fvu FROM letters ORDER BY n";
    assert_eq!(
        answer(engine, documents).await,
        "\
+-------+----------------------------------------------------------------+-------+---+-------+----------------------+--------+----------+------+
| doc_id | text | score | n | ok | at | tags | n_tokens | fvu |
",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn version_1_opens_for_reading_and_for_writing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let database = folder.path().join("v1");
    copy(&fixture("v1"), &database);
    let read_only = EngineOptions { read_only: true, ..EngineOptions::default() };
    says_what_v1_said(&Engine::open(&database, read_only).await.expect("it opens for reading")).await;
    let engine = Engine::open(&database, EngineOptions::default()).await.expect("it opens for writing");
    says_what_v1_said(&engine).await;
    // It can be changed like any other.
    assert_eq!(engine.delete("letters", "n = 4").await.expect("deleted"), 1);
    engine.rename_feature(2, "two letters").await.expect("renamed");
    let error = engine.rename_feature(8, "none").await.expect_err("there are eight features");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(engine.catalog().features.label(2), "two letters");
    let bad: Vec<String> =
        engine.doctor().await.expect("examined").into_iter().filter(|c| !c.ok).map(|c| c.detail).collect();
    assert_eq!(bad, Vec::<String>::new());
}
