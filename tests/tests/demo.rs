//! The demo says what was put into its data, and the README says what the demo says and what works.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use saequel_tests::{Scratch, program, succeed};

/// The demo's database, and what the first run printed.
fn demo() -> (&'static Path, &'static str) {
    static DEMO: OnceLock<(Scratch, PathBuf, String)> = OnceLock::new();
    let (_, dir, told) = DEMO.get_or_init(|| {
        let scratch = Scratch::new();
        let dir = scratch.path("demo.db");
        let told = run(&dir, &[]);
        (scratch, dir, told)
    });
    (dir, told)
}

fn run(dir: &Path, arguments: &[&str]) -> String {
    succeed(Command::new(program()).env_remove("SAEQUEL_DB").arg("demo").arg("--dir").arg(dir).args(arguments))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).expect("README.md")
}

/// The fenced blocks of a language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    text.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n')).collect()
}

#[test]
fn the_demo_finds_what_was_put_into_it() {
    let (_, told) = demo();
    for heading in ["1. diff", "2. correlate", "3. cluster", "4. retrieve", "5. and it is all SQL", "Try next"] {
        assert!(told.contains(heading), "{heading}: {told}");
    }
    // A habit of a sixth of the answers comes after those of a half, each of which several features show.
    for (habit, last) in [
        ("heron hedges", 20),
        ("heron ends by asking back", 20),
        ("heron apologises", 100),
        ("finch writes lists", 20),
        ("finch opens with enthusiasm", 20),
        ("finch gives concrete numbers", 20),
    ] {
        let line = told.lines().find(|line| line.contains(habit)).expect("a line about the habit");
        let row = line.split_once("row").and_then(|(_, rest)| rest.split(':').next()?.trim().parse::<usize>().ok());
        assert!(row.is_some_and(|row| row <= last), "expected one of the first {last} rows: {line}");
    }
}

/// The block `text` of the README is a part of what the demo prints: line for line, with numbers that may differ a
/// little from machine to machine.
#[test]
fn the_readme_shows_what_the_demo_prints() {
    let (_, told) = demo();
    let readme = readme();
    let shown = blocks(&readme, "text");
    let mut told_lines = told.lines();
    for line in shown.first().expect("a block of the demo").lines() {
        assert!(told_lines.any(|other| alike(line, other)), "README.md: not printed by the demo: {line}\n{told}");
    }
}

fn alike(a: &str, b: &str) -> bool {
    let (a, b): (Vec<&str>, Vec<&str>) = (a.split_whitespace().collect(), b.split_whitespace().collect());
    let same = |(a, b): (&&str, &&str)| match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => (a - b).abs() <= 0.02,
        _ => a == b || a.starts_with('─') && b.starts_with('─'),
    };
    a.len() == b.len() && a.iter().zip(&b).all(same)
}

/// Every command and statement of the README's tour, and every statement of `docs/sql.md`, runs as it stands (`serve`
/// has tests of its own).
#[test]
fn the_tour_works_and_the_demo_can_be_run_again() {
    let (dir, _) = demo();
    let readme = readme();
    let (_, tour) = readme.split_once("## A tour").expect("the tour");
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", program().parent().expect("a folder").display());
    let mut shell = Command::new("bash");
    shell.env("PATH", path).env("SAEQUEL_DB", dir).current_dir(root()).args(["-euo", "pipefail", "-c"]);
    let commands = blocks(tour, "bash").concat();
    let commands: Vec<&str> =
        commands.lines().filter(|line| line.starts_with("saequel ") && !line.starts_with("saequel serve")).collect();
    assert!(commands.len() > 8, "{commands:?}");
    let page = std::fs::read_to_string(root().join("docs/sql.md")).expect("docs/sql.md");
    let statements = blocks(tour, "sql").concat() + &blocks(&page, "sql").concat();
    assert!(statements.lines().count() > 12, "{statements}");
    let script = format!("{}\nsaequel sql <<'SQL'\n{statements}SQL\n", commands.join("\n"));
    let told = succeed(shell.arg(script));
    assert!(told.contains("480 there already"), "{told}");

    let again = run(dir, &["--discard"]);
    assert!(again.contains("0 added, 480 there already"), "{again}");
    assert!(!dir.exists());
}
