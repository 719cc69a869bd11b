//! The passes over a set: drawing the documents that the groups are fitted on, fitting, and placing every document.

use std::sync::Arc;

use arrow::array::ArrayRef;
use datafusion::common::{exec_err, resources_datafusion_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;
use rayon::prelude::*;

use super::options::{Method, Options, Selected, View};
use crate::SharedSource;
use crate::feature_source::DocumentColumn;
use crate::features::{FeatureId, FeaturesView, IdsView};
use crate::kernels::axis::Axis;
use crate::kernels::cancellation::Cancellation;
use crate::kernels::clustering::{Place, Points, cluster, place};
use crate::kernels::dense::{dot, normalise, widen};
use crate::kernels::kmeans::Rows;
use crate::kernels::random::Random;
use crate::kernels::retrieval::saturate;
use crate::kernels::sparse::{Projection, SparseRows};
use crate::kernels::spectral::Affinity;
use crate::kernels::top_k::TopK;
use crate::table::document_columns::{Embeddings, lacks_column, texts};
use crate::table::exec::{Request, blocking};
use crate::table::once::Once;

/// Most documents of which every pair is compared: 36 MB of similarities.
pub(super) const MOST_COMPARED: usize = 3_000;
/// Documents that k-means is fitted on; the others are placed by its centres. Fewer where embeddings are kept of them.
const FEATURE_SAMPLE: usize = 50_000;
const DENSE_SAMPLE: usize = 20_000;
/// Documents that the axis towards features is fitted on.
const MOST_REGRESSED: usize = 10_000;
/// Dimensions that features are projected to: fewer where they are about one thing.
const WIDTH_ABOUT: usize = 20;
const WIDTH_ALL: usize = 50;
/// Central documents kept of each group.
const N_CENTRAL: usize = 5;

/// Medians of the features' activations, by id, above 0.
pub(super) type Medians = Arc<Vec<f32>>;

/// Documents drawn from the set.
struct Sample {
    /// Saturated activations by slot, ascending.
    rows: Vec<(u64, Vec<(u32, f32)>)>,
    /// Embeddings of length 1, beside `rows` if those are compared too; empty where there is none.
    embeddings: Vec<(u64, Vec<f32>)>,
    /// Documents with each selected feature.
    n_with: Vec<u64>,
    n_docs: u64,
}

/// How documents are placed.
enum Placing {
    /// All at once, by their place in the stream.
    ByPosition(Vec<Option<Place>>),
    /// By their selected features, and where their embeddings lie along the axes, if there are any.
    Projected { idf: Vec<f32>, projection: Projection, axes: Option<Axes>, centroids: Rows },
    /// By their embeddings.
    Embedded(Rows),
}

/// What embeddings are looked at along.
struct Axes {
    /// The mean embedding.
    mean: Vec<f32>,
    /// Towards positions by features.
    seen: Axis,
    /// That of the labels, if they were read as the documents were.
    named: Option<Axis>,
    /// How far along the former a document must lie to be placed if no feature places it.
    least: f32,
}

impl Axes {
    /// Nothing without embeddings. `positions`: of documents by their features, zeros where these say nothing;
    /// `embeddings`: of length 1, empty where there is none.
    fn fit(
        named: &Axis,
        positions: &Rows,
        embeddings: &[(u64, Vec<f32>)],
        cancellation: &Cancellation,
    ) -> Option<Self> {
        let known: Vec<(usize, &[f32])> =
            embeddings.iter().map(|(_, values)| values.as_slice()).enumerate().filter(|(_, e)| !e.is_empty()).collect();
        let width = known.first()?.1.len();
        let mut sums = vec![0.0f64; width];
        for (_, embedding) in &known {
            sums.iter_mut().zip(*embedding).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        let mean = sums.into_iter().map(|sum| (sum / known.len() as f64) as f32).collect();
        let step = known.len().div_ceil(MOST_REGRESSED);
        let (mut documents, mut values) = (Rows { values: Vec::new(), width }, Vec::new());
        for (row, embedding) in known.into_iter().step_by(step) {
            documents.values.extend(embedding);
            values.extend(positions.row(row));
        }
        let targets = Rows { values, width: positions.width };
        let seen = Axis::towards(&documents, &targets, cancellation);
        let named = Some(named.clone()).filter(|named| named.width() == width);
        let mut axes = Self { mean, seen, named, least: f32::INFINITY };
        let placed = (0..targets.len()).filter(|&row| says_something(targets.row(row)));
        let mut lengths: Vec<f32> =
            placed.map(|row| length(&axes.seen.project(&axes.centred(documents.row(row))))).collect();
        lengths.sort_unstable_by(f32::total_cmp);
        axes.least = lengths.get(lengths.len() / 10).copied().filter(|least| *least > 0.0).unwrap_or(f32::INFINITY);
        Some(axes)
    }

    fn centred(&self, embedding: &[f32]) -> Vec<f32> {
        embedding.iter().zip(&self.mean).map(|(value, mean)| value - mean).collect()
    }

    /// The position of a document by its features, joined with its place along each axis, all of length 1 (the latter zeros
    /// where there is no embedding), brought to length 1. A document that no feature places has a place if it lies as far
    /// along the axis towards features as nine in ten of those that features place.
    fn join(&self, mut position: Vec<f32>, embedding: &[f32]) -> Vec<f32> {
        let centred = self.centred(embedding);
        let along = if embedding.is_empty() { vec![0.0; self.seen.len()] } else { self.seen.project(&centred) };
        let known = !embedding.is_empty() && (says_something(&position) || length(&along) >= self.least);
        let named = self.named.as_ref().map_or_else(Vec::new, |named| named.project(&centred));
        for mut place in [along, named] {
            if !known {
                place.fill(0.0);
            }
            normalise(&mut place);
            position.extend(place);
        }
        normalise(&mut position);
        position
    }
}

fn says_something(position: &[f32]) -> bool {
    position.iter().any(|value| *value != 0.0)
}

fn length(place: &[f32]) -> f32 {
    dot(place, place).sqrt()
}

/// Groups with what is needed to place documents.
pub(super) struct Model {
    placing: Placing,
    n_clusters: usize,
    pub(super) stability: Vec<Option<f64>>,
}

/// Every document with its place, and what describes the groups.
#[derive(Debug, Default)]
pub(super) struct Placed {
    /// Ids in the order of the set; empty unless they were asked for.
    pub(super) doc_ids: Vec<String>,
    /// Beside the ids.
    pub(super) places: Vec<Option<Place>>,
    /// Group of each document, in the order of the set; those that are unclear have the last number.
    pub(super) groups: Vec<u16>,
    /// Documents of each group; the last entry counts the unclear ones.
    pub(super) sizes: Vec<u64>,
    /// Documents with a feature, by group and id, beside `sizes`.
    pub(super) n_with: Vec<Vec<u32>>,
    /// Most central documents of each group, best first.
    pub(super) central: Vec<Vec<String>>,
}

/// Draws and fits.
pub(super) async fn fit(
    source: &SharedSource,
    options: &Options,
    selected: &Selected,
    medians: &Medians,
    request: &Request,
) -> Result<Model> {
    let memory = request.memory(options.function);
    let sample = draw(source, options, selected, medians, &memory).await?;
    let spectral = options.method == Method::JaccardSpectral;
    if spectral && sample.n_docs > MOST_COMPARED as u64 {
        return exec_err!(
            "{}: method 'jaccard-spectral' compares every pair and takes at most {MOST_COMPARED} documents, '{}' has {}; \
             use method => 'kmeans', or narrow the set with WHERE",
            options.function,
            options.set,
            sample.n_docs
        );
    }
    if spectral {
        let n = sample.n_docs as usize;
        grow(&memory, options.function, 2 * n * n * size_of::<f32>())?;
    }
    let (k, seed, n_slots) = (options.k, options.seed, selected.n_slots);
    let width = if options.about.is_some() { WIDTH_ABOUT } else { WIDTH_ALL };
    let (dense, axis) = (options.view == View::Dense, selected.axis.clone());
    let model = blocking(options.function, move |cancellation| {
        let (placing, clustering) = if dense {
            let width = sample.embeddings.iter().map(|(_, values)| values.len()).max().unwrap_or(0);
            let mut rows = Rows { values: Vec::with_capacity(width * sample.embeddings.len()), width };
            for (_, values) in &sample.embeddings {
                let start = rows.values.len();
                rows.values.extend(values);
                rows.values.resize(start + width, 0.0);
            }
            let clustering = cluster(&Points::Rows(rows), k, seed, cancellation);
            (Placing::Embedded(clustering.centroids.clone()), clustering)
        } else if spectral {
            let sets = telling_sets(&sample);
            let points = Points::Affinity(Affinity::jaccard(&sets, n_slots));
            let clustering = cluster(&points, k, seed, cancellation);
            (Placing::ByPosition(clustering.places.clone()), clustering)
        } else {
            let idf: Vec<f32> = sample.n_with.iter().map(|&with| idf(with, sample.n_docs)).collect();
            let mut rows = SparseRows::new(n_slots);
            for (_, row) in &sample.rows {
                let weighted: Vec<(u32, f32)> =
                    row.iter().map(|&(slot, value)| (slot, value * idf[slot as usize])).collect();
                rows.push_normalised(&weighted);
            }
            let projection = Projection::fit(&rows, width, seed, cancellation);
            let mut points = projection.apply_all(&rows);
            let axes = axis.and_then(|named| Axes::fit(&named, &points, &sample.embeddings, cancellation));
            if let Some(axes) = &axes {
                let joined: Vec<Vec<f32>> = (0..points.len())
                    .into_par_iter()
                    .map(|row| axes.join(points.row(row).to_vec(), &sample.embeddings[row].1))
                    .collect();
                points = Rows { width: joined.first().map_or(0, Vec::len), values: joined.concat() };
            }
            let clustering = cluster(&Points::Rows(points), k, seed, cancellation);
            let centroids = clustering.centroids.clone();
            (Placing::Projected { idf, projection, axes, centroids }, clustering)
        };
        Ok(Model { placing, n_clusters: clustering.len(), stability: clustering.stability })
    })
    .await?;
    Ok(model)
}

/// `ln(1 + N / n)`: never zero, so that documents with nothing but common features still have a direction.
fn idf(n_with: u64, n_docs: u64) -> f32 {
    (1.0 + n_docs as f32 / n_with.max(1) as f32).ln()
}

/// The documents' sets of features that tell some of them apart: in two documents at least, in nine of ten at most.
/// If no feature does, all are kept.
fn telling_sets(sample: &Sample) -> Vec<Vec<u32>> {
    let telling = |slot: u32| {
        let with = sample.n_with[slot as usize];
        with >= 2 && with * 10 <= sample.n_docs * 9
    };
    let any = (0..sample.n_with.len() as u32).any(telling);
    let keep = |row: &[(u32, f32)]| row.iter().map(|&(slot, _)| slot).filter(|&slot| !any || telling(slot)).collect();
    sample.rows.iter().map(|(_, row)| keep(row)).collect()
}

/// A seeded uniform sample (reservoir, Vitter's algorithm R), in the order of the set.
async fn draw(
    source: &SharedSource,
    options: &Options,
    selected: &Selected,
    medians: &Medians,
    memory: &datafusion::execution::memory_pool::MemoryReservation,
) -> Result<Sample> {
    let dense = options.view == View::Dense;
    let joined = is_joined(options, selected);
    let limit = if dense || joined { DENSE_SAMPLE } else { FEATURE_SAMPLE };
    let mut sample = Sample { rows: vec![], embeddings: vec![], n_with: vec![0; selected.n_slots], n_docs: 0 };
    let mut random = Random::new(options.seed, 0x5A3B);
    let columns: &[DocumentColumn] = if dense { &[DocumentColumn::Embedding] } else { &[DocumentColumn::Features] };
    let mut stream = documents(source, options, columns, joined).await?;
    while let Some(batch) = stream.try_next().await? {
        let n_rows = batch.num_rows();
        let mut drawn: Vec<Option<usize>> = Vec::with_capacity(n_rows);
        for _ in 0..n_rows {
            let position = sample.n_docs;
            sample.n_docs += 1;
            drawn.push(if position < limit as u64 {
                Some(position as usize)
            } else {
                Some(random.below(position + 1) as usize).filter(|slot| *slot < limit)
            });
        }
        let first = sample.n_docs - n_rows as u64;
        if dense {
            let embeddings = Embeddings::try_new(options.function, batch.column(0))?;
            for (row, target) in drawn.iter().enumerate() {
                let Some(target) = *target else { continue };
                put(&mut sample.embeddings, target, first + row as u64, unit(embeddings.row(row)), memory, options)?;
            }
        } else {
            let features = FeaturesView::try_new(options.function, batch.column(0))?;
            let beside = beside(options, joined, batch.columns().get(1))?;
            for (row, target) in drawn.iter().enumerate() {
                for slot in features.ids(row).iter().filter_map(|&id| selected.slot(id)) {
                    sample.n_with[slot as usize] += 1;
                }
                let Some(target) = *target else { continue };
                let values = selected_values(&features, row, selected, medians);
                put(&mut sample.rows, target, first + row as u64, values, memory, options)?;
                if joined {
                    let embedding = embedding_of(beside.as_ref(), row);
                    put(&mut sample.embeddings, target, first + row as u64, embedding, memory, options)?;
                }
            }
        }
    }
    if sample.n_docs == 0 {
        return exec_err!("{}: set '{}' has no documents", options.function, options.set);
    }
    let has_none = |(_, embedding): &(u64, Vec<f32>)| embedding.iter().all(|value| *value == 0.0);
    let needed = dense || options.view == (View::Both { asked_for: true }) && joined;
    if needed && sample.embeddings.iter().all(has_none) {
        return exec_err!(
            "{}: none of the {} documents of '{}' that were looked at has an embedding, by which view => '{}' groups; leave it \
             out to group by features",
            options.function,
            sample.embeddings.len(),
            options.set,
            options.view
        );
    }
    sample.rows.sort_unstable_by_key(|(position, _)| *position);
    sample.embeddings.sort_unstable_by_key(|(position, _)| *position);
    Ok(sample)
}

/// Whether embeddings are looked at beside features: if the call is about what phrases stand for.
fn is_joined(options: &Options, selected: &Selected) -> bool {
    matches!(options.view, View::Both { .. }) && selected.axis.is_some()
}

/// The documents of the set with `columns` and, if `with_embeddings` and the set has any or must have, their embeddings.
async fn documents(
    source: &SharedSource,
    options: &Options,
    columns: &[DocumentColumn],
    with_embeddings: bool,
) -> Result<SendableRecordBatchStream> {
    if !with_embeddings {
        return source.documents(&options.set, columns).await;
    }
    let more: Vec<DocumentColumn> = columns.iter().cloned().chain([DocumentColumn::Embedding]).collect();
    match source.documents(&options.set, &more).await {
        Err(error) if options.view == (View::Both { asked_for: false }) && lacks_column(&error) => {
            source.documents(&options.set, columns).await
        }
        result => result,
    }
}

/// The embeddings of a batch that are looked at beside its features.
fn beside(options: &Options, joined: bool, column: Option<&ArrayRef>) -> Result<Option<Embeddings>> {
    column.filter(|_| joined).map(|column| Embeddings::try_new(options.function, column)).transpose()
}

/// Of length 1; empty for a document without an embedding.
fn embedding_of(embeddings: Option<&Embeddings>, row: usize) -> Vec<f32> {
    let embedding = embeddings.map(|embeddings| unit(embeddings.row(row))).unwrap_or_default();
    if embedding.iter().all(|value| *value == 0.0) { Vec::new() } else { embedding }
}

fn put<T>(
    rows: &mut Vec<(u64, Vec<T>)>,
    target: usize,
    position: u64,
    values: Vec<T>,
    memory: &datafusion::execution::memory_pool::MemoryReservation,
    options: &Options,
) -> Result<()> {
    if target < rows.len() {
        rows[target] = (position, values);
    } else {
        grow(memory, options.function, size_of::<(u64, Vec<T>)>() + values.len() * size_of::<T>())?;
        rows.push((position, values));
    }
    Ok(())
}

fn grow(memory: &datafusion::execution::memory_pool::MemoryReservation, function: &str, n_bytes: usize) -> Result<()> {
    memory.try_grow(n_bytes).map_err(|error: DataFusionError| {
        resources_datafusion_err!(
            "{function}: {}; narrow the set with WHERE, or raise the memory limit",
            error.strip_backtrace()
        )
    })
}

/// Saturated activations of the selected features of a row, by slot.
fn selected_values(features: &FeaturesView, row: usize, selected: &Selected, medians: &Medians) -> Vec<(u32, f32)> {
    let value = |(&id, activation): (&FeatureId, &half::f16)| {
        Some((selected.slot(id)?, saturate(activation.to_f32(), medians[id as usize])))
    };
    features.ids(row).iter().zip(features.activations(row)).filter_map(value).collect()
}

fn unit(embedding: &[half::f16]) -> Vec<f32> {
    let mut values = Vec::new();
    widen(embedding, &mut values);
    normalise(&mut values);
    values
}

/// Places every document, counting the features of each group.
pub(super) async fn place_all(
    source: &SharedSource,
    options: &Options,
    selected: &Selected,
    medians: &Medians,
    model: &Model,
    keep_documents: bool,
    request: &Request,
) -> Result<Placed> {
    let memory = request.memory(options.function);
    let id_bound = medians.len();
    let n_groups = model.n_clusters + 1;
    grow(&memory, options.function, n_groups * id_bound * size_of::<u32>())?;
    let mut placed =
        Placed { sizes: vec![0; n_groups], n_with: vec![vec![0; id_bound]; n_groups], ..Placed::default() };
    let mut central: Vec<TopK<String>> = (0..model.n_clusters).map(|_| TopK::new(N_CENTRAL)).collect();
    let joined = matches!(&model.placing, Placing::Projected { axes: Some(_), .. });
    let columns = match model.placing {
        Placing::ByPosition(_) => vec![DocumentColumn::DocId, DocumentColumn::Ids],
        Placing::Projected { .. } => vec![DocumentColumn::DocId, DocumentColumn::Features],
        Placing::Embedded(_) => vec![DocumentColumn::DocId, DocumentColumn::Ids, DocumentColumn::Embedding],
    };
    let mut position = 0usize;
    let mut once = Once::new(options.function, request);
    let mut stream = documents(source, options, &columns, joined).await?;
    while let Some(batch) = stream.try_next().await? {
        once.check(0, &options.set, batch.column(0))?;
        grow(&memory, options.function, batch.num_rows() * size_of::<u16>())?;
        let doc_ids = texts(options.function, "doc_id", batch.column(0))?;
        let features = match model.placing {
            Placing::Projected { .. } => Some(FeaturesView::try_new(options.function, batch.column(1))?),
            _ => None,
        };
        let id_lists = match features {
            None => Some(IdsView::try_new(options.function, batch.column(1))?),
            Some(_) => None,
        };
        let beside = beside(options, joined, batch.columns().get(2))?;
        let embeddings = match model.placing {
            Placing::Embedded(_) => Some(Embeddings::try_new(options.function, batch.column(2))?),
            _ => None,
        };
        for row in 0..batch.num_rows() {
            let found = match &model.placing {
                Placing::ByPosition(places) => places.get(position).copied().flatten(),
                Placing::Projected { idf, projection, axes, centroids } => features.as_ref().and_then(|features| {
                    let values = selected_values(features, row, selected, medians);
                    let weighted = values.iter().map(|&(slot, value)| (slot as usize, value * idf[slot as usize]));
                    let position = projection.apply(weighted);
                    let position = match axes {
                        Some(axes) => axes.join(position, &embedding_of(beside.as_ref(), row)),
                        None => position,
                    };
                    place(&position, centroids)
                }),
                Placing::Embedded(centroids) => embeddings.as_ref().and_then(|embeddings| {
                    let mut values = unit(embeddings.row(row));
                    values.resize(centroids.width, 0.0);
                    place(&values, centroids)
                }),
            };
            let group = found.map_or(model.n_clusters, |place| place.cluster);
            placed.sizes[group] += 1;
            placed.groups.push(group as u16);
            let ids = match (&features, &id_lists) {
                (Some(features), _) => features.ids(row),
                (None, Some(lists)) => lists.ids(row),
                (None, None) => &[],
            };
            for &id in ids {
                if let Some(count) = placed.n_with[group].get_mut(id as usize) {
                    *count += 1;
                }
            }
            let doc_id = doc_ids.value(row);
            if let Some(found) = found {
                central[found.cluster].offer(found.centrality, position as u64, || doc_id.to_owned());
            }
            if keep_documents {
                grow(&memory, options.function, size_of::<(String, Option<Place>)>() + doc_id.len())?;
                placed.doc_ids.push(doc_id.to_owned());
                placed.places.push(found);
            }
            position += 1;
        }
    }
    placed.central =
        central.into_iter().map(|top| top.into_sorted().into_iter().map(|ranked| ranked.item).collect()).collect();
    Ok(placed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_without_features_is_placed_if_its_embedding_says_as_much() {
        // The second number of an embedding goes with the position by features, the first is the topic.
        let embedding = |at: u64| vec![[0.9, -0.9][at as usize / 2 % 2], [0.4, -0.4][at as usize % 2]];
        let embeddings: Vec<(u64, Vec<f32>)> = (0..40).map(|at| (at, embedding(at))).collect();
        let positions = Rows { values: (0..40).map(|at| [1.0, -1.0][at % 2]).collect(), width: 1 };
        let nothing = Axis::of_names(&[], 2, 1, &Cancellation::default());
        let axes = Axes::fit(&nothing, &positions, &embeddings, &Cancellation::default()).unwrap();
        let place = |position: f32, embedding: &[f32]| axes.join(vec![position], embedding);
        assert!(place(0.0, &[0.9, 0.4])[1] > 0.9 && place(0.0, &[-0.9, -0.4])[1] < -0.9);
        assert!(!says_something(&place(0.0, &[0.9, 0.05])), "hardly along the axis");
        assert!(!says_something(&place(0.0, &[])), "no embedding");
        assert!(place(1.0, &[]) == [1.0, 0.0] && place(1.0, &[0.9, 0.05])[0] > 0.7, "features place it");
        assert!(Axes::fit(&nothing, &positions, &[(0, vec![]), (1, vec![])], &Cancellation::default()).is_none());
    }
}
