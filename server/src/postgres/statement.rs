//! Statements that the door answers itself: transactions, settings, cursors, COPY. All others are the engine's.

use crate::error::Failure;

use super::copy::{Copy, Source};
use super::error::{Result, Trouble};
use super::settings::SessionSettings;

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Command {
    /// Nothing but blanks and comments.
    Empty,
    /// The engine's.
    Engine,
    /// `BEGIN`.
    Begin(Vec<(&'static str, String)>),
    /// `COMMIT`; with `chain`, the next transaction begins at once.
    Commit { chain: bool },
    /// `ROLLBACK`.
    Rollback { chain: bool },
    /// `SAVEPOINT`.
    Savepoint(String),
    /// `RELEASE SAVEPOINT`.
    Release(String),
    /// `ROLLBACK TO SAVEPOINT`.
    RollbackTo(String),
    /// `SET name TO value`; without a value, the default.
    Set { name: String, value: Option<String>, local: bool },
    /// `SET TRANSACTION`, `SET SESSION CHARACTERISTICS`.
    SetMany(Vec<(&'static str, String)>),
    /// `RESET`; without a name, all.
    Reset(Option<String>),
    /// `SHOW`; without a name, all.
    Show(Option<String>),
    /// `DISCARD`.
    Discard { all: bool, tag: &'static str },
    /// `DEALLOCATE`; without a name, all.
    Deallocate(Option<String>),
    /// Accepted, and nothing comes of it.
    Nothing(&'static str),
    /// `DECLARE name CURSOR FOR query`; the query begins at byte `query`.
    Declare { name: String, hold: bool, query: usize },
    /// `FETCH`, or `MOVE`, so many rows; all without a number.
    Fetch { name: String, rows: Option<u64>, shown: bool },
    /// `CLOSE`; without a name, all.
    Close(Option<String>),
    /// `COPY ... TO STDOUT`.
    Copy(Copy),
}

impl Command {
    /// Whether it can be run in a transaction that has failed.
    pub(super) fn ends_transaction(&self) -> bool {
        matches!(self, Self::Commit { .. } | Self::Rollback { .. } | Self::RollbackTo(_) | Self::Empty)
    }

    /// Reads one statement.
    ///
    /// # Errors
    /// For one that begins like one of these and goes on otherwise.
    pub(super) fn parse(sql: &str, settings: &SessionSettings) -> Result<Self> {
        let mut words = Words::new(sql);
        let Some(Token::Word(first)) = words.peek() else {
            return Ok(if words.peek().is_none() { Self::Empty } else { Self::Engine });
        };
        let first = first.clone();
        let own = [
            "begin",
            "start",
            "commit",
            "end",
            "rollback",
            "abort",
            "savepoint",
            "release",
            "set",
            "reset",
            "show",
            "discard",
            "deallocate",
            "listen",
            "unlisten",
            "declare",
            "fetch",
            "move",
            "close",
            "copy",
        ];
        if !own.contains(&first.as_str()) {
            return Ok(Self::Engine);
        }
        words.next();
        let command = match first.as_str() {
            "begin" | "start" => {
                if first == "start" {
                    words.expect("transaction")?;
                } else {
                    words.skip_any(&["work", "transaction"]);
                }
                Self::Begin(modes(&mut words, "transaction")?)
            }
            "commit" | "end" => {
                words.skip_any(&["work", "transaction"]);
                if words.skip("prepared") {
                    return Err(Trouble::new("0A000", "prepared transactions are not supported"));
                }
                Self::Commit { chain: chain(&mut words)? }
            }
            "rollback" | "abort" => {
                words.skip_any(&["work", "transaction"]);
                if words.skip("prepared") {
                    return Err(Trouble::new("0A000", "prepared transactions are not supported"));
                }
                if words.skip("to") {
                    words.skip("savepoint");
                    Self::RollbackTo(words.name()?)
                } else {
                    Self::Rollback { chain: chain(&mut words)? }
                }
            }
            "savepoint" => Self::Savepoint(words.name()?),
            "release" => {
                words.skip("savepoint");
                Self::Release(words.name()?)
            }
            "set" => set(&mut words)?,
            "reset" => match setting_name(&mut words)? {
                name if name == "all" => Self::Reset(None),
                name => Self::Reset(Some(name)),
            },
            "show" => {
                let mut ahead = words.clone();
                match setting_name(&mut ahead) {
                    Ok(name) if ahead.peek().is_none() && name == "all" => return Ok(Self::Show(None)),
                    Ok(name) if ahead.peek().is_none() && (settings.knows(&name) || name.contains('.')) => {
                        return Ok(Self::Show(Some(name)));
                    }
                    _ => return Ok(Self::Engine), // SHOW CORPORA, SHOW TABLES, ...
                }
            }
            "discard" => {
                let (all, tag) = match words.word()?.as_str() {
                    "all" => (true, "DISCARD ALL"),
                    "plans" => (false, "DISCARD PLANS"),
                    "sequences" => (false, "DISCARD SEQUENCES"),
                    "temp" | "temporary" => (false, "DISCARD TEMP"),
                    other => return Err(unexpected(other, "ALL, PLANS, SEQUENCES or TEMP")),
                };
                Self::Discard { all, tag }
            }
            "deallocate" => {
                words.skip("prepare");
                Self::Deallocate(words.name_or_all()?)
            }
            // Nobody ever notifies: there is nothing that changes without being asked.
            "listen" => {
                words.name()?;
                Self::Nothing("LISTEN")
            }
            "unlisten" => {
                if !words.skip_symbol('*') {
                    words.name()?;
                }
                Self::Nothing("UNLISTEN")
            }
            "declare" => return declare(words),
            "fetch" | "move" => fetch(&mut words, first == "fetch")?,
            "close" => Self::Close(words.name_or_all()?),
            _ => return copy(words).map(Self::Copy),
        };
        words.end()?;
        Ok(command)
    }
}

fn unexpected(got: &str, expected: &str) -> Trouble {
    Trouble::from(Failure::usage(format!("expected {expected}, got '{got}'")))
}

fn chain(words: &mut Words<'_>) -> Result<bool> {
    if !words.skip("and") {
        return Ok(false);
    }
    let no = words.skip("no");
    words.expect("chain")?;
    Ok(!no)
}

/// `ISOLATION LEVEL ..., READ ONLY, NOT DEFERRABLE` as settings with this prefix.
fn modes(words: &mut Words<'_>, prefix: &'static str) -> Result<Vec<(&'static str, String)>> {
    let is_default = prefix == "default_transaction";
    let mut modes = Vec::new();
    while words.peek().is_some() {
        let mode = match words.word()?.as_str() {
            "isolation" => {
                words.expect("level")?;
                let level = match words.word()?.as_str() {
                    "serializable" => "serializable",
                    "repeatable" => {
                        words.expect("read")?;
                        "repeatable read"
                    }
                    "read" => match words.word()?.as_str() {
                        "committed" => "read committed",
                        "uncommitted" => "read uncommitted",
                        other => return Err(unexpected(other, "COMMITTED or UNCOMMITTED")),
                    },
                    other => return Err(unexpected(other, "a level of isolation")),
                };
                (if is_default { "default_transaction_isolation" } else { "transaction_isolation" }, level)
            }
            "read" => {
                let on = match words.word()?.as_str() {
                    "only" => "on",
                    "write" => "off",
                    other => return Err(unexpected(other, "ONLY or WRITE")),
                };
                (if is_default { "default_transaction_read_only" } else { "transaction_read_only" }, on)
            }
            "not" => {
                words.expect("deferrable")?;
                (if is_default { "default_transaction_deferrable" } else { "transaction_deferrable" }, "off")
            }
            "deferrable" => {
                (if is_default { "default_transaction_deferrable" } else { "transaction_deferrable" }, "on")
            }
            other => return Err(unexpected(other, "ISOLATION LEVEL, READ ONLY, READ WRITE or DEFERRABLE")),
        };
        modes.push((mode.0, mode.1.to_owned()));
        words.skip_symbol(',');
    }
    Ok(modes)
}

/// A name, which may have parts, or one of the names of several words.
fn setting_name(words: &mut Words<'_>) -> Result<String> {
    let mut name = words.name()?;
    match name.as_str() {
        "time" if words.skip("zone") => return Ok("timezone".to_owned()),
        "session" if words.skip("authorization") => return Ok("session_authorization".to_owned()),
        "transaction" if words.skip("isolation") => {
            words.expect("level")?;
            return Ok("transaction_isolation".to_owned());
        }
        _ => {}
    }
    while words.skip_symbol('.') {
        name = format!("{name}.{}", words.name()?);
    }
    Ok(name)
}

fn set(words: &mut Words<'_>) -> Result<Command> {
    let mut local = false;
    if words.skip("local") {
        local = true;
    } else if words.skip("session") {
        if words.skip("characteristics") {
            words.expect("as")?;
            words.expect("transaction")?;
            return Ok(Command::SetMany(modes(words, "default_transaction")?));
        }
        if words.skip("authorization") {
            let value = words.value()?;
            let name = "role".to_owned();
            return Ok(Command::Set { name, value: value.filter(|value| value != "default"), local });
        }
    }
    if words.skip("transaction") {
        if words.skip("snapshot") {
            return Err(Trouble::new("0A000", "snapshots are not exported: each statement sees the newest version"));
        }
        return Ok(Command::SetMany(modes(words, "transaction")?));
    }
    if words.skip("constraints") {
        while words.next().is_some() {}
        return Ok(Command::Nothing("SET CONSTRAINTS"));
    }
    if words.skip("time") {
        words.expect("zone")?;
        words.skip("interval");
        let value = words.value()?;
        while words.skip_any(&["hour", "to", "minute"]) {}
        return Ok(Command::Set { name: "timezone".to_owned(), value, local });
    }
    if words.skip("names") {
        return Ok(Command::Set { name: "client_encoding".to_owned(), value: words.value()?, local });
    }
    if words.skip("schema") {
        return Ok(Command::Set { name: "search_path".to_owned(), value: words.value()?, local });
    }
    let name = setting_name(words)?;
    if name != "role" && !words.skip("to") && !words.skip_symbol('=') {
        return Err(unexpected(&words.shown(), "TO or ="));
    }
    let Some(mut value) = words.value()? else { return Ok(Command::Set { name, value: None, local }) };
    while words.skip_symbol(',') {
        let next = words.value()?.unwrap_or_default();
        value = format!("{value}, {next}");
    }
    Ok(Command::Set { name, value: Some(value), local })
}

fn declare(mut words: Words<'_>) -> Result<Command> {
    let name = words.name()?;
    // BINARY is ignored: FETCH says in which format it wants its rows, as all drivers do.
    while words.skip_any(&["binary", "asensitive", "insensitive", "no"]) {}
    if words.skip("scroll") {
        // Clients ask for it by habit; going back is refused when it is tried.
    }
    words.expect("cursor")?;
    let mut hold = false;
    if words.skip("with") {
        words.expect("hold")?;
        hold = true;
    } else if words.skip("without") {
        words.expect("hold")?;
    }
    words.expect("for")?;
    Ok(Command::Declare { name, hold, query: words.at() })
}

fn fetch(words: &mut Words<'_>, shown: bool) -> Result<Command> {
    let back = || {
        Trouble::new("55000", "cursor can only scan forward").hint("declare the cursor again to begin at the first row")
    };
    let mut rows = Some(1);
    match words.peek().cloned() {
        Some(Token::Number(number)) => {
            words.next();
            rows = Some(number.parse().map_err(|_| unexpected(&number, "a whole number"))?);
        }
        Some(Token::Symbol('-')) => return Err(back()),
        Some(Token::Word(word)) => match word.as_str() {
            "next" => {
                words.next();
            }
            "all" => {
                words.next();
                rows = None;
            }
            "forward" => {
                words.next();
                if words.skip("all") {
                    rows = None;
                } else if let Some(Token::Number(number)) = words.peek().cloned() {
                    words.next();
                    rows = Some(number.parse().map_err(|_| unexpected(&number, "a whole number"))?);
                } else if words.peek() == Some(&Token::Symbol('-')) {
                    return Err(back());
                }
            }
            "prior" | "first" | "last" | "absolute" | "relative" | "backward" => {
                // A cursor may have such a name.
                let mut ahead = words.clone();
                ahead.next();
                if ahead.peek().is_some() {
                    return Err(back());
                }
            }
            _ => {}
        },
        _ => {}
    }
    words.skip_any(&["from", "in"]);
    Ok(Command::Fetch { name: words.name()?, rows, shown })
}

fn copy(mut words: Words<'_>) -> Result<Copy> {
    let mut is_binary = false;
    let source = if words.peek() == Some(&Token::Symbol('(')) {
        let start = words.at() + 1;
        let end = words.skip_parentheses()?;
        Source::Query(start..end)
    } else {
        is_binary = words.skip("binary");
        let start = words.at();
        words.name()?;
        while words.skip_symbol('.') {
            words.name()?;
        }
        let table = start..words.behind();
        let mut columns = Vec::new();
        if words.skip_symbol('(') {
            loop {
                columns.push(words.name()?);
                if !words.skip_symbol(',') {
                    break;
                }
            }
            words.expect_symbol(')')?;
        }
        Source::Table { table, columns }
    };
    if words.skip("from") {
        return Err(Trouble::new("0A000", "COPY FROM: documents are not copied in")
            .hint("IMPORT INTO corpus FROM 'file' reads a file of the server, POST /v1/corpora/{name}/documents (HTTP) one of the client"));
    }
    words.expect("to")?;
    if !words.skip("stdout") {
        return Err(Trouble::new("42501", "COPY TO: a statement writes no file and starts no program of the server")
            .hint("use COPY ... TO STDOUT; psql's \\copy writes the file on your side"));
    }
    let mut copy = Copy::new(source);
    if is_binary {
        copy.option("format", Some("binary"))?;
    }
    words.skip("with");
    if words.skip_symbol('(') {
        loop {
            let name = words.word()?;
            let value = match words.peek() {
                Some(Token::Symbol(',' | ')')) | None => None,
                Some(Token::Symbol('(')) => {
                    words.skip_parentheses()?;
                    Some("*".to_owned())
                }
                Some(Token::Symbol('*')) => {
                    words.next();
                    Some("*".to_owned())
                }
                _ => words.value()?,
            };
            copy.option(&name, value.as_deref())?;
            if !words.skip_symbol(',') {
                break;
            }
        }
        words.expect_symbol(')')?;
    } else {
        // The form of before PostgreSQL 9.0, which psql still writes.
        while let Some(Token::Word(word)) = words.next() {
            match word.as_str() {
                "csv" | "binary" | "text" => copy.option("format", Some(&word))?,
                "header" => copy.option("header", None)?,
                "delimiter" | "delimiters" | "null" | "quote" | "escape" | "encoding" => {
                    words.skip("as");
                    let name = if word == "delimiters" { "delimiter" } else { &word };
                    let value = words.value()?;
                    copy.option(name, value.as_deref())?;
                }
                "force" => {
                    words.expect("quote")?;
                    while words.peek().is_some() {
                        words.next();
                    }
                    copy.option("force_quote", Some("*"))?;
                }
                other => return Err(unexpected(other, "an option of COPY")),
            }
        }
    }
    copy.check()?;
    words.end()?;
    Ok(copy)
}

/// A piece of a statement.
#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// A word without quotes, in lower case.
    Word(String),
    /// A name in quotes.
    Name(String),
    /// A string.
    Text(String),
    /// A number without sign.
    Number(String),
    /// Anything else.
    Symbol(char),
}

/// Reads a statement piece by piece.
#[derive(Debug, Clone)]
struct Words<'a> {
    sql: &'a str,
    /// The next piece, where it begins and where it ends.
    next: Option<(Token, usize, usize)>,
    /// Where the last piece ended.
    behind: usize,
}

impl<'a> Words<'a> {
    fn new(sql: &'a str) -> Self {
        let mut words = Self { sql, next: None, behind: 0 };
        words.advance(0);
        words
    }

    /// Reads the piece at or behind `from`.
    fn advance(&mut self, from: usize) {
        let mut at = from;
        loop {
            let rest = &self.sql[at..];
            let blank = rest.len() - rest.trim_start().len();
            at += blank;
            let rest = &self.sql[at..];
            if rest.starts_with("--") {
                at += rest.find('\n').map_or(rest.len(), |found| found + 1);
            } else if rest.starts_with("/*") {
                at += comment(rest);
            } else {
                break;
            }
        }
        let rest = &self.sql[at..];
        let Some(first) = rest.chars().next() else {
            self.next = None;
            return;
        };
        let word_length =
            |rest: &str| rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '$').unwrap_or(rest.len());
        let (token, length) = match first {
            'e' | 'E' if rest[1..].starts_with('\'') => {
                let (text, length) = quoted(&rest[1..], '\'', true);
                (Token::Text(text), length + 1)
            }
            '\'' => {
                let (text, length) = quoted(rest, '\'', false);
                (Token::Text(text), length)
            }
            '"' => {
                let (name, length) = quoted(rest, '"', false);
                (Token::Name(name), length)
            }
            c if c.is_ascii_digit() => {
                let length = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(rest.len());
                (Token::Number(rest[..length].to_owned()), length)
            }
            c if c.is_alphabetic() || c == '_' => {
                let length = word_length(rest);
                (Token::Word(rest[..length].to_lowercase()), length)
            }
            ';' if rest[1..].trim().is_empty() => {
                self.next = None;
                return;
            }
            '$' => match dollar_quoted(rest) {
                Some(length) => (Token::Text(String::new()), length),
                None => (Token::Symbol('$'), 1),
            },
            c => (Token::Symbol(c), c.len_utf8()),
        };
        self.next = Some((token, at, at + length));
    }

    fn peek(&self) -> Option<&Token> {
        self.next.as_ref().map(|(token, ..)| token)
    }

    fn next(&mut self) -> Option<Token> {
        let (token, _, end) = self.next.take()?;
        self.behind = end;
        self.advance(end);
        Some(token)
    }

    /// Where the next piece begins.
    fn at(&self) -> usize {
        self.next.as_ref().map_or(self.sql.len(), |(_, start, _)| *start)
    }

    /// Where the last piece ended.
    fn behind(&self) -> usize {
        self.behind
    }

    /// The next piece for a message.
    fn shown(&self) -> String {
        self.next.as_ref().map_or_else(|| "the end".to_owned(), |(_, start, end)| self.sql[*start..*end].to_owned())
    }

    fn skip(&mut self, word: &str) -> bool {
        let is = matches!(self.peek(), Some(Token::Word(next)) if next == word);
        if is {
            self.next();
        }
        is
    }

    fn skip_any(&mut self, words: &[&str]) -> bool {
        words.iter().any(|word| self.skip(word))
    }

    fn skip_symbol(&mut self, symbol: char) -> bool {
        let is = self.peek() == Some(&Token::Symbol(symbol));
        if is {
            self.next();
        }
        is
    }

    fn expect(&mut self, word: &str) -> Result<()> {
        if self.skip(word) { Ok(()) } else { Err(self.unexpected(&word.to_uppercase())) }
    }

    fn expect_symbol(&mut self, symbol: char) -> Result<()> {
        if self.skip_symbol(symbol) { Ok(()) } else { Err(self.unexpected(&symbol.to_string())) }
    }

    fn word(&mut self) -> Result<String> {
        match self.peek() {
            Some(Token::Word(_)) => match self.next() {
                Some(Token::Word(word)) => Ok(word),
                _ => Err(self.unexpected("a word")),
            },
            _ => Err(self.unexpected("a word")),
        }
    }

    fn name(&mut self) -> Result<String> {
        match self.peek() {
            Some(Token::Word(name) | Token::Name(name)) => {
                let name = name.clone();
                self.next();
                Ok(name)
            }
            _ => Err(self.unexpected("a name")),
        }
    }

    fn name_or_all(&mut self) -> Result<Option<String>> {
        if self.skip("all") { Ok(None) } else { self.name().map(Some) }
    }

    /// A value of a setting; `None` for `DEFAULT`.
    fn value(&mut self) -> Result<Option<String>> {
        let sign = if self.skip_symbol('-') {
            "-"
        } else {
            self.skip_symbol('+');
            ""
        };
        match self.next() {
            Some(Token::Word(word)) if word == "default" => Ok(None),
            Some(Token::Word(value) | Token::Text(value) | Token::Number(value)) => Ok(Some(format!("{sign}{value}"))),
            // Names of schemas in a path keep their quotes.
            Some(Token::Name(value)) => Ok(Some(value)),
            Some(Token::Symbol(symbol)) => Err(unexpected(&symbol.to_string(), "a value")),
            None => Err(unexpected("the end", "a value")),
        }
    }

    /// Skips `( ... )`; where the closing one stands.
    fn skip_parentheses(&mut self) -> Result<usize> {
        let mut depth = 0;
        loop {
            let at = self.at();
            match self.next() {
                Some(Token::Symbol('(')) => depth += 1,
                Some(Token::Symbol(')')) => {
                    depth -= 1;
                    if depth == 0 {
                        return Ok(at);
                    }
                }
                Some(_) => {}
                None => return Err(unexpected("the end", ")")),
            }
        }
    }

    fn end(&self) -> Result<()> {
        if self.peek().is_none() { Ok(()) } else { Err(self.unexpected("the end")) }
    }

    /// An error with the place.
    fn unexpected(&self, expected: &str) -> Trouble {
        let before = &self.sql[..self.at()];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
        let message = format!("line {line}, column {column}: expected {expected}, got '{}'", self.shown());
        Trouble::from(Failure::usage(message))
    }
}

/// Length of the comment, in which others may lie, that `rest` begins with.
fn comment(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let (mut at, mut depth) = (0, 0);
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => (at, depth) = (at + 2, depth + 1),
            [b'*', b'/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// Text between quotes, of which two stand for one, and its length with them.
fn quoted(rest: &str, quote: char, escapes: bool) -> (String, usize) {
    let mut text = String::new();
    let mut characters = rest.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        if character == quote {
            if characters.next_if(|(_, next)| *next == quote).is_none() {
                return (text, at + quote.len_utf8());
            }
            text.push(quote);
        } else if character == '\\' && escapes {
            match characters.next() {
                Some((_, 't')) => text.push('\t'),
                Some((_, 'n')) => text.push('\n'),
                Some((_, 'r')) => text.push('\r'),
                Some((_, 'b')) => text.push('\u{8}'),
                Some((_, 'f')) => text.push('\u{c}'),
                Some((_, other)) => text.push(other),
                None => {}
            }
        } else {
            text.push(character);
        }
    }
    (text, rest.len())
}

/// Length of the `$tag$text$tag$` that `rest` begins with.
fn dollar_quoted(rest: &str) -> Option<usize> {
    let tag = &rest[..rest[1..].find('$')? + 2];
    let name = &tag[1..tag.len() - 1];
    let is_tag =
        !name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    let end = rest[tag.len()..].find(tag).map_or(rest.len(), |found| tag.len() + found + tag.len());
    is_tag.then_some(end)
}

/// Whether the statement of the engine writes, as far as its first word tells.
pub(super) fn writes(first_word: &str) -> bool {
    ["import", "create", "drop", "delete", "alter", "compact", "insert", "update", "merge", "truncate"]
        .iter()
        .any(|word| first_word.eq_ignore_ascii_case(word))
}

/// The tag with which a statement of the engine ends; numbers of rows are added to `SELECT` and `DELETE`.
pub(super) fn tag(sql: &str) -> String {
    let mut words = Words::new(sql);
    let Some(Token::Word(first)) = words.next() else { return "SELECT".to_owned() };
    let second = match words.next() {
        Some(Token::Word(second)) => second,
        _ => String::new(),
    };
    match first.as_str() {
        "explain" | "delete" => first.to_uppercase(),
        "create" if second == "or" => "CREATE CONCEPT".to_owned(),
        "create" | "drop" | "alter" | "import" => format!("{first} {second}").to_uppercase(),
        "compact" => "COMPACT".to_owned(),
        _ => "SELECT".to_owned(),
    }
}

/// Whether a statement has parameters `$1`, `$2`, ... outside of quotes and comments.
pub(super) fn has_parameters(sql: &str) -> bool {
    let mut words = Words::new(sql);
    while let Some(token) = words.next() {
        if token == Token::Symbol('$') && matches!(words.peek(), Some(Token::Number(_))) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests;
