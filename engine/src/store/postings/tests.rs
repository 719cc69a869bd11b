//! Postings under commits of every kind, and what a dead process may leave.

use datafusion::logical_expr::{col, lit};

use super::*;
use crate::store::AsOf;
use crate::store::testing::{self, Doc};

const QUERY: [(FeatureId, f32); 3] = [(0, 1.0), (2, 0.5), (3, -1.0)];

fn doc(id: &'static str, model: &'static str, features: &[(u32, f32)]) -> Doc {
    Doc { id, text: "tea", model, features: features.to_vec() }
}

fn documents() -> Vec<Doc> {
    vec![
        doc("a", "x", &[(0, 1.0), (2, 4.0)]),
        doc("b", "x", &[(1, 9.0)]),
        doc("c", "y", &[(0, 3.0)]),
        doc("d", "y", &[(0, 4.0), (3, 2.0)]),
        doc("e", "x", &[(2, 6.0)]),
        doc("f", "y", &[]),
    ]
}

struct Fixture {
    _folder: tempfile::TempDir,
    store: Store,
}

impl Fixture {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = testing::open(folder.path()).await;
        let guard = store.write("test").await.unwrap();
        store.add_dictionary(&guard, &testing::dictionary("tiny", &["p", "q", "r", "s"])).await.unwrap();
        drop(guard);
        testing::corpus(&store, "c", "tiny", &documents()).await;
        Self { _folder: folder, store }
    }

    async fn snapshot(&self) -> Snapshot {
        self.store.snapshot("c", AsOf::Latest).await.unwrap()
    }

    async fn append(&self, docs: &[Doc]) {
        let guard = self.store.write("test").await.unwrap();
        let schema = self.snapshot().await.schema();
        self.store.append(&guard, "c", vec![testing::batch(&schema, "tiny", docs)]).await.unwrap();
    }

    async fn search(&self, k: usize, filters: &[Expr]) -> Vec<(String, f32)> {
        let mut postings = self.store.postings(&self.snapshot().await, true).await.unwrap().unwrap();
        postings.restrict(filters).await.unwrap();
        postings.search(&QUERY, k).await.unwrap()
    }

    async fn files(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.store.postings_dir(&self.snapshot().await)) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        paths
    }
}

#[test]
fn bits_of_a_range() {
    for range in [0..0, 3..3, 0..64, 5..70, 64..128, 1..200, 130..131] {
        let mut mask = bit_mask(200);
        set(&mut mask, range.clone());
        assert!((0..200).all(|doc| (mask[doc / 64] >> (doc % 64) & 1 == 1) == range.contains(&doc)), "{range:?}");
    }
}

fn found(hits: &[(&str, f32)]) -> Vec<(String, f32)> {
    hits.iter().map(|(id, score)| ((*id).to_owned(), *score)).collect()
}

#[tokio::test]
async fn the_largest_sums_are_found_and_equal_ones_in_order() {
    let fixture = Fixture::new().await;
    let all = [("a", 3.0), ("c", 3.0), ("e", 3.0), ("d", 2.0)];
    assert_eq!(fixture.search(9, &[]).await, found(&all));
    assert_eq!(fixture.search(2, &[]).await, found(&all[..2]));
    assert_eq!(fixture.files().await.len(), 1);
    let x = col("model").eq(lit("x"));
    assert_eq!(fixture.search(9, std::slice::from_ref(&x)).await, found(&[("a", 3.0), ("e", 3.0)]));
    assert!(fixture.search(9, &[x, col("model").eq(lit("y"))]).await.is_empty());
    assert!(fixture.search(0, &[]).await.is_empty());
}

#[tokio::test]
async fn commits_after_the_file_was_made_are_seen() {
    let fixture = Fixture::new().await;
    let before = fixture.snapshot().await;
    fixture.search(1, &[]).await;
    // A few documents are read, many get a file.
    fixture.append(&[doc("g", "y", &[(0, 7.0)]), doc("h", "x", &[(1, 1.0)])]).await;
    let y = col("model").eq(lit("y"));
    assert_eq!(fixture.search(2, &[]).await, found(&[("g", 7.0), ("a", 3.0)]));
    assert_eq!(fixture.search(9, std::slice::from_ref(&y)).await, found(&[("g", 7.0), ("c", 3.0), ("d", 2.0)]));
    assert_eq!(fixture.files().await.len(), 1);
    fixture.append(&[doc("i", "y", &[(0, 3.0)])]).await;
    assert_eq!(fixture.search(5, &[]).await, found(&[("g", 7.0), ("a", 3.0), ("c", 3.0), ("e", 3.0), ("i", 3.0)]));
    assert_eq!(fixture.files().await.len(), 2);

    let guard = fixture.store.write("test").await.unwrap();
    fixture.store.delete(&guard, "c", col("doc_id").in_list(vec![lit("a"), lit("g")], false)).await.unwrap();
    assert_eq!(fixture.search(9, &[]).await, found(&[("c", 3.0), ("e", 3.0), ("i", 3.0), ("d", 2.0)]));
    assert_eq!(fixture.search(9, &[y]).await, found(&[("c", 3.0), ("i", 3.0), ("d", 2.0)]));
    // The version from before sees what it saw.
    let old = fixture.store.postings(&before, false).await.unwrap().unwrap();
    assert_eq!(old.search(&QUERY, 9).await.unwrap(), found(&[("a", 3.0), ("c", 3.0), ("e", 3.0), ("d", 2.0)]));

    // Joined fragments are new ones; what covered the old ones goes.
    fixture.store.join_fragments(&guard, "c").await.unwrap();
    drop(guard);
    assert_eq!(fixture.search(9, &[]).await, found(&[("c", 3.0), ("e", 3.0), ("i", 3.0), ("d", 2.0)]));
    assert_eq!(fixture.files().await.len(), 1);
    fixture.append(&[doc("j", "x", &[(0, 9.0)]), doc("k", "x", &[(1, 9.0)]), doc("l", "x", &[(1, 9.0)])]).await;
    assert_eq!(fixture.search(1, &[]).await, found(&[("j", 9.0)]));
    assert_eq!(fixture.files().await.len(), 2);
    let guard = fixture.store.write("test").await.unwrap();
    fixture.store.drop_corpus(&guard, "c").await.unwrap();
    assert!(!fixture.store.inner.dir.join("cache").join("postings").read_dir().unwrap().any(|_| true));
}

#[tokio::test]
async fn replaced_documents_have_their_new_features() {
    let fixture = Fixture::new().await;
    fixture.search(1, &[]).await;
    let guard = fixture.store.write("test").await.unwrap();
    let schema = fixture.snapshot().await.schema();
    let batch = testing::batch(&schema, "tiny", &[doc("b", "x", &[(0, 5.0)]), doc("c", "x", &[(1, 5.0)])]);
    fixture.store.upsert(&guard, "c", vec![batch]).await.unwrap();
    assert_eq!(fixture.search(9, &[]).await, found(&[("b", 5.0), ("a", 3.0), ("e", 3.0), ("d", 2.0)]));
}

#[tokio::test]
async fn what_a_dead_process_leaves_does_not_count() {
    let fixture = Fixture::new().await;
    let all = fixture.search(9, &[]).await;
    let folder = fixture.store.postings_dir(&fixture.snapshot().await);
    let path = fixture.files().await.remove(0);
    let whole = fs::read(&path).unwrap();
    for length in [0, 10, whole.len() / 2, whole.len() - 1] {
        fixture.store.open_postings().clear();
        fs::write(&path, &whole[..length]).unwrap();
        fs::write(folder.join("unfinished-0"), &whole[..length]).unwrap();
        assert_eq!(fixture.search(9, &[]).await, all, "{length} bytes");
        assert_eq!(fs::read(&path).unwrap(), whole, "it is made again, the same");
    }
}

#[tokio::test]
async fn who_may_not_write_reads_what_is_there() {
    let fixture = Fixture::new().await;
    let snapshot = fixture.snapshot().await;
    assert!(fixture.store.postings(&snapshot, false).await.unwrap().is_none());
    let all = fixture.search(9, &[]).await;
    let there = fixture.store.postings(&snapshot, false).await.unwrap().unwrap();
    assert_eq!(there.search(&QUERY, 9).await.unwrap(), all);
}
