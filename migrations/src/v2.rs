//! Layout version 2, frozen: version 1 with three more columns of `features`.
//!
//! Datasets of corpora that were made with it also have `_explained_<dictionary>` (Float32) for each dictionary; those of
//! version 1 are left as they are, and lack it.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};

/// Tables beside `meta`.
pub const TABLES: [&str; 6] = ["corpora", "readers", "saes", "features", "concepts", "jobs"];

/// Schema of a catalog table; `None` if version 2 has no such table.
pub fn schema(table: &str) -> Option<Schema> {
    use DataType::{Float32, Int64, UInt32, UInt64, Utf8};
    let texts = || DataType::List(Arc::new(Field::new("item", Utf8, true)));
    let columns: Vec<(&str, DataType)> = match table {
        "meta" => vec![("key", Utf8), ("value", Utf8)],
        "corpora" => vec![
            ("name", Utf8),
            ("text_columns", texts()),
            ("key", Utf8),
            ("dictionaries", texts()),
            ("created_micros", Int64),
        ],
        "readers" => {
            vec![("name", Utf8), ("n_layers", UInt32), ("width", UInt32), ("context", UInt32), ("sha256", Utf8)]
        }
        "saes" => vec![
            ("name", Utf8),
            ("reader", Utf8),
            ("layer", UInt32),
            ("level", Utf8),
            ("first_id", UInt32),
            ("width", UInt32),
            ("sha256", Utf8),
            ("added_micros", Int64),
        ],
        "features" => vec![
            ("id", UInt32),
            ("label", Utf8),
            ("label_source", Utf8),
            ("label_score", Float32),
            ("description", Utf8),
            ("detection", Float32),
            ("evidence_version", UInt32),
            ("density", Float32),
            ("max_activation", Float32),
            ("presence_threshold", Float32),
            ("q50", Float32),
            ("q90", Float32),
            ("hidden", Utf8),
            ("top_tokens", texts()),
            ("top_words", texts()),
            ("examples", texts()),
        ],
        "concepts" => vec![("name", Utf8), ("feature_id", UInt32), ("weight", Float32)],
        "jobs" => vec![
            ("id", UInt64),
            ("kind", Utf8),
            ("subject", Utf8),
            ("state", Utf8),
            ("detail", Utf8),
            ("started_micros", Int64),
            ("finished_micros", Int64),
        ],
        _ => return None,
    };
    Some(Schema::new(columns.into_iter().map(|(name, kind)| Field::new(name, kind, true)).collect::<Vec<_>>()))
}
