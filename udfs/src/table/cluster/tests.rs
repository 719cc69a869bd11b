use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, Float64Type, Int64Type};
use datafusion::error::Result;

use crate::MemorySource;
use crate::kernels::agreement::adjusted_rand_index;
use crate::kernels::random::Random;

/// Layout and mood vary independently; each has features of its own.
const LAYOUT: [[&str; 4]; 3] =
    [["bullet", "dash", "star", "item"], ["first", "second", "third", "step"], ["paragraph", "prose", "flow", "essay"]];
const MOOD: [[&str; 4]; 2] = [["glad", "happy", "joy", "cheer"], ["gloom", "sad", "grief", "sorrow"]];

fn source(n: usize) -> MemorySource {
    let words: Vec<&str> = LAYOUT.iter().chain(&MOOD).flatten().copied().collect();
    let labels: Vec<String> = words
        .iter()
        .enumerate()
        .map(|(i, word)| format!("{} {word}", if i < 12 { "layout" } else { "mood" }))
        .collect();
    let lists: Vec<[&str; 1]> = words.iter().map(|word| [*word]).collect();
    let features: Vec<(&str, &[&str])> =
        labels.iter().zip(&lists).map(|(label, list)| (label.as_str(), list.as_slice())).collect();
    let source = MemorySource::with_words(&features, vec![]);
    let mut random = Random::new(3, 0);
    let mut pick = |words: &[&'static str; 4]| -> Vec<&'static str> {
        words.iter().copied().filter(|_| random.unit() < 0.7).collect()
    };
    let texts: Vec<String> = (0..n)
        .map(|i| {
            // Every 50th document says nothing that a feature knows.
            if i % 50 == 49 {
                return "nothing known".to_owned();
            }
            let mut words = pick(&LAYOUT[i % 3]);
            // A document has at least one word of its layout.
            words.push(LAYOUT[i % 3][i / 3 % 4]);
            words.extend(pick(&MOOD[i % 2]));
            words.join(" ")
        })
        .collect();
    let texts: Vec<Option<&str>> = texts.iter().map(|text| Some(text.as_str())).collect();
    source.put_texts("answers", &texts, vec![]).unwrap();
    source
}

async fn run(source: &MemorySource, sql: &str) -> Result<RecordBatch> {
    let session = source.session()?;
    let frame = session.sql(sql).await?;
    let schema = std::sync::Arc::new(frame.schema().as_arrow().clone());
    Ok(arrow::compute::concat_batches(&schema, &frame.collect().await?)?)
}

async fn message(source: &MemorySource, sql: &str) -> String {
    run(source, sql).await.unwrap_err().strip_backtrace()
}

/// Groups in the order of the set; none for the unclear ones.
fn groups(batch: &RecordBatch) -> Vec<Option<usize>> {
    let ids = batch.column_by_name("cluster_id").unwrap().as_primitive::<Int64Type>();
    ids.values().iter().map(|id| usize::try_from(*id).ok()).collect()
}

fn truth(n: usize, modulus: usize) -> Vec<Option<usize>> {
    (0..n).map(|i| (i % 50 != 49).then_some(i % modulus)).collect()
}

#[tokio::test]
async fn about_decides_what_the_groups_are() {
    for (n, methods) in [(600, ["jaccard-spectral", "kmeans"].as_slice()), (3_600, ["auto"].as_slice())] {
        let source = source(n);
        for method in methods {
            for (about, modulus) in [("layout", 3), ("mood", 2)] {
                let sql = format!(
                    "SELECT * FROM cluster('answers', '{about}', named_argument('k', {modulus}), \
                     named_argument('method', '{method}'), named_argument('n_features', {}))",
                    if about == "layout" { 12 } else { 8 },
                );
                let batch = run(&source, &sql).await.unwrap();
                let found = groups(&batch);
                let ari = adjusted_rand_index(&found, &truth(n, modulus));
                assert!(ari > 0.95, "{n} documents, {about} by {method}: ARI {ari}");
                assert!((0..n).filter(|i| i % 50 == 49).all(|i| found[i].is_none()));
            }
        }
    }
}

#[tokio::test]
async fn the_summary_describes_the_same_groups() {
    let source = source(600);
    let options = "('answers', named_argument('about', 'layout'), named_argument('n_features', 12))";
    let documents = run(&source, &format!("SELECT * FROM cluster{options}")).await.unwrap();
    let summary = run(&source, &format!("SELECT * FROM cluster_summary{options}")).await.unwrap();
    let numbers = summary.column_by_name("cluster_id").unwrap().as_primitive::<Int64Type>();
    assert_eq!(numbers.values()[..], [0, 1, 2, -1], "three layouts are found without being told how many");
    let names = summary.column_by_name("name").unwrap().as_string::<i32>();
    let sizes = summary.column_by_name("size").unwrap().as_primitive::<Int64Type>();
    let mut counted: BTreeMap<(i64, String), i64> = BTreeMap::new();
    let document_names = documents.column_by_name("cluster_name").unwrap().as_string::<i32>();
    let document_numbers = documents.column_by_name("cluster_id").unwrap().as_primitive::<Int64Type>();
    for row in 0..documents.num_rows() {
        *counted.entry((document_numbers.value(row), document_names.value(row).to_owned())).or_default() += 1;
    }
    for row in 0..summary.num_rows() {
        assert_eq!(counted.get(&(numbers.value(row), names.value(row).to_owned())), Some(&sizes.value(row)));
    }
    assert!(sizes.values()[..3].windows(2).all(|pair| pair[0] >= pair[1]));
    assert_eq!(names.value(3), "unclear");
    let stability = summary.column_by_name("stability").unwrap().as_primitive::<Float64Type>();
    assert!((0..3).all(|row| stability.value(row) > 0.9) && stability.is_null(3), "{stability:?}");

    // A group is named by words of one layout, and its central documents are of it.
    let tops = summary.column_by_name("top_features").unwrap().as_list::<i32>();
    let central = summary.column_by_name("central_doc_ids").unwrap().as_list::<i32>();
    let words = summary.column_by_name("top_words").unwrap().as_list::<i32>();
    for row in 0..3 {
        let layout = (0..3)
            .find(|&layout| {
                names.value(row).contains(LAYOUT[layout][0]) || names.value(row).contains(LAYOUT[layout][1])
            })
            .unwrap();
        for label in names.value(row).split("; ") {
            assert!(LAYOUT[layout].iter().any(|word| label == format!("layout {word}")), "{}", names.value(row));
        }
        let features = tops.value(row);
        let features = features.as_struct();
        let difference = features.column_by_name("difference").unwrap().as_primitive::<Float64Type>();
        assert!(features.len() == 4 && difference.values().iter().all(|difference| *difference > 0.5));
        let told = words.value(row);
        let told: Vec<&str> = told.as_string::<i32>().iter().flatten().collect();
        assert!(LAYOUT[layout].iter().all(|word| told.contains(word)), "{told:?}");
        assert!(!LAYOUT.iter().enumerate().any(|(other, list)| other != layout && told.contains(&list[0])), "{told:?}");
        let ids = central.value(row);
        assert_eq!(ids.len(), 5);
        for id in ids.as_string::<i32>().iter().flatten() {
            assert_eq!(id[1..].parse::<usize>().unwrap() % 3, layout);
        }
    }
}

#[tokio::test]
async fn several_phrases_stand_for_few_features_each_and_explain_lists_them() {
    let source = source(400);
    let explained = async |about: &str| {
        let sql = format!(
            "EXPLAIN SELECT * FROM cluster('answers', '{about}', named_argument('k', 2), named_argument('n_features', 16))"
        );
        run(&source, &sql).await.unwrap().column(1).as_string::<i32>().iter().flatten().collect::<String>()
    };
    let one = explained("layout layout").await;
    assert!(one.contains("12 features: layout bullet; layout dash"), "all labels that are like it: {one}");
    // Of twelve labels with "layout" half of 16 count, and the feature that fires on the second phrase.
    let two = explained("layout layout, prose").await;
    assert!(two.contains("9 features") && two.contains("layout prose") && !two.contains("layout flow"), "{two}");
    assert!(!explained("layout bullet, 8").await.contains("..."));
    // One feature makes no groups, so that a label alone stands for others, too; a number does not.
    let label = explained("layout bullet").await;
    assert!(label.contains("12 features: layout bullet"), "{label}");
    assert!(explained("8").await.contains("1 feature"));
}

#[tokio::test]
async fn equal_seeds_give_equal_groups_and_names_choose_features() {
    let source = source(400);
    for method in ["jaccard-spectral", "kmeans"] {
        let sql = format!(
            "SELECT * FROM cluster('answers', 'layout bullet, layout first, 8', named_argument('k', 3), \
             named_argument('seed', 7), named_argument('method', '{method}'))"
        );
        let (a, b) = (run(&source, &sql).await.unwrap(), run(&source, &sql).await.unwrap());
        assert_eq!(a, b);
    }
    // Ids and labels: documents without one of the three features say nothing.
    let sql = "SELECT * FROM cluster('answers', 'layout bullet, layout first, 8', named_argument('k', 3))";
    let found = groups(&run(&source, sql).await.unwrap());
    let batch = run(&source, "SELECT text FROM answers").await.unwrap();
    for (text, group) in batch.column(0).as_string::<i32>().iter().flatten().zip(found) {
        let says = ["bullet", "first", "paragraph"].iter().any(|word| text.contains(word));
        assert_eq!(says, group.is_some(), "{text}");
    }
}

#[tokio::test]
async fn the_dense_view_groups_embeddings() {
    let source = source(400);
    let sql = "SELECT * FROM cluster('answers', named_argument('view', 'dense'), named_argument('k', 3))";
    let batch = run(&source, sql).await.unwrap();
    assert_eq!(batch.num_rows(), 400);
    let membership = batch.column_by_name("membership").unwrap().as_primitive::<Float32Type>();
    assert!(membership.values().iter().all(|m| (0.0..=1.0).contains(m)));
    // "nothing known" is a topic of its own to the embedding.
    let found = groups(&batch);
    assert!((0..400).filter(|i| i % 50 == 49).all(|i| found[i].is_some() && found[i] == found[49]));
}

#[tokio::test]
async fn edges() {
    let source = source(40);
    source.put_texts("same", &[Some("bullet glad"); 30], vec![]).unwrap();
    source.put_texts("strangers", &[Some("nobody"), Some("knows"), Some("this"), None], vec![]).unwrap();
    for method in ["jaccard-spectral", "kmeans"] {
        let method = format!("named_argument('method', '{method}')");
        let same =
            run(&source, &format!("SELECT * FROM cluster('same', named_argument('k', 4), {method})")).await.unwrap();
        assert!(groups(&same).iter().all(|group| *group == Some(0)), "{same:?}");
        let same = run(&source, &format!("SELECT * FROM cluster_summary('same', {method})")).await.unwrap();
        assert_eq!(same.column_by_name("size").unwrap().as_primitive::<Int64Type>().values()[..], [30]);
        let unknown = run(&source, &format!("SELECT * FROM cluster('strangers', {method})")).await.unwrap();
        assert!(groups(&unknown).iter().all(Option::is_none));
        assert_eq!(unknown.num_rows(), 4);
        for empty in ["cluster", "cluster_summary"] {
            let sql = format!("SELECT * FROM {empty}('answers WHERE doc_id = ''x''', {method})");
            let error = run(&source, &sql).await.unwrap_err().to_string();
            assert!(error.contains("has no documents"), "{error}");
        }
        let sql = format!(
            "SELECT * FROM cluster('answers WHERE doc_id IN (''d0'', ''d1'')', named_argument('k', 9), {method})"
        );
        assert_eq!(run(&source, &sql).await.unwrap().num_rows(), 2);
    }
    let many = run(&source, "SELECT * FROM cluster('answers', named_argument('k', 60))").await.unwrap();
    assert_eq!(many.num_rows(), 40);
    let dense = "SELECT * FROM cluster('answers WHERE doc_id = ''x''', named_argument('view', 'dense'))";
    let error = run(&source, dense).await.unwrap_err().to_string();
    assert!(error.contains("has no documents"), "{error}");
    let error = run(&source, "SELECT * FROM cluster('answers', ' ')").await.unwrap_err().to_string();
    assert!(error.contains("'about' is empty"), "{error}");
    for (arguments, expected) in [
        ("named_argument('k', 0)", "cluster: expected from 1 to 1000 for 'k', got 0"),
        ("named_argument('method', 'spectral')", "did you mean 'jaccard-spectral'"),
        ("named_argument('view', 'dense'), named_argument('about', 'mood')", "leave out one of them"),
        ("named_argument('view', 'both')", "say what, or use view => 'dense'"),
        (
            "'mood', named_argument('view', 'both'), named_argument('method', 'jaccard-spectral')",
            "with view 'both' use 'kmeans'",
        ),
        (
            "named_argument('view', 'dense'), named_argument('method', 'jaccard-spectral')",
            "with view 'dense' use 'kmeans'",
        ),
        ("'4000000'", "feature 4000000 not found"),
        ("'zebra'", "cluster: no feature is about 'zebra'; look for names with SELECT * FROM search_features('zebra')"),
        (
            "named_argument('k', 51), named_argument('method', 'jaccard-spectral')",
            "method 'jaccard-spectral' takes at most 50 for 'k', got 51; use method => 'kmeans'",
        ),
        ("named_argument('n_features', 0)", "expected at least 1 for 'n_features'"),
    ] {
        let said = message(&source, &format!("SELECT * FROM cluster('answers', {arguments})")).await;
        assert!(said.contains(expected), "{said}");
    }
}

#[tokio::test]
async fn one_group_holds_all_documents_and_is_compared_with_none() {
    let source = source(40);
    let texts: Vec<Option<&str>> =
        (0..50).map(|row| Some(if row < 30 { "bullet glad" } else { "first gloom" })).collect();
    source.put_texts("parts", &texts, vec![]).unwrap();
    for (method, seeds) in [("jaccard-spectral", 0..6), ("kmeans", 0..1)] {
        for seed in seeds {
            let sql = format!(
                "SELECT * FROM cluster('parts', named_argument('k', 1), named_argument('seed', {seed}), \
                 named_argument('method', '{method}'))"
            );
            let found = groups(&run(&source, &sql).await.unwrap());
            assert!(found.iter().all(|group| *group == Some(0)), "{method}, seed {seed}: {found:?}");
        }
    }
    let sql = "SELECT f['frequency_in'] > 0.59, f['frequency_out'], f['difference'], f['lift'] FROM (SELECT \
               unnest(top_features) AS f FROM cluster_summary('parts', named_argument('k', 1))) LIMIT 1";
    let row = run(&source, sql).await.unwrap();
    assert!(row.column(0).as_boolean().value(0));
    assert!((1..4).all(|column| row.column(column).is_null(0)), "{row:?}");
    let sql = "SELECT f['label'] FROM (SELECT unnest(top_features) AS f FROM cluster_summary('parts', \
               named_argument('k', 1)))";
    let listed = run(&source, sql).await.unwrap();
    let listed: Vec<&str> = listed.column(0).as_string::<i32>().iter().flatten().collect();
    assert_eq!(listed, ["layout bullet", "mood glad", "layout first", "mood gloom"], "the most frequent first");
}

#[tokio::test]
async fn phrases_stand_for_a_bounded_number_of_features() {
    let features: Vec<(&str, &[&str])> = (0..600).map(|i| (if i < 300 { "layout" } else { "mood" }, &[][..])).collect();
    let source = MemorySource::with_words(&features, vec![]);
    source.put_texts("answers", &[Some("a"), Some("b")], vec![]).unwrap();
    for about in ["layout layout", "layout layout, mood mood"] {
        let sql = format!("EXPLAIN SELECT * FROM cluster('answers', '{about}', named_argument('k', 1))");
        let plan = run(&source, &sql).await.unwrap();
        let plan: String = plan.column(1).as_string::<i32>().iter().flatten().collect();
        assert!(plan.contains(" 200 features"), "200 of one phrase, 100 of each of several; {about}: {plan}");
    }
}

#[tokio::test]
async fn documents_without_embeddings_are_not_grouped_by_them() {
    let source = source(40);
    source.put_texts("nothing", &[None, None, None], vec![]).unwrap();
    let said = message(&source, "SELECT * FROM cluster('nothing', named_argument('view', 'dense'))").await;
    assert!(
        said.contains("cluster: none of the 3 documents of 'nothing'") && said.contains("view => 'dense'"),
        "{said}"
    );
}

#[tokio::test]
async fn embeddings_tell_apart_along_the_axis_what_features_do_not() {
    // Both features fire on the same word: only the embeddings say which mood it is, and, louder, which dish.
    let features: [(&str, &[&str]); 2] = [("mood glad", &["mood"]), ("mood gloom", &["mood"])];
    let source = MemorySource::with_words(&features, vec![]);
    let dishes = ["soup soup soup", "bread bread bread", "salad salad salad"];
    let texts: Vec<String> =
        (0..60).map(|i| format!("mood {} {}", ["glad", "gloom"][i % 2], dishes[i / 2 % 3])).collect();
    let mut texts: Vec<Option<&str>> = texts.iter().map(|text| Some(text.as_str())).collect();
    texts.push(Some("glad soup"));
    source.put_texts("meals", &texts, vec![]).unwrap();
    let found = async |set: &str, view: &str| {
        let sql = format!("SELECT * FROM cluster('{set}', 'mood', named_argument('k', 2){view})");
        run(&source, &sql).await.map(|batch| groups(&batch))
    };
    let moods: Vec<Option<usize>> = (0..60).map(|i| Some(i % 2)).collect();
    let along = found("meals", "").await.unwrap();
    assert!(adjusted_rand_index(&along[..60], &moods) > 0.99, "{along:?}");
    assert_eq!(along[60], along[0], "no feature says that it is about a mood, its embedding does");
    assert_eq!(found("meals", ", named_argument('view', 'both')").await.unwrap(), along);
    let plain = found("meals", ", named_argument('view', 'features')").await.unwrap();
    assert!(plain[..60].iter().all(|group| *group == Some(0)), "{plain:?}");

    // Without embeddings features have to do, unless embeddings were asked for.
    let without = "SELECT doc_id, text, features FROM meals";
    assert_eq!(found(without, "").await.unwrap(), plain);
    assert!(found(without, ", named_argument('view', 'both')").await.is_err());
    source.put_texts("silent", &[None, None], vec![]).unwrap();
    let error = found("silent", ", named_argument('view', 'both')").await.unwrap_err().to_string();
    assert!(error.contains("has an embedding, by which view => 'both' groups"), "{error}");
}
