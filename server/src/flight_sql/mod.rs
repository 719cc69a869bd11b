//! Arrow Flight SQL, on the port of HTTP.

use axum::Router;

use crate::gate::Gate;

/// The gRPC routes.
pub(crate) fn routes(gate: Gate) -> Router {
    let _ = gate;
    Router::new()
}
