//! `kill -9` at random moments of an import, then `import` again: exactly the right rows, none twice, each time.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use saequel_tests::{Scratch, query_column, saequel};

const N_DOCS: usize = 400;
const N_KILLS: u64 = 20;
/// Of these, so many must hit an import that has stored some documents and not all; on a busy machine, whose pace changes
/// between the rounds, more kills are needed for that.
const IN_THE_MIDDLE: u32 = 5;
const MOST_KILLS: u64 = 60;

/// Documents with different texts, so that a row that is lost or doubled shows in the sum as well as in the count.
fn write_documents(scratch: &Scratch) -> std::path::PathBuf {
    let mut lines = String::new();
    for i in 0..N_DOCS {
        let text = match i % 4 {
            0 => format!("I am sorry, parcel {i} is late again and nobody answers the phone."),
            1 => format!("Step {i}: mix flour and water, knead for ten minutes, let it rest."),
            2 => format!("The committee adopted resolution {i} after a long debate about taxes."),
            _ => format!("What a lovely concert! Seat {i} had the best view of the orchestra."),
        };
        writeln!(lines, r#"{{"id": {i}, "text": "{text}", "weight": {}}}"#, i * i).expect("write to a string");
    }
    scratch.write("documents.jsonl", lines.as_bytes())
}

fn import(scratch: &Scratch, file: &std::path::Path, db: &str) -> std::process::Command {
    let mut command = saequel(scratch.path(db));
    command.args(["import"]).arg(file).args([
        "--corpus",
        "docs",
        "--text",
        "text",
        "--key",
        "id",
        "--batch-docs",
        "25",
    ]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// A small deterministic generator: the moments differ, the test can be repeated.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

#[test]
fn kill_at_any_moment_and_import_again() {
    let scratch = Scratch::new();
    let file = write_documents(&scratch);
    let started = Instant::now();
    let whole = import(&scratch, &file, "whole.db").output().expect("run saequel");
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    let whole_millis = started.elapsed().as_millis() as u64;
    let expected: Vec<String> = rows(&scratch, "whole.db");
    assert_eq!(expected.len(), N_DOCS);

    let mut state = 20_261_123;
    let mut interrupted_with_rows = 0;
    for round in 0..MOST_KILLS {
        if round >= N_KILLS && interrupted_with_rows >= IN_THE_MIDDLE {
            break;
        }
        let db = format!("killed-{round}.db");
        let mut child = import(&scratch, &file, &db).spawn().expect("run saequel");
        std::thread::sleep(Duration::from_millis(next_random(&mut state) % whole_millis.max(1)));
        child.kill().expect("kill -9");
        child.wait().expect("wait for the killed process");

        // What is there is a part of the truth, and readable, unless the corpus had not been made yet.
        let before = query_column(scratch.path(&db), "SELECT doc_id FROM docs", "doc_id").unwrap_or_else(|said| {
            assert!(said.contains("not found"), "round {round}: what the kill left cannot be read: {said}");
            Vec::new()
        });
        let distinct: BTreeSet<&String> = before.iter().collect();
        assert_eq!(distinct.len(), before.len(), "round {round}: a document is there twice after the kill");
        interrupted_with_rows += u32::from(!before.is_empty() && before.len() < N_DOCS);

        let again = import(&scratch, &file, &db).output().expect("run saequel");
        assert!(again.status.success(), "round {round}: {}", String::from_utf8_lossy(&again.stderr));
        assert_eq!(rows(&scratch, &db), expected, "round {round}");
        let found = query_column(
            scratch.path(&db),
            "SELECT doc_id FROM retrieve('docs', 'parcel', signals => 'words', k => 1000)",
            "doc_id",
        )
        .expect("search the word index");
        assert_eq!(found.len(), N_DOCS / 4, "round {round}: the word index has caught up with the documents");
    }
    assert!(
        interrupted_with_rows >= IN_THE_MIDDLE,
        "{interrupted_with_rows} of {MOST_KILLS} kills hit the import in its middle"
    );
}

/// Every document with what was computed for it, in a fixed order.
fn rows(scratch: &Scratch, db: &str) -> Vec<String> {
    query_column(
        scratch.path(db),
        "SELECT doc_id || ' ' || weight || ' ' || n_tokens || ' ' || array_to_string(features['ids'], ',') AS line \
         FROM docs ORDER BY id",
        "line",
    )
    .expect("read the corpus")
}
