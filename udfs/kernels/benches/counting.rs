//! In how many documents each feature is: an array by id, against a hash map.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::collections::HashMap;

use criterion::{Criterion, criterion_group, criterion_main};
use saequel_kernels::counting::FeatureCounts;

mod synthetic;
use synthetic::{Corpus, N_FEATURES};

fn ours(corpus: &Corpus) -> FeatureCounts {
    let mut counts = FeatureCounts::new(N_FEATURES);
    (0..corpus.len()).for_each(|doc| counts.update(corpus.ids(doc)));
    counts
}

fn naive(corpus: &Corpus) -> HashMap<u32, u32> {
    let mut counts = HashMap::new();
    (0..corpus.len()).flat_map(|doc| corpus.ids(doc)).for_each(|id| *counts.entry(*id).or_default() += 1);
    counts
}

fn counting(criterion: &mut Criterion) {
    let corpus = Corpus::new(50_000);
    let (counts, expected) = (ours(&corpus), naive(&corpus));
    assert!((0..N_FEATURES as u32).all(|id| counts.docs(id) == u64::from(expected.get(&id).copied().unwrap_or(0))));
    let mut group = criterion.benchmark_group("counting, 50,000 documents");
    group.sample_size(10);
    group.bench_function("array", |bencher| bencher.iter(|| ours(&corpus)));
    group.bench_function("hash map", |bencher| bencher.iter(|| naive(&corpus)));
    group.finish();
}

criterion_group!(benches, counting);
criterion_main!(benches);
