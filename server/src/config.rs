//! Settings of `saequel serve`. Each stands in [`SETTINGS`] once, and is from there an option of the command line
//! (`--max-queries`), an environment variable (`SAEQUEL_MAX_QUERIES`) and a key of a file in TOML (`max_queries`).
//!
//! An option beats the environment, which beats the file, which beats the default.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use saequel_engine::EngineOptions;
use toml::de::{DeTable, DeValue};

use crate::args::parse_bytes;
use crate::error::{Failure, Result, io_failure};
use crate::options::{ServeOptions, TlsFiles};

/// The file that is read from the database folder, if it is there and no other is named.
pub(crate) const FILE: &str = "saequel.toml";
/// Names another file.
pub(crate) const FILE_VARIABLE: &str = "SAEQUEL_CONFIG";

/// Variables that are no settings of the server, without `SAEQUEL_`.
const OTHER_VARIABLES: &[&str] = &["db", "config", "log", "cache", "history", "token", "bin"];

/// All that can be set.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// `tls` is made of the two paths below by [`Effective::serve_options`].
    serve: ServeOptions,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    allow_dir: Vec<PathBuf>,
    memory: usize,
    threads: usize,
    log_format: &'static str,
    log_level: &'static str,
}

impl Settings {
    fn new(db: &Path) -> Self {
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

/// What a setting takes.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Address,
    /// `off`: that door stays shut.
    AddressOrOff,
    File,
    Folders,
    Flag,
    Number(u64, u64),
    /// `none`: no limit.
    NumberOrNone(u64, u64),
    Seconds(f64, f64),
    Bytes,
    BytesOrNone,
    /// These, and how the help shows them.
    Word(&'static [&'static str], &'static str),
}

/// A value that was understood.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Address(SocketAddr),
    Path(PathBuf),
    Paths(Vec<PathBuf>),
    Flag(bool),
    Number(u64),
    Seconds(Duration),
    Word(&'static str),
    /// `off`, `none`.
    Nothing,
}

/// A place of [`Settings`].
trait Field {
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
struct Setting {
    /// Key of the file; with `-` for `_` the option, in capitals behind `SAEQUEL_` the environment variable.
    key: &'static str,
    section: &'static str,
    help: &'static str,
    kind: Kind,
    /// What holds if nothing is set, where the default is no value.
    unset: &'static str,
    /// An option of every command, which clap reads from the environment too.
    global: bool,
    field: fn(&mut Settings) -> &mut dyn Field,
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
const SETTINGS: &[Setting] = &[
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
    fn option(&self) -> &'static str {
        /// Without its `string` feature, clap takes static names only.
        static OPTIONS: LazyLock<BTreeMap<&'static str, String>> =
            LazyLock::new(|| SETTINGS.iter().map(|setting| (setting.key, setting.key.replace('_', "-"))).collect());
        OPTIONS.get(self.key).map_or(self.key, String::as_str)
    }

    fn variable(&self) -> String {
        format!("SAEQUEL_{}", self.key.to_ascii_uppercase())
    }

    /// The default as it is shown in the help.
    fn default_shown(&self) -> String {
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
    fn show_toml(&self, value: &Value) -> String {
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

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Address(address) => write!(f, "{address}"),
            Value::Path(path) => write!(f, "{}", path.display()),
            Value::Paths(paths) => {
                let paths = paths.iter().map(|path| path.display().to_string());
                write!(f, "{}", paths.collect::<Vec<_>>().join(":"))
            }
            Value::Flag(flag) => write!(f, "{flag}"),
            Value::Number(number) => write!(f, "{number}"),
            Value::Seconds(duration) => write!(f, "{}", duration.as_secs_f64()),
            Value::Word(word) => write!(f, "{word}"),
            Value::Nothing => write!(f, "none"),
        }
    }
}

/// `2GiB`, or the plain number where no unit fits exactly.
fn show_bytes(bytes: u64) -> String {
    [("GiB", 30), ("MiB", 20), ("KiB", 10)]
        .into_iter()
        .find(|(_, shift)| bytes > 0 && bytes.trailing_zeros() >= *shift)
        .map_or_else(|| bytes.to_string(), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

impl Kind {
    /// Name of the value in the help.
    fn value_name(self) -> &'static str {
        match self {
            Kind::Address => "ADDRESS",
            Kind::AddressOrOff => "ADDRESS|off",
            Kind::File => "FILE",
            Kind::Folders => "DIR",
            Kind::Flag => "true|false",
            Kind::Number(..) => "N",
            Kind::NumberOrNone(..) => "N|none",
            Kind::Seconds(..) => "SECONDS",
            Kind::Bytes => "SIZE",
            Kind::BytesOrNone => "SIZE|none",
            Kind::Word(_, name) => name,
        }
    }

    /// What is expected, in words.
    fn expected(self) -> String {
        match self {
            Kind::Address => "an address and a port such as 127.0.0.1:5434".to_owned(),
            Kind::AddressOrOff => "an address and a port such as 127.0.0.1:5433, or off".to_owned(),
            Kind::File => "the path of a file".to_owned(),
            Kind::Folders => "paths of folders".to_owned(),
            Kind::Flag => "true or false".to_owned(),
            Kind::Number(least, most) => format!("a whole number from {least} to {most}"),
            Kind::NumberOrNone(least, most) => format!("a whole number from {least} to {most}, or none"),
            Kind::Seconds(least, most) => format!("a number of seconds from {least} to {most}"),
            Kind::Bytes => "a size such as 512MiB or 4GiB".to_owned(),
            Kind::BytesOrNone => "a size such as 512MiB or 4GiB, or none".to_owned(),
            Kind::Word(words, _) => format!("one of {}", words.join(", ")),
        }
    }

    /// Reads what stands after an option, or in the environment.
    fn read(self, text: &str) -> Option<Value> {
        let off = |word: &str| text.eq_ignore_ascii_case(word).then_some(Value::Nothing);
        match self {
            Kind::Address => text.parse().ok().map(Value::Address),
            Kind::AddressOrOff => off("off").or_else(|| text.parse().ok().map(Value::Address)),
            Kind::File => (!text.is_empty()).then(|| Value::Path(text.into())),
            Kind::Folders => {
                let folders = text.split(':').filter(|folder| !folder.is_empty());
                Some(Value::Paths(folders.map(PathBuf::from).collect()))
            }
            Kind::Flag => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Some(Value::Flag(true)),
                "false" | "no" | "off" | "0" => Some(Value::Flag(false)),
                _ => None,
            },
            Kind::Number(least, most) => {
                let number = text.parse().ok().filter(|number| (least..=most).contains(number));
                number.map(Value::Number)
            }
            Kind::NumberOrNone(least, most) => off("none").or_else(|| Kind::Number(least, most).read(text)),
            Kind::Seconds(least, most) => {
                let seconds = text.parse::<f64>().ok().filter(|seconds| (least..=most).contains(seconds))?;
                Duration::try_from_secs_f64(seconds).ok().map(Value::Seconds)
            }
            Kind::Bytes => parse_bytes(text).ok().map(|bytes| Value::Number(bytes as u64)),
            Kind::BytesOrNone => off("none").or_else(|| Kind::Bytes.read(text)),
            Kind::Word(words, _) => words.iter().find(|word| word.eq_ignore_ascii_case(text)).copied().map(Value::Word),
        }
    }

    /// Reads a value of the file: a number where one is expected, text where that is.
    fn read_toml(self, value: &DeValue<'_>) -> Option<Value> {
        match (self, value) {
            (Kind::Flag, DeValue::Boolean(flag)) => Some(Value::Flag(*flag)),
            (Kind::Folders, DeValue::Array(values)) => {
                let path = |value: &DeValue<'_>| value.as_str().filter(|path| !path.is_empty()).map(PathBuf::from);
                Some(Value::Paths(values.iter().map(|value| path(value.get_ref())).collect::<Option<_>>()?))
            }
            (
                Kind::Number(..) | Kind::NumberOrNone(..) | Kind::Seconds(..) | Kind::Bytes | Kind::BytesOrNone,
                DeValue::Integer(number),
            ) => {
                let number = u64::from_str_radix(number.as_str(), number.radix()).ok()?;
                self.read(&number.to_string())
            }
            (Kind::Seconds(..), DeValue::Float(number)) => self.read(number.as_str()),
            (Kind::Address | Kind::AddressOrOff | Kind::File | Kind::Word(..), DeValue::String(text)) => {
                self.read(text)
            }
            (Kind::Bytes | Kind::BytesOrNone, DeValue::String(text)) => self.read(text),
            (Kind::NumberOrNone(..), DeValue::String(text)) => self.read(text).filter(|value| *value == Value::Nothing),
            _ => None,
        }
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Default,
    File { path: PathBuf, line: usize },
    Environment(String),
    Option(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => write!(f, "default"),
            Source::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Source::Environment(variable) => write!(f, "{variable}"),
            Source::Option(option) => write!(f, "--{option}"),
        }
    }
}

/// What was said on the command line, by key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given(BTreeMap<&'static str, (Value, Source)>);

impl Given {
    /// As `--postgres off`.
    pub(crate) fn no_postgres(&mut self) {
        self.0.insert("postgres", (Value::Nothing, Source::Option("no-postgres".to_owned())));
    }
}

impl clap::Args for Given {
    fn augment_args(command: Command) -> Command {
        command.args(SETTINGS.iter().filter(|setting| !setting.global).map(|setting| {
            let kind = setting.kind;
            let read = move |text: &str| kind.read(text).ok_or_else(|| format!("expected {}", kind.expected()));
            let arg = match kind {
                // A path need not be UTF-8, and may hold a colon.
                Kind::File => Arg::new(setting.key).value_parser(PathBufValueParser::new().map(Value::Path)),
                Kind::Folders => Arg::new(setting.key)
                    .value_parser(PathBufValueParser::new().map(|folder| Value::Paths(vec![folder]))),
                _ => Arg::new(setting.key).value_parser(read),
            };
            let arg = arg
                .long(setting.option())
                .value_name(kind.value_name())
                .help(match kind {
                    Kind::Flag => setting.help.to_owned(),
                    _ => format!("{} [default: {}]", setting.help, setting.default_shown()),
                })
                .help_heading(setting.section);
            match kind {
                // `--write`, and `--write=false` against a file that says otherwise.
                Kind::Flag => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
                Kind::Folders => arg.action(ArgAction::Append),
                _ => arg,
            }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Self::default();
        for setting in SETTINGS {
            let value = if setting.global {
                let number = matches.try_get_one::<usize>(setting.key).ok().flatten();
                number.map(|number| Value::Number(*number as u64))
            } else if matches!(setting.kind, Kind::Folders) {
                matches.get_many::<Value>(setting.key).map(|values| {
                    let folders = values.flat_map(|value| match value {
                        Value::Paths(paths) => paths.clone(),
                        _ => Vec::new(),
                    });
                    Value::Paths(folders.collect())
                })
            } else {
                matches.get_one::<Value>(setting.key).cloned()
            };
            let Some(value) = value else { continue };
            let source = match matches.value_source(setting.key) {
                Some(ValueSource::EnvVariable) => Source::Environment(setting.variable()),
                _ => Source::Option(setting.option().to_owned()),
            };
            given.0.insert(setting.key, (value, source));
        }
        Ok(given)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.extend(Self::from_arg_matches(matches)?.0);
        Ok(())
    }
}

/// The settings in force, and where each comes from.
#[derive(Debug, Clone)]
pub(crate) struct Effective {
    settings: Settings,
    sources: BTreeMap<&'static str, Source>,
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
    /// What looks like a mistake and stops nothing.
    pub(crate) warnings: Vec<String>,
}

impl Effective {
    /// Brings together options, environment, file and defaults for the database in `db`.
    ///
    /// # Errors
    /// For a value or a key that is none, and if a file that was named is missing.
    pub(crate) fn new(
        given: &Given,
        file: Option<&Path>,
        db: &Path,
        environment: &BTreeMap<OsString, OsString>,
    ) -> Result<Self> {
        let db = absolute(db)?;
        let mut all = Self { settings: Settings::new(&db), sources: BTreeMap::new(), file: None, warnings: Vec::new() };
        let named = file.map(Path::to_path_buf).or_else(|| {
            let named = environment.get(&OsString::from(FILE_VARIABLE)).filter(|path| !path.is_empty());
            named.map(PathBuf::from)
        });
        let path = absolute(named.as_deref().unwrap_or(&db.join(FILE)))?;
        match std::fs::read(&path) {
            Ok(bytes) => {
                all.read_file(&path, &bytes)?;
                all.file = Some(path);
            }
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_failure(format!("config: {}", path.display()), &error)),
        }
        let here = std::env::current_dir().map_err(|error| io_failure("current folder", &error))?;
        all.read_environment(environment, &here)?;
        for (key, (value, source)) in &given.0 {
            if let Some(setting) = SETTINGS.iter().find(|setting| setting.key == *key) {
                all.put(setting, value.clone(), source.clone(), &here);
            }
        }
        match (&all.settings.tls_cert, &all.settings.tls_key) {
            (Some(_), None) => Err(all.missing("tls_cert", "tls_key")),
            (None, Some(_)) => Err(all.missing("tls_key", "tls_cert")),
            _ => Ok(all),
        }
    }

    /// A certificate without its key, or the other way round.
    fn missing(&self, given: &str, missing: &str) -> Failure {
        let source = self.sources.get(given).unwrap_or(&Source::Default);
        Failure::usage(format!("serve: {given} ({source}) is given, and {missing} is not"))
            .hint("TLS takes both: --tls-cert FILE --tls-key FILE")
    }

    fn put(&mut self, setting: &Setting, mut value: Value, source: Source, base: &Path) {
        let join = |path: &mut PathBuf| *path = clean(&base.join(&*path));
        match &mut value {
            Value::Path(path) => join(path),
            Value::Paths(paths) => paths.iter_mut().for_each(join),
            _ => {}
        }
        (setting.field)(&mut self.settings).put(value);
        self.sources.insert(setting.key, source);
    }

    /// Reads the file. Relative paths in it start at its folder, wherever the server is started.
    fn read_file(&mut self, path: &Path, bytes: &[u8]) -> Result<()> {
        let wrong =
            |line: usize, what: String| Failure::usage(format!("config: {}, line {line}: {what}", path.display()));
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let line = line_of(bytes, error.valid_up_to());
            wrong(line, "expected TOML in UTF-8".to_owned())
        })?;
        let table = DeTable::parse(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(bytes, span.start));
            wrong(line, format!("no TOML: {}", error.message().replace('\n', ", ")))
                .hint("expected lines such as `timeout = 60` and `listen = \"127.0.0.1:5434\"`")
        })?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        let mut entries: Vec<_> = table.get_ref().iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let line = line_of(bytes, key.span().start);
            let name = key.get_ref().as_ref();
            let Some(setting) = SETTINGS.iter().find(|setting| setting.key == name) else {
                return Err(wrong(line, no_key(name)).hint(keys_hint()));
            };
            let Some(read) = setting.kind.read_toml(value.get_ref()) else {
                let got = text.get(value.span()).unwrap_or_default().lines().next().unwrap_or_default();
                let expected = setting.kind.expected();
                let what = value.get_ref().type_str();
                return Err(wrong(line, format!("{name}: expected {expected}, got the {what} {got}")));
            };
            self.put(setting, read, Source::File { path: path.to_path_buf(), line }, folder);
        }
        Ok(())
    }

    fn read_environment(&mut self, environment: &BTreeMap<OsString, OsString>, here: &Path) -> Result<()> {
        for setting in SETTINGS.iter().filter(|setting| !setting.global) {
            let variable = setting.variable();
            // An empty variable is one that is not set, as compose files leave them.
            let Some(text) = environment.get(&OsString::from(&variable)).filter(|text| !text.is_empty()) else {
                continue;
            };
            let value = match (setting.kind, text.to_str()) {
                (Kind::File, _) => Some(Value::Path(text.into())), // paths need not be UTF-8
                (kind, Some(text)) => kind.read(text.trim()),
                (_, None) => None,
            };
            let value = value.ok_or_else(|| {
                let expected = setting.kind.expected();
                Failure::usage(format!("{variable}: expected {expected}, got '{}'", text.to_string_lossy()))
            })?;
            self.put(setting, value, Source::Environment(variable), here);
        }
        for name in environment.keys().filter_map(|name| name.to_str()) {
            let Some(rest) = name.strip_prefix("SAEQUEL_") else { continue };
            let rest = rest.to_ascii_lowercase();
            if !OTHER_VARIABLES.contains(&rest.as_str())
                && !SETTINGS.iter().any(|setting| setting.key == rest)
                && let Some(near) = nearest(&rest)
            {
                let near = near.to_ascii_uppercase();
                self.warnings.push(format!("{name} sets nothing; did you mean SAEQUEL_{near}?"));
            }
        }
        Ok(())
    }

    /// How the database is served.
    pub(crate) fn serve_options(&self) -> ServeOptions {
        let Settings { tls_cert, tls_key, serve, .. } = self.settings.clone();
        let tls = tls_cert.zip(tls_key).map(|(certificate, key)| TlsFiles { certificate, key });
        ServeOptions { tls, ..serve }
    }

    /// How the database is opened.
    pub(crate) fn engine_options(&self) -> EngineOptions {
        let Settings { tls_cert, tls_key, serve, .. } = &self.settings;
        let secrets = [tls_cert, tls_key, &serve.tokens, &serve.audit_log];
        EngineOptions {
            secret_files: secrets.into_iter().flatten().cloned().collect(),
            read_only: !self.settings.serve.write,
            memory_limit_bytes: self.settings.memory,
            threads: self.settings.threads,
            allowed_dirs: Some(self.settings.allow_dir.clone()),
            ..EngineOptions::default()
        }
    }

    /// Whether the log is JSON.
    pub(crate) fn logs_json(&self) -> bool {
        self.settings.log_format == "json"
    }

    /// `off`, `error`, `warn`, `info`, `debug`.
    pub(crate) fn log_level(&self) -> &'static str {
        self.settings.log_level
    }

    /// A configuration file that says the same, with a remark behind each line where its value comes from.
    pub(crate) fn to_toml(&self) -> String {
        let mut settings = self.settings.clone();
        let mut out = String::from("# Settings of `saequel serve`, as they are in force.\n");
        let mut section = "";
        for setting in SETTINGS {
            if setting.section != section {
                section = setting.section;
                let _ = writeln!(out, "\n# {section}");
            }
            let source = self.sources.get(setting.key).unwrap_or(&Source::Default);
            let _ = match (setting.field)(&mut settings).get() {
                Some(value) => writeln!(out, "{} = {}  # {source}", setting.key, setting.show_toml(&value)),
                None if matches!(setting.kind, Kind::AddressOrOff) => {
                    writeln!(out, "{} = \"off\"  # {source}", setting.key)
                }
                None => writeln!(out, "# {}: {}  # {source}", setting.key, setting.unset),
            };
        }
        out
    }
}

/// Line of a byte, from 1.
fn line_of(bytes: &[u8], at: usize) -> usize {
    bytes.iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| io_failure(path.display(), &error))
}

/// Without `.` parts; `..` stays, since a link may stand before it.
fn clean(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

fn no_key(name: &str) -> String {
    match nearest(name) {
        Some(near) => format!("there is no key '{name}'; did you mean '{near}'?"),
        None => format!("there is no key '{name}'"),
    }
}

fn keys_hint() -> String {
    let keys: Vec<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
    format!("keys are {}; the database folder is named with --db or SAEQUEL_DB", keys.join(", "))
}

/// The key that was probably meant.
fn nearest(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase().replace('-', "_");
    let likeness = |setting: &&Setting| strsim::jaro_winkler(&name, setting.key);
    let best = SETTINGS.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(&best) > 0.87).then_some(best.key)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use saequel_engine::ErrorKind;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        given: Given,
    }

    fn given(options: &[&str]) -> Given {
        Cli::try_parse_from([&["serve"], options].concat()).unwrap().given
    }

    fn environment(variables: &[(&str, &str)]) -> BTreeMap<OsString, OsString> {
        variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
    }

    fn with_file(text: &str, variables: &[(&str, &str)], options: &[&str]) -> Result<Effective> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), text).unwrap();
        Effective::new(&given(options), None, folder.path(), &environment(variables))
    }

    #[test]
    fn an_option_beats_the_environment_which_beats_the_file() {
        let text = "timeout = 20\nmax_queries = 20\nmax_waiting = 20\nmax_body = \"2MiB\"\n";
        let variables = [("SAEQUEL_MAX_QUERIES", "30"), ("SAEQUEL_TIMEOUT", "30"), ("SAEQUEL_MAX_ROWS", "")];
        let all = with_file(text, &variables, &["--timeout", "40.5"]).unwrap();
        let options = all.serve_options();
        assert_eq!(options.timeout, Duration::from_millis(40_500));
        assert_eq!((options.max_queries, options.max_waiting, options.max_rows), (30, 20, None));
        assert_eq!((options.max_body_bytes, options.max_connections), (2 << 20, 512));
        let shown = all.to_toml();
        for line in [
            "timeout = 40.5  # --timeout",
            "max_queries = 30  # SAEQUEL_MAX_QUERIES",
            "max_connections = 512  # default",
        ] {
            assert!(shown.contains(line), "{shown}");
        }
        assert!(shown.contains("saequel.toml, line 3"), "{shown}");
    }

    #[test]
    fn what_is_printed_is_a_file_that_says_the_same() {
        let text = "postgres = \"off\"\nwrite = true\nallow_dir = [\"data\", \"/tmp/more\"]\nmax_rows = 10\n\
                    audit_log = \"audit.jsonl\"\nquery_memory = 1000\nlog_format = \"json\"\ndrain = 0.25\n";
        let all = with_file(text, &[], &[]).unwrap();
        let again = with_file(&all.to_toml(), &[], &[]).unwrap();
        assert_eq!(format!("{:?}", all.settings), format!("{:?}", again.settings));
        assert!(all.settings.allow_dir[0].is_absolute() && all.settings.allow_dir[0].ends_with("data"));
        let nothing = with_file("", &[], &[]).unwrap();
        assert_eq!(nothing.sources, BTreeMap::new());
        assert!(with_file(&nothing.to_toml(), &[], &[]).is_ok());
    }

    #[test]
    fn every_setting_takes_its_kind_of_value() {
        for setting in SETTINGS {
            let (text, options): (&str, &[&str]) = match setting.kind {
                Kind::Address | Kind::AddressOrOff => ("[::1]:7", &["[::1]:7"]),
                Kind::File | Kind::Folders => ("/x/y", &["/x/y"]),
                Kind::Flag => ("true", &[]),
                Kind::Number(least, _) if least > 7 => panic!("{}", setting.key),
                Kind::Number(..) | Kind::NumberOrNone(..) | Kind::Seconds(..) => ("7", &["7"]),
                Kind::Bytes | Kind::BytesOrNone => ("7MiB", &["7MiB"]),
                Kind::Word(words, _) => (words[1], &[words[1]]),
            };
            let wanted = setting.kind.read(text).unwrap();
            let variable = setting.variable();
            let ways = if setting.global {
                let quoted = if matches!(setting.kind, Kind::Bytes) { "memory = \"7MiB\"" } else { "threads = 7" };
                vec![with_file(quoted, &[], &[])]
            } else {
                let option = format!("--{}", setting.option());
                let mut options = options.to_vec();
                options.insert(0, &option);
                vec![with_file("", &[(&variable, text)], &[]), with_file("", &[], &options)]
            };
            for all in ways {
                let mut all = all.or_else(|error| match setting.key {
                    // Each of the two needs the other.
                    "tls_cert" | "tls_key" => {
                        let both = [("SAEQUEL_TLS_CERT", text), ("SAEQUEL_TLS_KEY", text)];
                        with_file("", &both, &[])
                    }
                    _ => Err(error),
                });
                let settings = &mut all.as_mut().unwrap().settings;
                assert_eq!((setting.field)(settings).get(), Some(wanted.clone()), "{}", setting.key);
            }
        }
    }

    #[test]
    fn mistakes_name_file_line_and_what_was_meant() {
        for (text, says) in [
            ("# first\nmax_querys = 3\n", "line 2: there is no key 'max_querys'; did you mean 'max_queries'?"),
            ("max-queries = 3\n", "line 1: there is no key 'max-queries'; did you mean 'max_queries'?"),
            (
                "\n\ntimeout = \"soon\"\n",
                "line 3: timeout: expected a number of seconds from 1 to 86400, got the string",
            ),
            ("timeout = 0\n", "line 1: timeout: expected"),
            ("max_queries = -1\n", "got the integer -1"),
            ("write = \"true\"\n", "write: expected true or false, got the string \"true\""),
            ("listen = \"localhost\"\n", "such as 127.0.0.1:5434, got the string \"localhost\""),
            ("listen = \n", "line 1: no TOML"),
            ("write = true\nwrite = true\n", "line 2: no TOML"),
            ("[limits]\ntimeout = 3\n", "line 1: there is no key 'limits'"),
            ("log_format = \"xml\"\n", "expected one of text, json, got the string \"xml\""),
            ("tls_cert = \"a.pem\"\n", "tls_key is not"),
        ] {
            let error = with_file(text, &[], &[]).unwrap_err();
            assert!(error.to_string().contains(says), "{text}: {error}");
            assert_eq!(error.kind(), ErrorKind::Query);
        }
        let error = with_file("", &[("SAEQUEL_TIMEOUT", "soon")], &[]).unwrap_err().to_string();
        assert!(error.contains("SAEQUEL_TIMEOUT: expected a number of seconds") && error.contains("'soon'"), "{error}");
        let near = with_file("", &[("SAEQUEL_MAX_QUERY", "1"), ("SAEQUEL_PORT", "1")], &[]).unwrap();
        assert_eq!(near.warnings, ["SAEQUEL_MAX_QUERY sets nothing; did you mean SAEQUEL_MAX_QUERIES?"]);
        let missing =
            Effective::new(&Given::default(), Some(Path::new("/no/such.toml")), Path::new("x"), &environment(&[]));
        assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
        assert!(Cli::try_parse_from(["serve", "--write=maybe"]).is_err());
    }

    #[test]
    fn the_guide_names_every_key() {
        let guide = include_str!("../../docs/serving.md");
        for setting in SETTINGS {
            assert!(guide.contains(&format!("\n{} = ", setting.key)), "docs/serving.md lacks the key {}", setting.key);
        }
        // The guide's file is one that can be used, and tells the defaults.
        let text = guide.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let (mut told, mut defaults) = (with_file(text, &[], &[]).unwrap(), with_file("", &[], &[]).unwrap());
        let of_the_machine = ["tls_cert", "tls_key", "tokens", "audit_log", "threads"];
        for setting in SETTINGS.iter().filter(|setting| !of_the_machine.contains(&setting.key)) {
            let (told, default) =
                ((setting.field)(&mut told.settings).get(), (setting.field)(&mut defaults.settings).get());
            assert_eq!(told, default, "{}", setting.key);
        }
    }
}
