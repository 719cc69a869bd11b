//! `saequel sql`: one statement, a script, or the shell.

use std::io::{IsTerminal, Read, stdin};

use saequel_engine::Engine;

use crate::args::SqlArgs;
use crate::context::Context;
use crate::error::{Failure, Result, io_failure};
use crate::shell;
use crate::sql_text;

pub(super) async fn sql(args: SqlArgs, context: &Context) -> Result<()> {
    let script = match args.statement.as_deref() {
        Some("-") => read_stdin()?,
        Some(statement) => statement.to_owned(),
        None if stdin().is_terminal() => {
            let engine = context.open_or_create(&context.db_dir()).await?;
            return shell::run(&engine, &args.answer, context).await;
        }
        None => read_stdin()?,
    };
    let statements = sql_text::statements(&script);
    if statements.is_empty() {
        return Err(Failure::usage("no statement given").hint("saequel sql \"SHOW CORPORA\""));
    }
    if statements.len() > 1 && args.answer.output.is_some() {
        return Err(Failure::usage(format!("--output takes the result of one statement, got {}", statements.len())));
    }
    let engine = open(&statements, context).await?;
    for statement in statements {
        let written = context.answer(&engine, statement, &args.answer).await?;
        if written.cut_short {
            break;
        }
    }
    Ok(())
}

fn read_stdin() -> Result<String> {
    let mut script = String::new();
    stdin().lock().read_to_string(&mut script).map_err(|error| io_failure("standard input", &error))?;
    Ok(script)
}

/// A statement that begins a database may make its folder; a question may not.
async fn open(statements: &[&str], context: &Context) -> Result<Engine> {
    let makes = |statement: &&str| {
        let first = statement.split_whitespace().next().unwrap_or_default();
        first.eq_ignore_ascii_case("create") || first.eq_ignore_ascii_case("import")
    };
    match statements.first().is_some_and(makes) {
        true => context.open_or_create(&context.db_dir()).await,
        false => context.open().await,
    }
}
