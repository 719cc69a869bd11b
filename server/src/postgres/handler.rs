//! One connection: which message is answered with what.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use datafusion::common::{ParamValues, ScalarValue};
use pgwire::messages::copy::{CopyDone, CopyOutResponse};
use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::{BindComplete, CloseComplete, ParseComplete, PortalSuspended};
use pgwire::messages::response::{CommandComplete, EmptyQueryResponse, ReadyForQuery, TransactionStatus};
use pgwire::messages::startup::ParameterStatus;
use saequel_engine::{Described, ErrorKind};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cancel::{Registered, random_bytes};
use super::catalog;
use super::error::{Report, Result, Trouble};
use super::frame::{Body, CHUNK, Frame, MAX_STARTUP};
use super::parameter::{Parameter, guess};
use super::portal::{
    Layout, Limits, Portal, Prepared, Rows, State, copy_data, formats_of, row_description, truncated, watched,
};
use super::settings::{REPORTED, SessionSettings};
use super::startup::{AnyWire, Started};
use super::statement::{Command, has_parameters, tag, writes};
use super::types::{Column, columns};
use super::value::{Format, sized};
use crate::error::Failure;
use crate::gate::{Ask, Door, Gate, Visitor};
use crate::sql_text;

/// Time that a client gets to end what it began when the server stops.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Prepared statements that a connection may keep.
const MAX_KEPT: usize = 10_000;
/// Bytes of their texts.
const MAX_KEPT_BYTES: usize = 64 << 20;
/// Portals that a connection may keep; each may hold values as large as a message.
const MAX_PORTALS: usize = 200;

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

    /// Reads one statement.
    async fn prepare(&mut self, sql: &str, oids: &[u32]) -> Result<Prepared> {
        let command = Command::parse(sql, &self.settings).map_err(|trouble| trouble.located(sql, sql, 0))?;
        if self.status == TransactionStatus::Error && !command.ends_transaction() {
            let message = "current transaction is aborted, commands ignored until end of transaction block";
            return Err(Trouble::new("25P02", message));
        }
        let mut prepared = Prepared::new(sql, command);
        let inner = match &prepared.command {
            Command::Engine => sql.to_owned(),
            Command::Declare { query, .. } => {
                prepared.offset = *query;
                sql[*query..].to_owned()
            }
            Command::Copy(copy) => {
                prepared.offset = copy.start();
                copy.statement(sql)
            }
            _ => return Ok(prepared),
        };
        prepared.writes = writes(sql_text::first_word(&inner));
        prepared.tag = tag(&inner);
        prepared.planned = catalog::rewrite(&inner)?;
        if has_parameters(&inner) {
            let described = self.plan(&prepared).await?;
            let cast_to = catalog::parameter_types(&inner);
            let mut numbered = 0;
            for parameter in &described.parameters {
                let number = parameter.name.get(1..).and_then(|number| number.parse::<usize>().ok());
                let number = number.filter(|number| (1..=usize::from(u16::MAX)).contains(number)).ok_or_else(|| {
                    Trouble::new("42P02", format!("expected a parameter such as $1, got {}", parameter.name))
                })?;
                numbered = numbered.max(number);
            }
            if numbered == 0 {
                return Err(Trouble::new("0A000", format!("{}: parameters are not supported here", prepared.tag))
                    .hint("write the values into the statement"));
            }
            for number in 1..=numbered {
                let name = format!("${number}");
                let wanted = described.parameters.iter().find(|parameter| parameter.name == name);
                let wanted = wanted.and_then(|parameter| parameter.data_type.clone());
                let given = oids.get(number - 1).copied().filter(|oid| *oid != 0);
                let by_cast = || cast_to.get(&number).copied().filter(|_| wanted.is_none());
                let oid = given.or_else(by_cast).unwrap_or(0);
                prepared.parameters.push(Parameter::new(oid, wanted)?);
            }
            prepared.describe(described.schema.map(|schema| columns(&schema)));
        }
        Ok(prepared)
    }

    /// What the engine says about a statement without running it.
    async fn plan(&mut self, prepared: &Prepared) -> Result<Described> {
        let Self { wire, gate, visitor, limits, .. } = self;
        let described = watched(wire, limits, || false, gate.describe(visitor, &prepared.planned)).await?;
        described.map_err(|failure| prepared.located(failure.into()))
    }

    /// Begins to run what the engine is given.
    async fn begin(&mut self, prepared: &Prepared, values: &[ScalarValue]) -> Result<Rows> {
        if prepared.writes && self.settings.is_read_only() {
            let message = format!("cannot execute {} in a read-only transaction", prepared.tag);
            return Err(Trouble::new("25006", message));
        }
        let failure = match self.ask(prepared, values.to_vec()).await? {
            Ok(rows) => return Ok(rows),
            Err(failure) => failure,
        };
        // Where nobody knows the type of a parameter (an argument of a table function), clients that send all values as
        // text leave open whether it is a number or an array. Planning refuses the wrong one, and has done nothing then.
        let is_open = |parameter: &Parameter| parameter.is_open();
        if failure.kind() == ErrorKind::Query && prepared.parameters.iter().any(is_open) {
            let guessed = |(parameter, value): (&Parameter, &ScalarValue)| match value {
                ScalarValue::Utf8(Some(text)) if parameter.is_open() => guess(text),
                _ => None,
            };
            let pairs = || prepared.parameters.iter().zip(values);
            if pairs().any(|pair| guessed(pair).is_some()) {
                let others = pairs().map(|pair| guessed(pair).unwrap_or_else(|| pair.1.clone())).collect();
                if let Ok(rows) = self.ask(prepared, others).await? {
                    return Ok(rows);
                }
            }
        }
        Err(prepared.located(failure.into()))
    }

    async fn ask(&mut self, prepared: &Prepared, values: Vec<ScalarValue>) -> Result<Result<Rows, Failure>> {
        self.n_queries += 1;
        let query_id = format!("{}-{}", self.id, self.n_queries);
        let Self { wire, gate, visitor, limits, .. } = self;
        gate.admit_request(&visitor.principal, visitor.peer)?;
        let ask = Ask {
            parameters: ParamValues::from(values),
            query_id: Some(query_id.clone()),
            ..Ask::new(prepared.planned.clone())
        };
        let stop = || gate.cancel(&visitor.principal, &query_id).is_ok();
        let answer = watched(wire, limits, stop, gate.run(visitor, ask)).await?;
        Ok(answer.map(Rows::new))
    }

    /// Runs a portal, or goes on with it, for at most so many rows.
    async fn run(&mut self, portal: &mut Portal, limit: Option<u64>, with_columns: bool) -> Result<()> {
        // A token that was revoked ends the connection, whatever is asked.
        self.gate.still(&self.visitor)?;
        let prepared = Arc::clone(&portal.prepared);
        if self.status == TransactionStatus::Error && !prepared.command.ends_transaction() {
            let message = "current transaction is aborted, commands ignored until end of transaction block";
            return Err(Trouble::new("25P02", message));
        }
        match &prepared.command {
            Command::Empty => return self.wire.put(&EmptyQueryResponse::new()),
            Command::Engine => return self.run_query(portal, limit, with_columns).await,
            Command::Copy(copy) => {
                let mut rows = self.begin(&prepared, &portal.values).await?;
                let columns = i16::try_from(rows.columns.len()).unwrap_or(i16::MAX);
                let code = copy.format().code();
                let formats = vec![code; rows.columns.len()];
                self.wire.put(&CopyOutResponse::new(i8::try_from(code).unwrap_or(0), columns, formats))?;
                let n = self.copy_out(&prepared, copy, &mut rows).await?;
                self.wire.put(&CopyDone::new())?;
                return self.complete(format!("COPY {n}"));
            }
            Command::Show(name) => {
                let shown: Vec<Vec<String>> = match name {
                    Some(name) => vec![vec![self.settings.get(name).unwrap_or_default()]],
                    None => {
                        self.settings.all().into_iter().map(|(name, value)| vec![name, value, String::new()]).collect()
                    }
                };
                if name.as_deref().is_some_and(|name| !self.settings.knows(name)) {
                    let message = format!("unrecognized configuration parameter \"{}\"", name.as_deref().unwrap_or(""));
                    return Err(Trouble::new("42704", message).hint("SHOW ALL lists them"));
                }
                let columns = show_columns(name.as_deref());
                let formats = formats_of(&portal.formats, columns.len())?;
                if with_columns {
                    self.wire.put(&row_description(&columns, &formats))?;
                }
                for row in shown {
                    put_row(&row, &mut self.wire.output)?;
                }
                return self.complete("SHOW".to_owned());
            }
            Command::Declare { name, hold, .. } => {
                if self.status != TransactionStatus::Transaction && !hold {
                    return Err(Trouble::new("25P01", "DECLARE CURSOR can only be used in transaction blocks")
                        .hint("BEGIN before it, or declare the cursor WITH HOLD"));
                }
                self.may_keep(name)?;
                let rows = self.begin(&prepared, &portal.values).await?;
                let mut cursor = Portal::new(Arc::clone(&prepared), Vec::new(), Vec::new());
                (cursor.state, cursor.hold) = (State::Open(rows), *hold);
                self.portals.insert(name.clone(), cursor);
                return self.complete("DECLARE CURSOR".to_owned());
            }
            Command::Fetch { name, rows, shown } => return self.fetch(portal, name, *rows, *shown, with_columns).await,
            _ => {}
        }
        let tag = self.control(&prepared.command)?;
        self.complete(tag)
    }

    fn complete(&mut self, tag: String) -> Result<()> {
        self.wire.put(&CommandComplete::new(tag))
    }

    fn warn(&mut self, sqlstate: &'static str, message: &str) -> Result<()> {
        self.wire.put(&Report::warning(sqlstate, message).notice())
    }

    /// What changes the connection and needs no engine; the tag.
    fn control(&mut self, command: &Command) -> Result<String> {
        let in_transaction = self.status != TransactionStatus::Idle;
        let no_transaction =
            |what: &str| Trouble::new("25P01", format!("{what} can only be used in transaction blocks"));
        Ok(match command {
            Command::Begin(modes) => {
                if in_transaction {
                    self.warn("25001", "there is already a transaction in progress")?;
                } else {
                    self.begin_transaction();
                }
                for (name, value) in modes {
                    self.settings.set(name, value)?;
                }
                "BEGIN".to_owned()
            }
            Command::Commit { chain } => {
                let failed = self.status == TransactionStatus::Error;
                if !in_transaction {
                    self.warn("25P01", "there is no transaction in progress")?;
                }
                self.end_transaction(!failed, *chain && in_transaction)?;
                if failed { "ROLLBACK" } else { "COMMIT" }.to_owned()
            }
            Command::Rollback { chain } => {
                if !in_transaction {
                    self.warn("25P01", "there is no transaction in progress")?;
                }
                self.end_transaction(false, *chain && in_transaction)?;
                "ROLLBACK".to_owned()
            }
            Command::Savepoint(name) => {
                if !in_transaction {
                    return Err(no_transaction("SAVEPOINT"));
                }
                self.savepoints.push(name.clone());
                "SAVEPOINT".to_owned()
            }
            Command::Release(name) | Command::RollbackTo(name) => {
                let rolls_back = matches!(command, Command::RollbackTo(_));
                if !in_transaction {
                    return Err(no_transaction(if rolls_back { "ROLLBACK TO SAVEPOINT" } else { "RELEASE SAVEPOINT" }));
                }
                let found = self.savepoints.iter().rposition(|savepoint| savepoint == name);
                let found =
                    found.ok_or_else(|| Trouble::new("3B001", format!("savepoint \"{name}\" does not exist")))?;
                self.savepoints.truncate(found + usize::from(rolls_back));
                if rolls_back {
                    self.status = TransactionStatus::Transaction;
                    self.warn_of_writes()?;
                    "ROLLBACK".to_owned()
                } else {
                    "RELEASE".to_owned()
                }
            }
            Command::Set { name, value, local } => {
                match value {
                    // Going back to oneself changes nothing.
                    Some(user)
                        if name == "role" && self.settings.get("session_authorization").as_ref() == Some(user) => {}
                    Some(value) if *local => {
                        if !in_transaction {
                            self.warn("25P01", "SET LOCAL can only be used in transaction blocks")?;
                        }
                        self.settings.set_local(name, value)?;
                    }
                    Some(value) => self.settings.set(name, value)?,
                    None => self.settings.reset(name)?,
                }
                "SET".to_owned()
            }
            Command::SetMany(modes) => {
                for (name, value) in modes {
                    self.settings.set(name, value)?;
                }
                "SET".to_owned()
            }
            Command::Reset(None) => {
                self.settings.reset_all();
                "RESET".to_owned()
            }
            Command::Reset(Some(name)) => {
                self.settings.reset(name)?;
                "RESET".to_owned()
            }
            Command::Discard { all, tag } => {
                if *all {
                    if in_transaction {
                        return Err(Trouble::new("25001", "DISCARD ALL cannot run inside a transaction block"));
                    }
                    self.portals.clear();
                    self.statements.clear();
                    self.settings.reset_all();
                }
                (*tag).to_owned()
            }
            Command::Deallocate(None) => {
                self.statements.clear();
                "DEALLOCATE ALL".to_owned()
            }
            Command::Deallocate(Some(name)) => match self.statements.remove(name) {
                Some(_) => "DEALLOCATE".to_owned(),
                None => return Err(no_statement(name)),
            },
            Command::Close(None) => {
                self.portals.clear();
                "CLOSE CURSOR ALL".to_owned()
            }
            Command::Close(Some(name)) => match self.portals.remove(name) {
                Some(_) => "CLOSE CURSOR".to_owned(),
                None => return Err(no_cursor(name)),
            },
            Command::Nothing(tag) => (*tag).to_owned(),
            _ => return Err(Trouble::new("XX000", "a statement was taken for another")),
        })
    }

    fn begin_transaction(&mut self) {
        self.status = TransactionStatus::Transaction;
        self.savepoints.clear();
        self.wrote = false;
        self.settings.begin();
    }

    fn end_transaction(&mut self, committed: bool, chain: bool) -> Result<()> {
        if !committed {
            self.warn_of_writes()?;
        }
        self.settings.end(committed);
        self.portals.retain(|_, portal| portal.hold);
        self.savepoints.clear();
        (self.status, self.wrote) = (TransactionStatus::Idle, false);
        if chain {
            self.begin_transaction();
        }
        Ok(())
    }

    fn warn_of_writes(&mut self) -> Result<()> {
        if self.wrote {
            self.warn("01000", "what was written since BEGIN stays: each statement of saequel commits itself")?;
        }
        Ok(())
    }

    /// Runs a statement of the engine, or goes on with it.
    async fn run_query(&mut self, portal: &mut Portal, limit: Option<u64>, with_columns: bool) -> Result<()> {
        let prepared = Arc::clone(&portal.prepared);
        let mut rows = match std::mem::replace(&mut portal.state, State::Done) {
            State::Bound => self.begin(&prepared, &portal.values).await?,
            State::Open(rows) => rows,
            State::Done => return self.complete(format!("{} 0", prepared.tag)),
        };
        if prepared.writes {
            self.wrote = true;
        }
        if prepared.tag == "DELETE" {
            let mut deleted = 0;
            while self.advance(&prepared, &mut rows).await? {
                deleted += rows.sum("deleted");
            }
            return self.complete(format!("DELETE {deleted}"));
        }
        if let Some(told) = portal.told.as_ref().or(prepared.described().flatten().as_ref()) {
            // A corpus was made anew since.
            let same =
                told.len() == rows.columns.len() && told.iter().zip(&rows.columns).all(|(a, b)| a.shown == b.shown);
            if !same {
                return Err(Trouble::new("0A000", "cached plan must not change result type")
                    .hint("the columns have changed since the statement was prepared; prepare it again"));
            }
        }
        let formats = formats_of(&portal.formats, rows.columns.len())?;
        if with_columns {
            self.wire.put(&row_description(&rows.columns, &formats))?;
        }
        let (n, ended) = self.send(&prepared, &mut rows, &Layout::Rows(&formats), limit).await?;
        if !ended {
            portal.state = State::Open(rows);
            return self.wire.put(&PortalSuspended::new());
        }
        if rows.truncated {
            self.wire.put(&truncated().notice())?;
        }
        let tag = if prepared.tag == "SELECT" { format!("SELECT {n}") } else { prepared.tag.clone() };
        self.complete(tag)
    }

    async fn fetch(
        &mut self,
        portal: &Portal,
        name: &str,
        wanted: Option<u64>,
        shown: bool,
        with_columns: bool,
    ) -> Result<()> {
        let mut cursor = self.portals.remove(name).ok_or_else(|| no_cursor(name))?;
        let fetched = self.fetch_from(&mut cursor, &portal.formats, wanted, shown, with_columns).await;
        if fetched.is_err() {
            cursor.state = State::Done; // ends what runs
        }
        self.portals.insert(name.to_owned(), cursor);
        let n = fetched?;
        self.complete(format!("{} {n}", if shown { "FETCH" } else { "MOVE" }))
    }

    async fn fetch_from(
        &mut self,
        cursor: &mut Portal,
        formats: &[Format],
        wanted: Option<u64>,
        shown: bool,
        with_columns: bool,
    ) -> Result<u64> {
        let prepared = Arc::clone(&cursor.prepared);
        if matches!(cursor.state, State::Bound) {
            cursor.state = State::Open(self.begin(&prepared, &cursor.values).await?);
        }
        let State::Open(rows) = &mut cursor.state else { return Ok(0) };
        let formats = formats_of(formats, rows.columns.len())?;
        if with_columns && shown {
            self.wire.put(&row_description(&rows.columns, &formats))?;
        }
        let layout = if shown { Layout::Rows(&formats) } else { Layout::Nothing };
        Ok(self.send(&prepared, rows, &layout, wanted).await?.0)
    }

    /// Takes the next batch, listening to the client.
    async fn advance(&mut self, prepared: &Prepared, rows: &mut Rows) -> Result<bool> {
        let Self { wire, gate, visitor, limits, .. } = self;
        let id = rows.query_id().map(str::to_owned);
        let stop = || id.as_ref().is_some_and(|id| gate.cancel(&visitor.principal, id).is_ok());
        let more = watched(wire, limits, stop, rows.advance()).await?;
        more.map_err(|failure| prepared.located(failure.into()))
    }

    /// Sends rows, at most so many; how many, and whether that was all.
    async fn send(
        &mut self,
        prepared: &Prepared,
        rows: &mut Rows,
        layout: &Layout<'_>,
        limit: Option<u64>,
    ) -> Result<(u64, bool)> {
        let zone = self.settings.zone()?;
        let limit = limit.unwrap_or(u64::MAX);
        let mut sent = 0;
        while sent < limit {
            if !rows.has_row() && !self.advance(prepared, rows).await? {
                return Ok((sent, true));
            }
            sent += rows.write(layout, limit - sent, zone, &mut self.wire.output)?;
            if self.wire.output.len() >= CHUNK {
                self.limits.check()?;
                self.wire.flush().await?;
            }
        }
        Ok((sent, false))
    }

    async fn copy_out(&mut self, prepared: &Prepared, copy: &super::copy::Copy, rows: &mut Rows) -> Result<u64> {
        let mut head = BytesMut::new();
        copy.begin(&rows.columns, &mut head);
        if copy.format() == Format::Text && !head.is_empty() {
            copy_data(&mut self.wire.output, |out| {
                out.put_slice(&head);
                Ok(())
            })?;
            head.clear();
        }
        // The signature of the binary format travels with the first row, as clients expect.
        let zone = self.settings.zone()?;
        let mut n = 0;
        if !head.is_empty() && (rows.has_row() || self.advance(prepared, rows).await?) {
            let mut first = BytesMut::new();
            n += rows.write(&Layout::Copy(copy), 1, zone, &mut first)?;
            copy_data(&mut self.wire.output, |out| {
                out.put_slice(&head);
                out.put_slice(&first[5..]); // without the head of its message
                Ok(())
            })?;
            head.clear();
        }
        n += self.send(prepared, rows, &Layout::Copy(copy), None).await?.0;
        copy.end(&mut head);
        if !head.is_empty() {
            copy_data(&mut self.wire.output, |out| {
                out.put_slice(&head);
                Ok(())
            })?;
        }
        if rows.truncated {
            self.wire.put(&truncated().notice())?;
        }
        Ok(n)
    }

    async fn parse(&mut self, mut body: Body) -> Result<()> {
        let (name, sql) = (body.text()?, body.text()?);
        let n = body.count()?;
        let mut oids = Vec::with_capacity(n.min(body.0.len() / 4));
        for _ in 0..n {
            oids.push(body.int32()?.cast_unsigned());
        }
        if !name.is_empty() && self.statements.contains_key(&name) {
            return Err(Trouble::new("42P05", format!("prepared statement \"{name}\" already exists")));
        }
        if self.statements.len() >= MAX_KEPT {
            return Err(Trouble::new("54000", format!("a connection may keep {MAX_KEPT} prepared statements"))
                .hint("DEALLOCATE ALL forgets them"));
        }
        let kept: usize = self.statements.values().map(|kept| kept.sql.len() + kept.planned.len()).sum();
        if kept + sql.len() > MAX_KEPT_BYTES {
            return Err(Trouble::new("54000", format!("prepared statements may have {MAX_KEPT_BYTES} bytes together"))
                .hint("DEALLOCATE ALL forgets them"));
        }
        if sql_text::statements(&sql).len() > 1 {
            return Err(Trouble::new("42601", "cannot insert multiple commands into a prepared statement"));
        }
        let prepared = self.prepare(&sql, &oids).await?;
        self.statements.insert(name, Arc::new(prepared));
        self.wire.put(&ParseComplete::new())
    }

    fn bind(&mut self, mut body: Body) -> Result<()> {
        let (portal, statement) = (body.text()?, body.text()?);
        let given = formats(&mut body)?;
        let n = body.count()?;
        let mut bytes = Vec::with_capacity(n.min(body.0.len() / 4));
        for _ in 0..n {
            bytes.push(match usize::try_from(body.int32()?) {
                Ok(length) => Some(body.bytes(length)?),
                Err(_) => None,
            });
        }
        let shown = formats(&mut body)?;
        let prepared = self.statements.get(&statement).cloned().ok_or_else(|| no_statement(&statement))?;
        let wanted = prepared.parameters.len();
        if n != wanted {
            let message = format!(
                "bind message supplies {n} parameters, but prepared statement \"{statement}\" requires {wanted}"
            );
            return Err(Trouble::new("08P01", message));
        }
        if given.len() > 1 && given.len() != n {
            let message = format!("bind message has {} parameter formats but {n} parameters", given.len());
            return Err(Trouble::new("08P01", message));
        }
        let mut values = Vec::with_capacity(n);
        for (i, (bytes, parameter)) in bytes.into_iter().zip(&prepared.parameters).enumerate() {
            let format = given.get(i).or(given.first()).copied().unwrap_or(Format::Text);
            values.push(parameter.value(i + 1, format, bytes)?);
        }
        if portal.is_empty() {
            self.portals.remove("");
        } else {
            self.may_keep(&portal)?;
        }
        self.portals.insert(portal, Portal::new(prepared, values, shown));
        self.wire.put(&BindComplete::new())
    }

    fn may_keep(&self, portal: &str) -> Result<()> {
        if self.portals.contains_key(portal) {
            return Err(Trouble::new("42P03", format!("cursor \"{portal}\" already exists")));
        }
        if self.portals.len() >= MAX_PORTALS {
            return Err(Trouble::new("54000", format!("a connection may keep {MAX_PORTALS} portals")));
        }
        Ok(())
    }

    async fn describe(&mut self, mut body: Body) -> Result<()> {
        let (kind, name) = (body.byte()?, body.text()?);
        if kind == b'P' {
            let mut portal = self.portals.remove(&name).ok_or_else(|| no_cursor(&name))?;
            let described = self.describe_portal(&mut portal).await;
            let formats = portal.formats.clone();
            self.portals.insert(name, portal);
            return match described? {
                Some(columns) => self.wire.put(&row_description(&columns, &formats_of(&formats, columns.len())?)),
                None => self.wire.put(&NoData::new()),
            };
        }
        let prepared = self.statements.get(&name).cloned().ok_or_else(|| no_statement(&name))?;
        let columns = self.columns(&prepared).await?;
        let types = prepared.parameters.iter().map(|parameter| parameter.shown.oid()).collect();
        self.wire.put(&ParameterDescription::new(types))?;
        match columns {
            Some(columns) => self.wire.put(&row_description(&columns, &vec![Format::Text; columns.len()])),
            None => self.wire.put(&NoData::new()),
        }
    }

    /// Columns of a statement's result; `None` if it has none.
    async fn columns(&mut self, prepared: &Prepared) -> Result<Option<Vec<Column>>> {
        match &prepared.command {
            Command::Engine if prepared.tag == "DELETE" => Ok(None),
            Command::Engine => {
                let described = match prepared.described() {
                    Some(described) => described,
                    None => {
                        let columns = self.plan(prepared).await?.schema.map(|schema| columns(&schema));
                        prepared.describe(columns.clone());
                        columns
                    }
                };
                // What a table function gives may depend on what it is given, so that no value of ours would do.
                described.map(Some).ok_or_else(|| {
                    let message = "the columns of the result depend on the value of a parameter";
                    Trouble::new("0A000", message).hint(
                        "write the arguments of table functions into the statement; psycopg, JDBC and node, which ask for \
                         the columns after they gave the values, can use parameters there",
                    )
                })
            }
            Command::Show(name) => Ok(Some(show_columns(name.as_deref()))),
            Command::Fetch { name, shown: true, .. } => match self.portals.get(name).map(|cursor| &cursor.state) {
                Some(State::Open(rows)) => Ok(Some(rows.columns.clone())),
                Some(_) => Ok(None),
                None => Err(no_cursor(name)),
            },
            _ => Ok(None),
        }
    }

    /// Columns of a portal. A query that only reads begins to run, so that it is planned once.
    async fn describe_portal(&mut self, portal: &mut Portal) -> Result<Option<Vec<Column>>> {
        if let State::Open(rows) = &portal.state {
            return Ok(Some(rows.columns.clone()));
        }
        let prepared = Arc::clone(&portal.prepared);
        let begins = prepared.command == Command::Engine
            && !prepared.writes
            && matches!(portal.state, State::Bound)
            && self.status != TransactionStatus::Error
            && prepared.described().flatten().is_none();
        let columns = if begins {
            let rows = self.begin(&prepared, &portal.values).await?;
            let columns = rows.columns.clone();
            portal.state = State::Open(rows);
            Some(columns)
        } else {
            self.columns(&prepared).await?
        };
        portal.told.clone_from(&columns);
        Ok(columns)
    }

    async fn execute(&mut self, mut body: Body) -> Result<()> {
        let (name, limit) = (body.text()?, body.int32()?);
        let mut portal = self.portals.remove(&name).ok_or_else(|| no_cursor(&name))?;
        let limit = u64::try_from(limit).ok().filter(|limit| *limit > 0);
        let done = self.run(&mut portal, limit, false).await;
        // A statement that ended the transaction ended its own portal with it.
        let keeps = !portal.prepared.command.ends_transaction() && !self.portals.contains_key(&name);
        if done.is_ok() && keeps {
            self.portals.insert(name, portal);
        }
        done
    }

    fn close(&mut self, mut body: Body) -> Result<()> {
        let (kind, name) = (body.byte()?, body.text()?);
        if kind == b'P' {
            self.portals.remove(&name);
        } else {
            self.statements.remove(&name);
        }
        self.wire.put(&CloseComplete::new())
    }
}

/// A number of format codes, and them.
fn formats(body: &mut Body) -> Result<Vec<Format>> {
    let n = body.count()?;
    let mut formats = Vec::with_capacity(n.min(body.0.len() / 2));
    for _ in 0..n {
        formats.push(match body.int16()? {
            0 => Format::Text,
            1 => Format::Binary,
            code => return Err(Trouble::new("22023", format!("expected format 0 or 1, got {code}"))),
        });
    }
    Ok(formats)
}

fn show_columns(name: Option<&str>) -> Vec<Column> {
    match name {
        Some(name) => {
            let spelt = REPORTED.iter().find(|reported| reported.eq_ignore_ascii_case(name));
            vec![Column::text(spelt.map_or(name, |spelt| spelt))]
        }
        None => ["name", "setting", "description"].map(Column::text).into(),
    }
}

/// A row of texts, which are the same in both formats.
fn put_row(row: &[String], out: &mut BytesMut) -> Result<()> {
    let mut body = BytesMut::new();
    body.put_i16(i16::try_from(row.len()).unwrap_or(i16::MAX));
    for value in row {
        sized(&mut body, |out| {
            out.put_slice(value.as_bytes());
            Ok(true)
        })?;
    }
    out.put_u8(b'D');
    out.put_i32(i32::try_from(body.len() + 4).unwrap_or(i32::MAX));
    out.put_slice(&body);
    Ok(())
}

fn no_statement(name: &str) -> Trouble {
    Trouble::new("26000", format!("prepared statement \"{name}\" does not exist"))
}

fn no_cursor(name: &str) -> Trouble {
    Trouble::new("34000", format!("cursor \"{name}\" does not exist"))
}
