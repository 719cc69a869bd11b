//! First passes: who has what.

use arrow::array::{Array, AsArray, Float64Array};
use datafusion::common::{exec_err, internal_err};
use datafusion::error::Result;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_plan::SendableRecordBatchStream;

use super::lookups::Note;
use super::reader::{Grouping, Reader};
use super::{Design, DiffCall, NAME};
use crate::feature_source::DocumentColumn;
use crate::features::{FeatureId, IdsView};
use crate::kernels::counting::{GroupCounts, NO_GROUP, PairedCounts, assign};
use crate::kernels::diff::{DiffRow, default_min_docs, diff_groups, diff_paired, tested};
use crate::kernels::statistics::normal_quantile_two_sided;
use crate::kernels::trend::{LEAST_DOCS, Ranks, TrendCounts, TrendRow, trends};
use crate::table::control::numbers;
use crate::table::exec::{Request, blocking, fold_parts};
use crate::table::once::Once;
use crate::table::pairing::match_pairs;

/// What was counted.
pub(super) struct Counted {
    pub(super) reader: Reader,
    pub(super) rows: Rows,
    /// Documents by group and stratum.
    pub(super) n_docs: Vec<Vec<u64>>,
    /// Documents read, compared or not; of pairs, those compared and left out.
    pub(super) n_read: u64,
    /// What the rows take of the query's memory pool.
    pub(super) _memory: Option<MemoryReservation>,
}

/// Memory of a row: itself, its copy among those that are returned, what is noted of it, and its columns.
const ROW_BYTES: usize = 2 * size_of::<DiffRow>() + size_of::<(usize, Note)>() + 200;

/// One row per feature, or per feature and group.
pub(super) enum Rows {
    Groups(Vec<DiffRow>),
    Trend(Vec<TrendRow>),
}

/// Counts sets that are read together, each of them a group, and how many documents each has.
async fn count_parts(
    parts: Vec<SendableRecordBatchStream>,
    id_bound: usize,
    n_sets: usize,
) -> Result<(GroupCounts, Vec<u64>)> {
    let nothing = (GroupCounts::new(id_bound, n_sets, 1), vec![0u64; n_sets]);
    let counted = fold_parts(NAME, parts, nothing, |(counts, n_read), batch| {
        let ids = IdsView::stored(NAME, batch.column(0))?;
        let (nulls, offsets, all) = ids.parts();
        // The set of each document, so that documents are passed once, in order; `again` are those of further sets.
        let (mut set_of, mut again) = (vec![NO_GROUP; batch.num_rows()], Vec::new());
        for (set, n_read) in n_read.iter_mut().enumerate() {
            let Some(is_in) = batch.column(1 + set).as_boolean_opt() else {
                return internal_err!("{NAME}: the source does not say which documents are in a set");
            };
            *n_read += is_in.true_count() as u64;
            let encoded = nulls.map_or_else(|| is_in.values().clone(), |nulls| is_in.values() & nulls.inner());
            let words: Vec<u64> = encoded.bit_chunks().iter_padded().collect();
            assign(&mut set_of, set as u16, &words, &mut again);
        }
        counts.update_all(&set_of, offsets, all);
        again.into_iter().for_each(|(row, set)| counts.update(usize::from(set), 0, ids.ids(row)));
        Ok(())
    })
    .await?;
    let (mut counts, mut n_read) = (GroupCounts::new(id_bound, n_sets, 1), vec![0u64; n_sets]);
    for (part, n_part) in &counted {
        counts.merge(part);
        n_read.iter_mut().zip(n_part).for_each(|(sum, more)| *sum += more);
    }
    Ok((counts, n_read))
}

/// A number of which means can be taken.
fn finite(numbers: &Float64Array, row: usize) -> Option<f64> {
    numbers.is_valid(row).then(|| numbers.value(row)).filter(|value| value.is_finite())
}

impl DiffCall {
    pub(super) async fn count(&self, request: &Request, selected: Vec<bool>) -> Result<Counted> {
        let z = normal_quantile_two_sided(self.confidence);
        let id_bound = selected.len();
        let ids: Vec<FeatureId> = (0..).zip(selected).filter(|(_, selected)| *selected).map(|(id, _)| id).collect();
        match &self.design {
            Design::Paired(column) => self.count_pairs(column, request, id_bound, ids, z).await,
            Design::Target(column) => self.count_trend(column, request, id_bound, ids, z).await,
            Design::Sets | Design::By(_) => self.count_groups(request, id_bound, ids, z).await,
        }
    }

    fn min_docs(&self, n_docs: u64) -> u64 {
        self.min_docs.map_or_else(|| default_min_docs(n_docs), |min_docs| min_docs as u64)
    }

    async fn count_pairs(
        &self,
        column: &str,
        request: &Request,
        id_bound: usize,
        ids: Vec<FeatureId>,
        z: f64,
    ) -> Result<Counted> {
        let mut reader = Reader::of_sets(&self.source, self.sets.clone());
        let mut counts = PairedCounts::new(id_bound);
        let visit = |a: &[FeatureId], b: &[FeatureId]| {
            counts.update(a, b);
            Ok(())
        };
        let sets = [self.sets[0].clone(), self.sets[1].clone()];
        let matched = match_pairs(NAME, &self.source, &sets, column, request, visit).await?;
        let (n_pairs, n_left_out) = (counts.a.n_docs, matched.n_left_out);
        reader.pairs = Some((column.to_string(), matched));
        let min_docs = self.min_docs(2 * n_pairs);
        let rows = blocking(NAME, move |_| Ok(diff_paired(&counts, &ids, min_docs, z))).await?;
        let n_docs = vec![vec![n_pairs]; 2];
        Ok(Counted { reader, rows: Rows::Groups(rows), n_docs, n_read: 2 * n_pairs + n_left_out, _memory: None })
    }

    async fn count_groups(&self, request: &Request, id_bound: usize, ids: Vec<FeatureId>, z: f64) -> Result<Counted> {
        let mut reader = Reader::of_sets(&self.source, self.sets.clone());
        let by = match &self.design {
            Design::By(column) => Some(column.as_str()),
            _ => None,
        };
        reader.survey(by, self.control.clone(), request).await?;
        let (n_groups, n_strata) = (reader.groups.len(), reader.n_strata());
        let memory = request.memory(NAME);
        memory.try_grow(GroupCounts::bytes(id_bound, n_groups + 2, n_strata))?;
        let together = match (&reader.grouping, &reader.strata) {
            (Grouping::Sets, None) => self.source.parts(&self.sets, &[DocumentColumn::Ids]).await?,
            _ => None,
        };
        let (counts, n_read) = match together {
            Some(parts) => {
                memory.try_grow(GroupCounts::bytes(id_bound, n_groups * parts.len(), 1))?;
                count_parts(parts, id_bound, n_groups).await?
            }
            None => self.count_in_order(&reader, GroupCounts::new(id_bound, n_groups, n_strata), request).await?,
        };
        let n_docs: Vec<Vec<u64>> =
            (0..n_groups).map(|group| counts.group(group).iter().map(|cell| cell.n_docs).collect()).collect();
        self.check_groups(&reader, &n_docs, &n_read)?;
        let min_docs = self.min_docs(n_docs.iter().flatten().sum());
        let targets = if by.is_some() { 0..n_groups } else { 0..1 };
        let against = self.against;
        let ids = tested(&counts, &ids, min_docs);
        let row_memory = request.memory(NAME);
        row_memory.try_grow(ids.len() * targets.len() * ROW_BYTES)?;
        let rows = blocking(NAME, move |cancellation| {
            Ok(diff_groups(&counts, targets, against, &ids, min_docs, z, cancellation))
        })
        .await?;
        Ok(Counted { reader, rows: Rows::Groups(rows), n_docs, n_read: n_read.iter().sum(), _memory: Some(row_memory) })
    }

    /// Counts the documents of one set after the other, and how many were read of each.
    async fn count_in_order(
        &self,
        reader: &Reader,
        mut counts: GroupCounts,
        request: &Request,
    ) -> Result<(GroupCounts, Vec<u64>)> {
        let mut once = Once::new(NAME, request);
        let mut n_read = vec![0u64; self.sets.len()];
        let mut documents = reader.open(&[DocumentColumn::Ids], Some(DocumentColumn::DocId));
        while let Some(batch) = documents.next().await? {
            n_read[batch.set] += batch.n_rows as u64;
            if let Some(doc_ids) = &batch.optional {
                once.check(batch.set, &self.sets[batch.set], doc_ids)?;
            }
            let ids = IdsView::try_new(NAME, &batch.columns[0])?;
            batch.places.iter().for_each(|place| counts.update(place.group, place.stratum, ids.ids(place.row)));
        }
        Ok((counts, n_read))
    }

    /// Whether there is something to compare.
    fn check_groups(&self, reader: &Reader, n_docs: &[Vec<u64>], n_read: &[u64]) -> Result<()> {
        for (set, n_read) in self.sets.iter().zip(n_read) {
            if *n_read == 0 {
                return exec_err!("{NAME}: set '{set}' has no documents");
            }
        }
        if reader.strata.is_some() {
            let of_target = |stratum: usize| matches!(reader.grouping, Grouping::Column(..)) || n_docs[0][stratum] > 0;
            let is_mixed = |stratum: &usize| {
                of_target(*stratum) && n_docs.iter().filter(|strata| strata[*stratum] > 0).count() > 1
            };
            if (0..reader.n_strata()).filter(|stratum| n_docs[0].len() > *stratum).any(|stratum| is_mixed(&stratum)) {
                return Ok(());
            }
            let columns = self.control.join(", ");
            return exec_err!("{NAME}: no documents of different sides are alike in 'control' {columns}");
        }
        if matches!(reader.grouping, Grouping::Sets) {
            for ((set, strata), n_read) in self.sets.iter().zip(n_docs).zip(n_read) {
                if strata.iter().sum::<u64>() == 0 {
                    return exec_err!("{NAME}: none of the {n_read} documents of set '{set}' has features");
                }
            }
        }
        Ok(())
    }

    async fn count_trend(
        &self,
        column: &str,
        request: &Request,
        id_bound: usize,
        ids: Vec<FeatureId>,
        z: f64,
    ) -> Result<Counted> {
        let mut reader = Reader::of_sets(&self.source, self.sets.clone());
        let set = &self.sets[0];
        let memory = request.memory(NAME);
        memory.try_grow(TrendCounts::bytes(id_bound))?;
        let (mut values, mut n_read, mut once) = (Vec::new(), 0u64, Once::new(NAME, request));
        let wanted = [DocumentColumn::Ids, crate::table::control::document_column(column)];
        let mut documents = reader.open(&wanted, Some(DocumentColumn::DocId));
        while let Some(batch) = documents.next().await? {
            n_read += batch.n_rows as u64;
            if let Some(doc_ids) = &batch.optional {
                once.check(0, set, doc_ids)?;
            }
            let Some(numbers) = numbers(&batch.columns[1])? else {
                return exec_err!(
                    "{NAME}: expected numbers, dates or times in 'target' column '{column}', got {}; use 'by' for \
                     groups",
                    batch.columns[1].data_type()
                );
            };
            // Values, then their distinct ones with ranks and counts.
            memory.try_grow(5 * size_of::<f64>() * batch.places.len())?;
            values.extend(batch.places.iter().filter_map(|place| finite(&numbers, place.row)));
        }
        let ranks = blocking(NAME, move |_| Ok(Ranks::new(values))).await?;
        match (n_read, ranks.n()) {
            (0, _) => return exec_err!("{NAME}: set '{set}' has no documents"),
            (n, 0) => {
                return exec_err!("{NAME}: none of the {n} documents of set '{set}' has features and a '{column}'");
            }
            (n_read, n @ 1..LEAST_DOCS) => {
                return exec_err!(
                    "{NAME}: 'target' needs {LEAST_DOCS} documents with features and a '{column}' at least, set '{set}' has {n} \
                     among {n_read}"
                );
            }
            _ => {}
        }
        let Some(middle) = ranks.middle() else {
            return exec_err!(
                "{NAME}: 'target' column '{column}' is the same in all {} documents of set '{set}'",
                ranks.n()
            );
        };
        let mut counts = TrendCounts::new(id_bound);
        let mut n_docs = vec![vec![0u64]; 2];
        let mut documents = reader.open(&wanted, None);
        while let Some(batch) = documents.next().await? {
            let (ids, numbers) = (IdsView::try_new(NAME, &batch.columns[0])?, numbers(&batch.columns[1])?);
            for place in &batch.places {
                if let Some(value) = numbers.as_ref().and_then(|numbers| finite(numbers, place.row))
                    && let Some(rank) = ranks.rank(value)
                {
                    counts.update(value, rank, ids.ids(place.row));
                    n_docs[usize::from(value <= middle)][0] += 1;
                }
            }
        }
        let min_docs = self.min_docs(ranks.n());
        let rows = blocking(NAME, move |_| Ok(trends(&counts, &ranks, &ids, min_docs, z))).await?;
        reader.grouping = Grouping::Above(column.to_string(), middle);
        Ok(Counted { reader, rows: Rows::Trend(rows), n_docs, n_read, _memory: None })
    }
}
