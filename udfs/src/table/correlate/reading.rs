//! Documents: read, held if there is memory for them, and counted.

use std::sync::Arc;

use datafusion::common::exec_err;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryLimit, MemoryReservation};
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::TryStreamExt;

use super::{CorrelateCall, NAME};
use crate::feature_source::DocumentColumn;
use crate::features::{FeatureId, IdsView};
use crate::kernels::background::{Background, StratumCounts};
use crate::kernels::cooccurrence::{Documents, FeatureLists, PairCounts};
use crate::kernels::correlation::default_min_docs;
use crate::kernels::counting::FeatureCounts;
use crate::table::document_columns::lacks_column;
use crate::table::exec::{Request, blocking};
use crate::table::once::Once;
use crate::table::pairing::match_pairs;
use crate::table::topics::Grouped;

/// Documents that are counted at a time.
const BATCH_DOCUMENTS: usize = 16_384;

/// Documents that were read once and are kept. Of pairs the second documents' ids are shifted by the id bound.
#[derive(Debug)]
pub(super) struct Held {
    lists: FeatureLists,
    memory: MemoryReservation,
}

impl Held {
    fn new(memory: MemoryReservation) -> Self {
        Self { lists: FeatureLists::default(), memory }
    }

    /// Keeps documents, if there is memory for them.
    fn push<'a>(&mut self, documents: impl Iterator<Item = &'a [FeatureId]> + Clone) -> Result<()> {
        let (n_present, n_docs) =
            documents.clone().fold((0, 0), |(present, docs), ids| (present + ids.len(), docs + 1));
        self.memory.try_grow(FeatureLists::bytes(n_present, n_docs))?;
        documents.for_each(|ids| self.lists.push(ids.iter().copied()));
        Ok(())
    }
}

/// Reads documents batch by batch: those of a set, or those that are held.
pub(super) struct Reading<'a> {
    stream: Option<SendableRecordBatchStream>,
    held: Option<&'a Held>,
    at: usize,
    /// While documents have their ids with them.
    once: Option<(Once, &'a str)>,
}

impl Reading<'_> {
    /// Visits the next documents, `None` for one that was never encoded; false at the end.
    pub(super) async fn next(&mut self, mut visit: impl FnMut(Option<&[FeatureId]>)) -> Result<bool> {
        if let Some(held) = self.held {
            let end = (self.at + BATCH_DOCUMENTS).min(held.lists.len());
            held.lists.range(self.at..end).for_each(|ids| visit(Some(ids)));
            let more = end > self.at;
            self.at = end;
            return Ok(more);
        }
        let Some(stream) = &mut self.stream else { return Ok(false) };
        let Some(batch) = stream.try_next().await? else { return Ok(false) };
        if let Some((once, set)) = &mut self.once {
            once.check(0, set, batch.column(1))?;
        }
        let ids = IdsView::try_new(NAME, batch.column(0))?;
        (0..ids.len()).for_each(|row| visit((!ids.is_null(row)).then(|| ids.ids(row))));
        Ok(true)
    }
}

impl CorrelateCall {
    pub(super) async fn read<'a>(&self, held: Option<&'a Held>) -> Result<Reading<'a>> {
        let stream = match held {
            Some(_) => None,
            None => Some(self.source.documents(&self.set, &[DocumentColumn::Ids]).await?),
        };
        Ok(Reading { stream, held, at: 0, once: None })
    }

    /// The same, and no document of the set may come twice, if it has ids.
    async fn read_once<'a>(&'a self, held: Option<&'a Held>, request: &Request) -> Result<Reading<'a>> {
        if held.is_some() {
            return self.read(held).await;
        }
        match self.source.documents(&self.set, &[DocumentColumn::Ids, DocumentColumn::DocId]).await {
            Ok(stream) => {
                let once = Some((Once::new(NAME, request), self.set.as_str()));
                Ok(Reading { stream: Some(stream), held, at: 0, once })
            }
            Err(error) if lacks_column(&error) => self.read(held).await,
            Err(error) => Err(error),
        }
    }

    /// Reads and keeps the pairs of a correlation across two sets.
    pub(super) async fn hold(&self, id_bound: usize, request: &Request) -> Result<Option<Held>> {
        let Some((with, column)) = &self.across else { return Ok(None) };
        let mut held = Held::new(request.memory(NAME));
        let shift = id_bound as FeatureId;
        let mut pair = Vec::new();
        let visit = |a: &[FeatureId], b: &[FeatureId]| {
            // An id that no feature has would be taken for one of the other set.
            let known = |ids: &[FeatureId]| ids.partition_point(|id| *id < shift);
            pair.clear();
            pair.extend_from_slice(&a[..known(a)]);
            pair.extend(b[..known(b)].iter().map(|id| id + shift));
            held.push(std::iter::once(pair.as_slice()))
        };
        let sets = [self.set.clone(), with.clone()];
        match_pairs(NAME, &self.source, &sets, column, request, visit).await?;
        Ok(Some(held))
    }

    /// The features with enough documents, ascending, and what is expected of their pairs within strata: of those selected,
    /// or of the others if no document has one of these. Documents are held, if there is memory for it.
    pub(super) async fn eligible(
        &self,
        selected: &[bool],
        otherwise: &[bool],
        held: &mut Option<Held>,
        groupings: &[Grouped],
        memory: &MemoryReservation,
        request: &Request,
    ) -> Result<(Vec<FeatureId>, Option<Background>)> {
        let mut counts = FeatureCounts::new(selected.len());
        let n_strata = groupings.iter().map(|grouping| grouping.n).sum();
        memory.try_grow(StratumCounts::bytes(n_strata, selected.len()))?;
        let mut by_stratum: Vec<StratumCounts> =
            groupings.iter().map(|grouping| StratumCounts::new(grouping.n, selected.len())).collect();
        let (mut n_null, mut position) = (0u64, 0);
        let mut holding = held.is_none().then(|| Held::new(request.memory(NAME)));
        // Laid out they take half as much again, and the ranking needs its share.
        let most = match request.context.memory_pool().memory_limit() {
            MemoryLimit::Finite(limit) => self.held_bytes.min(limit / 4),
            _ => self.held_bytes,
        };
        let mut reading = self.read_once(held.as_ref(), request).await?;
        loop {
            let mut batch = FeatureLists::default();
            let visit = |ids: Option<&[FeatureId]>| {
                match ids {
                    Some(ids) => counts.update(ids),
                    None => n_null += 1,
                }
                for (counts, grouping) in by_stratum.iter_mut().zip(groupings) {
                    if let (Some(ids), Some(stratum)) = (ids, grouping.of.get(position)) {
                        counts.update(usize::from(*stratum), ids);
                    }
                }
                if let (Some(ids), Some(_)) = (ids, &holding) {
                    batch.push(ids.iter().copied());
                }
                position += 1;
            };
            if !reading.next(visit).await? {
                break;
            }
            holding = holding.and_then(|mut holding| {
                let pushed = holding.push(batch.range(0..batch.len()));
                (pushed.is_ok() && holding.memory.size() <= most).then_some(holding)
            });
        }
        if holding.is_some() {
            *held = holding;
        }
        if counts.n_docs == 0 {
            return match n_null {
                0 => exec_err!("{NAME}: set '{}' has no documents", self.set),
                n => exec_err!("{NAME}: none of the {n} documents of set '{}' has features", self.set),
            };
        }
        let min_docs = self.min_docs.map_or_else(|| default_min_docs(counts.n_docs), |min_docs| min_docs as u64).max(1);
        let has_some = (0..).zip(selected).any(|(id, selected)| *selected && counts.docs(id) > 0);
        let selected = if has_some { selected } else { otherwise };
        let enough = |(id, selected): &(FeatureId, &bool)| **selected && counts.docs(*id) >= min_docs;
        let features: Vec<FeatureId> = (0..).zip(selected).filter(enough).map(|(id, _)| id).collect();
        memory.try_grow(Background::bytes(n_strata, features.len()))?;
        let backgrounds: Vec<Background> = by_stratum.iter().map(|counts| counts.background(&features)).collect();
        let background = (!backgrounds.is_empty()).then(|| Background::join(backgrounds));
        Ok((features, background))
    }

    /// Documents laid out for counting; `None` if they are not held, or if there is no memory for it.
    pub(super) async fn lay_out(
        &self,
        held: &mut Option<Held>,
        position_of: &Arc<Vec<u32>>,
        n_features: usize,
        memory: &MemoryReservation,
    ) -> Result<Option<Documents>> {
        let Some(documents) = held.take() else { return Ok(None) };
        let (n_present, n_docs) = (documents.lists.n_present(), documents.lists.len());
        if n_present + n_docs > Documents::MOST
            || memory.try_grow(Documents::bytes(n_present, n_docs, n_features)).is_err()
        {
            *held = Some(documents);
            return Ok(None);
        }
        let position_of = Arc::clone(position_of);
        let (documents, laid) = blocking(NAME, move |_| {
            let laid = documents.lists.documents(&position_of, n_features);
            Ok((documents, laid))
        })
        .await?;
        *held = Some(documents);
        Ok(Some(laid))
    }

    /// Counts a block by reading the documents.
    pub(super) async fn count_block(
        &self,
        held: Option<&Held>,
        n_features: usize,
        block: std::ops::Range<usize>,
        position_of: &Arc<Vec<u32>>,
    ) -> Result<PairCounts> {
        let mut counts = PairCounts::new(n_features, block);
        let mut lists = FeatureLists::default();
        let mut reading = self.read(held).await?;
        loop {
            let more = reading.next(|ids| ids.into_iter().for_each(|ids| lists.push(ids.iter().copied()))).await?;
            if lists.len() >= BATCH_DOCUMENTS || !more {
                let (full, position_of) = (std::mem::take(&mut lists), Arc::clone(position_of));
                counts = blocking(NAME, move |_| {
                    counts.update(&full.documents(&position_of, n_features));
                    Ok(counts)
                })
                .await?;
            }
            if !more {
                return Ok(counts);
            }
        }
    }
}
