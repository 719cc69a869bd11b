//! Hidden states on disk: the reader reads the training texts once, and any number of dictionaries train from the result.
//!
//! A harvest is a folder with `harvest.json` and one `unit-00000.safetensors` for every [`DOCS_PER_UNIT`] documents: the
//! texts, where their tokens and sentences are, and for each hook point the states as `f16`, in the order of the texts. A
//! unit appears under its name only when it is whole, so a harvest that was stopped goes on behind its last unit.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::level::Level;
use half::f16;
use half::slice::HalfFloatSliceExt;
use safetensors::tensor::{Dtype, Metadata, TensorView};
use serde::{Deserialize, Serialize};

use super::texts::TextSource;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Progress;
use crate::reader::{BatchStates, Hook, Reader, Site, Token, TokenizedText, Wanted, sha256_of};

/// Documents in a unit: about 64,000 tokens of ordinary text, 50 MB a hook point.
pub(crate) const DOCS_PER_UNIT: usize = 512;

/// The file that says what the units were made from.
const RECIPE: &str = "harvest.json";

/// Where hidden states are taken, and over what they are averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tap {
    #[serde(alias = "layer")]
    pub(crate) hook: Hook,
    pub(crate) level: Level,
}

impl Tap {
    pub(crate) fn new(hook: Hook, level: Level) -> Self {
        Self { hook, level }
    }

    fn tensor(self) -> String {
        match self.hook.site() {
            Site::Residual => format!("l{}.{}", self.hook.layer(), self.level.as_str()),
            _ => format!("{}.{}", self.hook, self.level.as_str()),
        }
    }
}

/// What a harvest was made from; a harvest goes on only if this is the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Recipe {
    reader: String,
    hooks: Vec<Tap>,
    input: Vec<PathBuf>,
    text_column: String,
    /// What the files held, in the order of `input`; empty if an earlier program wrote this.
    #[serde(default)]
    files: Vec<InputFile>,
}

impl Recipe {
    /// What is not as it was, in words; `None` if the states of this are those of `wanted`.
    fn differs(&self, wanted: &Self) -> Option<String> {
        let list =
            |paths: &[PathBuf]| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        let missing = wanted.hooks.iter().find(|hook| !self.hooks.contains(hook));
        if self.reader != wanted.reader {
            Some(format!("of the reader '{}', not of '{}'", self.reader, wanted.reader))
        } else if self.input != wanted.input {
            Some(format!("of the files {}, not of {}", list(&self.input), list(&wanted.input)))
        } else if self.text_column != wanted.text_column {
            Some(format!("of the column '{}', not of '{}'", self.text_column, wanted.text_column))
        } else {
            missing.map(|hook| {
                let there: Vec<String> = self.hooks.iter().map(|hook| hook.tensor()).collect();
                format!("of the hook points {}, not of {}", there.join(", "), hook.tensor())
            })
        }
    }
}

/// What a file of texts held when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct InputFile {
    bytes: u64,
    /// When it was last written, microseconds since 1970 UTC; `None` if the file system does not say.
    modified_micros: Option<u64>,
    /// Of its content, hexadecimal.
    sha256: String,
}

impl InputFile {
    /// Looks at a file and reads it, unless it is of the size and the time of `known`.
    fn of(path: &Path, known: Option<&Self>) -> Result<Self> {
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::Io, format!("cannot read {}", path.display())).with_source(error)
        };
        let metadata = fs::metadata(path).map_err(failed)?;
        let since_1970 = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let modified_micros = since_1970.map(|since| since.as_micros() as u64);
        let bytes = metadata.len();
        let is_known = |known: &&Self| known.bytes == bytes && known.modified_micros == modified_micros;
        if let Some(known) = known.filter(is_known).filter(|_| modified_micros.is_some()) {
            return Ok(known.clone());
        }
        let sha256 = sha256_of(path).map_err(failed)?;
        Ok(Self { bytes, modified_micros, sha256 })
    }
}

/// What to harvest.
pub(crate) struct HarvestOptions<'a> {
    pub(crate) input: &'a [PathBuf],
    pub(crate) text_column: &'a str,
    pub(crate) hooks: &'a [Tap],
    /// Stop once this many tokens have been read; 0: read all.
    pub(crate) tokens: u64,
    /// Of the token-level hook points keep the states of the first so many tokens; 0: of all. Sentences are few, tokens
    /// are 2 x width bytes each.
    pub(crate) token_states: u64,
}

/// A finished harvest.
#[derive(Debug, Clone, Default)]
pub(crate) struct Harvest {
    pub(crate) units: Vec<PathBuf>,
    pub(crate) n_tokens: u64,
    /// SHA-256 of each file of texts, hexadecimal; empty if an earlier program read them.
    pub(crate) texts: Vec<String>,
}

/// One unit on disk, its header read.
pub(crate) struct Unit {
    path: PathBuf,
    metadata: Metadata,
    /// Where the tensors begin in the file.
    data_start: u64,
}

/// Reads the texts and writes their hidden states to `dir`, or goes on where an earlier run stopped.
///
/// # Errors
/// [`ErrorKind::Query`] if `dir` holds the harvest of something else, of files that have changed since, or of too few
/// states; [`ErrorKind::Data`] without a text, [`ErrorKind::Io`], [`ErrorKind::Cancelled`].
pub(crate) fn harvest(
    reader: &Reader,
    dir: &Path,
    options: &HarvestOptions<'_>,
    progress: &dyn Progress,
) -> Result<Harvest> {
    let io = |what: &str, path: &Path, error: std::io::Error| {
        Error::new(ErrorKind::Io, format!("cannot {what} {}", path.display())).with_source(error)
    };
    // Before anything is written: a column that is not there leaves no trace.
    let mut source = TextSource::open(options.input, options.text_column, DOCS_PER_UNIT)?;
    let mut recipe = Recipe {
        reader: reader.name().to_owned(),
        hooks: distinct(options.hooks),
        input: options.input.to_vec(),
        text_column: options.text_column.to_owned(),
        files: Vec::new(),
    };
    let found = recipe_in(dir)?;
    let known = found.as_ref().filter(|found| found.input == recipe.input).map_or(&[][..], |found| &found.files);
    for (i, path) in options.input.iter().enumerate() {
        recipe.files.push(InputFile::of(path, known.get(i))?);
    }
    if let Some(found) = &found {
        check_found(dir, found, &recipe)?;
        if found.files.is_empty() {
            let dir = dir.display();
            progress.warn(&format!("whether the texts have changed since {dir} was begun is not known"));
        }
    }
    fs::create_dir_all(dir).map_err(|error| io("make folder", dir, error))?;
    // Units to come get all hook points that the others have.
    let hooks = found.as_ref().map_or_else(|| recipe.hooks.clone(), |found| distinct(&found.hooks));
    let files = found.as_ref().map_or(&recipe.files, |found| &found.files);
    let texts = files.iter().map(|file| file.sha256.clone()).collect();
    let mut points: Vec<Hook> = hooks.iter().map(|tap| tap.hook).collect();
    points.sort_unstable();
    points.dedup();
    let total = (options.tokens > 0).then_some(options.tokens);
    progress.stage("reading training texts", total, "tokens");
    let mut harvest = Harvest { texts, ..Harvest::default() };
    let mut n_docs = 0;
    // Of how many tokens there are token states, once a unit has none: behind it there shall be none.
    let mut ends: Option<u64> = None;
    while options.tokens == 0 || harvest.n_tokens < options.tokens {
        let Some(texts) = source.next_turn()? else { break };
        n_docs += texts.len();
        let path = unit_path(dir, harvest.units.len());
        let enough = options.token_states > 0 && harvest.n_tokens >= options.token_states;
        if path.exists() {
            let unit = Unit::open(&path)?;
            let of_tokens = |hook: &&Tap| hook.level == Level::Token;
            let has = |hook: &Tap| unit.n_samples(*hook) > 0;
            let has_none = unit.n_tokens() > 0 && hooks.iter().filter(of_tokens).any(|hook| !has(hook));
            let wanted = || recipe.hooks.iter().filter(of_tokens);
            if let Some(ends) = ends
                && wanted().any(has)
            {
                let message = format!(
                    "{} holds token states of the first {ends} tokens and of later ones, but not of those between; remove it or \
                     take another folder (--work)",
                    dir.display()
                );
                return Err(Error::new(ErrorKind::Query, message));
            }
            if !enough && has_none && wanted().next().is_some() {
                let message = format!(
                    "{} holds token states of the first {1} tokens only, because fewer were asked for then; remove it or take \
                     another folder, or use those (--token-states {1})",
                    dir.display(),
                    harvest.n_tokens
                );
                return Err(Error::new(ErrorKind::Query, message));
            }
            if has_none {
                ends.get_or_insert(harvest.n_tokens);
            }
            harvest.n_tokens += unit.n_tokens() as u64;
        } else {
            if progress.cancelled() {
                return Err(Error::new(ErrorKind::Cancelled, "training stopped; run it again to go on"));
            }
            let without = enough || ends.is_some();
            let kept: Vec<Tap> = hooks.iter().copied().filter(|hook| !without || hook.level != Level::Token).collect();
            let (bytes, n_tokens) = read_unit(reader, &texts, &kept, &points)?;
            if harvest.units.is_empty() && found.is_none() {
                let json = serde_json::to_vec_pretty(&recipe)
                    .map_err(|error| Error::new(ErrorKind::Internal, "cannot write recipe").with_source(error))?;
                super::artifact::write_file(&dir.join(RECIPE), &json)?;
            }
            super::artifact::write_file(&path, &bytes)?;
            harvest.n_tokens += n_tokens;
        }
        harvest.units.push(path);
        progress.update(harvest.n_tokens, "");
    }
    progress.finish(&format!("{} tokens of {} documents", harvest.n_tokens, n_docs));
    if harvest.n_tokens == 0 {
        return Err(Error::new(ErrorKind::Data, "the input holds no text"));
    }
    Ok(harvest)
}

/// `hooks`, each once.
fn distinct(hooks: &[Tap]) -> Vec<Tap> {
    let mut seen = Vec::with_capacity(hooks.len());
    for hook in hooks {
        if !seen.contains(hook) {
            seen.push(*hook);
        }
    }
    seen
}

fn unit_path(dir: &Path, unit: usize) -> PathBuf {
    dir.join(format!("unit-{unit:05}.safetensors"))
}

/// What the units of a folder were made from; `None` if there is none yet.
fn recipe_in(dir: &Path) -> Result<Option<Recipe>> {
    if !unit_path(dir, 0).exists() {
        return Ok(None);
    }
    let path = dir.join(RECIPE);
    let bytes = fs::read(&path).map_err(|error| {
        let message = format!(
            "{} holds hidden states, but {RECIPE} does not say of what; remove it or take another folder",
            dir.display()
        );
        Error::new(ErrorKind::Query, message).with_source(error)
    })?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| Error::new(ErrorKind::Corrupt, format!("cannot read {}", path.display())).with_source(error))
}

/// Refuses states of something else.
fn check_found(dir: &Path, found: &Recipe, wanted: &Recipe) -> Result<()> {
    let dir = dir.display();
    if let Some(differs) = found.differs(wanted) {
        let message = format!("{dir} holds hidden states {differs}; remove it or take another folder (--work)");
        return Err(Error::new(ErrorKind::Query, message));
    }
    let changed = |(found, wanted): (&InputFile, &InputFile)| found.sha256 != wanted.sha256;
    if let Some(at) = found.files.iter().zip(&wanted.files).position(changed) {
        let message = format!(
            "{} has changed since its hidden states were written to {dir}; remove that folder or take another one (--work)",
            wanted.input[at].display()
        );
        return Err(Error::new(ErrorKind::Query, message));
    }
    Ok(())
}

impl Harvest {
    /// Opens the folder that a harvest left, for a dictionary over `hook` of `reader`: its first units, up to `tokens`
    /// tokens unless that is 0, that keep states of the hook point.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is no harvest, [`ErrorKind::Query`] if it is of another reader or hook point,
    /// [`ErrorKind::Corrupt`].
    pub(crate) fn open(dir: &Path, reader: &str, hook: Tap, tokens: u64) -> Result<Self> {
        let path = dir.join(RECIPE);
        let bytes = fs::read(&path).map_err(|error| {
            let message = format!("{} holds no hidden states: there is no harvest.json", dir.display());
            Error::new(ErrorKind::NotFound, message).with_source(error)
        })?;
        let recipe: Recipe = serde_json::from_slice(&bytes).map_err(|error| damaged(&path, error.into()))?;
        if recipe.reader != reader || !recipe.hooks.contains(&hook) {
            let there: Vec<String> = recipe.hooks.iter().map(|hook| hook.tensor()).collect();
            let message = format!(
                "{} holds hidden states of {} at {}, but the dictionary reads those of {reader} at {}",
                dir.display(),
                recipe.reader,
                there.join(", "),
                hook.tensor()
            );
            return Err(Error::new(ErrorKind::Query, message));
        }
        let mut harvest = Self::default();
        while tokens == 0 || harvest.n_tokens < tokens {
            let path = unit_path(dir, harvest.units.len());
            if !path.exists() {
                break;
            }
            let unit = Unit::open(&path)?;
            if unit.n_samples(hook) == 0 {
                break;
            }
            harvest.n_tokens += unit.n_tokens() as u64;
            harvest.units.push(path);
        }
        if harvest.n_tokens == 0 {
            let message = format!("{} holds no hidden states of {} yet", dir.display(), hook.tensor());
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        Ok(harvest)
    }
}

fn to_f16(values: &[f32]) -> Vec<f16> {
    let mut out = vec![f16::ZERO; values.len()];
    out.convert_from_f32_slice(values);
    out
}

/// Adds the mean state of each span of a piece to `out`; `states` are the piece's rows.
pub(crate) fn span_means(text: &TokenizedText, piece: usize, states: &[f32], width: usize, out: &mut Vec<f32>) {
    let piece = &text.pieces[piece];
    for span in &piece.spans {
        let rows = &states[(span.start - piece.tokens.start) * width..(span.end - piece.tokens.start) * width];
        let from = out.len();
        out.resize(from + width, 0.0);
        let mean = &mut out[from..];
        for row in rows.chunks_exact(width) {
            mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
        mean.iter_mut().for_each(|sum| *sum /= span.len() as f32);
    }
}

fn read_unit(reader: &Reader, texts: &[String], taps: &[Tap], points: &[Hook]) -> Result<(Vec<u8>, u64)> {
    let views: Vec<&str> = texts.iter().map(String::as_str).collect();
    let tokenized = reader.tokenize(&views)?;
    let widths = taps.iter().map(|tap| reader.hook_width(tap.hook)).collect::<Result<Vec<usize>>>()?;
    let wanted: Vec<Wanted> = points.iter().copied().map(Wanted::states).collect();
    let states = reader.read(&tokenized, &wanted, |(): &mut (), batch: &BatchStates| {
        let piece_states = batch.pieces.iter().map(|piece| {
            let of_tap = taps.iter().zip(&widths).map(|(tap, &width)| {
                let point = points.iter().position(|&point| point == tap.hook).unwrap_or(0);
                let states = &batch.layers[point][piece.rows.start * width..piece.rows.end * width];
                match tap.level {
                    Level::Token => to_f16(states),
                    _ => {
                        let mut means = Vec::new();
                        span_means(&tokenized[piece.doc], piece.piece, states, width, &mut means);
                        to_f16(&means)
                    }
                }
            });
            of_tap.collect::<Vec<_>>()
        });
        Ok(piece_states.collect())
    })?;
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (i, (tap, &width)) in taps.iter().zip(&widths).enumerate() {
        let mut bytes = Vec::new();
        for piece in states.iter().flatten() {
            piece[i].iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
        }
        tensors.push((tap.tensor(), Dtype::F16, vec![bytes.len() / 2 / width, width], bytes));
    }
    let mut put = |name: &str, values: Vec<u32>| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        tensors.push((name.to_owned(), Dtype::U32, vec![values.len()], bytes));
    };
    let counts = |count: &dyn Fn(&TokenizedText) -> usize| tokenized.iter().map(|text| count(text) as u32).collect();
    put("doc_tokens", counts(&|text| text.tokens.len()));
    put("doc_spans", counts(&TokenizedText::n_spans));
    put("doc_bytes", texts.iter().map(|text| text.len() as u32).collect());
    let tokens = || tokenized.iter().flat_map(|text| &text.tokens);
    put("token_start", tokens().map(|token| token.start).collect());
    // The lowest bit says whether a word begins.
    put("token_end", tokens().map(|token| token.end << 1 | u32::from(token.begins_word)).collect());
    let spans = tokenized.iter().flat_map(|text| text.pieces.iter().flat_map(|piece| &piece.spans));
    put("span_end", spans.map(|span| span.end as u32).collect());
    tensors.push((
        "texts".to_owned(),
        Dtype::U8,
        vec![views.iter().map(|t| t.len()).sum()],
        views.concat().into_bytes(),
    ));
    let views =
        tensors.iter().map(|(name, dtype, shape, bytes)| Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?)));
    let bytes = views
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .and_then(|views| safetensors::serialize(views, None))
        .map_err(|error| Error::new(ErrorKind::Internal, "cannot write hidden states").with_source(error))?;
    Ok((bytes, tokenized.iter().map(|text| text.tokens.len() as u64).sum()))
}

fn damaged(path: &Path, error: Box<dyn std::error::Error + Send + Sync>) -> Error {
    let message = format!("{} is damaged; remove it and run the training again", path.display());
    Error::new(ErrorKind::Corrupt, message).with_source(error)
}

/// A text of a unit with its tokens and the ends of its sentences.
pub(crate) struct UnitText {
    pub(crate) text: String,
    pub(crate) tokens: Vec<Token>,
    /// Ends of the sentences, as positions in `tokens`.
    pub(crate) span_ends: Vec<usize>,
}

impl Unit {
    /// Opens a unit.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], [`ErrorKind::Corrupt`] naming the file.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let damaged = |error: Box<dyn std::error::Error + Send + Sync>| damaged(path, error);
        let mut file = fs::File::open(path)
            .map_err(|error| Error::new(ErrorKind::Io, format!("cannot open {}", path.display())).with_source(error))?;
        let mut head = vec![0; 8];
        file.read_exact(&mut head).map_err(|error| damaged(error.into()))?;
        let length = head.iter().rev().fold(0u64, |length, &byte| length << 8 | u64::from(byte));
        if length > 1 << 20 {
            return Err(damaged("its header is too long".into()));
        }
        head.resize(8 + length as usize, 0);
        file.read_exact(&mut head[8..]).map_err(|error| damaged(error.into()))?;
        // `read_metadata` wants to see the tensors too; the header alone is plain JSON.
        let metadata: Metadata = serde_json::from_slice(&head[8..]).map_err(|error| damaged(error.into()))?;
        Ok(Self { path: path.to_owned(), metadata, data_start: 8 + length })
    }

    fn rows(&self, name: &str) -> usize {
        self.metadata.info(name).and_then(|info| info.shape.first().copied()).unwrap_or(0)
    }

    fn n_tokens(&self) -> usize {
        self.rows("token_start")
    }

    /// Samples of a hook point; 0 if the unit keeps none of it.
    pub(crate) fn n_samples(&self, hook: Tap) -> usize {
        self.rows(&hook.tensor())
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let info = self.metadata.info(name).ok_or_else(|| damaged(&self.path, format!("it has no {name}").into()))?;
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end.saturating_sub(start)];
        fs::File::open(&self.path)
            .and_then(|mut file| {
                file.seek(SeekFrom::Start(self.data_start + start as u64))?;
                file.read_exact(&mut bytes)
            })
            .map_err(|error| damaged(&self.path, error.into()))?;
        Ok(bytes)
    }

    fn u32s(&self, name: &str) -> Result<Vec<u32>> {
        Ok(self.read(name)?.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
    }

    /// States of a hook point, row-major, in the order of the texts.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] naming the file.
    pub(crate) fn states(&self, hook: Tap) -> Result<Vec<f16>> {
        Ok(self.read(&hook.tensor())?.as_chunks::<2>().0.iter().map(|bytes| f16::from_le_bytes(*bytes)).collect())
    }

    /// Its texts.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] naming the file.
    pub(crate) fn texts(&self) -> Result<Vec<UnitText>> {
        let columns: HashMap<&str, Vec<u32>> =
            ["doc_tokens", "doc_spans", "doc_bytes", "token_start", "token_end", "span_end"]
                .into_iter()
                .map(|name| Ok((name, self.u32s(name)?)))
                .collect::<Result<_>>()?;
        let all = String::from_utf8(self.read("texts")?).map_err(|error| damaged(&self.path, error.into()))?;
        let (mut token_at, mut span_at, mut byte_at) = (0, 0, 0);
        let mut texts = Vec::new();
        for ((&n_tokens, &n_spans), &n_bytes) in
            columns["doc_tokens"].iter().zip(&columns["doc_spans"]).zip(&columns["doc_bytes"])
        {
            let (n_tokens, n_spans, n_bytes) = (n_tokens as usize, n_spans as usize, n_bytes as usize);
            let short = || damaged(&self.path, "a column is too short".into());
            let starts = columns["token_start"].get(token_at..token_at + n_tokens).ok_or_else(short)?;
            let ends = columns["token_end"].get(token_at..token_at + n_tokens).ok_or_else(short)?;
            let span_ends = columns["span_end"].get(span_at..span_at + n_spans).ok_or_else(short)?;
            let tokens = starts.iter().zip(ends);
            texts.push(UnitText {
                text: all.get(byte_at..byte_at + n_bytes).ok_or_else(short)?.to_owned(),
                tokens: tokens
                    .map(|(&start, &end)| Token { id: 0, start, end: end >> 1, begins_word: end & 1 == 1 })
                    .collect(),
                span_ends: span_ends.iter().map(|&end| end as usize).collect(),
            });
            token_at += n_tokens;
            span_at += n_spans;
            byte_at += n_bytes;
        }
        Ok(texts)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::testing;

    const TOKENS: Tap = Tap { hook: Hook::residual(1), level: Level::Token };
    const SPANS: Tap = Tap { hook: Hook::residual(1), level: Level::Span };

    #[derive(Default)]
    struct Heard(Mutex<String>);

    impl Progress for Heard {
        fn stage(&self, _name: &str, _total: Option<u64>, _unit: &str) {}
        fn update(&self, _done: u64, _detail: &str) {}
        fn warn(&self, _message: &str) {}
        fn finish(&self, summary: &str) {
            summary.clone_into(&mut self.0.lock().unwrap());
        }
    }

    struct Folder {
        dir: tempfile::TempDir,
        reader: Reader,
    }

    impl Folder {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap(), reader: testing::gemma() }
        }

        fn input(&self) -> PathBuf {
            self.dir.path().join("a.jsonl")
        }

        fn write(&self, n: usize, word: &str) {
            let line = |i: usize| format!("{{\"text\": \"{word} {}\"}}\n", i % 10);
            fs::write(self.input(), (0..n).map(line).collect::<String>()).unwrap();
        }

        fn harvest(&self, column: &str, hooks: &[Tap], token_states: u64) -> Result<(Harvest, String)> {
            let (input, heard) = ([self.input()], Heard::default());
            let options = HarvestOptions { input: &input, text_column: column, hooks, tokens: 0, token_states };
            let harvest = harvest(&self.reader, &self.dir.path().join("work"), &options, &heard)?;
            Ok((harvest, heard.0.into_inner().unwrap()))
        }

        fn refused(&self, column: &str, hooks: &[Tap], token_states: u64) -> String {
            let error = self.harvest(column, hooks, token_states).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Query, "{error}");
            error.message().to_owned()
        }
    }

    #[test]
    fn states_are_used_again_only_if_the_texts_are_the_same() {
        let folder = Folder::new();
        folder.write(3, "tea");
        // A mistyped column does not stand in the way of the right one.
        assert_eq!(folder.harvest("txt", &[TOKENS], 0).unwrap_err().kind(), ErrorKind::Data);
        // A hook point that is named twice is kept once.
        let (first, heard) = folder.harvest("text", &[TOKENS, TOKENS], 0).unwrap();
        assert!(first.units.len() == 1 && first.texts.len() == 1 && heard.ends_with(" of 3 documents"), "{heard}");
        // The same content in a file that was written anew.
        folder.write(3, "tea");
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
        fs::File::options().write(true).open(folder.input()).unwrap().set_modified(later).unwrap();
        let (again, heard) = folder.harvest("text", &[TOKENS], 0).unwrap();
        assert_eq!((again.n_tokens, &again.texts), (first.n_tokens, &first.texts));
        assert!(heard.ends_with(" of 3 documents"), "{heard}");

        let said = folder.refused("other", &[TOKENS], 0);
        assert!(said.contains("of the column 'text', not of 'other'"), "{said}");
        let said = folder.refused("text", &[SPANS], 0);
        assert!(said.contains("of the hook points l1.token, not of l1.span"), "{said}");
        folder.write(3, "pea");
        let said = folder.refused("text", &[TOKENS], 0);
        assert!(said.contains("a.jsonl has changed since") && said.contains("--work"), "{said}");
    }

    #[test]
    fn a_recipe_of_an_earlier_program_is_read() {
        let folder = Folder::new();
        folder.write(3, "tea");
        let (first, _) = folder.harvest("text", &[TOKENS], 0).unwrap();
        let path = folder.dir.path().join("work").join(RECIPE);
        let mut recipe: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        recipe.as_object_mut().unwrap().remove("files");
        let hook = recipe["hooks"][0].clone();
        recipe["hooks"] = serde_json::json!([hook, hook]);
        fs::write(&path, recipe.to_string()).unwrap();
        let (again, _) = folder.harvest("text", &[TOKENS], 0).unwrap();
        assert_eq!((again.n_tokens, again.texts.len()), (first.n_tokens, 0));
        fs::remove_file(&path).unwrap();
        let said = folder.refused("text", &[TOKENS], 0);
        assert!(said.contains("harvest.json does not say of what"), "{said}");
    }

    #[test]
    fn few_token_states_are_not_taken_for_all() {
        let folder = Folder::new();
        folder.write(DOCS_PER_UNIT + 8, "tea");
        let (all, _) = folder.harvest("text", &[TOKENS, SPANS], 10).unwrap();
        assert_eq!(all.units.len(), 2);
        // Sentences are all there.
        assert_eq!(folder.harvest("text", &[SPANS], 0).unwrap().0.n_tokens, all.n_tokens);
        assert_eq!(folder.harvest("text", &[TOKENS], 5).unwrap().0.n_tokens, all.n_tokens);
        let kept = Unit::open(&all.units[0]).unwrap().n_tokens();
        let said = folder.refused("text", &[TOKENS], 0);
        assert!(said.contains(&format!("of the first {kept} tokens only")), "{said}");
        // What is read for sentences later leaves no hole.
        folder.write(2 * DOCS_PER_UNIT + 8, "tea");
        let path = folder.dir.path().join("work").join(RECIPE);
        let mut recipe: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        recipe.as_object_mut().unwrap().remove("files");
        fs::write(&path, recipe.to_string()).unwrap();
        let (more, _) = folder.harvest("text", &[SPANS], 0).unwrap();
        assert_eq!(Unit::open(&more.units[2]).unwrap().n_samples(TOKENS), 0);
        fs::copy(&more.units[0], &more.units[2]).unwrap();
        let said = folder.refused("text", &[TOKENS], kept as u64);
        assert!(said.contains("not of those between"), "{said}");
        fs::remove_file(&more.units[2]).unwrap();
        assert_eq!(folder.harvest("text", &[TOKENS], kept as u64).unwrap().0.n_tokens, more.n_tokens);
    }
}
