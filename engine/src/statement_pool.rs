//! A memory pool for one statement: what it may hold is bounded, so that a statement that wants too much fails alone.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

/// A statement may always grow to the whole pool divided by this.
const SHARES: usize = 8;
/// Beyond that it must leave the whole pool divided by this to others, so that several large statements fail rather than small
/// ones beside them.
const LEFT_TO_OTHERS: usize = 4;

/// A part of another pool.
#[derive(Debug)]
pub(crate) struct StatementPool {
    all: Arc<dyn MemoryPool>,
    all_bytes: usize,
    limit_bytes: usize,
    used: AtomicUsize,
}

impl StatementPool {
    /// At most `limit_bytes` of `all`, which has `all_bytes`.
    pub(crate) fn new(all: Arc<dyn MemoryPool>, all_bytes: usize, limit_bytes: usize) -> Self {
        Self { all, all_bytes, limit_bytes, used: AtomicUsize::new(0) }
    }

    /// Whether a statement that holds `wanted` bytes, `additional` of them new, leaves enough to others.
    fn leaves_enough(&self, wanted: usize, additional: usize) -> bool {
        wanted <= self.all_bytes / SHARES
            || self.all.reserved().saturating_add(additional) <= self.all_bytes - self.all_bytes / LEFT_TO_OTHERS
    }
}

impl fmt::Display for StatementPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "statement({} of {} bytes)", self.reserved(), self.limit_bytes)
    }
}

impl MemoryPool for StatementPool {
    fn name(&self) -> &str {
        "statement"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.all.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.all.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.used.fetch_add(additional, Ordering::Relaxed);
        self.all.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.used.fetch_sub(shrink, Ordering::Relaxed);
        self.all.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let fits = |used: usize| {
            let wanted = used.checked_add(additional)?;
            (wanted <= self.limit_bytes && self.leaves_enough(wanted, additional)).then_some(wanted)
        };
        if self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
            let message = format!(
                "{} wants {additional} bytes more; this statement holds {} of the {} bytes that it may, all together hold {} \
                 of {}",
                reservation.consumer().name(),
                self.reserved(),
                self.limit_bytes,
                self.all.reserved(),
                self.all_bytes
            );
            return Err(DataFusionError::ResourcesExhausted(message));
        }
        self.all.try_grow(reservation, additional).inspect_err(|_| {
            self.used.fetch_sub(additional, Ordering::Relaxed);
        })
    }

    fn reserved(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.limit_bytes)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::UnboundedMemoryPool;

    use super::*;

    #[test]
    fn a_statement_has_its_own_limit_and_gives_back() {
        let all: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        let one: Arc<dyn MemoryPool> = Arc::new(StatementPool::new(Arc::clone(&all), 1000, 100));
        let other: Arc<dyn MemoryPool> = Arc::new(StatementPool::new(Arc::clone(&all), 1000, 100));
        let of_one = MemoryConsumer::new("one").register(&one);
        let of_other = MemoryConsumer::new("other").register(&other);
        of_one.try_grow(60).unwrap();
        assert!(of_one.try_grow(41).unwrap_err().to_string().contains("60 of the 100 bytes"));
        of_other.try_grow(100).unwrap();
        assert_eq!(all.reserved(), 160);
        drop(of_one);
        assert_eq!((one.reserved(), all.reserved()), (0, 100));
    }

    #[test]
    fn large_statements_leave_room_for_small_ones() {
        let all: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        let pools: Vec<Arc<dyn MemoryPool>> =
            (0..3).map(|_| Arc::new(StatementPool::new(Arc::clone(&all), 800, 400)) as Arc<dyn MemoryPool>).collect();
        let held: Vec<_> = pools.iter().map(|pool| MemoryConsumer::new("a").register(pool)).collect();
        held[0].try_grow(400).unwrap();
        held[1].try_grow(200).unwrap();
        assert!(held[1].try_grow(1).is_err(), "a quarter is left to others");
        held[2].try_grow(100).unwrap();
        assert!(held[2].try_grow(1).is_err());
        assert_eq!(all.reserved(), 700);
    }
}
