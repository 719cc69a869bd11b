//! Imports of features that were computed elsewhere, and dictionaries that a corpus gets later.

use std::io::Write;
use std::path::PathBuf;

use arrow::array::{Array, ArrayRef, AsArray, Float32Array, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{Float16Type, Float32Type, UInt32Type};

use super::backfill::{Backfill, Work};
use super::tests::*;
use super::*;
use crate::engine::{GivenFeatures, GivenMatrix, ImportOptions, ImportSource, OnBadRow};
use crate::error::ErrorKind;
use crate::progress::Silent;
use crate::store::Store;
use crate::words::Words;

/// Imports without an encoder: one that is asked for fails.
async fn import_given(store: &Store, options: ImportOptions) -> Result<ImportReport> {
    let encodings = Box::new(|_: &[String]| Err(crate::Error::new(ErrorKind::Internal, "no reader is needed here")));
    import::import(store, options, Arc::new(Silent), encodings, &no_sae).await
}

fn features(path: &std::path::Path, given: GivenFeatures) -> ImportOptions {
    ImportOptions { features: Some(given), ..ImportOptions::new(ImportSource::Path(path.to_owned()), "c") }
}

fn with_activations() -> GivenFeatures {
    GivenFeatures { activations: Some("acts".to_owned()), ..GivenFeatures::new("ids") }
}

/// Three documents: features in any order and twice, none, and unknown.
fn parquet(dir: &std::path::Path) -> PathBuf {
    let ids = arrow::array::ListArray::from_iter_primitive::<arrow::datatypes::UInt64Type, _, _>([
        Some(vec![Some(7), Some(2), Some(7), Some(3)]),
        Some(vec![]),
        None,
    ]);
    let acts = arrow::array::ListArray::from_iter_primitive::<Float32Type, _, _>([
        Some(vec![Some(0.5), Some(1.0), Some(2.0), Some(0.0)]),
        Some(vec![]),
        None,
    ]);
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("doc_id", Arc::new(UInt64Array::from(vec![10, 11, 12])) as ArrayRef, true),
        ("grp", Arc::new(StringArray::from(vec!["a", "b", "b"])) as ArrayRef, true),
        ("ids", Arc::new(ids) as ArrayRef, true),
        ("acts", Arc::new(acts) as ArrayRef, true),
    ])
    .unwrap();
    let mut bytes = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    write(dir, "given.parquet", &bytes)
}

/// Features of each document (`None`: unknown), as latents and activations.
async fn found(store: &Store, dictionary: &str) -> Vec<Option<Vec<(u32, f32)>>> {
    let first = store.catalog().features.dictionaries().iter().find(|d| d.name == dictionary).unwrap().first_id;
    let batch = stored(store, &[&schema::ids_column(dictionary), &schema::activations_column(dictionary)]).await;
    let (ids, activations) = (batch.column(0).as_list::<i32>(), batch.column(1).as_list::<i32>());
    let document = |row: usize| {
        let (ids, values) = (ids.value(row), activations.value(row));
        let values = values.as_primitive::<Float16Type>().clone();
        let ids = ids.as_primitive::<UInt32Type>().clone();
        ids.values().iter().zip(values.values()).map(|(id, value)| (id - first, value.to_f32())).collect()
    };
    (0..batch.num_rows()).map(|row| ids.is_valid(row).then(|| document(row))).collect()
}

#[test]
fn a_file_of_labels_is_read_as_documents_are() {
    let dir = tempfile::tempdir().unwrap();
    let labels = |name: &str, text: &[u8]| {
        let latents = given::latents(4, Some(&write(dir.path(), name, text)));
        latents.map(|latents| latents.into_iter().map(|latent| latent.label).collect::<Vec<_>>())
    };
    let expected = ["latent 0", "a, b", "latent 2", "c"];
    assert_eq!(labels("a.csv", b"Latent,Label\r\n1,\"a, b\"\r\n3,c\r\n").unwrap(), expected);
    assert_eq!(labels("a.tsv", b"latent\tlabel\n1\t\"a, b\"\n3\tc").unwrap(), expected);
    let error = labels("open.csv", b"latent,label\n1,a\n2,\"b\n3,c\n").unwrap_err();
    assert!(error.message().contains("open.csv, line 3: the quote that opens a value here is never closed"), "{error}");
    let error = labels("short.csv", b"latent,label\r\n\r\n1\r\n").unwrap_err();
    assert!(error.message().contains("short.csv, line 3: expected 2 fields as in the header, got 1"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn features_of_a_parquet_file_need_no_reader() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let path = parquet(dir.path());
    let labels = write(dir.path(), "labels.csv", b"latent,label\n7,\"says sorry\"\n");
    let given = GivenFeatures { labels: Some(labels), tool: Some("a GPU".to_owned()), ..with_activations() };
    let report = import_given(&store, features(&path, given.clone())).await.unwrap();
    assert_eq!((report.read, report.written, report.total, report.n_tokens), (3, 3, 3, 0));
    assert_eq!(ids(&store).await, ["10", "11", "12"]);
    assert_eq!(found(&store, "c").await, [Some(vec![(2, 1.0), (7, 2.0)]), Some(vec![]), None]);
    let names: Vec<String> =
        store.snapshot("c", AsOf::Latest).await.unwrap().schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["doc_id", "grp", "_ids_c", "_activations_c"]);

    let catalog = store.catalog();
    let dictionary = catalog.features.dictionaries().iter().find(|d| d.name == "c").unwrap();
    assert_eq!((dictionary.width, dictionary.reader.as_str(), dictionary.level.as_str()), (8, "", "document"));
    let feature = |latent: u32| catalog.features.feature(dictionary.first_id + latent).unwrap();
    assert_eq!((feature(7).label.as_str(), feature(7).label_source.as_str()), ("says sorry", "imported"));
    assert_eq!((feature(2).label.as_str(), feature(2).label_source.as_str()), ("latent 2", given::UNNAMED));
    assert_eq!((feature(7).density, feature(7).max_activation, feature(7).q50), (0.5, 2.0, 2.0));
    let provenance: serde_json::Value = serde_json::from_str(&store.provenance("c")).unwrap();
    assert_eq!(provenance["files"][0]["file"], "given.parquet");
    assert_eq!(provenance["files"][0]["bytes"], std::fs::metadata(&path).unwrap().len());
    assert_eq!(provenance["tool"], "a GPU");
    assert_eq!(provenance["width"], "found");
    assert_eq!(provenance["files"][0]["sha256"].as_str().unwrap().len(), 64);

    // Again: nothing comes twice. Without the columns it is said what is missing.
    let again = import_given(&store, features(&path, with_activations())).await.unwrap();
    assert_eq!((again.written, again.skipped, again.total), (0, 3, 3));
    let plain = ImportOptions::new(ImportSource::Path(path.clone()), "c");
    let error = import_given(&store, plain).await.unwrap_err();
    assert!(error.message().contains("were computed elsewhere, and so must be those of new documents"), "{error}");

    // A second corpus of the same dictionary shares its ids.
    let second = GivenFeatures { dictionary: Some("c".to_owned()), ..with_activations() };
    import_given(&store, ImportOptions { corpus: "d".to_owned(), ..features(&path, second) }).await.unwrap();
    assert_eq!(store.catalog().features.dictionaries().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_alone_json_lines_and_bad_rows() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let lines = b"{\"id\":\"a\",\"text\":\"tea\",\"ids\":[4,1]}\n{\"id\":\"b\",\"text\":\"pot\",\"ids\":[9]}\n{\"id\":\"c\",\"ids\":[]}\n";
    let path = write(dir.path(), "a.jsonl", lines);
    let keyed = |given: GivenFeatures| ImportOptions { key: Some("id".to_owned()), ..features(&path, given) };
    let narrow = GivenFeatures { width: Some(5), ..GivenFeatures::new("ids") };
    let error = import_given(&store, keyed(narrow.clone())).await.unwrap_err();
    assert!(
        error.message().contains("row 2: there is no feature 9 in dictionary 'c': it has 5, numbered 0 to 4"),
        "{error}"
    );
    let setting_aside = ImportOptions { on_bad_row: OnBadRow::SetAside, ..keyed(narrow) };
    let report = import_given(&store, setting_aside).await.unwrap();
    assert_eq!((report.written, report.n_set_aside, report.total), (2, 1, 2));
    assert_eq!(found(&store, "c").await, [Some(vec![(1, 1.0), (4, 1.0)]), Some(vec![])]);
    assert_eq!(word_hits(&store, "tea"), ["a"], "a column called text is searched, though nothing reads it");

    for (given, expected) in [
        (GivenFeatures::new("idss"), "there is no column 'idss' for the features; did you mean 'ids'?"),
        (GivenFeatures::new("text"), "column 'text' cannot hold features: expected a list of whole numbers"),
        (GivenFeatures { width: Some(6), ..GivenFeatures::new("ids") }, "has 5 features already, not 6"),
    ] {
        let error = import_given(&store, keyed(given)).await.unwrap_err();
        assert!(error.message().contains(expected), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_no_feature_can_have_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    for (numbers, width, expected) in [
        ("3000000000", None, "row 2: column 'ids' names feature 3000000000, more than can be numbered"),
        ("4194304", None, "expected numbers from 0 to 4194303"),
        ("1", Some(4_194_305), "a width of 4194305 is more than a dictionary can have; expected at most 4194304"),
    ] {
        let lines = format!("{{\"id\":\"a\",\"ids\":[]}}\n{{\"id\":\"b\",\"ids\":[{numbers}]}}\n");
        let path = write(dir.path(), "a.jsonl", lines.as_bytes());
        let given = GivenFeatures { width, ..GivenFeatures::new("ids") };
        let error = import_given(&store, features(&path, given)).await.unwrap_err();
        assert!(error.message().contains(expected), "{error}");
    }
    let path = write(dir.path(), "b.jsonl", b"{\"id\":\"a\",\"ids\":[-1]}\n");
    let error = import_given(&store, features(&path, GivenFeatures::new("ids"))).await.unwrap_err();
    assert!(error.message().contains("names feature -1; expected numbers from 0"), "{error}");
    for threshold in [f32::NAN, f32::INFINITY] {
        let given = GivenFeatures { threshold, ..GivenFeatures::new("ids") };
        let error = import_given(&store, features(&path, given)).await.unwrap_err();
        assert!(error.message().contains("threshold: expected a number"), "{error}");
    }
}

/// An array as NumPy writes it.
fn npy(descr: &str, shape: &str, values: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    while (header.len() + 11) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values);
    bytes
}

/// A matrix as `scipy.sparse.save_npz` writes it, of rows `{1: 0.5, 3: 2}`, `{}`, `{0: 1}`.
fn csr(dir: &std::path::Path, format: &[u8]) -> PathBuf {
    let int32 = |values: &[i32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let data: Vec<u8> = [0.5_f64, 2.0, 1.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut zip = zip::ZipWriter::new(std::fs::File::create(dir.join("m.npz")).unwrap());
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    let shape: Vec<u8> = [3_i64, 4].iter().flat_map(|value| value.to_le_bytes()).collect();
    for (name, bytes) in [
        ("indices.npy", npy("<i4", "(3,)", &int32(&[1, 3, 0]))),
        ("indptr.npy", npy("<i4", "(4,)", &int32(&[0, 2, 2, 3]))),
        ("format.npy", npy("|S3", "()", format)),
        ("shape.npy", npy("<i8", "(2,)", &shape)),
        ("data.npy", npy("<f8", "(3,)", &data)),
    ] {
        zip.start_file(name, options).unwrap();
        zip.write_all(&bytes).unwrap();
    }
    zip.finish().unwrap();
    dir.join("m.npz")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sparse_matrix_belongs_to_documents_row_by_row() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let matrix = csr(dir.path(), b"csr");
    let documents = write(dir.path(), "a.jsonl", b"{\"n\":1}\nnonsense\n{\"n\":3}\n");
    let options = ImportOptions {
        matrix: Some(GivenMatrix::Features(matrix.clone())),
        on_bad_row: OnBadRow::SetAside,
        ..ImportOptions::new(ImportSource::Path(documents.clone()), "c")
    };
    let report = import_given(&store, options.clone()).await.unwrap();
    assert_eq!((report.written, report.n_set_aside), (2, 1), "the row of the broken line is passed over");
    assert_eq!(found(&store, "c").await, [Some(vec![(1, 0.5), (3, 2.0)]), Some(vec![(0, 1.0)])]);
    assert_eq!(store.catalog().features.dictionaries().last().unwrap().width, 4);

    // The matrix alone.
    let alone = ImportOptions { corpus: "d".to_owned(), ..ImportOptions::new(ImportSource::Path(matrix), "d") };
    assert_eq!(import_given(&store, alone).await.unwrap().written, 3);

    let more = write(dir.path(), "b.jsonl", b"{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n{\"n\":4}\n");
    let too_many = ImportOptions { source: ImportSource::Path(more), corpus: "e".to_owned(), ..options.clone() };
    let error = import_given(&store, too_many).await.unwrap_err();
    assert!(error.message().contains("as many of each"), "{error}");
    csr(dir.path(), b"csc");
    let error = import_given(&store, ImportOptions { corpus: "f".to_owned(), ..options }).await.unwrap_err();
    assert!(error.message().contains("matrix.tocsr()"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dense_matrices_hold_features_or_embeddings() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let values: Vec<u8> = [0.0_f32, 3.0, 4.0, 0.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let matrix = write(dir.path(), "m.npy", &npy("<f4", "(2, 2)", &values));
    let documents = write(dir.path(), "a.csv", b"n\n1\n2\n");
    let source = || ImportSource::Path(documents.clone());
    let dense = GivenMatrix::Features(matrix.clone());
    import_given(&store, ImportOptions { matrix: Some(dense), ..ImportOptions::new(source(), "c") }).await.unwrap();
    assert_eq!(found(&store, "c").await, [Some(vec![(1, 3.0)]), Some(vec![(0, 4.0)])]);

    let embeddings =
        ImportOptions { matrix: Some(GivenMatrix::Embeddings(matrix)), ..ImportOptions::new(source(), "d") };
    import_given(&store, embeddings).await.unwrap();
    let snapshot = store.snapshot("d", AsOf::Latest).await.unwrap();
    let mut lengths = Vec::new();
    snapshot
        .read(&[schema::EMBEDDING.to_owned()], &[], |batch| {
            let rows = batch.column(0).as_fixed_size_list();
            for row in 0..rows.len() {
                let values = rows.value(row);
                let values: Vec<f32> =
                    values.as_primitive::<Float16Type>().values().iter().map(|v| v.to_f32()).collect();
                lengths.push(values.iter().map(|value| value * value).sum::<f32>());
            }
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!(Float32Array::from(lengths), Float32Array::from(vec![1.0, 1.0]), "of length 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dictionary_that_comes_later_fills_every_document_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let lines: String = (0..2500).map(|i| format!("{{\"id\":{i},\"text\":\"number {i}\"}}\n")).collect();
    let path = write(dir.path(), "a.jsonl", lines.as_bytes());
    run(&store, ImportOptions { batch_docs: 2000, ..keyed(&path) }).await.unwrap();
    let engine = crate::store::testing::engine(store.clone());
    assert_eq!(engine.delete("c", "doc_id = '1'").await.unwrap(), 1);

    let guard = store.write("test").await.unwrap();
    let dictionary = crate::store::testing::dictionary("later", &["a", "b", "c", "d", "e", "f", "g", "h"]);
    store.add_dictionary(&guard, &dictionary).await.unwrap();
    let names = vec!["later".to_owned()];
    let backfill = |fail_after: usize| Backfill {
        store: &store,
        guard: &guard,
        corpus: "c",
        dictionaries: &names,
        work: Work::Texts {
            encoder: Arc::new(WordLengths { fail_after, ..WordLengths::default() }),
            width: crate::store::testing::WIDTH,
            chat: None,
        },
        progress: Arc::new(Silent),
    };
    let error = backfill(1000).run().await.unwrap_err();
    assert!(error.message().contains("the plug was pulled"), "{error}");
    let half = store.snapshot("c", AsOf::Latest).await.unwrap();
    assert_eq!(half.info.dictionaries, ["lengths"], "nobody sees half of it");
    assert!(half.info.columns.fields().iter().all(|field| !field.name().starts_with('_')));

    let report = backfill(0).run().await.unwrap();
    assert_eq!((report.documents, report.failed), (2499, 0));
    assert!(report.resumed >= 1000, "what was encoded before the plug was pulled is kept: {report:?}");
    let snapshot = store.snapshot("c", AsOf::Latest).await.unwrap();
    assert_eq!((snapshot.count().await.unwrap(), snapshot.info.dictionaries.len()), (2499, 2));
    assert_eq!(found(&store, "later").await, found(&store, "lengths").await);
    assert!(snapshot.indexes().await.unwrap().iter().all(|index| index.covered == Some(index.fragments)));
    assert_eq!(Words::open(&store.words_dir("c")).unwrap().unwrap().covers().unwrap(), snapshot.version());
    assert!(
        !store.dir().join("cache/backfill").join(format!("c-{}", snapshot.info.created_micros)).join("later-").exists()
    );
    assert_eq!(backfill(0).run().await.unwrap().documents, 0, "nothing is left to do");
    drop(guard);

    let error = engine.drop_from_corpus("c", &["laterr".to_owned()]).await.unwrap_err();
    assert!(error.message().contains("did you mean 'later'?"), "{error}");
    let error = engine.drop_dictionary("later").await.unwrap_err();
    assert!(error.message().contains("in use by: c"), "{error}");
    engine.drop_from_corpus("c", &names).await.unwrap();
    let snapshot = store.snapshot("c", AsOf::Latest).await.unwrap();
    assert!(snapshot.schema().fields().iter().all(|field| !field.name().ends_with("_later")));
    let error = engine.drop_from_corpus("c", &["lengths".to_owned()]).await.unwrap_err();
    assert!(error.message().contains("left without a dictionary"), "{error}");
    engine.drop_dictionary("later").await.unwrap();
    assert_eq!(store.catalog().features.dictionaries().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_answer_with_the_dictionaries_that_they_were_read_with() {
    use crate::store::testing;
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    run(&store, keyed(&write(dir.path(), "a.csv", b"id,text\n1,a long text\n"))).await.unwrap();
    run(&store, keyed(&write(dir.path(), "b.csv", b"id,text\n2,another text\n"))).await.unwrap();
    let first = store.snapshot("c", AsOf::Latest).await.unwrap().version();
    let names = vec!["later".to_owned()];
    let guard = store.write("test").await.unwrap();
    store.add_dictionary(&guard, &testing::dictionary("later", &["a"; 8])).await.unwrap();
    let add = async |guard: &crate::store::WriteGuard| {
        let work = Work::Texts { encoder: Arc::new(WordLengths::default()), width: testing::WIDTH, chat: None };
        let progress = Arc::new(Silent);
        let backfill = Backfill { store: &store, guard, corpus: "c", dictionaries: &names, work, progress };
        backfill.run().await.unwrap();
    };
    add(&guard).await;
    drop(guard);
    let version = store.snapshot("c", AsOf::Latest).await.unwrap().version();
    // Half of the documents are no version of it, now and when it is taken away.
    let engine = testing::engine(store.clone());
    let half = async || {
        let mut listed = Vec::new();
        for number in first..=version {
            let dictionaries = store.snapshot("c", AsOf::Version(number)).await.unwrap().info.dictionaries.clone();
            assert!(dictionaries == ["lengths"] || dictionaries == ["lengths", "later"], "{dictionaries:?}");
            listed.push(dictionaries.len() == 2);
        }
        // After the first document, and before the second.
        assert!(listed.is_sorted() && !listed[1] && listed.ends_with(&[true]), "{listed:?}");
    };
    half().await;
    engine.drop_from_corpus("c", &["later".to_owned()]).await.unwrap();
    half().await;
    let both = store.snapshot("c", AsOf::Version(version)).await.unwrap();
    assert_eq!(both.info.dictionaries, ["lengths", "later"]);
    let guard = store.write("test").await.unwrap();
    add(&guard).await;
    drop(guard);
    let version = store.snapshot("c", AsOf::Latest).await.unwrap().version();
    engine.drop_from_corpus("c", &["lengths".to_owned()]).await.unwrap();
    assert_eq!(store.snapshot("c", AsOf::Latest).await.unwrap().info.dictionaries, ["later"]);
    // The first dictionary, whose `fvu` has no suffix, is the first one still.
    let old = store.snapshot("c", AsOf::Version(version)).await.unwrap();
    assert_eq!(old.info.dictionaries, ["lengths", "later"]);

    engine.drop_dictionary("lengths").await.unwrap();
    let refused = async || {
        let error = store.snapshot("c", AsOf::Version(version)).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        let said = format!("version {version} of corpus 'c' was read with dictionary 'lengths', which was removed");
        assert!(error.message().contains(&said), "{error}");
    };
    refused().await;
    // Another one of that name has other features.
    let guard = store.write("test").await.unwrap();
    store.add_dictionary(&guard, &testing::dictionary("lengths", &["a"; 8])).await.unwrap();
    drop(guard);
    refused().await;
    assert_eq!(store.snapshot("c", AsOf::Latest).await.unwrap().info.dictionaries, ["later"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_the_cache_goes_with_its_corpus() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let lines: String = (0..1100).map(|i| format!("{{\"id\":{i},\"text\":\"number {i}\"}}\n")).collect();
    run(&store, keyed(&write(dir.path(), "a.jsonl", lines.as_bytes()))).await.unwrap();
    let guard = store.write("test").await.unwrap();
    store.add_dictionary(&guard, &crate::store::testing::dictionary("later", &["a"; 8])).await.unwrap();
    let names = vec!["later".to_owned()];
    let encoder = WordLengths { fail_after: 1000, ..WordLengths::default() };
    let backfill = Backfill {
        store: &store,
        guard: &guard,
        corpus: "c",
        dictionaries: &names,
        work: Work::Texts { encoder: Arc::new(encoder), width: crate::store::testing::WIDTH, chat: None },
        progress: Arc::new(Silent),
    };
    let error = backfill.run().await.unwrap_err();
    assert!(error.message().contains("the plug was pulled"), "{error}");
    let waiting = store.backfill_dir("c", store.catalog().corpus("c").unwrap().created_micros);
    assert!(waiting.is_dir(), "a thousand documents wait in {}", waiting.display());
    store.drop_corpus(&guard, "c").await.unwrap();
    assert!(!waiting.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_shows_how_far_a_long_text_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    run(&store, keyed(&write(dir.path(), "a.csv", b"id,text\n1,a long text\n"))).await.unwrap();
    let guard = store.write("test").await.unwrap();
    store.add_dictionary(&guard, &crate::store::testing::dictionary("later", &["a"; 8])).await.unwrap();
    let (names, heard) = (vec!["later".to_owned()], Arc::new(Heard::default()));
    let backfill = Backfill {
        store: &store,
        guard: &guard,
        corpus: "c",
        dictionaries: &names,
        work: Work::Texts { encoder: Arc::new(Slow::default()), width: crate::store::testing::WIDTH, chat: None },
        progress: heard.clone(),
    };
    assert_eq!(backfill.run().await.unwrap().documents, 1);
    let heard = heard.0.lock().unwrap();
    assert!(heard.iter().any(|(done, detail)| *done == 0 && detail.ends_with(" tokens/s, 7000 tokens")), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_between_two_backfills_are_read_and_found_by_index() {
    use crate::store::testing;
    let dir = tempfile::tempdir().unwrap();
    let store = database(dir.path()).await;
    let lines = |from: usize| -> String {
        (from..from + 10).map(|i| format!("{{\"id\":{i},\"text\":\"number {i}\"}}\n")).collect()
    };
    run(&store, keyed(&write(dir.path(), "a.jsonl", lines(0).as_bytes()))).await.unwrap();
    let guard = store.write("test").await.unwrap();
    let first = store.add_dictionary(&guard, &testing::dictionary("later", &["a"; 8])).await.unwrap();
    drop(guard);
    let names = vec!["later".to_owned()];
    let backfill = async || {
        let guard = store.write("test").await.unwrap();
        let (encoder, width) = (Arc::new(WordLengths::default()), testing::WIDTH);
        let backfill = Backfill {
            store: &store,
            guard: &guard,
            corpus: "c",
            dictionaries: &names,
            work: Work::Texts { encoder, width, chat: None },
            progress: Arc::new(Silent),
        };
        backfill.run().await.unwrap().documents
    };
    assert_eq!(backfill().await, 10);
    // The import fills the first dictionary alone; both are indexed, the second with nulls.
    run(&store, keyed(&write(dir.path(), "b.jsonl", lines(10).as_bytes()))).await.unwrap();
    assert_eq!(backfill().await, 10);
    // As an earlier program left it: features, and nothing else of what a reader finds.
    let stored_schema = store.snapshot("c", AsOf::Latest).await.unwrap().schema();
    let doc = testing::Doc { id: "z", text: "tea", features: vec![(3, 1.0)], ..testing::Doc::default() };
    let batch = testing::batch(&stored_schema, "later", &[doc]);
    let lost = [schema::EMBEDDING, schema::N_TOKENS, schema::N_SPANS];
    let columns = stored_schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
        let is_lost = lost.contains(&field.name().as_str());
        if is_lost { arrow::array::new_null_array(field.data_type(), 1) } else { column.clone() }
    });
    let batch = RecordBatch::try_new(stored_schema.clone(), columns.collect()).unwrap();
    let guard = store.write("test").await.unwrap();
    store.append(&guard, "c", vec![batch]).await.unwrap();
    store.index(&guard, "c").await.unwrap();
    drop(guard);
    let checks = testing::engine(store.clone()).doctor().await.unwrap();
    assert!(
        checks.iter().any(|check| !check.ok && check.detail.ends_with("saequel sae add c lengths")),
        "{:?}",
        checks.iter().map(|check| &check.detail).collect::<Vec<_>>()
    );
    assert_eq!(backfill().await, 1);
    let embeddings = stored(&store, &lost).await;
    assert_eq!(embeddings.columns().iter().map(|column| column.null_count()).sum::<usize>(), 0);

    // What the index answers is what the stored lists say, also where they are not to have a feature.
    let snapshot = store.snapshot("c", AsOf::Latest).await.unwrap();
    assert!(snapshot.indexes().await.unwrap().iter().all(|index| index.covered == Some(index.fragments)));
    let lists = found(&store, "later").await;
    for latent in [1, 2, 3, 6] {
        let with = lists.iter().flatten().filter(|list| list.iter().any(|(id, _)| *id == latent)).count();
        let feature = lit(datafusion::scalar::ScalarValue::UInt32(Some(first + latent)));
        let has = datafusion::functions_nested::expr_fn::array_has(col(schema::ids_column("later")), feature);
        for (condition, expected) in [(has.clone(), with), (!has, lists.len() - with)] {
            let mut n = 0;
            let count = |batch: RecordBatch| {
                n += batch.num_rows();
                Ok(())
            };
            snapshot.read(&[schema::DOC_ID.to_owned()], std::slice::from_ref(&condition), count).await.unwrap();
            assert_eq!(n, expected, "{condition}");
        }
    }
}
