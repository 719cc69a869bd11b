//! What several scalar functions share.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use half::f16;

use crate::SharedSource;
use crate::args::literal;
use crate::catalog::{FeatureCatalog, FeatureRef};
use crate::docs::FunctionDoc;
use crate::features::FeatureId;

/// The source inside a function; equal if it is the same one.
#[derive(Debug, Clone)]
pub(crate) struct Source(pub(crate) SharedSource);

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Source {}

impl Hash for Source {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).cast::<()>().hash(state);
    }
}

/// Accepts a features value as argument `name`.
pub(crate) fn check_features(function: &str, name: &str, data_type: &DataType) -> Result<DataType> {
    if let DataType::Struct(fields) = data_type {
        let has = |field: &str, item: &DataType| {
            fields.find(field).is_some_and(|(_, field)| match field.data_type() {
                DataType::List(list) => list.data_type() == item,
                _ => false,
            })
        };
        if has("ids", &DataType::UInt32) && has("activations", &DataType::Float16) {
            return Ok(data_type.clone());
        }
    }
    plan_err!(
        "{function}: expected a features value as '{name}', such as a corpus's column features or encode('some text'), \
         got {data_type}"
    )
}

/// Accepts a feature's id or name; ids become `Int64`, names `Utf8`.
pub(crate) fn check_name(function: &str, name: &str, data_type: &DataType) -> Result<DataType> {
    match data_type {
        integer if integer.is_integer() => Ok(DataType::Int64),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => Ok(DataType::Utf8),
        DataType::Dictionary(_, value) => check_name(function, name, value),
        other => plan_err!("{function}: expected the id, label or concept of a feature as '{name}', got {other}"),
    }
}

/// Checks the number of arguments.
pub(crate) fn check_count(
    function: &str,
    syntax: &str,
    n: usize,
    allowed: std::ops::RangeInclusive<usize>,
) -> Result<()> {
    if allowed.contains(&n) { Ok(()) } else { plan_err!("{function}: expected {syntax}, got {n} arguments") }
}

/// Features and weights that one name stands for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Members {
    /// Any of them makes it present; ids ascending.
    pub(crate) positive: Vec<(FeatureId, f32)>,
    /// Any of them makes it absent; ids ascending.
    pub(crate) negative: Vec<FeatureId>,
}

impl Members {
    pub(crate) fn new(reference: FeatureRef) -> Self {
        let members = match reference {
            FeatureRef::Feature(id) => vec![(id, 1.0)],
            FeatureRef::Concept(members) => members,
        };
        let mut positive: Vec<(FeatureId, f32)> = members.iter().copied().filter(|(_, weight)| *weight > 0.0).collect();
        let mut negative: Vec<FeatureId> =
            members.iter().filter(|(_, weight)| *weight < 0.0).map(|(id, _)| *id).collect();
        positive.sort_by_key(|(id, _)| *id);
        negative.sort_unstable();
        Self { positive, negative }
    }

    /// What a constant stands for: a number is an id, a text a name first.
    pub(crate) fn of(function: &str, catalog: &FeatureCatalog, value: &ScalarValue) -> Result<Self> {
        let reference = match value.try_as_str() {
            Some(Some(name)) => catalog.resolve_text(function, name)?,
            _ => catalog.resolve(function, &value.to_string())?,
        };
        Ok(Self::new(reference))
    }

    /// Whether a document with these features (ascending) has it.
    pub(crate) fn present(&self, ids: &[FeatureId]) -> bool {
        let has = |id: &FeatureId| ids.binary_search(id).is_ok();
        self.positive.iter().any(|(id, _)| has(id)) && !self.negative.iter().any(has)
    }

    /// Weighted maximum of the members' activations, which may be below 0; 0 where it is not present.
    pub(crate) fn activation(&self, ids: &[FeatureId], activations: &[f16]) -> f32 {
        if !self.present(ids) {
            return 0.0;
        }
        let of = |(id, weight): &(FeatureId, f32)| Some(weight * activations[ids.binary_search(id).ok()?].to_f32());
        self.positive.iter().filter_map(of).reduce(f32::max).unwrap_or(0.0)
    }
}

/// What an argument that names features stands for, row by row.
pub(crate) enum Names {
    /// The same for all rows; `None` for null.
    One(Option<Arc<Members>>),
    /// One a row.
    Each(Vec<Option<Arc<Members>>>),
}

impl Names {
    /// Resolves a constant or a column of ids or names; each distinct one is looked up once.
    pub(crate) fn resolve(function: &str, catalog: &FeatureCatalog, value: &ColumnarValue) -> Result<Self> {
        let array = match value {
            ColumnarValue::Scalar(scalar) => {
                return Ok(Self::One(resolve_constant(function, catalog, scalar)?.map(Arc::new)));
            }
            ColumnarValue::Array(array) => array,
        };
        let is_id = array.data_type().is_integer();
        let names = cast(array, &DataType::Utf8)?;
        let members_of = |name: &str| {
            let reference = if is_id { catalog.resolve(function, name) } else { catalog.resolve_text(function, name) };
            reference.map(|reference| Arc::new(Members::new(reference)))
        };
        let mut known: HashMap<&str, Arc<Members>> = HashMap::new();
        let mut rows = Vec::with_capacity(array.len());
        for name in names.as_string::<i32>() {
            let Some(name) = name else {
                rows.push(None);
                continue;
            };
            let members = match known.entry(name) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(members_of(name)?),
            };
            rows.push(Some(Arc::clone(members)));
        }
        Ok(Self::Each(rows))
    }

    /// For row `row`.
    pub(crate) fn get(&self, row: usize) -> Option<&Members> {
        match self {
            Self::One(members) => members.as_deref(),
            Self::Each(rows) => rows[row].as_deref(),
        }
    }
}

/// What a constant stands for; `None` for null.
pub(crate) fn resolve_constant(
    function: &str,
    catalog: &FeatureCatalog,
    value: &ScalarValue,
) -> Result<Option<Members>> {
    if value.is_null() { Ok(None) } else { Members::of(function, catalog, value).map(Some) }
}

/// What the functions of something of a document and of a feature differ in.
pub(crate) trait OfFeature: Debug + PartialEq + Eq + Hash + Send + Sync + 'static {
    /// User documentation.
    const DOC: FunctionDoc;
    /// Type of the result.
    const RESULT: DataType;
    /// Checks the first argument and says what it is cast to.
    fn coerce_first(data_type: &DataType) -> Result<DataType>;
    /// Type of a third argument, if there may be one, and what gives such a value.
    fn third() -> Option<(DataType, &'static str)> {
        None
    }
    /// Results of all rows; `first` is the first argument, `third` the third.
    fn compute(source: &SharedSource, first: &ArrayRef, names: &Names, third: Option<&ArrayRef>) -> Result<ArrayRef>;
    /// What says the same of a constant feature, if anything does; null has no members.
    fn simplify(_first: &Expr, _members: Option<&Members>) -> Option<Expr> {
        None
    }
}

/// Such a function as the planner sees it. An unknown feature is an error of the plan.
#[derive(Debug, PartialEq, Eq, Hash)]
struct FeatureScalar<F> {
    source: Source,
    signature: Signature,
    function: PhantomData<F>,
}

/// The function over `source`.
pub(crate) fn udf_of_feature<F: OfFeature>(source: &SharedSource) -> ScalarUDF {
    let signature = Signature::user_defined(Volatility::Stable);
    ScalarUDF::from(FeatureScalar::<F> { source: Source(Arc::clone(source)), signature, function: PhantomData })
}

impl<F: OfFeature> ScalarUDFImpl for FeatureScalar<F> {
    fn name(&self) -> &str {
        F::DOC.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let third = F::third();
        check_count(F::DOC.name, F::DOC.syntax, types.len(), 2..=2 + usize::from(third.is_some()))?;
        let mut coerced = vec![F::coerce_first(&types[0])?, check_name(F::DOC.name, "feature", &types[1])?];
        if let (Some((wanted, gives)), Some(found)) = (third, types.get(2)) {
            if *found != wanted && *found != DataType::Null {
                return plan_err!("{}: expected {gives} as third argument, got {found}", F::DOC.name);
            }
            coerced.push(wanted);
        }
        Ok(coerced)
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(F::RESULT)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        if let Some(Some(name)) = args.scalar_arguments.get(1) {
            resolve_constant(F::DOC.name, &self.source.0.catalog(), name)?;
        }
        Ok(Arc::new(Field::new(F::DOC.name, F::RESULT, true)))
    }

    fn simplify(&self, args: Vec<Expr>, _context: &SimplifyContext) -> Result<ExprSimplifyResult> {
        if let [first, name] = args.as_slice()
            && let Some(name) = literal(name)
            && let members = resolve_constant(F::DOC.name, &self.source.0.catalog(), name)?
            && let Some(simplified) = F::simplify(first, members.as_ref())
        {
            return Ok(ExprSimplifyResult::Simplified(simplified));
        }
        Ok(ExprSimplifyResult::Original(args))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let names = Names::resolve(F::DOC.name, &self.source.0.catalog(), &args.args[1])?;
        let first = args.args[0].to_array(args.number_rows)?;
        let third = args.args.get(2).map(|third| third.to_array(args.number_rows)).transpose()?;
        F::compute(&self.source.0, &first, &names, third.as_ref()).map(ColumnarValue::Array)
    }
}

/// Runs work that blocks or takes long from within a query, so that other tasks of this thread go elsewhere.
pub(crate) fn off_runtime<T>(work: impl FnOnce() -> T) -> T {
    let multi_threaded = tokio::runtime::Handle::try_current()
        .is_ok_and(|runtime| runtime.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread);
    if multi_threaded { tokio::task::block_in_place(work) } else { work() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_keep_their_sign() {
        let members = Members::new(FeatureRef::Concept(vec![(1, 1.0), (3, 1.0)]));
        let halves = |values: [f32; 2]| values.map(f16::from_f32);
        assert_eq!(members.activation(&[1, 2], &halves([-2.5, 4.0])), -2.5);
        assert_eq!(members.activation(&[1, 3], &halves([-2.5, -1.0])), -1.0);
        assert_eq!(members.activation(&[2, 4], &halves([-2.5, 4.0])), 0.0);
    }
}
