//! From a request to one statement and a format.

use arrow::datatypes::DataType;
use axum::http::{HeaderMap, StatusCode, header};
use datafusion::common::{ParamValues, ScalarValue};
use serde::Deserialize;
use serde_json::Value;

use crate::error::Failure;
use crate::output::Format;
use crate::sql_text;

/// What is asked.
#[derive(Debug)]
pub(super) struct SqlRequest {
    /// One statement.
    pub(super) statement: String,
    /// Values of `$1`, `$2`, ... or `$name`.
    pub(super) parameters: ParamValues,
    /// Format of the answer.
    pub(super) format: Format,
}

/// A request that cannot be understood.
#[derive(Debug)]
pub(super) struct Rejected {
    pub(super) status: StatusCode,
    pub(super) failure: Failure,
}

impl From<Failure> for Rejected {
    fn from(failure: Failure) -> Self {
        Self { status: StatusCode::BAD_REQUEST, failure }
    }
}

/// A JSON body.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonBody {
    sql: String,
    #[serde(default)]
    params: Value,
    #[serde(default)]
    format: Option<String>,
}

/// Reads a request. The format is that of the body, else of the URL, else of `Accept`, else JSON.
pub(super) fn parse(query: Option<&str>, headers: &HeaderMap, body: &[u8]) -> Result<SqlRequest, Rejected> {
    let text = std::str::from_utf8(body).map_err(|_| Failure::usage("request: body is not UTF-8"))?;
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("text/plain");
    let content_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let body = match content_type.as_str() {
        "application/json" => serde_json::from_str(text)
            .map_err(|error| Failure::usage(format!("request: body is not the expected JSON: {error}")))?,
        "text/plain" | "application/sql" | "" => JsonBody { sql: text.to_owned(), ..JsonBody::default() },
        // What `curl -d 'SELECT 1'` sends.
        "application/x-www-form-urlencoded" => match text.strip_prefix("sql=") {
            Some(value) if !value.contains(['&', ' ', '\n']) => JsonBody { sql: decoded(value), ..JsonBody::default() },
            _ => JsonBody { sql: text.to_owned(), ..JsonBody::default() },
        },
        other => {
            let message = format!("request: content type '{other}' is not understood");
            let failure = Failure::usage(message).hint("send text/plain with the statement, or application/json");
            return Err(Rejected { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, failure });
        }
    };
    let format = match body.format.or_else(|| url_format(query)) {
        Some(name) => name.parse()?,
        None => accepted(headers)?,
    };
    let parameters = parameters(body.params)?;
    match sql_text::statements(&body.sql).as_slice() {
        [one] => Ok(SqlRequest { statement: (*one).to_owned(), parameters, format }),
        [] => Err(Failure::usage("request: no statement")
            .hint("send one as text/plain, or as JSON {\"sql\": \"...\"}")
            .into()),
        several => Err(Failure::usage(format!("request: expected one statement, got {}", several.len())).into()),
    }
}

/// An array gives `$1`, `$2`, ..., an object gives `$name`.
fn parameters(params: Value) -> Result<ParamValues, Failure> {
    match params {
        Value::Null => Ok(ParamValues::List(Vec::new())),
        Value::Array(values) => Ok(values.into_iter().map(scalar).collect::<Result<Vec<_>, _>>()?.into()),
        Value::Object(values) => {
            let named = values.into_iter().map(|(name, value)| Ok((name, scalar(value)?)));
            Ok(named.collect::<Result<Vec<_>, Failure>>()?.into())
        }
        _ => Err(Failure::usage("params: expected an array ($1, $2, ...) or an object ($name)")),
    }
}

fn scalar(value: Value) -> Result<ScalarValue, Failure> {
    Ok(match value {
        Value::Null => ScalarValue::Null,
        Value::Bool(value) => value.into(),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => number.into(),
            (None, Some(number)) => number.into(),
            (None, None) => number.as_f64().into(),
        },
        Value::String(text) => text.into(),
        Value::Array(values) => {
            let items = values.into_iter().map(scalar).collect::<Result<Vec<_>, _>>()?;
            let of = item_type(&items)?;
            let items = items.iter().map(|item| item.cast_to(&of)).collect::<Result<Vec<_>, _>>()?;
            ScalarValue::List(ScalarValue::new_list_nullable(&items, &of))
        }
        Value::Object(_) => return Err(Failure::usage("params: a value may not be an object")),
    })
}

/// The type of a list's items: their own, if it is one; nulls have any, and whole numbers may be among others.
fn item_type(items: &[ScalarValue]) -> Result<DataType, Failure> {
    let mut types = items.iter().map(ScalarValue::data_type).filter(|one| !one.is_null());
    let first = types.next().unwrap_or(DataType::Null);
    types.try_fold(first, |all, one| match one {
        one if one == all => Ok(all),
        one if one.is_numeric() && all.is_numeric() => Ok(DataType::Float64),
        one => Err(Failure::usage(format!("params: expected a list of one type, got {all} and {one}"))),
    })
}

/// `format` of the URL.
fn url_format(query: Option<&str>) -> Option<String> {
    query?.split('&').find_map(|pair| pair.strip_prefix("format=")).map(decoded)
}

/// Undoes percent and plus encoding; what is not valid stays as it is.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (bytes[at], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
                continue;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The format that `Accept` likes best.
fn accepted(headers: &HeaderMap) -> Result<Format, Rejected> {
    let values: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    if values.is_empty() {
        return Ok(Format::Json);
    }
    let mut best: Option<(f32, Format)> = None;
    for item in values.iter().flat_map(|value| value.split(',')) {
        let mut parts = item.split(';').map(str::trim);
        let Some(format) = parts.next().and_then(of_media_type) else { continue };
        let quality = parts.find_map(|part| part.strip_prefix("q=")).and_then(|q| q.parse().ok()).unwrap_or(1.0_f32);
        if quality > 0.0 && best.is_none_or(|(other, _)| quality > other) {
            best = Some((quality, format));
        }
    }
    best.map(|(_, format)| format).ok_or_else(|| {
        let types: Vec<&str> = Format::ALL.iter().map(|format| format.media_type()).collect();
        let message = format!("request: no media type of Accept can be written; there are {}", types.join(", "));
        Rejected { status: StatusCode::NOT_ACCEPTABLE, failure: Failure::usage(message) }
    })
}

fn of_media_type(media_type: &str) -> Option<Format> {
    Some(match media_type.to_ascii_lowercase().as_str() {
        "*/*" | "application/*" | "application/json" => Format::Json,
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/jsonlines" => Format::Jsonl,
        "text/csv" => Format::Csv,
        "text/tab-separated-values" => Format::Tsv,
        "text/plain" | "text/*" => Format::Table,
        "application/vnd.apache.arrow.stream" => Format::Arrow,
        "application/vnd.apache.parquet" => Format::Parquet,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use serde_json::json;

    use super::*;

    fn headers(content_type: &'static str, accept: Option<&'static str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.extend(accept.map(|accept| (header::ACCEPT, HeaderValue::from_static(accept))));
        headers
    }

    fn ok(query: Option<&str>, headers: &HeaderMap, body: &str) -> (String, Format) {
        let request = parse(query, headers, body.as_bytes()).unwrap();
        (request.statement, request.format)
    }

    #[test]
    fn bodies_as_clients_send_them() {
        let plain = headers("text/plain; charset=utf-8", None);
        assert_eq!(ok(None, &plain, "SELECT 1;"), ("SELECT 1".into(), Format::Json));
        let form = headers("application/x-www-form-urlencoded", Some("*/*"));
        assert_eq!(ok(Some("format=csv"), &form, "SELECT 1"), ("SELECT 1".into(), Format::Csv));
        assert_eq!(ok(None, &form, "sql=SELECT+1%20%2B%201").0, "SELECT 1 + 1");
        let json = headers("application/json", Some("text/csv"));
        let body = r#"{"sql": "SELECT $1", "params": ["it's"], "format": "jsonl"}"#;
        assert_eq!(ok(Some("format=csv"), &json, body), ("SELECT $1".into(), Format::Jsonl));
    }

    #[test]
    fn parameters_become_values() {
        let given = |params| {
            parameters(params).map(|given| match given {
                ParamValues::List(values) => values.into_iter().map(|value| value.value).collect::<Vec<_>>(),
                ParamValues::Map(mut values) => vec![values.remove("a").unwrap().value],
            })
        };
        assert!(given(json!(null)).unwrap().is_empty());
        let expected = ["it's".into(), ScalarValue::from(-5_i64), 2.5_f64.into(), true.into(), ScalarValue::Null];
        assert_eq!(given(json!(["it's", -5, 2.5, true, null])).unwrap(), expected);
        assert_eq!(given(json!({"a": u64::MAX})).unwrap(), [ScalarValue::from(u64::MAX)]);
        let list = ScalarValue::new_list_nullable(
            &[1.0_f64.into(), ScalarValue::Float64(None), 2.5_f64.into()],
            &DataType::Float64,
        );
        assert_eq!(given(json!([[1, null, 2.5]])).unwrap(), [ScalarValue::List(list)]);
        assert!(given(json!([[1, "x"]])).unwrap_err().line().contains("one type, got Int64 and Utf8"));
        assert!(given(json!([{}])).is_err() && given(json!("text")).is_err());
    }

    #[test]
    fn the_best_acceptable_format_wins() {
        let format =
            |accept| parse(None, &headers("text/plain", Some(accept)), b"SELECT 1").map(|request| request.format);
        assert_eq!(format("text/csv;q=0.5, application/vnd.apache.arrow.stream").unwrap(), Format::Arrow);
        assert_eq!(format("text/html, */*;q=0.1").unwrap(), Format::Json);
        assert_eq!(format("image/png").unwrap_err().status, StatusCode::NOT_ACCEPTABLE);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let json = headers("application/json", None);
        let line = |headers: &HeaderMap, body: &[u8]| {
            let rejected = parse(None, headers, body).unwrap_err();
            (rejected.status.as_u16(), rejected.failure.line())
        };
        assert!(line(&json, b"{").1.contains("not the expected JSON"));
        assert!(line(&json, br#"{"sql": "SELECT 1", "formt": "csv"}"#).1.contains("formt"));
        assert!(line(&json, br#"{"sql": "SELECT $1"; "params": []}"#).1.contains("JSON"));
        let plain = headers("text/plain", None);
        assert_eq!(line(&plain, b" -- nothing").0, 400);
        assert!(line(&plain, b"SELECT 1; SELECT 2").1.contains("got 2"));
        assert!(line(&plain, &[0xff]).1.contains("UTF-8"));
        assert_eq!(line(&headers("application/xml", None), b"SELECT 1").0, 415);
        let rejected = parse(Some("format=xml"), &plain, b"SELECT 1").unwrap_err();
        assert!(rejected.failure.line().contains("unknown format 'xml'"));
    }
}
