//! Literals whose type the engine would read otherwise: bytes, and decimals of any length.

use datafusion::sql::sqlparser::ast::{DataType, ExactNumberInfo, Expr, UnaryOperator, Value, ValueWithSpan};

use super::expressions::{call, literal, string};
use crate::postgres::parameter::bytea;

/// Digits of the longest decimal.
const MAX_DIGITS: usize = 76;

/// `'\x00ff'::bytea`: bytes that are written as text.
pub(super) fn bytes(text: &str) -> Expr {
    match bytea(text) {
        Some(bytes) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            Expr::value(Value::HexStringLiteral(digits))
        }
        // Fails, and says why.
        None => call("decode", vec![string(text.strip_prefix("\\x").unwrap_or(text)), string("hex")]),
    }
}

/// `1.50::numeric`: the text, and how many digits are before and behind the point.
pub(super) fn decimal(expr: &Expr, data_type: &DataType) -> Option<(Expr, u64, i64)> {
    let plain = ExactNumberInfo::None;
    if !matches!(data_type, DataType::Numeric(of) | DataType::Decimal(of) | DataType::Dec(of) if *of == plain) {
        return None;
    }
    let text = written(expr)?;
    let digits = text.trim_start_matches(['+', '-']);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !all(whole) || !all(fraction) {
        return None;
    }
    let whole = whole.trim_start_matches('0').len().max(1);
    if whole + fraction.len() > MAX_DIGITS {
        return None;
    }
    let behind = fraction.len() as i64;
    Some((string(text), whole as u64, behind))
}

/// A number as it is written, in quotes or not.
fn written(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(ValueWithSpan { value: Value::Number(number, _), .. }) => Some(number.clone()),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => written(expr).map(|number| format!("-{number}")),
        Expr::Nested(inner) => written(inner),
        other => literal(other).map(|text| text.trim().to_owned()),
    }
}
