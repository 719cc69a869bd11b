//! How deep a statement nests. A tree is as deep as a chain of operators is long (`a OR b OR c ...`), and what is too deep
//! would overflow the stack of the thread that plans it, which ends the process.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Function, Query, Select, SetExpr, VisitMut, VisitorMut};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::is_word;
use crate::error::{Error, ErrorKind, Result};

/// Expressions that may lie within each other.
const MAX_DEPTH: usize = 500;
/// The deepest expressions of all queries of a statement, with what is joined and united: planning may make one of them.
const MAX_TOTAL: usize = 2_000;
/// What a table, or a query of `WITH`, counts.
const RELATION: usize = 5;
/// Brackets, `CASE`s and signs within each other. The parser follows 100, and where it has to give up within `cast(...)` and
/// the like it reads all that is in there another way, at each level twice: it would not end.
const MAX_NESTED: usize = 90;
/// Subqueries in expressions, and calls of [`DOUBLING`], within each other: at each level planning takes twice as long.
const MAX_DOUBLED: usize = 15;
/// Functions that are planned as a condition on their first argument, which is then there twice.
const DOUBLING: &[&str] = &["coalesce", "nvl", "ifnull"];
/// Longest statement, in bytes.
const MAX_BYTES: usize = 16 << 20;
/// A statement of so many bytes is read on any stack, however it nests.
const SHORT_BYTES: usize = 1_000;
/// Stack that one byte of a statement can need.
const STACK_PER_BYTE: usize = 512;

/// Reads a statement of so many bytes with `read`, with as much stack as it can need before it is known how deep it nests.
/// Whoever parses statements before the engine does so in here: a parser's tree of a long chain of operators is deep enough to
/// end the process when it is walked or dropped.
///
/// # Errors
/// Those of `read`; [`ErrorKind::Query`] for one that is too long.
pub fn with_stack<T: Send>(bytes: usize, read: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    if bytes <= SHORT_BYTES {
        return read();
    }
    if bytes > MAX_BYTES {
        let message = format!("the statement has {bytes} bytes; expected at most {MAX_BYTES}");
        return Err(Error::new(ErrorKind::Query, message));
    }
    std::thread::scope(|scope| {
        let stack = (4 << 20) + STACK_PER_BYTE * bytes;
        let thread = std::thread::Builder::new().name("saequel-parse".to_owned()).stack_size(stack);
        let reading = thread
            .spawn_scoped(scope, read)
            .map_err(|error| Error::new(ErrorKind::Resources, "no thread for a long statement").with_source(error))?;
        reading.join().map_err(|_| Error::new(ErrorKind::Internal, "reading the statement failed"))?
    })
}

pub(super) fn nests_too_deep() -> Error {
    let message = format!(
        "the statement nests too deep: expected at most about {MAX_NESTED} brackets, expressions or queries within each other; \
         cut it into several statements"
    );
    Error::new(ErrorKind::Query, message)
}

/// Refuses a statement before it is parsed that nests deeper than parsing could end. Whoever parses statements before the
/// engine does so asks this first.
///
/// # Errors
/// [`ErrorKind::Query`].
pub fn check_tokens(tokens: &[TokenWithSpan]) -> Result<()> {
    // Of each bracket that is open, the signs before it and whether it is a `CASE`; and the signs before what comes.
    let (mut open, mut within, mut signs) = (Vec::<(usize, bool)>::new(), 0usize, 0usize);
    let mut before: Option<&Token> = None;
    let ends = |token: &Token| {
        ["and", "or", "then", "when", "else", "select", "from", "where"].iter().any(|word| is_word(token, word))
    };
    for TokenWithSpan { token, .. } in tokens {
        match token {
            Token::Whitespace(_) => continue,
            Token::LParen | Token::LBracket | Token::LBrace => {
                open.push((signs, false));
                within += signs + 1;
                signs = 0;
            }
            // A `CASE` that has no end before was a name.
            Token::RParen | Token::RBracket | Token::RBrace => {
                while let Some((before, is_case)) = open.pop() {
                    signs = before;
                    within -= before + 1;
                    if !is_case {
                        break;
                    }
                }
            }
            Token::Comma | Token::SemiColon => signs = 0,
            Token::Minus | Token::Plus | Token::Tilde | Token::ExclamationMark => {
                let is_sign = !matches!(
                    before,
                    Some(
                        Token::Word(_)
                            | Token::Number(..)
                            | Token::SingleQuotedString(_)
                            | Token::RParen
                            | Token::RBracket
                    )
                );
                signs += usize::from(is_sign);
            }
            word if is_word(word, "case") => {
                open.push((signs, true));
                within += signs + 1;
                signs = 0;
            }
            // Else it is a name, too.
            word if is_word(word, "end") => {
                if let Some((before, _)) = open.pop_if(|(_, is_case)| *is_case) {
                    signs = before;
                    within -= before + 1;
                }
            }
            word if is_word(word, "not") => signs += 1,
            word if ends(word) => signs = 0,
            _ => {}
        }
        before = Some(token);
        if within + signs > MAX_NESTED {
            return Err(nests_too_deep());
        }
    }
    Ok(())
}

/// Refuses a tree that is too deep to be planned.
///
/// # Errors
/// [`ErrorKind::Query`].
pub(super) fn check(tree: &mut impl VisitMut) -> Result<()> {
    let mut depth = Depth::default();
    let message = match tree.visit(&mut depth) {
        ControlFlow::Break(message) => message,
        ControlFlow::Continue(()) if depth.total + depth.deepest.iter().sum::<usize>() > MAX_TOTAL => TOO_MUCH,
        ControlFlow::Continue(()) => return Ok(()),
    };
    Err(Error::new(ErrorKind::Query, message))
}

const TOO_DEEP: &str = "an expression nests more than 500 operators deep; write `x IN (...)` for a long `x = ... OR`, or cut \
                        it into several statements";
const TOO_OFTEN: &str = "more than 15 subqueries, or calls of coalesce, nest within each other in an expression; write \
                         coalesce(a, b, c) for coalesce(coalesce(a, b), c), or name a part of it in WITH";
const TOO_MUCH: &str = "the statement joins or unites too much; cut it into several statements";

#[derive(Default)]
struct Depth {
    now: usize,
    total: usize,
    /// Those that take twice as long at each level.
    doubled: usize,
    /// Of each query that the walk is in.
    deepest: Vec<usize>,
}

impl Depth {
    fn add(&mut self, count: usize) -> ControlFlow<&'static str> {
        self.total += count;
        if self.total > MAX_TOTAL { ControlFlow::Break(TOO_MUCH) } else { ControlFlow::Continue(()) }
    }
}

impl VisitorMut for Depth {
    type Break = &'static str;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        self.deepest.push(0);
        let mut united = 0;
        let mut body = query.body.as_ref();
        while let SetExpr::SetOperation { left, .. } = body {
            united += 1;
            body = left;
        }
        self.add(united + query.with.as_ref().map_or(0, |with| with.cte_tables.len() * RELATION))
    }

    fn post_visit_query(&mut self, _query: &mut Query) -> ControlFlow<Self::Break> {
        let deepest = self.deepest.pop().unwrap_or(0);
        self.add(deepest)
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        let tables: usize = select.from.iter().map(|from| 1 + from.joins.len()).sum();
        self.add(tables.saturating_sub(1) * RELATION)
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        // `a[1][2].b` is one expression here, and one call in another in a plan.
        let steps = if let Expr::CompoundFieldAccess { access_chain, .. } = expr { access_chain.len() } else { 0 };
        self.now += 1;
        self.doubled += usize::from(is_doubled(expr));
        if self.now + steps > MAX_DEPTH {
            return ControlFlow::Break(TOO_DEEP);
        }
        if self.doubled > MAX_DOUBLED {
            return ControlFlow::Break(TOO_OFTEN);
        }
        match self.deepest.last_mut() {
            Some(deepest) => *deepest = (*deepest).max(self.now + steps),
            None => self.deepest.push(self.now + steps),
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        self.now -= 1;
        self.doubled -= usize::from(is_doubled(expr));
        ControlFlow::Continue(())
    }
}

fn is_doubled(expr: &Expr) -> bool {
    match expr {
        Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => true,
        Expr::Function(Function { name, .. }) => {
            let name = name.0.last().and_then(|part| part.as_ident());
            name.is_some_and(|name| DOUBLING.iter().any(|doubling| name.value.eq_ignore_ascii_case(doubling)))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use crate::statements::{parse, set::DocumentSet};

    #[test]
    fn what_is_wide_is_read_and_what_is_deep_is_not() {
        let many = |what: &str, n: usize, between: &str| vec![what; n].join(between);
        let wide = [
            format!("SELECT {}", many("a + 1", 5000, ", ")),
            format!("SELECT 1 WHERE x IN ({})", many("1", 20_000, ", ")),
            format!("SELECT CASE {} END", many("WHEN a = 1 AND b = 2 THEN 2", 3000, " ")),
            format!("SELECT 1 WHERE {}", many("a.b = -1.5 AND c LIKE 'x'", 400, " OR ")),
            many("SELECT a + 1 AS x FROM t WHERE b = 2", 300, " UNION ALL "),
            format!("SELECT 1 FROM {}", many("t JOIN u ON t.a = u.a", 100, ", ")),
            format!("SELECT {}", many("f(a + 1, g(b))", 400, " + ")),
            format!("SELECT 1 WHERE {}", many("NOT a AND b IS NOT NULL AND c = -1", 100, " AND ")),
            format!("SELECT {}", many("coalesce(a, -1)", 100, ", ")),
            format!("SELECT {}a{}", "coalesce(".repeat(12), ", 1)".repeat(12)),
            format!("SELECT * FROM {}t{}", "(SELECT * FROM ".repeat(20), ")".repeat(20)),
            format!("SELECT {}1{}", "cast(abs(".repeat(40), ") AS int)".repeat(40)),
        ];
        for sql in &wide {
            assert!(parse(sql).is_ok(), "{}: {:?}", &sql[..60], parse(sql).err());
        }
        let deep = [
            format!("SELECT {}", many("1", 200_000, "+")),
            format!("SELECT 1 WHERE {}", many("a = 1", 10_000, " OR ")),
            format!("SELECT from * {}", many("from", 10_000, " * ")),
            format!("SELECT 1 WHERE {}", many("a IS DISTINCT FROM 1", 10_000, " OR ")),
            format!("SELECT 1{}", "::int".repeat(100_000)),
            format!("SELECT a{}", "['x']".repeat(10_000)),
            format!("SELECT a{}", " IS NULL".repeat(10_000)),
            format!("SELECT {}", many("CASE WHEN a THEN 1 END", 10_000, " + ")),
            format!("SELECT {}", many("(a)", 10_000, " || ")),
            format!("SELECT 1 FROM {}", many("t", 10_000, ", ")),
            format!("SELECT 1 FROM {}", many("t", 10_000, " JOIN ")),
            many("SELECT 1", 10_000, " UNION "),
            many("SELECT 1", 10_000, " EXCEPT ALL "),
            format!("WITH {} SELECT 1", many("a AS (SELECT 1)", 10_000, ", ")),
            format!("WITH {} SELECT 1", many(&format!("a AS (SELECT {})", many("b", 400, " + ")), 30, ", ")),
            format!("SELECT {}1", "- ".repeat(10_000)),
            format!("SELECT {}1", "NOT ".repeat(10_000)),
            format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000)),
            format!("SELECT {}1{}", "CASE WHEN a THEN ".repeat(10_000), " END".repeat(10_000)),
            // These would be parsed or planned for years.
            format!("SELECT {}1{}", "cast(abs(".repeat(60), ") AS int)".repeat(60)),
            format!("SELECT {}1{}", "NOT cast(".repeat(60), " AS boolean)".repeat(60)),
            format!("SELECT {}1{}", "cast(end + cast(".repeat(60), " AS int) AS int)".repeat(60)),
            format!("SELECT {}cast(cast(1 AS int) AS int)", "a = NOT ".repeat(95)),
            format!("SELECT {}1{}", "coalesce(".repeat(20), ", 2)".repeat(20)),
            format!("SELECT {}1{}", "(SELECT ".repeat(20), ")".repeat(20)),
            format!("SELECT 1 WHERE {}true{}", "1 IN (SELECT 1 WHERE ".repeat(20), ")".repeat(20)),
            format!("DELETE FROM t WHERE {}", many("a = 1", 10_000, " OR ")),
            "/*".repeat(100_000),
        ];
        for sql in &deep {
            assert!(parse(sql).is_err(), "{}", &sql[..60]);
            assert!(DocumentSet::parse(sql).is_err(), "{}", &sql[..60]);
        }
        let condition = many("a = 1", 10_000, " OR ");
        assert!(DocumentSet::parse(&format!("answers WHERE {condition}")).is_err());
        assert!(DocumentSet::with_condition("answers", &condition).is_err());
        assert!(parse(&"x".repeat(17 << 20)).is_err());
    }
}
