//! Expressions, names and types of statements: how they are made and read.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Ident, ObjectName, ObjectNamePart, Query, Statement, Value, ValueWithSpan, Visit, Visitor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::super::relations::{INFORMATION_SCHEMA, PG_CATALOG};

/// Types that hold the number of something named.
pub(super) const REG: [&str; 5] = ["regclass", "regtype", "regnamespace", "regrole", "regproc"];

/// Types that the engine does not know under their name and that are kept as text.
pub(super) const AS_TEXT: &[&str] = &[
    "name",
    "char",
    "bpchar",
    "citext",
    "json",
    "jsonb",
    "uuid",
    "inet",
    "cidr",
    "macaddr",
    "xml",
    "money",
    "xid",
    "cid",
    "tid",
    "unknown",
    "cstring",
    "refcursor",
    "regprocedure",
    "regoper",
    "regoperator",
    "regconfig",
    "regdictionary",
    "regcollation",
    "aclitem",
    "sql_identifier",
    "character_data",
    "yes_or_no",
    "pg_node_tree",
    "pg_lsn",
];

/// Types that the engine knows under another name.
pub(super) const RENAMED: &[(&str, DataType)] = &[
    ("oid", DataType::Integer(None)),
    ("cardinal_number", DataType::Integer(None)),
    ("bool", DataType::Boolean),
    ("int2", DataType::SmallInt(None)),
    ("int4", DataType::Integer(None)),
    ("int8", DataType::BigInt(None)),
    ("float4", DataType::Real),
    ("float8", DataType::DoublePrecision),
    ("text", DataType::Text),
    ("varchar", DataType::Varchar(None)),
    ("bytea", DataType::Bytea),
    ("date", DataType::Date),
];

pub(super) fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(found) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word))
}

/// What an identifier names.
pub(super) fn folded(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

pub(super) fn parts(name: &ObjectName) -> Vec<String> {
    name.0.iter().filter_map(|part| part.as_ident().map(folded)).collect()
}

pub(super) fn ident_name(name: &str) -> ObjectName {
    ObjectName(vec![ObjectNamePart::Identifier(Ident::new(name))])
}

pub(super) fn call(name: &str, arguments: Vec<Expr>) -> Expr {
    let args = arguments.into_iter().map(|argument| FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))).collect();
    function(
        name,
        FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
    )
}

pub(super) fn function(name: &str, args: FunctionArguments) -> Expr {
    Expr::Function(Function {
        name: ident_name(name),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args,
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

pub(super) fn string(text: impl Into<String>) -> Expr {
    Expr::value(Value::SingleQuotedString(text.into()))
}

pub(super) fn number(number: &str) -> Expr {
    Expr::value(Value::Number(number.to_owned(), false))
}

pub(super) fn cast(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None }
}

pub(super) fn array_of(data_type: DataType) -> DataType {
    DataType::Array(ArrayElemTypeDef::SquareBracket(Box::new(data_type), None))
}

/// A null in place of `instead`, whose parameters must go on to be in the statement: their values are sent.
pub(super) fn nothing(instead: &impl Visit) -> Expr {
    struct Parameters(Vec<Expr>);
    impl Visitor for Parameters {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            if matches!(expr, Expr::Value(ValueWithSpan { value: Value::Placeholder(_), .. })) {
                self.0.push(cast(expr.clone(), DataType::Text));
            }
            ControlFlow::Continue(())
        }
    }
    let mut parameters = Parameters(Vec::new());
    let _ = instead.visit(&mut parameters);
    if parameters.0.is_empty() { cast(Expr::value(Value::Null), DataType::Text) } else { call("pg_null", parameters.0) }
}

pub(super) fn take(expr: &mut Expr) -> Expr {
    std::mem::replace(expr, Expr::value(Value::Null))
}

/// The text of a string literal.
pub(super) fn literal(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Value(ValueWithSpan {
            value: Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text),
            ..
        }) => Some(text),
        Expr::Nested(inner) => literal(inner),
        _ => None,
    }
}

pub(super) fn is_placeholder(expr: &Expr) -> bool {
    match expr {
        Expr::Value(ValueWithSpan { value: Value::Placeholder(_), .. }) => true,
        Expr::Nested(inner) => is_placeholder(inner),
        _ => false,
    }
}

/// A type's name without `pg_catalog` and its like, if it has one of PostgreSQL's.
pub(super) fn type_name(data_type: &DataType) -> Option<String> {
    match data_type {
        DataType::Regclass => Some("regclass".to_owned()),
        DataType::Custom(name, arguments) if arguments.is_empty() => {
            let mut parts = parts(name);
            let last = parts.pop()?;
            parts.iter().all(|part| part == PG_CATALOG || part == INFORMATION_SCHEMA).then_some(last)
        }
        DataType::JSON => Some("json".to_owned()),
        DataType::JSONB => Some("jsonb".to_owned()),
        DataType::Uuid => Some("uuid".to_owned()),
        _ => None,
    }
}

/// Replaces a type that the engine does not know; whether it did.
pub(super) fn replace_type(data_type: &mut DataType) -> bool {
    if let DataType::Array(ArrayElemTypeDef::SquareBracket(element, size)) = data_type {
        return replace_type(element) | size.take().is_some();
    }
    let Some(name) = type_name(data_type) else { return false };
    let known = RENAMED.iter().find(|(known, _)| *known == name).map(|(_, of)| of.clone());
    let new = match name.as_str() {
        _ if known.is_some() => known,
        // Their names are text, their numbers are dealt with before this is called.
        name if AS_TEXT.contains(&name) => Some(DataType::Text),
        "timestamptz" | "timestamp" | "time" | "timetz" | "numeric" | "interval" => {
            Parser::new(&GenericDialect {}).try_with_sql(&name).and_then(|mut parser| parser.parse_data_type()).ok()
        }
        name if REG.contains(&name) => Some(DataType::Integer(None)),
        _ => None,
    };
    let Some(new) = new else { return false };
    *data_type = new;
    true
}

/// Whether values of a type are text.
pub(super) fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Text | DataType::Varchar(_) | DataType::Char(_) | DataType::CharacterVarying(_))
        || type_name(data_type)
            .is_some_and(|name| AS_TEXT.contains(&name.as_str()) || name == "text" || name == "varchar")
}

pub(super) fn is_aggregate(expr: &Expr) -> bool {
    const AGGREGATES: &[&str] =
        &["array_agg", "avg", "bool_and", "bool_or", "count", "every", "max", "min", "string_agg", "sum"];
    /// Whether one was found, and how deep in subqueries the search is.
    struct Finds(bool, usize);
    impl Visitor for Finds {
        type Break = ();
        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            self.1 += 1;
            ControlFlow::Continue(())
        }
        fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            self.1 -= 1;
            ControlFlow::Continue(())
        }
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            if let (Expr::Function(function), 0) = (expr, self.1) {
                let name = parts(&function.name).pop().unwrap_or_default();
                self.0 |= AGGREGATES.contains(&name.as_str()) && function.over.is_none();
            }
            ControlFlow::Continue(())
        }
    }
    let mut finds = Finds(false, 0);
    let _ = expr.visit(&mut finds);
    finds.0
}

pub(super) fn holds_subquery(expr: &Expr) -> bool {
    struct Finds(bool);
    impl Visitor for Finds {
        type Break = ();
        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            self.0 = true;
            ControlFlow::Break(())
        }
    }
    let mut finds = Finds(false);
    let _ = expr.visit(&mut finds);
    finds.0
}

/// Names that `WITH` gives, which hide tables of PostgreSQL's.
pub(super) fn cte_names(statement: &Statement) -> BTreeSet<String> {
    struct Names(BTreeSet<String>);
    impl Visitor for Names {
        type Break = ();
        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            let with = query.with.iter().flat_map(|with| &with.cte_tables);
            self.0.extend(with.map(|cte| folded(&cte.alias.name)));
            ControlFlow::Continue(())
        }
    }
    let mut names = Names(BTreeSet::new());
    let _ = statement.visit(&mut names);
    names.0
}
