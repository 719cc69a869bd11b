//! The result of a running statement: batches as they come, and the account of how it ended.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::ParamValues;
use futures::{Stream, StreamExt};
use saequel_engine::{Caller, Engine, ErrorKind};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::registry::{Entry, QueryInfo, State};
use super::{Door, Gate, OfDoor, cancelled, metrics};
use crate::error::{Failure, Result};

/// What a statement gives, in order: its columns, batches, and how it ended.
pub(super) enum Message {
    Schema(SchemaRef),
    Batch(RecordBatch),
    Done { truncated: bool },
    Failed(Failure),
}

/// Runs a statement and sends what it gives; returns the last message.
pub(super) async fn produce(
    engine: &Engine,
    caller: &Arc<Caller>,
    statement: &str,
    parameters: ParamValues,
    max_rows: Option<u64>,
    entry: &Entry,
    sender: &mpsc::Sender<Message>,
) -> Message {
    let mut stream = match engine.sql_as(caller, statement, parameters).await {
        Ok(stream) => stream,
        Err(error) => return Message::Failed(error.into()),
    };
    if sender.send(Message::Schema(stream.schema())).await.is_err() {
        return Message::Done { truncated: false };
    }
    let mut left = max_rows.unwrap_or(u64::MAX);
    while let Some(batch) = stream.next().await {
        let mut batch = match batch {
            Ok(batch) if batch.num_rows() == 0 => continue,
            Ok(batch) => batch,
            Err(error) => return Message::Failed(error.into()),
        };
        if left == 0 {
            return Message::Done { truncated: true };
        }
        if batch.num_rows() as u64 > left {
            batch = batch.slice(0, usize::try_from(left).unwrap_or(usize::MAX));
            let rows = batch.num_rows();
            let _ = sender.send(Message::Batch(batch)).await;
            entry.add_rows(rows);
            return Message::Done { truncated: true };
        }
        left -= batch.num_rows() as u64;
        let rows = batch.num_rows();
        if sender.send(Message::Batch(batch)).await.is_err() {
            return Message::Done { truncated: false }; // the client has gone
        }
        entry.add_rows(rows);
    }
    Message::Done { truncated: false }
}

/// Notes the end of a query, whichever it is.
pub(super) struct Account {
    pub(super) gate: Gate,
    pub(super) entry: Arc<Entry>,
    pub(super) door: Door,
    /// All of it, if there is a log.
    pub(super) statement: Option<String>,
}

impl Account {
    pub(super) fn failed(&self, failure: &Failure) {
        let state = if failure.kind() == ErrorKind::Cancelled { State::Cancelled } else { State::Failed };
        self.end(state, Some(failure), false);
    }

    /// Only the first call counts.
    fn end(&self, state: State, failure: Option<&Failure>, truncated: bool) {
        let was_running = self.entry.shown().state == State::Running;
        let Some(query) = self.entry.end(state, failure, truncated) else { return };
        let inner = &self.gate.0;
        if was_running {
            inner.metrics.running.dec();
        }
        let door = self.door.name();
        let outcome = match state {
            State::Done => "done",
            State::Failed => "failed",
            _ => "cancelled",
        };
        inner.metrics.queries.get_or_create(&metrics::OfQuery { door, outcome }).inc();
        inner.metrics.seconds.get_or_create(&OfDoor { door }).observe(query.elapsed_ms / 1000.0);
        inner.metrics.rows.get_or_create(&OfDoor { door }).inc_by(query.rows);
        inner.audit.query(&query, self.statement.as_deref());
        let QueryInfo { query_id, caller, elapsed_ms, rows, statement, error, sqlstate, .. } = &query;
        if *elapsed_ms > inner.options.slow_query.as_secs_f64() * 1000.0 {
            tracing::warn!(query_id, caller, door, elapsed_ms, rows, outcome, sqlstate, statement, "slow query");
        } else {
            tracing::info!(query_id, caller, door, elapsed_ms, rows, outcome, sqlstate, "query");
        }
        // Its text can quote data and values of parameters, which are for whoever asked.
        if let Some(error) = error {
            tracing::debug!(query_id, error, "why a query failed");
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.end(State::Cancelled, None, false);
    }
}

/// The result of a running statement. Dropping it ends the statement.
pub struct Answer {
    /// Id of the query.
    pub query_id: String,
    pub(super) schema: SchemaRef,
    pub(super) max_rows: Option<u64>,
    pub(super) truncated: bool,
    pub(super) messages: mpsc::Receiver<Message>,
    pub(super) task: tokio::task::AbortHandle,
    pub(super) deadline: Pin<Box<tokio::time::Sleep>>,
    pub(super) cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    pub(super) timeout: Duration,
    pub(super) first: Option<Message>,
    pub(super) ended: bool,
    pub(super) account: Arc<Account>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("query_id", &self.query_id).finish_non_exhaustive()
    }
}

impl Answer {
    /// Columns.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The rows that it may have at most, if there is a limit.
    pub fn max_rows(&self) -> Option<u64> {
        self.max_rows
    }

    /// Whether rows were left out because of a limit; known when the stream has ended.
    pub fn truncated(&self) -> bool {
        self.truncated
    }

    /// Ends the query, of which nothing more is wanted: that is no cancelling.
    pub fn enough(mut self) {
        (self.ended, self.truncated) = (true, true);
        self.account.end(State::Done, None, true);
    }

    /// The query as it stands.
    pub fn info(&self) -> QueryInfo {
        self.account.entry.shown()
    }

    /// The next message: the query's, or that it was cancelled or took too long. Told even while its thread is busy.
    pub(super) fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Message> {
        if let Poll::Ready(message) = self.messages.poll_recv(cx) {
            return Poll::Ready(message.unwrap_or_else(|| Message::Failed(self.why_silent())));
        }
        if self.cancelled.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Message::Failed(cancelled()));
        }
        if self.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Message::Failed(self.account.gate.too_long(self.timeout)));
        }
        Poll::Pending
    }

    fn why_silent(&self) -> Failure {
        if self.account.entry.cancel.is_cancelled() {
            cancelled()
        } else if self.deadline.is_elapsed() || Instant::now() >= self.deadline.deadline() {
            self.account.gate.too_long(self.timeout)
        } else {
            Failure::new(ErrorKind::Internal, "the query ended without an answer")
        }
    }

    pub(super) fn finish(&mut self, failure: &Failure) {
        self.ended = true;
        self.task.abort();
        self.account.failed(failure);
    }
}

impl Stream for Answer {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let message = match self.first.take() {
            Some(message) => message,
            None => match self.poll_message(cx) {
                Poll::Ready(message) => message,
                Poll::Pending => return Poll::Pending,
            },
        };
        match message {
            Message::Batch(batch) => Poll::Ready(Some(Ok(batch))),
            Message::Done { truncated } => {
                (self.ended, self.truncated) = (true, truncated);
                self.account.end(State::Done, None, truncated);
                Poll::Ready(None)
            }
            Message::Failed(failure) => {
                self.finish(&failure);
                Poll::Ready(Some(Err(failure)))
            }
            Message::Schema(_) => {
                self.ended = true;
                Poll::Ready(Some(Err(Failure::new(ErrorKind::Internal, "the query gave its columns twice"))))
            }
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.task.abort();
        self.account.end(State::Cancelled, None, false);
    }
}
