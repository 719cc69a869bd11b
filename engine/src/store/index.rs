//! Indexes of a corpus: `doc_id` (BTree) and, per dictionary, feature to documents (LabelList); and its postings.

use lance::Dataset;
use lance::index::{DatasetIndexExt, DatasetIndexInternalExt};
use lance::table::format::IndexMetadata;
use lance_index::IndexType;
use lance_index::metrics::NoOpMetricsCollector;
use lance_index::optimize::OptimizeOptions;
use lance_index::scalar::{BuiltinIndexType, ScalarIndexParams};

use super::errors::lance_error;
use super::{AsOf, Snapshot, Store, WriteGuard};
use crate::error::{Error, ErrorKind, Result};
use crate::schema;

/// Index segments of a column from which they are merged into one.
const MERGE_FROM: usize = 4;

/// An index and how much of the corpus it covers.
#[derive(Debug, Clone)]
pub(crate) struct IndexState {
    pub(crate) column: String,
    /// `LabelList` or `BTree`.
    pub(crate) kind: &'static str,
    /// Fragments that it covers; `None` if it does not exist.
    pub(crate) covered: Option<usize>,
    /// Fragments of the corpus.
    pub(crate) fragments: usize,
}

impl Store {
    /// Drops the indexes, so that [`Self::index`] makes them anew. Earlier programs let a replaced document keep its row
    /// id, and so left index entries of what it was before.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub(crate) async fn drop_indexes(&self, _guard: &WriteGuard, corpus: &str) -> Result<()> {
        let row = self.corpus_row(corpus)?;
        let mut dataset = self.latest(&row).await?;
        let what = format!("dropping indexes of corpus '{corpus}'");
        for (column, _) in wanted(&row.dictionaries) {
            let name = format!("{column}_idx");
            let segments = dataset.load_indices_by_name(&name).await.map_err(|error| lance_error(&what, &error))?;
            if !segments.is_empty() {
                dataset.drop_index(&name).await.map_err(|error| lance_error(&what, &error))?;
            }
        }
        self.keep(&row, &dataset);
        Ok(())
    }

    /// Makes the indexes that are missing and extends the others to the documents that came since.
    ///
    /// A scan answers exactly without them, too; they make `has_feature` and look-ups by `doc_id` fast.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`]; then the former indexes stay.
    pub(crate) async fn index(&self, _guard: &WriteGuard, corpus: &str) -> Result<()> {
        let row = self.corpus_row(corpus)?;
        let mut dataset = self.latest(&row).await?;
        let what = format!("indexing corpus '{corpus}'");
        if dataset.count_fragments() == 0 {
            return Ok(());
        }
        for (column, kind) in wanted(&row.dictionaries) {
            let name = format!("{column}_idx");
            let segments = dataset.load_indices_by_name(&name).await.map_err(|error| lance_error(&what, &error))?;
            if segments.is_empty() {
                let (index, builtin) = match kind {
                    "BTree" => (IndexType::BTree, BuiltinIndexType::BTree),
                    _ => (IndexType::LabelList, BuiltinIndexType::LabelList),
                };
                let params = ScalarIndexParams::for_builtin(builtin);
                let made = dataset.create_index(&[column.as_str()], index, Some(name), &params, false).await;
                made.map_err(|error| lance_error(&what, &error))?;
            } else if uncovered(&dataset, &segments) {
                let options = if segments.len() >= MERGE_FROM {
                    OptimizeOptions::merge(segments.len())
                } else {
                    OptimizeOptions::append()
                };
                let extended = dataset.optimize_indices(&options.index_names(vec![name])).await;
                extended.map_err(|error| lance_error(&what, &error))?;
            }
        }
        self.keep(&row, &dataset);
        // A process that only reads cannot make them. Without them the same answer comes, more slowly.
        let snapshot = self.snapshot(corpus, AsOf::Latest).await?;
        if let Err(error) = self.postings(&snapshot, true).await {
            tracing::warn!("no postings of '{corpus}': {error}");
        }
        Ok(())
    }
}

/// Columns that are indexed, and how.
fn wanted(dictionaries: &[String]) -> Vec<(String, &'static str)> {
    let ids = dictionaries.iter().map(|dictionary| (schema::ids_column(dictionary), "LabelList"));
    std::iter::once((schema::DOC_ID.to_owned(), "BTree")).chain(ids).collect()
}

fn uncovered(dataset: &Dataset, segments: &[IndexMetadata]) -> bool {
    covered(dataset, segments) < dataset.count_fragments()
}

fn covered(dataset: &Dataset, segments: &[IndexMetadata]) -> usize {
    let covers =
        |id: u32| segments.iter().any(|s| s.fragment_bitmap.as_ref().is_some_and(|bitmap| bitmap.contains(id)));
    dataset.iter_fragments().filter(|fragment| covers(fragment.id as u32)).count()
}

impl Snapshot {
    /// Opens every index, as a query does.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] for the first that cannot be opened.
    pub(crate) async fn open_indexes(&self) -> Result<()> {
        for (column, kind) in wanted(&self.info.dictionaries) {
            let what = format!("the {kind} index of column {column} of corpus '{}' cannot be opened", self.info.name);
            let failed = |error: lance::Error| Error::new(ErrorKind::Corrupt, lance_error(&what, &error).message());
            let segments = self.dataset.load_indices_by_name(&format!("{column}_idx")).await.map_err(failed)?;
            for segment in segments {
                let opened = self.dataset.open_scalar_index(&column, &segment.uuid, &NoOpMetricsCollector).await;
                opened.map_err(failed)?;
            }
        }
        Ok(())
    }

    /// The indexes that there should be, and how much each covers.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`], [`crate::ErrorKind::Io`].
    pub(crate) async fn indexes(&self) -> Result<Vec<IndexState>> {
        let mut states = Vec::new();
        for (column, kind) in wanted(&self.info.dictionaries) {
            let segments = self.dataset.load_indices_by_name(&format!("{column}_idx")).await;
            let segments = segments
                .map_err(|error| lance_error(&format!("reading indexes of corpus '{}'", self.info.name), &error))?;
            states.push(IndexState {
                column,
                kind,
                covered: (!segments.is_empty()).then(|| covered(&self.dataset, &segments)),
                fragments: self.dataset.count_fragments(),
            });
        }
        Ok(states)
    }
}
