//! One feature in two sets of documents where other things are held constant: 2x2 tables, one a stratum.
//!
//! Documents of a stratum are alike in what is held constant (their length, say), so that it cannot be what sets the
//! sides apart. Strata may be many and sparse: Mantel and Haenszel's sums stay valid for a handful of documents each.
//! One table alone gives the plain tests of [`crate::statistics`].

use std::f64::consts::SQRT_2;

use crate::statistics::{
    EXACT_BELOW, fisher_greater, fisher_less, newcombe, odds_ratio, smallest_expected, two_proportions_p,
};

/// Probabilities below this are left out of exact distributions.
const NEGLIGIBLE: f64 = 1e-100;

/// How often a feature is on both sides of one stratum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Table {
    /// Documents of A with the feature.
    pub docs_a: u64,
    /// Documents of A.
    pub n_a: u64,
    /// Documents of B with the feature.
    pub docs_b: u64,
    /// Documents of B.
    pub n_b: u64,
}

impl Table {
    fn with(self) -> f64 {
        (self.docs_a + self.docs_b) as f64
    }

    fn n(self) -> f64 {
        (self.n_a + self.n_b) as f64
    }

    /// Documents of A expected to have the feature if the sides did not differ.
    fn expected(self) -> f64 {
        self.with() * self.n_a as f64 / self.n()
    }

    /// Whether both sides have documents; a table that has not says nothing.
    pub fn is_mixed(self) -> bool {
        self.n_a > 0 && self.n_b > 0
    }
}

/// What a test says of two sides that do not differ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tails {
    /// Probability of a difference as unlikely as this one or more so, in either direction.
    pub two_sided: f64,
    /// Probability that A has the feature as often as this or more often.
    pub greater: f64,
    /// The same for as often or less often.
    pub less: f64,
}

impl Tails {
    const NOTHING: Self = Self { two_sided: 1.0, greater: 1.0, less: 1.0 };

    /// Of a normal variate.
    fn of_normal(z: f64) -> Self {
        let above = |z: f64| 0.5 * libm::erfc(z / SQRT_2);
        Self { two_sided: libm::erfc(z.abs() / SQRT_2), greater: above(z), less: above(-z) }
    }
}

/// [`test`] where only the two-sided p is wanted.
pub fn two_sided_p(tables: &[Table]) -> f64 {
    match tables {
        [Table { docs_a, n_a, docs_b, n_b }] => two_proportions_p(*docs_a, *n_a, *docs_b, *n_b),
        tables => test(tables).two_sided,
    }
}

/// Tests whether a feature is as frequent in A as in B.
///
/// One table: Fisher's exact test where an expected count is below [`EXACT_BELOW`], Pearson's chi-squared test elsewhere.
/// Several: the exact test of their sum given all margins, or [`cochran_mantel_haenszel_z`], by the same rule.
pub fn test(tables: &[Table]) -> Tails {
    match tables {
        [] => Tails::NOTHING,
        [Table { docs_a, n_a, docs_b, n_b }] => {
            let (with, n) = (docs_a + docs_b, n_a + n_b);
            let two_sided = two_proportions_p(*docs_a, *n_a, *docs_b, *n_b);
            if smallest_expected(*n_a, with, n) < EXACT_BELOW {
                let greater = fisher_greater(*docs_a, *n_a, with, n);
                return Tails { two_sided, greater, less: fisher_less(*docs_a, *n_a, with, n) };
            }
            let gap = *docs_a as f64 * *n_b as f64 - *docs_b as f64 * *n_a as f64;
            let (first, second, n) = (*n_a as f64, with as f64, n as f64);
            let z = gap * (n / (first * (n - first) * second * (n - second))).sqrt();
            Tails { two_sided, ..Tails::of_normal(z) }
        }
        tables => {
            let (mut least, mut expected) = (f64::INFINITY, [0.0; 4]);
            for table in tables.iter().filter(|table| table.is_mixed()) {
                let a = table.expected();
                let cells = [a, table.with() - a, table.n_a as f64 - a, table.n_b as f64 - (table.with() - a)];
                expected.iter_mut().zip(cells).for_each(|(sum, cell)| *sum += cell);
            }
            expected.iter().for_each(|sum| least = least.min(*sum));
            let exact = if least < EXACT_BELOW { exact_tails(tables) } else { None };
            exact.unwrap_or_else(|| Tails::of_normal(cochran_mantel_haenszel_z(tables)))
        }
    }
}

/// Signed root of the Cochran-Mantel-Haenszel statistic (Mantel and Haenszel 1959, without correction for
/// continuity): `sum(a - E) / sqrt(sum V)`, where `V = n_a n_b m (n - m) / (n^2 (n - 1))`; 0 if nothing varies.
pub fn cochran_mantel_haenszel_z(tables: &[Table]) -> f64 {
    let (mut gap, mut variance) = (0.0, 0.0);
    for table in tables.iter().filter(|table| table.is_mixed()) {
        let (n, with) = (table.n(), table.with());
        gap += table.docs_a as f64 - table.expected();
        variance += table.n_a as f64 * table.n_b as f64 * with * (n - with) / (n * n * (n - 1.0).max(1.0));
    }
    if variance > 0.0 { gap / variance.sqrt() } else { 0.0 }
}

/// Exact test of `sum a` given all margins (Birch 1964): its distribution is the convolution of the strata's
/// hypergeometric ones. Two-sided as Fisher's: all that is no likelier than what was seen (to a relative 1e-7).
///
/// `None` if what was seen is less likely than [`NEGLIGIBLE`].
fn exact_tails(tables: &[Table]) -> Option<Tails> {
    let (mut law, mut least, mut seen) = (vec![1.0], 0u64, 0u64);
    for table in tables {
        let (with, n) = (table.docs_a + table.docs_b, table.n_a + table.n_b);
        let (low, high) = (with.saturating_sub(table.n_b), with.min(table.n_a));
        seen += table.docs_a;
        least += low;
        if low == high {
            continue;
        }
        // Probabilities relative to the most likely count, by their ratios.
        let up =
            |x: u64| (with - x) as f64 * (table.n_a - x) as f64 / ((x + 1) as f64 * (table.n_b + x + 1 - with) as f64);
        let mode = ((with + 1) as u128 * (table.n_a + 1) as u128 / (n + 2) as u128) as u64;
        let mode = mode.clamp(low, high);
        let mut part = vec![1.0; (high - low + 1) as usize];
        for x in mode..high {
            part[(x + 1 - low) as usize] = part[(x - low) as usize] * up(x);
        }
        for x in (low..mode).rev() {
            part[(x - low) as usize] = part[(x + 1 - low) as usize] / up(x);
        }
        let sum: f64 = part.iter().sum();
        let mut next = vec![0.0; law.len() + part.len() - 1];
        for (shift, share) in part.iter().map(|weight| weight / sum).enumerate() {
            next[shift..].iter_mut().zip(&law).for_each(|(to, from)| *to += share * from);
        }
        let first = next.iter().position(|p| *p >= NEGLIGIBLE)?;
        let last = next.iter().rposition(|p| *p >= NEGLIGIBLE)?;
        next.truncate(last + 1);
        next.drain(..first);
        least += first as u64;
        law = next;
    }
    let seen = seen.checked_sub(least)? as usize;
    let limit = law.get(seen)? * (1.0 + 1e-7);
    let two_sided: f64 = law.iter().filter(|p| **p <= limit).sum();
    let (greater, less): (f64, f64) = (law[seen..].iter().sum(), law[..=seen].iter().sum());
    Some(Tails { two_sided: two_sided.min(1.0), greater: greater.min(1.0), less: less.min(1.0) })
}

/// What a feature's frequencies would be if both sides were spread over the strata alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Frequencies {
    /// Of A.
    pub a: f64,
    /// Of B.
    pub b: f64,
    /// Confidence interval of `a - b`.
    pub ci: (f64, f64),
}

/// Frequencies on both sides, each stratum weighted by `n_a n_b / n`, whose difference is Mantel and Haenszel's risk
/// difference (Cochran 1954); interval by the variance of Sato, Greenland and Robins (Sato 1989, Biometrics 45:1323),
/// which holds for few large strata as for many small ones; where it is 0, and for one table, Newcombe's interval.
pub fn frequencies(tables: &[Table], z: f64) -> Frequencies {
    if let [Table { docs_a, n_a, docs_b, n_b }] = tables {
        let share = |docs: u64, n: u64| docs as f64 / n.max(1) as f64;
        return Frequencies {
            a: share(*docs_a, *n_a),
            b: share(*docs_b, *n_b),
            ci: newcombe(*docs_a, *n_a, *docs_b, *n_b, z),
        };
    }
    let (mut weight, mut with_a, mut with_b, mut p, mut q) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for table in tables.iter().filter(|table| table.is_mixed()) {
        let [x, n_a, y, n_b] = [table.docs_a, table.n_a, table.docs_b, table.n_b].map(|count| count as f64);
        let n = n_a + n_b;
        weight += n_a * n_b / n;
        with_a += x * n_b / n;
        with_b += y * n_a / n;
        p += (n_a * n_a * y - n_b * n_b * x + n_a * n_b * (n_b - n_a) / 2.0) / (n * n);
        q += (x * (n_b - y) + y * (n_a - x)) / (2.0 * n);
    }
    if weight == 0.0 {
        return Frequencies { a: 0.0, b: 0.0, ci: (-1.0, 1.0) };
    }
    let (a, b) = (with_a / weight, with_b / weight);
    let variance = (a - b) * p + q;
    if variance < 1e-9 {
        // All or none have it in each stratum: that says little of how far it may vary.
        let sum = sum(tables);
        return Frequencies { a, b, ci: newcombe(sum.docs_a, sum.n_a, sum.docs_b, sum.n_b, z) };
    }
    let reach = z * variance.sqrt() / weight;
    Frequencies { a, b, ci: ((a - b - reach).max(-1.0), (a - b + reach).min(1.0)) }
}

/// The strata with both sides as one.
fn sum(tables: &[Table]) -> Table {
    let mut sum = Table::default();
    for table in tables.iter().filter(|table| table.is_mixed()) {
        sum.docs_a += table.docs_a;
        sum.n_a += table.n_a;
        sum.docs_b += table.docs_b;
        sum.n_b += table.n_b;
    }
    sum
}

/// Mantel and Haenszel's pooled odds ratio (1959), `sum(a d / n) / sum(b c / n)`. Where it would be 0 or infinite, and
/// for one table, that of the tables' sum with 0.5 added to each cell: always finite and positive.
pub fn pooled_odds_ratio(tables: &[Table]) -> f64 {
    let (mut up, mut down) = (0.0, 0.0);
    for table in tables.iter().filter(|table| table.is_mixed()) {
        up += table.docs_a as f64 * (table.n_b - table.docs_b) as f64 / table.n();
        down += table.docs_b as f64 * (table.n_a - table.docs_a) as f64 / table.n();
    }
    let sum = sum(tables);
    match tables {
        [_, _, ..] if up > 0.0 && down > 0.0 => up / down,
        _ => odds_ratio(sum.docs_a, sum.n_a, sum.docs_b, sum.n_b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::fisher_two_sided;

    const Z95: f64 = 1.959_963_984_540_054;

    fn table(docs_a: u64, n_a: u64, docs_b: u64, n_b: u64) -> Table {
        Table { docs_a, n_a, docs_b, n_b }
    }

    #[test]
    fn all_against_none_is_not_certain() {
        let strata = [table(2, 2, 0, 2), table(2, 2, 0, 2)];
        let found = frequencies(&strata, Z95);
        assert_eq!((found.a - found.b, found.ci), (1.0, newcombe(4, 4, 0, 4, Z95)));
        assert!((0.2..0.5).contains(&found.ci.0), "{:?}", found.ci);
        let all = frequencies(&[table(3, 3, 2, 2), table(4, 4, 5, 5)], Z95);
        assert!(all.a == all.b && all.ci.0 < -0.2 && all.ci.1 > 0.2, "{:?}", all.ci);
    }

    #[test]
    fn agrees_with_statsmodels_and_brute_force() {
        let close =
            |got: f64, expected: f64| (got - expected).abs() <= 1e-9 * expected.abs() || (got - expected).abs() < 1e-15;
        let mut seen = 0;
        for line in include_str!("../tests/stratified_fixtures.tsv").lines() {
            let mut fields = line.split('\t');
            let (name, arguments) = (fields.next().unwrap(), fields.next().unwrap());
            let expected: Vec<f64> = fields.map(|value| value.parse().unwrap()).collect();
            let numbers: Vec<u64> = arguments.split(',').map(|value| value.parse().unwrap()).collect();
            let tables: Vec<Table> = numbers.chunks(4).map(|t| table(t[0], t[1], t[2], t[3])).collect();
            let got = match name {
                "cmh" => {
                    let z = cochran_mantel_haenszel_z(&tables);
                    vec![z * z, Tails::of_normal(z).two_sided]
                }
                "exact" => {
                    let tails = exact_tails(&tables).unwrap();
                    vec![tails.two_sided, tails.greater, tails.less]
                }
                "odds" => vec![pooled_odds_ratio(&tables)],
                "difference" => {
                    let frequencies = frequencies(&tables, Z95);
                    vec![frequencies.a, frequencies.b, frequencies.ci.0, frequencies.ci.1]
                }
                other => panic!("unknown fixture {other}"),
            };
            assert_eq!(got.len(), expected.len(), "{line}");
            for (got, expected) in got.iter().zip(&expected) {
                assert!(close(*got, *expected), "{line}: got {got}, expected {expected}");
            }
            seen += 1;
        }
        assert!(seen >= 100, "{seen} fixtures");
    }

    #[test]
    fn one_table_gives_the_plain_test() {
        for (a, n_a, b, n_b) in [(3, 10, 9, 20), (0, 5, 0, 9), (7, 7, 9, 9), (400, 2000, 30_000, 100_000)] {
            let tails = test(&[table(a, n_a, b, n_b)]);
            assert_eq!(tails.two_sided, two_proportions_p(a, n_a, b, n_b));
            assert_eq!(tails.two_sided, two_sided_p(&[table(a, n_a, b, n_b)]));
            assert!(tails.greater.min(tails.less) <= tails.two_sided + 1e-12);
            // Convolved with nothing else it is Fisher's test.
            let exact = exact_tails(&[table(a.min(90), n_a.min(90), b.min(90), n_b.min(90))]).unwrap();
            let fisher = fisher_two_sided(a.min(90), n_a.min(90), a.min(90) + b.min(90), n_a.min(90) + n_b.min(90));
            assert!((exact.two_sided - fisher).abs() < 1e-12, "{} {fisher}", exact.two_sided);
        }
        let big = test(&[table(4000, 20_000, 4300, 20_000)]);
        assert!((big.less - big.two_sided / 2.0).abs() < 1e-15 && (big.greater - (1.0 - big.less)).abs() < 1e-12);
    }

    #[test]
    fn strata_with_one_side_say_nothing() {
        let both = [table(3, 10, 9, 12), table(1, 4, 2, 5)];
        let more = [both[0], table(5, 5, 0, 0), both[1], table(0, 0, 3, 9)];
        assert_eq!(test(&both), test(&more));
        assert_eq!(frequencies(&both, Z95), frequencies(&more, Z95));
        assert_eq!(pooled_odds_ratio(&both), pooled_odds_ratio(&more));
        assert_eq!(test(&[]), Tails::NOTHING);
        let nothing = [table(0, 4, 0, 4), table(3, 3, 0, 0)];
        assert_eq!(test(&nothing).two_sided, 1.0);
        assert_eq!(frequencies(&nothing[1..], Z95).b, 0.0);
        assert_eq!(frequencies(&[nothing[1]; 2], Z95).ci, (-1.0, 1.0));
        assert!(pooled_odds_ratio(&nothing).is_finite());
    }

    #[test]
    fn exact_and_normal_agree_where_both_hold() {
        let tables: Vec<Table> = (0..60).map(|k| table(8 + k % 5, 20, 7 + k % 3, 20)).collect();
        let (exact, normal) = (exact_tails(&tables).unwrap(), Tails::of_normal(cochran_mantel_haenszel_z(&tables)));
        assert!((exact.two_sided / normal.two_sided - 1.0).abs() < 0.25, "{exact:?} {normal:?}");
        // So far out that the exact distribution says nothing.
        let far = vec![table(20, 20, 0, 20); 60];
        assert_eq!(exact_tails(&far), None);
        assert!(test(&far).two_sided < 1e-100);
    }
}
