//! `ARRAY(SELECT ...)`: the engine gathers with `array_agg` alone, which gives a null for no rows.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArgumentClause, FunctionArguments, GroupByExpr, Ident, OrderBy, OrderByExpr, OrderByKind, Query,
    SelectItem, SetExpr, Statement, Value, ValueWithSpan, Visit, Visitor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::expressions::{call, folded, is_aggregate, parts};

/// The array of the values that `query` gives, in its order; `None` if it has not one column.
pub(super) fn gathered(query: &Query) -> Option<Expr> {
    let mut query = query.clone();
    let gathered = match in_place(&mut query) {
        Some(()) => query,
        None => around(&query)?,
    };
    Some(call("pg_array_or_empty", vec![Expr::Subquery(Box::new(gathered))]))
}

/// Gathers in the query itself, which may then look at what is around it.
fn in_place(query: &mut Query) -> Option<()> {
    if query.with.is_some() || query.limit_clause.is_some() || query.fetch.is_some() {
        return None;
    }
    let SetExpr::Select(select) = query.body.as_mut() else { return None };
    let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(by, _) if by.is_empty());
    if grouped || select.distinct.is_some() || select.having.is_some() {
        return None;
    }
    let [SelectItem::UnnamedExpr(value) | SelectItem::ExprWithAlias { expr: value, .. }] = select.projection.as_slice()
    else {
        return None;
    };
    let alias = match &select.projection[0] {
        SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
        _ => None,
    };
    if is_no_plain_value(value) {
        return None;
    }
    let value = value.clone();
    let order = match query.order_by.take() {
        None => Vec::new(),
        Some(OrderBy { kind: OrderByKind::Expressions(order), .. }) => order,
        Some(other) => {
            query.order_by = Some(other);
            return None;
        }
    };
    // By the number or the name of the only column: by its value.
    let by_value = |by: OrderByExpr| {
        let is_value = match &by.expr {
            Expr::Value(ValueWithSpan { value: Value::Number(number, _), .. }) => number == "1",
            Expr::Identifier(ident) => alias.as_ref() == Some(&folded(ident)),
            _ => false,
        };
        if is_value { OrderByExpr { expr: value.clone(), ..by } } else { by }
    };
    let order: Vec<OrderByExpr> = order.into_iter().map(by_value).collect();
    let mut all = call("array_agg", vec![value.clone()]);
    if let Expr::Function(function) = &mut all
        && let FunctionArguments::List(list) = &mut function.args
        && !order.is_empty()
    {
        list.clauses.push(FunctionArgumentClause::OrderBy(order));
    }
    select.projection = vec![SelectItem::UnnamedExpr(all)];
    Some(())
}

/// Gathers what the query gives; `None` if it is sorted by something else than its value, which is lost then.
fn around(query: &Query) -> Option<Query> {
    let name = Ident::with_quote('"', "array");
    let order = match &query.order_by {
        None => String::new(),
        // The first few in their order are no set.
        Some(_) if query.limit_clause.is_some() || query.fetch.is_some() => by_value(query).unwrap_or_default(),
        Some(_) => by_value(query)?,
    };
    let sql = format!("SELECT array_agg({name}{order}) FROM ({query}) AS {name} ({name})");
    let mut statements = Parser::parse_sql(&GenericDialect {}, &sql).ok()?;
    let Statement::Query(query) = statements.pop()? else { return None };
    Some(*query)
}

/// ` ORDER BY ...` of a query that is sorted by its only column.
fn by_value(query: &Query) -> Option<String> {
    let Some(OrderBy { kind: OrderByKind::Expressions(order), .. }) = &query.order_by else { return None };
    let [by] = order.as_slice() else { return None };
    let value = match query.body.as_ref() {
        SetExpr::Select(select) => match select.projection.as_slice() {
            [SelectItem::UnnamedExpr(value)] => Some((value, None)),
            [SelectItem::ExprWithAlias { expr, alias }] => Some((expr, Some(folded(alias)))),
            // `SELECT * FROM (VALUES (1)) v(a) ORDER BY a`
            _ => None,
        },
        _ => None,
    };
    let is_value = match (&by.expr, value) {
        (Expr::Value(ValueWithSpan { value: Value::Number(number, _), .. }), _) => number == "1",
        // Of all columns there is one, or the array could not be made.
        (Expr::Identifier(_), None) => true,
        (Expr::Identifier(ident), Some((_, Some(alias)))) if folded(ident) == alias => true,
        (expr, Some((value, _))) => expr == value,
        _ => false,
    };
    let by = OrderByExpr { expr: Expr::Identifier(Ident::with_quote('"', "array")), ..by.clone() };
    is_value.then(|| format!(" ORDER BY {by}"))
}

/// Whether an expression gives anything but one value for each row that is read.
fn is_no_plain_value(expr: &Expr) -> bool {
    struct Finds(bool);
    impl Visitor for Finds {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            if let Expr::Function(function) = expr {
                let name = parts(&function.name).pop().unwrap_or_default();
                self.0 |= function.over.is_some() || matches!(name.as_str(), "unnest" | "generate_series");
            }
            ControlFlow::Continue(())
        }
    }
    let mut finds = Finds(is_aggregate(expr));
    let _ = expr.visit(&mut finds);
    finds.0
}

/// Takes the expression of `ARRAY(SELECT ...)` apart.
pub(super) fn query_of(expr: &Expr) -> Option<&Query> {
    let Expr::Function(function) = expr else { return None };
    let FunctionArguments::Subquery(query) = &function.args else { return None };
    (parts(&function.name) == ["array"]).then_some(query)
}
