//! `saequel demo`: imports the answers of two imaginary assistants and asks the four questions, through the same SQL
//! that anyone would write. Can be stopped and run again.

mod known;

use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::time::Instant;

use arrow::array::RecordBatch;
use futures::TryStreamExt;
use saequel_engine::{Engine, ImportOptions, ImportReport, ImportSource};

use crate::args::DemoArgs;
use crate::context::Context;
use crate::error::{Result, io_failure};
use crate::output::ResultWriter;
use crate::output::sink::stdout_layout;
use crate::output::table::{Layout, TableWriter};

/// 420 answers; see `examples/data/README.md`.
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
    let dir = args.dir.clone().or_else(|| context.global.db.clone()).unwrap_or_else(|| PathBuf::from(DEMO_DIR));
    let began = Instant::now();
    println!("Two imaginary assistants, heron and finch, answered the same 210 prompts.");
    println!("saequel reads the 420 answers, then says how they differ, without being told what to look for.\n");
    let engine = context.open_or_create(&dir).await?;
    let report = import(&engine, context).await?;
    println!("{}\n", super::import::summary(CORPUS, &report));
    let found = ask(&engine, &diff_statement(known::ROWS), context).await?;
    let findings = known::findings(&found, &engine.catalog().features)?;
    for (position, question) in questions(args.rows, findings.first_feature()).iter().enumerate() {
        let heading = format!("{}. {}", position + 1, question.title);
        println!("{heading}\n{}\n{};\n", "─".repeat(heading.chars().count()), question.statement);
        print_table(&ask(&engine, &question.statement, context).await?)?;
        println!();
    }
    println!("What was put into the answers on purpose, and where the first {} rows of diff say so:", known::ROWS);
    print!("{findings}");
    drop(engine);
    println!("\nDone in {:.0} s.", began.elapsed().as_secs_f64());
    if args.discard {
        std::fs::remove_dir_all(&dir).map_err(|error| io_failure(dir.display(), &error))?;
        println!("{} is removed, as asked.", dir.display());
    } else {
        println!("{}", next_steps(&dir));
    }
    Ok(())
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
        let stopped = error.kind() == saequel_engine::ErrorKind::Cancelled;
        let failure = crate::error::Failure::from(error);
        if stopped { failure.hint("run `saequel demo` again to go on from here") } else { failure }
    })
}

fn diff_statement(limit: u64) -> String {
    format!(
        "SELECT feature_id, label, frequency_a AS heron, frequency_b AS finch, difference, q_value, also_in_words\n\
         FROM diff('{CORPUS} WHERE assistant = ''heron''', '{CORPUS} WHERE assistant = ''finch''',\n          \
         paired_by => 'prompt_id')\nLIMIT {limit}"
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

fn print_table(batches: &[RecordBatch]) -> Result<()> {
    let Some(first) = batches.first() else {
        println!("(no rows)");
        return Ok(());
    };
    let width = stdout_layout().width.or(Some(WIDTH));
    let mut writer = TableWriter::new(Layout { width });
    let mut out = Vec::new();
    writer.start(&first.schema(), &mut out)?;
    for batch in batches {
        writer.batch(batch, &mut out)?;
    }
    writer.finish(&mut out)?;
    stdout().write_all(&out).map_err(|error| io_failure("standard output", &error))
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
