//! Layout version 2 to 3: table `saes` gets the column `provenance`, empty for dictionaries that were computed here.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};

use crate::{CatalogTables, MigrationError, v3};

const TABLE: &str = "saes";

/// Brings the catalog from version 2 to 3.
///
/// # Errors
/// [`MigrationError::Table`].
pub(crate) async fn run(tables: &mut dyn CatalogTables) -> Result<(), MigrationError> {
    let failed = |source| MigrationError::Table { table: TABLE.to_owned(), from: 2, source };
    let old = tables.read(TABLE).await.map_err(failed)?.ok_or_else(|| failed("it is missing".into()))?;
    tables.write(TABLE, with_provenance(&old).map_err(failed)?).await.map_err(failed)
}

fn with_provenance(old: &RecordBatch) -> Result<RecordBatch, Box<dyn std::error::Error + Send + Sync>> {
    let schema = v3::schema(TABLE).ok_or("version 3 has no such table")?;
    let column = |field: &Arc<arrow::datatypes::Field>| -> ArrayRef {
        let there = old.column_by_name(field.name());
        there.map_or_else(|| Arc::new(StringArray::from(vec![""; old.num_rows()])) as ArrayRef, Arc::clone)
    };
    let columns = schema.fields().iter().map(column).collect();
    Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, new_null_array};

    use super::*;
    use crate::v2;

    #[test]
    fn old_columns_stay_and_the_new_one_is_empty() {
        let schema = v2::schema(TABLE).unwrap();
        let columns: Vec<ArrayRef> = schema
            .fields()
            .iter()
            .map(|field| match field.name().as_str() {
                "name" => Arc::new(StringArray::from(vec!["a", "b"])) as ArrayRef,
                _ => new_null_array(field.data_type(), 2),
            })
            .collect();
        let new = with_provenance(&RecordBatch::try_new(Arc::new(schema), columns).unwrap()).unwrap();
        assert_eq!(*new.schema(), v3::schema(TABLE).unwrap());
        assert_eq!(new.column_by_name("name").unwrap().as_string::<i32>().value(1), "b");
        assert_eq!(new.column_by_name("provenance").unwrap().as_string::<i32>().value(1), "");
    }
}
