//! What sets documents apart from others: one row per feature, from counts alone.

use rayon::prelude::*;

use crate::FeatureId;
use crate::cancellation::Cancellation;
use crate::counting::{FeatureCounts, GroupCounts, PairedCounts};
use crate::statistics::{correct, mcnemar_p, newcombe_paired, odds_ratio_paired, rank};
use crate::stratified::{Table, frequencies, pooled_odds_ratio, test, two_sided_p};

/// One feature compared between A and B.
#[derive(Debug, Clone, PartialEq)]
pub struct DiffRow {
    /// Which group is A, if there are several.
    pub group: usize,
    /// Which group is B, if it is one of several.
    pub other: Option<usize>,
    /// The feature.
    pub feature_id: FeatureId,
    /// Documents of A that have it.
    pub docs_a: u64,
    /// Documents of B that have it.
    pub docs_b: u64,
    /// Documents of A that were compared.
    pub n_a: u64,
    /// Documents of B that were compared.
    pub n_b: u64,
    /// Share of A; if something is held constant, what it would be if A and B were spread over the strata alike.
    pub frequency_a: f64,
    /// The same of B.
    pub frequency_b: f64,
    /// `frequency_a - frequency_b`.
    pub difference: f64,
    /// Confidence interval of the difference.
    pub ci: (f64, f64),
    /// Odds ratio with 0.5 added to each cell; of pairs, to both counts of those that differ; of strata, pooled.
    pub odds_ratio: f64,
    /// Two-sided p that the difference is chance.
    pub p_value: f64,
    /// Benjamini-Hochberg q over all tests of the call.
    pub q_value: f64,
}

/// What a group is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Against {
    /// All other groups together.
    Rest,
    /// The other group in which the feature is most frequent, or least if all others have it more often.
    Max,
}

/// Smallest number of documents (A and B together) with a feature for it to be tested, if the user gives none: 5, or
/// a twentieth of the documents if there are fewer than 100. Rarer features could not come out significant and would
/// only make the correction for many tests harder.
pub fn default_min_docs(n_docs: u64) -> u64 {
    (n_docs / 20).clamp(1, 5)
}

/// Compares two independent sets; `z` is the normal quantile of the intervals.
///
/// Tested are those of the features `ids` that at least `min_docs` documents have. Empty if a set is empty.
pub fn diff(a: &FeatureCounts, b: &FeatureCounts, ids: &[FeatureId], min_docs: u64, z: f64) -> Vec<DiffRow> {
    let sides = Sides { group: 0, other: None, a: std::slice::from_ref(a), b: std::slice::from_ref(b) };
    corrected(sides.compare(ids, min_docs, z))
}

/// Compares each of the groups `targets` with the others.
///
/// Tested are those of the features `ids` that at least `min_docs` documents of all groups have. Strata in which a side
/// has no document do not count. Against the largest of the others, p is that of an intersection-union test (Berger 1982):
/// the largest of the one-sided p against each other group, doubled for the two directions. Empty if cancelled.
pub fn diff_groups(
    counts: &GroupCounts,
    targets: std::ops::Range<usize>,
    against: Against,
    ids: &[FeatureId],
    min_docs: u64,
    z: f64,
    cancellation: &Cancellation,
) -> Vec<DiffRow> {
    if counts.n_groups() < 2 {
        return Vec::new();
    }
    let total = counts.total();
    let ids = enough(&total, ids, min_docs);
    let mut rows = Vec::new();
    for target in targets {
        if cancellation.is_cancelled() {
            return Vec::new();
        }
        let a = counts.group(target);
        let others: Vec<usize> = (0..counts.n_groups()).filter(|other| *other != target).collect();
        match against {
            Against::Rest => {
                let rest: Vec<FeatureCounts> = total.iter().zip(a).map(|(total, own)| without(total, own)).collect();
                rows.extend(Sides { group: target, other: None, a, b: &rest }.compare(&ids, 1, z));
            }
            Against::Max => {
                let sides = |other: &usize| Sides { group: target, other: Some(*other), a, b: counts.group(*other) };
                let sides: Vec<Sides> = others.iter().map(sides).collect();
                rows.par_extend(ids.par_iter().filter_map(|id| against_max(&sides, *id, z)));
            }
        }
    }
    corrected(rows)
}

/// Those of the features `ids` that [`diff_groups`] tests: each makes a row of every target.
pub fn tested(counts: &GroupCounts, ids: &[FeatureId], min_docs: u64) -> Vec<FeatureId> {
    enough(&counts.total(), ids, min_docs)
}

fn enough(total: &[FeatureCounts], ids: &[FeatureId], min_docs: u64) -> Vec<FeatureId> {
    let docs = |id: FeatureId| total.iter().map(|stratum| stratum.docs(id)).sum::<u64>();
    ids.iter().copied().filter(|id| docs(*id) >= min_docs.max(1)).collect()
}

fn without(total: &FeatureCounts, own: &FeatureCounts) -> FeatureCounts {
    let docs = total.docs.iter().zip(&own.docs).map(|(total, own)| total - own).collect();
    FeatureCounts { n_docs: total.n_docs - own.n_docs, docs }
}

/// A feature in a group against the largest of several others.
fn against_max(others: &[Sides], id: FeatureId, z: f64) -> Option<DiffRow> {
    let tables: Vec<(&Sides, Vec<Table>)> = others.iter().map(|sides| (sides, sides.tables(id))).collect();
    let compared = || tables.iter().flat_map(|(_, tables)| tables).filter(|table| table.is_mixed());
    if compared().all(|table| table.docs_a + table.docs_b == 0) {
        return None;
    }
    let gaps = tables.iter().enumerate().filter(|(_, (_, tables))| tables.iter().any(|table| table.is_mixed()));
    let gaps: Vec<(usize, f64)> = gaps
        .map(|(at, (_, tables))| (at, frequencies(tables, z)))
        .map(|(at, shares)| (at, shares.a - shares.b))
        .collect();
    let most = gaps.iter().min_by(|x, y| x.1.total_cmp(&y.1))?;
    let least = gaps.iter().rev().max_by(|x, y| x.1.total_cmp(&y.1))?;
    // Above all others the gap to the most frequent one is the smallest, below all that to the least frequent. Where it is
    // neither, the most frequent one is told.
    let is_below = least.1 <= 0.0;
    let tail = |at: usize| {
        let tails = test(&tables[at].1);
        if is_below { tails.less } else { tails.greater }
    };
    let binding = if is_below { least.0 } else { most.0 };
    let mut p = tail(binding);
    for (at, _) in &gaps {
        // Twice a half is 1 already.
        if p >= 0.5 {
            break;
        }
        p = p.max(tail(*at));
    }
    let p_value = (2.0 * p).min(1.0);
    let (sides, tables) = &tables[binding];
    sides.row(id, tables, z).map(|row| DiffRow { p_value, q_value: p_value, ..row })
}

/// Compares the two sides of matched pairs.
pub fn diff_paired(counts: &PairedCounts, ids: &[FeatureId], min_docs: u64, z: f64) -> Vec<DiffRow> {
    let n = counts.a.n_docs;
    if n == 0 {
        return Vec::new();
    }
    let row = |&id: &FeatureId| {
        let (docs_a, docs_b) = (counts.a.docs(id), counts.b.docs(id));
        let both = counts.both.get(id as usize).copied().map_or(0, u64::from);
        let (only_a, only_b) = (docs_a - both, docs_b - both);
        let (frequency_a, frequency_b) = (docs_a as f64 / n as f64, docs_b as f64 / n as f64);
        let p_value = mcnemar_p(only_a, only_b);
        (docs_a + docs_b >= min_docs.max(1)).then(|| DiffRow {
            group: 0,
            other: None,
            feature_id: id,
            docs_a,
            docs_b,
            n_a: n,
            n_b: n,
            frequency_a,
            frequency_b,
            difference: frequency_a - frequency_b,
            ci: newcombe_paired(both, only_a, only_b, n, z),
            odds_ratio: odds_ratio_paired(only_a, only_b),
            p_value,
            q_value: p_value,
        })
    };
    corrected(ids.iter().filter_map(row).collect())
}

/// Two sides by stratum.
#[derive(Clone, Copy)]
struct Sides<'a> {
    group: usize,
    other: Option<usize>,
    a: &'a [FeatureCounts],
    b: &'a [FeatureCounts],
}

impl Sides<'_> {
    fn compare(self, ids: &[FeatureId], min_docs: u64, z: f64) -> Vec<DiffRow> {
        let row = |id: &FeatureId| {
            let tables = self.tables(*id);
            self.row(*id, &tables, z).filter(|row| row.docs_a + row.docs_b >= min_docs.max(1))
        };
        // Collected by place, which copies each row once.
        let rows: Vec<Option<DiffRow>> = ids.par_iter().map(row).collect();
        rows.into_iter().flatten().collect()
    }

    fn tables(self, id: FeatureId) -> Vec<Table> {
        let table = |(a, b): (&FeatureCounts, &FeatureCounts)| Table {
            docs_a: a.docs(id),
            n_a: a.n_docs,
            docs_b: b.docs(id),
            n_b: b.n_docs,
        };
        self.a.iter().zip(self.b).map(table).collect()
    }

    /// `None` if there is nothing to compare.
    fn row(self, id: FeatureId, tables: &[Table], z: f64) -> Option<DiffRow> {
        let (mut docs_a, mut docs_b, mut n_a, mut n_b) = (0, 0, 0, 0);
        for table in tables.iter().filter(|table| table.is_mixed()) {
            docs_a += table.docs_a;
            docs_b += table.docs_b;
            n_a += table.n_a;
            n_b += table.n_b;
        }
        if n_a == 0 {
            return None;
        }
        let (shares, p_value) = (frequencies(tables, z), two_sided_p(tables));
        Some(DiffRow {
            group: self.group,
            other: self.other,
            feature_id: id,
            docs_a,
            docs_b,
            n_a,
            n_b,
            frequency_a: shares.a,
            frequency_b: shares.b,
            difference: shares.a - shares.b,
            ci: shares.ci,
            odds_ratio: pooled_odds_ratio(tables),
            p_value,
            q_value: p_value,
        })
    }
}

/// Corrects p for the number of rows, and sorts them by group and rank.
fn corrected(mut rows: Vec<DiffRow>) -> Vec<DiffRow> {
    correct(rows.iter_mut().map(|row| (row.p_value, &mut row.q_value)));
    // Rows are large: their keys are sorted, and each row moves once.
    rows.sort_by_cached_key(|row| (row.group, rank(row.q_value, row.ci, row.p_value, row.feature_id)));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::{SIGNIFICANT_Q, benjamini_hochberg};

    const Z95: f64 = 1.959_963_984_540_054;

    fn counts(n_docs: u64, docs: &[u32]) -> FeatureCounts {
        FeatureCounts { n_docs, docs: docs.to_vec() }
    }

    #[test]
    fn significant_rows_come_first_by_what_is_certain() {
        // Feature 2 differs most but rests on two documents; 1 differs more than 0.
        let (a, b) = (counts(200, &[100, 120, 2, 50]), counts(4, &[0, 0, 2, 1]));
        let rows = diff(&a, &b, &[0, 1, 2, 3], 1, Z95);
        assert_eq!(rows.iter().map(|row| row.feature_id).collect::<Vec<_>>(), [2, 1, 0, 3]);
        let (a, b) = (counts(200, &[100, 120, 2, 50]), counts(200, &[10, 20, 2, 51]));
        let rows = diff(&a, &b, &[0, 1, 2, 3], 1, Z95);
        assert_eq!(rows.iter().map(|row| row.feature_id).collect::<Vec<_>>(), [1, 0, 2, 3]);
        assert!(rows[0].ci.0 > 0.3 && rows[0].ci.1 < 0.6 && rows[0].odds_ratio > 10.0);
        // Of two that are significant the frequent one, 0, differs by 0.12 (at least 0.023), the rare one, 1, by 0.09 (at
        // least 0.064), on either side; of the others 2 differs by 0.06 with p 0.104, 3 by 0.0175 with p 0.090.
        let (a, b) = (counts(400, &[224, 36, 212, 10]), counts(400, &[176, 0, 188, 3]));
        for (a, b) in [(&a, &b), (&b, &a)] {
            let rows = diff(a, b, &[0, 1, 2, 3], 1, Z95);
            let told = |row: &DiffRow| (row.feature_id, row.q_value < SIGNIFICANT_Q, row.p_value < 0.1);
            assert_eq!(
                rows.iter().map(told).collect::<Vec<_>>(),
                [(1, true, true), (0, true, true), (3, false, true), (2, false, false)]
            );
        }
    }

    #[test]
    fn random_halves_of_one_set_do_not_differ() {
        // 2,000 documents, 300 features from frequent to rare, fifty ways to split: the share of splits in which
        // anything comes out significant must stay near the 5 % that q < 0.05 allows.
        let mut state = 0x2545_F491_4F6C_DD1Du64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let documents: Vec<Vec<u32>> = (0..2000)
            .map(|_| (0..300u32).filter(|id| random() % 1000 < u64::from(500 / (id / 10 + 1))).collect())
            .collect();
        let ids: Vec<u32> = (0..300).collect();
        let mut splits = 0;
        let mut p_values = Vec::new();
        for _ in 0..50 {
            let mut halves = [FeatureCounts::new(300), FeatureCounts::new(300)];
            documents.iter().for_each(|ids| halves[(random() % 2) as usize].update(ids));
            let rows = diff(&halves[0], &halves[1], &ids, 5, Z95);
            splits += usize::from(rows.iter().any(|row| row.q_value < SIGNIFICANT_Q));
            p_values.extend(rows.iter().map(|row| row.p_value));
        }
        assert!(splits <= 6, "{splits} of 50 splits");
        let small = p_values.iter().filter(|p| **p < 0.05).count() as f64 / p_values.len() as f64;
        assert!((0.02..0.06).contains(&small), "{small} of p are below 0.05");
    }

    fn groups(
        counts: &GroupCounts,
        targets: std::ops::Range<usize>,
        against: Against,
        ids: &[FeatureId],
        min_docs: u64,
        z: f64,
    ) -> Vec<DiffRow> {
        diff_groups(counts, targets, against, ids, min_docs, z, &Cancellation::default())
    }

    /// A repeatable stream of numbers below 2^64.
    fn randoms(seed: u64) -> impl FnMut() -> u64 {
        let mut state = seed;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        }
    }

    #[test]
    fn unequal_groups_that_do_not_differ_hold_the_error_rate() {
        // 3,000 documents in groups of about 2, 8, 30 and 60 %, forty ways: against the rest and against the largest.
        let mut random = randoms(0x9E37_79B9_7F4A_7C15);
        let documents: Vec<Vec<u32>> = (0..3000)
            .map(|_| (0..200u32).filter(|id| random() % 1000 < u64::from(400 / (id / 5 + 1))).collect())
            .collect();
        let ids: Vec<u32> = (0..200).collect();
        for against in [Against::Rest, Against::Max] {
            let mut found = 0;
            for _ in 0..40 {
                let mut counts = GroupCounts::new(200, 4, 1);
                for ids in &documents {
                    let group = match random() % 100 {
                        0..2 => 0,
                        2..10 => 1,
                        10..40 => 2,
                        _ => 3,
                    };
                    counts.update(group, 0, ids);
                }
                let rows = groups(&counts, 0..4, against, &ids, 5, Z95);
                assert!(rows.is_sorted_by_key(|row| row.group) && rows.iter().any(|row| row.group == 3));
                found += usize::from(rows.iter().any(|row| row.q_value < SIGNIFICANT_Q));
            }
            assert!(found <= 5, "{against:?}: {found} of 40");
        }
    }

    #[test]
    fn what_length_alone_explains_vanishes_when_it_is_held_constant() {
        // A is short (40 to 240 words, mostly near 40), B long; 300 features whose presence depends on length alone, in
        // many ways. Without control most of them differ; within strata of like length next to none may.
        let mut random = randoms(0xD1B5_4A32_D192_ED03);
        let mut unit = move || (random() >> 11) as f64 / (1u64 << 53) as f64;
        let documents: Vec<(usize, f64, Vec<u32>)> = (0..3000)
            .map(|row| {
                let (side, u) = (row % 2, unit().powf(1.7));
                let length = (40.0 + 200.0 * if side == 0 { u } else { 1.0 - u }).floor();
                let has = |id: &u32| {
                    let rate = f64::from(id % 30 + 1) / 3000.0;
                    unit() < 1.0 - (-rate * length * f64::from(id / 30 + 1) / 5.0).exp()
                };
                (side, length, (0..300).filter(has).collect())
            })
            .collect();
        let values: Vec<(f64, u32)> = documents.iter().map(|(side, length, _)| (*length, *side as u32)).collect();
        let ends = crate::strata::ranges(values, 200);
        let (mut plain, mut controlled) = (GroupCounts::new(300, 2, 1), GroupCounts::new(300, 2, ends.len()));
        for (side, length, ids) in &documents {
            plain.update(*side, 0, ids);
            controlled.update(*side, crate::strata::range_of(&ends, *length).unwrap(), ids);
        }
        let ids: Vec<u32> = (0..300).collect();
        let significant = |counts: &GroupCounts| {
            let rows = groups(counts, 0..1, Against::Rest, &ids, 5, Z95);
            assert!(rows.len() > 250);
            rows.iter().filter(|row| row.q_value < SIGNIFICANT_Q).count() as f64 / rows.len() as f64
        };
        assert!(significant(&plain) > 0.8, "{}", significant(&plain));
        assert!(significant(&controlled) <= 0.01, "{}", significant(&controlled));
        let rows = groups(&controlled, 0..1, Against::Rest, &ids, 5, Z95);
        let small = rows.iter().filter(|row| row.p_value < 0.05).count() as f64 / rows.len() as f64;
        assert!(small < 0.09, "{small} of p are below 0.05");
        assert!(rows.iter().all(|row| (row.frequency_a - row.frequency_b - row.difference).abs() < 1e-12));
        assert!(rows[0].n_a + rows[0].n_b > 2000, "most documents have a counterpart");
    }

    #[test]
    fn a_difference_survives_control_and_is_told_without_the_confounder() {
        // In short documents (stratum 0) A has it in .2, B in .1; in long ones .7 and .6; A is mostly long.
        let mut counts = GroupCounts::new(1, 2, 2);
        for (group, stratum, n, with) in [(0, 0, 1000, 200), (0, 1, 4000, 2800), (1, 0, 4000, 400), (1, 1, 1000, 600)] {
            (0..n).for_each(|row| counts.update(group, stratum, if row < with { &[0] } else { &[] }));
        }
        let row = &groups(&counts, 0..1, Against::Rest, &[0], 1, Z95)[0];
        assert!((row.difference - 0.1).abs() < 1e-12 && row.ci.0 > 0.07 && row.ci.1 < 0.13, "{row:?}");
        assert_eq!((row.docs_a, row.n_a, row.docs_b, row.n_b), (3000, 5000, 1000, 5000));
    }

    #[test]
    fn a_group_is_told_from_the_largest_of_the_others() {
        // Feature 0: the first group has it most; 1: the third group has it as often; 2: all others have it more often.
        let mut counts = GroupCounts::new(3, 3, 1);
        for (group, shares) in [[60, 60, 10], [20, 20, 30], [30, 60, 50]].into_iter().enumerate() {
            for row in 0..100 {
                let ids: Vec<u32> = (0..3u32).filter(|id| row < shares[*id as usize]).collect();
                counts.update(group, 0, &ids);
            }
        }
        let rows = groups(&counts, 0..1, Against::Max, &[0, 1, 2], 1, Z95);
        let of = |id| rows.iter().find(|row| row.feature_id == id).unwrap();
        assert_eq!((of(0).other, of(0).docs_b), (Some(2), 30));
        assert!((of(0).difference - 0.3).abs() < 1e-12 && of(0).q_value < 0.001);
        let own = crate::statistics::fisher_greater(60, 100, 90, 200);
        assert!((of(0).p_value / (2.0 * own) - 1.0).abs() < 1e-9);
        assert!(of(1).p_value == 1.0 && of(1).difference.abs() < 1e-12);
        assert_eq!(of(2).other, Some(1));
        assert!((of(2).difference + 0.2).abs() < 1e-12 && of(2).p_value < 0.01);
        let all = groups(&counts, 0..3, Against::Rest, &[0, 1, 2], 1, Z95);
        assert_eq!(all.len(), 9);
        let p: Vec<f64> = all.iter().map(|row| row.p_value).collect();
        let q: Vec<f64> = all.iter().map(|row| row.q_value).collect();
        assert_eq!(q, benjamini_hochberg(&p, 9), "corrected for the tests of all groups");
    }

    #[test]
    fn what_no_compared_document_has_is_not_tested() {
        // Feature 0 is in the first stratum, in which all groups are; feature 1 where the first group is alone.
        let mut counts = GroupCounts::new(2, 3, 2);
        for group in 0..3 {
            (0..20).for_each(|row| counts.update(group, 0, if row < 5 * (group + 1) { &[0] } else { &[] }));
        }
        (0..20).for_each(|_| counts.update(0, 1, &[1]));
        for against in [Against::Rest, Against::Max] {
            let rows = groups(&counts, 0..1, against, &[0, 1], 1, Z95);
            assert_eq!(rows.iter().map(|row| row.feature_id).collect::<Vec<_>>(), [0], "{against:?}");
        }
    }

    #[test]
    fn between_the_others_a_group_is_compared_with_the_most_frequent() {
        // 50 of 100 against 80 and 40: neither above all others nor below them.
        let mut counts = GroupCounts::new(1, 3, 1);
        for (group, with) in [(0, 50), (1, 80), (2, 40)] {
            (0..100).for_each(|row| counts.update(group, 0, if row < with { &[0] } else { &[] }));
        }
        let rows = groups(&counts, 0..3, Against::Max, &[0], 1, Z95);
        let told: Vec<_> = rows.iter().map(|row| (row.other, (row.difference * 100.0).round())).collect();
        assert_eq!(told, [(Some(1), -30.0), (Some(0), 30.0), (Some(0), -10.0)]);
        assert_eq!(rows[0].p_value, 1.0);
    }

    #[test]
    fn three_points_between_pairs_are_found_and_missed_without_them() {
        // 800 pairs: 320 have the feature on both sides, 24 more on one; 2,900 features that do not differ.
        let mut random = randoms(0xA076_1D64_78BD_642F);
        let mut paired = PairedCounts::new(2901);
        for pair in 0..800 {
            let (mut a, mut b) = (Vec::new(), Vec::new());
            if pair < 344 {
                a.push(0);
            }
            if pair < 320 {
                b.push(0);
            }
            for id in 1..2901u32 {
                let shared = random() % 100 < 8;
                a.extend((shared || random() % 100 < 2).then_some(id));
                b.extend((shared || random() % 100 < 2).then_some(id));
            }
            paired.update(&a, &b);
        }
        let ids: Vec<u32> = (0..2901).collect();
        let rows = diff_paired(&paired, &ids, 5, Z95);
        let significant: Vec<u32> =
            rows.iter().filter(|row| row.q_value < SIGNIFICANT_Q).map(|row| row.feature_id).collect();
        assert_eq!(significant, [0]);
        let unpaired = diff(&paired.a, &paired.b, &ids, 5, Z95);
        assert!(unpaired.iter().find(|row| row.feature_id == 0).unwrap().q_value > 0.5);
    }

    #[test]
    fn an_empty_side_gives_nothing() {
        assert!(diff(&counts(0, &[0]), &counts(5, &[5]), &[0], 1, Z95).is_empty());
        assert!(diff(&FeatureCounts::default(), &FeatureCounts::default(), &[], 1, Z95).is_empty());
    }

    #[test]
    fn pairs_see_what_margins_hide() {
        // 30 of 100 pairs switch in one direction and none in the other.
        let mut paired = PairedCounts::new(1);
        for pair in 0..100 {
            let (a, b): (&[u32], &[u32]) = if pair < 30 {
                (&[0], &[])
            } else if pair < 60 {
                (&[0], &[0])
            } else {
                (&[], &[])
            };
            paired.update(a, b);
        }
        let rows = diff_paired(&paired, &[0], 1, Z95);
        assert_eq!((rows[0].docs_a, rows[0].docs_b), (60, 30));
        assert!((rows[0].p_value - 2.0 * 0.5f64.powi(30)).abs() < 1e-20);
        assert!((rows[0].odds_ratio - 61.0).abs() < 1e-12);
        let unpaired = diff(&paired.a, &paired.b, &[0], 1, Z95);
        assert!(unpaired[0].p_value > rows[0].p_value);
        assert!(unpaired[0].ci.0 < rows[0].ci.0, "pairing narrows the interval");
    }

    #[test]
    fn rare_and_unselected_features_are_not_tested() {
        let (a, b) = (counts(50, &[4, 30, 30]), counts(50, &[0, 10, 10]));
        let rows = diff(&a, &b, &[0, 1], default_min_docs(100), Z95);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].q_value, rows[0].p_value, "one test needs no correction");
        assert_eq!((default_min_docs(6), default_min_docs(60), default_min_docs(10_000)), (1, 3, 5));
    }
}
