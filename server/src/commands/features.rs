//! `saequel features`: what the features are, and what they are called.

use std::path::Path;

use futures::TryStreamExt;
use saequel_engine::{CorpusInfo, Engine, ErrorKind, FeatureRef, NewLabel};

use crate::args::{Answer, FeaturesCommand};
use crate::context::Context;
use crate::error::{Failure, Result, io_failure};
use crate::output::{Format, value};
use crate::say::{remark, say};
use crate::sql_text::{Call, identifier};

pub(super) async fn features(command: FeaturesCommand, context: &Context) -> Result<()> {
    match command {
        FeaturesCommand::Search { query, words_only, all, rows, answer } => {
            let engine = context.open().await?;
            let call = Call::new("search_features")
                .text(&query)
                .named_text("by", words_only.then_some("words"))
                .flag("include_hidden", all);
            let n_features = engine.catalog().features.features().len() as u64;
            let statement = |limit: Option<u64>| call.clone().named("k", limit.or(Some(n_features))).statement();
            context.answer_list(&engine, statement, rows.limit, &answer).await
        }
        FeaturesCommand::Show { feature, corpus, examples, answer } => {
            let engine = context.open().await?;
            show(&engine, &feature, corpus.as_deref(), examples, &answer, context).await
        }
        FeaturesCommand::Rename { feature, label } => {
            let engine = context.open().await?;
            let id = feature_id(&engine, &feature)?;
            let before = engine.catalog().features.label(id).to_owned();
            engine.rename_feature(id, &label).await?;
            say!("{id}: '{before}' is now '{label}'")
        }
        FeaturesCommand::Evidence(args) => super::evidence::evidence(args, context).await,
        FeaturesCommand::ExportLabels { answer } => {
            let answer = answer.lossless()?;
            let engine = context.open().await?;
            let statement = "SELECT * FROM saequel.features ORDER BY feature_id";
            context.answer(&engine, statement, &answer).await?;
            Ok(())
        }
        FeaturesCommand::ImportLabels { file, source } => {
            let labels = read_labels(&file)?;
            let engine = context.open().await?;
            let n_changed = engine.import_labels(&labels, &source).await?;
            say!("{n_changed} of {} labels changed", labels.len())
        }
    }
}

/// The id that a number or a label stands for.
pub(super) fn feature_id(engine: &Engine, name: &str) -> Result<u32> {
    let found = engine.catalog().features.resolve("features", name).map_err(|error| {
        Failure::new(ErrorKind::NotFound, Failure::from(error).line())
            .hint("`saequel features search WORDS` finds features by what they mean")
    })?;
    match found {
        FeatureRef::Feature(id) => Ok(id),
        FeatureRef::Concept(members) => {
            let ids: Vec<String> = members.iter().map(|(id, _)| id.to_string()).collect();
            Err(Failure::usage(format!("'{name}' stands for several features; give a number: {}", ids.join(", "))))
        }
    }
}

/// Prints what is known of a feature and the documents in which it is strongest.
async fn show(
    engine: &Engine,
    name: &str,
    corpus: Option<&str>,
    examples: u64,
    answer: &Answer,
    context: &Context,
) -> Result<()> {
    let id = feature_id(engine, name)?;
    let about = format!("SELECT * FROM saequel.features WHERE feature_id = {id}");
    let is_table = matches!(answer, Answer { format: None | Some(Format::Table), output: None, .. });
    let corpora = engine.catalog().corpora.clone();
    let corpus = match corpus {
        Some(name) => Some(corpora.iter().find(|corpus| corpus.name == name).cloned().ok_or_else(|| {
            Failure::new(ErrorKind::NotFound, format!("corpus '{name}' not found"))
                .hint("`saequel sql \"SHOW CORPORA\"`")
        })?),
        None => corpora.first().cloned(),
    };
    if !is_table {
        context.answer(engine, &about, answer).await?;
        return Ok(());
    }
    if answer.show_sql {
        remark!("{about};");
    }
    for (name, text) in pairs(engine, &about).await? {
        say!("{name:<15} {text}")?;
    }
    if let Some(detail) = engine.catalog().feature_detail(id).filter(|detail| !detail.examples.is_empty()) {
        say!("\nStrongest in the texts it was made from:")?;
        for example in &detail.examples {
            say!("  {}", example.split_whitespace().collect::<Vec<_>>().join(" "))?;
        }
    }
    let Some(corpus) = corpus else { return Ok(()) };
    let statement = examples_statement(&corpus, id, examples);
    say!("\nStrongest in corpus {}:", corpus.name)?;
    match context.answer(engine, &statement, answer).await? {
        0 => say!("(in no document of {})", corpus.name),
        _ => Ok(()),
    }
}

/// Documents in which a feature is strongest, its tokens marked; only these are read again for that.
fn examples_statement(corpus: &CorpusInfo, id: u32, n: u64) -> String {
    let text = text_of(corpus);
    let strongest = format!(
        "SELECT doc_id, activation(features, {id}) AS activation, {text} AS text FROM {} \
         WHERE has_feature(features, {id}) ORDER BY activation DESC, doc_id LIMIT {n}",
        identifier(&corpus.name)
    );
    format!(
        "SELECT doc_id, activation, highlight(text, {id}) AS text FROM ({strongest}) ORDER BY activation DESC, doc_id"
    )
}

/// The text of a document, in SQL: the columns that are read.
pub(super) fn text_of(corpus: &CorpusInfo) -> String {
    let texts: Vec<String> = corpus.text_columns.iter().map(|column| identifier(column)).collect();
    match texts.as_slice() {
        [one] => one.clone(),
        several => format!("concat_ws(' ', {})", several.join(", ")),
    }
}

/// Column names and values of the first row.
async fn pairs(engine: &Engine, statement: &str) -> Result<Vec<(String, String)>> {
    let batches: Vec<_> = engine.sql(statement).await?.try_collect().await?;
    let Some(batch) = batches.iter().find(|batch| batch.num_rows() > 0) else { return Ok(Vec::new()) };
    let fields = batch.schema_ref().fields();
    let rounding = value::Rounding::Decimals(6);
    fields
        .iter()
        .zip(batch.columns())
        .map(|(field, column)| Ok((field.name().clone(), value::text(column, 0, rounding)?)))
        .filter(|pair| !matches!(pair, Ok((_, text)) if text.is_empty()))
        .collect()
}

/// Reads feature_id and label, and description and detection if there are any, from CSV or TSV with a header, or JSON
/// Lines.
fn read_labels(path: &Path) -> Result<Vec<NewLabel>> {
    let text = std::fs::read_to_string(path).map_err(|error| io_failure(path.display(), &error))?;
    let at = |line: u64, what: &str| Failure::new(ErrorKind::Data, format!("{}, line {line}: {what}", path.display()));
    let bad_id = |id: &str| format!("expected a number as feature_id, got '{id}'");
    let bad_detection = |score: &str| format!("expected a number as detection, got '{score}'");
    let mut labels = Vec::new();
    if Format::of_path(path) == Some(Format::Jsonl) {
        for (position, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let number = position as u64 + 1;
            let row: serde_json::Value =
                serde_json::from_str(line).map_err(|error| at(number, &format!("not JSON: {error}")))?;
            let id = row["feature_id"].as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or_else(|| at(number, &bad_id(&row["feature_id"].to_string())))?;
            let label = row["label"].as_str().ok_or_else(|| at(number, "expected a text as label"))?;
            let detection = match &row["detection"] {
                serde_json::Value::Null => None,
                score => Some(score.as_f64().ok_or_else(|| at(number, &bad_detection(&score.to_string())))? as f32),
            };
            let description = row["description"].as_str().map(str::to_owned);
            labels.push(NewLabel { description, detection, ..NewLabel::new(id, label) });
        }
        return Ok(labels);
    }
    let delimiter = if Format::of_path(path) == Some(Format::Tsv) { b'\t' } else { b',' };
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(text.as_bytes());
    let header = reader.headers().map_err(|error| at(1, &error.to_string()))?.clone();
    let optional = |name: &str| header.iter().position(|column| column == name);
    let column = |name: &str| {
        optional(name).ok_or_else(|| {
            let there: Vec<&str> = header.iter().collect();
            at(1, &format!("column '{name}' not found; there are {}", there.join(", ")))
        })
    };
    let (id_column, label_column) = (column("feature_id")?, column("label")?);
    let (description_column, detection_column) = (optional("description"), optional("detection"));
    for record in reader.records() {
        let record = record.map_err(|error| {
            let line = error.position().map_or(0, csv::Position::line);
            at(line, &error.to_string())
        })?;
        let line = record.position().map_or(0, csv::Position::line);
        let id = &record[id_column];
        let id = id.trim().parse().map_err(|_| at(line, &bad_id(id)))?;
        let score = detection_column.map(|column| record[column].trim()).filter(|score| !score.is_empty());
        let detection = score.map(|score| score.parse().map_err(|_| at(line, &bad_detection(score)))).transpose()?;
        let description = description_column.map(|column| record[column].to_owned());
        labels.push(NewLabel { description, detection, ..NewLabel::new(id, &record[label_column]) });
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(name: &str, text: &str) -> Result<Vec<NewLabel>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        read_labels(&path)
    }

    #[test]
    fn labels_are_read_and_mistakes_are_placed() {
        let expected = vec![NewLabel::new(7, "says sorry, twice"), NewLabel::new(8, "b")];
        assert_eq!(labels("a.csv", "label,feature_id\n\"says sorry, twice\",7\nb,8\n").unwrap(), expected);
        assert_eq!(labels("a.tsv", "feature_id\tlabel\n7\tsays sorry, twice\n8\tb\n").unwrap(), expected);
        let lines = "{\"feature_id\": 7, \"label\": \"says sorry, twice\"}\n\n{\"feature_id\": 8, \"label\": \"b\"}\n";
        assert_eq!(labels("a.jsonl", lines).unwrap(), expected);
        let failure = labels("a.csv", "feature_id,label\n1,a\nx,b\n").unwrap_err();
        assert!(failure.line().contains("a.csv, line 3: expected a number as feature_id, got 'x'"), "{failure}");
        assert_eq!(failure.wire().exit, 3);
        let more = labels("a.csv", "detection,feature_id,label,description\n0.9,7,a,\"Says a, b.\"\n,8,b,\n").unwrap();
        let described = |text: &str| Some(text.to_owned());
        let first = NewLabel { description: described("Says a, b."), detection: Some(0.9), ..NewLabel::new(7, "a") };
        assert_eq!(more, [first.clone(), NewLabel { description: described(""), ..NewLabel::new(8, "b") }]);
        let line = "{\"feature_id\": 7, \"label\": \"a\", \"description\": \"Says a, b.\", \"detection\": 0.9}\n";
        assert_eq!(labels("a.jsonl", line).unwrap(), [first]);
        let failure = labels("a.csv", "feature_id,label,detection\n1,a,good\n").unwrap_err();
        assert!(failure.line().contains("line 2: expected a number as detection, got 'good'"), "{failure}");
        assert!(labels("a.csv", "id,label\n").unwrap_err().line().contains("there are id, label"));
        assert!(labels("a.jsonl", "{\n").unwrap_err().line().contains("line 1: not JSON"));
    }
}
