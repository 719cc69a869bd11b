//! SQL over HTTP: read-only, this machine only.
//!
//! `POST /v1/sql` takes one statement and streams its result; `GET /health` says that the server lives. Errors are JSON:
//! `{"error": {"kind", "sqlstate", "message", "hint"}}`.

mod query;
mod request;

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use saequel_engine::{Engine, ErrorKind};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::error::{Failure, Result, io_failure};
use crate::options::ServeOptions;

/// What handlers share.
struct Shared {
    engine: Engine,
    options: ServeOptions,
    permits: Arc<Semaphore>,
}

/// A server that listens but does not answer yet.
pub struct Server {
    listener: TcpListener,
    router: Router,
    options: ServeOptions,
}

impl Server {
    /// Takes the address.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] for an address that other machines can reach or an engine that can write,
    /// [`ErrorKind::Io`] if the address is taken.
    pub async fn bind(engine: Engine, options: ServeOptions) -> Result<Self> {
        if !options.listen.ip().is_loopback() {
            let message =
                format!("listen: {} can be reached from other machines; expected a loopback address", options.listen);
            return Err(Failure::new(ErrorKind::Denied, message).hint(
                "there is no authentication yet: use 127.0.0.1 or [::1], and `ssh -L 5434:localhost:5434 HOST` from elsewhere",
            ));
        }
        if !engine.options().read_only {
            return Err(Failure::new(ErrorKind::Denied, "serve: expected an engine that is opened read-only"));
        }
        let listener = TcpListener::bind(options.listen).await.map_err(|error| {
            let failure = Failure::new(ErrorKind::Io, format!("listen: {}: {error}", options.listen));
            match error.kind() {
                std::io::ErrorKind::AddrInUse => failure.hint("choose another port with --listen 127.0.0.1:PORT"),
                _ => failure,
            }
        })?;
        let permits = Arc::new(Semaphore::new(options.max_queries));
        let shared = Arc::new(Shared { engine, options: options.clone(), permits });
        let router = Router::new()
            .route("/v1/sql", post(sql))
            .route("/health", get(health))
            .fallback(not_found)
            .method_not_allowed_fallback(wrong_method)
            .layer(DefaultBodyLimit::max(options.max_body_bytes))
            .layer(middleware::from_fn(only_from_here))
            .with_state(shared);
        Ok(Self { listener, router, options })
    }

    /// The address, with the port that was found for port 0.
    ///
    /// # Errors
    /// If the operating system does not tell.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        self.listener.local_addr().map_err(|error| io_failure("listen", &error))
    }

    /// Answers until `stop` is done; then takes no new request and lets running ones finish for a while.
    ///
    /// # Errors
    /// If the listener breaks.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        let (stopping, stopped) = tokio::sync::oneshot::channel();
        let server = axum::serve(self.listener, self.router).with_graceful_shutdown(async move {
            stop.await;
            let _ = stopping.send(());
        });
        let drain = self.options.drain;
        tokio::select! {
            outcome = server.into_future() => outcome.map_err(|error| io_failure("serve", &error)),
            () = async { let _ = stopped.await; tokio::time::sleep(drain).await } => Ok(()),
        }
    }
}

/// Serves `engine` until SIGINT or SIGTERM.
///
/// # Errors
/// As [`Server::bind`] and [`Server::run`].
pub async fn serve(engine: Engine, options: ServeOptions) -> Result<()> {
    Server::bind(engine, options).await?.run(stop_signal()).await
}

/// Ends with the first SIGINT or SIGTERM.
pub(crate) async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let interrupt = tokio::signal::ctrl_c();
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => {
            let _ = interrupt.await;
        }
    }
}

/// `POST /v1/sql`
async fn sql(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => {
            let too_large = rejection.status() == StatusCode::PAYLOAD_TOO_LARGE;
            let failure = match too_large {
                true => Failure::usage(format!("request: body is larger than {} bytes", shared.options.max_body_bytes)),
                false => Failure::usage(format!("request: {}", rejection.body_text())),
            };
            return error(rejection.status(), &failure);
        }
    };
    match request::parse(query.as_deref(), &headers, &body) {
        Ok(request) => query::answer(&shared.engine, &shared.options, &shared.permits, request).await,
        Err(request::Rejected { status, failure }) => error(status, &failure),
    }
}

/// `GET /health`
async fn health(State(shared): State<Arc<Shared>>) -> Response {
    if let Err(error) = shared.engine.refresh().await {
        return failed(&error.into());
    }
    let corpora = shared.engine.catalog().corpora.len();
    Json(serde_json::json!({
        "status": "ok",
        "version": env!("CARGO_PKG_VERSION"),
        "corpora": corpora,
        "running_queries": shared.options.max_queries - shared.permits.available_permits(),
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
async fn only_from_here(request: Request, next: Next) -> Response {
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
fn failed(failure: &Failure) -> Response {
    let status = StatusCode::from_u16(failure.wire().http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    error(status, failure)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::Duration;

    use saequel_engine::EngineOptions;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn lines_that_end_early_say_why() {
        let folder = tempfile::tempdir().unwrap();
        drop(Engine::open(folder.path(), EngineOptions::default()).await.unwrap());
        let read_only = EngineOptions { read_only: true, ..EngineOptions::default() };
        let engine = Engine::open(folder.path(), read_only).await.unwrap();
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let options = ServeOptions { listen, timeout: Duration::from_secs(1), ..ServeOptions::default() };
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
