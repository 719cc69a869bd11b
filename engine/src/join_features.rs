//! Several dictionaries of a document as one: their ids do not overlap, so that joining is concatenating in the right order.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, Float16Array, ListArray, StructArray, UInt32Array};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields, UInt32Type};
use datafusion::common::{exec_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use saequel_udfs::features::{ACTIVATIONS_TYPE, FEATURES_TYPE, FeaturesView, IDS_TYPE};

/// `join_ids(ids, ids, ...)`: the lists of a row as one, ascending; null where all are.
pub(crate) static JOIN_IDS: LazyLock<ScalarUDF> = LazyLock::new(|| ScalarUDF::new_from_impl(Join::new(false)));

/// `join_features(features, features, ...)`: the same for `features` values.
pub(crate) static JOIN_FEATURES: LazyLock<ScalarUDF> = LazyLock::new(|| ScalarUDF::new_from_impl(Join::new(true)));

#[derive(Debug, PartialEq, Eq, Hash)]
struct Join {
    features: bool,
    signature: Signature,
}

impl Join {
    fn new(features: bool) -> Self {
        Self { features, signature: Signature::variadic_any(Volatility::Immutable) }
    }

    fn data_type(&self) -> &'static DataType {
        if self.features { &FEATURES_TYPE } else { &IDS_TYPE }
    }
}

impl ScalarUDFImpl for Join {
    fn name(&self) -> &'static str {
        if self.features { "join_features" } else { "join_ids" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types.iter().find(|found| *found != self.data_type()) {
            Some(other) => plan_err!("{}: expected {}, got {other}", self.name(), self.data_type()),
            None => Ok(self.data_type().clone()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let array: ArrayRef = if self.features {
            join_features(&arrays)?
        } else {
            let lists = arrays.iter().map(|array| array.as_list_opt::<i32>()).collect::<Option<Vec<_>>>();
            match lists {
                Some(lists) => Arc::new(join_ids(&lists)?),
                None => return exec_err!("join_ids: expected lists"),
            }
        };
        Ok(ColumnarValue::Array(array))
    }
}

/// In which order the inputs come, by the first id that each has; `ids` gives those of an input's row. It is the same for
/// all rows of dictionaries, whose ids do not overlap.
fn order<'a>(n: usize, n_rows: usize, ids: &impl Fn(usize, usize) -> &'a [u32]) -> Vec<usize> {
    let first = |&i: &usize| (0..n_rows).find_map(|row| ids(i, row).first().copied());
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_cached_key(|i| first(i).unwrap_or(u32::MAX));
    order
}

/// Whether the inputs' ids in `row` ascend in that order.
fn ascends<'a>(order: &[usize], row: usize, ids: &impl Fn(usize, usize) -> &'a [u32]) -> bool {
    let mut last = None;
    order.iter().map(|&i| ids(i, row)).filter(|ids| !ids.is_empty()).all(|ids| {
        let ascends = last < Some(ids[0]);
        last = ids.last().copied();
        ascends
    })
}

/// The order for a row: the one of all rows, or its own where a query made ids in another.
fn order_in<'a, 'o>(
    order_of_all: &'o [usize],
    row: usize,
    ids: &impl Fn(usize, usize) -> &'a [u32],
) -> Cow<'o, [usize]> {
    if ascends(order_of_all, row, ids) {
        return Cow::Borrowed(order_of_all);
    }
    let mut own = order_of_all.to_vec();
    own.sort_by_key(|&i| ids(i, row).first().copied());
    Cow::Owned(own)
}

fn join_ids(lists: &[&ListArray]) -> Result<ListArray> {
    let mut values = Vec::with_capacity(lists.len());
    for list in lists {
        let Some(ids) = list.values().as_primitive_opt::<UInt32Type>() else {
            return exec_err!("join_ids: expected lists of feature ids");
        };
        values.push(ids);
    }
    let n_rows = lists.first().map_or(0, |list| list.len());
    let row_of = |i: usize, row: usize| -> &[u32] {
        if lists[i].is_null(row) {
            return &[];
        }
        let offsets = lists[i].value_offsets();
        &values[i].values()[offsets[row] as usize..offsets[row + 1] as usize]
    };
    let order_of_all = order(lists.len(), n_rows, &row_of);
    let mut joined = Vec::with_capacity(values.iter().map(|ids| ids.len()).sum());
    let mut lengths = Vec::with_capacity(n_rows);
    let mut valid = Vec::with_capacity(n_rows);
    for row in 0..n_rows {
        let before = joined.len();
        for &i in order_in(&order_of_all, row, &row_of).iter() {
            joined.extend_from_slice(row_of(i, row));
        }
        lengths.push(joined.len() - before);
        valid.push(lists.iter().any(|list| list.is_valid(row)));
    }
    let item = Arc::new(Field::new("item", DataType::UInt32, true));
    let offsets = OffsetBuffer::from_lengths(lengths);
    Ok(ListArray::try_new(item, offsets, Arc::new(UInt32Array::from(joined)), Some(NullBuffer::from(valid)))?)
}

/// `features` values of several dictionaries as one each.
pub(crate) fn join_features(arrays: &[ArrayRef]) -> Result<ArrayRef> {
    let views = arrays.iter().map(|array| FeaturesView::try_new("join_features", array)).collect::<Result<Vec<_>>>()?;
    let n_rows = views.first().map_or(0, FeaturesView::len);
    let row_of = |i: usize, row: usize| views[i].ids(row);
    let order_of_all = order(views.len(), n_rows, &row_of);
    let (mut ids, mut activations) = (Vec::new(), Vec::new());
    let mut lengths = Vec::with_capacity(n_rows);
    let mut valid = Vec::with_capacity(n_rows);
    for row in 0..n_rows {
        let before = ids.len();
        for &i in order_in(&order_of_all, row, &row_of).iter() {
            ids.extend_from_slice(views[i].ids(row));
            activations.extend_from_slice(views[i].activations(row));
        }
        lengths.push(ids.len() - before);
        valid.push(views.iter().any(|view| !view.is_null(row)));
    }
    let offsets = OffsetBuffer::from_lengths(lengths);
    let list = |of: &DataType, values: ArrayRef| -> Result<ArrayRef> {
        let DataType::List(item) = of else { return exec_err!("join_features: no list") };
        Ok(Arc::new(ListArray::try_new(Arc::clone(item), offsets.clone(), values, None)?))
    };
    let columns = vec![
        list(&IDS_TYPE, Arc::new(UInt32Array::from(ids)))?,
        list(&ACTIVATIONS_TYPE, Arc::new(Float16Array::from(activations)))?,
    ];
    let DataType::Struct(fields) = &*FEATURES_TYPE else { return exec_err!("join_features: no struct") };
    Ok(Arc::new(StructArray::try_new(Fields::clone(fields), columns, Some(NullBuffer::from(valid)))?))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Float16Type;
    use half::f16;

    use super::*;

    fn ids(rows: Vec<Option<Vec<u32>>>) -> ListArray {
        ListArray::from_iter_primitive::<UInt32Type, _, _>(
            rows.into_iter().map(|row| row.map(|ids| ids.into_iter().map(Some))),
        )
    }

    #[test]
    fn rows_are_joined_ascending() {
        let (high, low) = (ids(vec![Some(vec![10, 12]), None, Some(vec![])]), ids(vec![Some(vec![1, 3]), None, None]));
        let joined = join_ids(&[&high, &low]).unwrap();
        assert_eq!(joined, ids(vec![Some(vec![1, 3, 10, 12]), None, Some(vec![])]));
        // What a query made may be in another order in each row.
        let (one, other) =
            (ids(vec![Some(vec![1]), Some(vec![9]), None]), ids(vec![Some(vec![5]), Some(vec![2, 3]), None]));
        let joined = join_ids(&[&one, &other]).unwrap();
        assert_eq!(joined, ids(vec![Some(vec![1, 5]), Some(vec![2, 3, 9]), None]));
    }

    #[test]
    fn activations_follow_their_ids() {
        let value = |id: u32| f16::from_f32(id as f32 / 2.0);
        let features = |rows: Vec<Option<Vec<u32>>>| -> ArrayRef {
            let ids = ids(rows.clone());
            let activations = ListArray::from_iter_primitive::<Float16Type, _, _>(
                rows.into_iter().map(|row| row.map(|ids| ids.into_iter().map(|id| Some(value(id))))),
            );
            let DataType::Struct(fields) = &*FEATURES_TYPE else { unreachable!() };
            let nulls = ids.nulls().cloned();
            Arc::new(StructArray::new(fields.clone(), vec![Arc::new(ids), Arc::new(activations)], nulls))
        };
        let joined =
            join_features(&[features(vec![Some(vec![10]), None]), features(vec![Some(vec![1, 3]), None])]).unwrap();
        let view = FeaturesView::try_new("test", &joined).unwrap();
        assert_eq!(view.ids(0), [1, 3, 10]);
        assert_eq!(view.activations(0), [value(1), value(3), value(10)]);
        assert!(view.is_null(1));
    }
}
