//! How alike two sparse feature vectors are; ids ascending.

use half::f16;

use crate::FeatureId;

/// A measure of likeness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// `sum x y / (|x| |y|)`, 0 to 1.
    Cosine,
    /// Shared features over features of either, 0 to 1.
    Jaccard,
    /// `sum x y`, unbounded.
    Dot,
    /// Shared features over those of the smaller side, 0 to 1.
    Overlap,
}

/// Names of the measures.
pub const MEASURES: [&str; 4] = ["cosine", "jaccard", "dot", "overlap"];

impl Measure {
    /// By name, ignoring case.
    pub fn parse(name: &str) -> Option<Self> {
        match name.trim().to_lowercase().as_str() {
            "cosine" => Some(Self::Cosine),
            "jaccard" => Some(Self::Jaccard),
            "dot" => Some(Self::Dot),
            "overlap" => Some(Self::Overlap),
            _ => None,
        }
    }

    /// Likeness of two documents; 0 where one has no features.
    pub fn between(self, (x_ids, x): (&[FeatureId], &[f16]), (y_ids, y): (&[FeatureId], &[f16])) -> f64 {
        let (mut dot, mut shared) = (0.0f64, 0usize);
        let (mut i, mut j) = (0, 0);
        while i < x_ids.len() && j < y_ids.len() {
            match x_ids[i].cmp(&y_ids[j]) {
                std::cmp::Ordering::Less => i += 1,
                std::cmp::Ordering::Greater => j += 1,
                std::cmp::Ordering::Equal => {
                    dot += f64::from(x[i].to_f32()) * f64::from(y[j].to_f32());
                    shared += 1;
                    i += 1;
                    j += 1;
                }
            }
        }
        let ratio = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        let norm = |values: &[f16]| values.iter().map(|v| f64::from(v.to_f32()).powi(2)).sum::<f64>().sqrt();
        match self {
            Self::Cosine => ratio(dot, norm(x) * norm(y)),
            Self::Jaccard => ratio(shared as f64, (x_ids.len() + y_ids.len() - shared) as f64),
            Self::Dot => dot,
            Self::Overlap => ratio(shared as f64, x_ids.len().min(y_ids.len()) as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn measures_are_those_of_maps(x in prop::collection::btree_map(0u32..20, 0.1..4.0f32, 0..12),
                                      y in prop::collection::btree_map(0u32..20, 0.1..4.0f32, 0..12)) {
            let split = |map: &BTreeMap<u32, f32>| -> (Vec<u32>, Vec<f16>) {
                map.iter().map(|(id, value)| (*id, f16::from_f32(*value))).unzip()
            };
            let (x, y) = (split(&x), split(&y));
            let get = |side: &(Vec<u32>, Vec<f16>), id: u32| side.0.iter().position(|i| *i == id).map_or(0.0, |at| side.1[at].to_f64());
            let sum = |f: &dyn Fn(u32) -> f64| (0..20).map(f).sum::<f64>();
            let dot = sum(&|id| get(&x, id) * get(&y, id));
            let shared = sum(&|id| f64::from(u8::from(get(&x, id) > 0.0 && get(&y, id) > 0.0)));
            let either = sum(&|id| f64::from(u8::from(get(&x, id) > 0.0 || get(&y, id) > 0.0)));
            let norms = sum(&|id| get(&x, id).powi(2)).sqrt() * sum(&|id| get(&y, id).powi(2)).sqrt();
            let smaller = x.0.len().min(y.0.len()) as f64;
            let or_zero = |value: f64| if value.is_finite() { value } else { 0.0 };
            for (measure, expected) in [
                (Measure::Dot, dot),
                (Measure::Cosine, or_zero(dot / norms)),
                (Measure::Jaccard, or_zero(shared / either)),
                (Measure::Overlap, or_zero(shared / smaller)),
            ] {
                let got = measure.between((&x.0, &x.1), (&y.0, &y.1));
                prop_assert!((got - expected).abs() < 1e-9 * expected.max(1.0), "{measure:?}: {got}, expected {expected}");
            }
        }
    }
}
