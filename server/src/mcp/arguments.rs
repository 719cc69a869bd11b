//! Arguments of tools: their JSON Schema, and reading what a model sends.
//!
//! Models forget types more often than meanings: `"10"` is taken for 10, one text for a list of one, and an empty text or
//! list for an argument left out. What cannot be understood is told by the argument's name.

use rmcp::model::{JsonObject, Tool};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::error::{Failure, Result};

/// An object's schema.
pub(super) fn object<const N: usize>(required: &[&str], properties: [(&str, Value); N]) -> JsonObject {
    let properties: Map<String, Value> =
        properties.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    let mut schema = Map::new();
    schema.insert("type".to_owned(), "object".into());
    schema.insert("properties".to_owned(), properties.into());
    schema.insert("required".to_owned(), required.into());
    schema.insert("additionalProperties".to_owned(), false.into());
    schema
}

pub(super) fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

pub(super) fn choice(description: &str, of: &[&str]) -> Value {
    json!({ "type": "string", "enum": of, "description": description })
}

pub(super) fn texts(description: &str) -> Value {
    json!({ "type": "array", "items": { "type": "string" }, "description": description })
}

pub(super) fn whole(description: &str, minimum: u64, maximum: u64) -> Value {
    json!({ "type": "integer", "minimum": minimum, "maximum": maximum, "description": description })
}

pub(super) fn number(description: &str) -> Value {
    json!({ "type": "number", "description": description })
}

pub(super) fn truth(description: &str) -> Value {
    json!({ "type": "boolean", "description": description })
}

/// Reads the arguments of a call.
///
/// # Errors
/// [`saequel_engine::ErrorKind::Query`] with the argument's name, what was expected and what came.
pub(super) fn read<T: DeserializeOwned>(tool: &Tool, given: Option<JsonObject>) -> Result<T> {
    let name = &tool.name;
    let none = Map::new();
    let properties = tool.input_schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    let required: Vec<&str> = match tool.input_schema.get("required") {
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let mut read = Map::new();
    for (argument, value) in given.unwrap_or_default() {
        let Some(schema) = properties.get(&argument) else {
            let there: Vec<&str> = properties.keys().map(String::as_str).collect();
            let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
            return Err(Failure::usage(format!("{name}: there is no argument '{argument}'; there are: {there}")));
        };
        let is_absent = match &value {
            Value::Null => true,
            Value::String(text) => text.trim().is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => false,
        };
        if is_absent {
            continue;
        }
        let value =
            understood(schema, value).map_err(|why| Failure::usage(format!("{name}: argument '{argument}': {why}")))?;
        read.insert(argument, value);
    }
    if let Some(missing) = required.iter().find(|argument| !read.contains_key(**argument)) {
        let what = properties.get(*missing).and_then(|schema| schema["description"].as_str()).unwrap_or_default();
        return Err(Failure::usage(format!("{name}: the argument '{missing}' is needed")).hint(what.to_owned()));
    }
    serde_json::from_value(Value::Object(read)).map_err(|error| Failure::usage(format!("{name}: {error}")))
}

/// The value as the schema has it.
fn understood(schema: &Value, value: Value) -> Result<Value, String> {
    let expected = |what: &str| Err(format!("expected {what}, got {value}"));
    match (schema["type"].as_str().unwrap_or_default(), &value) {
        ("string", Value::String(text)) => match schema["enum"].as_array() {
            None => Ok(value),
            Some(of) => {
                let wanted = text.trim().to_ascii_lowercase();
                let found = of.iter().find(|one| one.as_str().is_some_and(|one| one == wanted));
                found.cloned().map_or_else(|| expected(&format!("one of {}", Value::from(of.clone()))), Ok)
            }
        },
        ("string", Value::Number(_) | Value::Bool(_)) if schema["enum"].is_null() => Ok(value.to_string().into()),
        ("string", _) => expected("a text"),
        ("integer", _) => {
            let whole = match &value {
                Value::Number(number) => number.as_u64().or_else(|| {
                    number.as_f64().filter(|n| n.fract() == 0.0 && (0.0..1e15).contains(n)).map(|n| n as u64)
                }),
                Value::String(text) => text.trim().parse().ok(),
                _ => None,
            };
            // Beyond a limit, the limit is meant.
            let limit = |name: &str, otherwise: u64| schema[name].as_u64().unwrap_or(otherwise);
            match whole {
                // None at all is a mistake, not less than enough.
                Some(0) if limit("minimum", 0) > 0 => expected("a number above 0"),
                Some(whole) => Ok(whole.clamp(limit("minimum", 0), limit("maximum", u64::MAX)).into()),
                None => expected("a whole number"),
            }
        }
        ("number", Value::Number(_)) => Ok(value),
        ("number", Value::String(text)) => match text.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number.into()),
            _ => expected("a number"),
        },
        ("number", _) => expected("a number"),
        ("boolean", Value::Bool(_)) => Ok(value),
        ("boolean", Value::String(text)) if text.trim().eq_ignore_ascii_case("true") => Ok(true.into()),
        ("boolean", Value::String(text)) if text.trim().eq_ignore_ascii_case("false") => Ok(false.into()),
        ("boolean", _) => expected("true or false"),
        ("array", Value::Array(items)) => {
            let items: Result<Vec<Value>, String> =
                items.iter().map(|item| understood(&schema["items"], item.clone())).collect();
            items.map(Value::Array)
        }
        // A list that was written as text, or one text.
        ("array", Value::String(text)) => match serde_json::from_str::<Value>(text) {
            Ok(list @ Value::Array(_)) => understood(schema, list),
            _ => Ok(json!([text])),
        },
        ("array", _) => expected("a list of texts"),
        _ => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Arguments {
        set: String,
        k: Option<u64>,
        level: Option<String>,
        control: Option<Vec<String>>,
        fold: Option<bool>,
        share: Option<f64>,
    }

    fn read_of(given: Value) -> Result<Arguments> {
        let schema = object(
            &["set"],
            [
                ("set", text("A set")),
                ("k", whole("How many", 1, 50)),
                ("level", choice("Level", &["token", "span"])),
                ("control", texts("Columns")),
                ("fold", truth("Fold")),
                ("share", number("Share")),
            ],
        );
        read(&Tool::new("diff", "", schema), given.as_object().cloned())
    }

    #[test]
    fn what_models_write_is_understood() {
        let given = json!({"set": "a", "k": "20", "level": "Span", "control": "topic", "fold": "true", "share": "0.5"});
        let expected = Arguments {
            set: "a".into(),
            k: Some(20),
            level: Some("span".into()),
            control: Some(vec!["topic".into()]),
            fold: Some(true),
            share: Some(0.5),
        };
        assert_eq!(read_of(given).unwrap(), expected);
        let given = json!({"set": 7, "k": 900.0, "level": "", "control": "[\"a\", \"b\"]", "fold": null});
        let read = read_of(given).unwrap();
        assert_eq!((read.set.as_str(), read.k, read.level, read.fold), ("7", Some(50), None, None));
        assert_eq!(read.control, Some(vec!["a".into(), "b".into()]));
        assert_eq!(read_of(json!({"set": "a", "control": []})).unwrap().control, None);
    }

    #[test]
    fn what_is_wrong_is_told_by_name() {
        let line = |given| read_of(given).unwrap_err().to_string();
        assert!(line(json!({})).contains("diff: the argument 'set' is needed"));
        assert!(line(json!({"set": " "})).contains("diff: the argument 'set' is needed"));
        assert!(line(json!({"set": "a", "k": 0})).contains("argument 'k': expected a number above 0, got 0"));
        assert!(line(json!({"set": "a", "k": "many"})).contains("argument 'k': expected a whole number, got \"many\""));
        assert!(line(json!({"set": "a", "level": "word"})).contains("one of [\"token\",\"span\"], got \"word\""));
        assert!(line(json!({"set": "a", "sets": 1})).contains("there is no argument 'sets'; there are: "));
        assert!(line(json!({"set": {"a": 1}})).contains("expected a text"));
    }
}
