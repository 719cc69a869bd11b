//! SQL that only PostgreSQL understands, turned into what the engine does.
//!
//! Most statements are left alone: only one that holds a word or a sign of PostgreSQL's, or that may give two columns the same
//! name, is parsed here, and only if a rule changed it is it written anew. Each rule keeps what the statement means; those that use what is known of the catalog (an
//! empty table, a lookup that finds one row at most) look at subqueries over the catalog alone.

mod arrays;
mod class;
mod composites;
mod expressions;
mod like;
mod literals;
mod names;
mod repeated;
mod rules;
mod sorted;

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::ast::{Statement, VisitMut};
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect, PostgreSqlDialect};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer, Word};
use saequel_engine::check_tokens;

use self::expressions::{AS_TEXT, REG, cte_names, is_word, type_name};
pub(crate) use self::repeated::shown_name;
use self::repeated::tell_apart;
use self::rules::Rules;
use super::functions::{is_known, type_oid};
use super::relations::{INFORMATION_SCHEMA, PUBLIC};

/// How deep expressions may nest, as in the engine.
pub(super) const RECURSION_LIMIT: usize = 100;

/// Tokens that the longest type has: `timestamp(6) without time zone[]`.
pub(super) const TYPE_TOKENS: usize = 16;

/// The statement rewritten; `None` if nothing of it had to be.
pub(super) fn rewrite(sql: &str) -> Option<String> {
    let mut dialect: &dyn Dialect = &GenericDialect {};
    let mut tokens = Tokenizer::new(dialect, sql).tokenize_with_location().ok()?;
    if tokens.iter().any(|token| token.token == Token::Caret) {
        // A power, which binds as such.
        dialect = &PostgreSqlDialect {};
        tokens = Tokenizer::new(dialect, sql).tokenize_with_location().ok()?;
    }
    if check_tokens(&tokens).is_err() {
        return None;
    }
    let significant: Vec<&Token> =
        tokens.iter().map(|token| &token.token).filter(|token| !matches!(token, Token::Whitespace(_))).collect();
    let is_marked = significant.iter().enumerate().any(|(at, _)| is_marked(&significant, at));
    if !is_marked && !may_repeat(&significant) {
        return None;
    }
    let value = significant.iter().any(|token| is_word(token, "value"));
    let mut parser = Parser::new(dialect).with_recursion_limit(RECURSION_LIMIT).with_tokens_with_locations(tokens);
    let mut statement = parser.parse_statement().ok()?;
    while parser.consume_token(&Token::SemiColon) {}
    if parser.peek_token().token != Token::EOF {
        return None;
    }
    if !is_marked {
        return tell_apart(&mut statement).then(|| statement.to_string());
    }
    let ctes = cte_names(&statement);
    let mut rules = Rules { changed: false, catalog: false, value, ctes, ctes_of_catalog: false };
    rules.catalog = rules.reads_catalog(&statement);
    rules.ctes_of_catalog = true;
    rules.ctes_of_catalog = rules.tables(&statement).iter().all(|own| *own);
    let _ = VisitMut::visit(&mut statement, &mut rules);
    if let Statement::Query(query) = &mut statement {
        rules.output_names(query);
    }
    (rules.changed | tell_apart(&mut statement)).then(|| statement.to_string())
}

/// Whether two columns of the result may have the same name.
fn may_repeat(tokens: &[&Token]) -> bool {
    let is_query = |word| tokens.first().is_some_and(|token| is_word(token, word));
    (is_query("select") || is_query("with") || is_query("explain") || tokens.first() == Some(&&Token::LParen))
        && tokens.contains(&&Token::Comma)
}

/// Numbers of the types of parameters that the statement casts: `$1::oid[]`, `CAST($2 AS text)`.
pub(super) fn parameter_types(sql: &str) -> BTreeMap<usize, u32> {
    let dialect = GenericDialect {};
    let Ok(tokens) = Tokenizer::new(&dialect, sql).tokenize_with_location() else { return BTreeMap::new() };
    let tokens: Vec<_> = tokens.into_iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
    let mut types = BTreeMap::new();
    for (at, token) in tokens.iter().enumerate() {
        let Token::Placeholder(name) = &token.token else { continue };
        let Some(number) = name.strip_prefix('$').and_then(|number| number.parse().ok()) else { continue };
        let next = tokens.get(at + 1).map(|token| &token.token);
        let in_cast = at >= 2 && tokens[at - 1].token == Token::LParen && is_word(&tokens[at - 2].token, "cast");
        if !(next == Some(&Token::DoubleColon) || in_cast && next.is_some_and(|token| is_word(token, "as"))) {
            continue;
        }
        // A type is a few tokens; all that follow would be copied for each parameter.
        let of = &tokens[at + 2..tokens.len().min(at + 2 + TYPE_TOKENS)];
        let mut parser = Parser::new(&dialect).with_tokens_with_locations(of.to_vec());
        let Ok(of) = parser.parse_data_type() else { continue };
        // A name may be given for the number of something.
        let named = type_name(&of).is_some_and(|name| REG.contains(&name.as_str()));
        let plain = of.to_string().split('(').next().unwrap_or_default().to_lowercase();
        let oid = type_oid(if named { "text" } else { &plain });
        if let Some(oid) = oid.and_then(|oid| u32::try_from(oid).ok()) {
            types.entry(number).or_insert(oid);
        }
    }
    types
}

/// Whether the token at `at` may be something of PostgreSQL's.
fn is_marked(tokens: &[&Token], at: usize) -> bool {
    let word_at = |at: usize| match tokens.get(at) {
        Some(Token::Word(word)) => Some(word.value.to_ascii_lowercase()),
        _ => None,
    };
    if tokens.get(at) == Some(&&Token::Caret) {
        return true;
    }
    let Some(Token::Word(Word { quote_style, .. })) = tokens.get(at) else { return false };
    let Some(word) = word_at(at) else { return false };
    let followed_by = |token: &Token| tokens.get(at + 1) == Some(&token);
    let is_type = || {
        let before = at.checked_sub(1).map(|before| tokens[before]);
        // `pg_catalog.int4` and `information_schema.sql_identifier` are marked by their schema.
        matches!(before, Some(Token::DoubleColon)) || before.is_some_and(|token| is_word(token, "as"))
    };
    if word.starts_with("pg_") || word == INFORMATION_SCHEMA {
        return true;
    }
    if REG.contains(&word.as_str()) || AS_TEXT.contains(&word.as_str()) || word == "oid" {
        return is_type();
    }
    if quote_style.is_some() {
        return word == PUBLIC && followed_by(&Token::Period) && tokens.get(at + 3) == Some(&&Token::LParen);
    }
    match word.as_str() {
        "any" | "all" | "some" | "array" => followed_by(&Token::LParen),
        PUBLIC => followed_by(&Token::Period) && tokens.get(at + 3) == Some(&&Token::LParen),
        "bytea" => is_type() || matches!(tokens.get(at + 1), Some(Token::SingleQuotedString(_))),
        "numeric" | "decimal" | "dec" => is_type(),
        "at" => word_at(at + 1).as_deref() == Some("time"),
        "operator" | "escape" | "collate" | "current_schema" | "current_role" => true,
        "generate_series" | "unnest" | "string_to_array" | "generate_subscripts" => followed_by(&Token::LParen),
        // `'{a,b}'::text[]`
        _ if followed_by(&Token::LBracket) => is_type(),
        other => followed_by(&Token::LParen) && is_known(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn unchanged(sql: &str) {
        assert_eq!(rewrite(sql), None, "{sql}");
    }

    #[track_caller]
    pub(super) fn becomes(sql: &str, expected: &str) {
        assert_eq!(rewrite(sql).as_deref(), Some(expected), "{sql}");
    }

    #[test]
    fn statements_of_ours_come_through() {
        for sql in [
            "SHOW CORPORA",
            "SELECT 1",
            "CREATE CORPUS a FROM 'pg_class.csv' TEXT (answer)",
            "DESCRIBE FEATURE 'pg_type'",
            "SELECT * FROM answers AS OF VERSION 3",
            "SELECT * FROM diff('answers', 'others', paired_by => 'prompt_id')",
            "SELECT 'pg_class', 'x = ANY(''{1}'')', \"E\" FROM answers -- pg_catalog",
            "SELECT a FROM answers WHERE a LIKE 'x\\_%' AND n > ALL (SELECT 1)",
            "SELECT count(*) FROM public.answers",
            "SELECT name, oid FROM answers ORDER BY name",
            "SELECT a = ANY(b) FROM answers",
            "SELECT x.name AS name FROM answers x",
            "SELECT (SELECT count(*) FROM b WHERE b.x = a.x) FROM a WHERE y = ANY(ARRAY[1, 2])",
        ] {
            unchanged(sql);
        }
    }

    #[test]
    fn literals_are_never_touched() {
        becomes(
            "SELECT 'pg_catalog.version()', $$x$$, pg_catalog.version()",
            "SELECT 'pg_catalog.version()', $$x$$, version() AS version",
        );
    }

    #[test]
    fn names_lose_the_schema_that_the_engine_does_not_know() {
        becomes("SELECT pg_catalog.pg_get_userbyid(1) AS u", "SELECT pg_get_userbyid(1) AS u");
        becomes("SELECT relname FROM pg_class c", "SELECT relname FROM pg_catalog.pg_class c");
        unchanged("WITH pg_class AS (SELECT 1 AS a) SELECT a FROM pg_class");
        unchanged("SELECT * FROM pg_answers");
        becomes("SELECT * FROM public.diff('a', 'b')", "SELECT * FROM diff('a', 'b')");
    }

    #[test]
    fn casts() {
        becomes("SELECT 'a'::regclass::oid AS o", "SELECT CAST(pg_regclass_in('a') AS INTEGER) AS o");
        becomes("SELECT x::regclass FROM t", "SELECT pg_regclass_out(pg_regclass_in(x)) AS regclass FROM t");
        becomes(
            "SELECT x::pg_catalog.regtype::pg_catalog.text AS t FROM t",
            "SELECT CAST(pg_regtype_out(pg_regtype_in(x)) AS TEXT) AS t FROM t",
        );
        becomes("SELECT '{1,2}'::int[] AS a", "SELECT ARRAY['1', '2']::INT[] AS a");
        becomes("SELECT x::name FROM t", "SELECT CAST(x AS TEXT) FROM t");
        becomes("SELECT CAST($1 AS oid[]) AS a", "SELECT CAST($1 AS INTEGER[]) AS a");
    }

    #[test]
    fn literals_keep_their_bytes_and_digits() {
        becomes("SELECT '\\x00FF'::bytea AS b", "SELECT X'00ff' AS b");
        becomes("SELECT CAST('a\\\\b' AS bytea) AS b", "SELECT X'615c62' AS b");
        becomes("SELECT '\\xzz'::bytea AS b", "SELECT decode('zz', 'hex') AS b");
        unchanged("SELECT x::bytea FROM t");
        let long = "12345678901234567890.123";
        becomes(&format!("SELECT {long}::numeric AS n"), &format!("SELECT CAST('{long}' AS NUMERIC(23,3)) AS n"));
        becomes("SELECT CAST('-007.50' AS decimal) AS n", "SELECT CAST('-007.50' AS NUMERIC(3,2)) AS n");
        unchanged("SELECT x::numeric, '1e5'::numeric AS e, 1.5::numeric(4,1) AS f, 2::numeric / 3 AS g FROM t");
        becomes("SELECT bytea '\\x61' AS b", "SELECT X'61' AS b");
    }

    #[test]
    fn numbers_of_tables_and_functions() {
        becomes(
            "SELECT l.lanname AS n FROM pg_language l JOIN pg_description d ON d.classoid = l.tableoid",
            "SELECT l.lanname AS n FROM pg_catalog.pg_language l JOIN pg_catalog.pg_description d ON d.classoid = 2612",
        );
        becomes("SELECT 'diff'::regproc::oid AS o", "SELECT pg_regproc_number('diff') AS o");
    }

    #[test]
    fn powers_and_time_zones() {
        let two = "power(CAST(2 AS DOUBLE PRECISION), CAST(10 AS DOUBLE PRECISION))";
        becomes("SELECT 3 * 2 ^ 10 AS n", &format!("SELECT 3 * {two} AS n"));
        becomes("SELECT 2 ^ 10 + 1 AS n", &format!("SELECT {two} + 1 AS n"));
        let signed = "power(CAST(-2 AS DOUBLE PRECISION), CAST(10 AS DOUBLE PRECISION))";
        becomes("SELECT 3 - -2 ^ 10 AS n", &format!("SELECT 3 - {signed} AS n"));
        let again = format!("power(CAST({signed} AS DOUBLE PRECISION), CAST(3 AS DOUBLE PRECISION))");
        becomes("SELECT -2 ^ 10 ^ 3 AS n", &format!("SELECT {again} AS n"));
        becomes("SELECT tz AT TIME ZONE 'Asia/Tokyo' AS t FROM x", "SELECT timezone('Asia/Tokyo', tz) AS t FROM x");
    }

    #[test]
    fn arrays_of_what_a_query_gives() {
        becomes(
            "SELECT ARRAY(SELECT a AS b FROM t WHERE t.x = u.x ORDER BY b DESC) AS l FROM u",
            "SELECT pg_array_or_empty((SELECT array_agg(a ORDER BY a DESC) FROM t WHERE t.x = u.x)) AS l FROM u",
        );
        becomes(
            "SELECT ARRAY(SELECT DISTINCT a FROM t LIMIT 2) AS l",
            "SELECT pg_array_or_empty((SELECT array_agg(\"array\") FROM (SELECT DISTINCT a FROM t LIMIT 2) AS \"array\" \
             (\"array\"))) AS l",
        );
        becomes(
            "SELECT ARRAY(SELECT a + 1 AS b FROM t GROUP BY a + 1 ORDER BY b DESC) AS l",
            "SELECT pg_array_or_empty((SELECT array_agg(\"array\" ORDER BY \"array\" DESC) FROM (SELECT a + 1 AS b FROM t \
             GROUP BY a + 1 ORDER BY b DESC) AS \"array\" (\"array\"))) AS l",
        );
        // What is sorted by is not there.
        unchanged("SELECT ARRAY(SELECT a FROM t GROUP BY a ORDER BY max(b)) AS l");
        for value in ["unnest(a)", "row_number() OVER ()", "count(*) + 1"] {
            let sql = format!("SELECT ARRAY(SELECT {value} FROM t) AS l");
            assert!(rewrite(&sql).is_some_and(|new| new.contains(&format!("FROM (SELECT {value} FROM t)"))), "{sql}");
        }
    }

    #[test]
    fn corpora_are_not_taken_for_the_catalog() {
        for sql in [
            "WITH q AS (SELECT id, model FROM answers) SELECT (SELECT model FROM q WHERE id > 3) AS m, 2 AS two",
            "SELECT 2 IN (SELECT i FROM generate_series(1, 3) AS t (i) LIMIT 1) AS b",
        ] {
            let new = rewrite(sql).unwrap_or_else(|| sql.to_owned());
            assert!(!new.contains("min(") && !new.contains("array_agg"), "{new}");
        }
        let of_catalog =
            "WITH q AS (SELECT oid, relname FROM pg_class) SELECT (SELECT relname FROM q WHERE oid = 3) AS m";
        assert!(rewrite(of_catalog).is_some_and(|new| new.contains("min(relname)")));
        let cut = "SELECT 3 IN (SELECT oid FROM pg_class LIMIT 1) AS b, 'a'::regclass AS c";
        assert!(rewrite(cut).is_some_and(|new| !new.contains("array_agg")));
    }

    #[test]
    fn operators_and_collations() {
        becomes(
            "SELECT a FROM t WHERE a OPERATOR(pg_catalog.~) '^(b)$' COLLATE pg_catalog.default",
            "SELECT a FROM t WHERE (a ~ '^(b)$')",
        );
        unchanged("SELECT a FROM t ORDER BY a COLLATE \"de_DE\"");
        becomes("SELECT a FROM t WHERE a = ANY('{r,p}')", "SELECT a FROM t WHERE a IN ('r', 'p')");
        becomes("SELECT a FROM t WHERE a <> ALL('{r,p}')", "SELECT a FROM t WHERE a NOT IN ('r', 'p')");
        becomes("SELECT a FROM t WHERE a = ANY($1)", "SELECT a FROM t WHERE a = ANY(pg_array($1))");
        becomes(
            "SELECT a FROM t WHERE a NOT LIKE 'pg/_' || '%' ESCAPE '/'",
            "SELECT a FROM t WHERE a NOT LIKE 'pg\\_' || '%'",
        );
    }

    #[test]
    fn parameters_have_the_types_of_their_casts() {
        let types = parameter_types("SELECT $1::oid[], CAST($2 AS text), $3 + 1, '$4::int', $5::int8, $6::regclass");
        // oid[], text, bigint, text.
        assert_eq!(types, BTreeMap::from([(1, 1028), (2, 25), (5, 20), (6, 25)]));
    }

    #[test]
    fn names_where_numbers_are_kept() {
        becomes(
            "SELECT oid FROM pg_class WHERE relnamespace = 'public'",
            "SELECT oid FROM pg_catalog.pg_class WHERE relnamespace = pg_regnamespace_in('public')",
        );
    }

    #[test]
    fn tables_of_one_row() {
        becomes(
            "SELECT * FROM current_schema()",
            "SELECT * FROM (SELECT current_schema() AS current_schema) AS current_schema",
        );
        becomes("SELECT i FROM generate_series(1, 3) AS i", "SELECT i FROM generate_series(1, 3) AS i (i)");
        unchanged("SELECT value FROM generate_series(1, 3) AS s");
        becomes("SELECT current_schema", "SELECT current_schema() AS current_schema");
    }

    #[test]
    fn lookups_that_the_engine_cannot_plan() {
        becomes(
            "SELECT (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.adrelid = a.attrelid) AS d FROM pg_attribute a",
            "SELECT CAST(NULL AS TEXT) AS d FROM pg_catalog.pg_attribute a",
        );
        becomes(
            "SELECT (SELECT c.relkind = 'c' FROM pg_class c WHERE c.oid = t.typrelid) AS k FROM pg_type t",
            "SELECT (SELECT min(c.relkind = 'c') FROM pg_catalog.pg_class c WHERE c.oid = t.typrelid) AS k FROM pg_catalog.pg_type t",
        );
        becomes("SELECT NULL, NULL FROM pg_class", "SELECT NULL, NULL AS \"?column?2\" FROM pg_catalog.pg_class");
        // Values that are sent must have a place.
        becomes(
            "SELECT (SELECT d.adbin FROM pg_attrdef d WHERE d.adrelid = $1) AS d FROM pg_class",
            "SELECT pg_null(CAST($1 AS TEXT)) AS d FROM pg_catalog.pg_class",
        );
        becomes(
            "SELECT a.oid FROM pg_type a JOIN pg_proc p ON p.oid = a.typreceive WHERE a.typisdefined = 't'",
            "SELECT a.oid FROM pg_catalog.pg_type a JOIN pg_catalog.pg_proc p ON p.proname = a.typreceive \
             WHERE a.typisdefined = true",
        );
        unchanged("SELECT array(1) FROM t WHERE active = 't'");
        // A count over nothing is 0, not null.
        becomes(
            "SELECT (SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid) AS n FROM pg_class c",
            "SELECT (SELECT count(*) FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid) AS n FROM pg_catalog.pg_class c",
        );
    }
}
