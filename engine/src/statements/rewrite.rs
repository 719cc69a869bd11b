//! Forms that DataFusion's planner does not know, turned into forms that it does.
//!
//! - `answers AS OF VERSION 3` (also `VERSION AS OF 3`, `TIMESTAMP AS OF '...'`, `FOR SYSTEM_TIME AS OF '...'`): a table whose
//!   *name* is `answers as of version 3`, aliased to `answers`. Done on the tokens, since sqlparser's general dialect has
//!   no time travel; [`VersionedName`] reads the name back.
//! - `f(a, name => value)` and `:=` of a table function: `f(a, named_argument('name', value))`.
//! - `SIMILAR TO` and `(struct).field[1]` (see [`super::similar`]).
//! - a bare name or a subquery as an argument of a table function: its text as a string, so that
//!   `diff(answers, (SELECT * FROM others))` works as `diff('answers', 'SELECT * FROM others')` does.

use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use arrow::datatypes::DataType;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments,
    Ident, LimitClause, ObjectName, ObjectNamePart, Query, Statement, Subscript, TableAlias, TableFactor, Value,
};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::walk::{Node, walk};
use super::{is_name, is_word, similar};
use crate::error::{Error, ErrorKind, Result};
use crate::store::AsOf;

/// Function that carries a named argument to a table function.
pub(crate) const NAMED_ARGUMENT: &str = "named_argument";

/// DataFusion's own table functions, whose arguments are left alone.
const FOREIGN_TABLE_FUNCTIONS: [&str; 2] = ["generate_series", "range"];

const VERSION_MARK: &str = " as of version ";
const TIMESTAMP_MARK: &str = " as of timestamp ";

/// A table name that may carry a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VersionedName {
    /// The name without the version.
    pub(crate) name: String,
    /// The version.
    pub(crate) as_of: AsOf,
}

impl VersionedName {
    /// Reads what [`time_travel`] wrote; a name without a version is the newest one.
    ///
    /// # Errors
    /// [`ErrorKind::Query`] for a version that is no number or a moment that is no timestamp.
    pub(crate) fn parse(name: &str) -> Result<Self> {
        if let Some((name, version)) = name.split_once(VERSION_MARK) {
            let number = version.parse().map_err(|_| {
                Error::new(ErrorKind::Query, format!("AS OF VERSION: expected a whole number, got '{version}'"))
            })?;
            return Ok(Self { name: name.to_owned(), as_of: AsOf::Version(number) });
        }
        if let Some((name, moment)) = name.split_once(TIMESTAMP_MARK) {
            let nanos = string_to_timestamp_nanos(moment).map_err(|_| {
                let message = format!("AS OF TIMESTAMP: expected e.g. '2027-01-31 12:00:00' (UTC), got '{moment}'");
                Error::new(ErrorKind::Query, message)
            })?;
            return Ok(Self { name: name.to_owned(), as_of: AsOf::Micros(nanos.div_euclid(1000)) });
        }
        Ok(Self { name: name.to_owned(), as_of: AsOf::Latest })
    }
}

/// Puts versions into table names.
pub(crate) fn time_travel(tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>> {
    let significant: Vec<usize> =
        (0..tokens.len()).filter(|&i| !matches!(tokens[i].token, Token::Whitespace(_))).collect();
    let mut drop = vec![false; tokens.len()];
    let mut names: Vec<(usize, String)> = Vec::new();
    for position in 1..significant.len() {
        let at = |offset: usize| significant.get(position + offset).map(|&i| &tokens[i].token);
        let words = |expected: &[&str]| {
            expected.iter().enumerate().all(|(i, word)| at(i).is_some_and(|token| is_word(token, word)))
        };
        let name = significant[position - 1];
        if drop[name] || !is_name(&tokens[name].token) {
            continue;
        }
        let (mark, n_words) = if words(&["AS", "OF", "VERSION"]) || words(&["VERSION", "AS", "OF"]) {
            (VERSION_MARK, 3)
        } else if words(&["AS", "OF", "TIMESTAMP"]) || words(&["TIMESTAMP", "AS", "OF"]) {
            (TIMESTAMP_MARK, 3)
        } else if words(&["FOR", "SYSTEM_TIME", "AS", "OF"]) {
            (TIMESTAMP_MARK, 4)
        } else {
            continue;
        };
        let literal = match (at(n_words), mark) {
            (Some(Token::Number(number, _)), VERSION_MARK) => number.clone(),
            (Some(Token::SingleQuotedString(moment)), TIMESTAMP_MARK) => moment.clone(),
            (found, _) => {
                let start = tokens[significant[position]].span.start;
                let wanted = if mark == VERSION_MARK { "a number" } else { "a moment in quotes" };
                let found = found.map_or_else(|| "the end".to_owned(), |token| format!("'{token}'"));
                let message = format!(
                    "line {}, column {}: expected {wanted} after{mark}, got {found}",
                    start.line,
                    start.column,
                    mark = mark.trim_end().to_uppercase()
                );
                return Err(Error::new(ErrorKind::Query, message));
            }
        };
        let Token::Word(word) = &tokens[name].token else { continue };
        let plain = if word.quote_style.is_some() { word.value.clone() } else { word.value.to_lowercase() };
        let versioned = format!("{plain}{mark}{literal}");
        VersionedName::parse(&versioned)?;
        names.push((name, versioned));
        for offset in 0..=n_words {
            drop[significant[position + offset]] = true;
        }
    }
    let mut names = names.into_iter().peekable();
    let mut kept = Vec::with_capacity(tokens.len());
    for (i, mut token) in tokens.into_iter().enumerate() {
        if let Some((_, name)) = names.next_if(|(at, _)| *at == i) {
            token.token = Token::Word(Word {
                value: name,
                quote_style: Some('"'),
                keyword: datafusion::sql::sqlparser::keywords::Keyword::NoKeyword,
            });
        }
        if !drop[i] {
            kept.push(token);
        }
    }
    Ok(kept)
}

/// Rewrites the table factors of a whole tree.
///
/// # Errors
/// [`ErrorKind::Query`] for an argument that a table function cannot take.
pub(crate) fn rewrite(statement: &mut Statement) -> Result<()> {
    walk(statement, &mut |node| match node {
        Node::Table(TableFactor::Table { name, args: None, alias: alias @ None, .. }) => {
            *alias = version_alias(name);
            Ok(())
        }
        Node::Table(TableFactor::Table { name, args: Some(arguments), .. }) => {
            table_arguments(name, &mut arguments.args)
        }
        Node::Table(TableFactor::Function { name, args, .. }) => table_arguments(name, args),
        Node::Expr(expr) => expression(expr),
        _ => Ok(()),
    })
}

fn expression(expr: &mut Expr) -> Result<()> {
    match expr {
        Expr::SimilarTo { .. } => similar::rewrite(expr),
        Expr::BinaryOp { op: BinaryOperator::BitwiseXor, left, right } => {
            let message = format!(
                "{left} ^ {right} is a power to some and an exclusive or to others; write power({left}, {right}), or \
                 ({left} | {right}) - ({left} & {right})"
            );
            Err(Error::new(ErrorKind::Query, message))
        }
        Expr::Collate { collation, .. } => {
            let message = format!("COLLATE {collation}: texts are compared by their bytes here; leave it away");
            Err(Error::new(ErrorKind::Query, message))
        }
        // `(features).ids[1]` is `features['ids'][1]`.
        Expr::CompoundFieldAccess { root, access_chain } if matches!(root.as_ref(), Expr::Nested(_)) => {
            for access in access_chain {
                if let AccessExpr::Dot(Expr::Identifier(field)) = access {
                    let index = string(plain_ident(field));
                    *access = AccessExpr::Subscript(Subscript::Index { index });
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The name without its version, as an alias.
fn version_alias(name: &ObjectName) -> Option<TableAlias> {
    let ident = name.0.last()?.as_ident()?;
    let versioned = VersionedName::parse(&ident.value).ok()?;
    if versioned.as_of == AsOf::Latest {
        return None;
    }
    let name = Ident::with_quote('"', versioned.name);
    Some(TableAlias { explicit: true, name, columns: Vec::new(), at: None })
}

fn table_arguments(function: &ObjectName, arguments: &mut [FunctionArg]) -> Result<()> {
    if FOREIGN_TABLE_FUNCTIONS.contains(&plain_name(function).as_str()) {
        return Ok(());
    }
    for argument in arguments {
        let (name, value) = match argument {
            FunctionArg::Unnamed(value) => (None, value),
            FunctionArg::Named { name, arg, .. } => (Some(name.value.to_lowercase()), arg),
            FunctionArg::ExprNamed { name, arg, .. } => (Some(name.to_string().to_lowercase()), arg),
        };
        let FunctionArgExpr::Expr(value) = value else {
            let message = format!("{function}: expected a value, a name or a query as argument, got '{value}'");
            return Err(Error::new(ErrorKind::Query, message));
        };
        let mut value = value.clone();
        match &value {
            Expr::Identifier(ident) => value = string(plain_ident(ident)),
            Expr::CompoundIdentifier(parts) => {
                value = string(parts.iter().map(plain_ident).collect::<Vec<_>>().join("."));
            }
            Expr::Subquery(query) => value = string(query.to_string()),
            Expr::Nested(inner) if matches!(inner.as_ref(), Expr::Subquery(_)) => value = string(inner.to_string()),
            _ => {}
        }
        let value = match name {
            Some(name) => call(NAMED_ARGUMENT, vec![string(name), value]),
            None => value,
        };
        *argument = FunctionArg::Unnamed(FunctionArgExpr::Expr(value));
    }
    Ok(())
}

/// Replaces parameters (`$1`, `$name`) in the arguments of functions, which are read before DataFusion replaces the
/// others.
///
/// # Errors
/// [`ErrorKind::Query`] for a parameter of a table function that was not given, or of a type that is no number, string,
/// boolean or list. Those of other functions are then left to DataFusion.
pub(crate) fn bind_arguments(statement: &mut Statement, parameters: &ParamValues) -> Result<()> {
    walk(statement, &mut |node| match node {
        Node::Table(TableFactor::Table { args: Some(arguments), .. }) => bind(&mut arguments.args, parameters, true),
        Node::Table(TableFactor::Function { args, .. }) => bind(args, parameters, true),
        Node::Expr(Expr::Function(Function { args: FunctionArguments::List(list), .. })) => {
            bind(&mut list.args, parameters, false)
        }
        Node::Query(query) => {
            bind_limits(query, parameters);
            Ok(())
        }
        _ => Ok(()),
    })
}

/// Replaces the parameters after `LIMIT`, `OFFSET` and `FETCH` that are whole decimals: the engine takes integers alone.
fn bind_limits(query: &mut Query, parameters: &ParamValues) {
    let limits = match &mut query.limit_clause {
        Some(LimitClause::LimitOffset { limit, offset, .. }) => {
            [limit.as_mut(), offset.as_mut().map(|offset| &mut offset.value)]
        }
        Some(LimitClause::OffsetCommaLimit { offset, limit }) => [Some(offset), Some(limit)],
        None => [None, None],
    };
    let fetched = query.fetch.as_mut().and_then(|fetch| fetch.quantity.as_mut());
    for limit in limits.into_iter().flatten().chain(fetched) {
        if let Expr::Value(value) = &*limit
            && let Value::Placeholder(id) = &value.value
            && let Ok(given) = parameters.get_placeholders_with_values(id)
            && given.value.data_type().is_decimal()
            && let Ok(whole) = given.value.cast_to(&DataType::Int64)
            && whole.cast_to(&given.value.data_type()).is_ok_and(|again| again == given.value)
        {
            *limit = number_literal(whole.to_string());
        }
    }
}

/// Replaces the parameters in `arguments`; with `all`, one that cannot be replaced is an error.
fn bind(arguments: &mut Vec<FunctionArg>, parameters: &ParamValues, all: bool) -> Result<()> {
    walk(arguments, &mut |node| {
        if let Node::Expr(expr) = node
            && let Expr::Value(value) = expr
            && let Value::Placeholder(id) = &value.value
        {
            let bound = parameters.get_placeholders_with_values(id).map_err(Error::from);
            match bound.and_then(|given| literal(id, &given.value)) {
                Ok(literal) => *expr = literal,
                Err(error) if all => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    })
}

fn literal(id: &str, value: &ScalarValue) -> Result<Expr> {
    if value.is_null() {
        return Ok(Expr::value(Value::Null));
    }
    Ok(match value {
        ScalarValue::Utf8(Some(text)) | ScalarValue::LargeUtf8(Some(text)) | ScalarValue::Utf8View(Some(text)) => {
            string(text.clone())
        }
        ScalarValue::Boolean(Some(flag)) => Expr::value(Value::Boolean(*flag)),
        ScalarValue::List(list) => {
            let rows = ScalarValue::convert_array_to_scalar_vec(list.as_ref()).map_err(Error::from)?;
            let items = rows.into_iter().flatten().flatten().map(|item| literal(id, &item)).collect::<Result<_>>()?;
            Expr::Array(datafusion::sql::sqlparser::ast::Array { elem: items, named: false })
        }
        // `{:?}` writes 2.0, where `{}` would make an integer of it.
        ScalarValue::Float32(Some(number)) if number.is_finite() => number_literal(format!("{number:?}")),
        ScalarValue::Float64(Some(number)) if number.is_finite() => number_literal(format!("{number:?}")),
        number if number.data_type().is_integer() => number_literal(number.to_string()),
        // It shows itself with its type.
        decimal if decimal.data_type().is_decimal() => match decimal.cast_to(&DataType::Utf8).map_err(Error::from)? {
            ScalarValue::Utf8(Some(digits)) => number_literal(digits),
            other => return Err(Error::new(ErrorKind::Internal, format!("parameter {id}: a decimal is {other}"))),
        },
        other => {
            let message = format!(
                "parameter {id}: expected a string, a number or a boolean for a table function, got {}",
                other.data_type()
            );
            return Err(Error::new(ErrorKind::Query, message));
        }
    })
}

fn number_literal(text: String) -> Expr {
    Expr::value(Value::Number(text, false))
}

/// A string literal.
pub(crate) fn string(text: String) -> Expr {
    Expr::value(Value::SingleQuotedString(text))
}

fn call(name: &str, arguments: Vec<Expr>) -> Expr {
    let args = arguments.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
    Expr::Function(Function {
        name: ObjectName(vec![ObjectNamePart::Identifier(Ident::new(name))]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// What an identifier names: small letters unless it is quoted.
pub(crate) fn plain_ident(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// What an object name names, its parts joined by dots.
pub(crate) fn plain_name(name: &ObjectName) -> String {
    let part = |part: &ObjectNamePart| part.as_ident().map_or_else(|| part.to_string(), plain_ident);
    name.0.iter().map(part).collect::<Vec<_>>().join(".")
}
