//! PostgreSQL wire.

pub(crate) mod catalog;
pub(crate) mod settings;
mod types;

use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::gate::Gate;

/// The door; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Postgres {
    gate: Gate,
    stopping: CancellationToken,
}

impl Postgres {
    pub(crate) fn new(gate: Gate, stopping: CancellationToken) -> Self {
        Self { gate, stopping }
    }

    /// Serves one connection until it ends, or, once the server stops, until its running statement has ended.
    pub(crate) async fn serve(&self, stream: TcpStream, peer: SocketAddr, tls: Option<TlsAcceptor>) {
        let _ = (&self.gate, &self.stopping, stream, peer, tls);
    }
}
