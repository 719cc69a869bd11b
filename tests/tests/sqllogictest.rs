//! Runs every file of `tests/slt` on one small real database.
//!
//! Each file leaves the database as it found it. `SLT=diff` runs only files whose name contains `diff`;
//! `SLT_COMPLETE=1` writes the results that came into the files, to be read as a diff.

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use saequel_engine::{Engine, Error};
use sqllogictest::{
    DBOutput, DefaultColumnType, Runner, default_column_validator, default_normalizer, default_validator,
};

struct Database(Engine);

#[async_trait::async_trait]
impl sqllogictest::AsyncDB for Database {
    type Error = Error;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Error> {
        let (schema, batches) = self.0.sql_collect(sql).await?;
        let types = schema.fields().iter().map(|field| column_type(field.data_type())).collect();
        let mut rows = Vec::new();
        for batch in &batches {
            for row in 0..batch.num_rows() {
                rows.push(batch.columns().iter().map(|column| cell(column, row)).collect());
            }
        }
        Ok(DBOutput::Rows { types, rows })
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &'static str {
        "saequel"
    }

    async fn sleep(duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

fn column_type(data_type: &DataType) -> DefaultColumnType {
    match data_type {
        data_type if data_type.is_integer() => DefaultColumnType::Integer,
        data_type if data_type.is_floating() => DefaultColumnType::FloatingPoint,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DefaultColumnType::Text,
        _ => DefaultColumnType::Any,
    }
}

/// One value as text; floats to four digits, since sums may come in another order.
fn cell(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return "NULL".to_owned();
    }
    let options = FormatOptions::default().with_null("NULL");
    let text = match ArrayFormatter::try_new(column, &options) {
        Ok(formatter) => formatter.value(row).to_string(),
        Err(error) => return error.to_string(),
    };
    match text.parse::<f64>() {
        Ok(number) if column.data_type().is_floating() => {
            let rounded = format!("{number:.4}");
            if rounded == "-0.0000" { "0.0000".to_owned() } else { rounded }
        }
        _ if text.is_empty() => "(empty)".to_owned(),
        _ => text.replace('\n', "\\n"),
    }
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("slt");
    let wanted = std::env::var("SLT").unwrap_or_default();
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("the folder of tests")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "slt"))
        .filter(|path| path.file_stem().is_some_and(|name| name.to_string_lossy().contains(&wanted)))
        .collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_passes() {
    let (folder, engine) = common::database().await;
    let complete = std::env::var_os("SLT_COMPLETE").is_some();
    let files = files();
    assert!(!files.is_empty(), "no test file");
    let mut failures = Vec::new();
    for file in files {
        let mut runner = Runner::new(|| {
            let engine = engine.clone();
            async move { Ok(Database(engine)) }
        });
        runner.set_var("FIXTURES".to_owned(), common::fixture("").display().to_string());
        runner.set_var("SCRATCH".to_owned(), folder.path().display().to_string());
        let result = if complete {
            let written =
                runner.update_test_file(&file, " ", default_validator, default_normalizer, default_column_validator);
            written.await.map_err(|error| error.to_string())
        } else {
            runner.run_file_async(&file).await.map_err(|error| error.to_string())
        };
        if let Err(error) = result {
            failures.push(format!("{}: {error}", file.display()));
        }
    }
    assert!(failures.is_empty(), "{} files failed:\n\n{}", failures.len(), failures.join("\n\n"));
}

/// `udfs/functions.md` lists the functions of SQL; each has a file of its own here.
#[test]
fn every_function_has_a_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = std::fs::read_to_string(root.join("../udfs/functions.md")).expect("the list of functions");
    let names: Vec<&str> = list
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .map(|heading| heading.trim().trim_matches('`').split('(').next().unwrap_or_default())
        .collect();
    assert!(names.len() > 5, "functions.md: expected a heading `### name` for each function, found {names:?}");
    let missing: Vec<&&str> =
        names.iter().filter(|name| !root.join("slt").join(format!("{name}.slt")).exists()).collect();
    assert!(missing.is_empty(), "functions without a test file in tests/slt: {missing:?}");
}
