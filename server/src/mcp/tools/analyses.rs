//! The four questions: `diff`, `correlate`, `cluster`, `retrieve`.

use std::collections::{BTreeMap, BTreeSet};

use rmcp::model::Tool;
use serde::Deserialize;
use serde_json::Value;

use super::super::answer::{Limits, Rows};
use super::super::arguments::{choice, number, object, text, texts, truth, whole};
use super::{Asker, DICTIONARY, LEVEL, ROWS, Reply, SET, cut_notes, tool};
use crate::error::{Failure, Result};
use crate::sql_text::{Call, literal};

/// Rows of an analysis, unless asked for more.
const ROWS_BY_DEFAULT: u64 = 20;
/// Rows of each group, where there are groups.
const ROWS_OF_GROUP: u64 = 5;
/// Rows of an analysis at most.
const MOST_ROWS: u64 = 200;
/// Features of a row whose names are shown.
const SHOWN_MEMBERS: usize = 4;

/// Arguments of `diff`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Diff {
    a: String,
    b: Option<String>,
    by: Option<String>,
    others: Option<Vec<String>>,
    against: Option<String>,
    target: Option<String>,
    paired_by: Option<String>,
    control: Option<Vec<String>>,
    level: Option<String>,
    dictionary: Option<String>,
    include_hidden: Option<bool>,
    min_docs: Option<u64>,
    examples: Option<u64>,
    fold: Option<bool>,
    limit: Option<u64>,
}

pub(super) fn diff_tool() -> Tool {
    let input = object(
        &["a"],
        [
            ("a", text(SET)),
            (
                "b",
                text(
                    "The set that `a` is compared with, e.g. `answers WHERE assistant = 'finch'`. Give this, or one of `by`, `others`, `target`.",
                ),
            ),
            (
                "by",
                text(
                    "Instead of `b`: a column of `a`; each of its values is compared with all the others, e.g. `topic` (for a column with two values, `a` and `b` with filters are better)",
                ),
            ),
            ("others", texts("Instead of `b`: several sets with which `a` is compared")),
            (
                "against",
                choice(
                    "With `by` or `others`: compare with all others together (`rest`, default of `by`) or with the one that has the feature most often (`max`, default of `others`)",
                    &["rest", "max"],
                ),
            ),
            (
                "target",
                text(
                    "Instead of `b`: a column of `a` with numbers or dates, e.g. `rating`; answers which features rise or fall with it",
                ),
            ),
            (
                "paired_by",
                text(
                    "Column by which each document of `a` has one partner in `b` (two answers to the same prompt: `prompt_id`). Use it wherever there is one: it compares like with like and finds more",
                ),
            ),
            (
                "control",
                texts(
                    "Columns to hold constant, e.g. [\"n_tokens\"] when one side is longer (long texts show more of everything), or [\"topic\"]",
                ),
            ),
            ("level", choice(LEVEL, &["token", "span", "document"])),
            ("dictionary", text(DICTIONARY)),
            ("include_hidden", truth("Also features that are hidden as uninformative. Default: false")),
            (
                "min_docs",
                whole(
                    "Only features in at least so many documents of all sides together. Default 5",
                    1,
                    u64::from(u32::MAX),
                ),
            ),
            (
                "examples",
                whole(
                    "Documents of each side to show for a row, with « » around what shows the feature, in `examples_a` and `examples_b`. Default 1; 0 is faster",
                    0,
                    5,
                ),
            ),
            ("fold", truth("Put features that say the same into one row. Default: true")),
            (
                "limit",
                whole(
                    "Rows, strongest first (with `by` or `others`: of each group). Default 20 (5 of each group)",
                    1,
                    MOST_ROWS,
                ),
            ),
        ],
    );
    tool(
        "diff",
        "What sets two sets of documents apart",
        "Which features (named properties of texts, such as hedging words, lists, apologies) are more frequent in one set of \
         documents than in another, with statistics. Use it for \"what does A do that B does not\", \"what changed\", \"how \
         do the topics differ\" (`by`), \"what goes with high ratings\" (`target`).\n\
         Example: {\"a\": \"answers WHERE assistant = 'heron'\", \"b\": \"answers WHERE assistant = 'finch'\", \
         \"paired_by\": \"prompt_id\"}\n\
         A row is a finding: `label` (the feature's name), `frequency_a` and `frequency_b` (share of each side's documents \
         that show it), `difference` (a - b: above 0 it is more frequent in a, below 0 in b), `ci_low` and `ci_high` (95 % \
         interval of the difference), `p_value`, `q_value` (p after correction for the number of features tested: below \
         0.05 the difference is significant; call nothing a finding above), `docs_a` of `n_a` and `docs_b` of `n_b` \
         documents, `also_in_words` (a plain word or phrase that shows the same), `members` (features folded into this row \
         since they say the same), `examples_a`, `examples_b`. Rows with q below 0.05 come first, and of these the \
         differences that are larger for certain, in BOTH directions: look at the sign. With `by` or `others` the column `group_a` says which group a row is about. With \
         `target` there are `correlation`, `mean_with` and `mean_without` instead of frequencies.\n\
         Then: describe_feature for what a label means exactly, `query` with has_feature(features, id) to count or read \
         documents.",
        input,
    )
    .with_raw_output_schema(ROWS.clone())
}

impl Diff {
    fn limit(&self) -> u64 {
        let by_default = if self.by.is_some() || self.others.is_some() { ROWS_OF_GROUP } else { ROWS_BY_DEFAULT };
        self.limit.unwrap_or(by_default)
    }

    fn statement(&self) -> String {
        let columns = match self.target {
            Some(_) => "* EXCEPT (same_as)",
            None => "* EXCEPT (odds_ratio, log_odds, same_as)",
        };
        let call = Call::new("diff").text(&self.a);
        let call = match &self.b {
            Some(b) => call.text(b),
            None => call,
        };
        call.named_text("by", self.by.as_deref())
            .named("others", list(self.others.as_deref()))
            .named_text("against", self.against.as_deref())
            .named_text("target", self.target.as_deref())
            .named_text("paired_by", self.paired_by.as_deref())
            .named("control", list(self.control.as_deref()))
            .named_text("level", self.level.as_deref())
            .named_text("dictionary", self.dictionary.as_deref())
            .flag("include_hidden", self.include_hidden == Some(true))
            .named("min_docs", self.min_docs)
            .named("examples", Some(self.examples.unwrap_or(1)).filter(|n| *n > 0))
            .flag("fold", self.fold != Some(false))
            .named("limit", Some(self.limit()))
            .statement_of(columns)
    }
}

pub(super) async fn diff(asker: &Asker<'_>, arguments: Diff) -> Result<Reply> {
    let ways = [arguments.b.is_some(), arguments.by.is_some(), arguments.others.is_some(), arguments.target.is_some()];
    if ways.iter().filter(|given| **given).count() != 1 {
        return Err(Failure::usage("diff: expected one of the arguments 'b', 'by', 'others' and 'target'")
            .hint("`b` is the other set; `by` compares the values of a column of `a`"));
    }
    let statement = arguments.statement();
    let mut rows = asker.ask(&statement, Limits::rows(MOST_ROWS)).await?;
    let mut notes = cut_notes(&rows, MOST_ROWS, MOST_ROWS);
    let is_full = rows.rows.len() as u64 == arguments.limit();
    if is_full && !rows.cut.size && arguments.by.is_none() && arguments.others.is_none() {
        notes.push("There may be more rows: raise `limit`.".to_owned());
    }
    if rows.rows.is_empty() {
        notes.push("No feature is in enough documents to be tested: look at the sets, or lower `min_docs`.".to_owned());
    } else if rows.of("q_value").all(|q| q.as_f64().is_none_or(|q| q >= 0.05)) {
        notes.push("No row is significant (q_value below 0.05): there is no evidence of a difference.".to_owned());
    }
    let groups: BTreeSet<&str> = rows.of("group_a").filter_map(Value::as_str).collect();
    if groups.len() == 2 && arguments.by.is_some() {
        notes.push("Of two groups, each says what the other says with the sign turned: `a` and `b` with filters give the same \
                    in half the rows, and can be paired (`paired_by`).".to_owned());
    }
    if rows.of("n_left_out").any(|n| n.as_u64().is_some_and(|n| n > 0)) {
        notes.push("n_left_out: documents without a counterpart or without features were not compared.".to_owned());
    }
    rows.take_constants(&["n_a", "n_b", "n", "n_left_out"]);
    name_members(asker, &mut rows).await?;
    Ok(Reply::of(&rows, &statement, notes))
}

/// Puts names beside the ids of `members`, and says how many there are.
async fn name_members(asker: &Asker<'_>, rows: &mut Rows) -> Result<()> {
    let Some(position) = rows.position("members") else { return Ok(()) };
    let shown = |value: &Value| -> Vec<u64> {
        let ids = value.as_array().into_iter().flatten().filter_map(Value::as_u64);
        ids.take(SHOWN_MEMBERS).collect()
    };
    let ids: Vec<String> = rows.rows.iter().flat_map(|row| shown(&row[position])).map(|id| id.to_string()).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let statement = format!("SELECT feature_id, label FROM saequel.features WHERE feature_id IN ({})", ids.join(", "));
    let named = asker.ask(&statement, Limits::rows(MOST_ROWS * SHOWN_MEMBERS as u64)).await?;
    let labels: BTreeMap<u64, &str> =
        named.rows.iter().filter_map(|row| Some((row.first()?.as_u64()?, row.get(1)?.as_str()?))).collect();
    for row in &mut rows.rows {
        let n_members = row[position].as_array().map_or(0, Vec::len);
        let mut names: Vec<Value> = shown(&row[position])
            .into_iter()
            .map(|id| format!("{id} {}", labels.get(&id).unwrap_or(&"")).into())
            .collect();
        if n_members > names.len() {
            names.push(format!("… ({n_members} in all)").into());
        }
        row[position] = names.into();
    }
    Ok(())
}

/// Texts as a list in SQL; `None` if there is none.
fn list(texts: Option<&[String]>) -> Option<String> {
    let texts: Vec<String> = texts?.iter().map(|text| literal(text)).collect();
    (!texts.is_empty()).then(|| format!("[{}]", texts.join(", ")))
}

/// Arguments of `correlate`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Correlate {
    set: String,
    with: Option<String>,
    paired_by: Option<String>,
    unexpected: Option<f64>,
    control: Option<String>,
    min_lift: Option<f64>,
    min_docs: Option<u64>,
    min_both: Option<u64>,
    direction: Option<String>,
    level: Option<String>,
    dictionary: Option<String>,
    limit: Option<u64>,
}

pub(super) fn correlate_tool() -> Tool {
    let input = object(
        &["set"],
        [
            ("set", text(SET)),
            (
                "with",
                text(
                    "Pair features of `set` with those of this set (needs `paired_by`): prompts with answers, questions with replies",
                ),
            ),
            ("paired_by", text("With `with`: the column whose value is the same in partners; unique in each set")),
            (
                "unexpected",
                number(
                    "Only pairs whose labels are less alike than this cosine (0.3 is a good start) and that topics do not explain: the surprising ones",
                ),
            ),
            ("control", choice("Hold topics constant (default with `unexpected`) or nothing", &["topic", "none"])),
            (
                "min_lift",
                number(
                    "How many times as often as by chance a pair must come together. Default 1, with `unexpected` 2",
                ),
            ),
            (
                "min_docs",
                whole(
                    "Only features in at least so many documents. Default 0.25 % of them, at least 5",
                    1,
                    u64::from(u32::MAX),
                ),
            ),
            ("min_both", whole("Only pairs in at least so many documents", 1, u64::from(u32::MAX))),
            (
                "direction",
                choice(
                    "More often together than chance (default), less often, or both",
                    &["positive", "negative", "both"],
                ),
            ),
            (
                "level",
                choice(
                    "Features of sentences (`span`, default), of single words (`token`; many trivial pairs) or all",
                    &["token", "span", "document", "all"],
                ),
            ),
            ("dictionary", text(DICTIONARY)),
            ("limit", whole("Rows, strongest first. Default 20", 1, MOST_ROWS)),
        ],
    );
    tool(
        "correlate",
        "Which features go together",
        "Which pairs of features come together in documents more often (or more seldom) than chance. Use it for \"what goes \
         with what\", \"what is typical of texts that do X\", \"what unexpected combinations are there\" (`unexpected`: \
         0.3).\n\
         Example: {\"set\": \"answers WHERE assistant = 'heron'\", \"limit\": 10}\n\
         A row is a pair: `label_a`, `label_b`, `docs_both` (documents with both) against `expected` (by chance), `npmi` \
         (association: 0 none, 1 always together, -1 never), `p_a_given_b` and `p_b_given_a` (how often the one is there \
         where the other is), `q_value` (below 0.05: significant), `label_similarity` (1: the labels mean the same, then the \
         pair tells little), `n_members` (pairs that tell the same, folded into the row), `also_in_words`.",
        input,
    )
    .with_raw_output_schema(ROWS.clone())
}

impl Correlate {
    fn limit(&self) -> u64 {
        self.limit.unwrap_or(ROWS_BY_DEFAULT)
    }

    fn statement(&self) -> String {
        Call::new("correlate")
            .text(&self.set)
            .named_text("with", self.with.as_deref())
            .named_text("paired_by", self.paired_by.as_deref())
            .named("unexpected", self.unexpected)
            .named_text("control", self.control.as_deref())
            .named("min_lift", self.min_lift)
            .named("min_docs", self.min_docs)
            .named("min_both", self.min_both)
            .named_text("direction", self.direction.as_deref())
            .named_text("level", self.level.as_deref())
            .named_text("dictionary", self.dictionary.as_deref())
            .named("limit", Some(self.limit()))
            .statement_of("* EXCEPT (llr, same_place)")
    }
}

pub(super) async fn correlate(asker: &Asker<'_>, arguments: Correlate) -> Result<Reply> {
    let statement = arguments.statement();
    let mut rows = asker.ask(&statement, Limits::rows(MOST_ROWS)).await?;
    let mut notes = cut_notes(&rows, MOST_ROWS, MOST_ROWS);
    if rows.rows.is_empty() {
        notes.push(
            "No pair: the set is small, or the filters are narrow (`min_docs`, `min_lift`, `unexpected`).".to_owned(),
        );
    } else {
        if rows.of("q_value").all(|q| q.as_f64().is_none_or(|q| q >= 0.05)) {
            notes.push("No row is significant (q_value below 0.05): these pairs may be chance.".to_owned());
        }
        if rows.rows.len() as u64 == arguments.limit() && !rows.cut.size {
            notes.push("There may be more rows: raise `limit`.".to_owned());
        }
    }
    rows.take_constants(&["n"]);
    Ok(Reply::of(&rows, &statement, notes))
}

/// Arguments of `cluster`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cluster {
    set: String,
    about: Option<String>,
    k: Option<u64>,
    documents: Option<bool>,
    view: Option<String>,
    method: Option<String>,
    seed: Option<u64>,
    level: Option<String>,
    dictionary: Option<String>,
    limit: Option<u64>,
}

pub(super) fn cluster_tool() -> Tool {
    let input = object(
        &["set"],
        [
            ("set", text(SET)),
            (
                "about",
                text(
                    "What the groups shall be about, in key phrases separated by commas (`bullet points, numbered steps, headings`), or labels or ids of features. Default: everything",
                ),
            ),
            ("k", whole("Number of groups. Default: the most stable number from 2 to 12", 1, 1000)),
            ("documents", truth("One row a document instead of one row a group. Default: false")),
            (
                "view",
                choice(
                    "What documents are compared by: their features, or their embeddings (`dense`: better for plain topics), or with `about` `both`, features and embeddings along what is named. Default: auto, `both` with phrases in `about`, else features",
                    &["auto", "features", "dense", "both"],
                ),
            ),
            ("method", choice("Default: auto, which is kmeans", &["auto", "kmeans", "jaccard-spectral"])),
            ("seed", whole("Of random choices; the same gives the same. Default 0", 0, u64::from(u32::MAX))),
            ("level", choice(LEVEL, &["token", "span", "document"])),
            ("dictionary", text(DICTIONARY)),
            ("limit", whole("With `documents`: rows. Default 100", 1, 1000)),
        ],
    );
    tool(
        "cluster",
        "How documents fall into groups",
        "Groups the documents of a set by what they show, and says what is typical of each group. Use it to get an overview \
         of a corpus, or for \"what kinds of X are there\" (say X in `about`).\n\
         Examples: {\"set\": \"answers\", \"view\": \"dense\"} for topics; {\"set\": \"answers\", \"about\": \"bullet points, \
         numbered steps, headings\", \"k\": 4} for forms.\n\
         A row is a group: `name`, `size` (documents) and `share`, `stability` (above 0.75 the group is reliable, below 0.5 \
         it is not: do not lean on it), `top_features` (id, label and its frequency in the group against outside), \
         `top_words`, `central_doc_ids` (its most typical documents: read some with `query`). Group -1 `unclear` holds what \
         fits nowhere. With `documents` true: `doc_id`, `cluster_id`, `cluster_name`, `membership` (1 at the centre).",
        input,
    )
    .with_raw_output_schema(ROWS.clone())
}

impl Cluster {
    fn statement(&self) -> String {
        let call = Call::new(if self.documents == Some(true) { "cluster" } else { "cluster_summary" });
        call.text(&self.set)
            .named_text("about", self.about.as_deref())
            .named("k", self.k)
            .named_text("view", self.view.as_deref())
            .named_text("method", self.method.as_deref())
            .named("seed", self.seed)
            .named_text("level", self.level.as_deref())
            .named_text("dictionary", self.dictionary.as_deref())
            .statement()
    }
}

pub(super) async fn cluster(asker: &Asker<'_>, arguments: Cluster) -> Result<Reply> {
    const BY_DEFAULT: u64 = 100;
    let statement = arguments.statement();
    let is_documents = arguments.documents == Some(true);
    let limit = if is_documents { arguments.limit.unwrap_or(BY_DEFAULT) } else { 1000 };
    let rows = asker.ask(&statement, Limits { shorten: Some(typical), cell_chars: 800, ..Limits::rows(limit) }).await?;
    let mut notes = cut_notes(&rows, limit, 1000);
    if rows.of("stability").any(|stability| stability.as_f64().is_some_and(|stability| stability < 0.5)) {
        notes.push("Groups with a stability below 0.5 change when documents are drawn anew: try another `k`, `view` or `about`.".to_owned());
    }
    Ok(Reply::of(&rows, &statement, notes))
}

/// `2928 the modal 'may' (0.74 in the group, 0.02 outside)` of a feature.
fn typical(column: &str, value: Value) -> Value {
    const SHOWN: usize = 6;
    if column != "top_features" {
        return value;
    }
    let Value::Array(features) = value else { return value };
    let shown = features.into_iter().take(SHOWN).map(|feature| {
        let share = |name: &str| feature[name].as_f64().unwrap_or_default();
        let (inside, outside) = (share("frequency_in"), share("frequency_out"));
        let label = feature["label"].as_str().unwrap_or_default();
        Value::from(format!("{} {label} ({inside:.2} in, {outside:.2} out)", feature["feature_id"]))
    });
    shown.collect()
}

/// Arguments of `retrieve`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Retrieve {
    set: String,
    query: String,
    k: Option<u64>,
    but_not: Option<String>,
    like: Option<Vec<String>>,
    unlike: Option<Vec<String>>,
    signals: Option<String>,
    level: Option<String>,
    explain: Option<bool>,
}

pub(super) fn retrieve_tool() -> Tool {
    let input = object(
        &["set", "query"],
        [
            ("set", text(SET)),
            (
                "query",
                text(
                    "The property or topic, in words, as a description: `politely refuses to answer`, `gives numbers with units`",
                ),
            ),
            ("k", whole("Documents to return. Default 10", 1, 100)),
            ("but_not", text("Push documents down that have this property, in words")),
            ("like", texts("doc_ids of earlier hits that were right: the search learns from them")),
            ("unlike", texts("doc_ids of earlier hits that were wrong")),
            (
                "signals",
                text(
                    "Signals to use, separated by commas: dense (embedding), labels (features whose labels mean the query), words, latents. Default: dense, labels, words",
                ),
            ),
            ("level", choice(LEVEL, &["token", "span", "document"])),
            ("explain", truth("Also rank and score of each signal. Default: false")),
        ],
    );
    tool(
        "retrieve",
        "Which documents have a property",
        "Finds the documents of a set that have a property said in words, best first, and why. Use it to find examples, or \
         texts about something. It always returns `k` documents, also if none has the property: read them before you call \
         them hits. It ranks and does not count; to count documents with a feature use `query` with has_feature.\n\
         Example: {\"set\": \"answers\", \"query\": \"apologises for not being able to help\", \"k\": 5}. Then mark hits: \
         {..., \"like\": [\"a-17\"], \"unlike\": [\"a-3\"]}.\n\
         A row is a document: `rank`, `doc_id`, `score` (comparable within this answer only), `reasons` (features with their \
         strength, and the similarity `dense`), `text` (its beginning; for the whole text use `query` with a larger \
         `cell_chars`).",
        input,
    )
    .with_raw_output_schema(ROWS.clone())
}

impl Retrieve {
    fn statement(&self) -> String {
        let joined = |ids: Option<&[String]>| ids.filter(|ids| !ids.is_empty()).map(|ids| ids.join(","));
        let columns = match self.explain {
            Some(true) => "* EXCEPT (features)",
            _ => "rank, doc_id, score, reasons, text, docs_searched",
        };
        Call::new("retrieve")
            .text(&self.set)
            .text(&self.query)
            .named("k", Some(self.k.unwrap_or(10)))
            .named_text("but_not", self.but_not.as_deref())
            .named_text("like", joined(self.like.as_deref()).as_deref())
            .named_text("unlike", joined(self.unlike.as_deref()).as_deref())
            .named_text("signals", self.signals.as_deref())
            .named_text("level", self.level.as_deref())
            .statement_of(columns)
    }
}

pub(super) async fn retrieve(asker: &Asker<'_>, arguments: Retrieve) -> Result<Reply> {
    let statement = arguments.statement();
    let mut rows = asker.ask(&statement, Limits::rows(MOST_ROWS)).await?;
    rows.take_constants(&["docs_searched"]);
    let mut notes = cut_notes(&rows, MOST_ROWS, MOST_ROWS);
    if rows.rows.is_empty() {
        notes.push("The set is empty.".to_owned());
    }
    Ok(Reply::of(&rows, &statement, notes))
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::json;

    use super::*;

    fn read<T: DeserializeOwned>(arguments: Value) -> T {
        serde_json::from_value(arguments).unwrap()
    }

    #[test]
    fn arguments_become_quoted_literals() {
        let diff: Diff = read(json!({"a": "x WHERE m = 'a'", "b": "x", "control": ["n", "it's"], "limit": 3}));
        assert_eq!(
            diff.statement(),
            "SELECT * EXCEPT (odds_ratio, log_odds, same_as) FROM diff('x WHERE m = ''a''', 'x', control => ['n', 'it''s'], \
             examples => 1, fold => true, limit => 3)"
        );
        let diff: Diff = read(json!({"a": "x", "target": "t", "examples": 0, "fold": false}));
        assert_eq!(diff.statement(), "SELECT * EXCEPT (same_as) FROM diff('x', target => 't', limit => 20)");
        let diff: Diff = read(json!({"a": "x", "by": "m"}));
        assert!(diff.statement().contains("by => 'm'") && diff.statement().contains("limit => 5"));
        let correlate: Correlate = read(json!({"set": "x", "unexpected": 0.3, "with": "y", "paired_by": "p"}));
        assert_eq!(
            correlate.statement(),
            "SELECT * EXCEPT (llr, same_place) FROM correlate('x', with => 'y', paired_by => 'p', unexpected => 0.3, \
             limit => 20)"
        );
        let cluster: Cluster = read(json!({"set": "x", "about": "a'); DROP CORPUS x --", "documents": true}));
        assert_eq!(cluster.statement(), "SELECT * FROM cluster('x', about => 'a''); DROP CORPUS x --')");
        let retrieve: Retrieve = read(json!({"set": "x", "query": "it's", "like": ["1", "2"], "unlike": []}));
        assert_eq!(
            retrieve.statement(),
            "SELECT rank, doc_id, score, reasons, text, docs_searched FROM retrieve('x', 'it''s', k => 10, like => '1,2')"
        );
    }

    #[test]
    fn features_of_a_group_are_short() {
        let features =
            json!([{"feature_id": 7, "label": "may", "frequency_in": 0.736, "frequency_out": 0.02, "lift": 9}]);
        assert_eq!(typical("top_features", features), json!(["7 may (0.74 in, 0.02 out)"]));
        assert_eq!(typical("name", "a".into()), "a");
    }
}
