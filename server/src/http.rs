//! SQL over HTTP, and the documents that go in.
//!
//! `POST /v1/sql` takes one statement and streams its result; `docs/http.md` and `/openapi.json` have the rest. A handler
//! reads its request, asks the [`Gate`], and writes the answer; what goes wrong is a [`Problem`](problem::Problem).

mod about;
mod accept;
mod body;
mod jobs;
mod kept;
mod problem;
mod queries;
mod query;
mod request;
pub(crate) mod rest;
mod spool;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, RawQuery, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use saequel_engine::ErrorKind;
use serde_json::{Value, json};
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{DefaultPredicate, NotForContentType, Predicate};
use tower_http::decompression::RequestDecompressionLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::body::Incoming;
use self::problem::Problem;
use self::request::{SqlBody, SqlRequest};
use crate::error::{Failure, Result};
use crate::gate::{Door, Gate, Visitor};
use crate::listener::Peer;

/// What handlers share.
#[derive(Clone)]
struct Http {
    gate: Gate,
    kept: Arc<kept::Kept>,
    jobs: Arc<jobs::Jobs>,
    openapi: Arc<str>,
}

/// The routes.
pub(crate) fn router(gate: Gate) -> Router {
    let (router, openapi) = OpenApiRouter::<Http>::new()
        .routes(routes!(sql_get, sql_post))
        .routes(routes!(influx_get, influx_post))
        .routes(routes!(roapi_post))
        .routes(routes!(queries::list, queries::post))
        .routes(routes!(queries::get, queries::delete))
        .routes(routes!(queries::cancel))
        .routes(routes!(queries::results))
        .routes(routes!(queries::events))
        .routes(routes!(jobs::import))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::get, jobs::delete))
        .routes(routes!(about::tables))
        .routes(routes!(about::table_schema))
        .routes(routes!(about::functions))
        .routes(routes!(about::health))
        .routes(routes!(about::ready))
        .routes(routes!(about::version))
        .routes(routes!(about::metrics))
        .routes(routes!(about::openapi))
        .routes(routes!(about::index))
        .split_for_parts();
    let http = Http {
        gate: gate.clone(),
        kept: Arc::default(),
        jobs: Arc::default(),
        openapi: described(&openapi).to_string().into(),
    };
    // Parquet is compressed already.
    let compressed = DefaultPredicate::new().and(NotForContentType::const_new("application/vnd.apache.parquet"));
    router
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(RequestDecompressionLayer::new().no_gzip().pass_through_unaccepted(true))
        .layer(middleware::from_fn_with_state(gate, only_from_here))
        .layer(middleware::from_fn(problem::finish))
        .layer(CompressionLayer::new().compress_when(compressed))
        .with_state(http)
}

/// The OpenAPI document with what holds for every route: errors, ways to say who asks, and the parameters of SQL.
fn described(openapi: &utoipa::openapi::OpenApi) -> Value {
    let mut document = serde_json::to_value(openapi).unwrap_or_default();
    document["info"] = json!({
        "title": "saequel",
        "version": env!("CARGO_PKG_VERSION"),
        "description": "Questions about what texts mean, in SQL.",
        "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
    });
    document["components"]["securitySchemes"] = json!({
        "bearer": { "type": "http", "scheme": "bearer" },
        "basic": { "type": "http", "scheme": "basic", "description": "any user name, the token as password" },
        "api_key": { "type": "apiKey", "in": "header", "name": "X-API-Key" },
    });
    // `{}`: without tokens, nobody needs one.
    document["security"] = json!([{ "bearer": [] }, { "basic": [] }, { "api_key": [] }, {}]);
    let error = |description: &str| {
        json!({
            "description": description,
            "content": { "application/json": { "schema": { "$ref": "#/components/schemas/ErrorBody" } } },
        })
    };
    let Some(paths) = document["paths"].as_object_mut() else { return document };
    for (path, operations) in paths {
        let Some(operations) = operations.as_object_mut() else { continue };
        for (method, operation) in operations {
            let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
            operation["operationId"] =
                std::iter::once(method.as_str()).chain(words).collect::<Vec<_>>().join("_").into();
            let open = operation["security"].as_array().is_some_and(|ways| ways.contains(&json!({})));
            let mut errors = vec![
                ("403", "only programs on this machine may ask; or the token may not do this"),
                ("405", "another method"),
            ];
            if !open {
                errors.extend([
                    ("400", "the request or the statement is wrong"),
                    ("401", "no token, or one that is unknown, revoked or expired"),
                    ("429", "too much at once: Retry-After says when to try again"),
                    ("500", "a mistake of saequel"),
                    ("503", "out of memory, out of disk, or stopping"),
                ]);
            }
            if operation.get("requestBody").is_some() {
                errors.extend([
                    ("408", "the body came too slowly"),
                    ("413", "the body is too large, after decompression"),
                    ("415", "a content type or encoding that is not understood"),
                ]);
            }
            if path.contains("sql") || path.contains("results") || path == "/v1/queries" {
                errors.extend([
                    ("404", "a table, feature or file does not exist"),
                    ("406", "nothing of Accept can be written"),
                    ("409", "there is a query of this id, or what is made exists"),
                    ("422", "the data does not allow it: a division by zero, a cast"),
                    ("501", "not to be had here"),
                    ("504", "took too long, or was cancelled"),
                ]);
            }
            if path.contains("corpora") {
                errors.extend([
                    ("404", "a column does not exist"),
                    ("409", "a key is there already"),
                    ("422", "bad rows"),
                ]);
            }
            if path.contains("tables") {
                errors.push(("504", "took too long, or was cancelled"));
            }
            for (status, description) in errors {
                if operation["responses"].get(status).is_none() {
                    operation["responses"][status] = error(description);
                }
            }
            if path.contains("sql") || path == "/v1/queries" && operation.get("requestBody").is_some() {
                sql_parameters(operation);
            }
        }
    }
    document
}

/// The parameters that every route with a statement has.
fn sql_parameters(operation: &mut Value) {
    let mut parameters: Vec<Value> = Vec::new();
    let names: &[(&str, &str, Value)] = &[
        ("q", "the statement; `sql` and `query` are other names", json!({ "type": "string" })),
        ("params", "JSON: an array gives $1, $2, ..., an object $name", json!({ "type": "string" })),
        (
            "format",
            "goes before Accept",
            json!({ "type": "string", "enum": crate::output::Format::ALL.map(crate::output::Format::as_str) }),
        ),
        ("query_id", "1 to 128 visible ASCII characters", json!({ "type": "string" })),
        ("timeout", "seconds", json!({ "type": "number", "exclusiveMinimum": 0 })),
        ("max_rows", "further rows are left out", json!({ "type": "integer", "minimum": 0 })),
        (
            "wait_end_of_query",
            "1: send nothing before the query has ended",
            json!({ "type": "string", "enum": ["0", "1"] }),
        ),
        ("db", "ignored: there is one database", json!({ "type": "string" })),
    ];
    for (name, description, schema) in names {
        parameters.push(json!({ "name": name, "in": "query", "description": description, "schema": schema }));
    }
    let header = json!({ "type": "string" });
    let description = "`respond-async`: answer 202 and keep the results";
    parameters.push(json!({ "name": "Prefer", "in": "header", "description": description, "schema": header }));
    operation["parameters"] = parameters.into();
}

/// Somebody whose token was looked at. Every handler that takes it refuses those who have none.
struct Who(Visitor);

impl FromRequestParts<Http> for Who {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, http: &Http) -> Result<Self, Problem> {
        let peer = parts.extensions.get::<Peer>().map(|peer| peer.0);
        let token = token(&parts.headers);
        let ends_work = parts.uri.path().starts_with("/v1/queries/")
            && (parts.method == Method::DELETE
                || (parts.method == Method::POST && parts.uri.path().ends_with("/cancel")));
        let principal = if ends_work {
            http.gate.recognise(token.as_deref(), Door::Http, peer)?
        } else {
            http.gate.authenticate(token.as_deref(), Door::Http, peer)?
        };
        // A link must not be able to change anything.
        let only_reads = parts.method == Method::GET || parts.method == Method::HEAD;
        Ok(Self(Visitor { only_reads, ..Visitor::new(principal, Door::Http, peer) }))
    }
}

/// The name in the path of a request.
struct Named(String);

impl FromRequestParts<Http> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, http: &Http) -> Result<Self, Problem> {
        let name = Path::<String>::from_request_parts(parts, http).await;
        name.map(|Path(name)| Self(name)).map_err(|rejection| {
            Problem::request(StatusCode::BAD_REQUEST, format!("request: {}", rejection.body_text()), "")
        })
    }
}

/// The token of a request: that of `Authorization: Bearer`, of `Authorization: Basic` as the password, or of `X-API-Key`.
pub(crate) fn token(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    if let Some(key) = text("x-api-key") {
        return Some(key.to_owned());
    }
    let (scheme, value) = text("authorization")?.split_once(' ')?;
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" | "token" => Some(value.trim().to_owned()),
        "basic" => {
            let decoded = BASE64_STANDARD_INDIFFERENT.decode(value.trim()).ok()?;
            let (_, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
            Some(password.to_owned())
        }
        _ => None,
    }
}

/// Base64 with or without padding: some clients leave it out.
const BASE64_STANDARD_INDIFFERENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Reads a request with a statement.
async fn read(http: &Http, url: Option<&str>, headers: &HeaderMap, body: Option<Body>) -> Result<SqlRequest, Problem> {
    let read = async {
        let body = match body {
            Some(body) => Some(Incoming::new(headers, body, http.gate.options().max_body_bytes as u64)?.all().await?),
            None => None,
        };
        request::parse(url, headers, body)
    };
    read.await.map_err(|problem| problem.of_query(request::header_id(headers).as_deref()))
}

/// Runs the statement of a request, now or later.
async fn sql(
    http: Http,
    visitor: Visitor,
    url: Option<String>,
    headers: HeaderMap,
    body: Option<Body>,
) -> Result<Response, Problem> {
    let request = read(&http, url.as_deref(), &headers, body).await?;
    let wants = |header: &str| header.split([',', ';']).any(|part| part.trim().eq_ignore_ascii_case("respond-async"));
    if headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok()).any(wants) {
        return queries::start(&http, visitor, request).await;
    }
    query::answer(&http.gate, &visitor, request).await
}

/// Run one statement that only reads
#[utoipa::path(
    get, path = "/v1/sql", tag = "sql",
    responses((status = 200, description = "the result, in the format that is asked for"))
)]
async fn sql_get(
    State(http): State<Http>,
    Who(visitor): Who,
    RawQuery(url): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    sql(http, visitor, url, headers, None).await
}

/// Run one statement
///
/// The result is streamed; a client that goes away ends the query. The header or trailer `X-Truncated` says whether rows
/// were left out because of a limit.
#[utoipa::path(
    post, path = "/v1/sql", tag = "sql",
    request_body(content(
        (String = "text/plain"), (String = "application/sql"), (SqlBody = "application/json"),
        (SqlBody = "application/x-www-form-urlencoded"),
    )),
    responses(
        (status = 200, description = "the result, in the format that is asked for"),
        (status = 202, body = queries::Accepted, description = "with `Prefer: respond-async`"),
    )
)]
async fn sql_post(
    State(http): State<Http>,
    Who(visitor): Who,
    RawQuery(url): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    sql(http, visitor, url, headers, Some(body)).await
}

/// The same for clients of InfluxDB 3
#[utoipa::path(
    get, path = "/api/v3/query_sql", tag = "sql",
    responses((status = 200, description = "the result, in the format that is asked for"))
)]
async fn influx_get(http: State<Http>, who: Who, url: RawQuery, headers: HeaderMap) -> Result<Response, Problem> {
    sql_get(http, who, url, headers).await
}

/// The same for clients of InfluxDB 3
#[utoipa::path(
    post, path = "/api/v3/query_sql", tag = "sql",
    request_body(content((SqlBody = "application/json"), (String = "text/plain"))),
    responses((status = 200, description = "the result, in the format that is asked for"))
)]
async fn influx_post(
    http: State<Http>,
    who: Who,
    url: RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    sql_post(http, who, url, headers, body).await
}

/// The same for clients of ROAPI
#[utoipa::path(
    post, path = "/api/sql", tag = "sql",
    request_body(content((String = "text/plain"))),
    responses((status = 200, description = "the result, in the format that is asked for"))
)]
async fn roapi_post(
    http: State<Http>,
    who: Who,
    url: RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    sql_post(http, who, url, headers, body).await
}

async fn not_found() -> Problem {
    Failure::new(ErrorKind::NotFound, "no such path").hint("GET / says what is where").into()
}

async fn wrong_method() -> Problem {
    let message = "this path does not take this method";
    Problem::request(StatusCode::METHOD_NOT_ALLOWED, message, "the header Allow says which it takes")
}

/// Refuses what a web page in the user's browser could send: a foreign name that resolves to this machine, or a request
/// from a foreign origin.
pub(crate) async fn only_from_here(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    if !gate.options().listen.ip().is_loopback() {
        return next.run(request).await; // there, tokens are needed
    }
    let headers = request.headers();
    let from_uri = request.uri().authority().map(|authority| authority.host().to_owned());
    let from_header = headers.get(header::HOST).and_then(|host| host.to_str().ok()).map(host_of);
    let host_is_here = from_header.map(str::to_owned).or(from_uri).is_none_or(|host| is_here(&host));
    let origin_is_here = headers.get(header::ORIGIN).is_none_or(|origin| {
        let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, rest)| host_of(rest));
        authority.is_some_and(is_here)
    });
    // Browsers send no origin with an image or a link, but this. A link to the first page does no harm.
    let is_foreign = headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site");
    if host_is_here && origin_is_here && (!is_foreign || request.uri().path() == "/") {
        return next.run(request).await;
    }
    let failure = Failure::new(ErrorKind::Denied, "request: only programs on this machine may ask")
        .hint("use http://localhost or http://127.0.0.1 in the address");
    Problem::from(failure).into_response()
}

/// `localhost` of `localhost:5434`, `::1` of `[::1]:5434`.
fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.split(':').next().unwrap_or(authority),
    }
}

fn is_here(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A response that tells a failure, for doors that share this port.
pub(crate) fn failed(failure: &Failure) -> Response {
    Problem::from(failure).into_response()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::Duration;

    use saequel_engine::{Engine, EngineOptions};

    use super::*;
    use crate::listener::Server;
    use crate::options::ServeOptions;

    #[tokio::test(flavor = "multi_thread")]
    async fn lines_that_end_early_say_why() {
        let folder = tempfile::tempdir().unwrap();
        drop(Engine::open(folder.path(), EngineOptions::default()).await.unwrap());
        let read_only = EngineOptions { read_only: true, ..EngineOptions::default() };
        let engine = Engine::open(folder.path(), read_only).await.unwrap();
        let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let options =
            ServeOptions { listen, postgres: None, timeout: Duration::from_secs(1), ..ServeOptions::default() };
        let server = Server::bind(engine, options).await.unwrap();
        let address = server.local_addr().unwrap();
        let running = tokio::spawn(server.run(std::future::pending()));
        let ask = move || {
            let statement = "SELECT value FROM generate_series(1, 1000000000)";
            let mut stream = TcpStream::connect(address).unwrap();
            write!(
                stream,
                "POST /v1/sql?format=jsonl HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: text/plain\r\n\
                 content-length: {}\r\n\r\n{statement}",
                statement.len()
            )
            .unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            String::from_utf8(answer).unwrap()
        };
        let answer = tokio::task::spawn_blocking(ask).await.unwrap();
        running.abort();
        assert!(answer.starts_with("HTTP/1.1 200"), "{}", &answer[..200]);
        let last = answer.trim_end().lines().next_back().unwrap();
        assert!(last.contains("57014") && last.contains("the query took longer than 1 s"), "{last}");
    }

    #[test]
    fn hosts_of_this_machine() {
        for host in ["localhost:5434", "127.0.0.1", "[::1]:80", "LOCALHOST", "127.8.0.1:1"] {
            assert!(is_here(host_of(host)), "{host}");
        }
        for host in ["example.org:5434", "192.168.0.7", "localhost.example.org", "", "[fe80::1]:80"] {
            assert!(!is_here(host_of(host)), "{host}");
        }
    }

    #[tokio::test]
    async fn every_route_is_described() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::open(folder.path(), EngineOptions::default()).await.unwrap();
        let gate = Gate::new(engine, ServeOptions::default()).unwrap();
        let request = axum::http::Request::get("/openapi.json").body(Body::empty()).unwrap();
        let response = tower::ServiceExt::oneshot(router(gate), request).await.unwrap();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let document: Value = serde_json::from_slice(&bytes).unwrap();
        let paths = document["paths"].as_object().unwrap();
        assert!(paths.len() >= 18, "{:?}", paths.keys());
        let ids: Vec<&str> = paths
            .values()
            .flat_map(|path| {
                path.as_object().unwrap().values().filter_map(|operation| operation["operationId"].as_str())
            })
            .collect();
        let different: std::collections::BTreeSet<&str> = ids.iter().copied().collect();
        assert!(ids.len() == different.len() && ids.contains(&"post_v1_sql"), "{ids:?}");
        let sql = &document["paths"]["/v1/sql"]["post"];
        assert!(sql["responses"].get("429").is_some() && sql["parameters"].as_array().unwrap().len() > 5, "{sql}");
        assert!(document["components"]["schemas"].get("ErrorBody").is_some());
    }
}
