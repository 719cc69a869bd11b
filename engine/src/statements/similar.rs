//! `SIMILAR TO`, whose patterns are of SQL: turned into regular expressions, which is what the engine knows.

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Value, ValueWithSpan};

use super::rewrite::string;
use crate::error::{Error, ErrorKind, Result};

/// Turns `text SIMILAR TO 'pattern'` into `text ~ 'regular expression'`; leaves other expressions alone.
///
/// # Errors
/// [`ErrorKind::Query`] for a pattern that is no literal, or that cannot be read.
pub(super) fn rewrite(expr: &mut Expr) -> Result<()> {
    let Expr::SimilarTo { negated, expr: text, pattern, escape_char } = expr else { return Ok(()) };
    let refuse = |message: String| Err(Error::new(ErrorKind::Query, format!("SIMILAR TO: {message}")));
    let Some(pattern) = literal(pattern) else {
        return refuse(format!(
            "expected a pattern in quotes, got {pattern}; ~ takes a regular expression of any kind"
        ));
    };
    let escape = match escape_char.as_ref().map(|escape| &escape.value) {
        None => Some('\\'),
        Some(Value::SingleQuotedString(escape) | Value::EscapedStringLiteral(escape)) => {
            let mut letters = escape.chars();
            match (letters.next(), letters.next()) {
                (first, None) => first,
                _ => return refuse(format!("expected one letter after ESCAPE, got '{escape}'")),
            }
        }
        Some(other) => return refuse(format!("expected one letter in quotes after ESCAPE, got {other}")),
    };
    let Some(regex) = regex(pattern, escape) else {
        return refuse(format!("pattern '{pattern}' ends within [...] or after its escaping letter"));
    };
    let op = if *negated { BinaryOperator::PGRegexNotMatch } else { BinaryOperator::PGRegexMatch };
    let text = std::mem::replace(text.as_mut(), Expr::value(Value::Null));
    let text = Box::new(Expr::Nested(Box::new(text)));
    *expr = Expr::Nested(Box::new(Expr::BinaryOp { left: text, op, right: Box::new(string(regex)) }));
    Ok(())
}

fn literal(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Value(ValueWithSpan {
            value: Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text),
            ..
        }) => Some(text),
        Expr::Nested(inner) => literal(inner),
        _ => None,
    }
}

/// The whole text must match: `%` is any text, `_` any letter, `|*+?{}()[]` are what they are in regular expressions, and
/// all else stands for itself. `None` for a pattern that ends too early.
fn regex(pattern: &str, escape: Option<char>) -> Option<String> {
    let mut regex = String::from("(?s)^(?:");
    let itself = |regex: &mut String, letter: char| {
        if letter.is_ascii_punctuation() {
            regex.push('\\');
        }
        regex.push(letter);
    };
    let mut letters = pattern.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            letter if Some(letter) == escape => itself(&mut regex, letters.next()?),
            '%' => regex.push_str(".*"),
            '_' => regex.push('.'),
            '(' => regex.push_str("(?:"),
            '|' | '*' | '+' | '?' | '{' | '}' | ')' => regex.push(letter),
            '[' => {
                regex.push('[');
                if letters.next_if_eq(&'^').is_some() {
                    regex.push('^');
                }
                if letters.next_if_eq(&']').is_some() {
                    regex.push_str("\\]");
                }
                loop {
                    match letters.next()? {
                        ']' => break,
                        letter if Some(letter) == escape => itself(&mut regex, letters.next()?),
                        // `[:alpha:]`
                        '[' if letters.next_if_eq(&':').is_some() => {
                            regex.push_str("[:");
                            while let Some(letter) = letters.next_if(char::is_ascii_alphabetic) {
                                regex.push(letter);
                            }
                            letters.next_if_eq(&':')?;
                            letters.next_if_eq(&']')?;
                            regex.push_str(":]");
                        }
                        '-' => regex.push('-'),
                        letter => itself(&mut regex, letter),
                    }
                }
                regex.push(']');
            }
            letter => itself(&mut regex, letter),
        }
    }
    regex.push_str(")$");
    Some(regex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_become_regular_expressions() {
        let of = |pattern| regex(pattern, Some('\\'));
        assert_eq!(of("a%_.b").as_deref(), Some(r"(?s)^(?:a.*.\.b)$"));
        assert_eq!(of("(x|y)+^$").as_deref(), Some(r"(?s)^(?:(?:x|y)+\^\$)$"));
        assert_eq!(of(r"\%[^a-z&[:digit:]\]]").as_deref(), Some(r"(?s)^(?:\%[^a-z\&[:digit:]\]])$"));
        assert_eq!(regex("#%\\", Some('#')).as_deref(), Some(r"(?s)^(?:\%\\)$"));
        assert_eq!(regex("a\\", None).as_deref(), Some(r"(?s)^(?:a\\)$"));
        assert_eq!((of("a\\"), of("[a"), of("[[:a")), (None, None, None));
    }
}
