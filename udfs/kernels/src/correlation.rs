//! Which pairs of features are together more (or less) often than chance, from their counts.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use rayon::prelude::*;

use crate::FeatureId;
use crate::background::Background;
use crate::cancellation::Cancellation;
use crate::cooccurrence::PairCounts;
use crate::statistics::{
    EXACT_BELOW, benjamini_hochberg, binomial_greater, binomial_less, fisher_greater, fisher_less, fisher_of_mean,
    fisher_two_sided, log_likelihood_ratio, log_likelihood_ratio_of, npmi,
};

/// How many of the smallest p values are kept for the false discovery rate: twice the rows that are returned, within these
/// bounds. With more tests than that the q values of the pairs beyond are upper bounds.
const KEPT_P: (usize, usize) = (1 << 17, 1 << 20);

/// Counts of pairs for which it is known in advance when they can be passed over.
const SMALL_COUNTS: usize = 16;

/// Factorials whose logarithms are looked up; those of larger numbers are computed.
const LN_FACTORIALS: usize = 1 << 22;

/// G² whose p is below about 0.0001.
const FAR_TAIL_LLR: f64 = 14.0;

/// Which associations are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Together more often than chance; p is one-sided.
    Positive,
    /// Together less often than chance; p is one-sided.
    Negative,
    /// Either; p is two-sided.
    Both,
}

impl Direction {
    /// How far a normalised pointwise mutual information lies in the direction.
    fn closeness(self, npmi: f64) -> f64 {
        match self {
            Self::Positive => npmi,
            Self::Negative => -npmi,
            Self::Both => npmi.abs(),
        }
    }
}

/// Two features and how they are associated.
#[derive(Debug, Clone, PartialEq)]
pub struct PairRow {
    /// The features: the smaller id first, or those of the two sets.
    pub features: (FeatureId, FeatureId),
    /// Documents that have both.
    pub docs_both: u64,
    /// Documents that have the first, and the second.
    pub docs: (u64, u64),
    /// Documents in all.
    pub n: u64,
    /// Documents that would have both if the features were independent (within strata, if there are any).
    pub expected: f64,
    /// Log-likelihood ratio G² of what is and what is expected.
    pub llr: f64,
    /// p by Fisher's exact test: of independence, or of what is expected within strata or by a lift; there a binomial bound where
    /// few are expected.
    pub p_value: f64,
    /// Benjamini-Hochberg q over all pairs with enough documents.
    pub q_value: f64,
}

impl PairRow {
    /// Normalised pointwise mutual information.
    pub fn npmi(&self) -> f64 {
        npmi(self.docs_both, self.docs.0, self.docs.1, self.n)
    }

    /// Whether they are together more often than expected.
    pub fn is_more(&self) -> bool {
        self.docs_both as f64 > self.expected
    }

    /// Share of the documents with the second feature that have the first.
    pub fn p_a_given_b(&self) -> f64 {
        self.docs_both as f64 / self.docs.1 as f64
    }

    /// Share of the documents with the first feature that have the second.
    pub fn p_b_given_a(&self) -> f64 {
        self.docs_both as f64 / self.docs.0 as f64
    }
}

/// What the best pairs are best by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RankBy {
    /// G², which grows with the number of documents: what is surest.
    #[default]
    Llr,
    /// Normalised pointwise mutual information, which does not: what is closest.
    Npmi,
}

impl RankBy {
    fn key(self, direction: Direction, row: &PairRow) -> f64 {
        match self {
            Self::Llr => row.llr,
            Self::Npmi => direction.closeness(row.npmi()),
        }
    }
}

/// A pair among the best; the greater one is better: larger key, then smaller ids.
#[derive(Debug, PartialEq)]
struct Best {
    key: f64,
    row: PairRow,
}

impl Eq for Best {}

impl PartialOrd for Best {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Best {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.total_cmp(&other.key).then_with(|| other.row.features.cmp(&self.row.features))
    }
}

/// Smallest number of documents with a feature for its pairs to be tested, if the user gives none: 0.25 % of the
/// documents, but at least 5 (or a twentieth of the documents if there are fewer than 100). A feature fires in a quarter
/// to a half of the documents that say once what it stands for: what is in 1 % of them has features in so few.
pub fn default_min_docs(n_docs: u64) -> u64 {
    crate::diff::default_min_docs(n_docs).max(n_docs / 400)
}

/// The pairs of a block of counts that are tested.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// In how many documents they are.
    pub counts: &'a PairCounts,
    /// `features[position]` is the id.
    pub features: &'a [FeatureId],
    /// Where given, positions from there on are features of other documents (those paired with the first ones), and only
    /// pairs of one before and one after it are tested.
    pub split: Option<usize>,
    /// What is expected of pairs; independence over all documents if not given.
    pub background: Option<&'a Background>,
    /// Pairs must be together so many times as often as expected (or as seldom); 1 tests independence.
    pub min_lift: f64,
}

/// The best pairs so far. Blocks of counts are scanned one after the other.
#[derive(Debug)]
pub struct Ranking {
    direction: Direction,
    by: RankBy,
    limit: usize,
    min_both: u64,
    kept_p: usize,
    screen: Option<Screen>,
    found: Found,
}

#[derive(Debug)]
struct Found {
    best: BinaryHeap<Reverse<Best>>,
    p_values: Vec<f64>,
    n_tests: u64,
    /// Larger p values are not among the smallest.
    p_bound: f64,
    /// Its logarithm.
    ln_p_bound: f64,
    /// Smaller keys are not among the best.
    key_bound: f64,
}

impl Default for Found {
    fn default() -> Self {
        Self {
            best: BinaryHeap::new(),
            p_values: Vec::new(),
            n_tests: 0,
            p_bound: f64::INFINITY,
            ln_p_bound: f64::INFINITY,
            key_bound: f64::NEG_INFINITY,
        }
    }
}

impl Found {
    /// Nothing yet, of what can still be among the best.
    fn after(&self) -> Self {
        let Self { p_bound, ln_p_bound, key_bound, .. } = *self;
        Self { p_bound, ln_p_bound, key_bound, ..Self::default() }
    }

    fn offer(&mut self, best: Best, limit: usize) {
        self.best.push(Reverse(best));
        if self.best.len() > limit {
            self.best.pop();
        }
        if self.best.len() == limit
            && let Some(Reverse(least)) = self.best.peek()
        {
            self.key_bound = self.key_bound.max(least.key);
        }
    }

    fn keep_p(&mut self, p: f64, kept: usize) {
        self.p_values.push(p);
        if self.p_values.len() >= 2 * kept {
            self.trim(kept);
        }
    }

    fn trim(&mut self, kept: usize) {
        if self.p_values.len() > kept {
            let (_, largest, _) = self.p_values.select_nth_unstable_by(kept - 1, f64::total_cmp);
            let largest = *largest;
            self.bound_p(largest);
            self.p_values.truncate(kept);
        }
    }

    fn bound_p(&mut self, largest: f64) {
        if largest < self.p_bound {
            (self.p_bound, self.ln_p_bound) = (largest, largest.ln());
        }
    }

    fn merge(mut self, other: Self, limit: usize, kept: usize) -> Self {
        for Reverse(best) in other.best {
            self.offer(best, limit);
        }
        self.p_values.extend(other.p_values);
        self.bound_p(other.p_bound);
        self.key_bound = self.key_bound.max(other.key_bound);
        if self.p_values.len() >= 2 * kept {
            self.trim(kept);
        }
        self.n_tests += other.n_tests;
        self
    }
}

/// Bounds of what a pair's numbers can be, which take four look-ups where the numbers themselves take hundreds of
/// operations. Of 134 million pairs 131 million need no more.
///
/// The probability of a table with given margins (hypergeometric) is no more than any p of it by Fisher's test, and
/// `exp(-G²/2) sqrt(8 n)` is no less (both from Stirling's bounds of binomial coefficients).
#[derive(Debug)]
struct Screen {
    ln_factorials: Vec<f64>,
    n: u64,
    ln_8n: f64,
}

impl Screen {
    fn new(n: u64) -> Self {
        let mut sum = 0.0;
        let ln_factorial = |k: usize| {
            sum += if k > 1 { (k as f64).ln() } else { 0.0 };
            sum
        };
        let ln_factorials = (0..LN_FACTORIALS.min(n as usize + 1)).map(ln_factorial).collect();
        Self { ln_factorials, n, ln_8n: (8.0 * n as f64).ln() }
    }

    fn ln_factorial(&self, k: u64) -> f64 {
        self.ln_factorials.get(k as usize).copied().unwrap_or_else(|| {
            let k = k as f64;
            (k + 0.5) * k.ln() - k + 0.5 * std::f64::consts::TAU.ln() + 1.0 / (12.0 * k)
        })
    }

    /// What a margin adds to the logarithm of a table's probability.
    fn margin(&self, docs: u64) -> f64 {
        self.ln_factorial(docs) + self.ln_factorial(self.n - docs)
    }

    /// Logarithm of a table's probability; `margins` is the sum of both.
    fn ln_probability(&self, both: u64, docs: (u64, u64), margins: f64) -> f64 {
        margins
            - self.ln_factorial(self.n)
            - self.ln_factorial(both)
            - self.ln_factorial(docs.0 - both)
            - self.ln_factorial(docs.1 - both)
            - self.ln_factorial(self.n + both - docs.0 - docs.1)
    }
}

impl Screen {
    /// Sum of the probabilities of a table and of those more extreme in the same direction, over its own; up to `terms` of
    /// them, or as far as they matter.
    fn tail(&self, both: u64, docs: (u64, u64), terms: usize) -> f64 {
        let (a, b, n) = (docs.0 as f64, docs.1 as f64, self.n as f64);
        let up = |x: f64| (a - x) * (b - x) / ((x + 1.0) * (n + x + 1.0 - a - b));
        let (mut x, mut term, mut sum) = (both as f64, 1.0, 1.0);
        let more = x * n > a * b;
        let (low, high) = ((a + b - n).max(0.0), a.min(b));
        for _ in 1..terms {
            if term < sum * 1e-10 || x == if more { high } else { low } {
                break;
            }
            term *= if more { up(x) } else { 1.0 / up(x - 1.0) };
            x += if more { 1.0 } else { -1.0 };
            sum += term;
        }
        sum
    }

    /// Logarithm of what p by Fisher's test is at least, from that of the table's probability: the table and the three next
    /// ones more extreme.
    fn ln_p_at_least(&self, ln_probability: f64, both: u64, docs: (u64, u64)) -> f64 {
        ln_probability + self.tail(both, docs, 4).ln()
    }
}

impl Ranking {
    /// For the `limit` best pairs of those that are together in at least `min_both` documents.
    pub fn new(direction: Direction, by: RankBy, limit: usize, min_both: u64) -> Self {
        let kept_p = limit.saturating_mul(2).clamp(KEPT_P.0, KEPT_P.1);
        Self { direction, by, limit, min_both, kept_p, screen: None, found: Found::default() }
    }

    /// Memory that a ranking of at most `n_pairs` pairs of `n_docs` documents takes: each thread keeps its own rows and p
    /// values.
    pub fn bytes(limit: usize, n_pairs: usize, n_docs: usize) -> usize {
        let parts = rayon::current_num_threads() + 1;
        let kept = |most: usize| most.saturating_mul(parts).min(n_pairs.saturating_mul(2));
        kept(limit) * size_of::<Best>()
            + kept(2 * limit.saturating_mul(2).clamp(KEPT_P.0, KEPT_P.1)) * size_of::<f64>()
            + LN_FACTORIALS.min(n_docs + 1) * size_of::<f64>()
    }

    /// Tests all pairs of a block. Pairs that `keep` refuses are tested but not ranked; it is asked only about pairs that
    /// would be among the best.
    pub fn scan(
        &mut self,
        block: Block,
        cancellation: &Cancellation,
        keep: impl Fn(FeatureId, FeatureId) -> bool + Sync,
    ) {
        let (n, docs) = (block.counts.n_docs(), block.counts.docs());
        if self.screen.as_ref().is_none_or(|screen| screen.n != n) {
            self.screen = Some(Screen::new(n));
        }
        let plain = block.background.is_none() && block.min_lift == 1.0;
        let screen = self.screen.as_ref().filter(|_| plain);
        let margins: Vec<f64> =
            screen.iter().flat_map(|screen| docs.iter().map(|docs| screen.margin(u64::from(*docs)))).collect();
        // Rows of the triangle get shorter: every thread takes its share of the long ones.
        let n_parts = rayon::current_num_threads();
        let found = (0..n_parts)
            .into_par_iter()
            .map(|part| {
                let mut found = self.found.after();
                for (a, row) in block.counts.rows().skip(part).step_by(n_parts) {
                    if block.split.is_some_and(|split| a >= split) || cancellation.is_cancelled() {
                        break;
                    }
                    let first = block.split.unwrap_or(0).max(a + 1);
                    let row = &row[first - a - 1..];
                    found.n_tests += row.len() as u64;
                    let docs_a = u64::from(docs[a]);
                    let limits =
                        screen.map(|screen| self.limits(&found, screen, docs_a)).unwrap_or([u32::MAX; SMALL_COUNTS]);
                    for (b, both) in (first..).zip(row) {
                        if let Some(screen) = screen {
                            if limits.get(*both as usize).is_some_and(|limit| docs[b] >= *limit) {
                                continue;
                            }
                            let (both, docs) = (u64::from(*both), (docs_a, u64::from(docs[b])));
                            if !self.is_wanted(screen.n, both, docs)
                                || self.passes_over(&mut found, screen, both, docs, margins[a] + margins[b])
                            {
                                continue;
                            }
                        }
                        let both = u64::from(*both);
                        self.test(&mut found, block, (a, b), both, &keep);
                    }
                }
                found
            })
            .reduce(Found::default, |x, y| x.merge(y, self.limit, self.kept_p));
        self.found = std::mem::take(&mut self.found).merge(found, self.limit, self.kept_p);
    }

    /// Whether a pair is associated in the direction that is looked for.
    fn is_wanted(&self, n: u64, both: u64, docs: (u64, u64)) -> bool {
        let (seen, expected) = (both * n, docs.0 * docs.1);
        match self.direction {
            Direction::Positive => seen > expected,
            Direction::Negative => seen < expected,
            Direction::Both => true,
        }
    }

    /// Whether a pair can be among the best; `ln_p` is the logarithm of its table's probability.
    fn can_be_best(&self, found: &Found, screen: &Screen, ln_p: f64, both: u64, docs: (u64, u64)) -> bool {
        self.limit > 0
            && both >= self.min_both
            && match self.by {
                RankBy::Llr => screen.ln_8n - 2.0 * ln_p >= found.key_bound,
                RankBy::Npmi => self.direction.closeness(npmi(both, docs.0, docs.1, screen.n)) >= found.key_bound,
            }
    }

    /// Whether a pair's p can be among the smallest.
    fn can_be_kept(&self, found: &Found, screen: &Screen, ln_p: f64, both: u64, docs: (u64, u64)) -> bool {
        ln_p <= found.ln_p_bound && screen.ln_p_at_least(ln_p, both, docs) <= found.ln_p_bound
    }

    /// For a feature in `docs_a` documents and each small count, how many documents another must have for their pair to be
    /// passed over: with as many in common it is the less remarkable the more there are.
    fn limits(&self, found: &Found, screen: &Screen, docs_a: u64) -> [u32; SMALL_COUNTS] {
        if self.direction != Direction::Positive {
            return [u32::MAX; SMALL_COUNTS];
        }
        let own = screen.margin(docs_a);
        std::array::from_fn(|both| {
            let both = both as u64;
            let (mut low, mut high) = (both, (both * screen.n).div_ceil(docs_a.max(1)).min(screen.n));
            while low < high && found.p_bound < f64::INFINITY {
                let middle = low + (high - low) / 2;
                let docs = (docs_a, middle);
                // More features than documents leave room for: there is no such pair.
                let matters = docs_a + middle - both > screen.n || both > docs_a || {
                    let ln_p = screen.ln_probability(both, docs, own + screen.margin(middle));
                    self.can_be_best(found, screen, ln_p, both, docs)
                        || self.can_be_kept(found, screen, ln_p, both, docs)
                };
                if matters { low = middle + 1 } else { high = middle }
            }
            high as u32
        })
    }

    /// Keeps the p of a pair that cannot be among the best; false if more must be known of the pair.
    fn passes_over(&self, found: &mut Found, screen: &Screen, both: u64, docs: (u64, u64), margins: f64) -> bool {
        if found.p_bound == f64::INFINITY {
            return false;
        }
        let ln_p = screen.ln_probability(both, docs, margins);
        if self.can_be_best(found, screen, ln_p, both, docs) {
            return false;
        }
        if !self.can_be_kept(found, screen, ln_p, both, docs) {
            return true;
        }
        if self.direction == Direction::Both {
            return false;
        }
        let p = ln_p.exp() * screen.tail(both, docs, usize::MAX);
        if p <= found.p_bound {
            found.keep_p(p, self.kept_p);
        }
        true
    }

    fn test(
        &self,
        found: &mut Found,
        block: Block,
        (a, b): (usize, usize),
        docs_both: u64,
        keep: impl Fn(FeatureId, FeatureId) -> bool,
    ) {
        let (n, docs) = (block.counts.n_docs(), block.counts.docs());
        let docs = (u64::from(docs[a]), u64::from(docs[b]));
        let expected = match block.background {
            Some(background) => background.expected(a, b),
            None => docs.0 as f64 * docs.1 as f64 / n.max(1) as f64,
        };
        // The null hypothesis that is nearest to what is seen.
        let more = docs_both as f64 > expected;
        let most = docs.0.min(docs.1) as f64;
        let null = if more { (expected * block.min_lift).min(most) } else { expected / block.min_lift };
        // Sums over strata are not exact.
        let above = docs_both as f64 > null * (1.0 + 1e-9);
        let below = (docs_both as f64) < null * (1.0 - 1e-9);
        let wanted = match self.direction {
            Direction::Positive => more && above,
            Direction::Negative => !more && below,
            Direction::Both => block.min_lift == 1.0 || if more { above } else { below },
        };
        if !wanted {
            // Its one-sided p is about a half or more: it bears on no q below one half.
            return;
        }
        let (llr, p_value) = if block.background.is_none() && block.min_lift == 1.0 {
            let llr = log_likelihood_ratio(docs_both, docs.0, docs.1, n);
            (llr, p_value(self.direction, docs_both, docs, n))
        } else {
            let llr = log_likelihood_ratio_of(docs_both, null, docs.0, docs.1, n);
            (llr, p_value_of(self.direction, llr, docs_both, null, docs, n))
        };
        if p_value <= found.p_bound {
            found.keep_p(p_value, self.kept_p);
        }
        if self.limit == 0 || docs_both < self.min_both {
            return;
        }
        let features = (block.features[a], block.features[b]);
        let row = PairRow { features, docs_both, docs, n, expected, llr, p_value, q_value: 1.0 };
        let best = Best { key: self.by.key(self.direction, &row), row };
        let full = found.best.len() >= self.limit;
        if best.key >= found.key_bound
            && !(full && found.best.peek().is_some_and(|Reverse(least)| best < *least))
            && keep(features.0, features.1)
        {
            found.offer(best, self.limit);
        }
    }

    /// The best pairs, best first, with their q values.
    pub fn finish(mut self) -> Vec<PairRow> {
        self.found.trim(self.kept_p);
        let Found { best, mut p_values, n_tests, .. } = self.found;
        p_values.par_sort_unstable_by(f64::total_cmp);
        let q_values = benjamini_hochberg(&p_values, n_tests);
        let mut best: Vec<Best> = best.into_iter().map(|Reverse(best)| best).collect();
        best.par_sort_unstable_by(|x, y| y.cmp(x));
        let mut rows: Vec<PairRow> = best.into_iter().map(|best| best.row).collect();
        for row in &mut rows {
            // Sums of logarithms are not exact to the last digit.
            let rank = p_values.partition_point(|p| *p < row.p_value * (1.0 - 1e-6));
            row.q_value = match q_values.get(rank) {
                Some(q) => *q,
                None => (row.p_value * n_tests as f64 / (rank + 1) as f64).min(1.0),
            };
        }
        rows
    }
}

fn p_value(direction: Direction, both: u64, (docs_a, docs_b): (u64, u64), n: u64) -> f64 {
    match direction {
        Direction::Positive => fisher_greater(both, docs_a, docs_b, n),
        Direction::Negative => fisher_less(both, docs_a, docs_b, n),
        Direction::Both => fisher_two_sided(both, docs_a, docs_b, n),
    }
}

/// Smallest expected count of a cell with which p is by Fisher's test. Where the cell holds fewer documents than expected, or
/// far out in the tail, the binomial bound is kept to for longer.
fn least_expected(llr: f64, is_low: bool) -> f64 {
    if is_low {
        EXACT_BELOW
    } else if llr > FAR_TAIL_LLR {
        20.0
    } else {
        5.0
    }
}

/// The four cells: count, mean if `expected` documents have both, the most it can be, and whether it is large if the
/// features come together often.
fn cells(both: u64, expected: f64, (docs_a, docs_b): (u64, u64), n: u64) -> [(u64, f64, u64, bool); 4] {
    [
        (both, expected, docs_a.min(docs_b), true),
        (docs_a - both, docs_a as f64 - expected, docs_a.min(n - docs_b), false),
        (docs_b - both, docs_b as f64 - expected, docs_b.min(n - docs_a), false),
        (n + both - docs_a - docs_b, n as f64 + expected - docs_a as f64 - docs_b as f64, n - docs_a.max(docs_b), true),
    ]
}

fn smallest(cells: [(u64, f64, u64, bool); 4]) -> (u64, f64, u64, bool) {
    cells.into_iter().min_by(|x, y| x.1.total_cmp(&y.1)).unwrap_or(cells[0])
}

/// p where `expected` documents have both at most (or at least): by Fisher's test of that expectation, or by the binomial
/// tail of the smallest cell if so few are expected there. Where the expectation is known the latter is an upper bound, and the
/// former as a rule too large; one that was chosen among several groupings is too small, which works the other way. The count
/// of a cell is a sum of hypergeometric ones, central or not, hence of independent yes-or-nos (Vatutin and Mikhailov 1982),
/// whose tails a binomial of the same mean exceeds (Hoeffding 1956). It varies no more than the count of one table of all
/// strata does, because the variance, about `1 / sum(1 / cell)`, is concave in the cells.
fn p_value_of(direction: Direction, llr: f64, both: u64, expected: f64, (docs_a, docs_b): (u64, u64), n: u64) -> f64 {
    let more = both as f64 > expected;
    let (count, mean, most, with) = smallest(cells(both, expected, (docs_a, docs_b), n));
    let one_sided = if mean >= least_expected(llr, (count as f64) < mean) {
        fisher_of_mean(both, expected, docs_a, docs_b, n, more)
    } else if more == with {
        binomial_greater(count, most, mean)
    } else {
        binomial_less(count, most, mean)
    };
    match direction {
        Direction::Both => (2.0 * one_sided).min(1.0),
        Direction::Positive | Direction::Negative => one_sided,
    }
}

#[cfg(test)]
mod tests;
