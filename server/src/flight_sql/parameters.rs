//! Parameters: `?` as clients of ODBC's habits write it, schemas that clients are told, values that they send.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use datafusion::common::{ParamValues, ScalarValue};
use saequel_engine::{ErrorKind, Parameter};

use super::stream;
use crate::error::{Failure, Result};
use crate::sql_text::{Part, parts};

/// The statement with `$1`, `$2`, ... for each `?`, and `$3` for `?3`.
pub(super) fn numbered(statement: &str) -> String {
    let mut out = String::with_capacity(statement.len());
    let mut count = 0;
    for (part, text) in parts(statement) {
        if part != Part::Code {
            out.push_str(text);
            continue;
        }
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '?' if characters.peek().is_some_and(char::is_ascii_digit) => out.push('$'),
                '?' => {
                    count += 1;
                    out.push_str(&format!("${count}"));
                }
                other => out.push(other),
            }
        }
    }
    out
}

/// What clients are told about parameters. One whose type depends on nothing else is text.
pub(super) fn schema(parameters: &[Parameter]) -> Schema {
    let fields = parameters.iter().map(|parameter| {
        let data_type = parameter.data_type.clone().filter(|data_type| *data_type != DataType::Null);
        Field::new(&parameter.name, stream::wire_type(&data_type.unwrap_or(DataType::Utf8)), true)
    });
    Schema::new(fields.collect::<Vec<_>>())
}

/// One batch of what a client sent, in types that a statement can compare.
pub(super) fn one_batch(batches: &[RecordBatch]) -> Result<RecordBatch> {
    let Some(first) = batches.first() else {
        return Err(Failure::usage("parameters: expected at least one row of values"));
    };
    let batch = concat_batches(first.schema_ref(), batches)?;
    let schema = Arc::new(stream::wire_schema(batch.schema_ref()));
    stream::conform(&batch, &schema)
}

/// The values of each row.
///
/// # Errors
/// [`ErrorKind::Query`] if there are fewer or more than the statement has parameters, or names that it has not.
pub(super) fn rows(parameters: &[Parameter], batch: &RecordBatch) -> Result<Vec<ParamValues>> {
    let names: Vec<&str> = parameters.iter().map(|parameter| parameter.name.as_str()).collect();
    if names.is_empty() && batch.num_columns() > 0 {
        let message = "parameters: the statement has none, or is one in which they are not supported";
        return Err(Failure::usage(message).hint("write the values into the statement"));
    }
    if names.len() != batch.num_columns() {
        let message = format!(
            "the statement has {} parameters ({}), and {} values were given",
            names.len(),
            names.join(", "),
            batch.num_columns()
        );
        return Err(Failure::usage(message));
    }
    let is_numbered = names.iter().all(|name| name[1..].parse::<usize>().is_ok());
    let mut columns = Vec::with_capacity(names.len());
    for (position, name) in names.iter().enumerate() {
        let plain = name.trim_start_matches('$');
        let named = batch.column_by_name(plain).or_else(|| batch.column_by_name(name));
        match (named, is_numbered) {
            (_, true) => columns.push(batch.column(position)),
            (Some(column), false) => columns.push(column),
            (None, false) => {
                let given: Vec<&str> = batch.schema_ref().fields().iter().map(|field| field.name().as_str()).collect();
                let message = format!("no value was given for parameter {name}; got {}", given.join(", "));
                return Err(Failure::usage(message).hint("values of named parameters are bound by name"));
            }
        }
    }
    let row = |row: usize| {
        let values =
            columns.iter().map(|column| ScalarValue::try_from_array(column, row)).collect::<Result<Vec<_>, _>>()?;
        Ok(match is_numbered {
            true => ParamValues::from(values),
            false => {
                let plain = names.iter().map(|name| name.trim_start_matches('$').to_owned());
                ParamValues::from(plain.zip(values).collect::<Vec<_>>())
            }
        })
    };
    (0..batch.num_rows()).map(row).collect()
}

/// The batch as bytes, for a ticket.
pub(super) fn to_bytes(batch: &RecordBatch) -> Result<Bytes> {
    let mut writer = StreamWriter::try_new(Vec::new(), batch.schema_ref())?;
    writer.write(batch)?;
    Ok(writer.into_inner()?.into())
}

/// What [`to_bytes`] wrote.
pub(super) fn from_bytes(bytes: &[u8]) -> Result<RecordBatch> {
    let mut reader = StreamReader::try_new(bytes, None)?;
    match reader.next() {
        Some(batch) => Ok(batch?),
        None => Err(Failure::new(ErrorKind::Internal, "the ticket has no parameters")),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};

    use super::*;

    #[test]
    fn question_marks_are_numbered() {
        assert_eq!(numbered("SELECT ?, '?' || ? -- ?\n, \"?\""), "SELECT $1, '?' || $2 -- ?\n, \"?\"");
        assert_eq!(numbered("SELECT ?2, ?1, $1, $name"), "SELECT $2, $1, $1, $name");
        assert_eq!(numbered("SELECT $tag$ ? $tag$"), "SELECT $tag$ ? $tag$");
    }

    fn batch() -> RecordBatch {
        RecordBatch::try_from_iter([
            ("b", Arc::new(Int64Array::from(vec![1, 2])) as _),
            ("a", Arc::new(StringArray::from(vec![Some("x"), None])) as _),
        ])
        .unwrap()
    }

    fn named(names: &[&str]) -> Vec<Parameter> {
        names.iter().map(|name| Parameter { name: (*name).to_owned(), data_type: None }).collect()
    }

    #[test]
    fn values_by_position_and_by_name() {
        let by_position = rows(&named(&["$1", "$2"]), &batch()).unwrap();
        let ParamValues::List(first) = &by_position[0] else { panic!() };
        assert_eq!(first[0].value, ScalarValue::Int64(Some(1)));
        let by_name = rows(&named(&["$a", "$b"]), &batch()).unwrap();
        let ParamValues::Map(second) = &by_name[1] else { panic!() };
        assert_eq!((&second["a"].value, &second["b"].value), (&ScalarValue::Utf8(None), &ScalarValue::Int64(Some(2))));
        let missing = rows(&named(&["$a", "$c"]), &batch()).unwrap_err();
        assert_eq!(missing.line(), "no value was given for parameter $c; got b, a");
        let fewer = rows(&named(&["$1"]), &batch()).unwrap_err();
        assert_eq!(fewer.line(), "the statement has 1 parameters ($1), and 2 values were given");
        assert_eq!(from_bytes(&to_bytes(&batch()).unwrap()).unwrap(), batch());
    }
}
