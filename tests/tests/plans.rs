//! What EXPLAIN promises: that filters reach the store and its indexes, and that no column is read in vain.

mod common;

use arrow::array::AsArray;
use saequel_engine::Engine;

async fn plan(engine: &Engine, query: &str) -> String {
    let (_, batches) = engine.sql_collect(&format!("EXPLAIN {query}")).await.expect(query);
    let mut text = String::new();
    for batch in &batches {
        for line in batch.column(1).as_string::<i32>().iter().flatten() {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// The last scan of a plan: ours, or Lance's where an index is asked.
fn scan(plan: &str) -> &str {
    plan.lines()
        .rev()
        .find(|line| ["LanceRead", "LanceScan", "FragmentScan"].iter().any(|leaf| line.contains(leaf)))
        .unwrap_or(plan)
}

#[tokio::test(flavor = "multi_thread")]
async fn features_are_found_by_the_index() {
    let (_folder, engine) = common::database().await;
    engine.sql_collect("ALTER FEATURE 3691 RENAME TO 'perhaps so'").await.unwrap();
    engine.sql_collect("CREATE CONCEPT several AS (3691, 3459, 5)").await.unwrap();
    // The index covers what was there when it was made.
    engine.sql_collect("COMPACT answers").await.unwrap();
    for condition in [
        "has_feature(features, 3691)",
        "has_feature(features, 'perhaps so')",
        "has_feature(features, 'several')",
        "array_has(features['ids'], 3691)",
        "has_feature(features, 3691) AND model = 'a'",
        "has_feature(features, 3691) AND activation(features, 3691) > 0.1",
        "activation(features, 3691) > 0.1",
        "activation(features, 'several') >= 0.5",
        "array_has_any(features['ids'], [3691, 3459])",
        "array_has_all(features['ids'], [3691, 3459])",
        "features['ids'] @> [3691, 3459]",
    ] {
        let plan = plan(&engine, &format!("SELECT doc_id FROM answers WHERE {condition}")).await;
        assert!(plan.contains("ScalarIndexQuery"), "{condition}:\n{plan}");
    }
    for condition in [
        "feature_id = 3691",
        "label = 'perhaps so'",
        "label LIKE 'perhaps s%'",
        "feature_id IN (3691, 3459)",
        "feature_id BETWEEN 3500 AND 3691 AND level = 'token'",
    ] {
        let plan = plan(&engine, &format!("SELECT doc_id FROM answers_activations WHERE {condition}")).await;
        assert!(plan.contains("ScalarIndexQuery"), "{condition}:\n{plan}");
    }
    // The index and a look at every row agree.
    let count = |condition: &'static str| {
        let engine = engine.clone();
        async move {
            let query = format!("SELECT count(*) FROM answers WHERE {condition}");
            let (_, batches) = engine.sql_collect(&query).await.unwrap();
            batches[0].column(0).as_primitive::<arrow::datatypes::Int64Type>().value(0)
        }
    };
    let most = "SELECT feature_id FROM answers_activations GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1";
    let (_, batches) = engine.sql_collect(most).await.unwrap();
    let id = batches[0].column(0).as_primitive::<arrow::datatypes::UInt32Type>().value(0);
    engine.sql_collect(&format!("CREATE CONCEPT commonest AS ({id})")).await.unwrap();
    let found = count("has_feature(features, 'commonest')").await;
    assert!(found > 0);
    assert_eq!(found, count("activation(features, 'commonest') > 0").await);
    assert_eq!(24 - found, count("NOT has_feature(features, 'commonest')").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_needed_is_read() {
    let (_folder, engine) = common::database().await;
    let ids = plan(&engine, "SELECT sum(array_length(features['ids'])) FROM answers").await;
    assert!(scan(&ids).contains("_ids_"), "{ids}");
    assert!(!scan(&ids).contains("_activations_"), "{ids}");

    let both = plan(&engine, "SELECT features FROM answers").await;
    assert!(scan(&both).contains("_activations_"), "{both}");

    let metadata = plan(&engine, "SELECT model, count(*) FROM answers WHERE rating > 3 GROUP BY model").await;
    assert!(!metadata.contains("_ids_") && !metadata.contains("FilterExec"), "{metadata}");

    // What the store cannot evaluate stays above the scan.
    let expensive = plan(&engine, "SELECT doc_id FROM answers WHERE activation(features, 3691) > 0.1").await;
    assert!(expensive.contains("FilterExec"), "{expensive}");

    let long = plan(&engine, "SELECT activation FROM answers_activations WHERE doc_id = 'tea-a'").await;
    assert!(scan(&long).contains("doc_id"), "{long}");

    let nulls = plan(&engine, "SELECT count(*) FROM answers WHERE features IS NULL").await;
    assert!(!scan(&nulls).contains("_activations_"), "{nulls}");
}
