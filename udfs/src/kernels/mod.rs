//! Arithmetic on slices: no SQL, no Arrow. Each has a slow, obvious reference in its tests.

pub mod cooccurrence;
pub mod correlation;
pub mod counting;
pub mod diff;
pub mod similarity;
pub mod statistics;
pub mod sums;
pub mod words;
