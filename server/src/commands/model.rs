//! `saequel model`: the readers' weights.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
use saequel_engine::reader::Cached;
use saequel_engine::{ErrorKind, Reader, ReaderOptions};

use crate::args::ModelCommand;
use crate::context::Context;
use crate::error::{Failure, Result};
use crate::say::say;

pub(super) async fn model(command: ModelCommand, context: &Context) -> Result<()> {
    match command {
        ModelCommand::List { answer } => {
            let mut all = Vec::new();
            for name in Reader::known() {
                all.push((name, check(name, context).await?));
            }
            let names: StringArray = all.iter().map(|(name, _)| Some(*name)).collect();
            let fetched: BooleanArray = all.iter().map(|(_, cached)| Some(cached.trouble().is_none())).collect();
            let trouble: StringArray = all.iter().map(|(_, cached)| cached.trouble()).collect();
            let folders: StringArray = all.iter().map(|(_, cached)| Some(cached.dir.to_string_lossy())).collect();
            let batch = RecordBatch::try_from_iter_with_nullable([
                ("name", Arc::new(names) as ArrayRef, false),
                ("fetched", Arc::new(fetched), false),
                ("trouble", Arc::new(trouble), true),
                ("folder", Arc::new(folders), false),
            ])?;
            context.answer_batch(batch, &answer).await
        }
        ModelCommand::Fetch { name, accept_terms } => {
            let options = ReaderOptions { accept_terms, ..context.engine_options().reader() };
            let reader = context.blocking(move |progress| Reader::load(&name, &options, progress)).await?;
            say!(
                "{} ({} layers, width {}, windows of {} tokens, SHA-256 {}) is here",
                reader.name(),
                reader.n_layers(),
                reader.width(),
                reader.context(),
                reader.sha256()
            )
        }
        ModelCommand::Verify { name } => {
            let cached = check(&name, context).await?;
            let Some(trouble) = cached.trouble() else {
                return say!("{name}: every file in {} has the right checksum", cached.dir.display());
            };
            let kind = if cached.damaged.is_empty() { ErrorKind::NotFound } else { ErrorKind::Corrupt };
            let failure = Failure::new(kind, format!("reader '{name}' in {}: {trouble}", cached.dir.display()));
            Err(failure.hint(format!("`saequel model fetch {name}` fetches such files")))
        }
    }
}

/// What the cache holds of a reader; fetches nothing.
///
/// # Errors
/// [`ErrorKind::NotFound`] for an unknown name.
pub(super) async fn check(name: &str, context: &Context) -> Result<Cached> {
    let (name, cache_dir) = (name.to_owned(), context.engine_options().cache_dir);
    context.blocking(move |_| Reader::check(&name, &cache_dir)).await
}
