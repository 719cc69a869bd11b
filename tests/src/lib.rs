//! What end-to-end tests share: a scratch folder, and the `saequel` program as a user would run it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder that is removed when the test ends.
#[derive(Debug)]
pub struct Scratch(tempfile::TempDir);

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Scratch {
    /// Makes the folder.
    ///
    /// # Panics
    /// If the system has no place for temporary files.
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("make a temporary folder"))
    }

    /// Path of `name` in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file and returns its path.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("write a file of the test");
        path
    }
}

/// The program: beside the test's own executable, where `cargo build --workspace` puts it.
///
/// # Panics
/// If it was not built.
pub fn program() -> PathBuf {
    let own = std::env::current_exe().expect("path of the test");
    let folder = own.ancestors().nth(2).expect("target folder").to_path_buf();
    let program = folder.join(format!("saequel{}", std::env::consts::EXE_SUFFIX));
    assert!(program.exists(), "{} is missing: run `cargo build --workspace` first", program.display());
    program
}

/// A command over the database in `db`, without progress and without the caller's settings.
pub fn saequel(db: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program());
    command.env_remove("SAEQUEL_DB").arg("--db").arg(db.as_ref());
    command
}

/// Runs a command and returns what it printed.
///
/// # Panics
/// If it failed, with what it said.
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().expect("run saequel");
    assert!(output.status.success(), "{command:?}: {}", stderr(&output));
    String::from_utf8(output.stdout).expect("UTF-8 output")
}

/// Runs a command that must fail and returns its exit code and what it said on standard error.
///
/// # Panics
/// If it succeeded, was killed, or panicked inside.
pub fn fail(command: &mut Command) -> (i32, String) {
    let output = command.output().expect("run saequel");
    let said = stderr(&output);
    assert!(!output.status.success(), "{command:?} succeeded: {}", String::from_utf8_lossy(&output.stdout));
    assert!(!said.contains("panicked at"), "{command:?} panicked: {said}");
    (output.status.code().unwrap_or_else(|| panic!("{command:?} was killed: {said}")), said)
}

/// What a process wrote to standard error.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Values of one column of a query's result, as text.
///
/// # Errors
/// What the program said on standard error, if the query failed.
///
/// # Panics
/// If the result is not JSON lines with that column.
pub fn query_column(db: impl AsRef<Path>, sql: &str, column: &str) -> Result<Vec<String>, String> {
    let output = saequel(db).args(["sql", sql, "--format", "jsonl"]).output().expect("run saequel");
    if !output.status.success() {
        return Err(stderr(&output));
    }
    let text = String::from_utf8(output.stdout).expect("UTF-8 output");
    let value = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).expect("a JSON line");
        match row.get(column).expect("the column") {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    };
    Ok(text.lines().map(value).collect())
}
