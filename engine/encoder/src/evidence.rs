//! What a feature does, shown by examples: what a person or a language model reads before giving it a name, and on what
//! a name is then tested.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::labels::{Candidate, Namer, is_template};
use crate::level::Level;
use crate::options::ReaderOptions;
use crate::progress::Progress;
use crate::reader::{Passage, Reader};
use crate::sae::context::{Example, Excerpt, WordSet};
use crate::sae::harvest::{Harvest, Tap};
use crate::sae::random::Random;
use crate::sae::survey::{OnWord, Survey};
use crate::sae::texts::TextSource;
use crate::sae::{LatentInfo, Sae, write_file};

/// Version of the way contexts are chosen and cut; kept with every label that rests on them.
pub const EVIDENCE_VERSION: u32 = 1;

/// One line of the evidence file (JSON Lines).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeatureEvidence {
    /// [`EVIDENCE_VERSION`] of the program that wrote it.
    pub version: u32,
    /// Dictionary.
    pub dictionary: String,
    /// Position in the dictionary, 0 to width - 1.
    pub latent: u32,
    /// Id in the database; absent where the evidence was made without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature_id: Option<u32>,
    /// Token or span.
    pub level: Level,
    /// Present label.
    pub label: String,
    /// Why it is hidden from users unless they ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<String>,
    /// Share of tokens (spans) on which it fires.
    pub density: f32,
    /// Documents in which it fires, of those that were read.
    pub n_documents: u64,
    /// Strongest activation; unitless, as all activations.
    pub max_activation: f32,
    /// Median of its document maxima.
    pub q50: f32,
    /// 90th percentile of the same.
    pub q90: f32,
    /// Activation from which it counts as present in a document.
    pub presence_threshold: f32,
    /// Words on which it is strong (span level: words that set its spans apart), best first.
    pub words: Vec<WordEvidence>,
    /// Strongest first within each band, at most one a document.
    pub contexts: Vec<Context>,
}

/// A word and the part of a feature that it explains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WordEvidence {
    /// Lower case.
    pub word: String,
    /// Share of the feature's strong activations that falls on it (span level: of its strong spans that hold it).
    pub share: f32,
    /// Share of all samples with this word on which the feature is strong.
    pub precision: f32,
}

/// A place in a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Context {
    /// Where in the feature's range it lies.
    pub band: Band,
    /// Whether it may be read to find a name, or only be used to test one.
    pub split: Split,
    /// Activation there; 0 for [`Band::Contrast`].
    pub activation: f32,
    /// Text around it, the token (span) in «guillemets», line breaks as spaces.
    pub text: String,
}

/// Where in a feature's range a context lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Band {
    /// Among the strongest that were seen.
    Strongest,
    /// Present, drawn at random.
    Middle,
    /// It fires, but below the presence threshold.
    Weak,
    /// It does not fire, though the text is like those where it does.
    Contrast,
    /// It does not fire; drawn at random from all texts. Only for testing.
    Other,
}

/// What a context may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// For finding a name.
    Label,
    /// For testing it; whoever names the feature does not see it.
    Test,
}

/// Texts from which contexts are taken.
#[derive(Debug, Clone)]
pub enum EvidenceTexts {
    /// Files, as in [`crate::sae::TrainOptions::input`].
    Files {
        /// The files.
        paths: Vec<PathBuf>,
        /// Column (field) with the text.
        column: String,
    },
    /// Texts in memory, perhaps within conversations.
    Memory(Vec<Passage<'static>>),
    /// The folder of hidden states that a training left ([`crate::sae::TrainOptions::work_dir`]): no text is read again.
    Harvest(PathBuf),
}

/// What to collect, from which texts.
#[derive(Debug, Clone)]
pub struct EvidenceOptions {
    /// Folder of the dictionary; `None`: the shipped one.
    pub dictionary: Option<PathBuf>,
    /// Where contexts come from.
    pub texts: EvidenceTexts,
    /// Tokens to read; 0: all. A few million give every feature but the rarest its full number of contexts.
    pub tokens: u64,
    /// Latents of which evidence is wanted; empty: all.
    pub latents: Vec<u32>,
    /// Whether `latents` being empty means hidden ones too.
    pub include_hidden: bool,
    /// Contexts of [`Band::Middle`]. Some thirty, with their activations, show from where on a feature is one thing.
    pub middle: u16,
    /// Seed of every random choice.
    pub seed: u64,
    /// Threads and cache folder.
    pub reader_options: ReaderOptions,
}

impl EvidenceOptions {
    /// All visible features of the shipped dictionary, from all of `texts`.
    pub fn new(texts: EvidenceTexts) -> Self {
        Self {
            dictionary: None,
            texts,
            tokens: 0,
            latents: Vec::new(),
            include_hidden: false,
            middle: MIDDLE,
            seed: 1,
            reader_options: ReaderOptions::default(),
        }
    }
}

/// Contexts of the middle, unless the options say otherwise.
pub const MIDDLE: u16 = 13;

/// Contexts of each band: for finding a name, and for testing it. With fewer, both get their part.
fn bands(middle: usize) -> [(Band, usize, usize); 5] {
    let to_label = middle * 6 / 13;
    [
        (Band::Strongest, 10, 3),
        (Band::Middle, to_label, middle - to_label),
        (Band::Weak, 4, 0),
        (Band::Contrast, 4, 4),
        (Band::Other, 0, 10),
    ]
}
/// Words of a feature in whose contexts contrast is looked for.
const CONTRAST_WORDS: usize = 4;
/// Nearest features in whose contexts contrast is looked for.
const NEIGHBOURS: usize = 8;

/// Collects evidence for the features of a dictionary: one pass over the texts for all of them.
///
/// Memory: about 30 KB a feature (2 KB more for each context of the middle beyond [`MIDDLE`]), 150 MB for excerpts and
/// words.
///
/// # Errors
/// As [`Sae::load`], and [`collect_of`].
pub fn collect(options: &EvidenceOptions, progress: &dyn Progress) -> Result<Vec<FeatureEvidence>> {
    let sae = Sae::open(options.dictionary.as_deref().unwrap_or(Path::new(crate::sae::DEFAULT)))?;
    collect_of(&sae, options, progress)
}

/// [`collect`] for a dictionary that is loaded; `options.dictionary` is not looked at.
///
/// # Errors
/// As [`crate::Reader::load`]; [`ErrorKind::Query`] for a latent that the dictionary does not have, or a harvest of
/// another reader or hook point; [`ErrorKind::Data`] for an input without text; [`ErrorKind::Cancelled`].
pub fn collect_of(sae: &Sae, options: &EvidenceOptions, progress: &dyn Progress) -> Result<Vec<FeatureEvidence>> {
    if let Some(latent) = options.latents.iter().find(|&&latent| latent as usize >= sae.width()) {
        let message = format!(
            "dictionary '{}' has features 0 to {}, but not {latent}",
            sae.name(),
            sae.width().saturating_sub(1)
        );
        return Err(Error::new(ErrorKind::Query, message));
    }
    let survey = Survey::sampling(sae, options.seed, options.middle.into());
    let read = |survey: Survey, mut source: TextSource| {
        let reader = Reader::load(sae.reader(), &options.reader_options, progress)?;
        survey.read_texts(sae, &reader, &mut source, options.tokens, progress)
    };
    let survey = match &options.texts {
        EvidenceTexts::Files { paths, column } => read(survey, TextSource::open(paths, column, Survey::TURN)?)?,
        EvidenceTexts::Memory(texts) => {
            let reader = Reader::load(sae.reader(), &options.reader_options, progress)?;
            let mut turns = texts.chunks(Survey::TURN);
            let some = |turn: &[Passage<'static>]| {
                turn.iter().filter(|passage| !passage.text().trim().is_empty()).cloned().collect::<Vec<_>>()
            };
            let mut next = || Ok(turns.next().map(some));
            survey.read_passages(sae, &reader, &mut next, options.tokens, progress)?
        }
        EvidenceTexts::Harvest(dir) => {
            let hook = Tap::new(sae.hook(), sae.level());
            let harvest = Harvest::open(dir, sae.reader(), hook, options.tokens)?;
            survey.read_harvest(sae, &harvest, hook, options.reader_options.threads, progress)?
        }
    };
    let mut latents = options.latents.clone();
    if latents.is_empty() {
        let wanted = |info: &&LatentInfo| options.include_hidden || info.hidden.is_none();
        latents.extend(sae.latents().iter().filter(wanted).map(|info| info.latent));
    }
    latents.sort_unstable();
    latents.dedup();
    let collector = Collector {
        sae,
        survey: &survey,
        words: survey.words_by_latent(),
        pool: Pool::new(sae, &survey),
        middle: options.middle.into(),
        seed: options.seed,
    };
    let neighbours = sae.neighbours(&latents, NEIGHBOURS, options.reader_options.threads)?;
    Ok(latents.iter().zip(&neighbours).map(|(&latent, neighbours)| collector.evidence(latent, neighbours)).collect())
}

/// A place in an excerpt of the pool: its position, and tokens.
type Place = (usize, Range<usize>);

/// Excerpts of random texts, found by what is in them.
struct Pool<'a> {
    excerpts: Vec<&'a Excerpt>,
    /// Where each word stands.
    words: HashMap<String, Vec<Place>>,
    /// Where each latent is present, strongest first.
    present: Vec<Vec<Place>>,
}

impl<'a> Pool<'a> {
    fn new(sae: &Sae, survey: &'a Survey) -> Self {
        let excerpts: Vec<&Excerpt> = survey.excerpts().collect();
        let mut words: HashMap<String, Vec<Place>> = HashMap::new();
        let mut present: Vec<Vec<(f32, Place)>> = vec![Vec::new(); sae.width()];
        for (i, excerpt) in excerpts.iter().enumerate() {
            for (word, tokens) in excerpt.words(sae.level()) {
                words.entry(word).or_default().push((i, tokens));
            }
            for (sample, latent, activation) in excerpt.activations() {
                if activation >= sae.latents()[latent as usize].presence_threshold {
                    present[latent as usize].push((activation, (i, excerpt.sample(sample))));
                }
            }
        }
        let strongest_first = |mut places: Vec<(f32, Place)>| {
            places.sort_by(|a, b| b.0.total_cmp(&a.0));
            places.into_iter().map(|(_, place)| place).collect()
        };
        Self { excerpts, words, present: present.into_iter().map(strongest_first).collect() }
    }

    /// Contexts in which `latent` does not fire though they are like those where it does: those of its words, and those
    /// of its neighbours, one of each in turn.
    fn contrast(&self, latent: u32, words: &[Candidate<'_>], neighbours: &[u32]) -> impl Iterator<Item = Example> {
        /// Places of one word or neighbour that are tried: where it fires nearly always, none may do.
        const TRIES: usize = 200;
        let words = words.iter().take(CONTRAST_WORDS).filter_map(|word| self.words.get(word.word));
        let lists: Vec<&Vec<Place>> =
            words.chain(neighbours.iter().map(|&other| &self.present[other as usize])).collect();
        let in_turn = (0..TRIES).flat_map(move |i| lists.clone().into_iter().filter_map(move |places| places.get(i)));
        in_turn.filter_map(move |(i, tokens)| self.excerpts[*i].without(latent, tokens))
    }

    /// Random contexts in which `latent` does not fire.
    fn others(&self, latent: u32, random: &mut Random) -> impl Iterator<Item = Example> {
        let n = self.excerpts.len();
        let start = random.below(n.max(1));
        (start..n).chain(0..start).filter_map(move |i| self.excerpts[i].without(latent, &self.excerpts[i].drawn()))
    }
}

/// Contexts chosen so far for one feature.
#[derive(Default)]
struct Chosen {
    documents: HashSet<u32>,
    /// Of contexts in which it fires, and of those in which it does not.
    words: [Vec<WordSet>; 2],
}

impl Chosen {
    /// Whether a context is of a document of its own, and not nearly the same as one of its kind before; it is then taken
    /// to be chosen.
    fn take(&mut self, example: &Example) -> bool {
        let words = example.word_set();
        let alike = &mut self.words[usize::from(example.activation > 0.0)];
        if self.documents.contains(&example.document) || alike.iter().any(|other| other.is_nearly(&words)) {
            return false;
        }
        self.documents.insert(example.document);
        alike.push(words);
        true
    }
}

/// Makes evidence out of what a survey saw.
struct Collector<'a> {
    sae: &'a Sae,
    survey: &'a Survey,
    words: Vec<Vec<(&'a str, OnWord)>>,
    pool: Pool<'a>,
    middle: usize,
    seed: u64,
}

impl Collector<'_> {
    fn evidence(&self, latent: u32, neighbours: &[u32]) -> FeatureEvidence {
        let (info, seen) = (&self.sae.latents()[latent as usize], &self.survey.latents[latent as usize]);
        let namer = Namer::new(self.survey, seen, &self.words[latent as usize], self.sae.level());
        let words = namer.top_words();
        let template = || is_template(&seen.examples).then(|| "template".to_owned());
        let round = |x: f32| (x * 1e4).round() / 1e4;
        FeatureEvidence {
            version: EVIDENCE_VERSION,
            dictionary: self.sae.name().to_owned(),
            latent,
            feature_id: None,
            level: self.sae.level(),
            label: info.label.clone(),
            hidden: info.hidden.clone().or_else(template),
            density: seen.fires as f32 / self.survey.n_samples.max(1) as f32,
            n_documents: seen.documents.n(),
            max_activation: round(seen.max),
            q50: round(seen.documents.quantile(0.5)),
            q90: round(seen.documents.quantile(0.9)),
            presence_threshold: info.presence_threshold,
            words: words
                .iter()
                .map(|top| WordEvidence {
                    word: top.word.to_owned(),
                    share: round(top.share as f32),
                    precision: round(top.n as f32 / self.survey.word_count(top.word).max(1) as f32),
                })
                .collect(),
            contexts: self.contexts(latent, &words, neighbours),
        }
    }

    fn contexts(&self, latent: u32, words: &[Candidate<'_>], neighbours: &[u32]) -> Vec<Context> {
        let seen = &self.survey.latents[latent as usize];
        let threshold = self.sae.latents()[latent as usize].presence_threshold;
        let mut random = Random::new(self.seed, latent.into());
        let mut chosen = Chosen::default();
        let mut contexts = Vec::new();
        for (band, n_label, n_test) in bands(self.middle) {
            let n = (n_label + n_test).max(1);
            let mut take = |example: &Example| chosen.take(example);
            let examples: Vec<Example> = match band {
                Band::Strongest => {
                    let present = seen.examples.iter().filter(|example| example.activation >= threshold);
                    present.filter(|example| take(example)).take(n).cloned().collect()
                }
                Band::Middle => seen.middle.iter().filter(|example| take(example)).take(n).cloned().collect(),
                Band::Weak => seen.weak.iter().filter(|example| take(example)).take(n).cloned().collect(),
                Band::Contrast => self.pool.contrast(latent, words, neighbours).filter(take).take(n).collect(),
                Band::Other => self.pool.others(latent, &mut random).filter(take).take(n).collect(),
            };
            let mut order: Vec<usize> = (0..examples.len()).collect();
            random.shuffle(&mut order);
            // Rounded to the nearest.
            let tested = &order[..(2 * examples.len() * n_test + n) / (2 * n)];
            let mut of_band: Vec<Context> = examples
                .iter()
                .enumerate()
                .map(|(i, example)| Context {
                    band,
                    split: if tested.contains(&i) { Split::Test } else { Split::Label },
                    activation: (example.activation * 1e4).round() / 1e4,
                    text: example.marked(),
                })
                .collect();
            of_band.sort_by(|a, b| b.activation.total_cmp(&a.activation));
            contexts.extend(of_band);
        }
        contexts
    }
}

/// Writes evidence as JSON Lines; the file appears when it is whole.
///
/// # Errors
/// [`ErrorKind::Io`] naming the file.
pub fn write(path: &Path, evidence: &[FeatureEvidence]) -> Result<()> {
    let mut bytes = Vec::new();
    for feature in evidence {
        serde_json::to_writer(&mut bytes, feature)
            .map_err(|error| Error::new(ErrorKind::Internal, "cannot write evidence as JSON").with_source(error))?;
        bytes.push(b'\n');
    }
    write_file(path, &bytes)
}

/// Reads what [`write`] wrote.
///
/// # Errors
/// [`ErrorKind::NotFound`], [`ErrorKind::Io`]; [`ErrorKind::Data`] naming the line.
pub fn read(path: &Path) -> Result<Vec<FeatureEvidence>> {
    let shown = path.display();
    let file = File::open(path).map_err(|error| {
        let kind = if error.kind() == std::io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Io };
        Error::new(kind, format!("cannot open {shown}")).with_source(error)
    })?;
    let lines = BufReader::new(file).lines().enumerate();
    let feature = |(i, line): (usize, std::io::Result<String>)| {
        let line =
            line.map_err(|error| Error::new(ErrorKind::Io, format!("cannot read {shown}")).with_source(error))?;
        serde_json::from_str(&line).map_err(|error| {
            Error::new(ErrorKind::Data, format!("{shown} line {} is no evidence", i + 1)).with_source(error)
        })
    };
    lines.map(feature).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    /// Texts of which every other one has an apology.
    fn texts() -> Vec<String> {
        let places = ["the kitchen", "a small garden", "our school", "the old harbour", "her office", "that museum"];
        let things = ["a green lamp", "two letters", "his coat", "many apples", "the wooden boat", "some music"];
        let mut texts = Vec::new();
        for (i, place) in places.into_iter().enumerate() {
            for (j, thing) in things.into_iter().enumerate() {
                let (apology, other) = match (i + j) % 6 {
                    0 => (
                        format!("I am so sorry that {thing} got lost on the way to {place}."),
                        format!("Yesterday we found {thing} near {place}, and nobody knew why."),
                    ),
                    1 => (
                        format!("We're sorry, but {place} has no room for {thing} today."),
                        format!("Is {thing} what you want to see when you walk through {place}?"),
                    ),
                    2 => (
                        format!("She was sorry to hear how {thing} fell into the water behind {place}."),
                        format!("Buy {thing} at half the price: visit {place} on Sunday!"),
                    ),
                    3 => (
                        format!("They are very sorry because {thing} broke during their visit of {place}."),
                        format!("A man from {place} wrote about {thing} in 1974."),
                    ),
                    4 => (
                        format!("Really sorry for being late, {thing} kept me busy in {place} all morning!"),
                        format!("Paint {place} first, then add {thing} with a thin brush."),
                    ),
                    _ => (
                        format!("Please tell him I'm sorry: nobody should have sold {thing} without asking {place}."),
                        format!("Between {place} and the river stands a shop which repairs {thing}."),
                    ),
                };
                texts.extend([apology, other]);
            }
        }
        texts
    }

    #[test]
    fn evidence_of_an_apology() {
        let sae = Sae::open(Path::new(crate::sae::DEFAULT)).unwrap();
        let apologises = |info: &&LatentInfo| info.hidden.is_none() && info.label.contains("apolog");
        let apology = sae.latents().iter().find(apologises).unwrap();
        let options = EvidenceOptions {
            latents: vec![apology.latent],
            reader_options: ReaderOptions { threads: 2, ..ReaderOptions::default() },
            ..EvidenceOptions::new(EvidenceTexts::Memory(texts().into_iter().map(Passage::from).collect()))
        };
        let found = collect_of(&sae, &options, &Silent).unwrap();
        let [feature] = found.as_slice() else { panic!("{} features", found.len()) };
        assert_eq!((feature.latent, &feature.label), (apology.latent, &apology.label));
        assert!((30..=50).contains(&feature.n_documents), "{}", feature.n_documents);
        assert_eq!(feature.words[0].word, "sorry");
        let of = |band: Band| feature.contexts.iter().filter(move |context| context.band == band);
        assert!(of(Band::Strongest).count() >= 5);
        for context in of(Band::Strongest).chain(of(Band::Middle)) {
            assert!(context.text.contains("«sorry»") && context.activation > 0.0, "{context:?}");
        }
        for context in of(Band::Other).chain(of(Band::Contrast)) {
            assert!(!context.text.contains("sorry") && context.text.contains('«'), "{context:?}");
            assert_eq!(context.activation, 0.0);
        }
        assert!(of(Band::Other).count() >= 5 && of(Band::Other).all(|context| context.split == Split::Test));
        for split in [Split::Label, Split::Test] {
            assert!(feature.contexts.iter().any(|context| context.split == split && context.activation > 0.0));
        }
        // Each text holds its own thing and place, so no text comes twice.
        let texts: HashSet<String> =
            feature.contexts.iter().map(|context| context.text.replace(['«', '»'], "")).collect();
        assert_eq!(texts.len(), feature.contexts.len());
        assert_eq!(collect_of(&sae, &options, &Silent).unwrap(), found, "the same seed gives the same");

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("evidence.jsonl");
        write(&path, &found).unwrap();
        assert_eq!(read(&path).unwrap(), found);
        std::fs::write(&path, "{}\n").unwrap();
        assert!(read(&path).unwrap_err().message().ends_with("evidence.jsonl line 1 is no evidence"));
        let beyond = EvidenceOptions { latents: vec![4096], ..options };
        let error = collect_of(&sae, &beyond, &Silent).unwrap_err();
        assert!(error.message().contains("has features 0 to 4095, but not 4096"), "{error}");
    }
}
