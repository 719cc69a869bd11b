//! What a limited [`Caller`] sees and may do, by every way that leads to a document: nothing of another corpus.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::util::pretty::pretty_format_batches;
use datafusion::common::ParamValues;
use futures::TryStreamExt;
use tempfile::TempDir;

use crate::caller::Caller;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind};
use crate::options::EngineOptions;
use crate::store::testing::{self, Doc};

/// What is in no answer and in no error for a caller that may see `answers` alone.
const SECRETS: [&str; 4] = ["secret", "hush", "s1", "hidden words"];

/// A database with the corpora `answers` and `secret_news`, and files in its folder.
async fn engine() -> (TempDir, Engine) {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("db");
    let store = testing::open(&db).await;
    let guard = store.write("test").await.unwrap();
    store.add_dictionary(&guard, &testing::dictionary("tiny-sae", &["apology", "list", "hedge"])).await.unwrap();
    drop(guard);
    let doc = |id, text, model| Doc { id, text, model, features: vec![(0, 2.0), (2, 1.0)] };
    testing::corpus(&store, "answers", "tiny-sae", &[doc("a1", "sorry", "x"), doc("a2", "perhaps", "y")]).await;
    testing::corpus(&store, "secret_news", "tiny-sae", &[doc("s1", "hidden words", "hush")]).await;
    let guard = store.write("test").await.unwrap();
    for corpus in ["answers", "secret_news"] {
        let job = store.start_job(&guard, "import", corpus).await.unwrap();
        store.finish_job(&guard, job, "done", &format!("{corpus} was filled")).await.unwrap();
    }
    drop(guard);
    std::fs::write(db.join("key.csv"), "secret\nhush\n").unwrap();
    std::fs::write(db.join("tokens.json"), r#"{"secret": "hush"}"#).unwrap();
    std::fs::write(db.join("open.csv"), "a\n1\n").unwrap();
    let options = EngineOptions {
        allowed_dirs: Some(Vec::new()),
        secret_files: vec![db.join("key.csv")],
        ..EngineOptions::default()
    };
    (folder, Engine::over(store, options))
}

fn limited(writes: bool) -> Arc<Caller> {
    let only = Some(Arc::new(BTreeSet::from(["answers".to_owned(), "ghost".to_owned()])));
    Arc::new(Caller {
        name: "narrow".to_owned(),
        readable: only.clone(),
        writable: if writes { only } else { Some(Arc::default()) },
        files: false,
        sees_all_queries: false,
        ..Caller::default()
    })
}

async fn run(engine: &Engine, caller: &Arc<Caller>, sql: &str) -> Result<String, Error> {
    let stream = engine.sql_as(caller, sql, ParamValues::List(Vec::new())).await?;
    let batches: Vec<_> = stream.try_collect().await.map_err(Error::from)?;
    Ok(pretty_format_batches(&batches).unwrap().to_string())
}

#[tokio::test]
async fn what_may_not_be_read_is_not_there() {
    let (_folder, engine) = engine().await;
    // Somebody else asks for it, so that it stands in the log of queries.
    run(&engine, &Arc::default(), "SELECT * FROM secret_news").await.unwrap();
    let narrow = limited(false);
    // Answers that tell of everything there is: the other corpus is in none.
    for sql in [
        "SELECT * FROM answers",
        "SELECT * FROM saequel.corpora",
        "SELECT * FROM saequel.jobs",
        "SELECT * FROM saequel.queries",
        "SELECT * FROM saequel.concepts",
        "SELECT * FROM saequel.features",
        "SELECT * FROM saequel.saes",
        "SELECT * FROM saequel.readers",
        "SHOW CORPORA",
        "SHOW JOBS",
        "SHOW QUERIES",
        "SHOW TABLES",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM information_schema.columns",
        "SELECT * FROM information_schema.views",
        "SELECT * FROM information_schema.schemata",
        "DESCRIBE FEATURE list",
        "DESCRIBE FEATURE 2",
        "DESCRIBE answers",
        "DESCRIBE saequel.corpora",
        "EXPLAIN SELECT * FROM saequel.corpora",
        "SELECT count(*) FROM saequel.corpora WHERE documents = 1",
    ] {
        let answer = run(&engine, &narrow, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert!(!SECRETS.iter().any(|secret| answer.contains(secret)), "{sql}: {answer}");
    }
    assert!(run(&engine, &narrow, "SELECT count(*) AS n FROM saequel.corpora").await.unwrap().contains("| 1 |"));
    // Questions that lead to it: the errors are those of a name that never was.
    for sql in [
        "SELECT * FROM $",
        "SELECT * FROM $_activations",
        "SELECT * FROM stored.$",
        "SELECT * FROM main.$",
        "SELECT * FROM saequel.main.$",
        "SELECT * FROM \"$\"",
        "SELECT * FROM $ AS OF VERSION 1",
        "SELECT * FROM $ VERSION AS OF 1",
        "SELECT * FROM $ AS OF TIMESTAMP '2100-01-01'",
        "SELECT * FROM \"$ as of version 1\"",
        "SELECT * FROM stored.\"$ as of version 1\"",
        "SELECT * FROM $_activations AS OF VERSION 1",
        "SELECT (SELECT count(*) FROM $)",
        "SELECT * FROM answers WHERE doc_id IN (SELECT doc_id FROM $)",
        "SELECT * FROM answers UNION ALL SELECT * FROM $",
        "WITH x AS (SELECT * FROM $) SELECT * FROM x",
        "EXPLAIN SELECT * FROM $",
        "DESCRIBE $",
        "SHOW COLUMNS FROM $",
        "SELECT * FROM diff('answers', '$')",
        "SELECT * FROM diff($, answers)",
        "SELECT * FROM diff(answers, (SELECT * FROM $))",
        "SELECT * FROM diff('answers', 'SELECT * FROM \"$\"')",
        "SELECT * FROM diff('answers', 'answers WHERE doc_id IN (SELECT doc_id FROM $)')",
        "SELECT * FROM diff('answers', 'SELECT * FROM stored.$')",
        "SELECT * FROM diff('answers', '$ AS OF VERSION 1')",
        "SELECT * FROM diff('answers', 'SELECT * FROM diff(''answers'', ''$'')')",
        "SELECT * FROM correlate('$')",
        "SELECT * FROM cluster('$')",
        "SELECT * FROM retrieve('$', 'apology')",
        "SELECT * FROM retrieve('(SELECT * FROM $)', 'apology')",
    ] {
        let ask = async |name: &str| run(&engine, &narrow, &sql.replace('$', name)).await;
        let (known, made_up) = match (ask("secret_news").await, ask("sebert_news").await) {
            (Err(known), Err(made_up)) => (known, made_up),
            // Columns of a table that is not there are none.
            (Ok(known), Ok(made_up)) if sql.starts_with("SHOW") => {
                assert_eq!(known, made_up, "{sql}");
                continue;
            }
            (known, made_up) => panic!("{sql}: {known:?}, {made_up:?}"),
        };
        assert_eq!(known.kind(), made_up.kind(), "{sql}");
        assert_eq!(known.to_string().replace("secret", "sebert"), made_up.to_string(), "{sql}");
    }
    let described = async |sql: &str| engine.describe_as(&narrow, sql).await.unwrap_err().to_string();
    let told = described("SELECT * FROM secret_news").await;
    assert_eq!(told.replace("secret", "sebert"), described("SELECT * FROM sebert_news").await);
}

#[tokio::test]
async fn nothing_else_is_written() {
    let (_folder, engine) = engine().await;
    let (reader, writer) = (limited(false), limited(true));
    for sql in [
        "DELETE FROM secret_news WHERE true",
        "DELETE FROM \"secret_news\" WHERE true",
        "DELETE FROM main.secret_news WHERE true",
        "DROP CORPUS secret_news",
        "DROP CORPUS IF EXISTS secret_news",
        "COMPACT secret_news",
        "IMPORT INTO secret_news FROM 'db/open.csv'",
        "CREATE CORPUS secret_news FROM 'x.csv'",
        "CREATE CORPUS new FROM 'x.csv'",
        "CREATE CORPUS IF NOT EXISTS secret_news FROM 'x.csv'",
        "IMPORT INTO answers FROM 'x.csv'",
        "ALTER FEATURE 0 RENAME TO 'x'",
        "CREATE CONCEPT x AS (0)",
        "DROP CONCEPT x",
    ] {
        for caller in [&reader, &writer] {
            let error = run(&engine, caller, sql).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Denied, "{sql}: {error}");
            assert_eq!(engine.describe_as(caller, sql).await.unwrap_err().kind(), ErrorKind::Denied, "{sql}");
        }
    }
    for sql in ["DELETE FROM answers WHERE true", "DROP CORPUS answers", "COMPACT answers"] {
        assert_eq!(run(&engine, &reader, sql).await.unwrap_err().kind(), ErrorKind::Denied, "{sql}");
    }
    // What may be written and is not there is not a way to learn what else is.
    for sql in ["DELETE FROM ghost WHERE true", "DROP CORPUS ghost", "COMPACT ghost"] {
        let error = run(&engine, &writer, sql).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{sql}: {error}");
        assert!(!error.to_string().contains("secret"), "{sql}: {error}");
    }
    // Nor is a condition.
    for condition in [
        "doc_id IN (SELECT 'a1' FROM secret_news)",
        "(SELECT count(*) FROM stored.secret_news) > 0",
        "EXISTS (SELECT 1 FROM secret_news AS OF VERSION 1)",
    ] {
        let sql = format!("DELETE FROM answers WHERE {condition}");
        let error = run(&engine, &writer, &sql).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{sql}: {error}");
    }
    let kept = run(&engine, &Arc::default(), "SELECT count(*) AS n FROM secret_news JOIN answers ON true").await;
    assert!(kept.unwrap().contains("| 2 |"));
    assert!(run(&engine, &writer, "DELETE FROM answers WHERE doc_id = 'a1'").await.unwrap().contains("| 1 "));
    assert!(run(&engine, &writer, "DROP CORPUS IF EXISTS ghost").await.is_ok());
    for sql in [
        "INSERT INTO answers SELECT 1",
        "UPDATE answers SET model = 'z'",
        "CREATE TABLE x AS SELECT 1",
        "CREATE VIEW x AS SELECT 1",
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
        "COPY answers TO '/tmp/x.csv'",
        "COPY (SELECT 1) TO '/tmp/x.csv'",
        "SET datafusion.execution.batch_size = 1",
        "RESET ALL",
        "PREPARE x AS SELECT 1",
        "EXPLAIN DELETE FROM answers WHERE true",
        "EXPLAIN ANALYZE COPY answers TO '/tmp/x.csv'",
        "WITH x AS (DELETE FROM answers WHERE true RETURNING *) SELECT * FROM x",
        "SELECT * INTO x FROM answers",
        "SELECT 1; SELECT 2",
        "TRUNCATE answers",
    ] {
        let error = run(&engine, &Arc::default(), sql).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Query, "{sql}: {error}");
    }
}

#[tokio::test]
async fn files_are_read_where_they_are_allowed() {
    let (folder, engine) = engine().await;
    let db = folder.path().join("db");
    let anybody = Arc::new(Caller::default());
    let kind = async |caller: &Arc<Caller>, path: &str| {
        let outcome = run(&engine, caller, &format!("SELECT * FROM '{path}'")).await;
        outcome.map_err(|error| {
            assert!(!error.to_string().contains("hush"), "{error}");
            error.kind()
        })
    };
    let open = db.join("open.csv").display().to_string();
    assert!(kind(&anybody, &open).await.is_ok());
    assert_eq!(kind(&limited(true), &open).await, Err(ErrorKind::Denied));
    for sql in [
        format!("SELECT * FROM diff('answers', 'SELECT * FROM ''{open}''')"),
        format!("DESCRIBE '{open}'"),
        format!("SELECT (SELECT max(a) FROM '{open}')"),
        format!("SELECT * FROM main.\"{open}\""),
    ] {
        assert!(run(&engine, &limited(true), &sql).await.is_err(), "{sql}");
    }
    let (db, up) = (db.display(), "../".repeat(30));
    for path in [
        format!("{db}/tokens.json"),
        format!("{db}/./tokens.json"),
        format!("{db}/corpora/../tokens.json"),
        format!("{db}/key.csv"),
        format!("{db}/catalog/meta.lance/x.arrow"),
        "/etc/passwd".to_owned(),
        format!("{db}/{up}etc/passwd"),
        format!("{up}etc/passwd.csv"),
        "/proc/self/environ".to_owned(),
        "/proc/self/root/etc/passwd.csv".to_owned(),
        "/etc/*.csv".to_owned(),
        "/dev/zero.csv".to_owned(),
    ] {
        assert_eq!(kind(&anybody, &path).await, Err(ErrorKind::Denied), "{path}");
    }
    for path in ["file:///etc/passwd", "http://127.0.0.1/x.csv", "s3://x/y.csv"] {
        assert_eq!(kind(&anybody, path).await, Err(ErrorKind::Query), "{path}");
    }
    assert_eq!(kind(&anybody, &format!("{db}/*.json")).await, Err(ErrorKind::NotFound));
    // A folder is imported with all that is in it, or not.
    for file in [format!("{db}/tokens.json"), db.to_string()] {
        let sql = format!("IMPORT INTO stolen FROM '{file}' FORMAT text");
        assert_eq!(run(&engine, &anybody, &sql).await.unwrap_err().kind(), ErrorKind::Denied, "{sql}");
    }
}
