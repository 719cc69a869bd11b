//! The store on a real folder.

use arrow::array::{AsArray, RecordBatch};
use datafusion::functions_nested::expr_fn::array_has;
use datafusion::logical_expr::{col, lit};
use datafusion::physical_plan::displayable;
use datafusion::prelude::Expr;
use datafusion::scalar::ScalarValue;

use super::testing::{Doc, batch, corpus, dictionary, open};
use super::*;

const LABELS: [&str; 4] = ["cats", "dogs", "dense", "tea"];

fn docs() -> Vec<Doc> {
    vec![
        Doc { id: "a", text: "a cat", model: "x", features: vec![(0, 1.5)] },
        Doc { id: "b", text: "a dog and a cat", model: "y", features: vec![(0, 0.5), (1, 2.0)] },
        Doc { id: "c", text: "tea", model: "x", features: vec![(3, 1.0)] },
    ]
}

async fn filled(dir: &Path) -> Store {
    let store = open(dir).await;
    let guard = store.write("test").await.unwrap();
    assert_eq!(store.add_dictionary(&guard, &dictionary("first", &LABELS)).await.unwrap(), 0);
    assert_eq!(store.add_dictionary(&guard, &dictionary("second", &["x"])).await.unwrap(), 4);
    drop(guard);
    corpus(&store, "pets", "first", &docs()).await;
    store
}

async fn rows(snapshot: &Snapshot, columns: &[&str], filters: &[Expr]) -> Vec<RecordBatch> {
    let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
    let mut batches = Vec::new();
    snapshot
        .read(&columns, filters, |batch| {
            batches.push(batch);
            Ok(())
        })
        .await
        .unwrap();
    batches
}

async fn ids(snapshot: &Snapshot, filters: &[Expr]) -> Vec<String> {
    let batches = rows(snapshot, &["doc_id"], filters).await;
    batches.iter().flat_map(|b| b.column(0).as_string::<i32>().iter().flatten().map(str::to_owned)).collect()
}

fn has(feature: u32) -> Expr {
    array_has(col("_ids_first"), lit(ScalarValue::UInt32(Some(feature))))
}

#[tokio::test]
async fn a_database_is_made_reopened_and_read_by_others() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("with space and ü 100%");
    let store = filled(&dir).await;
    let catalog = store.catalog();
    assert_eq!(catalog.features.dictionaries().len(), 2);
    assert_eq!(catalog.features.label(4), "x");
    assert!(catalog.features.feature(2).unwrap().hidden);
    assert_eq!(catalog.feature_detail(0).unwrap().examples, ["an «cats» example"]);
    let info = catalog.corpus("pets").unwrap();
    assert_eq!(info.columns.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(), ["text", "model"]);

    // A second store on the folder stands for another process: it sees later changes without being reopened.
    let other = open(&dir).await;
    assert_eq!(other.snapshot("pets", AsOf::Latest).await.unwrap().count().await.unwrap(), 3);
    corpus(&store, "more", "second", &[]).await;
    assert_eq!(other.snapshot("more", AsOf::Latest).await.unwrap().count().await.unwrap(), 0);
    assert!(other.catalog().corpus("more").is_some());
    let guard = store.write("test").await.unwrap();
    store.drop_corpus(&guard, "more").await.unwrap();
    drop(guard);
    let error = other.snapshot("more", AsOf::Latest).await.err().unwrap();
    assert_eq!(error.message(), "corpus 'more' not found; there are: pets");
    // The same name again is another corpus, here and there.
    corpus(&store, "more", "first", &docs()).await;
    assert_eq!(ids(&other.snapshot("more", AsOf::Latest).await.unwrap(), &[]).await, ["a", "b", "c"]);
}

#[tokio::test]
async fn scans_project_filter_and_limit() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let snapshot = store.snapshot("pets", AsOf::Latest).await.unwrap();
    assert_eq!(ids(&snapshot, &[has(0)]).await, ["a", "b"]);
    assert_eq!(ids(&snapshot, &[has(0), col("model").eq(lit("y"))]).await, ["b"]);
    // Columns come in the order asked for, whatever the order of storage and with or without a filter.
    for filters in [vec![], vec![has(0)]] {
        let batches = rows(&snapshot, &["_ids_first", "text", "doc_id"], &filters).await;
        let names: Vec<String> = batches[0].schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["_ids_first", "text", "doc_id"]);
    }
    let batches = rows(&snapshot, &[], &[has(0)]).await;
    assert_eq!((batches[0].num_columns(), batches.iter().map(RecordBatch::num_rows).sum::<usize>()), (0, 2));
    let plan = snapshot.scan(&["text".to_owned()], &[], Some(2)).await.unwrap();
    let limited = datafusion::physical_plan::collect(plan, Arc::default()).await.unwrap();
    assert_eq!(limited.iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
    let error = snapshot.scan(&["txt".to_owned()], &[], None).await.err().unwrap();
    assert!(error.message().contains("did you mean 'text'?"), "{error}");
}

#[tokio::test]
async fn feature_filters_reach_the_index_before_and_after_appends_and_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let guard = store.write("test").await.unwrap();
    store.index(&guard, "pets").await.unwrap();
    let snapshot = store.snapshot("pets", AsOf::Latest).await.unwrap();
    let plan = snapshot.scan(&["doc_id".to_owned()], &[has(1)], None).await.unwrap();
    let shown = displayable(plan.as_ref()).indent(true).to_string();
    assert!(shown.contains("ScalarIndexQuery"), "{shown}");
    assert_eq!(ids(&snapshot, &[has(1)]).await, ["b"]);

    // Rows that the index does not cover yet are found, too.
    let later = [Doc { id: "d", text: "dogs", model: "x", features: vec![(1, 1.0)] }];
    store.append(&guard, "pets", vec![batch(&snapshot.schema(), "first", &later)]).await.unwrap();
    let after = store.snapshot("pets", AsOf::Latest).await.unwrap();
    assert_eq!(ids(&after, &[has(1)]).await, ["b", "d"]);
    assert!(after.indexes().await.unwrap().iter().all(|index| (index.covered, index.fragments) == (Some(1), 2)));
    for _ in 0..6 {
        let (changed, ..) =
            store.upsert(&guard, "pets", vec![batch(&snapshot.schema(), "first", &later)]).await.unwrap();
        assert_eq!(changed.count().await.unwrap(), 4);
        store.index(&guard, "pets").await.unwrap();
    }
    let (deleted, n) = store.delete(&guard, "pets", col("doc_id").eq(lit("b"))).await.unwrap();
    assert_eq!((n, deleted.count().await.unwrap()), (1, 3));
    assert_eq!(ids(&deleted, &[has(1)]).await, ["d"]);
    store.join_fragments(&guard, "pets").await.unwrap();
    store.index(&guard, "pets").await.unwrap();
    store.forget_versions(&guard, "pets", 0).await.unwrap();
    let compacted = store.snapshot("pets", AsOf::Latest).await.unwrap();
    assert_eq!(ids(&compacted, &[has(1)]).await, ["d"]);
    assert_eq!(ids(&compacted, &[has(0)]).await, ["a"]);
    assert!(compacted.indexes().await.unwrap().iter().all(|index| index.covered == Some(index.fragments)));
    assert_eq!(store.versions("pets").await.unwrap().len(), 1);
}

#[tokio::test]
async fn feature_filters_follow_replaced_documents() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let guard = store.write("test").await.unwrap();
    store.index(&guard, "pets").await.unwrap();
    let schema = store.snapshot("pets", AsOf::Latest).await.unwrap().schema();
    // Document a loses feature 0 for 3; z is new.
    let changed = [
        Doc { id: "a", text: "tea", model: "x", features: vec![(3, 1.0)] },
        Doc { id: "z", text: "dogs", model: "x", features: vec![(1, 1.0)] },
    ];
    let (snapshot, added, replaced) =
        store.upsert(&guard, "pets", vec![batch(&schema, "first", &changed)]).await.unwrap();
    assert_eq!((added, replaced), (1, 1));
    // Before the indexes are extended, after, and when they are made anew.
    for step in 0..3 {
        let snapshot = if step == 0 { snapshot.clone() } else { store.snapshot("pets", AsOf::Latest).await.unwrap() };
        assert_eq!(ids(&snapshot, &[has(0)]).await, ["b"], "step {step}");
        let mut tea = ids(&snapshot, &[has(3)]).await;
        tea.sort();
        assert_eq!(tea, ["a", "c"], "step {step}");
        assert_eq!(ids(&snapshot, &[col("doc_id").eq(lit("a"))]).await, ["a"], "step {step}");
        if step == 1 {
            store.drop_indexes(&guard, "pets").await.unwrap();
        }
        store.index(&guard, "pets").await.unwrap();
    }
    let (left, n) = store.delete(&guard, "pets", has(0)).await.unwrap();
    assert_eq!((n, left.count().await.unwrap()), (1, 3));
}

#[tokio::test]
async fn nulls_that_an_import_stored_are_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let guard = store.write("test").await.unwrap();
    store.add_columns(&guard, "pets", crate::schema::encoded_fields("second")).await.unwrap();
    let schema = store.snapshot("pets", AsOf::Latest).await.unwrap().schema();
    let later = batch(&schema, "first", &[Doc { id: "z", text: "tea", model: "x", features: vec![] }]);
    let unread = [crate::schema::EMBEDDING, crate::schema::N_TOKENS];
    let columns = schema.fields().iter().zip(later.columns()).map(|(field, column)| {
        let is_unread = unread.contains(&field.name().as_str());
        if is_unread { arrow::array::new_null_array(field.data_type(), 1) } else { column.clone() }
    });
    let later = RecordBatch::try_new(schema.clone(), columns.collect()).unwrap();
    store.append(&guard, "pets", vec![later]).await.unwrap();
    let gaps = store.gaps("pets", &["second".to_owned()], false).await.unwrap();
    let lacks: Vec<&[String]> = gaps.iter().map(|gap| gap.lacks.as_slice()).collect();
    assert_eq!(lacks, [&[][..], &unread.map(str::to_owned)[..]]);
    // With every feature there, a document that was not read is one only to who reads texts.
    for (read, n) in [(false, 0), (true, 1)] {
        assert_eq!(store.gaps("pets", &["first".to_owned()], read).await.unwrap().len(), n);
    }
}

#[tokio::test]
async fn earlier_versions_stay_readable() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let guard = store.write("test").await.unwrap();
    let before = store.snapshot("pets", AsOf::Latest).await.unwrap();
    std::thread::sleep(std::time::Duration::from_millis(5));
    let between = now_micros();
    std::thread::sleep(std::time::Duration::from_millis(5));
    let (after, n) = store.delete(&guard, "pets", col("model").eq(lit("x"))).await.unwrap();
    assert_eq!((n, ids(&after, &[]).await), (2, vec!["b".to_owned()]));
    // A reader that began before goes on with what it saw.
    assert_eq!(ids(&before, &[]).await, ["a", "b", "c"]);
    let old = store.snapshot("pets", AsOf::Version(before.version())).await.unwrap();
    assert_eq!(ids(&old, &[]).await, ["a", "b", "c"]);
    let old = store.snapshot("pets", AsOf::Micros(between)).await.unwrap();
    assert_eq!(old.version(), before.version());
    let error = store.snapshot("pets", AsOf::Micros(0)).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.message().contains("the versions kept are 1 ("), "{error}");
    let error = store.snapshot("pets", AsOf::Version(99)).await.err().unwrap();
    assert!(error.message().contains("no commit of version 99"), "{error}");
}

#[tokio::test]
async fn jobs_that_died_are_seen_as_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let guard = store.write("test").await.unwrap();
    store.start_job(&guard, "import", "a").await.unwrap();
    let second = store.start_job(&guard, "import", "a").await.unwrap();
    store.finish_job(&guard, second, "done", "3 documents added").await.unwrap();
    let jobs: Vec<(u64, String)> = store.catalog().jobs.iter().map(|job| (job.id, job.state.clone())).collect();
    assert_eq!(jobs, [(2, "done".to_owned()), (1, "interrupted".to_owned())]);
    let other = open(dir.path()).await;
    assert_eq!(other.catalog().jobs.len(), 2);
    // A job leaves the features as they are, here and in another process that hears of it.
    let features = [store.catalog().features.clone(), other.catalog().features.clone()];
    store.start_job(&guard, "import", "a").await.unwrap();
    other.refresh().await.unwrap();
    assert_eq!(other.catalog().jobs.len(), 3);
    assert!(
        Arc::ptr_eq(&store.catalog().features, &features[0]) && Arc::ptr_eq(&other.catalog().features, &features[1])
    );
}

#[tokio::test]
async fn the_version_that_meta_names_outlives_cleaning() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let (tables, picture) = (&store.inner.tables, store.picture());
    // A change that died before its commit: the newest version of the table is nobody's.
    tables.write("features", picture.state.to_batch("features").unwrap()).await.unwrap();
    picture.forget_versions(tables, chrono::TimeDelta::zero()).await;
    let other = open(dir.path()).await;
    assert_eq!(other.catalog().features.dictionaries().len(), 2);
    assert!(other.inner.tables.open("features", Some(1)).await.is_err(), "versions before it go");
}

#[tokio::test]
async fn the_catalog_has_the_layout_that_migrations_know() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    assert_eq!(saequel_migrations::CURRENT_VERSION, 3, "compare with the module of the new version");
    use saequel_migrations::v3;
    assert_eq!(state::TABLES, v3::TABLES);
    for name in v3::TABLES.iter().chain(&["meta"]) {
        let table = store.inner.tables.read(name, None).await.unwrap().unwrap();
        assert_eq!(*table.batch.schema(), v3::schema(name).unwrap(), "{name}");
    }
}

#[tokio::test]
async fn large_documents_come_in_small_batches() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let guard = store.write("test").await.unwrap();
    store.add_dictionary(&guard, &dictionary("first", &LABELS)).await.unwrap();
    drop(guard);
    // A mebibyte of letters, three quarters of it when stored.
    let mut random = 1_u64;
    let mut letter = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        char::from(b'0' + (random % 64) as u8)
    };
    let mut docs = Vec::new();
    for id in ["a", "b", "c", "d", "e", "f", "g", "h"].iter().flat_map(|id| [*id; 5]) {
        let text: String = (0..1 << 20).map(|_| letter()).collect();
        docs.push(Doc { id, text: text.leak(), model: "x", features: vec![] });
    }
    corpus(&store, "long", "first", &docs).await;
    let snapshot = store.snapshot("long", AsOf::Latest).await.unwrap();
    let sizes: Vec<usize> = rows(&snapshot, &["text"], &[]).await.iter().map(RecordBatch::num_rows).collect();
    assert!(sizes.iter().sum::<usize>() == 40 && sizes.iter().all(|rows| *rows <= 22), "{sizes:?}");
}

#[tokio::test]
async fn names_that_would_hide_a_column_or_view_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let guard = store.write("test").await.unwrap();
    store.add_dictionary(&guard, &dictionary("a-b", &["x"])).await.unwrap();
    for (name, kind, message) in [
        (
            "a.b",
            ErrorKind::Query,
            "digits, _ and -, beginning with a letter, at most 120 characters; for example 'a_b'",
        ),
        ("a-b", ErrorKind::Exists, "'a-b' exists already"),
        ("a_b", ErrorKind::Exists, "'a_b' differs from 'a-b' by - and _ only"),
    ] {
        let error = store.add_dictionary(&guard, &dictionary(name, &["x"])).await.unwrap_err();
        assert!(error.kind() == kind && error.message().contains(message), "{error}");
    }
    let new = NewCorpus {
        name: "pets_activations".to_owned(),
        text_columns: Vec::new(),
        chat: None,
        key: None,
        columns: Vec::new(),
        dictionaries: Vec::new(),
        added: Vec::new(),
    };
    let error = store.create_corpus(&guard, new).await.unwrap_err();
    assert!(error.message().contains("the view of the features of a corpus 'pets'"), "{error}");
    assert!(crate::schema::reserved("_Text").is_some());
}

#[tokio::test]
async fn folders_that_are_no_database_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("thesis.tex"), "").unwrap();
    let none = || Ok(Vec::new());
    let error = Store::open(dir.path(), &EngineOptions::default(), none).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().contains("'thesis.tex'"), "{error}");
    let read_only = EngineOptions { read_only: true, ..EngineOptions::default() };
    let missing = dir.path().join("missing");
    let error = Store::open(&missing, &read_only, none).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(!missing.exists());
    let made = dir.path().join("made");
    filled(&made).await;
    let store = Store::open(&made, &read_only, none).await.unwrap();
    assert_eq!(store.write("import").await.err().unwrap().kind(), ErrorKind::Denied);
    // A half-made database (killed before its first commit) is made anew; one that lost its catalog is not.
    let half = dir.path().join("half");
    std::fs::create_dir_all(half.join("catalog/features.lance")).unwrap();
    std::fs::create_dir_all(half.join("catalog/meta.lance/_versions")).unwrap();
    std::fs::write(half.join("catalog/meta.lance/_versions/18446744073709551614.manifest#1"), "").unwrap();
    std::fs::create_dir(half.join("tmp")).unwrap();
    std::fs::write(half.join("lock"), "").unwrap();
    open(&half).await;
    std::fs::remove_dir_all(made.join("catalog")).unwrap();
    let error = Store::open(&made, &EngineOptions::default(), none).await.err().unwrap();
    assert!(error.message().contains("has lost its catalog"), "{error}");
}

#[tokio::test]
async fn a_layout_of_a_newer_program_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let texts =
        |values: [&str; 2]| Arc::new(arrow::array::StringArray::from(values.to_vec())) as arrow::array::ArrayRef;
    let meta =
        table::batch(vec![("key", texts(["schema_version", "written_by"])), ("value", texts(["99", "saequel 7.0.0"]))]);
    store.inner.tables.write("meta", meta.unwrap()).await.unwrap();
    // By one that opens it, and by one that has it open.
    let opened = Store::open(dir.path(), &EngineOptions::default(), || Ok(Vec::new())).await.err().unwrap();
    for error in [opened, store.refresh().await.err().unwrap()] {
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let text = error.to_string();
        assert!(text.contains("layout version 99") && text.contains("newer saequel (saequel 7.0.0)"), "{text}");
    }
}
