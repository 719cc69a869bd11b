//! The state of a training on disk.

use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::artifact::write_file;
use super::trainer::{Moments, Trainer};
use crate::error::{Error, ErrorKind, Result};

/// Key of the recipe that a checkpoint belongs to.
const RECIPE: &str = "recipe";

impl Trainer {
    /// Those that its architecture has.
    fn parameters(&mut self) -> impl Iterator<Item = (&'static str, &mut Moments)> {
        [
            ("encoder", &mut self.encoder),
            ("encoder_bias", &mut self.encoder_bias),
            ("decoder", &mut self.decoder),
            ("decoder_bias", &mut self.decoder_bias),
            ("log_thresholds", &mut self.log_thresholds),
        ]
        .into_iter()
        .filter(|(_, moments)| !moments.value.is_empty())
    }

    /// Writes everything that a later run needs to go on as if it had not been stopped.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(super) fn checkpoint(&mut self, path: &Path, recipe: &str) -> Result<()> {
        let mut tensors: Vec<(String, Dtype, usize, Vec<u8>)> = Vec::new();
        for (name, moments) in self.parameters() {
            for (part, values) in [("value", &moments.value), ("first", &moments.first), ("second", &moments.second)] {
                let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                tensors.push((format!("{name}.{part}"), Dtype::F32, values.len(), bytes));
            }
        }
        let last_kept = self.last_kept.iter().flat_map(|step| step.to_le_bytes()).collect();
        tensors.push(("last_kept".to_owned(), Dtype::U64, self.width, last_kept));
        tensors.push(("threshold".to_owned(), Dtype::F32, 1, self.threshold.to_le_bytes().to_vec()));
        tensors.push(("step".to_owned(), Dtype::U64, 1, self.step.to_le_bytes().to_vec()));
        let metadata = [(RECIPE.to_owned(), recipe.to_owned())].into();
        let bytes = tensors
            .iter()
            .map(|(name, dtype, length, bytes)| Ok((name, TensorView::new(*dtype, vec![*length], bytes)?)))
            .collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>()
            .and_then(|views| safetensors::serialize(views, Some(metadata)))
            .map_err(|error| Error::new(ErrorKind::Internal, "cannot write checkpoint").with_source(error))?;
        write_file(path, &bytes)
    }

    /// Goes on from a checkpoint; unchanged if that fails.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if the file is damaged or belongs to another recipe.
    pub(super) fn restore(&mut self, path: &Path, recipe: &str) -> Result<()> {
        let shown = path.display();
        let wrong = |what: String| Error::new(ErrorKind::Corrupt, format!("checkpoint {shown} {what}"));
        let bytes = std::fs::read(path)
            .map_err(|error| Error::new(ErrorKind::Io, format!("cannot read {shown}")).with_source(error))?;
        let (_, metadata) =
            SafeTensors::read_metadata(&bytes).map_err(|error| wrong(format!("is damaged: {error}")))?;
        if metadata.metadata().as_ref().and_then(|metadata| metadata.get(RECIPE)).is_none_or(|found| found != recipe) {
            return Err(wrong("belongs to a training with other options".to_owned()));
        }
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| wrong(format!("is damaged: {error}")))?;
        let data = |name: &str, length: usize| {
            let tensor = tensors.tensor(name).map_err(|error| wrong(format!("is damaged: {error}")))?;
            if tensor.shape() == [length] {
                Ok(tensor.data().to_vec())
            } else {
                Err(wrong(format!("has shape {:?} for {name}, expected [{length}]", tensor.shape())))
            }
        };
        let floats = |name: &str, length: usize| -> Result<Vec<f32>> {
            Ok(data(name, length)?.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
        };
        let longs = |name: &str, length: usize| -> Result<Vec<u64>> {
            Ok(data(name, length)?.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect())
        };
        let mut restored = self.clone();
        for (name, moments) in restored.parameters() {
            let length = moments.value.len();
            moments.value = floats(&format!("{name}.value"), length)?;
            moments.first = floats(&format!("{name}.first"), length)?;
            moments.second = floats(&format!("{name}.second"), length)?;
        }
        restored.last_kept = longs("last_kept", restored.width)?;
        restored.threshold = floats("threshold", 1)?[0];
        restored.step = longs("step", 1)?[0];
        restored.forget_products();
        *self = restored;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::trainer::Rule;
    use super::*;

    #[test]
    fn a_training_goes_on_as_if_it_had_not_been_stopped() {
        let samples: Vec<f32> = (0..64 * 16).map(|i| ((i * 7919) % 101) as f32 / 101.0 - 0.5).collect();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let rules = [
            Rule::BatchTopK,
            Rule::TopK { signed: true },
            Rule::Matryoshka { ends: vec![4, 32] },
            Rule::JumpRelu,
            Rule::MatchingPursuit,
            Rule::Itda { tolerance: 0.5 },
        ];
        for rule in rules {
            // Batches differ, so that ITDA has something new in each.
            let batch = |step: usize| &samples[step % 8 * 8 * 16..(step % 8 + 1) * 8 * 16];
            let mut whole = Trainer::new(rule.clone(), &samples, 16, 32, 2, 1, 1).unwrap();
            let mut first = whole.clone();
            for step in 0..10 {
                whole.step(batch(step), 1e-2).unwrap();
            }
            for step in 0..4 {
                first.step(batch(step), 1e-2).unwrap();
            }
            first.checkpoint(&path, "recipe").unwrap();
            let mut second = Trainer::new(rule.clone(), &samples, 16, 32, 2, 9, 1).unwrap();
            let error = second.restore(&path, "another").unwrap_err();
            assert!(error.message().contains("other options"), "{error}");
            second.restore(&path, "recipe").unwrap();
            assert_ne!(second.decoder.value, whole.decoder.value, "{rule:?}");
            for step in 4..10 {
                second.step(batch(step), 1e-2).unwrap();
            }
            assert_eq!(second.decoder.value, whole.decoder.value, "{rule:?}");
            assert_eq!(second.encoder.value, whole.encoder.value, "{rule:?}");
            assert_eq!(second.thresholds(), whole.thresholds(), "{rule:?}");
            assert_eq!((second.step, second.threshold), (whole.step, whole.threshold), "{rule:?}");
        }
        let samples = &samples[..];
        let mut second = Trainer::new(Rule::BatchTopK, samples, 16, 32, 2, 9, 1).unwrap();
        std::fs::write(&path, b"short").unwrap();
        assert!(second.restore(&path, "recipe").unwrap_err().message().contains("damaged"));
    }
}
