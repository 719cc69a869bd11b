//! Patterns of `LIKE` with an escaping letter of their own: the engine knows the backslash.

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Value, ValueWithSpan};

use super::expressions::{call, string};

/// Replaces the escaping letter of a `LIKE` pattern made of literals by the backslash; whether it could.
pub(super) fn with_backslash(pattern: &mut Expr, escape: char) -> bool {
    match pattern {
        Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(text), .. }) => {
            let mut new = String::with_capacity(text.len());
            let mut letters = text.chars();
            while let Some(letter) = letters.next() {
                match letter {
                    letter if letter == escape => match letters.next() {
                        Some(next @ ('%' | '_' | '\\')) => new.extend(['\\', next]),
                        Some(next) => new.push(next),
                        None => return false,
                    },
                    '\\' => new.push_str("\\\\"),
                    other => new.push(other),
                }
            }
            *text = new;
            true
        }
        Expr::BinaryOp { left, op: BinaryOperator::StringConcat, right } => {
            with_backslash(left, escape) && with_backslash(right, escape)
        }
        Expr::Nested(inner) => with_backslash(inner, escape),
        // What is known only when the statement runs, such as a parameter: a doubled letter stands for itself.
        other => {
            let replace = |of: Expr, old: Expr, new: Expr| call("replace", vec![of, old, new]);
            let mark = || string("\u{1}");
            let text = std::mem::replace(other, Expr::value(Value::Null));
            let text = replace(text, string("\\"), string("\\\\"));
            let text = replace(text, string(format!("{escape}{escape}")), mark());
            let text = replace(text, string(escape.to_string()), string("\\"));
            *other = replace(text, mark(), string(escape.to_string()));
            true
        }
    }
}
