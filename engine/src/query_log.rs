//! The last statements, for `saequel.queries`: when, how long, how many rows, and what went wrong.
//!
//! In memory only, on purpose: a log that is written for every statement would cost a commit each, and would keep what users
//! asked beyond the life of the process.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::error::Result;
use datafusion::execution::RecordBatchStream;
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::{Stream, StreamExt};

use crate::caller::Caller;
use crate::error::Error;
use crate::query_error::translated;

/// Statements that are kept.
const CAPACITY: usize = 1000;
/// Characters of a statement that are kept.
const MAX_CHARS: usize = 2000;

/// One statement.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(crate) id: u64,
    /// What it is called: by the door that it came in, else its number.
    pub(crate) name: String,
    /// Name of who asked.
    pub(crate) caller: String,
    pub(crate) statement: String,
    /// `running`, `done`, `failed`, or `cancelled`: its result was not read to the end.
    pub(crate) state: &'static str,
    /// Microseconds since 1970 UTC.
    pub(crate) started_micros: i64,
    /// Until the last row was read, in milliseconds.
    pub(crate) millis: Option<f64>,
    pub(crate) rows: u64,
    pub(crate) error: Option<String>,
}

/// The last statements.
#[derive(Debug, Default)]
pub(crate) struct QueryLog(Mutex<(u64, VecDeque<Query>)>);

impl QueryLog {
    /// Newest first.
    pub(crate) fn queries(&self, caller: &Caller) -> Vec<Query> {
        let log = self.lock();
        let seen = log.1.iter().rev().filter(|query| caller.sees_all_queries || query.caller == caller.name);
        seen.cloned().collect()
    }

    pub(crate) fn begin(self: &Arc<Self>, caller: &Caller, statement: &str) -> Entry {
        let started_micros = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
        let mut log = self.lock();
        log.0 += 1;
        let id = log.0;
        if log.1.len() == CAPACITY {
            log.1.pop_front();
        }
        let statement = statement.trim().chars().take(MAX_CHARS).collect();
        let name = caller.query_id.clone().unwrap_or_else(|| id.to_string());
        let caller = caller.name.clone();
        log.1.push_back(Query {
            id,
            name,
            caller,
            statement,
            state: "running",
            started_micros,
            millis: None,
            rows: 0,
            error: None,
        });
        drop(log);
        Entry { log: Arc::clone(self), id, started: Instant::now(), rows: 0, ended: false }
    }

    fn lock(&self) -> MutexGuard<'_, (u64, VecDeque<Query>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A statement that runs; ends as cancelled if nobody says otherwise.
#[derive(Debug)]
pub(crate) struct Entry {
    log: Arc<QueryLog>,
    id: u64,
    started: Instant,
    rows: u64,
    ended: bool,
}

impl Entry {
    /// The statement failed before its first row.
    pub(crate) fn failed(mut self, error: &Error) {
        self.end("failed", Some(error.to_string()));
    }

    /// Counts the rows of `stream` and notes its end.
    pub(crate) fn follow(self, stream: SendableRecordBatchStream) -> SendableRecordBatchStream {
        Box::pin(Followed { schema: stream.schema(), stream, entry: self })
    }

    fn end(&mut self, state: &'static str, error: Option<String>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let millis = self.started.elapsed().as_secs_f64() * 1000.0;
        let mut log = self.log.lock();
        let first = log.1.front().map_or(0, |query| query.id);
        if let Some(query) = self.id.checked_sub(first).and_then(|at| log.1.get_mut(usize::try_from(at).ok()?)) {
            (query.state, query.millis, query.rows, query.error) = (state, Some(millis), self.rows, error);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.end("cancelled", None);
    }
}

struct Followed {
    schema: SchemaRef,
    stream: SendableRecordBatchStream,
    entry: Entry,
}

impl Stream for Followed {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.stream.poll_next_unpin(cx);
        match &next {
            Poll::Ready(Some(Ok(batch))) => self.entry.rows += batch.num_rows() as u64,
            Poll::Ready(Some(Err(error))) => self.entry.end("failed", Some(translated(error).to_string())),
            Poll::Ready(None) => self.entry.end("done", None),
            Poll::Pending => {}
        }
        next
    }
}

impl RecordBatchStream for Followed {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_bounded_and_finds_its_entries() {
        let (log, me) = (Arc::new(QueryLog::default()), Caller::default());
        let first = log.begin(&me, "first");
        for i in 0..CAPACITY {
            log.begin(&me, &format!("statement {i}")).failed(&Error::new(crate::ErrorKind::Query, "no"));
        }
        drop(first);
        let queries = log.queries(&me);
        assert_eq!(queries.len(), CAPACITY);
        assert_eq!((queries[0].statement.as_str(), queries[0].state), ("statement 999", "failed"));
        assert!(queries.iter().all(|query| query.millis.is_some()));
        drop(log.begin(&me, "dropped"));
        assert_eq!(log.queries(&me)[0].state, "cancelled");
        assert_eq!(log.queries(&me)[0].name, (CAPACITY + 2).to_string());
        let named = Caller { query_id: Some("mine".into()), ..Caller::default() };
        drop(log.begin(&named, "named"));
        assert_eq!(log.queries(&me)[0].name, "mine");
        let other = Caller { name: "other".into(), sees_all_queries: false, ..Caller::default() };
        assert!(log.queries(&other).is_empty());
        drop(log.begin(&other, "own"));
        assert_eq!(log.queries(&other).len(), 1);
    }
}
