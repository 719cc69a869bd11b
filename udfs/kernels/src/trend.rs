//! Which features go with a number: rank correlation of presence and value, from rank sums.
//!
//! The test is Wilcoxon's rank-sum test (Mann and Whitney 1947) of the documents with the feature against those without,
//! with mid-ranks and the variance corrected for ties. Its standard score over `sqrt(n - 1)` is Spearman's correlation
//! of presence (0 or 1) and value.

use std::collections::HashMap;
use std::f64::consts::{PI, SQRT_2};

use crate::FeatureId;
use crate::statistics::{correct, rank};

/// Fewer documents have no interval of a correlation.
pub const LEAST_DOCS: u64 = 4;

/// Up to so many documents with (or without) a feature the test is exact if no two values are equal, as in scipy.
const EXACT_DOCS: u64 = 8;

/// Largest number of rank sums of an exact distribution.
const MOST_SUMS: u64 = 1_000_000;

/// Bins that a saddle point is computed with.
const MOST_BINS: usize = 256;

/// Steps of Newton's method until a saddle point is given up.
const MOST_STEPS: usize = 60;

/// Mid-ranks of values.
#[derive(Debug, Clone, Default)]
pub struct Ranks {
    /// Distinct values, ascending.
    values: Vec<f64>,
    /// How many documents have each.
    counts: Vec<u64>,
    /// Mid-rank of each, from 1.
    ranks: Vec<f64>,
    n: u64,
    /// Sum of `t^3 - t` over ties of `t`.
    ties: f64,
}

impl Ranks {
    /// Ranks of `values`; what is not a number is left out.
    pub fn new(mut values: Vec<f64>) -> Self {
        values.retain(|value| !value.is_nan());
        values.sort_unstable_by(f64::total_cmp);
        let mut ranks = Self { n: values.len() as u64, ..Self::default() };
        let mut before = 0.0;
        for run in values.chunk_by(|x, y| x == y) {
            let t = run.len() as f64;
            ranks.values.push(run[0]);
            ranks.counts.push(run.len() as u64);
            ranks.ranks.push(before + (t + 1.0) / 2.0);
            ranks.ties += t * t * t - t;
            before += t;
        }
        ranks
    }

    /// Number of values.
    pub fn n(&self) -> u64 {
        self.n
    }

    /// Number of different values.
    pub fn n_distinct(&self) -> usize {
        self.values.len()
    }

    /// Mid-rank of one of the values.
    pub fn rank(&self, value: f64) -> Option<f64> {
        let at = self.values.partition_point(|other| *other < value);
        self.values.get(at).filter(|other| **other == value).map(|_| self.ranks[at])
    }

    /// A value that parts the documents best: as many as possible above as not above, but some on both sides.
    pub fn middle(&self) -> Option<f64> {
        let mut below = 0;
        let mut best: Option<(u64, f64)> = None;
        for (value, count) in self.values.iter().zip(&self.counts).take(self.values.len().saturating_sub(1)) {
            below += count;
            let gap = self.n.abs_diff(2 * below);
            if best.is_none_or(|(least, _)| gap < least) {
                best = Some((gap, *value));
            }
        }
        best.map(|(_, value)| value)
    }

    /// Standard score of the rank sum of `with` documents; 0 if nothing varies.
    fn z(&self, rank_sum: f64, with: u64) -> f64 {
        let (n, m) = (self.n as f64, with as f64);
        let spread = n + 1.0 - self.ties / (n * (n - 1.0)).max(1.0);
        let variance = m * (n - m) / 12.0 * spread;
        if variance > 0.0 { (rank_sum - m * (n + 1.0) / 2.0) / variance.sqrt() } else { 0.0 }
    }

    /// Two-sided p of a rank sum among ties, where the normal approximation can be wrong by orders of magnitude: twice the
    /// tail by the double saddle point (Skovgaard 1987, eq. 3.2; of `with` draws without replacement: Robinson 1982), half a
    /// step nearer to the mean, which keeps it on the safe side. `None` at the edge of the range, where it does not exist.
    fn tied_p(&self, rank_sum: f64, with: u64) -> Option<f64> {
        let (n, m) = (self.n as f64, with as f64);
        let middle = (n + 1.0) / 2.0;
        let sign = if rank_sum / m < middle { -1.0 } else { 1.0 };
        let step = self.ranks.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min);
        // Scores on the scale of 1, upwards in the direction of the tail.
        let wanted = (sign * (rank_sum - m * middle) - 0.5 * step) / n;
        if wanted <= 0.0 || with == 0 || with >= self.n {
            return None;
        }
        let scores: Vec<(f64, f64)> =
            self.in_bins().into_iter().map(|(rank, count)| (sign * (rank - middle) / n, count)).collect();
        // Each document is drawn with the odds exp(s + t * score), such that `m` with the wanted sum are expected.
        let at_chance = (m / (n - m)).ln();
        let (mut s, mut t, mut determinant) = (at_chance, 0.0_f64, 0.0);
        let mut settled = false;
        for _ in 0..MOST_STEPS {
            let (mut drawn, mut sum, mut a, mut b, mut c) = (-m, -wanted, 0.0, 0.0, 0.0);
            for (score, count) in &scores {
                let p = 1.0 / (1.0 + (-s - t * score).exp());
                let v = count * p * (1.0 - p);
                drawn += count * p;
                sum += count * p * score;
                a += v;
                b += v * score;
                c += v * score * score;
            }
            determinant = a * c - b * b;
            if determinant <= 0.0 || !determinant.is_finite() {
                return None;
            }
            let (ds, dt) = ((c * drawn - b * sum) / determinant, (a * sum - b * drawn) / determinant);
            let short = (2.0 / ds.abs().max(dt.abs())).min(1.0); // scores are at most 1
            s -= short * ds;
            t -= short * dt;
            if ds.abs().max(dt.abs()) < 1e-9 {
                settled = true;
                break;
            }
        }
        let softplus = |x: f64| if x > 30.0 { x } else { x.exp().ln_1p() };
        let log_mgf: f64 = scores.iter().map(|(score, count)| count * softplus(s + t * score)).sum();
        let w = (2.0 * (s * m + t * wanted - log_mgf - at_chance * m + n * softplus(at_chance))).max(0.0).sqrt();
        let u = t * (determinant / (m * (n - m) / n)).sqrt();
        if !settled || w < 1e-4 || u < 1e-4 {
            return None;
        }
        let density = (-w * w / 2.0).exp() / (2.0 * PI).sqrt();
        let tail = 0.5 * libm::erfc(w / SQRT_2) + density * (1.0 / u - 1.0 / w);
        tail.is_finite().then(|| (2.0 * tail).clamp(0.0, 1.0))
    }

    /// Ranks with their counts; neighbours together where there are many.
    fn in_bins(&self) -> Vec<(f64, f64)> {
        let size = self.ranks.len().div_ceil(MOST_BINS).max(1);
        let pairs = self.ranks.chunks(size).zip(self.counts.chunks(size));
        let bin = |(ranks, counts): (&[f64], &[u64])| {
            let count: f64 = counts.iter().map(|count| *count as f64).sum();
            (ranks.iter().zip(counts).map(|(rank, count)| rank * *count as f64).sum::<f64>() / count, count)
        };
        pairs.map(bin).collect()
    }
}

/// Rank sums of the documents that have each feature.
#[derive(Debug, Clone)]
pub struct TrendCounts {
    docs: Vec<u32>,
    rank_sums: Vec<f64>,
    sums: Vec<f64>,
    n_docs: u64,
    sum: f64,
}

impl TrendCounts {
    /// Nothing counted yet, for ids below `id_bound`.
    pub fn new(id_bound: usize) -> Self {
        Self { docs: vec![0; id_bound], rank_sums: vec![0.0; id_bound], sums: vec![0.0; id_bound], n_docs: 0, sum: 0.0 }
    }

    /// Memory for ids below `id_bound`.
    pub fn bytes(id_bound: usize) -> usize {
        id_bound * (size_of::<u32>() + 2 * size_of::<f64>())
    }

    /// Counts a document with this value and its rank.
    pub fn update(&mut self, value: f64, rank: f64, ids: &[FeatureId]) {
        self.n_docs += 1;
        self.sum += value;
        let bound = self.docs.len();
        for id in ids.iter().map(|id| *id as usize).filter(|id| *id < bound) {
            self.docs[id] += 1;
            self.rank_sums[id] += rank;
            self.sums[id] += value;
        }
    }
}

/// How a feature goes with the value.
#[derive(Debug, Clone, PartialEq)]
pub struct TrendRow {
    /// The feature.
    pub feature_id: FeatureId,
    /// Documents that have it.
    pub docs: u64,
    /// Documents with a value.
    pub n: u64,
    /// Spearman's correlation of presence and value.
    pub correlation: f64,
    /// Confidence interval of the correlation.
    pub ci: (f64, f64),
    /// Probability that a document with the feature has the larger value than one without, ties counted half.
    pub auc: f64,
    /// Mean value of the documents with the feature.
    pub mean_with: f64,
    /// Mean value of those without; `None` if all have it.
    pub mean_without: Option<f64>,
    /// Two-sided p that the correlation is chance.
    pub p_value: f64,
    /// Benjamini-Hochberg q over all features that were tested.
    pub q_value: f64,
}

/// Tests the features `ids` that at least `min_docs` documents have; `z` is the normal quantile of the intervals.
///
/// p is exact for at most eight documents on a side if all values differ, and normal elsewhere, without correction for
/// continuity; where values have ties and p is small, [`Ranks::tied_p`]. The interval of the
/// correlation is Fisher's with the variance of Bonett and Wright (2000). Significant rows come first, then the larger
/// correlation, whatever its sign.
pub fn trends(counts: &TrendCounts, ranks: &Ranks, ids: &[FeatureId], min_docs: u64, z: f64) -> Vec<TrendRow> {
    let n = counts.n_docs;
    let mut exact: HashMap<u64, Option<Vec<f64>>> = HashMap::new();
    let mut rows = Vec::new();
    for &id in ids {
        let at = id as usize;
        let docs = counts.docs.get(at).copied().map_or(0, u64::from);
        if n < LEAST_DOCS || docs < min_docs.max(1) {
            continue;
        }
        let (rank_sum, sum, without) = (counts.rank_sums[at], counts.sums[at], n - docs);
        let score = ranks.z(rank_sum, docs);
        let correlation = score / (n as f64 - 1.0).sqrt();
        let u = rank_sum - docs as f64 * (docs as f64 + 1.0) / 2.0;
        let fewer = docs.min(without);
        let law = if ranks.ties == 0.0 && (1..=EXACT_DOCS).contains(&fewer) {
            exact.entry(fewer).or_insert_with(|| u_law(fewer, n - fewer)).as_deref()
        } else {
            None
        };
        let p_value = match law {
            // The distribution is symmetric, so it does not matter which side is the smaller one.
            Some(below) => (2.0 * below[(u.min((docs * without) as f64 - u)) as usize]).min(1.0),
            None => {
                let normal = libm::erfc(score.abs() / SQRT_2);
                let (sum, fewer) =
                    if docs <= without { (rank_sum, docs) } else { ((n * (n + 1)) as f64 / 2.0 - rank_sum, without) };
                let is_doubtful = ranks.ties > 0.0 && normal < 0.1 && fewer > 0;
                if is_doubtful { ranks.tied_p(sum, fewer).unwrap_or(normal) } else { normal }
            }
        };
        let middle = correlation.clamp(-0.999_999_999, 0.999_999_999).atanh();
        let reach = z * ((1.0 + correlation * correlation / 2.0) / (n as f64 - 3.0)).sqrt();
        rows.push(TrendRow {
            feature_id: id,
            docs,
            n,
            correlation,
            ci: ((middle - reach).tanh(), (middle + reach).tanh()),
            auc: if without == 0 { 0.5 } else { u / (docs as f64 * without as f64) },
            mean_with: sum / docs as f64,
            mean_without: (without > 0).then(|| (counts.sum - sum) / without as f64),
            p_value,
            q_value: p_value,
        });
    }
    correct(rows.iter_mut().map(|row| (row.p_value, &mut row.q_value)));
    rows.sort_by_key(|row| rank(row.q_value, row.correlation, row.feature_id));
    rows
}

/// `P(U <= u)` of `m` documents against `n`, for each `u` up to the middle; `None` if there are too many.
///
/// Ways are coefficients of the Gaussian binomial, the product of `(1 - x^(n + i)) / (1 - x^i)` for `i` up to `m`. They are
/// computed modulo 2^128, which the final ones fit in.
fn u_law(m: u64, n: u64) -> Option<Vec<f64>> {
    let sums = m.checked_mul(n).filter(|sums| *sums <= MOST_SUMS)? as usize;
    let total: f64 = (1..=m).map(|i| (n + i) as f64 / i as f64).product();
    if total >= 1e38 {
        return None;
    }
    let mut ways = vec![0u128; sums / 2 + 1];
    ways[0] = 1;
    for i in 1..=m as usize {
        let (up, down) = (n as usize + i, i);
        for at in (up..ways.len()).rev() {
            ways[at] = ways[at].wrapping_sub(ways[at - up]);
        }
        for at in down..ways.len() {
            ways[at] = ways[at].wrapping_add(ways[at - down]);
        }
    }
    let mut below = 0u128;
    let cumulate = |ways: u128| {
        below += ways;
        below as f64 / total
    };
    Some(ways.into_iter().map(cumulate).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::SIGNIFICANT_Q;

    const Z95: f64 = 1.959_963_984_540_054;

    /// The row of one feature that the documents marked `true` have.
    fn row(documents: &[(f64, bool)]) -> TrendRow {
        let ranks = Ranks::new(documents.iter().map(|(value, _)| *value).collect());
        let mut counts = TrendCounts::new(1);
        for (value, has) in documents {
            counts.update(*value, ranks.rank(*value).unwrap(), if *has { &[0] } else { &[] });
        }
        trends(&counts, &ranks, &[0], 1, Z95).remove(0)
    }

    #[test]
    fn agrees_with_scipy() {
        let close = |got: f64, expected: f64| (got - expected).abs() <= 1e-9 * expected.abs().max(1e-6);
        let mut seen = 0;
        for line in include_str!("../tests/trend_fixtures.tsv").lines() {
            let mut fields = line.split('\t');
            let (name, arguments) = (fields.next().unwrap(), fields.next().unwrap());
            let expected: Vec<f64> = fields.map(|value| value.parse().unwrap()).collect();
            let (values, marks) = arguments.split_once(';').unwrap();
            let documents: Vec<(f64, bool)> = values
                .split(',')
                .map(|value| value.parse().unwrap())
                .zip(marks.chars().map(|mark| mark == '1'))
                .collect();
            let row = row(&documents);
            assert!(close(row.correlation, expected[0]), "{line}: {row:?}");
            assert!(close(row.auc, expected[1]), "{line}: {row:?}");
            match name {
                "exact" => assert!(close(row.p_value, expected[2]), "{line}: {row:?}"),
                // scipy's is normal; the saddle point's is nearer to the truth, which is near in the middle.
                _ => {
                    let ratio = row.p_value / expected[2];
                    assert!(expected[2] < 1e-2 || (0.5..3.0).contains(&ratio), "{line}: {row:?}");
                }
            }
            if name == "normal" {
                assert!(close(row.p_value, expected[2]), "{line}: {row:?}");
            }
            seen += 1;
        }
        assert!(seen >= 40, "{seen} fixtures");
    }

    #[test]
    fn means_and_intervals_are_told() {
        let documents: Vec<(f64, bool)> = (0..100).map(|row| (f64::from(row), row >= 70)).collect();
        let row = row(&documents);
        assert_eq!((row.docs, row.n, row.mean_with, row.mean_without), (30, 100, 84.5, Some(34.5)));
        assert_eq!(row.auc, 1.0);
        assert!(row.ci.0 < row.correlation && row.correlation < row.ci.1 && row.p_value < 1e-12);
    }

    #[test]
    fn odd_values_give_nothing_or_no_correlation() {
        let same = row(&[(1.0, true), (1.0, false), (1.0, true), (1.0, false)]);
        assert_eq!((same.correlation, same.p_value), (0.0, 1.0));
        let all = row(&[(1.0, true), (2.0, true), (3.0, true), (4.0, true)]);
        assert_eq!((all.correlation, all.p_value, all.mean_without), (0.0, 1.0, None));
        let ranks = Ranks::new(vec![2.0, f64::NAN, 1.0, 2.0]);
        assert_eq!((ranks.n(), ranks.n_distinct()), (3, 2));
        assert_eq!((ranks.rank(2.0), ranks.rank(1.5), ranks.rank(f64::NAN)), (Some(2.5), None, None));
        assert_eq!((ranks.middle(), Ranks::new(vec![3.0; 5]).middle()), (Some(1.0), None));
        assert!(trends(&TrendCounts::new(1), &Ranks::new(Vec::new()), &[0], 1, Z95).is_empty());
    }

    /// `P(sum >= wanted)` of `m` documents drawn without replacement, by counting; on the lattice of half ranks.
    fn by_counting(ranks: &Ranks, m: usize, wanted: f64) -> f64 {
        let mut ways: HashMap<(usize, u64), f64> = HashMap::from([((0, 0), 1.0)]);
        let choose = |n: u64, k: u64| (0..k).map(|i| (n - i) as f64 / (k - i) as f64).product::<f64>();
        for (rank, count) in ranks.ranks.iter().zip(&ranks.counts) {
            let mut next: HashMap<(usize, u64), f64> = HashMap::new();
            for ((drawn, sum), w) in ways {
                for j in 0..=(*count).min((m - drawn) as u64) {
                    let key = (drawn + j as usize, sum + j * (2.0 * rank) as u64);
                    *next.entry(key).or_default() += w * choose(*count, j);
                }
            }
            ways = next;
        }
        let total: f64 = ways.iter().filter(|((drawn, _), _)| *drawn == m).map(|(_, w)| w).sum();
        let above = |((drawn, sum), _): &(&(usize, u64), &f64)| *drawn == m && *sum as f64 >= 2.0 * wanted;
        ways.iter().filter(above).map(|(_, w)| w).sum::<f64>() / total
    }

    #[test]
    fn ties_are_judged_as_counting_does() {
        for counts in [[40, 30, 20, 60, 50], [150, 20, 10, 10, 10]] {
            let values = counts.iter().zip(1..).flat_map(|(count, value)| vec![f64::from(value); *count]).collect();
            let ranks = Ranks::new(values);
            for m in [8_u64, 30, 80] {
                let (mean, n) = (m as f64 * 100.5, 200.0);
                let spread = n + 1.0 - ranks.ties / (n * (n - 1.0));
                let deviation = (m as f64 * (n - m as f64) / 12.0 * spread).sqrt();
                for distance in [2.0, 4.0, 6.0] {
                    let sum = (2.0 * (mean + distance * deviation)).round() / 2.0;
                    let exact = 2.0 * by_counting(&ranks, m as usize, sum);
                    if exact == 0.0 {
                        continue;
                    }
                    let ratio = ranks.tied_p(sum, m).unwrap() / exact;
                    // Rare and far out it is up to five times too large, elsewhere within 40 %; never too small.
                    let most = if m == 8 && distance > 4.0 { 5.5 } else { 1.45 };
                    assert!(ratio > 0.99 && ratio < most, "{counts:?} {m} {distance}: {ratio}");
                }
            }
        }
    }

    #[test]
    fn lopsided_values_do_not_make_rare_features_significant() {
        // 5 % of 2,000 have the low value; of five documents with the feature three are among them: by chance 1.1e-3.
        let documents: Vec<(f64, bool)> =
            (0..2000).map(|row| (if row < 100 { 1.0 } else { 5.0 }, row < 3 || (100..102).contains(&row))).collect();
        let row = row(&documents);
        assert!(row.p_value > 1e-3 && row.p_value < 4e-3, "{}", row.p_value);
        // Shuffled skewed ratings and rare features: q holds.
        let mut state = 0x2545_F491_4F6C_DD1Du64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut found = 0;
        for _ in 0..60 {
            let documents: Vec<(f64, Vec<u32>)> = (0..1500)
                .map(|_| {
                    let value = match random() % 100 {
                        0..4 => 1.0,
                        4..7 => 2.0,
                        7..12 => 3.0,
                        _ => 5.0,
                    };
                    (value, (0..300u32).filter(|id| random() % 1500 < u64::from(6 + id / 3)).collect())
                })
                .collect();
            let ranks = Ranks::new(documents.iter().map(|(value, _)| *value).collect());
            let mut counts = TrendCounts::new(300);
            for (value, ids) in &documents {
                counts.update(*value, ranks.rank(*value).unwrap(), ids);
            }
            let ids: Vec<u32> = (0..300).collect();
            let rows = trends(&counts, &ranks, &ids, 5, Z95);
            found += usize::from(rows[0].q_value < SIGNIFICANT_Q);
        }
        assert!(found <= 6, "{found} of 60");
    }
}
