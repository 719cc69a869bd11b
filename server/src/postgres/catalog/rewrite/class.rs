//! `tableoid`: the number of the table that a row is of, which no table of the engine has as a column.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Select, TableFactor, VisitMut, VisitorMut};

use super::super::relations::{PG_CATALOG, own_oid};
use super::expressions::{folded, number, parts};

/// Puts the numbers of tables of `pg_catalog` where a select asks for them; whether it does.
pub(super) fn numbered(select: &mut Select) -> bool {
    let factors = select
        .from
        .iter()
        .flat_map(|from| std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation)));
    let tables: HashMap<String, i32> = factors
        .filter_map(|factor| {
            let TableFactor::Table { name, alias, args: None, .. } = factor else { return None };
            let name = parts(name);
            let table = match name.as_slice() {
                [schema, table] if schema == PG_CATALOG => table,
                [table] if table.starts_with("pg_") => table,
                _ => return None,
            };
            Some((alias.as_ref().map_or_else(|| table.clone(), |alias| folded(&alias.name)), own_oid(table)))
        })
        .collect();
    if tables.is_empty() {
        return false;
    }
    let mut numbers = Numbers { tables, changed: false };
    let _ = VisitMut::visit(select, &mut numbers);
    numbers.changed
}

struct Numbers {
    tables: HashMap<String, i32>,
    changed: bool,
}

impl VisitorMut for Numbers {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::CompoundIdentifier(idents) = &*expr
            && let [table, column] = idents.as_slice()
            && folded(column) == "tableoid"
            && let Some(oid) = self.tables.get(&folded(table))
        {
            *expr = number(&oid.to_string());
            self.changed = true;
        }
        ControlFlow::Continue(())
    }
}
