//! What features there are: `search_features` and `describe_feature`.

use rmcp::model::Tool;
use saequel_engine::ErrorKind;
use serde::Deserialize;
use serde_json::Value;

use super::super::answer::{Column, Limits};
use super::super::arguments::{choice, object, text, truth, whole};
use super::{Asker, DICTIONARY, LEVEL, ROWS, Reply, cut_notes, tool};
use crate::error::{Failure, Result};
use crate::sql_text::{Call, identifier, literal};

/// Features that are returned at most.
const MOST: u64 = 100;

/// Arguments of `search_features`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SearchFeatures {
    query: String,
    corpus: Option<String>,
    k: Option<u64>,
    by: Option<String>,
    level: Option<String>,
    dictionary: Option<String>,
    include_hidden: Option<bool>,
}

pub(super) fn search_features_tool() -> Tool {
    let input = object(
        &["query"],
        [
            ("query", text("What the feature should mean, in a few words: `apology`, `numbered steps`, `hedging`")),
            (
                "corpus",
                text(
                    "Also say in how many documents of this corpus each feature is (column `docs`). Give it whenever you will use the features on a corpus",
                ),
            ),
            ("k", whole("Features to return. Default 10", 1, MOST)),
            (
                "by",
                choice(
                    "Search by meaning, by the words of labels and descriptions, or both (default)",
                    &["meaning", "words", "both"],
                ),
            ),
            ("level", choice(LEVEL, &["token", "span", "document"])),
            ("dictionary", text(DICTIONARY)),
            ("include_hidden", truth("Also features that are hidden as uninformative. Default: false")),
        ],
    );
    tool(
        "search_features",
        "Find features by meaning",
        "Finds features, the named properties that documents have, by what they mean. Use it to turn a property said in words \
         into feature ids for SQL: has_feature(features, 1919), activation(features, 1919).\n\
         Example: {\"query\": \"hedging\", \"corpus\": \"answers\"}\n\
         A row is a feature, best first: `feature_id`, `label` (its name), `level` (token: fires on words; span: on \
         sentences), `score` (0 to 1, of `meaning` and `words`), `docs` (with `corpus`: documents that have it; 0 means that \
         it does not help there), `density` (share of tokens or sentences of general text), `top_tokens` (on which it fires). \
         Labels are narrow: for hedging, also search for words that do it (`might`, `perhaps`), take those with many `docs`, and \
         combine them with OR. What you cannot name, diff and retrieve find.\n\
         Then: describe_feature for what it fires on and what not.",
        input,
    )
    .with_raw_output_schema(ROWS.clone())
}

pub(super) async fn search_features(asker: &Asker<'_>, arguments: SearchFeatures) -> Result<Reply> {
    let by = arguments.by.as_deref().filter(|by| *by != "both");
    let statement = Call::new("search_features")
        .text(&arguments.query)
        .named("k", Some(arguments.k.unwrap_or(10)))
        .named_text("by", by)
        .named_text("level", arguments.level.as_deref())
        .named_text("dictionary", arguments.dictionary.as_deref())
        .flag("include_hidden", arguments.include_hidden == Some(true))
        .statement_of("feature_id, label, level, score, meaning, words, density, top_tokens");
    let mut rows = asker.ask(&statement, Limits::rows(MOST)).await?;
    let mut notes = cut_notes(&rows, MOST, MOST);
    let ids: Vec<u64> = rows.of("feature_id").filter_map(Value::as_u64).collect();
    if ids.is_empty() {
        notes.push("No feature matches: say it in other words, or use `retrieve`, which needs no feature.".to_owned());
    }
    if let (Some(corpus), false) = (&arguments.corpus, ids.is_empty()) {
        let table = identifier(corpus.trim());
        // Each is answered by the index.
        let counts: Vec<String> = ids
            .iter()
            .map(|id| format!("SELECT {id} AS id, count(*) AS docs FROM {table} WHERE has_feature(features, {id})"))
            .collect();
        let counted = asker.ask(&counts.join(" UNION ALL "), Limits::rows(MOST)).await?;
        let docs = |id: u64| {
            let found = counted.rows.iter().find(|row| row.first().and_then(Value::as_u64) == Some(id));
            found.and_then(|row| row.get(1)).cloned().unwrap_or(Value::Null)
        };
        const PLACE: usize = 3;
        rows.columns.insert(PLACE, Column { name: "docs".to_owned(), data_type: "Int64".to_owned() });
        for (row, id) in rows.rows.iter_mut().zip(&ids) {
            row.insert(PLACE, docs(*id));
        }
        notes.push(format!("docs: documents of `{corpus}` that have the feature."));
    }
    Ok(Reply::of(&rows, &statement, notes))
}

/// Arguments of `describe_feature`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DescribeFeature {
    feature: String,
}

pub(super) fn describe_feature_tool() -> Tool {
    tool(
        "describe_feature",
        "Describe a feature",
        "Says what a feature is: what it fires on and what not (`description`), the words on which it is strongest \
         (`top_tokens`), how well its name holds (`detection`: share of unseen contexts told apart by the name, 0.5 is \
         chance, above 0.8 is good), in how many documents of each corpus it is, and examples from them. Use it before you \
         rely on a label: labels are short.\n\
         Example: {\"feature\": \"1919\"}. A row is a property: `property`, `value`. `level` token: it fires on words; span: \
         on sentences. `density`: share of tokens or sentences of general text on which it fires. Activations below `presence_threshold` \
         count as absent; `q50` and `q90` say what is usual.",
        object(&["feature"], [("feature", text("Id of a feature (`1919`), its exact label, or the name of a concept; search_features finds ids"))]),
    )
    .with_raw_output_schema(ROWS.clone())
}

pub(super) async fn describe_feature(asker: &Asker<'_>, arguments: DescribeFeature) -> Result<Reply> {
    let name = arguments.feature.trim();
    let feature = match name.parse::<u32>() {
        Ok(id) => id.to_string(),
        Err(_) => literal(name),
    };
    let statement = format!("DESCRIBE FEATURE {feature}");
    let rows = asker.ask(&statement, Limits::rows(MOST)).await.map_err(|failure| match failure.kind() {
        ErrorKind::NotFound => {
            Failure::new(ErrorKind::NotFound, failure.line()).hint("search_features finds features by what they mean")
        }
        _ => failure,
    })?;
    let notes = cut_notes(&rows, MOST, MOST);
    Ok(Reply::of(&rows, &statement, notes))
}
