//! `search_features(query, k)`: features by what they mean and by the words they fire on.
//!
//! Two likenesses, both 0 to 1: *meaning*, the cosine of the embeddings of query and label (with its description), and
//! *words*, the share of the query's words that are in the label or (counting less, the further down the list the less)
//! in the description or among the feature's strongest tokens and words. `score = 1 - (1 - meaning) (1 - words)`: either is enough.
//!
//! ```sql
//! SELECT feature_id, label, score FROM search_features('apology', 5);
//! ```
//!
//! Options: `k` (default 20); `by => 'meaning,words'` (`words` alone needs no reader); `include_hidden`, `dictionary`,
//! `level`. Sorted by score, then id. Meaning is only known of visible features.

use std::fmt;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    ArrayRef, BooleanArray, Float32Array, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder, UInt32Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::plan_err;
use datafusion::error::Result;

use crate::SharedSource;
use crate::args::{Arguments, did_you_mean};
use crate::catalog::{Feature, FeatureCatalog, FeatureSelection};
use crate::docs::{FunctionDoc, Kind};
use crate::kernels::retrieval::most_similar;
use crate::kernels::words::words;
use crate::table::exec::{Computation, ComputedTable, Request, blocking, quoted};

/// A lower cosine between query and label is chance.
const MEANING_FLOOR: f32 = 0.2;

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let tokens = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
    Arc::new(Schema::new(vec![
        Field::new("rank", DataType::Int64, false),
        Field::new("feature_id", DataType::UInt32, false),
        Field::new("label", DataType::Utf8, false),
        Field::new("level", DataType::Utf8, true),
        Field::new("dictionary", DataType::Utf8, true),
        Field::new("score", DataType::Float32, false),
        Field::new("meaning", DataType::Float32, true),
        Field::new("words", DataType::Float32, true),
        Field::new("density", DataType::Float32, false),
        Field::new("top_tokens", tokens, false),
        Field::new("hidden", DataType::Boolean, false),
    ]))
});

/// User documentation.
pub const DOC: FunctionDoc = FunctionDoc {
    name: "search_features",
    kind: Kind::Table,
    syntax: "search_features(query [, k])",
    text: "Features found by what they mean (`meaning`: cosine of the embeddings of query and label, with its \
           description) and by words (`words`: share of the query's words that are in the label, or, counting less, in \
           the description or among the tokens and words on which the feature is strongest); `score` is high if either is. Best first.",
    arguments: &[
        ("query", "what to look for"),
        ("k", "how many; default 20"),
        ("by", "`'meaning'`, `'words'` (needs no reader) or both, separated by a comma; default both"),
        ("include_hidden, dictionary, level", "which features; see `diff`"),
    ],
    example: "SELECT label, score, meaning, words, top_tokens FROM search_features('sorry', 3)",
};

/// The table function `search_features`.
#[derive(Debug)]
struct SearchFeatures {
    source: SharedSource,
}

/// `search_features(query, k)` over `source`.
pub fn search_features_udtf(source: &SharedSource) -> Arc<dyn TableFunctionImpl> {
    Arc::new(SearchFeatures { source: Arc::clone(source) })
}

impl TableFunctionImpl for SearchFeatures {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let mut args = Arguments::parse("search_features", args.exprs())?;
        let query = args.positional("query").required_text()?;
        let k = args.positional("k").count_or(20)?;
        let by = args.named("by").text()?.unwrap_or_else(|| "meaning,words".to_owned());
        let selection = FeatureSelection::from_args(&mut args)?;
        args.finish()?;
        let (mut meaning, mut words) = (false, false);
        for name in by.split(',').map(str::trim) {
            match name.to_lowercase().as_str() {
                "meaning" => meaning = true,
                "words" => words = true,
                _ => {
                    let hint = did_you_mean(name, ["meaning", "words"]);
                    return plan_err!(
                        "search_features: 'by' cannot be '{name}'{hint}; expected meaning, words or both"
                    );
                }
            }
        }
        let selected = self.source.catalog().select("search_features", &selection)?;
        let source = Arc::clone(&self.source);
        Ok(ComputedTable::provider(Search { source, query, k, meaning, words, selected }))
    }
}

#[derive(Debug)]
struct Search {
    source: SharedSource,
    query: String,
    k: usize,
    meaning: bool,
    words: bool,
    selected: Vec<bool>,
}

impl fmt::Display for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "search_features({}, {})", quoted(&self.query), self.k)
    }
}

/// A feature that was found.
struct Hit {
    position: usize,
    score: f32,
    meaning: Option<f32>,
    words: Option<f32>,
    /// Word of the label that is the first one of the query.
    place: usize,
}

#[async_trait]
impl Computation for Search {
    fn name(&self) -> &'static str {
        "search_features"
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&SCHEMA)
    }

    async fn run(&self, _request: Request) -> Result<Vec<RecordBatch>> {
        let catalog = self.source.catalog();
        let mut meanings: Vec<Option<f32>> = vec![None; catalog.id_bound()];
        if self.meaning {
            let (source, query) = (Arc::clone(&self.source), self.query.clone());
            let found = blocking("search_features", move |_| {
                let labels = source.label_embeddings()?;
                let encoded = source.encode(&[query.as_str()])?;
                let embedding = encoded.first().map(|encoded| encoded.embedding.as_slice()).unwrap_or_default();
                let rows = most_similar(embedding, &labels.values, labels.width, labels.ids.len(), MEANING_FLOOR);
                Ok(rows.into_iter().map(|(row, cosine)| (labels.ids[row], cosine)).collect::<Vec<_>>())
            })
            .await?;
            for (id, cosine) in found {
                if let Some(meaning) = meanings.get_mut(id as usize) {
                    *meaning = Some(cosine.min(1.0));
                }
            }
        }
        let query: Vec<String> = words(&self.query).collect();
        let mut hits: Vec<Hit> = Vec::new();
        for (position, feature) in catalog.features().iter().enumerate() {
            let id = feature.id as usize;
            if !self.selected.get(id).copied().unwrap_or(false) {
                continue;
            }
            let meaning = meanings.get(id).copied().flatten();
            let likeness = self.words.then(|| word_likeness(&query, feature)).filter(|likeness| *likeness > 0.0);
            let score = 1.0 - (1.0 - meaning.unwrap_or(0.0)) * (1.0 - likeness.unwrap_or(0.0));
            if score > 0.0 {
                let place = words(&feature.label).position(|word| query.contains(&word)).unwrap_or(usize::MAX);
                hits.push(Hit { position, score, meaning, words: likeness, place });
            }
        }
        // Of several words a label names the most frequent one first.
        hits.sort_by(|a, b| {
            let meaning = |hit: &Hit| hit.meaning.unwrap_or(0.0);
            let by_score = b.score.total_cmp(&a.score).then(a.place.cmp(&b.place));
            by_score.then(meaning(b).total_cmp(&meaning(a))).then(a.position.cmp(&b.position))
        });
        hits.truncate(self.k);
        Ok(vec![result(&hits, &catalog)?])
    }
}

/// Share of the query's words, 0 to 1, that the label has (counting 1 each), that the description has (0.9), or that are
/// among the strongest tokens or words (0.8 for the first, falling to 0.4 for the tenth and further ones).
fn word_likeness(query: &[String], feature: &Feature) -> f32 {
    if query.is_empty() {
        return 0.0;
    }
    let has = |text: &str, word: &String| words(text).any(|other| other == *word);
    let in_list = |word: &String, list: &[String]| {
        let rank = list.iter().position(|entry| words(entry).any(|other| other == *word))?;
        Some(0.8 - 0.4 * rank.min(10) as f32 / 10.0)
    };
    let one = |word: &String| {
        if has(&feature.label, word) {
            return 1.0;
        }
        if has(&feature.description, word) {
            return 0.9;
        }
        let lists = [&feature.top_tokens, &feature.top_words];
        lists.into_iter().filter_map(|list| in_list(word, list)).fold(0.0, f32::max)
    };
    query.iter().map(one).sum::<f32>() / query.len() as f32
}

fn result(hits: &[Hit], catalog: &FeatureCatalog) -> Result<RecordBatch> {
    let features: Vec<&Feature> = hits.iter().map(|hit| &catalog.features()[hit.position]).collect();
    let dictionary = |feature: &&Feature| catalog.dictionaries().get(feature.dictionary);
    let mut tokens = ListBuilder::new(StringBuilder::new());
    for feature in &features {
        feature.top_tokens.iter().for_each(|token| tokens.values().append_value(token));
        tokens.append(true);
    }
    let levels = features.iter().map(|feature| dictionary(feature).map(|dictionary| dictionary.level.as_str()));
    let names = features.iter().map(|feature| dictionary(feature).map(|dictionary| dictionary.name.as_str()));
    let columns: Vec<ArrayRef> = vec![
        Arc::new((1..=hits.len() as i64).collect::<Int64Array>()),
        Arc::new(features.iter().map(|feature| Some(feature.id)).collect::<UInt32Array>()),
        Arc::new(features.iter().map(|feature| Some(feature.label.as_str())).collect::<StringArray>()),
        Arc::new(levels.collect::<StringArray>()),
        Arc::new(names.collect::<StringArray>()),
        Arc::new(hits.iter().map(|hit| Some(hit.score)).collect::<Float32Array>()),
        Arc::new(hits.iter().map(|hit| hit.meaning).collect::<Float32Array>()),
        Arc::new(hits.iter().map(|hit| hit.words).collect::<Float32Array>()),
        Arc::new(features.iter().map(|feature| Some(feature.density)).collect::<Float32Array>()),
        Arc::new(tokens.finish()),
        Arc::new(features.iter().map(|feature| Some(feature.hidden)).collect::<BooleanArray>()),
    ];
    Ok(RecordBatch::try_new(Arc::clone(&SCHEMA), columns)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemorySource;
    use arrow::array::AsArray;
    use arrow::datatypes::Float32Type;

    fn source() -> MemorySource {
        MemorySource::with_words(
            &[("apology", &["sorry", "apologise"]), ("list of steps", &["first", "second"]), ("regret", &["sorry"])],
            vec![],
        )
    }

    async fn search(sql: &str) -> Result<Vec<(String, f32)>> {
        let batches = source().session()?.sql(sql).await?.collect().await?;
        let mut rows = Vec::new();
        for batch in batches {
            let labels = batch.column(0).as_string::<i32>().clone();
            let scores = batch.column(1).as_primitive::<Float32Type>().clone();
            rows.extend(labels.iter().flatten().map(str::to_owned).zip(scores.values().iter().copied()));
        }
        Ok(rows)
    }

    #[tokio::test]
    async fn finds_by_meaning_and_by_words() {
        let rows = search("SELECT label, score FROM search_features('Apology')").await.unwrap();
        assert_eq!(rows, [("apology".to_string(), 1.0)]);
        let rows = search("SELECT label, score FROM search_features('sorry', 5)").await.unwrap();
        assert_eq!(rows.iter().map(|row| row.0.as_str()).collect::<Vec<_>>(), ["apology", "regret"]);
        assert!((rows[0].1 - 0.8).abs() < 1e-6);
        let rows = search("SELECT label, score FROM search_features('steps', 5)").await.unwrap();
        assert_eq!((rows[0].0.as_str(), rows[0].1), ("list of steps", 1.0));
        assert!(search("SELECT label, score FROM search_features('zebra', 5)").await.unwrap().is_empty());
        assert!(search("SELECT label, score FROM search_features('sorry', 0)").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn labels_that_name_the_word_first_come_first() {
        let features: &[(&str, &[&str])] = &[("'bad' and 'sorry'", &["bad"]), ("'sorry' and 'apology'", &["sorry"])];
        let session = MemorySource::with_words(features, vec![]).session().unwrap();
        let sql = "SELECT label FROM search_features('sorry', 2, named_argument('by', 'words'))";
        let batches = session.sql(sql).await.unwrap().collect().await.unwrap();
        let labels = batches[0].column(0).as_string::<i32>();
        assert_eq!(labels.iter().flatten().collect::<Vec<_>>(), ["'sorry' and 'apology'", "'bad' and 'sorry'"]);
    }

    #[tokio::test]
    async fn says_what_is_wrong() {
        let message = search("SELECT label, score FROM search_features('  ')").await.unwrap_err().strip_backtrace();
        assert!(message.contains("search_features: argument 'query' is empty"), "{message}");
        let sql = "SELECT label, score FROM search_features('a', 5, named_argument('by', 'word'))";
        let message = search(sql).await.unwrap_err().strip_backtrace();
        assert!(message.contains("'by' cannot be 'word'; did you mean 'words'?"), "{message}");
    }
}
