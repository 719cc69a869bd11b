//! The `features` value: what one document holds of one dictionary (or of several, joined).
//!
//! In SQL it is a struct of two lists of equal length, `ids` ascending and `activations` beside them. A feature is
//! *present* in a document if, and only if, its id is in the list: the encoder has already applied the presence rule
//! (see `docs/presence.md`), so that counting ids is all that the analyses do.

use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, AsArray, Float16Array, Float16Builder, ListArray, ListBuilder, StructArray, UInt32Array,
    UInt32Builder,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Fields, Float16Type, UInt32Type};
use datafusion::common::exec_err;
use datafusion::error::{DataFusionError, Result};
use half::f16;

pub use saequel_kernels::FeatureId;

/// `List<UInt32>` with the item field that Lance's LabelList index needs: named `item`, nullable, no metadata.
pub static IDS_TYPE: LazyLock<DataType> =
    LazyLock::new(|| DataType::List(Arc::new(Field::new("item", DataType::UInt32, true))));

/// `List<Float16>`: unitless activations, never negative.
pub static ACTIVATIONS_TYPE: LazyLock<DataType> =
    LazyLock::new(|| DataType::List(Arc::new(Field::new("item", DataType::Float16, true))));

/// Type of the `features` value: `Struct<ids: List<UInt32>, activations: List<Float16>>`.
pub static FEATURES_TYPE: LazyLock<DataType> = LazyLock::new(|| DataType::Struct(features_fields()));

fn features_fields() -> Fields {
    Fields::from(vec![
        Field::new("ids", IDS_TYPE.clone(), true),
        Field::new("activations", ACTIVATIONS_TYPE.clone(), true),
    ])
}

/// Builds a column of `features` values, one row a document.
#[derive(Debug)]
pub struct FeaturesBuilder {
    ids: ListBuilder<UInt32Builder>,
    activations: ListBuilder<Float16Builder>,
    valid: Vec<bool>,
}

impl Default for FeaturesBuilder {
    fn default() -> Self {
        Self {
            ids: ListBuilder::new(UInt32Builder::new()),
            activations: ListBuilder::new(Float16Builder::new()),
            valid: Vec::new(),
        }
    }
}

impl FeaturesBuilder {
    /// Adds a document: ids ascending, activations beside them.
    pub fn append(&mut self, features: impl IntoIterator<Item = (FeatureId, f32)>) {
        for (id, activation) in features {
            self.ids.values().append_value(id);
            self.activations.values().append_value(f16::from_f32(activation));
        }
        self.ids.append(true);
        self.activations.append(true);
        self.valid.push(true);
    }

    /// Adds a document that was never encoded.
    ///
    /// The lists are null too: a field of a null struct is taken for itself by the planner.
    pub fn append_null(&mut self) {
        self.ids.append(false);
        self.activations.append(false);
        self.valid.push(false);
    }

    /// The column, of [`FEATURES_TYPE`]; the builder is empty again.
    pub fn finish(&mut self) -> StructArray {
        let columns: Vec<ArrayRef> = vec![Arc::new(self.ids.finish()), Arc::new(self.activations.finish())];
        let nulls = NullBuffer::from(std::mem::take(&mut self.valid));
        let nulls = (nulls.null_count() > 0).then_some(nulls);
        StructArray::new(features_fields(), columns, nulls)
    }
}

/// What all arithmetic relies on. What saequel stores is so; a query can make anything.
fn check_ascending(function: &str, ids: &[FeatureId]) -> Result<()> {
    // Without a way out in the middle the loop is vectorised.
    let before = &ids[..ids.len().saturating_sub(1)];
    if before.iter().zip(ids.iter().skip(1)).fold(true, |ascending, (low, high)| ascending & (low < high)) {
        return Ok(());
    }
    match ids.windows(2).find(|pair| pair[0] >= pair[1]) {
        None => Ok(()),
        Some(pair) => exec_err!(
            "{function}: ids of a features value must ascend, each once, but {} comes before {}",
            pair[0],
            pair[1]
        ),
    }
}

/// Refuses lists with a null among their items, which would be read as whatever lies there.
fn check_items(function: &str, values: &dyn Array) -> Result<()> {
    match values.null_count() {
        0 => Ok(()),
        _ => exec_err!("{function}: a features value has a null among its ids or activations"),
    }
}

/// Read access to a column of feature ids, one row a document, without copying.
#[derive(Debug, Clone)]
pub struct IdsView {
    lists: ListArray,
    values: UInt32Array,
}

impl IdsView {
    /// Wraps a list array of [`IDS_TYPE`].
    ///
    /// # Errors
    /// An execution error that names `function` if the array is of another type, or the ids of a row do not ascend or have
    /// a null among them.
    pub fn try_new(function: &str, array: &ArrayRef) -> Result<Self> {
        let view = Self::stored(function, array)?;
        (0..view.len()).try_for_each(|row| check_ascending(function, view.ids(row)))?;
        Ok(view)
    }

    /// [`Self::try_new`] of ids that come from the store, which keeps them ascending: that is not looked at again.
    ///
    /// # Errors
    /// As [`Self::try_new`], but for the order.
    pub fn stored(function: &str, array: &ArrayRef) -> Result<Self> {
        let wrong = || {
            DataFusionError::Execution(format!("{function}: expected a list of feature ids, got {}", array.data_type()))
        };
        let lists = array.as_list_opt::<i32>().ok_or_else(wrong)?.clone();
        let values = lists.values().as_primitive_opt::<UInt32Type>().ok_or_else(wrong)?.clone();
        check_items(function, &values)?;
        Ok(Self { lists, values })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.lists.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows that were never encoded, if any, and where the ids of each row begin and end among the ids of all.
    pub(crate) fn parts(&self) -> (Option<&NullBuffer>, &[i32], &[FeatureId]) {
        (self.lists.nulls(), self.lists.value_offsets(), self.values.values())
    }

    /// Whether row `row` was never encoded, as opposed to holding no feature.
    pub fn is_null(&self, row: usize) -> bool {
        self.lists.is_null(row)
    }

    /// Ids of row `row`, ascending; empty for a null row.
    pub fn ids(&self, row: usize) -> &[FeatureId] {
        if self.is_null(row) {
            return &[];
        }
        let offsets = self.lists.value_offsets();
        &self.values.values()[offsets[row] as usize..offsets[row + 1] as usize]
    }
}

/// Read access to a column of `features` values, one row a document, without copying.
#[derive(Debug, Clone)]
pub struct FeaturesView {
    nulls: Option<NullBuffer>,
    ids: ListArray,
    activations: ListArray,
    id_values: UInt32Array,
    activation_values: Float16Array,
}

impl FeaturesView {
    /// Wraps a struct array of [`FEATURES_TYPE`].
    ///
    /// # Errors
    /// An execution error that names `function` if the array is of another type, the ids of a row do not ascend, there are
    /// more or fewer activations, or a null is among either.
    pub fn try_new(function: &str, array: &ArrayRef) -> Result<Self> {
        let wrong = || {
            DataFusionError::Execution(format!(
                "{function}: expected a features value (struct of ids and activations), got {}",
                array.data_type()
            ))
        };
        let features: &StructArray = array.as_struct_opt().ok_or_else(wrong)?;
        let column = |name: &str| -> Result<ListArray> {
            let list = features.column_by_name(name).ok_or_else(wrong)?;
            Ok(list.as_list_opt::<i32>().ok_or_else(wrong)?.clone())
        };
        let (ids, activations) = (column("ids")?, column("activations")?);
        let id_values = ids.values().as_primitive_opt::<UInt32Type>().ok_or_else(wrong)?.clone();
        let activation_values = activations.values().as_primitive_opt::<Float16Type>().ok_or_else(wrong)?.clone();
        check_items(function, &id_values)?;
        check_items(function, &activation_values)?;
        let view = Self { nulls: features.nulls().cloned(), ids, activations, id_values, activation_values };
        for row in 0..view.len() {
            check_ascending(function, view.ids(row))?;
            let (n_ids, n_activations) = (view.ids(row).len(), view.activations(row).len());
            if n_ids != n_activations {
                return exec_err!("{function}: a features value has {n_ids} ids but {n_activations} activations");
            }
        }
        Ok(view)
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether row `row` has no features value (never encoded), as opposed to an empty one.
    pub fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) || self.ids.is_null(row)
    }

    /// Ids of row `row`, ascending; empty for a null row.
    pub fn ids(&self, row: usize) -> &[FeatureId] {
        if self.is_null(row) {
            return &[];
        }
        let offsets = self.ids.value_offsets();
        &self.id_values.values()[offsets[row] as usize..offsets[row + 1] as usize]
    }

    /// Activations of row `row`, beside [`Self::ids`].
    pub fn activations(&self, row: usize) -> &[f16] {
        if self.is_null(row) || self.activations.is_null(row) {
            return &[];
        }
        let offsets = self.activations.value_offsets();
        &self.activation_values.values()[offsets[row] as usize..offsets[row + 1] as usize]
    }
}

#[cfg(test)]
mod tests {
    use crate::test_support::{answers, cells, error};

    fn made(ids: &str, activations: &str) -> String {
        let list = |items: &str, item: &str| format!("arrow_cast({items}, 'List({item})')");
        format!("named_struct('ids', {}, 'activations', {})", list(ids, "UInt32"), list(activations, "Float16"))
    }

    #[tokio::test]
    async fn features_values_that_a_query_makes_are_checked() {
        let source = answers();
        let of = |ids: &str, activations: &str| format!("SELECT activation({}, 2)", made(ids, activations));
        assert_eq!(cells(&source, of("[0, 2]", "[0.5, 1.5]")).await.unwrap(), [["1.5"]]);
        let message = error(&source, of("[2, 0]", "[0.5, 1.5]")).await;
        assert!(
            message.contains("activation: ids of a features value must ascend, each once, but 2 comes before 0"),
            "{message}"
        );
        let message = error(&source, of("[0, 2]", "[0.5]")).await;
        assert!(message.contains("a features value has 2 ids but 1 activations"), "{message}");
        for (ids, activations) in [("[0, NULL]", "[0.5, 1.5]"), ("[0, 2]", "[0.5, NULL]")] {
            let message = error(&source, of(ids, activations)).await;
            assert!(
                message.contains("activation: a features value has a null among its ids or activations"),
                "{message}"
            );
        }
        let set = format!("SELECT {} AS features", made("[1, NULL]", "[1, 1]")).replace('\'', "''");
        let message = error(&source, format!("SELECT * FROM diff('{set}', 'answers')")).await;
        assert!(message.contains("diff: a features value has a null among its ids"), "{message}");
        let set = format!("SELECT {} AS features", made("[1, 1]", "[1, 1]")).replace('\'', "''");
        let message = error(&source, format!("SELECT * FROM correlate('{set}')")).await;
        assert!(message.contains("correlate: ids of a features value must ascend"), "{message}");
    }
}
