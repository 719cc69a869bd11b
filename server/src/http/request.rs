//! From a request to one statement, its parameters and how it is to be answered.

use std::str::FromStr;
use std::time::Duration;

use arrow::datatypes::DataType;
use axum::http::{HeaderMap, StatusCode, header};
use datafusion::common::{ParamValues, ScalarValue};
use saequel_engine::json::long_numbers;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::accept;
use super::problem::Problem;
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
    /// How it is answered.
    pub(super) wishes: Wishes,
}

/// How a statement is to be answered.
#[derive(Debug)]
pub(super) struct Wishes {
    pub(super) format: Format,
    pub(super) query_id: Option<String>,
    pub(super) timeout: Option<Duration>,
    pub(super) max_rows: Option<u64>,
    /// Send nothing before the query has ended.
    pub(super) wait_end_of_query: bool,
}

/// A JSON body.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SqlBody {
    /// One statement; `query` and `q` are other names.
    #[serde(alias = "query", alias = "q")]
    #[schema(example = "SELECT $1 + 1 AS n")]
    sql: String,
    /// An array gives `$1`, `$2`, ..., an object `$name`; `parameters` is another name.
    #[serde(default, alias = "parameters")]
    #[schema(value_type = Object)]
    params: Value,
    /// `json`, `json_compact`, `jsonl`, `csv`, `tsv`, `table`, `markdown`, `arrow`, `parquet`.
    format: Option<String>,
    /// Seconds.
    timeout: Option<f64>,
    /// 1 to 128 visible ASCII characters.
    query_id: Option<String>,
    /// Further rows are left out.
    max_rows: Option<u64>,
    /// Send nothing before the query has ended.
    wait_end_of_query: Option<bool>,
    /// Ignored: there is one database.
    #[serde(rename = "db", alias = "database")]
    #[schema(value_type = Option<String>)]
    _db: Option<IgnoredAny>,
}

/// What a URL or a form gives.
#[derive(Debug, Default)]
struct Given {
    sql: Option<String>,
    params: Value,
    named: Vec<(String, ScalarValue)>,
    format: Option<String>,
    timeout: Option<f64>,
    query_id: Option<String>,
    max_rows: Option<u64>,
    wait_end_of_query: Option<bool>,
}

/// Names that a URL or a form may have, as they are told to who gets one wrong.
const NAMES: &str = "sql (or q, query), params, param_NAME, format, query_id, timeout, max_rows, wait_end_of_query, db";

impl Given {
    /// Reads `name=value&name=value`.
    fn read(pairs: &str) -> Result<Self, Problem> {
        let mut given = Self::default();
        for pair in pairs.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name), decoded(value));
            let twice = match name.as_str() {
                "sql" | "q" | "query" => given.sql.replace(value).is_some(),
                "format" => given.format.replace(value).is_some(),
                "timeout" => given.timeout.replace(number(&name, &value)?).is_some(),
                "query_id" => given.query_id.replace(value).is_some(),
                "max_rows" => given.max_rows.replace(number(&name, &value)?).is_some(),
                "wait_end_of_query" => given.wait_end_of_query.replace(truth(&name, &value)?).is_some(),
                "params" | "parameters" => {
                    exact(&value)?;
                    let values = serde_json::from_str(&value)
                        .map_err(|error| bad(format!("params: expected a JSON array or object: {error}")))?;
                    !std::mem::replace(&mut given.params, values).is_null()
                }
                "db" | "database" => false,
                other => match other.strip_prefix("param_").filter(|name| !name.is_empty()) {
                    Some(name) => {
                        given.named.push((name.to_owned(), value.into()));
                        false
                    }
                    None => {
                        return Err(bad(format!("request: parameter '{other}' is not known; there are {NAMES}")));
                    }
                },
            };
            if twice {
                return Err(bad(format!("request: parameter '{name}' is given twice")));
            }
        }
        Ok(given)
    }
}

/// Refuses whole numbers that would be rounded.
fn exact(json: &str) -> Result<(), Problem> {
    let long = long_numbers(json.as_bytes()).into_iter().next().and_then(|number| json.get(number));
    match long {
        None => Ok(()),
        Some(number) => Err(bad(format!(
            "params: the whole number {number} does not fit into 64 bits and would be rounded; write it in quotes, as text, \
             or as {number}.0"
        ))),
    }
}

fn bad(message: String) -> Problem {
    Failure::usage(message).into()
}

fn number<T: FromStr>(name: &str, value: &str) -> Result<T, Problem> {
    value.trim().parse().map_err(|_| bad(format!("{name}: expected a number, got '{value}'")))
}

fn truth(name: &str, value: &str) -> Result<bool, Problem> {
    match value {
        "1" | "true" | "" => Ok(true),
        "0" | "false" => Ok(false),
        other => Err(bad(format!("{name}: expected 1 or 0, got '{other}'"))),
    }
}

/// The body of a request with what it says.
fn of_body(headers: &HeaderMap, body: Vec<u8>) -> Result<Given, Problem> {
    let text = String::from_utf8(body).map_err(|_| bad("request: body is not UTF-8".to_owned()))?;
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("text/plain");
    let content_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let statement = |text: String| Given { sql: Some(text).filter(|text| !text.trim().is_empty()), ..Given::default() };
    Ok(match content_type.as_str() {
        "application/json" => {
            exact(&text)?;
            let object = text.trim_start().starts_with('{');
            let body = Some(text).filter(|_| object).ok_or_else(|| {
                bad("request: body is not the expected JSON: expected an object, {\"sql\": \"...\"}".to_owned())
            })?;
            let body: SqlBody = serde_json::from_str(&body)
                .map_err(|error| bad(format!("request: body is not the expected JSON: {error}")))?;
            let SqlBody { sql, params, format, timeout, query_id, max_rows, wait_end_of_query, _db: _ } = body;
            let named = Vec::new();
            Given { sql: Some(sql), params, named, format, timeout, query_id, max_rows, wait_end_of_query }
        }
        "text/plain" | "application/sql" | "text/sql" | "" => statement(text),
        "application/x-www-form-urlencoded" if is_form(&text) => Given::read(text.trim())?,
        // What `curl -d 'SELECT 1'` sends.
        "application/x-www-form-urlencoded" => statement(text),
        other => {
            let message = format!("request: content type '{other}' is not understood");
            let hint = "send text/plain or application/sql with the statement, application/json, or a form with sql=";
            return Err(Problem::request(StatusCode::UNSUPPORTED_MEDIA_TYPE, message, hint));
        }
    })
}

/// Whether a body is a form with a statement, and not a statement as it stands: all its names are plain words.
fn is_form(text: &str) -> bool {
    let names = || text.trim().split('&').map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name));
    let is_word =
        |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    names().any(|name| matches!(name, "sql" | "q" | "query")) && names().all(is_word)
}

/// Reads a request; `body` is missing for GET. What the body says goes before what the URL says, and `format` before
/// `Accept`.
pub(super) fn parse(url: Option<&str>, headers: &HeaderMap, body: Option<Vec<u8>>) -> Result<SqlRequest, Problem> {
    let url = Given::read(url.unwrap_or_default())?;
    let body = match body {
        // A client may send its statement in the URL, and an empty body of any type.
        Some(body) if url.sql.is_none() || !body.is_empty() => of_body(headers, body)?,
        _ => Given::default(),
    };
    let sql = match (body.sql, url.sql) {
        (Some(_), Some(_)) => {
            return Err(bad("request: there is a statement in the URL and one in the body".to_owned()));
        }
        (one, other) => one.or(other).unwrap_or_default(),
    };
    let params = match (body.params, url.params) {
        (params, Value::Null) | (Value::Null, params) => params,
        _ => return Err(bad("request: there are params in the URL and in the body".to_owned())),
    };
    let mut named = url.named;
    named.extend(body.named);
    let parameters = match (parameters(params)?, named.is_empty()) {
        (parameters, true) => parameters,
        (ParamValues::List(list), false) if list.is_empty() => named.into(),
        (ParamValues::Map(map), false) => {
            named.extend(map.into_iter().map(|(name, value)| (name, value.value)));
            named.into()
        }
        (ParamValues::List(_), false) => {
            return Err(bad("params: expected names everywhere, since there are param_NAME".to_owned()));
        }
    };
    let wishes = Wishes {
        format: format(body.format.or(url.format).as_deref(), headers)?,
        query_id: body.query_id.or(url.query_id).or_else(|| header_id(headers)),
        timeout: body.timeout.or(url.timeout).map(seconds).transpose()?,
        max_rows: body.max_rows.or(url.max_rows),
        wait_end_of_query: body.wait_end_of_query.or(url.wait_end_of_query).unwrap_or(false),
    };
    match sql_text::statements(&sql).as_slice() {
        [one] => Ok(SqlRequest { statement: (*one).to_owned(), parameters, wishes }),
        [] => Err(Problem::request(
            StatusCode::BAD_REQUEST,
            "request: no statement",
            "send one as text/plain, as JSON {\"sql\": \"...\"}, or in the URL as ?q=",
        )),
        several => Err(bad(format!("request: expected one statement, got {}", several.len()))),
    }
}

/// The format that a request asks for by name, else by `Accept`.
pub(super) fn format(name: Option<&str>, headers: &HeaderMap) -> Result<Format, Problem> {
    match name {
        Some(name) => Ok(name.parse()?),
        None => accept::format(headers),
    }
}

/// The id that a client gives its query in a header.
pub(super) fn header_id(headers: &HeaderMap) -> Option<String> {
    headers.get(super::problem::QUERY_ID).and_then(|id| id.to_str().ok()).map(str::to_owned)
}

/// The values of a query string by name, of which only `names` may be there.
pub(super) fn url_values(url: Option<&str>, names: &[&str]) -> Result<Vec<(String, String)>, Problem> {
    let mut values = Vec::new();
    for pair in url.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decoded(name);
        if !names.contains(&name.as_str()) {
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(bad(format!("request: parameter '{name}' is not known; there are: {there}")));
        }
        values.push((name, decoded(value)));
    }
    Ok(values)
}

fn seconds(seconds: f64) -> Result<Duration, Problem> {
    match Duration::try_from_secs_f64(seconds) {
        Ok(timeout) if !timeout.is_zero() => Ok(timeout),
        _ => Err(bad(format!("timeout: expected seconds above 0, got {seconds:?}"))),
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

    fn read(url: Option<&str>, headers: &HeaderMap, body: &str) -> Result<SqlRequest, Problem> {
        parse(url, headers, Some(body.as_bytes().to_vec()))
    }

    fn ok(url: Option<&str>, headers: &HeaderMap, body: &str) -> (String, Format) {
        let request = read(url, headers, body).unwrap();
        (request.statement, request.wishes.format)
    }

    #[test]
    fn bodies_as_clients_send_them() {
        let plain = headers("text/plain; charset=utf-8", None);
        assert_eq!(ok(None, &plain, "SELECT 1;"), ("SELECT 1".into(), Format::Json));
        let form = headers("application/x-www-form-urlencoded", Some("*/*"));
        assert_eq!(ok(Some("format=csv"), &form, "SELECT 1"), ("SELECT 1".into(), Format::Csv));
        assert_eq!(ok(None, &form, "sql=SELECT+1%20%2B%201&format=tsv"), ("SELECT 1 + 1".into(), Format::Tsv));
        assert_eq!(ok(None, &form, "SELECT 1 & q=2").0, "SELECT 1 & q=2");
        assert_eq!(ok(None, &form, "SELECT a=1+1 FROM t WHERE sql='x'").0, "SELECT a=1+1 FROM t WHERE sql='x'");
        let json = headers("application/json", Some("text/csv"));
        let body = r#"{"query": "SELECT $1", "parameters": ["it's"], "format": "jsonl", "timeout": 1.5, "db": "x"}"#;
        assert_eq!(ok(Some("format=csv"), &json, body), ("SELECT $1".into(), Format::Jsonl));
        let request = parse(Some("q=SELECT+$x&param_x=a%26b&max_rows=3&timeout=2"), &HeaderMap::new(), None).unwrap();
        assert_eq!((request.wishes.max_rows, request.wishes.timeout), (Some(3), Some(Duration::from_secs(2))));
        let ParamValues::Map(map) = request.parameters else { panic!("named") };
        assert_eq!(map["x"].value, "a&b".into());
        assert_eq!(ok(Some("query=SELECT+1"), &form, "").0, "SELECT 1");
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
    fn what_is_wrong_is_said() {
        let json = headers("application/json", None);
        let plain = headers("text/plain", None);
        let said = |url: Option<&str>, headers: &HeaderMap, body: &[u8]| {
            let problem = parse(url, headers, Some(body.to_vec())).unwrap_err();
            (problem.status.as_u16(), problem.json())
        };
        assert!(said(None, &json, b"{").1.contains("not the expected JSON"));
        assert!(said(None, &json, br#"{"sql": "SELECT 1", "formt": "csv"}"#).1.contains("formt"));
        assert!(said(None, &json, b"[]").1.contains("expected an object, {"));
        let long = br#"{"sql": "SELECT $1", "params": [100000000000000000000]}"#;
        assert!(said(None, &json, long).1.contains("number 100000000000000000000 does not fit into 64 bits"));
        assert!(said(None, &json, br#"{"sql": "SELECT 1", "timeout": -1}"#).1.contains("seconds above 0"));
        assert_eq!(said(None, &plain, b" -- nothing").0, 400);
        assert!(said(None, &plain, b"SELECT 1; SELECT 2").1.contains("got 2"));
        assert!(said(None, &plain, &[0xff]).1.contains("UTF-8"));
        assert_eq!(said(None, &headers("application/xml", None), b"SELECT 1").0, 415);
        for (url, why) in [
            ("format=xml", "unknown format 'xml'"),
            ("formt=csv", "parameter 'formt' is not known"),
            ("timeout=soon", "expected a number"),
            ("timeout=inf", "seconds above 0"),
            ("max_rows=-1", "expected a number"),
            ("wait_end_of_query=maybe", "expected 1 or 0"),
            ("format=csv&format=tsv", "given twice"),
            ("q=SELECT+2", "one in the body"),
            ("params={", "expected a JSON array"),
            ("params=[-9223372036854775809]", "would be rounded"),
            ("param_x=1&params=[1]", "names everywhere"),
        ] {
            let (status, message) = said(Some(url), &plain, b"SELECT 1");
            assert!(status == 400 && message.contains(why), "{url}: {message}");
        }
    }
}
