//! The doors of saequel: the command line and HTTP.
//!
//! Both only translate: a command or a request becomes one SQL statement, [`saequel_engine::Engine::sql`] answers it, and
//! the formats of [`output`] write the answer. So every door gives the same one.

mod args;
mod commands;
mod context;
pub mod error;
mod flight_sql;
pub mod gate;
mod http;
mod interrupt;
mod label;
mod listener;
mod mcp;
mod memory;
mod options;
pub mod output;
mod postgres;
mod progress;
mod say;
mod shell;
pub mod sql_text;

pub use listener::{Peer, Server, serve};
pub use options::{ServeOptions, TlsFiles};

use clap::Parser;

use crate::args::Cli;
use crate::context::Context;
use crate::error::{EXIT_INTERNAL, EXIT_OK};
use crate::interrupt::Interrupt;
use crate::say::remark;

/// The program: reads the command line, runs the command, returns the exit code.
pub fn main() -> u8 {
    let cli = Cli::parse();
    log_to_stderr();
    report_panics();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            remark!("error: cannot start threads: {error}");
            return EXIT_INTERNAL;
        }
    };
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        runtime.block_on(async {
            let context = Context { global: cli.global, interrupt: Interrupt::install() };
            commands::run(cli.command, &context).await
        })
    }));
    // Work that was cancelled may still hold threads; the answer is out, so nobody waits for them.
    runtime.shutdown_background();
    match outcome {
        Ok(Ok(())) => EXIT_OK,
        Ok(Err(failure)) if failure.is_reader_gone() => EXIT_OK,
        Ok(Err(failure)) => {
            remark!("{failure}");
            failure.wire().exit
        }
        Err(_) => EXIT_INTERNAL, // `report_panics` has told
    }
}

/// Logs go to standard error, if `SAEQUEL_LOG` asks for them (`SAEQUEL_LOG=info`, `SAEQUEL_LOG=saequel=debug`).
fn log_to_stderr() {
    use tracing::Level;
    use tracing_subscriber::filter::{EnvFilter, filter_fn};
    use tracing_subscriber::fmt::layer;
    use tracing_subscriber::prelude::*;
    let asked = EnvFilter::try_from_env("SAEQUEL_LOG").unwrap_or_else(|_| EnvFilter::new("off"));
    // At its finest level the HTTP client tells every byte on the wire, keys among them.
    let no_secret = filter_fn(|event| *event.level() < Level::TRACE || !event.target().starts_with("ureq"));
    tracing_subscriber::registry().with(asked).with(no_secret).with(layer().with_writer(std::io::stderr)).init();
}

/// A panic is our mistake and reads like every other error.
fn report_panics() {
    std::panic::set_hook(Box::new(|info| {
        let message = info.payload_as_str().unwrap_or("no message");
        let place = info.location().map(|at| format!(" ({}:{})", at.file(), at.line())).unwrap_or_default();
        remark!("error: internal error: {message}{place}");
        remark!("hint: this is a mistake in saequel; please report it with the statement");
        if std::env::var_os("SAEQUEL_LOG").is_some() {
            remark!("{}", std::backtrace::Backtrace::force_capture());
        }
    }));
}
