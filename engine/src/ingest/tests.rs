//! Imports of every format into real corpora. The encoder alone is a stand-in, so that no weights are needed: a text's
//! features are its words' lengths, which is enough to see that the right text met the right row.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Int64Type, UInt32Type};
use half::f16;

use super::import::{Encoding, import};
use super::pipeline::Encode;
use crate::encoder::{EncodedDocument, SparseFeatures};
use crate::engine::{ImportOptions, ImportReport, ImportSource, OnBadRow, OnConflict};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Silent;
use crate::schema;
use crate::store::{AsOf, Store, testing};
use crate::words::Words;

/// Stands in for the encoder.
#[derive(Default)]
pub(super) struct WordLengths {
    /// Fails for ever after so many texts; 0: never.
    pub(super) fail_after: usize,
    pub(super) seen: AtomicUsize,
}

impl Encode for WordLengths {
    fn encode(&self, texts: &[&str]) -> Result<Vec<EncodedDocument>> {
        let seen = self.seen.fetch_add(texts.len(), Ordering::Relaxed);
        if self.fail_after > 0 && seen >= self.fail_after {
            return Err(Error::new(ErrorKind::Internal, "the plug was pulled"));
        }
        let document = |text: &&str| {
            let mut lengths: BTreeMap<u32, f16> = BTreeMap::new();
            for word in text.split_whitespace() {
                *lengths.entry((word.len() as u32).min(7)).or_default() += f16::ONE;
            }
            let features = SparseFeatures {
                latents: lengths.keys().copied().collect(),
                activations: lengths.values().copied().collect(),
                fvu: if lengths.is_empty() { f32::NAN } else { 0.25 },
                explained: if lengths.is_empty() { f32::NAN } else { 0.75 },
            };
            EncodedDocument {
                embedding: vec![f16::ONE; testing::WIDTH],
                features: vec![features],
                n_tokens: text.split_whitespace().count() as u32,
                n_spans: 1,
            }
        };
        Ok(texts.iter().map(document).collect())
    }
}

const LABELS: [&str; 8] = ["none", "one", "two", "three", "four", "five", "six", "many"];

pub(super) async fn database(dir: &Path) -> Store {
    let store = testing::open(&dir.join("db")).await;
    if store.catalog().features.dictionaries().is_empty() {
        let guard = store.write("test").await.unwrap();
        store.add_dictionary(&guard, &testing::dictionary("lengths", &LABELS)).await.unwrap();
    }
    store
}

pub(super) async fn run(store: &Store, options: ImportOptions) -> Result<ImportReport> {
    run_with(store, options, WordLengths::default()).await
}

pub(super) async fn run_with(store: &Store, options: ImportOptions, encoder: impl Encode) -> Result<ImportReport> {
    let encoder = Arc::new(encoder);
    let dictionaries = vec!["lengths".to_owned()];
    let encoding = Encoding { encoder, width: testing::WIDTH, dictionaries, reader: None };
    import(store, options, Arc::new(Silent), Box::new(|_: &[String]| Ok(encoding)), &no_sae).await
}

pub(super) fn no_sae(name: &str) -> Result<Arc<crate::Sae>> {
    Err(Error::new(ErrorKind::NotFound, format!("dictionary '{name}' not found")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_is_called_what_it_is_to_be_called() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let path = write(dir.path(), "secret.jsonl", b"{\"id\": 1, \"text\": \"a b\"}\nnonsense\n");
    let named = ImportOptions { shown_as: Some("the body".to_owned()), ..keyed(&path) };
    let report = run(&store, setting_aside(named)).await.unwrap();
    assert!(report.set_aside[0].starts_with("the body, line 2"), "{:?}", report.set_aside);
}

pub(super) fn setting_aside(options: ImportOptions) -> ImportOptions {
    ImportOptions { on_bad_row: OnBadRow::SetAside, ..options }
}

pub(super) fn from(path: &Path) -> ImportOptions {
    ImportOptions {
        text_columns: vec!["text".to_owned()],
        ..ImportOptions::new(ImportSource::Path(path.to_owned()), "c")
    }
}

pub(super) fn keyed(path: &Path) -> ImportOptions {
    ImportOptions { key: Some("id".to_owned()), ..from(path) }
}

pub(super) async fn stored(store: &Store, columns: &[&str]) -> RecordBatch {
    let snapshot = store.snapshot("c", AsOf::Latest).await.unwrap();
    let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
    let mut batches = Vec::new();
    snapshot
        .read(&columns, &[], |batch| {
            batches.push(batch);
            Ok(())
        })
        .await
        .unwrap();
    let schema =
        batches.first().map(RecordBatch::schema).unwrap_or_else(|| Arc::new(arrow::datatypes::Schema::empty()));
    arrow::compute::concat_batches(&schema, &batches).unwrap()
}

pub(super) async fn ids(store: &Store) -> Vec<String> {
    let batch = stored(store, &["doc_id"]).await;
    if batch.num_columns() == 0 {
        return Vec::new();
    }
    let mut ids: Vec<String> = batch.column(0).as_string::<i32>().iter().flatten().map(str::to_owned).collect();
    ids.sort();
    ids
}

pub(super) fn word_hits(store: &Store, query: &str) -> Vec<String> {
    let words = Words::open(&store.words_dir("c")).unwrap().unwrap();
    words.search(query, 100, None).unwrap().into_iter().map(|hit| hit.doc_id).collect()
}

/// Three documents of every metadata type, in every format.
fn sample(format: &str) -> Vec<u8> {
    match format {
        "csv" => b"id,text,score,n,ok,at,note\na,one two,0.5,1,true,2024-01-02T03:04:05Z,x\nb,\"quoted, with\nbreak\",1,2,false,2024-01-03T00:00:00Z,\nc,,,,,,\n".to_vec(),
        "tsv" => b"id\ttext\tscore\tn\tok\tat\tnote\na\tone two\t0.5\t1\ttrue\t2024-01-02T03:04:05Z\tx\nb\tquoted, with break\t1\t2\tfalse\t2024-01-03T00:00:00Z\t\nc\t\t\t\t\t\t\n".to_vec(),
        "jsonl" => b"{\"id\":\"a\",\"text\":\"one two\",\"score\":0.5,\"n\":1,\"ok\":true,\"at\":\"2024-01-02T03:04:05Z\",\"tags\":[\"x\",\"y\"],\"more\":{\"k\":[1,2]}}\n\n{\"id\":\"b\",\"text\":\"quoted, with\\nbreak\",\"score\":1,\"n\":2,\"ok\":false,\"at\":\"2024-01-03T00:00:00Z\",\"tags\":[]}\n{\"id\":\"c\",\"text\":\"\"}".to_vec(),
        "json" => b"[ {\"id\":\"a\",\"text\":\"one two\",\"score\":0.5,\"n\":1,\"ok\":true,\"at\":\"2024-01-02T03:04:05Z\"},\n {\"id\":\"b\",\"text\":\"quoted, with break ]}\\\"\",\n \"score\":1,\"n\":2,\"ok\":false,\"at\":\"2024-01-03T00:00:00Z\"}, {\"id\":\"c\",\"text\":null} ]".to_vec(),
        "parquet" => {
            let batch = typed_sample();
            let mut bytes = Vec::new();
            let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
            bytes
        }
        "arrow" => {
            let batch = typed_sample();
            let mut writer = arrow::ipc::writer::FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
            writer.write(&batch).unwrap();
            writer.into_inner().unwrap()
        }
        "arrows" => {
            let batch = typed_sample();
            let mut writer = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
            writer.write(&batch).unwrap();
            writer.into_inner().unwrap()
        }
        other => panic!("no sample of {other}"),
    }
}

fn typed_sample() -> RecordBatch {
    let times = TimestampMicrosecondArray::from(vec![Some(1_704_164_645_000_000), Some(1_704_240_000_000_000), None]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(StringArray::from(vec!["a", "b", "c"]))),
        (
            "text",
            Arc::new(arrow::array::LargeStringArray::from(vec![Some("one two"), Some("quoted, with break"), None])),
        ),
        ("score", Arc::new(Float64Array::from(vec![Some(0.5), Some(1.0), None]))),
        ("n", Arc::new(Int64Array::from(vec![Some(1), Some(2), None]))),
        ("ok", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]))),
        ("at", Arc::new(times.with_timezone("UTC"))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

fn compressed(bytes: &[u8], ending: &str) -> Vec<u8> {
    match ending {
        "" => bytes.to_vec(),
        ".gz" => {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            writer.write_all(bytes).unwrap();
            writer.finish().unwrap()
        }
        ".bz2" => {
            let mut writer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            writer.write_all(bytes).unwrap();
            writer.finish().unwrap()
        }
        ".xz" => {
            let mut writer = liblzma::write::XzEncoder::new(Vec::new(), 1);
            writer.write_all(bytes).unwrap();
            writer.finish().unwrap()
        }
        ".zst" => zstd::encode_all(bytes, 1).unwrap(),
        other => panic!("no compression {other}"),
    }
}

pub(super) fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_in_every_compression_keeps_types_and_rows() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    for format in ["csv", "tsv", "jsonl", "json", "parquet", "arrow", "arrows"] {
        for ending in ["", ".gz", ".bz2", ".xz", ".zst"] {
            // Compressed files have a name that says nothing: format and compression are told by their content, except
            // that a file with an ending keeps it.
            let path = write(dir.path(), &format!("s.{format}{ending}"), &compressed(&sample(format), ending));
            let report = run(&store, keyed(&path)).await.unwrap_or_else(|error| panic!("{format}{ending}: {error}"));
            assert_eq!((report.read, report.written, report.total), (3, 3, 3), "{format}{ending}");
            let batch =
                stored(&store, &["doc_id", "text", "score", "n", "ok", "at", "_n_tokens", "_ids_lengths"]).await;
            let types: Vec<String> = batch.schema().fields()[2..6].iter().map(|f| f.data_type().to_string()).collect();
            assert_eq!(types, ["Float64", "Int64", "Boolean", "Timestamp(µs, \"UTC\")"], "{format}{ending}");
            assert_eq!(batch.column(0).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["a", "b", "c"]);
            assert_eq!(batch.column(1).as_string::<i32>().value(0), "one two");
            assert!(batch.column(1).as_string::<i32>().value(1).starts_with("quoted, with"));
            assert_eq!(
                batch.column(3).as_primitive::<Int64Type>().iter().collect::<Vec<_>>(),
                [Some(1), Some(2), None]
            );
            assert_eq!(batch.column(6).as_primitive::<UInt32Type>().value(0), 2);
            let lists: &ListArray = batch.column(7).as_list();
            assert_eq!(lists.value(0).as_primitive::<UInt32Type>().values().to_vec(), [3]);
            assert_eq!(lists.value(2).len(), 0);
            assert_eq!(word_hits(&store, "quote"), ["b"]);
            let guard = store.write("test").await.unwrap();
            store.drop_corpus(&guard, "c").await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_json_is_kept_and_late_columns_are_added() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    run(&store, keyed(&write(dir.path(), "s.jsonl", &sample("jsonl")))).await.unwrap();
    let batch = stored(&store, &["tags", "more"]).await;
    assert_eq!(batch.column(0).as_list::<i32>().value(0).as_string::<i32>().value(1), "y");
    assert_eq!(batch.column(1).as_string::<i32>().value(0), "{\"k\":[1,2]}");
    // A later file brings a column of its own: the documents before have nulls there.
    let path = write(dir.path(), "t.jsonl", b"{\"id\":\"d\",\"text\":\"late\",\"extra\":7}\n");
    let report = run(&store, keyed(&path)).await.unwrap();
    assert_eq!((report.written, report.total), (1, 4));
    let extra = stored(&store, &["extra"]).await;
    assert_eq!(extra.column(0).as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [None, None, None, Some(7)]);
    assert!(store.catalog().corpus("c").unwrap().columns.field_with_name("extra").is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_are_skipped_replaced_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let first = write(dir.path(), "a.csv", b"id,text\n1,first\n2,second\n1,first again\n");
    let report = run(&store, keyed(&first)).await.unwrap();
    assert_eq!((report.written, report.skipped), (2, 1));
    let report = run(&store, keyed(&first)).await.unwrap();
    assert_eq!((report.written, report.skipped, report.total), (0, 3, 2));

    let second = write(dir.path(), "b.csv", b"id,text\n2,better\n3,third\n3,third at last\n");
    let report = run(&store, ImportOptions { on_conflict: OnConflict::Update, ..keyed(&second) }).await.unwrap();
    assert_eq!((report.written, report.updated, report.total), (1, 2, 3));
    assert_eq!(ids(&store).await, ["1", "2", "3"]);
    assert_eq!(word_hits(&store, "second"), Vec::<String>::new());
    assert_eq!(word_hits(&store, "better"), ["2"]);
    assert_eq!(word_hits(&store, "last"), ["3"]);

    let error = run(&store, ImportOptions { on_conflict: OnConflict::Fail, ..keyed(&second) }).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Exists);
    assert!(error.message().contains("b.csv, row 1: document '2' is there already"), "{error}");
    assert_eq!(store.snapshot("c", AsOf::Latest).await.unwrap().count().await.unwrap(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_the_same_file_resumes_and_another_appends() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let first = write(dir.path(), "a.csv", b"text,n\nx,1\nx,2\n");
    assert_eq!(run(&store, from(&first)).await.unwrap().written, 2);
    std::fs::write(&first, b"text,n\nx,1\nx,2\nx,3\n").unwrap();
    let report = run(&store, from(&first)).await.unwrap();
    assert_eq!((report.written, report.skipped), (1, 2));
    let second = write(dir.path(), "b.csv", b"text,n\nx,1\n");
    assert_eq!(run(&store, from(&second)).await.unwrap().total, 4);
    // Another content under the same name is not taken for what was there.
    std::fs::write(&first, b"text,n\nx,1\ny,2\n").unwrap();
    let report = run(&store, from(&first)).await.unwrap();
    assert_eq!((report.written, report.skipped), (1, 1));
    assert!(ids(&store).await.iter().all(|id| id.len() == 12 + 2), "{:?}", ids(&store).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_dies_after_any_commit_is_completed_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let mut lines = String::from("id,text\n");
    for i in 0..2000 {
        lines.push_str(&format!("d{i:04},text number{i} of many\n"));
    }
    let path = write(dir.path(), "a.csv", lines.as_bytes());
    let options = || ImportOptions { batch_docs: 500, ..keyed(&path) };
    let mut expected: Vec<String> = (0..2000).map(|i| format!("d{i:04}")).collect();
    expected.sort();
    for fail_after in [1, 600, 1500] {
        let folder = dir.path().join(fail_after.to_string());
        let store = database(&folder).await;
        let broken = WordLengths { fail_after, ..WordLengths::default() };
        let error = run_with(&store, options(), broken).await.err().unwrap();
        assert!(error.to_string().contains("the plug was pulled"), "{error}");
        drop(store);
        // Another process would open the folder anew.
        let store = database(&folder).await;
        let before = store.snapshot("c", AsOf::Latest).await.unwrap().count().await.unwrap();
        let report = run(&store, options()).await.unwrap();
        assert_eq!((report.written + before, report.skipped, report.total), (2000, before, 2000));
        assert_eq!(ids(&store).await, expected);
        assert_eq!(word_hits(&store, "number1999"), ["d1999"]);
        let words = Words::open(&store.words_dir("c")).unwrap().unwrap();
        assert_eq!(words.count().unwrap(), 2000);
        assert_eq!(words.covers().unwrap(), store.snapshot("c", AsOf::Latest).await.unwrap().version());
        let jobs: Vec<String> = store.catalog().jobs.iter().map(|job| job.state.clone()).collect();
        assert_eq!(jobs, ["done", "failed"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn words_that_are_behind_catch_up() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    run(&store, keyed(&write(dir.path(), "a.csv", b"id,text\n1,first\n2,second\n"))).await.unwrap();
    let kept = dir.path().join("kept");
    copy(&store.words_dir("c"), &kept);
    let update = write(dir.path(), "b.csv", b"id,text\n2,better\n3,third\n");
    run(&store, ImportOptions { on_conflict: OnConflict::Update, ..keyed(&update) }).await.unwrap();
    let guard = store.write("test").await.unwrap();
    let condition = datafusion::logical_expr::col("doc_id").eq(datafusion::logical_expr::lit("1"));
    assert_eq!(store.delete(&guard, "c", condition).await.unwrap().1, 1);
    drop(guard);
    // The index as it would be, had the process died after each of these commits and before the index's.
    std::fs::remove_dir_all(store.words_dir("c")).unwrap();
    copy(&kept, &store.words_dir("c"));
    let snapshot = store.snapshot("c", AsOf::Latest).await.unwrap();
    super::sync::WordsSync::open(&store, &snapshot).await.unwrap().finish().await.unwrap();
    assert_eq!(word_hits(&store, "first second"), Vec::<String>::new());
    assert_eq!(word_hits(&store, "better"), ["2"]);
    assert_eq!(word_hits(&store, "third"), ["3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn words_with_a_wrong_count_are_mended() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    run(&store, keyed(&write(dir.path(), "a.csv", b"id,text\n1,first\n2,second\n"))).await.unwrap();
    let snapshot = store.snapshot("c", AsOf::Latest).await.unwrap();
    // Behind, as new as the corpus, and newer (the corpus came from a backup): one document lost, one too many.
    for covers in [snapshot.version() - 1, snapshot.version(), snapshot.version() + 5] {
        let mut writer = Words::open(&store.words_dir("c")).unwrap().unwrap().writer().unwrap();
        writer.delete("1");
        for surplus in ["8", "9"] {
            writer.add(surplus, "surplus").unwrap();
        }
        writer.commit(covers).unwrap();
        writer.finish().unwrap();
        super::sync::WordsSync::open(&store, &snapshot).await.unwrap().finish().await.unwrap();
        let words = Words::open(&store.words_dir("c")).unwrap().unwrap();
        assert_eq!((words.covers().unwrap(), words.count().unwrap()), (snapshot.version(), 2), "from {covers}");
        assert_eq!(word_hits(&store, "first"), ["1"]);
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_named_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let cases: [(&str, &[u8], &str); 13] = [
        ("line.jsonl", b"{\"id\":1,\"text\":\"a\"}\n{\"id\":2,\"text\":\n", "line.jsonl, line 2, column"),
        ("kind.jsonl", b"{\"id\":1,\"text\":\"a\"}\n[1]\n", "kind.jsonl, line 2: expected an object, got an array"),
        (
            "utf8.jsonl",
            b"{\"id\":1,\"text\":\"a\"}\n{\"id\":2,\"text\":\"\xff\"}\n",
            "utf8.jsonl, line 2: byte 17 (0xff)",
        ),
        ("utf8.csv", b"id,text\n1,a\n2,caf\xe9\n", "utf8.csv, line 3, column 'text': byte 4 (0xe9)"),
        ("fields.csv", b"id,text\n1,a\n2,b,c\n", "fields.csv, line 3: expected 2 fields as in the header, got 3"),
        // Lines are counted by line feeds, those of empty lines and quoted values included.
        (
            "crlf.csv",
            b"id,text\r\n1,\"a\r\nb\"\r\n\r\n2,b,c\r\n",
            "crlf.csv, line 5: expected 2 fields as in the header, got 3",
        ),
        ("blank.csv", b"id,text\n1,\"a\nb\"\n\n2,b,c", "blank.csv, line 5: expected 2 fields as in the header, got 3"),
        ("bare.csv", b"id,text\n1,a\n2,b,c", "bare.csv, line 3: expected 2 fields as in the header, got 3"),
        (
            "cut.json",
            b"[{\"id\":1,\"text\":\"a\"},{\"id\":2",
            "cut.json, line 1: the object that begins here does not end",
        ),
        ("open.json", b"[{\"id\":1,\"text\":\"a\"},", "open.json, line 1: the array does not end"),
        ("half.parquet", b"PAR1 and then nothing", "half.parquet: not a complete Parquet file"),
        ("half.arrow", b"ARROW1 and then nothing", "half.arrow: not complete Arrow data"),
        ("key.csv", b"id,text\n,a\n", "key.csv, row 1, key column 'id': it is empty"),
    ];
    for (name, bytes, expected) in cases {
        let error = run(&store, keyed(&write(dir.path(), name, bytes))).await.err().unwrap_or_else(|| panic!("{name}"));
        assert_eq!(error.kind(), ErrorKind::Data, "{name}: {error}");
        assert!(error.to_string().contains(expected), "{name}: {error}");
    }
    // Cut off in the middle of the compressed stream.
    let whole = compressed(&sample("csv").repeat(50), ".gz");
    let error = run(&store, keyed(&write(dir.path(), "cut.csv.gz", &whole[..whole.len() / 2]))).await.err().unwrap();
    assert!(error.to_string().contains("cut.csv.gz"), "{error}");
    // Set aside, the others are stored.
    let path = write(
        dir.path(),
        "some.jsonl",
        b"{\"id\":91,\"text\":\"a\"}\nnonsense\n{\"id\":92,\"text\":\"\xff\"}\n{\"id\":93,\"text\":\"b\"}\n",
    );
    let report = run(&store, setting_aside(keyed(&path))).await.unwrap();
    assert_eq!((report.read, report.written, report.n_set_aside), (4, 2, 2));
    assert!(report.set_aside[0].contains("some.jsonl, line 2") && report.set_aside[1].contains("line 3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_another_type_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    run(&store, keyed(&write(dir.path(), "a.csv", b"id,text,n\n1,a,1\n"))).await.unwrap();
    let path = write(dir.path(), "b.csv", b"id,text,n\n2,b,2\n3,c,many\n");
    let error = run(&store, keyed(&path)).await.err().unwrap();
    assert!(error.message().contains("b.csv, line 3, column 'n': expected a whole number, got 'many'"), "{error}");
    let report = run(&store, setting_aside(keyed(&path))).await.unwrap();
    assert_eq!((report.written, report.n_set_aside, report.total), (1, 1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_columns_and_options_are_named_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let path = write(dir.path(), "a.csv", b"id,text,features\n1,a,b\n");
    let fails = async |options: ImportOptions, expected: &str| {
        let error = run(&store, options).await.err().unwrap();
        assert!(error.message().contains(expected), "{error}");
        assert!(store.catalog().corpus("c").is_none());
    };
    let text = |name: &str| ImportOptions { text_columns: vec![name.to_owned()], ..keyed(&path) };
    let columns = "there are: id, text, features; name one of them (--text)";
    fails(text("txt"), &format!("there is no column 'txt' for the text column; did you mean 'text'? {columns}")).await;
    fails(text("answer_body_en"), &format!("there is no column 'answer_body_en' for the text column; {columns}")).await;
    fails(ImportOptions { key: Some("key".to_owned()), ..from(&path) }, "there is no column 'key' for the key").await;
    fails(keyed(&path), "a column cannot be called 'features'").await;
    fails(keyed(&dir.path().join("b.csv")), "file not found").await;
    fails(ImportOptions { corpus: "No Name".to_owned(), ..renamed(&path) }, "for example 'no_name'").await;
    run(&store, renamed(&path)).await.unwrap();
    let error = run(&store, ImportOptions { key: Some("text".to_owned()), ..renamed(&path) }).await.err().unwrap();
    assert!(error.message().contains("has the key 'id', not 'text'"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_import_that_failed_binds_the_next_to_nothing() {
    struct Unplugged;
    impl Encode for Unplugged {
        fn encode(&self, _: &[&str]) -> Result<Vec<EncodedDocument>> {
            Err(Error::new(ErrorKind::Internal, "no current"))
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let first = write(dir.path(), "a.csv", b"id,text,n\n1,a,1\n");
    let error = run_with(&store, keyed(&first), Unplugged).await.err().unwrap();
    assert!(error.to_string().contains("no current"), "{error}");
    assert_eq!(store.catalog().corpus("c").unwrap().key.as_deref(), Some("id"));
    // Another key, and a column of another type.
    let second = write(dir.path(), "b.csv", b"code,text,n\nx,b,many\n");
    let coded = ImportOptions { key: Some("code".to_owned()), ..from(&second) };
    assert_eq!(run(&store, coded).await.unwrap().total, 1);
    assert_eq!((ids(&store).await, word_hits(&store, "b")), (vec!["x".to_owned()], vec!["x".to_owned()]));
    let made = store.catalog().corpus("c").unwrap().clone();
    assert_eq!(made.key.as_deref(), Some("code"));
    assert_eq!(made.columns.field_with_name("n").unwrap().data_type(), &DataType::Utf8);
    assert!(made.columns.field_with_name("id").is_err());
    // Documents that were deleted have been there: earlier versions have them still.
    assert_eq!(testing::engine(store.clone()).delete("c", "doc_id = 'x'").await.unwrap(), 1);
    let error = run(&store, keyed(&first)).await.err().unwrap();
    assert!(error.message().contains("has the key 'code', not 'id'"), "{error}");
}

fn renamed(path: &Path) -> ImportOptions {
    ImportOptions { rename: vec![("features".to_owned(), "traits".to_owned())], ..keyed(path) }
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_of_texts_and_of_data_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let texts = dir.path().join("texts");
    write(&texts, "b/two.txt", "zwei Wörter".as_bytes());
    write(&texts, "one.md", b"\xef\xbb\xbfone");
    write(&texts, "three.txt.gz", &compressed(b"packed", ".gz"));
    write(&texts, "picture.png", b"\x89PNG\0\0\0");
    write(&texts, ".hidden", b"not seen");
    let report = run(&store, from(&texts)).await.unwrap();
    assert_eq!((report.written, report.n_set_aside), (3, 1));
    assert_eq!(ids(&store).await, ["b/two.txt", "one.md", "three.txt.gz"]);
    assert_eq!(word_hits(&store, "pack"), ["three.txt.gz"]);
    assert_eq!(stored(&store, &["text"]).await.column(0).as_string::<i32>().value(1), "one");
    write(&texts, "wide.txt", b"\xff\xfea\0b\0");
    let error = run(&store, from(&texts)).await.err().unwrap();
    assert!(error.message().contains("wide.txt: the text is UTF-16"), "{error}");

    let data = dir.path().join("data");
    write(&data, "1.jsonl", b"{\"text\":\"a\"}\n{\"text\":\"b\"}\n");
    write(&data, "2.jsonl.zst", &compressed(b"{\"text\":\"c\"}\n", ".zst"));
    let report = run(&store, ImportOptions { corpus: "d".to_owned(), ..from(&data) }).await.unwrap();
    assert_eq!((report.read, report.total), (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_text_columns_limits_and_a_doc_id_of_the_source() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let path = write(dir.path(), "a.jsonl", b"{\"doc_id\":7,\"text\":\"alpha\",\"b\":\"beta\"}\n{\"doc_id\":8,\"text\":\"gamma\"}\n{\"doc_id\":9,\"text\":\"delta\"}\n");
    let options =
        ImportOptions { text_columns: vec!["b".to_owned(), "text".to_owned()], limit: Some(2), ..from(&path) };
    let report = run(&store, options).await.unwrap();
    assert_eq!(report.written, 2);
    assert_eq!(ids(&store).await, ["7", "8"]);
    assert_eq!(word_hits(&store, "alpha beta"), ["7"]);
    let info = store.catalog().corpus("c").unwrap().clone();
    assert_eq!((info.key.as_deref(), info.columns.fields().len()), (Some("doc_id"), 2));
    assert_eq!(stored(&store, &["_n_tokens"]).await.column(0).as_primitive::<UInt32Type>().values().to_vec(), [2, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_document_is_recorded_and_the_others_are_stored() {
    struct Picky;
    impl Encode for Picky {
        fn encode(&self, texts: &[&str]) -> Result<Vec<EncodedDocument>> {
            if texts.contains(&"poison") {
                return Err(Error::new(ErrorKind::Internal, "cannot digest"));
            }
            WordLengths::default().encode(texts)
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let path = write(dir.path(), "a.csv", b"id,text\n1,good\n2,poison\n3,fine\n");
    assert_eq!(run_with(&store, keyed(&path), Picky).await.unwrap().written, 3);
    let batch = stored(&store, &[schema::ERROR, "_ids_lengths", "_embedding"]).await;
    assert_eq!(batch.column(0).as_string::<i32>().value(1), "cannot digest");
    assert!(batch.column(0).is_null(0) && batch.column(1).is_null(1) && batch.column(2).is_null(1));
    assert_eq!(batch.schema().field(1).data_type(), &DataType::new_list(DataType::UInt32, true));
    // Alone in its chunk it does not stop the import either, and neither does a panic.
    let path = write(dir.path(), "b.csv", b"id,text\n4,poison\n");
    assert_eq!(run_with(&store, keyed(&path), Picky).await.unwrap().written, 1);
    struct Panicky;
    impl Encode for Panicky {
        fn encode(&self, texts: &[&str]) -> Result<Vec<EncodedDocument>> {
            assert!(!texts.contains(&"poison"), "out of cheese");
            WordLengths::default().encode(texts)
        }
    }
    let path = write(dir.path(), "c.csv", b"id,text\n5,poison\n6,good\n");
    assert_eq!(run_with(&store, keyed(&path), Panicky).await.unwrap().written, 2);
    let errors = stored(&store, &[schema::ERROR]).await;
    assert_eq!(errors.column(0).as_string::<i32>().value(4), "encoding: out of cheese");
}

#[tokio::test]
async fn a_reader_is_loaded_off_the_async_threads() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let ours = std::thread::current().id();
    let encoding = move |_: &[String]| {
        assert_ne!(std::thread::current().id(), ours);
        Err(Error::new(ErrorKind::Io, "no network"))
    };
    let path = write(dir.path(), "a.csv", b"id,text\n1,a\n");
    let error = import(&store, keyed(&path), Arc::new(Silent), Box::new(encoding), &no_sae).await.err().unwrap();
    assert_eq!(error.message(), "no network");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_meets_columns_of_a_typed_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let parts = ListArray::from_iter_primitive::<arrow::datatypes::Float32Type, _, _>([Some([Some(0.5)])]);
    let counts = ListArray::from_iter_primitive::<arrow::datatypes::Int32Type, _, _>([Some([Some(1)])]);
    let pair: Vec<(&str, ArrayRef)> = vec![("a", Arc::new(Int64Array::from(vec![1])))];
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(StringArray::from(vec!["1"])) as ArrayRef, true),
        ("text", Arc::new(StringArray::from(vec!["a"])), true),
        ("parts", Arc::new(parts), true),
        ("counts", Arc::new(counts), true),
        ("pair", Arc::new(arrow::array::StructArray::try_from(pair).unwrap()), true),
    ]);
    let batch = batch.unwrap();
    let mut writer = arrow::ipc::writer::FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    run(&store, keyed(&write(dir.path(), "a.arrow", &writer.into_inner().unwrap()))).await.unwrap();
    let lines = b"{\"id\":\"2\",\"text\":\"b\",\"parts\":[0.25,null,3],\"counts\":[]}
{\"id\":\"3\",\"text\":\"c\",\"counts\":[1,\"x\"]}
{\"id\":\"4\",\"text\":\"d\",\"pair\":{\"a\":2}}
{\"id\":\"5\",\"text\":\"e\",\"parts\":null}
";
    let path = write(dir.path(), "b.jsonl", lines);
    let error = run(&store, keyed(&path)).await.err().unwrap();
    assert!(error.message().contains("b.jsonl, line 2, column 'counts': expected a list, each item a"), "{error}");
    let report = run(&store, setting_aside(keyed(&path))).await.unwrap();
    assert_eq!((report.written, report.n_set_aside), (2, 2));
    assert!(report.set_aside.iter().any(|row| row.contains("line 3, column 'pair'")), "{:?}", report.set_aside);
    let parts = stored(&store, &["parts"]).await;
    let parts = parts.column(0).as_list::<i32>().value(1);
    assert_eq!(
        parts.as_primitive::<arrow::datatypes::Float32Type>().iter().collect::<Vec<_>>(),
        [Some(0.25), None, Some(3.0)]
    );
    // None of the rows of a chunk fits.
    let path = write(dir.path(), "c.jsonl", b"{\"id\":\"6\",\"text\":\"f\",\"pair\":1}\n");
    let report = run(&store, setting_aside(keyed(&path))).await.unwrap();
    assert_eq!((report.read, report.written, report.n_set_aside), (1, 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_a_typed_file_that_do_not_fit_are_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    run(&store, keyed(&write(dir.path(), "a.csv", b"id,text,n\n1,a,1\n"))).await.unwrap();
    let batch = RecordBatch::try_from_iter([
        ("id", Arc::new(StringArray::from(vec!["2", "3", "4"])) as ArrayRef),
        ("text", Arc::new(StringArray::from(vec!["b", "c", "d"]))),
        ("n", Arc::new(StringArray::from(vec!["2", "many", "4"]))),
    ]);
    let batch = batch.unwrap();
    let mut writer = arrow::ipc::writer::FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    let path = write(dir.path(), "b.arrow", &writer.into_inner().unwrap());
    let error = run(&store, keyed(&path)).await.err().unwrap();
    assert!(error.message().contains("b.arrow, row 2, column 'n': expected Int64"), "{error}");
    let report = run(&store, setting_aside(keyed(&path))).await.unwrap();
    assert_eq!((report.read, report.written, report.n_set_aside), (3, 2, 1));
    assert_eq!(ids(&store).await, ["1", "2", "4"]);
    assert_eq!(word_hits(&store, "d"), ["4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_folder_share_their_columns() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    run(&store, from(&write(dir.path(), "first.jsonl", b"{\"text\":\"a\"}\n"))).await.unwrap();
    let data = dir.path().join("data");
    write(&data, "a.jsonl", b"{\"text\":\"b\",\"score\":null}\n");
    write(&data, "b.jsonl", b"{\"text\":\"c\",\"score\":3}\n");
    assert_eq!(run(&store, from(&data)).await.unwrap().written, 2);
    let scores = stored(&store, &["score"]).await;
    assert_eq!(scores.column(0).as_string::<i32>().iter().collect::<Vec<_>>(), [None, None, Some("3")]);
}

/// Reads several times as long as the progress waits for a document.
#[derive(Default)]
pub(super) struct Slow(AtomicUsize);

impl Encode for Slow {
    fn encode(&self, texts: &[&str]) -> Result<Vec<EncodedDocument>> {
        self.0.store(7000, Ordering::Relaxed);
        std::thread::sleep(std::time::Duration::from_secs(1));
        WordLengths::default().encode(texts)
    }

    fn tokens_read(&self) -> u64 {
        self.0.load(Ordering::Relaxed) as u64
    }
}

/// What a progress was told: documents, and what is said beside them.
#[derive(Debug, Default)]
pub(super) struct Heard(pub(super) std::sync::Mutex<Vec<(u64, String)>>);

impl crate::progress::Progress for Heard {
    fn stage(&self, _: &str, _: Option<u64>, _: &str) {}
    fn update(&self, done: u64, detail: &str) {
        self.0.lock().unwrap().push((done, detail.to_owned()));
    }
    fn finish(&self, _: &str) {}
    fn warn(&self, _: &str) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_text_shows_how_far_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let path = write(dir.path(), "a.csv", b"id,text\n1,a long text\n");
    let heard = Arc::new(Heard::default());
    let encoding = Encoding {
        encoder: Arc::new(Slow::default()),
        width: testing::WIDTH,
        dictionaries: vec!["lengths".to_owned()],
        reader: None,
    };
    let encoding = Box::new(|_: &[String]| Ok(encoding));
    import(&store, keyed(&path), heard.clone(), encoding, &no_sae).await.unwrap();
    let heard = heard.0.lock().unwrap();
    assert!(heard.iter().any(|(done, detail)| *done == 0 && detail.ends_with(" tokens/s, 7000 tokens")), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_commits_end_as_one_fragment() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let mut lines = String::from("id,text\n");
    for i in 0..34 * 128 {
        lines.push_str(&format!("{i},number{i}\n"));
    }
    let path = write(dir.path(), "a.csv", lines.as_bytes());
    let report = run(&store, ImportOptions { batch_docs: 1, ..keyed(&path) }).await.unwrap();
    assert_eq!(report.total, 34 * 128);
    let snapshot = store.snapshot("c", AsOf::Latest).await.unwrap();
    let indexes = snapshot.indexes().await.unwrap();
    assert!(indexes.iter().all(|index| (index.fragments, index.covered) == (1, Some(1))));
    assert_eq!(Words::open(&store.words_dir("c")).unwrap().unwrap().covers().unwrap(), snapshot.version());
    assert_eq!(word_hits(&store, "number4000"), ["4000"]);
}

/// Writes the database of `migrations/fixtures/v<current>` from `letters.jsonl` there; `tests/tests/upgrade.rs` opens it.
/// Run once per layout version, by the program that introduces it: `cargo test -p saequel-engine --lib write_fixture -- --ignored`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes into the source tree; run when the layout version changes"]
async fn write_fixture() {
    let version = saequel_migrations::CURRENT_VERSION;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations/fixtures").join(format!("v{version}"));
    let target = folder.join("database");
    if target.exists() {
        std::fs::remove_dir_all(&target).unwrap();
    }
    let store = testing::open(&target).await;
    let guard = store.write("fixture").await.unwrap();
    store.add_dictionary(&guard, &testing::dictionary("lengths", &LABELS)).await.unwrap();
    drop(guard);
    run(&store, ImportOptions { corpus: "letters".to_owned(), ..keyed(&folder.join("letters.jsonl")) }).await.unwrap();
    let engine = testing::engine(store);
    engine.rename_feature(1, "one letter").await.unwrap();
    engine.put_concept("short", &[(1, 1.0), (2, 0.5), (7, -1.0)]).await.unwrap();
    assert_eq!(engine.delete("letters", "doc_id = 'gone'").await.unwrap(), 1);
    engine.compact("letters", 0).await.unwrap();
}

#[test]
fn a_text_without_a_token_has_no_embedding() {
    let of = |n_tokens| Ok(EncodedDocument { embedding: vec![f16::ONE; 4], n_tokens, ..EncodedDocument::default() });
    let made = super::documents::reader_columns(4, &[of(0), of(3)]).unwrap();
    let embeddings = &made.iter().find(|(name, _)| name == crate::schema::EMBEDDING).unwrap().1;
    assert!(embeddings.is_null(0) && embeddings.is_valid(1));
}
