//! Jaccard similarity of every two of 2,000 documents: counting what is shared, against merging every two lists.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use criterion::{Criterion, criterion_group, criterion_main};
use saequel_kernels::spectral::Affinity;

mod synthetic;
use synthetic::{Corpus, N_FEATURES};

fn merged(a: &[u32], b: &[u32]) -> f32 {
    let (mut i, mut j, mut both) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        both += usize::from(a[i] == b[j]);
        let (x, y) = (a[i], b[j]);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    if both == 0 { 0.0 } else { both as f32 / (a.len() + b.len() - both) as f32 }
}

fn naive(sets: &[Vec<u32>]) -> Vec<f32> {
    let row = |i: usize| (0..sets.len()).map(move |j| if i == j { 0.0 } else { merged(&sets[i], &sets[j]) });
    (0..sets.len()).flat_map(row).collect()
}

fn similarity(criterion: &mut Criterion) {
    let corpus = Corpus::new(2_000);
    let sets: Vec<Vec<u32>> = (0..corpus.len()).map(|doc| corpus.ids(doc).to_vec()).collect();
    let (affinity, expected) = (Affinity::jaccard(&sets, N_FEATURES), naive(&sets));
    for i in 0..sets.len() {
        assert!((0..sets.len()).all(|j| affinity.similarity(i, j) == expected[i * sets.len() + j]));
    }
    let mut group = criterion.benchmark_group("similarity of 2,000 documents");
    group.sample_size(10);
    group.bench_function("counted", |bencher| bencher.iter(|| Affinity::jaccard(&sets, N_FEATURES)));
    group.bench_function("merged", |bencher| bencher.iter(|| naive(&sets)));
    group.finish();
}

criterion_group!(benches, similarity);
criterion_main!(benches);
