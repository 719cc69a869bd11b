//! Model context protocol: at `/mcp` over streamable HTTP, and over standard input and output.

use axum::Router;
use tokio_util::sync::CancellationToken;

use crate::gate::Gate;

/// The route `/mcp`.
pub(crate) fn routes(gate: Gate, stopping: CancellationToken) -> Router {
    let _ = (gate, stopping);
    Router::new()
}
