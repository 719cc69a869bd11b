//! What the aggregates share: the function as the planner sees it, and accumulators over [`GroupState`], for one group and
//! for many.

use std::fmt::Debug;
use std::hash::Hash;
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Float64Builder, ListBuilder, PrimitiveBuilder, UInt32Array,
    UInt32Builder, UInt64Array, UInt64Builder,
};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Field, FieldRef, Float64Type, UInt32Type, UInt64Type};
use datafusion::common::{ScalarValue, internal_err, not_impl_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};
use datafusion::physical_expr::expressions::Literal;

use crate::SharedSource;
use crate::docs::FunctionDoc;
use crate::features::FeaturesView;
use crate::kernels::sums::GroupState;
use crate::rows::{Columns, list_of};
use crate::scalar::common::{Source, check_count, check_features};

/// What the aggregates differ in; a value is one call in a query, with its constants.
pub(crate) trait Aggregation: Debug + Clone + PartialEq + Eq + Hash + Send + Sync + 'static {
    /// User documentation.
    const DOC: FunctionDoc;
    /// How many arguments there may be, a features value first.
    const N_ARGUMENTS: RangeInclusive<usize>;
    /// Checks the other arguments and says what they are cast to.
    fn coerce(others: &[DataType]) -> Result<Vec<DataType>>;
    /// Columns of the rows of a result, without rows.
    fn columns() -> Columns;
    /// Reads the constants.
    fn new(source: Source, args: &AccumulatorArgs) -> Result<Self>;
    /// Adds row `row`, which has features, to a group; `values` are all arguments.
    fn update(&self, state: &mut GroupState, features: &FeaturesView, values: &[ArrayRef], row: usize);
    /// Results of groups, one each.
    fn finish(&self, groups: &[GroupState]) -> Result<ArrayRef>;
}

/// An aggregate as the planner sees it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct FeatureAggregate<A> {
    source: Source,
    signature: Signature,
    aggregation: PhantomData<A>,
}

/// The aggregate over `source`.
pub(crate) fn udaf<A: Aggregation>(source: &SharedSource) -> AggregateUDF {
    let signature = Signature::user_defined(Volatility::Stable);
    let source = Source(Arc::clone(source));
    AggregateUDF::from(FeatureAggregate::<A> { source, signature, aggregation: PhantomData })
}

impl<A: Aggregation> FeatureAggregate<A> {
    fn call(&self, args: &AccumulatorArgs) -> Result<A> {
        if args.is_distinct {
            return not_impl_err!("{}: DISTINCT is not supported", A::DOC.name);
        }
        A::new(self.source.clone(), args)
    }
}

impl<A: Aggregation> AggregateUDFImpl for FeatureAggregate<A> {
    fn name(&self) -> &str {
        A::DOC.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        check_count(A::DOC.name, A::DOC.syntax, types.len(), A::N_ARGUMENTS)?;
        let mut coerced = vec![check_features(A::DOC.name, "features", &types[0])?];
        coerced.extend(A::coerce(&types[1..])?);
        Ok(coerced)
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(list_of(A::columns().fields()))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(state_fields(&args))
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Single::new(self.call(&args)?)))
    }

    fn groups_accumulator_supported(&self, _args: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(Groups::new(self.call(&args)?)))
    }
}

fn list_type(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(item, true)))
}

/// Columns of a state: see [`GroupState`].
fn state_fields(args: &StateFieldsArgs) -> Vec<FieldRef> {
    let columns = [
        ("n_docs", DataType::UInt64),
        ("keys", DataType::UInt64),
        ("sums", DataType::Float64),
        ("kept_ids", DataType::UInt32),
        ("kept_lengths", DataType::UInt32),
    ];
    let field = |(name, item)| Arc::new(Field::new(format!("{}[{name}]", args.name), list_type(item), true));
    columns.into_iter().map(field).collect()
}

fn append<T: ArrowPrimitiveType>(
    lists: &mut ListBuilder<PrimitiveBuilder<T>>,
    values: impl IntoIterator<Item = T::Native>,
) {
    values.into_iter().for_each(|value| lists.values().append_value(value));
    lists.append(true);
}

fn states_to_arrays(states: &[GroupState]) -> Vec<ArrayRef> {
    let mut n_docs = ListBuilder::new(UInt64Builder::new());
    let mut keys = ListBuilder::new(UInt64Builder::new());
    let mut sums = ListBuilder::new(Float64Builder::new());
    let mut kept_ids = ListBuilder::new(UInt32Builder::new());
    let mut kept_lengths = ListBuilder::new(UInt32Builder::new());
    for state in states {
        append(&mut n_docs, state.n_docs);
        let mut entries: Vec<(u64, [f64; 2])> = state.sums.iter().map(|(key, sums)| (*key, *sums)).collect();
        entries.sort_unstable_by_key(|(key, _)| *key);
        append(&mut keys, entries.iter().map(|(key, _)| *key));
        append(&mut sums, entries.iter().flat_map(|(_, sums)| *sums));
        append(&mut kept_ids, state.kept_ids.iter().copied());
        append(&mut kept_lengths, state.kept_lengths.iter().copied());
    }
    vec![
        Arc::new(n_docs.finish()),
        Arc::new(keys.finish()),
        Arc::new(sums.finish()),
        Arc::new(kept_ids.finish()),
        Arc::new(kept_lengths.finish()),
    ]
}

/// Reads states back, one row each.
struct States<'a> {
    lists: Vec<&'a arrow::array::ListArray>,
    n_docs: &'a UInt64Array,
    keys: &'a UInt64Array,
    sums: &'a Float64Array,
    kept_ids: &'a UInt32Array,
    kept_lengths: &'a UInt32Array,
}

impl<'a> States<'a> {
    fn try_new(function: &str, arrays: &'a [ArrayRef]) -> Result<Self> {
        let lists: Option<Vec<_>> = arrays.iter().map(|array| array.as_list_opt::<i32>()).collect();
        let Some(lists) = lists.filter(|lists| lists.len() == 5) else {
            return internal_err!("{function}: a state is five lists, got {}", arrays.len());
        };
        let (Some(n_docs), Some(keys), Some(sums), Some(kept_ids), Some(kept_lengths)) = (
            lists[0].values().as_primitive_opt::<UInt64Type>(),
            lists[1].values().as_primitive_opt::<UInt64Type>(),
            lists[2].values().as_primitive_opt::<Float64Type>(),
            lists[3].values().as_primitive_opt::<UInt32Type>(),
            lists[4].values().as_primitive_opt::<UInt32Type>(),
        ) else {
            return internal_err!("{function}: lists of a state have other types");
        };
        Ok(Self { lists, n_docs, keys, sums, kept_ids, kept_lengths })
    }

    fn range(&self, list: usize, row: usize) -> std::ops::Range<usize> {
        let offsets = self.lists[list].value_offsets();
        offsets[row] as usize..offsets[row + 1] as usize
    }

    /// State of row `row`; empty for null.
    fn get(&self, row: usize) -> GroupState {
        if self.lists.iter().any(|list| list.is_null(row)) {
            return GroupState::default();
        }
        let n_docs = &self.n_docs.values()[self.range(0, row)];
        let keys = self.keys.values()[self.range(1, row)].iter().copied();
        let sums = self.sums.values()[self.range(2, row)].chunks_exact(2).map(|pair| [pair[0], pair[1]]);
        GroupState {
            n_docs: [n_docs.first().copied().unwrap_or(0), n_docs.get(1).copied().unwrap_or(0)],
            sums: keys.zip(sums).collect(),
            kept_ids: self.kept_ids.values()[self.range(3, row)].to_vec(),
            kept_lengths: self.kept_lengths.values()[self.range(4, row)].to_vec(),
        }
    }
}

/// States of all groups of a query. Memory is added up as it grows, so that asking for it is cheap.
#[derive(Debug)]
struct Groups<A> {
    aggregation: A,
    states: Vec<GroupState>,
    bytes: usize,
}

impl<A: Aggregation> Groups<A> {
    fn new(aggregation: A) -> Self {
        Self { aggregation, states: Vec::new(), bytes: 0 }
    }

    fn change(&mut self, group: usize, change: impl FnOnce(&A, &mut GroupState)) {
        let state = &mut self.states[group];
        let before = state.bytes();
        change(&self.aggregation, state);
        self.bytes = (self.bytes + state.bytes()).saturating_sub(before);
    }

    fn grow(&mut self, n_groups: usize) {
        if n_groups > self.states.len() {
            self.bytes += (n_groups - self.states.len()) * size_of::<GroupState>();
            self.states.resize_with(n_groups, GroupState::default);
        }
    }

    fn take(&mut self, emit_to: EmitTo) -> Vec<GroupState> {
        let states = emit_to.take_needed(&mut self.states);
        self.bytes = self.bytes.saturating_sub(states.iter().map(GroupState::bytes).sum());
        states
    }
}

fn passes(filter: Option<&BooleanArray>, row: usize) -> bool {
    filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row))
}

impl<A: Aggregation> GroupsAccumulator for Groups<A> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.grow(total_num_groups);
        let features = FeaturesView::try_new(A::DOC.name, &values[0])?;
        for (row, group) in group_indices.iter().enumerate() {
            if passes(opt_filter, row) && !features.is_null(row) {
                self.change(*group, |aggregation, state| aggregation.update(state, &features, values, row));
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let states = self.take(emit_to);
        self.aggregation.finish(&states)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(states_to_arrays(&self.take(emit_to)))
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.grow(total_num_groups);
        let states = States::try_new(A::DOC.name, values)?;
        for (row, group) in group_indices.iter().enumerate() {
            if passes(opt_filter, row) {
                let other = states.get(row);
                self.change(*group, |_, state| state.merge(&other));
            }
        }
        Ok(())
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.bytes
    }
}

/// The same for a query without groups.
#[derive(Debug)]
struct Single<A>(Groups<A>);

impl<A: Aggregation> Single<A> {
    fn new(aggregation: A) -> Self {
        let mut groups = Groups::new(aggregation);
        groups.grow(1);
        Self(groups)
    }
}

impl<A: Aggregation> Accumulator for Single<A> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let groups = vec![0; values.first().map_or(0, |values| values.len())];
        self.0.update_batch(values, &groups, None, 1)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        // The state stays, as a window asks again and again.
        ScalarValue::try_from_array(&self.0.aggregation.finish(&self.0.states)?, 0)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        states_to_arrays(&self.0.states).iter().map(|list| ScalarValue::try_from_array(list, 0)).collect()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let groups = vec![0; states.first().map_or(0, |states| states.len())];
        self.0.merge_batch(states, &groups, None, 1)
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.0.size()
    }
}

/// The constant that is argument `position`, if it is given.
pub(crate) fn constant<'a>(
    function: &str,
    name: &str,
    args: &'a AccumulatorArgs,
    position: usize,
) -> Result<Option<&'a ScalarValue>> {
    let Some(expr) = args.exprs.get(position) else { return Ok(None) };
    match expr.downcast_ref::<Literal>() {
        Some(literal) => Ok(Some(literal.value())),
        None => plan_err!("{function}: expected a constant for '{name}', got {expr}"),
    }
}
