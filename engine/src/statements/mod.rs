//! Statements: what may be said to a database beside queries, and how it is read.
//!
//! A statement is tokenised once; time travel is rewritten on the tokens, saequel's own statements are read from them, and
//! everything else is left to sqlparser, whose tree is then rewritten where DataFusion's planner needs another form (see
//! [`rewrite`]).

mod depth;
mod grammar;
pub(crate) mod rewrite;
mod run;
pub(crate) mod set;
mod similar;
pub(crate) mod walk;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::sql::sqlparser::ast::{self, Expr};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Whitespace};

use crate::engine::{GivenFeatures, OnBadRow, OnConflict};
use crate::error::{Error, ErrorKind, Result};
use crate::query_error::parser_message;
use crate::reader::ChatColumns;
pub use depth::{check_tokens, with_stack};
use walk::{Node, walk};

/// How deep expressions and subqueries may nest.
const RECURSION_LIMIT: usize = 100;

/// One statement.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Statement {
    /// Anything that only reads: for DataFusion.
    Query(Box<ast::Statement>),
    /// `CREATE CORPUS` (`create`) or `IMPORT INTO`.
    Import(Import),
    /// `DELETE FROM corpus WHERE condition`.
    Delete { corpus: String, condition: Box<Expr> },
    /// `DROP CORPUS [IF EXISTS] name`.
    DropCorpus { name: String, if_exists: bool },
    /// `CREATE [OR REPLACE] CONCEPT name AS (feature [WEIGHT w], ...)`.
    CreateConcept { name: String, replace: bool, members: Vec<(String, f32)> },
    /// `DROP CONCEPT [IF EXISTS] name`.
    DropConcept { name: String, if_exists: bool },
    /// `DESCRIBE FEATURE feature`.
    DescribeFeature { feature: String },
    /// `DESCRIBE name`: of a corpus, or of any table.
    Describe { name: String, statement: Box<ast::Statement> },
    /// `ALTER CORPUS corpus ADD DICTIONARY name [, ...]` (`add`) or `DROP DICTIONARY`.
    AlterCorpus { corpus: String, add: bool, dictionaries: Vec<String> },
    /// `DROP DICTIONARY [IF EXISTS] name`.
    DropDictionary { name: String, if_exists: bool },
    /// `ALTER FEATURE feature RENAME TO 'label'`.
    RenameFeature { feature: String, label: String },
    /// `COMPACT name [KEEP VERSIONS n DAYS]`.
    Compact { corpus: String, keep_versions_secs: u64 },
}

/// What `CREATE CORPUS` and `IMPORT INTO` say.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Import {
    pub(crate) corpus: String,
    /// `CREATE CORPUS`: the corpus must not be there.
    pub(crate) create: bool,
    /// `CREATE CORPUS IF NOT EXISTS`: if it is there, nothing is done.
    pub(crate) if_not_exists: bool,
    pub(crate) file: String,
    pub(crate) format: Option<String>,
    pub(crate) text_columns: Vec<String>,
    pub(crate) chat: Option<ChatColumns>,
    pub(crate) key: Option<String>,
    pub(crate) dictionaries: Vec<String>,
    pub(crate) features: Option<GivenFeatures>,
    pub(crate) rename: Vec<(String, String)>,
    pub(crate) on_conflict: OnConflict,
    pub(crate) on_bad_row: OnBadRow,
    pub(crate) limit: Option<u64>,
}

impl Statement {
    /// Whether it changes the database.
    pub(crate) fn writes(&self) -> bool {
        !matches!(self, Statement::Query(_) | Statement::DescribeFeature { .. } | Statement::Describe { .. })
    }

    /// Columns of the result of a statement of ours.
    pub(crate) fn result_schema(&self) -> SchemaRef {
        use DataType::{Float64, UInt32, UInt64, Utf8};
        let columns: &[(&str, DataType)] = match self {
            Statement::Import(_) => &[
                ("corpus", Utf8),
                ("read", UInt64),
                ("written", UInt64),
                ("updated", UInt64),
                ("skipped", UInt64),
                ("set_aside", UInt64),
                ("tokens", UInt64),
                ("documents", UInt64),
                ("seconds", Float64),
            ],
            Statement::Delete { .. } => &[("corpus", Utf8), ("deleted", UInt64)],
            Statement::CreateConcept { .. } => {
                &[("concept", Utf8), ("feature_id", UInt32), ("label", Utf8), ("weight", Float64)]
            }
            Statement::RenameFeature { .. } => &[("feature_id", UInt32), ("label", Utf8), ("was", Utf8)],
            Statement::Describe { .. } => &[("column_name", Utf8), ("data_type", Utf8), ("use", Utf8)],
            Statement::DescribeFeature { .. } => &[("property", Utf8), ("value", Utf8)],
            _ => &[("result", Utf8)],
        };
        let fields: Vec<Field> = columns.iter().map(|(name, of)| Field::new(*name, of.clone(), true)).collect();
        Arc::new(Schema::new(fields))
    }

    /// What it is called in messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Statement::Query(_) => "query",
            Statement::Import(import) if import.create => "CREATE CORPUS",
            Statement::Import(_) => "IMPORT INTO",
            Statement::Delete { .. } => "DELETE",
            Statement::DropCorpus { .. } => "DROP CORPUS",
            Statement::CreateConcept { .. } => "CREATE CONCEPT",
            Statement::DropConcept { .. } => "DROP CONCEPT",
            Statement::DescribeFeature { .. } => "DESCRIBE FEATURE",
            Statement::Describe { .. } => "DESCRIBE",
            Statement::AlterCorpus { .. } => "ALTER CORPUS",
            Statement::DropDictionary { .. } => "DROP DICTIONARY",
            Statement::RenameFeature { .. } => "ALTER FEATURE",
            Statement::Compact { .. } => "COMPACT",
        }
    }
}

/// Reads one statement; a semicolon may follow it.
///
/// # Errors
/// [`ErrorKind::Query`] with line and column.
pub(crate) fn parse(sql: &str) -> Result<Statement> {
    depth::with_stack(sql.len(), || read(sql))
}

fn read(sql: &str) -> Result<Statement> {
    let tokens = tokenize(sql)?;
    if tokens.iter().all(is_space_or_semicolon) {
        return Err(Error::new(ErrorKind::Query, "the statement is empty"));
    }
    let mut parser = parser(tokens);
    let statement = match grammar::own_statement(&mut parser)? {
        Some(own) => own,
        None => {
            let mut statement = parser.parse_statement().map_err(syntax)?;
            depth::check(&mut statement)?;
            rewrite::rewrite(&mut statement)?;
            classify(statement)?
        }
    };
    end_of_input(&mut parser, "one statement at a time: end it here, or send the next one separately")?;
    Ok(statement)
}

/// Tokens of `sql` with time travel rewritten into table names.
pub(crate) fn tokenize(sql: &str) -> Result<Vec<TokenWithSpan>> {
    let dialect = GenericDialect {};
    let tokens = Tokenizer::new(&dialect, sql).tokenize_with_location().map_err(|error| syntax(error.into()))?;
    depth::check_tokens(&tokens)?;
    rewrite::time_travel(tokens)
}

/// A parser of `tokens` in saequel's dialect.
pub(crate) fn parser(tokens: Vec<TokenWithSpan>) -> Parser<'static> {
    Parser::new(&GenericDialect {}).with_recursion_limit(RECURSION_LIMIT).with_tokens_with_locations(tokens)
}

/// Fails, saying `otherwise`, if more than semicolons follow.
pub(crate) fn end_of_input(parser: &mut Parser<'_>, otherwise: &str) -> Result<()> {
    while parser.consume_token(&Token::SemiColon) {}
    let next = parser.peek_token();
    if next.token == Token::EOF {
        return Ok(());
    }
    let start = next.span.start;
    let message = format!("line {}, column {}: unexpected '{}'; {otherwise}", start.line, start.column, next.token);
    Err(Error::new(ErrorKind::Query, message))
}

/// A parser's error as ours.
pub(crate) fn syntax(error: ParserError) -> Error {
    if error == ParserError::RecursionLimitExceeded {
        return depth::nests_too_deep();
    }
    Error::new(ErrorKind::Query, parser_message(&error.to_string()))
}

fn is_space_or_semicolon(token: &TokenWithSpan) -> bool {
    matches!(
        token.token,
        Token::Whitespace(
            Whitespace::Space
                | Whitespace::Newline
                | Whitespace::Tab
                | Whitespace::SingleLineComment { .. }
                | Whitespace::MultiLineComment(_)
        ) | Token::SemiColon
            | Token::EOF
    )
}

/// Keeps what reads, and names the way out for what does not.
fn classify(mut statement: ast::Statement) -> Result<Statement> {
    let refuse = |message: &str| Err(Error::new(ErrorKind::Query, message));
    match &mut statement {
        ast::Statement::Explain { statement: inner, analyze, verbose, options, .. } => match inner.as_mut() {
            ast::Statement::Query(query) => {
                reads_only(query)?;
                explain_options(options.take().unwrap_or_default(), analyze, verbose)?;
                Ok(Statement::Query(Box::new(statement)))
            }
            other => refuse(&format!("EXPLAIN: expected a query, got {}", first_words(other))),
        },
        ast::Statement::Query(query) => {
            reads_only(query)?;
            Ok(Statement::Query(Box::new(statement)))
        }
        ast::Statement::ExplainTable { table_name, .. } => {
            Ok(Statement::Describe { name: rewrite::plain_name(table_name), statement: Box::new(statement) })
        }
        ast::Statement::ShowTables { .. }
        | ast::Statement::ShowColumns { .. }
        | ast::Statement::ShowFunctions { .. }
        | ast::Statement::ShowVariable { .. } => Ok(Statement::Query(Box::new(statement))),
        ast::Statement::Delete(delete) => grammar::delete(delete),
        ast::Statement::Insert(_) | ast::Statement::Update(_) | ast::Statement::Merge { .. } => refuse(
            "documents are written with IMPORT INTO corpus FROM 'file' (ON CONFLICT UPDATE replaces those with the same key)",
        ),
        ast::Statement::CreateTable(_) => {
            refuse("a corpus is made with CREATE CORPUS name FROM 'file' TEXT (column, ...)")
        }
        ast::Statement::Copy { .. } | ast::Statement::CopyIntoSnowflake { .. } | ast::Statement::Unload { .. } => {
            refuse("a statement writes no file; use the export command, or save the result of a query")
        }
        ast::Statement::Drop { .. } => refuse("use DROP CORPUS name, DROP CONCEPT name or DROP DICTIONARY name"),
        other => refuse(&format!("not supported: {}", first_words(other))),
    }
}

/// `EXPLAIN (ANALYZE, VERBOSE off, ...)`
fn explain_options(options: Vec<ast::UtilityOption>, analyze: &mut bool, verbose: &mut bool) -> Result<()> {
    for option in options {
        let name = option.name.value.to_uppercase();
        let value = option.arg.as_ref().map(ToString::to_string).unwrap_or_default();
        let known = match name.as_str() {
            "ANALYZE" => Some(&mut *analyze),
            "VERBOSE" => Some(&mut *verbose),
            "FORMAT" if value.eq_ignore_ascii_case("text") => continue,
            _ => None,
        };
        let Some(flag) = known else {
            let message = format!("EXPLAIN: expected ANALYZE, VERBOSE or FORMAT TEXT in parentheses, got {option}");
            return Err(Error::new(ErrorKind::Query, message));
        };
        *flag = match value.trim_matches('\'').to_lowercase().as_str() {
            "" | "true" | "on" | "1" => true,
            "false" | "off" | "0" => false,
            _ => {
                let message = format!("EXPLAIN: expected true or false after {name}, got {value}");
                return Err(Error::new(ErrorKind::Query, message));
            }
        };
    }
    Ok(())
}

/// A query may hold `INSERT`, `UPDATE` or `DELETE` as its body or in a CTE (`WITH x AS (DELETE ...)`), and `SELECT INTO`.
fn reads_only(query: &mut ast::Query) -> Result<()> {
    let refuse =
        |what: &str| Err(Error::new(ErrorKind::Query, format!("a query only reads: {what} cannot be part of one")));
    walk(query, &mut |node| match node {
        Node::Statement(statement) => refuse(&first_words(statement)),
        Node::Select(select) if select.into.is_some() => refuse("SELECT INTO"),
        // DataFusion passes over it, and all rows would be taken for a sample.
        Node::Table(
            ast::TableFactor::Table { sample: Some(_), .. } | ast::TableFactor::Derived { sample: Some(_), .. },
        ) => {
            let message = "TABLESAMPLE is not supported; use ORDER BY random() LIMIT n";
            Err(Error::new(ErrorKind::Query, message))
        }
        _ => Ok(()),
    })
}

/// The first words of a statement, for messages.
fn first_words(statement: &ast::Statement) -> String {
    let text = statement.to_string();
    let words: Vec<&str> = text
        .split_whitespace()
        .take_while(|word| word.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        .take(3)
        .collect();
    if words.is_empty() { text.chars().take(30).collect() } else { words.join(" ") }
}

/// Whether `token` is the word `word`, unquoted, whatever its case.
pub(crate) fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(found) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word))
}

/// Whether `token` is a name (quoted or not) rather than a word of the query language that can stand before `AS OF`.
fn is_name(token: &Token) -> bool {
    matches!(token, Token::Word(word)
        if word.quote_style.is_some() || !matches!(word.keyword, Keyword::SELECT | Keyword::WHERE | Keyword::FROM))
}

#[cfg(test)]
mod tests;
