//! What tests of functions share.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::util::pretty::pretty_format_batches;
use datafusion::error::Result;

use crate::MemorySource;
use crate::catalog::Concept;

/// Features `apology`, `list`, `hedge`, `rare`, `thanks` and the concept `polite` (an apology without a list); corpus
/// `answers` with 60 answers each of models `a` and `b` to the same prompts: `a` apologises in half of them, every other
/// time with thanks, and never lists, `b` lists in half and never apologises; both hedge in a third.
pub(crate) fn answers() -> MemorySource {
    let concept = Concept { name: "polite".to_string(), members: vec![(0, 1.0), (1, -1.0)] };
    let features: &[(&str, &[&str])] = &[
        ("apology", &["sorry", "apologise"]),
        ("list", &["first", "second"]),
        ("hedge", &["perhaps"]),
        ("rare", &["zebra"]),
        ("thanks", &["thank"]),
    ];
    let source = MemorySource::with_words(features, vec![concept]);
    let (mut texts, mut models, mut prompts) = (Vec::new(), Vec::new(), Vec::new());
    for model in ["a", "b"] {
        for prompt in 0..60 {
            let mut text = String::from("Here is the answer.");
            match (model, prompt % 2) {
                ("a", 0) if prompt % 4 == 0 => text.push_str(" I am sorry for the wait. Thank you."),
                ("a", 0) => text.push_str(" I am sorry for the wait."),
                ("b", 0) => text.push_str(" First, do this. Second, do that."),
                _ => {}
            }
            if prompt % 3 == 0 {
                text.push_str(" Perhaps.");
            }
            texts.push(text);
            models.push(model);
            prompts.push(format!("p{prompt}"));
        }
    }
    let columns: Vec<(&str, ArrayRef)> =
        vec![("model", Arc::new(StringArray::from(models))), ("prompt_id", Arc::new(StringArray::from(prompts)))];
    let texts: Vec<Option<&str>> = texts.iter().map(|text| Some(text.as_str())).collect();
    source.put_texts("answers", &texts, columns).expect("columns fit");
    source
}

/// Result of a query as a drawn table.
pub(crate) async fn table(source: &MemorySource, sql: impl AsRef<str>) -> Result<String> {
    let batches = source.session()?.sql(sql.as_ref()).await?.collect().await?;
    Ok(pretty_format_batches(&batches)?.to_string())
}

/// Cells of a result, row by row.
pub(crate) async fn cells(source: &MemorySource, sql: impl AsRef<str>) -> Result<Vec<Vec<String>>> {
    let table = table(source, sql).await?;
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_string()).collect();
    Ok(table.lines().filter(|line| line.starts_with('|')).skip(1).map(cells).collect())
}

/// Message of the error that a query gives.
pub(crate) async fn error(source: &MemorySource, sql: impl AsRef<str>) -> String {
    match table(source, sql.as_ref()).await {
        Ok(table) => panic!("expected an error of {}, got\n{table}", sql.as_ref()),
        Err(error) => error.strip_backtrace(),
    }
}

/// Names of the columns of a query, with blanks between them.
pub(crate) async fn columns(source: &MemorySource, sql: impl AsRef<str>) -> String {
    let session = source.session().expect("functions can be registered");
    let plan = session.sql(sql.as_ref()).await.expect("the query is right");
    plan.schema().fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(" ")
}
