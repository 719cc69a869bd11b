//! Grammar of saequel's own statements, read from sqlparser's tokens. Words are not reserved; case does not matter.
//!
//! ```text
//! CREATE CORPUS [IF NOT EXISTS] name FROM 'file' import-options
//! IMPORT INTO name FROM 'file' import-options
//! DELETE FROM corpus WHERE condition
//! DROP CORPUS [IF EXISTS] name
//! CREATE [OR REPLACE] CONCEPT name AS (feature [WEIGHT number] [, ...])
//! DROP CONCEPT [IF EXISTS] name
//! SHOW CORPORA | CONCEPTS | READERS | DICTIONARIES | SAES | JOBS | QUERIES | FEATURES [LIKE 'pattern']
//! DESCRIBE FEATURE feature
//! DESCRIBE name
//! ALTER FEATURE feature RENAME TO 'label'
//! ALTER CORPUS name ADD DICTIONARY dictionary [, ...]
//! ALTER CORPUS name DROP DICTIONARY dictionary [, ...]
//! DROP DICTIONARY [IF EXISTS] dictionary
//! COMPACT name [KEEP VERSIONS n DAYS]
//!
//! feature:        a number, a name, or a label in quotes
//! import-options: [FORMAT name] [TEXT (column, ...)] [CHAT (role = column, ...)] [KEY (column)]
//!                 [USING SAE (dictionary, ...)]
//!                 [FEATURES (column [, activations]) [DICTIONARY name] [WIDTH n] [LABELS 'file'] [LEVEL name]
//!                 [THRESHOLD x]]
//!                 [RENAME (old AS new, ...)] [ON CONFLICT SKIP|UPDATE|FAIL] [ON BAD ROW FAIL|SET ASIDE] [LIMIT n]
//! ```

use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::rewrite::{plain_name, string};
use super::{Import, Statement, is_word, syntax};
use crate::engine::{GivenFeatures, OnBadRow, OnConflict};
use crate::error::{Error, ErrorKind, Result};
use crate::reader::ChatColumns;
use crate::sae::Level;

/// Versions younger than this are kept by `COMPACT`: seven days.
const KEEP_VERSIONS_SECS: u64 = 7 * 24 * 3600;

/// What `SHOW` can show beside what DataFusion shows, and the table of schema `saequel` that holds it.
const SHOWN: [(&str, &str); 8] = [
    ("corpora", "corpora"),
    ("concepts", "concepts"),
    ("readers", "readers"),
    ("dictionaries", "saes"),
    ("saes", "saes"),
    ("jobs", "jobs"),
    ("queries", "queries"),
    ("features", "features"),
];

/// Reads one of saequel's own statements; `None`, with nothing consumed, if it is another.
pub(super) fn own_statement(parser: &mut Parser<'_>) -> Result<Option<Statement>> {
    let mut grammar = Grammar(parser);
    let statement = if grammar.words(&["create", "corpus"]) {
        let if_not_exists = grammar.words(&["if", "not", "exists"]);
        Statement::Import(Import { create: true, if_not_exists, ..grammar.import()? })
    } else if grammar.words(&["import", "into"]) {
        Statement::Import(grammar.import()?)
    } else if grammar.words(&["drop", "corpus"]) {
        let if_exists = grammar.words(&["if", "exists"]);
        Statement::DropCorpus { name: grammar.name("the name of a corpus")?, if_exists }
    } else if grammar.words(&["create", "concept"]) {
        grammar.create_concept(false)?
    } else if grammar.words(&["create", "or", "replace", "concept"]) {
        grammar.create_concept(true)?
    } else if grammar.words(&["drop", "concept"]) {
        let if_exists = grammar.words(&["if", "exists"]);
        Statement::DropConcept { name: grammar.name("the name of a concept")?, if_exists }
    } else if grammar.words(&["drop", "dictionary"]) {
        let if_exists = grammar.words(&["if", "exists"]);
        Statement::DropDictionary { name: grammar.name_or_text("the name of a dictionary")?, if_exists }
    } else if grammar.words(&["alter", "corpus"]) {
        grammar.alter_corpus()?
    } else if grammar.words(&["describe", "feature"]) || grammar.words(&["desc", "feature"]) {
        Statement::DescribeFeature { feature: grammar.feature()? }
    } else if grammar.words(&["alter", "feature"]) {
        let feature = grammar.feature()?;
        grammar.expect(&["rename", "to"])?;
        Statement::RenameFeature { feature, label: grammar.text("a label in quotes")? }
    } else if grammar.words(&["compact"]) {
        grammar.compact()?
    } else if let Some(table) = SHOWN.iter().find(|(word, _)| grammar.words(&["show", word])).map(|(_, table)| table) {
        grammar.show(table)?
    } else {
        return Ok(None);
    };
    Ok(Some(statement))
}

/// `DELETE FROM corpus WHERE condition`, of sqlparser's tree.
pub(super) fn delete(delete: &ast::Delete) -> Result<Statement> {
    let refuse = |message: &str| Err(Error::new(ErrorKind::Query, format!("DELETE: {message}")));
    let (ast::FromTable::WithFromKeyword(tables) | ast::FromTable::WithoutKeyword(tables)) = &delete.from;
    let [ast::TableWithJoins { relation: ast::TableFactor::Table { name, args: None, sample: None, .. }, joins }] =
        &tables[..]
    else {
        return refuse("expected one corpus after FROM");
    };
    let plain = delete.tables.is_empty()
        && joins.is_empty()
        && delete.using.is_none()
        && delete.returning.is_none()
        && delete.output.is_none()
        && delete.order_by.is_empty()
        && delete.limit.is_none();
    if !plain {
        return refuse("expected DELETE FROM corpus WHERE condition and nothing else");
    }
    match &delete.selection {
        Some(condition) => Ok(Statement::Delete { corpus: plain_name(name), condition: Box::new(condition.clone()) }),
        None => refuse("a condition is missing; WHERE true deletes every document, DROP CORPUS the corpus"),
    }
}

struct Grammar<'a, 'p>(&'a mut Parser<'p>);

impl Grammar<'_, '_> {
    /// Consumes `words` if all of them come next.
    fn words(&mut self, words: &[&str]) -> bool {
        let all = words.iter().enumerate().all(|(i, word)| is_word(&self.0.peek_nth_token(i).token, word));
        if all {
            for _ in words {
                self.0.next_token();
            }
        }
        all
    }

    fn expect(&mut self, words: &[&str]) -> Result<()> {
        if self.words(words) { Ok(()) } else { self.expected(&words.join(" ").to_uppercase()) }
    }

    fn expected<T>(&mut self, what: &str) -> Result<T> {
        let next = self.0.peek_token();
        let start = next.span.start;
        let found = if next.token == Token::EOF { "the end".to_owned() } else { format!("'{}'", next.token) };
        let place =
            if start.line == 0 { String::new() } else { format!("line {}, column {}: ", start.line, start.column) };
        Err(Error::new(ErrorKind::Query, format!("{place}expected {what}, got {found}")))
    }

    /// A name: small letters unless quoted.
    fn name(&mut self, what: &str) -> Result<String> {
        match self.0.peek_token().token {
            Token::Word(word) => {
                self.0.next_token();
                Ok(if word.quote_style.is_some() { word.value } else { word.value.to_lowercase() })
            }
            _ => self.expected(what),
        }
    }

    /// A string in single quotes.
    fn text(&mut self, what: &str) -> Result<String> {
        match self.0.peek_token().token {
            Token::SingleQuotedString(text) => {
                self.0.next_token();
                Ok(text)
            }
            _ => self.expected(what),
        }
    }

    /// A name, or a string: dictionaries and formats have hyphens, and columns have spaces.
    fn name_or_text(&mut self, what: &str) -> Result<String> {
        match self.0.peek_token().token {
            Token::SingleQuotedString(_) => self.text(what),
            _ => self.name(what),
        }
    }

    /// A feature: its id, its label, or the name of a concept.
    fn feature(&mut self) -> Result<String> {
        match self.0.peek_token().token {
            Token::Number(number, _) => {
                self.0.next_token();
                Ok(number)
            }
            Token::SingleQuotedString(_) | Token::Word(_) => self.name_or_text("a feature"),
            _ => self.expected("a feature: its number, or its label in quotes"),
        }
    }

    fn number(&mut self) -> Result<f32> {
        let negative = self.0.consume_token(&Token::Minus);
        let _ = negative || self.0.consume_token(&Token::Plus);
        if let Token::Number(number, _) = self.0.peek_token().token
            && let Ok(number) = number.parse::<f32>()
            && number.is_finite()
        {
            self.0.next_token();
            return Ok(if negative { -number } else { number });
        }
        self.expected("a number")
    }

    fn whole_number(&mut self) -> Result<u64> {
        self.0.parse_literal_uint().map_err(syntax)
    }

    /// `(item, ...)`, with at least one item.
    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        if !self.0.consume_token(&Token::LParen) {
            return self.expected("a list in parentheses");
        }
        let mut items = vec![item(self)?];
        while self.0.consume_token(&Token::Comma) {
            items.push(item(self)?);
        }
        if self.0.consume_token(&Token::RParen) { Ok(items) } else { self.expected("',' or ')'") }
    }

    fn import(&mut self) -> Result<Import> {
        let mut import = Import { corpus: self.name("the name of a corpus")?, ..Import::default() };
        self.expect(&["from"])?;
        import.file = self.text("a file in quotes")?;
        loop {
            if self.words(&["format"]) {
                import.format = Some(self.name_or_text("a format")?.to_lowercase());
            } else if self.words(&["text"]) {
                import.text_columns = self.list(|grammar| grammar.name_or_text("a column"))?;
            } else if self.words(&["chat"]) {
                let columns = self.list(|grammar| {
                    let role = grammar.name_or_text("a role such as user")?;
                    if !grammar.0.consume_token(&Token::Eq) {
                        return grammar.expected("= and the column that holds what is said");
                    }
                    Ok((role, grammar.name_or_text("a column")?))
                })?;
                import.chat = Some(ChatColumns::new(columns)?);
            } else if self.words(&["key"]) {
                let mut columns = self.list(|grammar| grammar.name_or_text("a column"))?;
                if columns.len() > 1 {
                    return self.expected("one column after KEY (join several into one column first)");
                }
                import.key = columns.pop();
            } else if self.words(&["using", "sae"]) || self.words(&["using", "dictionary"]) {
                import.dictionaries = self.list(|grammar| grammar.name_or_text("the name of a dictionary"))?;
            } else if self.words(&["features"]) {
                let mut columns = self.list(|grammar| grammar.name_or_text("a column"))?.into_iter();
                let mut given = GivenFeatures::new(columns.next().unwrap_or_default());
                given.activations = columns.next();
                if columns.next().is_some() {
                    return self.expected("two columns after FEATURES: the features, and their activations");
                }
                loop {
                    if self.words(&["dictionary"]) {
                        given.dictionary = Some(self.name_or_text("the name of a dictionary")?);
                    } else if self.words(&["width"]) {
                        let width = self.whole_number()?;
                        given.width = Some(u32::try_from(width).or_else(|_| self.expected("a smaller width"))?);
                    } else if self.words(&["labels"]) {
                        given.labels = Some(self.text("a file in quotes")?.into());
                    } else if self.words(&["level"]) {
                        given.level = if self.words(&["token"]) {
                            Level::Token
                        } else if self.words(&["span"]) {
                            Level::Span
                        } else if self.words(&["document"]) {
                            Level::Document
                        } else {
                            return self.expected("TOKEN, SPAN or DOCUMENT");
                        };
                    } else if self.words(&["threshold"]) {
                        given.threshold = self.number()?;
                    } else {
                        break;
                    }
                }
                import.features = Some(given);
            } else if self.words(&["rename"]) {
                import.rename = self.list(|grammar| {
                    let old = grammar.name_or_text("a column")?;
                    if !grammar.words(&["as"]) {
                        grammar.expect(&["to"])?;
                    }
                    Ok((old, grammar.name_or_text("a column")?))
                })?;
            } else if self.words(&["on", "conflict"]) {
                import.on_conflict = if self.words(&["skip"]) {
                    OnConflict::Skip
                } else if self.words(&["update"]) {
                    OnConflict::Update
                } else if self.words(&["fail"]) {
                    OnConflict::Fail
                } else {
                    return self.expected("SKIP, UPDATE or FAIL");
                };
            } else if self.words(&["on", "bad", "row"]) {
                import.on_bad_row = if self.words(&["fail"]) {
                    OnBadRow::Fail
                } else if self.words(&["set", "aside"]) {
                    OnBadRow::SetAside
                } else {
                    return self.expected("FAIL or SET ASIDE");
                };
            } else if self.words(&["limit"]) {
                import.limit = Some(self.whole_number()?);
            } else {
                break;
            }
        }
        match self.0.peek_token().token {
            Token::EOF | Token::SemiColon => Ok(import),
            _ => self.expected(
                "FORMAT, TEXT, CHAT, KEY, USING SAE, FEATURES, RENAME, ON CONFLICT, ON BAD ROW, LIMIT or the end",
            ),
        }
    }

    fn create_concept(&mut self, replace: bool) -> Result<Statement> {
        let name = self.name_or_text("the name of a concept")?;
        self.expect(&["as"])?;
        let members = self.list(|grammar| {
            let feature = grammar.feature()?;
            let weight = if grammar.words(&["weight"]) { grammar.number()? } else { 1.0 };
            Ok((feature, weight))
        })?;
        Ok(Statement::CreateConcept { name, replace, members })
    }

    fn alter_corpus(&mut self) -> Result<Statement> {
        let corpus = self.name("the name of a corpus")?;
        let add = self.words(&["add", "dictionary"]);
        if !add && !self.words(&["drop", "dictionary"]) {
            return self.expected("ADD DICTIONARY or DROP DICTIONARY");
        }
        let mut dictionaries = vec![self.name_or_text("the name of a dictionary")?];
        while self.0.consume_token(&Token::Comma) {
            dictionaries.push(self.name_or_text("the name of a dictionary")?);
        }
        Ok(Statement::AlterCorpus { corpus, add, dictionaries })
    }

    fn compact(&mut self) -> Result<Statement> {
        let corpus = self.name("the name of a corpus")?;
        let mut keep_versions_secs = KEEP_VERSIONS_SECS;
        if self.words(&["keep", "versions"]) {
            keep_versions_secs = self.whole_number()?.saturating_mul(24 * 3600);
            self.expect(&["days"])?;
        }
        Ok(Statement::Compact { corpus, keep_versions_secs })
    }

    /// `SELECT * FROM saequel.table [WHERE name LIKE pattern]`.
    fn show(&mut self, table: &str) -> Result<Statement> {
        let named = match table {
            "features" => "label",
            "jobs" => "subject",
            "queries" => "statement",
            _ => "name",
        };
        let pattern = if self.words(&["like"]) { Some(self.text("a pattern in quotes")?) } else { None };
        let condition = pattern.map_or_else(String::new, |pattern| format!(" WHERE {named} ILIKE {}", string(pattern)));
        let query = super::parser(super::tokenize(&format!("SELECT * FROM saequel.{table}{condition}"))?)
            .parse_statement()
            .map_err(syntax)?;
        Ok(Statement::Query(Box::new(query)))
    }
}
