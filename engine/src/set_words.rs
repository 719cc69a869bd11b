//! Keyword search over a set of documents: by the corpus's stored index where one covers the set, else by an index of the
//! set's words that is made in memory.
//!
//! A stored index ranks by the document frequencies of its whole corpus, also when only some documents are asked for.

use std::collections::HashSet;

use arrow::array::{AsArray, StringArray};
use futures::StreamExt;
use saequel_udfs::{DocumentColumn, WordHit};

use crate::error::{Error, ErrorKind, Result};
use crate::feature_source::EngineSource;
use crate::statements::set::DocumentSet;
use crate::store::AsOf;
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
        let words = Words::in_memory()?;
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
    /// or if it covers another version than this statement sees.
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
        let covered = words.covers().is_ok_and(|version| version == snapshot.version());
        Ok(covered.then(|| (words, parsed.is_whole_corpus())))
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
