//! What the server says of itself: whether it lives and is ready, numbers, its tables and functions, and what is where.

use arrow::array::{AsArray, RecordBatch};
use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, header};
use axum::response::{Html, IntoResponse, Response};
use futures::StreamExt;
use saequel_engine::ErrorKind;
use saequel_engine::functions::{self as documented, FunctionDoc, Kind};
use serde::Serialize;

use super::problem::{ErrorBody, Problem};
use super::request::url_values;
use super::{Http, Named, Who, accept};
use crate::error::{Failure, Result, STOPPING};
use crate::gate::{Ask, Gate, Visitor};
use crate::sql_text::identifier;

/// A state in a word.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Health {
    /// `ok`.
    status: &'static str,
    version: &'static str,
}

/// Whether the server lives
///
/// Needs no token.
#[utoipa::path(get, path = "/health", tag = "about", security(()), responses((status = 200, body = Health)))]
pub(super) async fn health() -> Response {
    Json(Health { status: "ok", version: env!("CARGO_PKG_VERSION") }).into_response()
}

/// Whether the server can answer queries
///
/// The catalog opens, and nobody has told the server to stop. Needs no token.
#[utoipa::path(
    get, path = "/ready", tag = "about", security(()),
    responses((status = 200, body = Health), (status = 503, body = ErrorBody))
)]
pub(super) async fn ready(State(http): State<Http>) -> Result<Response, Problem> {
    if http.gate.is_stopping() {
        return Err(Failure::new(ErrorKind::Resources, "the server is stopping").shown_as(STOPPING).into());
    }
    // Why the catalog does not open is for the log, not for who has no token.
    if let Err(error) = http.gate.engine().refresh().await {
        tracing::error!(%error, "not ready");
        return Err(Failure::new(ErrorKind::Io, "the database does not open; the server's log says why").into());
    }
    Ok(health().await)
}

/// What runs
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Version {
    name: &'static str,
    version: &'static str,
    /// Whether anything may be written.
    writes: bool,
}

/// What runs
///
/// Needs no token.
#[utoipa::path(get, path = "/version", tag = "about", security(()), responses((status = 200, body = Version)))]
pub(super) async fn version(State(http): State<Http>) -> Response {
    let writes = http.gate.options().write;
    Json(Version { name: "saequel", version: env!("CARGO_PKG_VERSION"), writes }).into_response()
}

/// Numbers for Prometheus
#[utoipa::path(
    get, path = "/metrics", tag = "about",
    responses((status = 200, content_type = "application/openmetrics-text", body = String))
)]
pub(super) async fn metrics(State(http): State<Http>, Who(_visitor): Who) -> Response {
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, media_type)], http.gate.metrics_text()).into_response()
}

/// This document
///
/// Needs no token.
#[utoipa::path(
    get, path = "/openapi.json", tag = "about", security(()),
    responses((status = 200, content_type = "application/json", body = Object))
)]
pub(super) async fn openapi(State(http): State<Http>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], http.openapi.to_string()).into_response()
}

/// What is where
///
/// Needs no token.
#[utoipa::path(
    get, path = "/", tag = "about", security(()),
    responses((status = 200, content((Object = "application/json"), (String = "text/html"))))
)]
pub(super) async fn index(headers: HeaderMap) -> Response {
    let places = [
        ("/v1/sql", "SQL: POST a statement, or GET ?q="),
        ("/v1/queries", "queries that run and have run"),
        ("/v1/tables", "tables"),
        ("/v1/functions", "functions"),
        ("/v1/jobs", "imports"),
        ("/openapi.json", "every route"),
        ("/metrics", "numbers for Prometheus"),
        ("/health", "whether the server lives"),
        ("/ready", "whether it can answer"),
        ("/version", "what runs"),
    ];
    if accept::prefers_html(&headers) {
        let item = |(path, what): &(&str, &str)| {
            // A link is followed with GET, which needs a statement.
            let link = if *path == "/v1/sql" { "/v1/sql?format=table&amp;q=SHOW+CORPORA" } else { *path };
            format!("<li><a href=\"{link}\">{path}</a> {what}</li>\n")
        };
        let items: String = places.iter().map(item).collect();
        return Html(format!(
            "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>saequel</title>\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <style>:root {{ color-scheme: light dark }} body {{ font-family: sans-serif; margin: 1rem }}</style>\n\
             <h1>saequel {}</h1>\n<ul>\n{items}</ul>\n</html>\n",
            env!("CARGO_PKG_VERSION")
        ))
        .into_response();
    }
    let map: serde_json::Map<String, serde_json::Value> =
        places.iter().map(|(path, what)| ((*path).to_owned(), (*what).into())).collect();
    Json(map).into_response()
}

/// A table.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Table {
    schema: String,
    name: String,
    /// `BASE TABLE` or `VIEW`.
    #[serde(rename = "type")]
    kind: String,
}

/// Tables that the token may see.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Tables {
    tables: Vec<Table>,
}

/// Tables that the token may read
#[utoipa::path(get, path = "/v1/tables", tag = "catalog", responses((status = 200, body = Tables)))]
pub(super) async fn tables(
    State(http): State<Http>,
    Who(visitor): Who,
    RawQuery(url): RawQuery,
) -> Result<Response, Problem> {
    url_values(url.as_deref(), &[])?;
    let statement = "SELECT table_schema, table_name, table_type FROM information_schema.tables \
                     WHERE table_schema <> 'information_schema' ORDER BY 1, 2";
    let rows = texts(&http.gate, &visitor, statement).await?;
    let table = |[schema, name, kind]: [String; 3]| Table { schema, name, kind };
    Ok(Json(Tables { tables: rows.into_iter().map(table).collect() }).into_response())
}

/// A column.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Column {
    name: String,
    /// As Arrow writes it.
    #[serde(rename = "type")]
    data_type: String,
    nullable: bool,
}

/// Columns of a table.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct TableSchema {
    table: String,
    columns: Vec<Column>,
}

/// Columns of a table
#[utoipa::path(
    get, path = "/v1/tables/{name}/schema", tag = "catalog",
    params(("name" = String, Path, description = "table, or schema.table")),
    responses((status = 200, body = TableSchema), (status = 404, body = ErrorBody))
)]
pub(super) async fn table_schema(
    State(http): State<Http>,
    Who(visitor): Who,
    Named(name): Named,
) -> Result<Response, Problem> {
    let parts: Vec<String> = name.split('.').map(|part| identifier(part.trim_matches('"'))).collect();
    if parts.len() > 3 || parts.iter().any(|part| part.is_empty() || part == "\"\"") {
        return Err(Failure::new(ErrorKind::NotFound, format!("table '{name}' not found")).into());
    }
    let described = http.gate.describe(&visitor, &format!("SELECT * FROM {}", parts.join("."))).await?;
    let schema = described.schema.ok_or_else(|| Failure::new(ErrorKind::Internal, "a table without columns"))?;
    let column = |field: &arrow::datatypes::FieldRef| Column {
        name: field.name().clone(),
        data_type: field.data_type().to_string(),
        nullable: field.is_nullable(),
    };
    let columns = schema.fields().iter().map(column).collect();
    Ok(Json(TableSchema { table: name, columns }).into_response())
}

/// A function.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Function {
    name: String,
    /// `table`, `scalar`, `aggregate`, `window`.
    kind: String,
    syntax: String,
    description: String,
}

/// Functions, our own first.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Functions {
    functions: Vec<Function>,
}

/// Functions of SQL here, our own first
#[utoipa::path(get, path = "/v1/functions", tag = "catalog", responses((status = 200, body = Functions)))]
pub(super) async fn functions(
    State(http): State<Http>,
    Who(visitor): Who,
    RawQuery(url): RawQuery,
) -> Result<Response, Problem> {
    url_values(url.as_deref(), &[])?;
    let mut functions = our_functions();
    let statement = "SELECT routine_name, lower(function_type), max(syntax_example), max(description) \
                     FROM information_schema.routines GROUP BY 1, 2 ORDER BY 1, 2";
    for [name, kind, syntax, description] in texts(&http.gate, &visitor, statement).await? {
        if functions.iter().all(|function| function.name != name) {
            functions.push(Function { name, kind, syntax, description });
        }
    }
    Ok(Json(Functions { functions }).into_response())
}

/// Our functions as they are documented.
fn our_functions() -> Vec<Function> {
    let function = |doc: &FunctionDoc| Function {
        name: doc.name.to_owned(),
        kind: match doc.kind {
            Kind::Scalar => "scalar",
            Kind::Aggregate => "aggregate",
            Kind::Table => "table",
        }
        .to_owned(),
        syntax: doc.syntax.to_owned(),
        description: doc.summary(),
    };
    documented::all().map(function).collect()
}

/// The rows of a statement that gives texts.
async fn texts<const N: usize>(gate: &Gate, visitor: &Visitor, statement: &str) -> Result<Vec<[String; N]>> {
    let mut answer = gate.run(visitor, Ask::new(statement)).await?;
    let mut rows = Vec::new();
    while let Some(batch) = answer.next().await {
        let batch: RecordBatch = batch?;
        let columns: Vec<_> = batch.columns().iter().map(|column| column.as_string_opt::<i32>()).collect();
        for row in 0..batch.num_rows() {
            rows.push(std::array::from_fn(|at| {
                let column = columns.get(at).copied().flatten();
                column
                    .filter(|column| !arrow::array::Array::is_null(column, row))
                    .map(|column| column.value(row))
                    .unwrap_or_default()
                    .to_owned()
            }));
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_in_their_documentation() {
        let functions = our_functions();
        let diff = functions.iter().find(|function| function.name == "diff").unwrap();
        assert!(diff.kind == "table" && diff.syntax.starts_with("diff(a, b"), "{diff:?}");
        assert!(functions.iter().any(|function| function.name == "has_feature" && function.kind == "scalar"));
        assert!(functions.iter().all(|function| !function.description.is_empty() && !function.syntax.is_empty()));
    }
}
