//! The best few of a stream, in memory of their number.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// One kept item.
#[derive(Debug, Clone)]
pub struct Ranked<T> {
    /// What it was ranked by; larger is better.
    pub score: f32,
    /// Place in the stream; of equal scores the earlier is better, so that the order does not depend on chance.
    pub position: u64,
    /// The item.
    pub item: T,
}

impl<T> Ranked<T> {
    fn worse_first(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.position.cmp(&other.position))
    }
}

impl<T> PartialEq for Ranked<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Ranked<T> {}

impl<T> PartialOrd for Ranked<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Ranked<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.worse_first(other)
    }
}

/// Keeps the `limit` best items that were offered.
#[derive(Debug)]
pub struct TopK<T> {
    limit: usize,
    heap: BinaryHeap<Ranked<T>>,
}

impl<T> TopK<T> {
    /// Keeps at most `limit`.
    pub fn new(limit: usize) -> Self {
        Self { limit, heap: BinaryHeap::new() }
    }

    /// Number of kept items.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// The least of the kept scores, if no further item is kept without one going.
    pub fn to_beat(&self) -> Option<f32> {
        if self.heap.len() < self.limit || self.limit == 0 { None } else { self.heap.peek().map(|worst| worst.score) }
    }

    /// Offers an item, which is only made if it is kept. A score that is not a number is never kept.
    pub fn offer(&mut self, score: f32, position: u64, make: impl FnOnce() -> T) {
        if score.is_nan() || self.limit == 0 {
            return;
        }
        if self.heap.len() < self.limit {
            self.heap.push(Ranked { score, position, item: make() });
        } else if let Some(mut worst) = self.heap.peek_mut()
            && (score > worst.score || (score == worst.score && position < worst.position))
        {
            *worst = Ranked { score, position, item: make() };
        }
    }

    /// The kept items, best first.
    pub fn into_sorted(self) -> Vec<Ranked<T>> {
        self.heap.into_sorted_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn equals_sorting_everything() {
        let mut random = Random::new(1, 2);
        for limit in [0, 1, 7, 100, 500] {
            let scores: Vec<f32> = (0..300).map(|_| random.below(40) as f32).collect();
            let mut top = TopK::new(limit);
            for (position, &score) in scores.iter().enumerate() {
                top.offer(score, position as u64, || position);
            }
            top.offer(f32::NAN, 999, || 999);
            let mut expected: Vec<usize> = (0..300).collect();
            expected.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
            expected.truncate(limit);
            let kept: Vec<usize> = top.into_sorted().into_iter().map(|ranked| ranked.item).collect();
            assert_eq!(kept, expected);
        }
    }
}
