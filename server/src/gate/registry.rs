//! The queries of this server: which run, which ended and how, and the handle that cancels one.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use chrono::{DateTime, Utc};
use saequel_engine::ErrorKind;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{Door, Principal, Scope};
use crate::error::{Failure, Result};

/// Ended queries that are remembered.
const REMEMBERED: usize = 1000;
/// Characters of a statement that are remembered.
const MAX_CHARS: usize = 10_000;
/// Characters of an error that are remembered: some quote what was wrong.
const MAX_ERROR_CHARS: usize = 2_000;

/// How a query stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Waits for its turn.
    Waiting,
    /// Runs.
    Running,
    /// All its rows were sent.
    Done,
    /// Ended with an error.
    Failed,
    /// Ended by somebody, by its deadline, or because its client went away.
    Cancelled,
}

/// A query as it is shown.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct QueryInfo {
    /// Given by the client, or made.
    pub query_id: String,
    /// `waiting`, `running`, `done`, `failed`, `cancelled`.
    #[schema(value_type = String)]
    pub state: State,
    /// The first 10,000 characters.
    pub statement: String,
    /// Who asked.
    pub caller: String,
    /// `http`, `postgres`, `flight`, `mcp`.
    pub door: Door,
    /// Address of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub peer: Option<SocketAddr>,
    /// When it came.
    #[schema(value_type = String)]
    pub started: DateTime<Utc>,
    /// Until now, or until its end, waiting included.
    pub elapsed_ms: f64,
    /// Rows sent.
    pub rows: u64,
    /// Whether rows were left out because of a limit, once it is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncated: Option<bool>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its SQLSTATE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sqlstate: Option<String>,
}

/// A query that is known.
#[derive(Debug)]
pub(super) struct Entry {
    info: Mutex<QueryInfo>,
    rows: AtomicU64,
    began: Instant,
    pub(super) cancel: CancellationToken,
}

impl Entry {
    pub(super) fn add_rows(&self, rows: usize) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    pub(super) fn runs(&self) {
        self.info().state = State::Running;
    }

    /// Notes the end, once; returns the query as it ended, or nothing if it had ended.
    pub(super) fn end(&self, state: State, failure: Option<&Failure>, truncated: bool) -> Option<QueryInfo> {
        let mut info = self.info();
        if !matches!(info.state, State::Waiting | State::Running) {
            return None;
        }
        info.state = state;
        info.elapsed_ms = self.began.elapsed().as_secs_f64() * 1000.0;
        info.rows = self.rows.load(Ordering::Relaxed);
        info.truncated = (state == State::Done).then_some(truncated);
        info.error = failure.map(|failure| failure.line().chars().take(MAX_ERROR_CHARS).collect());
        info.sqlstate = failure.map(|failure| failure.sqlstate().to_owned());
        Some(info.clone())
    }

    pub(super) fn shown(&self) -> QueryInfo {
        let mut info = self.info().clone();
        if matches!(info.state, State::Waiting | State::Running) {
            info.elapsed_ms = self.began.elapsed().as_secs_f64() * 1000.0;
            info.rows = self.rows.load(Ordering::Relaxed);
        }
        info
    }

    fn info(&self) -> MutexGuard<'_, QueryInfo> {
        self.info.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All of them, oldest first.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<VecDeque<Arc<Entry>>>);

impl Registry {
    /// Takes a query in.
    ///
    /// # Errors
    /// [`ErrorKind::Exists`] if a query of this id and this caller is there. Those of others do not matter: nobody learns
    /// of them, and nobody takes an id away from another.
    pub(super) fn add(
        &self,
        query_id: String,
        statement: &str,
        principal: &Principal,
        door: Door,
        peer: Option<SocketAddr>,
    ) -> Result<Arc<Entry>> {
        let mut all = self.all();
        let taken = |info: &QueryInfo| info.query_id == query_id && info.caller == principal.name;
        if all.iter().any(|entry| taken(&entry.info())) {
            let message = format!("there is a query with the id '{query_id}' already");
            return Err(
                Failure::new(ErrorKind::Exists, message).hint("choose another query_id, or leave it to the server")
            );
        }
        if all.len() >= REMEMBERED
            && let Some(oldest) =
                all.iter().position(|entry| !matches!(entry.info().state, State::Waiting | State::Running))
        {
            all.remove(oldest);
        }
        let info = QueryInfo {
            query_id,
            state: State::Waiting,
            statement: statement.trim().chars().take(MAX_CHARS).collect(),
            caller: principal.name.clone(),
            door,
            peer,
            started: Utc::now(),
            elapsed_ms: 0.0,
            rows: 0,
            truncated: None,
            error: None,
            sqlstate: None,
        };
        let entry = Arc::new(Entry {
            info: Mutex::new(info),
            rows: AtomicU64::new(0),
            began: Instant::now(),
            cancel: CancellationToken::new(),
        });
        all.push_back(Arc::clone(&entry));
        Ok(entry)
    }

    /// Those that `principal` may see, newest first.
    pub(super) fn list(&self, principal: &Principal) -> Vec<QueryInfo> {
        let shown = self.all().iter().rev().map(|entry| entry.shown()).collect::<Vec<_>>();
        shown.into_iter().filter(|info| may_see(principal, info)).collect()
    }

    /// The one of this id.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], also for one of somebody else.
    pub(super) fn get(&self, principal: &Principal, query_id: &str) -> Result<Arc<Entry>> {
        let all = self.all();
        // The newest first, and one's own before those of others with the same id.
        let found = |own: bool| {
            let is_it = |info: &QueryInfo| {
                info.query_id == query_id && may_see(principal, info) && (!own || info.caller == principal.name)
            };
            all.iter().rev().find(|entry| is_it(&entry.info())).cloned()
        };
        found(true)
            .or_else(|| found(false))
            .ok_or_else(|| Failure::new(ErrorKind::NotFound, format!("there is no query with the id '{query_id}'")))
    }

    /// Cancels what waits or runs.
    pub(super) fn cancel_all(&self) {
        for entry in self.all().iter() {
            entry.cancel.cancel();
        }
    }

    fn all(&self) -> MutexGuard<'_, VecDeque<Arc<Entry>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn may_see(principal: &Principal, info: &QueryInfo) -> bool {
    // Statements of others name corpora of which a limited token may not know.
    (principal.scope == Scope::Admin && principal.corpora.is_none()) || principal.name == info.caller
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::TokenEntry;

    #[test]
    fn ids_are_a_callers_own() {
        let who = |name: &str, scope| {
            let (entry, _) = TokenEntry::make(name, scope, None, None).unwrap();
            entry.principal()
        };
        let (one, other, admin) = (who("one", Scope::Read), who("other", Scope::Write), who("root", Scope::Admin));
        let registry = Registry::default();
        let add = |id: &str, who: &Principal| registry.add(id.to_owned(), "SELECT 1", who, Door::Http, None);
        let of_one = add("q", &one).unwrap();
        assert_eq!(add("q", &one).unwrap_err().kind(), ErrorKind::Exists);
        let of_other = add("q", &other).unwrap();
        assert!(Arc::ptr_eq(&registry.get(&one, "q").unwrap(), &of_one));
        assert!(Arc::ptr_eq(&registry.get(&other, "q").unwrap(), &of_other));
        add("only", &other).unwrap();
        assert_eq!(registry.get(&one, "only").unwrap_err().kind(), ErrorKind::NotFound);
        assert!(registry.get(&admin, "only").is_ok());
        assert_eq!((registry.list(&one).len(), registry.list(&admin).len()), (1, 3));
        let (limited, _) =
            TokenEntry::make("limited", Scope::Admin, Some(std::collections::BTreeSet::new()), None).unwrap();
        let limited = limited.principal();
        assert!(registry.list(&limited).is_empty() && registry.get(&limited, "only").is_err());
        // What has ended is forgotten, what runs is not.
        for i in 0..2 * REMEMBERED {
            add(&format!("n{i}"), &other).unwrap().end(State::Done, None, false);
        }
        assert!(registry.all().len() <= REMEMBERED + 1);
        assert!(registry.get(&one, "q").is_ok());
    }
}
