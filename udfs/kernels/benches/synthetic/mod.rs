//! A corpus like those that sparse autoencoders give: 64 drawn of 16,384 features a document, frequencies falling as
//! `(rank + 20)^-0.8`, three of ten drawn from the 60 features of one of 200 topics, activations of a gamma distribution.

use half::f16;
use saequel_kernels::random::Random;

/// Features there are.
pub(crate) const N_FEATURES: usize = 16_384;

/// Documents in one piece of memory.
pub(crate) struct Corpus {
    ids: Vec<u32>,
    activations: Vec<f16>,
    starts: Vec<usize>,
}

impl Corpus {
    /// The first `n_docs` documents of the corpus; always the same.
    pub(crate) fn new(n_docs: usize) -> Self {
        let mut random = Random::new(7, 0xBE);
        let mut sum = 0.0;
        let mut cumulative: Vec<f64> = (1..=N_FEATURES)
            .map(|rank| {
                sum += (rank as f64 + 20.0).powf(-0.8);
                sum
            })
            .collect();
        cumulative.iter_mut().for_each(|value| *value /= sum);
        let topics: Vec<u32> = (0..200 * 60).map(|_| random.below(N_FEATURES as u64) as u32).collect();
        let (mut ids, mut activations, mut starts) = (Vec::new(), Vec::new(), vec![0]);
        let mut document = Vec::new();
        for _ in 0..n_docs {
            let drawn = (64.0 + 8.0 * random.normal()).round().clamp(4.0, 256.0) as usize;
            let topic = random.below(200) as usize * 60;
            document.clear();
            document.extend((0..drawn).map(|_| {
                if random.unit() < 0.3 {
                    topics[topic + random.below(60) as usize]
                } else {
                    let at = random.unit();
                    cumulative.partition_point(|value| *value < at).min(N_FEATURES - 1) as u32
                }
            }));
            document.sort_unstable();
            document.dedup();
            ids.extend_from_slice(&document);
            let gamma = |random: &mut Random| -0.5 * ((1.0 - random.unit()) * (1.0 - random.unit())).ln() + 1e-3;
            activations.extend(document.iter().map(|_| f16::from_f64(gamma(&mut random))));
            starts.push(ids.len());
        }
        Self { ids, activations, starts }
    }

    /// Documents.
    pub(crate) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Features of a document, ascending.
    pub(crate) fn ids(&self, doc: usize) -> &[u32] {
        &self.ids[self.starts[doc]..self.starts[doc + 1]]
    }

    /// Their activations.
    #[allow(dead_code, reason = "each bench compiles this file and only one needs activations")]
    pub(crate) fn activations(&self, doc: usize) -> &[f16] {
        &self.activations[self.starts[doc]..self.starts[doc + 1]]
    }
}
