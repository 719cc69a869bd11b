//! BM25 whose terms are features: Latent Terms (arXiv 2605.29384).
//!
//! `score(q, d) = sum_j w_j(q) idf_j tf_j (k1 + 1) / (tf_j + k1 (1 - b + b |d| / mean |d|))` with
//! `idf_j = ln((N - n_j + 0.5) / (n_j + 0.5))`, at least 0. The weight of a feature in a text is the square root of
//! its activation, and `|d|` is the sum of the weights. The paper sums activations over tokens; what is stored is
//! their maximum divided, here, by the feature's 90th percentile, so that one strong scale does not decide alone.

/// Saturation of the paper, not tuned by it.
pub const K1: f32 = 8.0;
/// Length normalisation of the paper, not tuned by it.
pub const B: f32 = 0.7;

/// Inverse document frequency of a feature in `n_with` of `n_docs` documents; 0 for one in more than half of them.
pub fn idf(n_with: u64, n_docs: u64) -> f32 {
    let (with, all) = (n_with as f64, n_docs as f64);
    (((all - with + 0.5).max(0.5) / (with + 0.5)).ln()).max(0.0) as f32
}

/// Weight of a feature in a text: the square root of its activation over its 90th percentile, unitless.
pub fn term_weight(activation: f32, q90: f32) -> f32 {
    (activation.max(0.0) / q90).sqrt()
}

/// What one feature of weight `tf` adds to a document of length `length`, before the weight of the query.
pub fn term_score(tf: f32, length: f32, mean_length: f32) -> f32 {
    let relative = if mean_length > 0.0 { length / mean_length } else { 1.0 };
    tf * (K1 + 1.0) / (tf + K1 * (1.0 - B + B * relative))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_formula_by_hand() {
        // tf = 2, |d| = 30, mean 20: 2 * 9 / (2 + 8 * (0.3 + 0.7 * 1.5)) = 18 / 12.8.
        assert!((term_score(2.0, 30.0, 20.0) - 18.0 / 12.8).abs() < 1e-6);
        assert!((idf(10, 1000) - (990.5f32 / 10.5).ln()).abs() < 1e-5);
        assert!((term_weight(2.0, 0.5) - 2.0).abs() < 1e-6);
    }

    #[test]
    fn never_negative_nor_infinite() {
        assert_eq!(idf(900, 1000), 0.0);
        assert_eq!(idf(5, 5), 0.0);
        assert_eq!(idf(0, 0), 0.0);
        assert!(idf(0, 10).is_finite());
        assert!(term_score(1.0, 0.0, 0.0).is_finite());
    }

    #[test]
    fn longer_documents_and_repetition_count_less() {
        assert!(term_score(1.0, 10.0, 20.0) > term_score(1.0, 40.0, 20.0));
        assert!(term_score(2.0, 20.0, 20.0) < 2.0 * term_score(1.0, 20.0, 20.0));
    }
}
