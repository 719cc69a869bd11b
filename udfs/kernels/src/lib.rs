//! Arithmetic on slices: no SQL, no Arrow. Each has a slow, obvious reference in its tests.

pub mod agreement;
pub mod axis;
pub mod background;
pub mod bm25;
pub mod cancellation;
pub mod clustering;
pub mod cooccurrence;
pub mod correlation;
pub mod counting;
pub mod dense;
pub mod diff;
pub mod duplicates;
pub mod eigen;
pub mod feedback;
pub mod findings;
pub mod fusion;
pub mod kmeans;
pub mod log_odds;
pub mod logistic;
pub mod postings;
pub mod random;
pub mod retrieval;
pub mod similarity;
pub mod sparse;
pub mod spectral;
pub mod statistics;
pub mod strata;
pub mod stratified;
pub mod sums;
pub mod top_k;
pub mod trend;
pub mod words;

/// Number of a feature, unique among all dictionaries of a database.
pub type FeatureId = u32;
