//! What every command needs: the options of all commands, the open engine, a place for the answer.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use saequel_engine::{EncoderError, Engine, EngineOptions, ErrorKind, Progress};

use crate::args::{Answer, DEFAULT_DB, Global};
use crate::error::{Failure, Result};
use crate::interrupt::Interrupt;
use crate::output::Format;
use crate::output::sink::Sink;
use crate::progress::Report;
use crate::say::remark;

/// A command's surroundings.
pub(crate) struct Context {
    /// Options of all commands.
    pub(crate) global: Global,
    /// Ctrl-C.
    pub(crate) interrupt: Interrupt,
}

impl Context {
    /// The folder of the database.
    pub(crate) fn db_dir(&self) -> PathBuf {
        self.global.db.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_DB))
    }

    /// The engine's options as the command line gives them.
    pub(crate) fn engine_options(&self) -> EngineOptions {
        let mut options = EngineOptions::default();
        if let Some(threads) = self.global.threads {
            options.threads = threads;
        }
        if let Some(precision) = self.global.precision {
            options.precision = precision;
            if !precision.is_native() {
                let name = precision.name();
                remark!("note: this processor has no {name} products; features come out as with them, but no faster");
            }
        }
        if let Some(memory) = self.global.memory {
            options.memory_limit_bytes = memory;
        }
        options
    }

    /// Progress on standard error.
    pub(crate) fn progress(&self) -> Arc<dyn Progress> {
        Arc::new(Report::new(self.global.quiet, self.interrupt.clone()))
    }

    /// Runs work that blocks beside the runtime, with progress and Ctrl-C.
    ///
    /// # Errors
    /// What `work` says.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Progress) -> Result<T, EncoderError> + Send + 'static,
    ) -> Result<T> {
        let progress = self.progress();
        match tokio::task::spawn_blocking(move || work(progress.as_ref())).await {
            Ok(outcome) => Ok(outcome?),
            Err(error) => Err(Failure::new(ErrorKind::Internal, error.to_string())),
        }
    }

    /// Opens the database, which is made if it does not exist.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub(crate) async fn open_or_create(&self, dir: &Path) -> Result<Engine> {
        Ok(Engine::open(dir, self.engine_options()).await?)
    }

    /// Opens the database, which must exist: a question never makes a folder.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub(crate) async fn open(&self) -> Result<Engine> {
        self.open_or_create(&self.existing_db_dir()?).await
    }

    /// The folder of the database, if it is there.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub(crate) fn existing_db_dir(&self) -> Result<PathBuf> {
        let dir = self.db_dir();
        if dir.exists() {
            return Ok(dir);
        }
        Err(Failure::new(ErrorKind::NotFound, format!("database '{}' not found", dir.display()))
            .hint("name it with --db DIR (or SAEQUEL_DB), or make one with `saequel import FILE --corpus NAME`"))
    }

    /// Runs one statement and writes its result where `answer` says; returns its number of rows.
    ///
    /// # Errors
    /// What the engine or the disk says, or [`ErrorKind::Cancelled`] after Ctrl-C.
    pub(crate) async fn answer(&self, engine: &Engine, statement: &str, answer: &Answer) -> Result<u64> {
        if answer.show_sql {
            remark!("{statement};");
        }
        let sink = Sink::open(answer.format_or(Format::Table)?, answer.file())?;
        self.interrupt.guard(async { sink.write(engine.sql(statement).await?).await }).await
    }

    /// [`Self::answer`] for a command that returns a list: without `limit`, a table shows the first 20 rows, and says
    /// on standard error that there are more.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub(crate) async fn answer_list(
        &self,
        engine: &Engine,
        statement: impl Fn(Option<u64>) -> String,
        limit: Option<u64>,
        answer: &Answer,
    ) -> Result<()> {
        const TABLE_ROWS: u64 = 20;
        let default = (answer.format_or(Format::Table)? == Format::Table).then_some(TABLE_ROWS);
        let rows = if limit.is_some() { limit.filter(|limit| *limit > 0) } else { default };
        let began = Instant::now();
        let n_rows = self.answer(engine, &statement(rows), answer).await?;
        if !self.global.quiet && limit.is_none() && rows == Some(n_rows) {
            let seconds = began.elapsed().as_secs_f64();
            remark!("(first {TABLE_ROWS} rows in {seconds:.2} s; --limit 0 returns all)");
        }
        Ok(())
    }

    /// Writes a result that was made here, such as the checks of `doctor`.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) async fn answer_batch(&self, batch: RecordBatch, answer: &Answer) -> Result<()> {
        let sink = Sink::open(answer.format_or(Format::Table)?, answer.file())?;
        let schema = batch.schema();
        let stream = RecordBatchStreamAdapter::new(schema, futures::stream::iter([Ok(batch)]));
        sink.write(Box::pin(stream)).await?;
        Ok(())
    }
}
