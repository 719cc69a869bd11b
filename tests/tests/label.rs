//! `saequel label` against a stand-in for a chat endpoint: it finds its answers in the prompts, so that a prompt that lacks
//! what it should hold, or an answer that goes astray, is seen in the labels.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use saequel_tests::{Scratch, fail, query_column, saequel, stderr, succeed};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

const DICTIONARY: &str = "minilm-l4-token-4096";
const KEY: &str = "sk-right-0123456789";

/// What the stand-in does with a request.
#[derive(Debug, Clone, PartialEq)]
enum Do {
    /// Answers as a good model would.
    Answer,
    /// Answers with this text.
    Say(&'static str),
    /// Answers with this HTTP status, header `retry-after` and body.
    Status(u16, Option<u64>, &'static str),
}

/// A request that came in.
#[derive(Debug, Clone)]
struct Seen {
    at: Instant,
    body: Value,
    did: Do,
    n_tokens: u64,
}

impl Seen {
    /// System prompt and questions.
    fn text(&self) -> String {
        let messages = self.body["messages"].as_array().expect("messages");
        messages.iter().map(|message| message["content"].as_str().expect("content").to_owned() + "\n").collect()
    }
}

/// How the stand-in behaves: by the number of the request, from 0, and its body.
type Behaviour = dyn Fn(usize, &Value) -> Do + Send + Sync;

struct Stand {
    behaviour: Box<Behaviour>,
    delay: Duration,
    key: Option<&'static str>,
    seen: Mutex<Vec<Seen>>,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

/// A running stand-in; gone when dropped.
struct Server {
    stand: Arc<Stand>,
    url: String,
    _runtime: Runtime,
}

impl Server {
    fn start(behaviour: impl Fn(usize, &Value) -> Do + Send + Sync + 'static) -> Self {
        Self::with(Duration::ZERO, None, behaviour)
    }

    fn with(
        delay: Duration,
        key: Option<&'static str>,
        behaviour: impl Fn(usize, &Value) -> Do + Send + Sync + 'static,
    ) -> Self {
        let stand = Arc::new(Stand {
            behaviour: Box::new(behaviour),
            delay,
            key,
            seen: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
        });
        let runtime = Runtime::new().expect("a runtime");
        let app = Router::new().route("/v1/chat/completions", post(answer)).with_state(Arc::clone(&stand));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let url = format!("http://{}/v1", listener.local_addr().expect("an address"));
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { stand, url, _runtime: runtime }
    }

    fn seen(&self) -> Vec<Seen> {
        self.stand.seen.lock().expect("what was seen").clone()
    }

    fn n_requests(&self) -> usize {
        self.seen().len()
    }
}

async fn answer(State(stand): State<Arc<Stand>>, headers: HeaderMap, body: String) -> Response {
    let now = stand.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
    stand.most_in_flight.fetch_max(now, Ordering::SeqCst);
    let body: Value = serde_json::from_str(&body).expect("a JSON body");
    let key = headers.get("authorization").map(|value| value.to_str().expect("a header").to_owned());
    let seen = {
        let mut all = stand.seen.lock().expect("what was seen");
        let did = match stand.key {
            Some(right) if key != Some(format!("Bearer {right}")) => Do::Status(401, None, "no"),
            _ => (stand.behaviour)(all.len(), &body),
        };
        let mut seen = Seen { at: Instant::now(), body, did, n_tokens: 0 };
        seen.n_tokens = n_tokens(&seen.text());
        all.push(seen.clone());
        seen
    };
    tokio::time::sleep(stand.delay).await;
    let response = match &seen.did {
        // A careless server, which repeats the key that it was sent.
        Do::Status(401, ..) => {
            (StatusCode::UNAUTHORIZED, format!("{{\"error\": \"bad key {key:?}\"}}")).into_response()
        }
        Do::Status(status, retry_after, text) => {
            let headers = retry_after.map(|seconds| [("retry-after", seconds.to_string())]);
            let status = StatusCode::from_u16(*status).expect("a status");
            match headers {
                Some(headers) => (status, headers, *text).into_response(),
                None => (status, *text).into_response(),
            }
        }
        Do::Say(text) => completion(&seen, (*text).to_owned()),
        Do::Answer => completion(&seen, good_answer(&seen.text())),
    };
    stand.in_flight.fetch_sub(1, Ordering::SeqCst);
    response
}

fn completion(seen: &Seen, text: String) -> Response {
    let body = json!({
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": seen.n_tokens, "completion_tokens": n_tokens(&text)},
    });
    axum::Json(body).into_response()
}

/// Tokens as a tokenizer may count them: one for each begun five letters of a word, one for each other mark.
fn n_tokens(text: &str) -> u64 {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let marks = text.chars().filter(|c| !c.is_alphanumeric() && !c.is_whitespace()).count() as u64;
    words.map(|word| word.chars().count().div_ceil(5) as u64).sum::<u64>() + marks
}

/// What is marked in `text`.
fn marked(text: &str) -> impl Iterator<Item = &str> {
    text.split('«').skip(1).filter_map(|rest| rest.split_once('»')).map(|(mark, _)| mark)
}

/// A label from the most frequent marked word before the texts where it is not; numbers of the texts with the label's last
/// word, marked if it is asked for marks.
fn good_answer(prompt: &str) -> String {
    let numbered = |shows: &dyn Fn(&str) -> bool| {
        let lines = prompt.lines().filter_map(|line| line.split_once(". ")?.0.parse().ok().zip(Some(line)));
        let numbers: Vec<u32> = lines.filter(|(_, line)| shows(line)).map(|(number, _)| number).collect();
        json!({ "numbers": numbers }).to_string()
    };
    if let Some((_, property)) = prompt.split_once("Property: ") {
        let word = property.lines().next().and_then(|label| label.split(' ').next_back()).expect("a label");
        return match prompt.contains("which marks are right") {
            true => numbered(&|line| line.contains(&format!("«{word}»"))),
            false => numbered(&|line| line.contains(word) && !line.contains('«')),
        };
    }
    let (_, examples) = prompt.split_once("It is active on").expect("statistics");
    let (active, _) = examples.split_once("NOT active").expect("texts where it is not");
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    marked(active).for_each(|word| *counts.entry(word).or_default() += 1);
    let (word, _) = counts.into_iter().max_by_key(|(_, count)| *count).expect("a mark");
    format!(
        "<think>hm {{}}</think>Here it is:\n```json\n{}\n```",
        json!({"label": format!("the word {word}"), "description": format!("Places where {word} is said.")})
    )
}

/// Evidence of feature `latent`, which is active on `word`; with its id in the database or without.
fn evidence(latent: u32, word: &str, with_id: bool) -> Value {
    let context = |band: &str, split: &str, activation: f64, text: String| json!({"band": band, "split": split, "activation": activation, "text": text});
    let mut contexts = Vec::new();
    for i in 0..5 {
        contexts.push(context("strongest", "label", 0.9, format!("the delay, and «{word}» for the {i} days of delay")));
        contexts.push(context("middle", "label", 0.5, format!("some people say «{word}» at least {i} times a day")));
        contexts.push(context("contrast", "label", 0.0, format!("the delay took {i} days, and nobody «said» a word")));
    }
    for i in 0..8 {
        let band = if i % 2 == 0 { "strongest" } else { "middle" };
        contexts.push(context(band, "test", 0.8, format!("unseen {i}, with «{word}» in the middle of it")));
        contexts.push(context("other", "test", 0.0, format!("unseen {i}, with nothing in the middle of it")));
    }
    contexts.push(context("weak", "label", 0.1, "it may be «faint» here".to_owned()));
    let mut evidence = json!({
        "version": 1, "dictionary": DICTIONARY, "latent": latent, "level": "token", "label": "old", "density": 0.001,
        "n_documents": 40, "max_activation": 0.9, "q50": 0.4, "q90": 0.8, "presence_threshold": 0.2,
        "words": [{"word": word, "share": 0.8, "precision": 0.9}], "contexts": contexts,
    });
    if with_id {
        evidence["feature_id"] = json!(latent);
    }
    evidence
}

/// A new database with the shipped dictionaries, evidence of some features with names made of words, and a cache.
struct Setting {
    scratch: Scratch,
    /// Latents, which in a new database are ids, and the words that they are made to stand for.
    words: BTreeMap<u32, String>,
}

impl Setting {
    fn new(n_features: usize) -> Self {
        let scratch = Scratch::new();
        let db = scratch.path("x.db");
        succeed(saequel(&db).args(["sql", "CREATE CONCEPT sorry AS (1)"]));
        let shown = "SELECT feature_id FROM saequel.features WHERE NOT hidden ORDER BY feature_id";
        let ids = query_column(&db, &format!("{shown} LIMIT {n_features}"), "feature_id").expect("ids");
        let ids = ids.iter().map(|id| id.parse().expect("a number"));
        let words: BTreeMap<u32, String> = ids.map(|id| (id, format!("kind{id}"))).collect();
        let lines = words.iter().map(|(id, word)| evidence(*id, word, id % 2 == 0).to_string() + "\n");
        scratch.write("evidence.jsonl", lines.collect::<String>().as_bytes());
        // The shipped names were written by reading; these have the ones that a new dictionary begins with.
        let names = words.iter().map(|(id, word)| format!("{id},made of {word}\n"));
        let names = format!("feature_id,label\n{}", names.collect::<String>());
        let file = scratch.write("names.csv", names.as_bytes());
        succeed(saequel(&db).args(["features", "import-labels", "--source", "words"]).arg(file));
        Self { scratch, words }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path(name)
    }

    fn label(&self, server: &Server, arguments: &[&str]) -> Command {
        self.label_with("stand-in", server, arguments)
    }

    fn label_with(&self, model: &str, server: &Server, arguments: &[&str]) -> Command {
        let mut command = saequel(self.path("x.db"));
        command.env_remove("SAEQUEL_LOG").arg("label").arg("--evidence").arg(self.path("evidence.jsonl"));
        command.args(["--endpoint", &server.url, "--model", model, "--cache"]).arg(self.path("cache"));
        command.args(arguments);
        command
    }

    /// Labels in the database of the features with evidence, by id.
    fn labels(&self) -> BTreeMap<u32, (String, String)> {
        let column = |name: &str| {
            let ids: Vec<String> = self.words.keys().map(u32::to_string).collect();
            let of = format!("FROM saequel.features WHERE feature_id IN ({}) ORDER BY feature_id", ids.join(", "));
            query_column(self.path("x.db"), &format!("SELECT {name} {of}"), name).expect("labels")
        };
        let values = column("label").into_iter().zip(column("label_source"));
        self.words.keys().copied().zip(values).collect()
    }

    /// Features whose label is the one that the stand-in gives.
    fn named(&self) -> BTreeSet<u32> {
        let labels = self.labels().into_iter();
        let right = labels.filter(|(id, (label, source))| {
            let named = *label == format!("the word {}", self.words[id]);
            assert_eq!(named, source == "llm:stand-in", "{id}: {label} from {source}");
            named
        });
        right.map(|(id, _)| id).collect()
    }

    fn cache(&self) -> String {
        std::fs::read_to_string(self.path("cache/answers.jsonl")).unwrap_or_default()
    }
}

/// Whether something comes true within a minute.
fn soon(mut holds: impl FnMut() -> bool) -> bool {
    (0..1200).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        holds()
    })
}

fn output(command: &mut Command) -> (Output, String) {
    let output = command.output().expect("run saequel");
    let said = stderr(&output);
    (output, said)
}

#[test]
fn names_arrive_and_no_question_is_paid_for_twice() {
    let setting = Setting::new(12);
    let server = Server::with(Duration::from_millis(60), None, |_, _| Do::Answer);
    let (done, said) = output(&mut setting.label(&server, &["--concurrency", "3", "--yes"]));
    let told = String::from_utf8(done.stdout).expect("UTF-8");
    assert!(done.status.success() && told.starts_with("12 features named; 12 requests"), "{told}{said}");
    assert_eq!(setting.named().len(), 12);
    assert_eq!(server.n_requests(), 12);
    assert_eq!(server.stand.most_in_flight.load(Ordering::SeqCst), 3);

    // What was said beforehand is about what the server counted.
    let about = said.split("tokens    about ").nth(1).and_then(|rest| rest.split(' ').next()).expect("an estimate");
    let estimated: f64 = about.replace(',', "").parse().expect("a number");
    let counted: u64 = server.seen().iter().map(|seen| seen.n_tokens).sum();
    assert!((0.75..1.35).contains(&(estimated / counted as f64)), "{estimated} estimated, {counted} counted");
    assert!(said.contains("on this machine") && said.contains("pieces of your texts"), "{said}");

    // Nobody who gives a name sees what it is tested on.
    assert!(server.seen().iter().all(|seen| !seen.text().contains("unseen")));

    let again = succeed(&mut setting.label(&server, &["--only", "shown", "--yes"]));
    assert!(again.starts_with("12 features named; 0 requests"), "{again}");
    let nothing = succeed(&mut setting.label(&server, &["--yes"]));
    assert!(nothing.starts_with("nothing to do"), "{nothing}");
    assert_eq!(server.n_requests(), 12);
    // Another model is another question.
    succeed(&mut setting.label_with("other", &server, &["--only", "shown", "--output", "-", "--yes"]));
    assert_eq!(server.n_requests(), 24);
}

#[test]
fn names_that_people_gave_stay() {
    let setting = Setting::new(3);
    let server = Server::start(|_, _| Do::Answer);
    let ids: Vec<String> = setting.words.keys().map(u32::to_string).collect();
    succeed(saequel(setting.path("x.db")).args(["features", "rename", &ids[0], "my own"]));
    succeed(&mut setting.label(&server, &["--only", "all", "--yes"]));
    assert_eq!((setting.named().len(), server.n_requests()), (2, 2));
    succeed(&mut setting.label(&server, &["my own", "--yes"]));
    assert_eq!((setting.named().len(), server.n_requests()), (3, 3));
    let (code, said) = fail(&mut setting.label(&server, &["no such name", "--yes"]));
    assert!(code == 4 && said.contains("no such name"), "{code} {said}");
    // Evidence of another database is not taken for this one's.
    let mut foreign = evidence(1, "x", true);
    foreign["feature_id"] = json!(2);
    setting.scratch.write("evidence.jsonl", foreign.to_string().as_bytes());
    let (code, said) = fail(&mut setting.label(&server, &["--only", "all", "--yes"]));
    assert!(code == 3 && said.contains("another database"), "{code} {said}");
}

#[test]
fn a_run_that_was_killed_or_stopped_asks_only_what_is_missing() {
    let setting = Setting::new(24);
    let slow = || Server::with(Duration::from_millis(150), None, |_, _| Do::Answer);
    let start = |server: &Server| {
        let mut command = setting.label(server, &["--concurrency", "2", "--yes"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("start saequel")
    };
    let n_cached = || setting.cache().lines().filter(|line| serde_json::from_str::<Value>(line).is_ok()).count();

    let server = slow();
    let mut child = start(&server);
    assert!(soon(|| n_cached() >= 6));
    child.kill().expect("kill");
    child.wait().expect("wait");
    let kept = n_cached();
    assert!((6..20).contains(&kept), "{kept}");
    assert!(setting.named().is_empty(), "names are stored together at the end");
    // The last line is torn.
    let torn = setting.cache();
    setting.scratch.write("cache/answers.jsonl", &torn.as_bytes()[..torn.trim_end().len() - 9]);
    let kept = kept - 1;

    // Ctrl-C waits for what is under way, stores what is done, and says how to go on.
    let server = slow();
    let child = start(&server);
    assert!(soon(|| n_cached() >= kept + 4));
    let signal = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(signal.success());
    let output = child.wait_with_output().expect("wait");
    let said = stderr(&output);
    assert!(output.status.code() == Some(130) && said.contains("goes on where it stopped"), "{said}");
    let n_named = setting.named().len();
    assert_eq!(n_named, kept + server.n_requests(), "every answer that was paid for is stored");
    assert!(n_named < 24, "{n_named}");

    let server = slow();
    let told = succeed(&mut setting.label(&server, &["--concurrency", "2", "--yes"]));
    assert_eq!((setting.named().len(), server.n_requests()), (24, 24 - n_named), "{told}");
}

#[test]
fn faults_that_pass_are_waited_out() {
    let setting = Setting::new(8);
    let server = Server::with(Duration::from_millis(30), None, |number, _| match number {
        0 => Do::Status(500, None, "boom"),
        3 => Do::Status(429, Some(2), "{\"error\": {\"message\": \"slow down\"}}"),
        5 => Do::Status(200, None, "<html>not JSON"),
        6 => Do::Say("I am only a model and name nothing."),
        _ => Do::Answer,
    });
    let told = succeed(&mut setting.label(&server, &["--concurrency", "2", "--yes"]));
    assert!(told.starts_with("8 features named; "), "{told}");
    assert_eq!((setting.named().len(), server.n_requests()), (8, 12));
    let seen = server.seen();
    let busy = seen[3].at;
    let early: Vec<Duration> = seen[4..].iter().map(|seen| seen.at - busy).filter(|t| t.as_millis() < 1990).collect();
    // One other request may have been under way when the first was told to wait.
    assert!(early.len() <= 1 && early.iter().all(|t| t.as_millis() < 500), "{early:?}");
    // Whoever wrote nonsense was told so.
    let told: Vec<String> = seen.iter().map(Seen::text).filter(|text| text.contains("That cannot be used")).collect();
    assert!(told.len() == 1 && told[0].contains("name nothing") && told[0].contains("no JSON object"), "{told:?}");
}

#[test]
fn a_model_that_cannot_do_it_leaves_names_as_they_are() {
    let setting = Setting::new(12);
    let before = setting.labels();
    let server = Server::start(|_, _| Do::Say("{\"label\": \"a name that is much too long to be a name\"}"));
    let (code, said) = fail(&mut setting.label(&server, &["--yes", "--concurrency", "1"]));
    assert!(code == 3 && said.contains("the label has 11 words") && said.contains("larger model"), "{code} {said}");
    assert_eq!((setting.labels(), server.n_requests()), (before, 16), "eight features, two attempts each");
    // One that fails now and then: the rest gets its name.
    let unlucky = setting.words.values().next().expect("a word").clone();
    let server = Server::start(move |_, body| match body["messages"].to_string().contains(&format!("«{unlucky}»")) {
        true => Do::Say("no"),
        false => Do::Answer,
    });
    let (done, said) = output(&mut setting.label(&server, &["--yes"]));
    let told = String::from_utf8(done.stdout).expect("UTF-8");
    assert!(done.status.success() && told.starts_with("11 features named, 1 failed"), "{told}{said}");
    assert!(said.contains("keeps its name") && said.contains("no JSON object"), "{said}");
    assert_eq!((setting.named().len(), server.n_requests()), (11, 13));
}

#[test]
fn a_wrong_key_ends_it_at_once_and_is_not_told() {
    let setting = Setting::new(6);
    let server = Server::with(Duration::ZERO, Some(KEY), |_, _| Do::Answer);
    let wrong = "sk-wrong-9876543210";
    let key = ["--yes", "--api-key-env", "MY_KEY"];
    let mut command = setting.label(&server, &key);
    let (code, said) = fail(command.env("MY_KEY", wrong).env("SAEQUEL_LOG", "trace"));
    assert_eq!(code, 5, "{said}");
    for part in ["HTTP 401", &server.url, "'stand-in'", "hint: it does not take the key in $MY_KEY", "[key]"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains(wrong), "{said}");
    // The HTTP client would tell what is on the wire, in lines of 16 bytes.
    assert!(said.contains("ureq") && !said.contains("ureq_proto::util"), "{said}");
    assert!(server.n_requests() <= 4, "no further request begins");
    let (code, said) = fail(&mut setting.label(&server, &["--yes"]));
    assert!(code == 5 && said.contains("no key was sent; --api-key-env"), "{code} {said}");
    let (code, said) = fail(setting.label(&server, &key).env_remove("MY_KEY"));
    assert!(code == 4 && said.contains("MY_KEY is not set"), "{code} {said}");

    let file = setting.scratch.write("key", format!("{KEY}\n").as_bytes());
    let arguments = ["--yes", "--output", "-", "--api-key-file", file.to_str().expect("a path")];
    let (done, said) = output(setting.label(&server, &arguments).env("SAEQUEL_LOG", "trace"));
    let told = String::from_utf8(done.stdout).expect("UTF-8");
    assert!(done.status.success() && told.lines().count() == 6, "{told}{said}");
    assert!(![told, said, setting.cache()].iter().any(|text| text.contains(KEY)));
}

#[test]
fn names_are_judged_on_texts_they_were_not_made_from() {
    let setting = Setting::new(4);
    let server = Server::start(|_, _| Do::Answer);
    let file = setting.path("labels.jsonl");
    let arguments = ["--yes", "--score", "fuzzing,detection", "--output", file.to_str().expect("a path")];
    let told = succeed(&mut setting.label(&server, &arguments));
    for score in ["detection", "fuzzing"] {
        assert!(told.contains(&format!("{score}: mean balanced accuracy 1.000 over 4 features")), "{told}");
    }
    assert_eq!(server.n_requests(), 12);
    let judged: Vec<String> =
        server.seen().iter().map(Seen::text).filter(|text| text.contains("Property: the word kind")).collect();
    assert_eq!(judged.len(), 8);
    for text in judged {
        let examples: Vec<&str> = text.lines().filter(|line| line.contains("unseen")).collect();
        let marks = marked(&examples.join("\n")).count();
        // All positive and as many other texts; or those whose marks were moved, with as many that were not.
        assert!((examples.len(), marks) == (16, 0) || (examples.len(), marks) == (8, 8), "{text}");
    }
    assert!(setting.named().is_empty(), "the file is all that is written");
    let rows: Vec<Value> = std::fs::read_to_string(&file)
        .expect("labels")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!((rows.len(), &rows[0]["llm_detection_n"], &rows[0]["llm_fuzzing_n"]), (4, &json!(16), &json!(8)));
    assert!(rows[0]["description"].as_str().is_some_and(|text| text.starts_with("Places where")), "{}", rows[0]);
    let mut import = saequel(setting.path("x.db"));
    let imported = succeed(import.args(["features", "import-labels", "--source", "llm:stand-in"]).arg(&file));
    assert!(imported.contains("4 of 4") && setting.named().len() == 4, "{imported}");

    // Scores are kept too.
    succeed(&mut setting.label(&server, &["--yes", "--only", "shown", "--score", "detection,fuzzing"]));
    assert_eq!(server.n_requests(), 12);
    // Another model judges the same names, finds them nowhere, and changes none.
    let server = Server::start(|_, _| Do::Say("{\"numbers\": []}"));
    let arguments = ["--yes", "--only", "shown", "--judge", "--score", "detection"];
    let told = succeed(&mut setting.label_with("judge", &server, &arguments));
    assert!(told.starts_with("4 features judged; 4 requests"), "{told}");
    assert!(told.contains("detection: mean balanced accuracy 0.500 over 4 features"), "{told}");
    assert_eq!((setting.named().len(), server.n_requests()), (4, 4));
    assert!(server.seen().iter().all(|seen| seen.text().contains("Property: the word kind")));
}

#[test]
fn nothing_is_sent_before_it_is_agreed_to() {
    let setting = Setting::new(5);
    let server = Server::start(|_, _| Do::Answer);
    let prices = ["--price-in", "1000", "--price-out", "1000"];
    let plan = succeed(setting.label(&server, &["--dry-run"]).args(prices));
    for part in ["'stand-in': 5\n", "requests  5", "USD", "[system]", "[user]", "«kind", "\"label\""] {
        assert!(plan.contains(part), "{part}: {plan}");
    }
    let (code, said) = fail(setting.label(&server, &[]).stdin(Stdio::null()));
    assert!(code == 2 && said.contains("nothing was sent") && said.contains("--yes"), "{code} {said}");
    assert_eq!((server.n_requests(), setting.path("cache").exists()), (0, false));
    // From two examples nobody can tell.
    let mut poor = evidence(7, "x", false);
    poor["contexts"].as_array_mut().expect("contexts").truncate(3);
    let file = setting.scratch.write("poor.jsonl", poor.to_string().as_bytes());
    let mut command = saequel(setting.path("none.db"));
    command.args(["label", "--output", "-", "--yes", "--endpoint", &server.url, "--model", "stand-in", "--evidence"]);
    let told = succeed(command.arg(file).arg("--cache").arg(setting.path("cache")));
    assert!(told.starts_with("nothing to do") && told.contains("fewer than 3 examples"), "{told}");

    // About 0.5 USD in, and up to 0.4 USD out, for each.
    let (code, said) = fail(setting.label(&server, &["--yes", "--max-cost", "2", "--concurrency", "4"]).args(prices));
    assert!(
        code == 6 && said.contains("before all is done") && said.contains("--max-cost is reached"),
        "{code} {said}"
    );
    let (n_named, n_tokens) = (setting.named().len(), server.seen().iter().map(|seen| seen.n_tokens).sum::<u64>());
    assert!((1..5).contains(&n_named) && n_tokens < 2000, "{n_named} {n_tokens}");
    succeed(&mut setting.label(&server, &["--yes"]));
    assert_eq!((setting.named().len(), server.n_requests()), (5, 5));
}

#[test]
fn endpoints_differ() {
    let setting = Setting::new(3);
    // It takes neither JSON mode nor max_tokens, and says so.
    let server = Server::start(|_, body| match body {
        body if body.get("response_format").is_some() => Do::Status(400, None, "'response_format' is not supported"),
        body if body.get("max_tokens").is_some() => {
            Do::Status(400, None, "use max_completion_tokens, not 'max_tokens'")
        }
        _ => Do::Answer,
    });
    succeed(&mut setting.label(&server, &["--yes", "--concurrency", "1"]));
    assert_eq!((setting.named().len(), server.n_requests()), (3, 5));
    assert_eq!(server.seen()[4].body["max_completion_tokens"], 400);

    let missing = "{\"error\": {\"message\": \"model 'other' not found, try pulling it\"}}";
    let server = Server::start(move |_, _| Do::Status(404, None, missing));
    let arguments = ["--only", "shown", "--yes", "--concurrency", "1"];
    let (code, said) = fail(&mut setting.label_with("other", &server, &arguments));
    assert!(code == 4 && said.contains("HTTP 404: model 'other' not found, try pulling it"), "{code} {said}");
    assert!(said.contains("--endpoint") && said.contains("--model") && server.n_requests() == 1, "{said}");
}

#[test]
fn a_dictionary_folder_is_labelled_without_a_database() {
    let scratch = Scratch::new();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/encoder/dictionaries").join(DICTIONARY);
    let folder = scratch.path("dictionary");
    std::fs::create_dir(&folder).expect("make a folder");
    for file in ["sae.json", "sae.safetensors", "features.jsonl"] {
        std::fs::copy(shipped.join(file), folder.join(file)).expect("copy");
    }
    let file = scratch.write("evidence.jsonl", (evidence(7, "sorry", false).to_string() + "\n").as_bytes());
    let server = Server::start(|_, _| Do::Answer);
    let mut command = saequel(scratch.path("none.db"));
    command.arg("label").arg("7").arg("--evidence").arg(file).arg("--sae").arg(&folder).arg("--cache");
    command.arg(scratch.path("cache")).args(["--endpoint", &server.url, "--model", "stand-in", "--yes"]);
    command.args(["--score", "detection"]);
    succeed(&mut command);
    let features = std::fs::read_to_string(folder.join("features.jsonl")).expect("features");
    let line: Value = serde_json::from_str(features.lines().nth(7).expect("line 7")).expect("JSON");
    assert_eq!((&line["label"], &line["label_source"]), (&json!("the word sorry"), &json!("llm:stand-in")));
    assert_eq!(line["label_score"], json!(1.0));
    assert!(!scratch.path("none.db").exists());
}

#[test]
fn evidence_is_collected_from_a_corpus_too() {
    let scratch = Scratch::new();
    let db = scratch.path("x.db");
    let answers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data/answers.jsonl");
    let mut import = saequel(&db);
    import.arg("import").arg(answers).args(["--corpus", "answers", "--text", "answer", "--key", "doc_id"]);
    succeed(import.args(["--limit", "120"]));
    let label = |arguments: &[&str]| {
        let mut command = saequel(&db);
        command.args(["label", "--endpoint", "http://localhost:1", "--model", "m", "--only", "shown", "--dry-run"]);
        command.args(arguments).arg("--cache").arg(scratch.path("cache"));
        command
    };
    let collected = succeed(&mut label(&["--corpus", "answers"]));
    assert!(collected.contains("[user]") && collected.contains("drawn at random") && collected.contains('«'));
    let file = scratch.path("evidence.jsonl");
    succeed(saequel(&db).args(["features", "evidence", "--corpus", "answers", "--output"]).arg(&file));
    let file = file.to_str().expect("a path");
    assert_eq!(succeed(&mut label(&["--evidence", file])), collected, "the same by way of a file");
    let (code, said) = fail(&mut label(&[]));
    assert!(code == 2 && said.contains("--evidence"), "{code} {said}");
}

#[test]
fn a_server_that_is_not_there_or_too_slow_is_told() {
    let setting = Setting::new(2);
    let server = Server::start(|_, _| Do::Answer);
    let url = server.url.clone();
    let mut command = setting.label(&server, &["--yes"]);
    drop(server);
    let began = Instant::now();
    let (code, said) = fail(&mut command);
    assert!(code == 6 && said.contains("cannot be reached") && said.contains(&url), "{code} {said}");
    assert!(said.contains("is the server running"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(10));

    // One that is too slow is asked three times.
    let server = Server::with(Duration::from_secs(60), None, |_, _| Do::Answer);
    let (code, said) = fail(&mut setting.label(&server, &["--yes", "--timeout", "1", "--concurrency", "1"]));
    assert!(code == 6 && said.contains("no answer within --timeout 1 s (after 3 attempts)"), "{code} {said}");
    assert_eq!(server.n_requests(), 3);
}
