//! The program as people and scripts use it: formats, exit codes, one query path.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use saequel_tests::{Scratch, fail, program, saequel, succeed};
use serde_json::Value;

/// Answers of the demo that tests read.
const N_DOCS: usize = 60;

fn answers_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data/answers.jsonl")
}

fn import(db: &Path, n_docs: usize) -> String {
    let mut command = saequel(db);
    command.arg("import").arg(answers_file()).args(["--corpus", "answers", "--text", "answer", "--key", "doc_id"]);
    succeed(command.args(["--limit", &n_docs.to_string()]))
}

/// A corpus `answers` that tests only read.
fn shared() -> &'static Path {
    static SHARED: OnceLock<(Scratch, PathBuf)> = OnceLock::new();
    let (_, db) = SHARED.get_or_init(|| {
        let scratch = Scratch::new();
        let db = scratch.path("shared.db");
        import(&db, N_DOCS);
        (scratch, db)
    });
    db
}

fn sql(statement: &str, arguments: &[&str]) -> String {
    succeed(saequel(shared()).args(["sql", statement]).args(arguments))
}

fn names(answer: &Value) -> Vec<&str> {
    answer["columns"].as_array().expect("columns").iter().map(|column| column["name"].as_str().expect("name")).collect()
}

/// Answer of a command in the format `json_compact`.
fn json(arguments: &[&str]) -> Value {
    let text = succeed(saequel(shared()).args(arguments).args(["--format", "json_compact"]));
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn every_command_has_help() {
    let help = succeed(Command::new(program()).arg("--help"));
    assert!(help.contains("Examples:") && help.contains("Exit codes:"), "{help}");
    for command in [
        "import",
        "sql",
        "diff",
        "correlate",
        "cluster",
        "retrieve",
        "features",
        "label",
        "sae",
        "model",
        "export",
        "compact",
        "doctor",
        "serve",
        "demo",
    ] {
        assert!(help.contains(&format!("  {command}")), "{command} in {help}");
        let help = succeed(Command::new(program()).args([command, "--help"]));
        assert!(help.contains("Examples:"), "{command}: {help}");
    }
}

#[test]
fn a_table_fits_the_width_that_is_asked_for() {
    let text = succeed(
        saequel(shared()).env("COLUMNS", "60").args(["sql", "SELECT doc_id, topic, answer FROM answers LIMIT 5"]),
    );
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 7, "{text}");
    assert!(lines[0].starts_with("doc_id") && lines[2].contains('…'), "{text}");
    assert!(lines.iter().all(|line| line.chars().count() <= 60), "{text}");
}

#[test]
fn every_format_holds_the_same_rows() {
    let query = "SELECT doc_id, topic, features, n_tokens FROM answers ORDER BY doc_id";
    let lines: Vec<Value> =
        sql(query, &["--format", "jsonl"]).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), N_DOCS);
    let ids: Vec<&str> = lines.iter().map(|row| row["doc_id"].as_str().expect("doc_id")).collect();
    let whole: Value = serde_json::from_str(&sql(query, &["--format", "json"])).expect("JSON");
    assert_eq!(whole, Value::from(lines.clone()));
    let whole: Value = serde_json::from_str(&sql(query, &["--format", "json_compact"])).expect("JSON");
    assert_eq!(whole["row_count"], N_DOCS);
    assert_eq!(whole["rows"][0][0], lines[0]["doc_id"]);
    assert_eq!(whole["rows"][0][2], lines[0]["features"]);
    for (format, separator) in [("csv", ','), ("tsv", '\t')] {
        let text = sql(query, &["--format", format]);
        let mut rows = text.lines();
        let first = rows.next().and_then(|header| header.split(separator).next()).expect("header");
        assert_eq!(first.trim_matches('"'), "doc_id");
        let found: Vec<&str> = rows.map(|row| row.split(separator).next().expect("a field")).collect();
        assert_eq!(found, ids, "{format}");
    }
    let scratch = Scratch::new();
    let (parquet, arrow) = (scratch.path("x.parquet"), scratch.path("x.arrow"));
    for path in [&parquet, &arrow] {
        succeed(saequel(shared()).args(["sql", query, "--output"]).arg(path));
    }
    let file = std::fs::File::open(parquet).expect("open");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").build().expect("reader");
    let parquet: Vec<_> = reader.map(|batch| batch.expect("rows")).collect();
    let file = std::fs::File::open(arrow).expect("open");
    let arrow: Vec<_> =
        arrow::ipc::reader::FileReader::try_new(file, None).expect("Arrow").map(|batch| batch.expect("rows")).collect();
    let n_rows = |batches: &[arrow::array::RecordBatch]| batches.iter().map(|batch| batch.num_rows()).sum::<usize>();
    assert_eq!((n_rows(&parquet), n_rows(&arrow)), (N_DOCS, N_DOCS));
    let stream = saequel(shared()).args(["sql", query, "--format", "arrow"]).output().expect("run saequel").stdout;
    let stream = arrow::ipc::reader::StreamReader::try_new(stream.as_slice(), None).expect("stream");
    assert_eq!(n_rows(&stream.map(|batch| batch.expect("rows")).collect::<Vec<_>>()), N_DOCS);
}

#[test]
fn a_command_is_the_statement_that_it_shows() {
    let (a, b) = ("answers WHERE assistant = 'heron'", "answers WHERE assistant = 'finch'");
    for arguments in [
        vec!["diff", a, b, "--paired-by", "prompt_id", "--limit", "15"],
        vec!["diff", a, b, "--no-fold", "--include-hidden", "--dictionary", "minilm-l4-token-4096", "--limit", "5"],
        vec!["diff", a, b, "--control", "topic", "--no-words", "--limit", "5"],
        vec!["diff", "answers", "--by", "topic", "--against", "max", "--no-words", "--limit", "2"],
        vec!["diff", a, "--others", b, "--examples", "1", "--no-words", "--limit", "2"],
        vec!["diff", "answers", "--target", "n_tokens", "--no-words", "--limit", "5"],
        vec!["correlate", "answers", "--limit", "10"],
        vec!["correlate", a, "--with", b, "--paired-by", "prompt_id", "--direction", "both", "--limit", "5"],
        vec!["cluster", "answers", "--k", "3", "--seed", "7"],
        vec!["cluster", "answers", "--k", "3", "--documents"],
        vec!["retrieve", "answers", "apologises; it can't help", "--k", "4", "--but-not", "recipes"],
        vec!["retrieve", "answers", "apologises", "--k", "4", "--signals", "dense,labels", "--expand", "0"],
        vec!["features", "search", "sorry", "--limit", "5"],
        vec!["features", "search", "sorry"],
    ] {
        let output = saequel(shared()).args(&arguments).args(["--format", "csv", "--show-sql"]).output().expect("run");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
        let statement = said.lines().find(|line| line.starts_with("SELECT")).expect("the statement");
        let answer = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(answer.lines().count() > 1, "{arguments:?}: {answer}");
        assert_eq!(sql(statement, &["--format", "csv"]), answer, "{arguments:?}");
    }
}

#[test]
fn the_columns_are_the_promised_ones() {
    let (a, b) = ("answers WHERE assistant = 'heron'", "answers WHERE assistant = 'finch'");
    let wanted: [(&[&str], &str); 5] = [
        (
            &["diff", a, b],
            "feature_id label level docs_a docs_b frequency_a frequency_b difference ci_low ci_high odds_ratio log_odds \
             p_value q_value also_in_words n_a n_b n_left_out members",
        ),
        (
            &["correlate", "answers"],
            "feature_a label_a feature_b label_b docs_both npmi p_a_given_b p_b_given_a p_value q_value",
        ),
        (&["cluster", "answers", "--documents"], "doc_id cluster_id cluster_name membership"),
        (&["cluster", "answers"], "cluster_id name size stability"),
        (&["retrieve", "answers", "a recipe"], "rank doc_id score reasons text"),
    ];
    for (arguments, columns) in wanted {
        let answer = json(arguments);
        let there: BTreeSet<&str> = names(&answer).into_iter().collect();
        for column in columns.split_whitespace() {
            assert!(there.contains(column), "{arguments:?}: no {column} in {there:?}");
        }
    }
}

#[test]
fn labels_are_matched_without_network() {
    let mut command = saequel(shared());
    // Port 9 discards: whoever asks there waits or is refused.
    for name in ["HF_ENDPOINT", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        command.env(name, "http://127.0.0.1:9");
    }
    let arguments = ["retrieve", "answers", "apologises", "--signals", "labels", "--explain", "--format", "json"];
    let answer: Value = serde_json::from_str(&succeed(command.args(arguments))).expect("JSON");
    assert!(!answer.as_array().expect("rows").is_empty(), "{answer}");
}

#[test]
fn difference_is_a_minus_b() {
    let answer = json(&["diff", "answers WHERE assistant = 'heron'", "answers WHERE assistant = 'finch'"]);
    let names = names(&answer);
    let at =
        |row: &Value, name: &str| row[names.iter().position(|n| *n == name).expect(name)].as_f64().expect("number");
    let rows = answer["rows"].as_array().expect("rows");
    assert!(!rows.is_empty());
    for row in rows {
        let expected = at(row, "frequency_a") - at(row, "frequency_b");
        assert!((at(row, "difference") - expected).abs() < 1e-6, "{row}");
        assert!((0.0..=1.0).contains(&at(row, "q_value")), "{row}");
    }
}

#[test]
fn mistakes_have_codes_and_a_way_out() {
    let db = shared();
    let nowhere = db.with_file_name("nowhere.db");
    let (code, said) = fail(saequel(&nowhere).args(["sql", "SELECT 1"]));
    assert!(code == 4 && said.contains("nowhere.db' not found") && said.contains("hint:"), "{code} {said}");
    assert!(!nowhere.exists());
    for (code, arguments, part) in [
        (2, vec!["sql", "SELEC 1"], "SELEC"),
        (2, vec!["sql", "SELECT topik FROM answers"], "topic"),
        (4, vec!["sql", "SELECT * FROM anwsers"], "answers"),
        (4, vec!["diff", "answers", "anwsers"], "answers"),
        (4, vec!["sql", "SELECT activation(features, 'no such feature') FROM answers"], "'no such feature' not found"),
        (4, vec!["diff", "answers", "answers", "--dictionary", "nowhere"], "dictionary 'nowhere' not found"),
        (2, vec!["sql", "SELECT 1; SELECT 2", "--format", "parquet"], "one statement, got 2"),
        (2, vec!["export", "answers", "-o", "answers.csv.gz"], "cannot tell a format from 'answers.csv.gz'"),
        (2, vec!["export", "answers", "-o", "answers.txt"], "cuts long text"),
        (2, vec!["sql", " -- nothing"], "no statement"),
        (2, vec!["sql", "SELECT 1", "--format", "xml"], "jsonl"),
        (2, vec!["retrieve", "answers"], "QUERY"),
        (4, vec!["sql", "SELECT 1", "-o", "/nonexistent/x.csv"], "/nonexistent"),
        (4, vec!["import", "nofile.csv", "--corpus", "x"], "nofile.csv"),
        (4, vec!["features", "show", "99999999"], "99999999"),
    ] {
        let (found, said) = fail(saequel(db).args(&arguments));
        assert!(said.to_lowercase().contains(&part.to_lowercase()), "{arguments:?}: {said}");
        assert_eq!(found, code, "{arguments:?}: {said}");
    }
}

#[test]
fn scripts_come_from_standard_input() {
    let mut child = saequel(shared())
        .args(["sql", "--format", "csv"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start saequel");
    let script = b"-- one; two\nSELECT 1 AS a;\nSELECT ';' AS b;";
    child.stdin.take().expect("stdin").write_all(script).expect("write");
    let output = child.wait_with_output().expect("wait");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "a\n1\nb\n;\n");
}

#[test]
fn a_script_may_begin_with_a_comment_and_make_a_database() {
    let scratch = Scratch::new();
    let script = b"-- set up; \n/* a concept */ CREATE CONCEPT sorry AS (1); SELECT name FROM saequel.concepts";
    let script = std::fs::File::open(scratch.write("setup.sql", script)).expect("open the script");
    let told = succeed(saequel(scratch.path("new.db")).args(["sql", "--format", "csv"]).stdin(script));
    assert!(told.ends_with("name\nsorry\n"), "{told}");
}

#[test]
fn an_export_loses_nothing() {
    let whole = "SELECT doc_id, answer FROM answers ORDER BY doc_id";
    let text = succeed(saequel(shared()).args(["export", whole]));
    assert_eq!(text, sql(whole, &["--format", "csv"]));
    // What was written as TSV is read as it was, by a query and by an import.
    let scratch = Scratch::new();
    let texts = "SELECT 'k' AS doc_id, 'a\\tb \"c\"' || chr(9) || chr(10) || '\\\\' AS text";
    let file = scratch.path("t.tsv");
    succeed(saequel(shared()).args(["sql", texts, "--output"]).arg(&file));
    let back = sql(&format!("SELECT * FROM '{}'", file.display()), &["--format", "json"]);
    assert_eq!(back, sql(texts, &["--format", "json"]));
    let db = scratch.path("x.db");
    succeed(saequel(&db).arg("import").arg(&file).args(["--corpus", "docs"]));
    let stored = succeed(saequel(&db).args(["sql", "SELECT doc_id, text FROM docs", "--format", "json"]));
    assert_eq!(stored, back);
    // A whole corpus comes back, too.
    let file = scratch.path("all.parquet");
    succeed(saequel(shared()).args(["export", "SELECT * FROM answers", "--output"]).arg(&file));
    let mut again = saequel(&db);
    again.arg("import").arg(&file).args(["--corpus", "answers", "--text", "answer", "--limit", "3"]);
    let output = again.output().expect("run saequel");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("left out") && said.contains("n_tokens"), "{said}");
    let found = succeed(saequel(shared()).args(["features", "search", "sorry", "--format", "csv"]));
    assert!(found.lines().count() > 21, "{found}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let scratch = Scratch::new();
    for arguments in [
        vec!["sql", "SELECT value FROM generate_series(1, 5000000)", "--format", "csv"],
        vec!["features", "show", "1"],
        vec!["doctor"],
        vec!["demo", "--dir", "demo.db"],
    ] {
        let mut child = saequel(shared())
            .args(&arguments)
            .current_dir(scratch.path(""))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start saequel");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("wait");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{arguments:?}: {said}");
    }
}

#[test]
fn a_running_server_sees_a_new_corpus() {
    let scratch = Scratch::new();
    let db = scratch.path("x.db");
    succeed(saequel(&db).args(["sql", "CREATE CONCEPT sorry AS (1)"]));
    let mut server = saequel(&db)
        .args(["serve", "--no-postgres", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("start saequel");
    let mut line = String::new();
    BufReader::new(server.stdout.as_mut().expect("stdout")).read_line(&mut line).expect("a line");
    let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("an address");
    let get = |request: &str, body: &str| {
        let mut stream = TcpStream::connect(address).expect("connect");
        let length = body.len();
        let head = format!("{request} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}");
        stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).expect("send");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    };
    let count = |corpus: &str| get("POST /v1/sql?format=csv", &format!("SELECT count(*) AS n FROM {corpus}"));
    assert!(count("answers").starts_with("HTTP/1.1 404"));
    import(&db, 3);
    let (counted, tables) = (count("answers"), get("GET /v1/tables", ""));
    let _ = server.kill();
    let _ = server.wait();
    assert!(counted.starts_with("HTTP/1.1 200") && counted.contains("n\n3\n"), "{counted}");
    assert!(tables.contains("\"name\":\"answers\""), "{tables}");
}

#[test]
fn rows_set_aside_are_counted_and_the_first_are_named() {
    let scratch = Scratch::new();
    let file = scratch.write("docs.jsonl", ["{\"text\": \"fine\"}\n", &"{torn\n".repeat(1500)].concat().as_bytes());
    let mut command = saequel(scratch.path("x.db"));
    command.arg("import").arg(file).args(["--corpus", "docs", "--set-aside", "--quiet"]);
    let output = command.output().expect("run saequel");
    let (told, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && told.contains("1500 set aside"), "{told}{said}");
    assert!(said.contains("line 2") && said.lines().count() <= 11, "{said}");
}

#[test]
fn the_demo_leaves_the_database_of_the_user_alone() {
    let scratch = Scratch::new();
    let file = scratch.write("docs.jsonl", b"{\"answer\": \"my own\"}\n{\"answer\": \"my other own\"}\n");
    let mine = scratch.path("mine.db");
    succeed(saequel(&mine).arg("import").arg(file).args(["--corpus", "answers", "--text", "answer"]));
    let demo = || {
        let mut command = Command::new(program());
        command.env("SAEQUEL_DB", &mine).current_dir(scratch.path("")).arg("demo");
        command
    };
    // Its own database cannot be opened here, and it takes no other.
    scratch.write("saequel-demo.db", b"not a folder");
    let (_, said) = fail(demo().arg("--discard"));
    assert!(said.contains("saequel-demo.db"), "{said}");
    for arguments in [vec![], vec!["--discard"]] {
        let (code, said) = fail(demo().arg("--dir").arg(&mine).args(&arguments));
        assert!(
            code == 5 && said.contains("2 documents in its corpus answers") && said.contains("--dir"),
            "{code} {said}"
        );
    }
    let count = succeed(saequel(&mine).args(["sql", "SELECT count(*) AS n FROM answers", "--format", "csv"]));
    assert_eq!(count, "n\n2\n");
}

#[test]
fn weights_are_looked_at_and_left_alone() {
    let scratch = Scratch::new();
    let reader = scratch.path("readers/all-MiniLM-L6-v2");
    let model = |arguments: &[&str]| {
        let mut command = Command::new(program());
        command.env("SAEQUEL_CACHE", scratch.path("")).arg("model").args(arguments);
        command
    };
    let (code, said) = fail(&mut model(&["verify"]));
    assert!(
        code == 4 && said.contains("missing: config.json") && said.contains("saequel model fetch"),
        "{code} {said}"
    );
    std::fs::create_dir_all(&reader).expect("make the cache");
    std::fs::write(reader.join("config.json"), b"damaged").expect("write a damaged file");
    let (code, said) = fail(&mut model(&["verify"]));
    assert!(code == 3 && said.contains("damaged: config.json"), "{code} {said}");
    let listed = succeed(&mut model(&["list", "--format", "csv"]));
    assert!(listed.contains("all-MiniLM-L6-v2,false,\"damaged: config.json; missing: tokenizer.json"), "{listed}");
    assert_eq!(std::fs::read(reader.join("config.json")).expect("read it again"), b"damaged");
    assert!(!reader.join("model.safetensors").exists());
    assert!(succeed(Command::new(program()).args(["model", "verify"])).contains("right checksum"));
}

#[test]
fn features_are_found_shown_and_named() {
    let scratch = Scratch::new();
    let db = scratch.path("x.db");
    import(&db, 8);
    let column = "SELECT feature_id FROM saequel.features WHERE NOT hidden ORDER BY feature_id LIMIT 2";
    let ids = succeed(saequel(&db).args(["sql", column, "--format", "csv"]));
    let ids: Vec<&str> = ids.lines().skip(1).collect();
    let shown = succeed(saequel(&db).args(["features", "show", ids[0]]));
    assert!(shown.contains("feature_id") && shown.contains("density"), "{shown}");
    let renamed = succeed(saequel(&db).args(["features", "rename", ids[0], "my own label"]));
    assert!(renamed.contains("my own label"), "{renamed}");
    let labels = succeed(saequel(&db).args(["features", "export-labels"]));
    assert!(labels.contains("my own label"), "{labels}");
    let new = format!("feature_id,label,description,detection\n{},\"other, label\",Says other things.,0.875\n", ids[1]);
    let file = scratch.write("labels.csv", new.as_bytes());
    assert!(succeed(saequel(&db).args(["features", "import-labels"]).arg(&file)).contains("1 of 1"));
    assert!(succeed(saequel(&db).args(["features", "import-labels"]).arg(&file)).contains("0 of 1"));
    let shown = succeed(saequel(&db).args(["features", "show", ids[1]]));
    assert!(shown.contains("Says other things.") && shown.contains("0.875"), "{shown}");
    let labels = succeed(saequel(&db).args(["features", "export-labels"]));
    assert!(labels.contains("\"other, label\",Says other things.,"), "{labels}");
    let found = succeed(saequel(&db).args(["features", "search", "things", "--words-only", "--format", "csv"]));
    assert!(found.contains("other, label"), "{found}");
    let query =
        format!("SELECT label FROM saequel.features WHERE feature_id IN ({}, {}) ORDER BY feature_id", ids[0], ids[1]);
    let found = succeed(saequel(&db).args(["sql", &query, "--format", "csv"]));
    assert_eq!(found, "label\nmy own label\n\"other, label\"\n");
    // What was exported changes nothing, and a name is still by whom it was.
    let exported = scratch.write("exported.csv", labels.as_bytes());
    let said = succeed(saequel(&db).args(["features", "import-labels"]).arg(&exported));
    assert!(said.starts_with("0 of "), "{said}");
    let query = format!("SELECT label_source FROM saequel.features WHERE feature_id = {}", ids[0]);
    let found = succeed(saequel(&db).args(["sql", &query, "--format", "csv"]));
    assert_eq!(found, "label_source\nuser\n");
}

/// Contexts of a feature that are for finding a label, or for testing one.
fn contexts<'a>(feature: &'a Value, split: &'a str) -> impl Iterator<Item = &'a Value> {
    let all = feature["contexts"].as_array().expect("contexts");
    all.iter().filter(move |context| context["split"] == split)
}

#[test]
fn evidence_keeps_test_and_label_apart_and_tells_right_from_wrong_labels() {
    let scratch = Scratch::new();
    let file = scratch.path("evidence.jsonl");
    succeed(saequel(shared()).args(["features", "evidence", "--corpus", "answers", "--output"]).arg(&file));
    let lines = std::fs::read_to_string(&file).expect("the evidence");
    let features: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let on_one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let documents: Vec<String> = sql("SELECT answer FROM answers", &["--format", "jsonl"])
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .map(|row| on_one_line(row["answer"].as_str().expect("text")))
        .collect();
    assert!(features.len() > 500, "{} features", features.len());
    let mut n_found = 0;
    for feature in &features {
        let documents_of = |split: &str| -> BTreeSet<usize> {
            let texts = contexts(feature, split).map(|context| context["text"].as_str().expect("text"));
            let places = texts.filter_map(|text| {
                assert!(text.contains('«') && text.contains('»') && !text.contains("«»"), "{text}");
                let plain = text.replace(['«', '»'], "");
                let mut places = (0..documents.len()).filter(|i| documents[*i].contains(&plain));
                let first = places.next().unwrap_or_else(|| panic!("'{plain}' is in no document"));
                // Short contexts may be in several documents: they tell nothing.
                places.next().is_none().then_some(first)
            });
            places.collect()
        };
        let (label, test) = (documents_of("label"), documents_of("test"));
        assert!(label.is_disjoint(&test), "{feature}");
        n_found += label.len().min(test.len());
        let strongest: Vec<f64> = contexts(feature, "label")
            .filter(|context| context["band"] == "strongest")
            .map(|context| context["activation"].as_f64().expect("number"))
            .collect();
        assert!(strongest.is_sorted_by(|a, b| a >= b), "{feature}");
    }
    assert!(n_found > 1000, "{n_found} contexts were placed");

    // Features of one frequent word, and what their labels score: right ones, and each with the next one's label.
    let is_clear = |feature: &&Value| {
        let word = &feature["words"][0];
        let lexical = word["word"].as_str().is_some_and(|word| word.len() > 3 && word.chars().all(char::is_alphabetic));
        let present = contexts(feature, "test").filter(|context| context["activation"] != 0.0).count();
        lexical && word["share"].as_f64() > Some(0.5) && present > 4
    };
    let clear: Vec<&Value> = features.iter().filter(is_clear).take(6).collect();
    assert!(clear.len() > 3, "{} features are clear", clear.len());
    let few: String = clear.iter().map(|feature| format!("{feature}\n")).collect();
    let few = scratch.write("few.jsonl", few.as_bytes());
    let dir = scratch.path("dictionary");
    std::fs::create_dir(&dir).expect("a folder");
    let dictionary = clear[0]["dictionary"].as_str().expect("a name");
    for name in ["sae.json", "sae.safetensors", "features.jsonl"] {
        std::fs::copy(shared().join("saes").join(dictionary).join(name), dir.join(name)).expect("a copy");
    }
    let detect = || {
        let mut command = Command::new(program());
        succeed(command.args(["sae", "detect", "--write", "--evidence"]).arg(&few).arg(&dir));
        let lines = std::fs::read_to_string(dir.join("features.jsonl")).expect("features");
        let latents: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let ids = clear.iter().map(|feature| feature["latent"].as_u64().expect("latent") as usize);
        (ids.collect::<Vec<_>>(), latents)
    };
    let mean = |ids: &[usize], latents: &[Value]| {
        let scores = ids.iter().map(|id| latents[*id]["detection"].as_f64().expect("a score"));
        scores.sum::<f64>() / ids.len() as f64
    };
    let (ids, mut latents) = detect();
    let right = mean(&ids, &latents);
    let names: Vec<Value> = ids.iter().map(|id| latents[*id].clone()).collect();
    for (id, other) in ids.iter().zip(names.iter().cycle().skip(1)) {
        for field in ["label", "description"] {
            latents[*id][field] = other[field].clone();
        }
    }
    let text: String = latents.iter().map(|latent| format!("{latent}\n")).collect();
    std::fs::write(dir.join("features.jsonl"), text).expect("write wrong labels");
    let (ids, latents) = detect();
    let wrong = mean(&ids, &latents);
    assert!(right > 0.7 && right > wrong + 0.15, "right {right}, wrong {wrong}");

    let table = succeed(saequel(shared()).args([
        "features",
        "evidence",
        &ids[0].to_string(),
        "--corpus",
        "answers",
        "--format",
        "table",
    ]));
    assert!(table.contains("Strongest:") && table.contains("Others, at random:"), "{table}");
    for (code, arguments, part) in [
        (2, vec!["features", "evidence"], "--corpus"),
        (4, vec!["features", "evidence", "--work", "nowhere"], "there is no harvest.json"),
        (4, vec!["features", "evidence", "no such feature", "--corpus", "answers"], "'no such feature'"),
        (4, vec!["features", "evidence", "--corpus", "anwsers"], "corpus 'anwsers' not found"),
    ] {
        let (found, said) = fail(saequel(shared()).args(&arguments));
        assert!(found == code && said.contains(part), "{arguments:?}: {found} {said}");
    }
    let other = scratch.write("other.jsonl", clear[0].to_string().replace(dictionary, "other").as_bytes());
    let (code, said) = fail(Command::new(program()).args(["sae", "detect", "--evidence"]).arg(other).arg(&dir));
    assert!(code == 3 && said.contains("of dictionary 'other'"), "{code} {said}");
}

#[test]
fn upkeep() {
    let scratch = Scratch::new();
    let db = scratch.path("x.db");
    import(&db, 4);
    let again = import(&db, 6);
    assert!(again.contains("2 added") && again.contains("4 there already"), "{again}");
    assert!(succeed(saequel(&db).arg("compact")).starts_with("answers"));
    let checks = succeed(saequel(&db).arg("doctor"));
    assert!(checks.lines().all(|line| line.starts_with("ok")) && checks.contains("6 documents"), "{checks}");
    for part in [
        "write access",
        "minilm-l4-token-4096 sees",
        "minilm-l4-span-2048 misses",
        "by reading what they fire on",
        "fit of answers: minilm-l4-token-4096 leaves ",
        "words of answers",
        "indexes of answers",
        "reader all-MiniLM-L6-v2",
    ] {
        assert!(checks.contains(part), "{part}: {checks}");
    }
    // Weights that are not there yet are no damage, and are not fetched.
    let cache = scratch.path("cache");
    let checks = succeed(saequel(&db).env("SAEQUEL_CACHE", &cache).arg("doctor"));
    assert!(checks.contains("missing: config.json") && !cache.exists(), "{checks}");
    // A database that does not open is a check that fails.
    std::fs::remove_dir_all(db.join("catalog")).expect("damage the database");
    let output = saequel(&db).arg("doctor").output().expect("run saequel");
    let (told, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.code() == Some(3) && told.starts_with("BAD  opening: "), "{told}{said}");
}

/// Runs the program as somebody who may read the database and not write it.
#[cfg(unix)]
#[test]
fn a_database_of_somebody_else_is_read() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    let scratch = Scratch::new();
    let root = scratch.path("");
    let db = scratch.path("x.db");
    import(&db, 3);
    let allow = |mode: u32| {
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(mode)).expect("permissions");
            let entries = std::fs::read_dir(&folder).expect("list").flatten().map(|entry| entry.path());
            folders.extend(entries.filter(|entry| entry.is_dir()));
        }
    };
    // Nothing is denied to root, and another may not get at the program where it was built.
    let is_root = std::fs::metadata(&root).expect("metadata").uid() == 0;
    let program = scratch.path("saequel");
    if is_root && std::fs::hard_link(saequel_tests::program(), &program).is_err() {
        std::fs::copy(saequel_tests::program(), &program).expect("copy the program");
    }
    allow(0o555);
    let run = |arguments: &[&str]| {
        let mut command = if is_root { std::process::Command::new(&program) } else { saequel(&db) };
        if is_root {
            command.env_remove("SAEQUEL_DB").arg("--db").arg(&db).uid(65534);
        }
        command.args(arguments).output().expect("run saequel")
    };
    let counted = run(&["sql", "SELECT count(*) AS n FROM answers", "--format", "csv"]);
    let found = run(&["sql", "SELECT count(*) FROM retrieve('answers', 'sorry', signals => 'words')"]);
    let checked = run(&["doctor"]);
    std::fs::set_permissions(db.join("catalog"), std::fs::Permissions::from_mode(0o700)).expect("permissions");
    let denied = run(&["sql", "SELECT 1"]);
    allow(0o755);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(text(&counted.stdout), "n\n3\n", "{}", text(&counted.stderr));
    assert!(found.status.success(), "{}", text(&found.stderr));
    let said = text(&checked.stdout) + &text(&checked.stderr);
    assert!(said.contains("nothing can be written here") && !said.contains("PermissionDenied"), "{said}");
    if is_root {
        let said = text(&denied.stderr);
        assert!(denied.status.code() == Some(5) && said.contains("cannot be read"), "{said}");
    }
}

#[test]
fn names_that_are_not_there_are_told() {
    let scratch = Scratch::new();
    let labels = scratch.write("labels.jsonl", b"{\"feature_id\": 1, \"label\": \"x\"}\n");
    let (code, said) = fail(saequel(shared()).args(["features", "import-labels", "--dictionary", "nope"]).arg(&labels));
    assert!(code == 4 && said.contains("dictionary 'nope' not found"), "{code} {said}");
    let nowhere = ["serve", "--listen", "127.0.0.1:0", "--no-postgres", "--allow-dir", "/nope"];
    let (code, said) = fail(saequel(shared()).args(nowhere));
    assert!(code == 4 && said.contains("'/nope'"), "{code} {said}");
    let (code, said) = fail(saequel(shared()).args(["import", "csvs/*.csv", "--corpus", "docs"]));
    assert!(code == 4 && said.contains("a folder, of which it reads every file"), "{code} {said}");
    let mut token = saequel(shared());
    token.args(["token", "create", "one", "--corpus", "nope", "--tokens"]).arg(scratch.path("tokens.json"));
    let output = token.output().expect("run saequel");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("no corpus of this name is there yet: nope"), "{said}");
}

#[cfg(unix)]
#[test]
fn an_import_that_is_told_to_end_says_so() {
    let scratch = Scratch::new();
    let file = scratch.write("docs.jsonl", "{\"text\": \"a text of some words\"}\n".repeat(20_000).as_bytes());
    let db = scratch.path("x.db");
    let mut command = saequel(&db);
    command.arg("import").arg(&file).args(["--corpus", "docs"]).stderr(Stdio::piped());
    let child = command.spawn().expect("start saequel");
    std::thread::sleep(std::time::Duration::from_secs(4));
    let told = std::process::Command::new("kill").arg(child.id().to_string()).status();
    assert!(told.expect("kill").success());
    let output = child.wait_with_output().expect("wait");
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    let state = succeed(saequel(&db).args(["sql", "SELECT state FROM saequel.jobs", "--format", "csv"]));
    assert_eq!(state, "state\ninterrupted\n");
}
