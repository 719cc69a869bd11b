//! `pg_settings` and `current_setting`: the settings of the connection.

use super::State;
use super::columns::Row;

/// The value of a setting, by its name in any case.
pub(super) fn current(state: &State, name: &str) -> Option<String> {
    state.settings.get(name)
}

/// Rows of `pg_settings`.
pub(super) fn rows(state: &State) -> Vec<Row> {
    let row = |(name, value): (String, String)| -> Row {
        let kind = match value.as_str() {
            "on" | "off" => "bool",
            number if number.parse::<i64>().is_ok() => "integer",
            _ => "string",
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
    state.settings.all().into_iter().map(row).collect()
}
