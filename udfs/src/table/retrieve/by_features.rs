//! Retrieval by given features and weights: a sum of activations, which postings answer without reading the documents.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Float32Array, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder, StructBuilder,
    new_null_array,
};
use arrow::datatypes::{DataType, Field};
use datafusion::common::{exec_err, plan_err};
use datafusion::error::Result;
use futures::TryStreamExt;

use super::options::Options;
use super::passes::{Winner, fetch};
use super::reasons::{FeatureReason, Found, listed, sentence, weighed};
use super::{FEATURE_FIELDS, SCHEMA, append_features, base_weights};
use crate::SharedSource;
use crate::args::Argument;
use crate::catalog::{FeatureCatalog, FeatureRef};
use crate::feature_source::{DocumentColumn, FeatureHit};
use crate::features::{FeatureId, FeaturesView};
use crate::kernels::postings::{Search, Term};
use crate::kernels::retrieval::Scorer;
use crate::table::document_columns::texts;
use crate::table::exec::Request;

/// Reads `'12:0.5, apology:1, 99'`, or an array of such items: names of features and concepts with weights, 1 where none is
/// given.
pub(super) fn parse(argument: &Argument) -> Result<Vec<(String, f32)>> {
    let items: Vec<String> = match argument.text() {
        Ok(text) => text.iter().flat_map(|text| text.split(',')).map(str::to_owned).collect(),
        Err(_) => argument.texts()?,
    };
    let mut found = Vec::new();
    for item in items.iter().map(|item| item.trim()).filter(|item| !item.is_empty()) {
        // A label may have a colon itself: what follows it is then no number.
        let (name, weight) = match item.rsplit_once(':').map(|(name, weight)| (name, weight.trim().parse::<f32>())) {
            Some((name, Ok(weight))) => (name.trim(), weight),
            _ => (item, 1.0),
        };
        if !weight.is_finite() || name.is_empty() {
            return plan_err!(
                "retrieve: expected features with weights as in features => '12:0.5, 99:1', got '{item}'"
            );
        }
        found.push((name.to_owned(), weight));
    }
    if found.is_empty() && argument.is_given() {
        return plan_err!("retrieve: 'features' is empty; give ids, labels or concepts with weights: '12:0.5, 99:1'");
    }
    Ok(found)
}

/// Weights by feature id; a concept stands for its members, and what is named twice is added up.
pub(super) fn resolve(catalog: &FeatureCatalog, features: &[(String, f32)]) -> Result<Vec<(FeatureId, f32)>> {
    let mut weights: BTreeMap<FeatureId, f32> = BTreeMap::new();
    for (name, weight) in features {
        let members = match catalog.resolve_text("retrieve", name)? {
            FeatureRef::Feature(id) => vec![(id, 1.0)],
            FeatureRef::Concept(members) => members,
        };
        members.into_iter().for_each(|(id, part)| *weights.entry(id).or_default() += weight * part);
    }
    Ok(weights.into_iter().filter(|(_, weight)| *weight != 0.0).collect())
}

/// The `k` documents with the largest sums.
pub(super) async fn run(
    source: &SharedSource,
    options: &Options,
    query: &[(FeatureId, f32)],
    k: usize,
    request: &Request,
) -> Result<RecordBatch> {
    let catalog = source.catalog();
    let (hits, n_docs) = match source.top_documents(&options.set, query, k).await? {
        Some(hits) => (hits, None),
        None => scan(source, &options.set, query, k).await.map(|(hits, n_docs)| (hits, Some(n_docs)))?,
    };
    if n_docs.is_none() && hits.is_empty() {
        refuse_empty(source, &options.set).await?;
    }
    if n_docs == Some(0) {
        return exec_err!("retrieve: set '{}' has no documents", options.set);
    }
    let mut wanted = Vec::new();
    wanted.extend(request.wants(4).then_some(DocumentColumn::Text));
    wanted.extend((request.wants(3) || request.wants(5)).then_some(DocumentColumn::Features));
    let winners = if wanted.is_empty() {
        HashMap::new()
    } else {
        let mut scorer = Scorer { weights: base_weights(&catalog), mean_length: 0.0 };
        for (id, _) in query {
            if let Some(weight) = scorer.weights.get_mut(*id as usize) {
                weight.labels = 1.0;
            }
        }
        let doc_ids: Vec<String> = hits.iter().map(|hit| hit.doc_id.clone()).collect();
        fetch(source, options, &scorer, &doc_ids, &wanted, &request.memory("retrieve")).await?
    };
    result(&hits, n_docs, query, &winners, &catalog)
}

/// Refuses a set without documents, of which an index that found nothing cannot tell.
pub(super) async fn refuse_empty(source: &SharedSource, set: &str) -> Result<()> {
    let mut stream = source.documents(set, &[DocumentColumn::DocId]).await?;
    while let Some(batch) = stream.try_next().await? {
        if batch.num_rows() > 0 {
            return Ok(());
        }
    }
    exec_err!("retrieve: set '{set}' has no documents")
}

/// Reads all documents of the set.
async fn scan(
    source: &SharedSource,
    set: &str,
    query: &[(FeatureId, f32)],
    k: usize,
) -> Result<(Vec<FeatureHit>, u64)> {
    let ids: Vec<FeatureId> = query.iter().map(|(id, _)| *id).collect();
    let terms: Vec<Term> = query.iter().map(|(_, weight)| Term { weight: *weight, largest: 1.0 }).collect();
    let mut search = Search::new(&terms, k);
    let mut doc_ids: HashMap<u64, String> = HashMap::new();
    let mut position = 0u64;
    let mut stream = source.documents(set, &[DocumentColumn::DocId, DocumentColumn::Features]).await?;
    while let Some(batch) = stream.try_next().await? {
        let names = texts("retrieve", "doc_id", batch.column(0))?;
        let features = FeaturesView::try_new("retrieve", batch.column(1))?;
        for row in 0..batch.num_rows() {
            let known = names.is_valid(row) && !features.is_null(row);
            if known && search.document(&ids, features.ids(row), features.activations(row), position) {
                doc_ids.insert(position, names.value(row).to_owned());
            }
            position += 1;
        }
    }
    let hit = |(position, score): (u64, f32)| doc_ids.remove(&position).map(|doc_id| FeatureHit { doc_id, score });
    Ok((search.finish().into_iter().filter_map(hit).collect(), position))
}

fn result(
    hits: &[FeatureHit],
    n_docs: Option<u64>,
    query: &[(FeatureId, f32)],
    winners: &HashMap<String, Winner>,
    catalog: &FeatureCatalog,
) -> Result<RecordBatch> {
    let mut features = ListBuilder::new(StructBuilder::from_fields(FEATURE_FIELDS.clone(), hits.len()))
        .with_field(Field::new("item", DataType::Struct(FEATURE_FIELDS.clone()), true));
    let (mut sentences, mut bodies) = (StringBuilder::new(), StringBuilder::new());
    for hit in hits {
        let winner = winners.get(&hit.doc_id);
        let contributions = winner.map_or(&[][..], |winner| &winner.contributions);
        let parts = contributions.iter().filter_map(|part| {
            let at = query.binary_search_by_key(&part.id, |(id, _)| *id).ok()?;
            let q90 = catalog.feature(part.id).map_or(1.0, |feature| feature.scales().1);
            Some((part.id, part.strength, query[at].1 * part.strength * q90))
        });
        let reasons: Vec<FeatureReason> = weighed(parts);
        sentences.append_value(sentence(&reasons, Found::default(), catalog));
        bodies.append_option(winner.and_then(|winner| winner.text.as_deref()));
        append_features(&mut features, &listed(&reasons), catalog)?;
    }
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new((1..=hits.len() as i64).collect::<Int64Array>()),
        Arc::new(hits.iter().map(|hit| Some(hit.doc_id.as_str())).collect::<StringArray>()),
        Arc::new(hits.iter().map(|hit| Some(hit.score)).collect::<Float32Array>()),
        Arc::new(sentences.finish()),
        Arc::new(bodies.finish()),
        Arc::new(features.finish()),
    ];
    let rest = &SCHEMA.fields()[columns.len()..SCHEMA.fields().len() - 1];
    columns.extend(rest.iter().map(|field| new_null_array(field.data_type(), hits.len())));
    columns.push(Arc::new(Int64Array::from(vec![n_docs.map(|n| n as i64); hits.len()])));
    Ok(RecordBatch::try_new(Arc::clone(&SCHEMA), columns)?)
}
