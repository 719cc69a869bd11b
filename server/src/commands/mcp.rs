//! `saequel mcp`.

use std::time::Duration;

use saequel_engine::{Engine, EngineOptions};

use super::serve::check_allowed;
use crate::args::McpArgs;
use crate::context::Context;
use crate::error::Result;
use crate::gate::Gate;
use crate::mcp::serve_stdio;
use crate::options::ServeOptions;

pub(super) async fn mcp(args: McpArgs, context: &Context) -> Result<()> {
    let dir = context.existing_db_dir()?;
    check_allowed(args.allow_dir.iter())?;
    let options = EngineOptions { read_only: true, allowed_dirs: Some(args.allow_dir), ..context.engine_options() };
    let engine = Engine::open(&dir, options).await?;
    let options = ServeOptions { timeout: Duration::from_secs(args.timeout), ..ServeOptions::default() };
    serve_stdio(Gate::new(engine, options)?).await
}
