//! `saequel serve`.

use std::time::Duration;

use saequel_engine::{Engine, EngineOptions};

use crate::args::ServeArgs;
use crate::context::Context;
use crate::error::Result;
use crate::listener::{Server, stop_signal};
use crate::options::{ServeOptions, TlsFiles};
use crate::say::say;

pub(super) async fn serve(args: ServeArgs, context: &Context) -> Result<()> {
    crate::memory::keep_freed();
    let dir = context.existing_db_dir()?;
    let options = EngineOptions {
        read_only: !args.write,
        allowed_dirs: Some(args.allow_dir.clone()),
        ..context.engine_options()
    };
    let engine = Engine::open(&dir, options).await?;
    let options = ServeOptions {
        listen: args.listen,
        postgres: (!args.no_postgres).then_some(args.postgres),
        tls: args.tls_cert.zip(args.tls_key).map(|(certificate, key)| TlsFiles { certificate, key }),
        plain_text: args.plain_text,
        write: args.write,
        tokens: args.tokens,
        audit_log: args.audit_log,
        timeout: Duration::from_secs(args.timeout),
        max_queries: args.max_queries,
        max_body_bytes: args.max_body,
        ..ServeOptions::default()
    };
    let server = Server::bind(engine, options).await?;
    let address = server.local_addr()?;
    let scheme = if server.gate().options().tls.is_some() { "https" } else { "http" };
    // Served even if nobody reads this.
    let _ = say!(
        "serving {} {} at {scheme}://{address}/v1/sql\n\
         try: curl -s '{scheme}://{address}/v1/sql?format=table' -d 'SHOW CORPORA'\n\
         Ctrl-C stops",
        dir.display(),
        if server.gate().options().write { "read-write" } else { "read-only" },
    );
    if let Some(postgres) = server.postgres_addr()? {
        let _ = say!("PostgreSQL wire: psql -h {} -p {}", postgres.ip(), postgres.port());
    }
    server.run(stop_signal()).await
}
