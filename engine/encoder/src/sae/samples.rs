//! Samples of a harvest in random order, with bounded memory.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::encode::normalize;
use super::harvest::{Harvest, Tap, Unit};
use super::random::Random;
use crate::error::Result;

/// Samples that are held and shuffled together: enough that a batch is made of hundreds of documents.
const GROUP_SAMPLES: usize = 1 << 18;

/// How hidden states are brought into the dictionary's space; see [`super::Sae`].
#[derive(Debug, Clone)]
pub(super) struct Normalization {
    pub(super) mean: Vec<f32>,
    pub(super) scale: f32,
    pub(super) unit: bool,
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
        normalize(out, &normalization.mean, normalization.scale, normalization.unit);
        Ok(())
    }
}

impl Normalization {
    /// Measures the mean and the scale that gives centred samples a mean squared length of 1, on raw `samples`.
    pub(super) fn measure(samples: &[f32], inputs: usize, unit: bool) -> Self {
        let n = (samples.len() / inputs).max(1) as f64;
        let mut sums = vec![0.0f64; inputs];
        for row in samples.chunks_exact(inputs) {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        let mean: Vec<f32> = sums.iter().map(|sum| (sum / n) as f32).collect();
        let squares: f64 = samples
            .chunks_exact(inputs)
            .flat_map(|row| row.iter().zip(&mean).map(|(x, mean)| f64::from(x - mean).powi(2)))
            .sum();
        let scale = if unit { 1.0 } else { (1.0 / (squares / n).max(1e-12).sqrt()) as f32 };
        Self { mean, scale, unit }
    }
}
