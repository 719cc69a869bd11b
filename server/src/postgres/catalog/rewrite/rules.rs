//! The rules: each replaces one thing that the engine does not know by what it does.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, Array, ArrayElemTypeDef, BinaryOperator, CastKind, DataType, ExactNumberInfo, Expr, FunctionArg,
    FunctionArgExpr, FunctionArgumentList, FunctionArguments, GroupByExpr, Ident, JoinOperator, ObjectName,
    ObjectNamePart, Query, Select, SelectItem, SetExpr, Statement, TableAlias, TableAliasColumnDef, TableFactor,
    TableWithJoins, TypedString, UnaryOperator, Value, ValueWithSpan, Visit, VisitMut, Visitor, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use saequel_engine::functions as documented;

use super::super::functions::{array_items, is_known};
use super::super::relations::{INFORMATION_SCHEMA, PG_CATALOG, PUBLIC};
use super::super::tables::{EMPTY, fixed};
use super::arrays::{gathered, query_of};
use super::class::numbered;
use super::composites::without_composites;
use super::expressions::{
    REG, array_of, call, cast, folded, function, holds_subquery, ident_name, is_aggregate, is_placeholder, is_text,
    literal, nothing, number, parts, replace_type, string, take, type_name,
};
use super::like::with_backslash;
use super::literals::{bytes, decimal};
use super::sorted::sorted_by_columns;

/// Columns of `pg_type` that hold functions.
const REGPROC_COLUMNS: [&str; 7] =
    ["typinput", "typoutput", "typreceive", "typsend", "typmodin", "typmodout", "typanalyze"];

/// Columns of the catalog that are null in every row.
const ALWAYS_NULL: [&str; 14] = [
    "reloptions",
    "relacl",
    "attoptions",
    "attacl",
    "attfdwoptions",
    "nspacl",
    "datacl",
    "proacl",
    "proconfig",
    "typacl",
    "lanacl",
    "spcacl",
    "spcoptions",
    "rolconfig",
];

/// Columns that hold numbers and may be compared with names, and what reads the name.
const NAMED_COLUMNS: [(&str, &str); 10] = [
    ("relnamespace", "pg_regnamespace_in"),
    ("pronamespace", "pg_regnamespace_in"),
    ("typnamespace", "pg_regnamespace_in"),
    ("connamespace", "pg_regnamespace_in"),
    ("attrelid", "pg_regclass_in"),
    ("classoid", "pg_regclass_in"),
    ("refclassid", "pg_regclass_in"),
    ("conrelid", "pg_regclass_in"),
    ("indrelid", "pg_regclass_in"),
    ("adrelid", "pg_regclass_in"),
];

/// Whether `name` is a table of `pg_catalog`.
fn is_catalog_table(name: &str) -> bool {
    name.starts_with("pg_") && fixed().is_ok_and(|fixed| fixed.own_tables().any(|own| own == (PG_CATALOG, name)))
}

pub(super) struct Rules {
    pub(super) changed: bool,
    /// Whether the statement reads a table of `pg_catalog`.
    pub(super) catalog: bool,
    /// Whether it names `value`, which is what the engine calls the column of a series.
    pub(super) value: bool,
    pub(super) ctes: BTreeSet<String>,
    /// Whether what `WITH` names is of the catalog alone.
    pub(super) ctes_of_catalog: bool,
}

impl VisitorMut for Rules {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        self.changed |= self.catalog && numbered(select);
        // Before the expressions in them are rewritten: a name on its own is what is shown, and so is a number.
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
                self.shown_name(expr);
                self.exact_number(expr, |_, _| true);
            }
        }
        if self.is_empty(select) {
            // Columns of tables beside it cannot be unnested, and there are none.
            for join in select.from.iter_mut().flat_map(|from| &mut from.joins) {
                if let TableFactor::UNNEST { alias: Some(alias), .. } = &join.relation
                    && let Some(derived) =
                        first_table(&format!("SELECT * FROM (SELECT CAST(NULL AS SMALLINT) AS {0}) AS {0}", alias.name))
                {
                    join.relation = derived;
                    self.changed = true;
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if let Some(mut new) = sorted_by_columns(query) {
            // What was sorted by is a column now.
            if let SetExpr::Select(select) = new.body.as_mut()
                && let [TableWithJoins { relation: TableFactor::Derived { subquery, .. }, .. }] =
                    select.from.as_mut_slice()
                && let SetExpr::Select(below) = subquery.body.as_mut()
            {
                self.memberships(below);
            }
            *query = new;
            self.changed = true;
        }
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        if self.is_empty(select) {
            for item in &mut select.projection {
                if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item
                    && holds_subquery(expr)
                {
                    *expr = nothing(&*expr);
                    self.changed = true;
                }
            }
        }
        self.memberships(select);
        self.name_columns(select);
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        // `WITH RECURSIVE t(a, b) AS (SELECT 1, 0 UNION ALL ...)`: the engine looks for a and b in the first part.
        let with = query.with.iter_mut().filter(|with| with.recursive);
        for cte in with.flat_map(|with| &mut with.cte_tables) {
            let SetExpr::SetOperation { left, .. } = cte.query.body.as_mut() else { continue };
            let SetExpr::Select(select) = left.as_mut() else { continue };
            if cte.alias.columns.len() != select.projection.len() {
                continue;
            }
            for (item, column) in select.projection.iter_mut().zip(&cte.alias.columns) {
                if let SelectItem::UnnamedExpr(expr) = item {
                    *item = SelectItem::ExprWithAlias { expr: take(expr), alias: column.name.clone() };
                    self.changed = true;
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        self.table(factor);
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        self.before(expr);
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        self.after(expr);
        ControlFlow::Continue(())
    }
}

impl Rules {
    fn put(&mut self, place: &mut Expr, new: Expr) {
        *place = new;
        self.changed = true;
    }

    /// `oid::regclass` as a column of the result is the relation's name.
    fn shown_name(&mut self, expr: &mut Expr) {
        if let Expr::Cast { data_type, .. } = expr
            && let Some(name) = type_name(data_type).filter(|name| REG[..4].contains(&name.as_str()))
        {
            let inner = take(expr);
            self.put(expr, call(&format!("pg_{name}_out"), vec![inner]));
        }
    }

    /// `1.50::numeric` with the digits that are written, if they are as many `before` and behind the point as is asked.
    fn exact_number(&mut self, expr: &mut Expr, is_wanted: fn(u64, i64) -> bool) {
        if let Expr::Cast { expr: inner, data_type, kind, .. } = expr
            && let Some((digits, before, behind)) = decimal(inner, data_type)
            && is_wanted(before, behind)
        {
            let exact = ExactNumberInfo::PrecisionAndScale(before + behind.unsigned_abs(), behind);
            (**inner, *data_type, *kind) = (digits, DataType::Numeric(exact), CastKind::Cast);
            self.changed = true;
        }
    }

    fn before(&mut self, expr: &mut Expr) {
        match expr {
            // PostgreSQL's sign binds before its power: `-2 ^ 2` is 4.
            Expr::UnaryOp { op: op @ (UnaryOperator::Minus | UnaryOperator::Plus), expr: inner } if is_power(inner) => {
                let (op, mut power) = (*op, take(inner));
                let base = base_of(&mut power);
                *base = Expr::UnaryOp { op, expr: Box::new(take(base)) };
                self.put(expr, power);
            }
            // `x::regclass::text`
            Expr::Cast { expr: inner, data_type, .. } if is_text(data_type) => self.shown_name(inner),
            // `'diff'::regproc::oid`: functions are kept by their names.
            Expr::Cast { expr: inner, data_type, .. } if type_name(data_type).is_some_and(|name| name == "oid") => {
                if let Expr::Cast { expr: function, data_type, .. } = inner.as_mut()
                    && type_name(data_type).is_some_and(|name| name == "regproc")
                {
                    let function = take(function);
                    self.put(expr, call("pg_regproc_number", vec![function]));
                }
            }
            Expr::Case { operand: None, conditions, else_result, .. } => {
                if let Some(new) = without_composites(conditions, else_result.as_deref_mut()) {
                    self.put(expr, new);
                }
            }
            Expr::Identifier(ident) if ident.quote_style.is_none() => {
                let name = ident.value.to_ascii_lowercase();
                if matches!(name.as_str(), "current_schema" | "current_role") {
                    self.put(expr, call(&name, Vec::new()));
                }
            }
            _ => {}
        }
        self.subquery(expr);
    }

    fn after(&mut self, expr: &mut Expr) {
        match expr {
            Expr::Cast { .. } => self.cast(expr),
            // `bytea '\x00ff'`
            Expr::TypedString(TypedString { data_type: DataType::Bytea, value, .. }) => {
                let text = value.value.clone().into_string();
                if let Some(text) = text {
                    self.put(expr, bytes(&text));
                }
            }
            Expr::Collate { expr: inner, collation } => {
                let name = parts(collation).pop().unwrap_or_default().to_lowercase();
                // Texts are compared by their bytes, as in these.
                if matches!(name.as_str(), "default" | "c" | "posix" | "ucs_basic" | "c.utf-8" | "c.utf8") {
                    let inner = take(inner);
                    self.put(expr, inner);
                }
            }
            Expr::BinaryOp { op: BinaryOperator::PGCustomBinaryOperator(_), .. } => self.operator(expr),
            // In PostgreSQL a power, and always a fraction here: 2 ^ -1 is 0.5.
            Expr::BinaryOp { left, op: BinaryOperator::PGExp, right } => {
                let fraction = |expr: &mut Expr| cast(take(expr), DataType::DoublePrecision);
                let new = call("power", vec![fraction(left), fraction(right)]);
                self.put(expr, new);
            }
            Expr::AtTimeZone { timestamp, time_zone } => {
                let new = call("timezone", vec![take(time_zone), take(timestamp)]);
                self.put(expr, new);
            }
            // `typreceive != 0`: functions are kept by their names, and none is `-`.
            Expr::BinaryOp { left, op: BinaryOperator::Eq | BinaryOperator::NotEq, right } if self.catalog => {
                self.join_of_functions(left, right);
                let of = match left.as_ref() {
                    Expr::Identifier(ident) => folded(ident),
                    Expr::CompoundIdentifier(idents) => idents.last().map(folded).unwrap_or_default(),
                    _ => return,
                };
                // `relnamespace = 'public'`: a name where a number is kept.
                if let Some(name) = literal(right)
                    && name.parse::<i64>().is_err()
                    && let Some((_, reader)) = NAMED_COLUMNS.iter().find(|(column, _)| *column == of)
                {
                    let name = string(name);
                    self.put(right, call(reader, vec![name]));
                    return;
                }
                // `indisprimary = 'f'`
                if let Some(flag) = literal(right)
                    && matches!(flag, "t" | "f" | "true" | "false")
                    && fixed().is_ok_and(|fixed| fixed.flags.contains(&of))
                {
                    let flag = flag.starts_with('t');
                    self.put(right, Expr::value(Value::Boolean(flag)));
                    return;
                }
                let is_zero =
                    matches!(right.as_ref(), Expr::Value(ValueWithSpan { value: Value::Number(n, _), .. }) if n == "0");
                if is_zero && REGPROC_COLUMNS.contains(&of.as_str()) {
                    self.put(right, string("-"));
                }
            }
            // `(f(x)).n`
            Expr::CompoundFieldAccess { root, access_chain } => {
                if let (Expr::Nested(inner), [AccessExpr::Dot(Expr::Identifier(field))]) =
                    (root.as_mut(), access_chain.as_slice())
                {
                    let new = call("get_field", vec![take(inner), string(folded(field))]);
                    self.put(expr, new);
                }
            }
            Expr::AnyOp { left, compare_op, right, .. } => {
                let membership = *compare_op == BinaryOperator::Eq;
                if let Some(new) = self.quantified(membership, false, left, right) {
                    *expr = new;
                }
            }
            Expr::AllOp { left, compare_op, right } => {
                let membership = *compare_op == BinaryOperator::NotEq;
                if let Some(new) = self.quantified(membership, true, left, right) {
                    *expr = new;
                }
            }
            Expr::Like { pattern, escape_char, any: false, .. }
            | Expr::ILike { pattern, escape_char, any: false, .. } => {
                let escape = match escape_char.as_ref().map(|escape| &escape.value) {
                    Some(Value::SingleQuotedString(escape) | Value::EscapedStringLiteral(escape)) => escape.clone(),
                    _ => return,
                };
                let mut letters = escape.chars();
                if let (Some(letter), None) = (letters.next(), letters.next())
                    && letter != '\\'
                    && with_backslash(&mut pattern.clone(), letter)
                {
                    with_backslash(pattern, letter);
                    *escape_char = None;
                    self.changed = true;
                }
            }
            Expr::Function(function) => {
                if self.bare(&mut function.name) {
                    self.changed = true;
                }
                let name = parts(&function.name);
                let FunctionArguments::List(list) = &function.args else { return };
                // One row for each position of an array. Its dimension can only be 1, and so is what is added to its length,
                // since positions are counted up to the second argument of `range`.
                if name == ["generate_subscripts"]
                    && let [
                        FunctionArg::Unnamed(FunctionArgExpr::Expr(array)),
                        FunctionArg::Unnamed(FunctionArgExpr::Expr(dimension)),
                    ] = list.args.as_slice()
                {
                    let whole = |expr: Expr| cast(expr, DataType::BigInt(None));
                    let end = Expr::BinaryOp {
                        left: Box::new(whole(call("cardinality", vec![array.clone()]))),
                        op: BinaryOperator::Plus,
                        right: Box::new(whole(dimension.clone())),
                    };
                    self.put(expr, call("unnest", vec![call("range", vec![number("1"), end])]));
                }
            }
            _ => {}
        }
    }

    /// `proc.oid = typ.typreceive`: by the name, then.
    fn join_of_functions(&mut self, left: &mut Expr, right: &mut Expr) {
        let last = |expr: &Expr| match expr {
            Expr::Identifier(ident) => folded(ident),
            Expr::CompoundIdentifier(idents) => idents.last().map(folded).unwrap_or_default(),
            _ => String::new(),
        };
        let (of_left, of_right) = (last(left), last(right));
        let of = match (of_left.as_str(), of_right.as_str()) {
            ("oid", of) if REGPROC_COLUMNS.contains(&of) => left,
            (of, "oid") if REGPROC_COLUMNS.contains(&of) => right,
            _ => return,
        };
        if let Expr::CompoundIdentifier(idents) = of
            && let Some(last) = idents.last_mut()
        {
            *last = Ident::new("proname");
            self.changed = true;
        }
    }

    /// Takes the schema off the name of a function of PostgreSQL's, and `public` off one of ours; whether it did.
    fn bare(&self, name: &mut ObjectName) -> bool {
        let found = parts(name);
        let [schema, last] = found.as_slice() else { return false };
        if !matches!(schema.as_str(), PG_CATALOG | INFORMATION_SCHEMA | PUBLIC) {
            return false;
        }
        *name = ident_name(last);
        true
    }

    fn cast(&mut self, expr: &mut Expr) {
        let Expr::Cast { expr: inner, data_type, kind, .. } = expr else { return };
        if let Some(name) = type_name(data_type).filter(|name| REG.contains(&name.as_str())) {
            let inner = take(inner);
            // A parameter has no type by itself.
            let inner = if is_placeholder(&inner) { cast(inner, DataType::Text) } else { inner };
            return self.put(expr, call(&format!("pg_{name}_in"), vec![inner]));
        }
        // `proargtypes::regtype[]`, which is only shown.
        if let DataType::Array(ArrayElemTypeDef::SquareBracket(element, _)) = data_type
            && type_name(element).is_some_and(|name| name == "regtype")
            && !is_placeholder(inner)
        {
            let inner = take(inner);
            return self.put(expr, call("pg_regtype_array", vec![inner]));
        }
        if let DataType::Array(_) = data_type
            && let Some(items) = literal(inner).and_then(array_items)
        {
            **inner = array(items);
            self.changed = true;
        }
        // `indkey::varchar`: numbers with spaces between them, as clients take it apart.
        if is_text(data_type)
            && let Expr::CompoundIdentifier(idents) = inner.as_ref()
            && idents.last().is_some_and(|last| matches!(folded(last).as_str(), "indkey" | "indoption" | "indclass"))
        {
            let inner = take(inner);
            return self.put(expr, call("array_to_string", vec![inner, string(" ")]));
        }
        if matches!(data_type, DataType::Bytea)
            && let Some(text) = literal(inner)
        {
            let bytes = bytes(text);
            return self.put(expr, bytes);
        }
        if replace_type(data_type) {
            *kind = CastKind::Cast;
            self.changed = true;
        }
        // Where it is computed with, it has the ten digits behind the point of any other `numeric`, if it fits.
        self.exact_number(expr, |before, behind| before > 28 || behind > 10);
    }

    /// `a OPERATOR(pg_catalog.~) b`
    fn operator(&mut self, expr: &mut Expr) {
        let Expr::BinaryOp { left, op, right } = expr else { return };
        let BinaryOperator::PGCustomBinaryOperator(name) = &*op else { return };
        if name.len() == 2 && !name[0].eq_ignore_ascii_case(PG_CATALOG) {
            return;
        }
        let plain = match name.last().map(String::as_str) {
            Some("~") => BinaryOperator::PGRegexMatch,
            Some("~*") => BinaryOperator::PGRegexIMatch,
            Some("!~") => BinaryOperator::PGRegexNotMatch,
            Some("!~*") => BinaryOperator::PGRegexNotIMatch,
            Some("~~") => BinaryOperator::PGLikeMatch,
            Some("~~*") => BinaryOperator::PGILikeMatch,
            Some("!~~") => BinaryOperator::PGNotLikeMatch,
            Some("!~~*") => BinaryOperator::PGNotILikeMatch,
            Some("=") => BinaryOperator::Eq,
            Some("<>") => BinaryOperator::NotEq,
            Some("<") => BinaryOperator::Lt,
            Some("<=") => BinaryOperator::LtEq,
            Some(">") => BinaryOperator::Gt,
            Some(">=") => BinaryOperator::GtEq,
            Some("+") => BinaryOperator::Plus,
            Some("-") => BinaryOperator::Minus,
            Some("*") => BinaryOperator::Multiply,
            Some("/") => BinaryOperator::Divide,
            Some("||") => BinaryOperator::StringConcat,
            _ => return,
        };
        let new = Expr::BinaryOp { left: Box::new(take(left)), op: plain, right: Box::new(take(right)) };
        self.put(expr, Expr::Nested(Box::new(new)));
    }

    /// `x = ANY('{a,b}')` is `x IN ('a', 'b')`; a parameter becomes an array.
    fn quantified(&mut self, membership: bool, negated: bool, left: &mut Expr, right: &mut Expr) -> Option<Expr> {
        if let Some(items) = literal(right).and_then(array_items) {
            self.changed = true;
            if membership && !items.is_empty() {
                let list = items.into_iter().map(item).collect();
                return Some(Expr::InList { expr: Box::new(take(left)), list, negated });
            }
            *right = if items.is_empty() { cast(array(items), array_of(DataType::Text)) } else { array(items) };
        } else if is_placeholder(right) {
            let inner = take(right);
            self.put(right, call("pg_array", vec![inner]));
        }
        None
    }

    /// Whether a table that never has a row makes a query empty.
    fn is_empty(&self, select: &Select) -> bool {
        let aggregated = select.projection.iter().any(|item| match item {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => is_aggregate(expr),
            _ => false,
        });
        let never = |array: &Expr| match array {
            Expr::CompoundIdentifier(idents) => {
                self.catalog && idents.last().is_some_and(|last| ALWAYS_NULL.contains(&folded(last).as_str()))
            }
            _ => false,
        };
        let empty = |factor: &TableFactor| match factor {
            TableFactor::UNNEST { array_exprs, .. } => array_exprs.iter().all(never),
            TableFactor::Table { name, args: Some(arguments), .. }
                if parts(name).last().is_some_and(|last| last == "unnest" || last == "aclexplode") =>
            {
                arguments.args.iter().all(
                    |argument| matches!(argument, FunctionArg::Unnamed(FunctionArgExpr::Expr(array)) if never(array)),
                )
            }
            TableFactor::Table { name, args: None, .. } => {
                let name = parts(name);
                let name: Vec<&str> = name.iter().map(String::as_str).collect();
                match name.as_slice() {
                    [PG_CATALOG, name] => is_in_empty(name),
                    [name] => !self.ctes.contains(*name) && is_in_empty(name),
                    _ => false,
                }
            }
            _ => false,
        };
        // Without groups an aggregate has one row even over none.
        let has_groups = !matches!(&select.group_by, GroupByExpr::Expressions(by, _) if by.is_empty());
        let is_inner = |join: &JoinOperator| {
            matches!(join, JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_))
        };
        let is_left = |join: &JoinOperator| matches!(join, JoinOperator::Left(_) | JoinOperator::LeftOuter(_));
        (has_groups || !aggregated)
            && select.from.iter().any(|from| {
                from.joins.iter().all(|join| is_inner(&join.join_operator) || is_left(&join.join_operator))
                    && (empty(&from.relation)
                        || from.joins.iter().any(|join| is_inner(&join.join_operator) && empty(&join.relation)))
            })
    }

    /// A subquery over the catalog that gives one value.
    fn subquery(&mut self, expr: &mut Expr) {
        if let Some(query) = query_of(expr) {
            if matches!(query.body.as_ref(), SetExpr::Select(select) if self.is_empty(select)) {
                // Values that are sent must have a place, here beside an array of nothing.
                let null = cast(Expr::value(Value::Null), array_of(DataType::Text));
                return self.put(expr, call("pg_array_or_empty", vec![null, nothing(query)]));
            }
            if let Some(array) = gathered(query) {
                return self.put(expr, array);
            }
        }
        let Expr::Subquery(query) = expr else { return };
        if !self.over_catalog(query) || query.with.is_some() {
            return;
        }
        let plain = query.limit_clause.is_none() && query.fetch.is_none() && query.order_by.is_none();
        let SetExpr::Select(select) = query.body.as_mut() else { return };
        if self.is_empty(select) {
            let null = nothing(&**query);
            return self.put(expr, null);
        }
        let [SelectItem::UnnamedExpr(value) | SelectItem::ExprWithAlias { expr: value, .. }] =
            select.projection.as_mut_slice()
        else {
            return;
        };
        let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(by, _) if by.is_empty());
        // The engine wants to see that there is one row at most; PostgreSQL fails if there are more.
        if plain && !grouped && select.distinct.is_none() && !is_aggregate(value) && select.selection.is_some() {
            let inner = take(value);
            *value = call("min", vec![inner]);
            self.changed = true;
        }
    }

    /// Whether a query reads nothing but the catalog.
    fn over_catalog(&self, query: &Query) -> bool {
        let tables = self.tables(query);
        !tables.is_empty() && tables.iter().all(|own| *own)
    }

    /// Whether anything reads the catalog.
    pub(super) fn reads_catalog(&self, statement: &Statement) -> bool {
        self.tables(statement).contains(&true)
    }

    /// Of each table that is read by its name, whether it is of the catalog, or of what `WITH` makes of it.
    pub(super) fn tables(&self, tree: &impl Visit) -> Vec<bool> {
        struct Tables<'a>(&'a Rules, Vec<bool>);
        impl Visitor for Tables<'_> {
            type Break = ();
            fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
                if let TableFactor::Table { name, args, .. } = factor {
                    let name = parts(name);
                    if args.is_some() {
                        // Ours read corpora, others nothing.
                        self.1.extend(documented::all().any(|own| name == [own.name]).then_some(false));
                        return ControlFlow::Continue(());
                    }
                    self.1.push(match name.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
                        [PG_CATALOG | INFORMATION_SCHEMA, _] => true,
                        [name] if self.0.ctes.contains(*name) => self.0.ctes_of_catalog,
                        [name] => is_catalog_table(name),
                        _ => false,
                    });
                }
                ControlFlow::Continue(())
            }
        }
        let mut tables = Tables(self, Vec::new());
        let _ = tree.visit(&mut tables);
        tables.1
    }

    fn table(&mut self, factor: &mut TableFactor) {
        match factor {
            TableFactor::Table { name, args: None, .. } => {
                if let [only] = parts(name).as_slice()
                    && !self.ctes.contains(only)
                    && is_catalog_table(only)
                {
                    name.0.insert(0, ObjectNamePart::Identifier(Ident::new(PG_CATALOG)));
                    self.changed = true;
                }
            }
            TableFactor::Table { name, args: Some(arguments), alias, with_ordinality: false, .. } => {
                if self.bare(name) {
                    self.changed = true;
                }
                let [function_name] = parts(name).try_into().unwrap_or_else(|_| [String::new()]);
                if matches!(function_name.as_str(), "generate_series" | "range" | "unnest") {
                    self.name_of_series(alias);
                    return;
                }
                // What `pg_settings` is made of in PostgreSQL.
                if function_name == "pg_show_all_settings" {
                    let settings = "pg_settings";
                    alias.get_or_insert_with(|| TableAlias {
                        explicit: true,
                        name: Ident::new(function_name),
                        columns: Vec::new(),
                        at: None,
                    });
                    *name = ObjectName(
                        [PG_CATALOG, settings].map(|part| ObjectNamePart::Identifier(Ident::new(part))).into(),
                    );
                    if let TableFactor::Table { args, .. } = factor {
                        *args = None;
                    }
                    self.changed = true;
                    return;
                }
                let scalar = (is_known(&function_name) && function_name != "pg_get_keywords")
                    || function_name == "string_to_array";
                if scalar {
                    // A table of one row and one column, both called as the function or its alias.
                    let mut alias = alias.take();
                    let column = match &mut alias {
                        Some(alias) => match alias.columns.pop() {
                            Some(column) => column.name,
                            None => alias.name.clone(),
                        },
                        None => Ident::new(&function_name),
                    };
                    let table = alias.map_or_else(|| Ident::new(&function_name), |alias| alias.name);
                    let arguments = std::mem::take(&mut arguments.args);
                    let list = FunctionArgumentList { duplicate_treatment: None, args: arguments, clauses: Vec::new() };
                    let value = function(&function_name, FunctionArguments::List(list));
                    let sql = format!("SELECT * FROM (SELECT {value} AS {column}) AS {table}");
                    if let Some(derived) = first_table(&sql) {
                        *factor = derived;
                        self.changed = true;
                    }
                }
            }
            TableFactor::Function { name, .. } => {
                if self.bare(name) {
                    self.changed = true;
                }
            }
            TableFactor::UNNEST { alias, with_ordinality: false, with_offset: false, .. } => self.name_of_series(alias),
            _ => {}
        }
    }

    /// `generate_series(1, 3) AS i`: its column is called `i`, too.
    fn name_of_series(&mut self, alias: &mut Option<TableAlias>) {
        if let Some(alias) = alias
            && alias.columns.is_empty()
            && !self.value
        {
            alias.columns.push(TableAliasColumnDef { name: alias.name.clone(), data_type: None });
            self.changed = true;
        }
    }

    /// `x IN (SELECT y)` as part of a column, which the engine plans in conditions alone, where no corpus is read.
    fn memberships(&mut self, select: &mut Select) {
        struct Memberships<'a>(&'a mut Rules);
        impl VisitorMut for Memberships<'_> {
            type Break = ();
            fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
                if let Expr::InSubquery { expr: one, subquery, negated } = expr
                    && self.0.tables(subquery.as_ref()).iter().all(|own| *own)
                    && gives_all(subquery)
                    && let SetExpr::Select(select) = subquery.body.as_mut()
                    && let [SelectItem::UnnamedExpr(value) | SelectItem::ExprWithAlias { expr: value, .. }] =
                        select.projection.as_mut_slice()
                {
                    let item = take(value);
                    *value = call("array_agg", vec![item]);
                    let all = Expr::Subquery(subquery.clone());
                    let has = call("array_has", vec![all, take(one)]);
                    let no = Expr::value(Value::Boolean(false));
                    let mut new = call("coalesce", vec![has, no]);
                    if *negated {
                        new = Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(new) };
                    }
                    self.0.put(expr, new);
                }
                ControlFlow::Continue(())
            }
        }
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
                let _ = VisitMut::visit(expr, &mut Memberships(self));
            }
        }
    }
}

fn is_power(expr: &Expr) -> bool {
    matches!(expr, Expr::BinaryOp { op: BinaryOperator::PGExp, .. })
}

/// `a` of `a ^ b ^ c`.
fn base_of(power: &mut Expr) -> &mut Expr {
    if !is_power(power) {
        return power;
    }
    match power {
        Expr::BinaryOp { left, .. } => base_of(left),
        other => other,
    }
}

/// Whether a query gives a value for each row that it reads: none is left out, put together or counted.
fn gives_all(query: &Query) -> bool {
    let SetExpr::Select(select) = query.body.as_ref() else { return false };
    let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(by, _) if by.is_empty());
    let aggregated = select.projection.iter().any(|item| match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => is_aggregate(expr),
        _ => false,
    });
    let cut = query.limit_clause.is_some() || query.fetch.is_some() || query.with.is_some();
    !(grouped || aggregated || cut || query.order_by.is_some() || select.having.is_some() || select.distinct.is_some())
}

/// Whether a table of `pg_catalog` never has a row.
fn is_in_empty(name: &str) -> bool {
    EMPTY.iter().any(|(empty, _)| *empty == name)
}

/// The first table of a query that is known to parse.
fn first_table(sql: &str) -> Option<TableFactor> {
    let mut statements = Parser::parse_sql(&GenericDialect {}, sql).ok()?;
    let Statement::Query(query) = statements.pop()? else { return None };
    let SetExpr::Select(mut select) = *query.body else { return None };
    select.from.pop().map(|from| from.relation)
}

fn item(item: Option<String>) -> Expr {
    item.map_or_else(|| Expr::value(Value::Null), string)
}

fn array(items: Vec<Option<String>>) -> Expr {
    Expr::Array(Array { elem: items.into_iter().map(item).collect(), named: true })
}
