//! Exact and asymptotic statistics of counts: tests, intervals, effect sizes, false discovery rate.
//!
//! Probabilities are computed by Loader's saddle-point expansion (Loader 2000, "Fast and accurate computation of
//! binomial probabilities"), which keeps full precision for counts of millions, where sums of log-factorials lose it.
//! `udfs/kernels/tests/statistics_fixtures.py` compares with scipy and statsmodels.

use std::cmp::{Ordering, Reverse};
use std::f64::consts::{PI, SQRT_2};
use std::sync::LazyLock;

use crate::FeatureId;

/// Rows with a q value below this are called significant.
pub const SIGNIFICANT_Q: f64 = 0.05;

/// Probabilities that differ by less than this share of themselves are equal: rounding must not break ties.
const TIE: f64 = 1e-7;

/// Stirling's error where its series does not hold.
static SMALL_STIRLING_ERRORS: LazyLock<[f64; 16]> = LazyLock::new(|| {
    std::array::from_fn(|n| {
        let factorial: f64 = (2..=n as u64).map(|k| k as f64).product();
        let n = n as f64;
        if n == 0.0 { 0.0 } else { factorial.ln() - (n + 0.5) * n.ln() + n - 0.5 * (2.0 * PI).ln() }
    })
});

/// `ln(n!) - ln(sqrt(2 pi n) (n/e)^n)`, the error of Stirling's formula.
fn stirling_error(n: f64) -> f64 {
    if n <= 15.0 {
        return SMALL_STIRLING_ERRORS[n as usize];
    }
    let square = n * n;
    (1.0 / 12.0 - (1.0 / 360.0 - (1.0 / 1260.0 - (1.0 / 1680.0 - 1.0 / 1188.0 / square) / square) / square) / square)
        / n
}

/// Deviance part `x ln(x / expected) + expected - x`; never negative, without cancellation near `x = expected`.
pub fn deviance(x: f64, expected: f64) -> f64 {
    if x == 0.0 {
        return expected;
    }
    let gap = x - expected;
    if gap.abs() < 0.1 * (x + expected) {
        let v = gap / (x + expected);
        let mut sum = gap * v;
        let mut term = 2.0 * x * v;
        let square = v * v;
        for odd in (3..).step_by(2) {
            term *= square;
            let next = sum + term / f64::from(odd);
            if next == sum {
                break;
            }
            sum = next;
        }
        return sum.max(0.0);
    }
    x * (x / expected).ln() + expected - x
}

/// Logarithm of the binomial probability of `x` successes in `n` trials, `p + q = 1`.
fn ln_binomial(x: f64, n: f64, p: f64, q: f64) -> f64 {
    if p == 0.0 {
        return if x == 0.0 { 0.0 } else { f64::NEG_INFINITY };
    }
    if q == 0.0 {
        return if x == n { 0.0 } else { f64::NEG_INFINITY };
    }
    if x == 0.0 {
        return if n == 0.0 {
            0.0
        } else if p < 0.1 {
            -deviance(n, n * q) - n * p
        } else {
            n * q.ln()
        };
    }
    if x == n {
        return if q < 0.1 { -deviance(n, n * p) - n * q } else { n * p.ln() };
    }
    let errors = stirling_error(n) - stirling_error(x) - stirling_error(n - x);
    let scale = (2.0 * PI).ln() + x.ln() + (-x / n).ln_1p();
    errors - deviance(x, n * p) - deviance(n - x, n * q) - 0.5 * scale
}

/// Hypergeometric distribution: of `n` documents `with_first` have the first property and `with_second` the second.
#[derive(Debug, Clone, Copy)]
struct Hypergeometric {
    with_first: u64,
    with_second: u64,
    n: u64,
}

impl Hypergeometric {
    fn low(self) -> u64 {
        (self.with_first + self.with_second).saturating_sub(self.n)
    }

    fn high(self) -> u64 {
        self.with_first.min(self.with_second)
    }

    fn mode(self) -> u64 {
        let mode = (self.with_first as u128 + 1) * (self.with_second as u128 + 1) / (self.n as u128 + 2);
        (mode as u64).clamp(self.low(), self.high())
    }

    fn ln_probability(self, x: u64) -> f64 {
        let n = self.n as f64;
        let (p, q) = (self.with_second as f64 / n, (self.n - self.with_second) as f64 / n);
        let first = ln_binomial(x as f64, self.with_first as f64, p, q);
        let rest = ln_binomial((self.with_second - x) as f64, (self.n - self.with_first) as f64, p, q);
        first + rest - ln_binomial(self.with_second as f64, n, p, q)
    }

    /// `P(x + 1) / P(x)`.
    fn ratio_up(self, x: u64) -> f64 {
        let up = (self.with_first - x) as f64 * (self.with_second - x) as f64;
        up / ((x + 1) as f64 * (self.n + x + 1 - self.with_first - self.with_second) as f64)
    }

    /// The largest count below the mode whose probability is at most `exp(limit)`, and that probability's logarithm. Looked
    /// for from `guess`, step by step: the law is nearly symmetric, so that there are few.
    fn no_likelier_below(self, mode: u64, guess: u64, limit: f64) -> Option<(u64, f64)> {
        let (mut x, mut ln_p) = (guess, self.ln_probability(guess));
        while ln_p > limit {
            if x == self.low() {
                return None;
            }
            x -= 1;
            ln_p -= self.ratio_up(x).ln();
        }
        while x + 1 < mode {
            let next = ln_p + self.ratio_up(x).ln();
            if next > limit {
                break;
            }
            (x, ln_p) = (x + 1, next);
        }
        Some((x, ln_p))
    }

    /// [`Self::no_likelier_below`] on the other side: the smallest count above the mode.
    fn no_likelier_above(self, mode: u64, guess: u64, limit: f64) -> Option<(u64, f64)> {
        let (mut x, mut ln_p) = (guess, self.ln_probability(guess));
        while ln_p > limit {
            if x == self.high() {
                return None;
            }
            ln_p += self.ratio_up(x).ln();
            x += 1;
        }
        while x > mode + 1 {
            let next = ln_p - self.ratio_up(x - 1).ln();
            if next > limit {
                break;
            }
            (x, ln_p) = (x - 1, next);
        }
        Some((x, ln_p))
    }

    /// `P(X >= x) / P(x)`.
    fn tail_up(self, x: u64) -> f64 {
        self.tail_up_at(x, 1.0)
    }

    /// The same of the noncentral law with this odds ratio.
    fn tail_up_at(self, x: u64, odds: f64) -> f64 {
        let (first, second, rest) = self.parts();
        let (mut at, high) = (x as f64, self.high() as f64);
        tail(|| {
            let ratio = odds * (first - at) * (second - at) / ((at + 1.0) * (rest + at));
            at += 1.0;
            (at <= high).then_some(ratio)
        })
    }

    /// `P(X <= x) / P(x)`.
    fn tail_down(self, x: u64) -> f64 {
        self.tail_down_at(x, 1.0)
    }

    /// The same of the noncentral law with this odds ratio.
    fn tail_down_at(self, x: u64, odds: f64) -> f64 {
        let (first, second, rest) = self.parts();
        let (mut at, low) = (x as f64, self.low() as f64);
        tail(|| {
            at -= 1.0;
            (at >= low).then(|| (at + 1.0) * (rest + at) / (odds * (first - at) * (second - at)))
        })
    }

    /// The margins, and `n + 1` without them: what [`Self::ratio_up`] is made of.
    fn parts(self) -> (f64, f64, f64) {
        let (first, second) = (self.with_first as f64, self.with_second as f64);
        (first, second, self.n as f64 + 1.0 - first - second)
    }
}

/// `1 + r1 + r1 r2 + ...` of falling ratios, until nothing is added any more.
fn tail(mut next_ratio: impl FnMut() -> Option<f64>) -> f64 {
    let (mut term, mut sum) = (1.0, 1.0);
    while let Some(ratio) = next_ratio() {
        term *= ratio;
        sum += term;
        if ratio < 1.0 && term < sum * 1e-17 {
            break;
        }
    }
    sum
}

/// Probability that `both` of `n` documents have both properties, if they are independent.
pub(crate) fn hypergeometric(both: u64, with_first: u64, with_second: u64, n: u64) -> f64 {
    Hypergeometric { with_first, with_second, n }.ln_probability(both).exp()
}

/// Probability of `both` or more (or fewer) documents with both properties if `mean` are expected: of Fisher's noncentral
/// hypergeometric law with the odds ratio of the expected table (Cornfield 1956). All four cells are expected to hold some.
pub(crate) fn fisher_of_mean(both: u64, mean: f64, with_first: u64, with_second: u64, n: u64, more: bool) -> f64 {
    let law = Hypergeometric { with_first, with_second, n };
    let (first, second) = (with_first as f64, with_second as f64);
    let odds = mean * (n as f64 + mean - first - second) / ((first - mean) * (second - mean));
    let middle = (mean.round() as u64).clamp(law.low(), law.high());
    let all = law.tail_up_at(middle, odds) + law.tail_down_at(middle, odds) - 1.0;
    let side = if more { law.tail_up_at(both, odds) } else { law.tail_down_at(both, odds) };
    let farther = (both as f64 - middle as f64) * odds.ln();
    let ln_ratio = law.ln_probability(both) - law.ln_probability(middle) + farther;
    (ln_ratio.exp() * side / all).min(1.0)
}

/// Fisher's exact test of a 2x2 table, one-sided: probability of `both` or more documents with both properties, if
/// they were independent. `both <= with_first, with_second <= n`.
pub fn fisher_greater(both: u64, with_first: u64, with_second: u64, n: u64) -> f64 {
    let law = Hypergeometric { with_first, with_second, n };
    if n == 0 || both <= law.low() {
        return 1.0;
    }
    if both > law.mode() {
        return (law.ln_probability(both).exp() * law.tail_up(both)).min(1.0);
    }
    (1.0 - law.ln_probability(both - 1).exp() * law.tail_down(both - 1)).clamp(0.0, 1.0)
}

/// The same for `both` or fewer.
pub fn fisher_less(both: u64, with_first: u64, with_second: u64, n: u64) -> f64 {
    // Documents with the first property and without the second count the other way round.
    fisher_greater(with_first - both, with_first, n - with_second, n)
}

/// Fisher's exact test, two-sided: total probability of the tables that are no likelier than this one (to a relative
/// 1e-7, as R does, so that ties by rounding count).
pub fn fisher_two_sided(both: u64, with_first: u64, with_second: u64, n: u64) -> f64 {
    let law = Hypergeometric { with_first, with_second, n };
    if n == 0 || law.low() == law.high() {
        return 1.0;
    }
    let mode = law.mode();
    let observed = law.ln_probability(both);
    let limit = observed + TIE;
    // Probabilities fall on both sides of the mode, so that a step towards it nearly always tells.
    let towards_mode = match both.cmp(&mode) {
        Ordering::Less => law.ratio_up(both),
        Ordering::Equal => return 1.0,
        Ordering::Greater => 1.0 / law.ratio_up(both - 1),
    };
    if towards_mode <= 1.0 + TIE && law.ln_probability(mode) <= limit {
        return 1.0;
    }
    let own = observed.exp();
    let (near, far) = if both > mode {
        let far = law.no_likelier_below(mode, mode.saturating_sub(both - mode).max(law.low()), limit);
        (own * law.tail_up(both), far.map_or(0.0, |(x, ln_p)| ln_p.exp() * law.tail_down(x)))
    } else {
        let far = law.no_likelier_above(mode, (mode + (mode - both)).min(law.high()), limit);
        (own * law.tail_down(both), far.map_or(0.0, |(x, ln_p)| ln_p.exp() * law.tail_up(x)))
    };
    (near + far).min(1.0)
}

/// Smallest expected count of the 2x2 table with these margins.
pub fn smallest_expected(with_first: u64, with_second: u64, n: u64) -> f64 {
    let n = (n as f64).max(1.0);
    let first = (with_first as f64).min(n - with_first as f64);
    let second = (with_second as f64).min(n - with_second as f64);
    first * second / n
}

/// Pearson's chi-squared test of a 2x2 table, one degree of freedom, without continuity correction.
pub fn chi_squared_p(both: u64, with_first: u64, with_second: u64, n: u64) -> f64 {
    let (first, second, n) = (with_first as f64, with_second as f64, n as f64);
    let margins = first * (n - first) * second * (n - second);
    if margins == 0.0 {
        return 1.0;
    }
    let gap = both as f64 * n - first * second;
    libm::erfc((gap * gap * n / margins / 2.0).sqrt())
}

/// Expected count below which tests are exact.
///
/// Cochran's 5 (1954) is about p near 0.05. What is called significant among thousands of tests has p near 1e-5, where
/// chi-squared is far too small if the sides differ in size: of 800 documents against 48,000 it comes out below 1.7e-5
/// eleven times too often at an expected 10, four times at 25, and about as often as it should at 400.
pub const EXACT_BELOW: f64 = 500.0;

/// Two-sided p that two groups hold a feature equally often: Fisher's exact test where an expected count is below
/// [`EXACT_BELOW`], Pearson's chi-squared test elsewhere.
pub fn two_proportions_p(docs_a: u64, n_a: u64, docs_b: u64, n_b: u64) -> f64 {
    let (with, n) = (docs_a + docs_b, n_a + n_b);
    if smallest_expected(n_a, with, n) < EXACT_BELOW {
        fisher_two_sided(docs_a, n_a, with, n)
    } else {
        chi_squared_p(docs_a, n_a, with, n)
    }
}

/// McNemar's test, exact (a two-sided binomial test of the discordant pairs) at every size.
pub fn mcnemar_p(only_a: u64, only_b: u64) -> f64 {
    let (fewer, n) = (only_a.min(only_b), only_a + only_b);
    if only_a == only_b {
        return 1.0;
    }
    let (mut term, mut sum) = (1.0, 1.0);
    for at in (0..fewer).rev() {
        term *= (at + 1) as f64 / (n - at) as f64;
        sum += term;
        if term < sum * 1e-17 {
            break;
        }
    }
    (2.0 * ln_binomial(fewer as f64, n as f64, 0.5, 0.5).exp() * sum).min(1.0)
}

/// Wilson's score interval of a proportion (Wilson 1927); `z` is the normal quantile, 1.96 for 95 %.
pub fn wilson(docs: u64, n: u64, z: f64) -> (f64, f64) {
    if n == 0 {
        return (0.0, 1.0);
    }
    let (x, n) = (docs as f64, n as f64);
    let square = z * z;
    let middle = (x + square / 2.0) / (n + square);
    let half = z / (n + square) * (x * (n - x) / n + square / 4.0).sqrt();
    let low = if docs == 0 { 0.0 } else { (middle - half).max(0.0) };
    let high = if x == n { 1.0 } else { (middle + half).min(1.0) };
    (low, high)
}

/// Interval of the difference of two independent proportions: Newcombe's hybrid score interval (Newcombe 1998,
/// Statistics in Medicine 17:873, method 10).
pub fn newcombe(docs_a: u64, n_a: u64, docs_b: u64, n_b: u64, z: f64) -> (f64, f64) {
    newcombe_with_phi(docs_a, n_a, docs_b, n_b, 0.0, z)
}

fn newcombe_with_phi(docs_a: u64, n_a: u64, docs_b: u64, n_b: u64, phi: f64, z: f64) -> (f64, f64) {
    let (a, b) = (docs_a as f64 / (n_a as f64).max(1.0), docs_b as f64 / (n_b as f64).max(1.0));
    let ((low_a, high_a), (low_b, high_b)) = (wilson(docs_a, n_a, z), wilson(docs_b, n_b, z));
    let reach = |x: f64, y: f64| (x * x - 2.0 * phi * x * y + y * y).max(0.0).sqrt();
    (a - b - reach(a - low_a, high_b - b), a - b + reach(high_a - a, b - low_b))
}

/// Interval of the difference of two proportions over the same `n` pairs (Newcombe 1998, Statistics in Medicine
/// 17:2635, method 10: score intervals joined with the corrected correlation phi).
pub fn newcombe_paired(both: u64, only_a: u64, only_b: u64, n: u64, z: f64) -> (f64, f64) {
    let neither = n - both - only_a - only_b;
    let (docs_a, docs_b) = (both + only_a, both + only_b);
    let margins = docs_a as f64 * docs_b as f64 * (n - docs_a) as f64 * (n - docs_b) as f64;
    let cross = both as f64 * neither as f64 - only_a as f64 * only_b as f64;
    let corrected = if cross > 0.0 { (cross - n as f64 / 2.0).max(0.0) } else { cross };
    let phi = if margins == 0.0 { 0.0 } else { corrected / margins.sqrt() };
    newcombe_with_phi(docs_a, n, docs_b, n, phi, z)
}

/// Odds ratio with 0.5 added to each of the four cells (Haldane 1956, Anscombe 1956): always finite and positive.
pub fn odds_ratio(docs_a: u64, n_a: u64, docs_b: u64, n_b: u64) -> f64 {
    let cell = |docs: u64| docs as f64 + 0.5;
    cell(docs_a) * cell(n_b - docs_b) / (cell(n_a - docs_a) * cell(docs_b))
}

/// Odds ratio of matched pairs with 0.5 added to both discordant counts.
pub fn odds_ratio_paired(only_a: u64, only_b: u64) -> f64 {
    (only_a as f64 + 0.5) / (only_b as f64 + 0.5)
}

/// Log-likelihood ratio G² of a 2x2 table against independence (Dunning 1993); chi-squared with one degree of freedom.
pub fn log_likelihood_ratio(both: u64, with_first: u64, with_second: u64, n: u64) -> f64 {
    if n == 0 {
        return 0.0;
    }
    let (x, first, second, n) = (both as f64, with_first as f64, with_second as f64, n as f64);
    let cell = |count: f64, row: f64, column: f64| {
        let expected = row * column / n;
        if expected == 0.0 { 0.0 } else { deviance(count, expected) }
    };
    2.0 * (cell(x, first, second)
        + cell(first - x, first, n - second)
        + cell(second - x, n - first, second)
        + cell(n - first - second + x, n - first, n - second))
}

/// Probability of `x` or more successes in `trials` of which `mean` are expected to succeed (binomial).
pub fn binomial_greater(x: u64, trials: u64, mean: f64) -> f64 {
    if x == 0 {
        return 1.0;
    }
    if x > trials || mean <= 0.0 {
        return 0.0;
    }
    // Failures are counted if most trials succeed, so that the terms of the sum fall.
    if (x as f64) < mean {
        return (1.0 - binomial_less(x - 1, trials, mean)).clamp(0.0, 1.0);
    }
    let (p, q) = rates(trials, mean);
    let (mut term, mut sum) = (1.0, 1.0);
    for at in x..trials {
        term *= (trials - at) as f64 / (at + 1) as f64 * (p / q);
        sum += term;
        if term < sum * 1e-17 {
            break;
        }
    }
    (ln_binomial(x as f64, trials as f64, p, q).exp() * sum).min(1.0)
}

/// The same for `x` or fewer.
pub fn binomial_less(x: u64, trials: u64, mean: f64) -> f64 {
    if x >= trials || mean <= 0.0 {
        return 1.0;
    }
    if x as f64 > mean {
        return (1.0 - binomial_greater(x + 1, trials, mean)).clamp(0.0, 1.0);
    }
    let (p, q) = rates(trials, mean);
    let (mut term, mut sum) = (1.0, 1.0);
    for at in (1..=x).rev() {
        term *= at as f64 / (trials - at + 1) as f64 * (q / p);
        sum += term;
        if term < sum * 1e-17 {
            break;
        }
    }
    (ln_binomial(x as f64, trials as f64, p, q).exp() * sum).min(1.0)
}

fn rates(trials: u64, mean: f64) -> (f64, f64) {
    let trials = trials as f64;
    ((mean / trials).min(1.0), ((trials - mean) / trials).max(0.0))
}

/// Log-likelihood ratio G² of a 2x2 table against `expected` documents with both properties, where these are
/// independent within strata; [`log_likelihood_ratio`] if there is one stratum only.
///
/// Its variance is never above that of the pooled table: the variance of one stratum is the parallel sum of its
/// four expected counts, and parallel sums of sums exceed sums of parallel sums. So chi-squared is on the safe side.
pub fn log_likelihood_ratio_of(both: u64, expected: f64, with_first: u64, with_second: u64, n: u64) -> f64 {
    let cell = |count: u64, expected: f64| if expected > 0.0 { deviance(count as f64, expected) } else { 0.0 };
    let (first, second, all) = (with_first as f64, with_second as f64, n as f64);
    2.0 * (cell(both, expected)
        + cell(with_first - both, first - expected)
        + cell(with_second - both, second - expected)
        + cell(n + both - with_first - with_second, all + expected - first - second))
}

/// Normalised pointwise mutual information (Bouma 2009): -1 never together, 0 independent, 1 only together.
pub fn npmi(both: u64, with_first: u64, with_second: u64, n: u64) -> f64 {
    if both == 0 {
        return -1.0;
    }
    if both == n {
        return 1.0;
    }
    let (x, first, second, n) = (both as f64, with_first as f64, with_second as f64, n as f64);
    (x * n / (first * second)).ln() / (n / x).ln()
}

/// Correlation phi of two binary properties; 0 if one is constant.
pub fn phi(both: u64, with_first: u64, with_second: u64, n: u64) -> f64 {
    let (x, first, second, n) = (both as f64, with_first as f64, with_second as f64, n as f64);
    let margins = first * (n - first) * second * (n - second);
    if margins <= 0.0 { 0.0 } else { (x * n - first * second) / margins.sqrt() }
}

/// p of a chi-squared statistic with one degree of freedom, two-sided.
pub fn chi_squared_1_p(statistic: f64) -> f64 {
    libm::erfc((statistic.max(0.0) / 2.0).sqrt())
}

/// Two-sided normal quantile: 1.96 for `confidence` 0.95. By bisection on erfc, to the last digit.
pub fn normal_quantile_two_sided(confidence: f64) -> f64 {
    let outside = (1.0 - confidence).clamp(1e-300, 1.0);
    let (mut low, mut high) = (0.0, 40.0);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if libm::erfc(middle / SQRT_2) > outside { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// Benjamini-Hochberg q values (Benjamini and Hochberg 1995) of the p values `p`, in their order, where `n_tests >=
/// p.len()` tests were made in all and those not listed had larger p. Never above 1.
pub fn benjamini_hochberg(p: &[f64], n_tests: u64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let n_tests = (n_tests as f64).max(p.len() as f64);
    let mut q = vec![1.0; p.len()];
    let mut least = 1.0f64;
    for (rank, position) in order.into_iter().enumerate().rev() {
        least = least.min(p[position] * n_tests / (rank + 1) as f64);
        q[position] = least;
    }
    q
}

/// Writes the Benjamini-Hochberg q value of each p, of which there are no more, to the place beside it.
pub fn correct<'a>(values: impl Iterator<Item = (f64, &'a mut f64)>) {
    let (p, places): (Vec<f64>, Vec<&mut f64>) = values.unzip();
    for (place, q) in places.into_iter().zip(benjamini_hochberg(&p, p.len() as u64)) {
        *place = q;
    }
}

/// Place of a row among others: significant ones first, then the effect that is the larger for certain, whatever its sign:
/// the end of its confidence interval that is nearer 0. Where the interval holds 0 the smaller p comes first. The effect
/// itself would put frequent features first, which differ most by chance, and p alone those that hardly differ.
pub fn rank(q_value: f64, ci: (f64, f64), p_value: f64, feature_id: FeatureId) -> impl Ord {
    let certain = ci.0.max(-ci.1).max(0.0) + 0.0; // never -0
    // The bits of numbers that are not negative have their order.
    (q_value >= SIGNIFICANT_Q, Reverse(certain.to_bits()), p_value.to_bits(), feature_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const Z95: f64 = 1.959_963_984_540_054;

    #[track_caller]
    fn close(name: &str, got: f64, expected: f64) {
        let error = (got - expected).abs() / expected.abs().max(1e-300);
        assert!(error < 1e-9 || (got - expected).abs() < 1e-15, "{name}: got {got}, expected {expected}");
    }

    #[test]
    fn tails_of_an_expectation_are_exact() {
        // Sums of Fisher's noncentral hypergeometric law with the odds ratio of the expected table, to 60 digits.
        for (both, mean, docs, n, more, expected) in [
            (60, 40.0, (150, 120), 600, true, 1.0281633506731954e-05),
            (20, 40.0, (150, 120), 600, false, 3.360230300697928e-06),
            (20, 40.0, (150, 120), 600, true, 0.9999989734315466),
            (300, 180.5, (900, 700), 5000, true, 3.5564417762087885e-28),
        ] {
            let p = fisher_of_mean(both, mean, docs.0, docs.1, n, more);
            assert!((p / expected - 1.0).abs() < 1e-8, "{both} {mean}: {p} {expected}");
        }
        let central = fisher_of_mean(75, 37.5, 150, 75, 300, true) / fisher_greater(75, 150, 75, 300);
        assert!((central - 1.0).abs() < 1e-9, "{central}");
    }

    #[test]
    fn agrees_with_scipy_and_statsmodels() {
        let mut seen = 0;
        for line in include_str!("../tests/statistics_fixtures.tsv").lines() {
            let mut fields = line.split('\t');
            let (name, arguments) = (fields.next().unwrap(), fields.next().unwrap());
            let expected: Vec<f64> = fields.map(|value| value.parse().unwrap()).collect();
            let numbers: Vec<f64> = arguments.split(',').map(|value| value.parse().unwrap()).collect();
            let counts: Vec<u64> = numbers.iter().map(|value| *value as u64).collect();
            let got = match (name, counts.as_slice()) {
                ("fisher", &[a, n_a, b, n_b]) => vec![
                    fisher_two_sided(a, n_a, a + b, n_a + n_b),
                    fisher_greater(a, n_a, a + b, n_a + n_b),
                    fisher_less(a, n_a, a + b, n_a + n_b),
                ],
                ("chi2", &[a, n_a, b, n_b]) => vec![chi_squared_p(a, n_a, a + b, n_a + n_b)],
                ("g", &[a, n_a, b, n_b]) => vec![log_likelihood_ratio(a, n_a, a + b, n_a + n_b)],
                ("newcombe", &[a, n_a, b, n_b]) => {
                    let (low, high) = newcombe(a, n_a, b, n_b, Z95);
                    vec![low, high]
                }
                ("wilson", &[docs, n]) => {
                    let (low, high) = wilson(docs, n, Z95);
                    vec![low, high]
                }
                ("mcnemar", &[b, c]) => vec![mcnemar_p(b, c)],
                ("binomial", &[x, trials, _]) => {
                    vec![binomial_greater(x, trials, numbers[2]), binomial_less(x, trials, numbers[2])]
                }
                ("quantile", _) => vec![normal_quantile_two_sided(numbers[0])],
                ("bh", _) => benjamini_hochberg(&numbers, numbers.len() as u64),
                ("paired", &[both, only_a, only_b, n]) => {
                    let (low, high) = newcombe_paired(both, only_a, only_b, n, Z95);
                    vec![low, high]
                }
                other => panic!("unknown fixture {other:?}"),
            };
            assert_eq!(got.len(), expected.len(), "{line}");
            for (got, expected) in got.into_iter().zip(expected) {
                close(line, got, expected);
            }
            seen += 1;
        }
        assert_eq!(seen, 292);
    }

    #[test]
    fn far_tails_stay_precise() {
        // 2 / C(200, 100), the probability of complete separation.
        let ways: f64 = (1..=100u32).map(|k| f64::from(100 + k) / f64::from(k)).product();
        close("separation", fisher_two_sided(100, 100, 100, 200), 2.0 / ways);
        close("one pair", mcnemar_p(0, 200), 2.0 * 0.5f64.powi(200));
    }

    #[test]
    fn the_size_of_the_test_is_kept_where_sides_differ() {
        // Of 800 documents against 48,000, the probability that p falls below 1.7e-5, where q is 0.05 among 2,900 tests.
        let (n_a, n_b, level) = (800, 48_000, 0.05 / 2900.0);
        for with in [150, 600, 1500, 6000, 20_000] {
            let law = Hypergeometric { with_first: n_a, with_second: with, n: n_a + n_b };
            let below = |x: &u64| two_proportions_p(*x, n_a, with - *x, n_b) < level;
            let size: f64 = (law.low()..=law.high()).filter(below).map(|x| law.ln_probability(x).exp()).sum();
            assert!(size <= level, "{with}: {} times too often", size / level);
        }
    }

    /// Probability of `x` by counting with exact integers.
    fn exact(x: u64, first: u64, second: u64, n: u64) -> f64 {
        let choose = |n: u64, k: u64| (1..=k).fold(1u128, |ways, at| ways * u128::from(n - k + at) / u128::from(at));
        if x > first || x > second || first + second - x > n {
            return 0.0;
        }
        (choose(first, x) * choose(n - first, second - x)) as f64 / choose(n, second) as f64
    }

    proptest! {
        #[test]
        fn fisher_is_the_sum_over_all_tables(n in 1u64..60, f in 0.0..1.0f64, s in 0.0..1.0f64, b in 0.0..1.0f64) {
            let (first, second) = ((f * (n + 1) as f64) as u64, (s * (n + 1) as f64) as u64);
            let (low, high) = ((first + second).saturating_sub(n), first.min(second));
            let both = low + (b * (high - low + 1) as f64) as u64;
            let own = exact(both, first, second, n);
            let sum = |keep: &dyn Fn(u64, f64) -> bool| -> f64 {
                (low..=high).map(|x| (x, exact(x, first, second, n))).filter(|(x, p)| keep(*x, *p)).map(|(_, p)| p).sum()
            };
            let near = |got: f64, expected: f64| (got - expected).abs() < 1e-11 * (1.0 + 1.0 / expected).min(1e4) * expected;
            prop_assert!(near(fisher_greater(both, first, second, n), sum(&|x, _| x >= both)));
            prop_assert!(near(fisher_less(both, first, second, n), sum(&|x, _| x <= both)));
            let two = fisher_two_sided(both, first, second, n);
            prop_assert!(near(two, sum(&|_, p| p <= own * (1.0 + 1e-7))), "{two}");
        }

        #[test]
        fn intervals_hold_the_estimate_and_stay_in_range(a in 0u64..50, b in 0u64..50, more_a in 0u64..50, more_b in 0u64..50) {
            let (n_a, n_b) = ((a + more_a).max(1), (b + more_b).max(1));
            let difference = a.min(n_a) as f64 / n_a as f64 - b.min(n_b) as f64 / n_b as f64;
            let (low, high) = newcombe(a.min(n_a), n_a, b.min(n_b), n_b, Z95);
            prop_assert!(-1.0 - 1e-12 <= low && low <= difference + 1e-12 && difference <= high + 1e-12 && high <= 1.0 + 1e-12);
        }

        #[test]
        fn q_values_keep_the_order_of_p(p in prop::collection::vec(0.0..1.0f64, 0..40), more in 0u64..50) {
            let q = benjamini_hochberg(&p, p.len() as u64 + more);
            for i in 0..p.len() {
                prop_assert!(q[i] >= p[i] - 1e-12 && q[i] <= 1.0);
                for j in 0..p.len() {
                    prop_assert!(p[i] > p[j] || q[i] <= q[j]);
                }
            }
        }
    }
}
