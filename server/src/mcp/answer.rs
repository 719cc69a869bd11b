//! Runs a statement for a visitor and keeps of its result what a model can read.
//!
//! An answer has two forms: JSON with columns and rows, in full precision, and a Markdown table of the same rows for clients
//! that show text alone. Both are cut alike, and say so.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use futures::StreamExt;
use serde_json::{Map, Value, json};

use crate::error::{Failure, Result};
use crate::gate::{Ask, Gate, Visitor};
use crate::output::table::Layout;
use crate::output::value::Rounding;
use crate::output::{Format, writer};

/// Characters of a cell unless more are asked for.
pub(super) const CELL_CHARS: usize = 500;
/// Characters of all rows as JSON. The table is about as long, which makes 40,000 for the whole answer.
const ANSWER_CHARS: usize = 20_000;
/// Rows that are written at once: few, since documents may be long.
const SLICE: usize = 16;

/// Changes the values of a column before they are cut.
pub(super) type Shorten = fn(&str, Value) -> Value;

/// How much of a result is kept.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) rows: u64,
    pub(super) cell_chars: usize,
    pub(super) shorten: Option<Shorten>,
}

impl Limits {
    /// So many rows.
    pub(super) fn rows(rows: u64) -> Self {
        Self { rows, cell_chars: CELL_CHARS, shorten: None }
    }
}

/// A column.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) data_type: String,
}

/// What was left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cut {
    /// Rows beyond the limit.
    pub(super) rows: bool,
    /// Rows beyond the size of an answer.
    pub(super) size: bool,
    /// Ends of long cells.
    pub(super) cells: bool,
}

/// A result, as far as it is kept.
#[derive(Debug, Clone, Default)]
pub(super) struct Rows {
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Vec<Value>>,
    /// Columns that say the same in every row, taken out.
    pub(super) constants: BTreeMap<String, Value>,
    pub(super) cut: Cut,
}

/// Runs a statement.
///
/// # Errors
/// As [`Gate::run`], and what comes later in its stream.
pub(super) async fn ask(gate: &Gate, visitor: &Visitor, statement: &str, limits: Limits) -> Result<Rows> {
    let ask = Ask { max_rows: Some(limits.rows), ..Ask::new(statement) };
    let mut answer = gate.run(visitor, ask).await?;
    let schema = answer.schema();
    let columns = schema.fields().iter();
    let columns =
        columns.map(|field| Column { name: field.name().clone(), data_type: field.data_type().to_string() }).collect();
    let mut kept = Rows { columns, ..Rows::default() };
    let mut chars = 0;
    while let Some(batch) = answer.next().await {
        let batch = batch?;
        for start in (0..batch.num_rows()).step_by(SLICE) {
            let slice = batch.slice(start, SLICE.min(batch.num_rows() - start));
            for row in values(&schema, &slice)? {
                if !kept.push(row, limits, &mut chars) {
                    answer.enough();
                    return Ok(kept);
                }
            }
        }
    }
    kept.cut.rows = answer.truncated();
    Ok(kept)
}

/// The rows of a batch as JSON values.
fn values(schema: &Schema, batch: &RecordBatch) -> Result<Vec<Vec<Value>>> {
    let mut writer = writer(Format::JsonCompact, Layout::default());
    let mut bytes = Vec::new();
    writer.start(schema, &mut bytes)?;
    writer.batch(batch, &mut bytes)?;
    writer.finish(&mut bytes)?;
    let bad = |what: String| Failure::new(saequel_engine::ErrorKind::Internal, format!("answer: {what}"));
    let mut all: Value = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    let rows = all.get_mut("rows").map(Value::take).unwrap_or_default();
    serde_json::from_value(rows).map_err(|error| bad(error.to_string()))
}

impl Rows {
    /// Adds a row, or says that the answer is full.
    fn push(&mut self, row: Vec<Value>, limits: Limits, chars: &mut usize) -> bool {
        let shortened = |(column, value): (&Column, Value)| match limits.shorten {
            Some(shorten) => shorten(&column.name, value),
            None => value,
        };
        let row: Vec<Value> = self.columns.iter().zip(row).map(shortened).collect();
        // The first row is shown whatever its size.
        let cell_chars = match self.rows.is_empty() {
            true => limits.cell_chars.min((ANSWER_CHARS / row.len().max(1)).max(CELL_CHARS)),
            false => limits.cell_chars,
        };
        let mut cut = false;
        let row: Vec<Value> = row.into_iter().map(|value| short(value, cell_chars, &mut cut)).collect();
        let size: usize = row.iter().map(|value| json_chars(value) + 1).sum();
        if *chars + size > ANSWER_CHARS && !self.rows.is_empty() {
            self.cut.size = true;
            return false;
        }
        *chars += size;
        self.cut.cells |= cut;
        self.rows.push(row);
        true
    }

    /// The place of a column.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// The value of a column in the first row.
    pub(super) fn first(&self, name: &str) -> Option<&Value> {
        self.rows.first()?.get(self.position(name)?)
    }

    /// The values of a column.
    pub(super) fn of(&self, name: &str) -> impl Iterator<Item = &Value> {
        let position = self.position(name);
        self.rows.iter().filter_map(move |row| row.get(position?))
    }

    /// Takes those of the columns out that say the same in every row.
    pub(super) fn take_constants(&mut self, names: &[&str]) {
        for name in names {
            let Some(position) = self.position(name) else { continue };
            let Some(first) = self.rows.first().map(|row| row[position].clone()) else { continue };
            if self.rows.iter().all(|row| row[position] == first) {
                self.columns.remove(position);
                for row in &mut self.rows {
                    row.remove(position);
                }
                self.constants.insert((*name).to_owned(), first);
            }
        }
    }

    /// As JSON, for [`super::tools::ROWS`].
    pub(super) fn json(&self) -> Map<String, Value> {
        let columns: Vec<Value> =
            self.columns.iter().map(|column| json!({ "name": column.name, "type": column.data_type })).collect();
        let mut object = Map::new();
        object.insert("columns".to_owned(), columns.into());
        object.insert("rows".to_owned(), self.rows.iter().cloned().map(Value::Array).collect());
        object.insert("row_count".to_owned(), self.rows.len().into());
        object.insert("truncated".to_owned(), (self.cut.rows || self.cut.size).into());
        if !self.constants.is_empty() {
            let constants = self.constants.iter().map(|(name, value)| (name.clone(), value.clone()));
            object.insert("same_in_every_row".to_owned(), Value::Object(constants.collect()));
        }
        object
    }

    /// As a Markdown table; a single text as it is.
    pub(super) fn table(&self) -> String {
        if let ([_], [row]) = (self.columns.as_slice(), self.rows.as_slice())
            && let [Value::String(text)] = row.as_slice()
        {
            return text.clone();
        }
        if self.rows.is_empty() {
            let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
            return format!("(no rows; columns: {})", names.join(", "));
        }
        let roundings: Vec<Rounding> = (0..self.columns.len())
            .map(|position| {
                let floats = self.rows.iter().filter_map(|row| row[position].as_number()).filter(|n| n.is_f64());
                Rounding::of(&self.columns[position].name, floats.filter_map(serde_json::Number::as_f64))
            })
            .collect();
        let mut table = String::from("|");
        for column in &self.columns {
            table.push_str(&format!(" {} |", escaped(&column.name)));
        }
        table.push_str("\n|");
        table.push_str(&"---|".repeat(self.columns.len()));
        for row in &self.rows {
            table.push_str("\n|");
            for (value, rounding) in row.iter().zip(&roundings) {
                table.push_str(&format!(" {} |", escaped(&shown(value, *rounding))));
            }
        }
        for (name, value) in &self.constants {
            table.push_str(&format!("\n{name} = {} in every row", shown(value, Rounding::Decimals(4))));
        }
        table
    }
}

/// Characters of a value as JSON.
fn json_chars(value: &Value) -> usize {
    match value {
        Value::String(text) => text.chars().count() + 2,
        other => other.to_string().chars().count(),
    }
}

/// A value of at most about so many characters.
fn short(value: Value, chars: usize, cut: &mut bool) -> Value {
    match value {
        Value::String(text) => {
            let Some((end, _)) = text.char_indices().nth(chars) else { return Value::String(text) };
            *cut = true;
            format!("{}… ({} characters)", &text[..end], text.chars().count()).into()
        }
        Value::Array(items) => {
            let (n_items, mut kept, mut size) = (items.len(), Vec::new(), 2);
            for item in items {
                let item = short(item, chars, cut);
                size += json_chars(&item) + 1;
                if size > chars && !kept.is_empty() {
                    *cut = true;
                    kept.push(format!("… ({n_items} in all)").into());
                    break;
                }
                kept.push(item);
            }
            kept.into()
        }
        // The features of a document: thousands of numbers that tell nothing.
        Value::Object(object) if object.len() == 2 && object.contains_key("activations") => {
            match object.get("ids").and_then(Value::as_array) {
                Some(ids) => format!("({} features)", ids.len()).into(),
                None => Value::Object(object),
            }
        }
        Value::Object(object) => {
            let mut whole = Map::new();
            for (key, item) in object {
                whole.insert(key, short(item, chars, cut));
            }
            Value::Object(whole)
        }
        other => other,
    }
}

/// A value as a person reads it.
fn shown(value: &Value, rounding: Rounding) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => rounding.number(number.as_f64().unwrap_or(f64::NAN)),
        Value::Array(items) => {
            let separator = if items.iter().all(Value::is_number) { ", " } else { "; " };
            items.iter().map(|item| shown(item, Rounding::Decimals(3))).collect::<Vec<_>>().join(separator)
        }
        // An example of a document.
        Value::Object(object) if object.len() == 2 && object.contains_key("doc_id") && object.contains_key("text") => {
            format!("{}: {}", shown(&object["doc_id"], rounding), shown(&object["text"], rounding))
        }
        Value::Object(object) => {
            let pairs = object.iter().map(|(key, item)| format!("{key}: {}", shown(item, Rounding::Decimals(3))));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// Text that does not break a table.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '|' => out.push_str("\\|"),
            '\n' => out.push('↵'),
            character if character.is_control() => out.push(' '),
            character => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(names: &[&str]) -> Rows {
        let columns = names.iter().map(|name| Column { name: (*name).to_owned(), data_type: "Utf8".to_owned() });
        Rows { columns: columns.collect(), ..Rows::default() }
    }

    #[test]
    fn cells_are_cut_and_say_so() {
        let mut cut = false;
        assert_eq!(short("äöü".into(), 3, &mut cut), "äöü");
        assert!(!cut);
        assert_eq!(short("äöüß".into(), 3, &mut cut), "äöü… (4 characters)");
        assert!(cut);
        let list = short(json!([1, 2, 3, 4, 5, 6]), 8, &mut cut);
        assert_eq!(list, json!([1, 2, 3, "… (6 in all)"]));
        assert_eq!(short(json!({"ids": [1, 2], "activations": [0.5, 1.0]}), 500, &mut cut), "(2 features)");
        let nested = json!([{"label": "a", "docs": 3}]);
        assert_eq!(short(nested.clone(), 500, &mut cut), nested);
    }

    #[test]
    fn the_answer_ends_where_it_is_full() {
        let mut kept = rows(&["text"]);
        let (limits, mut chars) = (Limits { cell_chars: 5000, ..Limits::rows(100) }, 0);
        let long = "x".repeat(4000);
        let pushed = (0..10).take_while(|_| kept.push(vec![long.clone().into()], limits, &mut chars)).count();
        assert_eq!((pushed, kept.cut.size, kept.json()["truncated"].clone()), (4, true, true.into()));
        let mut kept = rows(&["a", "b"]);
        let huge: Value = "x".repeat(100_000).into();
        assert!(kept.push(vec![huge.clone(), huge], Limits { cell_chars: 90_000, ..limits }, &mut 0));
        assert!(json_chars(&kept.rows[0][0]) < 10_100 && kept.cut.cells);
    }

    #[test]
    fn tables_line_up_with_columns() {
        let mut kept = rows(&["label", "q_value", "n", "docs"]);
        kept.rows = vec![
            vec!["a|b\nc".into(), 0.000123.into(), 30.into(), json!([{"doc_id": "x", "text": "«y»"}, {"n": 2}])],
            vec!["d".into(), Value::Null, 30.into(), json!([1, 2])],
        ];
        kept.take_constants(&["n", "q_value", "nothing"]);
        assert_eq!(
            kept.table(),
            "| label | q_value | docs |\n|---|---|---|\n| a\\|b↵c | 1.23e-4 | x: «y»; {n: 2} |\n| d |  | 1, 2 |\nn = 30 in every row"
        );
        assert_eq!(kept.json()["same_in_every_row"], json!({"n": 30}));
        assert_eq!(rows(&["a", "b"]).table(), "(no rows; columns: a, b)");
        let mut one = rows(&["text"]);
        one.rows = vec![vec!["a|b\nc".into()]];
        assert_eq!(one.table(), "a|b\nc");
    }
}
