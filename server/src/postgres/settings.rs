//! Settings of a connection. What one connection sets, no other sees.
//!
//! Few of them do anything: `TimeZone`, `statement_timeout`, `default_transaction_read_only`. The others are there because
//! clients set and read them; a value that would change how rows are written, and is not supported, is refused.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::timezone::Tz;

use super::error::{Result, Trouble};

/// The version of PostgreSQL that clients are told; some do without what is newer, and insist on what is older.
pub(super) const SERVER_VERSION: &str = "16.6";
/// The same as a number.
pub(super) const SERVER_VERSION_NUM: &str = "160006";

/// Settings whose change is told to the client without being asked, in PostgreSQL's spelling.
pub(super) const REPORTED: [&str; 13] = [
    "application_name",
    "client_encoding",
    "DateStyle",
    "default_transaction_read_only",
    "in_hot_standby",
    "integer_datetimes",
    "IntervalStyle",
    "is_superuser",
    "server_encoding",
    "server_version",
    "session_authorization",
    "standard_conforming_strings",
    "TimeZone",
];

/// Settings that are known, with PostgreSQL's defaults.
const DEFAULTS: [(&str, &str); 75] = [
    ("allow_in_place_tablespaces", "off"),
    ("application_name", ""),
    ("array_nulls", "on"),
    ("backslash_quote", "safe_encoding"),
    ("block_size", "8192"),
    ("bytea_output", "hex"),
    ("check_function_bodies", "on"),
    ("client_encoding", "UTF8"),
    ("client_min_messages", "notice"),
    ("constraint_exclusion", "partition"),
    ("cursor_tuple_fraction", "0.1"),
    ("datestyle", "ISO, MDY"),
    ("default_table_access_method", "heap"),
    ("default_tablespace", ""),
    ("default_text_search_config", "pg_catalog.english"),
    ("default_transaction_deferrable", "off"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("default_with_oids", "off"),
    ("effective_cache_size", "4GB"),
    ("enable_hashjoin", "on"),
    ("enable_indexscan", "on"),
    ("enable_mergejoin", "on"),
    ("enable_nestloop", "on"),
    ("enable_seqscan", "on"),
    ("enable_sort", "on"),
    ("escape_string_warning", "on"),
    ("extra_float_digits", "1"),
    ("force_parallel_mode", "off"),
    ("from_collapse_limit", "8"),
    ("geqo", "on"),
    ("gin_fuzzy_search_limit", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("intervalstyle", "postgres"),
    ("is_superuser", "off"),
    ("jit", "off"),
    ("join_collapse_limit", "8"),
    ("lc_collate", "C.UTF-8"),
    ("lc_ctype", "C.UTF-8"),
    ("lc_messages", "C"),
    ("lc_monetary", "C"),
    ("lc_numeric", "C"),
    ("lc_time", "C"),
    ("lock_timeout", "0"),
    ("log_min_duration_statement", "-1"),
    ("log_statement", "none"),
    ("max_connections", "512"),
    ("max_identifier_length", "63"),
    ("max_index_keys", "32"),
    ("max_parallel_workers_per_gather", "2"),
    ("password_encryption", "scram-sha-256"),
    ("plan_cache_mode", "auto"),
    ("quote_all_identifiers", "off"),
    ("random_page_cost", "4"),
    ("role", "none"),
    ("row_security", "on"),
    ("search_path", "\"$user\", public"),
    ("server_encoding", "UTF8"),
    ("server_version", SERVER_VERSION),
    ("server_version_num", SERVER_VERSION_NUM),
    ("session_authorization", ""),
    ("ssl", "off"),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    ("synchronize_seqscans", "on"),
    ("synchronous_commit", "on"),
    ("timezone", "UTC"),
    ("transaction_deferrable", "off"),
    ("transaction_isolation", "read committed"),
    ("transaction_read_only", "off"),
    ("wal_level", "replica"),
    ("work_mem", "4MB"),
];

/// Settings that tell something and cannot be set.
const FIXED: [&str; 15] = [
    "block_size",
    "in_hot_standby",
    "integer_datetimes",
    "is_superuser",
    "lc_collate",
    "lc_ctype",
    "max_connections",
    "max_identifier_length",
    "max_index_keys",
    "server_encoding",
    "server_version",
    "server_version_num",
    "session_authorization",
    "ssl",
    "wal_level",
];

/// Settings of one transaction; each has a default whose name begins with `default_`.
const TRANSACTION: [&str; 3] = ["transaction_isolation", "transaction_read_only", "transaction_deferrable"];

/// Not settings, but kept with them for the functions of the catalog.
const HIDDEN: [&str; 2] = ["database", "pg_backend_pid"];

/// What a connection has set.
#[derive(Debug, Default)]
pub(crate) struct SessionSettings(Mutex<Values>);

#[derive(Debug, Default)]
struct Values {
    /// What [`SessionSettings::reset`] goes back to.
    defaults: BTreeMap<String, String>,
    now: BTreeMap<String, String>,
    /// As they were when the transaction began.
    before: Option<BTreeMap<String, String>>,
    /// What the end of the transaction goes back to.
    local: BTreeMap<String, Option<String>>,
}

impl SessionSettings {
    /// Defaults for a user and a database.
    pub(super) fn new(user: &str, database: &str, pid: i32, is_superuser: bool) -> Self {
        let mut values: BTreeMap<String, String> =
            DEFAULTS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        values.insert("session_authorization".to_owned(), user.to_owned());
        values.insert("is_superuser".to_owned(), if is_superuser { "on" } else { "off" }.to_owned());
        values.insert("database".to_owned(), database.to_owned());
        values.insert("pg_backend_pid".to_owned(), pid.to_string());
        Self(Mutex::new(Values { defaults: values.clone(), now: values, ..Values::default() }))
    }

    fn values(&self) -> MutexGuard<'_, Values> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A value; names have no case.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        self.values().now.get(&name.to_lowercase()).cloned()
    }

    /// Sets a value for the connection.
    ///
    /// # Errors
    /// For a setting that does not exist or cannot be set, and for a value that it cannot have.
    pub(super) fn set(&self, name: &str, value: &str) -> Result<()> {
        let (name, value) = checked(name, value)?;
        let mut values = self.values();
        values.local.remove(&name);
        values.now.insert(name, value);
        Ok(())
    }

    /// Sets a value until the transaction ends.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub(super) fn set_local(&self, name: &str, value: &str) -> Result<()> {
        let (name, value) = checked(name, value)?;
        let mut values = self.values();
        if values.before.is_some() {
            let was = values.now.insert(name.clone(), value);
            values.local.entry(name).or_insert(was);
        }
        Ok(())
    }

    /// Sets a value that [`Self::reset`] goes back to: the client gave it when it connected.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub(super) fn set_default(&self, name: &str, value: &str) -> Result<()> {
        let (name, value) = checked(name, value)?;
        let mut values = self.values();
        values.defaults.insert(name.clone(), value.clone());
        values.now.insert(name, value);
        Ok(())
    }

    /// Goes back to the default.
    ///
    /// # Errors
    /// For a setting that does not exist.
    pub(super) fn reset(&self, name: &str) -> Result<()> {
        let name = name.to_lowercase();
        let mut values = self.values();
        match values.defaults.get(&name).cloned() {
            Some(value) => values.now.insert(name, value),
            None if name.contains('.') => values.now.remove(&name),
            None => return Err(unknown(&name)),
        };
        Ok(())
    }

    /// Goes back to all defaults.
    pub(super) fn reset_all(&self) {
        let mut values = self.values();
        let mut now = values.defaults.clone();
        if values.before.is_some() {
            // How a transaction runs is settled when it begins.
            for part in TRANSACTION {
                now.extend(values.now.remove_entry(part));
            }
        }
        values.now = now;
    }

    /// All of them, sorted by name.
    pub(super) fn all(&self) -> Vec<(String, String)> {
        let values = self.values();
        let shown = values.now.iter().filter(|(name, _)| !HIDDEN.contains(&name.as_str()));
        shown.map(|(name, value)| (spelling(name), value.clone())).collect()
    }

    /// Whether there is such a setting.
    pub(super) fn knows(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        !HIDDEN.contains(&name.as_str()) && self.values().now.contains_key(&name)
    }

    /// A transaction begins.
    pub(super) fn begin(&self) {
        let mut values = self.values();
        values.before = Some(values.now.clone());
        values.local.clear();
        for part in TRANSACTION {
            if let Some(value) = values.now.get(&format!("default_{part}")).cloned() {
                values.now.insert(part.to_owned(), value);
            }
        }
    }

    /// The transaction ends; what it set is kept if it was committed.
    pub(super) fn end(&self, committed: bool) {
        let mut values = self.values();
        let Some(before) = values.before.take() else { return };
        let local = std::mem::take(&mut values.local);
        if committed {
            for (name, was) in local {
                match was {
                    Some(was) => values.now.insert(name, was),
                    None => values.now.remove(&name),
                };
            }
            for part in TRANSACTION {
                if let Some(was) = before.get(part) {
                    values.now.insert(part.to_owned(), was.clone());
                }
            }
        } else {
            values.now = before;
        }
    }

    /// Time zone in which moments are written.
    pub(super) fn zone(&self) -> Result<Tz> {
        let zone = self.get("timezone").and_then(|zone| zone_of(&zone)).or_else(|| zone_of("UTC"));
        zone.ok_or_else(|| Trouble::new("XX000", "there is no time zone"))
    }

    /// Time that a statement may take; `None`: as much as the server allows.
    pub(super) fn statement_timeout(&self) -> Option<Duration> {
        let millis = self.get("statement_timeout").and_then(|value| millis(&value))?;
        (millis > 0).then(|| Duration::from_millis(millis))
    }

    /// Whether nothing may be written.
    pub(super) fn is_read_only(&self) -> bool {
        let values = self.values();
        let name = if values.before.is_some() { "transaction_read_only" } else { "default_transaction_read_only" };
        values.now.get(name).is_some_and(|value| value == "on")
    }
}

fn unknown(name: &str) -> Trouble {
    Trouble::new("42704", format!("unrecognized configuration parameter \"{name}\"")).hint("SHOW ALL lists them")
}

/// How PostgreSQL spells the name.
fn spelling(name: &str) -> String {
    let spelt = REPORTED.iter().find(|reported| reported.eq_ignore_ascii_case(name));
    spelt.map_or_else(|| name.to_owned(), |spelt| (*spelt).to_owned())
}

/// Name and value as they are kept.
fn checked(name: &str, value: &str) -> Result<(String, String)> {
    let name = match name.to_lowercase() {
        name if name == "time zone" => "timezone".to_owned(),
        name => name,
    };
    let is_known = DEFAULTS.iter().any(|(known, _)| *known == name);
    if !is_known && !name.contains('.') {
        return Err(unknown(&name));
    }
    if FIXED.contains(&name.as_str()) {
        return Err(Trouble::new("55P02", format!("parameter \"{name}\" cannot be changed")));
    }
    let bad = |expected: &str| {
        Trouble::new("22023", format!("invalid value for parameter \"{}\": \"{value}\"", spelling(&name)))
            .hint(expected)
    };
    let value = value.trim();
    let kept = match name.as_str() {
        "client_encoding" => match value.to_lowercase().replace(['-', '_', ' ', '\''], "").as_str() {
            // SQL_ASCII promises nothing about what lies above ASCII, which then is UTF-8.
            "utf8" | "unicode" | "sqlascii" | "auto" => "UTF8".to_owned(),
            _ => {
                return Err(Trouble::new("22023", format!("conversion between {value} and UTF8 is not supported"))
                    .hint("set client_encoding to UTF8"));
            }
        },
        "datestyle" => {
            let parts: Vec<String> = value.split(',').map(|part| part.trim().to_uppercase()).collect();
            if parts.iter().any(|part| matches!(part.as_str(), "SQL" | "POSTGRES" | "GERMAN")) {
                return Err(
                    Trouble::new("0A000", "dates are written in the ISO style alone").hint("SET DateStyle TO ISO")
                );
            }
            let order = match parts.iter().find(|part| *part != "ISO").map(String::as_str) {
                None | Some("MDY" | "US" | "NONEURO" | "NONEUROPEAN" | "DEFAULT") => "MDY",
                Some("DMY" | "EURO" | "EUROPEAN") => "DMY",
                Some("YMD") => "YMD",
                Some(_) => return Err(bad("expected ISO, with MDY, DMY or YMD")),
            };
            format!("ISO, {order}")
        }
        "intervalstyle" if !value.eq_ignore_ascii_case("postgres") => {
            return Err(Trouble::new("0A000", "intervals are written in the style of postgres alone"));
        }
        "bytea_output" if !value.eq_ignore_ascii_case("hex") => {
            return Err(Trouble::new("0A000", "bytea is written in hexadecimal alone"));
        }
        "standard_conforming_strings" if flag(value) != Some(true) => {
            return Err(Trouble::new("0A000", "a backslash in a plain string is a backslash")
                .hint("write E'...' for strings with escapes"));
        }
        "intervalstyle" | "bytea_output" => value.to_lowercase(),
        "timezone" => {
            let zone = if ["local", "default"].contains(&value.to_lowercase().as_str()) { "UTC" } else { value };
            if zone_of(zone).is_none() {
                return Err(bad("expected a name such as Europe/Berlin, or an offset such as +02:00"));
            }
            zone.to_owned()
        }
        "statement_timeout" | "lock_timeout" | "idle_in_transaction_session_timeout" | "idle_session_timeout" => {
            let millis = millis(value).ok_or_else(|| bad("expected milliseconds, or a time such as 5s or 2min"))?;
            written_millis(millis)
        }
        "role" if !["none", "default"].contains(&value.to_lowercase().as_str()) => {
            return Err(Trouble::new("42501", format!("permission denied to set role \"{value}\""))
                .hint("connect with the token of whom you want to be"));
        }
        "default_transaction_isolation" | "transaction_isolation" => {
            let level = value.to_lowercase();
            if !["serializable", "repeatable read", "read committed", "read uncommitted"].contains(&level.as_str()) {
                return Err(bad("expected serializable, repeatable read, read committed or read uncommitted"));
            }
            level
        }
        _ if DEFAULTS.iter().any(|(known, default)| *known == name && ["on", "off"].contains(default)) => {
            let on = flag(value).ok_or_else(|| bad("expected on or off"))?;
            (if on { "on" } else { "off" }).to_owned()
        }
        _ => value.to_owned(),
    };
    Ok((name, kept))
}

fn flag(value: &str) -> Option<bool> {
    match value.to_lowercase().as_str() {
        "on" | "true" | "t" | "yes" | "y" | "1" => Some(true),
        "off" | "false" | "f" | "no" | "n" | "0" => Some(false),
        _ => None,
    }
}

/// The time zone that `zone` names, or whose hours it counts.
pub(super) fn zone_of(zone: &str) -> Option<Tz> {
    // `SET TIME ZONE 2` and `-3.5` count hours.
    if let Ok(hours) = zone.parse::<f64>()
        && hours.abs() < 24.0
        && !zone.starts_with('+')
    {
        let minutes = (hours.abs() * 60.0).round() as i32;
        let sign = if hours < 0.0 { '-' } else { '+' };
        return Tz::from_str(&format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)).ok();
    }
    match zone.to_uppercase().as_str() {
        "UTC" | "GMT" | "Z" | "ZULU" | "ETC/UTC" => Tz::from_str("+00:00").ok(),
        _ => Tz::from_str(zone).ok(),
    }
}

/// A time with a unit, or without one in milliseconds.
fn millis(value: &str) -> Option<u64> {
    let value = value.trim();
    let digits = value.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(value.len());
    let number: f64 = value[..digits].parse().ok()?;
    let unit = match value[digits..].trim() {
        "" | "ms" => 1.0,
        "us" => 0.001,
        "s" => 1000.0,
        "min" => 60_000.0,
        "h" => 3_600_000.0,
        "d" => 86_400_000.0,
        _ => return None,
    };
    let millis = (number * unit).round();
    (millis <= f64::from(i32::MAX)).then_some(millis as u64)
}

/// A time in the largest unit without a remainder, as PostgreSQL shows it.
fn written_millis(millis: u64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")];
    match units.iter().find(|(unit, _)| millis > 0 && millis % unit == 0) {
        Some((unit, name)) => format!("{}{name}", millis / unit),
        None if millis == 0 => "0".to_owned(),
        None => format!("{millis}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked_and_reset() {
        let settings = SessionSettings::new("ann", "db", 7, false);
        settings.set_default("application_name", "psql").unwrap();
        settings.set("Application_Name", "x").unwrap();
        assert_eq!(settings.get("application_name").as_deref(), Some("x"));
        settings.reset("application_name").unwrap();
        assert_eq!(settings.get("application_name").as_deref(), Some("psql"));
        assert!(settings.set("no_such", "1").is_err() && settings.set("server_version", "9").is_err());
        settings.set("app.user", "7").unwrap();
        settings.set("statement_timeout", "1500").unwrap();
        assert_eq!(settings.get("statement_timeout").as_deref(), Some("1500ms"));
        assert_eq!(settings.statement_timeout(), Some(Duration::from_millis(1500)));
        settings.set("statement_timeout", "2min").unwrap();
        assert_eq!(settings.statement_timeout(), Some(Duration::from_secs(120)));
        assert!(settings.set("client_encoding", "LATIN1").is_err() && settings.set("datestyle", "German").is_err());
        settings.set("datestyle", "iso, dmy").unwrap();
        assert_eq!(settings.get("DateStyle").as_deref(), Some("ISO, DMY"));
        assert!(settings.set("TimeZone", "Mars/Olympus").is_err());
        settings.set("TimeZone", "Europe/Berlin").unwrap();
        assert!(settings.all().iter().any(|(name, value)| name == "TimeZone" && value == "Europe/Berlin"));
        assert!(!settings.knows("database") && settings.get("database").as_deref() == Some("db"));
        settings.reset_all();
        assert_eq!((settings.statement_timeout(), settings.get("app.user")), (None, None));
    }

    #[test]
    fn a_transaction_takes_back_what_it_set() {
        let settings = SessionSettings::new("ann", "db", 7, false);
        settings.begin();
        settings.set("search_path", "a").unwrap();
        settings.set_local("extra_float_digits", "3").unwrap();
        settings.end(false);
        assert_eq!(settings.get("search_path").as_deref(), Some("\"$user\", public"));
        settings.set("default_transaction_read_only", "on").unwrap();
        settings.begin();
        assert!(settings.is_read_only());
        settings.set("transaction_read_only", "off").unwrap();
        settings.set("search_path", "b").unwrap();
        settings.set_local("extra_float_digits", "3").unwrap();
        assert!(!settings.is_read_only());
        settings.end(true);
        assert!(settings.is_read_only());
        assert_eq!(settings.get("search_path").as_deref(), Some("b"));
        assert_eq!(settings.get("extra_float_digits").as_deref(), Some("1"));
    }
}
