//! The messages of the extended protocol: statements and portals by name, values apart from the text.

use std::sync::Arc;

use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::{BindComplete, CloseComplete, ParseComplete};
use pgwire::messages::response::TransactionStatus;

use super::super::error::{Result, Trouble};
use super::super::frame::Body;
use super::super::portal::{Portal, Prepared, State, formats_of, row_description};
use super::super::statement::Command;
use super::super::types::{Column, columns};
use super::super::value::Format;
use super::run::show_columns;
use super::{Connection, no_cursor, no_statement};
use crate::sql_text;

/// Prepared statements that a connection may keep.
const MAX_KEPT: usize = 10_000;
/// Bytes of their texts.
const MAX_KEPT_BYTES: usize = 64 << 20;
/// Portals that a connection may keep; each may hold values as large as a message.
const MAX_PORTALS: usize = 200;

impl Connection {
    pub(super) async fn parse(&mut self, mut body: Body) -> Result<()> {
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

    pub(super) fn bind(&mut self, mut body: Body) -> Result<()> {
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

    pub(super) fn may_keep(&self, portal: &str) -> Result<()> {
        if self.portals.contains_key(portal) {
            return Err(Trouble::new("42P03", format!("cursor \"{portal}\" already exists")));
        }
        if self.portals.len() >= MAX_PORTALS {
            return Err(Trouble::new("54000", format!("a connection may keep {MAX_PORTALS} portals")));
        }
        Ok(())
    }

    pub(super) async fn describe(&mut self, mut body: Body) -> Result<()> {
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
                        let columns = self.plan_typed(prepared).await?.schema.map(|schema| columns(&schema));
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
            && (prepared.is_typed() || prepared.described().flatten().is_none());
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

    pub(super) async fn execute(&mut self, mut body: Body) -> Result<()> {
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

    pub(super) fn close(&mut self, mut body: Body) -> Result<()> {
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
