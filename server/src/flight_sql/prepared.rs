//! Prepared statements: kept for their owner until they are closed, or not used for a while.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use saequel_engine::{ErrorKind, Parameter};

use super::ticket::random_id;
use crate::error::{Failure, Result};

/// Time after which a statement that nobody used is forgotten.
pub(super) const IDLE: Duration = Duration::from_secs(30 * 60);
/// Statements of one owner; the one that was not used for longest goes first.
const MAX_STATEMENTS: usize = 500;
/// Bytes of the statements of one owner, values of parameters included.
const MAX_BYTES: usize = 64 << 20;

/// A statement that was prepared.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    pub(super) statement: String,
    pub(super) parameters: Vec<Parameter>,
    /// Whether it changes the database.
    pub(super) writes: bool,
    /// Values of the parameters, a row for each run.
    pub(super) bound: Option<RecordBatch>,
}

impl Prepared {
    fn bytes(&self) -> usize {
        self.statement.len() + self.bound.as_ref().map_or(0, RecordBatch::get_array_memory_size)
    }
}

#[derive(Debug)]
struct Kept {
    owner: String,
    prepared: Prepared,
    used: Instant,
}

/// All of them, by handle.
#[derive(Debug, Default)]
pub(super) struct Statements(Mutex<HashMap<String, Kept>>);

impl Statements {
    /// Keeps a statement; returns its handle.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] if the system gives no randomness.
    pub(super) fn add(&self, owner: &str, prepared: Prepared) -> Result<String> {
        let handle = random_id()?;
        self.with(|kept| {
            kept.retain(|_, kept| kept.used.elapsed() < IDLE);
            kept.insert(handle.clone(), Kept { owner: owner.to_owned(), prepared, used: Instant::now() });
            make_room(kept, owner);
        });
        Ok(handle)
    }

    /// The statement of a handle.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], also for a handle of another owner.
    pub(super) fn get(&self, owner: &str, handle: &[u8]) -> Result<Prepared> {
        self.change(owner, handle, |prepared| prepared.clone())
    }

    /// Keeps the values of a statement's parameters.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(super) fn bind(&self, owner: &str, handle: &[u8], bound: RecordBatch) -> Result<()> {
        self.change(owner, handle, |prepared| prepared.bound = Some(bound))?;
        self.with(|kept| make_room(kept, owner));
        Ok(())
    }

    /// Forgets a statement; nothing happens if it is not there.
    pub(super) fn remove(&self, owner: &str, handle: &[u8]) {
        let Ok(handle) = std::str::from_utf8(handle) else { return };
        self.with(|kept| {
            if kept.get(handle).is_some_and(|kept| kept.owner == owner) {
                kept.remove(handle);
            }
        });
    }

    fn change<T>(&self, owner: &str, handle: &[u8], of: impl FnOnce(&mut Prepared) -> T) -> Result<T> {
        self.with(|kept| {
            let found = std::str::from_utf8(handle).ok().and_then(|handle| kept.get_mut(handle));
            let Some(found) = found.filter(|kept| kept.owner == owner && kept.used.elapsed() < IDLE) else {
                let minutes = IDLE.as_secs() / 60;
                let message = "there is no such prepared statement".to_owned();
                return Err(Failure::new(ErrorKind::NotFound, message).hint(format!(
                    "prepare it again: it was closed, not used for {minutes} minutes, or is one of more than {MAX_STATEMENTS}"
                )));
            };
            found.used = Instant::now();
            Ok(of(&mut found.prepared))
        })
    }

    fn with<T>(&self, of: impl FnOnce(&mut HashMap<String, Kept>) -> T) -> T {
        of(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Forgets statements of `owner` until they are few and small enough; never the one used last.
fn make_room(kept: &mut HashMap<String, Kept>, owner: &str) {
    loop {
        let own = || kept.iter().filter(|(_, kept)| kept.owner == owner);
        let (count, bytes) = own().fold((0, 0), |(n, bytes), (_, kept)| (n + 1, bytes + kept.prepared.bytes()));
        if count <= 1 || (count <= MAX_STATEMENTS && bytes <= MAX_BYTES) {
            return;
        }
        let Some(oldest) = own().min_by_key(|(_, kept)| kept.used).map(|(handle, _)| handle.clone()) else { return };
        kept.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(statement: &str) -> Prepared {
        Prepared { statement: statement.to_owned(), parameters: Vec::new(), writes: false, bound: None }
    }

    #[test]
    fn statements_are_their_owners_alone() {
        let statements = Statements::default();
        let handle = statements.add("a", prepared("SELECT 1")).unwrap();
        assert_eq!(statements.get("a", handle.as_bytes()).unwrap().statement, "SELECT 1");
        assert_eq!(statements.get("b", handle.as_bytes()).unwrap_err().kind(), ErrorKind::NotFound);
        statements.remove("b", handle.as_bytes());
        assert!(statements.get("a", handle.as_bytes()).is_ok());
        statements.remove("a", handle.as_bytes());
        assert!(statements.get("a", handle.as_bytes()).is_err() && statements.get("a", &[0xFF]).is_err());
    }

    #[test]
    fn the_oldest_goes_first() {
        let statements = Statements::default();
        let first = statements.add("a", prepared("SELECT 0")).unwrap();
        let other = statements.add("b", prepared("SELECT 0")).unwrap();
        let second = statements.add("a", prepared("SELECT 1")).unwrap();
        statements.get("a", first.as_bytes()).unwrap();
        for _ in 0..MAX_STATEMENTS - 1 {
            statements.add("a", prepared("SELECT 2")).unwrap();
        }
        assert!(statements.get("a", second.as_bytes()).is_err());
        assert!(statements.get("a", first.as_bytes()).is_ok() && statements.get("b", other.as_bytes()).is_ok());
        let large = statements.add("a", prepared(&"x".repeat(MAX_BYTES + 1))).unwrap();
        assert!(statements.get("a", large.as_bytes()).is_ok() && statements.get("a", first.as_bytes()).is_err());
    }
}
