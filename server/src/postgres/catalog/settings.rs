//! `pg_settings` and `current_setting`: what a connection has set over what it would find in PostgreSQL.

use std::collections::BTreeMap;

use super::columns::Row;
use super::{SERVER_VERSION, SERVER_VERSION_NUM, State};

/// Settings that clients ask for and that nobody sets.
const DEFAULTS: &[(&str, &str)] = &[
    ("application_name", ""),
    ("block_size", "8192"),
    ("bytea_output", "hex"),
    ("client_encoding", "UTF8"),
    ("client_min_messages", "notice"),
    ("datestyle", "ISO, MDY"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "on"),
    ("extra_float_digits", "1"),
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("intervalstyle", "postgres"),
    ("is_superuser", "off"),
    ("jit", "off"),
    ("lc_collate", "C.UTF-8"),
    ("lc_ctype", "C.UTF-8"),
    ("lc_messages", "C"),
    ("lc_monetary", "C"),
    ("lc_numeric", "C"),
    ("lc_time", "C"),
    ("lock_timeout", "0"),
    ("max_identifier_length", "63"),
    ("max_index_keys", "32"),
    ("max_connections", "100"),
    ("role", "none"),
    ("row_security", "on"),
    ("search_path", "\"$user\", public"),
    ("server_encoding", "UTF8"),
    ("server_version", SERVER_VERSION),
    ("server_version_num", SERVER_VERSION_NUM),
    ("ssl", "off"),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    ("timezone", "UTC"),
    ("transaction_isolation", "read committed"),
    ("transaction_read_only", "on"),
    ("wal_level", "replica"),
    ("work_mem", "4096"),
];

/// The value of a setting, by its name in any case.
pub(super) fn current(state: &State, name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    state
        .settings
        .get(&name)
        .or_else(|| DEFAULTS.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
}

/// Rows of `pg_settings`.
pub(super) fn rows(state: &State) -> Vec<Row> {
    let mut settings: BTreeMap<String, String> =
        DEFAULTS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    settings.extend(state.settings.all().into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)));
    let row = |(name, value): (String, String)| -> Row {
        let kind = match value.as_str() {
            "on" | "off" => "bool",
            number if number.parse::<i64>().is_ok() => "integer",
            _ => "string",
        };
        let name = match name.as_str() {
            "datestyle" => "DateStyle".to_owned(),
            "intervalstyle" => "IntervalStyle".to_owned(),
            "timezone" => "TimeZone".to_owned(),
            _ => name,
        };
        vec![
            ("name", name.into()),
            ("setting", value.as_str().into()),
            ("category", "saequel".into()),
            ("short_desc", "".into()),
            ("context", "user".into()),
            ("vartype", kind.into()),
            ("source", "session".into()),
            ("boot_val", value.as_str().into()),
            ("reset_val", value.into()),
            ("pending_restart", false.into()),
        ]
    };
    settings.into_iter().map(row).collect()
}
