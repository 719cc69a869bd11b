//! The 50 documents with the largest weighted sums of 16 features: postings, against a pass over all documents.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use criterion::{Criterion, criterion_group, criterion_main};
use saequel_kernels::postings::{CHUNK_DOCS, Chunk, ChunkBuilder, Search, Term};
use saequel_kernels::random::Random;

mod synthetic;
use synthetic::{Corpus, N_FEATURES};

const N_DOCS: usize = 200_000;
const K: usize = 50;

fn chunks(corpus: &Corpus) -> Vec<Chunk> {
    let (mut chunks, mut builder) = (Vec::new(), ChunkBuilder::default());
    for doc in 0..corpus.len() {
        builder.push(corpus.ids(doc), corpus.activations(doc));
        if builder.n_docs() == CHUNK_DOCS || doc + 1 == corpus.len() {
            chunks.push(builder.finish(N_FEATURES));
        }
    }
    chunks
}

fn ours(chunks: &[Chunk], query: &[(u32, f32)]) -> Vec<(u64, f32)> {
    let largest = |id: u32| chunks.iter().map(|chunk| chunk.largest[id as usize].to_f32()).fold(0.0, f32::max);
    let terms: Vec<Term> = query.iter().map(|(id, weight)| Term { weight: *weight, largest: largest(*id) }).collect();
    let mut search = Search::new(&terms, K);
    let mut first = 0;
    for chunk in chunks {
        let lists: Vec<&[u16]> = query.iter().map(|(id, _)| chunk.list(*id)).collect();
        search.chunk(&lists, chunk.n_docs, first, None);
        first += chunk.n_docs as u64;
    }
    search.finish()
}

fn naive(corpus: &Corpus, query: &[(u32, f32)]) -> Vec<(u64, f32)> {
    let mut weights = vec![0.0f32; N_FEATURES];
    query.iter().for_each(|(id, weight)| weights[*id as usize] = *weight);
    let sum = |doc: usize| -> f64 {
        let parts = corpus.ids(doc).iter().zip(corpus.activations(doc));
        parts.map(|(id, activation)| f64::from(weights[*id as usize]) * activation.to_f64()).sum()
    };
    let mut all: Vec<(u64, f32)> = (0..corpus.len()).map(|doc| (doc as u64, sum(doc) as f32)).collect();
    all.select_nth_unstable_by(K, |a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(K);
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all
}

fn retrieval(criterion: &mut Criterion) {
    let corpus = Corpus::new(N_DOCS);
    let chunks = chunks(&corpus);
    let mut random = Random::new(3, 0);
    let mut query = |low: u64, high: u64| -> Vec<(u32, f32)> {
        let mut ids: Vec<u32> = (0..16).map(|_| (low + random.below(high - low)) as u32).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter().map(|id| (id, random.unit() as f32)).collect()
    };
    let mut group = criterion.benchmark_group("retrieval, 200,000 documents");
    group.sample_size(20);
    for (name, query) in [("usual features", query(200, 8192)), ("frequent features", query(0, 60))] {
        let (found, expected) = (ours(&chunks, &query), naive(&corpus, &query));
        assert_eq!(found.len(), K);
        for (found, expected) in found.iter().zip(&expected) {
            // Sums in another order differ in their last digits.
            assert!((found.1 - expected.1).abs() <= 1e-6 * expected.1, "{found:?} {expected:?}");
        }
        group.bench_function(format!("{name}, postings"), |bencher| bencher.iter(|| ours(&chunks, &query)));
        group.bench_function(format!("{name}, all documents"), |bencher| bencher.iter(|| naive(&corpus, &query)));
    }
    group.finish();
}

criterion_group!(benches, retrieval);
criterion_main!(benches);
