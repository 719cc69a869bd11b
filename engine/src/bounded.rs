//! Functions of DataFusion that make much of little, with an end: `repeat('a', 2000000000)` would take the whole process with
//! it, since what a function makes is not accounted for in the memory pool.
//!
//! Each is wrapped in one that first adds up what it would make of a batch of rows, and refuses what is too much.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Int64Type, IntervalMonthDayNanoType, TimeUnit};
use datafusion::error::Result;
use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ExpressionPlacement, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature,
};
use datafusion::prelude::{Expr, SessionContext};

use crate::error::{Error, ErrorKind};

/// Bytes that a call may make of one batch of rows.
const MAX_BYTES: u64 = 64 << 20;
/// Steps that a call may take for one batch of rows, where they grow as the product of two lengths.
const MAX_STEPS: u64 = 1 << 32;
/// Bytes of a list's item of which nothing else is known.
const ITEM_BYTES: u64 = 8;

/// What the size of a result follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Growth {
    /// First argument, as often as the second says.
    Times,
    /// The second argument is the length.
    Length,
    /// From the first to the second argument in steps of the third.
    Range,
    /// All arguments, one after the other.
    Sum,
    /// The second argument between the items of the first.
    Joined,
    /// The third argument wherever the second is found in the first.
    Replaced,
    /// As many steps as the lengths of both arguments multiplied.
    Product,
}

/// Functions by their names.
const GROWING: [(&str, Growth); 14] = [
    ("repeat", Growth::Times),
    ("array_repeat", Growth::Times),
    ("lpad", Growth::Length),
    ("rpad", Growth::Length),
    ("array_resize", Growth::Length),
    ("range", Growth::Range),
    ("generate_series", Growth::Range),
    ("concat", Growth::Sum),
    ("concat_ws", Growth::Sum),
    ("array_concat", Growth::Sum),
    ("array_to_string", Growth::Joined),
    ("replace", Growth::Replaced),
    ("regexp_replace", Growth::Replaced),
    ("levenshtein", Growth::Product),
];

static BOUNDED: LazyLock<Vec<ScalarUDF>> = LazyLock::new(|| {
    let all = SessionStateDefaults::default_scalar_functions();
    let growth = |name: &str| GROWING.iter().find(|(growing, _)| *growing == name).map(|(_, growth)| *growth);
    let wrapped = all.into_iter().filter_map(|inner| {
        let growth = growth(inner.name())?;
        Some(ScalarUDF::new_from_impl(Bounded { inner, growth }))
    });
    wrapped.collect()
});

/// Puts the bounded functions in the place of DataFusion's.
pub(crate) fn register(session: &SessionContext) {
    for function in BOUNDED.iter() {
        session.register_udf(function.clone());
    }
}

/// A function with a limit. It is not simplified by the function's own rules, which would bring back the unlimited one.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    growth: Growth,
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        self.inner.placement(args)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        // A call whose arguments are all constant is evaluated once.
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let limit = if self.growth == Growth::Product { MAX_STEPS } else { MAX_BYTES };
        let wanted = size(self.growth, &args.args, rows)?;
        if wanted > limit {
            let (name, what) = (self.name(), if limit == MAX_STEPS { "steps" } else { "bytes" });
            let message = format!(
                "{name} would take {wanted} {what} for {rows} rows at once; a function may take {limit}, whatever memory \
                 there is: ask for less at once"
            );
            return Err(Error::new(ErrorKind::Resources, message).into());
        }
        self.inner.invoke_with_args(args)
    }
}

/// Bytes, or steps, of the result for all rows.
fn size(growth: Growth, args: &[ColumnarValue], rows: usize) -> Result<u64> {
    let array = |at: usize| -> Result<Option<ArrayRef>> { args.get(at).map(|arg| arg.to_array(rows)).transpose() };
    let sum = |of: &dyn Fn(usize) -> u64| (0..rows).fold(0_u64, |sum, row| sum.saturating_add(of(row)));
    Ok(match growth {
        Growth::Sum => {
            let mut total = 0_u64;
            for arg in args {
                let bytes = match arg {
                    ColumnarValue::Array(array) => array.to_data().get_slice_memory_size()? as u64,
                    // A constant, for every row.
                    scalar => {
                        let one = scalar.to_array(1)?.to_data().get_slice_memory_size()? as u64;
                        one.saturating_mul(rows as u64)
                    }
                };
                total = total.saturating_add(bytes);
            }
            total
        }
        Growth::Times => {
            let (Some(value), Some(times)) = (array(0)?, array(1)?) else { return Ok(0) };
            let (each, times) = (Lengths::of(&value)?, numbers(&times)?);
            sum(&|row| times(row).saturating_mul(each.bytes(row)))
        }
        Growth::Length => {
            let (Some(_), Some(length)) = (array(0)?, array(1)?) else { return Ok(0) };
            let item = if matches!(args[0].data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
                1
            } else {
                ITEM_BYTES
            };
            let length = numbers(&length)?;
            sum(&|row| length(row).saturating_mul(item))
        }
        Growth::Range => {
            let (start, stop, step) = match args.len() {
                1 => (None, array(0)?, None),
                _ => (array(0)?, array(1)?, array(2)?),
            };
            let start = start.map(positions).transpose()?;
            let Some(stop) = stop.map(positions).transpose()? else { return Ok(0) };
            let step = step.map(positions).transpose()?;
            sum(&|row| {
                let (start, stop) = (start.as_ref().map_or(Some(0), |start| start(row)), stop(row));
                let step = step.as_ref().map_or(Some(1), |step| step(row));
                let (Some(start), Some(stop), Some(step)) = (start, stop, step) else { return 0 };
                let ahead = (step > 0 && stop >= start) || (step < 0 && stop <= start);
                if !ahead {
                    return 0;
                }
                let items = stop.abs_diff(start) / step.unsigned_abs() + 1;
                u64::try_from(items).unwrap_or(u64::MAX).saturating_mul(ITEM_BYTES)
            })
        }
        Growth::Joined => {
            let (Some(list), Some(between)) = (array(0)?, array(1)?) else { return Ok(0) };
            let (list, between) = (Lengths::of(&list)?, Lengths::of(&between)?);
            // Every item has a byte at least; numbers have fewer items than bytes.
            sum(&|row| list.bytes(row).saturating_add(list.items(row).saturating_mul(between.bytes(row))))
        }
        Growth::Replaced => {
            let (Some(text), Some(by)) = (array(0)?, array(2)?) else { return Ok(0) };
            let (text, by) = (Lengths::of(&text)?, Lengths::of(&by)?);
            // At worst every character is found; what is put in its place may hold it again.
            sum(&|row| {
                let (text, by) = (text.bytes(row), by.bytes(row));
                if by <= 64 { text } else { text.saturating_add(1).saturating_mul(by) / 64 }
            })
        }
        Growth::Product => {
            let (Some(one), Some(other)) = (array(0)?, array(1)?) else { return Ok(0) };
            let (one, other) = (Lengths::of(&one)?, Lengths::of(&other)?);
            sum(&|row| one.bytes(row).saturating_mul(other.bytes(row)))
        }
    })
}

/// How long the values of an array are.
enum Lengths {
    /// Of strings and lists, as text or as variable bytes.
    Offsets { ends: Vec<u64>, item_bytes: u64 },
    /// Of anything else.
    Same(u64),
}

impl Lengths {
    fn of(array: &ArrayRef) -> Result<Self> {
        let ends = |offsets: &mut dyn Iterator<Item = u64>| offsets.collect::<Vec<u64>>();
        Ok(match array.data_type() {
            DataType::Utf8 => {
                let offsets = array.as_string::<i32>().offsets().clone();
                Self::Offsets { ends: ends(&mut offsets.iter().map(|&end| end as u64)), item_bytes: 1 }
            }
            DataType::LargeUtf8 => {
                let offsets = array.as_string::<i64>().offsets().clone();
                Self::Offsets { ends: ends(&mut offsets.iter().map(|&end| end as u64)), item_bytes: 1 }
            }
            DataType::Utf8View => Self::of(&cast(array, &DataType::LargeUtf8)?)?,
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                let item_bytes = item_bytes(list.values())?;
                Self::Offsets { ends: ends(&mut list.offsets().iter().map(|&end| end as u64)), item_bytes }
            }
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                let item_bytes = item_bytes(list.values())?;
                Self::Offsets { ends: ends(&mut list.offsets().iter().map(|&end| end as u64)), item_bytes }
            }
            _ => {
                let bytes = array.to_data().get_slice_memory_size()? as u64;
                Self::Same((bytes / (array.len().max(1) as u64)).max(ITEM_BYTES))
            }
        })
    }

    fn items(&self, row: usize) -> u64 {
        match self {
            Self::Offsets { ends, .. } => match (ends.get(row), ends.get(row + 1)) {
                (Some(start), Some(end)) => end.saturating_sub(*start),
                _ => 0,
            },
            Self::Same(bytes) => *bytes,
        }
    }

    fn bytes(&self, row: usize) -> u64 {
        match self {
            Self::Offsets { item_bytes, .. } => self.items(row).saturating_mul(*item_bytes),
            Self::Same(bytes) => *bytes,
        }
    }
}

/// Bytes of a list's item, on average.
fn item_bytes(values: &ArrayRef) -> Result<u64> {
    let bytes = values.to_data().get_slice_memory_size()? as u64;
    Ok((bytes / (values.len().max(1) as u64)).max(ITEM_BYTES))
}

/// A count for each row; nothing and negative ones are 0.
fn numbers(array: &ArrayRef) -> Result<impl Fn(usize) -> u64 + use<>> {
    let array = cast(array, &DataType::Int64)?;
    Ok(move |row: usize| {
        let numbers = array.as_primitive::<Int64Type>();
        if numbers.is_null(row) { 0 } else { u64::try_from(numbers.value(row)).unwrap_or(0) }
    })
}

/// Whole numbers, moments in nanoseconds, or intervals in nanoseconds (a month has 28 days at least), for each row.
fn positions(array: ArrayRef) -> Result<impl Fn(usize) -> Option<i128>> {
    let kind = array.data_type().clone();
    let array = match &kind {
        DataType::Interval(_) => cast(&array, &DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano))?,
        DataType::Date32 | DataType::Date64 => {
            // Dates of any year fit seconds.
            let seconds = cast(&array, &DataType::Timestamp(TimeUnit::Second, None))?;
            cast(&seconds, &DataType::Int64)?
        }
        _ => cast(&array, &DataType::Int64)?,
    };
    let unit: i128 = match &kind {
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(TimeUnit::Second, _) => 1_000_000_000,
        DataType::Timestamp(TimeUnit::Millisecond, _) => 1_000_000,
        DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000,
        _ => 1,
    };
    Ok(move |row: usize| {
        if array.is_null(row) {
            return None;
        }
        if let Some(intervals) = array.as_primitive_opt::<IntervalMonthDayNanoType>() {
            let interval = intervals.value(row);
            let days = i128::from(interval.months) * 28 + i128::from(interval.days);
            return Some(days * 86_400_000_000_000 + i128::from(interval.nanoseconds));
        }
        Some(i128::from(array.as_primitive_opt::<Int64Type>()?.value(row)) * unit)
    })
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    #[tokio::test]
    async fn what_would_fill_the_memory_is_refused() {
        let session = SessionContext::new();
        register(&session);
        let run = async |sql: &str| session.sql(sql).await?.collect().await;
        for sql in [
            "SELECT repeat('a', 2000000000)",
            "SELECT lpad('a', 2000000000, 'b')",
            "SELECT rpad('a', 2000000000)",
            "SELECT range(1, 3000000000)",
            "SELECT range(3000000000)",
            "SELECT generate_series(1, 3000000000)",
            "SELECT generate_series(TIMESTAMP '2000-01-01', TIMESTAMP '2001-01-01', INTERVAL '1' MICROSECOND)",
            "SELECT range(DATE '2000-01-01', DATE '2900-01-01', INTERVAL '1' SECOND)",
            "SELECT array_repeat(1, 20000000000)",
            "SELECT list_repeat('a long text', 200000000)",
            "SELECT array_resize([1], 20000000000, 0)",
            "SELECT replace(repeat('a', 10000000), 'a', repeat('b', 10000000))",
            "SELECT regexp_replace(repeat('a', 10000000), 'a', repeat('b', 10000000), 'g')",
            "SELECT array_to_string(range(1000000), repeat('b', 10000))",
            "SELECT concat(s, s, s) FROM (SELECT repeat('a', 60000000) AS s)",
            "SELECT levenshtein(repeat('a', 10000000), repeat('b', 10000000))",
            "SELECT sum(length(repeat(chr(65), value * 1000))) FROM generate_series(1, 100000)",
        ] {
            let error = run(sql).await.map(|_| ()).unwrap_err();
            let found = crate::Error::from(error);
            assert_eq!(found.kind(), crate::ErrorKind::Resources, "{sql}: {found}");
        }
        for sql in [
            "SELECT repeat('ab', 3) = 'ababab' AND lpad('a', 3, 'b') = 'bba' AND concat('a', 'b', 1) = 'ab1' AS ok",
            "SELECT array_length(range(1, 1000000)) = 999999 AND range(5, 1, -2) = [5, 3] AS ok",
            "SELECT array_length(range(DATE '2000-01-01', DATE '2100-01-01', INTERVAL '1' MONTH)) = 1200 AS ok",
            "SELECT replace('abc', 'b', 'xx') = 'axxc' AND array_to_string([1, 2], ', ') = '1, 2' AS ok",
            "SELECT array_concat([1], [2]) = [1, 2] AND array_repeat('a', 2) = ['a', 'a'] AS ok",
            "SELECT repeat(NULL, 3) IS NULL AND repeat('a', -1) = '' AND levenshtein('a', 'b') = 1 AS ok",
        ] {
            let batches = run(sql).await.unwrap();
            assert!(batches[0].column(0).as_boolean().value(0), "{sql}");
        }
    }
}
