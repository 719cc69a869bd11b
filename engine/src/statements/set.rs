//! Sets of documents as text: `answers`, `answers WHERE model = 'a' LIMIT 100`, `SELECT ...`.
//!
//! The short forms are the end of `SELECT * FROM ...`: those words are put before the set's *tokens*, so that no text is ever
//! pasted into a query.

use datafusion::sql::sqlparser::ast::{self, SetExpr, TableFactor};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Whitespace};

use super::rewrite::{VersionedName, rewrite};
use super::walk::{Node, walk};
use super::{depth, end_of_input, is_word, parser, reads_only, syntax, tokenize};
use crate::error::{Error, ErrorKind, Result};
use crate::store::AsOf;

/// A set of documents that was read from text.
#[derive(Debug, Clone)]
pub(crate) struct DocumentSet {
    statement: ast::Statement,
}

impl DocumentSet {
    /// Reads a set.
    ///
    /// # Errors
    /// [`ErrorKind::Query`] with line and column within the set's text.
    pub(crate) fn parse(set: &str) -> Result<Self> {
        depth::with_stack(set.len(), || Self::read(set))
    }

    fn read(set: &str) -> Result<Self> {
        let mut tokens = tokenize(set)?;
        let Some(first) = tokens.iter().find(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF)) else {
            return Err(Error::new(
                ErrorKind::Query,
                "expected a corpus, a corpus with WHERE, or a query, got nothing",
            ));
        };
        let is_query = first.token == Token::LParen
            || ["select", "with", "values", "table"].iter().any(|word| is_word(&first.token, word));
        if !is_query {
            let words = [
                Token::make_keyword("SELECT"),
                Token::Whitespace(Whitespace::Space),
                Token::Mul,
                Token::Whitespace(Whitespace::Space),
                Token::make_keyword("FROM"),
                Token::Whitespace(Whitespace::Space),
            ];
            tokens.splice(0..0, words.map(TokenWithSpan::wrap));
        }
        let mut parser = parser(tokens);
        let mut query = parser.parse_query().map_err(syntax)?;
        depth::check(&mut query)?;
        end_of_input(&mut parser, "a set ends here")?;
        reads_only(&mut query)?;
        let mut statement = ast::Statement::Query(query);
        rewrite(&mut statement)?;
        Ok(Self { statement })
    }

    /// The documents of `corpus` that satisfy a condition.
    ///
    /// # Errors
    /// [`ErrorKind::Query`] with line and column within the condition's text.
    pub(crate) fn with_condition(corpus: &str, condition: &str) -> Result<Self> {
        depth::with_stack(condition.len(), || Self::read_condition(corpus, condition))
    }

    fn read_condition(corpus: &str, condition: &str) -> Result<Self> {
        let mut parser = parser(tokenize(condition)?);
        let mut condition = parser.parse_expr().map_err(syntax)?;
        depth::check(&mut condition)?;
        end_of_input(&mut parser, "the condition ends here")?;
        let mut set = Self::parse(&format!("\"{}\"", corpus.replace('"', "\"\"")))?;
        if let ast::Statement::Query(query) = &mut set.statement
            && let SetExpr::Select(select) = query.body.as_mut()
        {
            select.selection = Some(condition);
            reads_only(query)?;
        }
        rewrite(&mut set.statement)?;
        Ok(set)
    }

    /// The query that gives the set.
    pub(crate) fn into_statement(self) -> ast::Statement {
        self.statement
    }

    /// The corpus and its version, if every document of the set is one of it, with its own `doc_id`: `SELECT * FROM corpus`
    /// with or without conditions, order and limit, and perhaps called something else.
    pub(crate) fn corpus(&self) -> Option<VersionedName> {
        let mut bare = self.plain_corpus()?;
        let mut statement = self.statement.clone();
        if let ast::Statement::Query(query) = &mut statement {
            (query.order_by, query.limit_clause, query.fetch) = (None, None, None);
        }
        select_of(&mut statement)?.selection = None;
        let name = match table_of(&mut statement)? {
            TableFactor::Table { name, alias, .. } => {
                // Names of columns in it would change what `doc_id` is.
                let called = alias.take_if(|alias| alias.columns.is_empty() && alias.at.is_none());
                if called.is_some()
                    && let TableFactor::Table { alias, .. } = table_of(&mut bare)?
                {
                    *alias = None;
                }
                super::rewrite::plain_name(name)
            }
            _ => return None,
        };
        // SQL has more clauses than a list of those that matter would name.
        if statement == bare { VersionedName::parse(&name).ok() } else { None }
    }

    /// One query for sets that are conditions on the same version of one corpus: each document of any of them once, with
    /// all columns of the corpus and, for every set, a column [`is_in`] of truth values that are never null. `None` for
    /// other sets, and for conditions with a query in them, which can only filter.
    pub(crate) fn together(sets: &[Self]) -> Option<ast::Statement> {
        let mut conditions = Vec::with_capacity(sets.len());
        let mut all: Option<ast::Statement> = None;
        for set in sets {
            let (mut statement, corpus) = (set.statement.clone(), set.plain_corpus()?);
            let condition = select_of(&mut statement)?.selection.take();
            // What is left must be the bare corpus, and the same one.
            if statement != corpus || all.as_ref().is_some_and(|other| *other != statement) {
                return None;
            }
            all = Some(statement);
            conditions.push(condition);
        }
        let nested = |expr: &mut ast::Expr| has_query(expr);
        if conditions.iter_mut().flatten().any(nested) {
            return None;
        }
        let mut statement = all?;
        let select = select_of(&mut statement)?;
        let truth = |condition: &Option<ast::Expr>| match condition {
            Some(condition) => ast::Expr::IsTrue(Box::new(ast::Expr::Nested(Box::new(condition.clone())))),
            None => ast::Expr::value(ast::Value::Boolean(true)),
        };
        select.projection.extend(conditions.iter().enumerate().map(|(set, condition)| {
            ast::SelectItem::ExprWithAlias { expr: truth(condition), alias: ast::Ident::with_quote('"', is_in(set)) }
        }));
        let any = conditions.into_iter().collect::<Option<Vec<_>>>().map(|conditions| {
            let nested = conditions.into_iter().map(|condition| ast::Expr::Nested(Box::new(condition)));
            nested.reduce(|left, right| ast::Expr::BinaryOp {
                left: Box::new(left),
                op: ast::BinaryOperator::Or,
                right: Box::new(right),
            })
        });
        select.selection = any.flatten();
        Some(statement)
    }

    /// `SELECT * FROM` the first table and nothing else.
    fn plain_corpus(&self) -> Option<ast::Statement> {
        let mut statement = self.statement.clone();
        let TableFactor::Table { name, .. } = table_of(&mut statement)? else { return None };
        // A name with a schema is no corpus.
        if name.0.len() != 1 {
            return None;
        }
        Some(Self::parse(&name.to_string()).ok()?.statement)
    }

    /// Whether it is all of [`Self::corpus`], newest version.
    pub(crate) fn is_whole_corpus(&self) -> bool {
        let ast::Statement::Query(query) = &self.statement else { return false };
        let SetExpr::Select(select) = query.body.as_ref() else { return false };
        self.corpus().is_some_and(|corpus| corpus.as_of == AsOf::Latest)
            && select.selection.is_none()
            && query.limit_clause.is_none()
            && query.fetch.is_none()
    }
}

/// Whether `name` can be written for a corpus as it stands, with and without a condition.
pub(crate) fn is_set_name(name: &str) -> bool {
    let means_corpus = |set: &str| {
        let corpus = DocumentSet::parse(set).ok().and_then(|set| set.corpus());
        corpus.is_some_and(|corpus| corpus.name == name && corpus.as_of == AsOf::Latest)
    };
    means_corpus(name) && means_corpus(&format!("{name} WHERE true"))
}

/// Name of the column that tells whether a document is in set number `set`.
pub(crate) fn is_in(set: usize) -> String {
    format!("_in_set_{set}")
}

fn select_of(statement: &mut ast::Statement) -> Option<&mut ast::Select> {
    let ast::Statement::Query(query) = statement else { return None };
    match query.body.as_mut() {
        SetExpr::Select(select) => Some(select),
        _ => None,
    }
}

/// The first table that a query reads.
fn table_of(statement: &mut ast::Statement) -> Option<&mut TableFactor> {
    Some(&mut select_of(statement)?.from.first_mut()?.relation)
}

fn has_query(expr: &mut ast::Expr) -> bool {
    let mut found = false;
    let looked = walk(expr, &mut |node| {
        found |= matches!(
            node,
            Node::Select(_)
                | Node::Expr(ast::Expr::Subquery(_) | ast::Expr::InSubquery { .. } | ast::Expr::Exists { .. })
        );
        Ok(())
    });
    found || looked.is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_one_corpus_are_read_together() {
        let together = |sets: &[&str]| {
            let sets: Vec<DocumentSet> = sets.iter().map(|set| DocumentSet::parse(set).unwrap()).collect();
            DocumentSet::together(&sets).map(|statement| statement.to_string())
        };
        assert_eq!(
            together(&["answers WHERE a = 1 OR b", "SELECT * FROM answers WHERE c"]).unwrap(),
            "SELECT *, (a = 1 OR b) IS TRUE AS \"_in_set_0\", (c) IS TRUE AS \"_in_set_1\" FROM answers WHERE (a = 1 OR b) \
             OR (c)"
        );
        assert_eq!(
            together(&["answers", "answers WHERE c"]).unwrap(),
            "SELECT *, true AS \"_in_set_0\", (c) IS TRUE AS \"_in_set_1\" FROM answers"
        );
        for apart in [
            ["answers WHERE a", "other WHERE a"],
            ["answers WHERE a LIMIT 5", "answers WHERE b"],
            ["answers WHERE a ORDER BY b", "answers WHERE b"],
            ["answers WHERE a", "answers AS x WHERE b"],
            ["answers WHERE a", "SELECT DISTINCT * FROM answers"],
            ["answers WHERE a", "answers WHERE doc_id IN (SELECT doc_id FROM other)"],
            ["answers WHERE a", "answers WHERE EXISTS (SELECT 1)"],
            ["answers WHERE a", "SELECT doc_id, features FROM answers"],
            ["answers", "answers JOIN other USING (doc_id)"],
        ] {
            assert_eq!(together(&apart), None, "{apart:?}");
        }
    }

    fn sql(set: &str) -> String {
        DocumentSet::parse(set).unwrap().statement.to_string()
    }

    #[test]
    fn short_forms_are_queries() {
        assert_eq!(sql("Answers"), "SELECT * FROM Answers");
        assert_eq!(sql("answers WHERE model = 'it''s' LIMIT 3"), "SELECT * FROM answers WHERE model = 'it''s' LIMIT 3");
        assert_eq!(
            sql("answers AS OF VERSION 3 WHERE answers.x > 1"),
            r#"SELECT * FROM "answers as of version 3" AS "answers" WHERE answers.x > 1"#
        );
        assert_eq!(sql("(SELECT 1) UNION (SELECT 2)"), "(SELECT 1) UNION (SELECT 2)");
        assert_eq!(sql("WITH a AS (SELECT 1) SELECT * FROM a;"), "WITH a AS (SELECT 1) SELECT * FROM a");
    }

    #[test]
    fn nothing_but_one_query_is_a_set() {
        let refused = |set: &str| DocumentSet::parse(set).map(|set| set.statement.to_string()).unwrap_err().to_string();
        assert!(refused(" ").contains("got nothing"));
        assert!(refused("answers; DROP CORPUS answers").starts_with("line 1, column 10: unexpected 'DROP'"));
        assert!(refused("answers WHERE").contains("expected"));
        assert!(refused("answers WHERE x = 'a' ) OR (1 = 1").contains("unexpected ')'"));
        assert!(refused("SELECT 1 INTO x").contains("only reads"));
        assert!(refused("DELETE FROM answers").contains("expected"));
    }

    #[test]
    fn a_condition_is_one_expression() {
        let sql = |condition: &str| {
            DocumentSet::with_condition("Answers", condition)
                .map(|set| set.statement.to_string())
                .map_err(|error| error.to_string())
        };
        assert_eq!(sql("x = 1 OR y").unwrap(), r#"SELECT * FROM "Answers" WHERE x = 1 OR y"#);
        assert!(sql("x = 1 ORDER BY x").unwrap_err().contains("the condition ends here"));
        assert!(sql("true; DROP CORPUS answers").unwrap_err().contains("unexpected 'DROP'"));
        assert!(sql("").is_err());
    }

    #[test]
    fn the_corpus_behind_a_set() {
        let corpus = |set: &str| DocumentSet::parse(set).unwrap().corpus().map(|corpus| corpus.name);
        assert_eq!(corpus("Answers WHERE x").as_deref(), Some("answers"));
        assert_eq!(corpus("SELECT * FROM answers ORDER BY x").as_deref(), Some("answers"));
        assert_eq!(corpus("SELECT x AS doc_id FROM answers"), None);
        assert_eq!(corpus("SELECT * FROM answers JOIN b USING (x)"), None);
        assert!(DocumentSet::parse("answers").unwrap().is_whole_corpus());
        assert!(!DocumentSet::parse("answers LIMIT 3").unwrap().is_whole_corpus());
        assert!(!DocumentSet::parse("answers AS OF VERSION 1").unwrap().is_whole_corpus());
        let limited = "answers AS x WHERE x.a ORDER BY x.b LIMIT 3";
        assert_eq!(corpus(limited).as_deref(), Some("answers"));
        assert_eq!(corpus("answers AS OF VERSION 3 WHERE a").as_deref(), Some("answers"));
        for general in [
            "answers QUALIFY row_number() OVER (PARTITION BY a ORDER BY b) = 1",
            "answers |> WHERE a",
            "answers HAVING a",
            "answers GROUP BY ALL",
            "answers AS x(doc_id, y)",
            "SELECT TOP 3 * FROM answers",
            "SELECT * EXCEPT (a) FROM answers",
            "SELECT * REPLACE (a AS doc_id) FROM answers",
            "SELECT * RENAME (a AS doc_id) FROM answers",
        ] {
            // What this dialect does not know is no set at all.
            if let Ok(set) = DocumentSet::parse(general) {
                assert!(set.corpus().is_none() && !set.is_whole_corpus(), "{general}");
                assert_eq!(DocumentSet::together(&[set.clone(), set]), None, "{general}");
            }
        }
        let sampled = DocumentSet::parse("answers TABLESAMPLE BERNOULLI (10)").map(|_| ()).unwrap_err().to_string();
        assert!(sampled.contains("TABLESAMPLE"), "{sampled}");
    }
}
