//! Columns that were decoded already: what makes the second look at a corpus fast.
//!
//! Decoding a list of ids takes more than four times as long as counting them. What is kept are whole columns of a [`PieceKey`], as
//! they were decoded, for all statements of a database; a column lies in a data file that never changes, so that nothing
//! here can be out of date. A corpus larger than the budget must not push itself out, piece by piece, in every scan: what one
//! of the last scans used stays, and what finds no room is decoded again.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef};

/// Scans during which a column is kept that none of them uses, while others want its room.
const KEPT_SCANS: u64 = 16;

/// A column of some rows of a fragment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PieceKey {
    /// Path of the data file within the dataset; such names are unique.
    pub(super) file: Arc<str>,
    /// Number of the file of deleted rows and the version that wrote it.
    pub(super) deletions: Option<(u64, u64)>,
    /// Id of the column's field.
    pub(super) field: i32,
    /// Rows of the file, deleted ones included.
    pub(super) rows: Range<u32>,
    /// Rows of a batch in which it was decoded: the columns of a piece must be cut alike.
    pub(super) batch_rows: u32,
}

struct Entry {
    parts: Arc<[ArrayRef]>,
    bytes: usize,
    last_scan: u64,
}

#[derive(Default)]
struct Kept {
    entries: HashMap<PieceKey, Entry>,
    bytes: usize,
}

/// See the module.
pub(super) struct ColumnCache {
    budget: usize,
    scans: AtomicU64,
    kept: Mutex<Kept>,
}

impl std::fmt::Debug for ColumnCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ColumnCache").field("budget", &self.budget).finish_non_exhaustive()
    }
}

impl ColumnCache {
    /// Keeps at most `budget` bytes.
    pub(super) fn new(budget: usize) -> Self {
        Self { budget, scans: AtomicU64::new(0), kept: Mutex::default() }
    }

    /// Number of a scan that begins.
    pub(super) fn begin_scan(&self) -> u64 {
        self.scans.fetch_add(1, Ordering::Relaxed)
    }

    /// Columns of pieces that are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).entries.len()
    }

    /// The column in the parts in which it was decoded.
    pub(super) fn get(&self, key: &PieceKey, scan: u64) -> Option<Arc<[ArrayRef]>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = kept.entries.get_mut(key)?;
        entry.last_scan = entry.last_scan.max(scan);
        Some(Arc::clone(&entry.parts))
    }

    /// Keeps a column if there is room, or room can be made of what the last scans did not use.
    pub(super) fn put(&self, key: PieceKey, parts: Arc<[ArrayRef]>, scan: u64) {
        let bytes = parts.iter().map(|part| part.get_array_memory_size()).sum();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes > self.budget || kept.entries.contains_key(&key) {
            return;
        }
        if kept.bytes + bytes > self.budget {
            let old = scan.saturating_sub(KEPT_SCANS);
            let mut freed = 0;
            kept.entries.retain(|_, entry| {
                let stays = entry.last_scan >= old;
                freed += if stays { 0 } else { entry.bytes };
                stays
            });
            kept.bytes -= freed;
            if kept.bytes + bytes > self.budget {
                return;
            }
        }
        kept.bytes += bytes;
        kept.entries.insert(key, Entry { parts, bytes, last_scan: scan });
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::UInt32Array;

    use super::*;

    fn key(rows: Range<u32>) -> PieceKey {
        PieceKey { file: Arc::from("a"), deletions: None, field: 1, rows, batch_rows: 1 }
    }

    fn column() -> Arc<[ArrayRef]> {
        Arc::from([Arc::new(UInt32Array::from(vec![7; 1000])) as ArrayRef])
    }

    #[test]
    fn a_large_corpus_does_not_push_itself_out() {
        let one = column()[0].get_array_memory_size();
        let cache = ColumnCache::new(3 * one);
        let read = |cache: &ColumnCache| {
            let scan = cache.begin_scan();
            (0..10)
                .filter(|start| {
                    let key = key(*start..start + 1);
                    let found = cache.get(&key, scan).is_some();
                    if !found {
                        cache.put(key, column(), scan);
                    }
                    found
                })
                .count()
        };
        assert_eq!(read(&cache), 0);
        assert_eq!((read(&cache), read(&cache)), (3, 3));
        assert_eq!(cache.len(), 3);
        // What was not used for long makes room.
        for _ in 0..=KEPT_SCANS + 1 {
            cache.begin_scan();
        }
        let scan = cache.begin_scan();
        cache.put(key(20..21), column(), scan);
        assert!(cache.get(&key(20..21), scan).is_some() && cache.get(&key(0..1), scan).is_none());
        assert_eq!(cache.len(), 1);
        cache.put(key(30..31), Arc::from(vec![Arc::new(UInt32Array::from(vec![7; 9000])) as ArrayRef]), scan);
        assert_eq!(cache.len(), 1, "larger than all of it");
    }
}
