//! `saequel serve`: SQL over HTTP as clients speak it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use saequel_tests::{Scratch, fail, saequel, stderr, succeed};
use serde_json::{Value, json};

const N_DOCS: usize = 20;

/// A corpus `answers` that tests only read.
fn shared() -> &'static Path {
    static SHARED: OnceLock<(Scratch, PathBuf)> = OnceLock::new();
    let (_, db) = SHARED.get_or_init(|| {
        let scratch = Scratch::new();
        let db = scratch.path("shared.db");
        let answers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data/answers.jsonl");
        let mut command = saequel(&db);
        command.arg("import").arg(answers).args(["--corpus", "answers", "--text", "answer", "--key", "doc_id"]);
        succeed(command.args(["--limit", &N_DOCS.to_string()]));
        (scratch, db)
    });
    db
}

/// A running server; killed at the end of the test.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut command = saequel(shared());
        command.args(["serve", "--listen", "127.0.0.1:0", "--no-postgres"]).args(arguments).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start saequel");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("stdout")).read_line(&mut line).expect("a line");
        let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("an address");
        Self { address: address.to_owned(), child }
    }

    /// Sends a request over a connection of its own, which it returns.
    fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).expect("connect");
        let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| *name == "host") {
            head.push_str(&format!("host: {}\r\n", self.address));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).expect("send");
        let _ = stream.write_all(body); // a server that refuses a large body may hang up early
        stream
    }

    /// Sends a request; the answer as it came, however it ended.
    fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let mut answer = Vec::new();
        let _ = self.request(method, path, headers, body).read_to_end(&mut answer);
        answer
    }

    /// Sends a request; status, head and body of the answer.
    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, String, Vec<u8>) {
        let answer = self.raw(method, path, headers, body);
        let split = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer");
        let head = String::from_utf8(answer[..split].to_vec()).expect("head").to_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let rest = &answer[split + 4..];
        let body = if head.contains("transfer-encoding: chunked") { unchunked(rest) } else { rest.to_vec() };
        (status, head, body)
    }

    /// `POST /v1/sql` with a plain statement.
    fn sql(&self, statement: &str, format: &str) -> (u16, Vec<u8>) {
        let (status, _, body) = self.send(
            "POST",
            &format!("/v1/sql?format={format}"),
            &[("content-type", "text/plain")],
            statement.as_bytes(),
        );
        (status, body)
    }

    /// `POST /v1/sql` with a JSON body; the answer as JSON.
    fn ask(&self, body: &Value) -> (u16, Value) {
        let headers = [("content-type", "application/json")];
        let (status, _, body) = self.send("POST", "/v1/sql", &headers, body.to_string().as_bytes());
        (status, serde_json::from_slice(&body).expect("JSON"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Joins chunks; stops where a broken transfer stops.
fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let size = std::str::from_utf8(&rest[..end]).ok().and_then(|hex| usize::from_str_radix(hex, 16).ok());
        match size {
            Some(size) if size > 0 && rest.len() >= end + 2 + size + 2 => {
                body.extend_from_slice(&rest[end + 2..end + 2 + size]);
                rest = &rest[end + 2 + size + 2..];
            }
            _ => break,
        }
    }
    body
}

#[test]
fn answers_are_those_of_the_command_line_in_every_format() {
    let server = Server::start(&[]);
    let statement = "SELECT doc_id, topic, n_tokens FROM answers ORDER BY doc_id";
    for format in ["csv", "tsv", "jsonl", "json", "table", "markdown"] {
        let (status, body) = server.sql(statement, format);
        assert_eq!(status, 200);
        let told = succeed(saequel(shared()).env_remove("COLUMNS").args(["sql", statement, "--format", format]));
        assert_eq!(String::from_utf8_lossy(&body), told, "{format}");
    }
    let (status, body) = server.sql(statement, "arrow");
    let stream = arrow::ipc::reader::StreamReader::try_new(body.as_slice(), None).expect("an Arrow stream");
    let n_rows: usize = stream.map(|batch| batch.expect("rows").num_rows()).sum();
    assert_eq!((status, n_rows), (200, N_DOCS));
    let accept = [("content-type", "text/plain"), ("accept", "text/csv")];
    let (_, head, body) = server.send("POST", "/v1/sql", &accept, b"SELECT 1 AS one;");
    assert!(head.contains("content-type: text/csv"), "{head}");
    assert_eq!(body, b"one\n1\n");
}

#[test]
fn analyses_are_the_same_by_command_sql_and_http() {
    let server = Server::start(&[]);
    let (a, b) = ("answers WHERE assistant = 'heron'", "answers WHERE assistant = 'finch'");
    for arguments in [
        vec!["diff", a, b, "--paired-by", "prompt_id", "--limit", "15"],
        vec!["correlate", "answers", "--limit", "10"],
        vec!["cluster", "answers", "--k", "3", "--seed", "7"],
        vec!["cluster", "answers", "--k", "3", "--documents"],
        vec!["retrieve", "answers", "apologises; it can't help", "--k", "4"],
    ] {
        let output = saequel(shared()).args(&arguments).args(["--format", "csv", "--show-sql"]).output().expect("run");
        let (by_command, said) = (String::from_utf8(output.stdout.clone()).expect("UTF-8"), stderr(&output));
        assert!(output.status.success() && by_command.lines().count() > 1, "{arguments:?}: {by_command}{said}");
        let statement = said.lines().find(|line| line.starts_with("SELECT")).expect("the statement");
        let by_sql = succeed(saequel(shared()).args(["sql", statement, "--format", "csv"]));
        assert_eq!(by_sql, by_command, "{statement}");
        let (status, by_http) = server.sql(statement, "csv");
        assert_eq!((status, String::from_utf8_lossy(&by_http).as_ref()), (200, by_command.as_str()), "{statement}");
    }
}

#[test]
fn analyses_and_parameters() {
    let server = Server::start(&[]);
    let (status, answer) = server.ask(&json!({
        "sql": "SELECT doc_id FROM retrieve($1, $2, k => $3)",
        "params": ["answers WHERE assistant = 'finch'", "it's a list", 3],
        "format": "json_compact",
    }));
    assert_eq!((status, &answer["row_count"]), (200, &json!(3)), "{answer}");
    assert!(answer["rows"][0][0].as_str().expect("doc_id").starts_with("finch"));
    let (_, answer) =
        server.ask(&json!({"sql": "SELECT $name AS x, $n + 1 AS y", "params": {"name": "'; --", "n": 2}}));
    assert_eq!(answer, json!([{"x": "'; --", "y": 3}]));
    let (status, body) = server.sql(
        "SELECT * FROM diff('answers WHERE assistant = ''heron''', 'answers WHERE assistant = ''finch''') LIMIT 5",
        "csv",
    );
    assert_eq!(status, 200);
    assert_eq!(String::from_utf8(body).expect("UTF-8").lines().count(), 6);
}

#[test]
fn errors_have_a_status_and_say_why() {
    let server = Server::start(&["--max-body", "2KB"]);
    for (status, kind, statement) in [
        (400, "query", "SELEC 1"),
        (400, "query", "SELECT nothing FROM answers"),
        (404, "not_found", "SELECT * FROM nowhere"),
        (403, "denied", "DROP CORPUS answers"),
        (403, "denied", "SELECT * FROM '/etc/passwd.csv'"),
        (400, "query", ""),
        (400, "query", "SELECT 1; SELECT 2"),
    ] {
        let (found, body) = server.sql(statement, "csv");
        let error: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!((found, &error["error"]["kind"]), (status, &json!(kind)), "{statement}: {error}");
        assert_eq!(error["error"]["sqlstate"].as_str().map(str::len), Some(5), "{error}");
        assert!(!error["error"]["message"].as_str().expect("a message").is_empty());
    }
    let plain = [("content-type", "text/plain")];
    assert_eq!(server.send("POST", "/v1/sql", &plain, &vec![b' '; 5000]).0, 413);
    assert_eq!(server.send("POST", "/v1/sql?format=xml", &plain, b"SELECT 1").0, 400);
    assert_eq!(server.send("POST", "/v1/sql", &[("content-type", "image/png")], b"SELECT 1").0, 415);
    assert_eq!(server.send("POST", "/v1/sql", &[("accept", "image/png")], b"SELECT 1").0, 406);
    assert_eq!(server.send("PUT", "/v1/sql", &[], b"").0, 405);
    assert_eq!(server.send("GET", "/v1/sql", &[], b"").0, 400);
    assert_eq!(server.send("GET", "/nowhere", &[], b"").0, 404);
    let (status, answer) = server.ask(&json!({"sql": "SELECT 1", "parms": []}));
    assert!(status == 400 && answer["error"]["message"].as_str().expect("a message").contains("parms"), "{answer}");
    // What was asked wrongly has broken nothing.
    assert_eq!(server.sql("SELECT count(*) FROM answers", "csv").1, format!("count(*)\n{N_DOCS}\n").into_bytes());
}

#[test]
fn a_foreign_page_cannot_ask() {
    let server = Server::start(&[]);
    let plain = ("content-type", "text/plain");
    for header in [("host", "rebound.example.org"), ("origin", "https://example.org"), ("origin", "null")] {
        assert_eq!(server.send("POST", "/v1/sql", &[plain, header], b"SELECT 1").0, 403, "{header:?}");
    }
    for header in [("host", "localhost"), ("origin", "http://localhost:3000")] {
        assert_eq!(server.send("POST", "/v1/sql", &[plain, header], b"SELECT 1").0, 200, "{header:?}");
    }
}

#[test]
fn a_long_query_ends_and_others_are_told_to_wait() {
    let server = Server::start(&["--timeout", "2", "--max-queries", "1", "--max-wait", "0.5"]);
    let slow = "SELECT count(*) FROM generate_series(1, 100000) a CROSS JOIN generate_series(1, 1000000) b WHERE (a.value * b.value) % 7 = 3";
    std::thread::scope(|scope| {
        let began = Instant::now();
        let long = scope.spawn(|| server.sql(slow, "json"));
        std::thread::sleep(Duration::from_millis(500));
        let (status, head, _) = server.send("POST", "/v1/sql", &[("content-type", "text/plain")], b"SELECT 1");
        assert!(status == 429 && head.contains("retry-after"), "{head}");
        assert_eq!(server.send("GET", "/health", &[], b"").0, 200);
        let (status, body) = long.join().expect("joined");
        let error: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!((status, &error["error"]["sqlstate"]), (504, &json!("57014")), "{error}");
        assert!(began.elapsed() < Duration::from_secs(20));
    });
    assert!(soon(|| server.sql("SELECT 1", "csv").0 == 200), "the query that took too long still holds its place");
}

#[test]
fn a_client_that_hangs_up_frees_its_place() {
    let server = Server::start(&["--max-queries", "1"]);
    let slow = b"SELECT count(*) FROM generate_series(1, 1000000000000) WHERE value % 7 = 3";
    let client = server.request("POST", "/v1/sql", &[("content-type", "text/plain")], slow);
    std::thread::sleep(Duration::from_millis(500)); // so that the slow query is the first
    assert!(soon(|| server.sql("SELECT 1", "csv").0 == 429), "the slow query takes the only place");
    drop(client);
    assert!(soon(|| server.sql("SELECT 1", "csv").0 == 200), "a query that nobody waits for still holds its place");
}

/// Whether something comes true within 20 seconds.
fn soon(mut holds: impl FnMut() -> bool) -> bool {
    (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        holds()
    })
}

#[test]
fn an_error_in_mid_stream_is_no_complete_answer() {
    let server = Server::start(&[]);
    let statement = "SELECT 1 / (200000 - value) AS x FROM generate_series(1, 300000)";
    let (status, body) = server.sql(statement, "jsonl");
    let text = String::from_utf8(body).expect("UTF-8");
    let last: Value = serde_json::from_str(text.lines().next_back().expect("a line")).expect("JSON");
    assert!(status == 200 && text.lines().count() > 1000, "{status}, {} lines", text.lines().count());
    assert!(last["error"]["message"].as_str().is_some_and(|message| message.contains("zero")), "{last}");
    // What has no place for an error breaks off without the mark of the end.
    let plain = [("content-type", "text/plain")];
    let end = b"\r\n0\r\n\r\n";
    let whole = server.raw("POST", "/v1/sql?format=csv", &plain, b"SELECT value FROM generate_series(1, 300000)");
    let broken = server.raw("POST", "/v1/sql?format=csv", &plain, statement.as_bytes());
    assert!(whole.ends_with(end) && !broken.ends_with(end));
    assert!(broken.len() > 10_000, "{}", String::from_utf8_lossy(&broken));
}

#[test]
fn a_large_result_streams_whole() {
    let server = Server::start(&[]);
    let (status, body) = server.sql("SELECT value FROM generate_series(1, 300000)", "csv");
    assert_eq!(status, 200);
    let text = String::from_utf8(body).expect("UTF-8");
    assert_eq!((text.lines().count(), text.lines().next_back()), (300_001, Some("300000")));
}

#[test]
fn it_stops_in_good_order_and_listens_to_this_machine_only() {
    let mut server = Server::start(&[]);
    let (status, _, body) = server.send("GET", "/health", &[], b"");
    let health: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!((status, &health["status"]), (200, &json!("ok")));
    assert!(Command::new("kill").arg(server.child.id().to_string()).status().expect("kill").success());
    let began = Instant::now();
    let ended = loop {
        if let Some(status) = server.child.try_wait().expect("wait") {
            break status;
        }
        assert!(began.elapsed() < Duration::from_secs(15), "still running");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(ended.success());
    let (code, said) = fail(saequel(shared()).args(["serve", "--listen", "0.0.0.0:0", "--no-postgres"]));
    assert!(code == 5 && said.contains("other machines") && said.contains("hint:"), "{code} {said}");
    let (code, said) = fail(saequel(shared().with_file_name("nowhere.db")).args([
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--no-postgres",
    ]));
    assert!(code == 4 && said.contains("nowhere.db"), "{code} {said}");
}

#[test]
fn a_reader_that_reads_no_further_keeps_no_query() {
    let server = Server::start(&["--timeout", "2"]);
    let plain = [("content-type", "text/plain")];
    let endless = b"SELECT value FROM generate_series(1, 10000000000)";
    let stalled = server.request("POST", "/v1/sql?format=csv&query_id=stalled", &plain, endless);
    let began = Instant::now();
    let state = loop {
        let (_, _, body) = server.send("GET", "/v1/queries/stalled", &[], b"");
        let query: Value = serde_json::from_slice(&body).expect("JSON");
        if query["state"] == "cancelled" || began.elapsed() > Duration::from_secs(10) {
            break query;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    drop(stalled);
    assert_eq!(state["state"], "cancelled", "{state}");
    assert!(state["error"].as_str().is_some_and(|error| error.contains("longer than 2 s")), "{state}");
}

#[test]
fn values_are_taken_exactly_or_not_at_all() {
    let server = Server::start(&["--write"]);
    let body = br#"{"sql": "SELECT $1 AS n", "params": [100000000000000000000]}"#;
    let (status, _, said) = server.send("POST", "/v1/sql", &[("content-type", "application/json")], body);
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(status == 400 && said.contains("100000000000000000000 does not fit into 64 bits"), "{said}");
    let (status, said) = server.ask(&json!({"sql": "DELETE FROM answers WHERE doc_id = $1", "params": ["none"]}));
    assert_eq!(status, 400);
    assert!(said.to_string().contains("DELETE: parameters are not supported here"), "{said}");
}
