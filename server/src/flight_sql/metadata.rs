//! What clients ask about the database: catalogs, schemas, tables, keys, types. The columns of each answer are the standard's.
//!
//! Names come from `information_schema`, as the visitor sees it: corpora that a token may not read are not listed.

use std::sync::{Arc, LazyLock};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_flight::sql::metadata::{
    GetCatalogsBuilder, GetDbSchemasBuilder, GetTablesBuilder, SqlInfoDataBuilder, XdbcTypeInfo, XdbcTypeInfoData,
    XdbcTypeInfoDataBuilder,
};
use arrow_flight::sql::{
    Command, CommandGetDbSchemas, CommandGetTables, Nullable, Searchable, XdbcDataType, XdbcDatetimeSubcode,
};
use futures::{StreamExt, TryStreamExt};
use saequel_engine::ErrorKind;

use super::{sql_info, stream, unsupported};
use crate::error::{Failure, Result};
use crate::gate::{Ask, Gate, Visitor};

/// Name of the only catalog.
pub(super) const CATALOG: &str = "saequel";
/// Tables that are looked at together for their columns.
const TOGETHER: usize = 4;
/// Types of tables, as `information_schema` calls them.
const TABLE_TYPES: [&str; 2] = ["BASE TABLE", "VIEW"];

/// The columns of an answer; nothing for what is no question about the database.
pub(super) fn schema(command: &Command) -> Option<SchemaRef> {
    Some(match command {
        Command::CommandGetCatalogs(_) => GetCatalogsBuilder::new().schema(),
        Command::CommandGetDbSchemas(_) => GetDbSchemasBuilder::new(None::<String>, None::<String>).schema(),
        Command::CommandGetTables(tables) => {
            GetTablesBuilder::new(None::<String>, None::<String>, None::<String>, [""; 0], tables.include_schema)
                .schema()
        }
        Command::CommandGetTableTypes(types) => types.into_builder().schema(),
        Command::CommandGetSqlInfo(_) => Arc::new(SqlInfoDataBuilder::schema().clone()),
        Command::CommandGetXdbcTypeInfo(_) => XdbcTypeInfoDataBuilder::new().schema(),
        Command::CommandGetPrimaryKeys(_) => Arc::clone(&PRIMARY_KEYS),
        Command::CommandGetExportedKeys(_)
        | Command::CommandGetImportedKeys(_)
        | Command::CommandGetCrossReference(_) => Arc::clone(&FOREIGN_KEYS),
        _ => return None,
    })
}

/// Answers a question about the database.
///
/// # Errors
/// As [`Gate::run`]; [`crate::error::UNSUPPORTED`] for what is no such question.
pub(super) async fn answer(gate: &Gate, visitor: &Visitor, command: Command) -> Result<RecordBatch> {
    match command {
        Command::CommandGetCatalogs(command) => {
            let mut builder = command.into_builder();
            builder.append(CATALOG);
            builder.build().map_err(built)
        }
        Command::CommandGetDbSchemas(command) => schemas(gate, visitor, command).await,
        Command::CommandGetTables(command) => tables(gate, visitor, command).await,
        Command::CommandGetTableTypes(command) => {
            let mut builder = command.into_builder();
            TABLE_TYPES.iter().for_each(|table_type| builder.append(table_type));
            builder.build().map_err(built)
        }
        Command::CommandGetSqlInfo(command) => sql_info::answer(gate, visitor, &command).await,
        Command::CommandGetXdbcTypeInfo(command) => match &*TYPES {
            Ok(types) => command.into_builder(types).build().map_err(built),
            Err(error) => Err(Failure::new(ErrorKind::Internal, format!("types: {error}"))),
        },
        other => match schema(&other) {
            Some(schema) => Ok(RecordBatch::new_empty(schema)),
            None => Err(unsupported(&format!("there is no command '{}'", other.type_url()))),
        },
    }
}

/// A mistake in making an answer.
pub(super) fn built(error: arrow_flight::error::FlightError) -> Failure {
    Failure::new(ErrorKind::Internal, error.to_string())
}

/// Rows of text columns.
pub(super) async fn select<const N: usize>(
    gate: &Gate,
    visitor: &Visitor,
    statement: &str,
) -> Result<Vec<[String; N]>> {
    let answer = gate.run(visitor, Ask::new(statement)).await?;
    let batches: Vec<RecordBatch> = answer.try_collect().await?;
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch.columns().iter().filter_map(|column| column.as_string_opt::<i32>()).collect();
        let Ok(columns) = <[_; N]>::try_from(columns) else {
            return Err(Failure::new(ErrorKind::Internal, format!("expected {N} columns of text from: {statement}")));
        };
        rows.extend((0..batch.num_rows()).map(|row| columns.map(|column| column.value(row).to_owned())));
    }
    Ok(rows)
}

async fn schemas(gate: &Gate, visitor: &Visitor, command: CommandGetDbSchemas) -> Result<RecordBatch> {
    let mut builder = command.into_builder();
    let statement = "SELECT DISTINCT schema_name FROM information_schema.schemata ORDER BY 1";
    for [schema] in select(gate, visitor, statement).await? {
        builder.append(CATALOG, schema);
    }
    builder.build().map_err(built)
}

async fn tables(gate: &Gate, visitor: &Visitor, command: CommandGetTables) -> Result<RecordBatch> {
    let statement = "SELECT table_schema, table_name, table_type FROM information_schema.tables";
    // Many clients call `TABLE` what information_schema calls `BASE TABLE`.
    let types = command.table_types.iter().map(|table_type| match table_type.to_uppercase() {
        plain if plain == "TABLE" => "BASE TABLE".to_owned(),
        other => other,
    });
    let mut named = GetTablesBuilder::new(
        command.catalog,
        command.db_schema_filter_pattern,
        command.table_name_filter_pattern,
        types,
        false,
    );
    let no_columns = Schema::empty();
    for [schema, table, table_type] in select(gate, visitor, statement).await? {
        named.append(CATALOG, schema, table, table_type, &no_columns).map_err(built)?;
    }
    let named = named.build().map_err(built)?;
    if !command.include_schema {
        return Ok(named);
    }
    let column = |position: usize| named.column(position).as_string::<i32>();
    let rows = (0..named.num_rows()).map(|row| [1, 2, 3].map(|position| column(position).value(row).to_owned()));
    let described = futures::stream::iter(rows).map(|[schema, table, table_type]| async move {
        let quoted = [CATALOG, &schema, &table].map(|name| format!("\"{}\"", name.replace('"', "\"\"")));
        let described = gate.describe(visitor, &format!("SELECT * FROM {}", quoted.join("."))).await;
        let columns = match described {
            Ok(described) => described.schema.map(|schema| stream::wire_schema(&schema)),
            Err(failure) if failure.kind() == ErrorKind::NotFound => return Ok(None), // dropped since
            Err(failure) => return Err(failure),
        };
        Ok(Some((schema, table, table_type, columns.unwrap_or_else(Schema::empty))))
    });
    let described: Vec<_> = described.buffered(TOGETHER).try_collect().await?;
    let mut builder = GetTablesBuilder::new(None::<String>, None::<String>, None::<String>, [""; 0], true);
    for (schema, table, table_type, columns) in described.into_iter().flatten() {
        builder.append(CATALOG, schema, table, table_type, &columns).map_err(built)?;
    }
    builder.build().map_err(built)
}

static PRIMARY_KEYS: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("catalog_name", DataType::Utf8, true),
        Field::new("db_schema_name", DataType::Utf8, true),
        Field::new("table_name", DataType::Utf8, false),
        Field::new("column_name", DataType::Utf8, false),
        Field::new("key_name", DataType::Utf8, true),
        Field::new("key_sequence", DataType::Int32, false),
    ]))
});

static FOREIGN_KEYS: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("pk_catalog_name", DataType::Utf8, true),
        Field::new("pk_db_schema_name", DataType::Utf8, true),
        Field::new("pk_table_name", DataType::Utf8, false),
        Field::new("pk_column_name", DataType::Utf8, false),
        Field::new("fk_catalog_name", DataType::Utf8, true),
        Field::new("fk_db_schema_name", DataType::Utf8, true),
        Field::new("fk_table_name", DataType::Utf8, false),
        Field::new("fk_column_name", DataType::Utf8, false),
        Field::new("key_sequence", DataType::Int32, false),
        Field::new("fk_key_name", DataType::Utf8, true),
        Field::new("pk_key_name", DataType::Utf8, true),
        Field::new("update_rule", DataType::UInt8, false),
        Field::new("delete_rule", DataType::UInt8, false),
    ]))
});

static TYPES: LazyLock<arrow_flight::error::Result<XdbcTypeInfoData>> = LazyLock::new(|| {
    use XdbcDataType::{
        XdbcBigint, XdbcBit, XdbcDate, XdbcDatetime, XdbcDecimal, XdbcDouble, XdbcInteger, XdbcInterval, XdbcNumeric,
        XdbcReal, XdbcSmallint, XdbcTime, XdbcTimestamp, XdbcTinyint, XdbcUnknownType, XdbcVarbinary, XdbcVarchar,
    };
    let mut builder = XdbcTypeInfoDataBuilder::new();
    let mut add = |name: &str, data_type: XdbcDataType, change: &dyn Fn(&mut XdbcTypeInfo)| {
        let mut info = XdbcTypeInfo {
            type_name: name.to_owned(),
            data_type,
            sql_data_type: data_type,
            nullable: Nullable::NullabilityNullable,
            searchable: Searchable::Full,
            local_type_name: Some(name.to_owned()),
            ..XdbcTypeInfo::default()
        };
        change(&mut info);
        builder.append(info);
    };
    let integer = |bits: i32, unsigned: bool| {
        move |info: &mut XdbcTypeInfo| {
            info.column_size = Some(bits);
            info.num_prec_radix = Some(2);
            info.unsigned_attribute = Some(unsigned);
            info.auto_increment = Some(false);
            (info.minimum_scale, info.maximum_scale) = (Some(0), Some(0));
        }
    };
    let float = |bits: i32| {
        move |info: &mut XdbcTypeInfo| {
            info.column_size = Some(bits);
            info.num_prec_radix = Some(2);
            info.unsigned_attribute = Some(false);
            info.auto_increment = Some(false);
        }
    };
    let quoted = |prefix: &'static str, size: Option<i32>| {
        move |info: &mut XdbcTypeInfo| {
            info.literal_prefix = Some(prefix.to_owned());
            info.literal_suffix = Some("'".to_owned());
            info.column_size = size;
        }
    };
    let moment = |prefix: &'static str, size: i32, subcode: XdbcDatetimeSubcode| {
        move |info: &mut XdbcTypeInfo| {
            quoted(prefix, Some(size))(info);
            info.sql_data_type = XdbcDatetime;
            info.datetime_subcode = Some(subcode);
            (info.minimum_scale, info.maximum_scale) = (Some(0), Some(9));
        }
    };
    let nested = |info: &mut XdbcTypeInfo| info.searchable = Searchable::None;
    add("BOOLEAN", XdbcBit, &|info| info.column_size = Some(1));
    add("TINYINT", XdbcTinyint, &integer(8, false));
    add("SMALLINT", XdbcSmallint, &integer(16, false));
    add("INTEGER", XdbcInteger, &integer(32, false));
    add("BIGINT", XdbcBigint, &integer(64, false));
    // An unsigned number is told as the next signed type that holds it.
    add("TINYINT UNSIGNED", XdbcSmallint, &integer(8, true));
    add("SMALLINT UNSIGNED", XdbcInteger, &integer(16, true));
    add("INTEGER UNSIGNED", XdbcBigint, &integer(32, true));
    add("BIGINT UNSIGNED", XdbcNumeric, &integer(64, true));
    add("REAL", XdbcReal, &float(24));
    add("DOUBLE", XdbcDouble, &float(53));
    add("DECIMAL", XdbcDecimal, &|info| {
        info.column_size = Some(38);
        info.create_params = Some(vec!["precision".to_owned(), "scale".to_owned()]);
        info.num_prec_radix = Some(10);
        info.unsigned_attribute = Some(false);
        (info.minimum_scale, info.maximum_scale) = (Some(0), Some(38));
    });
    add("VARCHAR", XdbcVarchar, &|info| {
        quoted("'", Some(i32::MAX))(info);
        info.case_sensitive = true;
    });
    add("VARBINARY", XdbcVarbinary, &quoted("X'", Some(i32::MAX)));
    // The codes of ODBC: 1 is a date, 2 a time, 3 a timestamp.
    add("DATE", XdbcDate, &moment("DATE '", 10, XdbcDatetimeSubcode::XdbcSubcodeYear));
    add("TIME", XdbcTime, &moment("TIME '", 18, XdbcDatetimeSubcode::XdbcSubcodeTime));
    add("TIMESTAMP", XdbcTimestamp, &moment("TIMESTAMP '", 29, XdbcDatetimeSubcode::XdbcSubcodeTimestamp));
    add(
        "TIMESTAMP WITH TIME ZONE",
        XdbcTimestamp,
        &moment("TIMESTAMP '", 35, XdbcDatetimeSubcode::XdbcSubcodeTimestampWithTimezone),
    );
    add("INTERVAL", XdbcInterval, &quoted("INTERVAL '", None));
    for name in ["LIST", "MAP", "STRUCT"] {
        add(name, XdbcUnknownType, &nested);
    }
    builder.build()
});

#[cfg(test)]
mod tests {
    use arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn types_are_sorted_and_filtered() {
        let types = TYPES.as_ref().unwrap();
        let all = types.record_batch(None).unwrap();
        assert!(all.num_rows() > 20);
        assert!(all.column(1).as_primitive::<Int32Type>().values().is_sorted());
        let varchar = types.record_batch(XdbcDataType::XdbcVarchar as i32).unwrap();
        assert_eq!((varchar.num_rows(), varchar.column(0).as_string::<i32>().value(0)), (1, "VARCHAR"));
    }
}
