//! SQL over a real store with documents whose features are given, so that no reader is needed.

use arrow::array::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use datafusion::common::{ParamValues, ScalarValue};
use futures::TryStreamExt;
use saequel_udfs::{DocumentColumn, FeatureSource};
use tempfile::TempDir;

use crate::engine::{Engine, Inner};
use crate::error::{Error, ErrorKind};
use crate::feature_source::EngineSource;
use crate::options::EngineOptions;
use crate::picture::Picture;
use crate::session::SqlState;
use crate::store::testing::{self, Doc};

const LABELS: [&str; 6] = ["apology", "list", "hedge", "dense", "apology", "code"];

fn docs() -> Vec<Doc> {
    vec![
        Doc { id: "a", text: "sorry about that", model: "x", features: vec![(0, 2.0), (2, 1.0)] },
        Doc { id: "b", text: "one two three", model: "y", features: vec![(1, 4.0)] },
        Doc { id: "c", text: "perhaps sorry", model: "x", features: vec![(2, 0.5), (4, 3.0)] },
        Doc { id: "d", text: "nothing at all", model: "y", features: vec![] },
    ]
}

async fn engine() -> (TempDir, Engine) {
    let folder = tempfile::tempdir().unwrap();
    let store = testing::open(&folder.path().join("db")).await;
    let guard = store.write("test").await.unwrap();
    store.add_dictionary(&guard, &testing::dictionary("tiny-sae", &LABELS)).await.unwrap();
    drop(guard);
    testing::corpus(&store, "answers", "tiny-sae", &docs()).await;
    let options = EngineOptions::default();
    let inner = Inner { options, store, loaded: Default::default(), sql: SqlState::default() };
    (folder, Engine { inner: std::sync::Arc::new(inner) })
}

async fn rows(engine: &Engine, sql: &str) -> String {
    match engine.sql_collect(sql).await {
        Ok((_, batches)) => show(&batches),
        Err(error) => panic!("{sql}: {error:?}"),
    }
}

/// Rows joined by `|`, values by a comma, without header or padding.
fn show(batches: &[RecordBatch]) -> String {
    let table = pretty_format_batches(batches).unwrap().to_string();
    let rows = table.lines().filter(|line| line.starts_with('|')).skip(1);
    let cells = |line: &str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join(",");
    rows.map(cells).collect::<Vec<_>>().join("|")
}

async fn failure(engine: &Engine, sql: &str) -> Error {
    match engine.sql_collect(sql).await {
        Ok((_, batches)) => panic!("{sql}: expected an error, got {}", show(&batches)),
        Err(error) => error,
    }
}

async fn plan(engine: &Engine, sql: &str) -> String {
    let (_, batches) = engine.sql_collect(&format!("EXPLAIN {sql}")).await.unwrap();
    pretty_format_batches(&batches).unwrap().to_string()
}

#[tokio::test]
async fn branches_of_a_union_keep_their_columns() {
    let (_folder, engine) = engine().await;
    // Each branch takes a column that the other does not; a function of features above both.
    let sql = "SELECT model, count(*), sum(has_feature(features, 2)::int) FROM (SELECT model, features FROM answers UNION \
               ALL SELECT doc_id, features FROM answers) GROUP BY model ORDER BY model";
    assert_eq!(rows(&engine, sql).await, "a,1,1|b,1,0|c,1,1|d,1,0|x,2,2|y,2,0");
    let sql = "SELECT count(*) FROM (SELECT features FROM answers WHERE false UNION ALL SELECT features FROM answers) WHERE \
               has_feature(features, 2)";
    assert_eq!(rows(&engine, sql).await, "2");
}

#[tokio::test]
async fn a_corpus_is_a_table() {
    let (_folder, engine) = engine().await;
    assert_eq!(rows(&engine, "SELECT doc_id, model FROM answers WHERE model = 'x' ORDER BY 1 DESC").await, "c,x|a,x");
    assert_eq!(rows(&engine, "SELECT count(*) FROM answers").await, "4");
    assert_eq!(
        rows(&engine, "SELECT features FROM answers WHERE doc_id = 'a'").await,
        "{ids: [0, 2], activations: [2, 1]}"
    );
    assert_eq!(rows(&engine, "SELECT n_tokens, n_spans FROM answers WHERE doc_id = 'c'").await, "2,2");
    assert_eq!(rows(&engine, "SELECT doc_id FROM answers WHERE array_has(features['ids'], 2) ORDER BY 1").await, "a|c");
    assert_eq!(rows(&engine, "SELECT count(*) FROM answers WHERE features IS NULL").await, "0");
    assert_eq!(
        rows(
            &engine,
            "SELECT a.model, count(*) FROM answers a JOIN stored.answers s USING (doc_id) GROUP BY 1 ORDER BY 1"
        )
        .await,
        "x,2|y,2"
    );
    let error = failure(&engine, "SELECT *\nFROM anwsers").await;
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.to_string(), "line 2, column 6: table 'anwsers' not found; did you mean 'answers'?");
    let error = failure(&engine, "SELECT modle FROM answers").await;
    assert_eq!(error.to_string(), "line 1, column 8: column 'modle' not found; did you mean 'model'?");
    let error = failure(&engine, "SELECT avg(has_feature(features, 'list')) FROM answers").await;
    assert_eq!(error.kind(), ErrorKind::Query);
    let expected =
        "no function avg(Boolean); there are avg(Decimal), avg(Duration), avg(Float64): write avg((...)::int)";
    assert_eq!(error.to_string(), expected);
    assert_eq!(failure(&engine, "SELECT 1 / 0").await.kind(), ErrorKind::Data);
}

#[tokio::test]
async fn damaged_storage_is_told_apart_from_our_mistakes() {
    let (folder, engine) = engine().await;
    let error = failure(&engine, "SELECT * FROM answers WHERE CAST(model AS INT) = 5").await;
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    for file in std::fs::read_dir(folder.path().join("db/corpora/answers.lance/data")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    let error = failure(&engine, "SELECT * FROM answers").await;
    // COMPACT may have removed it under the statement, or it is lost: both are said.
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert!(error.to_string().contains("saequel doctor") && !error.to_string().contains(".rs:"), "{error}");
}

#[tokio::test]
async fn half_a_value_is_half_the_reading() {
    let (_folder, engine) = engine().await;
    let ids = plan(&engine, "SELECT sum(array_length(features['ids'])) FROM answers").await;
    assert!(ids.contains("_ids_tiny-sae") && !ids.contains("_activations_tiny-sae"), "{ids}");
    let nulls = plan(&engine, "SELECT count(*) FROM answers WHERE features IS NULL").await;
    assert!(!nulls.contains("_activations_tiny-sae"), "{nulls}");
    let filter = plan(&engine, "SELECT doc_id FROM answers WHERE array_has(features['ids'], 5) AND model = 'x'").await;
    assert!(!filter.contains("FilterExec") && !filter.contains("_activations_tiny-sae"), "{filter}");
    assert!(filter.contains("filter=array_has(_ids_tiny-sae@0, 5)"), "{filter}");
    for (condition, list) in [
        ("array_has_any(features['ids'], [2, 5])", "array_has_any(_ids_tiny-sae@0, [2, 5])"),
        ("features['ids'] @> [2, 5]", "array_has_all(_ids_tiny-sae@0, [2, 5])"),
        ("activation(features, 2) > 0", "array_has(_ids_tiny-sae@0, 2)"),
        ("1 <= activation(features, 'apology')", "array_has_any(_ids_tiny-sae@0, [0, 4])"),
    ] {
        let plan = plan(&engine, &format!("SELECT doc_id FROM answers WHERE {condition}")).await;
        assert!(plan.contains(&format!("filter={list}")), "{condition}: {plan}");
    }
    let below = plan(&engine, "SELECT doc_id FROM answers WHERE activation(features, 2) < 1").await;
    assert!(!below.contains("array_has"), "{below}");
    let expensive = plan(&engine, "SELECT doc_id FROM answers WHERE md5(model) = 'x' AND model > 'a'").await;
    assert!(expensive.contains("FilterExec"), "{expensive}");
}

#[tokio::test]
async fn the_long_view_is_what_is_stored() {
    let (_folder, engine) = engine().await;
    let all = "SELECT * FROM answers_activations ORDER BY doc_id, feature_id";
    let expected =
        "a,0,apology,token,2.0|a,2,hedge,token,1.0|b,1,list,token,4.0|c,2,hedge,token,0.5|c,4,apology,token,3.0";
    assert_eq!(rows(&engine, all).await, expected);
    let count = async |condition: &str| {
        rows(&engine, &format!("SELECT count(*) FROM answers_activations WHERE {condition}")).await
    };
    assert_eq!(count("feature_id = 2").await, "2");
    assert_eq!(count("label = 'apology'").await, "2");
    assert_eq!(count("label = 'apology' AND doc_id = 'c'").await, "1");
    assert_eq!(count("label IN ('list', 'hedge') OR feature_id = 0").await, "4");
    assert_eq!(count("feature_id = 77 OR label = 'no'").await, "0");
    assert_eq!(count("feature_id <> 2").await, "3");
    assert_eq!(count("feature_id = 2 OR activation > 3").await, "3");
    assert_eq!(count("level = 'token'").await, "5");
    assert_eq!(count("level = 'span'").await, "0");
    assert_eq!(count("label LIKE 'l%'").await, "1");
    assert_eq!(count("feature_id BETWEEN 1 AND 2 AND label <> 'list'").await, "2");
    // It cannot be evaluated for feature 3, which no document has.
    assert_eq!(count("1 / (CAST(feature_id AS INT) - 3) >= 0").await, "3");
    for condition in ["label = 'hedge'", "label LIKE 'he%'", "feature_id BETWEEN 2 AND 4 AND label > 'g'"] {
        let plan = plan(&engine, &format!("SELECT doc_id FROM answers_activations WHERE {condition}")).await;
        assert!(plan.contains("array_has_any(_ids_tiny-sae@") && plan.contains(", [2])"), "{condition}: {plan}");
    }
    let none = plan(&engine, "SELECT doc_id FROM answers_activations WHERE level = 'span'").await;
    assert!(none.contains("EmptyExec"), "{none}");
}

#[tokio::test]
async fn sets_give_the_columns_that_functions_need() {
    let (_folder, engine) = engine().await;
    let source = EngineSource::new(Picture::take(&engine, &Default::default()));
    let ask = async |set: &str, columns: &[DocumentColumn]| -> Result<String, String> {
        let stream = source.documents(set, columns).await.map_err(|error| Error::from(error).to_string())?;
        let batches: Vec<_> = stream.try_collect().await.map_err(|error| error.to_string())?;
        Ok(show(&batches))
    };
    use DocumentColumn::{DocId, Embedding, Features, Ids, Named, Text, TokenCount};
    let columns = [DocId, Ids, Text, TokenCount, Named("model".into())];
    assert_eq!(
        ask("answers WHERE model = 'x'", &columns).await.unwrap(),
        "a,[0, 2],sorry about that,3,x|c,[2, 4],perhaps sorry,2,x"
    );
    assert_eq!(ask("answers", &[Embedding]).await.unwrap().split('|').count(), 4);
    assert_eq!(
        ask("SELECT * FROM answers ORDER BY doc_id DESC LIMIT 1", &[Features, DocId]).await.unwrap(),
        "{ids: [], activations: []},d"
    );
    assert_eq!(ask("SELECT 'q' AS doc_id, 'words' AS text", &[DocId, Text]).await.unwrap(), "q,words");
    assert_eq!(
        ask("answers WHERE doc_id IN (SELECT doc_id FROM answers_activations WHERE feature_id = 1)", &[DocId])
            .await
            .unwrap(),
        "b"
    );
    let error = ask("SELECT doc_id FROM answers", &[Ids]).await.unwrap_err();
    assert!(error.contains("no column 'features'"), "{error}");
    let error = ask("answers WHERE modle = 'x'", &[DocId]).await.unwrap_err();
    assert!(
        error.starts_with("set 'answers WHERE modle = 'x'': line 1, column 15: column 'modle' not found"),
        "{error}"
    );
    let error = ask("answers", &[Named("modle".into())]).await.unwrap_err();
    assert!(error.contains("did you mean 'model'?"), "{error}");
    // What functions see is not what people see.
    assert!(failure(&engine, "SELECT _text FROM answers").await.to_string().contains("'_text' not found"));

    let hits = source.search_words("answers WHERE model = 'x'", "sorry one", 10).await.unwrap();
    assert_eq!(hits.iter().map(|hit| hit.doc_id.as_str()).collect::<Vec<_>>(), ["c", "a"]);
    assert_eq!(
        engine.matching_documents(&Default::default(), "answers", "model = 'y' AND length(text) > 13").await.unwrap(),
        ["d"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sets_read_together_are_the_sets_read_in_turn() {
    let (_folder, engine) = engine().await;
    let source = EngineSource::new(Picture::take(&engine, &Default::default()));
    let sets = |sets: [&str; 2]| sets.map(str::to_owned);
    let columns = [DocumentColumn::DocId, DocumentColumn::Ids];
    let together = async |of: [&str; 2]| {
        let parts = source.parts(&sets(of), &columns).await.unwrap()?;
        let mut batches = Vec::new();
        for part in parts {
            batches.extend(part.try_collect::<Vec<_>>().await.unwrap());
        }
        let mut rows: Vec<String> = show(&batches).split('|').map(str::to_owned).collect();
        rows.sort();
        Some(rows.join("|"))
    };
    assert_eq!(
        together(["answers WHERE model = 'x'", "answers WHERE doc_id > 'b'"]).await.unwrap(),
        "a,[0, 2],true,false|c,[2, 4],true,true|d,[],false,true"
    );
    assert_eq!(
        together(["answers", "answers WHERE has_feature(features, 'list')"]).await.unwrap(),
        "a,[0, 2],true,false|b,[1],true,true|c,[2, 4],true,false|d,[],true,false"
    );
    for apart in [
        ["answers WHERE model = 'x'", "answers ORDER BY doc_id LIMIT 2"],
        ["answers WHERE random() < 2", "answers WHERE model = 'y'"],
        ["answers WHERE modle = 'x'", "answers WHERE model = 'y'"],
    ] {
        assert_eq!(together(apart).await, None, "{apart:?}");
    }
    // The same documents twice: as conditions, and in an order, which is read set by set.
    for (a, b) in [("model = ''x''", "model = ''y''"), ("doc_id < ''c''", "doc_id > ''a''")] {
        let diff = |order: &str| {
            format!(
                "SELECT * FROM diff('answers WHERE {a}{order}', 'answers WHERE {b}{order}', min_docs => 1, words => false)"
            )
        };
        let found = rows(&engine, &diff("")).await;
        assert_eq!(found, rows(&engine, &diff(" ORDER BY doc_id")).await);
        assert!(found.split('|').count() >= 3, "{found}");
    }
}

#[tokio::test]
async fn time_travel() {
    let (_folder, engine) = engine().await;
    let version: u64 = rows(&engine, "SELECT version FROM saequel.corpora").await.parse().unwrap();
    let guard = engine.inner.store.write("test").await.unwrap();
    let condition = datafusion::prelude::col("doc_id").eq(datafusion::prelude::lit("a"));
    engine.inner.store.delete(&guard, "answers", condition).await.unwrap();
    drop(guard);
    assert_eq!(rows(&engine, "SELECT count(*) FROM answers").await, "3");
    let travel =
        format!("SELECT count(*) AS then, (SELECT count(*) FROM answers) AS now FROM answers AS OF VERSION {version}");
    assert_eq!(rows(&engine, &travel).await, "4,3");
    let set = format!("answers AS OF VERSION {version} WHERE answers.model = 'x'");
    let source = EngineSource::new(Picture::take(&engine, &Default::default()));
    assert_eq!(source.frame(&set, &[DocumentColumn::DocId]).await.unwrap().count().await.unwrap(), 2);
    let long = format!("SELECT count(*) FROM answers_activations AS OF VERSION {version}");
    assert_eq!(rows(&engine, &long).await, "5");
    assert_eq!(failure(&engine, "SELECT * FROM answers AS OF VERSION 999").await.kind(), ErrorKind::NotFound);
    assert_eq!(
        failure(&engine, "SELECT * FROM answers AS OF TIMESTAMP '1999-01-01'").await.kind(),
        ErrorKind::NotFound
    );
}

#[tokio::test]
async fn parameters() {
    let (_folder, engine) = engine().await;
    let with = async |sql: &str, values: Vec<ScalarValue>| {
        let stream = engine.sql_with(sql, ParamValues::from(values)).await?;
        stream.try_collect::<Vec<_>>().await.map(|batches| show(&batches)).map_err(Error::from)
    };
    let sql = "SELECT doc_id FROM answers WHERE model = $1 AND n_tokens > $2 ORDER BY 1 LIMIT 5";
    assert_eq!(with(sql, vec!["x".into(), ScalarValue::Int64(Some(2))]).await.unwrap(), "a");
    assert_eq!(with("SELECT $1", vec!["'; DROP CORPUS answers".into()]).await.unwrap(), "'; DROP CORPUS answers");
    assert_eq!(with(sql, vec!["x".into()]).await.unwrap_err().kind(), ErrorKind::Query);
    assert_eq!(failure(&engine, sql).await.to_string(), "no value was given for parameter $1");
}

#[tokio::test]
async fn the_database_tells_of_itself() {
    let (_folder, engine) = engine().await;
    assert_eq!(
        rows(&engine, "SELECT name, documents, text_columns, key, dictionaries FROM saequel.corpora").await,
        "answers,4,[text],,[tiny-sae]"
    );
    assert_eq!(
        rows(&engine, "SELECT name, level, first_feature_id, n_features, n_hidden FROM saequel.saes").await,
        "tiny-sae,token,0,6,1"
    );
    assert_eq!(
        rows(&engine, "SELECT feature_id, hidden, top_words FROM saequel.features WHERE label = 'dense'").await,
        "3,true,[dense]"
    );
    assert_eq!(rows(&engine, "SHOW CORPORA LIKE 'x%'").await, "");
    let described = rows(&engine, "DESCRIBE answers").await;
    assert!(described.contains("text,Utf8,text: is read") && described.contains("features of tiny-sae"), "{described}");
    assert!(rows(&engine, "DESCRIBE saequel.jobs").await.contains("started_at"));
    assert!(rows(&engine, "SHOW TABLES").await.contains("answers_activations"));
    failure(&engine, "SELECT nothing").await;
    assert_eq!(
        rows(&engine, "SELECT state, rows FROM saequel.queries WHERE statement = 'SELECT nothing'").await,
        "failed,0"
    );
    assert_eq!(
        rows(&engine, "SELECT state, rows FROM saequel.queries WHERE statement LIKE 'SELECT feature_id%'").await,
        "done,1"
    );
}

#[tokio::test]
async fn features_are_named_and_combined() {
    let (_folder, engine) = engine().await;
    assert_eq!(rows(&engine, "ALTER FEATURE 5 RENAME TO 'source code'").await, "5,source code,code");
    assert_eq!(
        rows(&engine, "CREATE CONCEPT polite AS (0, 'source code' WEIGHT -1)").await,
        "polite,0,apology,1.0|polite,5,source code,-1.0"
    );
    assert_eq!(failure(&engine, "CREATE CONCEPT polite AS (1)").await.kind(), ErrorKind::Exists);
    let error = failure(&engine, "CREATE CONCEPT \"Source Code\" AS (0)").await;
    assert_eq!(error.kind(), ErrorKind::Query);
    assert!(error.message().contains("it is the label of feature "), "{error}");
    let error = failure(&engine, "ALTER FEATURE 5 RENAME TO 'Polite'").await;
    assert!(error.message().contains("is the name of the concept"), "{error}");
    rows(&engine, "CREATE OR REPLACE CONCEPT polite AS ('apology')").await;
    assert_eq!(rows(&engine, "SELECT members[2]['feature_id'] FROM saequel.concepts").await, "4");
    assert_eq!(failure(&engine, "ALTER FEATURE apology RENAME TO 'x'").await.kind(), ErrorKind::Query);
    let described = rows(&engine, "DESCRIBE FEATURE 2").await;
    assert!(described.contains("documents in answers,2 of 4"), "{described}");
    assert!(described.contains("example of answers,a (1.000): sorry about that"), "{described}");
    rows(&engine, "DROP CONCEPT polite").await;
    assert_eq!(failure(&engine, "DROP CONCEPT polite").await.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn what_goes_wrong_behind_the_first_rows_of_a_file_names_it() {
    let (folder, engine) = engine().await;
    // Types are found from the first 10,000 rows.
    let numbers = |row: fn(usize) -> String| (0..10_100).map(row).collect::<String>();
    let csv = format!("a,b\n{}x,t\n", numbers(|i| format!("{i},t\n")));
    let lines = format!("{}{{\"a\": \"x\"}}\n", numbers(|i| format!("{{\"a\": {i}}}\n")));
    for (name, text) in [("one.csv", "a,b\n1,t\n"), ("two.csv", csv.as_str()), ("late.jsonl", lines.as_str())] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let select = |what: &str, name: &str| format!("SELECT {what} FROM '{}'", folder.path().join(name).display());
    for (what, name, expected) in [
        ("*", "two.csv", "in 'two.csv': parser error: Error while parsing value 'x'"),
        ("sum(a)", "*.csv", "in 'two.csv': parser error"),
        ("*", "late.jsonl", "in 'late.jsonl': json error"),
        ("DISTINCT a + 1", "late.jsonl", "in 'late.jsonl': json error"),
    ] {
        let error = failure(&engine, &select(what, name)).await;
        assert_eq!(error.kind(), ErrorKind::Data, "{what} of {name}: {error}");
        assert!(error.to_string().starts_with(expected), "{what} of {name}: {error}");
    }
    assert_eq!(rows(&engine, &select("count(*), min(b), max(b)", "*.csv")).await, "10102,t,t");
    let plan = rows(&engine, &format!("EXPLAIN {}", select("b AS c", "one.csv"))).await;
    assert!(plan.contains("as c], file_type=csv, has_header=true"), "{plan}");
}

#[tokio::test]
async fn files_are_read_where_allowed() {
    let (folder, mut engine) = engine().await;
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let csv = file("models.csv", "model,maker\nx,\"A, Inc\"\ny,B\n");
    let tsv = file("models.tsv", "model\tmaker\nx\tA\n");
    let lines = file("models [1].jsonl", "{\"model\": \"x\", \"n\": 1}\n{\"model\": \"y\", \"n\": 2}\n");
    let array = file("models.json", "[{\"model\": \"x\"}, {\"model\": \"y\"}]");
    assert_eq!(
        rows(
            &engine,
            &format!("SELECT maker, count(*) FROM answers JOIN '{csv}' f USING (model) GROUP BY 1 ORDER BY 1")
        )
        .await,
        "A, Inc,2|B,2"
    );
    assert_eq!(rows(&engine, &format!("SELECT maker FROM '{tsv}'")).await, "A");
    assert_eq!(rows(&engine, &format!("SELECT sum(n) FROM '{lines}'")).await, "3");
    assert_eq!(rows(&engine, &format!("SELECT count(model) FROM '{array}'")).await, "2");
    // Several files are one table if they have the same columns; what is wrong is said, not guessed.
    let part = |name: &str| folder.path().join(name).display().to_string();
    file("part-1.csv", "a,b\n1,x\n");
    file("part-2.csv", "a,b\n2.5,y\n");
    assert_eq!(rows(&engine, &format!("SELECT sum(a), max(b) FROM '{}'", part("part-?.csv"))).await, "3.5,y");
    file("part-3.csv", "b,a\nz,3\n");
    let error = failure(&engine, &format!("SELECT * FROM '{}'", part("part-?.csv"))).await;
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(
        error.to_string().contains("the columns are b, a, not a, b in") && error.to_string().contains("part-3.csv")
    );
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, b"[{\"a\": 1}, {\"a\": 2}]").unwrap();
    std::fs::write(folder.path().join("array.json.gz"), packed.finish().unwrap()).unwrap();
    assert_eq!(rows(&engine, &format!("SELECT sum(a) FROM '{}'", part("array.json.gz"))).await, "3");
    std::fs::write(folder.path().join("half.arrow"), "ARROW1 and then nothing").unwrap();
    let error = failure(&engine, &format!("SELECT * FROM '{}'", part("half.arrow"))).await;
    assert!(error.to_string().contains("half.arrow") && !error.to_string().contains("bug"), "{error}");
    file("more-1.jsonl", "{\"a\": 1}\n");
    file("more-2.jsonl", "{\"b\": \"y\", \"a\": 2}\n");
    assert_eq!(rows(&engine, &format!("SELECT sum(a), max(b) FROM '{}'", part("more-?.jsonl"))).await, "3,y");
    let pattern = folder.path().join("models*.?sv").display().to_string();
    assert_eq!(failure(&engine, &format!("SELECT * FROM '{pattern}x'")).await.kind(), ErrorKind::NotFound);
    let broken = file("broken.parquet", "PAR1 and no more");
    let error = failure(&engine, &format!("SELECT * FROM '{broken}'")).await;
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("broken.parquet"), "{error}");

    let Engine { inner } = &mut engine;
    std::sync::Arc::get_mut(inner).unwrap().options.allowed_dirs = Some(Vec::new());
    assert_eq!(failure(&engine, &format!("SELECT * FROM '{csv}'")).await.kind(), ErrorKind::Denied);
    assert_eq!(failure(&engine, &format!("IMPORT INTO answers FROM '{csv}'")).await.kind(), ErrorKind::Denied);
    #[cfg(unix)]
    {
        // A link in an allowed folder to a file elsewhere.
        let inside = folder.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        std::os::unix::fs::symlink(&csv, inside.join("link.csv")).unwrap();
        std::sync::Arc::get_mut(&mut engine.inner).unwrap().options.allowed_dirs = Some(vec![inside.clone()]);
        let error = failure(&engine, &format!("IMPORT INTO answers FROM '{}'", inside.display())).await;
        assert_eq!(error.kind(), ErrorKind::Denied);
    }
    std::sync::Arc::get_mut(&mut engine.inner).unwrap().options.read_only = true;
    let error = failure(&engine, "DROP CORPUS answers").await;
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("read-only"), "{error}");
}

#[tokio::test]
async fn a_damaged_corpus_is_listed_and_named() {
    let (folder, engine) = engine().await;
    drop(engine);
    let versions = folder.path().join("db/corpora/answers.lance/_versions");
    for version in std::fs::read_dir(&versions).unwrap() {
        let file = std::fs::OpenOptions::new().write(true).open(version.unwrap().path()).unwrap();
        file.set_len(file.metadata().unwrap().len().min(100)).unwrap();
    }
    let engine = testing::engine(testing::open(&folder.path().join("db")).await);
    assert_eq!(rows(&engine, "SELECT name, documents, version FROM saequel.corpora").await, "answers,,");
    assert_eq!(rows(&engine, "SHOW CORPORA").await.split(',').next(), Some("answers"));
    assert!(rows(&engine, "SHOW TABLES").await.contains("corpora"));
    assert!(rows(&engine, "SELECT table_name FROM information_schema.columns").await.contains("features"));
    let error = failure(&engine, "SELECT count(*) FROM answers").await;
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("corpus 'answers': a file is damaged or cut off"), "{error}");
}

#[tokio::test]
async fn an_index_whose_files_are_gone_is_found() {
    let (folder, engine) = engine().await;
    let guard = engine.inner.store.write("test").await.unwrap();
    engine.inner.store.index(&guard, "answers").await.unwrap();
    drop((guard, engine));
    let checked = async |engine: &Engine| {
        let checks = engine.doctor().await.unwrap();
        checks.into_iter().find(|check| check.name == "indexes of answers").unwrap()
    };
    let reopened = async || testing::engine(testing::open(&folder.path().join("db")).await);
    assert!(checked(&reopened().await).await.ok);
    std::fs::remove_dir_all(folder.path().join("db/corpora/answers.lance/_indices")).unwrap();
    let check = checked(&reopened().await).await;
    assert!(!check.ok && check.detail.ends_with("build it anew: saequel compact answers"), "{}", check.detail);
    let engine = reopened().await;
    engine.compact("answers", 0).await.unwrap();
    assert!(checked(&reopened().await).await.ok);
}

#[tokio::test]
async fn a_job_without_a_process_was_interrupted() {
    let (_folder, engine) = engine().await;
    let store = &engine.inner.store;
    let guard = store.write("test").await.unwrap();
    store.start_job(&guard, "import", "answers").await.unwrap();
    assert_eq!(rows(&engine, "SELECT state FROM saequel.jobs").await, "running");
    drop(guard);
    assert_eq!(rows(&engine, "SELECT state FROM saequel.jobs").await, "interrupted");
}

#[tokio::test]
async fn only_queries_take_parameters() {
    let (_folder, engine) = engine().await;
    for values in [vec![], vec![ScalarValue::from("a")]] {
        let sql = "DELETE FROM answers WHERE doc_id = $1";
        let error = engine.sql_with(sql, ParamValues::from(values)).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Query);
        assert!(error.message().starts_with("DELETE: parameters are not supported here"), "{error}");
    }
    assert_eq!(rows(&engine, "SELECT count(*) FROM answers").await, "4");
}

#[tokio::test]
async fn sets_may_share_a_condition() {
    let (_folder, engine) = engine().await;
    let x = "answers WHERE model = ''x'' AND n_tokens > 1";
    let sides = format!("SELECT count(*) FROM diff('{x}', '{x}', min_docs => 1) WHERE difference <> 0");
    assert_eq!(rows(&engine, &sides).await, "0");
    let others = format!("SELECT count(*) FROM diff('{x}', others => ['{x}', 'answers WHERE NOT (model = ''x'')'])");
    engine.sql_collect(&others).await.unwrap();
}

#[tokio::test]
async fn mistakes_in_values_are_told_as_the_authors() {
    let (_folder, engine) = engine().await;
    let error = failure(&engine, "SELECT * FROM answers WHERE text ~ '\\mhere'").await;
    assert_eq!(error.kind(), ErrorKind::Query);
    assert!(error.message().contains("regular expression '\\mhere': unrecognized escape"), "{error}");
    let error = failure(&engine, "SELECT * FROM answers WHERE doc_id = 5").await;
    assert!(error.message().contains("a number is written in quotes"), "{error}");
    failure(&engine, "SELECT cast(text AS int) FROM answers").await;
    let told = rows(&engine, "SELECT error FROM saequel.queries WHERE error IS NOT NULL").await;
    assert!(!told.contains("External error") && !told.contains("Arrow error"), "{told}");
}

#[tokio::test]
async fn numbers_of_a_csv_file_keep_leading_zeros_and_long_digits() {
    let (folder, engine) = engine().await;
    let path = folder.path().join("zip.csv");
    std::fs::write(&path, "zip,n,long\n00501,1,1\n10001,2,123456789012345678901\n").unwrap();
    assert_eq!(
        rows(&engine, &format!("SELECT zip, n + 1, long FROM '{}' ORDER BY n", path.display())).await,
        "00501,2,1|10001,3,123456789012345678901"
    );
}
