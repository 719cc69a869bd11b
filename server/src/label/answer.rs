//! Reading what a model wrote: labels and lists of numbers, out of whatever it put around them.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Words of a label, at most.
pub(crate) const LABEL_WORDS: usize = 8;
/// Characters of a label, at most.
const LABEL_CHARS: usize = 80;
/// Characters of a description, at most.
const DESCRIPTION_CHARS: usize = 300;
/// Places that are tried in search of JSON.
const PLACES: usize = 100;

/// A name for a feature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Label {
    /// One line, at most [`LABEL_WORDS`] words and 80 characters.
    pub(crate) label: String,
    /// One sentence, at most 300 characters.
    pub(crate) description: String,
}

/// Reads `{"label": ..., "description": ...}`.
///
/// # Errors
/// What is wrong with it, in words that the model can act on.
pub(crate) fn label(text: &str) -> Result<Label, String> {
    let object = json::<Map<String, Value>>(text, '{', |object| object.contains_key("label"))
        .ok_or("it holds no JSON object with the key \"label\"")?;
    let field = |name: &str| match object.get(name) {
        Some(Value::String(text)) => Ok(text.trim()),
        _ => Err(format!("\"{name}\" is not a text")),
    };
    let label = unquoted(field("label")?);
    let n_words = label.split_whitespace().count();
    if n_words == 0 {
        return Err("the label is empty".to_owned());
    }
    if n_words > LABEL_WORDS {
        return Err(format!("the label has {n_words} words; at most {LABEL_WORDS} are allowed"));
    }
    check_line("label", label, LABEL_CHARS)?;
    if label.parse::<f64>().is_ok() {
        return Err("the label is only a number".to_owned());
    }
    let description = field("description")?;
    if description.is_empty() {
        return Err("the description is empty".to_owned());
    }
    check_line("description", description, DESCRIPTION_CHARS)?;
    if has_second_sentence(description) {
        return Err("the description has more than one sentence".to_owned());
    }
    Ok(Label { label: label.to_owned(), description: description.to_owned() })
}

/// Without a full stop, and without the quotation marks around all of it. Those around a part of it belong to it.
fn unquoted(label: &str) -> &str {
    let label = label.trim().trim_end_matches('.').trim();
    for marks in [['"', '"'], ['“', '”'], ['`', '`']] {
        let enclosed = label.strip_prefix(marks[0]).and_then(|rest| rest.strip_suffix(marks[1]));
        match (label.matches(marks).count(), enclosed) {
            (2, Some(inner)) => return unquoted(inner),
            // One that was never closed.
            (1, _) if label.starts_with(marks) || label.ends_with(marks) => return unquoted(label.trim_matches(marks)),
            _ => {}
        }
    }
    label
}

/// Reads `{"numbers": [1, 4]}`, or a bare list, of numbers from 1 to `n`.
///
/// # Errors
/// As [`label`].
pub(crate) fn numbers(text: &str, n: usize) -> Result<Vec<usize>, String> {
    let list = |value: &Value| value.as_array().cloned();
    let found = json::<Map<String, Value>>(text, '{', |object| object.values().any(Value::is_array))
        .and_then(|object| object.get("numbers").and_then(list).or_else(|| object.values().find_map(list)))
        .or_else(|| json::<Vec<Value>>(text, '[', |_| true))
        .ok_or("it holds no JSON object with a list \"numbers\"")?;
    let number = |value: &Value| {
        let number = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok());
        number.and_then(|number| usize::try_from(number).ok()).filter(|number| (1..=n).contains(number))
    };
    let mut numbers = Vec::new();
    for value in &found {
        numbers.push(number(value).ok_or_else(|| format!("{value} is not a number from 1 to {n}"))?);
    }
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

/// The first JSON value in `text` that begins with `opening` and that `fits`, behind what the model thought aloud.
fn json<T: DeserializeOwned>(text: &str, opening: char, fits: impl Fn(&T) -> bool) -> Option<T> {
    let text = without_thoughts(text);
    text.match_indices(opening).take(PLACES).find_map(|(at, _)| {
        let value = serde_json::Deserializer::from_str(&text[at..]).into_iter::<T>().next()?.ok()?;
        fits(&value).then_some(value)
    })
}

/// What stands behind the last block of thoughts; nothing, if that block has no end.
fn without_thoughts(text: &str) -> &str {
    for (start, end) in [("<think>", "</think>"), ("<thinking>", "</thinking>")] {
        if let Some(at) = text.rfind(end) {
            return &text[at + end.len()..];
        }
        if text.trim_start().starts_with(start) {
            return "";
        }
    }
    text
}

fn check_line(name: &str, text: &str, most: usize) -> Result<(), String> {
    let n_chars = text.chars().count();
    if n_chars > most {
        return Err(format!("the {name} has {n_chars} characters; at most {most} are allowed"));
    }
    match text.chars().any(char::is_control) {
        true => Err(format!("the {name} is not on one line")),
        false => Ok(()),
    }
}

/// Whether a sentence ends and another begins: a mark, a space, a capital letter. What may be an abbreviation (`e.g. The`,
/// `U.S. President`, `Mr. Smith`) is let through.
fn has_second_sentence(text: &str) -> bool {
    text.match_indices(['.', '!', '?']).any(|(at, mark)| {
        let word = text[..at].rsplit(char::is_whitespace).next().unwrap_or_default();
        let is_abbreviation = mark == "." && (word.chars().count() <= 3 || word.contains('.'));
        let mut rest = text[at + 1..].chars();
        !is_abbreviation && rest.next() == Some(' ') && rest.next().is_some_and(char::is_uppercase)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"label": "says sorry", "description": "Words of apology, e.g. Sorry."}"#;

    #[test]
    fn a_label_is_found_in_what_models_write() {
        let expected =
            Label { label: "says sorry".to_owned(), description: "Words of apology, e.g. Sorry.".to_owned() };
        for text in [
            GOOD.to_owned(),
            format!("```json\n{GOOD}\n```"),
            format!("Sure! Here is {{the}} label:\n{GOOD}\nLet me know {{if}} it helps."),
            format!("<think>perhaps {{\"label\": \"wrong\"}}?\n</think>\n\n{GOOD}"),
            format!("it is {{\"label\": \"wrong\"}} </think>{GOOD}"),
            format!("{{\"result\": {GOOD}}}"),
            GOOD.replace("says sorry", " \\\"says sorry.\\\" "),
        ] {
            assert_eq!(label(&text), Ok(expected.clone()), "{text}");
        }
        for name in ["\\\"sorry\\\" and \\\"pardon\\\"", "name 1 \\\"q\\\""] {
            let found = label(&GOOD.replace("says sorry", name)).unwrap().label;
            assert_eq!(found, name.replace('\\', ""));
        }
    }

    #[test]
    fn only_marks_around_the_whole_name_are_taken_off() {
        for (given, expected) in [
            ("\"sorry\" and \"pardon\"", "\"sorry\" and \"pardon\""),
            ("“sorry” and “pardon”.", "“sorry” and “pardon”"),
            ("`if` and `else`", "`if` and `else`"),
            ("the word \"sorry\"", "the word \"sorry\""),
            ("\"sorry\".", "sorry"),
            ("“`sorry`”", "sorry"),
            ("\"sorry", "sorry"),
        ] {
            assert_eq!(unquoted(given), expected, "{given}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_label_is_said() {
        let with = |label: &str, description: &str| {
            serde_json::json!({"label": label, "description": description}).to_string()
        };
        for (text, complaint) in [
            ("I cannot do that.".to_owned(), "no JSON object"),
            ("<think>hm {\"label\": \"x\", \"description\": \"y\"}".to_owned(), "no JSON object"),
            (r#"{"label": "never closed"#.to_owned(), "no JSON object"),
            (r#"{"label": 7, "description": "x"}"#.to_owned(), "\"label\" is not a text"),
            (r#"{"label": "x"}"#.to_owned(), "\"description\" is not a text"),
            (with(" . ", "x"), "the label is empty"),
            (with("one two three four five six seven eight nine", "x"), "9 words"),
            (with(&"x".repeat(81), "x"), "81 characters"),
            (with("two\nlines", "x"), "the label is not on one line"),
            (with("42", "x"), "only a number"),
            (with("x", ""), "the description is empty"),
            (with("x", "One here. Two here."), "more than one sentence"),
            (with("x", &"x".repeat(301)), "301 characters"),
        ] {
            let found = label(&text).unwrap_err();
            assert!(found.contains(complaint), "{text}: {found}");
        }
        for description in
            ["The U.S. President.", "Used for Mr. Smith, e.g. In letters.", "Why? because", "Version 1.5 X"]
        {
            assert!(label(&with("x", description)).is_ok(), "{description}");
        }
    }

    #[test]
    fn numbers_are_found_and_checked() {
        for text in [
            r#"{"numbers": [3, 1]}"#,
            "```json\n{\"numbers\": [1, 3, 3]}\n```",
            "The answer is [1, 3].",
            r#"{"answer": ["1", "3"]}"#,
            "<think>[2]</think>{\"why\": \"x\", \"numbers\": [1, 3]}",
        ] {
            assert_eq!(numbers(text, 3), Ok(vec![1, 3]), "{text}");
        }
        assert_eq!(numbers(r#"{"numbers": []}"#, 3), Ok(vec![]));
        assert!(numbers(r#"{"numbers": [4]}"#, 3).unwrap_err().contains("4 is not a number from 1 to 3"));
        assert!(numbers(r#"{"numbers": [0]}"#, 3).is_err() && numbers("[1.5]", 3).is_err());
        assert!(numbers("none of them", 3).unwrap_err().contains("no JSON object"));
    }
}
