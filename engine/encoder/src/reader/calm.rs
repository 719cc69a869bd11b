//! Massive tokens: a decoder rests the attention that it has no use for on the first token and a few others (spaces,
//! apostrophes), whose states grow many times longer than all the rest (Sun et al. 2024, arXiv:2402.17762). They tell
//! nothing of the text, and one of them would outweigh a dictionary's training batch. Of the first token each window has
//! its own, which counts nowhere; the others read as the mean state.

use std::sync::{Arc, PoisonError};

use super::text::{Window, windows};
use super::{Hook, Reader, Site};
use crate::error::{Error, ErrorKind, Result};

/// A state longer than so many times the median is massive. Of Gemma 3 270M ordinary tokens stay below 3, massive ones are
/// above 8.
const LIMIT: f32 = 5.0;

/// What ordinary states of a hook point are like.
pub(super) struct Calm {
    /// Square of the length above which a state is massive.
    limit: f32,
    /// Mean of the others.
    mean: Vec<f32>,
}

/// Plain text of several kinds, on which lengths are measured. It is part of what a reader computes: changed text changes
/// the mean state by a little.
const TEXT: &str = "The harbour was quiet when Anna's ship came in, and nobody waited for her on the quay. She had written \
    twice, once in March and once in June; neither letter had been answered. \"You could have stayed away,\" said the old \
    man at the gate, but he smiled as he said it.\n\nTo install the pump, first close both valves. Then remove the four \
    screws (M6 x 20 mm), lift the cover, and check the seal for cracks: a damaged seal must be replaced. Total cost: \
    $1,249.00, of which 19% is tax. See https://example.org/manual?page=12 for details.\n\n- What is the capital of \
    Australia? Canberra, not Sydney.\n- How many moons does Mars have? Two, Phobos and Deimos.\n\nI'm so sorry, I really \
    don't know what to say... The food was cold, the waiter was rude & we won't come back! In 2019, researchers at the \
    university found that sleep improves memory, although the effect was smaller than expected. def area(r): return 3.14 * \
    r ** 2  # square metres\n\nParliament passed the bill on Tuesday by 312 votes to 287, after a debate of nine hours. \
    Shares in the company fell 4.2 percent; analysts had expected a rise. La lluvia cae sobre la ciudad, und niemand geht \
    mehr aus dem Haus.";

impl Reader {
    /// What ordinary states are like at each of the hooks; `None` where all states are ordinary.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub(super) fn calm(&self, hooks: &[Hook]) -> Result<Vec<Option<Arc<Calm>>>> {
        let wanted = |hook: &Hook| self.causal && matches!(hook.site(), Site::Residual | Site::Middle);
        // Held while measuring, so that two callers do not measure the same.
        let mut known = self.calm.lock().unwrap_or_else(PoisonError::into_inner);
        let new: Vec<Hook> = hooks.iter().copied().filter(|hook| wanted(hook) && !known.contains_key(hook)).collect();
        if !new.is_empty() {
            let failed = |error| Error::new(ErrorKind::Internal, "the reader failed on its text").with_source(error);
            let encoding = self.tokenizer.encode(TEXT, false).map_err(failed)?;
            let capacity = self.context - self.prefix.len() - self.suffix.len();
            let (mut ids, mut lengths, mut rows) = (Vec::new(), Vec::new(), Vec::new());
            for Window { read, .. } in windows(encoding.len(), capacity) {
                ids.extend(&self.prefix);
                rows.extend(ids.len()..ids.len() + read.len());
                ids.extend(&encoding.get_ids()[read.clone()]);
                ids.extend(&self.suffix);
                lengths.push(self.prefix.len() + read.len() + self.suffix.len());
            }
            let failed = |error| Error::new(ErrorKind::Internal, "the reader failed on its text").with_source(error);
            let states = self.forward(&ids, &lengths, &new).map_err(failed)?;
            for (hook, states) in new.iter().zip(&states) {
                let width = states.dim(1).map_err(failed)?;
                let all = states.flatten_all().and_then(|flat| flat.to_vec1::<f32>()).map_err(failed)?;
                let rows: Vec<&[f32]> = rows.iter().map(|&row| &all[row * width..(row + 1) * width]).collect();
                known.insert(*hook, Arc::new(Calm::measure(&rows)));
            }
        }
        Ok(hooks.iter().map(|hook| known.get(hook).cloned()).collect())
    }
}

fn square(row: &[f32]) -> f32 {
    row.iter().map(|value| value * value).sum()
}

impl Calm {
    fn measure(rows: &[&[f32]]) -> Self {
        let mut squares: Vec<f32> = rows.iter().map(|row| square(row)).collect();
        squares.sort_unstable_by(f32::total_cmp);
        let limit = squares.get(squares.len() / 2).map_or(f32::INFINITY, |median| median * LIMIT * LIMIT);
        let mut mean = vec![0.0; rows.first().map_or(0, |row| row.len())];
        let mut n = 0;
        for row in rows.iter().filter(|row| square(row) <= limit) {
            mean.iter_mut().zip(*row).for_each(|(sum, value)| *sum += value);
            n += 1;
        }
        mean.iter_mut().for_each(|sum| *sum /= n.max(1) as f32);
        Self { limit, mean }
    }

    /// Replaces massive states, row-major, by the mean.
    pub(super) fn apply(&self, rows: &mut [f32]) {
        for row in rows.chunks_exact_mut(self.mean.len().max(1)) {
            if square(row) > self.limit {
                row.copy_from_slice(&self.mean);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn massive_states_become_the_mean_of_the_others() {
        let mut rows = vec![1.0, 0.0, 0.0, 1.0, -1.0, 0.0, 40.0, 30.0];
        let views: Vec<&[f32]> = rows.chunks_exact(2).collect();
        let calm = Calm::measure(&views);
        calm.apply(&mut rows);
        assert_eq!(rows, [1.0, 0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 1.0 / 3.0]);
    }
}
