//! Holding columns constant: documents are compared within strata in which all of them are alike.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use datafusion::common::exec_err;
use datafusion::error::Result;
use futures::TryStreamExt;

use crate::SharedSource;
use crate::feature_source::DocumentColumn;
use crate::kernels::strata::{range_of, ranges};
use crate::table::exec::Request;
use crate::table::topics::Grouped;

/// Strata that all columns together should not exceed.
const MOST_STRATA: usize = 1000;

/// Ranges into which one number is cut.
const MOST_RANGES: usize = 200;

/// With fewer, what depends on the number would still differ within them.
const FEWEST_RANGES: usize = 5;

/// Documents that a stratum should hold: with fewer most would have no counterpart.
const STRATUM_DOCS: usize = 8;

/// The column of this name.
pub(crate) fn document_column(name: &str) -> DocumentColumn {
    match name {
        "doc_id" => DocumentColumn::DocId,
        "n_tokens" => DocumentColumn::TokenCount,
        name => DocumentColumn::Named(name.to_string()),
    }
}

/// Numbers of a column of numbers, dates or times; `None` for one of another type.
pub(crate) fn numbers(array: &ArrayRef) -> Result<Option<Float64Array>> {
    let whole = match array.data_type() {
        DataType::Date32 | DataType::Time32(_) => cast(array, &DataType::Int32)?,
        DataType::Date64 | DataType::Time64(_) | DataType::Timestamp(..) | DataType::Duration(_) => {
            cast(array, &DataType::Int64)?
        }
        kind if kind.is_numeric() => ArrayRef::clone(array),
        _ => return Ok(None),
    };
    Ok(Some(cast(&whole, &DataType::Float64)?.as_primitive::<Float64Type>().clone()))
}

/// Values of a column as text, whatever their type.
///
/// # Errors
/// If they have no text, such as lists.
pub(crate) fn names(function: &str, option: &str, column: &str, array: &ArrayRef) -> Result<StringArray> {
    match cast(array, &DataType::Utf8) {
        Ok(names) if !array.data_type().is_nested() => Ok(names.as_string::<i32>().clone()),
        _ => exec_err!(
            "{function}: column '{column}' of type {} cannot be used for '{option}'; use text, numbers, dates or truth \
             values",
            array.data_type()
        ),
    }
}

/// What is seen of the columns before strata are made.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    columns: Vec<String>,
    seen: Vec<Seen>,
    n_docs: usize,
}

#[derive(Debug)]
enum Seen {
    /// Numbers with the group of their document.
    Numbers(Vec<(f64, u32)>),
    Names(HashMap<String, usize>),
}

impl Survey {
    /// Nothing seen yet of these columns.
    pub(crate) fn new(columns: Vec<String>) -> Self {
        Self { columns, seen: Vec::new(), n_docs: 0 }
    }

    /// Memory that one document takes.
    pub(crate) fn bytes_per_document(&self) -> usize {
        2 * self.columns.len() * size_of::<(f64, u32)>()
    }

    /// Sees the columns of documents with their groups.
    ///
    /// # Errors
    /// If a column is neither numbers nor names, or not the same in all sets.
    pub(crate) fn update(
        &mut self,
        function: &str,
        arrays: &[ArrayRef],
        rows: impl Iterator<Item = (usize, u32)> + Clone,
    ) -> Result<()> {
        self.n_docs += rows.clone().count();
        for (at, (column, array)) in self.columns.iter().zip(arrays).enumerate() {
            let values = numbers(array)?;
            if self.seen.len() == at {
                let seen = if values.is_some() { Seen::Numbers(Vec::new()) } else { Seen::Names(HashMap::new()) };
                self.seen.push(seen);
            }
            match (&mut self.seen[at], values) {
                (Seen::Numbers(seen), Some(values)) => {
                    seen.extend(
                        rows.clone()
                            .filter(|(row, _)| values.is_valid(*row))
                            .map(|(row, group)| (values.value(row), group)),
                    );
                }
                (Seen::Names(seen), None) => {
                    let values = names(function, "control", column, array)?;
                    for (row, _) in rows.clone().filter(|(row, _)| values.is_valid(*row)) {
                        let next = seen.len();
                        if !seen.contains_key(values.value(row)) {
                            seen.insert(values.value(row).to_string(), next);
                        }
                    }
                    if seen.len() > MOST_STRATA {
                        return exec_err!(
                            "{function}: 'control' column '{column}' has more than {MOST_STRATA} different values; use a \
                             number or a coarser column"
                        );
                    }
                }
                _ => return exec_err!("{function}: 'control' column '{column}' is of different types in the sets"),
            }
        }
        Ok(())
    }

    /// The strata.
    ///
    /// # Errors
    /// If there would be so many that numbers could be cut into a few ranges only.
    pub(crate) fn strata(self, function: &str) -> Result<Strata> {
        let n_numbers = self.seen.iter().filter(|seen| matches!(seen, Seen::Numbers(_))).count();
        let n_names = (self.seen.iter())
            .map(|seen| if let Seen::Names(names) = seen { names.len().max(1) } else { 1 })
            .fold(1usize, usize::saturating_mul);
        let each = |strata: f64| (strata / n_names as f64).powf(1.0 / n_numbers.max(1) as f64) as usize;
        let n_ranges = each(MOST_STRATA as f64).min(MOST_RANGES);
        if n_names > MOST_STRATA || n_numbers > 0 && n_ranges < FEWEST_RANGES {
            return exec_err!(
                "{function}: 'control' by {} needs more than {MOST_STRATA} strata; leave out a column",
                self.columns.join(", ")
            );
        }
        let filled = each((self.n_docs / STRATUM_DOCS) as f64);
        let n_ranges = n_ranges.min(filled.max(FEWEST_RANGES));
        let cut = |seen| match seen {
            Seen::Numbers(values) => Cut::Ranges(ranges(values, n_ranges)),
            Seen::Names(names) => Cut::Names(names),
        };
        Ok(Strata { columns: self.columns, cuts: self.seen.into_iter().map(cut).collect() })
    }
}

/// How documents are put into strata.
#[derive(Debug)]
pub(crate) struct Strata {
    columns: Vec<String>,
    cuts: Vec<Cut>,
}

#[derive(Debug)]
enum Cut {
    Ranges(Vec<f64>),
    Names(HashMap<String, usize>),
}

impl Cut {
    fn n(&self) -> usize {
        match self {
            Self::Ranges(ends) => ends.len(),
            Self::Names(names) => names.len(),
        }
    }
}

impl Strata {
    /// Number of strata.
    pub(crate) fn n(&self) -> usize {
        self.cuts.iter().map(Cut::n).product()
    }

    /// Stratum of each of `n_rows` rows of the columns. `None` where a value is null.
    ///
    /// # Errors
    /// As [`Survey::update`].
    pub(crate) fn of(&self, function: &str, arrays: &[ArrayRef], n_rows: usize) -> Result<Vec<Option<usize>>> {
        let mut strata = vec![Some(0); n_rows];
        self.visit(function, arrays, |row, cut, part| {
            strata[row] = strata[row].zip(part).map(|(stratum, part)| stratum * cut.n() + part);
        })?;
        Ok(strata)
    }

    /// What sets each of `n_rows` rows apart from others: its part of each column, of which null is one, too.
    fn keys(&self, function: &str, arrays: &[ArrayRef], n_rows: usize) -> Result<Vec<Vec<Option<u32>>>> {
        let mut keys = vec![Vec::with_capacity(self.cuts.len()); n_rows];
        self.visit(function, arrays, |row, _, part| keys[row].push(part.map(|part| part as u32)))?;
        Ok(keys)
    }

    /// Visits the part of each row in each column, one column after the other.
    fn visit(
        &self,
        function: &str,
        arrays: &[ArrayRef],
        mut visit: impl FnMut(usize, &Cut, Option<usize>),
    ) -> Result<()> {
        for ((array, column), cut) in arrays.iter().zip(&self.columns).zip(&self.cuts) {
            let mut refine = |row: usize, part: Option<usize>| visit(row, cut, part);
            match cut {
                Cut::Ranges(ends) => {
                    let values = numbers(array)?;
                    for row in 0..array.len() {
                        let value =
                            values.as_ref().filter(|values| values.is_valid(row)).map(|values| values.value(row));
                        refine(row, value.and_then(|value| range_of(ends, value)));
                    }
                }
                Cut::Names(index) => {
                    let values = names(function, "control", column, array)?;
                    for (row, value) in values.iter().enumerate() {
                        refine(row, value.and_then(|value| index.get(value).copied()));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Groups the documents of `set` by the strata of columns. Those that lack a value of a column are held together by the
/// others.
///
/// # Errors
/// As [`Survey::update`] and [`Survey::strata`]; if a column does not exist, no document has a value, no two documents are
/// alike, or memory does not suffice.
pub(crate) async fn groups_of_columns(
    function: &'static str,
    source: &SharedSource,
    set: &str,
    columns: &[String],
    request: &Request,
) -> Result<Grouped> {
    let memory = request.memory(function);
    let wanted: Vec<DocumentColumn> = columns.iter().map(|column| document_column(column)).collect();
    let mut survey = Survey::new(columns.to_vec());
    let mut stream = source.documents(set, &wanted).await?;
    while let Some(batch) = stream.try_next().await? {
        memory.try_grow(batch.num_rows() * (survey.bytes_per_document() + size_of::<u16>()))?;
        survey.update(function, batch.columns(), (0..batch.num_rows()).map(|row| (row, 0)))?;
    }
    if survey.n_docs == 0 {
        return Ok(Grouped { of: Vec::new(), n: 1 });
    }
    let says_nothing = |seen: &Seen| match seen {
        Seen::Numbers(values) => values.is_empty(),
        Seen::Names(names) => names.is_empty(),
    };
    if survey.seen.iter().all(says_nothing) {
        return exec_err!(
            "{function}: no document of set '{set}' has a value of 'control' {}: nothing can be held constant",
            columns.join(", ")
        );
    }
    let strata = survey.strata(function)?;
    let (mut of, mut known) = (Vec::new(), HashMap::new());
    let mut stream = source.documents(set, &wanted).await?;
    while let Some(batch) = stream.try_next().await? {
        for key in strata.keys(function, batch.columns(), batch.num_rows())? {
            let next = known.len();
            let stratum = *known.entry(key).or_insert(next);
            let Ok(stratum) = u16::try_from(stratum) else {
                return exec_err!(
                    "{function}: 'control' by {} needs too many strata; leave out a column",
                    columns.join(", ")
                );
            };
            of.push(stratum);
        }
    }
    if known.len() == of.len() && of.len() > 1 {
        return exec_err!(
            "{function}: no two documents of set '{set}' are alike in 'control' {}: nothing is left to compare; use a number or \
             a coarser column",
            columns.join(", ")
        );
    }
    Ok(Grouped { of, n: known.len() })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{BooleanArray, Date32Array, Int64Array, ListArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    fn strata(columns: Vec<ArrayRef>) -> Result<(Strata, Vec<Option<usize>>)> {
        let names = (0..columns.len()).map(|at| format!("c{at}")).collect();
        let n_rows = columns[0].len();
        let mut survey = Survey::new(names);
        survey.update("diff", &columns, (0..n_rows).map(|row| (row, (row % 2) as u32)))?;
        let strata = survey.strata("diff")?;
        let of = strata.of("diff", &columns, n_rows)?;
        Ok((strata, of))
    }

    #[test]
    fn columns_of_any_kind_are_crossed() {
        let text: ArrayRef =
            Arc::new(StringArray::from_iter((0..80).map(|row| (row != 7).then_some(if row < 40 { "x" } else { "y" }))));
        let day: ArrayRef = Arc::new(Date32Array::from_iter_values((0..80).map(|row| row / 2 % 2)));
        let flag: ArrayRef = Arc::new(BooleanArray::from_iter((0..80).map(|_| Some(true))));
        let (strata, of) = strata(vec![text, day, flag]).unwrap();
        assert_eq!(strata.n(), 4);
        assert_eq!((of[0], of[2], of[7], of[40], of[42]), (Some(0), Some(1), None, Some(2), Some(3)));
    }

    #[test]
    fn what_cannot_be_held_constant_is_refused() {
        let many: ArrayRef = Arc::new(StringArray::from_iter_values((0..1001).map(|row| row.to_string())));
        let message = strata(vec![many]).unwrap_err().to_string();
        assert!(message.contains("'control' column 'c0' has more than 1000 different values"), "{message}");
        let names: ArrayRef = Arc::new(StringArray::from_iter_values((0..500).map(|row| row.to_string())));
        let number: ArrayRef = Arc::new(Int64Array::from_iter_values(0..500));
        let message = strata(vec![names, number]).unwrap_err().to_string();
        assert!(message.contains("by c0, c1 needs more than 1000 strata; leave out a column"), "{message}");
        let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1)])]));
        let message = strata(vec![list]).unwrap_err().to_string();
        assert!(
            message.contains("cannot be used for 'control'; use text, numbers, dates or truth values"),
            "{message}"
        );
    }
}
