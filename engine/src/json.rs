//! Whole numbers of JSON that no 64-bit number holds: serde_json rounds them to the nearest float, and digits are lost.

use std::borrow::Cow;
use std::ops::Range;

/// Where whole numbers stand that are neither an `i64` nor a `u64`, ascending; `json` may be broken.
pub fn long_numbers(json: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < json.len() {
        let rest = &json[at..];
        at += match rest[0] {
            b'"' => string(rest),
            byte if in_number(byte) => {
                let n = rest.iter().take_while(|byte| in_number(**byte)).count();
                if is_long(&rest[..n]) {
                    found.push(at..at + n);
                }
                n
            }
            _ => 1,
        };
    }
    found
}

/// `json` with such numbers in quotes, so that they are read as text with all digits.
pub(crate) fn with_long_numbers_quoted(json: &[u8]) -> Cow<'_, [u8]> {
    let found = long_numbers(json);
    if found.is_empty() {
        return json.into();
    }
    let mut quoted = Vec::with_capacity(json.len() + 2 * found.len());
    let mut given = 0;
    for number in found {
        quoted.extend_from_slice(&json[given..number.start]);
        quoted.push(b'"');
        quoted.extend_from_slice(&json[number.clone()]);
        quoted.push(b'"');
        given = number.end;
    }
    quoted.extend_from_slice(&json[given..]);
    quoted.into()
}

fn in_number(byte: u8) -> bool {
    byte.is_ascii_digit() || b"+-.eE".contains(&byte)
}

/// Length of the string that `json` begins with, quotes included.
fn string(json: &[u8]) -> usize {
    let mut at = 1;
    while let Some(byte) = json.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    json.len()
}

fn is_long(number: &[u8]) -> bool {
    let digits = number.strip_prefix(b"-").unwrap_or(number);
    if digits.len() < 19 || digits[0] == b'0' || !digits.iter().all(u8::is_ascii_digit) {
        return false;
    }
    std::str::from_utf8(number).is_ok_and(|text| text.parse::<i64>().is_err() && text.parse::<u64>().is_err())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_beyond_64_bits_are_quoted_and_nothing_else_is() {
        let quoted = |json: &str| String::from_utf8(with_long_numbers_quoted(json.as_bytes()).into_owned()).unwrap();
        for same in [
            r#"{"a": 18446744073709551615, "b": -9223372036854775808}"#,
            r#"{"a": "100000000000000000000 \" 100000000000000000000"}"#,
            r#"[1e20, 100000000000000000000.5, 100000000000000000000e1]"#,
            "00100000000000000000000",
            r#""open 100000000000000000000 \"#,
        ] {
            assert_eq!(quoted(same), same);
        }
        assert_eq!(
            quoted(r#"{"a":18446744073709551616,"b":[-9223372036854775809, 1]}"#),
            r#"{"a":"18446744073709551616","b":["-9223372036854775809", 1]}"#
        );
    }
}
