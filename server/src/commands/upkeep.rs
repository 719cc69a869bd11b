//! `saequel compact` and `saequel doctor`.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
use futures::StreamExt;
use saequel_engine::{Check, Engine, ErrorKind};

use crate::args::{Answer, CompactArgs, DoctorArgs};
use crate::context::Context;
use crate::error::{Failure, Result};
use crate::output::Format;
use crate::sql_text::identifier;

pub(super) async fn compact(args: CompactArgs, context: &Context) -> Result<()> {
    let engine = context.open().await?;
    let names = match args.corpus {
        Some(name) => vec![name],
        None => engine.catalog().corpora.iter().map(|corpus| corpus.name.clone()).collect(),
    };
    for name in names {
        let done = engine.compact(&name, args.keep_days.saturating_mul(24 * 3600)).await?;
        println!("{name}: {done}");
    }
    Ok(())
}

pub(super) async fn doctor(args: DoctorArgs, context: &Context) -> Result<()> {
    let engine = context.open().await?;
    let checks = examine(&engine, context).await;
    match args.answer {
        Answer { format: None | Some(Format::Table), output: None, .. } => {
            for check in &checks {
                println!("{} {}: {}", if check.ok { "ok  " } else { "BAD " }, check.name, check.detail);
            }
        }
        answer => context.answer_batch(batch(&checks)?, &answer).await?,
    }
    let n_bad = checks.iter().filter(|check| !check.ok).count();
    if n_bad > 0 {
        return Err(Failure::new(ErrorKind::Corrupt, format!("{n_bad} of {} checks failed", checks.len()))
            .hint("each failed check above says what can be done"));
    }
    Ok(())
}

/// Looks at every part of the database: the catalog, every value of every corpus, weights and their checksums.
async fn examine(engine: &Engine, context: &Context) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut note = |name: String, outcome: Result<String>| {
        let ok = outcome.is_ok();
        let detail = outcome.unwrap_or_else(|failure| failure.line());
        checks.push(Check { name, ok, detail });
    };
    let catalog = engine.catalog();
    let dictionaries = catalog.features.dictionaries().len();
    let corpora = catalog.corpora.len();
    note("catalog".into(), Ok(format!("{corpora} corpora, {dictionaries} dictionaries")));
    for corpus in &catalog.corpora {
        let statement = format!("SELECT * FROM {}", identifier(&corpus.name));
        note(format!("corpus {}", corpus.name), read_all(engine, &statement).await);
    }
    for dictionary in catalog.features.dictionaries() {
        let (engine, name, progress) = (engine.clone(), dictionary.name.clone(), context.progress());
        let loaded = tokio::task::spawn_blocking(move || engine.encoder(&[name], progress.as_ref()));
        let outcome = match loaded.await {
            Ok(Ok(encoder)) => {
                Ok(format!("its weights and those of reader {} are as they should be", encoder.reader().name()))
            }
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(Failure::new(ErrorKind::Internal, error.to_string())),
        };
        note(format!("dictionary {}", dictionary.name), outcome);
    }
    checks
}

/// Reads every value of a result; what cannot be read is an error.
async fn read_all(engine: &Engine, statement: &str) -> Result<String> {
    let mut stream = engine.sql(statement).await?;
    let mut n_rows = 0;
    while let Some(batch) = stream.next().await {
        n_rows += batch?.num_rows();
    }
    Ok(format!("{n_rows} documents, all readable"))
}

fn batch(checks: &[Check]) -> Result<RecordBatch> {
    let column =
        |text: fn(&Check) -> &str| Arc::new(StringArray::from_iter_values(checks.iter().map(text))) as ArrayRef;
    let ok: BooleanArray = checks.iter().map(|check| Some(check.ok)).collect();
    Ok(RecordBatch::try_from_iter([
        ("name", column(|check| &check.name)),
        ("ok", Arc::new(ok) as ArrayRef),
        ("detail", column(|check| &check.detail)),
    ])?)
}
