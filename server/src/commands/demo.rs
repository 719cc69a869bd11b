//! `saequel demo`: imports the answers of two imaginary assistants and asks the four questions, through the same SQL
//! that anyone would write. Can be stopped and run again.

mod known;

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use arrow::array::{AsArray, RecordBatch};
use futures::TryStreamExt;
use saequel_engine::{Engine, ErrorKind, ImportOptions, ImportReport, ImportSource, Sae};

use crate::args::DemoArgs;
use crate::context::Context;
use crate::error::{Failure, Result, io_failure};
use crate::output::ResultWriter;
use crate::output::sink::stdout_layout;
use crate::output::table::{Layout, TableWriter};
use crate::say::say;

/// 480 answers; see `examples/data/README.md`.
const ANSWERS: &str = include_str!("../../../examples/data/answers.jsonl");
/// Where the demo's database is, unless asked otherwise.
const DEMO_DIR: &str = "saequel-demo.db";
const CORPUS: &str = "answers";
/// Width of a table where there is no terminal.
const WIDTH: usize = 120;

/// One of the questions that the demo asks.
struct Question {
    title: &'static str,
    statement: String,
}

pub(super) async fn demo(args: DemoArgs, context: &Context) -> Result<()> {
    // Never the database that --db or SAEQUEL_DB names: the demo writes to its own, and may remove it.
    let dir = args.dir.unwrap_or_else(|| DEMO_DIR.into());
    let began = Instant::now();
    say!("Two imaginary assistants, heron and finch, answered the same 240 prompts.")?;
    say!("saequel reads the 480 answers, then says how they differ, without being told what to look for.\n")?;
    let engine = context.open_or_create(&dir).await?;
    refuse_what_is_not_ours(&engine, args.discard, context).await?;
    let engine = renewed(engine, &dir, context).await?;
    let report = import(&engine, context).await?;
    say!("{}\n", super::import::summary(CORPUS, &report))?;
    let found = ask(&engine, &diff_statement(known::ROWS), context).await?;
    let findings = known::findings(&found, &engine.catalog().features)?;
    for (position, question) in questions(args.rows, findings.first_feature()).iter().enumerate() {
        let heading = format!("{}. {}", position + 1, question.title);
        say!("{heading}\n{}\n{};\n", "─".repeat(heading.chars().count()), question.statement)?;
        let rows = ask(&engine, &question.statement, context).await?;
        say!("{}", table(&rows)?)?;
    }
    say!("What was put into the answers on purpose, and the first row of diff that says so:")?;
    say!("{findings}")?;
    say!("Done in {:.0} s.", began.elapsed().as_secs_f64())?;
    if !args.discard {
        return say!("{}", next_steps(&dir));
    }
    refuse_what_is_not_ours(&engine, true, context).await?;
    drop(engine);
    std::fs::remove_dir_all(&dir).map_err(|error| io_failure(dir.display(), &error))?;
    say!("{} is removed, as asked.", dir.display())
}

/// Stops before documents of the user's get mixed with the demo's, or are removed with them.
///
/// # Errors
/// [`ErrorKind::Denied`] if the demo's corpus has documents that are not the demo's, or if everything is to be removed
/// and there is another corpus.
async fn refuse_what_is_not_ours(engine: &Engine, removes: bool, context: &Context) -> Result<()> {
    let refused = |what: String| {
        let message = format!("demo: {} has {what}, which are not the demo's", engine.dir().display());
        Err(Failure::new(ErrorKind::Denied, message)
            .hint("choose another folder with --dir; this one is left as it is"))
    };
    engine.refresh().await?;
    let catalog = engine.catalog();
    let others: Vec<&str> =
        catalog.corpora.iter().map(|corpus| corpus.name.as_str()).filter(|name| *name != CORPUS).collect();
    if removes && !others.is_empty() {
        return refused(format!("the corpora {}", others.join(", ")));
    }
    if others.len() == catalog.corpora.len() {
        return Ok(());
    }
    let ours = |line: &str| Some(serde_json::from_str::<serde_json::Value>(line).ok()?["doc_id"].as_str()?.to_owned());
    let ours: HashSet<String> = ANSWERS.lines().filter_map(ours).collect();
    let found = ask(engine, &format!("SELECT doc_id FROM {CORPUS}"), context).await?;
    let ids = found.iter().flat_map(|batch| batch.column(0).as_string::<i32>());
    match ids.flatten().filter(|id| !ours.contains(*id)).count() {
        0 => Ok(()),
        n => refused(format!("{n} documents in its corpus {CORPUS}")),
    }
}

/// The database, made anew if its features are those of an older saequel. What the user added keeps it as it is.
async fn renewed(engine: Engine, dir: &Path, context: &Context) -> Result<Engine> {
    engine.refresh().await?;
    if !is_outdated(&engine)? {
        return Ok(engine);
    }
    if let Some(what) = added(&engine) {
        say!(
            "{} keeps the features of the older saequel that made it, because it has {what}; another folder (--dir) gets the \
             present features.\n",
            dir.display()
        )?;
        return Ok(engine);
    }
    say!("{} has the features of an older saequel, so it is made anew.\n", dir.display())?;
    drop(engine);
    std::fs::remove_dir_all(dir).map_err(|error| io_failure(dir.display(), &error))?;
    context.open_or_create(dir).await
}

/// Whether a dictionary that is built into this program is not in the database, or another one under its name.
fn is_outdated(engine: &Engine) -> Result<bool> {
    let catalog = engine.catalog();
    let scratch = tempfile::tempdir().map_err(|error| io_failure("temporary folder", &error))?;
    for sae in Sae::shipped()? {
        let is_known = catalog.features.dictionaries().iter().any(|dictionary| dictionary.name == sae.name());
        let (kept, ours) = (engine.dir().join("saes").join(sae.name()), scratch.path().join(sae.name()));
        sae.save(&ours)?;
        if !is_known || !has_same_files(&kept, &ours).map_err(|error| io_failure(ours.display(), &error))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a folder has every file of another, with the same content.
fn has_same_files(folder: &Path, other: &Path) -> std::io::Result<bool> {
    for entry in std::fs::read_dir(other)? {
        let entry = entry?;
        let expected = std::fs::read(entry.path())?;
        if !std::fs::read(folder.join(entry.file_name())).is_ok_and(|found| found == expected) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What a database has beside the demo's answers.
fn added(engine: &Engine) -> Option<&'static str> {
    let catalog = engine.catalog();
    if catalog.corpora.iter().any(|corpus| corpus.name != CORPUS) {
        Some("other corpora")
    } else if !catalog.features.concepts().is_empty() {
        Some("concepts")
    } else if catalog.features.features().iter().any(|feature| feature.label_source == "user") {
        Some("labels of your own")
    } else if engine.dir().join("tokens.json").exists() {
        Some("tokens")
    } else {
        None
    }
}

/// Imports the answers; those that are there already are skipped.
async fn import(engine: &Engine, context: &Context) -> Result<ImportReport> {
    let failed = |error: std::io::Error| io_failure("temporary file", &error);
    // A fixed name: the source is part of what an import remembers.
    let folder = tempfile::tempdir().map_err(failed)?;
    let path = folder.path().join("answers.jsonl");
    std::fs::write(&path, ANSWERS).map_err(failed)?;
    let mut options = ImportOptions::new(ImportSource::Path(path), CORPUS);
    options.text_columns = vec!["answer".to_owned()];
    options.key = Some("doc_id".to_owned());
    engine.import(options, context.progress()).await.map_err(|error| {
        let stopped = error.kind() == ErrorKind::Cancelled;
        let failure = Failure::from(error);
        if stopped { failure.hint("run `saequel demo` again to go on from here") } else { failure }
    })
}

fn diff_statement(limit: u64) -> String {
    format!(
        "SELECT feature_id, label, frequency_a AS heron, frequency_b AS finch, difference, q_value, also_in_words\n\
         FROM diff('{CORPUS} WHERE assistant = ''heron''', '{CORPUS} WHERE assistant = ''finch''',\n          \
         paired_by => 'prompt_id', fold => true)\nLIMIT {limit}"
    )
}

fn questions(rows: u64, feature: Option<(u32, String)>) -> Vec<Question> {
    let mut questions = vec![
        Question {
            title: "diff: what does heron do more often than finch, and less often, on the same prompts?",
            statement: diff_statement(rows),
        },
        Question {
            title: "correlate: which habits of writing come together?",
            statement: format!(
                "SELECT feature_a, label_a, feature_b, label_b, docs_both, npmi, q_value\n\
                 FROM correlate('{CORPUS}')\nLIMIT {rows}"
            ),
        },
        Question {
            title: "cluster: what kinds of answers are there?",
            statement: format!("SELECT * FROM cluster_summary('{CORPUS}', k => 6)"),
        },
        Question {
            title: "retrieve: where does an assistant apologise because it cannot help?",
            statement: format!(
                "SELECT rank, doc_id, score, reasons, text\n\
                 FROM retrieve('{CORPUS}', 'apologises because it cannot help', k => {rows})"
            ),
        },
    ];
    if let Some((id, label)) = feature {
        questions.push(Question {
            title: "and it is all SQL: on which topics does heron do it most?",
            statement: format!(
                "SELECT topic,\n       \
                 avg(has_feature(features, {id})::INT) FILTER (WHERE assistant = 'heron') AS heron, -- {label}\n       \
                 avg(has_feature(features, {id})::INT) FILTER (WHERE assistant = 'finch') AS finch\n\
                 FROM {CORPUS} GROUP BY topic ORDER BY heron DESC, topic LIMIT {rows}"
            ),
        });
    }
    questions
}

async fn ask(engine: &Engine, statement: &str, context: &Context) -> Result<Vec<RecordBatch>> {
    context.interrupt.guard(async { Ok(engine.sql(statement).await?.try_collect().await?) }).await
}

fn table(batches: &[RecordBatch]) -> Result<String> {
    let Some(first) = batches.first() else { return Ok("(no rows)\n".to_owned()) };
    let width = stdout_layout().width.or(Some(WIDTH));
    let mut writer = TableWriter::new(Layout { width });
    let mut out = Vec::new();
    writer.start(&first.schema(), &mut out)?;
    for batch in batches {
        writer.batch(batch, &mut out)?;
    }
    writer.finish(&mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// Commands to try next, that work as they stand.
fn next_steps(dir: &Path) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "saequel".to_owned());
    let dir = dir.display().to_string();
    let dir = if dir.contains(' ') { format!("'{dir}'") } else { dir };
    format!(
        "\nThe database is kept in {dir}. Try next:
  export SAEQUEL_DB={dir}
  {program} sql                                                     # a shell; \\help inside
  {program} retrieve answers \"recommends seeing a doctor\" --k 5
  {program} diff \"answers WHERE topic='cooking'\" \"answers WHERE topic='pets'\"
  {program} features search sorry
  {program} cluster answers --k 6 --documents --output groups.csv
  {program} import YOUR_FILE.jsonl --corpus mine --text COLUMN      # your own texts"
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;
    use crate::interrupt::Interrupt;

    #[tokio::test]
    async fn a_database_of_an_older_saequel_is_made_anew_unless_something_was_added() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("demo.db");
        let global = Cli::parse_from(["saequel", "demo", "--quiet"]).global;
        let context = Context { global, interrupt: Interrupt::default() };
        let engine = context.open_or_create(&dir).await.unwrap();
        assert!(!is_outdated(&engine).unwrap());
        let name = Sae::shipped().unwrap()[0].name().to_owned();
        let file = dir.join("saes").join(name).join("features.jsonl");
        let ours = std::fs::read(&file).unwrap();
        std::fs::write(&file, b"older").unwrap();
        ask(&engine, "CREATE CONCEPT mine AS (1)", &context).await.unwrap();
        let engine = renewed(engine, &dir, &context).await.unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"older", "a concept is the user's");
        ask(&engine, "DROP CONCEPT mine", &context).await.unwrap();
        let engine = renewed(engine, &dir, &context).await.unwrap();
        assert!(!is_outdated(&engine).unwrap());
        assert_eq!(std::fs::read(&file).unwrap(), ours);
    }
}
