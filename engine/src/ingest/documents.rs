//! Documents as they are stored: the user's columns, and beside them what the reader found.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListBuilder, Float16Builder, Float32Builder, ListBuilder, RecordBatch,
    StringArray, UInt32Builder, new_null_array,
};
use arrow::datatypes::{DataType, SchemaRef};
use saequel_udfs::FeatureId;

use crate::encoder::{EncodedDocument, SparseFeatures};
use crate::error::{Error, ErrorKind, Result};
use crate::reader::JOINED_BY;
use crate::schema;

/// What the reader found in a document, or why it could not be read.
pub(crate) type Encoded = std::result::Result<EncodedDocument, String>;

/// Text of each row: its text columns joined by a blank line, nulls left out; `None` where all are null.
pub(crate) fn texts(batch: &RecordBatch, text_columns: &[String]) -> Vec<Option<String>> {
    let columns: Vec<&StringArray> = text_columns
        .iter()
        .filter_map(|name| batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>()))
        .collect();
    let row = |row: usize| {
        let parts: Vec<&str> = columns.iter().filter(|c| c.is_valid(row)).map(|column| column.value(row)).collect();
        (!parts.is_empty()).then(|| parts.join(JOINED_BY))
    };
    (0..batch.num_rows()).map(row).collect()
}

/// Joins a batch of the user's columns with the identities and with what was found in the documents, to a batch of the
/// stored schema. What neither has is null.
///
/// # Errors
/// [`ErrorKind::Internal`] if they have other shapes than the corpus.
pub(super) fn stored_batch(
    stored: &SchemaRef,
    columns: &RecordBatch,
    doc_ids: &[String],
    found: Vec<(String, ArrayRef)>,
) -> Result<RecordBatch> {
    let n = columns.num_rows();
    let mut made: HashMap<String, ArrayRef> = found.into_iter().collect();
    made.insert(schema::DOC_ID.to_owned(), Arc::new(StringArray::from_iter_values(doc_ids)));
    let column = |field: &Arc<arrow::datatypes::Field>| {
        made.get(field.name())
            .or_else(|| columns.column_by_name(field.name()))
            .cloned()
            .unwrap_or_else(|| new_null_array(field.data_type(), n))
    };
    let arrays = stored.fields().iter().map(column).collect();
    RecordBatch::try_new(stored.clone(), arrays)
        .map_err(|error| Error::new(ErrorKind::Internal, "columns do not fit the corpus").with_source(error))
}

/// What the reader found, as stored columns.
///
/// `first_ids` are the first feature ids of `dictionaries`, in the encoder's order.
///
/// # Errors
/// [`ErrorKind::Internal`] if the encoder's answer has another shape than the corpus.
pub(crate) fn encoded_columns(
    stored: &SchemaRef,
    encoded: &[Encoded],
    dictionaries: &[String],
    first_ids: &[FeatureId],
) -> Result<Vec<(String, ArrayRef)>> {
    let wrong = |what: &str| Error::new(ErrorKind::Internal, format!("encoding documents: {what}"));
    if dictionaries.len() != first_ids.len() {
        return Err(wrong("another number of dictionaries came back"));
    }
    let width = match stored.field_with_name(schema::EMBEDDING).map(|field| field.data_type()) {
        Ok(DataType::FixedSizeList(_, width)) => *width,
        _ => return Err(wrong("the corpus has no embedding column")),
    };
    let mut made = reader_columns(width as usize, encoded)?;
    for (at, (dictionary, first_id)) in dictionaries.iter().zip(first_ids).enumerate() {
        let features: Option<Vec<_>> = encoded
            .iter()
            .map(|document| match document {
                Ok(document) => document.features.get(at).map(Some),
                Err(_) => Some(None),
            })
            .collect();
        let features = features.ok_or_else(|| wrong("a dictionary is missing"))?;
        made.extend(feature_columns(dictionary, *first_id, features.into_iter()));
    }
    Ok(made)
}

/// What a reader finds whatever the dictionaries, as stored columns: embedding of `width` values, numbers of tokens and
/// sentences, and why a text could not be read.
///
/// # Errors
/// [`ErrorKind::Internal`] for an embedding of another width.
pub(crate) fn reader_columns(width: usize, encoded: &[Encoded]) -> Result<Vec<(String, ArrayRef)>> {
    let n = encoded.len();
    let wrong = |what: &str| Error::new(ErrorKind::Internal, format!("encoding documents: {what}"));
    let width = width as i32;
    let mut made: Vec<(String, ArrayRef)> = Vec::new();
    let mut embeddings = FixedSizeListBuilder::new(Float16Builder::with_capacity(n * width as usize), width);
    let (mut n_tokens, mut n_spans) = (UInt32Builder::new(), UInt32Builder::new());
    for document in encoded {
        match document {
            Ok(document) if document.embedding.len() == width as usize => {
                // Without a token it is that of the special tokens alone, which is near to many queries.
                if document.n_tokens == 0 {
                    embeddings.values().append_nulls(width as usize);
                } else {
                    embeddings.values().append_slice(&document.embedding);
                }
                embeddings.append(document.n_tokens > 0);
                n_tokens.append_value(document.n_tokens);
                n_spans.append_value(document.n_spans);
            }
            Ok(document) => {
                return Err(wrong(&format!(
                    "expected an embedding of width {width}, got {}",
                    document.embedding.len()
                )));
            }
            Err(_) => {
                embeddings.values().append_nulls(width as usize);
                embeddings.append(false);
                n_tokens.append_null();
                n_spans.append_null();
            }
        }
    }
    made.push((schema::EMBEDDING.to_owned(), Arc::new(embeddings.finish())));
    made.push((schema::N_TOKENS.to_owned(), Arc::new(n_tokens.finish())));
    made.push((schema::N_SPANS.to_owned(), Arc::new(n_spans.finish())));
    let errors: StringArray = encoded.iter().map(|document| document.as_ref().err().map(String::as_str)).collect();
    made.push((schema::ERROR.to_owned(), Arc::new(errors)));
    Ok(made)
}

/// The stored columns of one dictionary; null for documents that could not be encoded.
pub(crate) fn feature_columns<'a>(
    dictionary: &str,
    first_id: FeatureId,
    features: impl Iterator<Item = Option<&'a SparseFeatures>>,
) -> [(String, ArrayRef); 4] {
    let mut ids = ListBuilder::new(UInt32Builder::new());
    let mut activations = ListBuilder::new(Float16Builder::new());
    let (mut fvus, mut explained) = (Float32Builder::new(), Float32Builder::new());
    for features in features {
        let Some(features) = features else {
            ids.append_null();
            activations.append_null();
            fvus.append_null();
            explained.append_null();
            continue;
        };
        for latent in &features.latents {
            ids.values().append_value(first_id + latent);
        }
        ids.append(true);
        activations.values().append_slice(&features.activations);
        activations.append(true);
        // Without a token nothing is left unexplained or explained.
        let number = |x: f32| (!x.is_nan()).then_some(x);
        fvus.append_option(number(features.fvu));
        explained.append_option(number(features.explained));
    }
    [
        (schema::ids_column(dictionary), Arc::new(ids.finish())),
        (schema::activations_column(dictionary), Arc::new(activations.finish())),
        (schema::fvu_column(dictionary), Arc::new(fvus.finish())),
        (schema::explained_column(dictionary), Arc::new(explained.finish())),
    ]
}
