//! One walk over a statement's tree, for all that look at it or change it.
//!
//! sqlparser's visitors are generic: each is compiled for every type of the tree. Five of them were half of this crate's
//! code; one that calls a function of whoever walks does for all.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Query, Select, Statement, TableFactor, VisitMut, VisitorMut};

use crate::error::{Error, Result};

/// A node that the walk comes to.
pub(crate) enum Node<'a> {
    Statement(&'a mut Statement),
    Query(&'a mut Query),
    Select(&'a mut Select),
    Table(&'a mut TableFactor),
    Expr(&'a mut Expr),
}

/// Calls `each` for every node of `tree`, a node before those below it, until it fails.
///
/// # Errors
/// Those of `each`.
pub(crate) fn walk(tree: &mut impl VisitMut, each: &mut dyn FnMut(Node<'_>) -> Result<()>) -> Result<()> {
    match tree.visit(&mut Walk(each)) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Walk<'a>(&'a mut dyn FnMut(Node<'_>) -> Result<()>);

impl Walk<'_> {
    fn at(&mut self, node: Node<'_>) -> ControlFlow<Error> {
        match (self.0)(node) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

impl VisitorMut for Walk<'_> {
    type Break = Error;

    fn pre_visit_statement(&mut self, statement: &mut Statement) -> ControlFlow<Error> {
        self.at(Node::Statement(statement))
    }

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        self.at(Node::Query(query))
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        self.at(Node::Select(select))
    }

    fn pre_visit_table_factor(&mut self, table: &mut TableFactor) -> ControlFlow<Error> {
        self.at(Node::Table(table))
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        self.at(Node::Expr(expr))
    }
}
