//! Cutting a number into ranges so narrow that what depends on it is the same within each.

/// Where ranges of `values` end: the largest value of each, ascending. Each value comes with its group of documents.
///
/// Ranges hold about a `1 / n_ranges` of the documents; where one group alone is in such a range it grows, up to four
/// times, until another is. A value that so many documents share (at least ten) is a range of its own, so that few
/// different values are never mixed. Equal values are never parted; what is not a number is passed over.
pub fn ranges(mut values: Vec<(f64, u32)>, n_ranges: usize) -> Vec<f64> {
    values.retain(|(value, _)| !value.is_nan());
    values.sort_unstable_by(|x, y| x.0.total_cmp(&y.0).then(x.1.cmp(&y.1)));
    let target = values.len().div_ceil(n_ranges.max(1)).max(1);
    let widest = (4 * target).max(10);
    let mut ends = Vec::new();
    let mut open: &[(f64, u32)] = &[];
    let mut start = 0;
    let mut is_mixed = false;
    for run in values.chunk_by(|x, y| x.0 == y.0) {
        let stands_alone = run.len() >= target.max(10);
        if stands_alone && let Some((end, _)) = open.last() {
            ends.push(*end);
            start += open.len();
            is_mixed = false;
        }
        open = &values[start..start + if stands_alone { 0 } else { open.len() } + run.len()];
        is_mixed |= run.iter().any(|(_, group)| *group != open[0].1);
        if stands_alone || open.len() >= widest || open.len() >= target && is_mixed {
            ends.push(run[0].0);
            start += open.len();
            open = &[];
            is_mixed = false;
        }
    }
    ends.extend(open.last().map(|(end, _)| *end));
    ends
}

/// The range in which a value is; `None` above the last and for what is not a number.
pub fn range_of(ends: &[f64], value: f64) -> Option<usize> {
    let range = ends.partition_point(|end| *end < value);
    (range < ends.len() && !value.is_nan()).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_values_are_not_mixed() {
        let values = (0..100).map(|row| (f64::from(row % 5), (row / 50) as u32)).collect();
        assert_eq!(ranges(values, 200), [0.0, 1.0, 2.0, 3.0, 4.0]);
        // Even if a group has none of one of them.
        let values = (0..100).map(|row| (f64::from(row % 5), u32::from(row % 5 == 1))).collect();
        assert_eq!(ranges(values, 200), [0.0, 1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn many_values_become_narrow_ranges_with_both_groups() {
        let values: Vec<(f64, u32)> = (0..4000).map(|row| (f64::from(row), (row % 2) as u32)).collect();
        let ends = ranges(values, 200);
        assert_eq!(ends.len(), 200);
        assert!(ends.windows(2).all(|pair| pair[1] - pair[0] == 20.0));
        // Few documents: as narrow as both groups allow.
        let ends = ranges((0..60).map(|row| (f64::from(row), (row / 3 % 2) as u32)).collect(), 200);
        assert_eq!(ends[..3], [3.0, 6.0, 9.0]);
        // One group alone in the tail: ranges of four times the size.
        let values = (0..4000).map(|row| (f64::from(row), u32::from(row >= 2000))).collect();
        let ends = ranges(values, 200);
        assert_eq!((ends[0], ends.len()), (79.0, 50));
    }

    #[test]
    fn odd_values_are_placed() {
        let ends = ranges(vec![(1.0, 0), (f64::NAN, 1), (2.0, 1)], 200);
        assert_eq!(ends, [2.0]);
        assert_eq!((range_of(&ends, 0.0), range_of(&ends, 2.0), range_of(&ends, 3.0)), (Some(0), Some(0), None));
        assert_eq!((range_of(&ends, f64::NAN), range_of(&[], 1.0)), (None, None));
        assert!(ranges(Vec::new(), 200).is_empty());
        assert_eq!(ranges(vec![(-0.0, 0), (0.0, 1)], 200), [0.0]);
    }
}
