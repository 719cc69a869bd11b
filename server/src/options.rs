//! How a database is served.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Options of [`crate::serve`].
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Address to listen on; must be a loopback address, because there is no authentication. Default 127.0.0.1:5434;
    /// port 0 takes a free one.
    pub listen: SocketAddr,
    /// Time that a query may take, planning and streaming together; default 5 minutes.
    pub timeout: Duration,
    /// Queries that may run at the same time; further ones are refused with status 429; default 8.
    pub max_queries: usize,
    /// Largest request body in bytes; default 1 MiB.
    pub max_body_bytes: usize,
    /// Time that running queries get to finish after the server was told to stop; default 10 seconds.
    pub drain: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 5434)),
            timeout: Duration::from_secs(300),
            max_queries: 8,
            max_body_bytes: 1 << 20,
            drain: Duration::from_secs(10),
        }
    }
}
