//! Numbers for Prometheus, in the OpenMetrics text format.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::SystemTime;

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

/// Labels of the program.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfBuild {
    version: &'static str,
}

/// Labels of what belongs to a door.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfDoor {
    /// `http`, `postgres`, `flight`, `mcp`.
    pub door: &'static str,
}

type Made = fn() -> Histogram;

/// All numbers. Their names begin with `saequel_`, those of the process as everywhere with `process_`.
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
    process: Process,
}

/// Numbers of the process, under the names that Prometheus's own clients give them.
#[derive(Debug, Default)]
struct Process {
    resident: Gauge<i64, AtomicI64>,
    cpu_seconds: Counter<f64, AtomicU64>,
    open_files: Gauge<i64, AtomicI64>,
}

impl Metrics {
    /// All at zero.
    pub(super) fn new(limits: Limits) -> Self {
        let made: Made = || Histogram::new(exponential_buckets(0.001, 4.0, 10));
        let mut metrics = Self {
            registry: Registry::default(),
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
            process: Process::default(),
        };
        // A gauge: collectors that know the older text format alone refuse the type `info`.
        let build = Family::<OfBuild, Gauge<i64, AtomicI64>>::default();
        build.get_or_create(&OfBuild { version: env!("CARGO_PKG_VERSION") }).set(1);
        let registry = metrics.registry.sub_registry_with_prefix("saequel");
        registry.register("build_info", "The running program; always 1", build);
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
        let limit = |value: usize| {
            let gauge = Gauge::<i64, AtomicI64>::default();
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            gauge
        };
        registry.register("queries_running_limit", "Queries that may run (max_queries)", limit(limits.running));
        registry.register("queries_waiting_limit", "Queries that may wait (max_waiting)", limit(limits.waiting));
        registry.register_with_unit(
            "query_memory_limit",
            "Memory that queries may hold together (memory)",
            Unit::Bytes,
            limit(limits.memory_bytes),
        );
        // A counter that is missing until it first counts hides its first event from `rate` and `increase`.
        for door in ["http", "postgres", "flight", "mcp"] {
            for outcome in ["done", "failed", "cancelled"] {
                let _ = metrics.queries.get_or_create(&OfQuery { door, outcome });
            }
            let of = OfDoor { door };
            let _ = (metrics.seconds.get_or_create(&of), metrics.rows.get_or_create(&of));
            let _ = metrics.connections.get_or_create(&of);
        }
        metrics.process.register(&mut metrics.registry);
        metrics
    }

    /// The text that `/metrics` answers; its media type is
    /// `application/openmetrics-text; version=1.0.0; charset=utf-8`.
    pub(super) fn text(&self, query_memory_bytes: usize) -> String {
        self.query_memory.set(i64::try_from(query_memory_bytes).unwrap_or(i64::MAX));
        self.process.look();
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

/// What numbers are compared with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) running: usize,
    pub(super) waiting: usize,
    pub(super) memory_bytes: usize,
}

impl Process {
    /// Registers what this system tells; other systems than Linux tell nothing.
    fn register(&self, registry: &mut Registry) {
        if resident_bytes().is_none() {
            return;
        }
        let memory = self.resident.clone();
        registry.register_with_unit("process_resident_memory", "Memory of the process", Unit::Bytes, memory);
        let cpu = self.cpu_seconds.clone();
        registry.register_with_unit("process_cpu", "Processor time of the process", Unit::Seconds, cpu);
        registry.register("process_open_fds", "Open files and connections", self.open_files.clone());
        if let Some(most) = most_files() {
            let limit = Gauge::<i64, AtomicI64>::default();
            limit.set(most);
            registry.register("process_max_fds", "Files and connections that may be open", limit);
        }
        if let Ok(now) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            let start = Gauge::<f64, AtomicU64>::default();
            start.set(now.as_secs_f64());
            registry.register_with_unit("process_start_time", "Start of the server, Unix time", Unit::Seconds, start);
        }
    }

    fn look(&self) {
        self.resident.set(resident_bytes().unwrap_or(0));
        if let Some(seconds) = cpu_seconds() {
            self.cpu_seconds.inner().store(seconds.to_bits(), Ordering::Relaxed);
        }
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        self.open_files.set(i64::try_from(open).unwrap_or(i64::MAX));
    }
}

/// Resident memory of this process.
fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: i64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Time that this process has computed.
fn cpu_seconds() -> Option<f64> {
    /// Ticks in a second, as Linux shows them to programs on every machine.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(')')?; // the program's name before it may hold spaces
    let mut times = fields.split_whitespace().skip(11).map_while(|ticks| ticks.parse::<f64>().ok());
    Some((times.next()? + times.next()?) / TICKS)
}

/// Limit of open files.
fn most_files() -> Option<i64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_units_are_those_that_prometheus_expects() {
        let metrics = Metrics::new(Limits { running: 8, waiting: 64, memory_bytes: 1 << 30 });
        metrics.queries.get_or_create(&OfQuery { door: "http", outcome: "done" }).inc();
        metrics.seconds.get_or_create(&OfDoor { door: "http" }).observe(0.5);
        let text = metrics.text(4096);
        for line in [
            "saequel_queries_total{door=\"http\",outcome=\"done\"} 1",
            "saequel_queries_total{door=\"mcp\",outcome=\"failed\"} 0",
            "saequel_query_duration_seconds_count{door=\"http\"} 1",
            "saequel_query_memory_bytes 4096",
            "saequel_query_memory_limit_bytes 1073741824",
            "saequel_queries_running_limit 8",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
            let [_, _, name, kind] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            assert!(name.starts_with("saequel_") || name.starts_with("process_"), "{line}");
            // In this format `_total` belongs to the sample, not to the name.
            assert!(!["_total", "_count", "_sum", "_bucket"].iter().any(|end| name.ends_with(end)), "{line}");
            let sample = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
            assert!(text.lines().any(|line| line.starts_with(&sample)), "{sample} has no sample");
            assert!(text.contains(&format!("# HELP {name} ")), "{line}");
        }
        if cfg!(target_os = "linux") {
            let of = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
                line.and_then(|value| value.parse::<f64>().ok()).unwrap_or_else(|| panic!("{name} in\n{text}"))
            };
            assert!(of("process_resident_memory_bytes") > 1e6 && of("process_open_fds") >= 3.0);
            assert!(of("process_cpu_seconds_total") >= 0.0 && of("process_start_time_seconds") > 1.6e9);
        }
    }
}
