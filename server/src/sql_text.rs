//! Text of SQL statements: quoting, splitting at semicolons, putting parameters in, building calls.
//!
//! Knows just enough of the lexical structure: `'text'`, `"identifier"`, `$tag$text$tag$`, `-- comment`,
//! `/* nested comment */`. Everything else is the engine's to judge.

use serde_json::Value;

use crate::error::{Failure, Result};

/// A text literal.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// An identifier, quoted where it must be.
pub fn identifier(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// What a stretch of a statement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Words, numbers, operators, blanks.
    Code,
    /// A literal, quoted identifier or comment; `closed` unless the text ends inside of it.
    Quoted { comment: bool, closed: bool },
}

/// Cuts `sql` into stretches of code and of quoted text or comments, in order and without a gap.
fn parts(sql: &str) -> Vec<(Part, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < sql.len() {
        let rest = &sql[at..];
        let previous_is_word = sql[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        match quoted_length(rest, previous_is_word) {
            Some((length, comment, closed)) => {
                if start < at {
                    parts.push((Part::Code, &sql[start..at]));
                }
                parts.push((Part::Quoted { comment, closed }, &sql[at..at + length]));
                at += length;
                start = at;
            }
            None => at += rest.chars().next().map_or(1, char::len_utf8),
        }
    }
    if start < sql.len() {
        parts.push((Part::Code, &sql[start..]));
    }
    parts
}

/// Length of the quoted text or comment that `rest` begins with, whether it is a comment, and whether it is closed.
fn quoted_length(rest: &str, previous_is_word: bool) -> Option<(usize, bool, bool)> {
    let end = |needle: &str, from: usize| match rest[from..].find(needle) {
        Some(found) => (from + found + needle.len(), true),
        None => (rest.len(), false),
    };
    let with = |(length, closed): (usize, bool), comment| Some((length, comment, closed));
    match rest.as_bytes() {
        // A doubled quote is closed and opened again at once, which comes to the same.
        [b'\'', ..] => with(end("'", 1), false),
        [b'"', ..] => with(end("\"", 1), false),
        [b'-', b'-', ..] => Some((end("\n", 2).0, true, true)),
        [b'/', b'*', ..] => with(comment_length(rest), true),
        [b'$', ..] if !previous_is_word => {
            let tag_length = rest[1..].find('$')? + 2;
            let tag = &rest[..tag_length];
            let name = &tag[1..tag_length - 1];
            let is_tag = !name.starts_with(|c: char| c.is_ascii_digit())
                && name.chars().all(|c| c.is_alphanumeric() || c == '_');
            if is_tag { with(end(tag, tag_length), false) } else { None }
        }
        _ => None,
    }
}

/// Length of the block comment that `rest` begins with; block comments nest.
fn comment_length(rest: &str) -> (usize, bool) {
    let bytes = rest.as_bytes();
    let (mut at, mut depth) = (2, 1);
    while at < bytes.len() {
        match &bytes[at..] {
            [b'*', b'/', ..] => (at, depth) = (at + 2, depth - 1),
            [b'/', b'*', ..] => (at, depth) = (at + 2, depth + 1),
            _ => at += 1,
        }
        if depth == 0 {
            return (at, true);
        }
    }
    (rest.len(), false)
}

/// Splits a script at its semicolons; statements that hold nothing but blanks and comments are left out.
pub fn statements(script: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let (mut start, mut at, mut has_code) = (0, 0, false);
    let mut push = |from: usize, to: usize, has_code: bool| {
        if has_code {
            found.push(script[from..to].trim());
        }
    };
    for (part, text) in parts(script) {
        if part == Part::Code {
            for (offset, character) in text.char_indices() {
                if character == ';' {
                    push(start, at + offset, has_code);
                    (start, has_code) = (at + offset + 1, false);
                } else if !character.is_whitespace() {
                    has_code = true;
                }
            }
        } else if !matches!(part, Part::Quoted { comment: true, .. }) {
            has_code = true;
        }
        at += text.len();
    }
    push(start, script.len(), has_code);
    found
}

/// Whether an input of the shell can be run: it ends with a semicolon outside of quotes and comments, or is empty.
pub fn is_complete(input: &str) -> bool {
    let mut last = ';';
    for (part, text) in parts(input) {
        match part {
            Part::Quoted { closed: false, .. } => return false,
            Part::Quoted { comment: true, .. } => {}
            Part::Quoted { .. } => last = '\'',
            Part::Code => last = text.trim_end().chars().next_back().unwrap_or(last),
        }
    }
    last == ';'
}

/// Puts parameters in the place of `$1`, `$2` (a JSON array) or `$name` (a JSON object), as literals, so that they can
/// never be read as SQL; also inside of the arguments of table functions.
///
/// # Errors
/// If a placeholder has no value, a value is not used, or a value is an object.
pub fn bind(sql: &str, params: &Value) -> Result<String> {
    let empty = match params {
        Value::Null => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.is_empty(),
        _ => return Err(Failure::usage("params: expected an array ($1, $2, ...) or an object ($name)")),
    };
    if empty {
        return Ok(sql.to_owned());
    }
    let mut bound = String::with_capacity(sql.len() + 64);
    let mut used = std::collections::BTreeSet::new();
    for (part, text) in parts(sql) {
        if part != Part::Code {
            bound.push_str(text);
            continue;
        }
        let mut rest = text;
        while let Some(position) = rest.find('$') {
            let (before, after) = (&rest[..position], &rest[position + 1..]);
            let length = after.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(after.len());
            let name = &after[..length];
            bound.push_str(before);
            let value = match params {
                Value::Array(values) => name.parse::<usize>().ok().and_then(|n| values.get(n.wrapping_sub(1))),
                other => other.get(name),
            };
            let value = value.ok_or_else(|| Failure::usage(format!("params: no value for ${name}")))?;
            bound.push_str(&value_literal(value)?);
            used.insert(name);
            rest = &after[length..];
        }
        bound.push_str(rest);
    }
    let unused = match params {
        Value::Array(values) => (1..=values.len()).map(|n| n.to_string()).find(|name| !used.contains(name.as_str())),
        Value::Object(values) => values.keys().find(|name| !used.contains(name.as_str())).cloned(),
        _ => None,
    };
    match unused {
        Some(name) => Err(Failure::usage(format!("params: the statement has no ${name}"))),
        None => Ok(bound),
    }
}

/// A JSON value as a SQL literal. Numbers stand in parentheses: `1 -$1` must not become a comment.
fn value_literal(value: &Value) -> Result<String> {
    Ok(match value {
        Value::Null => "NULL".into(),
        Value::Bool(value) => if *value { "TRUE" } else { "FALSE" }.into(),
        Value::Number(number) if number.to_string().starts_with('-') => format!("({number})"),
        Value::Number(number) => number.to_string(),
        Value::String(text) => literal(text),
        Value::Array(values) => {
            let items = values.iter().map(value_literal).collect::<Result<Vec<_>>>()?;
            format!("[{}]", items.join(", "))
        }
        Value::Object(_) => return Err(Failure::usage("params: a value may not be an object")),
    })
}

/// A call of a table function, as a statement.
#[derive(Debug, Clone)]
pub struct Call {
    function: &'static str,
    arguments: Vec<String>,
}

impl Call {
    /// `function()`.
    pub fn new(function: &'static str) -> Self {
        Self { function, arguments: Vec::new() }
    }

    /// Adds a positional text argument.
    #[must_use]
    pub fn text(mut self, argument: &str) -> Self {
        self.arguments.push(literal(argument));
        self
    }

    /// Adds a named text argument, if it is given.
    #[must_use]
    pub fn named_text(mut self, name: &str, value: Option<&str>) -> Self {
        self.arguments.extend(value.map(|value| format!("{name} => {}", literal(value))));
        self
    }

    /// Adds a named argument that is a number or a boolean, if it is given.
    #[must_use]
    pub fn named(mut self, name: &str, value: Option<impl std::fmt::Display>) -> Self {
        self.arguments.extend(value.map(|value| format!("{name} => {value}")));
        self
    }

    /// `SELECT * FROM function(arguments)`
    pub fn statement(&self) -> String {
        self.statement_of("*")
    }

    /// `SELECT columns FROM function(arguments)`
    pub fn statement_of(&self, columns: &str) -> String {
        format!("SELECT {columns} FROM {}({})", self.function, self.arguments.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quoting() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(identifier("answers_2"), "answers_2");
        assert_eq!(identifier("Model \"x\""), "\"Model \"\"x\"\"\"");
        assert_eq!(identifier("2nd"), "\"2nd\"");
    }

    #[test]
    fn scripts_are_split_at_real_semicolons() {
        let script = "SELECT ';' ; -- one; two\n/* a; /* b; */ */ SELECT \"a;b\", $x$;$x$;;\n -- end";
        assert_eq!(statements(script), ["SELECT ';'", "-- one; two\n/* a; /* b; */ */ SELECT \"a;b\", $x$;$x$"]);
        assert_eq!(statements("  \n -- nothing"), Vec::<&str>::new());
        assert_eq!(statements("SELECT 'it''s; ü'"), ["SELECT 'it''s; ü'"]);
    }

    #[test]
    fn the_shell_waits_for_the_end() {
        for (input, complete) in [
            ("", true),
            ("SELECT 1", false),
            ("SELECT 1;", true),
            ("SELECT 1; -- done", true),
            ("SELECT ';", false),
            ("SELECT ';'", false),
            ("SELECT /* ;", false),
            ("SELECT 1;  \n", true),
        ] {
            assert_eq!(is_complete(input), complete, "{input:?}");
        }
    }

    #[test]
    fn parameters_become_literals_and_nothing_else() {
        let bound = bind("SELECT $1, '$2' FROM diff($2, $1) -- $3", &json!(["x'; DROP CORPUS a; --", "b"])).unwrap();
        assert_eq!(bound, "SELECT 'x''; DROP CORPUS a; --', '$2' FROM diff('b', 'x''; DROP CORPUS a; --') -- $3");
        assert_eq!(bind("SELECT 1 -$1 * $2", &json!([-5, 2.5])).unwrap(), "SELECT 1 -(-5) * 2.5");
        assert_eq!(bind("SELECT $a, $b", &json!({"a": null, "b": [1, "x"]})).unwrap(), "SELECT NULL, [1, 'x']");
        assert_eq!(bind("SELECT $$a$$", &Value::Null).unwrap(), "SELECT $$a$$");
        assert!(bind("SELECT $2", &json!([1])).unwrap_err().line().contains("$2"));
        assert!(bind("SELECT 1", &json!([1])).unwrap_err().line().contains("has no $1"));
        assert!(bind("SELECT $1", &json!([{}])).is_err());
        assert!(bind("SELECT $1", &json!("text")).is_err());
    }

    #[test]
    fn a_call_quotes_its_arguments() {
        let call = Call::new("diff")
            .text("answers WHERE side = 'b'")
            .text("answers")
            .named_text("paired_by", Some("prompt_id"))
            .named_text("level", None)
            .named("min_docs", Some(5));
        assert_eq!(
            call.statement(),
            "SELECT * FROM diff('answers WHERE side = ''b''', 'answers', paired_by => 'prompt_id', min_docs => 5)"
        );
    }
}
