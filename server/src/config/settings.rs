//! The table of all settings.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use saequel_engine::EngineOptions;

use super::value::{Kind, Value, show_bytes};
use crate::options::ServeOptions;

/// All that can be set.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// `tls` is made of the two paths below by [`Effective::serve_options`].
    pub(super) serve: ServeOptions,
    pub(super) tls_cert: Option<PathBuf>,
    pub(super) tls_key: Option<PathBuf>,
    pub(super) allow_dir: Vec<PathBuf>,
    pub(super) memory: usize,
    pub(super) threads: usize,
    pub(super) log_format: &'static str,
    pub(super) log_level: &'static str,
}

impl Settings {
    pub(super) fn new(db: &Path) -> Self {
        let EngineOptions { memory_limit_bytes, threads, .. } = EngineOptions::default();
        Self {
            serve: ServeOptions { tokens: Some(db.join("tokens.json")), ..ServeOptions::default() },
            tls_cert: None,
            tls_key: None,
            allow_dir: Vec::new(),
            memory: memory_limit_bytes,
            threads,
            log_format: "text",
            log_level: "info",
        }
    }
}

/// A place of [`Settings`].
pub(super) trait Field {
    /// Takes a value of the setting's kind; another changes nothing, which a test rules out for each setting.
    fn put(&mut self, value: Value);
    /// The value; `None` if there is none.
    fn get(&self) -> Option<Value>;
}

/// Implements [`Field`] for a type that one kind of value fits, and for its option.
macro_rules! field {
    ($type:ty, $value:ident) => {
        impl Field for $type {
            fn put(&mut self, value: Value) {
                if let Value::$value(value) = value
                    && let Ok(value) = value.try_into()
                {
                    *self = value;
                }
            }

            fn get(&self) -> Option<Value> {
                Some(Value::$value(self.clone().try_into().ok()?))
            }
        }
    };
    ($type:ty, $value:ident, or nothing) => {
        field!($type, $value);

        impl Field for Option<$type> {
            fn put(&mut self, value: Value) {
                match value {
                    Value::Nothing => *self = None,
                    Value::$value(value) => *self = value.try_into().ok(),
                    _ => {}
                }
            }

            fn get(&self) -> Option<Value> {
                self.as_ref()?.get()
            }
        }
    };
}

field!(SocketAddr, Address, or nothing);
field!(PathBuf, Path, or nothing);
field!(Vec<PathBuf>, Paths);
field!(bool, Flag);
field!(u32, Number);
field!(u64, Number, or nothing);
field!(usize, Number, or nothing);
field!(Duration, Seconds);
field!(&'static str, Word);

/// One setting.
pub(super) struct Setting {
    /// Key of the file; with `-` for `_` the option, in capitals behind `SAEQUEL_` the environment variable.
    pub(super) key: &'static str,
    pub(super) section: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    /// What holds if nothing is set, where the default is no value.
    pub(super) unset: &'static str,
    /// An option of every command, which clap reads from the environment too.
    pub(super) global: bool,
    pub(super) field: fn(&mut Settings) -> &mut dyn Field,
}

const DAY: f64 = 86_400.0;
const MANY: u64 = 1_000_000_000;

const DOORS: &str = "Doors";
const SAFETY: &str = "Safety";
const LIMITS: &str = "Limits";
const MEMORY: &str = "Memory and threads";
const LOGS: &str = "Logs";

/// A setting that has a default.
const fn setting(
    section: &'static str,
    key: &'static str,
    kind: Kind,
    help: &'static str,
    field: fn(&mut Settings) -> &mut dyn Field,
) -> Setting {
    Setting { key, section, help, kind, unset: "", global: false, field }
}

/// A setting that has none: then `unset` holds.
const fn optional(
    section: &'static str,
    key: &'static str,
    kind: Kind,
    unset: &'static str,
    help: &'static str,
    field: fn(&mut Settings) -> &mut dyn Field,
) -> Setting {
    Setting { unset, ..setting(section, key, kind, help, field) }
}

/// An option of every command.
const fn global(
    key: &'static str,
    kind: Kind,
    help: &'static str,
    field: fn(&mut Settings) -> &mut dyn Field,
) -> Setting {
    Setting { global: true, ..setting(MEMORY, key, kind, help, field) }
}

/// All settings, in the order of the help.
pub(super) const SETTINGS: &[Setting] = &[
    setting(
        DOORS,
        "listen",
        Kind::Address,
        "Address and port of HTTP, Flight SQL and MCP; port 0 takes a free one and prints it",
        |all| &mut all.serve.listen,
    ),
    setting(
        DOORS,
        "postgres",
        Kind::AddressOrOff,
        "Address and port of the PostgreSQL wire, or off; port 0 takes a free one and prints it",
        |all| &mut all.serve.postgres,
    ),
    optional(DOORS, "tls_cert", Kind::File, "none", "Certificate of TLS with its chain, PEM; for every door", |all| {
        &mut all.tls_cert
    }),
    optional(DOORS, "tls_key", Kind::File, "none", "Private key of TLS, PEM", |all| &mut all.tls_key),
    setting(
        DOORS,
        "plain_text",
        Kind::Flag,
        "Listen beyond this machine without TLS: for a proxy in front that has it",
        |all| &mut all.serve.plain_text,
    ),
    setting(SAFETY, "tokens", Kind::File, "File of the tokens", |all| &mut all.serve.tokens),
    setting(
        SAFETY,
        "write",
        Kind::Flag,
        "Let tokens with the scope `write` (without tokens: everybody on this machine) change the database",
        |all| &mut all.serve.write,
    ),
    setting(
        SAFETY,
        "allow_dir",
        Kind::Folders,
        "Folder whose files statements may read; several times for several",
        |all| &mut all.allow_dir,
    ),
    setting(LIMITS, "timeout", Kind::Seconds(1.0, DAY), "Seconds that a query may take, at most a day", |all| {
        &mut all.serve.timeout
    }),
    setting(
        LIMITS,
        "max_queries",
        Kind::Number(1, 10_000),
        "Queries that may run at the same time, at most 10,000",
        |all| &mut all.serve.max_queries,
    ),
    optional(
        LIMITS,
        "max_queries_per_token",
        Kind::NumberOrNone(1, 10_000),
        "none",
        "Queries of one token that may run or wait at the same time",
        |all| &mut all.serve.max_queries_per_token,
    ),
    setting(
        LIMITS,
        "max_waiting",
        Kind::Number(0, 100_000),
        "Queries that may wait for their turn; further ones are refused",
        |all| &mut all.serve.max_waiting,
    ),
    setting(LIMITS, "max_wait", Kind::Seconds(0.0, DAY), "Seconds that a query may wait for its turn", |all| {
        &mut all.serve.max_wait
    }),
    setting(
        LIMITS,
        "requests_per_minute",
        Kind::Number(1, 10_000_000),
        "Requests that one token (without tokens: one address) may make in a minute",
        |all| &mut all.serve.requests_per_minute,
    ),
    setting(
        LIMITS,
        "max_connections",
        Kind::Number(1, 100_000),
        "Connections that may be open at the same time at each address; further ones wait",
        |all| &mut all.serve.max_connections,
    ),
    setting(LIMITS, "max_body", Kind::Bytes, "Largest request, e.g. 1MiB", |all| &mut all.serve.max_body_bytes),
    setting(LIMITS, "max_import", Kind::Bytes, "Largest body of an import, e.g. 1GiB", |all| {
        &mut all.serve.max_import_bytes
    }),
    optional(
        LIMITS,
        "max_rows",
        Kind::NumberOrNone(1, 1_000_000 * MANY),
        "none",
        "Rows of a result at most; further ones are left out",
        |all| &mut all.serve.max_rows,
    ),
    setting(
        LIMITS,
        "keep_results",
        Kind::Seconds(1.0, 30.0 * DAY),
        "Seconds that results of asynchronous queries are kept",
        |all| &mut all.serve.keep_results,
    ),
    setting(
        LIMITS,
        "drain",
        Kind::Seconds(0.0, DAY),
        "Seconds that running queries get to finish when the server is told to stop",
        |all| &mut all.serve.drain,
    ),
    global("memory", Kind::Bytes, "Memory for queries, e.g. 4GiB", |all| &mut all.memory),
    optional(
        MEMORY,
        "query_memory",
        Kind::BytesOrNone,
        "half of --memory",
        "Memory that one query may hold, e.g. 512MiB",
        |all| &mut all.serve.query_memory_bytes,
    ),
    global("threads", Kind::Number(1, 10_000), "Threads for reading and queries", |all| &mut all.threads),
    setting(
        LOGS,
        "log_format",
        Kind::Word(&["text", "json"], "text|json"),
        "Form of the log, which goes to standard error",
        |all| &mut all.log_format,
    ),
    setting(
        LOGS,
        "log_level",
        Kind::Word(&["off", "error", "warn", "info", "debug"], "LEVEL"),
        "What is logged: warn leaves out the queries that are not slow",
        |all| &mut all.log_level,
    ),
    optional(
        LOGS,
        "audit_log",
        Kind::File,
        "none",
        "File that says who ran what, one JSON object a line; SIGHUP opens it anew",
        |all| &mut all.serve.audit_log,
    ),
    setting(
        LOGS,
        "slow_query",
        Kind::Seconds(0.0, DAY),
        "Queries that take more seconds are logged as warnings, with their statement",
        |all| &mut all.serve.slow_query,
    ),
];

impl Setting {
    pub(super) fn option(&self) -> &'static str {
        /// Without its `string` feature, clap takes static names only.
        static OPTIONS: LazyLock<BTreeMap<&'static str, String>> =
            LazyLock::new(|| SETTINGS.iter().map(|setting| (setting.key, setting.key.replace('_', "-"))).collect());
        OPTIONS.get(self.key).map_or(self.key, String::as_str)
    }

    pub(super) fn variable(&self) -> String {
        format!("SAEQUEL_{}", self.key.to_ascii_uppercase())
    }

    /// The default as it is shown in the help.
    pub(super) fn default_shown(&self) -> String {
        if self.key == "tokens" {
            return "tokens.json in the database folder".to_owned();
        }
        let shown = (self.field)(&mut Settings::new(Path::new(""))).get();
        let shown = shown.filter(|value| *value != Value::Paths(Vec::new()) && *value != Value::Flag(false));
        shown.map_or_else(
            || if self.unset.is_empty() { "none" } else { self.unset }.to_owned(),
            |value| self.show(&value),
        )
    }

    /// The value as one writes it after the option.
    fn show(&self, value: &Value) -> String {
        match (value, self.kind) {
            (Value::Number(bytes), Kind::Bytes | Kind::BytesOrNone) => show_bytes(*bytes),
            (value, _) => value.to_string(),
        }
    }

    /// The value as TOML.
    pub(super) fn show_toml(&self, value: &Value) -> String {
        let text = |text: String| toml::Value::String(text).to_string();
        match value {
            Value::Flag(_) | Value::Seconds(_) => value.to_string(),
            Value::Number(_) if matches!(self.kind, Kind::Number(..) | Kind::NumberOrNone(..)) => value.to_string(),
            Value::Paths(paths) => {
                let paths = paths.iter().map(|path| text(path.display().to_string()));
                format!("[{}]", paths.collect::<Vec<_>>().join(", "))
            }
            value => text(self.show(value)),
        }
    }
}
