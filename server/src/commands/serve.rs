//! `saequel serve`.

use std::net::SocketAddr;
use std::path::PathBuf;

use saequel_engine::{Engine, ErrorKind};

use crate::args::ServeArgs;
use crate::config::Effective;
use crate::context::Context;
use crate::error::{Failure, Result};
use crate::gate::Gate;
use crate::listener::Server;
use crate::logs;
use crate::say::{remark, say};
use crate::signals::Signals;

pub(super) async fn serve(args: ServeArgs, context: &Context) -> Result<()> {
    let dir = context.existing_db_dir()?;
    let ServeArgs { config, print_config, no_postgres, mut given } = args;
    if no_postgres {
        given.no_postgres();
    }
    let config = Effective::new(&given, config.as_deref(), &dir, &std::env::vars_os().collect())?;
    if print_config {
        for warning in &config.warnings {
            remark!("warning: {warning}");
        }
        return say!("{}", config.to_toml().trim_end());
    }
    logs::of_a_server(config.logs_json(), config.log_level())?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let options = config.engine_options();
    check_allowed(options.allowed_dirs.iter().flatten())?;
    let engine = Engine::open(&dir, options).await?;
    let server = Server::bind(engine, config.serve_options()).await?;
    prepare_labels(server.gate().engine().clone());
    let (address, postgres) = (server.local_addr()?, server.postgres_addr()?);
    // Before anybody is told that the server is there, and may tell it to stop.
    let signals = Signals::take()?;
    tell_people(&server, &dir.display().to_string(), address, postgres);
    tell_log(&server, &config, address, postgres)?;
    signals.run(server).await?;
    tracing::info!("stopped");
    Ok(())
}

/// Refuses folders that statements may read and that are not there: a wrong letter would show with the first query.
pub(super) fn check_allowed<'a>(mut folders: impl Iterator<Item = &'a PathBuf>) -> Result<()> {
    match folders.find(|folder| !folder.is_dir()) {
        None => Ok(()),
        Some(missing) => {
            let message = format!("allow_dir: expected a folder, and '{}' is none", missing.display());
            Err(Failure::new(ErrorKind::NotFound, message).hint("make it first, or name another with --allow-dir"))
        }
    }
}

/// Reads the labels while nobody waits: the first search by meaning would take tens of seconds where it was never done.
fn prepare_labels(engine: Engine) {
    Gate::threads().spawn_blocking(move || {
        let began = std::time::Instant::now();
        match engine.prepare_labels() {
            Ok(()) => tracing::debug!(seconds = began.elapsed().as_secs_f64(), "labels are ready"),
            Err(error) => tracing::warn!(%error, "labels cannot be read: searching by meaning will not work"),
        }
    });
}

/// Three lines on standard output. Served even if nobody reads them.
fn tell_people(server: &Server, dir: &str, address: SocketAddr, postgres: Option<SocketAddr>) {
    let options = server.gate().options();
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    let postgres = postgres.map(|at| format!("PostgreSQL wire: psql -h {} -p {}\n", at.ip(), at.port()));
    let _ = say!(
        "serving {dir} {} at {scheme}://{address}/v1/sql\n\
         try: curl -s '{scheme}://{address}/v1/sql?format=table' -d 'SHOW CORPORA'\n\
         {}Ctrl-C stops",
        if options.write { "read-write" } else { "read-only" },
        postgres.unwrap_or_default(),
    );
}

fn tell_log(server: &Server, config: &Effective, http: SocketAddr, postgres: Option<SocketAddr>) -> Result<()> {
    let gate = server.gate();
    let (engine, options) = (gate.engine(), gate.options());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        database = %engine.dir().display(),
        config = config.file.as_ref().map(|path| path.display().to_string()),
        http = %http,
        postgres = postgres.map(|address| address.to_string()),
        tls = options.tls.is_some(),
        tokens_needed = gate.tokens().needed()?,
        write = options.write,
        timeout_s = options.timeout.as_secs_f64(),
        max_queries = options.max_queries,
        max_waiting = options.max_waiting,
        memory_bytes = engine.options().memory_limit_bytes,
        threads = engine.options().threads,
        drain_s = options.drain.as_secs_f64(),
        audit_log = options.audit_log.as_ref().map(|path| path.display().to_string()),
        "serving"
    );
    Ok(())
}
