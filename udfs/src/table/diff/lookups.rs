//! Further passes for the first rows: words, repetitions, examples.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::error::Result;
use rayon::prelude::*;

use super::count::{Counted, Rows};
use super::reader::{Documents, Grouping, Place, Reader};
use super::{DiffCall, NAME};
use crate::catalog::FeatureCatalog;
use crate::feature_source::DocumentColumn;
use crate::features::{FeatureId, FeaturesView, IdsView};
use crate::kernels::cooccurrence::{FeatureLists, PairCounts};
use crate::kernels::duplicates::{Finding, same_as};
use crate::kernels::words::{LEAST_SHARE, TermCounts, WordMatch};
use crate::table::document_columns::{lacks_column, texts};
use crate::table::examples::{EXAMPLE_ROWS, Example, Examples};
use crate::table::exec::{Request, blocking};

/// Rows for which words and repetitions are looked up: the first ones (of each group).
pub(super) const TOP_ROWS: usize = 500;

/// Documents of each side whose words are looked at, of two groups; spread evenly if there are more. Of several groups a
/// share of that, but not below the second number.
const WORD_DOCUMENTS: (u64, u64) = (20_000, 2000);

/// Groups beyond which words are looked up only on demand.
const WORD_GROUPS: usize = 20;

/// Groups whose repetitions are found in one pass over the documents: about 1 MB each.
const SAME_GROUPS: usize = 100;

/// What is said of a row beside its numbers. `None` where nothing was looked up.
#[derive(Debug, Clone, Default)]
pub(super) struct Note {
    pub(super) word: Option<WordMatch>,
    pub(super) same_as: Option<FeatureId>,
    pub(super) members: Option<Vec<FeatureId>>,
    pub(super) examples: [Option<Vec<Example>>; 2],
}

/// What is wanted of the rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) words: bool,
    pub(super) same: bool,
    pub(super) examples: bool,
    /// Rows of each group, after folding.
    pub(super) per_group: usize,
    /// Rows in all.
    pub(super) in_all: usize,
}

/// A group, or a set, against what it is compared with.
#[derive(Debug, Clone)]
struct Comparison {
    group: usize,
    /// Documents of both sides by stratum; none of either where one side has none.
    n_docs: Vec<[u64; 2]>,
    /// Documents of each side whose words are looked at.
    word_documents: u64,
}

impl Comparison {
    fn new(counted: &Counted, group: usize) -> Self {
        let stratum = |stratum: usize| {
            let own = counted.n_docs[group][stratum];
            let all: u64 = counted.n_docs.iter().map(|strata| strata[stratum]).sum();
            if own == 0 || all == own { [0, 0] } else { [own, all - own] }
        };
        let n_targets = match counted.reader.grouping {
            Grouping::Column(..) => counted.n_docs.len() as u64,
            _ => 2,
        };
        Self {
            group,
            n_docs: (0..counted.n_docs[group].len()).map(stratum).collect(),
            word_documents: (2 * WORD_DOCUMENTS.0 / n_targets.max(2)).max(WORD_DOCUMENTS.1),
        }
    }

    /// Side of a document; `None` if it has no counterpart.
    fn side(&self, place: &Place) -> Option<usize> {
        (self.n_docs[place.stratum][0] > 0).then_some(usize::from(place.group != self.group))
    }

    /// How many documents of each stratum and side are looked at for words: if something is held constant as many of one
    /// side as of the other, so that words are compared under the same conditions.
    fn sample(&self) -> Vec<[u64; 2]> {
        let matched = self.n_docs.len() > 1;
        let wanted = |n: &[u64; 2]| if matched { [n[0].min(n[1]); 2] } else { *n };
        let wanted: Vec<[u64; 2]> = self.n_docs.iter().map(wanted).collect();
        let all = [0, 1].map(|side| wanted.iter().map(|n| n[side]).sum::<u64>().max(1));
        let part = |n: &[u64; 2], side: usize| match all[side] > self.word_documents {
            true => (n[side] as u128 * self.word_documents as u128 / all[side] as u128) as u64,
            false => n[side],
        };
        wanted.iter().map(|n| [part(n, 0), part(n, 1)]).collect()
    }
}

/// The rows of a group, the first of which are looked at again.
struct Top<'a> {
    rows: &'a [usize],
    comparison: Comparison,
    /// Of every row.
    notes: Vec<Note>,
    /// Feature and difference of the first rows.
    findings: Vec<(FeatureId, f64)>,
}

impl Rows {
    fn group(&self, row: usize) -> usize {
        match self {
            Self::Groups(rows) => rows[row].group,
            Self::Trend(_) => 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Groups(rows) => rows.len(),
            Self::Trend(rows) => rows.len(),
        }
    }

    pub(super) fn feature_id(&self, row: usize) -> FeatureId {
        match self {
            Self::Groups(rows) => rows[row].feature_id,
            Self::Trend(rows) => rows[row].feature_id,
        }
    }
}

impl DiffCall {
    /// Decides which rows are returned, and looks up what is wanted of the first of them.
    pub(super) async fn look_up(
        &self,
        counted: &Counted,
        catalog: &FeatureCatalog,
        wanted: Wanted,
        id_bound: usize,
        request: &Request,
    ) -> Result<Vec<(usize, Note)>> {
        let all: Vec<usize> = (0..counted.rows.len()).collect();
        let groups: Vec<&[usize]> = all.chunk_by(|x, y| counted.rows.group(*x) == counted.rows.group(*y)).collect();
        let (folds, with_words) = (self.fold || wanted.same, self.words.unwrap_or(groups.len() <= WORD_GROUPS));
        let words = with_words && (wanted.words || folds);
        let example_rows = (EXAMPLE_ROWS / groups.len().max(1)).max(2);
        let mut kept: Vec<(usize, Note)> = Vec::new();
        let mut left = groups.as_slice();
        while !left.is_empty() && kept.len() < wanted.in_all {
            // As many groups at a time as the rows that are wanted come from.
            let missing = wanted.in_all - kept.len();
            let mut n_rows = 0usize;
            let is_wanted = |rows: &&&[usize]| {
                let before = n_rows;
                n_rows += rows.len().min(wanted.per_group);
                before < missing
            };
            let n_groups = left.iter().take(SAME_GROUPS).take_while(is_wanted).count();
            let (now, later) = left.split_at(n_groups);
            left = later;
            let mut tops = Vec::with_capacity(n_groups);
            for rows in now {
                let comparison = Comparison::new(counted, counted.rows.group(rows[0]));
                // What folds must be known before rows are cut off.
                let n_top = if folds { TOP_ROWS } else { wanted.per_group.min(missing).min(TOP_ROWS) }.min(rows.len());
                let differences = match folds || words {
                    true => self.differences(counted, &comparison, &rows[..n_top], id_bound, request).await?,
                    false => Vec::new(),
                };
                let findings: Vec<(FeatureId, f64)> =
                    rows.iter().map(|row| counted.rows.feature_id(*row)).zip(differences).collect();
                let mut notes = vec![Note::default(); rows.len()];
                if words {
                    let words = self.words(&counted.reader, &comparison, catalog, &findings).await?;
                    notes.iter_mut().zip(words).for_each(|(note, word)| note.word = word);
                }
                tops.push(Top { rows, comparison, notes, findings });
            }
            if folds {
                mark_same(&counted.reader, &mut tops, id_bound, request).await?;
            }
            for Top { rows, comparison, notes, .. } in tops {
                let n_kept = wanted.per_group.min(wanted.in_all - kept.len());
                let first = kept.len();
                let is_folded = |note: &Note| self.fold && note.same_as.is_some();
                kept.extend(rows.iter().copied().zip(notes).filter(|(_, note)| !is_folded(note)).take(n_kept));
                if wanted.examples && self.examples > 0 {
                    let n_shown = kept[first..].len().min(example_rows);
                    let shown = &mut kept[first..first + n_shown];
                    self.examples(counted, &comparison, catalog, shown, request).await?;
                }
            }
        }
        Ok(kept)
    }

    /// Difference of each row between the two sides, as words are compared with it.
    async fn differences(
        &self,
        counted: &Counted,
        comparison: &Comparison,
        rows: &[usize],
        id_bound: usize,
        request: &Request,
    ) -> Result<Vec<f64>> {
        if let Rows::Groups(all) = &counted.rows {
            return Ok(rows.iter().map(|row| all[*row].difference).collect());
        }
        let memory = request.memory(NAME);
        memory.try_grow(2 * id_bound * size_of::<u32>())?;
        let mut docs = [vec![0u32; id_bound], vec![0u32; id_bound]];
        let mut documents = counted.reader.open(&[DocumentColumn::Ids], None);
        while let Some(batch) = documents.next().await? {
            let ids = IdsView::try_new(NAME, &batch.columns[0])?;
            for place in &batch.places {
                let Some(side) = comparison.side(place) else { continue };
                let known = ids.ids(place.row).iter().filter_map(|id| usize::try_from(*id).ok());
                known.for_each(|id| {
                    if let Some(docs) = docs[side].get_mut(id) {
                        *docs += 1
                    }
                });
            }
        }
        let n = [0, 1].map(|side| comparison.n_docs.iter().map(|n| n[side]).sum::<u64>().max(1) as f64);
        let share = |side: usize, row: &usize| f64::from(docs[side][counted.rows.feature_id(*row) as usize]) / n[side];
        Ok(rows.iter().map(|row| share(0, row) - share(1, row)).collect())
    }

    /// For each finding, the word that shows the same.
    async fn words(
        &self,
        reader: &Reader,
        comparison: &Comparison,
        catalog: &FeatureCatalog,
        findings: &[(FeatureId, f64)],
    ) -> Result<Vec<Option<WordMatch>>> {
        let least = findings.iter().map(|(_, difference)| difference.abs()).fold(f64::INFINITY, f64::min);
        let mut terms = TermCounts::default();
        let mut sample = Sample::new(reader, comparison);
        loop {
            let documents = match sample.next().await {
                Ok(Some(documents)) => documents,
                Ok(None) => break,
                // A set without texts has no words; that matters only to those who asked for them.
                Err(error) if self.words.is_none() && lacks_column(&error) => return Ok(vec![None; findings.len()]),
                Err(error) => return Err(error),
            };
            terms = blocking(NAME, move |_| {
                for side in 0..2 {
                    let texts: Vec<&str> = documents.iter().filter(|of| of.2 == side).map(|of| of.0).collect();
                    terms.update(side, &texts);
                }
                Ok(terms)
            })
            .await?;
        }
        let features: Vec<FeatureId> = findings.iter().map(|(id, _)| *id).collect();
        let mut candidates =
            blocking(NAME, move |_| Ok(terms.candidates((LEAST_SHARE * least).max(1e-9), &features))).await?;
        let mut sample = Sample::new(reader, comparison);
        while let Some(documents) = sample.next().await? {
            candidates = blocking(NAME, move |_| {
                candidates.update(&documents.iter().map(|of| (of.0, of.1)).collect::<Vec<_>>());
                Ok(candidates)
            })
            .await?;
        }
        let word_of = |(id, difference): &(FeatureId, f64)| {
            let is_telling = |term: &str| {
                let known = |word: &String| word.trim().eq_ignore_ascii_case(term);
                catalog
                    .feature(*id)
                    .is_some_and(|feature| feature.top_words.iter().any(known) || feature.top_tokens.iter().any(known))
            };
            candidates.best(*id, *difference, is_telling)
        };
        Ok(findings.iter().map(word_of).collect())
    }

    /// Adds documents of both sides to the rows.
    async fn examples(
        &self,
        counted: &Counted,
        comparison: &Comparison,
        catalog: &FeatureCatalog,
        rows: &mut [(usize, Note)],
        request: &Request,
    ) -> Result<()> {
        let findings: Vec<Vec<FeatureId>> = rows.iter().map(|(row, _)| vec![counted.rows.feature_id(*row)]).collect();
        let mut sides = [(); 2].map(|()| Examples::new(catalog, findings.clone(), self.examples));
        let mut documents = counted.reader.open(&[DocumentColumn::Features, DocumentColumn::DocId], None);
        loop {
            let batch = match documents.next().await {
                Ok(Some(batch)) => batch,
                Ok(None) => break,
                // Without ids nobody could be shown.
                Err(error) if lacks_column(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            let features = FeaturesView::try_new(NAME, &batch.columns[0])?;
            let doc_ids = texts(NAME, "doc_id", &batch.columns[1])?;
            for place in batch.places.iter().filter(|place| doc_ids.is_valid(place.row)) {
                if let Some(side) = comparison.side(place) {
                    let (ids, activations) = (features.ids(place.row), features.activations(place.row));
                    sides[side].update(batch.set, doc_ids.value(place.row), ids, activations);
                }
            }
        }
        for (side, found) in sides.into_iter().enumerate() {
            let shown = found.read(NAME, &self.source, &counted.reader.sets, request).await?;
            rows.iter_mut().zip(shown).for_each(|((_, note), shown)| note.examples[side] = shown);
        }
        Ok(())
    }
}

/// The findings of a group, and in how many documents of each side their features are together.
struct Pairs {
    comparison: Comparison,
    position_of: Vec<u32>,
    sides: [PairCounts; 2],
}

impl Pairs {
    fn new(top: &Top<'_>, id_bound: usize) -> Self {
        // Positions must ascend with ids.
        let mut ids: Vec<FeatureId> = top.findings.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        let mut position_of = vec![u32::MAX; id_bound];
        for (position, id) in (0..).zip(&ids) {
            position_of[*id as usize] = position;
        }
        let sides = [(); 2].map(|()| PairCounts::new(ids.len(), 0..ids.len()));
        Self { comparison: top.comparison.clone(), position_of, sides }
    }

    /// Memory of one for `n` findings.
    fn bytes(n: usize, id_bound: usize) -> usize {
        (n * n + id_bound) * size_of::<u32>()
    }

    fn update(&mut self, list: &IdsView, places: &[Place]) {
        let mut parts = [FeatureLists::default(), FeatureLists::default()];
        for place in places {
            if let Some(side) = self.comparison.side(place) {
                parts[side].push(list.ids(place.row).iter().copied());
            }
        }
        for (side, part) in self.sides.iter_mut().zip(&parts) {
            side.update(&part.documents(&self.position_of, side.docs().len()));
        }
    }

    /// For each finding, the one above that says the same.
    fn same(&self, top: &Top<'_>) -> Vec<Option<usize>> {
        let ranked: Vec<Finding> = (top.findings.iter().zip(&top.notes))
            .map(|((id, difference), note)| Finding {
                position: self.position_of[*id as usize] as usize,
                difference: *difference,
                word: note.word.as_ref().map(|word| word.term.as_str()),
            })
            .collect();
        same_as(&self.sides, &ranked)
    }
}

/// Notes of each finding the one above that says the same, in one pass over the documents for all groups.
async fn mark_same(reader: &Reader, tops: &mut [Top<'_>], id_bound: usize, request: &Request) -> Result<()> {
    let memory = request.memory(NAME);
    memory.try_grow(tops.iter().map(|top| Pairs::bytes(top.findings.len(), id_bound)).sum())?;
    let mut pairs: Vec<Pairs> = tops.iter().map(|top| Pairs::new(top, id_bound)).collect();
    let mut documents = reader.open(&[DocumentColumn::Ids], None);
    while let Some(batch) = documents.next().await? {
        let list = IdsView::try_new(NAME, &batch.columns[0])?;
        let places = batch.places;
        pairs = blocking(NAME, move |_| {
            pairs.par_iter_mut().for_each(|pairs| pairs.update(&list, &places));
            Ok(pairs)
        })
        .await?;
    }
    for (top, pairs) in tops.iter_mut().zip(pairs) {
        let same = pairs.same(top);
        let Top { notes, findings, .. } = top;
        notes[..findings.len()].iter_mut().for_each(|note| note.members = Some(Vec::new()));
        for (at, above) in same.into_iter().enumerate().filter_map(|(at, above)| Some((at, above?))) {
            notes[at].same_as = Some(findings[above].0);
            notes[above].members.get_or_insert_default().push(findings[at].0);
        }
    }
    Ok(())
}

/// The documents whose words are looked at.
struct Sample<'a> {
    documents: Documents<'a>,
    comparison: &'a Comparison,
    wanted: Vec<[u64; 2]>,
    seen: HashMap<(usize, usize), u64>,
}

/// Texts of some documents with their features and sides.
struct TextBatch {
    texts: StringArray,
    ids: IdsView,
    rows: Vec<(usize, usize)>,
}

impl TextBatch {
    fn iter(&self) -> impl Iterator<Item = (&str, &[FeatureId], usize)> {
        self.rows.iter().map(|(row, side)| (self.texts.value(*row), self.ids.ids(*row), *side))
    }
}

impl<'a> Sample<'a> {
    fn new(reader: &'a Reader, comparison: &'a Comparison) -> Self {
        let documents = reader.open(&[DocumentColumn::Ids, DocumentColumn::Text], None);
        Self { documents, comparison, wanted: comparison.sample(), seen: HashMap::new() }
    }

    async fn next(&mut self) -> Result<Option<TextBatch>> {
        let Some(batch) = self.documents.next().await? else { return Ok(None) };
        let texts: ArrayRef = cast(&batch.columns[1], &DataType::Utf8)?;
        let texts = texts.as_string::<i32>().clone();
        let ids = IdsView::try_new(NAME, &batch.columns[0])?;
        let mut rows = Vec::new();
        for place in &batch.places {
            let Some(side) = self.comparison.side(place) else { continue };
            let seen = self.seen.entry((place.stratum, side)).or_default();
            let (wanted, n) = (self.wanted[place.stratum][side], self.comparison.n_docs[place.stratum][side].max(1));
            // Every so many-th document, spread evenly.
            let taken = |seen: u64| seen as u128 * wanted as u128 / n as u128;
            if taken(*seen + 1) > taken(*seen) && texts.is_valid(place.row) {
                rows.push((place.row, side));
            }
            *seen += 1;
        }
        Ok(Some(TextBatch { texts, ids, rows }))
    }
}
