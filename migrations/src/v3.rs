//! Layout version 3, frozen: version 2 with one more column of `saes`.

use arrow::datatypes::{DataType, Field, Schema};

use crate::v2;

/// Tables beside `meta`.
pub const TABLES: [&str; 6] = v2::TABLES;

/// Schema of a catalog table; `None` if version 3 has no such table.
pub fn schema(table: &str) -> Option<Schema> {
    let before = v2::schema(table)?;
    if table != "saes" {
        return Some(before);
    }
    let provenance = Field::new("provenance", DataType::Utf8, true);
    Some(Schema::new(before.fields().iter().map(|field| (**field).clone()).chain([provenance]).collect::<Vec<_>>()))
}
