//! SQL over HTTP: read-only, this machine only.
//!
//! `POST /v1/sql` takes one statement and streams its result; `GET /health` says that the server lives. Errors are JSON:
//! `{"error": {"kind", "sqlstate", "message", "hint"}}`.

mod query;
mod request;

use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use saequel_engine::ErrorKind;

use crate::error::{Failure, Result};
use crate::gate::{Door, Gate, Visitor};
use crate::listener::Peer;

/// The routes.
pub(crate) fn router(gate: Gate) -> Router {
    let max_body = gate.options().max_body_bytes;
    Router::new()
        .route("/v1/sql", post(sql))
        .route("/health", get(health))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(max_body))
        .layer(middleware::from_fn_with_state(gate.clone(), only_from_here))
        .with_state(gate)
}

/// `POST /v1/sql`
async fn sql(
    State(gate): State<Gate>,
    peer: Option<Extension<Peer>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => {
            let too_large = rejection.status() == StatusCode::PAYLOAD_TOO_LARGE;
            let failure = match too_large {
                true => Failure::usage(format!("request: body is larger than {} bytes", gate.options().max_body_bytes)),
                false => Failure::usage(format!("request: {}", rejection.body_text())),
            };
            return error(rejection.status(), &failure);
        }
    };
    match request::parse(query.as_deref(), &headers, &body) {
        Ok(request) => match visitor(&gate, &headers, peer.map(|Extension(peer)| peer)) {
            Ok(visitor) => query::answer(&gate, &visitor, request).await,
            Err(failure) => failed(&failure),
        },
        Err(request::Rejected { status, failure }) => error(status, &failure),
    }
}

/// Who asks: the token is that of `Authorization: Bearer`, of `Authorization: Basic` as the password, or of `X-API-Key`.
fn visitor(gate: &Gate, headers: &HeaderMap, peer: Option<Peer>) -> Result<Visitor> {
    let peer = peer.map(|peer| peer.0);
    let token = token(headers);
    let principal = gate.authenticate(token.as_deref(), Door::Http, peer)?;
    Ok(Visitor::new(principal, Door::Http, peer))
}

/// The token of a request.
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

/// `GET /health`
async fn health(State(gate): State<Gate>) -> Response {
    if let Err(error) = gate.engine().refresh().await {
        return failed(&error.into());
    }
    let corpora = gate.engine().catalog().corpora.len();
    Json(serde_json::json!({
        "status": "ok",
        "version": env!("CARGO_PKG_VERSION"),
        "corpora": corpora,
    }))
    .into_response()
}

async fn not_found() -> Response {
    error(
        StatusCode::NOT_FOUND,
        &Failure::new(ErrorKind::NotFound, "no such path; there are POST /v1/sql and GET /health"),
    )
}

async fn wrong_method() -> Response {
    let failure = Failure::usage("wrong method; there are POST /v1/sql and GET /health");
    error(StatusCode::METHOD_NOT_ALLOWED, &failure)
}

/// Refuses what a web page in the user's browser could send: a foreign name that resolves to this machine, or a request
/// from a foreign origin.
pub(crate) async fn only_from_here(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    if !gate.options().listen.ip().is_loopback() {
        return next.run(request).await; // there, tokens are needed
    }
    let from_uri = request.uri().authority().map(|authority| authority.host().to_owned());
    let from_header = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).map(host_of);
    let host_is_here = from_header.map(str::to_owned).or(from_uri).is_none_or(|host| is_here(&host));
    let origin_is_here = request.headers().get(header::ORIGIN).is_none_or(|origin| {
        let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, rest)| host_of(rest));
        authority.is_some_and(is_here)
    });
    if host_is_here && origin_is_here {
        return next.run(request).await;
    }
    let failure = Failure::new(ErrorKind::Denied, "request: only programs on this machine may ask")
        .hint("use http://localhost or http://127.0.0.1 in the address");
    error(StatusCode::FORBIDDEN, &failure)
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

/// The JSON of a failure.
fn error_json(failure: &Failure) -> serde_json::Value {
    let wire = failure.wire();
    let mut error = serde_json::json!({
        "kind": wire.name,
        "sqlstate": wire.sqlstate,
        "message": failure.line(),
    });
    if let Some(hint) = failure.way_out() {
        error["hint"] = hint.into();
    }
    serde_json::json!({ "error": error })
}

/// A response that tells a failure.
fn error(status: StatusCode, failure: &Failure) -> Response {
    let mut response = (status, Json(error_json(failure))).into_response();
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// The status that the failure's kind asks for.
pub(crate) fn failed(failure: &Failure) -> Response {
    let status = StatusCode::from_u16(failure.wire().http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    error(status, failure)
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

    #[test]
    fn errors_have_kind_state_message_and_hint() {
        let failure = Failure::new(ErrorKind::NotFound, "corpus 'x' not found").hint("SHOW CORPORA");
        assert_eq!(failed(&failure).status(), StatusCode::NOT_FOUND);
        assert_eq!(
            error_json(&failure),
            serde_json::json!({"error": {
                "kind": "not_found", "sqlstate": "42P01", "message": "corpus 'x' not found", "hint": "SHOW CORPORA"
            }})
        );
        let busy = error(StatusCode::TOO_MANY_REQUESTS, &failure);
        assert_eq!(busy.headers()[header::RETRY_AFTER], "1");
    }
}
