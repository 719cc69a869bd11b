//! Numbers for Prometheus, in the OpenMetrics text format.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Labels of a query.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfQuery {
    pub(super) door: &'static str,
    pub(super) outcome: &'static str,
}

/// Labels of what belongs to a door.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfDoor {
    /// `http`, `postgres`, `flight`, `mcp`.
    pub door: &'static str,
}

type Made = fn() -> Histogram;

/// All numbers. Their names begin with `saequel_`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub(super) queries: Family<OfQuery, Counter<u64, AtomicU64>>,
    pub(super) seconds: Family<OfDoor, Histogram, Made>,
    pub(super) rows: Family<OfDoor, Counter<u64, AtomicU64>>,
    pub(super) running: Gauge<i64, AtomicI64>,
    pub(super) waiting: Gauge<i64, AtomicI64>,
    pub(super) refused_logins: Counter<u64, AtomicU64>,
    /// Open connections.
    pub connections: Family<OfDoor, Gauge<i64, AtomicI64>>,
    /// Documents imported through a door.
    pub documents: Counter<u64, AtomicU64>,
    /// Tokens read by imports through a door.
    pub tokens: Counter<u64, AtomicU64>,
    query_memory: Gauge<i64, AtomicI64>,
    resident: Gauge<i64, AtomicI64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let made: Made = || Histogram::new(exponential_buckets(0.001, 4.0, 10));
        let mut metrics = Self {
            registry: Registry::with_prefix("saequel"),
            queries: Family::default(),
            seconds: Family::new_with_constructor(made),
            rows: Family::default(),
            running: Gauge::default(),
            waiting: Gauge::default(),
            refused_logins: Counter::default(),
            connections: Family::default(),
            documents: Counter::default(),
            tokens: Counter::default(),
            query_memory: Gauge::default(),
            resident: Gauge::default(),
        };
        let registry = &mut metrics.registry;
        registry.register("queries", "Queries that ended", metrics.queries.clone());
        registry.register_with_unit(
            "query_duration",
            "Time of a query, waiting and streaming included",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        registry.register("rows", "Rows sent", metrics.rows.clone());
        registry.register("queries_running", "Queries that run", metrics.running.clone());
        registry.register("queries_waiting", "Queries that wait for their turn", metrics.waiting.clone());
        registry.register("refused_logins", "Tokens that were refused", metrics.refused_logins.clone());
        registry.register("connections", "Open connections", metrics.connections.clone());
        registry.register("documents_imported", "Documents imported over the network", metrics.documents.clone());
        registry.register("tokens_encoded", "Tokens read by imports over the network", metrics.tokens.clone());
        registry.register_with_unit(
            "query_memory",
            "Memory that queries hold, as far as it is accounted for",
            Unit::Bytes,
            metrics.query_memory.clone(),
        );
        registry.register_with_unit(
            "process_resident_memory",
            "Memory of the process",
            Unit::Bytes,
            metrics.resident.clone(),
        );
        metrics
    }
}

impl Metrics {
    /// The text that `/metrics` answers; its media type is
    /// `application/openmetrics-text; version=1.0.0; charset=utf-8`.
    pub(super) fn text(&self, query_memory_bytes: usize) -> String {
        self.query_memory.set(i64::try_from(query_memory_bytes).unwrap_or(i64::MAX));
        self.resident.set(resident_bytes().unwrap_or(0));
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

/// Resident memory of this process, where the system tells.
fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: i64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}
