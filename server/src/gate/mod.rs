//! The one way from a door to the engine: authenticate, authorise, admit, run, stream, account.
//!
//! A door (HTTP, PostgreSQL wire, Flight SQL, MCP) knows a protocol and nothing else. It asks [`Gate::authenticate`] who
//! comes, makes a [`Visitor`], and hands statements to [`Gate::run`]; what comes back is a stream of record batches. Limits,
//! deadlines, cancelling, metrics and the audit log are here, once.

mod answer;
mod audit;
mod metrics;
mod registry;
mod tokens;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use datafusion::common::ParamValues;
use futures::FutureExt;
use governor::clock::{Clock, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use ring::rand::{SecureRandom, SystemRandom};
use saequel_engine::{Caller, Described, Engine, ErrorKind, SessionExtension};
use serde::Serialize;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

pub use answer::Answer;
pub use metrics::{Metrics, OfDoor};
pub use registry::{QueryInfo, State};
pub use tokens::{Principal, Scope, ScramKeys, TokenEntry, TokenFile, Tokens};

use crate::error::{A_GET, A_READER, Failure, Result, STOPPING, TOO_MANY, UNAUTHENTICATED};
use crate::options::ServeOptions;
use answer::{Account, Message, produce};
use registry::{Entry, Registry};

/// Batches that wait for a slow client.
const WAITING_BATCHES: usize = 2;
/// Tokens that an address may get wrong in a minute.
const WRONG_TOKENS: NonZeroU32 = NonZeroU32::new(30).expect("30 is not 0");
/// Requests between two times that addresses and tokens which are quiet again are forgotten.
const FORGET_EVERY: usize = 4096;
/// Stack of a thread that runs queries. What the engine lets through nests deeper than the usual 2 MiB can bear.
const STACK_BYTES: usize = 32 << 20;
/// For a deadline that lies beyond what the clock can tell.
const LONG: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
/// Longest id of a query.
const MAX_ID: usize = 128;

type Limiter<K> = RateLimiter<K, HashMapStateStore<K>, DefaultClock>;

/// Where somebody comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Door {
    /// SQL over HTTP.
    Http,
    /// PostgreSQL wire.
    Postgres,
    /// Arrow Flight SQL.
    Flight,
    /// Model context protocol.
    Mcp,
}

impl Door {
    /// Its name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Door::Http => "http",
            Door::Postgres => "postgres",
            Door::Flight => "flight",
            Door::Mcp => "mcp",
        }
    }
}

/// Somebody who came in through a door.
#[derive(Debug, Clone)]
pub struct Visitor {
    /// Who.
    pub principal: Principal,
    /// Where.
    pub door: Door,
    /// From where.
    pub peer: Option<SocketAddr>,
    /// What the door adds to the session of each statement.
    pub extension: Option<Arc<dyn SessionExtension>>,
    /// How this door calls the schema `main`.
    pub main_schema: &'static str,
    /// Whether nothing may be written, whatever the token may do.
    pub only_reads: bool,
}

impl Visitor {
    /// Somebody with nothing added.
    pub fn new(principal: Principal, door: Door, peer: Option<SocketAddr>) -> Self {
        Self { principal, door, peer, extension: None, main_schema: Caller::default().main_schema, only_reads: false }
    }
}

/// A statement to run.
#[derive(Debug, Clone)]
pub struct Ask {
    /// One statement.
    pub statement: String,
    /// Values of `$1`, `$2`, ... or `$name`.
    pub parameters: ParamValues,
    /// Chosen by the client; else one is made.
    pub query_id: Option<String>,
    /// Less than the server's limit; more is cut to it.
    pub timeout: Option<Duration>,
    /// Fewer than the server's limit; further rows are left out, and [`Answer::truncated`] says so.
    pub max_rows: Option<u64>,
}

impl Ask {
    /// A statement with every default.
    pub fn new(statement: impl Into<String>) -> Self {
        Self {
            statement: statement.into(),
            parameters: ParamValues::List(Vec::new()),
            query_id: None,
            timeout: None,
            max_rows: None,
        }
    }
}

/// Shared by all doors; cheap to clone.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    engine: Engine,
    options: ServeOptions,
    tokens: Tokens,
    turns: Arc<Semaphore>,
    /// For statements that are planned only, so that a client that waits with one open can describe another.
    describing: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// Running queries by name of the token.
    busy: Mutex<HashMap<String, usize>>,
    requests: Limiter<String>,
    wrong_tokens: Limiter<IpAddr>,
    asked: AtomicUsize,
    registry: Registry,
    metrics: Metrics,
    audit: audit::Audit,
    stopping: AtomicBool,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("engine", &self.0.engine.dir()).finish_non_exhaustive()
    }
}

impl Gate {
    /// The way to `engine`.
    ///
    /// # Errors
    /// If tokens or audit log cannot be opened.
    pub fn new(engine: Engine, options: ServeOptions) -> Result<Self> {
        let tokens = options.tokens.clone().unwrap_or_else(|| engine.dir().join("tokens.json"));
        let per_minute = NonZeroU32::new(options.requests_per_minute).unwrap_or(NonZeroU32::MIN);
        Ok(Self(Arc::new(Inner {
            tokens: Tokens::open(tokens)?,
            turns: Arc::new(Semaphore::new(options.max_queries)),
            describing: Arc::new(Semaphore::new(options.max_queries)),
            waiting: AtomicUsize::new(0),
            busy: Mutex::default(),
            requests: RateLimiter::hashmap(Quota::per_minute(per_minute)),
            wrong_tokens: RateLimiter::hashmap(Quota::per_minute(WRONG_TOKENS)),
            asked: AtomicUsize::new(0),
            registry: Registry::default(),
            metrics: Metrics::new(metrics::Limits {
                running: options.max_queries,
                waiting: options.max_waiting,
                memory_bytes: engine.options().memory_limit_bytes,
            }),
            audit: audit::Audit::open(options.audit_log.as_deref())?,
            stopping: AtomicBool::new(false),
            engine,
            options,
        })))
    }

    /// What is behind the doors.
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// How it is served.
    pub fn options(&self) -> &ServeOptions {
        &self.0.options
    }

    /// Numbers.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// The text of `/metrics`.
    pub fn metrics_text(&self) -> String {
        self.0.metrics.text(self.0.engine.query_memory_bytes())
    }

    /// The tokens, for doors with a handshake of their own.
    pub fn tokens(&self) -> &Tokens {
        &self.0.tokens
    }

    /// Threads for queries, so that one that computes for long does not keep the server from answering others.
    pub fn threads() -> Handle {
        static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
        let make = || {
            let mut builder = Builder::new_multi_thread();
            builder.thread_name("saequel-query").thread_stack_size(STACK_BYTES).enable_all().build().ok()
        };
        RUNTIME.get_or_init(make).as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
    }

    /// Who comes with this token, or without one.
    ///
    /// # Errors
    /// [`UNAUTHENTICATED`]; [`TOO_MANY`] after many wrong tokens from one address, or too many requests.
    pub fn authenticate(&self, token: Option<&str>, door: Door, peer: Option<SocketAddr>) -> Result<Principal> {
        let principal = self.recognise(token, door, peer)?;
        self.admit_request(&principal, peer)?;
        Ok(principal)
    }

    /// [`Self::authenticate`] for a request that ends work: it is not counted, because who asks too much must be able to stop.
    ///
    /// # Errors
    /// [`UNAUTHENTICATED`]; [`TOO_MANY`] after many wrong tokens from one address.
    pub fn recognise(&self, token: Option<&str>, door: Door, peer: Option<SocketAddr>) -> Result<Principal> {
        let inner = &self.0;
        let principal = match token {
            Some(token) if inner.tokens.needed()? => inner.tokens.principal(token),
            None if inner.tokens.needed()? => {
                // Many clients ask once without a token to learn that one is needed.
                return Err(Failure::new(ErrorKind::Denied, "a token is needed")
                    .shown_as(UNAUTHENTICATED)
                    .hint("send `Authorization: Bearer TOKEN`, or the token as password"));
            }
            // A token where none is needed does no harm: clients that always send one are let in.
            _ => Ok(Principal::anonymous(inner.options.write)),
        };
        principal.map_err(|refused| self.wrong_token(door, peer).unwrap_or(refused))
    }

    /// Notes a token that was refused; gives another error if there were too many.
    pub fn wrong_token(&self, door: Door, peer: Option<SocketAddr>) -> Option<Failure> {
        self.0.metrics.refused_logins.inc();
        self.forget_now_and_then();
        let over = peer.is_some_and(|peer| self.0.wrong_tokens.check_key(&network(peer.ip())).is_err());
        if !over {
            // Who guesses on and on fills no disk: the metric counts the rest.
            self.0.audit.refused(door, peer);
            tracing::warn!(door = door.name(), ?peer, "a token was refused");
        }
        over.then(|| Failure::new(ErrorKind::Denied, "too many wrong tokens from this address").shown_as(TOO_MANY))
    }

    /// Forgets addresses and tokens whose minute is over, so that what is kept of them does not grow without end.
    fn forget_now_and_then(&self) {
        if self.0.asked.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
            self.0.requests.retain_recent();
            self.0.requests.shrink_to_fit();
            self.0.wrong_tokens.retain_recent();
            self.0.wrong_tokens.shrink_to_fit();
        }
    }

    /// Counts a request; for doors that authenticate once and are then asked many times.
    ///
    /// # Errors
    /// [`TOO_MANY`].
    pub fn admit_request(&self, principal: &Principal, peer: Option<SocketAddr>) -> Result<()> {
        self.forget_now_and_then();
        let key = match (principal.is_anonymous(), peer) {
            (true, Some(peer)) => network(peer.ip()).to_string(),
            _ => principal.name.clone(),
        };
        self.0.requests.check_key(&key).map_err(|over| {
            let wait = over.wait_time_from(DefaultClock::default().now()).as_secs_f64().ceil();
            let message = format!("more than {} requests in a minute", self.0.options.requests_per_minute);
            Failure::new(ErrorKind::Resources, message).shown_as(TOO_MANY).hint(format!("try again in {wait} s"))
        })
    }

    /// Who a visitor is now: a token that was revoked ends at once, also on open connections.
    ///
    /// # Errors
    /// [`UNAUTHENTICATED`].
    pub fn still(&self, visitor: &Visitor) -> Result<Principal> {
        Ok(self.0.tokens.still(&visitor.principal)?.unwrap_or_else(|| visitor.principal.clone()))
    }

    /// What the engine lets a visitor do.
    ///
    /// # Errors
    /// [`UNAUTHENTICATED`].
    pub fn caller(&self, visitor: &Visitor) -> Result<Arc<Caller>> {
        let options = &self.0.options;
        let mut caller = self.still(visitor)?.caller();
        // Agents read only, whatever their token may do.
        if !options.write || visitor.only_reads || visitor.door == Door::Mcp {
            caller.writable = Some(Arc::default());
            caller.only_reads = Some(if visitor.door == Door::Mcp {
                "an agent only reads"
            } else if options.write {
                A_GET
            } else {
                A_READER
            });
        }
        // An engine that may read every file of its process was not opened to be served.
        caller.files &= self.0.engine.options().allowed_dirs.is_some();
        let half = self.0.engine.options().memory_limit_bytes / 2;
        caller.memory_limit_bytes = Some(options.query_memory_bytes.unwrap_or(half));
        caller.main_schema = visitor.main_schema;
        caller.extension.clone_from(&visitor.extension);
        Ok(Arc::new(caller))
    }

    /// What a statement gives and takes, without running it.
    ///
    /// # Errors
    /// As [`Engine::describe_as`]; [`UNAUTHENTICATED`]; [`TOO_MANY`].
    pub async fn describe(&self, visitor: &Visitor, statement: &str) -> Result<Described> {
        self.describe_given(visitor, statement, None).await
    }

    /// [`Self::describe`] of a statement whose parameters have these values.
    ///
    /// # Errors
    /// As [`Engine::describe_with`]; [`UNAUTHENTICATED`]; [`TOO_MANY`].
    pub async fn describe_with(
        &self,
        visitor: &Visitor,
        statement: &str,
        parameters: ParamValues,
    ) -> Result<Described> {
        self.describe_given(visitor, statement, Some(parameters)).await
    }

    async fn describe_given(
        &self,
        visitor: &Visitor,
        statement: &str,
        given: Option<ParamValues>,
    ) -> Result<Described> {
        let described = self.describe_now(visitor, statement, given).await;
        described.inspect_err(|failure| self.0.audit.not_run(visitor, statement, failure))
    }

    async fn describe_now(&self, visitor: &Visitor, statement: &str, given: Option<ParamValues>) -> Result<Described> {
        let inner = &self.0;
        let caller = self.caller(visitor)?;
        let timeout = inner.options.timeout;
        let permit = Arc::clone(&inner.describing).acquire_owned();
        let permit = match tokio::time::timeout(inner.options.max_wait.min(timeout), permit).await {
            Ok(Ok(permit)) => permit,
            _ => {
                return Err(Failure::new(ErrorKind::Resources, "too many statements are planned already")
                    .shown_as(TOO_MANY)
                    .hint("try again in a moment"));
            }
        };
        let (engine, statement) = (inner.engine.clone(), statement.to_owned());
        let task = Self::threads().spawn(async move {
            let _permit = permit; // held until planning has ended, whoever still waits for it
            match given {
                Some(given) => engine.describe_with(&caller, &statement, &given).await,
                None => engine.describe_as(&caller, &statement).await,
            }
        });
        let _ended = AbortOnDrop(task.abort_handle());
        match tokio::time::timeout(timeout, task).await {
            Ok(Ok(described)) => described.map_err(Failure::from),
            Ok(Err(_)) => Err(Failure::new(ErrorKind::Internal, "planning ended without an answer")),
            Err(_) => Err(self.too_long(timeout)),
        }
    }

    /// Runs a statement. Errors until the first batch are given at once; later ones come in the stream.
    ///
    /// # Errors
    /// As [`Engine::sql_as`]; [`UNAUTHENTICATED`]; [`TOO_MANY`] if too much runs already; a deadline is
    /// [`ErrorKind::Cancelled`].
    pub async fn run(&self, visitor: &Visitor, ask: Ask) -> Result<Answer> {
        let inner = &self.0;
        let (caller, account, deadline) = match self.enter(visitor, &ask) {
            Ok(entered) => entered,
            Err(failure) => {
                inner.audit.not_run(visitor, &ask.statement, &failure);
                return Err(failure);
            }
        };
        let account = Arc::new(account);
        let query_id = account.entry.shown().query_id;
        let caller = Arc::new(Caller { query_id: Some(query_id.clone()), ..Caller::clone(&caller) });
        let timeout = ask.timeout.map_or(inner.options.timeout, |wanted| wanted.min(inner.options.timeout));
        let max_rows = [ask.max_rows, inner.options.max_rows].into_iter().flatten().min();
        let turn = match self.turn(visitor, deadline, &account.entry).await {
            Ok(turn) => turn,
            Err(failure) => {
                account.failed(&failure);
                return Err(failure);
            }
        };
        account.entry.runs();
        inner.metrics.running.inc();
        let (sender, messages) = mpsc::channel(WAITING_BATCHES);
        let (engine, statement, parameters) = (inner.engine.clone(), ask.statement, ask.parameters);
        let noted = Arc::clone(&account);
        let work = async move {
            let entry = &noted.entry;
            let all = async {
                let last = produce(&engine, &caller, &statement, parameters, max_rows, entry, &sender).await;
                let _ = sender.send(last).await; // an error: the client has gone
                drop(turn); // held until the query has ended, whoever still reads
                sender.closed().await;
            };
            let why = tokio::select! {
                biased;
                () = entry.cancel.cancelled() => cancelled(),
                () = tokio::time::sleep_until(deadline) => noted.gate.too_long(timeout),
                () = all => return,
            };
            // The reader is told when it reads on, which it may never do.
            noted.failed(&why);
        };
        // A panic is ours, and the client is told that something went wrong.
        let guarded = std::panic::AssertUnwindSafe(work).catch_unwind().map(|_| ());
        let task = Self::threads().spawn(guarded);
        let mut answer = Answer {
            query_id,
            schema: Arc::new(arrow::datatypes::Schema::empty()),
            max_rows,
            truncated: false,
            messages,
            task: task.abort_handle(),
            deadline: Box::pin(tokio::time::sleep_until(deadline)),
            cancelled: Box::pin(account.entry.cancel.clone().cancelled_owned()),
            timeout,
            first: None,
            ended: false,
            account,
        };
        // What goes wrong before the first batch is an error of the whole.
        match futures::future::poll_fn(|cx| answer.poll_message(cx)).await {
            Message::Schema(schema) => answer.schema = schema,
            Message::Failed(failure) => {
                answer.finish(&failure);
                return Err(failure);
            }
            Message::Batch(_) | Message::Done { .. } => {
                return Err(Failure::new(ErrorKind::Internal, "the query gave rows before its columns"));
            }
        }
        match futures::future::poll_fn(|cx| answer.poll_message(cx)).await {
            Message::Failed(failure) => {
                answer.finish(&failure);
                Err(failure)
            }
            message => {
                answer.first = Some(message);
                Ok(answer)
            }
        }
    }

    /// Takes a statement in: who asks, and until when it may take.
    fn enter(&self, visitor: &Visitor, ask: &Ask) -> Result<(Arc<Caller>, Account, Instant)> {
        let inner = &self.0;
        if inner.stopping.load(Ordering::Relaxed) {
            return Err(Failure::new(ErrorKind::Resources, "the server is stopping").shown_as(STOPPING));
        }
        let caller = self.caller(visitor)?;
        let query_id = match &ask.query_id {
            Some(id) if id.is_empty() || id.len() > MAX_ID || !id.chars().all(|c| c.is_ascii_graphic()) => {
                let message = format!("query_id: expected 1 to {MAX_ID} visible ASCII characters");
                return Err(Failure::usage(message));
            }
            Some(id) => id.clone(),
            None => random_id()?,
        };
        let timeout = ask.timeout.map_or(inner.options.timeout, |wanted| wanted.min(inner.options.timeout));
        let now = Instant::now();
        let deadline = now.checked_add(timeout).unwrap_or_else(|| now + LONG);
        let entry = inner.registry.add(query_id, &ask.statement, &visitor.principal, visitor.door, visitor.peer)?;
        // The log has all of a statement: what would be left out is where somebody would hide.
        let statement = inner.audit.is_kept().then(|| ask.statement.clone());
        Ok((caller, Account { gate: self.clone(), entry, door: visitor.door, statement }, deadline))
    }

    /// Queries that a visitor may see, newest first.
    pub fn queries(&self, principal: &Principal) -> Vec<QueryInfo> {
        self.0.registry.list(principal)
    }

    /// One of them.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn query(&self, principal: &Principal, query_id: &str) -> Result<QueryInfo> {
        Ok(self.0.registry.get(principal, query_id)?.shown())
    }

    /// Ends one of them; nothing happens if it has ended.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn cancel(&self, principal: &Principal, query_id: &str) -> Result<QueryInfo> {
        let entry = self.0.registry.get(principal, query_id)?;
        entry.cancel.cancel();
        Ok(entry.shown())
    }

    /// Notes work that is no query (an import) in the audit log.
    pub fn note(&self, work: &QueryInfo) {
        self.0.audit.query(work, None);
    }

    /// Takes no further query.
    pub fn stop(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether [`Self::stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Relaxed)
    }

    /// Opens the audit log anew, after it was moved away.
    ///
    /// # Errors
    /// If it cannot be opened; then lines go where they went.
    pub fn reopen_audit_log(&self) -> Result<()> {
        self.0.audit.reopen()
    }

    /// Ends every query.
    pub fn cancel_all(&self) {
        self.0.registry.cancel_all();
    }

    /// Waits for a turn.
    async fn turn(&self, visitor: &Visitor, deadline: Instant, entry: &Entry) -> Result<Turn> {
        let inner = &self.0;
        let options = &inner.options;
        let too_many = |message: String| {
            Err(Failure::new(ErrorKind::Resources, message)
                .shown_as(TOO_MANY)
                .hint("try again in a moment, or start the server with a larger --max-queries"))
        };
        let name = visitor.principal.name.clone();
        let most = options.max_queries_per_token.unwrap_or(options.max_queries + options.max_waiting);
        {
            let mut busy = inner.busy.lock().unwrap_or_else(PoisonError::into_inner);
            let now = busy.entry(name.clone()).or_default();
            if *now >= most {
                return too_many(format!("{now} queries of this token run already"));
            }
            *now += 1;
        }
        let counted = Counted { gate: self.clone(), name };
        let permit = match Arc::clone(&inner.turns).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let waiting = Waiting::new(self);
                if waiting.before >= options.max_waiting {
                    return too_many(format!(
                        "{} queries run already, and {} wait",
                        options.max_queries, waiting.before
                    ));
                }
                let until = deadline.min(Instant::now() + options.max_wait);
                tokio::select! {
                    permit = Arc::clone(&inner.turns).acquire_owned() => match permit {
                        Ok(permit) => permit,
                        Err(_) => return too_many("the server is stopping".to_owned()),
                    },
                    () = entry.cancel.cancelled() => return Err(cancelled()),
                    () = tokio::time::sleep_until(until) => {
                        return too_many(format!("{} queries run already", options.max_queries));
                    }
                }
            }
        };
        Ok(Turn { _permit: permit, _counted: counted })
    }

    fn too_long(&self, timeout: Duration) -> Failure {
        // Less than the server's limit is what the request set.
        let hint = if timeout < self.0.options.timeout {
            "ask for less with WHERE or LIMIT, or give the request a larger timeout"
        } else {
            "ask for less with WHERE or LIMIT, or start the server with a larger --timeout"
        };
        Failure::new(ErrorKind::Cancelled, format!("the query took longer than {} s", timeout.as_secs_f64())).hint(hint)
    }
}

fn cancelled() -> Failure {
    Failure::new(ErrorKind::Cancelled, "the query was cancelled")
}

/// An id that nobody guesses.
pub(crate) fn random_id() -> Result<String> {
    let mut bytes = [0_u8; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Failure::new(ErrorKind::Internal, "the system gives no random bytes"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What counts as one client: an address, or the network of IPv6 that one customer has.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(long) if long.to_ipv4_mapped().is_none() => {
            IpAddr::V6((long.to_bits() & !u128::from(u64::MAX)).into())
        }
        other => other.to_canonical(),
    }
}

/// Ends a task that nobody waits for any more.
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The right to run, given back when dropped.
struct Turn {
    _permit: OwnedSemaphorePermit,
    _counted: Counted,
}

/// One query more of a token.
struct Counted {
    gate: Gate,
    name: String,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut busy = self.gate.0.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(now) = busy.get_mut(&self.name) {
            *now -= 1;
            if *now == 0 {
                busy.remove(&self.name);
            }
        }
    }
}

/// One that waits.
struct Waiting<'a> {
    gate: &'a Gate,
    before: usize,
}

impl<'a> Waiting<'a> {
    fn new(gate: &'a Gate) -> Self {
        gate.0.metrics.waiting.inc();
        Self { gate, before: gate.0.waiting.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.gate.0.metrics.waiting.dec();
        self.gate.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
