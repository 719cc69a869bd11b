//! Keyword search over a set of documents: by the corpus's stored index where one covers the set, else by an index of the
//! set's words that is made for the question.
//!
//! A stored index ranks by the document frequencies of its whole corpus, also when only some documents are asked for.

use std::collections::HashSet;

use arrow::array::{AsArray, StringArray};
use datafusion::logical_expr::{col, lit};
use futures::StreamExt;
use saequel_udfs::{DocumentColumn, WordHit};

use crate::error::{Error, ErrorKind, Result};
use crate::feature_source::EngineSource;
use crate::schema::ROW_VERSION;
use crate::session::spill_folder;
use crate::statements::set::DocumentSet;
use crate::store::{AsOf, Snapshot};
use crate::words::Words;

impl EngineSource {
    /// [`saequel_udfs::FeatureSource::search_words`].
    pub(crate) async fn search(&self, set: &str, query: &str, limit: usize) -> Result<Vec<WordHit>> {
        if let Some((words, whole)) = self.stored_words(set).await? {
            if whole {
                return words.search(query, limit, None);
            }
            let mut ids = HashSet::new();
            self.each_batch(set, &[DocumentColumn::DocId], |columns| {
                ids.extend(columns[0].iter().flatten().map(str::to_owned));
                Ok(())
            })
            .await?;
            return words.search(query, limit, Some(&ids));
        }
        let folder = spill_folder(&self.picture.engine)?;
        let words = Words::open_or_create(folder.path())?;
        let mut writer = words.writer()?;
        self.each_batch(set, &[DocumentColumn::DocId, DocumentColumn::Text], |columns| {
            for (id, text) in columns[0].iter().zip(columns[1].iter()) {
                if let (Some(id), Some(text)) = (id, text) {
                    writer.add(id, text)?;
                }
            }
            Ok(())
        })
        .await?;
        writer.commit(0)?;
        words.search(query, limit, None)
    }

    /// The index of the corpus that the documents of `set` are of, and whether they are all of it; `None` if there is none,
    /// or if it covers other documents than this statement sees.
    async fn stored_words(&self, set: &str) -> Result<Option<(Words, bool)>> {
        let parsed = DocumentSet::parse(set)?;
        let Some(corpus) = parsed.corpus().filter(|corpus| corpus.as_of == AsOf::Latest) else { return Ok(None) };
        if self.picture.corpus(&corpus.name).is_none() {
            return Ok(None);
        }
        let snapshot = self.picture.snapshot(&corpus.name, AsOf::Latest).await?;
        let words = match Words::open(&self.picture.engine.inner.store.words_dir(&corpus.name)) {
            Ok(Some(words)) => words,
            Ok(None) => return Ok(None),
            Err(error) => {
                // The next writer makes it anew; until then the answer comes more slowly.
                tracing::warn!("the word index of '{}' cannot be used: {error}", corpus.name);
                return Ok(None);
            }
        };
        let Ok(covered) = words.covers() else { return Ok(None) };
        Ok(same_documents(&words, covered, &snapshot).await?.then(|| (words, parsed.is_whole_corpus())))
    }

    /// Hands the string columns of each batch of a set to `each`.
    async fn each_batch(
        &self,
        set: &str,
        columns: &[DocumentColumn],
        mut each: impl FnMut(&[&StringArray]) -> Result<()>,
    ) -> Result<()> {
        let frame = self.frame(set, columns).await?;
        let mut stream = frame.execute_stream().await.map_err(Error::from)?;
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(Error::from)?;
            let strings: Option<Vec<&StringArray>> =
                batch.columns().iter().map(|column| column.as_string_opt::<i32>()).collect();
            let strings = strings.ok_or_else(|| Error::new(ErrorKind::Internal, "search_words: expected strings"))?;
            each(&strings)?;
        }
        Ok(())
    }
}

/// Whether an index that covers version `covered` has the documents of `snapshot`: commits of new columns or of indexes
/// leave them as they are.
async fn same_documents(words: &Words, covered: u64, snapshot: &Snapshot) -> Result<bool> {
    if covered >= snapshot.version() {
        return Ok(covered == snapshot.version());
    }
    if words.count().ok() != Some(snapshot.count().await?) {
        return Ok(false);
    }
    let mut unchanged = true;
    let changed = [col(ROW_VERSION).gt(lit(covered))];
    snapshot
        .read(&[], &changed, |batch| {
            unchanged &= batch.num_rows() == 0;
            Ok(())
        })
        .await?;
    Ok(unchanged)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};

    use super::*;
    use crate::picture::Picture;
    use crate::store::testing::{self, Doc};

    #[tokio::test]
    async fn the_stored_index_serves_as_long_as_it_has_the_same_documents() {
        let folder = tempfile::tempdir().unwrap();
        let store = testing::open(folder.path()).await;
        let guard = store.write("test").await.unwrap();
        store.add_dictionary(&guard, &testing::dictionary("tiny", &["x"])).await.unwrap();
        drop(guard);
        let doc = |id| Doc { id, text: "tea", ..Doc::default() };
        testing::corpus(&store, "c", "tiny", &[doc("a")]).await;
        let engine = testing::engine(store.clone());
        let source = || EngineSource::new(Picture::take(&engine, &Default::default()));
        let used = async || source().stored_words("c").await.unwrap().is_some();
        assert!(!used().await);
        let version = store.snapshot("c", AsOf::Latest).await.unwrap().version();
        let mut writer = Words::open_or_create(&store.words_dir("c")).unwrap().writer().unwrap();
        writer.add("a", "tea").unwrap();
        writer.commit(version).unwrap();
        assert!(used().await);

        let guard = store.write("test").await.unwrap();
        store.add_columns(&guard, "c", vec![Field::new("new", DataType::Utf8, true)]).await.unwrap();
        store.index(&guard, "c").await.unwrap();
        let snapshot = store.snapshot("c", AsOf::Latest).await.unwrap();
        assert!(snapshot.version() > version && used().await);

        store.append(&guard, "c", vec![testing::batch(&snapshot.schema(), "tiny", &[doc("b")])]).await.unwrap();
        let condition = col("doc_id").eq(lit("a"));
        store.delete(&guard, "c", condition).await.unwrap();
        assert!(!used().await, "as many documents, and others");
        let hits = source().search("c", "tea", 10).await.unwrap();
        assert_eq!(hits.iter().map(|hit| hit.doc_id.as_str()).collect::<Vec<_>>(), ["b"]);
    }
}
