//! How a database is served.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Options of [`crate::serve`].
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Address of HTTP and Flight SQL; port 0 takes a free one. Default 127.0.0.1:5434.
    pub listen: SocketAddr,
    /// Address of the PostgreSQL wire; default 127.0.0.1:5433. `None`: that door stays shut.
    pub postgres: Option<SocketAddr>,
    /// Certificate and key of TLS, for every door; default none.
    pub tls: Option<TlsFiles>,
    /// Listen beyond this machine without TLS: for a proxy in front that has it. Default false.
    pub plain_text: bool,
    /// File of the tokens; default `tokens.json` in the database folder. Without a token, whoever reaches a loopback address
    /// may do what the server may.
    pub tokens: Option<PathBuf>,
    /// Whether anything may be written at all; default false.
    pub write: bool,
    /// Time that a query may take, planning and streaming together; default 5 minutes. A client may ask for less.
    pub timeout: Duration,
    /// Queries that may run at the same time; default 8.
    pub max_queries: usize,
    /// Queries of one token that may run at the same time; default as `max_queries`.
    pub max_queries_per_token: Option<usize>,
    /// Queries that may wait for their turn; further ones are refused (HTTP 429, SQLSTATE 53300); default 64.
    pub max_waiting: usize,
    /// Time that a query may wait for its turn; default 10 seconds.
    pub max_wait: Duration,
    /// Requests that one token (without tokens: one address) may make in a minute; default 6,000.
    pub requests_per_minute: u32,
    /// Connections that may be open at the same time at each address; default 512.
    pub max_connections: usize,
    /// Largest request body in bytes, after decompression; default 1 MiB.
    pub max_body_bytes: usize,
    /// Largest body of an import in bytes, after decompression; default 1 GiB.
    pub max_import_bytes: u64,
    /// Rows of a result at most; default none.
    pub max_rows: Option<u64>,
    /// Memory that one query may hold, in bytes; default half of the engine's limit.
    pub query_memory_bytes: Option<usize>,
    /// Time that results of asynchronous queries are kept; default 1 hour.
    pub keep_results: Duration,
    /// Time that running queries get to finish after the server was told to stop; default 10 seconds.
    pub drain: Duration,
    /// File that says who ran what, one JSON object a line; default none.
    pub audit_log: Option<PathBuf>,
    /// Queries that take longer are logged as warnings; default 10 seconds.
    pub slow_query: Duration,
}

/// Where certificate and key of TLS lie, in PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate, and those that vouch for it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 5434)),
            postgres: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 5433))),
            tls: None,
            plain_text: false,
            tokens: None,
            write: false,
            timeout: Duration::from_secs(300),
            max_queries: 8,
            max_queries_per_token: None,
            max_waiting: 64,
            max_wait: Duration::from_secs(10),
            requests_per_minute: 6000,
            max_connections: 512,
            max_body_bytes: 1 << 20,
            max_import_bytes: 1 << 30,
            max_rows: None,
            query_memory_bytes: None,
            keep_results: Duration::from_secs(3600),
            drain: Duration::from_secs(10),
            audit_log: None,
            slow_query: Duration::from_secs(10),
        }
    }
}
