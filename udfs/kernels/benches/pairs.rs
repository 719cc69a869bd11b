//! Pairs of features: counting them, against a hash map of pairs; and ranking them, of which there is no naive way that ends.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::collections::HashMap;

use criterion::{Criterion, criterion_group, criterion_main};
use saequel_kernels::cancellation::Cancellation;
use saequel_kernels::cooccurrence::{Documents, FeatureLists, PairCounts, blocks};
use saequel_kernels::correlation::{Block, Direction, PairRow, RankBy, Ranking};

mod synthetic;
use synthetic::{Corpus, N_FEATURES};

/// Counts of a block, as `correlate` has them.
const BLOCK_BYTES: usize = 4 << 20;

fn lists(corpus: &Corpus) -> FeatureLists {
    let mut lists = FeatureLists::default();
    (0..corpus.len()).for_each(|doc| lists.push(corpus.ids(doc).iter().copied()));
    lists
}

fn positions() -> Vec<u32> {
    (0..N_FEATURES as u32).collect()
}

fn each_block(documents: &Documents, mut each: impl FnMut(&PairCounts)) {
    for block in blocks(N_FEATURES, BLOCK_BYTES) {
        let mut counts = PairCounts::new(N_FEATURES, block);
        counts.update(documents);
        each(&counts);
    }
}

fn naive(corpus: &Corpus) -> HashMap<(u32, u32), u32> {
    let mut counts = HashMap::new();
    for doc in 0..corpus.len() {
        let ids = corpus.ids(doc);
        for (at, a) in ids.iter().enumerate() {
            ids[at + 1..].iter().for_each(|b| *counts.entry((*a, *b)).or_default() += 1);
        }
    }
    counts
}

fn ranked(documents: &Documents) -> Vec<PairRow> {
    let features = positions();
    let mut ranking = Ranking::new(Direction::Positive, RankBy::Npmi, 100, 50);
    each_block(documents, |counts| {
        let block = Block { counts, features: &features, split: None, background: None, min_lift: 1.0 };
        ranking.scan(block, &Cancellation::default(), |_, _| true);
    });
    ranking.finish()
}

fn pairs(criterion: &mut Criterion) {
    let few = Corpus::new(5_000);
    let (few_lists, expected) = (lists(&few), naive(&few));
    let mut n_pairs = 0;
    each_block(&few_lists.documents(&positions(), N_FEATURES), |counts| {
        for (a, b, both) in counts.pairs() {
            assert_eq!(expected.get(&(a as u32, b as u32)), Some(&both));
            n_pairs += 1;
        }
    });
    assert_eq!(n_pairs, expected.len());
    let mut group = criterion.benchmark_group("pairs of 16,384 features");
    group.sample_size(10);
    group.bench_function("5,000 documents, counted", |bencher| {
        bencher.iter(|| each_block(&few_lists.documents(&positions(), N_FEATURES), |_| {}));
    });
    group.bench_function("5,000 documents, hash map", |bencher| bencher.iter(|| naive(&few)));
    let many = lists(&Corpus::new(200_000));
    group.bench_function("200,000 documents, laid out", |bencher| {
        bencher.iter(|| many.documents(&positions(), N_FEATURES));
    });
    let documents = many.documents(&positions(), N_FEATURES);
    group.bench_function("200,000 documents, counted", |bencher| bencher.iter(|| each_block(&documents, |_| {})));
    group.bench_function("200,000 documents, counted and ranked", |bencher| bencher.iter(|| ranked(&documents)));
    group.finish();
}

criterion_group!(benches, pairs);
criterion_main!(benches);
