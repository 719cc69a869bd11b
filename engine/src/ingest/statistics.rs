//! Statistics of features that were computed elsewhere, measured on the documents that have them: how many documents show
//! a feature, how strong it gets, and where the middle and the strongest tenth of its activations lie. An artifact brings
//! them from its training; these come without one.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float16Type, UInt32Type};
use half::f16;

use crate::error::Result;
use crate::schema;
use crate::store::{Snapshot, Store, WriteGuard};

/// Activations of a feature that are kept for its quantiles: a sample of this size puts the median within about 5
/// percentiles of its place.
const KEPT: usize = 64;

/// What is known of one feature.
#[derive(Default, Clone)]
struct Seen {
    n: u64,
    most: f32,
    /// A uniform sample of its activations (algorithm R of Vitter, 1985).
    sample: Vec<f16>,
}

impl Seen {
    fn add(&mut self, activation: f16, random: &mut u64) {
        self.n += 1;
        self.most = self.most.max(activation.to_f32().abs());
        if self.sample.len() < KEPT {
            self.sample.push(activation);
            return;
        }
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        if let Some(place) = self.sample.get_mut((*random % self.n) as usize) {
            *place = activation;
        }
    }

    /// The sampled activation (without its sign) below which the share `share` lies.
    fn quantile(&self, share: f64) -> f32 {
        let mut strengths: Vec<f32> = self.sample.iter().map(|value| value.to_f32().abs()).collect();
        strengths.sort_by(f32::total_cmp);
        let at = (share * strengths.len().saturating_sub(1) as f64).round() as usize;
        strengths.get(at).copied().unwrap_or_default()
    }
}

/// Measures the features of `dictionary` on the documents of `snapshot` and notes density (share of documents), strongest
/// activation, median and 90th percentile in the catalog.
pub(super) async fn measure(store: &Store, guard: &WriteGuard, snapshot: &Snapshot, dictionary: &str) -> Result<()> {
    let catalog = store.catalog();
    let Some(known) = catalog.features.dictionaries().iter().find(|known| known.name == dictionary) else {
        return Ok(());
    };
    let (first_id, width) = (known.first_id, known.width as usize);
    let mut seen = vec![Seen::default(); width];
    let (mut documents, mut random) = (0_u64, 0x9e37_79b9_7f4a_7c15_u64);
    let columns = [schema::ids_column(dictionary), schema::activations_column(dictionary)];
    snapshot
        .read(&columns, &[], |batch| {
            let (ids, activations) = (batch.column(0).as_list::<i32>(), batch.column(1).as_list::<i32>());
            documents += (ids.len() - ids.null_count()) as u64;
            for row in (0..ids.len()).filter(|row| ids.is_valid(*row) && activations.is_valid(*row)) {
                let (ids, activations) = (ids.value(row), activations.value(row));
                let values = activations.as_primitive::<Float16Type>().values();
                for (id, value) in ids.as_primitive::<UInt32Type>().values().iter().zip(values) {
                    if let Some(seen) = id.checked_sub(first_id).and_then(|latent| seen.get_mut(latent as usize)) {
                        seen.add(*value, &mut random);
                    }
                }
            }
            Ok(())
        })
        .await?;
    store
        .change(guard, &["features"], |state| {
            for row in &mut state.features {
                let latent = row.feature.id.checked_sub(first_id).and_then(|latent| seen.get(latent as usize));
                let Some(seen) = latent else { continue };
                row.feature.density = (seen.n as f64 / documents.max(1) as f64) as f32;
                row.feature.max_activation = seen.most;
                row.feature.q50 = seen.quantile(0.5);
                row.feature.q90 = seen.quantile(0.9);
            }
            Ok(())
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_come_from_a_sample_of_all() {
        let (mut seen, mut random) = (Seen::default(), 0x9e37_79b9_7f4a_7c15_u64);
        (1..=10_000).for_each(|value| seen.add(f16::from_f32(value as f32 / 1000.0), &mut random));
        assert_eq!((seen.n, seen.sample.len()), (10_000, KEPT));
        assert!((seen.most - 10.0).abs() < 0.01);
        assert!((seen.quantile(0.5) - 5.0).abs() < 2.0, "{}", seen.quantile(0.5));
        assert!((seen.quantile(0.9) - 9.0).abs() < 1.0, "{}", seen.quantile(0.9));
        assert_eq!(Seen::default().quantile(0.5), 0.0);
    }
}
