//! Which features go with a number: rank correlation of presence and value, from rank sums.
//!
//! The test is Wilcoxon's rank-sum test (Mann and Whitney 1947) of the documents with the feature against those without,
//! with mid-ranks and the variance corrected for ties. Its standard score over `sqrt(n - 1)` is Spearman's correlation
//! of presence (0 or 1) and value.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::f64::consts::{PI, SQRT_2};

use crate::FeatureId;
use crate::statistics::{correct, fisher_greater, hypergeometric, rank};

/// Fewer documents have no interval of a correlation.
pub const LEAST_DOCS: u64 = 4;

/// Up to so many documents with (or without) a feature the test is exact if no two values are equal, as in scipy.
const EXACT_DOCS: u64 = 8;

/// Largest number of rank sums of an exact distribution.
const MOST_SUMS: u64 = 1_000_000;

/// Documents whose rank sums are counted among ties, at least and at most.
const COUNTED: (u64, u64) = (8, 32);

/// Additions that such counting may take, numbers it may keep, and cells that a grid should have.
const MOST_ADDITIONS: u64 = 300_000_000;
const MOST_NUMBERS: u64 = 1 << 21;
const ENOUGH_CELLS: u64 = 1500;

/// Documents in a bin that a saddle point is computed with: such a share of all, and of those farther out.
const BIN: (u64, u64) = (256, 16);

/// Steps of Newton's method until a saddle point is given up.
const MOST_STEPS: usize = 100;

/// What a lattice's trace is down to where it is none: `exp(-LOST)`.
const LOST: f64 = 6.0;

/// Normal p below which it is not near enough: if all values differ, among ties, and among ties for few documents.
const DOUBTFUL: [f64; 3] = [1e-2, 0.1, 0.5];

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

    /// Two-sided p of a rank sum of `with` documents, at most half of them: normal where it is large, in the tail counted where
    /// few of them do not have the commonest value, or else by a saddle point.
    fn p(&self, few: &OnceCell<FewSums>, rank_sum: f64, with: u64) -> f64 {
        let normal = libm::erfc(self.z(rank_sum, with).abs() / SQRT_2);
        let among_ties = if with <= COUNTED.1 { DOUBTFUL[2] } else { DOUBTFUL[1] };
        if with == 0 || normal >= if self.ties > 0.0 { among_ties } else { DOUBTFUL[0] } {
            return normal;
        }
        let others = self.n - self.counts.iter().copied().max().unwrap_or(0);
        let countable = self.ties > 0.0 && (with <= COUNTED.1 || with * others <= COUNTED.1 * self.n);
        let (counted, more) =
            if countable { few.get_or_init(|| FewSums::new(self)).p(rank_sum, with) } else { (0.0, 1.0) };
        if more <= 0.3 * counted {
            return (counted + more).min(1.0);
        }
        self.saddle_p(rank_sum, with).map_or(normal, |p| p.max(counted).min(1.0))
    }

    /// Two-sided p of a rank sum of `with` documents in the tail, where the normal approximation can be wrong by orders of
    /// magnitude: twice the tail by the double saddle point (Skovgaard 1987; of draws without replacement: Robinson 1982) with
    /// Daniels' second correction for a lattice (Butler 2007, section 4.2), that of [`lattice_step`], in Barndorff-Nielsen's
    /// form, which stays positive. `None` where there is none.
    fn saddle_p(&self, rank_sum: f64, with: u64) -> Option<f64> {
        let (n, m) = (self.n as f64, with as f64);
        let middle = (n + 1.0) / 2.0;
        let sign = if rank_sum / m < middle { -1.0 } else { 1.0 };
        // Scores on the scale of 1, upwards in the direction of the tail.
        let sum = sign * (rank_sum - m * middle) / n;
        let least = self.ranks.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min) / n;
        if with == 0 || with >= self.n || sum <= 0.5 * least || !least.is_finite() {
            return None;
        }
        let scores: Vec<(f64, f64)> =
            self.in_bins(sign > 0.0).into_iter().map(|(rank, count)| (sign * (rank - middle) / n, count)).collect();
        let at_chance = (m / (n - m)).ln();
        // At the edge a bin may reach across it: then from farther in.
        let mut steps = (0..64).map(|i| least * f64::from(i).exp2()).take_while(|step| 0.5 * step < sum);
        let find = |step: f64| Some((step, Saddle::find(&scores, m, sum - 0.5 * step, (at_chance, 0.0))?));
        let (least, near) = steps.find_map(find)?;
        let step = if self.ties > 0.0 { lattice_step(&scores, &near).max(least) } else { least };
        let wanted = sum - 0.5 * step;
        if wanted <= 0.0 {
            return Some(1.0);
        }
        let Saddle { s, t, log_mgf, a, determinant } = Saddle::find(&scores, m, wanted, (near.s, near.t))?;
        let w = (2.0 * (s * m + t * wanted - log_mgf - at_chance * m + n * softplus(at_chance))).max(0.0).sqrt();
        let u = 2.0 * (t * step / 2.0).sinh() / step * (determinant / (m * (n - m) / n)).sqrt();
        if w < 1e-4 || u < 1e-4 || a <= 0.0 {
            return None;
        }
        let p = libm::erfc((w + (u / w).ln() / w) / SQRT_2);
        p.is_finite().then(|| p.min(1.0))
    }

    /// Ranks with their counts from the end that a tail is at; neighbours together where many documents are farther out.
    fn in_bins(&self, from_top: bool) -> Vec<(f64, f64)> {
        let len = self.ranks.len();
        let mut bins: Vec<(f64, u64)> = Vec::new();
        let mut before = 0;
        for at in (0..len).map(|at| if from_top { len - 1 - at } else { at }) {
            let (rank, count) = (self.ranks[at], self.counts[at]);
            match bins.last_mut() {
                Some((mean, docs)) if *docs + count <= (self.n / BIN.0).min(before / BIN.1) => {
                    *mean += (rank - *mean) * count as f64 / (*docs + count) as f64;
                    *docs += count;
                }
                last => {
                    before += last.map_or(0, |(_, docs)| *docs);
                    bins.push((rank, count));
                }
            }
        }
        bins.into_iter().map(|(rank, count)| (rank, count as f64)).collect()
    }
}

/// Each document is drawn with the odds `exp(s + t * score)`, such that as many as wanted with the wanted sum are expected.
#[derive(Debug, Clone, Copy)]
struct Saddle {
    s: f64,
    t: f64,
    /// Logarithm of the moment generating function.
    log_mgf: f64,
    /// Variance of the number of documents, and determinant of its covariance with the sum.
    a: f64,
    determinant: f64,
}

fn softplus(x: f64) -> f64 {
    if x > 30.0 { x } else { x.exp().ln_1p() }
}

/// Odds of `x` as a share.
fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

impl Saddle {
    /// By Newton's method on a convex function, with steps that can grow and are halved where they lead upwards.
    fn find(scores: &[(f64, f64)], m: f64, wanted: f64, start: (f64, f64)) -> Option<Self> {
        let evaluate = |(s, t): (f64, f64)| {
            let (mut drawn, mut sum, mut log_mgf, mut a, mut b, mut c) = (-m, -wanted, 0.0, 0.0, 0.0, 0.0);
            for (score, count) in scores {
                let x = s + t * score;
                let p = logistic(x);
                let v = count * p * (1.0 - p);
                log_mgf += count * softplus(x);
                drawn += count * p;
                sum += count * p * score;
                a += v;
                b += v * score;
                c += v * score * score;
            }
            let determinant = a * c - b * b;
            let step = ((c * drawn - b * sum) / determinant, (a * sum - b * drawn) / determinant);
            (Self { s, t, log_mgf, a, determinant }, step)
        };
        let height = |at: &Self| at.log_mgf - at.s * m - at.t * wanted;
        let (mut at, mut step) = evaluate(start);
        for _ in 0..MOST_STEPS {
            let size = step.0.abs().max(step.1.abs());
            if !size.is_finite() || at.determinant <= 0.0 {
                return None;
            }
            let scale = at.s.abs().max(at.t.abs());
            if size < 1e-9 * (1.0 + scale) {
                return Some(at);
            }
            let mut share = ((2.0 + scale) / size).min(1.0);
            let rounding = 1e-12 * (at.log_mgf + (at.s * m).abs() + (at.t * wanted).abs());
            loop {
                let (next, next_step) = evaluate((at.s - share * step.0, at.t - share * step.1));
                if height(&next) <= height(&at) + rounding && next.determinant > 0.0 {
                    (at, step) = (next, next_step);
                    break;
                }
                share /= 2.0;
                if share < 1e-6 {
                    return None;
                }
            }
        }
        None
    }
}

/// Distance at which rank sums near a saddle point lie in heaps: the widest between the value that draws vary most in and
/// others they vary in, of whose multiples the rest leaves a trace in the sum's characteristic function.
fn lattice_step(scores: &[(f64, f64)], saddle: &Saddle) -> f64 {
    let mut varying: Vec<(f64, f64)> = scores
        .iter()
        .map(|(score, count)| {
            let p = logistic(saddle.s + saddle.t * score);
            (count * p * (1.0 - p), *score)
        })
        .collect();
    varying.sort_unstable_by(|x, y| y.0.total_cmp(&x.0));
    let Some(((_, common), others)) = varying.split_first() else { return 0.0 };
    let most = others.first().map_or(0.0, |(v, _)| *v);
    let mut steps: Vec<f64> =
        others.iter().take_while(|(v, _)| *v >= 0.25 * most).map(|(_, score)| (score - common).abs()).collect();
    steps.sort_unstable_by(|x, y| y.total_cmp(x));
    let leaves_trace = |step: &f64| {
        let mut lost = 0.0;
        others.iter().all(|(v, score)| {
            lost += 2.0 * v * (PI * (score - common) / step).sin().powi(2);
            lost < LOST
        })
    };
    steps.into_iter().find(leaves_trace).unwrap_or(0.0)
}

/// Law of the rank sum of few documents that do not have the commonest value, counted on a grid.
#[derive(Debug)]
struct FewSums {
    /// Documents, and those that do not have the commonest value.
    n: u64,
    others: u64,
    /// Twice the rank of the commonest value. Ranks are differences from it, doubled, in cells from `lowest` on.
    common: i64,
    cell: i64,
    lowest: i64,
    /// Most that a document is off the middle of its cell.
    error: i64,
    /// For each number of documents, probability of up to each sum, and of at least each.
    below: Vec<Vec<f64>>,
    above: Vec<Vec<f64>>,
}

impl FewSums {
    fn new(ranks: &Ranks) -> Self {
        let doubled = |rank: f64| (2.0 * rank) as i64;
        let most = ranks.counts.iter().copied().max().unwrap_or(0);
        let common =
            ranks.ranks.iter().zip(&ranks.counts).find(|(_, count)| **count == most).map_or(0.0, |(rank, _)| *rank);
        let others: Vec<(i64, u64)> = ranks
            .ranks
            .iter()
            .zip(&ranks.counts)
            .filter(|(rank, _)| **rank != common)
            .map(|(rank, count)| (doubled(*rank) - doubled(common), *count))
            .collect();
        let span = others.last().zip(others.first()).map_or(0, |(last, first)| last.0 - first.0);
        let counts: Vec<u64> = others.iter().map(|(_, count)| *count).collect();
        let (docs, cells) = grid(&counts, span as u64 + 1);
        let cell = span / cells as i64 + 1;
        let mut bins: BTreeMap<i64, u64> = BTreeMap::new();
        let mut error = 0;
        for (rank, count) in &others {
            let bin = (rank + cell / 2).div_euclid(cell);
            error = error.max((rank - bin * cell).abs());
            *bins.entry(bin).or_default() += count;
        }
        let lowest = bins.keys().next().copied().unwrap_or(0);
        let ways = ways_of(&bins, docs as usize);
        let above = ways.iter().map(|ways| cumulated(ways.clone(), true)).collect();
        let below = ways.into_iter().map(|ways| cumulated(ways, false)).collect();
        Self { n: ranks.n, others: ranks.n - most, common: doubled(common), cell, lowest, error, below, above }
    }

    /// Two-sided p of a rank sum of `with` documents, with what it can be more if too many of them do not have the commonest
    /// value.
    fn p(&self, rank_sum: f64, with: u64) -> (f64, f64) {
        let wanted = (2.0 * rank_sum) as i64 - with as i64 * self.common;
        let is_above = 2.0 * rank_sum >= with as f64 * (self.n + 1) as f64;
        let most = (self.above.len() as u64 - 1).min(with).min(self.others);
        let tail = ((self.others + with).saturating_sub(self.n)..=most).map(|drawn| {
            let (first, off) = (drawn as i64 * self.lowest, drawn as i64 * self.error);
            let share = if is_above {
                let at = -(off - wanted).div_euclid(self.cell) - first;
                self.above[drawn as usize].get(at.max(0) as usize).copied().unwrap_or(0.0)
            } else {
                let at = (wanted + off).div_euclid(self.cell) - first;
                let law = &self.below[drawn as usize];
                usize::try_from(at).map_or(0.0, |at| law[at.min(law.len() - 1)])
            };
            hypergeometric(drawn, with, self.others, self.n) * share
        });
        let more = if with.min(self.others) > most { fisher_greater(most + 1, with, self.others, self.n) } else { 0.0 };
        (2.0 * tail.sum::<f64>(), 2.0 * more)
    }
}

/// How many documents to count rank sums of, and on how many cells.
fn grid(counts: &[u64], span: u64) -> (u64, u64) {
    let cells = |docs: u64| {
        // Additions for one value that `count` documents have, and one cell.
        let work = |count: u64| (1..=count.min(docs)).map(|j| (docs - j) * (docs - j + 1) / 2).sum::<u64>().max(1);
        let all: u64 = counts.iter().map(|count| work(*count)).sum();
        let most = (MOST_ADDITIONS / all.max(1)).max((MOST_ADDITIONS / work(docs)).isqrt());
        most.min(2 * MOST_NUMBERS / (docs * docs)).min(span)
    };
    // Where few documents have other values, all of them may be counted, if that needs no coarser grid.
    let others: u64 = counts.iter().sum();
    if (COUNTED.1..=2 * COUNTED.1).contains(&others) && cells(others) == span {
        return (others, span);
    }
    let docs = (COUNTED.0..=COUNTED.1).rev().find(|docs| cells(*docs) >= ENOUGH_CELLS.min(span)).unwrap_or(COUNTED.0);
    (docs, cells(docs).max(1))
}

/// `ways[drawn][sum]` of up to `most` documents drawn without replacement; `counts` of them are in each bin, the lowest of
/// which counts as 0.
fn ways_of(counts: &BTreeMap<i64, u64>, most: usize) -> Vec<Vec<f64>> {
    let (lowest, highest) = (counts.keys().next().copied().unwrap_or(0), counts.keys().last().copied().unwrap_or(0));
    let mut ways: Vec<Vec<f64>> = (0..=most).map(|drawn| vec![0.0; drawn * (highest - lowest) as usize + 1]).collect();
    ways[0][0] = 1.0;
    for (bin, count) in counts {
        let (bin, count) = ((bin - lowest) as usize, *count as usize);
        for drawn in (1..=most).rev() {
            let (fewer, rest) = ways.split_at_mut(drawn);
            let mut choices = 1.0;
            for j in 1..=drawn.min(count) {
                choices *= (count + 1 - j) as f64 / j as f64;
                for (to, from) in rest[0][j * bin..].iter_mut().zip(&fewer[drawn - j]) {
                    *to += choices * from;
                }
            }
        }
    }
    ways
}

/// Shares of `ways` up to each place, or from it on.
fn cumulated(mut ways: Vec<f64>, from_top: bool) -> Vec<f64> {
    let total: f64 = ways.iter().sum();
    let mut sum = 0.0;
    let mut add = |ways: &mut f64| {
        sum += *ways;
        *ways = if total > 0.0 { sum / total } else { 0.0 };
    };
    if from_top {
        ways.iter_mut().rev().for_each(&mut add)
    } else {
        ways.iter_mut().for_each(&mut add)
    }
    ways
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
/// If all values differ, p is exact for at most eight documents on a side, normal without correction for continuity for
/// more, and below 0.01 exact again or by a saddle point; among ties as [`Ranks::p`] has it. The interval of the
/// correlation is Fisher's with the variance of Bonett and Wright (2000). Significant rows come first, then the larger
/// correlation, whatever its sign.
pub fn trends(counts: &TrendCounts, ranks: &Ranks, ids: &[FeatureId], min_docs: u64, z: f64) -> Vec<TrendRow> {
    let n = counts.n_docs;
    let mut exact: HashMap<u64, Option<Vec<f64>>> = HashMap::new();
    let few = OnceCell::new();
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
        let is_tail = libm::erfc(score.abs() / SQRT_2) < DOUBTFUL[0];
        let law = if ranks.ties == 0.0 && fewer > 0 && (fewer <= EXACT_DOCS || is_tail) {
            exact.entry(fewer).or_insert_with(|| u_law(fewer, n - fewer)).as_deref()
        } else {
            None
        };
        let p_value = match law {
            // The distribution is symmetric, so it does not matter which side is the smaller one.
            Some(below) => (2.0 * below[(u.min((docs * without) as f64 - u)) as usize]).min(1.0),
            None => {
                let (sum, fewer) =
                    if docs <= without { (rank_sum, docs) } else { ((n * (n + 1)) as f64 / 2.0 - rank_sum, without) };
                ranks.p(&few, sum, fewer)
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
    rows.sort_by_key(|row| rank(row.q_value, row.ci, row.p_value, row.feature_id));
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
                    let ratio = ranks.p(&OnceCell::new(), sum, m) / exact;
                    // Counted for few, elsewhere within 40 %; never too small.
                    let most = if m <= COUNTED.1 { 1.001 } else { 1.45 };
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

    /// `ways[drawn][2 * sum]` of up to `most` documents drawn without replacement.
    fn all_ways(ranks: &Ranks, most: usize) -> Vec<Vec<f64>> {
        let width = 2 * ranks.n as usize;
        let mut ways: Vec<Vec<f64>> = (0..=most).map(|drawn| vec![0.0; drawn * width + 1]).collect();
        ways[0][0] = 1.0;
        for (rank, count) in ranks.ranks.iter().zip(&ranks.counts) {
            let rank = (2.0 * rank) as usize;
            for drawn in (1..=most).rev() {
                let (fewer, rest) = ways.split_at_mut(drawn);
                let mut choices = 1.0;
                for j in 1..=drawn.min(*count as usize) {
                    choices *= (*count as usize + 1 - j) as f64 / j as f64;
                    for (to, from) in rest[0][j * rank..].iter_mut().zip(&fewer[drawn - j]) {
                        *to += choices * from;
                    }
                }
            }
        }
        ways
    }

    fn shapes(n: usize) -> Vec<(&'static str, Vec<usize>)> {
        let part = |shares: &[f64]| -> Vec<usize> { shares.iter().map(|share| (share * n as f64) as usize).collect() };
        let ones = |count: usize| vec![1; count];
        let join = |parts: Vec<Vec<usize>>| parts.concat();
        let few = n / 50;
        let mut zipf: Vec<usize> =
            (1..40).map(|i| (n as f64 * 0.3 / (i as f64).powf(1.7)) as usize).filter(|c| *c > 0).collect();
        zipf.insert(0, n - zipf.iter().sum::<usize>());
        vec![
            ("ratings", part(&[0.1, 0.15, 0.2, 0.3, 0.25])),
            ("lopsided ratings", part(&[0.04, 0.03, 0.05, 0.08, 0.8])),
            ("two values", part(&[0.95, 0.05])),
            ("half and half", part(&[0.5, 0.5])),
            ("mostly one", join(vec![part(&[0.93]), ones(n / 14)])),
            ("mostly one, within", join(vec![ones(n / 28), part(&[0.92]), ones(n / 28)])),
            ("half tied", join(vec![part(&[0.5]), ones(n / 2)])),
            ("half tied, within", join(vec![ones(n / 4), part(&[0.5]), ones(n / 4)])),
            ("pairs", vec![2; n / 2]),
            ("one tie", join(vec![vec![3], ones(n - 3)])),
            ("counts from zero", part(&[0.7, 0.12, 0.08, 0.05, 0.03, 0.02])),
            ("long tail", zipf),
            ("untied among heavy", join(vec![part(&[0.48]), ones(few), part(&[0.47]), ones(few / 2 + 1)])),
            ("few untied at the end", join(vec![part(&[0.3, 0.3, 0.35]), ones(few)])),
            ("few untied among ratings", join(vec![part(&[0.2]), ones(3), part(&[0.3]), ones(2), part(&[0.25, 0.2])])),
            ("decimals", (0..n / 10).flat_map(|i| [1, 7 + i % 3, 2]).collect()),
            ("all different", ones(n)),
        ]
    }

    /// Smallest and largest ratio of p to the exact one, for tails from 0.1 to `least` of sums of up to `most` of `n` values
    /// with ties of many shapes: the first sums below each power of ten.
    fn ratios(n: usize, most: usize, least: f64) -> (f64, f64) {
        let mut all = (f64::INFINITY, 0.0_f64);
        for (name, counts) in shapes(n) {
            let values = counts.iter().zip(1..).flat_map(|(count, value)| vec![f64::from(value); *count]).collect();
            let ranks = Ranks::new(values);
            let few = OnceCell::new();
            let ways = all_ways(&ranks, most.min(ranks.n as usize / 2));
            let mut own = (f64::INFINITY, 0.0_f64, String::new(), String::new());
            for (m, from_top) in
                [3, 5, 8, 9, 12, 20, 30, 33, 50, 70, 100].into_iter().flat_map(|m| [(m, false), (m, true)])
            {
                let Some(ways) = ways.get(m).filter(|_| ranks.ties > 0.0 || m as u64 > EXACT_DOCS) else { continue };
                let total: f64 = ways.iter().sum();
                let (mut beyond, mut level, mut after) = (0.0, 0.1, 0);
                let tails: Vec<(f64, f64)> = (0..ways.len())
                    .map(|at| if from_top { ways.len() - 1 - at } else { at })
                    .filter(|at| ways[*at] > 0.0)
                    .map(|at| {
                        beyond += ways[at];
                        (at as f64 / 2.0, 2.0 * beyond / total)
                    })
                    .collect();
                for (sum, exact) in tails.into_iter().rev().filter(|(_, exact)| (least..0.1).contains(exact)) {
                    if exact < level {
                        level = 10.0f64.powf(exact.log10().floor());
                        after = 4;
                    }
                    if after > 0 {
                        after -= 1;
                        let ratio = ranks.p(&few, sum, m as u64) / exact;
                        let what = || format!("{m} {} p {exact:.1e}", if from_top { "top" } else { "bottom" });
                        if ratio < own.0 {
                            (own.0, own.2) = (ratio, what());
                        }
                        if ratio > own.1 {
                            (own.1, own.3) = (ratio, what());
                        }
                    }
                }
            }
            println!("{:5} {name:26} {:7.3} ({}) {:7.3} ({})", ranks.n, own.0, own.2, own.1, own.3);
            all = (all.0.min(own.0), all.1.max(own.1));
        }
        all
    }

    #[test]
    fn p_is_near_counting_for_ties_of_many_shapes() {
        for (n, most) in [(50, 25), (150, 50)] {
            let (smallest, largest) = ratios(n, most, 1e-7);
            assert!(smallest > 0.9 && largest < 4.1, "{n}: {smallest} {largest}");
        }
    }

    #[test]
    #[ignore = "takes a minute; prints the worst ratios of each shape"]
    fn p_is_near_counting_over_the_whole_grid() {
        for (least, bounds) in [(1e-7, (0.9, 3.3)), (1e-12, (0.75, 20.0))] {
            for (n, most) in [(50, 25), (100, 50), (200, 100), (500, 100), (1000, 50), (2000, 12)] {
                let (smallest, largest) = ratios(n, most, least);
                println!("{n} documents, down to {least:e}: {smallest} to {largest}");
                assert!(smallest > bounds.0 && largest < bounds.1, "{n}, {least:e}: {smallest} {largest}");
            }
        }
    }

    /// The row of a feature of the documents at these places of ascending values.
    fn row_of(values: &[f64], has: impl Fn(usize) -> bool) -> TrendRow {
        row(&values.iter().enumerate().map(|(at, value)| (*value, has(at))).collect::<Vec<_>>())
    }

    #[test]
    fn p_at_the_edge_is_as_small_as_it_is() {
        let near = |got: f64, exact: f64| assert!(got > 0.8 * exact && got < 2.0 * exact, "{got:e} for {exact:e}");
        let one_tie: Vec<f64> = (0..500).map(|row| f64::from(i32::max(row, 1))).collect();
        let pairs: Vec<f64> = (0..500).map(|row| f64::from(row / 2)).collect();
        // Two over the ways to choose 5, 6, 40 or 60 documents.
        near(row_of(&one_tie, |at| at >= 495).p_value, 7.838e-12);
        near(row_of(&pairs, |at| at >= 494).p_value, 9.499e-14);
        near(row_of(&one_tie, |at| at >= 460).p_value, 8.912e-60);
        near(row_of(&pairs, |at| at < 60).p_value, 7.679e-79);
        // Values that all differ: `mannwhitneyu(method="exact")`.
        let different: Vec<f64> = (0..100).map(f64::from).collect();
        near(row_of(&different, |at| at % 10 == 9 && at >= 50 || (95..99).contains(&at) || at == 3).p_value, 4.859e-04);
        near(row_of(&different, |at| at >= 90).p_value, 1.155e-13);
        let edge: Vec<f64> = (0..5000).map(f64::from).collect();
        near(row_of(&edge, |at| at >= 4970).p_value, 6.215e-79);
    }

    #[test]
    fn p_at_the_edge_has_no_floor() {
        let ln_choose = |n: usize, k: usize| (1..=k).map(|i| ((n - k + i) as f64 / i as f64).ln()).sum::<f64>();
        let shapes = [
            vec![1000, 500, 1000, 1250, 1250],
            vec![4900, 60, 40],
            [vec![2400], vec![1; 100], vec![2500]].concat(),
            [vec![1; 2500], vec![2500]].concat(),
            [vec![2500], vec![1; 2500]].concat(),
        ];
        for shape in shapes {
            let values: Vec<f64> =
                shape.iter().zip(1..).flat_map(|(count, value)| vec![f64::from(value); *count]).collect();
            for m in [5, 33, 40, 100, 210] {
                let last = values[values.len() - m];
                let count = |keep: &dyn Fn(f64) -> bool| values.iter().filter(|value| keep(**value)).count();
                let ways = ln_choose(count(&|value| value == last), m - count(&|value| value > last));
                let exact = 2.0f64.ln() + ways - ln_choose(values.len(), m);
                let got = row_of(&values, |at| at >= values.len() - m).p_value.ln();
                // Among thousands of values the grid is coarse.
                assert!(exact < -700.0 || got > exact - 0.6 && got < exact + 8.0, "{m} {shape:?}: {got} {exact}");
            }
        }
    }
}
