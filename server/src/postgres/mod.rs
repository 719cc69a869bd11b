//! PostgreSQL wire.
//!
//! `startup` knows how a connection begins (TLS, SCRAM), `handler` what is answered to which message, `portal` how a
//! statement is run and its rows are sent, `statement` which statements the door answers itself, `types`, `value` and
//! `parameter` how values look on the wire, `catalog` what clients look for in `pg_catalog`.
//!
//! The loop is ours and not pgwire's: while a statement runs, its client is listened to, so that one that goes away ends
//! it; cancelling reaches the sending of rows; and statements that run when the server stops are finished first.

mod cancel;
mod catalog;
mod copy;
mod error;
mod frame;
mod handler;
mod parameter;
mod portal;
mod scram;
mod settings;
mod startup;
mod statement;
mod types;
mod value;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::gate::Gate;

/// The door; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Postgres {
    gate: Gate,
    stopping: CancellationToken,
    lines: Arc<cancel::Lines>,
}

impl Postgres {
    pub(crate) fn new(gate: Gate, stopping: CancellationToken) -> Self {
        Self { gate, stopping, lines: Arc::default() }
    }

    /// Serves one connection until it ends, or, once the server stops, until its running statement has ended.
    pub(crate) async fn serve(&self, stream: TcpStream, peer: SocketAddr, tls: Option<TlsAcceptor>) {
        if let Some(started) = startup::start(&self.gate, &self.lines, stream, peer, tls).await {
            handler::Connection::new(self.gate.clone(), self.stopping.clone(), started, peer).serve().await;
        }
    }
}
