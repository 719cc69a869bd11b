//! Opens a database inside a program, imports a few texts, asks two questions.
//!
//! `cargo run -p saequel-examples --example quickstart`

use std::sync::Arc;

use arrow::util::pretty::print_batches;
use saequel_engine::{Engine, EngineOptions, ImportOptions, ImportSource, Silent};

const REVIEWS: &str = r#"{"id": "r1", "stars": 1, "text": "I am so sorry that I ever bought this kettle. It leaks."}
{"id": "r2", "stars": 5, "text": "What a wonderful kettle! Boils in two minutes, I love it."}
{"id": "r3", "stars": 2, "text": "The seller apologised for the delay, but the lid is still broken."}
{"id": "r4", "stars": 4, "text": "Steps that worked for me: 1. rinse it 2. boil water with vinegar 3. rinse it again."}
"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("reviews.jsonl");
    std::fs::write(&file, REVIEWS)?;

    let engine = Engine::open(folder.path().join("quickstart.db"), EngineOptions::default()).await?;
    let mut import = ImportOptions::new(ImportSource::Path(file), "reviews");
    import.text_columns = vec!["text".to_owned()];
    import.key = Some("id".to_owned());
    let report = engine.import(import, Arc::new(Silent)).await?;
    println!("{} documents, {} tokens", report.written, report.n_tokens);

    for question in [
        "SELECT rank, doc_id, score, text FROM retrieve('reviews', 'somebody apologises', k => 2)",
        "SELECT doc_id, stars, top_features(features, 3) AS top FROM reviews ORDER BY stars",
    ] {
        println!("\n{question}");
        print_batches(&engine.sql_collect(question).await?.1)?;
    }
    Ok(())
}
