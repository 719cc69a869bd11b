//! How far two clusterings of the same documents agree.

/// Adjusted Rand index (Hubert and Arabie 1985): 1 for the same grouping, about 0 for independent ones. Documents
/// without a cluster in either are left out; fewer than two documents, or one group on both sides, give 1.
pub fn adjusted_rand_index(a: &[Option<usize>], b: &[Option<usize>]) -> f64 {
    use std::collections::HashMap;

    let pairs = |count: usize| (count * count.saturating_sub(1)) as f64 / 2.0;
    let mut cells: HashMap<(usize, usize), usize> = HashMap::new();
    let (mut rows, mut columns): (HashMap<usize, usize>, HashMap<usize, usize>) = Default::default();
    let mut n = 0;
    for (x, y) in a.iter().zip(b) {
        if let (Some(x), Some(y)) = (x, y) {
            *cells.entry((*x, *y)).or_default() += 1;
            *rows.entry(*x).or_default() += 1;
            *columns.entry(*y).or_default() += 1;
            n += 1;
        }
    }
    let together: f64 = cells.values().map(|&count| pairs(count)).sum();
    let (in_rows, in_columns): (f64, f64) =
        (rows.values().map(|&c| pairs(c)).sum(), columns.values().map(|&c| pairs(c)).sum());
    let expected = if n < 2 { 0.0 } else { in_rows * in_columns / pairs(n) };
    let largest = 0.5 * (in_rows + in_columns);
    if (largest - expected).abs() < 1e-12 { 1.0 } else { (together - expected) / (largest - expected) }
}

/// For each of the `k` clusters of `reference`, the best Jaccard overlap with any cluster of `other` on the same
/// documents; none for a cluster of which no document is given. The ingredient of clusterwise stability (Hennig 2007).
pub fn best_overlaps(reference: &[Option<usize>], other: &[Option<usize>], k: usize) -> Vec<Option<f64>> {
    let n_other = other.iter().flatten().max().map_or(0, |&max| max + 1);
    let mut cells = vec![0usize; k * n_other];
    let (mut sizes, mut other_sizes) = (vec![0usize; k], vec![0usize; n_other]);
    for (x, y) in reference.iter().zip(other) {
        if let Some(x) = x {
            sizes[*x] += 1;
        }
        if let Some(y) = y {
            other_sizes[*y] += 1;
        }
        if let (Some(x), Some(y)) = (x, y) {
            cells[x * n_other + y] += 1;
        }
    }
    (0..k)
        .map(|x| {
            (sizes[x] > 0).then(|| {
                (0..n_other)
                    .map(|y| {
                        let both = cells[x * n_other + y];
                        both as f64 / (sizes[x] + other_sizes[y] - both) as f64
                    })
                    .fold(0.0, f64::max)
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn some(labels: &[usize]) -> Vec<Option<usize>> {
        labels.iter().copied().map(Some).collect()
    }

    /// Counts pairs of documents one by one.
    fn slow_ari(a: &[usize], b: &[usize]) -> f64 {
        let (mut both, mut in_a, mut in_b, mut all) = (0.0, 0.0, 0.0, 0.0);
        for i in 0..a.len() {
            for j in 0..i {
                let (x, y) = (a[i] == a[j], b[i] == b[j]);
                both += f64::from(x && y);
                in_a += f64::from(x);
                in_b += f64::from(y);
                all += 1.0;
            }
        }
        let expected = in_a * in_b / all;
        (both - expected) / (0.5 * (in_a + in_b) - expected)
    }

    #[test]
    fn equals_counting_pairs() {
        let mut random = Random::new(4, 0);
        for _ in 0..20 {
            let a: Vec<usize> = (0..50).map(|_| random.below(4) as usize).collect();
            let b: Vec<usize> =
                a.iter().map(|&x| if random.unit() < 0.6 { x } else { random.below(5) as usize }).collect();
            assert!((adjusted_rand_index(&some(&a), &some(&b)) - slow_ari(&a, &b)).abs() < 1e-9);
        }
    }

    #[test]
    fn names_do_not_matter_and_missing_documents_are_left_out() {
        assert_eq!(adjusted_rand_index(&some(&[0, 0, 1, 1]), &some(&[5, 5, 2, 2])), 1.0);
        assert_eq!(adjusted_rand_index(&[Some(0), None, Some(1)], &some(&[1, 0, 0])), 1.0);
        assert_eq!(adjusted_rand_index(&[], &[]), 1.0);
    }

    #[test]
    fn overlaps_by_hand() {
        let overlaps = best_overlaps(&some(&[0, 0, 0, 1, 1]), &some(&[0, 0, 1, 1, 1]), 3);
        assert_eq!(overlaps, [Some(2.0 / 3.0), Some(2.0 / 3.0), None]);
    }
}
