//! Layout version 1 to 2: table `features` gets columns, `description` (empty), `detection` and `evidence_version` (not
//! known).

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, new_null_array};

use crate::{CatalogTables, MigrationError, v2};

const TABLE: &str = "features";

/// Brings the catalog from version 1 to 2.
///
/// # Errors
/// [`MigrationError::Table`].
pub(crate) async fn run(tables: &mut dyn CatalogTables) -> Result<(), MigrationError> {
    let failed = |source| MigrationError::Table { table: TABLE.to_owned(), from: 1, source };
    let old = tables.read(TABLE).await.map_err(failed)?.ok_or_else(|| failed("it is missing".into()))?;
    tables.write(TABLE, with_new_columns(&old).map_err(failed)?).await.map_err(failed)
}

/// The rows of version 1 with the columns of version 2.
fn with_new_columns(old: &RecordBatch) -> Result<RecordBatch, Box<dyn std::error::Error + Send + Sync>> {
    let schema = v2::schema(TABLE).ok_or("version 2 has no such table")?;
    let column = |field: &Arc<arrow::datatypes::Field>| -> ArrayRef {
        match (old.column_by_name(field.name()), field.name().as_str()) {
            (Some(column), _) => Arc::clone(column),
            (None, "description") => Arc::new(StringArray::from(vec![""; old.num_rows()])),
            (None, _) => new_null_array(field.data_type(), old.num_rows()),
        }
    };
    let columns = schema.fields().iter().map(column).collect();
    Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};

    use super::*;
    use crate::v1;

    #[test]
    fn old_columns_stay_and_new_ones_are_empty() {
        let schema = v1::schema(TABLE).unwrap();
        let columns: Vec<ArrayRef> = schema
            .fields()
            .iter()
            .map(|field| match field.name().as_str() {
                "label" => Arc::new(StringArray::from(vec!["sorry", "thanks"])) as ArrayRef,
                _ => new_null_array(field.data_type(), 2),
            })
            .collect();
        let old = RecordBatch::try_new(Arc::new(schema), columns).unwrap();
        let new = with_new_columns(&old).unwrap();
        assert_eq!(*new.schema(), v2::schema(TABLE).unwrap());
        let texts = |name: &str| -> Vec<String> {
            new.column_by_name(name).unwrap().as_string::<i32>().iter().flatten().map(str::to_owned).collect()
        };
        assert_eq!(
            (texts("label"), texts("description")),
            (vec!["sorry".into(), "thanks".into()], vec![String::new(); 2])
        );
        assert_eq!(new.column_by_name("detection").unwrap().null_count(), 2);
    }
}
