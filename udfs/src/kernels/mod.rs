//! Arithmetic on slices: no SQL, no Arrow. Each has a slow, obvious reference in its tests.

pub mod statistics;
