//! Rows of results as Arrow columns: table functions make batches of them, aggregates lists of structs.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray, UInt32Array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use datafusion::error::Result;

use crate::catalog::FeatureCatalog;
use crate::features::FeatureId;
use crate::kernels::correlation::PairRow;
use crate::kernels::diff::DiffRow;

/// Named columns in the making, all of the same length.
#[derive(Debug, Default)]
pub struct Columns {
    fields: Vec<Field>,
    arrays: Vec<ArrayRef>,
}

impl Columns {
    /// Adds a column; `nullable` says what the schema promises.
    pub fn push(&mut self, name: &str, array: impl arrow::array::Array + 'static, nullable: bool) {
        self.fields.push(Field::new(name, array.data_type().clone(), nullable));
        self.arrays.push(Arc::new(array));
    }

    /// Adds a column of counts.
    pub fn counts(&mut self, name: &str, values: impl Iterator<Item = u64>) {
        self.push(name, Int64Array::from_iter_values(values.map(|value| value as i64)), false);
    }

    /// Adds a column of numbers.
    pub fn numbers(&mut self, name: &str, values: impl Iterator<Item = f64>) {
        self.push(name, Float64Array::from_iter_values(values), false);
    }

    /// Adds a column of ids and one of their labels.
    pub fn features(
        &mut self,
        (id_name, label_name): (&str, &str),
        catalog: &FeatureCatalog,
        ids: impl Iterator<Item = FeatureId> + Clone,
    ) {
        self.push(id_name, UInt32Array::from_iter_values(ids.clone()), false);
        self.push(label_name, StringArray::from_iter_values(ids.map(|id| catalog.label(id))), false);
    }

    /// Adds a column of the level of features.
    pub fn levels(&mut self, catalog: &FeatureCatalog, ids: impl Iterator<Item = FeatureId>) {
        let levels = ids.map(|id| catalog.level(id).map_or("", |level| level.as_str()));
        self.push("level", StringArray::from_iter_values(levels), false);
    }

    /// Adds the columns of another.
    pub fn append(&mut self, mut more: Self) {
        self.fields.append(&mut more.fields);
        self.arrays.append(&mut more.arrays);
    }

    /// Schema of the columns.
    pub fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.fields.clone()))
    }

    /// Type of one row as a struct.
    pub fn fields(&self) -> Fields {
        Fields::from(self.fields.clone())
    }

    /// One batch.
    ///
    /// # Errors
    /// If the columns differ in length.
    pub fn into_batch(self) -> Result<RecordBatch> {
        Ok(RecordBatch::try_new(Arc::new(Schema::new(self.fields)), self.arrays)?)
    }

    /// One list of structs per group, where group `i` has the next `lengths[i]` rows.
    ///
    /// # Errors
    /// If the columns differ in length, or the lengths do not add up to it.
    pub fn into_lists(self, lengths: &[usize]) -> Result<ArrayRef> {
        let fields = Fields::from(self.fields);
        let item = Arc::new(Field::new_list_field(DataType::Struct(fields.clone()), true));
        let structs = StructArray::try_new(fields, self.arrays, None)?;
        let offsets = OffsetBuffer::from_lengths(lengths.iter().copied());
        Ok(Arc::new(ListArray::try_new(item, offsets, Arc::new(structs), None)?))
    }
}

/// `List<Struct<fields>>` as [`Columns::into_lists`] makes it.
pub fn list_of(fields: Fields) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Struct(fields), true)))
}

/// Columns `feature_id` to `q_value` of a comparison.
pub fn diff_columns(catalog: &FeatureCatalog, rows: &[DiffRow]) -> Columns {
    let mut columns = Columns::default();
    let ids = rows.iter().map(|row| row.feature_id);
    columns.features(("feature_id", "label"), catalog, ids.clone());
    columns.levels(catalog, ids);
    columns.counts("docs_a", rows.iter().map(|row| row.docs_a));
    columns.counts("docs_b", rows.iter().map(|row| row.docs_b));
    columns.numbers("frequency_a", rows.iter().map(|row| row.frequency_a));
    columns.numbers("frequency_b", rows.iter().map(|row| row.frequency_b));
    columns.numbers("difference", rows.iter().map(|row| row.difference));
    columns.numbers("ci_low", rows.iter().map(|row| row.ci.0));
    columns.numbers("ci_high", rows.iter().map(|row| row.ci.1));
    columns.numbers("odds_ratio", rows.iter().map(|row| row.odds_ratio));
    columns.numbers("log_odds", rows.iter().map(|row| row.odds_ratio.ln()));
    columns.numbers("p_value", rows.iter().map(|row| row.p_value));
    columns.numbers("q_value", rows.iter().map(|row| row.q_value));
    columns
}

/// Columns of associated pairs, up to `expected`.
pub fn pair_columns(catalog: &FeatureCatalog, rows: &[PairRow]) -> Columns {
    let mut columns = Columns::default();
    columns.features(("feature_a", "label_a"), catalog, rows.iter().map(|row| row.features.0));
    columns.features(("feature_b", "label_b"), catalog, rows.iter().map(|row| row.features.1));
    columns.counts("docs_both", rows.iter().map(|row| row.docs_both));
    columns.numbers("npmi", rows.iter().map(PairRow::npmi));
    columns.numbers("p_a_given_b", rows.iter().map(PairRow::p_a_given_b));
    columns.numbers("p_b_given_a", rows.iter().map(PairRow::p_b_given_a));
    columns.numbers("p_value", rows.iter().map(|row| row.p_value));
    columns.numbers("q_value", rows.iter().map(|row| row.q_value));
    columns.numbers("llr", rows.iter().map(|row| row.llr));
    columns.counts("docs_a", rows.iter().map(|row| row.docs.0));
    columns.counts("docs_b", rows.iter().map(|row| row.docs.1));
    columns.counts("n", rows.iter().map(|row| row.n));
    columns.numbers("expected", rows.iter().map(|row| row.expected));
    columns
}
