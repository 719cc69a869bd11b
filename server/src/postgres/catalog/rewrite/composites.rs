//! Lookups for types that are not there.

use datafusion::sql::sqlparser::ast::{BinaryOperator, CaseWhen, DataType, Expr, Value, ValueWithSpan};

use super::expressions::{array_of, cast, folded, holds_subquery, literal, take};

/// `CASE WHEN t.typtype = 'c' THEN (...) END`: no type here is composite (`c`) or a domain (`d`), and what would be looked
/// up for them cannot be planned.
pub(super) fn without_composites(conditions: &mut Vec<CaseWhen>, otherwise: Option<&mut Expr>) -> Option<Expr> {
    let never = |case: &CaseWhen| {
        matches!(&case.condition, Expr::BinaryOp { left, op: BinaryOperator::Eq, right }
        if matches!(literal(right), Some("c" | "d"))
            && match left.as_ref() {
                Expr::CompoundIdentifier(idents) => idents.last().is_some_and(|last| folded(last) == "typtype"),
                Expr::Identifier(ident) => folded(ident) == "typtype",
                _ => false,
            })
    };
    if !conditions.iter().all(never) {
        return None;
    }
    let result = &conditions.first()?.result;
    if !holds_subquery(result) {
        return None;
    }
    // Arrays of texts: of arrays of numbers clients would have to ask what type that is, by this very query.
    let is_list = result.to_string().to_ascii_lowercase().contains("array_agg");
    let of = if is_list { array_of(DataType::Text) } else { DataType::Integer(None) };
    Some(match otherwise {
        Some(other) if !matches!(other, Expr::Value(ValueWithSpan { value: Value::Null, .. })) => take(other),
        _ => cast(Expr::value(Value::Null), of),
    })
}

#[cfg(test)]
mod tests {
    use crate::postgres::catalog::rewrite::tests::becomes;

    #[test]
    fn nothing_is_looked_up_for_composite_types() {
        becomes(
            "SELECT CASE WHEN typtype = 'c' THEN (SELECT array_agg(attname) FROM pg_attribute) END AS c FROM pg_type t",
            "SELECT CAST(NULL AS TEXT[]) AS c FROM pg_catalog.pg_type t",
        );
        becomes(
            "SELECT CASE WHEN t.typtype = 'd' THEN (SELECT 1 FROM pg_class c) ELSE t.oid END AS c FROM pg_type t",
            "SELECT t.oid AS c FROM pg_catalog.pg_type t",
        );
        becomes(
            "SELECT CASE WHEN t.typtype = 'b' THEN 1 END AS c FROM pg_type t",
            "SELECT CASE WHEN t.typtype = 'b' THEN 1 END AS c FROM pg_catalog.pg_type t",
        );
    }
}
