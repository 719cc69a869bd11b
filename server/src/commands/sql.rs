//! `saequel sql`: one statement, a script, or the shell.

use std::io::{IsTerminal, Read, stdin};

use saequel_engine::Engine;

use crate::args::SqlArgs;
use crate::context::Context;
use crate::error::{Failure, Result, io_failure};
use crate::output::Format;
use crate::shell;
use crate::sql_text;

pub(super) async fn sql(args: SqlArgs, context: &Context) -> Result<()> {
    let script = match args.statement.as_deref() {
        Some("-") => read_stdin()?,
        Some(statement) => statement.to_owned(),
        None if stdin().is_terminal() => return shell::run(&context.open().await?, &args.answer, context).await,
        None => read_stdin()?,
    };
    let statements = sql_text::statements(&script);
    if statements.is_empty() {
        return Err(Failure::usage("no statement given").hint("saequel sql \"SHOW CORPORA\""));
    }
    if statements.len() > 1 {
        if args.answer.file().is_some() {
            return Err(Failure::usage(format!(
                "--output takes the result of one statement, got {}",
                statements.len()
            )));
        }
        if let Some(format @ (Format::Json | Format::JsonCompact | Format::Parquet | Format::Arrow)) =
            args.answer.format
        {
            let message =
                format!("format {} holds the result of one statement, got {}", format.as_str(), statements.len());
            return Err(Failure::usage(message).hint("results in table, csv, tsv or jsonl may follow one another"));
        }
    }
    let engine = open(&statements, context).await?;
    for statement in statements {
        context.answer(&engine, statement, &args.answer).await?;
    }
    Ok(())
}

fn read_stdin() -> Result<String> {
    let mut script = String::new();
    stdin().lock().read_to_string(&mut script).map_err(|error| io_failure("standard input", &error))?;
    Ok(script)
}

/// A script that creates or imports something may make the database's folder; a question may not.
async fn open(statements: &[&str], context: &Context) -> Result<Engine> {
    let makes = |statement: &&str| {
        let first = sql_text::first_word(statement);
        first.eq_ignore_ascii_case("create") || first.eq_ignore_ascii_case("import")
    };
    match statements.iter().any(makes) {
        true => context.open_or_create(&context.db_dir()).await,
        false => context.open().await,
    }
}
