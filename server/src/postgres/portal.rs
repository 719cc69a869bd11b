//! Prepared statements, portals, and the way of rows from the engine to the client.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::array::timezone::Tz;
use bytes::{BufMut, BytesMut};
use datafusion::common::ScalarValue;
use futures::StreamExt;
use pgwire::messages::data::RowDescription;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::copy::Copy;
use super::error::{Report, Result, Trouble, cancelled};
use super::frame::CHUNK;
use super::parameter::Parameter;
use super::startup::AnyWire;
use super::statement::Command;
use super::types::{Column, columns};
use super::value::{Cells, Format, json_options, plain, sized};
use crate::error::Failure;
use crate::gate::Answer;

/// A statement that was read.
#[derive(Debug)]
pub(super) struct Prepared {
    /// As the client sent it.
    pub(super) sql: String,
    /// What is to be done.
    pub(super) command: Command,
    /// What the engine is given, if it is given anything.
    pub(super) planned: String,
    /// Where in `sql` that began before it was rewritten.
    pub(super) offset: usize,
    /// Parameters `$1`, `$2`, ...
    pub(super) parameters: Vec<Parameter>,
    /// Whether it changes the database.
    pub(super) writes: bool,
    /// What the end is told with; a number of rows may be added.
    pub(super) tag: String,
    /// Columns of the result; `None`: not asked yet. Inside, `None`: they depend on the parameters.
    described: Mutex<Option<Option<Vec<Column>>>>,
}

impl Prepared {
    /// A statement without parameters.
    pub(super) fn new(sql: &str, command: Command) -> Self {
        Self {
            sql: sql.to_owned(),
            command,
            planned: String::new(),
            offset: 0,
            parameters: Vec::new(),
            writes: false,
            tag: String::new(),
            described: Mutex::default(),
        }
    }

    /// Whether the client said the type of a parameter.
    pub(super) fn is_typed(&self) -> bool {
        self.parameters.iter().any(Parameter::is_typed)
    }

    /// Columns of the result, if that is known.
    pub(super) fn described(&self) -> Option<Option<Vec<Column>>> {
        self.described.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes the columns.
    pub(super) fn describe(&self, columns: Option<Vec<Column>>) {
        *self.described.lock().unwrap_or_else(PoisonError::into_inner) = Some(columns);
    }

    /// An error with its position in what the client sent.
    pub(super) fn located(&self, trouble: Trouble) -> Trouble {
        trouble.located(&self.planned, &self.sql, self.offset)
    }
}

/// A statement with values for its parameters, and as much of its result as was not sent yet.
pub(super) struct Portal {
    pub(super) prepared: Arc<Prepared>,
    pub(super) values: Vec<ScalarValue>,
    /// None: text. One: of all columns. Else one a column.
    pub(super) formats: Vec<Format>,
    pub(super) state: State,
    /// Whether it outlives its transaction.
    pub(super) hold: bool,
    /// Whether the client was told the columns.
    pub(super) told: Option<Vec<Column>>,
}

/// How far a portal is.
pub(super) enum State {
    /// Nothing has happened.
    Bound,
    /// Rows are there.
    Open(Rows),
    /// All was sent.
    Done,
}

impl Portal {
    /// Nothing has happened to it yet.
    pub(super) fn new(prepared: Arc<Prepared>, values: Vec<ScalarValue>, formats: Vec<Format>) -> Self {
        Self { prepared, values, formats, state: State::Bound, hold: false, told: None }
    }
}

/// The format of a column.
///
/// # Errors
/// If there is a number of formats that cannot be meant.
pub(super) fn formats_of(formats: &[Format], n: usize) -> Result<Vec<Format>> {
    match formats {
        [] => Ok(vec![Format::Text; n]),
        [all] => Ok(vec![*all; n]),
        each if each.len() == n => Ok(each.to_vec()),
        each => {
            let message = format!("bind message has {} result formats but query has {n} columns", each.len());
            Err(Trouble::new("08P01", message))
        }
    }
}

/// Tells the columns.
pub(super) fn row_description(columns: &[Column], formats: &[Format]) -> RowDescription {
    RowDescription::new(columns.iter().zip(formats).map(|(column, format)| column.description(format.code())).collect())
}

/// How rows are sent.
pub(super) enum Layout<'a> {
    /// As rows of a query.
    Rows(&'a [Format]),
    /// As data of a COPY.
    Copy(&'a Copy),
    /// Not at all: they are skipped.
    Nothing,
}

/// What a running statement has given.
pub(super) struct Rows {
    answer: Option<Answer>,
    pub(super) columns: Vec<Column>,
    batch: Option<RecordBatch>,
    /// The first row of the batch that was not sent.
    at: usize,
    /// Whether the server's limit cut the result.
    pub(super) truncated: bool,
}

impl Rows {
    /// Of a statement that has just begun.
    pub(super) fn new(answer: Answer) -> Self {
        let columns = columns(&answer.schema());
        Self { answer: Some(answer), columns, batch: None, at: 0, truncated: false }
    }

    /// The query, to cancel it.
    pub(super) fn query_id(&self) -> Option<&str> {
        self.answer.as_ref().map(|answer| answer.query_id.as_str())
    }

    /// Takes the next batch; `false` at the end. Safe to drop while it waits.
    ///
    /// # Errors
    /// What ended the statement.
    pub(super) async fn advance(&mut self) -> Result<bool, Failure> {
        let Some(answer) = &mut self.answer else { return Ok(false) };
        match answer.next().await {
            Some(Ok(batch)) => {
                (self.batch, self.at) = (Some(plain(batch)?), 0);
                Ok(true)
            }
            Some(Err(failure)) => {
                self.answer = None;
                Err(failure)
            }
            None => {
                self.truncated = answer.truncated();
                self.answer = None;
                Ok(false)
            }
        }
    }

    /// Whether there is a row at hand.
    pub(super) fn has_row(&self) -> bool {
        self.batch.as_ref().is_some_and(|batch| self.at < batch.num_rows())
    }

    /// Appends rows at hand, at most `limit` and about a chunk; how many.
    ///
    /// # Errors
    /// For a value that cannot be written.
    pub(super) fn write(&mut self, layout: &Layout<'_>, limit: u64, zone: Tz, out: &mut BytesMut) -> Result<u64> {
        let Some(batch) = &self.batch else { return Ok(0) };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let end = batch.num_rows().min(self.at.saturating_add(limit));
        let start = self.at;
        if matches!(layout, Layout::Nothing) {
            self.at = end;
            return Ok((end - start) as u64);
        }
        let options = json_options();
        let n = self.columns.len();
        let mut cells = Cells::new(batch, &self.columns, &options, zone)?;
        while self.at < end && out.len() < CHUNK {
            match layout {
                Layout::Rows(formats) => {
                    let at = out.len();
                    out.put_u8(b'D');
                    sized_message(out, |out| {
                        out.put_i16(i16::try_from(n).unwrap_or(i16::MAX));
                        for (column, format) in formats.iter().enumerate() {
                            sized(out, |out| cells.put(column, self.at, *format, out))?;
                        }
                        Ok(())
                    })
                    .inspect_err(|_| out.truncate(at))?;
                }
                Layout::Copy(copy) => copy_data(out, |out| copy.row(&mut cells, n, self.at, out))?,
                Layout::Nothing => {}
            }
            self.at += 1;
        }
        Ok((self.at - start) as u64)
    }

    /// Sum of a column of counts over all rows at hand: what a DELETE deleted.
    pub(super) fn sum(&mut self, column: &str) -> u64 {
        use arrow::array::AsArray;
        use arrow::datatypes::UInt64Type;
        let Some(batch) = self.batch.take() else { return 0 };
        let counts = batch.column_by_name(column).and_then(|counts| counts.as_primitive_opt::<UInt64Type>().cloned());
        counts.map_or(0, |counts| counts.iter().flatten().sum())
    }
}

/// Appends the body of a message behind its length.
fn sized_message(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut) -> Result<()>) -> Result<()> {
    let at = out.len();
    out.put_i32(0);
    body(out)?;
    let length = i32::try_from(out.len() - at)
        .map_err(|_| Trouble::new("54000", "a row is larger than the protocol can carry"))?;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// Appends a message with data of a COPY. One a row: some clients take messages for rows.
pub(super) fn copy_data(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut) -> Result<()>) -> Result<()> {
    let at = out.len();
    out.put_u8(b'd');
    sized_message(out, body).inspect_err(|_| out.truncate(at))
}

/// What ends a statement before its time.
pub(super) struct Limits {
    /// The client cancels.
    pub(super) cancel: CancellationToken,
    /// The client's own deadline, and how long it was.
    pub(super) deadline: Option<(Instant, Duration)>,
}

impl Limits {
    /// Fails if the statement is to end now.
    ///
    /// # Errors
    /// 57014.
    pub(super) fn check(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(cancelled());
        }
        match self.deadline {
            Some((deadline, timeout)) if Instant::now() >= deadline => Err(too_long(timeout)),
            _ => Ok(()),
        }
    }
}

fn too_long(timeout: Duration) -> Trouble {
    let message = format!("the query took longer than {} s", timeout.as_secs_f64());
    Trouble::new("57014", message).hint("SET statement_timeout TO 0 gives it as much time as the server allows")
}

/// Waits for `work` while the client is listened to: that it cancels, or goes away. `stop` ends the work, and says whether
/// it will tell that itself.
pub(super) async fn watched<T>(
    wire: &mut AnyWire,
    limits: &Limits,
    stop: impl Fn() -> bool,
    work: impl Future<Output = T>,
) -> Result<T> {
    tokio::pin!(work);
    let mut is_told = false;
    let late = async {
        match limits.deadline {
            Some((deadline, timeout)) => {
                tokio::time::sleep_until(deadline).await;
                timeout
            }
            None => std::future::pending().await,
        }
    };
    tokio::pin!(late);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            () = limits.cancel.cancelled(), if !is_told => {
                if !stop() {
                    return Err(cancelled());
                }
                is_told = true;
            }
            timeout = &mut late => {
                stop();
                return Err(too_long(timeout));
            }
            () = wire.gone() => return Err(Trouble::Gone),
        }
    }
}

/// That rows were left out.
pub(super) fn truncated() -> Report {
    Report::warning("01000", "rows were left out: the result is larger than the server's limit")
}
