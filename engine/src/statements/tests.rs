use datafusion::common::{ParamValues, ScalarValue};

use super::rewrite::{VersionedName, bind_arguments};
use super::*;
use crate::store::AsOf;

fn query(sql: &str) -> String {
    match parse(sql) {
        Ok(Statement::Query(statement)) => statement.to_string(),
        other => panic!("{sql}: expected a query, got {other:?}"),
    }
}

fn refused(sql: &str) -> String {
    match parse(sql) {
        Ok(statement) => panic!("{sql}: expected an error, got {statement:?}"),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Query, "{sql}");
            error.to_string()
        }
    }
}

#[test]
fn import_with_every_option() {
    let sql = "create corpus Answers from 'a b.jsonl' format jsonl text (output, \"Second Part\")
        chat (user = Prompt, assistant = 'output', user = \"Second Part\")
        key (id)
        using sae ('minilm-l4', other) rename (old as new) on conflict update on bad row set aside limit 5;";
    let Ok(Statement::Import(import)) = parse(sql) else { panic!("not an import") };
    let expected = Import {
        corpus: "answers".into(),
        create: true,
        if_not_exists: false,
        file: "a b.jsonl".into(),
        format: Some("jsonl".into()),
        text_columns: vec!["output".into(), "Second Part".into()],
        chat: Some("user=prompt,assistant=output,user=Second Part".parse().unwrap()),
        key: Some("id".into()),
        dictionaries: vec!["minilm-l4".into(), "other".into()],
        rename: vec![("old".into(), "new".into())],
        on_conflict: OnConflict::Update,
        on_bad_row: OnBadRow::SetAside,
        limit: Some(5),
        features: None,
    };
    assert_eq!(import, expected);
    let Ok(Statement::Import(import)) = parse("IMPORT INTO a FROM 'x.csv'") else { panic!("not an import") };
    assert!(!import.create && import.on_conflict == OnConflict::Skip && import.text_columns.is_empty());
}

#[test]
fn what_is_wrong_with_an_import_is_told() {
    assert_eq!(refused("import into a"), "expected FROM, got the end");
    assert_eq!(refused("import into a from b"), "line 1, column 20: expected a file in quotes, got 'b'");
    assert!(refused("import into a from 'b' chat (user prompt)").contains("expected = and the column"));
    assert!(refused("import into a from 'b' chat (user = x, assistant = x)").contains("'x' is named twice"));
    assert!(refused("import into a from 'b' key (x, y)").contains("one column after KEY"));
    assert!(refused("import into a from 'b' on conflict explode").contains("SKIP, UPDATE or FAIL"));
    assert!(refused("import into a from 'b' colour blue").contains("ON BAD ROW, LIMIT or the end, got 'colour'"));
}

#[test]
fn concepts_have_weights() {
    let sql = "CREATE OR REPLACE CONCEPT polite AS ('thank you', 17 WEIGHT 0.5, please WEIGHT -1)";
    let members = vec![("thank you".into(), 1.0), ("17".into(), 0.5), ("please".into(), -1.0)];
    assert_eq!(parse(sql).unwrap(), Statement::CreateConcept { name: "polite".into(), replace: true, members });
    assert!(refused("CREATE CONCEPT x AS ()").contains("a feature"));
    assert!(refused("CREATE CONCEPT x AS (1 WEIGHT heavy)").contains("expected a number, got 'heavy'"));
}

#[test]
fn small_statements() {
    let feature = |feature: &str| Statement::DescribeFeature { feature: feature.into() };
    assert_eq!(parse("describe feature 12").unwrap(), feature("12"));
    assert_eq!(parse("DESC FEATURE 'it''s'").unwrap(), feature("it's"));
    let rename = Statement::RenameFeature { feature: "12".into(), label: "x".into() };
    assert_eq!(parse("ALTER FEATURE 12 RENAME TO 'x'").unwrap(), rename);
    let drop = Statement::DropCorpus { name: "a".into(), if_exists: true };
    assert_eq!(parse("DROP CORPUS IF EXISTS a").unwrap(), drop);
    let compact = Statement::Compact { corpus: "a".into(), keep_versions_secs: 86_400 };
    assert_eq!(parse("compact a keep versions 1 days").unwrap(), compact);
    assert!(matches!(parse("DESCRIBE answers").unwrap(), Statement::Describe { name, .. } if name == "answers"));
    assert_eq!(query("SHOW CORPORA"), "SELECT * FROM saequel.corpora");
    assert_eq!(query("show features like 'it''s%'"), "SELECT * FROM saequel.features WHERE label ILIKE 'it''s%'");
    assert_eq!(query("SHOW TABLES"), "SHOW TABLES");
}

#[test]
fn deletes_need_a_condition() {
    let Ok(Statement::Delete { corpus, condition }) = parse("DELETE FROM a WHERE x = 'y'") else { panic!("no delete") };
    assert_eq!((corpus.as_str(), condition.to_string().as_str()), ("a", "x = 'y'"));
    assert!(refused("DELETE FROM a").contains("a condition is missing"));
    assert!(refused("DELETE FROM a WHERE x RETURNING y").contains("nothing else"));
}

#[test]
fn queries_only_read() {
    for sql in [
        "INSERT INTO a VALUES (1)",
        "UPDATE a SET x = 1",
        "CREATE TABLE a (x INT)",
        "CREATE EXTERNAL TABLE a STORED AS CSV LOCATION 'x'",
        "COPY a TO 'x.csv'",
        "COPY (SELECT 1) TO 'x.csv' STORED AS CSV",
        "CREATE VIEW a AS SELECT 1",
        "SET x = 1",
        "EXPLAIN INSERT INTO a VALUES (1)",
        "SELECT 1 INTO b FROM a",
        "WITH x AS (INSERT INTO a VALUES (1)) SELECT 1",
        "DROP TABLE a",
        "BEGIN",
    ] {
        refused(sql);
    }
}

#[test]
fn one_statement_at_a_time() {
    assert_eq!(query("SELECT 1 ; ; -- the end"), "SELECT 1");
    assert!(refused("SELECT 1; SELECT 2").starts_with("line 1, column 11: unexpected 'SELECT'; one statement"));
    assert_eq!(refused(" -- nothing\n;"), "the statement is empty");
    assert!(refused("SELECT 1 +").contains("expected: an expression"));
    assert!(refused("SELECT 'open").contains("unterminated"));
    let deep = format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000));
    assert!(refused(&deep).contains("nests too deep"));
    for (open, close) in [("NOT ", ""), ("CASE WHEN a THEN ", " END")] {
        let deep = format!("SELECT {}1{}", open.repeat(5_000), close.repeat(5_000));
        assert!(refused(&deep).contains("nests too deep"), "{}", refused(&deep));
    }
}

#[test]
fn time_travel_is_a_name() {
    assert_eq!(
        query("SELECT a.x FROM Answers AS OF VERSION 3 a, answers WHERE answers.x = a.x"),
        r#"SELECT a.x FROM "answers as of version 3" a, answers WHERE answers.x = a.x"#
    );
    assert_eq!(
        query("SELECT answers.x FROM stored.answers FOR SYSTEM_TIME AS OF '2027-01-31' WHERE x"),
        r#"SELECT answers.x FROM stored."answers as of timestamp 2027-01-31" AS "answers" WHERE x"#
    );
    assert_eq!(query("SELECT 1 AS of, 2 AS version"), "SELECT 1 AS of, 2 AS version");
    assert_eq!(query("SELECT 'a AS OF VERSION 3'"), "SELECT 'a AS OF VERSION 3'");
    assert!(refused("SELECT * FROM a AS OF VERSION x").contains("expected a number after AS OF VERSION, got 'x'"));
    assert!(refused("SELECT * FROM a AS OF TIMESTAMP 'soon'").contains("got 'soon'"));
    let parsed = VersionedName::parse("a as of timestamp 1970-01-01T00:00:01Z").unwrap();
    assert_eq!(parsed, VersionedName { name: "a".into(), as_of: AsOf::Micros(1_000_000) });
    assert_eq!(VersionedName::parse("a").unwrap().as_of, AsOf::Latest);
}

#[test]
fn arguments_of_table_functions() {
    assert_eq!(
        query("SELECT * FROM diff(answers, 'b', paired_by => Prompt_Id, min_docs := 3) d"),
        "SELECT * FROM diff('answers', 'b', named_argument('paired_by', 'prompt_id'), \
         named_argument('min_docs', 3)) d"
    );
    assert_eq!(
        query("SELECT * FROM (SELECT * FROM f((SELECT x FROM a AS OF VERSION 2 WHERE y = 'z')))"),
        r#"SELECT * FROM (SELECT * FROM f('SELECT x FROM "a as of version 2" WHERE y = ''z'''))"#
    );
    assert_eq!(query("SELECT * FROM generate_series(1, 3)"), "SELECT * FROM generate_series(1, 3)");
    assert!(refused("SELECT * FROM f(*)").contains("expected a value"));
}

#[test]
fn parameters_of_functions() {
    let bind = |sql: &str, parameters: Vec<ScalarValue>| {
        let Ok(Statement::Query(mut statement)) = parse(sql) else { panic!("not a query") };
        bind_arguments(&mut statement, &ParamValues::from(parameters)).map(|()| statement.to_string())
    };
    assert_eq!(
        bind("SELECT $1 FROM f($1, k => $2)", vec!["it's".into(), ScalarValue::from(5i64)]).unwrap(),
        "SELECT $1 FROM f('it''s', named_argument('k', 5))"
    );
    assert!(bind("SELECT * FROM f($2)", vec!["a".into()]).is_err());
    assert_eq!(
        bind("SELECT f(a, $1 + 1), $1 FROM b", vec![ScalarValue::from(2.0)]).unwrap(),
        "SELECT f(a, 2.0 + 1), $1 FROM b"
    );
    let date = ScalarValue::Date32(Some(1));
    assert_eq!(bind("SELECT f($1)", vec![date.clone()]).unwrap(), "SELECT f($1)");
    assert!(bind("SELECT * FROM f($1)", vec![date]).unwrap_err().to_string().contains("parameter $1"));
}
