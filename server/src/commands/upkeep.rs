//! `saequel compact` and `saequel doctor`.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
use saequel_engine::{Check, ErrorKind, Reader};

use super::model;
use crate::args::{Answer, CompactArgs, DoctorArgs};
use crate::context::Context;
use crate::error::{Failure, Result};
use crate::output::Format;
use crate::say::say;

pub(super) async fn compact(args: CompactArgs, context: &Context) -> Result<()> {
    let engine = context.open().await?;
    let names = match args.corpus {
        Some(name) => vec![name],
        None => engine.catalog().corpora.iter().map(|corpus| corpus.name.clone()).collect(),
    };
    let keep_secs = args.keep_days.saturating_mul(24 * 3600);
    for name in names {
        let done = context.interrupt.guard(async { Ok(engine.compact(&name, keep_secs).await?) }).await?;
        say!("{name}: {done}")?;
    }
    Ok(())
}

pub(super) async fn doctor(args: DoctorArgs, context: &Context) -> Result<()> {
    context.existing_db_dir()?;
    let checks = context.interrupt.guard(async { Ok(examine(context).await) }).await?;
    match args.answer {
        Answer { format: None | Some(Format::Table), output: None, .. } => {
            for check in &checks {
                say!("{} {}: {}", if check.ok { "ok  " } else { "BAD " }, check.name, check.detail)?;
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

/// The engine's checks, and one of each reader that the database needs. Fetches nothing.
async fn examine(context: &Context) -> Vec<Check> {
    let opened = async {
        let engine = context.open().await?;
        let checks = engine.doctor().await?;
        Ok::<_, Failure>((engine, checks))
    };
    let (engine, mut checks) = match opened.await {
        Ok(opened) => opened,
        Err(failure) => return vec![Check { name: "opening".into(), ok: false, detail: failure.line() }],
    };
    let catalog = engine.catalog();
    let readers: BTreeSet<&str> = catalog.features.dictionaries().iter().map(|one| one.reader.as_str()).collect();
    for name in readers {
        let (ok, detail) = match model::check(name, context).await {
            Err(failure) if failure.kind() == ErrorKind::NotFound => {
                match Reader::is_at_hand(name, &context.engine_options().cache_dir) {
                    Ok(true) => {
                        (true, "a folder or file of this machine; its content is checked when it is read".to_owned())
                    }
                    Ok(false) => (
                        true,
                        format!(
                            "a model of the hub, without checksums to compare with; it is fetched when it is first needed, or by \
                             `saequel model fetch {name}`"
                        ),
                    ),
                    Err(_) => (true, "not known to this program; texts cannot be read with it".to_owned()),
                }
            }
            Err(failure) => (false, failure.line()),
            Ok(cached) => match cached.trouble() {
                None => (true, format!("every file in {} has the right checksum", cached.dir.display())),
                Some(trouble) => {
                    let way_out = "the next import, or `saequel model fetch`, fetches it";
                    (cached.damaged.is_empty(), format!("{trouble} in {}; {way_out}", cached.dir.display()))
                }
            },
        };
        checks.push(Check { name: format!("reader {name}"), ok, detail });
    }
    checks
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
