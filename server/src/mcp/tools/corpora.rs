//! What is there: `list_corpora` and `describe_corpus`.

use rmcp::model::{JsonObject, Tool};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::answer::{Limits, Rows};
use super::super::arguments::{object, text};
use super::{Asker, ROWS, Reply, cut_notes, tool};
use crate::error::{Failure, Result};
use crate::sql_text::{identifier, literal};
use saequel_engine::ErrorKind;

/// Corpora that are listed.
const MOST_CORPORA: u64 = 500;
/// Documents whose values are looked at.
const LOOKED_AT: u64 = 100_000;
/// Columns whose values are looked at.
const LOOKED_AT_COLUMNS: usize = 16;
/// Different values of a column that are named.
const NAMED_VALUES: u64 = 25;
/// Documents that are shown.
const SAMPLE: u64 = 3;

/// `list_corpora` has no argument.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListCorpora {}

pub(super) fn list_corpora_tool() -> Tool {
    tool(
        "list_corpora",
        "List corpora",
        "Lists the corpora (collections of texts) of this database. Call this first. A row is a corpus: `name` (its name in \
         SQL and in the sets of documents that other tools take), `documents`, `text_columns` (the texts that were read for \
         features), `key` (the column that `doc_id` is made of), `columns` (the user's own), `dictionaries` (of features). \
         Then: describe_corpus.",
        object(&[], []),
    )
    .with_raw_output_schema(ROWS.clone())
}

pub(super) async fn list_corpora(asker: &Asker<'_>) -> Result<Reply> {
    let statement = "SELECT name, documents, text_columns, \"key\", columns, dictionaries FROM saequel.corpora LEFT JOIN \
                     (SELECT table_name, array_agg(column_name) AS columns FROM information_schema.columns WHERE \
                     table_schema = 'main' AND column_name NOT IN ('doc_id', 'n_tokens', 'n_spans', 'features') AND \
                     NOT starts_with(column_name, 'fvu') AND NOT starts_with(column_name, 'explained') GROUP BY table_name) \
                     ON table_name = name ORDER BY name";
    let rows = asker.ask(statement, Limits::rows(MOST_CORPORA)).await?;
    let mut notes = cut_notes(&rows, MOST_CORPORA, MOST_CORPORA);
    if rows.rows.is_empty() {
        notes.push(
            "No corpus is here, or none that this token may see. `saequel import FILE --corpus NAME` makes one."
                .to_owned(),
        );
    }
    Ok(Reply::told(&rows, notes))
}

/// Names of the corpora that the visitor may see.
///
/// # Errors
/// What the gate says.
pub(in super::super) async fn corpora(asker: &Asker<'_>) -> Result<Vec<String>> {
    let rows = asker.ask("SELECT name FROM saequel.corpora ORDER BY name", Limits::rows(MOST_CORPORA)).await?;
    Ok(rows.of("name").filter_map(Value::as_str).map(str::to_owned).collect())
}

/// Arguments of `describe_corpus`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DescribeCorpus {
    corpus: String,
}

pub(super) fn describe_corpus_tool() -> Tool {
    tool(
        "describe_corpus",
        "Describe a corpus",
        "Says what a corpus holds: every column with its type, its use, and its values (the most frequent ones with their \
         number of documents, or the range of numbers and dates), the text columns, the dictionaries of features, and three \
         documents. Call it before you write a filter or a query: it tells the exact spelling of columns and values, and \
         which columns can pair documents (`paired_by`: as many values as documents on each side) or split them (`by`: few \
         values).\n\
         Example: {\"corpus\": \"answers\"}",
        object(&["corpus"], [("corpus", text("Name of a corpus, from list_corpora"))]),
    )
    .with_raw_output_schema(describe_schema().into())
}

fn describe_schema() -> JsonObject {
    let schema = json!({
        "type": "object",
        "properties": {
            "corpus": { "type": "string" },
            "documents": { "type": "integer" },
            "text_columns": { "type": "array", "items": { "type": "string" } },
            "dictionaries": { "type": "array", "items": { "type": "string" } },
            "columns": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "name": { "type": "string" },
                        "type": { "type": "string" },
                        "use": { "type": "string" },
                        "values": { "type": "string" }
                    },
                    "required": ["name", "type", "use"]
                }
            },
            "sample": { "type": "object" },
            "note": { "type": "string" }
        },
        "required": ["corpus", "documents", "text_columns", "dictionaries", "columns", "sample"]
    });
    match schema {
        Value::Object(schema) => schema,
        _ => Map::new(),
    }
}

/// A column as it is described.
struct Column {
    name: String,
    data_type: String,
    use_: String,
    values: String,
}

impl Column {
    /// Whether it is a measure or a value that saequel made, and not the user's.
    fn is_ours(&self) -> bool {
        self.use_.starts_with("share of") || self.use_.starts_with("features of")
    }

    fn is_text(&self) -> bool {
        matches!(self.data_type.as_str(), "Utf8" | "LargeUtf8" | "Utf8View")
    }

    fn has_range(&self) -> bool {
        let of = ["Int", "UInt", "Float", "Decimal", "Date", "Time"];
        of.iter().any(|prefix| self.data_type.starts_with(prefix))
    }
}

pub(super) async fn describe_corpus(asker: &Asker<'_>, arguments: DescribeCorpus) -> Result<Reply> {
    describe(asker, &arguments.corpus).await
}

/// What a corpus holds.
///
/// # Errors
/// [`ErrorKind::NotFound`], and what the gate says.
pub(in super::super) async fn describe(asker: &Asker<'_>, corpus: &str) -> Result<Reply> {
    let corpus = corpus.trim().trim_matches(['"', '`', '\'']);
    let about = asker
        .ask(
            &format!(
                "SELECT documents, text_columns, \"key\", dictionaries FROM saequel.corpora WHERE name = {}",
                literal(corpus)
            ),
            Limits::rows(1),
        )
        .await?;
    let Some(documents) = about.first("documents").and_then(Value::as_u64) else {
        let there = corpora(asker).await?;
        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        return Err(Failure::new(ErrorKind::NotFound, format!("corpus '{corpus}' not found; there are: {there}")));
    };
    let table = identifier(corpus);
    let described = asker.ask(&format!("DESCRIBE {table}"), Limits::rows(10_000)).await?;
    let mut columns: Vec<Column> = described
        .rows
        .iter()
        .filter_map(|row| {
            let text = |at: usize| row.get(at).and_then(Value::as_str).map(str::to_owned);
            Some(Column { name: text(0)?, data_type: text(1)?, use_: text(2)?, values: String::new() })
        })
        .collect();
    look_at_values(asker, &table, &mut columns).await?;
    let shown: Vec<String> =
        columns.iter().filter(|column| !column.is_ours()).map(|column| identifier(&column.name)).collect();
    let statement = format!("SELECT {} FROM {table} LIMIT {SAMPLE}", shown.join(", "));
    let sample = asker.ask(&statement, Limits { cell_chars: 300, ..Limits::rows(SAMPLE) }).await?;
    Ok(told(corpus, documents, &about, &columns, &sample))
}

/// Notes the values of the columns that are not read.
async fn look_at_values(asker: &Asker<'_>, table: &str, columns: &mut [Column]) -> Result<()> {
    let some = |of: &str| format!("(SELECT {of} FROM {table} LIMIT {LOOKED_AT})");
    let ranges: Vec<usize> = columns
        .iter()
        .enumerate()
        .filter(|(_, column)| column.has_range() && !column.is_ours())
        .map(|(position, _)| position)
        .take(LOOKED_AT_COLUMNS)
        .collect();
    if !ranges.is_empty() {
        let names: Vec<String> = ranges.iter().map(|position| identifier(&columns[*position].name)).collect();
        let of: Vec<String> = names.iter().map(|name| format!("min({name}), max({name})")).collect();
        let statement = format!("SELECT {} FROM {}", of.join(", "), some(&names.join(", ")));
        let found = asker.ask(&statement, Limits::rows(1)).await?;
        for (place, position) in ranges.iter().enumerate() {
            let value = |at: usize| found.rows.first().and_then(|row| row.get(at)).filter(|value| !value.is_null());
            if let (Some(low), Some(high)) = (value(2 * place), value(2 * place + 1)) {
                columns[*position].values = format!("{} to {}", plain(low), plain(high));
            }
        }
    }
    let texts: Vec<usize> = columns
        .iter()
        .enumerate()
        .filter(|(_, column)| (column.is_text() || column.data_type == "Boolean") && !column.use_.starts_with("text"))
        .map(|(position, _)| position)
        .take(LOOKED_AT_COLUMNS)
        .collect();
    for position in texts {
        let name = identifier(&columns[position].name);
        let statement = format!(
            "SELECT {name} AS value, count(*) AS n, count(*) OVER () AS n_values FROM {} GROUP BY {name} ORDER BY n DESC, \
             value LIMIT {NAMED_VALUES}",
            some(&name)
        );
        let found = asker.ask(&statement, Limits { cell_chars: 60, ..Limits::rows(NAMED_VALUES) }).await?;
        columns[position].values = named(&found);
    }
    Ok(())
}

/// `heron (30), finch (30)`, or `60 different values, such as a-1, a-2`.
fn named(found: &Rows) -> String {
    const EXAMPLES: usize = 3;
    let n_values = found.first("n_values").and_then(Value::as_u64).unwrap_or_default();
    let values = found.of("value").zip(found.of("n"));
    if n_values <= NAMED_VALUES {
        return values.map(|(value, n)| format!("{} ({n})", plain(value))).collect::<Vec<_>>().join(", ");
    }
    let most = found.of("n").filter_map(Value::as_u64).max().unwrap_or_default();
    let some: Vec<String> = values.take(EXAMPLES).map(|(value, _)| plain(value)).collect();
    let each =
        if most == 1 { ", each in one document".to_owned() } else { format!(", each in at most {most} documents") };
    format!("{n_values} different values{each}, such as {}", some.join(", "))
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => format!("'{text}'"),
        Value::Null => "null".to_owned(),
        other => other.to_string(),
    }
}

fn told(corpus: &str, documents: u64, about: &Rows, columns: &[Column], sample: &Rows) -> Reply {
    let list = |name: &str| about.first(name).cloned().unwrap_or_else(|| json!([]));
    let joined = |name: &str| {
        let items = list(name);
        let items = items.as_array().into_iter().flatten().filter_map(Value::as_str);
        items.collect::<Vec<_>>().join(", ")
    };
    let key = about.first("key").and_then(Value::as_str);
    let mut text = format!(
        "Corpus `{corpus}`: {documents} documents; read for features: {}; dictionaries: {}\n\n| column | type | use | values \
         |\n|---|---|---|---|",
        joined("text_columns"),
        joined("dictionaries")
    );
    for column in columns {
        // The type of the features tells nothing that their use does not.
        let data_type = if column.data_type.starts_with("Struct") { "features" } else { &column.data_type };
        text.push_str(&format!(
            "\n| {} | {data_type} | {} | {} |",
            column.name,
            column.use_,
            column.values.replace('|', "\\|")
        ));
    }
    text.push_str(&format!("\n\nThree documents:\n{}", sample.table()));
    let mut notes = vec![format!(
        "`{corpus}_activations` has one row a feature of a document: doc_id, feature_id, label, level, activation."
    )];
    if documents > LOOKED_AT {
        notes.push(format!("Values are those of {LOOKED_AT} documents."));
    }
    text.push_str(&format!("\n\n{}", notes.join("\n")));
    let columns: Vec<Value> = columns
        .iter()
        .map(|column| {
            let mut one = json!({ "name": column.name, "type": column.data_type, "use": column.use_ });
            if !column.values.is_empty() {
                one["values"] = column.values.clone().into();
            }
            one
        })
        .collect();
    let mut structured = Map::new();
    structured.insert("corpus".to_owned(), corpus.into());
    structured.insert("documents".to_owned(), documents.into());
    structured.insert("text_columns".to_owned(), list("text_columns"));
    structured.insert("dictionaries".to_owned(), list("dictionaries"));
    if let Some(key) = key {
        structured.insert("key".to_owned(), key.into());
    }
    structured.insert("columns".to_owned(), columns.into());
    structured.insert("sample".to_owned(), Value::Object(sample.json()));
    structured.insert("note".to_owned(), notes.join("\n").into());
    Reply { structured, text }
}
