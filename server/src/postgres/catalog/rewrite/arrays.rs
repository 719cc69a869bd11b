//! `ARRAY(SELECT ...)`: the engine gathers with `array_agg` alone, which gives a null for no rows.

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArgumentClause, FunctionArguments, GroupByExpr, Ident, OrderBy, OrderByExpr, OrderByKind, Query,
    SelectItem, SetExpr, Statement, Value, ValueWithSpan,
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
    if is_aggregate(value) {
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

/// Gathers what the query gives.
fn around(query: &Query) -> Option<Query> {
    let name = Ident::with_quote('"', "array");
    let sql = format!("SELECT array_agg({name}) FROM ({query}) AS {name} ({name})");
    let mut statements = Parser::parse_sql(&GenericDialect {}, &sql).ok()?;
    let Statement::Query(query) = statements.pop()? else { return None };
    Some(*query)
}

/// Takes the expression of `ARRAY(SELECT ...)` apart.
pub(super) fn query_of(expr: &Expr) -> Option<&Query> {
    let Expr::Function(function) = expr else { return None };
    let FunctionArguments::Subquery(query) = &function.args else { return None };
    (parts(&function.name) == ["array"]).then_some(query)
}
