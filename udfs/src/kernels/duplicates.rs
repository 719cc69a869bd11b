//! Which features of a ranking say the same as one above them.

use crate::kernels::cooccurrence::PairCounts;

/// Features whose presence correlates at least this much say the same.
pub const SAME_PHI: f64 = 0.8;

/// For each rank, the first rank above whose feature says the same and is not itself a repetition; `ranks` holds the
/// positions of the features in the counts, best first.
///
/// `sides` are counts of the same features in several sets of documents. The correlation is taken within the sets
/// (sums of covariances over sums of variances), so that two features do not count as the same only because both differ
/// between the sets; where nothing varies within the sets it is taken over all documents together.
pub fn same_as(sides: &[PairCounts], ranks: &[usize]) -> Vec<Option<usize>> {
    let mut same: Vec<Option<usize>> = Vec::with_capacity(ranks.len());
    for (rank, feature) in ranks.iter().enumerate() {
        let says_the_same = |above: &usize| {
            let (a, b) = (ranks[*above].min(*feature), ranks[*above].max(*feature));
            same[*above].is_none() && correlation(sides, a, b) >= SAME_PHI
        };
        same.push((0..rank).find(says_the_same));
    }
    same
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
    use crate::kernels::cooccurrence::Documents;
    use crate::kernels::statistics::phi;

    fn side(rows: &[&[u32]]) -> PairCounts {
        let mut documents = Documents::default();
        rows.iter().for_each(|ids| documents.push(ids, &[0, 1, 2, 3]));
        let mut counts = PairCounts::new(4, 0..4);
        counts.update(&documents);
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

    #[test]
    fn only_features_of_the_same_documents_are_the_same() {
        // 0 and 1 go together; 2 is as frequent on each side, but in other documents; 3 repeats 1, and so 0.
        let a = side(&[&[0, 1, 3], &[0, 1, 3], &[0, 1, 3], &[2], &[0, 1, 2, 3], &[2]]);
        let b = side(&[&[], &[], &[], &[], &[0, 1, 3], &[2]]);
        assert_eq!(same_as(&[a, b], &[3, 1, 2, 0]), [None, Some(0), None, Some(0)]);
    }

    #[test]
    fn what_never_varies_within_a_side_is_told_by_both() {
        let (a, b) = (side(&[&[0, 1], &[0, 1]]), side(&[&[2], &[2]]));
        assert_eq!(same_as(&[a, b], &[0, 1, 2]), [None, Some(0), None]);
        assert_eq!(same_as(&[side(&[]), side(&[])], &[0, 1, 2]), [None, None, None]);
    }
}
