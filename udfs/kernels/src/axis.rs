//! The axis that a few named things lie along: the directions in which embeddings of their names differ most.
//!
//! An embedding of a document says what it is about before anything else; seen only along an axis (the names of emotions, of
//! styles) it says where it lies on that axis. With one name a direction this is how a text is compared with class names
//! (zero-shot classification, Yin et al. 2019, arXiv:1909.00161); the leading directions of many names need no classes.

use crate::cancellation::Cancellation;
use crate::dense::dot;
use crate::eigen::leading_eigenpairs;

/// Directions of length 1, at right angles.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    directions: Vec<Vec<f32>>,
}

impl Axis {
    /// The `most` leading principal directions of `names`, row-major, `width` numbers each; fewer if the names span less,
    /// none if all are the same.
    pub fn fit(names: &[f32], width: usize, most: usize, cancellation: &Cancellation) -> Self {
        let n = names.len().checked_div(width).unwrap_or(0);
        if n < 2 {
            return Self { directions: Vec::new() };
        }
        let mut mean = vec![0.0f32; width];
        for name in names.chunks_exact(width) {
            mean.iter_mut().zip(name).for_each(|(sum, value)| *sum += value / n as f32);
        }
        let centred: Vec<Vec<f32>> = names
            .chunks_exact(width)
            .map(|name| name.iter().zip(&mean).map(|(value, mean)| value - mean).collect())
            .collect();
        let covariance = |x: &[f32], columns: usize, y: &mut [f32]| {
            y.fill(0.0);
            let mut image = vec![0.0f32; columns];
            for name in &centred {
                image.fill(0.0);
                for (value, from) in name.iter().zip(x.chunks_exact(columns)) {
                    image.iter_mut().zip(from).for_each(|(sum, part)| *sum += value * part);
                }
                for (value, to) in name.iter().zip(y.chunks_exact_mut(columns)) {
                    to.iter_mut().zip(&image).for_each(|(sum, part)| *sum += value * part);
                }
            }
        };
        let pairs = leading_eigenpairs(width, most.min(n - 1), 3, 0, cancellation, covariance);
        let largest = pairs.values.first().copied().unwrap_or(0.0);
        let kept = pairs.values.iter().take_while(|&&value| value > 1e-6 && value > 1e-4 * largest).count();
        Self { directions: pairs.vectors.into_iter().take(kept).collect() }
    }

    /// Number of directions.
    pub fn len(&self) -> usize {
        self.directions.len()
    }

    /// Whether there is no direction.
    pub fn is_empty(&self) -> bool {
        self.directions.is_empty()
    }

    /// Length of the embeddings that it is made for; 0 if there is no direction.
    pub fn width(&self) -> usize {
        self.directions.first().map_or(0, Vec::len)
    }

    /// Where an embedding lies, one number a direction.
    pub fn project(&self, embedding: &[f32]) -> Vec<f32> {
        self.directions.iter().map(|direction| dot(direction, embedding)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Names that differ in the first two numbers only, which are mixed by a rotation.
    fn names() -> Vec<f32> {
        let mut random = Random::new(7, 0);
        (0..40).flat_map(|_| [random.normal() as f32 * 3.0, random.normal() as f32, 5.0, -2.0]).collect()
    }

    #[test]
    fn directions_are_those_in_which_names_differ() {
        let axis = Axis::fit(&names(), 4, 3, &Cancellation::default());
        assert_eq!((axis.len(), axis.width()), (2, 4), "the last two numbers say nothing");
        let far = axis.project(&[0.0, 0.0, 9.0, 9.0]);
        assert!(far.iter().all(|value| value.abs() < 1e-3), "{far:?}");
        let along = axis.project(&[3.0, 4.0, 0.0, 0.0]);
        assert!((along.iter().map(|value| value * value).sum::<f32>() - 25.0).abs() < 1e-2, "{along:?}");
        assert!(axis.project(&[1.0, 0.0, 0.0, 0.0])[0].abs() > 0.9, "the first direction is the longest");
    }

    #[test]
    fn names_that_are_alike_have_no_axis() {
        let cancellation = Cancellation::default();
        assert!(Axis::fit(&[], 4, 3, &cancellation).is_empty());
        assert!(Axis::fit(&[1.0, 0.0, 2.0, 1.0], 4, 3, &cancellation).is_empty());
        assert!(Axis::fit(&[1.0, 2.0, 1.0, 2.0, 1.0, 2.0], 2, 2, &cancellation).is_empty());
        assert!(Axis::fit(&[1.0, 2.0], 0, 2, &cancellation).is_empty());
    }
}
