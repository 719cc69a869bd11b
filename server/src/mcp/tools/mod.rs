//! What agents can do here: one statement a tool, mostly, with its arguments as quoted literals.

mod analyses;
mod corpora;
mod features;
mod sql;

use std::sync::{Arc, LazyLock};

use rmcp::model::{CallToolResult, ContentBlock, JsonObject, Tool, ToolAnnotations};
use serde_json::{Map, Value, json};

use super::answer::{self, Limits, Rows};
use super::arguments;
use crate::error::{Failure, Result};
use crate::gate::{Gate, Visitor};

pub(super) use corpora::{corpora, describe};

/// What a set of documents is.
const SET: &str = "A set of documents, in one of three forms: the name of a corpus (`answers`); a corpus with a filter in \
                   SQL (`answers WHERE assistant = 'heron' AND n_tokens > 50`); or a query (`SELECT * FROM answers ORDER \
                   BY doc_id LIMIT 500`). Column names come from describe_corpus.";
const LEVEL: &str = "Only features that fire on single tokens (`token`: words, punctuation) or on whole sentences (`span`: \
                     what a sentence says or does). Default: all";
const DICTIONARY: &str = "Only features of this dictionary (a name from describe_corpus). Default: all";

/// Whoever asks, and the way to the answers.
pub(super) struct Asker<'a> {
    pub(super) gate: &'a Gate,
    pub(super) visitor: Visitor,
}

impl Asker<'_> {
    /// Runs a statement.
    pub(super) async fn ask(&self, statement: &str, limits: Limits) -> Result<Rows> {
        answer::ask(self.gate, &self.visitor, statement, limits).await
    }
}

/// What a tool answers: the same as JSON and as text.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) structured: Map<String, Value>,
    pub(super) text: String,
}

impl Reply {
    /// Rows, the statement they came from, and what is to be said about them.
    fn of(rows: &Rows, statement: &str, notes: Vec<String>) -> Self {
        let mut reply = Self::told(rows, notes);
        reply.text.push_str(&format!("\n\nSQL: {statement}"));
        reply.structured.insert("sql".to_owned(), statement.into());
        reply
    }

    /// The same where the statement is nothing to go on with.
    fn told(rows: &Rows, notes: Vec<String>) -> Self {
        let mut structured = rows.json();
        let mut text = rows.table();
        if !notes.is_empty() {
            let note = notes.join("\n");
            text = format!("{text}\n\n{note}");
            structured.insert("note".to_owned(), note.into());
        }
        Self { structured, text }
    }

    /// As the protocol has it.
    pub(super) fn result(self) -> CallToolResult {
        let mut result = CallToolResult::structured(Value::Object(self.structured));
        result.content = vec![ContentBlock::text(self.text)];
        result
    }
}

/// A failure that the model reads and can mend.
pub(super) fn failed(failure: &Failure) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(failure.to_string())])
}

/// All tools, in the order in which they are mostly used.
pub(super) static TOOLS: LazyLock<Vec<Tool>> = LazyLock::new(|| {
    vec![
        corpora::list_corpora_tool(),
        corpora::describe_corpus_tool(),
        analyses::diff_tool(),
        analyses::correlate_tool(),
        analyses::cluster_tool(),
        analyses::retrieve_tool(),
        features::search_features_tool(),
        features::describe_feature_tool(),
        sql::query_tool(),
        sql::list_functions_tool(),
    ]
});

/// A tool that reads.
fn tool(name: &'static str, title: &'static str, description: &'static str, input: JsonObject) -> Tool {
    let reads =
        ToolAnnotations::with_title(title).read_only(true).destructive(false).idempotent(true).open_world(false);
    Tool::new(name, description, input).with_title(title).with_annotations(reads)
}

/// Schema of what tools answer that give rows.
pub(super) static ROWS: LazyLock<Arc<JsonObject>> = LazyLock::new(|| {
    let schema = json!({
        "type": "object",
        "properties": {
            "columns": {
                "type": "array",
                "items": { "type": "object", "properties": { "name": { "type": "string" }, "type": { "type": "string" } } }
            },
            "rows": { "type": "array", "items": { "type": "array" } },
            "row_count": { "type": "integer" },
            "truncated": { "type": "boolean", "description": "There are more rows; note says how to get them" },
            "same_in_every_row": { "type": "object", "description": "Columns taken out of rows" },
            "note": { "type": "string" },
            "sql": { "type": "string", "description": "What was run; `query` runs it, changed as you like" }
        },
        "required": ["columns", "rows", "row_count", "truncated"]
    });
    Arc::new(match schema {
        Value::Object(schema) => schema,
        _ => Map::new(),
    })
});

/// Runs a tool.
///
/// # Errors
/// What the arguments or the statement have wrong; `None` if there is no such tool.
pub(super) async fn call(asker: &Asker<'_>, name: &str, arguments: Option<JsonObject>) -> Option<Result<Reply>> {
    let tool = TOOLS.iter().find(|tool| tool.name == name)?;
    Some(match name {
        "list_corpora" => match arguments::read::<corpora::ListCorpora>(tool, arguments) {
            Ok(_) => corpora::list_corpora(asker).await,
            Err(failure) => Err(failure),
        },
        "describe_corpus" => match arguments::read(tool, arguments) {
            Ok(read) => corpora::describe_corpus(asker, read).await,
            Err(failure) => Err(failure),
        },
        "diff" => match arguments::read(tool, arguments) {
            Ok(read) => analyses::diff(asker, read).await,
            Err(failure) => Err(failure),
        },
        "correlate" => match arguments::read(tool, arguments) {
            Ok(read) => analyses::correlate(asker, read).await,
            Err(failure) => Err(failure),
        },
        "cluster" => match arguments::read(tool, arguments) {
            Ok(read) => analyses::cluster(asker, read).await,
            Err(failure) => Err(failure),
        },
        "retrieve" => match arguments::read(tool, arguments) {
            Ok(read) => analyses::retrieve(asker, read).await,
            Err(failure) => Err(failure),
        },
        "search_features" => match arguments::read(tool, arguments) {
            Ok(read) => features::search_features(asker, read).await,
            Err(failure) => Err(failure),
        },
        "describe_feature" => match arguments::read(tool, arguments) {
            Ok(read) => features::describe_feature(asker, read).await,
            Err(failure) => Err(failure),
        },
        "query" => match arguments::read(tool, arguments) {
            Ok(read) => sql::query(asker, read).await,
            Err(failure) => Err(failure),
        },
        _ => match arguments::read(tool, arguments) {
            Ok(read) => sql::list_functions(asker, read).await,
            Err(failure) => Err(failure),
        },
    })
}

/// What is said about rows that were left out, where `limit` is an argument of the tool.
fn cut_notes(rows: &Rows, limit: u64, most: u64) -> Vec<String> {
    let mut notes = Vec::new();
    if rows.cut.rows {
        let more = if limit < most { format!("raise `limit` (at most {most}), or ") } else { String::new() };
        notes.push(format!(
            "Cut after {} rows: {more}run the SQL below with `query` and LIMIT / OFFSET.",
            rows.rows.len()
        ));
    }
    if rows.cut.size {
        notes.push(format!(
            "Cut after {} rows, since the answer is long enough: ask for fewer columns or rows.",
            rows.rows.len()
        ));
    }
    if rows.cut.cells {
        notes.push("Long cells are cut (…).".to_owned());
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value that a schema takes.
    fn example(schema: &Value) -> Value {
        match (schema["type"].as_str(), schema["enum"].as_array()) {
            (_, Some(of)) => of[0].clone(),
            (Some("integer"), _) => schema["minimum"].clone(),
            (Some("number"), _) => json!(0.5),
            (Some("boolean"), _) => json!(true),
            (Some("array"), _) => json!(["x"]),
            _ => json!("x"),
        }
    }

    #[test]
    fn schemas_and_arguments_agree() {
        for tool in TOOLS.iter() {
            let properties = tool.input_schema["properties"].as_object().unwrap();
            let given: JsonObject = properties.iter().map(|(name, schema)| (name.clone(), example(schema))).collect();
            let given = Some(given);
            let outcome = match tool.name.as_ref() {
                "list_corpora" => arguments::read::<corpora::ListCorpora>(tool, given).map(drop),
                "describe_corpus" => arguments::read::<corpora::DescribeCorpus>(tool, given).map(drop),
                "diff" => arguments::read::<analyses::Diff>(tool, given).map(drop),
                "correlate" => arguments::read::<analyses::Correlate>(tool, given).map(drop),
                "cluster" => arguments::read::<analyses::Cluster>(tool, given).map(drop),
                "retrieve" => arguments::read::<analyses::Retrieve>(tool, given).map(drop),
                "search_features" => arguments::read::<features::SearchFeatures>(tool, given).map(drop),
                "describe_feature" => arguments::read::<features::DescribeFeature>(tool, given).map(drop),
                "query" => arguments::read::<sql::Query>(tool, given).map(drop),
                "list_functions" => arguments::read::<sql::ListFunctions>(tool, given).map(drop),
                other => panic!("{other}"),
            };
            outcome.unwrap_or_else(|failure| panic!("{}: {failure}", tool.name));
            let annotations = tool.annotations.as_ref().unwrap();
            assert_eq!(annotations.read_only_hint, Some(true), "{}", tool.name);
            assert!(tool.output_schema.is_some() && tool.title.is_some(), "{}", tool.name);
        }
    }
}
