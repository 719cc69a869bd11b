//! What the shell completes: keywords, names, functions; in quotes, corpora and feature labels.

use std::borrow::Cow;
use std::collections::BTreeSet;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use futures::TryStreamExt;
use rustyline::completion::{Completer, Pair};
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::Hinter;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Helper};
use saequel_engine::Engine;

use crate::sql_text;

/// Candidates that are shown at most.
const MOST: usize = 200;

const KEYWORDS: [&str; 60] = [
    "ALL",
    "AND",
    "ANTI JOIN",
    "ARRAY",
    "AS",
    "AS OF",
    "ASC",
    "BETWEEN",
    "BY",
    "CASE",
    "CAST",
    "COMMENT",
    "CONCEPT",
    "CORPORA",
    "CORPUS",
    "CREATE",
    "CREATE CONCEPT",
    "CREATE CORPUS",
    "CROSS JOIN",
    "DELETE FROM",
    "DESC",
    "DESCRIBE",
    "DISTINCT",
    "DROP",
    "ELSE",
    "END",
    "EXCEPT",
    "EXISTS",
    "EXPLAIN",
    "FALSE",
    "FROM",
    "FULL JOIN",
    "GROUP BY",
    "HAVING",
    "ILIKE",
    "IMPORT INTO",
    "IN",
    "INNER JOIN",
    "INTERSECT",
    "IS NULL",
    "JOIN",
    "KEY",
    "LEFT JOIN",
    "LIKE",
    "LIMIT",
    "NOT",
    "NULL",
    "OFFSET",
    "ON",
    "OR",
    "ORDER BY",
    "OVER",
    "SELECT",
    "SHOW",
    "THEN",
    "TRUE",
    "UNION ALL",
    "USING SAE",
    "WHERE",
    "WITH",
];

const COMMANDS: [&str; 7] = ["\\d", "\\dt", "\\df", "\\timing", "\\format", "\\help", "\\q"];

/// Names that can be completed.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Tables, columns, functions with an opening parenthesis.
    code: BTreeSet<String>,
    /// Corpora and labels of visible features.
    quoted: BTreeSet<String>,
}

impl Names {
    /// Asks the engine. What cannot be had is not completed.
    pub(crate) async fn collect(engine: &Engine) -> Self {
        let mut names = Self::default();
        let catalog = engine.catalog();
        names.quoted.extend(catalog.corpora.iter().map(|corpus| corpus.name.clone()));
        let visible = catalog.features.features().iter().filter(|feature| !feature.hidden);
        names.quoted.extend(visible.map(|feature| feature.label.clone()));
        names.quoted.extend(catalog.features.concepts().iter().map(|concept| concept.name.clone()));
        let tables = "SELECT DISTINCT CASE WHEN table_schema = 'main' OR table_schema = 'public' THEN table_name \
                      ELSE table_schema || '.' || table_name END FROM information_schema.tables";
        let columns = "SELECT DISTINCT column_name FROM information_schema.columns \
                       WHERE table_schema <> 'information_schema'";
        let functions = "SELECT DISTINCT routine_name || '(' FROM information_schema.routines";
        for statement in [tables, columns, functions] {
            names.code.extend(first_column(engine, statement).await.unwrap_or_default());
        }
        for function in ["diff(", "correlate(", "cluster(", "cluster_summary(", "retrieve("] {
            names.code.insert(function.to_owned());
        }
        names
    }
}

async fn first_column(engine: &Engine, statement: &str) -> crate::error::Result<Vec<String>> {
    let batches: Vec<_> = engine.sql(statement).await?.try_collect().await?;
    let mut values = Vec::new();
    for batch in batches {
        let text = cast(batch.column(0), &DataType::Utf8)?;
        values.extend(text.as_string::<i32>().iter().flatten().map(str::to_owned));
    }
    Ok(values)
}

/// Helps while typing.
pub(crate) struct Assistant {
    names: Names,
}

impl Assistant {
    pub(crate) fn new(names: Names) -> Self {
        Self { names }
    }

    /// Where the word before the cursor starts, and what may complete it.
    fn candidates(&self, before: &str) -> (usize, Vec<Pair>) {
        if before.starts_with('\\') && !before.contains(' ') {
            let pairs = COMMANDS.iter().filter(|command| command.starts_with(before)).map(|command| pair(command));
            return (0, pairs.collect());
        }
        if let Some(start) = open_quote(before) {
            let typed = before[start..].to_lowercase();
            let matching = self.names.quoted.iter().filter(|name| name.to_lowercase().starts_with(&typed));
            let inside = self.names.quoted.iter().filter(|name| {
                let name = name.to_lowercase();
                typed.chars().count() >= 3 && !name.starts_with(&typed) && name.contains(&typed)
            });
            let pairs = matching.chain(inside).take(MOST);
            let pairs = pairs.map(|name| Pair { display: name.clone(), replacement: name.replace('\'', "''") });
            return (start, pairs.collect());
        }
        let start = before
            .char_indices()
            .rev()
            .find(|(_, c)| !(c.is_alphanumeric() || matches!(c, '_' | '.')))
            .map_or(0, |(at, c)| at + c.len_utf8());
        let typed = &before[start..];
        if typed.is_empty() {
            return (start, Vec::new());
        }
        let lower = typed.to_lowercase();
        let small = typed.chars().all(|c| !c.is_uppercase());
        let names =
            self.names.code.iter().filter(|name| name.to_lowercase().starts_with(&lower)).map(|name| pair(name));
        let keywords = KEYWORDS
            .iter()
            .filter(|keyword| keyword.to_lowercase().starts_with(&lower))
            .map(|keyword| if small { pair(&keyword.to_lowercase()) } else { pair(keyword) });
        (start, names.chain(keywords).take(MOST).collect())
    }
}

fn pair(text: &str) -> Pair {
    Pair { display: text.to_owned(), replacement: text.to_owned() }
}

/// Where the text of an open `'` literal starts.
fn open_quote(before: &str) -> Option<usize> {
    let mut open = None;
    for (at, character) in before.char_indices() {
        if character == '\'' {
            open = if open.is_some() { None } else { Some(at + 1) };
        }
    }
    open
}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _context: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        Ok(self.candidates(&line[..pos]))
    }
}

impl Validator for Assistant {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let input = context.input().trim();
        let bare = matches!(input, "exit" | "quit" | "help");
        let complete = bare || input.starts_with('\\') || sql_text::is_complete(input);
        Ok(if complete { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

impl Hinter for Assistant {
    type Hint = String;
}

impl Highlighter for Assistant {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _default: bool) -> Cow<'b, str> {
        Cow::Owned(format!("\x1b[1m{prompt}\x1b[0m"))
    }

    fn highlight_char(&self, _line: &str, _pos: usize, _kind: CmdKind) -> bool {
        false
    }
}

impl Helper for Assistant {}

#[cfg(test)]
mod tests {
    use super::*;

    fn assistant() -> Assistant {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        Assistant::new(Names {
            code: names(&["answers", "answers_activations", "saequel.features", "avg("]),
            quoted: names(&["answers", "says sorry", "it's a list"]),
        })
    }

    fn complete(before: &str) -> (usize, Vec<String>) {
        let (start, pairs) = assistant().candidates(before);
        (start, pairs.into_iter().map(|pair| pair.replacement).collect())
    }

    #[test]
    fn names_keywords_and_labels() {
        assert_eq!(complete("SELECT * FROM ans"), (14, vec!["answers".into(), "answers_activations".into()]));
        assert_eq!(complete("sel"), (0, vec!["select".into()]));
        assert_eq!(complete("SEL"), (0, vec!["SELECT".into()]));
        assert_eq!(complete("SELECT has_feature(features, 'say"), (30, vec!["says sorry".into()]));
        assert_eq!(complete("SELECT has_feature(features, 'sorr"), (30, vec!["says sorry".into()]));
        assert_eq!(complete("SELECT 'it"), (8, vec!["it''s a list".into()]));
        assert_eq!(complete("SELECT 'x', av"), (12, vec!["avg(".into()]));
        assert_eq!(complete("\\d"), (0, vec!["\\d".into(), "\\dt".into(), "\\df".into()]));
        assert_eq!(complete("SELECT "), (7, vec![]));
    }
}
