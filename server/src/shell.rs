//! The interactive shell: `saequel sql` on a terminal.

mod complete;

use std::path::PathBuf;
use std::time::Instant;

use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{CompletionType, Config, Editor};
use saequel_engine::Engine;

use crate::args::Answer;
use crate::context::Context;
use crate::error::{Failure, Result};
use crate::output::Format;
use crate::say::{remark, say};
use crate::sql_text::{self, literal};
use complete::{Assistant, Names};

const HELP: &str = "\
SQL ends with a semicolon and may span lines. Tab completes names; in quotes, feature labels and corpora.
  \\d            corpora                \\d NAME     columns of a table
  \\dt           all tables             \\df [WORD]  functions
  \\timing       time of each query on or off
  \\format NAME  table, csv, tsv, jsonl, json or markdown
  \\help         this                   \\q          leave (also Ctrl-D)
Ctrl-C stops the running query. Try:
  SELECT * FROM diff('a', 'b') LIMIT 10;
  SELECT * FROM retrieve('a', 'gives an example');
  SELECT feature_id, label FROM saequel.features WHERE label ILIKE '%sorry%';";

/// What the user has set.
struct Settings {
    answer: Answer,
    timing: bool,
}

/// What a line beginning with a backslash asks for.
#[derive(Debug, PartialEq)]
enum Meta {
    Query(String),
    Timing,
    Format(Format),
    ShowFormat,
    Help,
    Quit,
}

/// Reads and runs statements until the user leaves.
///
/// # Errors
/// If the terminal cannot be read or written; what statements say is printed.
pub(crate) async fn run(engine: &Engine, answer: &Answer, context: &Context) -> Result<()> {
    say!("saequel {}: {}. \\help for help, \\q to leave", env!("CARGO_PKG_VERSION"), engine.dir().display())?;
    let mut editor = editor()?;
    let history = history_file();
    if let Some(path) = &history {
        let _ = editor.load_history(path); // there is none the first time
    }
    let mut settings = Settings { answer: Answer { output: None, ..answer.clone() }, timing: true };
    let mut corpora_of_names = None;
    loop {
        // Names are collected again when the corpora have changed.
        let corpora = engine.catalog().corpora.len();
        if corpora_of_names != Some(corpora) {
            corpora_of_names = Some(corpora);
            editor.set_helper(Some(Assistant::new(Names::collect(engine).await)));
        }
        // Reading blocks; queries of this shell wait for it, nothing else does.
        let line = tokio::task::block_in_place(|| editor.readline("saequel> "));
        context.interrupt.reset();
        let input = match line {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(terminal(&error)),
        };
        let input = input.trim();
        if input.is_empty() {
            continue;
        }
        let _ = editor.add_history_entry(input); // a full history keeps the newest
        if let Some(path) = &history {
            save(&mut editor, path);
        }
        if !one_input(input, engine, &mut settings, context).await? {
            break;
        }
    }
    Ok(())
}

/// Runs what was typed; false if the user leaves.
///
/// # Errors
/// If the answer cannot be shown.
async fn one_input(input: &str, engine: &Engine, settings: &mut Settings, context: &Context) -> Result<bool> {
    let statements = if input.starts_with('\\') || matches!(input, "exit" | "quit" | "help" | "exit;" | "quit;") {
        match meta(input) {
            Ok(Meta::Query(statement)) => vec![statement],
            Ok(Meta::Quit) => return Ok(false),
            Ok(Meta::Help) => {
                say!("{HELP}")?;
                vec![]
            }
            Ok(Meta::Timing) => {
                settings.timing = !settings.timing;
                say!("timing is {}", if settings.timing { "on" } else { "off" })?;
                vec![]
            }
            Ok(Meta::Format(format)) => {
                settings.answer.format = Some(format);
                vec![]
            }
            Ok(Meta::ShowFormat) => {
                say!("format is {}", settings.answer.format.unwrap_or(Format::Table).as_str())?;
                vec![]
            }
            Err(failure) => {
                remark!("{failure}");
                vec![]
            }
        }
    } else {
        sql_text::statements(input).into_iter().map(str::to_owned).collect()
    };
    for statement in statements {
        let began = Instant::now();
        match context.answer(engine, &statement, &settings.answer).await {
            Ok(n_rows) => {
                let rows = if n_rows == 1 { "row" } else { "rows" };
                match settings.timing {
                    true => say!("({n_rows} {rows}, {:.3} s)\n", began.elapsed().as_secs_f64())?,
                    false => say!("({n_rows} {rows})\n")?,
                }
            }
            Err(failure) if failure.is_reader_gone() => return Err(failure),
            Err(failure) => {
                remark!("{failure}\n");
                return Ok(true);
            }
        }
    }
    Ok(true)
}

/// Reads a backslash command.
fn meta(input: &str) -> Result<Meta> {
    let mut words = input.trim_end_matches(';').split_whitespace();
    let (command, argument) = (words.next().unwrap_or_default(), words.next());
    Ok(match (command, argument) {
        ("\\q" | "\\quit" | "quit" | "exit", _) => Meta::Quit,
        ("\\help" | "\\h" | "\\?" | "help", _) => Meta::Help,
        ("\\timing", _) => Meta::Timing,
        ("\\format", Some(name)) => match name.parse::<Format>()? {
            format if format.is_binary() => {
                let message = format!("format {} is binary", format.as_str());
                return Err(Failure::usage(message).hint("`saequel export SQL --output FILE` writes it to a file"));
            }
            format => Meta::Format(format),
        },
        ("\\format", None) => Meta::ShowFormat,
        ("\\d", None) => Meta::Query("SHOW CORPORA".into()),
        ("\\d", Some(table)) => Meta::Query(format!("DESCRIBE {table}")),
        ("\\dt", _) => Meta::Query("SHOW TABLES".into()),
        ("\\df", word) => {
            let filter = word.map(|word| format!(" WHERE routine_name ILIKE {}", literal(&format!("%{word}%"))));
            Meta::Query(format!(
                "SELECT DISTINCT routine_name, function_type, description FROM information_schema.routines{} ORDER BY 1",
                filter.unwrap_or_default()
            ))
        }
        _ => return Err(Failure::usage(format!("command '{command}' is not known")).hint("\\help lists the commands")),
    })
}

fn editor() -> Result<Editor<Assistant, DefaultHistory>> {
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .history_ignore_space(true)
        .max_history_size(10_000)
        .and_then(|builder| builder.history_ignore_dups(true))
        .map_err(|error| terminal(&error))?
        .auto_add_history(false)
        .build();
    Editor::with_config(config).map_err(|error| terminal(&error))
}

fn terminal(error: &ReadlineError) -> Failure {
    Failure::new(saequel_engine::ErrorKind::Io, format!("terminal: {error}"))
}

/// `$SAEQUEL_HISTORY`, else `~/.saequel_history`.
fn history_file() -> Option<PathBuf> {
    let asked = std::env::var_os("SAEQUEL_HISTORY").map(PathBuf::from);
    asked.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".saequel_history")))
}

/// Keeps the history; a home that cannot be written to is no reason to stop.
fn save(editor: &mut Editor<Assistant, DefaultHistory>, path: &std::path::Path) {
    if let Err(error) = editor.append_history(path) {
        tracing::debug!("history is not kept: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        assert_eq!(meta("\\q").unwrap(), Meta::Quit);
        assert_eq!(meta("exit;").unwrap(), Meta::Quit);
        assert_eq!(meta("\\d answers;").unwrap(), Meta::Query("DESCRIBE answers".into()));
        assert_eq!(meta("\\format CSV").unwrap(), Meta::Format(Format::Csv));
        assert!(meta("\\format parquet").unwrap_err().to_string().contains("export"));
        assert!(meta("\\format xml").is_err());
        assert!(meta("\\nonsense").unwrap_err().to_string().contains("\\help"));
        let Meta::Query(functions) = meta("\\df o'x").unwrap() else { panic!("query") };
        assert!(functions.contains("'%o''x%'"));
    }
}
