//! `saequel serve`.

use std::time::Duration;

use saequel_engine::{Engine, EngineOptions};

use crate::args::ServeArgs;
use crate::context::Context;
use crate::error::Result;
use crate::http::{Server, stop_signal};
use crate::options::ServeOptions;
use crate::say::say;

pub(super) async fn serve(args: ServeArgs, context: &Context) -> Result<()> {
    let dir = context.existing_db_dir()?;
    let options =
        EngineOptions { read_only: true, allowed_dirs: Some(args.allow_dir.clone()), ..context.engine_options() };
    let engine = Engine::open(&dir, options).await?;
    let options = ServeOptions {
        listen: args.listen,
        timeout: Duration::from_secs(args.timeout),
        max_queries: args.max_queries,
        max_body_bytes: args.max_body,
        ..ServeOptions::default()
    };
    let server = Server::bind(engine, options).await?;
    let address = server.local_addr()?;
    // Served even if nobody reads this.
    let _ = say!(
        "serving {} read-only at http://{address}/v1/sql\n\
         try: curl -s 'http://{address}/v1/sql?format=table' -d 'SHOW CORPORA'\n\
         Ctrl-C stops",
        dir.display()
    );
    server.run(stop_signal()).await
}
