//! `saequel features`: what the features are, and what they are called.

use futures::TryStreamExt;
use saequel_engine::{CorpusInfo, Engine, ErrorKind, FeatureRef};

use crate::args::{Answer, FeaturesCommand};
use crate::context::Context;
use crate::error::{Failure, Result};
use crate::output::{Format, value};
use crate::say::{remark, say};
use crate::sql_text::{Call, identifier, literal};

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
            let statement = "SELECT f.*, f.feature_id - s.first_feature_id AS latent FROM saequel.features AS f \
                             JOIN saequel.saes AS s ON s.name = f.dictionary ORDER BY f.feature_id";
            context.answer(&engine, statement, &answer).await?;
            Ok(())
        }
        FeaturesCommand::ImportLabels(args) => super::import_labels::import_labels(args, context).await,
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
    let (mut said, mut read_in) = (String::new(), "");
    if let Some(chat) = &corpus.chat {
        let said_by = |(role, column): &(String, String)| format!("{}, {}", literal(role), identifier(column));
        let messages: Vec<String> = chat.columns.iter().map(said_by).collect();
        said = format!(", conversation({}) AS said", messages.join(", "));
        read_in = ", said";
    }
    let strongest = format!(
        "SELECT doc_id, activation(features, {id}) AS activation, {text} AS text{said} FROM {} \
         WHERE has_feature(features, {id}) ORDER BY activation DESC, doc_id LIMIT {n}",
        identifier(&corpus.name)
    );
    format!(
        "SELECT doc_id, activation, highlight(text, {id}{read_in}) AS text FROM ({strongest}) \
         ORDER BY activation DESC, doc_id"
    )
}

/// The text of a document, in SQL: the columns that are read.
pub(super) fn text_of(corpus: &CorpusInfo) -> String {
    let texts: Vec<String> = corpus.text_columns.iter().map(|column| identifier(column)).collect();
    match texts.as_slice() {
        [one] => one.clone(),
        several => format!("concat_ws('\n\n', {})", several.join(", ")),
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
