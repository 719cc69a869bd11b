//! Reading many texts: pieces of texts are packed into batches, and each thread takes the next batch when it is free.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::calm::Calm;
use super::text::{Passage, Piece, TokenizedText, Window, tokenize};
use super::{Hook, Reader};
use crate::error::{Error, ErrorKind, Result};

/// Positions (tokens, special ones included) that a thread reads at once, about: enough for the matrix products to be busy, few
/// enough for the activations to stay in the cache.
const BATCH_POSITIONS: usize = 1024;

/// A hook point to read. What leads each window is copied only where a dictionary reads it, since few do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Wanted {
    hook: Hook,
    leads: bool,
}

impl Wanted {
    /// The states of the tokens alone.
    pub(crate) fn states(hook: Hook) -> Self {
        Self { hook, leads: false }
    }

    /// The states, and what leads each window ([`BatchStates::windows`]).
    pub(crate) fn windows(hook: Hook) -> Self {
        Self { hook, leads: true }
    }

    /// Where the states are taken.
    pub(crate) fn hook(self) -> Hook {
        self.hook
    }

    /// Each hook point once, ascending, with all that is wanted there.
    pub(crate) fn joined(wanted: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut wanted: Vec<Self> = wanted.into_iter().collect();
        wanted.sort_unstable();
        wanted.dedup_by(|next, kept| {
            let is_same = next.hook == kept.hook;
            kept.leads |= is_same && next.leads;
            is_same
        });
        wanted
    }
}

/// Hidden states of a batch: of the tokens that its pieces own, special tokens left out.
pub(crate) struct BatchStates {
    /// One matrix per hook asked for, row-major `[rows, width of the hook]`.
    pub(crate) layers: Vec<Vec<f32>>,
    /// The pieces whose tokens are the rows.
    pub(crate) pieces: Vec<PieceStates>,
    /// For each hook where that is wanted, what the windows read before the tokens that they own: the first special
    /// tokens, then what they share with the window before.
    leads: Vec<Option<Vec<f32>>>,
    /// The windows of all pieces, in order: rows that they own, and rows of [`Self::leads`].
    windows: Vec<(Range<usize>, Range<usize>)>,
}

/// A window within a batch, for what reads tokens one after the other.
#[derive(Debug, Clone)]
pub(crate) struct WindowStates<'a> {
    /// States of what it reads before the tokens that it owns, row-major. Special tokens are as the model gives them,
    /// however long.
    pub(crate) lead: &'a [f32],
    /// The rows that it owns in [`BatchStates::layers`].
    pub(crate) rows: Range<usize>,
}

impl BatchStates {
    /// The windows at one of the hooks, whose states are `width` wide, in the order of their rows; none unless it was
    /// read with [`Wanted::windows`].
    pub(crate) fn windows(&self, hook: usize, width: usize) -> Vec<WindowStates<'_>> {
        let Some(leads) = &self.leads[hook] else { return Vec::new() };
        let window = |(rows, lead): &(Range<usize>, Range<usize>)| WindowStates {
            lead: &leads[lead.start * width..lead.end * width],
            rows: rows.clone(),
        };
        self.windows.iter().map(window).collect()
    }
}

/// One piece of a text within a batch.
pub(crate) struct PieceStates {
    /// Position of the text.
    pub(crate) doc: usize,
    /// Position of the piece within the text.
    pub(crate) piece: usize,
    /// Its rows in [`BatchStates::layers`].
    pub(crate) rows: Range<usize>,
    /// Sum of the special tokens' states at the last hook asked for.
    pub(crate) special_sum: Vec<f32>,
    /// How many special tokens that is.
    pub(crate) n_special: usize,
}

/// Calls `work(state, i)` for `i` in `0..n` on `threads` threads (this one among them), each with its own `state`.
/// Results are in order. Stops at the first error.
pub(crate) fn parallel<S: Default, R: Send>(
    n: usize,
    threads: usize,
    work: impl Fn(&mut S, usize) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let results: Mutex<Vec<(usize, Result<R>)>> = Mutex::new(Vec::with_capacity(n));
    let run = || {
        let mut state = S::default();
        while !failed.load(Ordering::Relaxed) {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= n {
                break;
            }
            let result = work(&mut state, i);
            if result.is_err() {
                failed.store(true, Ordering::Relaxed);
            }
            results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((i, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(n) {
            scope.spawn(run);
        }
        run();
    });
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_unstable_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}

impl Reader {
    /// Tokenizes texts on all threads.
    ///
    /// # Errors
    /// As [`tokenize`].
    pub(crate) fn tokenize(&self, texts: &[&str]) -> Result<Vec<TokenizedText>> {
        let passages: Vec<Passage<'_>> = texts.iter().map(|text| Passage::from(*text)).collect();
        self.tokenize_passages(&passages)
    }

    /// Tokenizes passages on all threads.
    ///
    /// # Errors
    /// As [`tokenize`].
    pub(crate) fn tokenize_passages(&self, passages: &[Passage<'_>]) -> Result<Vec<TokenizedText>> {
        const TEXTS: usize = 16;
        let chunks: Vec<&[Passage<'_>]> = passages.chunks(TEXTS).collect();
        let capacity = self.context() - self.prefix.len() - self.suffix.len();
        let results = parallel(chunks.len(), self.threads, |(), i| {
            chunks[i].iter().map(|text| tokenize(&self.tokenizer, text, capacity)).collect::<Result<Vec<_>>>()
        })?;
        Ok(results.into_iter().flatten().collect())
    }

    /// Reads texts to the last hook of `wanted` (ascending, not empty) and hands batches of hidden states to `visit`, which
    /// returns one result per piece. The results of each text come back in the order of its pieces.
    ///
    /// Memory: per thread one batch ([`BATCH_POSITIONS`] positions, or one piece if that is more) and what `visit` keeps.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] if a tensor operation fails; the first error of `visit`.
    pub(crate) fn read<S: Default, R: Send>(
        &self,
        texts: &[TokenizedText],
        wanted: &[Wanted],
        visit: impl Fn(&mut S, &BatchStates) -> Result<Vec<R>> + Sync,
    ) -> Result<Vec<Vec<R>>> {
        let n_special = self.prefix.len() + self.suffix.len();
        let hooks: Vec<Hook> = wanted.iter().map(|wanted| wanted.hook).collect();
        let calm = self.calm(&hooks)?;
        let mut order: Vec<(usize, usize, usize)> = Vec::new();
        for (doc, text) in texts.iter().enumerate() {
            for (i, piece) in text.pieces.iter().enumerate() {
                order.push((doc, i, piece.windows.iter().map(|window| window.read.len() + n_special).sum()));
            }
        }
        // Batches of equal size, as many as make all threads end at the same time. Of similar lengths each, so that
        // what attention costs is similar within a batch.
        order.sort_by_key(|&(_, _, positions)| std::cmp::Reverse(positions));
        let total: usize = order.iter().map(|(_, _, positions)| positions).sum();
        let n_batches = total.div_ceil(BATCH_POSITIONS).next_multiple_of(self.threads.max(1));
        let mut batches: Vec<Range<usize>> = Vec::with_capacity(n_batches);
        let (mut before, mut current) = (0, 0);
        for (at, &(_, _, positions)) in order.iter().enumerate() {
            let number = (before + positions / 2) * n_batches / total.max(1);
            before += positions;
            match batches.last_mut() {
                Some(batch) if number < current => batch.end = at + 1,
                _ => {
                    batches.push(at..at + 1);
                    current = number + 1;
                }
            }
        }
        let results = parallel(batches.len(), self.threads, |state, i| {
            let pieces: Vec<(usize, usize)> =
                order[batches[i].clone()].iter().map(|&(doc, piece, _)| (doc, piece)).collect();
            let states = self.states(texts, &pieces, wanted, &calm)?;
            visit(state, &states)
        })?;
        let mut by_text: Vec<Vec<Option<R>>> =
            texts.iter().map(|text| text.pieces.iter().map(|_| None).collect()).collect();
        for (batch, results) in batches.iter().zip(results) {
            for (&(doc, piece, _), result) in order[batch.clone()].iter().zip(results) {
                by_text[doc][piece] = Some(result);
            }
        }
        Ok(by_text.into_iter().map(|pieces| pieces.into_iter().flatten().collect()).collect())
    }

    /// Hidden states of a batch of pieces, given as position of the text and position within it.
    fn states(
        &self,
        texts: &[TokenizedText],
        batch: &[(usize, usize)],
        wanted: &[Wanted],
        calm: &[Option<Arc<Calm>>],
    ) -> Result<BatchStates> {
        let n_special = self.prefix.len() + self.suffix.len();
        let (mut ids, mut lengths) = (Vec::new(), Vec::new());
        let piece_of = |&(doc, piece): &(usize, usize)| -> &Piece { &texts[doc].pieces[piece] };
        for at in batch {
            for window in &piece_of(at).windows {
                ids.extend(&self.prefix);
                ids.extend(texts[at.0].ids(window.read.clone()));
                ids.extend(&self.suffix);
                lengths.push(window.read.len() + n_special);
            }
        }
        let failed = |error| Error::new(ErrorKind::Internal, "the reader failed on a batch").with_source(error);
        let hooks: Vec<Hook> = wanted.iter().map(|wanted| wanted.hook).collect();
        let states = self.forward(&ids, &lengths, &hooks).map_err(failed)?;
        let mut pieces = Vec::with_capacity(batch.len());
        let (mut owned, mut leads) = (Vec::with_capacity(hooks.len()), Vec::with_capacity(hooks.len()));
        let mut windows = Vec::with_capacity(lengths.len());
        for (i, layer) in states.iter().enumerate() {
            let last = i + 1 == states.len();
            let width = layer.dim(1).map_err(failed)?;
            let (storage, layout) = layer.storage_and_layout();
            let candle_core::Storage::Cpu(storage) = &*storage else {
                return Err(Error::new(ErrorKind::Internal, "the states of a batch are not in the memory of the CPU"));
            };
            let all = &storage.as_slice::<f32>().map_err(failed)?[layout.start_offset()..];
            let (mut rows, mut lead) = (Vec::with_capacity(all.len()), wanted[i].leads.then(Vec::new));
            let (mut position, mut n_lead) = (0, 0);
            for at in batch {
                let piece = piece_of(at);
                let first = rows.len() / width;
                let mut special_sum = vec![0.0; if last { width } else { 0 }];
                for Window { read, own } in &piece.windows {
                    let row = |i: usize| (position + i) * width;
                    for own in texts[at.0].own(own.clone()) {
                        let before = self.prefix.len() + own.start - read.start;
                        let (from, first_own) = (row(before), rows.len() / width);
                        rows.extend_from_slice(&all[from..from + own.len() * width]);
                        if let Some(lead) = &mut lead {
                            lead.extend_from_slice(&all[row(0)..from]);
                            if let Some(calm) = &calm[i] {
                                calm.apply(&mut lead[(n_lead + self.prefix.len()) * width..]);
                            }
                        }
                        if last {
                            windows.push((first_own..rows.len() / width, n_lead..n_lead + before));
                        }
                        n_lead += before;
                    }
                    // A decoder's first token tells nothing of the text.
                    if last && !self.causal {
                        let behind = self.prefix.len() + read.len();
                        for special in (0..self.prefix.len()).chain(behind..behind + self.suffix.len()).map(row) {
                            special_sum.iter_mut().zip(&all[special..]).for_each(|(sum, value)| *sum += value);
                        }
                    }
                    position += read.len() + n_special;
                }
                if last {
                    pieces.push(PieceStates {
                        doc: at.0,
                        piece: at.1,
                        rows: first..rows.len() / width,
                        special_sum,
                        n_special: if self.causal { 0 } else { n_special * piece.windows.len() },
                    });
                }
            }
            if let Some(calm) = &calm[i] {
                calm.apply(&mut rows);
            }
            owned.push(rows);
            leads.push(lead);
        }
        Ok(BatchStates { layers: owned, pieces, leads, windows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_is_read_once_with_all_that_is_wanted_there() {
        let [first, second] = [1, 2].map(Hook::residual);
        let wanted = [Wanted::states(second), Wanted::windows(first), Wanted::states(first), Wanted::states(second)];
        assert_eq!(Wanted::joined(wanted), [Wanted::windows(first), Wanted::states(second)]);
    }

    #[test]
    fn parallel_keeps_order_and_stops_at_an_error() {
        let squares = parallel(100, 4, |(), i| Ok(i * i)).unwrap();
        assert_eq!(squares, (0..100).map(|i| i * i).collect::<Vec<_>>());
        let calls = AtomicUsize::new(0);
        let result = parallel(1_000_000, 2, |(), i| {
            calls.fetch_add(1, Ordering::Relaxed);
            if i == 3 { Err(Error::new(ErrorKind::Internal, "three")) } else { Ok(()) }
        });
        assert_eq!(result.unwrap_err().message(), "three");
        assert!(calls.load(Ordering::Relaxed) < 1_000_000);
    }
}
