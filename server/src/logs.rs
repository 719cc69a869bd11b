//! Logs, which go to standard error: silent for commands unless asked for, one line an event for a server.

use std::io::{IsTerminal, stderr};
use std::sync::atomic::{AtomicBool, Ordering};

use saequel_engine::ErrorKind;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::fmt::layer;
use tracing_subscriber::prelude::*;

use crate::error::{Failure, Result};
use crate::say::remark;

/// A filter such as `info` or `saequel=debug,lance=warn`.
const VARIABLE: &str = "SAEQUEL_LOG";

/// Whether this process is a server whose log is JSON: then nothing else goes to standard error.
static JSON: AtomicBool = AtomicBool::new(false);

/// Of a command: nothing, if `SAEQUEL_LOG` does not ask for it (`SAEQUEL_LOG=info`, `SAEQUEL_LOG=saequel=debug`).
pub(crate) fn of_a_command() {
    let asked = EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| EnvFilter::new("off"));
    let lines = layer().with_writer(stderr);
    tracing_subscriber::registry().with(asked).with(filter_fn(tells_no_secret)).with(lines).init();
}

/// Of a server: what its own code says at `level` and above, and the warnings of others; or what `SAEQUEL_LOG` asks for.
///
/// # Errors
/// [`ErrorKind::Query`] if `SAEQUEL_LOG` is no filter.
pub(crate) fn of_a_server(json: bool, level: &str) -> Result<()> {
    let others = if matches!(level, "off" | "error") { level } else { "warn" };
    let filter = match std::env::var(VARIABLE) {
        Ok(filter) if !filter.trim().is_empty() => EnvFilter::try_new(&filter).map_err(|error| {
            Failure::usage(format!("{VARIABLE}: '{filter}' is no filter: {error}"))
                .hint("expected a level, or levels by module: info, or warn,saequel=debug")
        })?,
        _ => EnvFilter::new(format!("{others},saequel={level}")),
    };
    let logs = tracing_subscriber::registry().with(filter).with(filter_fn(tells_no_secret));
    let set = if json {
        JSON.store(true, Ordering::Relaxed);
        let lines = layer().json().with_current_span(false).with_span_list(false);
        logs.with(lines.with_writer(stderr)).try_init()
    } else {
        let colours = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        logs.with(layer().with_ansi(colours).with_writer(stderr)).try_init()
    };
    set.map_err(|error| Failure::new(ErrorKind::Internal, format!("log: {error}")))
}

/// At their finest level the crates below tell every byte on the wire, keys and tokens among them.
fn tells_no_secret(event: &Metadata<'_>) -> bool {
    *event.level() < Level::TRACE || event.target().starts_with("saequel")
}

/// Tells why the program ends.
pub(crate) fn failure(failure: &Failure) {
    if JSON.load(Ordering::Relaxed) {
        tracing::error!(error = failure.line(), hint = failure.way_out(), "cannot go on");
    } else {
        remark!("{failure}");
    }
}

/// A panic is our mistake and reads like every other error.
pub(crate) fn report_panics() {
    std::panic::set_hook(Box::new(|info| {
        let message = info.payload_as_str().unwrap_or("no message");
        let place = info.location().map(|at| format!("{}:{}", at.file(), at.line()));
        if JSON.load(Ordering::Relaxed) {
            tracing::error!(error = message, place, "internal error: please report it with the statement");
            return;
        }
        remark!("error: internal error: {message}{}", place.map(|at| format!(" ({at})")).unwrap_or_default());
        remark!("hint: this is a mistake in saequel; please report it with the statement");
        if std::env::var_os(VARIABLE).is_some() {
            remark!("{}", std::backtrace::Backtrace::force_capture());
        }
    }));
}
