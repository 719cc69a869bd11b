//! A memory pool for one statement: what it may hold is bounded, so that a statement that wants too much fails alone.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

/// A part of another pool.
#[derive(Debug)]
pub(crate) struct StatementPool {
    all: Arc<dyn MemoryPool>,
    limit_bytes: usize,
    used: AtomicUsize,
}

impl StatementPool {
    /// At most `limit_bytes` of `all`.
    pub(crate) fn new(all: Arc<dyn MemoryPool>, limit_bytes: usize) -> Self {
        Self { all, limit_bytes, used: AtomicUsize::new(0) }
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
        let fits = |used: usize| used.checked_add(additional).filter(|wanted| *wanted <= self.limit_bytes);
        if self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
            let message = format!(
                "{} wants {additional} bytes more; this statement holds {} of the {} bytes that it may",
                reservation.consumer().name(),
                self.reserved(),
                self.limit_bytes
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
        let one: Arc<dyn MemoryPool> = Arc::new(StatementPool::new(Arc::clone(&all), 100));
        let other: Arc<dyn MemoryPool> = Arc::new(StatementPool::new(Arc::clone(&all), 100));
        let of_one = MemoryConsumer::new("one").register(&one);
        let of_other = MemoryConsumer::new("other").register(&other);
        of_one.try_grow(60).unwrap();
        assert!(of_one.try_grow(41).unwrap_err().to_string().contains("60 of the 100 bytes"));
        of_other.try_grow(100).unwrap();
        assert_eq!(all.reserved(), 160);
        drop(of_one);
        assert_eq!((one.reserved(), all.reserved()), (0, 100));
    }
}
