//! How statements are read and run, and their rows sent, by either protocol.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use datafusion::common::{ParamValues, ScalarValue};
use pgwire::messages::copy::{CopyDone, CopyOutResponse};
use pgwire::messages::extendedquery::PortalSuspended;
use pgwire::messages::response::{CommandComplete, EmptyQueryResponse, TransactionStatus};
use saequel_engine::{Described, ErrorKind};

use super::super::catalog;
use super::super::error::{Result, Trouble};
use super::super::frame::CHUNK;
use super::super::parameter::{Parameter, guess};
use super::super::portal::{
    Layout, Portal, Prepared, Rows, State, copy_data, formats_of, row_description, truncated, watched,
};
use super::super::settings::REPORTED;
use super::super::statement::{Command, has_parameters, tag, writes};
use super::super::types::{Column, columns};
use super::super::value::{Format, sized};
use super::{Connection, no_cursor};
use crate::error::Failure;
use crate::gate::Ask;
use crate::sql_text;

impl Connection {
    /// Reads one statement.
    pub(super) async fn prepare(&mut self, sql: &str, oids: &[u32]) -> Result<Prepared> {
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
            // A type that the client said may shape a column, and this plan does not know it.
            if !prepared.is_typed() {
                prepared.describe(described.schema.map(|schema| columns(&schema)));
            }
        }
        Ok(prepared)
    }

    /// What the engine says about a statement without running it.
    pub(super) async fn plan(&mut self, prepared: &Prepared) -> Result<Described> {
        let Self { wire, gate, visitor, limits, .. } = self;
        let described = watched(wire, limits, || false, gate.describe(visitor, &prepared.planned)).await?;
        described.map_err(|failure| prepared.located(failure.into()))
    }

    /// The same where the client said types of parameters: they have values of these types then.
    pub(super) async fn plan_typed(&mut self, prepared: &Prepared) -> Result<Described> {
        let nulls: Option<Vec<ScalarValue>> = prepared.parameters.iter().map(Parameter::null).collect();
        if let Some(nulls) = nulls.filter(|_| prepared.is_typed()) {
            let Self { wire, gate, visitor, limits, .. } = self;
            let describing = gate.describe_with(visitor, &prepared.planned, ParamValues::from(nulls));
            if let Ok(described) = watched(wire, limits, || false, describing).await? {
                return Ok(described);
            }
        }
        // Table functions take no null: that is told by the plan without values.
        self.plan(prepared).await
    }

    /// Begins to run what the engine is given.
    pub(super) async fn begin(&mut self, prepared: &Prepared, values: &[ScalarValue]) -> Result<Rows> {
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
    pub(super) async fn run(&mut self, portal: &mut Portal, limit: Option<u64>, with_columns: bool) -> Result<()> {
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
        if let Some(told) = portal.told.clone().or_else(|| prepared.described().flatten()) {
            let same = |rows: &Rows| {
                told.len() == rows.columns.len() && told.iter().zip(&rows.columns).all(|(a, b)| a.shown == b.shown)
            };
            // A corpus was made anew since.
            if !same(&rows) {
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

    async fn copy_out(&mut self, prepared: &Prepared, copy: &super::super::copy::Copy, rows: &mut Rows) -> Result<u64> {
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
}

pub(super) fn show_columns(name: Option<&str>) -> Vec<Column> {
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
