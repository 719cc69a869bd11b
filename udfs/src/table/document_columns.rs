//! Columns of a stream of documents, read by row; and sets of a few documents.

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, Float16Array, StringArray};
use arrow::datatypes::{DataType, Float16Type};
use datafusion::common::exec_err;
use datafusion::error::{DataFusionError, Result};
use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, SetExpr, Statement};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use half::f16;

use crate::table::exec::quoted_list;

/// Whether [`crate::FeatureSource::documents`] failed because the set lacks a column, or otherwise cannot be planned: the
/// planner says so, or the source by an error of its own that nothing else caused.
pub(crate) fn lacks_column(error: &DataFusionError) -> bool {
    match error.find_root() {
        DataFusionError::Plan(_) | DataFusionError::SchemaError(..) => true,
        DataFusionError::External(error) => error.source().is_none(),
        _ => false,
    }
}

/// A column of texts, whatever kind of string it is.
pub(crate) fn texts(function: &str, name: &str, array: &ArrayRef) -> Result<StringArray> {
    match arrow::compute::cast(array, &DataType::Utf8) {
        Ok(texts) => Ok(texts.as_string::<i32>().clone()),
        Err(_) => exec_err!("{function}: expected text in column '{name}', got {}", array.data_type()),
    }
}

/// A column of embeddings.
#[derive(Debug, Clone)]
pub(crate) struct Embeddings {
    lists: FixedSizeListArray,
    values: Float16Array,
}

impl Embeddings {
    /// Wraps a `FixedSizeList<Float16>`.
    pub(crate) fn try_new(function: &str, array: &ArrayRef) -> Result<Self> {
        let lists = array.as_fixed_size_list_opt().cloned();
        let values = lists.as_ref().and_then(|lists| lists.values().as_primitive_opt::<Float16Type>().cloned());
        match (lists, values) {
            (Some(lists), Some(values)) => Ok(Self { lists, values }),
            _ => exec_err!("{function}: expected embeddings (FixedSizeList of Float16), got {}", array.data_type()),
        }
    }

    /// Length of an embedding.
    pub(crate) fn width(&self) -> usize {
        self.lists.value_length().max(0) as usize
    }

    /// Embedding of a row; empty where there is none.
    pub(crate) fn row(&self, row: usize) -> &[f16] {
        if self.lists.is_null(row) {
            return &[];
        }
        let start = self.lists.value_offset(row) as usize;
        &self.values.values()[start..start + self.width()]
    }
}

/// The documents of `set` with these ids, as a set; none if `set` is of a form to which a condition cannot be added
/// without changing its meaning.
pub(crate) fn with_ids(set: &str, doc_ids: &[String]) -> Option<String> {
    let condition = format!("doc_id IN ({})", quoted_list(doc_ids));
    let first = set.trim_start().split(|c: char| c.is_whitespace() || c == '(').next()?.to_lowercase();
    if matches!(first.as_str(), "" | "select" | "with" | "values" | "from") {
        return Some(format!("SELECT * FROM ({set}) AS documents WHERE {condition}"));
    }
    let select = "SELECT * FROM ";
    let dialect = GenericDialect {};
    let mut statements = Parser::parse_sql(&dialect, &format!("{select}{set}")).ok()?;
    let (Some(Statement::Query(mut query)), true) = (statements.pop(), statements.is_empty()) else { return None };
    let plain = query.order_by.is_none() && query.limit_clause.is_none() && query.fetch.is_none();
    let SetExpr::Select(body) = query.body.as_mut() else { return None };
    if !plain || body.having.is_some() || body.from.len() != 1 {
        return None;
    }
    let condition = Parser::new(&dialect).try_with_sql(&condition).ok()?.parse_expr().ok()?;
    body.selection = Some(match body.selection.take() {
        None => condition,
        Some(own) => Expr::BinaryOp {
            left: Box::new(Expr::Nested(Box::new(own))),
            op: BinaryOperator::And,
            right: Box::new(condition),
        },
    });
    query.to_string().strip_prefix(select).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_column_is_told_from_other_failures() {
        use crate::{DocumentColumn, FeatureSource};
        let set = "SELECT features FROM answers";
        let error = crate::test_support::answers().documents(set, &[DocumentColumn::Text]).await.err().unwrap();
        assert!(lacks_column(&error), "{error}");
        assert!(lacks_column(&DataFusionError::External("no column 'text'".into()).context("set")));
        assert!(!lacks_column(&DataFusionError::ResourcesExhausted("no memory".into()).context("set")));
        let caused = DataFusionError::ResourcesExhausted("no memory".into());
        assert!(!lacks_column(&DataFusionError::External(Box::new(caused))));
    }

    #[test]
    fn a_condition_is_added_where_it_can_be() {
        let ids = ["a".to_string(), "it's".to_string()];
        assert_eq!(with_ids("answers", &ids).as_deref(), Some("answers WHERE doc_id IN ('a', 'it''s')"));
        assert_eq!(
            with_ids("answers WHERE side = 'a' OR side = 'b'", &ids[..1]).as_deref(),
            Some("answers WHERE (side = 'a' OR side = 'b') AND doc_id IN ('a')")
        );
        assert_eq!(
            with_ids("\"My Answers\" where x", &ids[..1]).as_deref(),
            Some("\"My Answers\" WHERE (x) AND doc_id IN ('a')")
        );
        assert_eq!(
            with_ids("SELECT * FROM answers LIMIT 5", &ids[..1]).as_deref(),
            Some("SELECT * FROM (SELECT * FROM answers LIMIT 5) AS documents WHERE doc_id IN ('a')")
        );
        assert_eq!(with_ids("answers ORDER BY doc_id LIMIT 5", &ids), None);
        assert_eq!(with_ids("answers WHERE", &ids), None);
    }
}
