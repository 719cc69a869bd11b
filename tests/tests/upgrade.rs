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

/// What the fixtures of all versions hold, asked in SQL. The input is `letters.jsonl` beside it; a feature is the length of a word
/// in bytes (at most 7), its activation the number of such words; the document `gone` was deleted.
async fn says_what_it_said(engine: &Engine) {
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

/// Opens a copy of a version's fixture for writing, asks it, and changes it like any other.
async fn opens_and_can_be_changed(version: &str, folder: &Path) -> Engine {
    let database = folder.join(version);
    if !database.exists() {
        copy(&fixture(version), &database);
    }
    let engine = Engine::open(&database, EngineOptions::default()).await.expect("it opens for writing");
    says_what_it_said(&engine).await;
    assert_eq!(engine.delete("letters", "n = 4").await.expect("deleted"), 1);
    engine.rename_feature(2, "two letters").await.expect("renamed");
    let error = engine.rename_feature(8, "none").await.expect_err("the last of eight features is 7");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(engine.catalog().features.label(2), "two letters");
    let bad: Vec<String> =
        engine.doctor().await.expect("examined").into_iter().filter(|c| !c.ok).map(|c| c.detail).collect();
    assert_eq!(bad, Vec::<String>::new());
    engine
}

fn read_only() -> EngineOptions {
    EngineOptions { read_only: true, ..EngineOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn version_1_is_brought_up_to_date() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let database = folder.path().join("v1");
    copy(&fixture("v1"), &database);
    let error = Engine::open(&database, read_only()).await.map(drop).expect_err("reading alone changes nothing");
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("open it once for writing"), "{error}");
    let engine = opens_and_can_be_changed("v1", folder.path()).await;
    assert_eq!(lines(&engine, "SELECT count(*) FROM saequel.features WHERE description = ''").await, ["8"]);
    assert_eq!(lines(&engine, "SELECT detection FROM saequel.features").await, [""; 0]);
    drop(engine);
    let engine = Engine::open(&database, read_only()).await.expect("it now opens for reading");
    assert_eq!(lines(&engine, "SELECT doc_id FROM letters ORDER BY n").await, ["ant", "猫", "long"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn version_2_is_brought_up_to_date() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let database = folder.path().join("v2");
    copy(&fixture("v2"), &database);
    let error = Engine::open(&database, read_only()).await.map(drop).expect_err("reading alone changes nothing");
    assert!(error.to_string().contains("older layout version 2"), "{error}");
    let engine = opens_and_can_be_changed("v2", folder.path()).await;
    let described = "SELECT concat(label, ': ', description, ' ', CAST(detection AS VARCHAR)) FROM saequel.features \
                     ORDER BY feature_id LIMIT 3";
    // What was measured for a label goes with it.
    assert_eq!(
        lines(&engine, described).await,
        ["none: fires on none 0.75", "one letter: fires on one ", "two letters: fires on two "]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn version_3_is_the_present_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let database = folder.path().join("v3");
    copy(&fixture("v3"), &database);
    let engine = Engine::open(&database, read_only()).await.expect("it needs no change");
    says_what_it_said(&engine).await;
    assert_eq!(lines(&engine, "SELECT DISTINCT provenance FROM saequel.saes").await, [""; 0]);
    drop(engine);
    opens_and_can_be_changed("v3", folder.path()).await;
}
