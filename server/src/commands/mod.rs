//! One file per group of commands. Each builds SQL or calls the engine; none computes an answer itself.

mod analyses;
mod demo;
mod evaluate;
mod evidence;
mod features;
mod import;
mod import_labels;
mod label;
mod mcp;
mod model;
mod sae;
mod serve;
mod sql;
mod token;
mod upkeep;

use crate::args::Command;
use crate::context::Context;
use crate::error::Result;

/// Runs a command.
///
/// # Errors
/// What the command says; the kind decides the exit code.
pub(crate) async fn run(command: Command, context: &Context) -> Result<()> {
    match command {
        Command::Import(args) => import::import(args, context).await,
        Command::Sql(args) => sql::sql(args, context).await,
        Command::Diff(args) => analyses::diff(args, context).await,
        Command::Correlate(args) => analyses::correlate(args, context).await,
        Command::Cluster(args) => analyses::cluster(args, context).await,
        Command::Retrieve(args) => analyses::retrieve(args, context).await,
        Command::Features(command) => features::features(command, context).await,
        Command::Label(args) => label::label(args, context).await,
        Command::Sae(command) => sae::sae(command, context).await,
        Command::Model(command) => model::model(command, context).await,
        Command::Export(args) => analyses::export(args, context).await,
        Command::Compact(args) => upkeep::compact(args, context).await,
        Command::Doctor(args) => upkeep::doctor(args, context).await,
        Command::Serve(args) => serve::serve(args, context).await,
        Command::Mcp(args) => mcp::mcp(args, context).await,
        Command::Token(command) => token::token(command, context).await,
        Command::Demo(args) => demo::demo(args, context).await,
    }
}
