//! Results of asynchronous queries, kept for a while on disk, and what became of each.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use saequel_engine::ErrorKind;

use super::problem::Problem;
use super::spool::Spooled;
use crate::error::{Failure, NOT_ENDED, TOO_MANY};
use crate::gate::{Ask, Gate, Principal, QueryInfo, Scope, Visitor};

/// Queries whose results are kept or being made.
const MAX_KEPT: usize = 100;
/// Bytes of kept results; the oldest go first.
const MAX_BYTES: u64 = 16 << 30;
/// Expired ids that are remembered, so that they can be told from unknown ones.
const REMEMBERED: usize = 1000;
/// So long a request waits for an error that comes at once, such as a misspelt column.
const AT_ONCE: Duration = Duration::from_millis(100);

/// How an asynchronous query stands.
#[derive(Debug, Clone)]
enum Outcome {
    Running,
    Done(Arc<Spooled>),
    Failed(Problem, Option<QueryInfo>),
}

#[derive(Debug)]
struct Query {
    query_id: String,
    owner: String,
    outcome: Outcome,
}

#[derive(Debug, Default)]
struct Inner {
    /// Oldest first.
    queries: VecDeque<Query>,
    /// Id and owner of those that expired.
    expired: VecDeque<(String, String)>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<Inner>);

impl Kept {
    /// Starts a query. An error that shows at once is given back.
    ///
    /// # Errors
    /// 409 if there is one of this id, 429 if too many run already; the query's.
    pub(super) async fn start(
        self: &Arc<Self>,
        gate: &Gate,
        visitor: Visitor,
        ask: Ask,
        query_id: &str,
    ) -> Result<(), Problem> {
        self.add(query_id, &visitor.principal)?;
        let (kept, gate, id) = (Arc::clone(self), gate.clone(), query_id.to_owned());
        let owner = visitor.principal.name.clone();
        let (failed_at_once, told) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let keep = gate.options().keep_results;
            let made = async { Spooled::take(gate.run(&visitor, ask).await?).await };
            match made.await {
                Ok(spooled) => kept.set(&owner, &id, Outcome::Done(Arc::new(spooled))),
                Err(failure) => {
                    let problem = Problem::from(failure).of_query(Some(&id));
                    let info = gate.query(&visitor.principal, &id).ok();
                    if failed_at_once.send(problem.clone()).is_ok() {
                        kept.remove(&owner, &id);
                        return;
                    }
                    kept.set(&owner, &id, Outcome::Failed(problem, info));
                }
            }
            tokio::time::sleep(keep).await;
            kept.expire(&owner, &id);
        });
        match tokio::time::timeout(AT_ONCE, told).await {
            Ok(Ok(problem)) => Err(problem),
            _ => Ok(()),
        }
    }

    fn add(&self, query_id: &str, principal: &Principal) -> Result<(), Problem> {
        let mut inner = self.lock();
        if inner.queries.iter().any(|query| query.is(&principal.name, query_id)) {
            let message = format!("there is a query with the id '{query_id}' already");
            return Err(Failure::new(ErrorKind::Exists, message).into());
        }
        if inner.queries.len() >= MAX_KEPT && !inner.expire_oldest() {
            let message = format!("{MAX_KEPT} asynchronous queries run already");
            return Err(Failure::new(ErrorKind::Resources, message).shown_as(TOO_MANY).into());
        }
        let (query_id, owner) = (query_id.to_owned(), principal.name.clone());
        inner.queries.push_back(Query { query_id, owner, outcome: Outcome::Running });
        Ok(())
    }

    fn set(&self, owner: &str, query_id: &str, outcome: Outcome) {
        let mut inner = self.lock();
        if let Some(query) = inner.queries.iter_mut().find(|query| query.is(owner, query_id)) {
            query.outcome = outcome;
        }
        let size = |query: &Query| if let Outcome::Done(spooled) = &query.outcome { spooled.bytes } else { 0 };
        while inner.queries.iter().map(size).sum::<u64>() > MAX_BYTES && inner.expire_oldest() {}
    }

    fn remove(&self, owner: &str, query_id: &str) {
        self.lock().queries.retain(|query| !query.is(owner, query_id));
    }

    /// Lets a result go, if it has ended.
    pub(super) fn expire(&self, owner: &str, query_id: &str) {
        self.lock().expire(|query| query.is(owner, query_id));
    }

    /// Whether there are or will be results of this query.
    pub(super) fn has(&self, owner: &str, query_id: &str) -> bool {
        self.lock().queries.iter().any(|query| query.is(owner, query_id))
    }

    /// The query as it ended, if it has and is kept.
    pub(super) fn info(&self, principal: &Principal, query_id: &str) -> Option<QueryInfo> {
        let inner = self.lock();
        match &inner.seen(principal, query_id)?.outcome {
            Outcome::Done(spooled) => Some(spooled.info.clone()),
            Outcome::Failed(_, info) => info.clone(),
            Outcome::Running => None,
        }
    }

    /// The results of a query.
    ///
    /// # Errors
    /// 404, 425 while it runs, 410 when they have expired; the query's own.
    pub(super) fn results(&self, principal: &Principal, query_id: &str) -> Result<Arc<Spooled>, Problem> {
        let inner = self.lock();
        match inner.seen(principal, query_id).map(|query| &query.outcome) {
            Some(Outcome::Done(spooled)) => return Ok(Arc::clone(spooled)),
            Some(Outcome::Failed(problem, _)) => return Err(problem.clone()),
            Some(Outcome::Running) => {
                let failure = Failure::new(ErrorKind::NotFound, "the query has not ended yet").hint("ask again later");
                let failure = failure.shown_as(NOT_ENDED);
                return Err(Problem::new(StatusCode::TOO_EARLY, &failure).of_query(Some(query_id)));
            }
            None => {}
        }
        if inner.expired.iter().any(|(id, owner)| id == query_id && may_see(principal, owner)) {
            let failure = Failure::new(ErrorKind::NotFound, "the results of this query are no longer kept");
            return Err(Problem::new(StatusCode::GONE, &failure).of_query(Some(query_id)));
        }
        let message = format!("there are no results of a query with the id '{query_id}'");
        Err(Failure::new(ErrorKind::NotFound, message)
            .hint("results are kept of queries that are asked with `Prefer: respond-async` or POST /v1/queries")
            .into())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Query {
    /// Ids are an owner's own.
    fn is(&self, owner: &str, query_id: &str) -> bool {
        self.owner == owner && self.query_id == query_id
    }
}

impl Inner {
    /// One's own query of this id, else one that may be seen.
    fn seen(&self, principal: &Principal, query_id: &str) -> Option<&Query> {
        let own = self.queries.iter().find(|query| query.is(&principal.name, query_id));
        let other = |query: &&Query| query.query_id == query_id && may_see(principal, &query.owner);
        own.or_else(|| self.queries.iter().find(other))
    }

    fn expire_oldest(&mut self) -> bool {
        self.expire(|_| true)
    }

    /// Lets the oldest go that has ended and is meant.
    fn expire(&mut self, is_meant: impl Fn(&Query) -> bool) -> bool {
        let ended = |query: &Query| !matches!(query.outcome, Outcome::Running);
        let Some(at) = self.queries.iter().position(|query| ended(query) && is_meant(query)) else { return false };
        if let Some(query) = self.queries.remove(at) {
            self.expired.push_back((query.query_id, query.owner));
        }
        while self.expired.len() > REMEMBERED {
            self.expired.pop_front();
        }
        true
    }
}

/// As with queries: one's own, or all for an admin.
pub(super) fn may_see(principal: &Principal, owner: &str) -> bool {
    (principal.scope == Scope::Admin && principal.corpora.is_none()) || principal.name == owner
}
