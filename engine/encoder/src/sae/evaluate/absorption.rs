//! Symptoms of absorption: a general feature that stays silent where a more specific one speaks for it (Chanin et al.
//! 2024, arXiv:2409.14507).
//!
//! That paper knows from labels where the general feature ought to fire. Without labels, decoder directions say it: a
//! specific latent whose direction has a large cosine with that of a general one (one that fires more often) carries the
//! general one within itself. Where the specific one fires, the general one is *due* if what is there along its direction
//! once all other latents have had theirs (what the specific one carries of it, what the error leaves, and its own
//! activation) is as long as it is in the better half of the samples on which the general one fires. *Missed* is where it
//! is due and does not fire. How often latents miss otherwise, where no such neighbour stands in for them, is measured on
//! random samples for comparison.
//!
//! This is a symptom. Two latents that stand for one thing and compete look the same; so does a cap on the latents of a
//! sample. And what a specific latent absorbs from one that is not in the dictionary cannot be seen.

use super::super::neighbours::Directions;
use crate::reader::simd::{self, multiversion};

/// Cosine of directions from which on one carries the other within itself.
pub(super) const CONTAINED: f32 = 0.3;
/// Latents that one may carry within itself: the nearest so many.
pub(super) const PARTNERS: usize = 4;
/// Times that a latent must be due beside another for the pair to be judged.
pub(super) const LEAST_DUE: u64 = 20;
/// Share of these times that it must miss for the pair to be a symptom.
pub(super) const MISSED: f64 = 0.5;
/// Of so many samples one is drawn for how often latents miss otherwise.
pub(super) const DRAWN: usize = 64;

/// Lengths along a direction, in bins a quarter of an octave wide; those below the first, and backward ones, in the first.
const BINS: usize = 96;
const PER_OCTAVE: f32 = 4.0;
const LOWEST_OCTAVE: f32 = -8.0;

fn bin(length: f32) -> u8 {
    let bin = (length.max(1e-9).log2() - LOWEST_OCTAVE) * PER_OCTAVE;
    (bin.max(0.0) as usize).min(BINS - 1) as u8
}

multiversion! {
    fn length_along(row: &[f32], direction: &[f32]) -> f32 {
        simd::dot(row, direction)
    }
}

/// A general latent, which fires more often, and a specific one whose direction contains its direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AbsorbedPair {
    /// The latent that misses.
    pub general: u32,
    /// The latent beside which it misses.
    pub specific: u32,
    /// Cosine of their decoder directions.
    pub cosine: f32,
    /// Samples on which the specific one fires and the general one is due.
    pub due: u64,
    /// Of these, those on which the general one does not fire.
    pub missed: u64,
}

/// All pairs, and those that are symptoms.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    /// Pairs that were due often enough.
    pub(super) n_judged: usize,
    /// Share of due samples that are missed, over the pairs that were judged; `None` without one.
    pub(super) missed_share: Option<f64>,
    /// The same latents on random samples on which they are due.
    pub(super) missed_otherwise: Option<f64>,
    /// Pairs that are symptoms, those that miss most often first.
    pub(super) pairs: Vec<AbsorbedPair>,
}

/// Latents that may be contained in others.
pub(super) struct Partners {
    directions: Directions,
    /// Where the partners of each latent begin, and the end of the last.
    offsets: Vec<u32>,
    /// Which, and their cosine.
    partners: Vec<(u32, f32)>,
}

/// What one thread saw on one sample.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    /// A latent fires; what is along its direction.
    Fires { latent: u32, bin: u8 },
    /// The specific latent of a pair fires, beside the general one or not.
    Beside { pair: u32, fires: bool, bin: u8 },
    /// A random sample on which a latent does not fire, though something is left along its direction.
    Silent { latent: u32, bin: u8 },
    /// A random sample on which it fires.
    Drawn { latent: u32, bin: u8 },
}

impl Partners {
    /// `nearest`: the nearest latents of each latent, with cosines; empty for those that are not looked at.
    pub(super) fn new(directions: Directions, nearest: &[Vec<(u32, f32)>]) -> Self {
        let (mut offsets, mut partners) = (vec![0], Vec::new());
        for nearest in nearest {
            partners.extend(nearest.iter().take(PARTNERS).filter(|&&(_, cosine)| cosine >= CONTAINED));
            offsets.push(partners.len() as u32);
        }
        Self { directions, offsets, partners }
    }

    fn of(&self, latent: u32) -> std::ops::Range<u32> {
        self.offsets[latent as usize]..self.offsets[latent as usize + 1]
    }

    /// Looks at one sample: what the dictionary leaves of it, and the latents that fire on it, ascending. `drawn`: whether
    /// it is one of the random samples, one in [`DRAWN`].
    pub(super) fn look(&self, drawn: bool, left: &[f32], firing: &[u32], activations: &[f32], events: &mut Vec<Event>) {
        let directions = &self.directions;
        // What is left along the direction of a latent, with its own activation; and whether it fires.
        let along = |latent: u32| {
            let left = length_along(left, directions.row(latent));
            match firing.binary_search(&latent) {
                Ok(at) => (left + activations[at] * directions.length(latent), true),
                Err(_) => (left, false),
            }
        };
        for (&latent, &activation) in firing.iter().zip(activations) {
            events.push(Event::Fires { latent, bin: bin(along(latent).0) });
            for pair in self.of(latent) {
                let (general, cosine) = self.partners[pair as usize];
                let (own, fires) = along(general);
                let carried = cosine * activation * directions.length(latent);
                events.push(Event::Beside { pair, fires, bin: bin(own + carried) });
            }
        }
        if drawn {
            for latent in 0..directions.len() as u32 {
                let (own, fires) = along(latent);
                let bin = bin(own);
                if bin > 0 {
                    events.push(if fires { Event::Drawn { latent, bin } } else { Event::Silent { latent, bin } });
                }
            }
        }
    }
}

type Bins = [u32; BINS];

/// Counts of all samples.
pub(super) struct Absorption {
    /// By latent: where it fires.
    fires: Vec<Bins>,
    /// By pair, general latent firing or not.
    beside: Vec<[Bins; 2]>,
    /// By latent, on random samples, firing or not.
    drawn: Vec<[Bins; 2]>,
}

impl Absorption {
    pub(super) fn new(partners: &Partners) -> Self {
        let width = partners.directions.len();
        Self {
            fires: vec![[0; BINS]; width],
            beside: vec![[[0; BINS]; 2]; partners.partners.len()],
            drawn: vec![[[0; BINS]; 2]; width],
        }
    }

    pub(super) fn take(&mut self, events: &[Event]) {
        for event in events {
            match *event {
                Event::Fires { latent, bin } => self.fires[latent as usize][usize::from(bin)] += 1,
                Event::Beside { pair, fires, bin } => {
                    self.beside[pair as usize][usize::from(fires)][usize::from(bin)] += 1;
                }
                Event::Silent { latent, bin } => self.drawn[latent as usize][0][usize::from(bin)] += 1,
                Event::Drawn { latent, bin } => self.drawn[latent as usize][1][usize::from(bin)] += 1,
            }
        }
    }

    pub(super) fn found(&self, partners: &Partners) -> Found {
        let n_fires: Vec<u64> = self.fires.iter().map(|bins| count(bins)).collect();
        let mut found = Found::default();
        let (mut due_in_all, mut missed_in_all) = (0, 0);
        let mut judged = Vec::new();
        for specific in 0..n_fires.len() as u32 {
            for pair in partners.of(specific) {
                let (general, cosine) = partners.partners[pair as usize];
                if n_fires[general as usize] <= n_fires[specific as usize] {
                    continue;
                }
                let from = median_bin(&self.fires[general as usize]);
                let [silent, firing] = &self.beside[pair as usize];
                let missed = count(&silent[from..]);
                let due = missed + count(&firing[from..]);
                if due < LEAST_DUE {
                    continue;
                }
                found.n_judged += 1;
                (due_in_all, missed_in_all) = (due_in_all + due, missed_in_all + missed);
                judged.push(general);
                if missed as f64 >= MISSED * due as f64 {
                    found.pairs.push(AbsorbedPair { general, specific, cosine, due, missed });
                }
            }
        }
        judged.sort_unstable();
        judged.dedup();
        let (mut due, mut missed) = (0, 0);
        for general in judged {
            let from = median_bin(&self.fires[general as usize]);
            let [silent, firing] = &self.drawn[general as usize];
            missed += count(&silent[from..]);
            due += count(&silent[from..]) + count(&firing[from..]);
        }
        let share = |missed: u64, due: u64| (due > 0).then(|| missed as f64 / due as f64);
        found.missed_share = share(missed_in_all, due_in_all);
        found.missed_otherwise = share(missed, due);
        found.pairs.sort_by_key(|pair| (std::cmp::Reverse(pair.missed), pair.general, pair.specific));
        found
    }
}

fn count(bins: &[u32]) -> u64 {
    bins.iter().map(|&count| u64::from(count)).sum()
}

/// The bin with the median; at least the second, since the first also holds what points the other way.
fn median_bin(bins: &Bins) -> usize {
    let (half, mut sum) = (count(bins).div_ceil(2), 0);
    let at = bins.iter().position(|&count| {
        sum += u64::from(count);
        sum >= half
    });
    at.unwrap_or(0).max(1)
}
