//! The doors of saequel: the command line and HTTP.
//!
//! Both only translate: a command or a request becomes one SQL statement, [`saequel_engine::Engine::sql`] answers it, and
//! the formats of [`output`] write the answer. So every door gives the same one.

mod args;
mod commands;
mod config;
mod context;
pub mod error;
mod flight_sql;
pub mod gate;
mod http;
mod interrupt;
mod label;
mod listener;
mod logs;
mod mcp;
mod memory;
mod options;
pub mod output;
mod patience;
mod postgres;
mod progress;
mod say;
mod shell;
mod signals;
pub mod sql_text;
mod tls;

pub use listener::{Peer, Server, serve};
pub use options::{ServeOptions, TlsFiles};

use clap::Parser;

use crate::args::{Cli, Command};
use crate::context::Context;
use crate::error::{EXIT_INTERNAL, EXIT_OK};
use crate::interrupt::Interrupt;
use crate::say::remark;

/// The program: reads the command line, runs the command, returns the exit code.
pub fn main() -> u8 {
    let cli = Cli::parse();
    // A server logs as its settings say, and has its own way to stop.
    let serves = matches!(cli.command, Command::Serve(_));
    if !serves {
        logs::of_a_command();
    }
    logs::report_panics();
    memory::keep_freed();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            remark!("error: cannot start threads: {error}");
            return EXIT_INTERNAL;
        }
    };
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        runtime.block_on(async {
            let interrupt = if serves { Interrupt::default() } else { Interrupt::install() };
            let context = Context { global: cli.global, interrupt };
            commands::run(cli.command, &context).await
        })
    }));
    // Work that was cancelled may still hold threads; the answer is out, so nobody waits for them.
    runtime.shutdown_background();
    match outcome {
        Ok(Ok(())) => EXIT_OK,
        Ok(Err(failure)) if failure.is_reader_gone() => EXIT_OK,
        Ok(Err(failure)) => {
            logs::failure(&failure);
            failure.wire().exit
        }
        Err(_) => EXIT_INTERNAL, // the panic's hook has told
    }
}
