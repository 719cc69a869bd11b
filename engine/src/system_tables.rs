//! Schema `saequel`: what the database knows of itself, as tables.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float32Array, Float64Array, ListBuilder, RecordBatch, StringArray, StringBuilder,
    StructArray, TimestampMicrosecondArray, UInt32Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Fields, Schema};
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::error::Result;
use saequel_udfs::{Dictionary, Feature, Level};

use crate::catalog::JobInfo;
use crate::picture::Picture;
use crate::sae::Sae;
use crate::store::{AsOf, Snapshot};

/// Tables of the schema.
pub(crate) const NAMES: [&str; 7] = ["corpora", "readers", "saes", "features", "concepts", "jobs", "queries"];

/// The table of this name, of one picture of the catalog.
pub(crate) async fn table(picture: &Picture, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
    let columns = match name {
        "corpora" => corpora(picture).await?,
        "readers" => readers(picture),
        "saes" => saes(picture),
        "features" => features(picture),
        "concepts" => concepts(picture)?,
        "jobs" => jobs(picture).await?,
        "queries" => queries(picture),
        _ => return Ok(None),
    };
    let fields: Vec<Field> =
        columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns.into_iter().map(|(_, array)| array).collect())?;
    Ok(Some(Arc::new(MemTable::try_new(schema, vec![vec![batch]])?)))
}

/// State of a job that has not noted its end.
const RUNNING: &str = "running";

type Columns = Vec<(&'static str, ArrayRef)>;

async fn corpora(picture: &Picture) -> Result<Columns> {
    let corpora = &picture.catalog.corpora;
    let (mut documents, mut versions) = (Vec::new(), Vec::new());
    for corpus in corpora {
        // A damaged one is listed with the others; `doctor` and every use of it say what is wrong.
        let snapshot = picture.snapshot(&corpus.name, AsOf::Latest).await.ok();
        versions.push(snapshot.as_ref().map(Snapshot::version));
        documents.push(match snapshot {
            Some(snapshot) => snapshot.count().await.ok(),
            None => None,
        });
    }
    let created = corpora.iter().map(|corpus| Some(corpus.created_micros));
    let chats: Vec<Option<String>> = corpora.iter().map(|corpus| Some(corpus.chat.as_ref()?.to_string())).collect();
    Ok(vec![
        ("name", strings(corpora.iter().map(|corpus| Some(corpus.name.as_str())))),
        ("documents", Arc::new(UInt64Array::from(documents))),
        ("version", Arc::new(UInt64Array::from(versions))),
        ("text_columns", lists(corpora.iter().map(|corpus| corpus.text_columns.as_slice()))),
        ("key", strings(corpora.iter().map(|corpus| corpus.key.as_deref()))),
        ("chat", strings(chats.iter().map(Option::as_deref))),
        ("dictionaries", lists(corpora.iter().map(|corpus| corpus.dictionaries.as_slice()))),
        ("created_at", timestamps(created)),
    ])
}

fn readers(picture: &Picture) -> Columns {
    let readers = &picture.catalog.readers;
    vec![
        ("name", strings(readers.iter().map(|reader| Some(reader.name.as_str())))),
        ("n_layers", numbers(readers.iter().map(|reader| reader.n_layers))),
        ("width", numbers(readers.iter().map(|reader| reader.width))),
        ("context", numbers(readers.iter().map(|reader| reader.context))),
        ("sha256", strings(readers.iter().map(|reader| Some(reader.sha256.as_str())))),
    ]
}

fn saes(picture: &Picture) -> Columns {
    let known = &picture.catalog.features;
    let dictionaries = known.dictionaries();
    let layers = dictionaries.iter().map(|dictionary| u32::try_from(dictionary.layer).unwrap_or(u32::MAX));
    let store = &picture.engine.inner.store;
    let provenance: Vec<String> = dictionaries.iter().map(|dictionary| store.provenance(&dictionary.name)).collect();
    // The catalog knows layers only; the dictionary itself says where in a layer it reads.
    let hook_of = |dictionary: &Dictionary| {
        store.sae_sha256(&dictionary.name)?;
        Some(Sae::hook_in(&store.sae_dir(&dictionary.name)).ok()?.to_string())
    };
    let hooks: Vec<Option<String>> = dictionaries.iter().map(hook_of).collect();
    let hidden = (0..dictionaries.len())
        .map(|i| known.features().iter().filter(|feature| feature.dictionary == i && feature.hidden).count());
    vec![
        ("name", strings(dictionaries.iter().map(|dictionary| Some(dictionary.name.as_str())))),
        ("reader", strings(dictionaries.iter().map(|dictionary| known_text(&dictionary.reader)))),
        ("layer", numbers(layers)),
        ("hook", strings(hooks.iter().map(Option::as_deref))),
        ("level", strings(dictionaries.iter().map(|dictionary| Some(dictionary.level.as_str())))),
        ("first_feature_id", numbers(dictionaries.iter().map(|dictionary| dictionary.first_id))),
        ("n_features", numbers(dictionaries.iter().map(|dictionary| dictionary.width))),
        ("n_hidden", numbers(hidden.map(|hidden| u32::try_from(hidden).unwrap_or(u32::MAX)))),
        ("provenance", strings(provenance.iter().map(|text| known_text(text)))),
    ]
}

/// A text that is known: an empty one is not.
fn known_text(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn features(picture: &Picture) -> Columns {
    let known = &picture.catalog.features;
    let all = known.features();
    let dictionary = |feature: &Feature| known.dictionaries().get(feature.dictionary);
    let detail = |feature: &Feature| picture.catalog.feature_detail(feature.id);
    let thresholds = all.iter().map(|feature| detail(feature).map(|found| found.presence_threshold));
    let float =
        |of: fn(&Feature) -> f32| -> ArrayRef { Arc::new(all.iter().map(|f| Some(of(f))).collect::<Float32Array>()) };
    vec![
        ("feature_id", numbers(all.iter().map(|feature| feature.id))),
        ("dictionary", strings(all.iter().map(|feature| dictionary(feature).map(|found| found.name.as_str())))),
        ("label", strings(all.iter().map(|feature| Some(feature.label.as_str())))),
        ("description", strings(all.iter().map(|feature| Some(feature.description.as_str())))),
        ("label_source", strings(all.iter().map(|feature| Some(feature.label_source.as_str())))),
        ("label_score", Arc::new(all.iter().map(|feature| feature.label_score).collect::<Float32Array>())),
        ("detection", Arc::new(all.iter().map(|feature| detail(feature)?.detection).collect::<Float32Array>())),
        (
            "evidence_version",
            Arc::new(all.iter().map(|feature| detail(feature)?.evidence_version).collect::<UInt32Array>()),
        ),
        ("level", strings(all.iter().map(|feature| known.level(feature.id).map(Level::as_str)))),
        ("density", float(|feature| feature.density)),
        ("max_activation", float(|feature| feature.max_activation)),
        ("q50", float(|feature| feature.q50)),
        ("q90", float(|feature| feature.q90)),
        ("presence_threshold", Arc::new(thresholds.collect::<Float32Array>())),
        ("hidden", Arc::new(all.iter().map(|feature| Some(feature.hidden)).collect::<BooleanArray>())),
        ("hidden_because", strings(all.iter().map(|feature| detail(feature)?.hidden_because.as_deref()))),
        ("top_tokens", lists(all.iter().map(|feature| feature.top_tokens.as_slice()))),
        ("top_words", lists(all.iter().map(|feature| feature.top_words.as_slice()))),
        (
            "examples",
            lists(all.iter().map(|feature| detail(feature).map_or(&[][..], |found| found.examples.as_slice()))),
        ),
    ]
}

/// One row a concept, its members as a list of structs.
fn concepts(picture: &Picture) -> Result<Columns> {
    use arrow::array::ListArray;
    use arrow::buffer::OffsetBuffer;

    let known = &picture.catalog.features;
    let concepts = known.concepts();
    let members = || concepts.iter().flat_map(|concept| &concept.members);
    let fields = Fields::from(vec![
        Field::new("feature_id", DataType::UInt32, true),
        Field::new("label", DataType::Utf8, true),
        Field::new("weight", DataType::Float32, true),
    ]);
    let columns: Vec<ArrayRef> = vec![
        numbers(members().map(|(id, _)| *id)),
        strings(members().map(|(id, _)| Some(known.label(*id)))),
        Arc::new(members().map(|(_, weight)| Some(*weight)).collect::<Float32Array>()),
    ];
    let structs = StructArray::try_new(fields.clone(), columns, None)?;
    let offsets = OffsetBuffer::from_lengths(concepts.iter().map(|concept| concept.members.len()));
    let item = Arc::new(Field::new("item", DataType::Struct(fields), true));
    let lists = ListArray::try_new(item, offsets, Arc::new(structs), None)?;
    Ok(vec![
        ("name", strings(concepts.iter().map(|concept| Some(concept.name.as_str())))),
        ("members", Arc::new(lists)),
    ])
}

async fn jobs(picture: &Picture) -> Result<Columns> {
    let jobs = &picture.catalog.jobs;
    let store = &picture.engine.inner.store;
    // A job runs while its process holds the lock. What seems to run without may have ended since the picture was taken.
    let now = match jobs.iter().any(|job| job.state == RUNNING) && store.writer().is_none() {
        true => {
            store.refresh().await?;
            Some(store.catalog())
        }
        false => None,
    };
    let state = |job: &JobInfo| match &now {
        Some(now) if job.state == RUNNING => match now.jobs.iter().find(|other| other.id == job.id) {
            Some(other) if other.state != RUNNING => other.state.clone(),
            _ => "interrupted".to_owned(),
        },
        _ => job.state.clone(),
    };
    let states: Vec<String> = jobs.iter().map(state).collect();
    Ok(vec![
        ("job_id", Arc::new(jobs.iter().map(|job| Some(job.id)).collect::<UInt64Array>())),
        ("kind", strings(jobs.iter().map(|job| Some(job.kind.as_str())))),
        ("subject", strings(jobs.iter().map(|job| Some(job.subject.as_str())))),
        ("state", strings(states.iter().map(|state| Some(state.as_str())))),
        ("detail", strings(jobs.iter().map(|job| Some(job.detail.as_str())))),
        ("started_at", timestamps(jobs.iter().map(|job| Some(job.started_micros)))),
        ("finished_at", timestamps(jobs.iter().map(|job| job.finished_micros))),
    ])
}

fn queries(picture: &Picture) -> Columns {
    let queries = picture.engine.inner.sql.queries.queries(&picture.caller);
    vec![
        ("query_id", strings(queries.iter().map(|query| Some(query.name.as_str())))),
        ("caller", strings(queries.iter().map(|query| Some(query.caller.as_str())))),
        ("statement", strings(queries.iter().map(|query| Some(query.statement.as_str())))),
        ("state", strings(queries.iter().map(|query| Some(query.state)))),
        ("started_at", timestamps(queries.iter().map(|query| Some(query.started_micros)))),
        ("millis", Arc::new(queries.iter().map(|query| query.millis).collect::<Float64Array>())),
        ("rows", Arc::new(queries.iter().map(|query| Some(query.rows)).collect::<UInt64Array>())),
        ("error", strings(queries.iter().map(|query| query.error.as_deref()))),
    ]
}

fn strings<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(StringArray::from(values.collect::<Vec<_>>()))
}

fn numbers(values: impl Iterator<Item = u32>) -> ArrayRef {
    Arc::new(UInt32Array::from(values.collect::<Vec<_>>()))
}

fn timestamps(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(values.collect::<Vec<_>>()).with_timezone("UTC"))
}

fn lists<'a>(values: impl Iterator<Item = &'a [String]>) -> ArrayRef {
    let mut builder = ListBuilder::new(StringBuilder::new());
    for list in values {
        for value in list {
            builder.values().append_value(value);
        }
        builder.append(true);
    }
    Arc::new(builder.finish())
}
