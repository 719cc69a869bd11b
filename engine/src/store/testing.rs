//! Small real databases for tests: a dictionary without a reader, and documents with given features.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, FixedSizeListBuilder, Float16Builder, Float32Array, ListBuilder, RecordBatch, StringArray, UInt32Array,
    UInt32Builder, new_null_array,
};
use arrow::datatypes::{DataType, Field, SchemaRef};
use half::f16;
use saequel_udfs::Level;

use super::{AsOf, NewCorpus, NewDictionary, Store};
use crate::options::EngineOptions;
use crate::sae::LatentInfo;
use crate::schema;

/// Width of the embeddings in test corpora.
pub(crate) const WIDTH: usize = 4;

/// A document of a test corpus.
#[derive(Debug, Clone, Default)]
pub(crate) struct Doc {
    pub(crate) id: &'static str,
    pub(crate) text: &'static str,
    /// Values of the column `model`.
    pub(crate) model: &'static str,
    /// Feature ids, ascending, and activations.
    pub(crate) features: Vec<(u32, f32)>,
}

/// Opens or makes a database without the embedded dictionary.
pub(crate) async fn open(dir: &Path) -> Store {
    Store::open(dir, &EngineOptions::default(), || Ok(Vec::new())).await.expect("the test database opens")
}

/// An engine over a store.
pub(crate) fn engine(store: Store) -> crate::Engine {
    crate::Engine::over(store, EngineOptions::default())
}

/// A dictionary whose features have the given labels.
pub(crate) fn dictionary(name: &str, labels: &[&str]) -> NewDictionary<'static> {
    let latent = |(latent, label): (usize, &&str)| LatentInfo {
        latent: latent as u32,
        label: (*label).to_owned(),
        label_source: "words".to_owned(),
        label_score: Some(0.5),
        description: format!("fires on {label}"),
        detection: Some(0.75),
        evidence_version: Some(1),
        density: 0.01,
        max_activation: 8.0,
        presence_threshold: 0.5,
        q50: 1.0,
        q90: 2.0,
        hidden: (*label == "dense").then(|| "dense".to_owned()),
        top_tokens: vec![(*label).to_owned()],
        top_words: vec![(*label).to_owned()],
        examples: vec![format!("an «{label}» example")],
    };
    NewDictionary {
        name: name.to_owned(),
        reader: "all-MiniLM-L6-v2".to_owned(),
        layer: 4,
        level: Level::Token,
        width: labels.len() as u32,
        latents: labels.iter().enumerate().map(latent).collect(),
        sae: None,
        provenance: String::new(),
    }
}

/// Makes the corpus `name` with columns `text` and `model`, encoded with `dictionary`, holding `docs`.
pub(crate) async fn corpus(store: &Store, name: &str, dictionary: &str, docs: &[Doc]) {
    let guard = store.write("test").await.expect("nobody else writes");
    let new = NewCorpus {
        name: name.to_owned(),
        text_columns: vec!["text".to_owned()],
        chat: None,
        key: None,
        columns: vec![Field::new("text", DataType::Utf8, true), Field::new("model", DataType::Utf8, true)],
        dictionaries: vec![dictionary.to_owned()],
        added: [schema::reader_fields(WIDTH), schema::encoded_fields(dictionary)].concat(),
    };
    store.create_corpus(&guard, new).await.expect("a new corpus");
    let schema = store.snapshot(name, AsOf::Latest).await.expect("it is there").schema();
    store.append(&guard, name, vec![batch(&schema, dictionary, docs)]).await.expect("appended");
}

/// Documents as a batch of the stored schema.
pub(crate) fn batch(schema: &SchemaRef, dictionary: &str, docs: &[Doc]) -> RecordBatch {
    let texts = |of: fn(&Doc) -> &str| Arc::new(StringArray::from_iter_values(docs.iter().map(of))) as ArrayRef;
    let (mut ids, mut activations) = (ListBuilder::new(UInt32Builder::new()), ListBuilder::new(Float16Builder::new()));
    let mut embeddings = FixedSizeListBuilder::new(Float16Builder::new(), WIDTH as i32);
    for doc in docs {
        for (id, activation) in &doc.features {
            ids.values().append_value(*id);
            activations.values().append_value(f16::from_f32(*activation));
        }
        ids.append(true);
        activations.append(true);
        embeddings.values().append_slice(&[f16::from_f32(0.5); WIDTH]);
        embeddings.append(true);
    }
    let counts = || Arc::new(UInt32Array::from_iter_values(docs.iter().map(|d| d.text.split(' ').count() as u32)));
    let mut columns: HashMap<String, ArrayRef> = HashMap::new();
    columns.insert(schema::DOC_ID.to_owned(), texts(|doc| doc.id));
    columns.insert("text".to_owned(), texts(|doc| doc.text));
    columns.insert("model".to_owned(), texts(|doc| doc.model));
    columns.insert(schema::EMBEDDING.to_owned(), Arc::new(embeddings.finish()));
    columns.insert(schema::N_TOKENS.to_owned(), counts());
    columns.insert(schema::N_SPANS.to_owned(), counts());
    columns.insert(schema::ids_column(dictionary), Arc::new(ids.finish()));
    columns.insert(schema::activations_column(dictionary), Arc::new(activations.finish()));
    columns.insert(schema::fvu_column(dictionary), Arc::new(Float32Array::from(vec![0.2; docs.len()])));
    columns.insert(schema::explained_column(dictionary), Arc::new(Float32Array::from(vec![0.7; docs.len()])));
    let mut column = |field: &Arc<Field>| {
        columns.remove(field.name()).unwrap_or_else(|| new_null_array(field.data_type(), docs.len()))
    };
    let columns = schema.fields().iter().map(&mut column).collect();
    RecordBatch::try_new(schema.clone(), columns).expect("columns fit the schema")
}
