//! Fusion of several scores of the same documents: `score(d) = sum over signals of w_s x_s(d) / sd_s`.
//!
//! A cosine, a BM25 score and a sum of activations have no common unit, so each is divided by its standard deviation over
//! the documents (standardised scores: Montague and Aslam 2001). Unlike ranks, which reciprocal rank fusion adds, they
//! keep how far a document stands out.
//!
//! How much labels count depends on the query: where the embedding finds a group that stands out, as it does of topics,
//! little is left for them; where it finds nothing, as it does of forms and styles, they decide ([`label_weight`]). A rare
//! group stands out by its distance from all others, a frequent one by the gap between the two ([`separation`]).

use crate::statistics::normal_quantile_two_sided;

/// Hits whose mean tells how far the best documents stand out.
pub const TAIL_DOCS: usize = 10;
/// Weight of labels beside an embedding whose best documents stand out no more than they would by chance, before it is cut.
const LABELS: f32 = 1.5;
/// Share of the variance between two groups, of a normal distribution cut in its middle: 2 / pi. What one in a hundred
/// samples reaches is about 0.82 / sqrt(n) more, for 5 to 3,000 documents.
const NORMAL_SHARE: (f64, f64) = (std::f64::consts::FRAC_2_PI, 0.82);

/// Mean and standard deviation of a signal over documents.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// Mean.
    pub mean: f32,
    /// Standard deviation, 0 if all are equal.
    pub sd: f32,
}

/// Sums from which a [`Scale`] is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moments {
    n: f64,
    sum: f64,
    squares: f64,
}

impl Moments {
    /// Adds a score; one that is not finite is left out.
    pub fn add(&mut self, score: f32) {
        if score.is_finite() {
            let score = f64::from(score);
            self.n += 1.0;
            self.sum += score;
            self.squares += score * score;
        }
    }

    /// Mean and deviation of the scores; 0 and 0 of none. A spread in the order of rounding errors is none.
    pub fn scale(self) -> Scale {
        if self.n == 0.0 {
            return Scale { mean: 0.0, sd: 0.0 };
        }
        let (mean, square) = (self.sum / self.n, self.squares / self.n);
        let variance = square - mean * mean;
        let sd = if variance > 1e-10 * square { variance.sqrt() } else { 0.0 };
        Scale { mean: mean as f32, sd: sd as f32 }
    }
}

impl Scale {
    /// Of these scores.
    pub fn of(scores: impl IntoIterator<Item = f32>) -> Self {
        let mut moments = Moments::default();
        scores.into_iter().for_each(|score| moments.add(score));
        moments.scale()
    }

    /// What one unit of the signal counts if one standard deviation shall count `weight`; a signal that is the same
    /// everywhere is taken as it is.
    pub fn unit(self, weight: f32) -> f32 {
        if self.sd > 0.0 { weight / self.sd } else { weight }
    }

    /// How many standard deviations the mean of the best scores is above that of all.
    pub fn tail(self, best: &[f32]) -> f32 {
        let mean = best.iter().sum::<f32>() / best.len().max(1) as f32;
        if best.is_empty() || self.sd == 0.0 { 0.0 } else { (mean - self.mean) / self.sd }
    }
}

/// Share of the variance of the scores that is between two groups, cut where it is largest (the criterion of Otsu 1979, "A
/// threshold selection method from gray-level histograms"), in units of what one in a hundred samples of a normal
/// distribution reaches, `2 / pi + 0.82 / sqrt(n)`: above 1 there are two groups. 0 if all are equal.
pub fn separation(scores: impl IntoIterator<Item = f32>) -> f32 {
    let mut sorted: Vec<f64> = scores.into_iter().filter(|score| score.is_finite()).map(f64::from).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let n = sorted.len() as f64;
    let mean = sorted.iter().sum::<f64>() / n.max(1.0);
    let (mut all, mut squares) = (0.0, 0.0);
    for score in &mut sorted {
        *score -= mean;
        all += *score * *score;
        squares += (*score + mean).powi(2);
    }
    // A spread in the order of rounding errors is none.
    if all <= 1e-10 * squares {
        return 0.0;
    }
    let (mut below, mut best) = (0.0, 0.0f64);
    for (at, score) in sorted.iter().enumerate().take(sorted.len().saturating_sub(1)) {
        below += score;
        let n_below = at as f64 + 1.0;
        best = best.max(below * below * n / (n_below * (n - n_below)));
    }
    (best / all / (NORMAL_SHARE.0 + NORMAL_SHARE.1 / n.sqrt())) as f32
}

/// Weight of labels beside an embedding of weight 1 whose [`TAIL_DOCS`] best of `n_docs` documents are on average `tail`
/// standard deviations above the mean, and whose scores fall into two groups by `separation`: `1.5 / r^3`, at most 1, with
/// `r` the ratio of `tail` to what it is of a normal distribution (its quantile at `1 - 5 / n_docs`), times
/// `1 / separation^16`, at most 1. Constant and power of the former were chosen on one half of 135 property queries and
/// confirmed on the other (`tests/quality/retrieval.py`), on all of which the latter changes nothing; it was chosen on a set
/// of six topics, each a sixth of it, where labels had cost what the embedding had found.
pub fn label_weight(tail: f32, separation: f32, n_docs: u64) -> f32 {
    let beyond = TAIL_DOCS as f64 / n_docs.max(2 * TAIL_DOCS as u64) as f64;
    let ratio = tail.max(0.0) / normal_quantile_two_sided(1.0 - beyond) as f32;
    (LABELS / (ratio * ratio * ratio)).min(1.0) / separation.max(1.0).powi(16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn scales_are_mean_and_deviation() {
        let scale = Scale::of([1.0, 3.0, 5.0, 7.0, f32::NAN]);
        assert_eq!(scale.mean, 4.0);
        assert!((scale.sd - 5.0f32.sqrt()).abs() < 1e-6);
        assert!((scale.unit(2.0) - 2.0 / 5.0f32.sqrt()).abs() < 1e-6);
        assert!((scale.tail(&[7.0, 5.0]) - 2.0 / 5.0f32.sqrt()).abs() < 1e-6);
        assert_eq!(scale.tail(&[]), 0.0);
    }

    #[test]
    fn what_is_the_same_everywhere_has_no_spread() {
        for scores in [vec![], vec![0.3], vec![0.1; 1_000], vec![f32::INFINITY]] {
            let scale = Scale::of(scores);
            assert_eq!((scale.sd, scale.unit(0.5), scale.tail(&[1.0])), (0.0, 0.5, 0.0));
        }
    }

    #[test]
    fn labels_weigh_more_where_the_embedding_finds_no_group() {
        let label_weight = |tail, n_docs| super::label_weight(tail, 0.96, n_docs);
        let weights = [0.0, f32::NAN, 3.0].map(|tail| label_weight(tail, 3_000));
        assert_eq!(weights, [1.0; 3], "no more than by chance");
        // scipy.stats.norm.isf(5 / 3000) = 2.935199.
        let expected = 1.5 / (6.0f32 / 2.935_199).powi(3);
        assert!((label_weight(6.0, 3_000) - expected).abs() < 1e-5);
        assert!(label_weight(6.0, 300_000) > 2.0 * expected, "among more documents the best stand out more anyway");
        assert!(label_weight(1.0, 0) <= 1.0);
    }

    #[test]
    fn labels_weigh_less_where_the_embedding_finds_two_groups() {
        let mut random = Random::new(2, 2);
        let normal: Vec<f32> = (0..1_000).map(|_| random.normal() as f32).collect();
        let of_normal = separation(normal.iter().copied());
        assert!((0.94..1.0).contains(&of_normal), "{of_normal}");
        assert_eq!(label_weight(2.0, of_normal, 1_000), 1.0);
        // A sixth of the documents lies five deviations above the others: its ten best are not far from the mean of all.
        let groups: Vec<f32> =
            normal.iter().enumerate().map(|(at, score)| score + 5.0 * f32::from(u8::from(at % 6 == 0))).collect();
        let (apart, scale) = (separation(groups.iter().copied()), Scale::of(groups.iter().copied()));
        let mut best = groups.clone();
        best.sort_unstable_by(|a, b| b.total_cmp(a));
        let tail = scale.tail(&best[..TAIL_DOCS]);
        assert!(label_weight(tail, of_normal, 1_000) > 0.9, "{tail}");
        assert!(apart > 1.14 && label_weight(tail, apart, 1_000) < 0.13, "{apart}");
        // Few documents fall into two groups by chance.
        let most = (0..100).map(|_| separation((0..20).map(|_| random.normal() as f32))).filter(|apart| *apart > 1.0);
        assert!(most.count() <= 4);
        // Between and within, by hand: 0, 0, 3, 4 is cut in the middle.
        let unit = std::f32::consts::FRAC_2_PI + 0.82 / 2.0;
        assert!((separation([4.0, 0.0, 3.0, 0.0, f32::NAN]) - 12.25 / 12.75 / unit).abs() < 1e-6);
        assert_eq!([separation([]), separation([2.0]), separation([0.1; 50])], [0.0; 3]);
    }
}
