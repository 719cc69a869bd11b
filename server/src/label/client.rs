//! The wire: one chat request to an OpenAI-compatible endpoint, and what can come back.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use saequel_engine::ErrorKind;
use serde::Serialize;
use serde_json::{Value, json};
use ureq::http::Uri;

use super::cost::{Usage, tokens, tokens_of};
use crate::error::{Failure, Result, io_failure};

/// The path behind an endpoint's base URL.
const PATH: &str = "/chat/completions";
/// Parameters that some models and servers do not take; what they complain about is left out from then on.
const OPTIONAL: [&str; 4] = ["response_format", "temperature", "max_tokens", "max_completion_tokens"];
/// Characters of an endpoint's message that are shown.
const MESSAGE_CHARS: usize = 300;
/// Largest answer that is read.
const ANSWER_BYTES: u64 = 4 << 20;

/// What opens a hosted endpoint. Never printed: what shows a `Key` shows where it came from.
pub(crate) struct Key {
    secret: String,
    /// `$OPENAI_API_KEY`, or the file's name.
    from: String,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.from)
    }
}

impl Key {
    /// The key in an environment variable.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if it is not set; [`ErrorKind::Data`] if it cannot be a key.
    pub(crate) fn from_env(name: &str) -> Result<Self> {
        let secret = std::env::var(name).map_err(|_| {
            Failure::new(ErrorKind::NotFound, format!("environment variable {name} is not set"))
                .hint(format!("set it to the endpoint's key: export {name}=..."))
        })?;
        Self::new(&secret, format!("${name}"))
    }

    /// The key in a file.
    ///
    /// # Errors
    /// As [`Self::from_env`].
    pub(crate) fn from_file(path: &Path) -> Result<Self> {
        let secret = std::fs::read_to_string(path).map_err(|error| io_failure(path.display(), &error))?;
        Self::new(&secret, path.display().to_string())
    }

    fn new(secret: &str, from: String) -> Result<Self> {
        let secret = secret.trim();
        if secret.is_empty() || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            let message = format!("{from} holds no key: expected one word of ASCII characters");
            return Err(Failure::new(ErrorKind::Data, message));
        }
        Ok(Self { secret: secret.to_owned(), from })
    }
}

/// Where requests go.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// With the query, which may hold what is not for everybody.
    url: String,
    /// The same without it.
    shown: String,
    host: String,
    encrypted: bool,
    model: String,
    key: Option<Key>,
}

impl Endpoint {
    /// An endpoint by its base URL (`http://localhost:11434/v1`), with or without `/chat/completions`; `/v1` is added to
    /// a URL that has no path.
    ///
    /// # Errors
    /// [`ErrorKind::Query`] for what is no such URL.
    pub(crate) fn new(url: &str, model: &str, key: Option<Key>) -> Result<Self> {
        let wrong = |what: &str| {
            Failure::usage(format!("--endpoint: {what}"))
                .hint("name it as http://localhost:11434/v1 or https://api.openai.com/v1")
        };
        let uri: Uri = url.trim().parse().map_err(|_| wrong("that is no URL"))?;
        let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"));
        let scheme = scheme.ok_or_else(|| wrong("expected a URL that begins with http:// or https://"))?;
        let authority = uri.authority().ok_or_else(|| wrong("the URL names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("a URL is no place for a password").hint("use --api-key-env or --api-key-file"));
        }
        let path = match uri.path().trim_end_matches('/') {
            "" => format!("/v1{PATH}"),
            path if path.ends_with(PATH) => path.to_owned(),
            path => format!("{path}{PATH}"),
        };
        let shown = format!("{scheme}://{authority}{path}");
        let url = match uri.query() {
            Some(query) => format!("{shown}?{query}"),
            None => shown.clone(),
        };
        let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        Ok(Self { url, shown, host, encrypted: scheme == "https", model: model.to_owned(), key })
    }

    /// The model's name.
    pub(crate) fn model(&self) -> &str {
        &self.model
    }

    /// The URL as it may be shown.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// Whether what is sent stays on this machine (as far as the name says; what listens there may pass it on).
    pub(crate) fn is_loopback(&self) -> bool {
        let by_name = self.host == "localhost" || self.host.ends_with(".localhost");
        by_name || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// What the user should know before anything is sent.
    pub(crate) fn warning(&self) -> Option<String> {
        let what =
            if self.key.is_some() { "the key and pieces of your texts travel" } else { "pieces of your texts travel" };
        let open = !self.encrypted && !self.is_loopback();
        open.then(|| format!("{} is not encrypted: {what} in clear; use https:// if you can", self.shown))
    }

    /// A failure of the whole run that names the endpoint and the model.
    fn failure(&self, kind: ErrorKind, what: &str) -> Failure {
        Failure::new(kind, format!("{}, model '{}': {what}", self.shown, self.model))
    }

    /// Text of the endpoint as it may be shown: one line, not too long, and without the key.
    fn clean(&self, text: &str) -> String {
        let text = match &self.key {
            Some(key) => text.replace(&key.secret, "[key]"),
            None => text.to_owned(),
        };
        let words: Vec<&str> =
            text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
        let line = words.join(" ");
        match line.char_indices().nth(MESSAGE_CHARS) {
            Some((at, _)) => format!("{}…", &line[..at]),
            None => line,
        }
    }
}

/// Part of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Message {
    /// `system`, `user` or `assistant`.
    pub(crate) role: &'static str,
    /// The text.
    pub(crate) content: String,
}

/// What a model wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// The text.
    pub(crate) text: String,
    /// Whether it ended at the limit of tokens, not by itself.
    pub(crate) cut: bool,
    /// As the endpoint counted; estimated if it does not say.
    pub(crate) usage: Usage,
}

/// Why there is no reply.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It may go better later.
    Passing {
        /// What happened.
        what: String,
        /// Of what kind it is.
        cause: Cause,
        /// How long it asks to wait.
        retry_after: Option<Duration>,
    },
    /// This request cannot be answered, others may.
    Refused(String),
    /// No request can.
    Fatal(Box<Failure>),
}

/// What kind of trouble passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The endpoint has too much to do, and will have if others ask.
    Busy,
    /// No answer came in time.
    Slow,
    /// Anything else.
    Fault,
}

/// Speaks to an endpoint. Calls block.
pub(crate) struct Client {
    agent: ureq::Agent,
    endpoint: Endpoint,
    timeout: Duration,
    max_tokens: u32,
    /// Parameters that the endpoint does not take.
    refused: Mutex<BTreeSet<&'static str>>,
    /// Whether anything ever came back: a server that was there may come back, one that never was is named wrongly.
    reached: AtomicBool,
}

impl Client {
    /// A client that waits `timeout` for an answer of at most `max_tokens` tokens, and keeps `n_connections` open.
    pub(crate) fn new(endpoint: Endpoint, timeout: Duration, max_tokens: u32, n_connections: usize) -> Self {
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections_per_host(n_connections)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_global(Some(timeout))
            .user_agent(concat!("saequel/", env!("CARGO_PKG_VERSION")));
        if endpoint.is_loopback() {
            config = config.proxy(None);
        }
        let agent = config.build().into();
        Self { agent, endpoint, timeout, max_tokens, refused: Mutex::default(), reached: AtomicBool::new(false) }
    }

    /// Where requests go.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Tokens of an answer, at most.
    pub(crate) fn max_tokens(&self) -> u32 {
        self.max_tokens
    }

    /// Sends `messages` and waits for the reply.
    ///
    /// # Errors
    /// See [`Trouble`]; no message holds the key.
    pub(crate) fn post(&self, messages: &[Message]) -> Result<Reply, Trouble> {
        loop {
            let body = self.body(messages);
            let (status, retry_after, text) = self.exchange(&body)?;
            self.reached.store(true, Ordering::Relaxed);
            if matches!(status, 400 | 422) && self.leave_out(&body, &text) {
                continue;
            }
            return self.read(status, retry_after, &text, messages);
        }
    }

    fn body(&self, messages: &[Message]) -> Value {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let mut body = json!({"model": self.endpoint.model, "messages": messages, "stream": false});
        for name in OPTIONAL {
            let value = match name {
                "response_format" => json!({"type": "json_object"}),
                "temperature" => json!(0),
                "max_completion_tokens" if !refused.contains("max_tokens") => continue,
                _ => json!(self.max_tokens),
            };
            if !refused.contains(name) {
                body[name] = value;
            }
        }
        body
    }

    /// Leaves out the parameter that the endpoint's answer `text` complains about; `false` if it names none of `body`.
    fn leave_out(&self, body: &Value, text: &str) -> bool {
        let named = OPTIONAL.iter().find(|name| body.get(**name).is_some() && text.contains(**name));
        if let Some(name) = named {
            self.refused.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
        }
        named.is_some()
    }

    /// Status, how long to wait, and body of the answer.
    fn exchange(&self, body: &Value) -> Result<(u16, Option<Duration>, String), Trouble> {
        let mut request = self.agent.post(&self.endpoint.url).header("content-type", "application/json");
        if let Some(key) = &self.endpoint.key {
            request = request.header("authorization", format!("Bearer {}", key.secret));
        }
        let mut response = request.send(body.to_string()).map_err(|error| self.trouble(&error))?;
        let header = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
        // The other form, a date, is left to the waits that grow by themselves.
        let seconds = header.and_then(|value| value.trim().parse::<f64>().ok()).filter(|seconds| *seconds >= 0.0);
        let retry_after = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let text = response.body_mut().with_config().limit(ANSWER_BYTES).lossy_utf8(true).read_to_string();
        let text = text.map_err(|error| self.trouble(&error))?;
        Ok((response.status().as_u16(), retry_after, text))
    }

    /// What an error below HTTP means.
    fn trouble(&self, error: &ureq::Error) -> Trouble {
        use ureq::Error as Wire;
        let what = self.endpoint.clean(&error.to_string());
        let broke_off = |error: &io::Error| {
            use io::ErrorKind as Io;
            matches!(error.kind(), Io::ConnectionReset | Io::ConnectionAborted | Io::BrokenPipe | Io::UnexpectedEof)
        };
        match error {
            Wire::Tls(_) | Wire::Rustls(_) | Wire::BadUri(_) | Wire::Http(_) | Wire::TlsRequired => {
                Trouble::Fatal(Box::new(self.endpoint.failure(ErrorKind::Io, &what)))
            }
            Wire::Io(io) if broke_off(io) => passing(what),
            Wire::Io(_)
            | Wire::HostNotFound
            | Wire::ConnectionFailed
            | Wire::ConnectProxyFailed(_)
            | Wire::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect)
                if !self.reached.load(Ordering::Relaxed) =>
            {
                let failure = self.endpoint.failure(ErrorKind::Io, &format!("cannot be reached ({what})"));
                Trouble::Fatal(Box::new(failure.hint("is the server running, and is --endpoint its address?")))
            }
            Wire::Timeout(ureq::Timeout::Global) => {
                let what = format!("no answer within --timeout {} s", self.timeout.as_secs());
                Trouble::Passing { what, cause: Cause::Slow, retry_after: None }
            }
            _ => passing(what),
        }
    }

    /// What a status and a body mean.
    fn read(
        &self,
        status: u16,
        retry_after: Option<Duration>,
        text: &str,
        messages: &[Message],
    ) -> Result<Reply, Trouble> {
        let endpoint = &self.endpoint;
        let body: Option<Value> = serde_json::from_str(text).ok();
        let said = endpoint.clean(&message(body.as_ref(), text));
        let what = format!("HTTP {status}: {said}");
        let fatal = |kind: ErrorKind, hint: &str| {
            Err(Trouble::Fatal(Box::new(endpoint.failure(kind, &what).hint(hint.to_owned()))))
        };
        match status {
            200 => match body.as_ref().and_then(|body| reply(body, messages)) {
                Some(reply) => Ok(reply),
                None => Err(passing(format!("the answer is no chat completion: {said}"))),
            },
            401 | 403 => match &endpoint.key {
                Some(key) => fatal(ErrorKind::Denied, &format!("it does not take the key in {}", key.from)),
                None => fatal(
                    ErrorKind::Denied,
                    "no key was sent; --api-key-env OPENAI_API_KEY sends the one in that variable",
                ),
            },
            402 => fatal(ErrorKind::Denied, "the account has nothing left to spend"),
            404 | 405 => fatal(
                ErrorKind::NotFound,
                "look at --endpoint, which mostly ends in /v1, and at --model: its name as the server lists it under /v1/models",
            ),
            300..=399 => fatal(ErrorKind::NotFound, "it points elsewhere; name the place itself with --endpoint"),
            429 if text.contains("insufficient_quota") => {
                fatal(ErrorKind::Denied, "the account has nothing left to spend")
            }
            429 | 503 | 529 => Err(Trouble::Passing { what, cause: Cause::Busy, retry_after }),
            408 | 409 | 425 | 500.. => Err(Trouble::Passing { what, cause: Cause::Fault, retry_after }),
            _ => Err(Trouble::Refused(what)),
        }
    }
}

fn passing(what: String) -> Trouble {
    Trouble::Passing { what, cause: Cause::Fault, retry_after: None }
}

/// The completion in the body of an answer.
fn reply(body: &Value, messages: &[Message]) -> Option<Reply> {
    let choice = body.get("choices")?.get(0)?;
    let text = match &choice.get("message")?["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    };
    let count = |name: &str| body["usage"][name].as_u64();
    let usage = Usage {
        tokens_in: count("prompt_tokens").unwrap_or_else(|| tokens_of(messages)),
        tokens_out: count("completion_tokens").unwrap_or_else(|| tokens(&text)),
    };
    Some(Reply { text, cut: choice["finish_reason"] == "length", usage })
}

/// What an answer says for people.
fn message(body: Option<&Value>, text: &str) -> String {
    let error = body.map(|body| &body["error"]);
    let said = error.and_then(|error| error["message"].as_str().or(error.as_str()));
    let said = said.or_else(|| body.and_then(|body| body["message"].as_str().or(body["detail"].as_str())));
    match said.unwrap_or(text).trim() {
        "" => "no message".to_owned(),
        said => said.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Endpoint {
        Endpoint::new(url, "m", None).unwrap()
    }

    fn client(key: Option<&str>) -> Client {
        let key = key.map(|secret| Key::new(secret, "$MY_KEY".to_owned()).unwrap());
        let endpoint = Endpoint::new("http://localhost:1/v1?token=hush", "m", key).unwrap();
        Client::new(endpoint, Duration::from_secs(1), 300, 1)
    }

    fn fatal(trouble: Trouble) -> Failure {
        match trouble {
            Trouble::Fatal(failure) => *failure,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_endpoint_is_named_in_many_ways() {
        for (url, whole) in [
            ("http://localhost:11434", "http://localhost:11434/v1/chat/completions"),
            ("http://localhost:11434/", "http://localhost:11434/v1/chat/completions"),
            ("http://[::1]:80/v1/", "http://[::1]:80/v1/chat/completions"),
            ("https://api.example.org/openai/v1", "https://api.example.org/openai/v1/chat/completions"),
            ("https://api.example.org/v1/chat/completions", "https://api.example.org/v1/chat/completions"),
        ] {
            assert_eq!(endpoint(url).url, whole);
        }
        let azure = endpoint("https://x.example.org/deployments/d?api-version=1");
        assert_eq!(azure.url, "https://x.example.org/deployments/d/chat/completions?api-version=1");
        assert_eq!(azure.shown(), "https://x.example.org/deployments/d/chat/completions");
        for wrong in ["localhost:1234", "ftp://x/v1", "http://user:secret@x/v1", "", "/v1"] {
            let failure = Endpoint::new(wrong, "m", None).unwrap_err();
            assert!(failure.wire().exit == 2 && !failure.to_string().contains("secret"), "{wrong}: {failure}");
        }
    }

    #[test]
    fn what_leaves_the_machine_in_clear_is_warned_of() {
        for url in ["http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1", "https://example.org"] {
            assert_eq!(endpoint(url).warning(), None, "{url}");
        }
        assert!(endpoint("http://10.0.0.7:8000").warning().unwrap().contains("pieces of your texts travel in clear"));
        let key = Key::new("secret", "$K".to_owned()).unwrap();
        let warning = Endpoint::new("http://example.org/v1", "m", Some(key)).unwrap().warning().unwrap();
        assert!(warning.contains("the key and") && !warning.contains("secret"), "{warning}");
    }

    #[test]
    fn a_key_is_never_shown() {
        let client = client(Some("sk-secret"));
        assert!(!format!("{:?}", client.endpoint()).contains("secret"));
        let body = r#"{"error": {"message": "bad key sk-secret\nin   header"}}"#;
        let failure = fatal(client.read(401, None, body, &[]).unwrap_err()).to_string();
        assert!(failure.contains("bad key [key] in header") && failure.contains("$MY_KEY"), "{failure}");
        assert!(!failure.contains("secret") && !failure.contains("hush"), "{failure}");
        assert!(Key::new(" two words ", "f".into()).is_err() && Key::new("\n", "f".into()).is_err());
        assert_eq!(Key::new(" sk-1\n", "f".into()).unwrap().secret, "sk-1");
    }

    #[test]
    fn what_cannot_get_better_ends_the_run_and_names_the_way_out() {
        let client = client(None);
        for (status, exit, part) in [(401, 5, "--api-key-env"), (403, 5, "--api-key-env"), (404, 4, "--model")] {
            let failure = fatal(client.read(status, None, "{\"error\": \"no\"}", &[]).unwrap_err());
            let said = failure.to_string();
            assert_eq!(failure.wire().exit, exit);
            assert!(said.contains("http://localhost:1/v1/chat/completions, model 'm': HTTP") && said.contains(part));
        }
        let quota = r#"{"error": {"message": "no", "code": "insufficient_quota"}}"#;
        assert!(fatal(client.read(429, None, quota, &[]).unwrap_err()).to_string().contains("nothing left"));
        assert!(fatal(client.read(308, None, "", &[]).unwrap_err()).to_string().contains("elsewhere"));
        let asked = Some(Duration::from_secs(3));
        for status in [429, 500, 502, 503] {
            let trouble = client.read(status, asked, "", &[]).unwrap_err();
            assert!(matches!(trouble, Trouble::Passing { retry_after, .. } if retry_after == asked), "{status}");
        }
        assert!(matches!(client.read(400, None, "too long", &[]), Err(Trouble::Refused(_))));
        assert!(matches!(client.read(200, None, "<html>", &[]), Err(Trouble::Passing { .. })));
    }

    #[test]
    fn replies_are_read_with_and_without_counts() {
        let client = client(None);
        let question = [Message { role: "user", content: "x".repeat(40) }];
        let body = r#"{"choices": [{"message": {"content": "hello yo"}, "finish_reason": "length"}],
                       "usage": {"prompt_tokens": 7, "completion_tokens": 3}}"#;
        let expected = Reply { text: "hello yo".to_owned(), cut: true, usage: Usage { tokens_in: 7, tokens_out: 3 } };
        assert_eq!(client.read(200, None, body, &question).unwrap(), expected);
        let body = r#"{"choices": [{"message": {"content": [{"type": "text", "text": "hello yo"}]}}]}"#;
        let usage = Usage { tokens_in: 14, tokens_out: 2 };
        assert_eq!(client.read(200, None, body, &question).unwrap(), Reply { cut: false, usage, ..expected });
        let body = r#"{"choices": [{"message": {"content": null, "reasoning_content": "hm"}}]}"#;
        assert_eq!(client.read(200, None, body, &question).unwrap().text, "");
    }

    #[test]
    fn parameters_that_are_not_taken_are_left_out() {
        let client = client(None);
        let body = client.body(&[]);
        assert_eq!((&body["temperature"], &body["max_tokens"]), (&json!(0), &json!(300)));
        assert!(body.get("max_completion_tokens").is_none());
        assert!(client.leave_out(&body, "'max_tokens' is not supported; use 'max_completion_tokens'"));
        let body = client.body(&[]);
        assert!(body.get("max_tokens").is_none() && body["max_completion_tokens"] == json!(300));
        assert!(!client.leave_out(&body, "max_tokens and nothing else"));
        assert!(client.leave_out(&body, "response_format must be text"));
        assert!(client.body(&[]).get("response_format").is_none());
    }
}
