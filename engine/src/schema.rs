//! Names and types of stored columns, spelt here only.
//!
//! A corpus is one Lance dataset: `doc_id`, the user's own columns, then what saequel adds. Added columns begin with an
//! underscore in storage; SQL shows them under the names in [`sql`]. The user's columns may have none of these names.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use saequel_udfs::features::{ACTIVATIONS_TYPE, IDS_TYPE};

/// Identity of a document, `Utf8`, never null, unique.
pub const DOC_ID: &str = "doc_id";
/// Mean of the last hidden states, L2-normalised: `FixedSizeList<Float16, width of the reader>`.
pub const EMBEDDING: &str = "_embedding";
/// Tokens of the document, `UInt32`.
pub const N_TOKENS: &str = "_n_tokens";
/// Sentences of the document, `UInt32`.
pub const N_SPANS: &str = "_n_spans";
/// Why a document could not be read, `Utf8`; null for all others.
pub const ERROR: &str = "_error";
/// Not stored: the text columns joined by a blank line, in sets of documents that functions see.
pub const TEXT: &str = "_text";
/// Not stored: what is said up to the text and with it, beside [`TEXT`] of corpora that are read in conversations.
pub const CONVERSATION: &str = "_conversation";

/// Lance's own column of the version in which a row was last written, `UInt64`.
pub const ROW_VERSION: &str = "_row_last_updated_at_version";

/// Column of a dictionary's feature ids: the database's ids, ascending, `List<UInt32>`.
pub fn ids_column(dictionary: &str) -> String {
    format!("_ids_{dictionary}")
}

/// Column of a dictionary's activations, beside the ids, `List<Float16>`.
pub fn activations_column(dictionary: &str) -> String {
    format!("_activations_{dictionary}")
}

/// Column of the share of variance that a dictionary leaves unexplained, `Float32`.
pub fn fvu_column(dictionary: &str) -> String {
    format!("_fvu_{dictionary}")
}

/// Column of the share of tokens (spans) that a dictionary's stored features name, `Float32`.
pub fn explained_column(dictionary: &str) -> String {
    format!("_explained_{dictionary}")
}

/// What SQL calls the added columns.
pub mod sql {
    /// Features of all the corpus's dictionaries; an id tells its dictionary.
    pub const FEATURES: &str = "features";
    /// Tokens of the document.
    pub const N_TOKENS: &str = "n_tokens";
    /// Sentences of the document.
    pub const N_SPANS: &str = "n_spans";
    /// Unexplained variance of the first dictionary; further ones are `fvu_<dictionary>`.
    pub const FVU: &str = "fvu";
    /// Share of the tokens (spans) that the features of the first dictionary name; of further ones
    /// `explained_<dictionary>`.
    pub const EXPLAINED: &str = "explained";
}

/// Stored fields of an embedding of the given width.
pub fn embedding_field(width: usize) -> Field {
    let item = Arc::new(Field::new("item", DataType::Float16, true));
    Field::new(EMBEDDING, DataType::FixedSizeList(item, width as i32), true)
}

/// Stored fields of what a reader of the given width finds, whatever the dictionaries.
pub fn reader_fields(width: usize) -> Vec<Field> {
    vec![
        embedding_field(width),
        Field::new(N_TOKENS, DataType::UInt32, true),
        Field::new(N_SPANS, DataType::UInt32, true),
        Field::new(ERROR, DataType::Utf8, true),
    ]
}

/// Stored fields of a dictionary's features.
pub fn feature_fields(dictionary: &str) -> Vec<Field> {
    vec![
        Field::new(ids_column(dictionary), IDS_TYPE.clone(), true),
        Field::new(activations_column(dictionary), ACTIVATIONS_TYPE.clone(), true),
    ]
}

/// Stored fields of a dictionary that texts are encoded with: its features, and how well it fits.
pub fn encoded_fields(dictionary: &str) -> Vec<Field> {
    let mut fields = feature_fields(dictionary);
    fields.push(Field::new(fvu_column(dictionary), DataType::Float32, true));
    fields.push(Field::new(explained_column(dictionary), DataType::Float32, true));
    fields
}

/// Begin the names of columns that saequel adds for a dictionary.
const PREFIXES: [&str; 4] = ["_ids_", "_activations_", "_fvu_", "_explained_"];

/// Whether a stored column is one that saequel adds, also of a dictionary that the corpus does not have yet, or no longer.
pub fn is_added(column: &str) -> bool {
    [EMBEDDING, N_TOKENS, N_SPANS, ERROR].contains(&column) || PREFIXES.iter().any(|prefix| column.starts_with(prefix))
}

/// Whether a column of a source is one that saequel added to what it once wrote: by its name, and by its type there.
/// `first` gives the first value, for sources that have features and embeddings as text.
pub(crate) fn is_exported(column: &str, data_type: Option<&DataType>, first: impl FnOnce() -> Option<String>) -> bool {
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| column.starts_with(prefix));
    // Of nulls alone nothing is lost.
    let Some(data_type) = data_type else { return is_added(column) || reserved(column).is_some() };
    let begins_with = |start: &str| *data_type == DataType::Utf8 && first().is_some_and(|text| text.starts_with(start));
    match column {
        sql::N_TOKENS | sql::N_SPANS | N_TOKENS | N_SPANS => data_type.is_integer(),
        sql::FVU | sql::EXPLAINED => data_type.is_numeric(),
        EMBEDDING => matches!(data_type, DataType::List(_) | DataType::FixedSizeList(..)) || begins_with("["),
        ERROR => *data_type == DataType::Utf8,
        _ if column == sql::FEATURES || column.starts_with("features_") => match data_type {
            DataType::Struct(fields) => fields.iter().map(|field| field.name().as_str()).eq(["ids", "activations"]),
            _ => begins_with("{\"ids\":["),
        },
        _ if begins(&["_ids_", "_activations_"]) => matches!(data_type, DataType::List(_)) || begins_with("["),
        _ => begins(&["_fvu_", "fvu_", "_explained_", "explained_"]) && data_type.is_numeric(),
    }
}

/// Why a column of the user's cannot have this name; `None` if it can.
pub fn reserved(column: &str) -> Option<&'static str> {
    let lower = column.to_lowercase();
    if lower == DOC_ID {
        return Some("it is the name of the identity that every document gets, unless it is the key (--key doc_id)");
    }
    let added = [
        EMBEDDING,
        N_TOKENS,
        N_SPANS,
        ERROR,
        TEXT,
        CONVERSATION,
        sql::FEATURES,
        sql::N_TOKENS,
        sql::N_SPANS,
        sql::FVU,
        sql::EXPLAINED,
    ];
    let mut prefixes = PREFIXES.iter().chain(&["features_", "fvu_", "explained_", "_row"]);
    (added.contains(&lower.as_str()) || prefixes.any(|prefix| lower.starts_with(prefix)))
        .then_some("saequel adds a column of that name")
}
