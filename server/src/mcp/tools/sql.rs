//! Everything else: `query`, and `list_functions`, which says what can be asked.

use std::sync::LazyLock;

use rmcp::model::Tool;
use saequel_engine::ErrorKind;
use serde::Deserialize;
use serde_json::Value;

use super::super::answer::{CELL_CHARS, Column, Limits, Rows};
use super::super::arguments::{object, text, whole};
use super::{Asker, ROWS, Reply, tool};
use crate::error::{Failure, Result};
use crate::sql_text::{first_word, literal, statements};

/// Rows of a query, unless asked for more.
const ROWS_BY_DEFAULT: u64 = 100;
/// Rows of a query at most.
const MOST_ROWS: u64 = 1000;
/// Statements that write begin with one of these.
const WRITES: [&str; 13] = [
    "alter", "compact", "copy", "create", "delete", "drop", "import", "insert", "merge", "reset", "set", "truncate",
    "update",
];

/// Arguments of `query`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    sql: String,
    limit: Option<u64>,
    cell_chars: Option<u64>,
}

pub(super) fn query_tool() -> Tool {
    let input = object(
        &["sql"],
        [
            ("sql", text("One statement that reads: SELECT, WITH, SHOW, DESCRIBE, EXPLAIN")),
            ("limit", whole("Rows to return. Default 100, at most 1000", 1, MOST_ROWS)),
            (
                "cell_chars",
                whole(
                    "Characters of a cell; longer ones are cut. Default 500; raise it to read whole documents",
                    20,
                    20_000,
                ),
            ),
        ],
    );
    tool(
        "query",
        "Run SQL",
        "Runs one SQL statement that reads, for whatever the other tools do not do: counts, averages, groups, joins, reading \
         documents. The dialect is DataFusion's, close to PostgreSQL; names with capitals or blanks stand in double quotes, \
         texts in single quotes.\n\
         Tables: each corpus (`answers`: doc_id, the user's columns, n_tokens, features), its long form \
         (`answers_activations`: doc_id, feature_id, label, level, activation), `saequel.features`, `saequel.corpora`. Do \
         not SELECT features or *: a features value is shown as a count; use top_features(features, 5).\n\
         Functions of features (id or label): has_feature(features, 1919), activation(features, 1919), \
         top_features(features, 5), highlight(text, 1919), encode('any text'); diff, correlate, cluster, retrieve, \
         search_features in FROM. list_functions has all of them.\n\
         Examples: SELECT assistant, count(*) AS docs, avg(CAST(has_feature(features, 1919) AS INT)) AS share FROM answers \
         GROUP BY assistant; SELECT doc_id, highlight(answer, 1919) AS text FROM answers WHERE has_feature(features, 1919) \
         LIMIT 5; SELECT answer FROM answers WHERE doc_id = 'heron-001' (with cell_chars 5000 for the whole text).\n\
         An answer holds about 40,000 characters; `truncated` says whether there is more, and `note` how to get it. For a \
         sample in a fixed order use ORDER BY.",
        input,
    )
    .with_raw_output_schema(ROWS.clone())
}

pub(super) async fn query(asker: &Asker<'_>, arguments: Query) -> Result<Reply> {
    let statement = match statements(&arguments.sql).as_slice() {
        [one] => (*one).to_owned(),
        [] => return Err(Failure::usage("query: no statement").hint("SHOW CORPORA")),
        several => return Err(Failure::usage(format!("query: expected one statement, got {}", several.len()))),
    };
    let first = first_word(&statement);
    if WRITES.iter().any(|word| first.eq_ignore_ascii_case(word)) {
        let message = format!("query: agents read only; {} would change the database", first.to_ascii_uppercase());
        return Err(Failure::new(ErrorKind::Denied, message).hint(
            "ask a person to run it with `saequel sql`; here, SELECT, WITH, SHOW, DESCRIBE and EXPLAIN are answered",
        ));
    }
    let limit = arguments.limit.unwrap_or(ROWS_BY_DEFAULT);
    let cell_chars = arguments.cell_chars.and_then(|chars| usize::try_from(chars).ok()).unwrap_or(CELL_CHARS);
    let rows = asker.ask(&statement, Limits { cell_chars, ..Limits::rows(limit) }).await?;
    let notes = notes(&rows, limit, cell_chars);
    Ok(Reply::of(&rows, &statement, notes))
}

fn notes(rows: &Rows, limit: u64, cell_chars: usize) -> Vec<String> {
    let n_rows = rows.rows.len();
    let mut notes = Vec::new();
    if rows.cut.rows {
        let more = if limit < MOST_ROWS { format!("raise `limit` (at most {MOST_ROWS}), ") } else { String::new() };
        notes.push(format!(
            "Cut after {n_rows} rows: {more}aggregate, or read on with ORDER BY ... LIMIT {n_rows} OFFSET {n_rows}."
        ));
    }
    if rows.cut.size {
        notes.push(format!(
            "Cut after {n_rows} rows, since the answer holds about 40,000 characters: select fewer or shorter columns \
             (substr(text, 1, 200)), or read on with ORDER BY ... LIMIT {n_rows} OFFSET {n_rows}."
        ));
    }
    if rows.cut.cells {
        notes
            .push(format!("Cells longer than {cell_chars} characters are cut (…): raise `cell_chars`, or use substr."));
    }
    notes
}

/// A function as the reference has it.
struct Function {
    kind: &'static str,
    name: &'static str,
    /// All of its section.
    text: &'static str,
}

impl Function {
    /// The call with its arguments.
    fn syntax(&self) -> &'static str {
        self.text.lines().find_map(|line| line.strip_prefix('`')).map_or("", |line| line.trim_end_matches('`'))
    }

    /// What it gives, in a sentence.
    fn summary(&self) -> &'static str {
        let line = self.text.lines().find(|line| !line.is_empty() && !line.starts_with('`')).unwrap_or_default();
        // A point within a word or a number ends nothing.
        let end = line.match_indices(". ").map(|(at, _)| at + 1).next().unwrap_or(line.len());
        &line[..end]
    }
}

/// The functions of the reference.
static FUNCTIONS: LazyLock<Vec<Function>> = LazyLock::new(|| {
    let mut functions = Vec::new();
    for part in saequel_engine::functions::PAGE.split("\n## ").skip(1) {
        let (kind, sections) = part.split_once('\n').unwrap_or((part, ""));
        for section in sections.split("\n### ").skip(1) {
            let (name, text) = section.split_once('\n').unwrap_or((section, ""));
            functions.push(Function { kind, name: name.trim(), text: text.trim() });
        }
    }
    functions
});

/// Arguments of `list_functions`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListFunctions {
    name: Option<String>,
}

pub(super) fn list_functions_tool() -> Tool {
    tool(
        "list_functions",
        "List SQL functions",
        "Lists the SQL functions for texts and features that `query` can use: `name`, `kind` (table functions stand in FROM), \
         `syntax`, `summary`. With `name`: all about one function, with every option, and an example with its result; also \
         of DataFusion's own functions (date_trunc, regexp_match, ...), which can be used too.\n\
         Examples: {}; {\"name\": \"diff\"}",
        object(&[], [("name", text("Name of one function. Default: a list of all"))]),
    )
    .with_raw_output_schema(ROWS.clone())
}

pub(super) async fn list_functions(asker: &Asker<'_>, arguments: ListFunctions) -> Result<Reply> {
    let table = |names: &[&str]| Rows {
        columns: names.iter().map(|name| Column { name: (*name).to_owned(), data_type: "Utf8".to_owned() }).collect(),
        ..Rows::default()
    };
    let Some(name) = arguments.name else {
        let mut rows = table(&["name", "kind", "syntax", "summary"]);
        rows.rows = FUNCTIONS
            .iter()
            .map(|function| {
                vec![function.name.into(), function.kind.into(), function.syntax().into(), function.summary().into()]
            })
            .collect();
        let note =
            "Besides, there are DataFusion's functions (count, avg, date_trunc, regexp_like, ...): SHOW FUNCTIONS.";
        return Ok(Reply::told(&rows, vec![note.to_owned()]));
    };
    let name = name.trim().trim_end_matches("()").to_ascii_lowercase();
    if let Some(function) = FUNCTIONS.iter().find(|function| function.name == name) {
        let mut rows = table(&["documentation"]);
        rows.rows.push(vec![function.text.into()]);
        return Ok(Reply::told(&rows, Vec::new()));
    }
    let statement = format!("SHOW FUNCTIONS LIKE {}", literal(&name));
    let found = asker.ask(&statement, Limits::rows(MOST_ROWS)).await?;
    if found.rows.is_empty() {
        let names: Vec<&str> = FUNCTIONS.iter().map(|function| function.name).collect();
        return Err(Failure::new(ErrorKind::NotFound, format!("there is no function '{name}'"))
            .hint(format!("there are {}, and DataFusion's own", names.join(", "))));
    }
    let mut rows = table(&["description", "syntax"]);
    for row in found.of("description").zip(found.of("syntax_example")).map(|(a, b)| vec![a.clone(), b.clone()]) {
        if !rows.rows.contains(&row) && !row.iter().all(Value::is_null) {
            rows.rows.push(row);
        }
    }
    Ok(Reply::told(&rows, Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_read() {
        let names: Vec<&str> = FUNCTIONS.iter().map(|function| function.name).collect();
        for name in ["diff", "correlate", "cluster", "retrieve", "search_features", "has_feature", "feature_pairs"] {
            assert!(names.contains(&name), "{name}");
        }
        let diff = FUNCTIONS.iter().find(|function| function.name == "diff").unwrap();
        assert_eq!((diff.kind, diff.syntax()), ("Table functions", "diff(a, b [, option => value ...])"));
        assert_eq!(diff.summary(), "Which features set two sets of documents apart.");
        for function in FUNCTIONS.iter() {
            let (syntax, summary) = (function.syntax(), function.summary());
            assert!(
                syntax.starts_with(function.name) && summary.ends_with('.') && summary.len() > 20,
                "{}: {summary}",
                function.name
            );
        }
    }
}
