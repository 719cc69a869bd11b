//! Search by features over a set of documents: by the postings of the corpus that the set is of.

use datafusion::logical_expr::{Expr, LogicalPlan};
use saequel_udfs::{DocumentColumn, FeatureHit, FeatureId};

use crate::error::{Error, Result};
use crate::feature_source::EngineSource;
use crate::statements::set::DocumentSet;
use crate::store::AsOf;
use crate::table_provider::stored_form;

impl EngineSource {
    /// [`saequel_udfs::FeatureSource::top_documents`]: of a corpus, or of those of its documents that satisfy a condition
    /// which the store evaluates.
    pub(crate) async fn top_by_postings(
        &self,
        set: &str,
        query: &[(FeatureId, f32)],
        k: usize,
    ) -> Result<Option<Vec<FeatureHit>>> {
        let parsed = DocumentSet::parse(set)?;
        let Some(corpus) = parsed.corpus() else { return Ok(None) };
        if self.picture.corpus(&corpus.name).is_none() {
            return Ok(None);
        }
        let filters = if parsed.is_whole_corpus() {
            Vec::new()
        } else {
            match self.stored_filters(parsed).await? {
                Some(filters) => filters,
                None => return Ok(None),
            }
        };
        let snapshot = self.picture.snapshot(&corpus.name, corpus.as_of).await?;
        if snapshot.info.dictionaries.is_empty() {
            return Ok(None);
        }
        let store = &self.picture.engine.inner.store;
        let postings = match store.postings(&snapshot, corpus.as_of == AsOf::Latest).await {
            Ok(postings) => postings,
            Err(error) => {
                // A full disk, say: the documents themselves give the same answer, more slowly.
                tracing::warn!("postings of '{}' cannot be used: {error}", corpus.name);
                None
            }
        };
        let Some(mut postings) = postings else { return Ok(None) };
        postings.restrict(&filters).await?;
        let hits = postings.search(query, k).await?;
        Ok(Some(hits.into_iter().map(|(doc_id, score)| FeatureHit { doc_id, score }).collect()))
    }

    /// The conditions of a set as the store evaluates them; `None` if there is more to it than that.
    async fn stored_filters(&self, set: DocumentSet) -> Result<Option<Vec<Expr>>> {
        let frame = self.columns_of(set, &[DocumentColumn::DocId]).await?;
        let plan = frame.into_optimized_plan().map_err(Error::from)?;
        let mut node = &plan;
        loop {
            node = match node {
                LogicalPlan::Projection(projection) => &projection.input,
                LogicalPlan::SubqueryAlias(alias) => &alias.input,
                LogicalPlan::TableScan(scan) if scan.fetch.is_none() => {
                    let filters = scan.filters.iter().cloned().map(stored_form).collect::<Result<_, _>>();
                    return Ok(Some(filters.map_err(Error::from)?));
                }
                _ => return Ok(None),
            };
        }
    }
}
