//! Ranking of pairs against brute force, scipy's figures and chance.

use super::*;
use crate::background::StratumCounts;
use crate::cooccurrence::{FeatureLists, blocks};
use crate::random::Random;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

fn rank(rows: &[Vec<u32>], n_features: usize, direction: Direction, limit: usize, budget: usize) -> Vec<PairRow> {
    let position_of: Vec<u32> = (0..n_features as u32).collect();
    let features: Vec<u32> = (0..n_features as u32).map(|position| position * 10).collect();
    let mut documents = FeatureLists::default();
    rows.iter().for_each(|ids| documents.push(ids.iter().copied()));
    let documents = documents.documents(&position_of, n_features);
    let mut ranking = Ranking::new(direction, RankBy::Llr, limit, 0);
    for block in blocks(n_features, budget) {
        let mut counts = PairCounts::new(n_features, block);
        counts.update(&documents);
        let block = Block { counts: &counts, features: &features, split: None, background: None, min_lift: 1.0 };
        ranking.scan(block, &Cancellation::default(), |a, b| (a, b) != (0, 20));
    }
    ranking.finish()
}

proptest! {
    #[test]
    fn ranks_all_pairs_and_corrects_over_them(rows in vec(btree_set(0u32..7, 0..6), 1..60), limit in 0usize..30, budget in 1usize..400) {
        let rows: Vec<Vec<u32>> = rows.into_iter().map(|ids| ids.into_iter().collect()).collect();
        let n = rows.len() as u64;
        let count = |keep: &dyn Fn(&Vec<u32>) -> bool| rows.iter().filter(|ids| keep(ids)).count() as u64;
        let mut expected = Vec::new();
        for a in 0..7u32 {
            for b in a + 1..7 {
                let (first, second) = (count(&|ids| ids.contains(&a)), count(&|ids| ids.contains(&b)));
                let both = count(&|ids| ids.contains(&a) && ids.contains(&b));
                let llr = log_likelihood_ratio(both, first, second, n);
                let p = p_value(Direction::Both, both, (first, second), n);
                expected.push(((a * 10, b * 10), both, llr, p));
            }
        }
        let p: Vec<f64> = expected.iter().map(|row| row.3).collect();
        let q = benjamini_hochberg(&p, p.len() as u64);
        let mut expected: Vec<_> = expected.into_iter().zip(q).filter(|(row, _)| row.0 != (0, 20)).collect();
        expected.sort_by(|x, y| y.0.2.total_cmp(&x.0.2).then_with(|| x.0.0.cmp(&y.0.0)));
        expected.truncate(limit);
        let got = rank(&rows, 7, Direction::Both, limit, budget);
        prop_assert_eq!(got.len(), expected.len());
        for (got, ((features, both, llr, p), q)) in got.iter().zip(expected) {
            prop_assert_eq!((got.features, got.docs_both, got.llr, got.p_value), (features, both, llr, p));
            prop_assert!((got.q_value - q).abs() < 1e-12, "{} {}", got.q_value, q);
        }
    }
}

#[test]
fn directions_part_the_pairs() {
    // 0 and 1 always together, 2 never with them, 3 everywhere.
    let rows: Vec<Vec<u32>> = (0..40).map(|row| if row % 2 == 0 { vec![0, 1, 3] } else { vec![2, 3] }).collect();
    let features =
        |direction| rank(&rows, 4, direction, 9, 1000).into_iter().map(|row| row.features).collect::<Vec<_>>();
    assert_eq!(features(Direction::Positive), [(0, 10)]);
    assert_eq!(features(Direction::Negative), [(10, 20)], "(0, 20) is refused");
    let best = &rank(&rows, 4, Direction::Positive, 1, 1000)[0];
    assert_eq!((best.npmi(), best.p_a_given_b(), best.p_b_given_a()), (1.0, 1.0, 1.0));
    assert!(best.q_value > best.p_value && best.q_value < 1e-7, "6 pairs were tested");
}

#[test]
fn features_of_a_quarter_of_a_percent_are_tested() {
    let at_least = [1, 60, 100, 1_999, 2_400, 5_000, 100_000].map(default_min_docs);
    assert_eq!(at_least, [1, 3, 5, 5, 6, 12, 250]);
}

#[test]
fn strata_explain_what_a_topic_brings_together() {
    // 0 and 1 are in half of the first topic's documents, by chance; 2 and 3 are together in both topics.
    let mut documents = FeatureLists::default();
    let mut strata = StratumCounts::new(3, 4);
    for row in 0..4000u32 {
        let topic = row % 2;
        let mut ids = Vec::new();
        ids.extend((topic == 0 && row / 2 % 2 == 0).then_some(0));
        ids.extend((topic == 0 && row / 4 % 2 == 0).then_some(1));
        ids.extend((row / 8 % 50 == 0).then_some(2));
        ids.extend((row / 8 % 25 == 0).then_some(3));
        documents.push(ids.iter().copied());
        strata.update(topic as usize, &ids);
    }
    let mut counts = PairCounts::new(4, 0..4);
    counts.update(&documents.documents(&[0, 1, 2, 3], 4));
    let features = [0, 1, 2, 3];
    let background = strata.background(&features);
    let best = |background| {
        let mut ranking = Ranking::new(Direction::Positive, RankBy::Llr, 9, 0);
        let block = Block { counts: &counts, features: &features, split: None, background, min_lift: 1.0 };
        ranking.scan(block, &Cancellation::default(), |_, _| true);
        ranking.finish()
    };
    let raw = best(None);
    assert!(raw.iter().any(|row| row.features == (0, 1) && row.q_value < 1e-50));
    let within = best(Some(&background));
    assert_eq!(within[0].features, (2, 3));
    assert!(within[0].q_value < 1e-50 && (within[0].expected - 3.2).abs() < 1e-9, "{:?}", within[0]);
    assert!(within[1..].iter().all(|row| row.q_value > 0.3), "{within:?}");
}

#[test]
fn one_stratum_is_no_stratum() {
    let rows: Vec<Vec<u32>> = (0..300).map(|row| (0..5).filter(|id| row % (id + 2) == 0).collect()).collect();
    let mut documents = FeatureLists::default();
    let mut strata = StratumCounts::new(1, 5);
    rows.iter().for_each(|ids| {
        documents.push(ids.iter().copied());
        strata.update(0, ids);
    });
    let mut counts = PairCounts::new(5, 0..5);
    counts.update(&documents.documents(&[0, 1, 2, 3, 4], 5));
    let background = strata.background(&[0, 1, 2, 3, 4]);
    let rows = |background| {
        let mut ranking = Ranking::new(Direction::Positive, RankBy::Llr, 99, 0);
        let block = Block { counts: &counts, features: &[0, 1, 2, 3, 4], split: None, background, min_lift: 1.0 };
        ranking.scan(block, &Cancellation::default(), |_, _| true);
        let mut rows = ranking.finish();
        rows.sort_by_key(|row| row.features);
        rows
    };
    let (exact, within) = (rows(None), rows(Some(&background)));
    assert_eq!(exact.len(), within.len());
    for (x, y) in exact.iter().zip(within) {
        assert!((x.llr - y.llr).abs() < 1e-9 * (1.0 + x.llr) && (x.expected - y.expected).abs() < 1e-9);
        let bound = y.p_value.ln() / x.p_value.ln();
        assert!((0.8..=1.0 + 1e-9).contains(&bound), "an upper bound, and near: {x:?} {y:?}");
    }
}

#[test]
fn a_lift_must_be_exceeded() {
    // 0 and 1 are together 40 times where 20 are expected, 2 and 3 as often where 4 are.
    let counts = |a: u64, b: u64, both: u64| {
        let mut counts = PairCounts::new(2, 0..2);
        counts.add_documents(2000, [(0, a as u32), (1, b as u32)].into_iter());
        counts.add_pair(0, 1, both as u32);
        counts
    };
    let test = |counts: &PairCounts, min_lift: f64, direction| {
        let mut ranking = Ranking::new(direction, RankBy::Llr, 9, 0);
        let block = Block { counts, features: &[0, 1], split: None, background: None, min_lift };
        ranking.scan(block, &Cancellation::default(), |_, _| true);
        ranking.finish().first().map(|row| (row.p_value, row.expected))
    };
    let (twice, often) = (counts(200, 200, 40), counts(100, 80, 40));
    assert!(test(&twice, 1.0, Direction::Positive).is_some_and(|(p, expected)| p < 1e-4 && expected == 20.0));
    assert_eq!(test(&twice, 2.0, Direction::Positive), None, "it is twice as often, not more");
    assert!(test(&often, 2.0, Direction::Positive).is_some_and(|(p, expected)| p < 1e-10 && expected == 4.0));
    assert!(test(&often, 9.0, Direction::Both).is_some_and(|(p, _)| p > 0.01));
    assert_eq!(test(&often, 2.0, Direction::Negative), None);
    // As often as expected, or nearly so, is neither more nor less.
    for both in [19, 20, 21] {
        for direction in [Direction::Positive, Direction::Negative, Direction::Both] {
            assert_eq!(test(&counts(200, 200, both), 2.0, direction), None, "{both} where 20 are expected");
        }
    }
    // Never together where 40 are expected: also less than half as often. A lift no pair can have is met by none.
    let never = counts(400, 200, 0);
    assert!(test(&never, 2.0, Direction::Both).is_some_and(|(p, _)| p < 1e-7));
    assert_eq!(test(&often, 1000.0, Direction::Both), None);
}

#[test]
fn what_is_never_together_has_an_exact_p() {
    // Of 2,000 documents 112 have each: 6.3 are expected to have both, and none has.
    let mut counts = PairCounts::new(2, 0..2);
    counts.add_documents(2000, [(0, 112), (1, 112)].into_iter());
    let p = |direction, min_lift| {
        let mut ranking = Ranking::new(direction, RankBy::Llr, 9, 0);
        let block = Block { counts: &counts, features: &[0, 1], split: None, background: None, min_lift };
        ranking.scan(block, &Cancellation::default(), |_, _| true);
        ranking.finish().first().map(|row| row.p_value).unwrap()
    };
    let exact = fisher_less(0, 112, 112, 2000);
    assert!((p(Direction::Negative, 1.0) / exact - 1.0).abs() < 1e-9 && exact > 1e-3);
    assert!((p(Direction::Both, 1.0) / fisher_two_sided(0, 112, 112, 2000) - 1.0).abs() < 1e-9);
    // Half as often as expected is the null hypothesis: (1 - 3.136 / 112)^112.
    let bound = (112.0 * (-3.136f64 / 112.0).ln_1p()).exp();
    assert!((p(Direction::Negative, 2.0) / bound - 1.0).abs() < 1e-9);
    // The mirror image: every document with the first has the second, which nearly all have.
    assert!(p_value(Direction::Positive, 200, (200, 450), 500) > 1e-12);
}

#[test]
fn p_is_exact_where_g_squared_is_several_times_too_small() {
    // One-sided p by scipy's `hypergeom`; G² has 1.1e-4, 6.5e-4, 7.0e-6 and 9.9e-7.
    let p = |both: u32, docs: (u32, u32), n: u32, direction| {
        let mut counts = PairCounts::new(2, 0..2);
        counts.add_documents(u64::from(n), [(0, docs.0), (1, docs.1)].into_iter());
        counts.add_pair(0, 1, both);
        let mut ranking = Ranking::new(direction, RankBy::Llr, 9, 0);
        let block = Block { counts: &counts, features: &[0, 1], split: None, background: None, min_lift: 1.0 };
        ranking.scan(block, &Cancellation::default(), |_, _| true);
        ranking.finish().remove(0).p_value
    };
    let near = |got: f64, expected: f64| assert!((got / expected - 1.0).abs() < 1e-9, "{got} {expected}");
    near(p(1, (315, 14), 600, Direction::Negative), 0.00043154728180690616);
    near(p(14, (60, 60), 600, Direction::Positive), 0.0010671002822076787);
    near(p(24, (100, 100), 1000, Direction::Positive), 1.1671091335524254e-05);
    near(p(820, (20_000, 7000), 200_000, Direction::Positive), 1.0615816567585956e-06);
}

#[test]
fn the_closest_are_those_farthest_in_the_direction() {
    // 0 and 1 are never together, 0 and 2 always, 1 and 2 a little less often than chance has it.
    let mut counts = PairCounts::new(3, 0..3);
    counts.add_documents(1000, [(0, 200), (1, 200), (2, 500)].into_iter());
    counts.add_pair(0, 2, 200);
    counts.add_pair(1, 2, 95);
    let first = |direction| {
        let mut ranking = Ranking::new(direction, RankBy::Npmi, 1, 0);
        let block = Block { counts: &counts, features: &[0, 1, 2], split: None, background: None, min_lift: 1.0 };
        ranking.scan(block, &Cancellation::default(), |_, _| true);
        ranking.finish().first().map(|row| row.features)
    };
    assert_eq!(first(Direction::Positive), Some((0, 2)));
    assert_eq!(first(Direction::Negative), Some((0, 1)));
    assert_eq!(first(Direction::Both), Some((0, 1)));
}

#[test]
fn columns_shuffled_independently_are_clean() {
    // Margins as in 2,000 answers: a few features in most of them, most in few. Topics differ in size.
    let mut wrong = [0; 2];
    for seed in 0..20 {
        let mut random = Random::new(seed, 0x5B);
        let n = 2000;
        let mut rows = vec![Vec::new(); n];
        for id in 0..300u32 {
            let docs = (10.0 * (180.0f64).powf(random.unit().powi(2))) as usize;
            random.sample(n, docs).into_iter().for_each(|row| rows[row].push(id));
        }
        let position_of: Vec<u32> = (0..300).collect();
        let mut documents = FeatureLists::default();
        let mut strata = StratumCounts::new(20, 300);
        for (row, ids) in rows.iter().enumerate() {
            documents.push(ids.iter().copied());
            strata.update(((row as f64 / n as f64).sqrt() * 20.0) as usize, ids);
        }
        let mut counts = PairCounts::new(300, 0..300);
        counts.update(&documents.documents(&position_of, 300));
        let background = strata.background(&position_of);
        for (at, background) in [None, Some(&background)].into_iter().enumerate() {
            let mut ranking = Ranking::new(Direction::Both, RankBy::Llr, 10, 0);
            let block = Block { counts: &counts, features: &position_of, split: None, background, min_lift: 1.0 };
            ranking.scan(block, &Cancellation::default(), |_, _| true);
            wrong[at] += i32::from(ranking.finish().iter().any(|row| row.q_value < 0.05));
        }
    }
    // One of twenty is what a rate of 0.05 allows for.
    assert!(wrong.iter().all(|wrong| *wrong <= 1), "{wrong:?}");
}

#[test]
fn passing_pairs_over_changes_nothing() {
    let mut random = Random::new(3, 0x5C);
    let (n, n_features) = (3000, 120);
    let mut documents = FeatureLists::default();
    for _ in 0..n {
        let topic = random.below(12) as u32;
        let mut ids: Vec<u32> = (0..12).map(|_| (120.0 * random.unit().powi(3)) as u32).collect();
        ids.extend((0..3).map(|_| topic * 10 + random.below(10) as u32));
        ids.sort_unstable();
        ids.dedup();
        documents.push(ids);
    }
    let position_of: Vec<u32> = (0..n_features).collect();
    let mut counts = PairCounts::new(120, 0..120);
    counts.update(&documents.documents(&position_of, 120));
    // A background that is the same as none keeps every pair from being passed over.
    for direction in [Direction::Positive, Direction::Negative, Direction::Both] {
        for (by, limit, min_both) in [(RankBy::Llr, 20, 0), (RankBy::Npmi, 20, 5), (RankBy::Npmi, 7000, 0)] {
            let rank = |passes_over: bool| {
                let mut ranking = Ranking::new(direction, by, limit, min_both);
                ranking.kept_p = 50;
                for _ in 0..2 {
                    let block =
                        Block { counts: &counts, features: &position_of, split: None, background: None, min_lift: 1.0 };
                    ranking.scan(block, &Cancellation::default(), |a, b| a + b != 7);
                    if !passes_over {
                        (ranking.found.p_bound, ranking.found.ln_p_bound) = (f64::INFINITY, f64::INFINITY);
                        ranking.found.key_bound = f64::NEG_INFINITY;
                    }
                }
                ranking.finish()
            };
            assert_eq!(rank(true), rank(false), "{direction:?} {by:?} {limit}");
        }
    }
}

#[test]
fn bounds_hold() {
    let screen = Screen::new(60);
    for (a, b) in (1..60u64).flat_map(|a| (1..60u64).map(move |b| (a, b))) {
        for both in (a + b).saturating_sub(60)..=a.min(b) {
            let ln_p = screen.ln_probability(both, (a, b), screen.margin(a) + screen.margin(b));
            let llr = log_likelihood_ratio(both, a, b, 60);
            assert!(screen.ln_8n - 2.0 * ln_p >= llr, "{a} {b} {both}");
            let at_least = screen.ln_p_at_least(ln_p, both, (a, b));
            let p = match (both * 60).cmp(&(a * b)) {
                Ordering::Greater => fisher_greater(both, a, b, 60),
                Ordering::Less => fisher_less(both, a, b, 60),
                Ordering::Equal => continue,
            };
            assert!(at_least <= p.ln() + 1e-9, "{a} {b} {both}: {at_least} {}", p.ln());
            let whole = ln_p.exp() * screen.tail(both, (a, b), usize::MAX);
            assert!((whole - p).abs() < 1e-7 * p, "{a} {b} {both}: {whole} {p}");
        }
    }
    assert!((screen.ln_factorial(50) - Screen::new(1).ln_factorial(50)).abs() < 1e-6);
}
