//! Which PostgreSQL type a column is shown as, and back.
//!
//! | Arrow | PostgreSQL |
//! |---|---|
//! | integers | the smallest of `int2`, `int4`, `int8` that holds all values; `UInt64` is `numeric` |
//! | floats | `float4`, `float8` |
//! | decimals | `numeric` |
//! | text, dictionaries of text | `text` |
//! | dates, times, timestamps with and without time zone, intervals and durations | as they are called there |
//! | lists of these | arrays of these |
//! | structs, maps, lists of structs or of lists | `json` |
//!
//! Nested values are `json` and not `record`: clients know its OID (psycopg, node and SQLAlchemy parse it; JDBC, ODBC, ADBC
//! and BI tools take it as text), whereas an anonymous record is opaque to all of them.

use super::catalog::shown_name;
use arrow::datatypes::{DataType, Field, FieldRef, IntervalUnit, Schema, TimeUnit};
use pgwire::api::Type;
use pgwire::messages::data::FieldDescription;

/// Metadata of a field of `pg_catalog` that holds object identifiers, as `datafusion-pg-catalog` writes it.
const OID_ALIAS: &str = "pg.oid_alias";

/// A column of a result.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Column {
    /// Its name.
    pub(super) name: String,
    /// How it is shown.
    pub(super) shown: Type,
    /// Precision and scale of a `numeric`, as PostgreSQL packs them; else -1.
    modifier: i32,
}

impl Column {
    /// A column that holds text.
    pub(super) fn text(name: impl Into<String>) -> Self {
        Self { name: name.into(), shown: Type::TEXT, modifier: -1 }
    }

    fn of(field: &Field) -> Self {
        let modifier = match field.data_type() {
            DataType::Decimal32(precision, scale)
            | DataType::Decimal64(precision, scale)
            | DataType::Decimal128(precision, scale)
            | DataType::Decimal256(precision, scale) => {
                ((i32::from(*precision) << 16) | (i32::from(*scale) & 0x7ff)) + 4
            }
            _ => -1,
        };
        let is_oid = field.data_type() == &DataType::Int32 && field.metadata().contains_key(OID_ALIAS);
        let shown = if is_oid { Type::OID } else { shown_as(field.data_type()) };
        Self { name: shown_name(field.name()).to_owned(), shown, modifier }
    }

    /// For RowDescription.
    pub(super) fn description(&self, format: i16) -> FieldDescription {
        FieldDescription::new(self.name.clone(), 0, 0, self.shown.oid(), size(&self.shown), self.modifier, format)
    }
}

/// The columns of a result.
pub(super) fn columns(schema: &Schema) -> Vec<Column> {
    schema.fields().iter().map(|field| Column::of(field)).collect()
}

/// The type that values of `data_type` are shown as.
pub(super) fn shown_as(data_type: &DataType) -> Type {
    match data_type {
        DataType::Boolean => Type::BOOL,
        DataType::Int8 | DataType::UInt8 | DataType::Int16 => Type::INT2,
        DataType::UInt16 | DataType::Int32 => Type::INT4,
        DataType::UInt32 | DataType::Int64 => Type::INT8,
        DataType::UInt64
        | DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => Type::NUMERIC,
        DataType::Float16 | DataType::Float32 => Type::FLOAT4,
        DataType::Float64 => Type::FLOAT8,
        DataType::Date32 | DataType::Date64 => Type::DATE,
        DataType::Time32(_) | DataType::Time64(_) => Type::TIME,
        DataType::Timestamp(_, None) => Type::TIMESTAMP,
        DataType::Timestamp(_, Some(_)) => Type::TIMESTAMPTZ,
        DataType::Interval(_) | DataType::Duration(_) => Type::INTERVAL,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => Type::BYTEA,
        DataType::Dictionary(_, values) => shown_as(values),
        DataType::RunEndEncoded(_, values) => shown_as(values.data_type()),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => array_of(item).unwrap_or(Type::JSON),
        DataType::Struct(_) | DataType::Map(..) | DataType::Union(..) => Type::JSON,
        // Null: what PostgreSQL makes of a literal without a type.
        _ => Type::TEXT,
    }
}

fn array_of(item: &FieldRef) -> Option<Type> {
    Some(match shown_as(item.data_type()) {
        _ if matches!(item.data_type(), DataType::Dictionary(..) | DataType::RunEndEncoded(..)) => return None,
        Type::BOOL => Type::BOOL_ARRAY,
        Type::INT2 => Type::INT2_ARRAY,
        Type::INT4 => Type::INT4_ARRAY,
        Type::INT8 => Type::INT8_ARRAY,
        Type::NUMERIC => Type::NUMERIC_ARRAY,
        Type::FLOAT4 => Type::FLOAT4_ARRAY,
        Type::FLOAT8 => Type::FLOAT8_ARRAY,
        Type::TEXT => Type::TEXT_ARRAY,
        Type::BYTEA => Type::BYTEA_ARRAY,
        Type::DATE => Type::DATE_ARRAY,
        Type::TIME => Type::TIME_ARRAY,
        Type::TIMESTAMP => Type::TIMESTAMP_ARRAY,
        Type::TIMESTAMPTZ => Type::TIMESTAMPTZ_ARRAY,
        Type::INTERVAL => Type::INTERVAL_ARRAY,
        _ => return None,
    })
}

/// Bytes of a value in memory of PostgreSQL, which some clients ask for; -1: it varies.
fn size(shown: &Type) -> i16 {
    match *shown {
        Type::BOOL => 1,
        Type::INT2 => 2,
        Type::INT4 | Type::FLOAT4 | Type::DATE | Type::OID => 4,
        Type::INT8 | Type::FLOAT8 | Type::TIME | Type::TIMESTAMP | Type::TIMESTAMPTZ => 8,
        Type::INTERVAL => 16,
        _ => -1,
    }
}

/// The type of an array's elements, if it is one.
pub(super) fn element(of: &Type) -> Option<Type> {
    let elements = [
        (Type::BOOL_ARRAY, Type::BOOL),
        (Type::BYTEA_ARRAY, Type::BYTEA),
        (Type::NAME_ARRAY, Type::NAME),
        (Type::INT2_ARRAY, Type::INT2),
        (Type::INT4_ARRAY, Type::INT4),
        (Type::TEXT_ARRAY, Type::TEXT),
        (Type::BPCHAR_ARRAY, Type::BPCHAR),
        (Type::VARCHAR_ARRAY, Type::VARCHAR),
        (Type::INT8_ARRAY, Type::INT8),
        (Type::FLOAT4_ARRAY, Type::FLOAT4),
        (Type::FLOAT8_ARRAY, Type::FLOAT8),
        (Type::OID_ARRAY, Type::OID),
        (Type::TIMESTAMP_ARRAY, Type::TIMESTAMP),
        (Type::DATE_ARRAY, Type::DATE),
        (Type::TIME_ARRAY, Type::TIME),
        (Type::TIMESTAMPTZ_ARRAY, Type::TIMESTAMPTZ),
        (Type::INTERVAL_ARRAY, Type::INTERVAL),
        (Type::NUMERIC_ARRAY, Type::NUMERIC),
        (Type::UUID_ARRAY, Type::UUID),
        (Type::JSON_ARRAY, Type::JSON),
        (Type::JSONB_ARRAY, Type::JSONB),
    ];
    elements.into_iter().find(|(array, _)| array == of).map(|(_, element)| element)
}

/// What a value of a PostgreSQL type becomes here; `None` for types that are taken as text.
pub(super) fn taken_as(shown: &Type) -> Option<DataType> {
    Some(match *shown {
        Type::BOOL => DataType::Boolean,
        Type::INT2 => DataType::Int16,
        Type::INT4 => DataType::Int32,
        Type::INT8 | Type::OID | Type::XID | Type::REGCLASS | Type::REGTYPE | Type::REGPROC | Type::REGNAMESPACE => {
            DataType::Int64
        }
        Type::FLOAT4 => DataType::Float32,
        Type::FLOAT8 => DataType::Float64,
        Type::DATE => DataType::Date32,
        Type::TIME => DataType::Time64(TimeUnit::Microsecond),
        Type::TIMESTAMP => DataType::Timestamp(TimeUnit::Microsecond, None),
        Type::TIMESTAMPTZ => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Type::INTERVAL => DataType::Interval(IntervalUnit::MonthDayNano),
        Type::BYTEA => DataType::Binary,
        // Numbers of any size: which one is told by the value.
        Type::NUMERIC => DataType::Decimal128(38, 10),
        Type::NUMERIC_ARRAY => DataType::new_list(DataType::Float64, true),
        _ => match element(shown) {
            Some(element) => DataType::new_list(taken_as(&element).unwrap_or(DataType::Utf8), true),
            None => return None,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn nested_values_are_json_and_lists_of_scalars_arrays() {
        let pair = DataType::Struct(vec![Arc::new(Field::new("id", DataType::UInt32, false))].into());
        assert_eq!(shown_as(&pair), Type::JSON);
        assert_eq!(shown_as(&DataType::new_list(pair, true)), Type::JSON);
        let ids = DataType::new_list(DataType::UInt32, true);
        assert_eq!(shown_as(&ids), Type::INT8_ARRAY);
        assert_eq!(shown_as(&DataType::new_list(ids, true)), Type::JSON);
        assert_eq!(shown_as(&DataType::UInt64), Type::NUMERIC);
        assert_eq!(shown_as(&DataType::Null), Type::TEXT);
        assert_eq!(taken_as(&Type::INT8_ARRAY), Some(DataType::new_list(DataType::Int64, true)));
    }

    #[test]
    fn a_decimal_tells_its_precision() {
        let column = Column::of(&Field::new("d", DataType::Decimal128(10, 2), true));
        assert_eq!(column.modifier, (10 << 16) + 2 + 4);
    }
}
