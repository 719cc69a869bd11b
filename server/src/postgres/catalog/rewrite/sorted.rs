//! Sorting by a subquery.

use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, Ident, OrderByKind, Query, SelectItem, SetExpr, Statement, Value, ValueWithSpan,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::expressions::{folded, holds_subquery};

/// `SELECT a FROM t ORDER BY a IN (SELECT ...)`, which the engine does not plan, with what is sorted by as a column below.
pub(super) fn sorted_by_columns(query: &Query) -> Option<Query> {
    let OrderByKind::Expressions(by) = &query.order_by.as_ref()?.kind else { return None };
    if query.with.is_some() || !by.iter().any(|by| holds_subquery(&by.expr)) {
        return None;
    }
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    if select.distinct.is_some() || !matches!(&select.group_by, GroupByExpr::Expressions(by, _) if by.is_empty()) {
        return None;
    }
    let mut names = Vec::new();
    for item in &select.projection {
        names.push(match item {
            SelectItem::ExprWithAlias { alias, .. } => Ident::with_quote('"', folded(alias)),
            SelectItem::UnnamedExpr(Expr::Identifier(ident)) => Ident::with_quote('"', folded(ident)),
            SelectItem::UnnamedExpr(Expr::CompoundIdentifier(idents)) => Ident::with_quote('"', folded(idents.last()?)),
            _ => return None,
        });
    }
    let (mut inner, mut outer) = (query.clone(), query.clone());
    inner.order_by = None;
    inner.limit_clause = None;
    inner.fetch = None;
    let SetExpr::Select(below) = inner.body.as_mut() else { return None };
    let OrderByKind::Expressions(sorted) = &mut outer.order_by.as_mut()?.kind else { return None };
    for (number, by) in sorted.iter_mut().enumerate() {
        if holds_subquery(&by.expr) {
            let alias = Ident::new(format!("sorted_by_{number}"));
            let expr = std::mem::replace(&mut by.expr, Expr::Identifier(alias.clone()));
            below.projection.push(SelectItem::ExprWithAlias { expr, alias });
        } else if let Expr::Identifier(ident) = &by.expr {
            let name = folded(ident);
            names.iter().find(|known| known.value == name)?;
        } else if !matches!(&by.expr, Expr::Value(ValueWithSpan { value: Value::Number(..), .. })) {
            return None;
        }
    }
    let columns = names.iter().map(Ident::to_string).collect::<Vec<_>>().join(", ");
    let mut statements =
        Parser::parse_sql(&GenericDialect {}, &format!("SELECT {columns} FROM ({inner}) AS sorted")).ok()?;
    let Statement::Query(wrapped) = statements.pop()? else { return None };
    outer.body = wrapped.body;
    Some(outer)
}

#[cfg(test)]
mod tests {
    use crate::postgres::catalog::rewrite::tests::becomes;

    #[test]
    fn sorted_by_a_subquery() {
        becomes(
            "SELECT relname AS r FROM pg_class WHERE x ORDER BY relname IN (SELECT 'a' FROM pg_type), 1 LIMIT 3",
            "SELECT \"r\" FROM (SELECT relname AS r, \
             coalesce(array_has((SELECT array_agg('a') FROM pg_catalog.pg_type), relname), false) AS sorted_by_0 \
             FROM pg_catalog.pg_class WHERE x) AS sorted ORDER BY sorted_by_0, 1 LIMIT 3",
        );
    }
}
