//! From rows of a source to committed documents: read, encode, write, one bounded batch at a time.
//!
//! An import may be killed at any moment: the corpus is then what the last commit said, and importing again goes on from
//! there. For that every document has an identity: the value of the key column, else the number of the row with a hash of
//! the source's name (of the first 64 KiB of standard input) and of what the row holds. What is there already is left out
//! before it is read; a row whose content was changed is another document.

pub mod backfill;
mod columnar;
pub(crate) mod conversation;
#[cfg(test)]
mod conversation_tests;
mod documents;
#[cfg(test)]
mod elsewhere_tests;
pub(crate) mod given;
mod import;
mod infer;
pub(crate) mod matrix;
mod pipeline;
mod read;
mod records;
#[cfg(test)]
mod records_tests;
mod source;
mod statistics;
pub(crate) mod sync;
#[cfg(test)]
mod tests;
mod typed;

use std::sync::Arc;

use datafusion::logical_expr::{col, lit};
use futures::future::BoxFuture;

use crate::caller::Caller;
use crate::catalog::ReaderInfo;
use crate::engine::{Engine, ImportOptions, ImportReport};
use crate::error::Result;
use crate::progress::Progress;
use crate::schema;
use crate::store::AsOf;
use import::{Encoding, Encodings};
pub(crate) use records::{columns_of_digits, delimiter, files_below};
pub(crate) use source::first_bytes;
use sync::WordsSync;

/// Documents that one commit of a delete names.
const DELETE_AT_ONCE: usize = 10_000;

impl Engine {
    /// Imports documents; may be killed at any moment and called again.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Data`] naming file, line and column of what cannot be read. What was committed stays.
    pub fn import(&self, options: ImportOptions, progress: Arc<dyn Progress>) -> BoxFuture<'_, Result<ImportReport>> {
        Box::pin(async move {
            let engine = self.clone();
            let news = progress.clone();
            let unfilled = self.inner.store.is_unfilled(&options.corpus).await?;
            let existing = self.catalog().corpus(&options.corpus).filter(|_| !unfilled).cloned();
            let corpus = options.corpus.clone();
            let splits = existing.is_some() && options.features.is_none() && options.embedding.is_none();
            // One pass reads with one reader; the rest of a corpus's dictionaries are filled behind it.
            let later = match &existing {
                Some(corpus) if splits => self.by_first_reader(&corpus.dictionaries).1,
                _ => Vec::new(),
            };
            let encoding: Encodings = Box::new(move |dictionaries: &[String]| {
                let (now, others) = engine.by_first_reader(dictionaries);
                let dictionaries: &[String] = if splits { &now } else { dictionaries };
                let encoder = engine.encoder(dictionaries, news.as_ref())?;
                if dictionaries.is_empty() && !others.is_empty() {
                    news.warn(&format!(
                        "read with '{}' ({}); for dictionaries of other readers ({}) name them: --sae {}",
                        encoder.reader().name(),
                        now.join(", "),
                        others.join(", "),
                        others[0]
                    ));
                }
                let reader = encoder.reader();
                Ok(Encoding {
                    reader: Some(ReaderInfo::of(reader)),
                    width: reader.width(),
                    dictionaries: encoder.saes().iter().map(|sae| sae.name().to_owned()).collect(),
                    encoder: Arc::new(encoder),
                })
            });
            let saes = |name: &str| self.sae(name);
            let mut report = import::import(&self.inner.store, options, progress.clone(), encoding, &saes).await?;
            if !later.is_empty() && !self.inner.store.gaps(&corpus, &later, false).await?.is_empty() {
                report.seconds += self.add_to_corpus(&corpus, &later, progress).await?.seconds;
            }
            Ok(report)
        })
    }

    /// Deletes the documents that satisfy a SQL condition; returns how many.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Query`], [`crate::ErrorKind::NotFound`].
    pub fn delete<'a>(&'a self, corpus: &'a str, condition: &'a str) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move { self.delete_as(&Arc::default(), corpus, condition).await })
    }

    /// [`Self::delete`] with a condition that sees what `caller` may read.
    pub(crate) fn delete_as<'a>(
        &'a self,
        caller: &'a Arc<Caller>,
        corpus: &'a str,
        condition: &'a str,
    ) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let store = &self.inner.store;
            let guard = store.write(&format!("delete from '{corpus}'")).await?;
            let snapshot = store.snapshot(corpus, AsOf::Latest).await?;
            let doc_ids = self.matching_documents(caller, corpus, condition).await?;
            if doc_ids.is_empty() {
                return Ok(0);
            }
            let mut words = WordsSync::open(store, &snapshot).await?;
            let mut deleted = 0;
            for some in doc_ids.chunks(DELETE_AT_ONCE) {
                let condition = col(schema::DOC_ID).in_list(some.iter().map(|id| lit(id.as_str())).collect(), false);
                let (snapshot, n) = store.delete(&guard, corpus, condition).await?;
                words.delete(some.to_vec(), &snapshot).await?;
                deleted += n;
            }
            words.finish().await?;
            Ok(deleted)
        })
    }

    /// Removes a corpus with its indexes.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`].
    pub fn drop_corpus<'a>(&'a self, corpus: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let store = &self.inner.store;
            let guard = store.write(&format!("drop '{corpus}'")).await?;
            store.drop_corpus(&guard, corpus).await
        })
    }

    /// Joins small fragments, brings indexes up to date, removes versions older than `keep_versions_secs`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`], [`crate::ErrorKind::Io`].
    pub fn compact<'a>(&'a self, corpus: &'a str, keep_versions_secs: u64) -> BoxFuture<'a, Result<String>> {
        Box::pin(async move {
            let store = &self.inner.store;
            let guard = store.write(&format!("compact '{corpus}'")).await?;
            let snapshot = store.snapshot(corpus, AsOf::Latest).await?;
            let job = store.start_job(&guard, "compact", corpus).await?;
            let work = async {
                let mut words = WordsSync::open(store, &snapshot).await?;
                let joined = store.join_fragments(&guard, corpus).await?;
                // Made anew, they are right whatever was done to the corpus.
                store.drop_indexes(&guard, corpus).await?;
                store.index(&guard, corpus).await?;
                let forgotten = store.forget_versions(&guard, corpus, keep_versions_secs).await?;
                words.same_documents(&store.snapshot(corpus, AsOf::Latest).await?).await?;
                words.finish().await?;
                Ok(format!("{joined}; {forgotten}"))
            };
            let result = work.await;
            let (state, detail) = match &result {
                Ok(summary) => ("done", summary.clone()),
                Err(error) => ("failed", crate::error::Error::to_string(error)),
            };
            store.finish_job(&guard, job, state, &detail).await?;
            result
        })
    }
}
