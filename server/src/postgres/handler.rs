//! One connection: which message is answered with what.

mod control;
mod extended;
mod run;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pgwire::messages::response::{EmptyQueryResponse, ReadyForQuery, TransactionStatus};
use pgwire::messages::startup::ParameterStatus;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cancel::{Registered, random_bytes};
use super::catalog;
use super::error::{Report, Result, Trouble};
use super::frame::{Body, CHUNK, Frame, MAX_STARTUP};
use super::portal::{Limits, Portal, Prepared};
use super::settings::{REPORTED, SessionSettings};
use super::startup::{AnyWire, Started};
use crate::gate::{Door, Gate, Visitor};
use crate::sql_text;

/// Time that a client gets to end what it began when the server stops.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A connection whose client is known.
pub(super) struct Connection {
    wire: AnyWire,
    gate: Gate,
    visitor: Visitor,
    settings: Arc<SessionSettings>,
    stopping: CancellationToken,
    line: Registered,
    /// What ends the statement that is worked on.
    limits: Limits,
    statements: HashMap<String, Arc<Prepared>>,
    portals: HashMap<String, Portal>,
    status: TransactionStatus,
    savepoints: Vec<String>,
    /// Whether something was written since the transaction began.
    wrote: bool,
    /// Settings as the client was told.
    reported: BTreeMap<&'static str, String>,
    /// Whether messages are skipped until the client says that it knows about an error.
    skipping: bool,
    /// Whether the client has begun something and not said that it is complete.
    is_open: bool,
    /// Ids of queries are this and a number.
    id: String,
    n_queries: u64,
}

impl Connection {
    /// Nothing was asked yet.
    pub(super) fn new(gate: Gate, stopping: CancellationToken, started: Started, peer: SocketAddr) -> Self {
        let Started { mut wire, user, principal, settings, line } = started;
        let mut visitor = Visitor::new(principal, Door::Postgres, Some(peer));
        visitor.main_schema = "public";
        visitor.extension = Some(catalog::extension(&user, &gate, &settings));
        wire.max_message = gate.options().max_body_bytes.max(MAX_STARTUP);
        Self {
            wire,
            visitor,
            settings,
            stopping,
            limits: Limits { cancel: CancellationToken::new(), deadline: None },
            statements: HashMap::new(),
            portals: HashMap::new(),
            status: TransactionStatus::Idle,
            savepoints: Vec::new(),
            wrote: false,
            reported: BTreeMap::new(),
            skipping: false,
            is_open: false,
            id: String::new(),
            n_queries: 0,
            line,
            gate,
        }
    }

    /// Answers until one side ends the connection.
    pub(super) async fn serve(mut self) {
        let ended = self.answer_all().await;
        self.portals.clear(); // what runs ends now, however long goodbyes take
        if let Err(Trouble::Fatal(report) | Trouble::Statement(report)) = ended {
            let told = self.wire.put(&report.into_fatal().response()).is_ok();
            tracing::debug!(peer = ?self.visitor.peer, told, "connection ended");
        }
        let _ = tokio::time::timeout(LAST_WORDS, self.wire.close()).await;
    }

    async fn answer_all(&mut self) -> Result<()> {
        let random: u64 = u64::from_be_bytes(random_bytes()?);
        self.id = format!("pg-{}-{random:016x}", self.line.pid);
        self.ready().await?;
        loop {
            let frame = self.next().await?;
            let is_query = frame.tag == b'Q';
            match frame.tag {
                b'X' => return Ok(()),
                b'S' => {
                    self.skipping = false;
                    self.end_implicit();
                    self.ready().await?;
                    continue;
                }
                _ if self.skipping => continue,
                _ => {}
            }
            self.is_open = true;
            self.limits.cancel = self.line.begin();
            self.restart_clock();
            let answered = self.answer(frame).await;
            self.line.end();
            match answered {
                Ok(()) => {}
                Err(Trouble::Statement(report)) => {
                    self.failed(&report)?;
                    self.skipping = !is_query;
                }
                Err(ended) => return Err(ended),
            }
            if is_query {
                self.end_implicit();
                self.ready().await?;
            } else if self.wire.output.len() >= CHUNK || self.skipping {
                self.wire.flush().await?;
            }
        }
    }

    /// The next message. A server that stops waits for none, except for the end of what the client has begun.
    async fn next(&mut self) -> Result<Frame> {
        if let Some(frame) = self.wire.take()? {
            return Ok(frame);
        }
        self.wire.flush().await?;
        let goodbye = || Report::fatal("57P01", "terminating connection: the server is stopping");
        tokio::select! {
            biased;
            frame = self.wire.frame() => return frame,
            () = self.stopping.cancelled() => {}
        }
        if !self.is_open {
            return Err(Trouble::Fatal(goodbye()));
        }
        tokio::time::timeout(LAST_WORDS, self.wire.frame()).await.map_err(|_| Trouble::Fatal(goodbye()))?
    }

    async fn answer(&mut self, frame: Frame) -> Result<()> {
        let body = frame.body;
        match frame.tag {
            b'Q' => self.simple(body).await,
            b'P' => self.parse(body).await,
            b'B' => self.bind(body),
            b'D' => self.describe(body).await,
            b'E' => self.execute(body).await,
            b'C' => self.close(body),
            b'H' => self.wire.flush().await,
            // What is left of a COPY that was refused.
            b'd' | b'c' | b'f' => Ok(()),
            b'F' => Err(Trouble::new("0A000", "function calls are not supported").hint("use SELECT function(...)")),
            tag => Err(Trouble::protocol(format!("unexpected message '{}'", char::from(tag).escape_default()))),
        }
    }

    /// Tells an error; a transaction has failed then.
    fn failed(&mut self, report: &Report) -> Result<()> {
        if self.status == TransactionStatus::Transaction {
            self.status = TransactionStatus::Error;
        }
        self.wire.put(&report.response())
    }

    /// Tells settings that have changed, and that the next statement may come.
    async fn ready(&mut self) -> Result<()> {
        self.is_open = false;
        for name in REPORTED {
            let value = self.settings.get(name).unwrap_or_default();
            if self.reported.get(name) != Some(&value) {
                self.wire.put(&ParameterStatus::new(name.to_owned(), value.clone()))?;
                self.reported.insert(name, value);
            }
        }
        self.wire.put(&ReadyForQuery::new(self.status))?;
        if self.wire.output.len() >= CHUNK {
            self.wire.flush().await?;
        }
        Ok(())
    }

    /// Outside of a transaction, portals end with their statement.
    fn end_implicit(&mut self) {
        if self.status == TransactionStatus::Idle {
            self.portals.retain(|_, portal| portal.hold);
        }
    }

    /// Several statements in one message.
    async fn simple(&mut self, mut body: Body) -> Result<()> {
        let script = body.text()?;
        self.statements.remove("");
        self.portals.remove("");
        let statements = sql_text::statements(&script);
        if statements.is_empty() {
            if script.matches("/*").count() > script.matches("*/").count() {
                return Err(Trouble::new("42601", "unterminated /* comment"));
            }
            return self.wire.put(&EmptyQueryResponse::new());
        }
        for statement in statements {
            // Both are parts of one text, so that the difference is a place in it.
            let offset = statement.as_ptr().addr() - script.as_ptr().addr();
            let answered = self.one(statement).await;
            answered.map_err(|trouble| trouble.shifted(&script, offset))?;
        }
        Ok(())
    }

    /// Each statement has its own time, each part of a result that is fetched too.
    fn restart_clock(&mut self) {
        let timeout = self.settings.statement_timeout();
        self.limits.deadline = timeout.map(|timeout| (Instant::now() + timeout, timeout));
    }

    async fn one(&mut self, statement: &str) -> Result<()> {
        self.restart_clock();
        let prepared = Arc::new(self.prepare(statement, &[]).await?);
        if !prepared.parameters.is_empty() {
            return Err(Trouble::new("42P02", "there is no value for parameter $1")
                .hint("send parameters with the statement, as all drivers do"));
        }
        let mut portal = Portal::new(prepared, Vec::new(), Vec::new());
        self.run(&mut portal, None, true).await
    }
}

fn no_statement(name: &str) -> Trouble {
    Trouble::new("26000", format!("prepared statement \"{name}\" does not exist"))
}

fn no_cursor(name: &str) -> Trouble {
    Trouble::new("34000", format!("cursor \"{name}\" does not exist"))
}
