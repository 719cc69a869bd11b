//! `saequel model`: the readers' weights.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
use saequel_engine::{ErrorKind, Reader, reader::DEFAULT_READER};

use crate::args::ModelCommand;
use crate::context::Context;
use crate::error::{Failure, Result};

pub(super) async fn model(command: ModelCommand, context: &Context) -> Result<()> {
    match command {
        ModelCommand::List { answer } => {
            let folder = context.engine_options().cache_dir.join("readers").join(DEFAULT_READER);
            let batch = RecordBatch::try_from_iter([
                ("name", Arc::new(StringArray::from(vec![DEFAULT_READER])) as ArrayRef),
                ("fetched", Arc::new(BooleanArray::from(vec![folder.exists()]))),
                ("folder", Arc::new(StringArray::from(vec![folder.to_string_lossy().as_ref()]))),
            ])?;
            context.answer_batch(batch, &answer).await
        }
        ModelCommand::Fetch { name } => {
            println!("{} is here", described(&load(name, context).await?));
            Ok(())
        }
        ModelCommand::Verify { name } => {
            println!("{} has the right checksum", described(&load(name, context).await?));
            Ok(())
        }
    }
}

/// Loads a reader, which fetches what is missing and checks every file.
async fn load(name: String, context: &Context) -> Result<Reader> {
    let (options, progress) = (context.engine_options().reader(), context.progress());
    match tokio::task::spawn_blocking(move || Reader::load(&name, &options, progress.as_ref())).await {
        Ok(reader) => Ok(reader?),
        Err(error) => Err(Failure::new(ErrorKind::Internal, error.to_string())),
    }
}

fn described(reader: &Reader) -> String {
    format!(
        "{} ({} layers, width {}, windows of {} tokens, SHA-256 {})",
        reader.name(),
        reader.n_layers(),
        reader.width(),
        reader.context(),
        reader.sha256()
    )
}
