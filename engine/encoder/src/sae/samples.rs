//! Samples of a harvest in random order, with bounded memory.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::InputNormalization;
use super::encode::{normalize, to_row_norm};
use super::harvest::{Harvest, Tap, Unit};
use super::random::Random;
use crate::error::Result;

/// Samples that are held and shuffled together: enough that a batch is made of hundreds of documents.
const GROUP_SAMPLES: usize = 1 << 18;

/// Of a dimension that hardly varies the noise is not blown up: no deviation is below this share of the median one.
const LEAST_DEVIATION: f32 = 1.0 / 3.0;

/// How hidden states are brought into the dictionary's space; see [`super::Sae`].
#[derive(Debug, Clone)]
pub(super) struct Normalization {
    pub(super) how: InputNormalization,
    pub(super) mean: Vec<f32>,
    /// Empty unless standardised.
    pub(super) deviation: Vec<f32>,
}

/// Batches of normalised samples. Each epoch goes once through the harvest: units in random order, [`GROUP_SAMPLES`] at a
/// time, shuffled; what is left of a group after its last full batch is left out. The same seed gives the same batches.
pub(super) struct SampleStream {
    units: Vec<(Unit, usize)>,
    hook: Tap,
    inputs: usize,
    batch: usize,
    seed: u64,
    epoch: u64,
    /// Groups of this epoch, as ranges of `order`.
    groups: Vec<Range<usize>>,
    order: Vec<usize>,
    next_group: usize,
    group: Vec<f16>,
    rows: Vec<u32>,
    next_row: usize,
}

impl SampleStream {
    pub(super) fn open(harvest: &Harvest, hook: Tap, inputs: usize, batch: usize, seed: u64) -> Result<Self> {
        let units = harvest
            .units
            .iter()
            .map(|path| {
                let unit = Unit::open(path)?;
                let n = unit.n_samples(hook);
                Ok((unit, n))
            })
            .filter(|unit| !matches!(unit, Ok((_, 0))))
            .collect::<Result<Vec<_>>>()?;
        let mut stream = Self {
            units,
            hook,
            inputs,
            batch,
            seed,
            epoch: 0,
            groups: Vec::new(),
            order: Vec::new(),
            next_group: 0,
            group: Vec::new(),
            rows: Vec::new(),
            next_row: 0,
        };
        stream.plan();
        Ok(stream)
    }

    /// Samples in the harvest.
    pub(super) fn n_samples(&self) -> u64 {
        self.units.iter().map(|(_, n)| *n as u64).sum()
    }

    fn plan(&mut self) {
        self.order = (0..self.units.len()).collect();
        Random::new(self.seed, self.epoch << 32).shuffle(&mut self.order);
        self.groups.clear();
        let (mut start, mut size) = (0, 0);
        for (at, &unit) in self.order.iter().enumerate() {
            size += self.units[unit].1;
            if size >= GROUP_SAMPLES || at + 1 == self.order.len() {
                self.groups.push(start..at + 1);
                (start, size) = (at + 1, 0);
            }
        }
        self.next_group = 0;
    }

    fn group_size(&self, group: usize) -> usize {
        self.order[self.groups[group].clone()].iter().map(|&unit| self.units[unit].1).sum()
    }

    /// Loads and shuffles the next group that has a full batch.
    fn advance(&mut self) -> Result<()> {
        loop {
            if self.next_group == self.groups.len() {
                self.epoch += 1;
                self.plan();
            }
            let group = self.next_group;
            self.next_group += 1;
            if self.group_size(group) >= self.batch.min(self.n_samples() as usize) {
                return self.load(group);
            }
        }
    }

    fn load(&mut self, group: usize) -> Result<()> {
        self.group.clear();
        for &unit in &self.order[self.groups[group].clone()] {
            self.group.extend(self.units[unit].0.states(self.hook)?);
        }
        self.rows = (0..(self.group.len() / self.inputs) as u32).collect();
        Random::new(self.seed, (self.epoch << 32) + 1 + group as u64).shuffle(&mut self.rows);
        self.next_row = 0;
        Ok(())
    }

    /// Goes past the first `batches` batches without reading them.
    pub(super) fn skip(&mut self, mut batches: u64) -> Result<()> {
        while batches > 0 {
            if self.next_group == self.groups.len() {
                self.epoch += 1;
                self.plan();
            }
            let in_group = (self.group_size(self.next_group) / self.batch) as u64;
            if in_group > batches {
                self.advance()?;
                self.next_row = batches as usize * self.batch;
                return Ok(());
            }
            self.next_group += 1;
            batches -= in_group;
            if in_group == 0 && self.n_samples() < self.batch as u64 {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The next batch as `[batch, inputs]`, not normalised; smaller only if the whole harvest is.
    pub(super) fn next_raw(&mut self, out: &mut Vec<f32>) -> Result<()> {
        let size = self.batch.min(self.n_samples() as usize);
        if self.next_row + size > self.rows.len() {
            self.advance()?;
        }
        out.resize(size * self.inputs, 0.0);
        let rows = &self.rows[self.next_row..self.next_row + size];
        for (&row, out) in rows.iter().zip(out.chunks_exact_mut(self.inputs)) {
            let from = row as usize * self.inputs;
            self.group[from..from + self.inputs].convert_to_f32_slice(out);
        }
        self.next_row += size;
        Ok(())
    }

    /// The next batch, normalised.
    pub(super) fn next(&mut self, normalization: &Normalization, out: &mut Vec<f32>) -> Result<()> {
        self.next_raw(out)?;
        normalization.apply(out);
        Ok(())
    }
}

impl Normalization {
    /// Measures the mean and the scale that gives centred samples a mean squared length of 1, on raw `samples`; if `unit`,
    /// each is given that length.
    pub(super) fn centred(samples: &[f32], inputs: usize, unit: bool) -> Self {
        let Moments { mean, variance } = Moments::of(samples, inputs);
        let scale = if unit { 1.0 } else { (1.0 / variance.iter().sum::<f64>().max(1e-12).sqrt()) as f32 };
        Self { how: InputNormalization::Centred { scale, unit }, mean, deviation: Vec::new() }
    }

    /// Measures mean and deviation of each dimension of samples that were brought to one length, and the scale that gives
    /// them a mean squared length of 1 after that.
    pub(super) fn standardised(samples: &[f32], inputs: usize) -> Self {
        let mut rows = samples.to_vec();
        to_row_norm(&mut rows, inputs);
        let Moments { mean, variance } = Moments::of(&rows, inputs);
        let mut deviation: Vec<f32> = variance.iter().map(|variance| variance.sqrt() as f32).collect();
        let mut sorted = deviation.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        let least = (sorted[inputs / 2] * LEAST_DEVIATION).max(1e-12);
        deviation.iter_mut().for_each(|deviation| *deviation = deviation.max(least));
        let squares: f64 = variance.iter().zip(&deviation).map(|(v, d)| v / f64::from(*d).powi(2)).sum();
        let scale = (1.0 / squares.max(1e-12).sqrt()) as f32;
        Self { how: InputNormalization::Standardised { scale }, mean, deviation }
    }

    /// Normalises raw samples.
    pub(super) fn apply(&self, rows: &mut [f32]) {
        normalize(rows, self.how, &self.mean, &self.deviation);
    }
}

/// Mean and variance of each dimension.
struct Moments {
    mean: Vec<f32>,
    variance: Vec<f64>,
}

impl Moments {
    fn of(samples: &[f32], inputs: usize) -> Self {
        let n = (samples.len() / inputs).max(1) as f64;
        let mut sums = vec![0.0f64; inputs];
        for row in samples.chunks_exact(inputs) {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        let mean: Vec<f32> = sums.iter().map(|sum| (sum / n) as f32).collect();
        let mut variance = vec![0.0f64; inputs];
        for row in samples.chunks_exact(inputs) {
            let squares = row.iter().zip(&mean).map(|(x, mean)| f64::from(x - mean).powi(2));
            variance.iter_mut().zip(squares).for_each(|(sum, square)| *sum += square / n);
        }
        Self { mean, variance }
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::*;

    #[test]
    fn standardised_samples_have_every_dimension_alike() {
        const INPUTS: usize = 40;
        let mut random = Random::new(5, 0);
        // One dimension with nearly all of the variance and one with hardly any, far from 0; rows of different lengths.
        let mut samples = Vec::new();
        for row in 0..4000 {
            let length = 1.0 + (row % 7) as f32;
            samples.extend((0..INPUTS).map(|dimension| {
                let size = [50.0, 1e-3, 1.0][dimension.min(2)];
                (3.0 + size * (random.below(20_001) as f32 / 10_000.0 - 1.0)) * length
            }));
        }
        let normalization = Normalization::standardised(&samples, INPUTS);
        let mut rows = samples.clone();
        normalization.apply(&mut rows);
        let Moments { mean, variance } = Moments::of(&rows, INPUTS);
        assert!(mean.iter().all(|mean| mean.abs() < 1e-3), "{mean:?}");
        assert!((variance.iter().sum::<f64>() - 1.0).abs() < 1e-3, "{}", variance.iter().sum::<f64>());
        let ordinary = variance[2];
        assert!((variance[0] / ordinary - 1.0).abs() < 1e-3, "{} {ordinary}", variance[0]);
        assert!(variance.iter().all(|&variance| variance < 1.001 * ordinary), "{variance:?}");
        // The same row is the same whatever its length.
        let mut twice: Vec<f32> = samples[..INPUTS].iter().map(|x| 2.0 * x).collect();
        normalization.apply(&mut twice);
        assert!(twice.iter().zip(&rows).all(|(a, b)| (a - b).abs() < 1e-5));
        // Of centred samples the large dimension stays large.
        let centred = Normalization::centred(&samples, INPUTS, false);
        let mut rows = samples;
        centred.apply(&mut rows);
        let variance = Moments::of(&rows, INPUTS).variance;
        assert!((variance.iter().sum::<f64>() - 1.0).abs() < 1e-3 && variance[0] > 0.9, "{variance:?}");
    }
}
