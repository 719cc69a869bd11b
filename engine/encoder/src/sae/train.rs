//! Training a sparse autoencoder: harvest once, train, describe, save.

use std::path::PathBuf;
use std::time::Instant;

use crate::level::Level;

use super::harvest::{Harvest, HarvestOptions, Tap, harvest};
use super::samples::{Normalization, SampleStream};
use super::start::Start;
use super::survey::Survey;
use super::trainer::{Rule, Trainer};
use super::{Precision, Sae, Spec, TrainMethod, Weights};
use crate::error::{Error, ErrorKind, Result};
use crate::options::ReaderOptions;
use crate::progress::Progress;
use crate::reader::{Hook, Reader, Site};

/// What to train, on what, and how. `TrainOptions::new` has the defaults of the shipped dictionary.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// Text files: Parquet, JSONL, or plain text (one document each). Read in turn, a batch of each.
    pub input: Vec<PathBuf>,
    /// Column (field) with the text; default `text`.
    pub text_column: String,
    /// A dictionary to go on from, by its folder or the name of one that is built in; default none. Its reader, hook point,
    /// level, architecture, width and k count, not those given here; its features keep their numbers, and what is known
    /// of them where their decoder direction stays (cosine of [`super::SAME_DIRECTION`] or more). Step sizes around
    /// [`Self::TUNING_RATE`] keep most of them.
    pub start: Option<PathBuf>,
    /// Reader; default `all-MiniLM-L6-v2`.
    pub reader: String,
    /// Layer of the hook point: 0 is the embedding, n the output of block n; default 4.
    pub layer: usize,
    /// The hook point, if it is another than the residual stream at `layer`; default none.
    pub hook: Option<Hook>,
    /// Token (default) or span; see [`Level`].
    pub level: Level,
    /// Further hook points to harvest in the same pass, so that other dictionaries can be trained from `work_dir`.
    pub also_harvest: Vec<(Hook, Level)>,
    /// Name of the dictionary, lower-case letters, digits, `-` and `_`, not that of one that is built in; default
    /// `<reader>-l<layer>-<level>-<width>`, e.g. `minilm-l4-token-1024`, or that of `start` with `-tuned`.
    pub name: Option<String>,
    /// What is trained; default BatchTopK.
    pub method: TrainMethod,
    /// Latents; default 4,096. Of ITDA at most: it may need fewer.
    pub width: usize,
    /// Latents that fire on a sample; default 16. BatchTopK, Matryoshka and JumpReLU: on average (the first two twice as
    /// many at most, in use); TopK and AbsTopK: exactly; matching pursuit and ITDA: steps.
    pub k: usize,
    /// Of Matryoshka, the sizes of the nested dictionaries, ascending, the last one the width; default empty: 1/32, 3/32,
    /// 7/32, 15/32 of the width, and the whole.
    pub prefixes: Vec<usize>,
    /// Of ITDA, the share of a sample's squared length that may stay unexplained before the sample becomes a latent;
    /// default none: [`Self::TOLERANCE`].
    pub tolerance: Option<f32>,
    /// Tokens to read; default 4,000,000. Fewer if the input ends before.
    pub tokens: u64,
    /// Tokens of which token-level hidden states are kept; default 0: all that are read.
    pub token_states: u64,
    /// Samples (tokens or spans) to train on, with repetition; default 0: each harvested one twice (of ITDA: at most).
    pub samples: u64,
    /// Samples in a step; default 2,048.
    pub batch: usize,
    /// Adam's step size; default 2e-3.
    pub learning_rate: f32,
    /// Seed of every random choice; default 1.
    pub seed: u64,
    /// Folder for hidden states (2 x width bytes a token) and checkpoints. A run that was stopped goes on from there.
    pub work_dir: PathBuf,
    /// Folder of the finished dictionary.
    pub output: PathBuf,
    /// Whether a dictionary that `output` holds already may be replaced; default false.
    pub overwrite: bool,
    /// Whether to keep short pieces of the training texts in the dictionary as examples; default true.
    pub examples: bool,
    /// Threads and cache folder.
    pub reader_options: ReaderOptions,
}

impl TrainOptions {
    /// Default of `tolerance`.
    pub const TOLERANCE: f32 = 0.4;
    /// A step size with which a dictionary is adapted rather than made anew.
    pub const TUNING_RATE: f32 = 3e-4;

    /// The defaults for training on `input`, working in `work_dir`, writing to `output`.
    pub fn new(input: Vec<PathBuf>, work_dir: impl Into<PathBuf>, output: impl Into<PathBuf>) -> Self {
        Self {
            input,
            text_column: "text".to_owned(),
            start: None,
            reader: crate::reader::DEFAULT_READER.to_owned(),
            layer: 4,
            hook: None,
            level: Level::Token,
            also_harvest: Vec::new(),
            name: None,
            method: TrainMethod::default(),
            width: 4096,
            k: 16,
            prefixes: Vec::new(),
            tolerance: None,
            tokens: 4_000_000,
            token_states: 0,
            samples: 0,
            batch: 2048,
            learning_rate: 2e-3,
            seed: 1,
            work_dir: work_dir.into(),
            output: output.into(),
            overwrite: false,
            examples: true,
            reader_options: ReaderOptions::default(),
        }
    }

    /// Where the hidden states are taken.
    fn hook_point(&self) -> Hook {
        self.hook.unwrap_or(Hook::residual(self.layer))
    }
}

/// How a training went.
#[derive(Debug, Clone)]
pub struct TrainReport {
    /// Name of the dictionary.
    pub name: String,
    /// Tokens that the reader read for it.
    pub n_tokens: u64,
    /// Samples trained on, with repetition.
    pub n_samples: u64,
    /// Share of variance left unexplained on the harvested samples, with the learned threshold and the cap.
    pub fvu: f64,
    /// Latents that fire on a sample, on average, likewise.
    pub l0: f64,
    /// Share of latents that never fire on the harvested samples.
    pub dead_share: f64,
    /// Of a training that went on from a dictionary, the latents that kept what was known of them.
    pub kept: Option<usize>,
    /// Wall-clock seconds, harvest included.
    pub seconds: f64,
}

/// Samples on which mean and scale are measured and from which the first directions are drawn.
const FIRST_SAMPLES: usize = 1 << 17;
/// Steps in which the step size rises from 0.
const WARM_UP: u64 = 100;
/// Share of the steps, at the end, in which it falls to 0.
const DECAY: f64 = 0.4;
/// Latents that were not kept in so many steps are revived, as often as that, until the step size falls.
const REVIVE_STEPS: u64 = 400;
/// Seconds between checkpoints.
const CHECKPOINT_SECS: u64 = 60;
/// Latents that may fire on a row in use, in multiples of `k`.
const CAP: usize = 2;
/// Latents of which all pairs of products are held: 1 GiB.
const MAX_PURSUIT_WIDTH: usize = 1 << 14;

/// Trains a dictionary and writes it to `options.output`, labels included.
///
/// One loop for all methods; [`TrainMethod`] names their papers. Resumes from `options.work_dir` where an earlier run with
/// the same options stopped.
///
/// # Errors
/// As [`crate::Reader::load`]; [`crate::ErrorKind::Query`] for an option out of range, [`crate::ErrorKind::Exists`] if
/// `options.output` holds a dictionary that may not be replaced, [`crate::ErrorKind::Data`] for an input without text, [`crate::ErrorKind::Cancelled`] after a checkpoint if `progress` says so.
pub fn train(options: &TrainOptions, progress: &dyn Progress) -> Result<TrainReport> {
    let started = Instant::now();
    let start = options.start.as_deref().map(Start::open).transpose()?;
    let adopted = start.as_ref().map(|start| start.options(options));
    let options = adopted.as_ref().unwrap_or(options);
    check(options)?;
    let reader = Reader::load(&options.reader, &options.reader_options, progress)?;
    reader.hook_width(options.hook_point())?;
    let hook = Tap::new(options.hook_point(), options.level);
    let mut hooks = vec![hook];
    for tap in options.also_harvest.iter().map(|&(hook, level)| Tap::new(hook, level)) {
        if !hooks.contains(&tap) {
            hooks.push(tap);
        }
    }
    let harvest_options = HarvestOptions {
        input: &options.input,
        text_column: &options.text_column,
        hooks: &hooks,
        tokens: options.tokens,
        token_states: options.token_states,
    };
    let harvest = harvest(&reader, &options.work_dir, &harvest_options, progress)?;
    let (sae, n_samples) = fit(options, start.as_ref(), &reader, &harvest, hook, progress)?;
    let survey = Survey::of_harvest(&sae, &harvest, hook, options.reader_options.threads, progress)?;
    let mut latents = crate::labels::describe(&survey, &sae, options.examples);
    let kept = start.map(|start| start.hand_over(&sae, &mut latents));
    let sae = sae.with_latents(latents)?;
    sae.save(&options.output)?;
    Ok(TrainReport {
        name: sae.name().to_owned(),
        n_tokens: harvest.n_tokens,
        n_samples,
        fvu: survey.fvu(),
        l0: survey.l0(),
        dead_share: survey.dead_share(),
        kept,
        seconds: started.elapsed().as_secs_f64(),
    })
}

fn check(options: &TrainOptions) -> Result<()> {
    let wrong = |what: String| Err(Error::new(ErrorKind::Query, what));
    // It is written last: a training that was stopped has none.
    if !options.overwrite && Sae::is_in(&options.output) {
        let message = format!(
            "{} holds a finished dictionary, names of its features included; name another --output, or replace it \
             (--overwrite)",
            options.output.display()
        );
        return Err(Error::new(ErrorKind::Exists, message));
    }
    if options.output.exists() && !options.output.is_dir() {
        return wrong(format!("{} is no folder; name another --output", options.output.display()));
    }
    if let Some(name) = &options.name {
        super::name::check_new(name)?;
    }
    match options {
        TrainOptions { width, .. } if !(16..=1 << 20).contains(width) => {
            wrong(format!("width {width}: expected 16 to 1048576 latents"))
        }
        TrainOptions { k, width, .. } if *k == 0 || *k * CAP > *width => {
            wrong(format!("k {k}: expected 1 to {} for {width} latents", width / CAP))
        }
        TrainOptions { method, width, .. } if method.is_pursuit() && *width > MAX_PURSUIT_WIDTH => wrong(format!(
            "width {width}: {} is trained with {MAX_PURSUIT_WIDTH} latents at most, because it holds the products of all \
             pairs; take fewer, or another architecture",
            method.name()
        )),
        TrainOptions { method, prefixes, .. } if !prefixes.is_empty() && *method != TrainMethod::Matryoshka => {
            wrong(format!("prefixes are of the architecture matryoshka, not of {method}"))
        }
        TrainOptions { prefixes, width, .. }
            if !prefixes.is_empty()
                && (prefixes[0] == 0
                    || !prefixes.is_sorted_by(|a, b| a < b)
                    || prefixes.last().is_some_and(|last| last != width)) =>
        {
            wrong(format!("prefixes {prefixes:?}: expected sizes that grow and end with the width, {width}"))
        }
        TrainOptions { method, tolerance: Some(_), .. } if *method != TrainMethod::Itda => {
            wrong(format!("a tolerance is of the architecture itda, not of {method}"))
        }
        TrainOptions { tolerance: Some(tolerance), .. } if !(*tolerance >= 0.0 && *tolerance < 1.0) => wrong(format!(
            "tolerance {tolerance}: expected the share of a sample that may stay unexplained, from 0 to below 1"
        )),
        TrainOptions { batch, .. } if !(16..=1 << 16).contains(batch) => {
            wrong(format!("batch {batch}: expected 16 to 65536 samples"))
        }
        TrainOptions { learning_rate, .. } if !(*learning_rate > 0.0 && *learning_rate < 1.0) => {
            wrong(format!("learning rate {learning_rate}: expected a number between 0 and 1"))
        }
        TrainOptions { level: Level::Document, .. } => {
            wrong("level document: dictionaries are trained on tokens or spans".to_owned())
        }
        _ => Ok(()),
    }
}

fn default_name(options: &TrainOptions) -> String {
    // `all-MiniLM-L6-v2` is `minilm` in a dictionary's name; other readers go by their own.
    let last = std::path::Path::new(&options.reader).file_name().and_then(|name| name.to_str());
    let last = last.map(|name| name.strip_suffix(".gguf").unwrap_or(name));
    let reader = if options.reader == crate::reader::DEFAULT_READER { "minilm" } else { last.unwrap_or("reader") };
    let point = match options.hook_point() {
        hook if hook.site() == Site::Residual => format!("l{}", hook.layer()),
        hook => hook.to_string(),
    };
    let method = match options.method {
        TrainMethod::BatchTopK => String::new(),
        method => format!("-{method}"),
    };
    super::name::nearest(&format!("{reader}-{point}-{}-{}{method}", options.level.as_str(), options.width))
}

/// Trains on the harvest; returns the dictionary, undescribed, and the number of samples seen.
fn fit(
    options: &TrainOptions,
    start: Option<&Start>,
    reader: &Reader,
    harvest: &Harvest,
    hook: Tap,
    progress: &dyn Progress,
) -> Result<(Sae, u64)> {
    let inputs = reader.hook_width(hook.hook)?;
    let mut stream = SampleStream::open(harvest, hook, inputs, options.batch, options.seed)?;
    if stream.n_samples() < options.width as u64 {
        progress.warn(&format!(
            "the texts give {} samples for {} features: most features will mean nothing; train on more text, or with a \
             smaller --width",
            stream.n_samples(),
            options.width
        ));
    }
    let samples = if options.samples == 0 { 2 * stream.n_samples() } else { options.samples };
    let steps = samples.div_ceil(options.batch as u64).max(1);
    let name = options.name.clone().unwrap_or_else(|| default_name(options));

    let rule = options.method.rule(options);
    let threads = options.reader_options.threads.max(1);
    let mut batch = Vec::new();
    // Decoders put most of the variance of their residual stream into a few dimensions that tell little, so that without
    // standardising a dictionary would be one of those.
    let standardised = start.is_none()
        && reader.is_causal()
        && options.level == Level::Token
        && matches!(hook.hook.site(), Site::Residual | Site::Middle);
    let (normalization, mut trainer) = if let Some(start) = start {
        (start.normalization(), start.trainer(rule.clone(), threads))
    } else {
        let mut first = Vec::new();
        for _ in 0..FIRST_SAMPLES.div_ceil(options.batch).min((stream.n_samples() as usize / options.batch).max(1)) {
            stream.next_raw(&mut batch)?;
            first.extend_from_slice(&batch);
        }
        let normalization = if standardised {
            Normalization::standardised(&first, inputs)
        } else {
            Normalization::centred(&first, inputs, options.level == Level::Span)
        };
        normalization.apply(&mut first);
        let (width, k, seed) = (options.width, options.k, options.seed);
        let trainer = Trainer::new(rule.clone(), &first, inputs, width, k, seed, threads)?;
        (normalization, trainer)
    };

    let checkpoint = options.work_dir.join(format!("{name}.checkpoint.safetensors"));
    let mut recipe = serde_json::json!({
        "input": options.input, "tokens": harvest.n_tokens, "samples": samples, "batch": options.batch,
        "learning_rate": options.learning_rate, "seed": options.seed, "width": options.width, "k": options.k,
        "hook": hook,
    });
    // Of texts that an earlier program read nothing is known.
    if !harvest.texts.is_empty() {
        recipe["texts"] = serde_json::json!(harvest.texts);
    }
    if standardised {
        recipe["standardised"] = true.into();
    }
    if rule != Rule::BatchTopK {
        recipe["rule"] = format!("{rule:?}").into();
    }
    if let Some(start) = start {
        recipe["from"] = start.identity();
    }
    let recipe = recipe.to_string();
    if checkpoint.exists() {
        match trainer.restore(&checkpoint, &recipe) {
            Ok(()) => {}
            Err(error) => progress.warn(&format!("starting anew: {error}")),
        }
    }
    let mut stream = SampleStream::open(harvest, hook, inputs, options.batch, options.seed)?;
    stream.skip(trainer.step)?;
    progress.stage(&format!("training {name}"), Some(steps), "steps");
    let mut saved = Instant::now();
    let (mut fvu, mut l0) = (f64::NAN, f64::NAN);
    while trainer.step < steps && !trainer.is_finished() {
        if progress.cancelled() {
            trainer.checkpoint(&checkpoint, &recipe)?;
            return Err(Error::new(ErrorKind::Cancelled, "training stopped; run it again to go on"));
        }
        stream.next(&normalization, &mut batch)?;
        let done = trainer.step as f64 / steps as f64;
        let rate = options.learning_rate as f64
            * (((trainer.step + 1) as f64 / WARM_UP as f64).min(1.0)).min((1.0 - done) / DECAY);
        let report = trainer.step(&batch, rate as f32)?;
        let smooth = |old: f64, new: f64| if old.is_nan() { new } else { 0.95 * old + 0.05 * new };
        (fvu, l0) = (smooth(fvu, report.fvu), smooth(l0, report.l0));
        // A rare latent of a dictionary that is gone on from has a meaning already.
        if start.is_none() && trainer.step.is_multiple_of(REVIVE_STEPS) && done < 1.0 - DECAY {
            let dead = trainer.dead(REVIVE_STEPS - 1);
            trainer.revive(&dead, &batch, options.seed)?;
        }
        if trainer.step.is_multiple_of(10) || trainer.step == steps {
            let of_latents = if options.method == TrainMethod::Itda {
                format!("{} latents", trainer.n_atoms())
            } else {
                let dead = trainer.dead(REVIVE_STEPS).len() as f64 / options.width as f64;
                format!("dead {:.1} %", 100.0 * dead)
            };
            progress.update(trainer.step, &format!("FVU {fvu:.3}, L0 {l0:.1}, {of_latents}"));
        }
        if saved.elapsed().as_secs() >= CHECKPOINT_SECS || trainer.step == steps {
            trainer.checkpoint(&checkpoint, &recipe)?;
            saved = Instant::now();
        }
    }
    if trainer.is_finished() {
        trainer.checkpoint(&checkpoint, &recipe)?;
    }
    progress.finish(&match fvu.is_nan() {
        true => format!("all {} steps were done before", trainer.step),
        false => format!("FVU {fvu:.3}, L0 {l0:.1}"),
    });
    let n_samples = trainer.step * options.batch as u64;
    let mut training = serde_json::json!({
        "method": options.method.name(), "tokens": harvest.n_tokens, "samples": n_samples,
        "batch": options.batch, "learning_rate": options.learning_rate, "seed": options.seed,
    });
    if let Rule::Itda { tolerance } = rule {
        training["tolerance"] = tolerance.into();
    }
    if let Some(start) = start {
        training["from"] = serde_json::json!({ "name": start.sae.name(), "training": start.sae.spec.training });
    }
    let said = |of: fn(&Spec) -> &String| start.map_or(String::new(), |start| of(&start.sae.spec).clone());
    let spec = Spec {
        format: Spec::FORMAT,
        name,
        reader: reader.name().to_owned(),
        hook: hook.hook,
        level: options.level,
        // ITDA may have ended before it needed all latents.
        width: trainer.n_atoms(),
        input_width: inputs,
        output: None,
        k: options.k,
        architecture: options.method.architecture(options.k, trainer.threshold, CAP * options.k),
        normalization: normalization.how,
        prefixes: match rule {
            Rule::Matryoshka { ends } => ends,
            _ => Vec::new(),
        },
        precision: Precision::F16,
        sees: said(|spec| &spec.sees),
        misses: said(|spec| &spec.misses),
        training,
        source: serde_json::Value::Null,
    };
    Ok((trained(spec, trainer, normalization), n_samples))
}

/// The dictionary that a trainer made.
fn trained(spec: Spec, trainer: Trainer, normalization: Normalization) -> Sae {
    let thresholds = trainer.thresholds();
    let Trainer { encoder, encoder_bias, mut decoder, decoder_bias, .. } = trainer;
    decoder.value.truncate(spec.width * spec.input_width);
    let weights = Weights {
        encoder: encoder.value,
        encoder_bias: encoder_bias.value,
        decoder: decoder.value,
        decoder_bias: decoder_bias.value,
        mean: normalization.mean,
        deviation: normalization.deviation,
        thresholds,
        ..Weights::default()
    };
    Sae::new(spec, weights)
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::super::{EncodeScratch, InputNormalization, SparseRows};
    use super::*;

    fn options(method: TrainMethod) -> TrainOptions {
        let mut options = TrainOptions::new(Vec::new(), "work", "out");
        (options.method, options.width, options.k) = (method, 64, 4);
        options
    }

    #[test]
    fn a_finished_dictionary_is_replaced_only_on_request() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = TrainOptions::new(Vec::new(), "work", dir.path());
        assert!(check(&options).is_ok());
        std::fs::write(dir.path().join("sae.json"), "{}").unwrap();
        let error = check(&options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exists);
        assert!(error.message().contains("--overwrite"), "{error}");
        options.overwrite = true;
        assert!(check(&options).is_ok());
    }

    #[test]
    fn a_dictionary_encodes_as_its_trainer_did() {
        const INPUTS: usize = 24;
        let mut random = Random::new(3, 0);
        let mut uniform = || random.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0;
        let rows: Vec<f32> = (0..512 * INPUTS).map(|_| uniform() / (INPUTS as f32 / 3.0).sqrt()).collect();
        for method in TrainMethod::ALL {
            let options = options(method);
            let mut trainer = Trainer::new(method.rule(&options), &rows, INPUTS, 64, 4, 1, 2).unwrap();
            for _ in 0..40 {
                trainer.step(&rows, 2e-3).unwrap();
            }
            if matches!(method, TrainMethod::BatchTopK | TrainMethod::Matryoshka) {
                // The running threshold follows slowly.
                for _ in 0..300 {
                    trainer.step(&rows, 0.0).unwrap();
                }
            }
            // What the next step would see, and what the finished dictionary sees.
            let report = trainer.clone().step(&rows, 0.0).unwrap();
            let spec = Spec {
                format: Spec::FORMAT,
                name: method.to_string(),
                reader: "reader".to_owned(),
                hook: Hook::residual(1),
                level: Level::Token,
                width: trainer.n_atoms(),
                input_width: INPUTS,
                output: None,
                k: 4,
                architecture: method.architecture(4, trainer.threshold, 64),
                normalization: InputNormalization::Centred { scale: 1.0, unit: false },
                prefixes: Vec::new(),
                precision: Precision::F16,
                sees: String::new(),
                misses: String::new(),
                training: serde_json::Value::Null,
                source: serde_json::Value::Null,
            };
            let none = Normalization { how: spec.normalization, mean: vec![0.0; INPUTS], deviation: Vec::new() };
            let sae = trained(spec, trainer, none);
            let (mut scratch, mut sparse) = (EncodeScratch::default(), SparseRows::default());
            sae.encode_rows(&rows, &mut scratch, &mut sparse);
            let (residual, total) = sae.unexplained(&rows, &sparse, 0..512, &mut scratch);
            // A sample that is a latent itself leaves rounding errors, which the trainer does not pursue.
            let fires = |i: usize| sparse.row(i).1.iter().filter(|&&activation| activation > 1e-5).count();
            let l0 = (0..512).map(fires).sum::<usize>() as f64 / 512.0;
            // The threshold of use is a running mean, so those that have one may differ a little.
            let slack = if matches!(method, TrainMethod::BatchTopK | TrainMethod::Matryoshka) { 0.05 } else { 1e-3 };
            assert!((residual / total - report.fvu).abs() < slack, "{method}: {} {}", residual / total, report.fvu);
            assert!((l0 - report.l0).abs() < 4.0 * slack, "{method}: L0 {l0}, {}", report.l0);
            assert!(report.fvu < 0.6 && l0 > 1.0, "{method}: FVU {}, L0 {l0}", report.fvu);
        }
    }

    #[test]
    fn impossible_combinations_are_refused() {
        let refused = |change: &dyn Fn(&mut TrainOptions), of: &str| {
            let mut options = options(TrainMethod::BatchTopK);
            change(&mut options);
            let error = check(&options).unwrap_err();
            assert!(error.kind() == ErrorKind::Query && error.message().contains(of), "{error}");
        };
        assert!(TrainMethod::ALL.into_iter().all(|method| check(&options(method)).is_ok()));
        refused(&|o| o.prefixes = vec![16, 64], "of the architecture matryoshka");
        refused(&|o| (o.method, o.prefixes) = (TrainMethod::Matryoshka, vec![16, 32]), "end with the width, 64");
        refused(&|o| (o.method, o.prefixes) = (TrainMethod::Matryoshka, vec![16, 16, 64]), "grow");
        refused(&|o| o.tolerance = Some(0.3), "of the architecture itda");
        refused(&|o| (o.method, o.tolerance) = (TrainMethod::Itda, Some(1.0)), "from 0 to below 1");
        refused(&|o| (o.method, o.width) = (TrainMethod::MatchingPursuit, 32768), "16384 latents at most");
        refused(&|o| o.k = 33, "expected 1 to 32 for 64 latents");
        refused(&|o| o.level = Level::Document, "tokens or spans");
        for name in ["", ".", "../x", "a/b", "Ünï \"q\"", "a\nb", "7b", &"x".repeat(121)] {
            refused(&|o| o.name = Some(name.to_owned()), "cannot be the name of a dictionary: use lower-case letters");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        refused(&|o| o.output = file.path().to_owned(), "is no folder; name another --output");
    }

    #[test]
    fn names_say_what_is_not_the_default() {
        assert_eq!(default_name(&options(TrainMethod::BatchTopK)), "minilm-l4-token-64");
        assert_eq!(default_name(&options(TrainMethod::Itda)), "minilm-l4-token-64-itda");
        // What is made can be imported: a name without a dot, and none that every database has.
        let of_reader =
            |reader: &str| default_name(&TrainOptions { reader: reader.into(), ..options(TrainMethod::BatchTopK) });
        assert_eq!(of_reader("models/Qwen2.5-0.5B"), "qwen2-5-0-5b-l4-token-64");
        assert_eq!(of_reader("models/Llama 3.gguf"), "llama-3-l4-token-64");
        assert_eq!(of_reader("7b"), "sae-7b-l4-token-64");
        for reader in ["models/Qwen2.5-0.5B", "Übersetzer", "7b", &"x".repeat(300)] {
            assert!(super::super::name::check_new(&of_reader(reader)).is_ok(), "{}", of_reader(reader));
        }
        let mut large = options(TrainMethod::BatchTopK);
        large.width = 4096;
        assert_eq!(default_name(&large), "minilm-l4-token-4096-own");
    }
}
