//! Bad input, from the command line: one clear message that names the place and the way out; nothing is lost.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use saequel_tests::{Scratch, fail, program, query_column, saequel, succeed};

/// A small corpus `docs` that tests only read.
fn shared() -> &'static Path {
    static SHARED: OnceLock<(Scratch, PathBuf)> = OnceLock::new();
    let (_, db) = SHARED.get_or_init(|| {
        let scratch = Scratch::new();
        let file = scratch.write("docs.jsonl", lines(0..4).as_bytes());
        let db = scratch.path("shared.db");
        import(&db, &file, "docs");
        (scratch, db)
    });
    db
}

fn line(i: usize) -> String {
    format!("{{\"id\": \"d{i}\", \"text\": \"I am sorry, train number {i} is late.\", \"minutes\": {}}}\n", i * 7)
}

fn lines(range: std::ops::Range<usize>) -> String {
    range.map(line).collect()
}

fn import_command(db: &Path, file: &Path, corpus: &str) -> Command {
    let mut command = saequel(db);
    command.arg("import").arg(file).args(["--corpus", corpus, "--text", "text", "--key", "id", "--batch-docs", "2"]);
    command
}

fn import(db: &Path, file: &Path, corpus: &str) {
    succeed(&mut import_command(db, file, corpus));
}

fn ids(db: &Path, corpus: &str) -> Vec<String> {
    query_column(db, &format!("SELECT doc_id FROM {corpus} ORDER BY doc_id"), "doc_id").expect("read the corpus")
}

#[track_caller]
fn says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "'{part}' is not in: {said}");
    }
    assert_eq!(said.lines().filter(|line| line.starts_with("error:")).count(), 1, "one error line: {said}");
}

#[test]
fn a_missing_column_comes_with_the_nearest() {
    let scratch = Scratch::new();
    let file = scratch.write("docs.jsonl", lines(0..3).as_bytes());
    let db = scratch.path("x.db");
    let mut command = saequel(&db);
    let (code, said) = fail(command.arg("import").arg(&file).args(["--corpus", "docs", "--text", "txt"]));
    assert_eq!(code, 3, "{said}");
    says(&said, &["'txt'", "did you mean 'text'?"]);
    // One that is like none: what there is.
    let mut command = saequel(&db);
    let (code, said) = fail(command.arg("import").arg(&file).args(["--corpus", "docs", "--text", "answer_body_en"]));
    assert_eq!(code, 3, "{said}");
    says(&said, &["'answer_body_en'", "docs.jsonl", "id, text, minutes"]);
    import(&db, &file, "docs");
    assert_eq!(ids(&db, "docs").len(), 3);
}

#[test]
fn a_broken_json_line_is_named_and_what_came_before_stays() {
    let scratch = Scratch::new();
    let broken = format!("{}{{\"id\": \"d4\", \"text\": \"half a li\n{}", lines(0..4), lines(5..6));
    let file = scratch.write("docs.jsonl", broken.as_bytes());
    let db = scratch.path("x.db");
    let (code, said) = fail(&mut import_command(&db, &file, "docs"));
    assert_eq!(code, 3, "{said}");
    says(&said, &["docs.jsonl", "line 5"]);
    assert_eq!(ids(&db, "docs"), ["d0", "d1", "d2", "d3"]);

    // Either leave it out ...
    let aside = scratch.path("aside.db");
    succeed(import_command(&aside, &file, "docs").arg("--set-aside"));
    assert_eq!(ids(&aside, "docs"), ["d0", "d1", "d2", "d3", "d5"]);
    // ... or mend it and go on.
    scratch.write("docs.jsonl", lines(0..6).as_bytes());
    import(&db, &file, "docs");
    assert_eq!(ids(&db, "docs").len(), 6);
}

#[test]
fn a_csv_row_of_another_length_is_named() {
    let scratch = Scratch::new();
    let file = scratch.write("docs.csv", b"id,text\na,good morning\nb,good night,extra\n");
    let (code, said) = fail(&mut import_command(&scratch.path("x.db"), &file, "docs"));
    assert_eq!(code, 3, "{said}");
    says(&said, &["docs.csv", "line 3"]);
}

#[test]
fn a_quote_that_is_never_closed_is_named_and_swallows_no_rows() {
    let scratch = Scratch::new();
    let whole = "id,text\na,\"good\nmorning\"\nb,good night\nc,\"good day\"\nd,good evening\n";
    let file = scratch.write("docs.csv", whole.replace("day\"", "day").as_bytes());
    let db = scratch.path("x.db");
    let (code, said) = fail(&mut import_command(&db, &file, "docs"));
    assert_eq!(code, 3, "{said}");
    says(&said, &["docs.csv", "line 5", "never closed"]);
    assert_eq!(ids(&db, "docs"), ["a", "b"]);
    // It is not set aside as if it were one row.
    let (code, said) = fail(import_command(&db, &file, "docs").arg("--set-aside"));
    assert_eq!(code, 3, "{said}");
    assert_eq!(ids(&db, "docs"), ["a", "b"]);
    scratch.write("docs.csv", whole.as_bytes());
    import(&db, &file, "docs");
    assert_eq!(ids(&db, "docs"), ["a", "b", "c", "d"]);
}

#[test]
fn wrong_utf8_is_named() {
    for (name, line, bytes) in [
        ("docs.jsonl", "line 2", &b"{\"id\": \"a\", \"text\": \"fine\"}\n{\"id\": \"b\", \"text\": \"caf\xe9\"}\n"[..]),
        (
            "keys.jsonl",
            "line 2",
            &b"{\"id\": \"a\", \"text\": \"fine\"}\n{\"id\": \"caf\xe9\", \"text\": \"fine\"}\n"[..],
        ),
        ("docs.csv", "line 3", &b"id,text\na,fine\nb,caf\xe9\n"[..]),
    ] {
        let scratch = Scratch::new();
        let file = scratch.write(name, bytes);
        let (code, said) = fail(&mut import_command(&scratch.path("x.db"), &file, "docs"));
        assert_eq!(code, 3, "{name}: {said}");
        says(&said, &[name, "UTF-8", line]);
    }
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("notes")).expect("make a folder of texts");
    scratch.write("notes/a.txt", b"fine");
    scratch.write("notes/b.txt", b"caf\xe9");
    let (code, said) =
        fail(saequel(scratch.path("x.db")).arg("import").arg(scratch.path("notes")).args(["--corpus", "n"]));
    assert_eq!(code, 3, "{said}");
    says(&said, &["b.txt", "UTF-8"]);
}

#[test]
fn a_half_written_parquet_file_is_named() {
    let scratch = Scratch::new();
    let whole = scratch.path("docs.parquet");
    succeed(saequel(shared()).args(["export", "SELECT doc_id AS id, text FROM docs", "--output"]).arg(&whole));
    let bytes = std::fs::read(&whole).expect("read the export");
    let half = scratch.write("half.parquet", &bytes[..bytes.len() / 2]);
    let db = scratch.path("x.db");
    let (code, said) = fail(&mut import_command(&db, &half, "docs"));
    assert_eq!(code, 3, "{said}");
    says(&said, &["half.parquet"]);
    import(&db, &whole, "docs");
    assert_eq!(ids(&db, "docs").len(), 4);
}

#[test]
fn unknown_names_come_with_the_nearest() {
    let db = shared();
    let sql = |statement: &str| fail(saequel(db).args(["sql", statement]));
    let (code, said) = sql("SELECT * FROM doc");
    assert_eq!(code, 4, "{said}");
    says(&said, &["'doc'", "did you mean 'docs'"]);
    let (code, said) = fail(saequel(db).args(["diff", "docs", "dogs"]));
    assert_eq!(code, 4, "{said}");
    says(&said, &["'dogs'", "did you mean 'docs'"]);
    let (_, said) = sql("SELECT activation(features, 'no such feature at all') FROM docs");
    says(&said, &["no such feature at all"]);
    let (_, said) = sql("SELECT has_feature(features, 4000000) FROM docs");
    says(&said, &["4000000"]);
    let (code, said) = fail(saequel(db.with_file_name("none.db")).args(["sql", "SHOW CORPORA"]));
    assert_eq!(code, 4, "{said}");
    says(&said, &["none.db"]);
}

#[test]
fn sql_errors_say_what_and_where() {
    let db = shared();
    let sql = |statement: &str| fail(saequel(db).args(["sql", statement]));
    let (code, said) = sql("SELEC doc_id FROM docs");
    assert_eq!(code, 2, "{said}");
    says(&said, &["SELEC"]);
    let (code, said) = sql("SELECT minuts FROM docs");
    assert_eq!(code, 2, "{said}");
    says(&said, &["minuts", "minutes"]);
    let (code, said) = sql("SELECT * FROM diff('docs')");
    assert_eq!(code, 2, "{said}");
    says(&said, &["diff", "'b'"]);
    let (code, said) = sql("SELECT * FROM retrieve('docs WHERE minutes >', 'late')");
    assert_eq!(code, 2, "{said}");
    says(&said, &["'docs WHERE minutes >'"]);
    let (code, said) = sql("COPY docs TO 'x.csv'");
    assert_eq!(code, 2, "{said}");
    says(&said, &["writes no file"]);
}

#[test]
fn a_damaged_weight_file_is_named() {
    let scratch = Scratch::new();
    let cache = scratch.path("cache");
    let reader = cache.join("readers").join("all-MiniLM-L6-v2");
    std::fs::create_dir_all(&reader).expect("make the cache");
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::write(reader.join(file), b"not what it should be").expect("write a damaged file");
    }
    let file = scratch.write("docs.jsonl", lines(0..2).as_bytes());
    let db = scratch.path("x.db");
    // No way to fetch it again: no hub, no Python.
    let mut command = import_command(&db, &file, "docs");
    command.env("SAEQUEL_CACHE", &cache).env("HF_ENDPOINT", "http://127.0.0.1:9").env("PATH", scratch.path("nothing"));
    let (code, said) = fail(&mut command);
    assert_eq!(code, 3, "{said}");
    says(&said, &["all-MiniLM-L6-v2", "damaged", &reader.display().to_string()]);
    import(&db, &file, "docs");
    assert_eq!(ids(&db, "docs"), ["d0", "d1"]);
}

#[test]
fn a_damaged_dictionary_is_named() {
    let scratch = Scratch::new();
    let file = scratch.write("docs.jsonl", lines(0..2).as_bytes());
    let db = scratch.path("x.db");
    import(&db, &file, "docs");
    let path = &db.join("saes").join("minilm-l4-token-4096").join("sae.safetensors");
    let mut bytes = std::fs::read(path).expect("read the weights");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    std::fs::write(path, &bytes).expect("damage the weights");
    let more = scratch.write("more.jsonl", lines(2..4).as_bytes());
    let (code, said) = fail(&mut import_command(&db, &more, "docs"));
    assert_eq!(code, 3, "{said}");
    says(&said, &["minilm-l4-token-4096", "damaged", &db.join("saes").display().to_string()]);
    assert_eq!(ids(&db, "docs"), ["d0", "d1"], "what is stored can be read all the same");
    bytes[middle] ^= 0x55;
    std::fs::write(path, &bytes).expect("mend the weights");
    import(&db, &more, "docs");
    assert_eq!(ids(&db, "docs").len(), 4);
}

/// A file system of 16 MiB that only this test sees fills up during an import; with more room the import goes on.
///
/// Needs private mounts (`unshare --mount`, as root or with user namespaces); `SAEQUEL_SKIP_FULL_DISK=1` leaves it out
/// where a system has none.
#[test]
fn a_full_disk_loses_nothing() {
    if std::env::var_os("SAEQUEL_SKIP_FULL_DISK").is_some_and(|value| value == "1") {
        return;
    }
    let scratch = Scratch::new();
    let file = scratch.write("docs.jsonl", long_lines(6_000).as_bytes());
    let small = scratch.path("small");
    std::fs::create_dir(&small).expect("make the mount point");
    let script = r#"
        import() {
            "$2" --db "$1/x.db" import "$3" --corpus docs --text text --key id --batch-docs 200 --quiet >/dev/null
            echo "exit $?"
            "$2" --db "$1/x.db" sql "SELECT count(*) AS n, count(DISTINCT doc_id) AS d FROM docs" --format csv
        }
        mount -t tmpfs -o size=16m saequel-test "$1" || exit 99
        import "$@"
        mount -o remount,size=256m "$1" || exit 99
        import "$@"
    "#;
    let output = Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", script, "sh"])
        .args([&small, &program(), &file])
        .output()
        .expect("run unshare; SAEQUEL_SKIP_FULL_DISK=1 leaves this test out");
    let (out, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "no private mounts? SAEQUEL_SKIP_FULL_DISK=1 leaves this test out: {out}{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert!(said.contains("no space left") || said.contains("disk is full"), "{said}");
    let lines: Vec<&str> = out.lines().collect();
    let [first, "n,d", before, "exit 0", "n,d", "6000,6000"] = lines.as_slice() else {
        panic!("expected a full disk, then all rows: {out}{said}");
    };
    assert_eq!(*first, "exit 6", "{out}{said}");
    let (n, distinct) = before.split_once(',').unwrap_or_else(|| panic!("two counts: {out}{said}"));
    assert_eq!(n, distinct, "{out}");
    assert!(n.parse::<u64>().is_ok_and(|n| n > 0 && n < 6_000), "{out}{said}");
}

#[test]
fn a_result_that_finds_no_room_says_so() {
    let (code, said) =
        fail(saequel(shared()).args(["sql", "SELECT * FROM docs", "--format", "csv", "-o", "/dev/full"]));
    assert_eq!(code, 6, "{said}");
    says(&said, &["/dev/full", "hint: free some space"]);
}

/// Texts with little in common, so that they take room.
fn long_lines(n: usize) -> String {
    let mut state = 7_u64;
    let mut word = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{:x}", state >> 24)
    };
    (0..n)
        .map(|i| {
            let padding: Vec<String> = (0..700).map(|_| word()).collect();
            format!("{{\"id\": \"d{i}\", \"text\": \"late\", \"padding\": \"{}\"}}\n", padding.join(" "))
        })
        .collect()
}
