//! Arrow Flight SQL, on the port of HTTP: how ADBC, JDBC and Arrow's own clients ask.
//!
//! `GetFlightInfo` plans a statement and gives a sealed [ticket]; `DoGet` runs what is in it. Prepared statements are kept
//! here for a while ([prepared]); of everything else nothing is kept.

mod actions;
mod metadata;
mod parameters;
mod prepared;
mod service;
mod sql_info;
mod stream;
mod ticket;

use arrow_flight::flight_service_server::FlightServiceServer;
use axum::Router;
use axum::extract::Request;
use axum::http::Version;
use axum::middleware::{self, Next};
use axum::response::Response;
use tonic::Status;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};

use crate::error::Failure;
use crate::gate::Gate;

/// Largest message that is taken, in bytes: parameters, statements, tickets.
const MAX_REQUEST_BYTES: usize = 16 << 20;

/// The gRPC routes.
pub(crate) fn routes(gate: Gate) -> Router {
    let service = FlightServiceServer::new(service::Flight::new(gate)).max_decoding_message_size(MAX_REQUEST_BYTES);
    Router::new()
        .route_service("/arrow.flight.protocol.FlightService/{method}", service)
        .layer(middleware::from_fn(only_http2))
}

/// Refuses what is no gRPC. A web page can only send HTTP/1 to this machine without TLS, and so gets no answer here.
async fn only_http2(request: Request, next: Next) -> Response {
    if request.version() == Version::HTTP_2 {
        return next.run(request).await;
    }
    status(&Failure::usage("Flight SQL: expected gRPC over HTTP/2")).into_http()
}

/// A failure as gRPC tells it: message and way out as text, and again as `hint`, `kind` and `sqlstate` for programs.
fn status(failure: &Failure) -> Status {
    let wire = failure.wire();
    let mut message = failure.line();
    let mut metadata = MetadataMap::new();
    let mut add = |key: &'static str, value: &str| {
        // Only visible ASCII can be sent.
        let value: String = value.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect();
        if let Ok(value) = AsciiMetadataValue::try_from(value) {
            metadata.insert(AsciiMetadataKey::from_static(key), value);
        }
    };
    add("kind", wire.name);
    add("sqlstate", wire.sqlstate);
    if let Some(hint) = failure.way_out() {
        add("hint", hint);
        message = format!("{message}\nhint: {hint}");
    }
    Status::with_metadata(wire.grpc, message, metadata)
}

/// What is not there, with another way.
fn unsupported(message: &str) -> Failure {
    Failure::usage(message).shown_as(crate::error::UNSUPPORTED)
}

/// A message that cannot be read.
fn malformed(what: &str, error: impl std::fmt::Display) -> Failure {
    Failure::usage(format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use saequel_engine::ErrorKind;
    use tonic::Code;

    use super::*;

    #[test]
    fn failures_keep_their_state_and_hint() {
        let told = status(&Failure::new(ErrorKind::NotFound, "corpus 'x' not found").hint("SHOW CORPORA – all"));
        assert_eq!(told.code(), Code::NotFound);
        assert_eq!(told.message(), "corpus 'x' not found\nhint: SHOW CORPORA – all");
        assert_eq!(told.metadata().get("sqlstate").unwrap(), "42P01");
        assert_eq!(told.metadata().get("hint").unwrap(), "SHOW CORPORA ? all");
        assert_eq!(status(&unsupported("no")).code(), Code::Unimplemented);
    }
}
