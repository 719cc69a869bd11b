use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::lit;

use super::*;
use crate::MemorySource;
use crate::args::named_argument;
use crate::kernels::random::Random;
use crate::kernels::retrieval::Contribution;

const FILLER: [&str; 12] =
    ["river", "table", "engine", "garden", "window", "paper", "cloud", "stone", "winter", "market", "bridge", "letter"];

/// A property with two words of its own; documents use one of them among words that say nothing.
fn source() -> MemorySource {
    MemorySource::with_words(
        &[
            ("apology", &["sorry", "apologise", "apology"]),
            ("refund of money", &["refund", "reimburse"]),
            ("weather", &["rain", "sunny"]),
            ("politeness", &["please", "kindly"]),
        ],
        vec![],
    )
}

fn put(source: &MemorySource, texts: &[String]) {
    let texts: Vec<Option<&str>> = texts.iter().map(|text| Some(text.as_str())).collect();
    source.put_texts("answers", &texts, vec![]).unwrap();
}

fn filler(random: &mut Random, n: usize) -> String {
    (0..n).map(|_| FILLER[random.below(12) as usize]).collect::<Vec<_>>().join(" ")
}

async fn run(source: &MemorySource, sql: &str) -> Result<RecordBatch> {
    let session = source.session()?;
    let frame = session.sql(sql).await?;
    let schema = std::sync::Arc::new(frame.schema().as_arrow().clone());
    Ok(arrow::compute::concat_batches(&schema, &frame.collect().await?)?)
}

fn strings(batch: &RecordBatch, column: &str) -> StringArray {
    batch.column_by_name(column).unwrap().as_string::<i32>().clone()
}

fn ids(batch: &RecordBatch) -> Vec<String> {
    strings(batch, "doc_id").iter().flatten().map(str::to_owned).collect()
}

async fn message(source: &MemorySource, sql: &str) -> String {
    run(source, sql).await.unwrap_err().strip_backtrace()
}

#[tokio::test]
async fn features_find_what_the_words_do_not_say() {
    let source = source();
    let mut random = Random::new(1, 0);
    let texts: Vec<String> = (0..300)
        .map(|i| if i % 30 == 7 { format!("{} apologise", filler(&mut random, 8)) } else { filler(&mut random, 9) })
        .collect();
    put(&source, &texts);
    let sql =
        "SELECT * FROM retrieve('answers', 'sorry', named_argument('k', 10), named_argument('signals', 'latents'))";
    let hits = run(&source, sql).await.unwrap();
    let mut found = ids(&hits);
    found.sort_by_key(|id| id[1..].parse::<usize>().unwrap_or(0));
    let expected: Vec<String> = (0..10).map(|i| format!("d{}", 30 * i + 7)).collect();
    assert_eq!(found, expected, "'sorry' and 'apologise' share a feature and no word");
    assert_eq!(strings(&hits, "reasons").value(0), "apology (1.0)");

    // The hashed embedding cannot see it and is left out: what is found, features found.
    let sql = "SELECT * FROM retrieve('answers', 'apology', named_argument('limit', 10), \
               named_argument('signals', 'labels,latents,words'))";
    let hits = run(&source, sql).await.unwrap();
    assert!(ids(&hits).iter().all(|id| expected.contains(id)), "{:?}", ids(&hits));
    let scores = hits.column_by_name("score").unwrap().as_primitive::<Float32Type>();
    assert!(scores.values().windows(2).all(|pair| pair[0] >= pair[1]) && scores.value(0) <= 1.0);
    assert_eq!(hits.column_by_name("rank").unwrap().as_primitive::<Int64Type>().values()[..3], [1, 2, 3]);
    assert_eq!(hits.column_by_name("docs_searched").unwrap().as_primitive::<Int64Type>().value(0), 300);
    assert!(strings(&hits, "text").iter().all(|text| text.is_some_and(|text| text.contains("apologise"))));
    let features = hits.column_by_name("features").unwrap().as_list::<i32>().value(0);
    assert_eq!(features.as_struct().column(1).as_string::<i32>().value(0), "apology");
}

#[tokio::test]
async fn features_decide_what_the_embedding_cannot_tell_apart() {
    let source = source();
    let texts: Vec<String> =
        (0..20).map(|i| format!("stone {}", if i % 5 == 4 { "apologise" } else { "river" })).collect();
    put(&source, &texts);
    let call = |more: &str| format!("SELECT * FROM retrieve('answers', 'apology', named_argument('k', 4){more})");
    let dense = run(&source, &call(", named_argument('signals', 'dense')")).await.unwrap();
    assert_eq!(ids(&dense), ["d0", "d1", "d2", "d3"], "a tie, in the order of the set");
    assert_eq!(ids(&run(&source, &call("")).await.unwrap()), ["d4", "d9", "d14", "d19"]);
}

#[tokio::test]
async fn a_filter_restricts_and_a_limit_cuts() {
    let source = source();
    put(&source, &["sorry one".into(), "sorry two".into(), "rain".into(), "sorry three".into()]);
    let hits =
        run(&source, "SELECT * FROM retrieve('answers WHERE doc_id <> ''d1'' OR false', 'sorry')").await.unwrap();
    assert_eq!(hits.num_rows(), 3);
    assert!(!ids(&hits).contains(&"d1".to_string()));
    assert_eq!(strings(&hits, "text").null_count(), 0);
    let hits = run(&source, "SELECT doc_id FROM retrieve('answers', 'sorry') LIMIT 2").await.unwrap();
    assert_eq!(hits.num_rows(), 2);
    let sql = "SELECT text, doc_id FROM retrieve('answers ORDER BY doc_id LIMIT 2', 'sorry')";
    let hits = run(&source, sql).await.unwrap();
    assert_eq!(
        strings(&hits, "text").iter().flatten().collect::<Vec<_>>().len(),
        2,
        "texts of a set that cannot be narrowed"
    );
    let sql = "SELECT text, doc_id FROM retrieve('SELECT * FROM answers WHERE doc_id = ''d3''', 'sorry')";
    assert_eq!(strings(&run(&source, sql).await.unwrap(), "text").value(0), "sorry three");
}

#[tokio::test]
async fn what_is_not_wanted_sinks_and_says_so() {
    let source = source();
    let texts = ["sorry refund stone", "sorry river", "sorry garden rain", "refund table", "rain"].map(str::to_owned);
    put(&source, &texts);
    let sql = "SELECT * FROM retrieve('answers', 'apology sorry', named_argument('but_not', 'sorry about the refund'))";
    let hits = run(&source, sql).await.unwrap();
    let found = ids(&hits);
    let rank = |id: &str| found.iter().position(|other| other == id).unwrap_or(usize::MAX);
    assert!(rank("d1") < rank("d0") && rank("d2") < rank("d0"), "{found:?}");
    let reasons = strings(&hits, "reasons");
    assert!(reasons.value(rank("d0")).contains("against: refund of money"), "{}", reasons.value(rank("d0")));
    assert!(reasons.value(0).starts_with("apology (1.0); words; dense"), "{}", reasons.value(0));
}

/// Average precision of a ranking.
fn average_precision(found: &[String], relevant: impl Fn(&str) -> bool, n_relevant: usize) -> f64 {
    let (mut hits, mut sum) = (0, 0.0);
    for (rank, id) in (1..).zip(found) {
        if relevant(id) {
            hits += 1;
            sum += f64::from(hits) / f64::from(rank);
        }
    }
    sum / n_relevant as f64
}

#[tokio::test]
async fn feedback_finds_the_property_that_the_query_only_hints_at() {
    let source = source();
    let mut random = Random::new(5, 0);
    // Half of what the query finds is polite, and that is what the user wants; politeness is not in the query.
    let texts: Vec<String> = (0..400)
        .map(|i| match i % 20 {
            3 | 13 => format!("{} sorry", filler(&mut random, 8)),
            8 => format!("{} sorry please", filler(&mut random, 7)),
            18 => format!("{} apologise kindly", filler(&mut random, 7)),
            _ => filler(&mut random, 9),
        })
        .collect();
    put(&source, &texts);
    let relevant = |id: &str| matches!(id[1..].parse::<usize>().unwrap_or(0) % 20, 8 | 18);
    let plain = run(&source, "SELECT * FROM retrieve('answers', 'apology', named_argument('k', 400))").await.unwrap();
    let sql = "SELECT * FROM retrieve('answers', 'apology', named_argument('k', 400), \
               named_argument('like', 'd8,d18, d28'), named_argument('unlike', 'd3, d13'))";
    let taught = run(&source, sql).await.unwrap();
    // The marked documents are left out on both sides.
    let marked = ["d8", "d18", "d28", "d3", "d13"];
    let unmarked =
        |batch: &RecordBatch| ids(batch).into_iter().filter(|id| !marked.contains(&id.as_str())).collect::<Vec<_>>();
    let (before, after) =
        (average_precision(&unmarked(&plain), relevant, 37), average_precision(&unmarked(&taught), relevant, 37));
    assert!(after > before + 0.4, "average precision {before} before, {after} after");
    assert!(!ids(&taught).contains(&"d3".to_string()), "documents marked as wrong are not shown");
    let reasons = strings(&taught, "reasons");
    assert!(reasons.value(0).contains("learned: politeness"), "{}", reasons.value(0));

    // It is what was learned that does it; the feature alone is enough.
    let with = async |option: &str| {
        let sql = format!(
            "SELECT * FROM retrieve('answers', 'apology', named_argument('k', 400), \
             named_argument('like', 'd8,d18, d28'), named_argument('unlike', 'd3, d13'), {option})"
        );
        average_precision(&unmarked(&run(&source, &sql).await.unwrap()), relevant, 37)
    };
    let learned = with("named_argument('signals', 'feedback')").await;
    let unlearned = with("named_argument('weights', 'feedback=0')").await;
    assert!(learned > 0.999, "{learned} by the feature alone");
    assert!(after > unlearned + 0.1, "{after} against {unlearned} of marks that teach nothing");

    // Marks alone, without a query.
    let sql = "SELECT * FROM retrieve('answers', NULL, named_argument('like', 'd8,d28'), named_argument('k', 19))";
    let alone = average_precision(&ids(&run(&source, sql).await.unwrap()), relevant, 19);
    assert!(alone > 0.7, "{alone}");

    // What was learned can be asked for.
    let sql = "SELECT * FROM learned_features('answers', named_argument('like', 'd8,d18,d28'), \
               named_argument('unlike', 'd3,d13'))";
    let rows = run(&source, sql).await.unwrap();
    assert_eq!(strings(&rows, "label").iter().flatten().collect::<Vec<_>>(), ["politeness", "apology"]);
    let weights = rows.column_by_name("weight").unwrap().as_primitive::<Float64Type>().values().to_vec();
    assert!(weights[0] > 0.1 && weights[1].abs() < weights[0] / 2.0, "what both sides have tells little: {weights:?}");
    let counts = |column: &str, row: usize| {
        let column = arrow::compute::cast(rows.column_by_name(column).unwrap(), &DataType::Int64).unwrap();
        column.as_primitive::<Int64Type>().value(row)
    };
    assert_eq!(["docs_like", "docs_unlike", "docs"].map(|column| counts(column, 0)), [3, 0, 40]);
    assert_eq!(["docs_like", "docs_unlike", "docs"].map(|column| counts(column, 1)), [3, 2, 80]);
    for (arguments, expected) in [
        ("", "nothing to learn from; mark documents with like => 'id1,id2'"),
        (", named_argument('like', 'a,b'), named_argument('unlike', 'b')", "'b' is both in 'like' and in 'unlike'"),
        (", named_argument('like', 'd999')", "marked document 'd999' is not in 'answers'"),
        (", named_argument('like', 'd1'), named_argument('dictionary', 'x')", "dictionary 'x' not found"),
    ] {
        let said = message(&source, &format!("SELECT * FROM learned_features('answers'{arguments})")).await;
        assert!(said.contains("learned_features: ") && said.contains(expected), "{said}");
    }
}

#[tokio::test]
async fn first_hits_say_what_the_query_is_about() {
    let source = source();
    let texts: Vec<String> = (0..100)
        .map(|i| match i % 20 {
            3 => format!("thunder storm {}", FILLER[i / 20]),
            9 => format!("thunder {} {}", FILLER[i / 20], FILLER[i / 20 + 1]),
            _ => format!("{} {} {}", FILLER[i % 12], FILLER[(i + 5) % 12], FILLER[(i + 7) % 12]),
        })
        .collect();
    put(&source, &texts);
    let call = async |expand: usize| {
        let sql = format!(
            "SELECT * FROM retrieve('answers', 'storm', named_argument('k', 100), named_argument('signals', 'dense'), \
             named_argument('expand', {expand}))"
        );
        ids(&run(&source, &sql).await.unwrap())
    };
    let thunder = |id: &str| id[1..].parse::<usize>().unwrap_or(0) % 20 == 9;
    let (plain, moved) = (call(0).await, call(10).await);
    assert!(moved[..5].iter().all(|id| plain[..5].contains(id)), "{moved:?}");
    assert!(
        moved[5..10].iter().all(|id| thunder(id)) && !plain[5..10].iter().all(|id| thunder(id)),
        "{plain:?} {moved:?}"
    );
}

#[tokio::test]
async fn features_are_of_the_selection_and_their_parts_make_the_score() {
    let source = source();
    let texts: Vec<String> = (0..60)
        .map(|i| match i % 20 {
            5 => "apologise stone".to_owned(),
            6 => "refund sorry river".to_owned(),
            _ => FILLER[i % 12].to_owned(),
        })
        .collect();
    put(&source, &texts);
    let call = |more: &str| {
        format!("SELECT * FROM retrieve('answers', 'apology refund', named_argument('signals', 'labels'){more})")
    };
    let hits = run(&source, &call("")).await.unwrap();
    assert_eq!(hits.num_rows(), 6);
    let scores = hits.column_by_name("score").unwrap().as_primitive::<Float32Type>().values().to_vec();
    assert!((scores[0] - 1.0).abs() < 1e-6 && scores[5] < 0.95, "{scores:?}");
    let lists = hits.column_by_name("features").unwrap().as_list::<i32>().clone();
    for (row, score) in scores.iter().enumerate() {
        let list = lists.value(row);
        let sum: f32 = list.as_struct().column(3).as_primitive::<Float32Type>().values().iter().sum();
        assert!((sum - score).abs() < 1e-6, "the labels alone: {sum} of {score}");
    }
    // The only dictionary has another level.
    let none = run(&source, &call(", named_argument('level', 'document')")).await.unwrap();
    assert_eq!(none.num_rows(), 0);
    let said = message(&source, &call(", named_argument('dictionary', 'x')")).await;
    assert!(said.contains("retrieve: dictionary 'x' not found"), "{said}");
}

#[tokio::test]
async fn the_same_question_has_the_same_answer() {
    let source = source();
    let mut random = Random::new(9, 0);
    let texts: Vec<String> = (0..200).map(|_| format!("{} sorry", filler(&mut random, 3))).collect();
    put(&source, &texts);
    let sql = "SELECT doc_id, score, reasons FROM retrieve('answers', 'apology stone', named_argument('k', 50))";
    let (a, b) = (run(&source, sql).await.unwrap(), run(&source, sql).await.unwrap());
    assert_eq!(a, b);
}

#[tokio::test]
async fn a_set_without_texts_and_documents_without_features() {
    let source = source();
    put(&source, &["sorry one".into(), "rain".into(), "stone".into()]);
    let call = |set: &str| {
        format!("SELECT * FROM retrieve('{set}', 'sorry', named_argument('signals', 'dense,latents,labels'))")
    };
    let all = run(&source, &call("answers")).await.unwrap();
    let hits = run(&source, &call("SELECT doc_id, features, embedding FROM answers")).await.unwrap();
    assert_eq!((ids(&hits), strings(&hits, "reasons")), (ids(&all), strings(&all, "reasons")));
    assert_eq!((strings(&all, "text").null_count(), strings(&hits, "text").null_count()), (0, hits.num_rows()));

    // Documents that were never encoded make neither features rarer nor documents shorter.
    let texts = [Some("sorry one"), Some("rain"), Some("stone"), None, None, None];
    source.put_texts("gaps", &texts, vec![]).unwrap();
    let gaps = run(&source, &call("gaps")).await.unwrap();
    let scores =
        |batch: &RecordBatch| batch.column_by_name("latents_score").unwrap().as_primitive::<Float32Type>().clone();
    assert_eq!(scores(&gaps), scores(&all));
}

#[tokio::test]
async fn candidates_are_taken_from_the_memory_of_the_query() {
    let source = source();
    put(&source, &vec!["sorry".to_owned(); 2_000]);
    let options = Options::parse(&[lit("answers"), lit("sorry"), named_argument("k", lit(10_000_000))]).unwrap();
    let call = RetrieveCall { source: Arc::new(source), options };
    let with_memory = async |n_bytes: usize| {
        let runtime = RuntimeEnvBuilder::new().with_memory_limit(n_bytes, 1.0).build_arc().unwrap();
        let context = Arc::new(TaskContext::default().with_runtime(runtime));
        call.run(Request { projection: None, limit: None, context }).await
    };
    assert_eq!(with_memory(4 << 20).await.unwrap()[0].num_rows(), 2_000);
    let error = with_memory(256 << 10).await.unwrap_err();
    assert!(matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)), "{error}");
}

#[tokio::test]
async fn edges() {
    let source = source();
    put(&source, &["sorry".into(), "rain sorry".into(), String::new()]);
    let none =
        run(&source, "SELECT * FROM retrieve('answers WHERE doc_id = ''x''', 'sorry')").await.unwrap_err().to_string();
    assert!(none.contains("has no documents"), "{none}");
    let none = "SELECT * FROM retrieve('answers WHERE doc_id = ''x''', 'sorry', named_argument('signals', 'words'))";
    let none = run(&source, none).await.unwrap_err().to_string();
    assert!(none.contains("retrieve: set 'answers WHERE doc_id = 'x'' has no documents"), "{none}");
    let all = run(&source, "SELECT * FROM retrieve('answers', 'sorry', named_argument('k', 1000))").await.unwrap();
    assert_eq!(all.num_rows(), 2, "the empty document has nothing to be found by");
    assert_eq!(
        run(&source, "SELECT * FROM retrieve('answers', 'sorry', named_argument('k', 0))").await.unwrap().num_rows(),
        0
    );
    let unknown =
        run(&source, "SELECT * FROM retrieve('answers', 'zebra', named_argument('signals', 'labels,latents,words'))");
    assert_eq!(unknown.await.unwrap().num_rows(), 0);
    let no_word = run(&source, "SELECT * FROM retrieve('answers', '!?')").await.unwrap();
    assert_eq!(no_word.num_rows(), 0);
    let words = "SELECT reasons, docs_searched FROM retrieve('answers', 'sorry', named_argument('signals', 'words'))";
    let words = run(&source, words).await.unwrap();
    assert_eq!(strings(&words, "reasons").value(0), "words");
    assert_eq!(words.column(1).null_count(), 2);

    let expected = "retrieve: marked document 'd77' (and 1 more) is not in 'answers'; 'like' and 'unlike' take doc_ids";
    let said = message(&source, "SELECT * FROM retrieve('answers', 'a', named_argument('like', 'd77,d99,d1'))").await;
    assert!(said.contains(expected), "{said}");
    let said = message(&source, "SELECT * FROM retrieve('answer', 'a')").await;
    assert!(said.contains("did you mean 'answers'"), "{said}");
    let said = message(&source, "SELECT * FROM retrieve('answers', 'a', named_argument('kk', 3))").await;
    assert!(said.contains("retrieve: unknown option 'kk'"), "{said}");
}

#[tokio::test]
async fn nearly_all_documents_may_be_marked() {
    let source = source();
    let texts: Vec<String> =
        (0..12).map(|i| format!("{} {}", FILLER[i], if i % 2 == 0 { "please" } else { "rain" })).collect();
    put(&source, &texts);
    let (right, wrong) = ("d0,d2,d4,d6,d8,d10", "d1,d3,d5,d7,d9,d11");
    for wrong in [wrong, "d1,d3,d5,d7,d9"] {
        let sql = format!(
            "SELECT label, weight FROM learned_features('answers', named_argument('like', '{right}'), \
             named_argument('unlike', '{wrong}'))"
        );
        let rows = run(&source, &sql).await.unwrap();
        let weights = rows.column(1).as_primitive::<Float64Type>();
        let weight = |label: &str| {
            let at = strings(&rows, "label").iter().position(|other| other == Some(label));
            at.map_or(0.0, |at| weights.value(at))
        };
        assert!(weight("politeness") > 0.1 && weight("weather") < -0.1, "{rows:?}");
    }
    // All are right: nothing can be learned, and it says so.
    let all = format!("named_argument('like', '{right},{wrong}')");
    let hits = run(&source, &format!("SELECT * FROM retrieve('answers', 'politeness', {all})")).await.unwrap();
    assert_eq!(hits.num_rows(), 10);
    assert!(strings(&hits, "reasons").iter().flatten().all(|reasons| reasons.contains("learned: nothing")));
    for call in [format!("retrieve('answers', NULL, {all})"), format!("learned_features('answers', {all})")] {
        let said = message(&source, &format!("SELECT * FROM {call}")).await;
        assert!(said.contains("the marked documents teach nothing"), "{said}");
    }
}

#[tokio::test]
async fn parts_are_no_more_than_the_score_where_all_documents_have_some() {
    let source = source();
    let text = |i: usize| match i % 20 {
        5 => "sorry refund stone",
        6 => "sorry refund rain",
        _ => "sorry river",
    };
    put(&source, &(0..60).map(|i| text(i).to_owned()).collect::<Vec<_>>());
    for (signals, exact) in [("labels", true), ("labels,words,dense", false)] {
        let sql = format!(
            "SELECT * FROM retrieve('answers', 'apology refund', named_argument('k', 60), \
             named_argument('signals', '{signals}'))"
        );
        let hits = run(&source, &sql).await.unwrap();
        let scores = hits.column_by_name("score").unwrap().as_primitive::<Float32Type>();
        let lists = hits.column_by_name("features").unwrap().as_list::<i32>();
        for row in 0..hits.num_rows() {
            let list = lists.value(row);
            let sum: f32 = list.as_struct().column(3).as_primitive::<Float32Type>().values().iter().sum();
            let score = scores.value(row);
            assert!(sum <= score + 1e-5 && (!exact || (sum - score).abs() < 1e-5), "{signals}: {sum} of {score}");
        }
        assert!(strings(&hits, "reasons").iter().flatten().all(|reasons| reasons.contains("apology (1.0)")));
    }
}

#[tokio::test]
async fn inflected_words_of_the_query_do_not_count_against_a_document() {
    let source = source();
    put(&source, &["refunds refund".into(), "refunds stone".into(), "refunds money".into()]);
    let sql = "SELECT * FROM retrieve('answers', 'refunds', named_argument('but_not', 'refunded refund money'), \
               named_argument('signals', 'words'))";
    let found = ids(&run(&source, sql).await.unwrap());
    assert_eq!(found[..2], ["d0", "d1"], "only 'money' counts against");
}

#[tokio::test]
async fn labels_of_hidden_features_match_if_asked_for() {
    let visible = source();
    let known = crate::FeatureSource::catalog(&visible);
    let features = known.features().iter().cloned().map(|mut feature| {
        feature.hidden = feature.label == "apology";
        feature
    });
    let catalog = FeatureCatalog::new(known.dictionaries().to_vec(), features.collect(), vec![]);
    let source = MemorySource::new(catalog, |word| if word == "apologise" { vec![(0, 1.0)] } else { vec![] });
    put(&source, &["apologise stone".into(), "river".into()]);
    let call = |more: &str| {
        format!("SELECT doc_id FROM retrieve('answers', 'apology', named_argument('signals', 'labels'){more})")
    };
    assert_eq!(run(&source, &call("")).await.unwrap().num_rows(), 0);
    let found = run(&source, &call(", named_argument('include_hidden', true)")).await.unwrap();
    assert_eq!(ids(&found), ["d0"]);
}

#[tokio::test]
async fn a_document_without_an_embedding_gains_nothing_by_feedback() {
    let source = source();
    let text = |i: usize| match i {
        0 | 1 => "please kindly".to_owned(),
        2 | 3 => "stone stone stone please".to_owned(),
        i => format!("stone stone {}", FILLER[i % 12]),
    };
    put(&source, &(0..40).map(text).collect::<Vec<_>>());
    let set = "SELECT doc_id, text, features, CASE WHEN doc_id = ''d2'' THEN NULL ELSE embedding END AS embedding FROM answers";
    let sql =
        format!("SELECT * FROM retrieve('{set}', NULL, named_argument('like', 'd0,d1'), named_argument('k', 40))");
    let hits = run(&source, &sql).await.unwrap();
    let found = ids(&hits);
    let rank = |id: &str| found.iter().position(|other| other == id);
    assert!(rank("d3").is_some() && rank("d2").is_some_and(|rank_2| Some(rank_2) > rank("d3")), "{found:?}");
    let dense = hits.column_by_name("dense_score").unwrap();
    assert!(rank("d2").is_some_and(|row| dense.is_null(row)) && rank("d3").is_some_and(|row| dense.is_valid(row)));
}

#[tokio::test]
async fn a_document_without_an_embedding_counts_like_the_lowest() {
    let source = source();
    put(&source, &(0..24).map(|i| format!("river {}", FILLER[i % 12])).collect::<Vec<_>>());
    let set = "SELECT doc_id, text, features, CASE WHEN doc_id = ''d3'' THEN NULL ELSE embedding END AS embedding FROM answers";
    let sql = format!(
        "SELECT * FROM retrieve('{set}', 'river', named_argument('signals', 'dense,words'), named_argument('expand', 0), \
         named_argument('k', 24))"
    );
    let hits = run(&source, &sql).await.unwrap();
    let row = ids(&hits).iter().position(|id| id == "d3").unwrap();
    let scores = hits.column_by_name("score").unwrap().as_primitive::<Float32Type>().values().to_vec();
    let lowest = (0..scores.len()).filter(|other| *other != row).map(|other| scores[other]).fold(1.0, f32::min);
    assert!((scores[row] - lowest).abs() < 1e-6, "{} beside {lowest}", scores[row]);
    for column in ["dense_rank", "dense_score"] {
        let column = hits.column_by_name(column).unwrap();
        assert!(column.is_null(row) && column.null_count() == 1, "found by words, not by an embedding");
    }
}

#[tokio::test]
async fn documents_without_an_embedding_are_not_among_those_that_the_best_stand_out_of() {
    let source = source();
    let texts: Vec<String> =
        (0..60).map(|i| format!("{} {} {}", FILLER[i % 12], FILLER[(i + 5) % 12], FILLER[i / 12])).collect();
    put(&source, &texts);
    let texts: Vec<Option<&str>> = texts.iter().map(|text| Some(text.as_str())).chain([None; 600]).collect();
    source.put_texts("gaps", &texts, vec![]).unwrap();
    let with_gaps = "SELECT doc_id, CASE WHEN text IS NULL THEN NULL ELSE embedding END AS embedding FROM gaps";
    let call = |set: &str| {
        format!("SELECT doc_id, dense_score FROM retrieve('{set}', 'river', named_argument('signals', 'dense'))")
    };
    let (all, gaps) = (run(&source, &call("answers")).await.unwrap(), run(&source, &call(with_gaps)).await.unwrap());
    assert_eq!(gaps, all, "moved towards as many first hits");

    let early = Early { doc_id: "d0".to_owned(), dense: 6.0, labels: 0.0, embedding: Vec::new() };
    let statistics = Statistics {
        n_rows: 300_000,
        n_compared: 3_000,
        n_docs: 300_000,
        n_with: Vec::new(),
        mean_length: 1.0,
        right: Vec::new(),
        wrong: Vec::new(),
        sample: Vec::new(),
        scales: [Scale { mean: 0.0, sd: 1.0 }; 2],
        early: [vec![early; 10], Vec::new()],
    };
    let plan = Plan {
        options: Options::parse(&[lit("answers"), lit("sorry")]).unwrap(),
        catalog: Arc::default(),
        read: Vec::new(),
        understood: Understood::default(),
        statistics,
        dense: DenseQuery::default(),
    };
    let (_, fusion) = plan.make(Scorer { weights: Vec::new(), mean_length: 0.0 }, Vec::new()).unwrap();
    assert_eq!(fusion.units[Signal::Labels as usize], label_weight(6.0, 0.0, 3_000));
}

#[test]
fn parts_are_no_more_than_the_score_where_nothing_differs() {
    let source = source();
    let (mut fusion, mut candidates) = (Fusion::default(), Candidates::default());
    let mut scores = [None; N_SIGNALS];
    for (signal, value) in [(Signal::Dense, -0.2f32), (Signal::Labels, 0.5)] {
        let at = signal as usize;
        (fusion.units[at], candidates.bounds[at], scores[at]) = (1.0, (value, value), Some(value));
    }
    candidates.hits.push(Candidate { doc_id: "d0".to_owned(), position: 1, fused: 0.3, scores });
    let parts = FeatureScores { labels: 0.5, ..FeatureScores::default() };
    let winner = Winner { text: None, contributions: vec![Contribution { id: 0, strength: 1.0, parts }] };
    let winners = HashMap::from([("d0".to_owned(), winner)]);
    let batch = result(&candidates, &fusion, &winners, &crate::FeatureSource::catalog(&source)).unwrap();
    let score = batch.column_by_name("score").unwrap().as_primitive::<Float32Type>().value(0);
    let list = batch.column_by_name("features").unwrap().as_list::<i32>().value(0);
    let sum: f32 = list.as_struct().column(3).as_primitive::<Float32Type>().values().iter().sum();
    assert!((score - 1.0).abs() < 1e-6 && sum <= score + 1e-6, "{sum} of {score}");
}

#[tokio::test]
async fn features_teach_where_there_are_no_embeddings() {
    let source = source();
    let texts: Vec<String> =
        (0..12).map(|i| format!("{} {}", FILLER[i], if i % 2 == 0 { "please" } else { "rain" })).collect();
    put(&source, &texts);
    let call = |set: &str| {
        format!(
            "SELECT label, weight FROM learned_features('{set}', named_argument('like', 'd0,d2'), \
             named_argument('unlike', 'd1,d3'))"
        )
    };
    let rows = run(&source, &call("SELECT doc_id, features FROM answers")).await.unwrap();
    let labels = strings(&rows, "label");
    let weights = rows.column(1).as_primitive::<Float64Type>();
    let signs: Vec<(&str, bool)> = labels.iter().flatten().zip(weights.values().iter().map(|w| *w > 0.0)).collect();
    assert!(signs.contains(&("politeness", true)) && signs.contains(&("weather", false)), "{rows:?}");
    let said = message(&source, &call("SELECT doc_id FROM answers")).await;
    assert!(said.contains("features"), "{said}");
}

#[tokio::test]
async fn features_with_weights_are_summed() {
    let source = source();
    put(&source, &["sorry rain".into(), "rain".into(), "sorry please".into(), "rain please".into(), "stone".into()]);
    let id = |label: &str| {
        let catalog = crate::FeatureSource::catalog(&source);
        catalog.features().iter().find(|feature| feature.label == label).map(|feature| feature.id).unwrap()
    };
    let call = |features: &str| {
        format!("SELECT * FROM retrieve('answers', named_argument('features', {features}), named_argument('k', 3))")
    };
    let by_label = run(&source, &call("'apology:2, weather:0.5, politeness:-1'")).await.unwrap();
    assert_eq!(ids(&by_label), ["d0", "d2", "d1"]);
    let scores = by_label.column_by_name("score").unwrap().as_primitive::<Float32Type>().values().to_vec();
    assert_eq!(scores, [2.5, 1.0, 0.5]);
    assert_eq!(strings(&by_label, "text").value(0), "sorry rain");
    assert_eq!(strings(&by_label, "reasons").value(1), "apology (1.0); against: politeness (1.0)");
    let lists = by_label.column_by_name("features").unwrap().as_list::<i32>();
    let parts = lists.value(1).as_struct().column(3).as_primitive::<Float32Type>().values().to_vec();
    assert_eq!(parts, [2.0, -1.0], "they add up to the score");
    let by_id =
        run(&source, &call(&format!("make_array('{}:2', 'weather:0.5', 'politeness:-1')", id("apology")))).await;
    assert_eq!(by_id.unwrap(), by_label);
    let filtered =
        "SELECT doc_id FROM retrieve('answers WHERE doc_id > ''d0''', named_argument('features', 'apology'))";
    assert_eq!(ids(&run(&source, filtered).await.unwrap()), ["d2"]);
    for (call, expected) in [
        (call("'apologie:2'"), "feature 'apologie' not found; did you mean 'apology'?"),
        (call("'apology:inf'"), "expected features with weights as in features => '12:0.5, 99:1', got 'apology:inf'"),
        (call("' , '"), "'features' is empty; give ids, labels or concepts with weights"),
        (
            "SELECT * FROM retrieve('answers', 'sorry', named_argument('features', 'apology'))".to_owned(),
            "'features' says what to look for by itself and cannot be used with 'query'",
        ),
    ] {
        let said = message(&source, &call).await;
        assert!(said.contains(&format!("retrieve: {expected}")), "{said}");
    }
}
