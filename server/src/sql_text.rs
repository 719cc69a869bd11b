//! Text of SQL statements: quoting, splitting at semicolons, building calls.
//!
//! Knows just enough of the lexical structure: `'text'`, `E'text with \\ escapes'`, `"identifier"`, `` `identifier` ``,
//! `$tag$text$tag$`, `-- comment`, `/* nested comment */`. Everything else is the engine's to judge.

use datafusion::sql::sqlparser::keywords::ALL_KEYWORDS;

/// A text literal.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// An identifier, quoted where it must be.
pub fn identifier(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && ALL_KEYWORDS.binary_search(&name.to_uppercase().as_str()).is_err();
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// What a stretch of a statement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Words, numbers, operators, blanks.
    Code,
    /// A literal, quoted identifier or comment; `closed` unless the text ends inside of it.
    Quoted { comment: bool, closed: bool },
}

/// Cuts `sql` into stretches of code and of quoted text or comments, in order and without a gap.
pub(crate) fn parts(sql: &str) -> Vec<(Part, &str)> {
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
        [b'`', ..] => with(end("`", 1), false),
        [b'e' | b'E', b'\'', ..] if !previous_is_word => with(escaped_length(rest), false),
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

/// Length of the `E'text'` that `rest` begins with: neither a backslash and what follows it nor a doubled quote ends it.
fn escaped_length(rest: &str) -> (usize, bool) {
    let bytes = rest.as_bytes();
    let mut at = 2;
    while at < bytes.len() {
        match &bytes[at..] {
            [b'\\', _, ..] | [b'\'', b'\'', ..] => at += 2,
            [b'\'', ..] => return (at + 1, true),
            _ => at += 1,
        }
    }
    (rest.len(), false)
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

/// The first word of a statement, comments aside; empty if it begins with something quoted.
pub fn first_word(statement: &str) -> &str {
    let first = parts(statement).into_iter().find(|(part, text)| match part {
        Part::Code => !text.trim().is_empty(),
        Part::Quoted { comment, .. } => !comment,
    });
    match first {
        Some((Part::Code, text)) => text.split_whitespace().next().unwrap_or_default(),
        _ => "",
    }
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

    /// Sets a named argument that is off unless it is set.
    #[must_use]
    pub fn flag(self, name: &str, is_set: bool) -> Self {
        self.named(name, is_set.then_some(true))
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
    use super::*;

    #[test]
    fn quoting() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(identifier("answers_2"), "answers_2");
        assert_eq!(identifier("Model \"x\""), "\"Model \"\"x\"\"\"");
        assert_eq!(identifier("2nd"), "\"2nd\"");
        for word in ["group", "order", "null", "true", "current_date", "user", "zone"] {
            assert_eq!(identifier(word), format!("\"{word}\""));
        }
    }

    #[test]
    fn scripts_are_split_at_real_semicolons() {
        let script = "SELECT ';' ; -- one; two\n/* a; /* b; */ */ SELECT \"a;b\", $x$;$x$;;\n -- end";
        assert_eq!(statements(script), ["SELECT ';'", "-- one; two\n/* a; /* b; */ */ SELECT \"a;b\", $x$;$x$"]);
        assert_eq!(statements("  \n -- nothing"), Vec::<&str>::new());
        assert_eq!(statements("SELECT 'it''s; ü'"), ["SELECT 'it''s; ü'"]);
        for one in [r"SELECT E'a\';b\\'", r"SELECT e'a'';\ü;'", "SELECT `it's;` FROM a", r"SELECT 'a\', TRUE"] {
            assert_eq!(statements(&format!("{one}; SELECT 2")), [one, "SELECT 2"]);
        }
        // Here the E ends a name, and the backslash means nothing.
        assert_eq!(statements(r"SELECT TYPE'a\'; SELECT 2"), [r"SELECT TYPE'a\'", "SELECT 2"]);
    }

    #[test]
    fn the_first_word_comes_after_comments() {
        assert_eq!(first_word("-- set up\n/* a; */ CREATE CORPUS a"), "CREATE");
        assert_eq!(first_word("  select 1"), "select");
        assert_eq!((first_word("'create'"), first_word("-- create"), first_word("")), ("", "", ""));
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
            (r"SELECT E'it\'s';", true),
            (r"SELECT E'it\';", false),
            ("SELECT `it's` FROM a;", true),
        ] {
            assert_eq!(is_complete(input), complete, "{input:?}");
        }
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
