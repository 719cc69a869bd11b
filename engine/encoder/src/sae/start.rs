//! Going on from a finished dictionary: what a training takes over from it, and what its features keep.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::compare::SAME_DIRECTION;
use super::samples::Normalization;
use super::trainer::{Rule, Trainer};
use super::{Architecture, LatentInfo, Sae, TrainMethod, TrainOptions, Weights};
use crate::error::{Error, ErrorKind, Result};
use crate::labels::distinguish;

/// Decoder rows of a dictionary that is trained have length 1, up to this.
const UNIT: f32 = 0.01;

/// A dictionary that a training goes on from.
pub(super) struct Start {
    pub(super) sae: Sae,
    method: TrainMethod,
}

impl Sae {
    /// What tells the weights from those of other dictionaries: 16 hexadecimal digits of the SHA-256 of encoder, its bias,
    /// decoder, mean and deviation, as little-endian `f32`. Thresholds have no part in it.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.weights)
    }
}

fn fingerprint(weights: &Weights) -> String {
    let mut hash = Sha256::new();
    for values in [&weights.encoder, &weights.encoder_bias, &weights.decoder, &weights.mean, &weights.deviation] {
        values.iter().for_each(|value| hash.update(value.to_le_bytes()));
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

impl Start {
    /// Opens a dictionary by its folder or the name of one that is built in.
    ///
    /// # Errors
    /// As [`Sae::open`]; [`ErrorKind::Query`] if it is not of a kind that can be trained further.
    pub(super) fn open(name_or_dir: &Path) -> Result<Self> {
        Self::of(Sae::open(name_or_dir)?)
    }

    fn of(sae: Sae) -> Result<Self> {
        let refused = |why: &str| {
            let message = format!(
                "dictionary '{}' cannot be trained further: {why}; what `sae train` makes as {}, {}, {} or {} can",
                sae.name(),
                TrainMethod::BatchTopK,
                TrainMethod::TopK,
                TrainMethod::Matryoshka,
                TrainMethod::JumpRelu
            );
            Err(Error::new(ErrorKind::Query, message))
        };
        let method = match sae.architecture() {
            Architecture::BatchTopk { .. } if sae.prefixes().is_empty() => TrainMethod::BatchTopK,
            Architecture::BatchTopk { .. } => TrainMethod::Matryoshka,
            Architecture::TopK { .. } => TrainMethod::TopK,
            Architecture::JumpRelu => TrainMethod::JumpRelu,
            other => return refused(&format!("its architecture is {}", other.name())),
        };
        let length = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>().sqrt();
        if sae.is_transcoder() {
            refused("it rebuilds another hook point than it reads")
        } else if sae.spec.k == 0 {
            refused("how many features fire on a sample is not known")
        } else if !sae.normalization().is_centred() {
            refused(&format!("it takes hidden states otherwise ({})", sae.describe_normalization()))
        } else if sae.decoder().chunks_exact(sae.input_width()).any(|row| (length(row) - 1.0).abs() > UNIT) {
            refused("its decoder rows do not have length 1")
        } else {
            Ok(Self { sae, method })
        }
    }

    /// `options` with the reader, hook point, level, architecture and sizes of the dictionary.
    pub(super) fn options(&self, options: &TrainOptions) -> TrainOptions {
        let Self { sae, method } = self;
        TrainOptions {
            reader: sae.reader().to_owned(),
            layer: sae.layer(),
            hook: Some(sae.hook()),
            level: sae.level(),
            name: Some(options.name.clone().unwrap_or_else(|| format!("{}-tuned", sae.name()))),
            method: *method,
            width: sae.width(),
            k: sae.spec.k,
            prefixes: sae.prefixes().to_vec(),
            tolerance: None,
            ..options.clone()
        }
    }

    /// What a checkpoint remembers of it, so that it is not taken for one that started elsewhere.
    pub(super) fn identity(&self) -> serde_json::Value {
        serde_json::json!({ "name": self.sae.name(), "weights": fingerprint(&self.sae.weights) })
    }

    /// How the dictionary takes hidden states.
    pub(super) fn normalization(&self) -> Normalization {
        let weights = &self.sae.weights;
        Normalization {
            how: self.sae.normalization(),
            mean: weights.mean.clone(),
            deviation: weights.deviation.clone(),
        }
    }

    /// A trainer that stands where the dictionary's training ended.
    pub(super) fn trainer(&self, rule: Rule, threads: usize) -> Trainer {
        let threshold = match self.sae.architecture() {
            Architecture::BatchTopk { threshold, .. } => threshold,
            // What the width of the rectangle is measured by: see `jump`.
            Architecture::JumpRelu => {
                let mut thresholds = self.sae.weights.thresholds.clone();
                let middle = thresholds.len() / 2;
                *thresholds.select_nth_unstable_by(middle, f32::total_cmp).1
            }
            _ => 0.0,
        };
        Trainer::going_on(rule, &self.sae.weights, threshold, self.sae.spec.k, threads)
    }

    /// Gives the latents of `sae`, which came of the training, what was known of them before, if they still stand for the
    /// same: where the decoder row has turned by less than [`SAME_DIRECTION`]. Statistics are those of the new texts, unless
    /// these hardly show the latent. A name that a latent keeps is no other's.
    /// Returns the number of latents that kept theirs.
    pub(super) fn hand_over(&self, sae: &Sae, latents: &mut [LatentInfo]) -> usize {
        let inputs = sae.input_width();
        let rows = sae.decoder().chunks_exact(inputs).zip(self.sae.decoder().chunks_exact(inputs));
        let mut kept = vec![false; latents.len()];
        for (((new, old), (row, old_row)), kept) in latents.iter_mut().zip(self.sae.latents()).zip(rows).zip(&mut kept)
        {
            let cosine: f32 = row.iter().zip(old_row).map(|(a, b)| a * b).sum();
            let unknown = |latent: &LatentInfo| matches!(latent.hidden.as_deref(), Some("dead" | "rare"));
            if cosine < SAME_DIRECTION || unknown(old) {
                continue;
            }
            let mut told = old.clone();
            if !unknown(new) {
                (told.density, told.max_activation, told.q50, told.q90) =
                    (new.density, new.max_activation, new.q50, new.q90);
                told.examples = std::mem::take(&mut new.examples);
            }
            *new = told;
            *kept = true;
        }
        distinguish(latents, |i| kept[i]);
        kept.iter().filter(|kept| **kept).count()
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::super::{InputNormalization, Precision, Spec};
    use super::*;
    use crate::level::Level;
    use crate::reader::Hook;

    const INPUTS: usize = 24;
    const WIDTH: usize = 64;

    fn random_rows(n: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed, 0);
        (0..n * INPUTS)
            .map(|_| (random.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0) / (INPUTS as f32 / 3.0).sqrt())
            .collect()
    }

    fn trained(method: TrainMethod, rows: &[f32]) -> Sae {
        let mut options = TrainOptions::new(Vec::new(), "work", "out");
        (options.method, options.width, options.k) = (method, WIDTH, 4);
        let mut trainer = Trainer::new(method.rule(&options), rows, INPUTS, WIDTH, 4, 1, 2).unwrap();
        for _ in 0..60 {
            trainer.step(rows, 2e-3).unwrap();
        }
        finished(method, trainer)
    }

    fn finished(method: TrainMethod, trainer: Trainer) -> Sae {
        let spec = Spec {
            format: Spec::FORMAT,
            name: "first".to_owned(),
            reader: "reader".to_owned(),
            hook: Hook::residual(1),
            level: Level::Span,
            width: WIDTH,
            input_width: INPUTS,
            output: None,
            k: 4,
            architecture: method.architecture(4, trainer.threshold, 8),
            normalization: InputNormalization::Centred { scale: 1.0, unit: false },
            prefixes: if method == TrainMethod::Matryoshka { vec![16, WIDTH] } else { Vec::new() },
            precision: Precision::F16,
            sees: "much".to_owned(),
            misses: String::new(),
            training: serde_json::Value::Null,
            source: serde_json::Value::Null,
        };
        let thresholds = trainer.thresholds();
        let weights = Weights {
            encoder: trainer.encoder.value,
            encoder_bias: trainer.encoder_bias.value,
            decoder: trainer.decoder.value,
            decoder_bias: trainer.decoder_bias.value,
            mean: vec![0.0; INPUTS],
            thresholds,
            ..Weights::default()
        };
        Sae::new(spec, weights)
    }

    #[test]
    fn training_goes_on_where_it_ended() {
        let rows = random_rows(512, 3);
        for method in [TrainMethod::BatchTopK, TrainMethod::TopK, TrainMethod::JumpRelu, TrainMethod::Matryoshka] {
            let start = Start::of(trained(method, &rows)).unwrap();
            let options = start.options(&TrainOptions::new(Vec::new(), "work", "out"));
            assert_eq!((options.method, options.width, options.k, options.level), (method, WIDTH, 4, Level::Span));
            assert_eq!((options.name.as_deref(), options.reader.as_str()), (Some("first-tuned"), "reader"));
            let mut trainer = start.trainer(method.rule(&options), 2);
            let first = trainer.step(&rows, 2e-4).unwrap().fvu;
            for _ in 0..60 {
                trainer.step(&rows, 2e-4).unwrap();
            }
            let last = trainer.step(&rows, 0.0).unwrap().fvu;
            assert!(last < first && first < 0.7, "{method}: FVU {first}, then {last}");
            let mut latents = start.sae.latents().to_vec();
            assert!(start.hand_over(&finished(method, trainer), &mut latents) > WIDTH / 2, "{method}");
        }
    }

    #[test]
    fn latents_that_stay_keep_their_names() {
        let rows = random_rows(512, 4);
        let mut sae = trained(TrainMethod::BatchTopK, &rows);
        for latent in &mut sae.latents {
            (latent.label, latent.label_source) = (format!("name {}", latent.latent), "read".to_owned());
            (latent.presence_threshold, latent.density) = (0.3, 0.5);
        }
        sae.latents[3].hidden = Some("mixed".to_owned());
        sae.latents[4].hidden = Some("dead".to_owned());
        let mut turned = sae.clone();
        // One is another now.
        turned.weights.decoder[INPUTS..2 * INPUTS].iter_mut().for_each(|x| *x = -*x);
        let mut latents: Vec<LatentInfo> = (0..WIDTH as u32)
            .map(|latent| LatentInfo { latent, label: "word".to_owned(), density: 0.1, ..LatentInfo::default() })
            .collect();
        // What words say of it is the name of one that stays.
        latents[1].label = "name 2".to_owned();
        // Not in the new texts.
        latents[5].hidden = Some("rare".to_owned());
        let start = Start::of(sae).unwrap();
        assert_eq!(start.hand_over(&turned, &mut latents), WIDTH - 2);
        let of = |i: usize| (latents[i].label.as_str(), latents[i].presence_threshold, latents[i].density);
        assert_eq!(
            [of(0), of(1), of(3), of(4)],
            [("name 0", 0.3, 0.1), ("name 2 #2", 0.0, 0.1), ("name 3", 0.3, 0.1), ("word", 0.0, 0.1)]
        );
        assert_eq!(latents[3].hidden.as_deref(), Some("mixed"));
        assert_eq!((of(5), latents[5].hidden.as_deref()), (("name 5", 0.3, 0.5), None));
    }

    #[test]
    fn a_checkpoint_knows_its_start_by_the_weights() {
        let sae = trained(TrainMethod::BatchTopK, &random_rows(512, 6));
        let identity = |sae: &Sae| Start::of(sae.clone()).unwrap().identity();
        let mut other = sae.clone();
        other.weights.encoder_bias[0] += 0.01;
        assert_eq!(identity(&sae), identity(&sae));
        assert_ne!(identity(&sae), identity(&other));
    }

    #[test]
    fn what_cannot_be_trained_is_refused() {
        let rows = random_rows(512, 5);
        let refused = |change: &dyn Fn(&mut Sae), of: &str| {
            let mut sae = trained(TrainMethod::BatchTopK, &rows);
            change(&mut sae);
            let error = Start::of(sae).err().unwrap();
            assert!(error.kind() == ErrorKind::Query && error.message().contains(of), "{error}");
        };
        refused(&|sae| sae.spec.architecture = Architecture::Gated, "its architecture is Gated");
        refused(&|sae| sae.spec.normalization = InputNormalization::LayerNorm, "takes hidden states otherwise");
        refused(&|sae| sae.spec.k = 0, "not known");
        refused(&|sae| sae.weights.decoder[0] = 2.0, "length 1");
    }
}
