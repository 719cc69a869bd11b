//! The function as a whole.

use datafusion::error::DataFusionError;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::*;
use crate::MemorySource;
use crate::test_support::{answers, cells, columns as columns_of, error};

/// 200 documents: "tea" and "milk" mostly together, "sugar" by chance, "teas" an echo of "tea", "war" never with tea.
fn drinks() -> MemorySource {
    let features: &[(&str, &[&str])] = &[
        ("tea", &["tea"]),
        ("milk", &["milk"]),
        ("sugar", &["sugar"]),
        ("teas", &["teas"]),
        ("war", &["war"]),
        ("milk jug", &["jug"]),
    ];
    let source = MemorySource::with_words(features, vec![]);
    let texts: Vec<String> = (0..200)
        .map(|row| {
            let mut text = String::from("a");
            if row % 4 == 0 {
                text.push_str(" tea teas")
            }
            if row % 4 == 0 && row % 40 != 0 || row % 50 == 1 {
                text.push_str(" milk jug")
            }
            if row % 5 == 0 {
                text.push_str(" sugar")
            }
            if row % 4 == 2 {
                text.push_str(" war")
            }
            text
        })
        .collect();
    source.put_texts("notes", &texts.iter().map(|text| Some(text.as_str())).collect::<Vec<_>>(), vec![]).unwrap();
    source
}

#[tokio::test]
async fn finds_pairs_and_drops_echoes() {
    let source = drinks();
    let columns = "label_a, label_b, docs_both, docs_a, docs_b, n, q_value < 0.001";
    let rows = cells(&source, format!("SELECT {columns} FROM correlate('notes') WHERE q_value < 0.05")).await.unwrap();
    assert_eq!(rows, [["tea", "milk", "45", "50", "49", "200", "true"]], "the others are echoes or tell the same");
    let told = "SELECT n_members, same_place, also_in_words, round(expected, 2) FROM correlate('notes') LIMIT 1";
    assert_eq!(cells(&source, told).await.unwrap(), [["3", "0.0", "\"tea\" + \"milk\"", "12.25"]]);
    let near = "SELECT label_a, label_b, same_place FROM correlate('notes', named_argument('echoes', true), \
                named_argument('fold', false)) ORDER BY label_a, label_b LIMIT 2";
    assert_eq!(cells(&source, near).await.unwrap(), [["milk", "milk jug", "1.0"], ["milk", "teas", "1.0"]]);
    let with = "SELECT label_b FROM correlate('notes', named_argument('echoes', true)) LIMIT 1";
    assert_eq!(cells(&source, with).await.unwrap(), [["teas"]]);
}

#[tokio::test]
async fn keeps_the_unexpected_if_asked() {
    let source = drinks();
    let sql = "SELECT label_a, label_b, label_similarity FROM correlate('notes', named_argument('unexpected', 0.5), \
               named_argument('control', 'none'), named_argument('limit', 1))";
    assert_eq!(cells(&source, sql).await.unwrap(), [["tea", "milk", "0.0"]]);
    let sql = "SELECT label_b, label_similarity FROM correlate('notes') LIMIT 1";
    assert_eq!(cells(&source, sql).await.unwrap(), [["milk", "0.0"]]);
    let sql = "SELECT min(docs_both) FROM correlate('notes', named_argument('min_both', 49), \
               named_argument('echoes', true), named_argument('fold', false))";
    assert_eq!(cells(&source, sql).await.unwrap(), [["49"]]);
}

#[tokio::test]
async fn the_plan_shows_the_call() {
    let sql = "EXPLAIN SELECT * FROM correlate('notes WHERE doc_id <> ''it''''s''', named_argument('unexpected', 0.5))";
    let plan = cells(&drinks(), sql).await.unwrap().concat().concat();
    let call = "correlate('notes WHERE doc_id <> ''it''''s''', unexpected => 0.5, min_lift => 2)";
    assert!(plan.contains(call), "{plan}");
}

#[tokio::test]
async fn negative_associations_and_support() {
    let source = drinks();
    let sql = "SELECT label_a, label_b, npmi FROM correlate('notes', named_argument('direction', 'negative')) LIMIT 1";
    assert_eq!(cells(&source, sql).await.unwrap(), [["tea", "war", "-1.0"]]);
    let sql = "SELECT label_a, label_b FROM correlate('notes', named_argument('min_docs', 50))";
    assert_eq!(cells(&source, sql).await.unwrap(), [] as [[&str; 2]; 0], "only echoes and rivals have so many");
    let sql = "SELECT count(*) FROM correlate('answers', named_argument('level', 'span'))";
    assert_eq!(cells(&answers(), sql).await.unwrap(), [["0"]]);
    let message = error(&source, "SELECT * FROM correlate('notes WHERE false')").await;
    assert!(message.contains("correlate: set 'notes WHERE false' has no documents"), "{message}");
    let message = error(&source, "SELECT * FROM correlate('notes', named_argument('direction', 'postive'))").await;
    assert!(message.contains("'direction' cannot be 'postive'; did you mean 'positive'?"), "{message}");
}

#[tokio::test]
async fn correlates_prompts_with_responses() {
    let features: &[(&str, &[&str])] = &[("code", &["python"]), ("list", &["first"]), ("poem", &["rose"])];
    let source = MemorySource::with_words(features, vec![]);
    let keys: arrow::array::ArrayRef = Arc::new((0..60).collect::<arrow::array::Int64Array>());
    let prompts: Vec<Option<&str>> = (0..60).map(|row| Some(if row % 3 == 0 { "python" } else { "rose" })).collect();
    let responses: Vec<Option<&str>> =
        (0..60).map(|row| Some(if row % 3 == 0 { "first python" } else { "so" })).collect();
    source.put_texts("prompts", &prompts, vec![("id", Arc::clone(&keys))]).unwrap();
    source.put_texts("responses", &responses, vec![("id", keys)]).unwrap();
    let call = |more: &str| {
        format!(
            "SELECT label_a, label_b, docs_both, docs_a, docs_b, n FROM correlate('prompts', named_argument('with', \
             'responses WHERE id > 2'), named_argument('paired_by', 'id'){more})"
        )
    };
    let rows = cells(&source, call("")).await.unwrap();
    assert_eq!(rows, [["code", "list", "19", "19", "19", "57"]], "code with code is an echo");
    let words = call("").replace("label_a, label_b, docs_both, docs_a, docs_b, n", "also_in_words");
    let words = cells(&source, words).await.unwrap();
    assert!(words[0][0].starts_with("\"python\" + \"first"), "a word of the prompt, one of the response: {words:?}");
    let rows = cells(&source, call(", named_argument('echoes', true), named_argument('fold', false)")).await.unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0], ["code", "code", "19", "19", "19", "57"]);
    // Ids that no feature has are passed over.
    let strangers = "SELECT id, named_struct(''ids'', arrow_cast([0, 3, 4, 9], ''List(UInt32)''), ''activations'', \
                     arrow_cast([1, 1, 1, 1], ''List(Float16)'')) AS features FROM prompts";
    let sql = format!(
        "SELECT label_a, label_b, docs_a FROM correlate('{strangers}', named_argument('with', 'responses'), \
         named_argument('paired_by', 'id'), named_argument('direction', 'both'))"
    );
    assert_eq!(cells(&source, sql).await.unwrap(), [["code", "list", "60"]]);
    let message = error(&source, "SELECT * FROM correlate('prompts', named_argument('with', 'responses'))").await;
    assert!(message.contains("correlate: 'with' needs 'paired_by'"), "{message}");
}

#[tokio::test]
async fn the_ranking_is_taken_from_the_memory_of_the_query() {
    let words: Vec<String> = (0..500).map(|i| format!("w{i}")).collect();
    let lists: Vec<[&str; 1]> = words.iter().map(|word| [word.as_str()]).collect();
    let features: Vec<(&str, &[&str])> = words.iter().map(String::as_str).zip(lists.iter().map(|l| &l[..])).collect();
    let source = MemorySource::with_words(&features, vec![]);
    source.put_texts("notes", &[Some(words.join(" ").as_str())], vec![]).unwrap();
    let with_limit = async |limit: usize| {
        let runtime = RuntimeEnvBuilder::new().with_memory_limit(6 << 20, 1.0).build_arc().unwrap();
        let session = SessionContext::new_with_config_rt(SessionConfig::new(), runtime);
        crate::register_all(&session, &(Arc::new(source.clone()) as SharedSource)).unwrap();
        let sql = format!(
            "SELECT docs_both FROM correlate('notes', named_argument('min_docs', 1), \
             named_argument('direction', 'both'), named_argument('echoes', true), named_argument('fold', false), \
             named_argument('limit', {limit}))"
        );
        session.sql(&sql).await.unwrap().collect().await
    };
    assert_eq!(with_limit(1000).await.unwrap()[0].num_rows(), 1000);
    let error = with_limit(100_000_000).await.unwrap_err();
    assert!(matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)), "{error}");
}

#[tokio::test]
async fn topics_explain_their_pairs() {
    // Embeddings are a topic and noise. "oven" and "flour" belong to one topic, by chance within it; "pirate" and
    // "hola" are together in a few documents of both.
    let features: &[(&str, &[&str])] =
        &[("oven", &["oven"]), ("flour", &["flour"]), ("pirate", &["pirate"]), ("hola", &["hola"])];
    let source = MemorySource::with_words(features, vec![]);
    let mut random = crate::kernels::random::Random::new(1, 0);
    let mut features = crate::features::FeaturesBuilder::default();
    let mut embeddings = Vec::new();
    for row in 0..800 {
        let topic = row % 2;
        let has =
            [topic == 0 && row / 2 % 2 == 0, topic == 0 && row / 4 % 2 == 0, row / 8 % 10 == 0, row / 8 % 10 == 0];
        features.append((0..).zip(has).filter(|(_, has)| *has).map(|(id, _)| (id, 1.0)));
        let mut embedding = [[4.0, 0.0], [0.0, 4.0]][topic].to_vec();
        embedding.extend((0..6).map(|_| random.normal()));
        embeddings.extend(embedding.into_iter().map(half::f16::from_f64));
    }
    let item = Arc::new(arrow::datatypes::Field::new("item", arrow::datatypes::DataType::Float16, true));
    let values = Arc::new(arrow::array::Float16Array::from(embeddings));
    let embeddings = arrow::array::FixedSizeListArray::try_new(item, 8, values, None).unwrap();
    let ids: Vec<String> = (0..800).map(|row| format!("d{row}")).collect();
    let columns: Vec<(&str, arrow::array::ArrayRef)> = vec![
        ("doc_id", Arc::new(StringArray::from(ids))),
        ("features", Arc::new(features.finish())),
        ("embedding", Arc::new(embeddings)),
    ];
    source.put_batches("notes", vec![RecordBatch::try_from_iter(columns).unwrap()]).unwrap();
    let found = async |options: &str| {
        let sql = format!("SELECT label_a, label_b FROM correlate('notes'{options}) WHERE q_value < 0.05");
        cells(&source, sql).await.unwrap()
    };
    assert_eq!(found("").await, [["pirate", "hola"], ["oven", "flour"]]);
    for option in ["control', 'topic'", "unexpected', 1"] {
        let within = found(&format!(", named_argument('{option})")).await;
        assert!(within[0] == ["pirate", "hola"] && !within.contains(&vec!["oven".into(), "flour".into()]));
    }
    let message = error(
        &source,
        "SELECT * FROM correlate('notes', named_argument('control', 'topic'), named_argument('with', 'notes'), \
         named_argument('paired_by', 'doc_id'))",
    );
    assert!(message.await.contains("correlate: 'control' holds constant what documents of one set have"));
    let message = error(&source, "SELECT * FROM correlate('notes', named_argument('min_lift', 0.5))").await;
    assert!(message.contains("'min_lift'"), "{message}");
}

/// All pairs of 16,384 features over 100,000 documents of 160 features, with 512 MB for the query.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; says how many with: cargo test -p saequel-udfs --lib all_pairs -- --ignored --nocapture"]
async fn all_pairs_of_a_large_dictionary_fit_into_memory() {
    const N_FEATURES: usize = 16_384;
    const N_DOCS: usize = 100_000;
    let labels: Vec<String> = (0..N_FEATURES).map(|id| format!("f{id}")).collect();
    let lists: Vec<[&str; 1]> = labels.iter().map(|label| [label.as_str()]).collect();
    let features: Vec<(&str, &[&str])> =
        labels.iter().map(String::as_str).zip(lists.iter().map(|list| &list[..])).collect();
    let source = MemorySource::with_words(&features, vec![]);
    let mut random = crate::kernels::random::Random::new(1, 0);
    let mut batches = Vec::new();
    for start in (0..N_DOCS).step_by(10_000) {
        let mut features = crate::features::FeaturesBuilder::default();
        for row in start..start + 10_000 {
            let mut ids: Vec<u32> = (0..160).map(|_| (random.unit().powf(1.5) * N_FEATURES as f64) as u32).collect();
            // One pair that is together in 1 % of the documents.
            if row % 100 == 0 {
                ids.extend([5_000, 11_000]);
            }
            ids.sort_unstable();
            ids.dedup();
            features.append(ids.into_iter().map(|id| (id, 1.0)));
        }
        let ids: Vec<String> = (start..start + 10_000).map(|row| format!("d{row}")).collect();
        let columns: Vec<(&str, arrow::array::ArrayRef)> =
            vec![("doc_id", Arc::new(StringArray::from(ids))), ("features", Arc::new(features.finish()))];
        batches.push(RecordBatch::try_from_iter(columns).unwrap());
    }
    source.put_batches("large", batches).unwrap();
    let peak = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM: unknown").to_owned()
    };
    let before = peak();
    let runtime = RuntimeEnvBuilder::new().with_memory_limit(512 << 20, 1.0).build_arc().unwrap();
    let session = SessionContext::new_with_config_rt(SessionConfig::new().with_target_partitions(1), runtime);
    crate::register_all(&session, &(Arc::new(source) as SharedSource)).unwrap();
    let started = std::time::Instant::now();
    let sql = "SELECT feature_a, feature_b, docs_both FROM correlate('large', named_argument('min_docs', 1)) \
               WHERE q_value < 0.01";
    let batches = session.sql(sql).await.unwrap().collect().await.unwrap();
    let found = arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string();
    eprintln!("{:.0} s, {before} before, {} after\n{found}", started.elapsed().as_secs_f64(), peak());
    assert!(found.contains("| 5000      | 11000     |"), "{found}");
}

#[tokio::test]
async fn blocks_of_rows_give_the_same() {
    let source: SharedSource = Arc::new(drinks());
    let call = |block_bytes, held_bytes| CorrelateCall {
        source: Arc::clone(&source),
        set: "notes".to_string(),
        across: None,
        min_docs: None,
        min_both: 0,
        direction: Direction::Both,
        echoes: true,
        unexpected: None,
        control: None,
        min_lift: None,
        fold: false,
        examples: 0,
        selection: FeatureSelection::default(),
        rank_by: RankBy::Llr,
        limit: 100,
        block_bytes,
        held_bytes,
    };
    let request = Request { projection: None, limit: None, context: Arc::default() };
    let whole = call(BLOCK_BYTES, HELD_BYTES).run(request.clone()).await.unwrap();
    assert_eq!(whole[0].num_rows(), 15);
    for (block_bytes, held_bytes) in [(50, HELD_BYTES), (BLOCK_BYTES, 0), (50, 0)] {
        assert_eq!(call(block_bytes, held_bytes).run(request.clone()).await.unwrap(), whole);
    }
}

#[tokio::test]
async fn documents_with_both_features_are_shown() {
    let source = drinks();
    let sql = "SELECT label_a, label_b, examples FROM correlate('notes', named_argument('examples', 2)) LIMIT 1";
    let shown = "[{doc_id: d4, text: a «tea» teas «milk» jug}, {doc_id: d8, text: a «tea» teas «milk» jug}]";
    assert_eq!(cells(&source, sql).await.unwrap(), [["tea", "milk", shown]]);
    assert!(!columns_of(&source, "SELECT * FROM correlate('notes')").await.contains("examples"));
    let bare = "SELECT examples FROM correlate('SELECT features FROM notes', named_argument('examples', 2)) LIMIT 1";
    assert_eq!(cells(&source, bare).await.unwrap(), [[""]], "there is no text to show");
    let many = error(&source, "SELECT * FROM correlate('notes', named_argument('examples', 21))").await;
    assert!(many.contains("correlate: 'examples' can be at most 20, got 21"), "{many}");
    let across = error(
        &source,
        "SELECT * FROM correlate('notes', named_argument('examples', 2), named_argument('with', 'notes'), \
         named_argument('paired_by', 'doc_id'))",
    );
    assert!(across.await.contains("correlate: 'examples' shows documents that have both features"));
}

#[tokio::test]
async fn what_a_column_explains_is_no_finding() {
    // "oven" and "flour" belong to one kind of text, by chance within it; "pirate" and "hola" are together in both.
    let features: &[(&str, &[&str])] =
        &[("oven", &["oven"]), ("flour", &["flour"]), ("pirate", &["pirate"]), ("hola", &["hola"])];
    let source = MemorySource::with_words(features, vec![]);
    let words = |row: usize| {
        let cooking = row % 2 == 0;
        let mut words = vec!["a"];
        words.extend((cooking && row / 2 % 2 == 0).then_some("oven"));
        words.extend((cooking && row / 4 % 2 == 0).then_some("flour"));
        words.extend((row / 8 % 10 == 0).then_some("pirate hola"));
        words.join(" ")
    };
    let texts: Vec<String> = (0..800).map(words).collect();
    let texts: Vec<Option<&str>> = texts.iter().map(|text| Some(text.as_str())).collect();
    // Of the second kind nothing is known: these documents are one stratum.
    let kinds: StringArray = (0..800).map(|row| (row % 2 == 0).then_some("cooking")).collect();
    let numbers: arrow::array::Int64Array = (0..800).map(|row| row % 2).collect();
    source.put_texts("notes", &texts, vec![("kind", Arc::new(kinds)), ("number", Arc::new(numbers))]).unwrap();
    let found = async |options: &str| {
        let sql = format!(
            "SELECT label_a, label_b, round(expected, 6) FROM correlate('notes', named_argument('echoes', true){options}) \
             WHERE q_value < 0.05"
        );
        cells(&source, sql).await.unwrap()
    };
    assert_eq!(found("").await, [["pirate", "hola", "8.0"], ["oven", "flour", "50.0"]]);
    for columns in ["'kind'", "'number'", "make_array('number', 'kind', 'number')"] {
        let within = found(&format!(", named_argument('control', {columns})")).await;
        assert_eq!(within, [["pirate", "hola", "8.0"]], "{columns}");
    }
    for (columns, expected) in [
        ("make_array('topic', 'kind')", "'control' cannot combine 'topic' with columns"),
        ("'kinds'", "kinds"),
        ("'features'", "cannot be used for 'control'; use text, numbers, dates or truth values"),
    ] {
        let sql = format!("SELECT * FROM correlate('notes', named_argument('control', {columns}))");
        let said = error(&source, sql).await;
        assert!(said.contains(expected), "{said}");
    }
    let none = "SELECT * FROM correlate('notes WHERE false', named_argument('control', 'kind'))";
    assert!(error(&source, none).await.contains("correlate: set 'notes WHERE false' has no documents"));
}

#[tokio::test]
async fn a_document_counts_once() {
    let said = error(&drinks(), "SELECT * FROM correlate('SELECT * FROM notes UNION ALL SELECT * FROM notes')").await;
    assert!(said.contains("correlate: document 'd0' comes twice in set 'SELECT * FROM notes UNION ALL"), "{said}");
    let without_ids = "SELECT count(*) > 0 FROM correlate('SELECT features FROM notes')";
    assert_eq!(cells(&drinks(), without_ids).await.unwrap(), [["true"]]);
}

#[tokio::test]
async fn a_column_without_values_leaves_the_others_constant() {
    // Tea and milk go with the kind alone; most documents have no number.
    let source = MemorySource::with_words(&[("tea", &["tea"]), ("milk", &["milk"])], vec![]);
    let texts = (0..400).map(|row| match row % 8 {
        0..3 => "tea and some milk",
        3 => "water",
        4 => "tea",
        _ => "water water",
    });
    let texts: Vec<Option<&str>> = texts.map(Some).collect();
    let kind: StringArray = (0..400).map(|row| Some(if row % 8 < 4 { "drinks" } else { "others" })).collect();
    let number: arrow::array::Int64Array = (0..400i64).map(|row| (row % 3 == 0).then_some(row)).collect();
    let columns: Vec<(&str, arrow::array::ArrayRef)> = vec![("kind", Arc::new(kind)), ("number", Arc::new(number))];
    source.put_texts("cups", &texts, columns).unwrap();
    let expected = async |control: &str| {
        let sql = format!("SELECT round(expected, 0) FROM correlate('cups', named_argument('control', {control}))");
        cells(&source, sql).await.unwrap()
    };
    let kind = expected("'kind'").await;
    assert_eq!(kind, [["113.0"]], "three quarters of three quarters of 200");
    assert_eq!(expected("make_array('kind', 'number')").await, kind, "not 75, as over all documents");
}

#[tokio::test]
async fn topics_of_documents_without_embeddings_are_refused_if_asked_for() {
    let source = drinks();
    let session = source.session().unwrap();
    let batches = session.sql("SELECT doc_id, features FROM notes").await.unwrap().collect().await.unwrap();
    let bare = batches.iter().map(|batch| {
        let item = Arc::new(arrow::datatypes::Field::new("item", arrow::datatypes::DataType::Float16, true));
        let nulls = arrow::array::FixedSizeListArray::new_null(item, 8, batch.num_rows());
        let columns: Vec<(&str, arrow::array::ArrayRef)> = vec![
            ("doc_id", Arc::clone(batch.column(0))),
            ("features", Arc::clone(batch.column(1))),
            ("embedding", Arc::new(nulls)),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
            .unwrap()
    });
    source.put_batches("bare", bare.collect()).unwrap();
    let said = error(&source, "SELECT * FROM correlate('bare', named_argument('control', 'topic'))").await;
    assert!(said.contains("correlate: no document of set 'bare' has an embedding"), "{said}");
    let sql =
        "SELECT label_a, label_b FROM correlate('bare', named_argument('unexpected', 1), named_argument('limit', 1))";
    assert_eq!(cells(&source, sql).await.unwrap(), [["tea", "milk"]], "not asked for: over all documents");
}

#[tokio::test]
async fn pairs_may_be_ranked_by_how_close_they_are() {
    let source = drinks();
    let call = |rank_by: &str| {
        format!(
            "SELECT npmi, llr FROM correlate('notes', named_argument('rank_by', '{rank_by}'), \
             named_argument('direction', 'both'), named_argument('echoes', true), named_argument('fold', false))"
        )
    };
    for (rank_by, column) in [("npmi", 0), ("llr", 1)] {
        let rows = cells(&source, call(rank_by)).await.unwrap();
        let keys: Vec<f64> = rows.iter().map(|row| row[column].parse::<f64>().unwrap().abs()).collect();
        assert!(keys.len() == 15 && keys.is_sorted_by(|a, b| a >= b), "{rank_by}: {keys:?}");
    }
    let message = error(&source, call("pmi")).await;
    assert!(message.contains("correlate: 'rank_by' cannot be 'pmi'"), "{message}");
}
