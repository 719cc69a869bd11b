//! Sets in which no document comes twice.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use arrow::array::{Array, ArrayRef};
use datafusion::common::exec_err;
use datafusion::error::Result;
use datafusion::execution::memory_pool::MemoryReservation;

use crate::table::document_columns::texts;
use crate::table::exec::Request;

/// Sees to it that no document comes twice in a set.
pub(super) struct Once {
    function: &'static str,
    seen: HashSet<u64>,
    hasher: RandomState,
    memory: MemoryReservation,
    set: usize,
}

impl Once {
    /// For the sets of a call of `function`.
    pub(super) fn new(function: &'static str, request: &Request) -> Self {
        let memory = request.memory(function);
        Self { function, seen: HashSet::new(), hasher: RandomState::new(), memory, set: 0 }
    }

    /// Sees documents of set number `set`.
    ///
    /// # Errors
    /// If one was seen in the set before, or memory does not suffice.
    pub(super) fn check(&mut self, set: usize, name: &str, doc_ids: &ArrayRef) -> Result<()> {
        if self.set != set {
            self.seen.clear();
            self.set = set;
        }
        self.memory.try_grow(doc_ids.len() * 2 * size_of::<u64>())?;
        let function = self.function;
        let doc_ids = texts(function, "doc_id", doc_ids)?;
        match doc_ids.iter().flatten().find(|doc_id| !self.seen.insert(self.hasher.hash_one(doc_id))) {
            None => Ok(()),
            // A document that a join repeats is one observation, not several.
            Some(doc_id) => exec_err!(
                "{function}: document '{doc_id}' comes twice in set '{name}'; add DISTINCT, or put WHERE doc_id IN (...) in \
                 place of a join"
            ),
        }
    }
}
