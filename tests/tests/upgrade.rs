//! Every database that an earlier version wrote must open and say what it said (`migrations/fixtures`).

use std::fs;
use std::path::{Path, PathBuf};

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::DataType;
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

/// The first column of an answer, as text.
async fn lines(engine: &Engine, statement: &str) -> Vec<String> {
    let (_, batches) = engine.sql_collect(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    let texts = batches.iter().map(|batch| cast(batch.column(0), &DataType::Utf8).expect("text"));
    texts.flat_map(|column| column.as_string::<i32>().iter().flatten().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// What version 1's fixture holds, asked in SQL. The input is `letters.jsonl` beside it; a feature is the length of a word
/// in bytes (at most 7), its activation the number of such words; the document `gone` was deleted.
async fn says_what_v1_said(engine: &Engine) {
    let ask = async |statement: &str| lines(engine, statement).await;
    assert_eq!(ask("SELECT doc_id FROM letters ORDER BY n").await, ["ant", "猫", "empty", "long"]);
    assert_eq!(ask("SELECT text FROM letters WHERE doc_id = '猫'").await, ["猫が好きです and more words"]);
    assert_eq!(
        ask("SELECT concat_ws('|', CAST(score AS VARCHAR), CAST(ok AS VARCHAR), CAST(n AS VARCHAR), tags[1]) FROM letters \
             WHERE doc_id IN ('ant', 'long') ORDER BY n")
        .await,
        ["0.5|true|1|x", "-2.25|false|5|z"]
    );
    assert_eq!(ask("SELECT doc_id FROM letters WHERE at = TIMESTAMP '2026-01-02T03:04:05Z'").await, ["ant"]);
    assert_eq!(ask("SELECT n_tokens FROM letters ORDER BY n").await, ["6", "4", "0", "5"]);
    assert_eq!(
        ask("SELECT array_to_string(features['ids'], ' ') FROM letters ORDER BY n").await,
        ["1 2 3 5", "3 4 5 7", "", "7"]
    );
    assert_eq!(ask("SELECT doc_id FROM letters WHERE has_feature(features, 7) ORDER BY n").await, ["猫", "long"]);
    assert_eq!(ask("SELECT doc_id FROM letters WHERE has_feature(features, 'short') ORDER BY n").await, ["ant"]);
    assert_eq!(
        ask("SELECT concat(label, ': ', label_source) FROM saequel.features ORDER BY feature_id LIMIT 3").await,
        ["none: words", "one letter: user", "two: words"]
    );
    assert_eq!(ask("SELECT kind FROM saequel.jobs WHERE state = 'done' ORDER BY job_id").await, ["import", "compact"]);
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
    let error = engine.rename_feature(8, "none").await.expect_err("the last of eight features is 7");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(engine.catalog().features.label(2), "two letters");
    let bad: Vec<String> =
        engine.doctor().await.expect("examined").into_iter().filter(|c| !c.ok).map(|c| c.detail).collect();
    assert_eq!(bad, Vec::<String>::new());
}
