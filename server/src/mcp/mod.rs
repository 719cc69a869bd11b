//! Model context protocol: at `/mcp` over streamable HTTP, and over standard input and output.
//!
//! Agents ask through [`tools`], which make statements; [`answer`] runs them through the gate and cuts what comes back to
//! what a model can read. Everything reads only, whatever the token may do.

mod answer;
mod arguments;
mod prompts;
mod resources;
mod server;
mod sessions;
mod tools;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use rmcp::ServiceExt;
use rmcp::service::{QuitReason, ServerInitializeError};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use saequel_engine::ErrorKind;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::{Failure, Result};
use crate::gate::{Door, Gate, Principal, Visitor};
use crate::http;
use crate::listener::Peer;
use crate::signals::stop_signal;
use server::McpServer;
use sessions::Sessions;

/// Time after which a session that asks nothing ends: an agent may wait for a person that long.
const IDLE: Duration = Duration::from_secs(3600);
/// Time that the last answers get to leave before their streams end.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// The route `/mcp`. Must be called within the runtime.
pub(crate) fn routes(gate: Gate, stopping: CancellationToken) -> Router {
    let calls = Arc::new(watch::Sender::new(()));
    let ended = CancellationToken::new();
    tokio::spawn(end(stopping, Arc::clone(&calls), ended.clone()));
    let mut manager = LocalSessionManager::default();
    // Nothing of a session moves while a query runs that nobody follows.
    manager.session_config.keep_alive = Some(IDLE + gate.options().timeout);
    let manager = Arc::new(manager);
    let sessions = Arc::new(Sessions::new(Arc::clone(&manager)));
    let config = StreamableHttpServerConfig::default()
        .with_cancellation_token(ended)
        .with_max_request_body_bytes(gate.options().max_body_bytes)
        .disable_allowed_hosts(); // `only_from_here` looks at host and origin
    let server = McpServer::new(gate.clone(), None, calls);
    let service = StreamableHttpService::new(move || Ok(server.clone()), manager, config);
    Router::new()
        .route_service("/mcp", service)
        .layer(middleware::from_fn_with_state((gate.clone(), sessions), admit))
        .layer(middleware::from_fn_with_state(gate, http::only_from_here))
}

/// Ends sessions and streams when the server stops and the last call has been answered.
async fn end(stopping: CancellationToken, calls: Arc<watch::Sender<()>>, ended: CancellationToken) {
    stopping.cancelled().await;
    calls.closed().await;
    tokio::time::sleep(LAST_WORDS).await;
    ended.cancel();
}

/// Lets in who has a token, to sessions of their own.
async fn admit(State((gate, sessions)): State<(Gate, Arc<Sessions>)>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    let token = http::token(request.headers());
    let principal = match gate.authenticate(token.as_deref(), Door::Mcp, peer) {
        Ok(principal) => principal,
        Err(failure) => return refused(&failure),
    };
    let owner = principal.name.clone();
    if let Some(id) = session_of(request.headers())
        && !sessions.is_of(&id, &owner)
    {
        // As for a session that never was: the client makes a new one.
        return (StatusCode::NOT_FOUND, "Not Found: Session not found").into_response();
    }
    request.extensions_mut().insert(Visitor::new(principal, Door::Mcp, peer));
    let response = next.run(request).await;
    if let Some(id) = session_of(response.headers()) {
        sessions.add(&id, &owner).await;
    }
    response
}

fn session_of(headers: &header::HeaderMap) -> Option<String> {
    headers.get("mcp-session-id").and_then(|id| id.to_str().ok()).map(str::to_owned)
}

fn refused(failure: &Failure) -> Response {
    let mut response = http::failed(failure);
    if response.status() == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Bearer realm=\"saequel\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

/// Serves whoever started this program, over standard input and output, until the input ends or a signal comes.
///
/// # Errors
/// [`ErrorKind::Io`] if the other side does not speak the protocol.
pub(crate) async fn serve_stdio(gate: Gate) -> Result<()> {
    let visitor = Visitor::new(Principal::owner(), Door::Mcp, None);
    let server = McpServer::new(gate.clone(), Some(visitor), Arc::new(watch::Sender::new(())));
    let serving = async {
        let running = match server.serve(rmcp::transport::stdio()).await {
            Ok(running) => running,
            // Somebody looked whether the program starts.
            Err(ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
            Err(error) => return Err(broken(&error)),
        };
        match running.waiting().await {
            Ok(QuitReason::Closed | QuitReason::Cancelled) => Ok(()),
            Ok(reason) => Err(broken(&format!("{reason:?}"))),
            Err(error) => Err(broken(&error)),
        }
    };
    let outcome = tokio::select! {
        outcome = serving => outcome,
        () = stop_signal() => Ok(()),
    };
    gate.stop();
    gate.cancel_all();
    outcome
}

/// What is wrong below the protocol.
fn broken(error: &impl std::fmt::Display) -> Failure {
    Failure::new(ErrorKind::Io, format!("mcp: {error}"))
        .hint("this command is started by an agent; docs/mcp.md says how it is added to one")
}

#[cfg(test)]
mod tests {
    use saequel_engine::{Engine, EngineOptions};

    use super::*;
    use crate::options::ServeOptions;

    #[tokio::test(flavor = "multi_thread")]
    async fn agents_write_nothing_whatever_their_token_may_do() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::open(folder.path(), EngineOptions::default()).await.unwrap();
        let gate = Gate::new(engine, ServeOptions { write: true, ..ServeOptions::default() }).unwrap();
        let writes = |door| gate.caller(&Visitor::new(Principal::anonymous(true), door, None)).unwrap().writes("x");
        assert!(writes(Door::Http) && !writes(Door::Mcp));
    }
}
