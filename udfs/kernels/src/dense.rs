//! Dot products of long vectors.

use half::f16;
use half::slice::HalfFloatSliceExt;

const LANES: usize = 16;

/// Dot product; the shorter slice decides. Sixteen partial sums, so that the compiler may use vector instructions.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    let mut lanes = [0.0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    lanes.iter().sum::<f32>() + tail
}

/// Scales to length 1 and returns the former length; a vector shorter than 1e-12, or not finite, becomes zero.
pub fn normalise(vector: &mut [f32]) -> f32 {
    let length = dot(vector, vector).sqrt();
    if length.is_finite() && length > 1e-12 {
        vector.iter_mut().for_each(|value| *value /= length);
    } else {
        vector.fill(0.0);
    }
    length
}

/// Widens half-precision values into `buffer`, reusing its memory.
pub fn widen(values: &[f16], buffer: &mut Vec<f32>) {
    buffer.resize(values.len(), 0.0);
    values.convert_to_f32_slice(buffer);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_equals_the_sum_of_products() {
        for n in [0, 1, 15, 16, 17, 384, 385] {
            let a: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
            let b: Vec<f32> = (0..n).map(|i| (i as f32 * 0.11).cos()).collect();
            let expected: f64 = a.iter().zip(&b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            assert!((f64::from(dot(&a, &b)) - expected).abs() < 1e-4, "n = {n}");
        }
    }

    #[test]
    fn normalise_survives_zero_and_infinity() {
        let mut vector = [3.0, 4.0];
        assert_eq!(normalise(&mut vector), 5.0);
        assert_eq!(vector, [0.6, 0.8]);
        for mut bad in [[0.0, 0.0], [f32::INFINITY, 1.0], [f32::NAN, 1.0]] {
            normalise(&mut bad);
            assert_eq!(bad, [0.0, 0.0]);
        }
    }
}
