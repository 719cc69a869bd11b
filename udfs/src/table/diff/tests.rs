//! The function as a whole.

use super::*;
use crate::test_support::{answers, cells, columns, error};

const A: &str = "'answers WHERE model = ''a'''";
const B: &str = "'answers WHERE model = ''b'''";

#[tokio::test]
async fn compares_two_sets() {
    let sql =
        format!("SELECT label, docs_a, docs_b, difference, q_value < 0.05, also_in_words, n_a FROM diff({A}, {B})");
    let rows = cells(&answers(), sql).await.unwrap();
    assert_eq!(rows[0], ["apology", "30", "0", "0.5", "true", "\"sorry\" 0.50 vs 0.00", "60"]);
    assert_eq!(rows[1], ["list", "0", "30", "-0.5", "true", "\"second\" 0.00 vs 0.50", "60"]);
    assert_eq!(rows[2], ["thanks", "15", "0", "0.25", "true", "\"thank\" 0.25 vs 0.00", "60"]);
    assert_eq!(rows[3], ["hedge", "20", "20", "0.0", "false", "", "60"]);
    assert_eq!(rows.len(), 4, "nothing has the rare feature");
}

#[tokio::test]
async fn has_the_columns_of_the_contract() {
    let names = columns(&answers(), format!("SELECT * FROM diff({A}, {B})")).await;
    let contract = "feature_id label level docs_a docs_b frequency_a frequency_b difference ci_low ci_high odds_ratio \
                    log_odds p_value q_value also_in_words n_a n_b n_left_out same_as members";
    assert_eq!(names, contract);
}

#[tokio::test]
async fn pairs_are_matched_by_a_key() {
    let source = answers();
    let sql = format!(
        "SELECT label, docs_a, docs_b, n_a, n_b, n_left_out, also_in_words FROM diff({A}, 'answers WHERE model = ''b'' \
         AND prompt_id <> ''p0''', named_argument('paired_by', 'prompt_id'))"
    );
    let rows = cells(&source, sql).await.unwrap();
    assert_eq!(rows[0], ["apology", "29", "0", "59", "59", "1", "\"sorry\" 0.49 vs 0.00"]);

    let options = "named_argument('paired_by', 'prompt_id')";
    let twice = error(&source, format!("SELECT * FROM diff('answers', {B}, {options})")).await;
    assert!(twice.contains("diff: 'p0' comes twice in column 'prompt_id' of set 'answers'"), "{twice}");
    let none = format!("SELECT * FROM diff({A}, 'answers WHERE model = ''b''', named_argument('paired_by', 'doc_id'))");
    assert!(error(&source, none).await.contains("no value of column 'doc_id' is in both"));
}

#[tokio::test]
async fn the_same_set_twice_shows_nothing() {
    let source = answers();
    let columns = "label, difference, p_value, ci_low < 0 AND ci_high > 0";
    let rows = cells(&source, format!("SELECT {columns} FROM diff({A}, {A}) ORDER BY label")).await.unwrap();
    let same = |label| [label, "0.0", "1.0", "true"];
    assert_eq!(rows, ["apology", "hedge", "thanks"].map(same));
}

#[tokio::test]
async fn a_document_counts_once() {
    let source = answers();
    let sql =
        "SELECT * FROM diff('SELECT a.doc_id, a.features FROM answers a JOIN answers b USING (prompt_id)', 'answers')";
    let message = error(&source, sql).await;
    assert!(message.contains("comes twice in set 'SELECT a.doc_id"), "{message}");
    assert!(message.contains("add DISTINCT"), "{message}");
}

#[tokio::test]
async fn queries_without_texts_and_options_work() {
    let source = answers();
    let query = "'SELECT features FROM answers WHERE model = ''a'''";
    let rows =
        cells(&source, format!("SELECT label, also_in_words FROM diff({query}, {B}, named_argument('limit', 1))"));
    assert_eq!(rows.await.unwrap(), [["apology", ""]]);
    let asked = format!("SELECT * FROM diff({query}, {B}, named_argument('words', true))");
    let message = error(&source, &asked).await;
    assert!(message.contains("No field named answers.text"), "{message}");
    let rows = cells(&source, format!("SELECT label FROM diff({A}, {B}, named_argument('min_docs', 31))"));
    assert_eq!(rows.await.unwrap(), [["hedge"]]);
}

#[tokio::test]
async fn repetitions_are_marked_or_folded() {
    let features: &[(&str, &[&str])] = &[("regret", &["regret"]), ("list", &["first"]), ("apology", &["sorry"])];
    let source = crate::MemorySource::with_words(features, vec![]);
    let text = |row: usize| match row {
        0..30 => "sorry regret",
        30..50 => "first",
        50..55 => "sorry",
        _ => "none",
    };
    let a: Vec<Option<&str>> = (0..60).map(|row| Some(text(row))).collect();
    let b: Vec<Option<&str>> = (0..60).map(|row| Some(text(row + 58))).collect();
    source.put_texts("a", &a, vec![]).unwrap();
    source.put_texts("b", &b, vec![]).unwrap();
    let rows = cells(&source, "SELECT label, same_as FROM diff('a', 'b')").await.unwrap();
    assert_eq!(rows, [["apology", ""], ["regret", "2"], ["list", ""]]);
    let sql = "SELECT label, same_as FROM diff('a', 'b', named_argument('fold', true)) LIMIT 2";
    assert_eq!(cells(&source, sql).await.unwrap(), [["apology", ""], ["list", ""]]);
}

#[tokio::test]
async fn repetitions_of_pairs_are_found_within_the_pairs() {
    let source = crate::MemorySource::with_words(&[("regret", &["regret"]), ("apology", &["sorry"])], vec![]);
    // Documents 60 to 199 of a have no partner; there the features part ways.
    let text = |row: usize| match row {
        0..30 => "sorry regret",
        30..60 => "none",
        _ => "sorry",
    };
    let a: Vec<Option<&str>> = (0..200).map(|row| Some(text(row))).collect();
    let keys =
        |n: i64| -> arrow::array::ArrayRef { std::sync::Arc::new(arrow::array::Int64Array::from_iter_values(0..n)) };
    source.put_texts("a", &a, vec![("key", keys(200))]).unwrap();
    source.put_texts("b", &[Some("none"); 60], vec![("key", keys(60))]).unwrap();
    let sql = "SELECT label, same_as, n_a FROM diff('a', 'b', named_argument('paired_by', 'key'))";
    assert_eq!(cells(&source, sql).await.unwrap(), [["regret", "", "60"], ["apology", "0", "60"]]);
}

#[tokio::test]
async fn mistakes_are_explained() {
    let source = answers();
    let say = async |arguments: &str| error(&source, format!("SELECT * FROM diff({arguments})")).await;
    assert!(say(A).await.contains("diff: argument 'b' is missing"));
    assert!(say("'answer', 'answers'").await.contains("corpus 'answer' not found; did you mean 'answers'?"));
    assert!(
        say("'answers WHERE model = ''c''', 'answers'")
            .await
            .contains("diff: set 'answers WHERE model = 'c'' has no documents")
    );
    assert!(say(&format!("{A}, {B}, named_argument('pared_by', 'x')")).await.contains("did you mean 'paired_by'?"));
    assert!(say(&format!("{A}, {B}, named_argument('dictionary', 'x')")).await.contains("dictionary 'x' not found"));
}

#[tokio::test]
async fn each_value_of_a_column_is_compared_with_the_others() {
    let source = answers();
    let by = "'answers', named_argument('by', 'model')";
    let rows = cells(&source, format!("SELECT group_a, label, docs_a, docs_b, n_a, n_b, n_left_out FROM diff({by})"));
    let rows = rows.await.unwrap();
    assert_eq!(rows.len(), 8);
    assert_eq!(rows[0], ["a", "apology", "30", "0", "60", "60", "0"]);
    assert_eq!(rows[4], ["b", "apology", "0", "30", "60", "60", "0"]);
    // The same numbers as of two sets, but corrected for twice as many tests.
    let numbers = "label, difference, ci_low, ci_high, odds_ratio, p_value, also_in_words";
    let of_group = format!("SELECT {numbers} FROM diff({by}) WHERE group_a = 'a'");
    let of_sets = format!("SELECT {numbers} FROM diff({A}, {B})");
    assert_eq!(cells(&source, of_group).await.unwrap(), cells(&source, of_sets).await.unwrap());
    let q = format!(
        "SELECT count(*) FROM diff({by}) x JOIN diff({A}, {B}) y USING (label) WHERE x.group_a = 'a' AND \
         x.q_value < y.q_value - 1e-12"
    );
    assert_eq!(cells(&source, q).await.unwrap(), [["0"]]);
    let limited = format!("SELECT group_a, label FROM diff({by}, named_argument('limit', 1))");
    assert_eq!(cells(&source, limited).await.unwrap(), [["a", "apology"], ["b", "apology"]]);
    let first = format!("SELECT group_a, label FROM diff({by}) LIMIT 5");
    assert_eq!(cells(&source, first).await.unwrap().len(), 5);
}

#[tokio::test]
async fn a_set_is_compared_with_the_largest_of_several() {
    let source = answers();
    let others = "named_argument('others', make_array('answers WHERE model = ''b'' AND prompt_id < ''p3''', \
                  'answers WHERE model = ''a'' AND prompt_id >= ''p3'''))";
    let sql = format!(
        "SELECT label, group_b, n_a, n_b, q_value < 0.05 FROM diff('answers WHERE model = ''b'' AND prompt_id >= ''p3''', \
         {others}) WHERE label IN ('apology', 'list') ORDER BY label"
    );
    let rows = cells(&source, sql).await.unwrap();
    assert_eq!(rows[0][1], "answers WHERE model = 'b' AND prompt_id < 'p3'", "none of them apologises");
    assert_eq!(rows[1][1], "answers WHERE model = 'b' AND prompt_id < 'p3'", "it lists as often");
    assert_eq!((rows[0][4].as_str(), rows[1][4].as_str()), ("false", "false"));
    let rest = format!("SELECT * FROM diff({A}, named_argument('others', {B}), named_argument('against', 'rest'))");
    assert!(!columns(&source, rest).await.contains("group_b"));
}

#[tokio::test]
async fn what_is_held_constant_does_not_count() {
    let source = answers();
    // Answers of 4, 5, 10 and 11 words are on both sides: 20, 10, 10, 5 of a and 20, 10, 20, 10 of b, so that these weigh
    // 10, 5, 20/3 and 10/3. All of a apologise in the last two, all of b list; all hedge in the second and the last.
    let sql = format!(
        "SELECT label, docs_a, docs_b, round(frequency_a, 6), round(frequency_b, 6), round(difference, 6), n_a, n_b, \
         n_left_out FROM diff({A}, {B}, named_argument('control', 'n_tokens')) ORDER BY label"
    );
    let rows = cells(&source, sql).await.unwrap();
    assert_eq!(rows[0], ["apology", "15", "0", "0.4", "0.0", "0.4", "45", "60", "15"]);
    assert_eq!(rows[1][..6], ["hedge", "15", "20", "0.333333", "0.333333", "0.0"]);
    assert_eq!(rows[2], ["list", "0", "30", "0.0", "0.4", "-0.4", "45", "60", "15"]);
    assert_eq!(rows.len(), 3, "thanks is in longer answers only, which b has not");
    // Prompts of one answer a side: as many strata as pairs.
    let sql = format!(
        "SELECT label, difference, n_a, p_value < 1e-6, also_in_words FROM diff({A}, {B}, named_argument('control', \
         'prompt_id')) LIMIT 1"
    );
    let rows = cells(&source, sql).await.unwrap();
    assert_eq!(rows, [["apology", "0.5", "60", "true", "\"sorry\" 0.50 vs 0.00"]]);
    // Of groups, too.
    let sql = "SELECT group_a, label, docs_a, n_a, n_left_out FROM diff('answers', named_argument('by', 'model'), \
               named_argument('control', 'n_tokens')) WHERE group_a = 'a' AND label = 'apology'";
    assert_eq!(cells(&source, sql).await.unwrap(), [["a", "apology", "15", "45", "15"]]);
}

#[tokio::test]
async fn features_are_correlated_with_a_number() {
    let source = answers();
    let target = "'answers', named_argument('target', 'n_tokens')";
    let names = columns(&source, format!("SELECT * FROM diff({target})")).await;
    let contract = "feature_id label level docs correlation ci_low ci_high auc mean_with mean_without p_value q_value \
                    also_in_words n n_left_out same_as members";
    assert_eq!(names, contract);
    let sql = format!(
        "SELECT label, docs, round(correlation, 6), mean_with, also_in_words, n FROM diff({target}) ORDER BY label"
    );
    let rows = cells(&source, sql).await.unwrap();
    // Spearman's correlation and means as pandas gives them.
    assert_eq!(rows[0][..4], ["apology", "30", "0.644603", "11.333333333333334"]);
    assert_eq!(rows[3][..2], ["thanks", "15"]);
    assert!(rows[0][4].contains("\"sorry\""), "{rows:?}");
    let message = error(&source, "SELECT * FROM diff('answers', named_argument('target', 'model'))").await;
    assert!(
        message.contains("diff: expected numbers, dates or times in 'target' column 'model', got Utf8"),
        "{message}"
    );
    let same =
        error(&source, "SELECT * FROM diff('SELECT features, 1 AS one FROM answers', named_argument('target', 'one'))");
    assert!(same.await.contains("'target' column 'one' is the same in all 120 documents"));
}

#[tokio::test]
async fn documents_of_both_sides_are_shown() {
    let source = answers();
    let sql = format!(
        "SELECT label, examples_a, examples_b FROM diff({A}, {B}, named_argument('examples', 1)) WHERE label <> 'thanks'"
    );
    let rows = cells(&source, sql).await.unwrap();
    let apology = "[{doc_id: d0, text: Here is the answer. I am «sorry» for the wait. Thank you. Perhaps.}]";
    assert_eq!(rows[0], ["apology", apology, "[]"]);
    let list = "[{doc_id: d60, text: Here is the answer. «First», do this. «Second», do that. Perhaps.}]";
    assert_eq!(rows[1], ["list", "[]", list]);
    assert!(rows[2][1].contains("«Perhaps»") && rows[2][2].contains("d60"), "{rows:?}");
    // A set to which no condition can be added, and one without texts.
    let sql = format!(
        "SELECT label, examples_a[1]['doc_id'] FROM diff('answers WHERE model = ''a'' ORDER BY doc_id', {B}, \
         named_argument('examples', 2)) LIMIT 1"
    );
    assert_eq!(cells(&source, sql).await.unwrap(), [["apology", "d0"]]);
    let bare = "'SELECT doc_id, features FROM answers WHERE model = ''a'''";
    let sql = format!("SELECT label, examples_a FROM diff({bare}, {B}, named_argument('examples', 1)) LIMIT 1");
    assert_eq!(cells(&source, sql).await.unwrap(), [["apology", ""]]);
    // A column may serve for several things.
    let sql = format!(
        "SELECT label, examples_a, n_a FROM diff({A}, 'SELECT doc_id, text, features FROM answers WHERE model = ''a''', \
         named_argument('paired_by', 'doc_id'), named_argument('examples', 1)) LIMIT 1"
    );
    assert_eq!(cells(&source, sql).await.unwrap()[0][2], "60");
    let sql = "SELECT group_a, n_a FROM diff('answers', named_argument('by', 'model'), named_argument('control', \
               make_array('prompt_id', 'doc_id', 'doc_id')), named_argument('words', false)) LIMIT 1";
    let message = error(&source, sql).await;
    assert!(message.contains("'control' by prompt_id, doc_id needs more than 1000 strata"), "{message}");
    let many = error(&source, format!("SELECT * FROM diff({A}, {B}, named_argument('examples', 21))")).await;
    assert!(many.contains("'examples' can be at most 20, got 21"), "{many}");
}

#[tokio::test]
async fn calls_that_do_not_fit_together_are_explained() {
    let source = answers();
    let say = async |arguments: &str| error(&source, format!("SELECT * FROM diff({arguments})")).await;
    let by = "named_argument('by', 'model')";
    assert!(
        say(&format!("{A}, {B}, {by}")).await.contains("diff: expected one of b, by, others and target, got b, by")
    );
    assert!(say(&format!("{A}, {by}, named_argument('paired_by', 'x')")).await.contains("'paired_by' needs two sets"));
    assert!(
        say(&format!("{A}, {B}, named_argument('against', 'max')")).await.contains("'against' needs 'by' or 'others'")
    );
    let both = format!("{A}, {B}, named_argument('paired_by', 'prompt_id'), named_argument('control', 'n_tokens')");
    assert!(say(&both).await.contains("'control' and 'paired_by' cannot be combined"));
    assert!(say(&format!("{A}, {by}")).await.contains("has only the value 'a' in documents with features"));
    let constant = format!("{A}, {B}, named_argument('control', 'model')");
    assert!(say(&constant).await.contains("no documents of different sides are alike in 'control' model"));
    assert!(say("'answers', named_argument('by', 'modell')").await.contains("modell"));
    let wide = "'answers', named_argument('by', 'features')";
    assert!(say(wide).await.contains("cannot be used for 'by'; use text, numbers, dates or truth values"));
}

#[tokio::test]
async fn too_few_documents_with_a_value_are_counted() {
    let source = answers();
    let say = async |n: usize| {
        error(&source, format!("SELECT * FROM diff('answers LIMIT {n}', named_argument('target', 'n_tokens'))")).await
    };
    let said = say(3).await;
    assert!(
        said.contains(
            "'target' needs 4 documents with features and a 'n_tokens' at least, set 'answers LIMIT 3' has 3 among 3"
        ),
        "{said}"
    );
    let four = "SELECT count(*) > 0 FROM diff('answers LIMIT 4', named_argument('target', 'n_tokens'))";
    assert_eq!(cells(&source, four).await.unwrap(), [["true"]]);
}

/// Counts how often documents are read.
#[derive(Debug)]
struct Counting {
    source: crate::MemorySource,
    reads: std::sync::atomic::AtomicUsize,
}

#[async_trait::async_trait]
impl crate::FeatureSource for Counting {
    fn catalog(&self) -> std::sync::Arc<FeatureCatalog> {
        self.source.catalog()
    }

    async fn documents(
        &self,
        set: &str,
        columns: &[crate::DocumentColumn],
    ) -> Result<datafusion::physical_plan::SendableRecordBatchStream> {
        self.reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.source.documents(set, columns).await
    }

    async fn search_words(&self, set: &str, query: &str, limit: usize) -> Result<Vec<crate::WordHit>> {
        self.source.search_words(set, query, limit).await
    }

    fn encode(&self, texts: &[&str]) -> Result<Vec<crate::feature_source::EncodedText>> {
        self.source.encode(texts)
    }

    fn token_features(
        &self,
        text: &str,
        conversation: &[crate::Said],
        features: &[crate::FeatureId],
    ) -> Result<Vec<crate::feature_source::TokenFeatures>> {
        self.source.token_features(text, conversation, features)
    }

    fn label_embeddings(&self) -> Result<std::sync::Arc<crate::feature_source::LabelEmbeddings>> {
        self.source.label_embeddings()
    }
}

/// 50 documents of each of `n` groups; "sorry" and "regret" are in the same ones, all of the first group and one of each
/// other.
fn grouped(n: usize) -> crate::MemorySource {
    let source = crate::MemorySource::with_words(&[("regret", &["regret"]), ("apology", &["sorry"])], vec![]);
    let texts: Vec<Option<&str>> =
        (0..50 * n).map(|row| Some(if row < 50 || row % 50 == 0 { "sorry regret" } else { "none" })).collect();
    let groups = arrow::array::Int64Array::from_iter_values((0..50 * n).map(|row| (row / 50) as i64));
    source.put_texts("notes", &texts, vec![("part", std::sync::Arc::new(groups))]).unwrap();
    source
}

#[tokio::test]
async fn repetitions_of_all_groups_are_found_in_one_pass() {
    use datafusion::prelude::{SessionConfig, SessionContext};
    let run = async |n: usize| {
        let counting =
            std::sync::Arc::new(Counting { source: grouped(n), reads: std::sync::atomic::AtomicUsize::new(0) });
        let session = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
        let source: SharedSource = std::sync::Arc::clone(&counting) as _;
        crate::register_all(&session, &source).unwrap();
        let sql = "SELECT count(*) FROM diff('notes', named_argument('by', 'part'), named_argument('words', false)) \
                   WHERE same_as IS NOT NULL";
        let batches = session.sql(sql).await.unwrap().collect().await.unwrap();
        let counts = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(batches[0].column(0));
        (counts.value(0), counting.reads.load(std::sync::atomic::Ordering::Relaxed))
    };
    let (few, many) = (run(2).await, run(60).await);
    assert_eq!((few.0, many.0), (2, 60), "one of the two features in each group");
    assert_eq!(few.1, many.1, "as many passes over the documents for 60 groups as for 2");
}

#[tokio::test]
async fn rows_of_many_groups_are_taken_from_the_memory_of_the_query() {
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use datafusion::prelude::{SessionConfig, SessionContext};
    let words: Vec<String> = (0..100).map(|i| format!("w{i}")).collect();
    let lists: Vec<[&str; 1]> = words.iter().map(|word| [word.as_str()]).collect();
    let features: Vec<(&str, &[&str])> =
        words.iter().map(String::as_str).zip(lists.iter().map(|list| &list[..])).collect();
    let source = crate::MemorySource::with_words(&features, vec![]);
    let text = words.join(" ");
    let groups = arrow::array::Int64Array::from_iter_values(0..400);
    source.put_texts("notes", &vec![Some(text.as_str()); 400], vec![("part", std::sync::Arc::new(groups))]).unwrap();
    let with_memory = async |n_bytes: usize| {
        let runtime = RuntimeEnvBuilder::new().with_memory_limit(n_bytes, 1.0).build_arc().unwrap();
        let session = SessionContext::new_with_config_rt(SessionConfig::new().with_target_partitions(1), runtime);
        crate::register_all(&session, &(std::sync::Arc::new(source.clone()) as SharedSource)).unwrap();
        let sql = "SELECT label FROM diff('notes', named_argument('by', 'part'), named_argument('words', false))";
        let batches = session.sql(sql).await.unwrap().collect().await?;
        Ok::<usize, datafusion::error::DataFusionError>(batches.iter().map(|batch| batch.num_rows()).sum())
    };
    assert_eq!(with_memory(256 << 20).await.unwrap(), 40_000);
    let error = with_memory(8 << 20).await.unwrap_err();
    assert!(matches!(error.find_root(), datafusion::error::DataFusionError::ResourcesExhausted(_)), "{error}");
}

#[tokio::test]
async fn an_infinite_number_is_none() {
    let source = crate::MemorySource::with_words(&[("tea", &["tea"])], vec![]);
    let texts: Vec<Option<&str>> = (0..40).map(|row| Some(if row % 2 == 0 { "tea" } else { "milk" })).collect();
    let score: arrow::array::Float64Array =
        (0..40).map(|row| Some(if row == 7 { f64::INFINITY } else { f64::from(row) })).collect();
    source.put_texts("cups", &texts, vec![("score", Arc::new(score))]).unwrap();
    let sql = "SELECT n, n_left_out, round(mean_without, 1) FROM diff('cups', named_argument('target', 'score'))";
    assert_eq!(cells(&source, sql).await.unwrap(), [["39", "1", "20.7"]]);
}
