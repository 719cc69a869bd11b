//! Two dictionaries side by side: which latents of the one are in the other, by direction and by what they fire on.
//!
//! By direction: the cosine of decoder rows. Two trainings agree on a latent if the other one has a row of cosine
//! [`SAME_DIRECTION`] or more (Paulo and Belrose 2025, arXiv:2501.16615, with one-to-one partners; here each latent takes
//! its nearest, and pairs that are each other's nearest are marked). The mean of the largest cosines is the mean max
//! cosine similarity of Sharkey, Braun and Millidge 2022. It needs the same hidden states, or at least states of one
//! reader of the same width.
//!
//! By activations: the Jaccard index of the samples on which two latents fire. Dictionaries of one reader and level are
//! compared on every token or sentence, others on documents, by the features that would be stored there. That needs
//! nothing in common but the texts: the likeness of representations by what they pick out, as in ITDA (arXiv:2505.17769),
//! where the Jaccard index is that of the atoms.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::evaluate::{check_hook, stop_if};
use super::neighbours::Directions;
use super::survey::Survey;
use super::texts::TextSource;
use super::{EncodeScratch, Level, Sae, SparseRows};
use crate::encode::Encoder;
use crate::error::{Error, ErrorKind, Result};
use crate::options::ReaderOptions;
use crate::progress::Progress;
use crate::reader::{BatchStates, Reader, Wanted};

/// Cosine from which on two latents have the same direction.
pub const SAME_DIRECTION: f32 = 0.7;
/// Jaccard index from which on two latents fire on the same.
pub const SAME_SAMPLES: f32 = 0.5;
/// Samples (documents) on which a latent must fire to be compared by them: two that fire on one and the same are no news.
pub const LEAST_SAMPLES: u64 = 5;
/// Pairs of latents that are counted in a plain table (0.3 GB), and pairs of which counts are kept otherwise (about 1 GB).
const MAX_TABLE: usize = 1 << 26;
const MAX_COUNTED: usize = 1 << 25;

/// What to compare, on what.
#[derive(Debug, Clone)]
pub struct CompareOptions {
    /// Names of built-in dictionaries, or folders.
    pub dictionaries: [PathBuf; 2],
    /// Text files, as in [`super::TrainOptions::input`]; none: by direction only.
    pub input: Vec<PathBuf>,
    /// Column (field) with the text.
    pub text_column: String,
    /// Tokens to read; 0: all.
    pub tokens: u64,
    /// Threads and cache folder.
    pub reader_options: ReaderOptions,
}

/// What was found: of the first dictionary `a` and the second `b`.
#[derive(Debug, Clone)]
pub struct CompareReport {
    /// Their names.
    pub names: [String; 2],
    /// Names of their latents, one each.
    pub labels: [Vec<String>; 2],
    /// By direction; `None` if it makes no sense.
    pub cosine: Option<Shared>,
    /// By what they fire on; `None` without texts.
    pub jaccard: Option<Shared>,
    /// What was counted: tokens, spans or documents.
    pub counted: Level,
    /// How many of them.
    pub n_counted: u64,
    /// Each latent of `a` with its nearest of `b`, by direction if that makes sense, else by activations; nearest first.
    pub pairs: Vec<ComparedPair>,
    /// What was left out, and why.
    pub skipped: Vec<String>,
}

/// How much two dictionaries have in common by one measure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shared {
    /// Share of the latents of `a` that `b` has too ([`SAME_DIRECTION`], [`SAME_SAMPLES`]), and the other way round; by
    /// activations, of those that fire on [`LEAST_SAMPLES`] or more.
    pub share: [f64; 2],
    /// Mean of the largest likeness, in both directions.
    pub mean: [f64; 2],
    /// Pairs of latents that are each other's nearest.
    pub n_mutual: u64,
}

/// A latent of `a` and its nearest of `b`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ComparedPair {
    /// Latent of `a`.
    pub a: u32,
    /// Latent of `b`.
    pub b: u32,
    /// Cosine of their decoder directions.
    pub cosine: Option<f32>,
    /// Jaccard index of what they fire on; `None` without texts, or if neither fires.
    pub jaccard: Option<f32>,
    /// Whether `a` is the nearest of `b` too.
    pub mutual: bool,
}

/// Compares two dictionaries.
///
/// # Errors
/// As [`Sae::open`], [`Reader::load`]; [`ErrorKind::Query`] if there is nothing to compare by; [`ErrorKind::Data`] for an
/// input without text; [`ErrorKind::Cancelled`].
pub fn compare(options: &CompareOptions, progress: &dyn Progress) -> Result<CompareReport> {
    let [a, b] = &options.dictionaries;
    let (a, b) = (Arc::new(Sae::open(a)?), Arc::new(Sae::open(b)?));
    let mut skipped = Vec::new();
    let threads = options.reader_options.threads;
    let cosines = match incomparable(&a, &b) {
        None => Some(Cosines::new(&a, &b, threads)?),
        Some(why) => {
            skipped.push(format!("cosine: {why}"));
            None
        }
    };
    if cosines.is_none() && options.input.is_empty() {
        let message = format!(
            "there is nothing to compare '{}' and '{}' by: {}, and no texts are given",
            a.name(),
            b.name(),
            skipped.join("; ").trim_start_matches("cosine: ")
        );
        return Err(Error::new(ErrorKind::Query, message));
    }
    if a.hook() != b.hook() && cosines.is_some() {
        skipped.push(format!("the dictionaries read {} and {}, whose directions may differ", a.hook(), b.hook()));
    }
    let counted = if a.reader() == b.reader() && a.level() == b.level() { a.level() } else { Level::Document };
    let counts = if options.input.is_empty() {
        skipped.push("jaccard: no texts are given".to_owned());
        None
    } else {
        let counts = count(&a, &b, counted, options, progress)?;
        if counts.forgot {
            skipped.push("jaccard: pairs of latents that came together once were forgotten now and then".to_owned());
        }
        Some(counts)
    };
    Ok(joined([a.as_ref(), b.as_ref()], cosines, counts, counted, skipped))
}

/// Why directions cannot be compared.
fn incomparable(a: &Sae, b: &Sae) -> Option<String> {
    if a.reader() != b.reader() {
        return Some(format!("the readers differ ('{}' and '{}')", a.reader(), b.reader()));
    }
    if a.output_width() != b.output_width() {
        return Some(format!("the widths of the states differ ({} and {})", a.output_width(), b.output_width()));
    }
    None
}

/// The nearest of each latent, in both directions.
struct Cosines {
    directions: [Directions; 2],
    nearest: [Vec<Option<(u32, f32)>>; 2],
}

impl Cosines {
    fn new(a: &Sae, b: &Sae, threads: usize) -> Result<Self> {
        let directions = [Directions::of(a), Directions::of(b)];
        let nearest = |of: usize| -> Result<Vec<Option<(u32, f32)>>> {
            let latents: Vec<u32> = (0..directions[of].len() as u32).collect();
            let found = directions[of].nearest(&latents, &directions[1 - of], 1, threads)?;
            Ok(found.into_iter().map(|found| found.into_iter().next()).collect())
        };
        let nearest = [nearest(0)?, nearest(1)?];
        Ok(Self { directions, nearest })
    }

    fn of(&self, a: u32, b: u32) -> f32 {
        self.directions[0].row(a).iter().zip(self.directions[1].row(b)).map(|(a, b)| a * b).sum()
    }
}

/// How often latents fire, and fire together.
struct Counts {
    fires: [Vec<u64>; 2],
    width_b: usize,
    /// By `a` and `b`, if there are not too many pairs.
    table: Vec<u32>,
    pairs: HashMap<(u32, u32), u32>,
    forgot: bool,
    n: u64,
}

impl Counts {
    fn new(width_a: usize, width_b: usize) -> Self {
        let n = width_a.saturating_mul(width_b);
        let table = if n <= MAX_TABLE { vec![0; n] } else { Vec::new() };
        Self { fires: [vec![0; width_a], vec![0; width_b]], width_b, table, pairs: HashMap::new(), forgot: false, n: 0 }
    }

    /// Takes in one sample.
    fn take(&mut self, a: &[u32], b: &[u32]) {
        self.n += 1;
        for (fires, latents) in self.fires.iter_mut().zip([a, b]) {
            latents.iter().for_each(|&latent| fires[latent as usize] += 1);
        }
        for &a in a {
            if !self.table.is_empty() {
                let row = &mut self.table[a as usize * self.width_b..(a as usize + 1) * self.width_b];
                b.iter().for_each(|&b| row[b as usize] += 1);
                continue;
            }
            b.iter().for_each(|&b| *self.pairs.entry((a, b)).or_default() += 1);
        }
        if self.pairs.len() > MAX_COUNTED {
            self.pairs.retain(|_, count| *count > 1);
            self.forgot = true;
        }
    }

    fn both(&self, a: u32, b: u32) -> u32 {
        match self.table.get(a as usize * self.width_b + b as usize) {
            Some(&both) => both,
            None => self.pairs.get(&(a, b)).copied().unwrap_or(0),
        }
    }

    /// `None` if neither fires.
    fn jaccard(&self, a: u32, b: u32) -> Option<f32> {
        let both = u64::from(self.both(a, b));
        let any = self.fires[0][a as usize] + self.fires[1][b as usize] - both;
        (any > 0).then(|| (both as f64 / any as f64) as f32)
    }

    /// The nearest of each latent in both directions, of those that fire often enough; the lower latent of equal ones, `None`
    /// if it comes with none.
    fn nearest(&self) -> [Vec<Option<(u32, f32)>>; 2] {
        let (mut of_a, mut of_b) = (vec![None; self.fires[0].len()], vec![None; self.fires[1].len()]);
        let mut offer = |a: u32, b: u32| {
            if self.fires[0][a as usize].min(self.fires[1][b as usize]) < LEAST_SAMPLES {
                return;
            }
            let Some(jaccard) = self.jaccard(a, b).filter(|&jaccard| jaccard > 0.0) else { return };
            for (best, other) in [(&mut of_a[a as usize], b), (&mut of_b[b as usize], a)] {
                if best.is_none_or(|(latent, most): (u32, f32)| jaccard > most || jaccard == most && other < latent) {
                    *best = Some((other, jaccard));
                }
            }
        };
        for (at, _) in self.table.iter().enumerate().filter(|&(_, &both)| both > 0) {
            offer((at / self.width_b) as u32, (at % self.width_b) as u32);
        }
        self.pairs.keys().for_each(|&(a, b)| offer(a, b));
        [of_a, of_b]
    }
}

/// Reads the texts and counts on what the latents fire.
fn count(
    a: &Arc<Sae>,
    b: &Arc<Sae>,
    counted: Level,
    options: &CompareOptions,
    progress: &dyn Progress,
) -> Result<Counts> {
    let mut source = TextSource::open(&options.input, &options.text_column, Survey::TURN)?;
    let mut counts = Counts::new(a.width(), b.width());
    let load = |sae: &Sae| -> Result<Arc<Reader>> {
        let reader = Reader::load(sae.reader(), &options.reader_options, progress)?;
        check_hook(sae, &reader)?;
        Ok(Arc::new(reader))
    };
    let reader = load(a)?;
    let encoders = if a.reader() == b.reader() {
        check_hook(b, &reader)?;
        vec![Encoder::new(Arc::clone(&reader), vec![Arc::clone(a), Arc::clone(b)])?]
    } else {
        vec![Encoder::new(Arc::clone(&reader), vec![Arc::clone(a)])?, Encoder::new(load(b)?, vec![Arc::clone(b)])?]
    };
    progress.stage("reading texts", (options.tokens > 0).then_some(options.tokens), "tokens");
    let mut n_tokens = 0;
    while options.tokens == 0 || n_tokens < options.tokens {
        let Some(texts) = source.next_turn()? else { break };
        stop_if(progress.cancelled())?;
        let views: Vec<&str> = texts.iter().map(String::as_str).collect();
        if counted == Level::Document {
            let encoded: Vec<_> = encoders.iter().map(|encoder| encoder.encode(&views)).collect::<Result<_>>()?;
            for document in 0..views.len() {
                let mut features = encoded.iter().flat_map(|encoded| &encoded[document].features);
                if let (Some(a), Some(b)) = (features.next(), features.next()) {
                    counts.take(&a.latents, &b.latents);
                }
                n_tokens += u64::from(encoded[0][document].n_tokens);
            }
        } else {
            n_tokens += count_samples([a, b], &reader, &views, &mut counts)?;
        }
        progress.update(n_tokens, "");
    }
    progress.finish(&format!("{} {}s", counts.n, counted.as_str()));
    if counts.n == 0 {
        return Err(Error::new(ErrorKind::Data, "the input holds no text"));
    }
    Ok(counts)
}

/// Counts on every token (span) of texts; returns the number of tokens.
fn count_samples(saes: [&Arc<Sae>; 2], reader: &Reader, texts: &[&str], counts: &mut Counts) -> Result<u64> {
    type Scratch = (EncodeScratch, Vec<f32>);
    let tokenized = reader.tokenize(texts)?;
    let wanted = Wanted::joined(saes.map(|sae| sae.wanted()));
    let pieces = reader.read(&tokenized, &wanted, |(scratch, rows): &mut Scratch, batch: &BatchStates| {
        let mut sparse = [SparseRows::default(), SparseRows::default()];
        let mut ranges = Vec::new();
        for (sae, sparse) in saes.into_iter().zip(&mut sparse) {
            let at = wanted.iter().position(|wanted| wanted.hook() == sae.hook()).unwrap_or(0);
            ranges = sae.gather(&tokenized, batch, at, rows);
            sae.encode_windows(None, rows, &batch.windows(at, sae.input_width()), scratch, sparse);
        }
        let piece = |range: std::ops::Range<usize>| {
            let mut own = [SparseRows::default(), SparseRows::default()];
            own.iter_mut().zip(&sparse).for_each(|(own, all)| own.extend(all, range.clone()));
            own
        };
        Ok(ranges.into_iter().map(piece).collect())
    })?;
    for [a, b] in pieces.iter().flatten() {
        (0..a.len()).for_each(|i| counts.take(a.row(i).0, b.row(i).0));
    }
    Ok(tokenized.iter().map(|text| text.tokens.len() as u64).sum())
}

/// Shares and means of the likeness of each latent to its nearest; latents for which `counts` is false are left out.
fn shared(nearest: &[Vec<Option<(u32, f32)>>; 2], least: f32, counts: impl Fn(usize, usize) -> bool) -> Shared {
    let over = |of: usize, value: fn(f32, f32) -> f64| {
        let latents = (0..nearest[of].len()).filter(|&latent| counts(of, latent));
        let likeness: Vec<f32> = latents.map(|latent| nearest[of][latent].map_or(0.0, |(_, most)| most)).collect();
        likeness.iter().map(|&most| value(most, least)).sum::<f64>() / likeness.len().max(1) as f64
    };
    let is_shared = |most: f32, least: f32| f64::from(u8::from(most >= least));
    Shared {
        share: [over(0, is_shared), over(1, is_shared)],
        mean: [over(0, |most, _| f64::from(most)), over(1, |most, _| f64::from(most))],
        n_mutual: (0..nearest[0].len() as u32).filter(|&a| is_mutual(nearest, a)).count() as u64,
    }
}

fn is_mutual(nearest: &[Vec<Option<(u32, f32)>>; 2], a: u32) -> bool {
    nearest[0][a as usize].is_some_and(|(b, _)| nearest[1][b as usize].is_some_and(|(back, _)| back == a))
}

fn joined(
    saes: [&Sae; 2],
    cosines: Option<Cosines>,
    counts: Option<Counts>,
    counted: Level,
    skipped: Vec<String>,
) -> CompareReport {
    let by_activations = counts.as_ref().map(Counts::nearest);
    let nearest = cosines.as_ref().map(|cosines| &cosines.nearest).or(by_activations.as_ref());
    let pair = |(a, nearest_of_a): (u32, &Option<(u32, f32)>)| {
        let (b, likeness) = (*nearest_of_a)?;
        let pair = ComparedPair {
            a,
            b,
            cosine: cosines.as_ref().map(|cosines| cosines.of(a, b)),
            jaccard: counts.as_ref().and_then(|counts| counts.jaccard(a, b)),
            mutual: nearest.is_some_and(|nearest| is_mutual(nearest, a)),
        };
        Some((likeness, pair))
    };
    let mut pairs: Vec<(f32, ComparedPair)> =
        nearest.iter().flat_map(|nearest| (0..).zip(&nearest[0])).filter_map(pair).collect();
    pairs.sort_by(|x, y| y.0.total_cmp(&x.0).then(x.1.a.cmp(&y.1.a)));
    let fires =
        |of: usize, latent: usize| counts.as_ref().is_some_and(|counts| counts.fires[of][latent] >= LEAST_SAMPLES);
    CompareReport {
        names: saes.map(|sae| sae.name().to_owned()),
        labels: saes.map(|sae| sae.latents().iter().map(|latent| latent.label.clone()).collect()),
        cosine: cosines.as_ref().map(|cosines| shared(&cosines.nearest, SAME_DIRECTION, |_, _| true)),
        jaccard: by_activations.as_ref().map(|nearest| shared(nearest, SAME_SAMPLES, fires)),
        counted,
        n_counted: counts.as_ref().map_or(0, |counts| counts.n),
        pairs: pairs.into_iter().map(|(_, pair)| pair).collect(),
        skipped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sae::evaluate::tests::{INPUTS, dictionary, row};

    /// A dictionary whose latents point along these, with any length.
    fn pointing(directions: &[&[(usize, f32)]]) -> Sae {
        dictionary(&directions.iter().map(|&of| [row(of), row(of)]).collect::<Vec<_>>())
    }

    #[test]
    fn shared_latents_are_found_by_direction_and_by_what_they_fire_on() {
        // b has a's first latent at another length, one between a's second and third, and one of its own.
        let a = pointing(&[&[(0, 1.0)], &[(1, 1.0)], &[(2, 1.0)], &[(5, 1.0)]]);
        let b = pointing(&[&[(2, 1.0), (1, 3.0)], &[(0, 2.0)], &[(7, 1.0)]]);
        assert_eq!(a.output_width(), INPUTS);
        let cosines = Cosines::new(&a, &b, 1).unwrap();
        let mut counts = Counts::new(4, 3);
        // a's first and b's second fire on the same four samples, a's second alone on two, with b's first on six.
        (0..4).for_each(|_| counts.take(&[0], &[1]));
        (0..2).for_each(|_| counts.take(&[1], &[]));
        (0..6).for_each(|_| counts.take(&[1], &[0]));
        let report = joined([&a, &b], Some(cosines), Some(counts), Level::Token, Vec::new());
        let first = report.pairs[0];
        assert_eq!((first.a, first.b, first.jaccard, first.mutual), (0, 1, Some(1.0), true));
        let second = report.pairs[1];
        assert_eq!((second.a, second.b, second.jaccard, second.mutual), (1, 0, Some(0.75), true));
        assert!((second.cosine.unwrap() - 0.9f32.sqrt()).abs() < 1e-6);
        // a's third has the same nearest, which has a nearer one; it never fires.
        let third = report.pairs[2];
        assert_eq!((third.a, third.b, third.jaccard, third.mutual), (2, 0, Some(0.0), false));
        let cosine = report.cosine.unwrap();
        assert!((cosine.share[0] - 0.5).abs() < 1e-9 && (cosine.share[1] - 2.0 / 3.0).abs() < 1e-9, "{cosine:?}");
        // By activations, of latents that fire often enough: one of each, which are shared.
        let jaccard = report.jaccard.unwrap();
        assert_eq!((jaccard.share, jaccard.mean, jaccard.n_mutual), ([1.0, 1.0], [0.75, 0.75], 1));
        assert_eq!(report.n_counted, 12);
    }

    #[test]
    fn wide_dictionaries_are_counted_pair_by_pair_alike() {
        let mut small = Counts::new(4, 3);
        let mut wide = Counts { table: Vec::new(), ..Counts::new(4, 3) };
        for i in 0..30u32 {
            let (a, b) = ([i % 4], [i % 3, 2]);
            let b = if i % 3 == 2 { &b[..1] } else { &b[..] };
            small.take(&a, b);
            wide.take(&a, b);
        }
        assert_eq!(small.nearest(), wide.nearest());
        assert_eq!(small.jaccard(1, 2), wide.jaccard(1, 2));
    }
}
