//! Pairs: ranked, each told once, and looked at again for what shows them.

use std::sync::Arc;

use arrow::array::Array;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryReservation;
use futures::TryStreamExt;

use super::reading::Held;
use super::{CorrelateCall, EXAMPLES, FOLDED_ROWS, LabelSimilarity, NAME, SAME_PLACE, WORDS};
use crate::catalog::{FeatureCatalog, FeatureSelection, Level};
use crate::feature_source::{DocumentColumn, Said};
use crate::features::{FeatureId, FeaturesView, IdsView};
use crate::kernels::cooccurrence::{PairCounts, block_bytes, blocks};
use crate::kernels::correlation::{Block, PairRow, Ranking};
use crate::kernels::findings::{Presence, told_before};
use crate::scalar::conversation::messages;
use crate::table::document_columns::{self, lacks_column};
use crate::table::echoes::Echoes;
use crate::table::examples::{EXAMPLE_ROWS, Example, Examples};
use crate::table::exec::{Request, blocking};
use crate::table::pair_words::pair_words;
use crate::table::places::{self, Nearness};

/// First rows of token features whose documents are read for where they fire.
const PLACED_ROWS: usize = 200;

/// First rows for which words are looked up.
const WORDED_ROWS: usize = 200;

/// From this share of documents on, a pair stands at one place.
const SAME_PLACE_SHARE: f64 = 0.5;

/// Memory for the counts of a block where documents are held: its rows stay in the cache until they are ranked.
const HELD_BLOCK_BYTES: usize = 4 << 20;

/// Pairs as they were ranked.
pub(super) struct Ranked {
    rows: Vec<PairRow>,
    held: Option<Held>,
    /// What was added to ids of the second of two sets.
    id_shift: FeatureId,
}

/// A pair with what was found out about it.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) row: PairRow,
    /// Pairs that tell the same, this one included.
    pub(super) n_members: u64,
    pub(super) same_place: Option<f64>,
}

impl Finding {
    fn new(row: PairRow) -> Self {
        Self { row, n_members: 1, same_place: None }
    }
}

impl CorrelateCall {
    pub(super) async fn pairs(
        &self,
        catalog: &Arc<FeatureCatalog>,
        similarity: Option<&Arc<LabelSimilarity>>,
        limit: usize,
        request: &Request,
    ) -> Result<Ranked> {
        // Sentences first; where documents have none of their features, those that they have.
        let any_level = FeatureSelection { preferred: None, ..self.selection.clone() };
        let read_by = async |set: &String| {
            let mut read = catalog.select(NAME, &any_level)?;
            catalog.restrict(NAME, &mut read, &self.source, std::slice::from_ref(set)).await?;
            Ok::<_, DataFusionError>(read)
        };
        let mut otherwise = read_by(&self.set).await?;
        let mut selected = catalog.select(NAME, &self.selection)?;
        let id_bound = selected.len();
        let mut held = self.hold(id_bound, request).await?;
        let is_across = held.is_some();
        if let Some((with, _)) = &self.across {
            // Each side may be read with dictionaries of its own.
            selected.extend_from_within(..);
            otherwise.extend(read_by(with).await?);
        }
        selected.iter_mut().zip(&otherwise).for_each(|(selected, read)| *selected &= read);
        let groupings = self.strata(request).await?;
        let background_memory = request.memory(NAME);
        let (shifted, background) =
            self.eligible(&selected, &otherwise, &mut held, &groupings, &background_memory, request).await?;
        let background = background.map(Arc::new);
        let mut position_of = vec![u32::MAX; selected.len()];
        for (position, id) in (0..).zip(&shifted) {
            position_of[*id as usize] = position;
        }
        let position_of = Arc::new(position_of);
        let split = is_across.then(|| shifted.partition_point(|id| (*id as usize) < id_bound));
        let features: Arc<Vec<FeatureId>> =
            Arc::new(shifted.iter().map(|id| id % id_bound.max(1) as FeatureId).collect());
        let echoes = Arc::new(if self.echoes { Echoes::default() } else { Echoes::new(catalog, &features) });
        let mut ranking = Ranking::new(self.direction, self.rank_by, limit, self.min_both);
        let (memory, laid_memory) = (request.memory(NAME), request.memory(NAME));
        let laid = self.lay_out(&mut held, &position_of, features.len(), &laid_memory).await?.map(Arc::new);
        let n_docs = laid.as_ref().map_or(u32::MAX as usize, |laid| laid.len());
        let n_pairs = features.len() * features.len().saturating_sub(1) / 2;
        let most = if laid.is_some() { HELD_BLOCK_BYTES.min(self.block_bytes) } else { self.block_bytes };
        for block in blocks(features.len(), most) {
            memory.try_resize(Ranking::bytes(limit, n_pairs, n_docs) + block_bytes(features.len(), &block))?;
            let read = match laid {
                Some(_) => None,
                None => Some(self.count_block(held.as_ref(), features.len(), block.clone(), &position_of).await?),
            };
            let (features, echoes, similarity) = (Arc::clone(&features), Arc::clone(&echoes), similarity.cloned());
            let (background, laid) = (background.clone(), laid.clone());
            let min_lift = self.min_lift();
            let least_alike = self.unexpected.unwrap_or(f64::INFINITY);
            ranking = blocking(NAME, move |cancellation| {
                let features = features.as_slice();
                let mut counts = read.unwrap_or_else(|| PairCounts::new(features.len(), block));
                if let Some(laid) = laid {
                    counts.update(&laid);
                }
                let block = Block { counts: &counts, features, split, background: background.as_deref(), min_lift };
                ranking.scan(block, cancellation, |a, b| {
                    let alike = similarity.as_ref().and_then(|similarity| similarity.between(a, b));
                    !echoes.contains(a, b) && alike.is_none_or(|alike| alike < least_alike)
                });
                Ok(ranking)
            })
            .await?;
        }
        drop((laid, laid_memory));
        let rows = blocking(NAME, move |_| Ok(ranking.finish())).await?;
        Ok(Ranked { rows, held, id_shift: if is_across { id_bound as FeatureId } else { 0 } })
    }

    /// Which documents have the features of some pairs, and the positions of these features.
    async fn presence(
        &self,
        ranked: &Ranked,
        n_rows: usize,
        memory: &MemoryReservation,
    ) -> Result<(Presence, Vec<(usize, usize)>)> {
        let of_row = |row: &PairRow| (row.features.0, row.features.1 + ranked.id_shift);
        let rows = &ranked.rows[..n_rows];
        let mut ids: Vec<FeatureId> = rows.iter().map(of_row).flat_map(|(a, b)| [a, b]).collect();
        ids.sort_unstable();
        ids.dedup();
        let position = |id: FeatureId| ids.binary_search(&id).ok();
        let n_docs = rows.first().map_or(0, |row| row.n as usize);
        // Beside the features, each pair has bits of its own while pairs are compared.
        memory.try_grow(Presence::bytes(ids.len() + n_rows, n_docs))?;
        let mut presence = Presence::new(ids.len(), n_docs);
        let mut document = 0;
        let mut reading = self.read(ranked.held.as_ref()).await?;
        let mut visit = |found: Option<&[FeatureId]>| {
            let Some(found) = found else { return };
            found.iter().filter_map(|id| position(*id)).for_each(|feature| presence.add(feature, document));
            document += 1;
        };
        while reading.next(&mut visit).await? {}
        let pairs = rows.iter().map(of_row).filter_map(|(a, b)| position(a).zip(position(b))).collect();
        Ok((presence, pairs))
    }

    /// The rows as findings: each told once, and those that stand at one place left out.
    pub(super) async fn findings(
        &self,
        mut ranked: Ranked,
        catalog: &FeatureCatalog,
        limit: usize,
        request: &Request,
    ) -> Result<Vec<Finding>> {
        let looks = self.across.is_none() && (!self.echoes || self.wants(request, SAME_PLACE));
        let n_rows = ranked.rows.len().min(FOLDED_ROWS);
        let mut findings: Vec<Finding> = Vec::new();
        if n_rows > 0 && (self.fold || looks) {
            let memory = request.memory(NAME);
            let (presence, pairs) = self.presence(&ranked, n_rows, &memory).await?;
            findings = ranked.rows.drain(..n_rows).map(Finding::new).collect();
            let mut pairs = pairs;
            if looks {
                let is_token = |id: FeatureId| catalog.level(id) == Some(Level::Token);
                let of_tokens = |row: &usize| {
                    let features = findings[*row].row.features;
                    is_token(features.0) && is_token(features.1)
                };
                let rows: Vec<usize> = (0..n_rows).filter(of_tokens).take(PLACED_ROWS).collect();
                let features: Vec<_> = rows.iter().map(|row| findings[*row].row.features).collect();
                let positions: Vec<_> = rows.iter().map(|row| pairs[*row]).collect();
                let shares = self.same_place(&features, &positions, &presence).await?;
                rows.into_iter().zip(shares).for_each(|(row, share)| findings[row].same_place = share);
                if !self.echoes {
                    let apart = |finding: &Finding| finding.same_place.is_none_or(|share| share < SAME_PLACE_SHARE);
                    pairs = pairs.into_iter().zip(&findings).filter(|(_, x)| apart(x)).map(|(pair, _)| pair).collect();
                    findings.retain(apart);
                }
            }
            if self.fold {
                let more: Vec<bool> = findings.iter().map(|finding| finding.row.is_more()).collect();
                let told = blocking(NAME, move |_| Ok(told_before(&pairs, |pair| more[pair], &presence))).await?;
                let mut place_of = vec![0; findings.len()];
                let mut folded: Vec<Finding> = Vec::new();
                for (rank, (finding, above)) in findings.into_iter().zip(told).enumerate() {
                    match above {
                        Some(above) => folded[place_of[above]].n_members += 1,
                        None => {
                            place_of[rank] = folded.len();
                            folded.push(finding);
                        }
                    }
                }
                findings = folded;
            }
        }
        findings.extend(ranked.rows.into_iter().map(Finding::new));
        findings.truncate(limit);
        Ok(findings)
    }

    /// For the first rows, the pair of words that shows the same.
    pub(super) async fn words(&self, findings: &[Finding], request: &Request) -> Result<Vec<Option<String>>> {
        let Some(first) = findings.first().filter(|_| self.wants(request, WORDS)) else {
            return Ok(Vec::new());
        };
        let pairs = findings.iter().take(WORDED_ROWS).map(|finding| finding.row.features).collect();
        let across = self.across.as_ref().map(|(set, column)| (set.as_str(), column.as_str()));
        pair_words(NAME, &self.source, &self.set, across, pairs, first.row.n).await
    }

    /// For the first rows, documents that show both features; nothing where the set has no ids or texts.
    pub(super) async fn examples(
        &self,
        findings: &[Finding],
        catalog: &FeatureCatalog,
        request: &Request,
    ) -> Result<Vec<Option<Vec<Example>>>> {
        if self.examples == 0 || findings.is_empty() || !self.wants(request, EXAMPLES) {
            return Ok(Vec::new());
        }
        let features = |finding: &Finding| vec![finding.row.features.0, finding.row.features.1];
        let pairs = findings.iter().take(EXAMPLE_ROWS).map(features).collect();
        let mut found = Examples::new(catalog, pairs, self.examples);
        let mut stream =
            match self.source.documents(&self.set, &[DocumentColumn::Features, DocumentColumn::DocId]).await {
                Err(error) if lacks_column(&error) => return Ok(Vec::new()),
                stream => stream?,
            };
        while let Some(batch) = stream.try_next().await? {
            let features = FeaturesView::try_new(NAME, batch.column(0))?;
            let doc_ids = document_columns::texts(NAME, "doc_id", batch.column(1))?;
            for row in (0..batch.num_rows()).filter(|row| doc_ids.is_valid(*row)) {
                found.update(0, doc_ids.value(row), features.ids(row), features.activations(row));
            }
        }
        found.read(NAME, &self.source, std::slice::from_ref(&self.set), request).await
    }

    /// In which share of some documents each pair's features fire at the same place; `None` where nothing can be read.
    async fn same_place(
        &self,
        features: &[(FeatureId, FeatureId)],
        pairs: &[(usize, usize)],
        presence: &Presence,
    ) -> Result<Vec<Option<f64>>> {
        let mut chosen = places::choose(pairs, presence).into_iter().peekable();
        let mut texts: Vec<(String, Vec<Said>, Vec<usize>)> = Vec::new();
        if chosen.peek().is_some() {
            let columns = [DocumentColumn::Ids, DocumentColumn::Text, DocumentColumn::Conversation];
            let mut stream = match self.source.documents(&self.set, &columns).await {
                Ok(stream) => stream,
                Err(error) if lacks_column(&error) => return Ok(vec![None; pairs.len()]),
                Err(error) => return Err(error),
            };
            let mut document = 0;
            while chosen.peek().is_some()
                && let Some(batch) = stream.try_next().await?
            {
                let ids = IdsView::try_new(NAME, batch.column(0))?;
                let column = document_columns::texts(NAME, "text", batch.column(1))?;
                for row in (0..ids.len()).filter(|row| !ids.is_null(*row)) {
                    if let Some((_, pairs)) = chosen.next_if(|(wanted, _)| *wanted == document)
                        && column.is_valid(row)
                        && places::is_short(column.value(row))
                    {
                        texts.push((column.value(row).to_owned(), messages(batch.column(2), row), pairs));
                    }
                    document += 1;
                }
            }
        }
        let (source, features) = (Arc::clone(&self.source), features.to_vec());
        let looked = blocking(NAME, move |cancellation| {
            let mut nearness = Nearness::new(features.len());
            for (text, said, pairs) in texts {
                if cancellation.is_cancelled() {
                    break;
                }
                let looked_at: Vec<FeatureId> =
                    pairs.iter().flat_map(|&pair| [features[pair].0, features[pair].1]).collect();
                let tokens = source.token_features(&text, &said, &looked_at)?;
                for pair in pairs {
                    let (a, b) = features[pair];
                    if let Some(is_near) = places::is_near(&tokens, a, b) {
                        nearness.add(pair, is_near);
                    }
                }
            }
            Ok((0..features.len()).map(|pair| nearness.share(pair)).collect())
        });
        // Without the reader nothing can be looked at; the pairs are found all the same.
        Ok(looked.await.unwrap_or_else(|_| vec![None; pairs.len()]))
    }
}
