//! Dictionaries of level document: they read one vector a document, its embedding, instead of its hidden states.
//!
//! So do HypotheSAEs (Movva et al., 2025): an SAE over the embeddings of a sentence encoder, whatever made them.

use crate::error::{Error, ErrorKind, Result};
use crate::level::Level;
use crate::sae::{EncodeScratch, Sae, SparseRows};

use super::SparseFeatures;

impl Sae {
    /// Encodes embeddings of documents (`[documents, input width]`, row after row), one result a row. A row that is zero or
    /// not finite has no features, and its `fvu` is NaN.
    ///
    /// # Errors
    /// [`ErrorKind::Query`] if the dictionary is not of level document, or the number of values no multiple of its input
    /// width.
    pub fn encode_embeddings(&self, embeddings: &[f32]) -> Result<Vec<SparseFeatures>> {
        let width = self.input_width();
        if self.level() != Level::Document {
            let message = format!(
                "dictionary '{}' is of level {}: it reads the hidden states of a text, not its embedding",
                self.name(),
                self.level().as_str()
            );
            return Err(Error::new(ErrorKind::Query, message));
        }
        if width == 0 || !embeddings.len().is_multiple_of(width) {
            let message = format!(
                "dictionary '{}' reads embeddings of {width} values; {} values are no whole number of them",
                self.name(),
                embeddings.len()
            );
            return Err(Error::new(ErrorKind::Query, message));
        }
        let usable: Vec<bool> = embeddings
            .chunks_exact(width)
            .map(|row| row.iter().all(|value| value.is_finite()) && row.iter().any(|value| *value != 0.0))
            .collect();
        let mut rows = embeddings.to_vec();
        for (row, usable) in rows.chunks_exact_mut(width).zip(&usable) {
            if !usable {
                row.fill(0.0);
            }
        }
        self.normalize(&mut rows);
        let (mut scratch, mut sparse) = (EncodeScratch::default(), SparseRows::default());
        self.encode_rows(&rows, &mut scratch, &mut sparse);
        let document = |(row, usable): (usize, &bool)| {
            let mut features = SparseFeatures { fvu: f32::NAN, explained: f32::NAN, ..SparseFeatures::default() };
            if !usable {
                return features;
            }
            let (latents, activations) = sparse.row(row);
            let present = latents.iter().zip(activations).map(|(&latent, &activation)| (latent, activation));
            let present =
                present.filter(|(latent, value)| *value >= self.latents()[*latent as usize].presence_threshold);
            features = SparseFeatures::of(self, present.collect());
            let (residual, total) = self.unexplained(&rows, &sparse, row..row + 1, &mut scratch);
            features.fvu = if total > 0.0 { (residual / total) as f32 } else { f32::NAN };
            let shown = |latent: &u32| self.latents()[*latent as usize].hidden.is_none();
            features.explained = f32::from(u8::from(features.latents.iter().any(shown)));
            features
        };
        Ok(usable.iter().enumerate().map(document).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::encode::Encoder;
    use crate::options::ReaderOptions;
    use crate::progress::Silent;
    use crate::reader::{DEFAULT_READER, Reader};

    /// The first shipped dictionary, said to read the embedding of the whole document.
    fn document_sae() -> Sae {
        let dir = tempfile::tempdir().unwrap();
        Sae::shipped().unwrap().remove(0).save(dir.path()).unwrap();
        let file = dir.path().join("sae.json");
        let mut spec: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        spec["level"] = "document".into();
        spec["hook"] = "residual.6".into();
        std::fs::write(&file, spec.to_string()).unwrap();
        Sae::load(dir.path()).unwrap()
    }

    #[test]
    fn an_embedding_is_encoded_as_one_row() {
        let sae = document_sae();
        let width = sae.input_width();
        let row = |seed: usize| (0..width).map(move |i| ((i * 7919 + seed * 104_729) % 1000) as f32 / 500.0 - 1.0);
        let mut rows: Vec<f32> = row(1).chain(row(2)).collect();
        rows.extend(vec![0.0; width]);
        let encoded = sae.encode_embeddings(&rows).unwrap();
        assert_eq!(encoded.len(), 3);
        assert!(encoded[0] != encoded[1] && encoded[0].fvu.is_finite());
        assert!(encoded[2].latents.is_empty() && encoded[2].fvu.is_nan());
        let alone = sae.encode_embeddings(&rows[width..2 * width]).unwrap().remove(0);
        assert_eq!(
            (&alone.latents, &alone.activations),
            (&encoded[1].latents, &encoded[1].activations),
            "rows are read alone"
        );
        assert!((alone.fvu - encoded[1].fvu).abs() < 1e-6, "{alone:?}");

        let error = sae.encode_embeddings(&rows[1..]).unwrap_err();
        assert!(error.message().contains("no whole number of them"), "{error}");
        let error = Sae::shipped().unwrap().remove(0).encode_embeddings(&rows).unwrap_err();
        assert!(error.message().contains("not its embedding"), "{error}");
    }

    #[test]
    fn a_reader_gives_its_own_embedding_to_a_dictionary_of_documents() {
        let options = ReaderOptions { threads: 2, ..ReaderOptions::default() };
        let reader = Arc::new(Reader::load(DEFAULT_READER, &options, &Silent).unwrap());
        let sae = Arc::new(document_sae());
        let encoder = Encoder::new(reader, vec![sae.clone()]).unwrap();
        let text = "I am sorry, I cannot help you with that. Here is what you can do instead.";
        let document = encoder.encode(&[text]).unwrap().remove(0);
        let embedding: Vec<f32> = document.embedding.iter().map(|value| value.to_f32()).collect();
        let alone = sae.encode_embeddings(&embedding).unwrap().remove(0);
        // The embedding is stored in half precision, the dictionary reads it before that.
        let common = alone.latents.iter().filter(|latent| document.features[0].latents.contains(latent)).count();
        assert!(common + 2 >= alone.latents.len().max(document.features[0].latents.len()), "{alone:?}");
        assert!((alone.fvu - document.features[0].fvu).abs() < 1e-2);
        assert!(encoder.tokens(text).unwrap().iter().all(|token| token.latents == [vec![]]));
    }
}
