//! Which features of a ranking say the same as one above them.

use crate::cooccurrence::PairCounts;
use crate::statistics::SIGNIFICANT_Q;
use crate::stratified::{Table, frequencies, test};

/// Features whose presence correlates at least this much say the same.
pub const SAME_PHI: f64 = 0.8;

/// Features that correlate at least this much say the same if more speaks for it.
pub const LIKE_PHI: f64 = 0.3;

/// A difference of which less than this share is left where another feature is held constant is explained by it.
pub const LEFT_SHARE: f64 = 1.0 / 3.0;

/// A feature of a ranking.
#[derive(Debug, Clone, Copy)]
pub struct Finding<'a> {
    /// Its position in the counts.
    pub position: usize,
    /// By how much it is more frequent in A than in B.
    pub difference: f64,
    /// The word that shows the same difference.
    pub word: Option<&'a str>,
}

/// For each finding, best first, the first one above that says the same and is not itself a repetition.
///
/// `sides` are counts of the features in A and in B. Two features say the same if their presence correlates by
/// [`SAME_PHI`], or by [`LIKE_PHI`] if they differ in the same direction and either the same word shows both, or the one
/// above explains the other: among the documents that have it, and among those that have it not, next to nothing of the
/// other's difference is left ([`LEFT_SHARE`], by Mantel and Haenszel's risk difference, and not significant).
///
/// The correlation is taken within the sets (sums of covariances over sums of variances), so that two features do not
/// count as the same only because both differ between the sets; where nothing varies within the sets it is taken over all
/// documents together.
pub fn same_as(sides: &[PairCounts; 2], findings: &[Finding]) -> Vec<Option<usize>> {
    let mut same: Vec<Option<usize>> = Vec::with_capacity(findings.len());
    for (rank, finding) in findings.iter().enumerate() {
        let says_the_same = |above: &usize| same[*above].is_none() && are_same(sides, &findings[*above], finding);
        same.push((0..rank).find(says_the_same));
    }
    same
}

fn are_same(sides: &[PairCounts; 2], above: &Finding, finding: &Finding) -> bool {
    let (a, b) = (above.position.min(finding.position), above.position.max(finding.position));
    let phi = correlation(sides, a, b);
    if phi < LIKE_PHI || phi >= SAME_PHI {
        return phi >= SAME_PHI;
    }
    let is_shown_alike = || above.word.is_some() && above.word == finding.word;
    above.difference * finding.difference > 0.0 && (is_shown_alike() || is_explained(sides, above, finding))
}

/// Whether little is left of the difference of a finding where the one above is held constant.
fn is_explained(sides: &[PairCounts; 2], above: &Finding, finding: &Finding) -> bool {
    let (a, b) = (above.position.min(finding.position), above.position.max(finding.position));
    let count = |side: usize| {
        let n = sides[side].n_docs();
        let docs = |position: usize| u64::from(sides[side].docs()[position]);
        let both = u64::from(sides[side].both(a, b));
        [(both, docs(above.position)), (docs(finding.position) - both, n - docs(above.position))]
    };
    let (of_a, of_b) = (count(0), count(1));
    let table = |stratum: usize| {
        let ((docs_a, n_a), (docs_b, n_b)) = (of_a[stratum], of_b[stratum]);
        Table { docs_a, n_a, docs_b, n_b }
    };
    let tables = [table(0), table(1)];
    // Where neither stratum has both sides nothing can be told.
    if !tables.iter().any(|table| table.is_mixed()) {
        return false;
    }
    let left = frequencies(&tables, 0.0);
    (left.a - left.b).abs() < LEFT_SHARE * finding.difference.abs() && test(&tables).two_sided >= SIGNIFICANT_Q
}

/// Correlation of the presence of two features within the sides; `a < b`.
fn correlation(sides: &[PairCounts], a: usize, b: usize) -> f64 {
    let (mut within, mut all) = ([0.0; 3], [0.0; 4]);
    for side in sides {
        let n = side.n_docs() as f64;
        let counts = [f64::from(side.docs()[a]), f64::from(side.docs()[b]), f64::from(side.both(a, b))];
        if n > 0.0 {
            add(&mut within, covariances(counts, n));
        }
        add(&mut all, [counts[0], counts[1], counts[2], n]);
    }
    let of = |[var_a, var_b, covariance]: [f64; 3]| {
        let scale = (var_a * var_b).sqrt();
        (scale > 1e-9).then(|| covariance / scale)
    };
    of(within).or_else(|| of(covariances([all[0], all[1], all[2]], all[3].max(1.0)))).unwrap_or(0.0)
}

/// `n` times the variances of both and their covariance.
fn covariances([a, b, both]: [f64; 3], n: f64) -> [f64; 3] {
    [a - a * a / n, b - b * b / n, both - a * b / n]
}

fn add<const N: usize>(sums: &mut [f64; N], more: [f64; N]) {
    sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cooccurrence::FeatureLists;
    use crate::statistics::phi;

    fn side(rows: &[&[u32]]) -> PairCounts {
        let mut documents = FeatureLists::default();
        rows.iter().for_each(|ids| documents.push(ids.iter().copied()));
        let mut counts = PairCounts::new(4, 0..4);
        counts.update(&documents.documents(&[0, 1, 2, 3], 4));
        counts
    }

    #[test]
    fn one_side_gives_phi() {
        let counts = side(&[&[0, 1], &[0, 1, 2], &[2], &[], &[0]]);
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            let expected = phi(counts.both(a, b).into(), counts.docs()[a].into(), counts.docs()[b].into(), 5);
            assert!((correlation(std::slice::from_ref(&counts), a, b) - expected).abs() < 1e-12);
        }
    }

    fn same(sides: [PairCounts; 2], positions: &[usize]) -> Vec<Option<usize>> {
        let finding = |position: &usize| Finding { position: *position, difference: 0.0, word: None };
        same_as(&sides, &positions.iter().map(finding).collect::<Vec<_>>())
    }

    #[test]
    fn only_features_of_the_same_documents_are_the_same() {
        // 0 and 1 go together; 2 is as frequent on each side, but in other documents; 3 repeats 1, and so 0.
        let a = side(&[&[0, 1, 3], &[0, 1, 3], &[0, 1, 3], &[2], &[0, 1, 2, 3], &[2]]);
        let b = side(&[&[], &[], &[], &[], &[0, 1, 3], &[2]]);
        assert_eq!(same([a, b], &[3, 1, 2, 0]), [None, Some(0), None, Some(0)]);
    }

    #[test]
    fn what_never_varies_within_a_side_is_told_by_both() {
        let (a, b) = (side(&[&[0, 1], &[0, 1]]), side(&[&[2], &[2]]));
        assert_eq!(same([a, b], &[0, 1, 2]), [None, Some(0), None]);
        assert_eq!(same([side(&[]), side(&[])], &[0, 1, 2]), [None, None, None]);
    }

    #[test]
    fn parts_of_a_finding_are_folded_and_other_findings_are_not() {
        // 0 is in 60 of 100 of A and in 20 of B. 1 is in half of its documents and nowhere else: 0 explains it. 2 is as
        // much more frequent in A, but independent of 0. 3 is in half of the documents of 0, and in 30 more of A.
        let rows = |with: usize, alone: usize| -> Vec<Vec<u32>> {
            (0..100)
                .map(|row| {
                    let mut ids = Vec::new();
                    ids.extend((row < with).then_some(0));
                    ids.extend((row < with && row % 2 == 0).then_some(1));
                    ids.extend((row % 10 < with / 10 && row / 10 % 2 == 0).then_some(2));
                    ids.extend((row < with && row % 2 == 0 || row >= 100 - alone).then_some(3));
                    ids
                })
                .collect()
        };
        let side_of = |rows: Vec<Vec<u32>>| side(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let sides = [side_of(rows(60, 30)), side_of(rows(20, 0))];
        let finding = |position, difference, word| Finding { position, difference, word };
        let plain = [finding(0, 0.4, None), finding(1, 0.2, None), finding(2, 0.2, None), finding(3, 0.5, None)];
        assert!((LIKE_PHI..SAME_PHI).contains(&correlation(&sides, 0, 1)), "{}", correlation(&sides, 0, 1));
        assert_eq!(same_as(&sides, &plain), [None, Some(0), None, None]);
        // The other direction is another finding, whatever the correlation below 0.8.
        assert_eq!(same_as(&sides, &[plain[0], finding(1, -0.2, Some("x"))]), [None, None]);
        // The same word speaks for the same finding, but only where the documents are much the same.
        let words = [finding(0, 0.4, Some("x")), finding(3, 0.5, Some("x")), finding(2, 0.2, Some("x"))];
        let phi = correlation(&sides, 0, 3);
        assert_eq!(same_as(&sides, &words), [None, (phi >= LIKE_PHI).then_some(0), None]);
    }
}
