//! Statements by what is to be done with them.

use super::*;

fn parse(sql: &str) -> Command {
    let settings = SessionSettings::new("a", "b", 1, false);
    Command::parse(sql, &settings).unwrap_or_else(|trouble| panic!("{sql}: {trouble:?}"))
}

fn set_to(name: &str, value: &str) -> Command {
    Command::Set { name: name.to_owned(), value: Some(value.to_owned()), local: false }
}

#[test]
fn statements_of_the_engine_pass() {
    for sql in [
        "SELECT 1",
        "(SELECT 1)",
        "SHOW CORPORA",
        "SHOW FEATURES FOR answers",
        "SHOW TABLES",
        "DESCRIBE FEATURE 1",
        "CREATE CORPUS a FROM 'f' TEXT (t)",
        "/* begin */ WITH a AS (SELECT 1) SELECT * FROM a",
        "'begin'",
    ] {
        assert_eq!(parse(sql), Command::Engine, "{sql}");
    }
    assert_eq!(parse(" -- nothing\n /* /* x */ */"), Command::Empty);
    assert_eq!(parse(";"), Command::Empty);
}

#[test]
fn transactions() {
    assert_eq!(parse("BEGIN"), Command::Begin(Vec::new()));
    let modes = vec![
        ("transaction_isolation", "repeatable read".to_owned()),
        ("transaction_read_only", "on".to_owned()),
        ("transaction_deferrable", "off".to_owned()),
    ];
    assert_eq!(
        parse("start transaction isolation level repeatable read, read only not deferrable;"),
        Command::Begin(modes)
    );
    assert_eq!(parse("COMMIT WORK AND NO CHAIN"), Command::Commit { chain: false });
    assert_eq!(parse("END"), Command::Commit { chain: false });
    assert_eq!(parse("abort transaction and chain"), Command::Rollback { chain: true });
    assert_eq!(parse("ROLLBACK TO SAVEPOINT \"A b\""), Command::RollbackTo("A b".to_owned()));
    assert_eq!(parse("release s1"), Command::Release("s1".to_owned()));
}

#[test]
fn settings() {
    assert_eq!(parse("SET extra_float_digits = 3"), set_to("extra_float_digits", "3"));
    assert_eq!(parse("set session datestyle to ISO, 'MDY'"), set_to("datestyle", "iso, MDY"));
    assert_eq!(parse("SET TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE"), set_to("timezone", "-08:00"));
    assert_eq!(parse("SET TIME ZONE -3"), set_to("timezone", "-3"));
    assert_eq!(parse("SET NAMES 'utf8'"), set_to("client_encoding", "utf8"));
    assert_eq!(
        parse("SET LOCAL app.user TO DEFAULT"),
        Command::Set { name: "app.user".to_owned(), value: None, local: true }
    );
    assert_eq!(parse("SET ROLE none"), set_to("role", "none"));
    assert_eq!(
        parse("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ UNCOMMITTED"),
        Command::SetMany(vec![("default_transaction_isolation", "read uncommitted".to_owned())])
    );
    assert_eq!(parse("SHOW transaction isolation level"), Command::Show(Some("transaction_isolation".to_owned())));
    assert_eq!(parse("show ALL"), Command::Show(None));
    assert_eq!(parse("SHOW TIME ZONE"), Command::Show(Some("timezone".to_owned())));
    assert_eq!(parse("RESET ALL"), Command::Reset(None));
    assert_eq!(parse("DISCARD ALL"), Command::Discard { all: true, tag: "DISCARD ALL" });
    let settings = SessionSettings::new("a", "b", 1, false);
    assert!(Command::parse("SET x 5", &settings).is_err() && Command::parse("BEGIN x", &settings).is_err());
}

#[test]
fn cursors() {
    let sql = "DECLARE \"C 1\" NO SCROLL CURSOR WITH HOLD FOR SELECT 1";
    let Command::Declare { name, hold: true, query } = parse(sql) else { panic!() };
    assert_eq!((name.as_str(), &sql[query..]), ("C 1", "SELECT 1"));
    let fetch = |rows, shown| Command::Fetch { name: "c".to_owned(), rows, shown };
    assert_eq!(parse("FETCH FORWARD 100 FROM c"), fetch(Some(100), true));
    assert_eq!(parse("FETCH FORWARD ALL IN \"c\""), fetch(None, true));
    assert_eq!(parse("FETCH c"), fetch(Some(1), true));
    assert_eq!(parse("MOVE 7 c"), fetch(Some(7), false));
    let settings = SessionSettings::new("a", "b", 1, false);
    assert!(Command::parse("FETCH BACKWARD 1 FROM c", &settings).is_err());
    assert_eq!(parse("CLOSE ALL"), Command::Close(None));
}

#[test]
fn copies() {
    let sql = "COPY (SELECT ')' , (1)) TO STDOUT (FORMAT csv, HEADER, DELIMITER ';')";
    let Command::Copy(copy) = parse(sql) else { panic!() };
    assert_eq!(copy.statement(sql), "SELECT ')' , (1)");
    let sql = "copy public.answers (doc_id, \"Text\") to stdout csv header null as 'x'";
    let Command::Copy(copy) = parse(sql) else { panic!() };
    assert_eq!(copy.statement(sql), "SELECT doc_id, \"Text\" FROM public.answers");
    let settings = SessionSettings::new("a", "b", 1, false);
    for (sql, sqlstate) in [
        ("COPY a FROM STDIN", "0A000"),
        ("COPY a TO '/tmp/x'", "42501"),
        ("COPY a TO PROGRAM 'cat'", "42501"),
        ("COPY a TO STDOUT (FORMAT parquet)", "22023"),
    ] {
        let Err(Trouble::Statement(report)) = Command::parse(sql, &settings) else { panic!("{sql}") };
        assert_eq!(report.sqlstate, sqlstate, "{sql}");
    }
}

#[test]
fn tags_and_parameters() {
    assert_eq!(tag("create or replace concept a as (1)"), "CREATE CONCEPT");
    assert_eq!(
        (tag("DELETE FROM a"), tag("with x as (select 1) select 2")),
        ("DELETE".to_owned(), "SELECT".to_owned())
    );
    assert_eq!(tag("IMPORT INTO a FROM 'f'"), "IMPORT INTO");
    assert!(has_parameters("SELECT $1") && !has_parameters("SELECT '$1', \"$2\" -- $3\n, $$ $4 $$"));
}
