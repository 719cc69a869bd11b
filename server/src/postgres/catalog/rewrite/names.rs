//! Names of columns: all differ, and a function's is its own.

use std::collections::HashMap;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, TableFactor, TableWithJoins,
};

use super::super::functions::is_known;
use super::super::relations::{INFORMATION_SCHEMA, PG_CATALOG};
use super::expressions::{REG, folded, parts, take};
use super::rules::Rules;

impl Rules {
    /// Columns without a name: the engine wants all names to differ.
    pub(super) fn name_columns(&mut self, select: &mut Select) {
        let wildcards: Vec<Option<Vec<String>>> = select
            .projection
            .iter()
            .filter_map(|item| match item {
                SelectItem::Wildcard(_) => Some(None),
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                    Some(Some(parts(name)))
                }
                _ => None,
            })
            .collect();
        let from_catalog = !select.from.is_empty() && select.from.iter().all(|from| self.is_from_catalog(from));
        let mut seen: HashMap<String, usize> = HashMap::new();
        for item in &mut select.projection {
            let SelectItem::UnnamedExpr(expr) = item else { continue };
            // `SELECT n.oid, n.*`
            let column = match &*expr {
                Expr::Identifier(ident) => Some((Vec::new(), ident.clone())),
                Expr::CompoundIdentifier(idents) => idents
                    .split_last()
                    .map(|(last, qualifier)| (qualifier.iter().map(folded).collect::<Vec<_>>(), last.clone())),
                _ => None,
            };
            if let Some((qualifier, column)) = column
                && from_catalog
                && wildcards.iter().any(|wildcard| wildcard.as_ref().is_none_or(|of| *of == qualifier))
            {
                let alias = Ident::with_quote('"', format!("{} ", column.value));
                *item = SelectItem::ExprWithAlias { expr: take(expr), alias };
                self.changed = true;
                continue;
            }
            let count = seen.entry(expr.to_string()).or_default();
            *count += 1;
            if *count > 1 && !matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_)) {
                let alias = Ident::with_quote('"', format!("?column?{count}"));
                *item = SelectItem::ExprWithAlias { expr: take(expr), alias };
                self.changed = true;
            }
        }
    }

    fn is_from_catalog(&self, from: &TableWithJoins) -> bool {
        let own = |factor: &TableFactor| match factor {
            TableFactor::Table { name, .. } => {
                parts(name).first().is_some_and(|first| first == PG_CATALOG || first == INFORMATION_SCHEMA)
            }
            _ => false,
        };
        own(&from.relation) && from.joins.iter().all(|join| own(&join.relation))
    }

    /// A call without a name is called as the function, where that is one of PostgreSQL's.
    pub(super) fn output_names(&mut self, query: &mut Query) {
        let SetExpr::Select(select) = query.body.as_mut() else { return };
        let names: Vec<Option<String>> = select
            .projection
            .iter()
            .map(|item| match item {
                SelectItem::UnnamedExpr(Expr::Function(function)) => {
                    parts(&function.name).pop().filter(|name| is_known(name)).map(|name| {
                        // What `oid::regclass` was made of.
                        let reg = name.strip_prefix("pg_").and_then(|name| name.split_once('_'));
                        reg.map_or_else(
                            || name.clone(),
                            |(reg, rest)| {
                                if REG.contains(&reg) && matches!(rest, "in" | "out") {
                                    reg.to_owned()
                                } else {
                                    name.clone()
                                }
                            },
                        )
                    })
                }
                SelectItem::UnnamedExpr(Expr::CompoundIdentifier(idents)) => idents.last().map(folded),
                SelectItem::UnnamedExpr(Expr::Identifier(ident)) => Some(folded(ident)),
                SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
                _ => None,
            })
            .collect();
        for (index, item) in select.projection.iter_mut().enumerate() {
            let Some(name) = &names[index] else { continue };
            if names.iter().filter(|other| other.as_ref() == Some(name)).count() > 1 {
                continue;
            }
            if let SelectItem::UnnamedExpr(expr @ Expr::Function(_)) = item {
                *item = SelectItem::ExprWithAlias { expr: take(expr), alias: Ident::new(name.clone()) };
                self.changed = true;
            }
        }
    }
}
