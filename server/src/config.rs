//! Settings of `saequel serve`. Each stands in [`SETTINGS`](settings::SETTINGS) once, and is from there an option of the command line
//! (`--max-queries`), an environment variable (`SAEQUEL_MAX_QUERIES`) and a key of a file in TOML (`max_queries`).
//!
//! An option beats the environment, which beats the file, which beats the default.

mod given;
mod settings;
mod value;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use saequel_engine::EngineOptions;
use toml::de::DeTable;

pub(crate) use self::given::Given;
use self::given::Source;
use self::settings::{SETTINGS, Setting, Settings};
use self::value::{Kind, Value};
use crate::error::{Failure, Result, io_failure};
use crate::options::{ServeOptions, TlsFiles};

/// The file that is read from the database folder, if it is there and no other is named.
pub(crate) const FILE: &str = "saequel.toml";
/// Names another file.
pub(crate) const FILE_VARIABLE: &str = "SAEQUEL_CONFIG";

/// Variables that are no settings of the server, without `SAEQUEL_`.
const OTHER_VARIABLES: &[&str] = &["db", "config", "log", "cache", "history", "token", "bin"];

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
    use std::time::Duration;

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
