//! Loops over slices of `f32` that the compiler turns into the widest vectors the processor has.
//!
//! The program is compiled for the oldest x86-64; [`multiversion!`] compiles a function three times and picks one when
//! it is called. Sums run in sixteen lanes, because floating-point addition may not be reordered by the compiler.

/// Compiles a function for AVX-512, for AVX2 and for the baseline, and calls the best one that the processor has.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn generic($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
                fn with_avx512($($arg: $ty),*) $(-> $ret)? {
                    generic($($arg),*)
                }
                #[target_feature(enable = "avx2,fma,f16c")]
                fn with_avx2($($arg: $ty),*) $(-> $ret)? {
                    generic($($arg),*)
                }
                match $crate::reader::simd::level() {
                    // SAFETY: `level` has seen the features on this processor.
                    2 => return unsafe { with_avx512($($arg),*) },
                    // SAFETY: as above.
                    1 => return unsafe { with_avx2($($arg),*) },
                    _ => {}
                }
            }
            generic($($arg),*)
        }
    };
}
pub(crate) use multiversion;

/// 2 with AVX-512, 1 with AVX2 and FMA, 0 otherwise.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn level() -> u8 {
    // The macro caches what it finds, so this is a load and a branch.
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    u8::from(avx2) + u8::from(avx2 && avx512)
}

/// Lanes of a running sum.
const LANES: usize = 16;

/// `e^x` to 2e-7 relative error, without a branch; results below 1e-38 become about that (Cephes `expf`).
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // 1.5 * 2^23: adding it leaves the nearest integer in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4 * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 5.000_000_1e-1;
    let y = p * r * r + r + 1.0;
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    f32::from_bits((y.to_bits() as i32).wrapping_add(exponent << 23) as u32)
}

/// `x * P(N(0, 1) <= x)`: the exact GELU, by Abramowitz and Stegun 7.1.26 (absolute error of erf 1.5e-7).
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let poly = ((((1.061_405_4 * t - 1.453_152) * t + 1.421_413_8) * t - 0.284_496_74) * t + 0.254_829_6) * t;
    let erf = 1.0 - poly * exp(-z * z);
    0.5 * x * (1.0 + erf.copysign(x))
}

/// Sum of a slice.
#[inline(always)]
pub(crate) fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

/// Scalar product of two slices of equal length.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// Largest value of a slice; negative infinity if it is empty.
#[inline(always)]
pub(crate) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, b| a.max(*b))
}

/// Largest amount of a slice.
#[inline(always)]
pub(crate) fn max_abs(values: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if value.abs() > *lane { value.abs() } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(0.0, |a, b| a.max(b.abs()))
}

/// `y += a * x`.
#[inline(always)]
pub(crate) fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

/// Product of row-major matrices: `out[m, n] = a[m, k] * b` where `b` is `[n, k]` (`transposed`) or `[k, n]`.
/// Rows of `a` and `out` lie `a_stride` and `out_stride` apart, rows of `b` `b_stride`. Runs on the calling thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MatMul {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) a_stride: usize,
    pub(crate) b_stride: usize,
    pub(crate) out_stride: usize,
    pub(crate) transposed: bool,
    /// Factor of the product.
    pub(crate) scale: f32,
}

impl MatMul {
    /// Dense matrices without gaps: `out[m, n] = a[m, k] * b[n, k]^T`.
    pub(crate) fn linear(m: usize, n: usize, k: usize) -> Self {
        Self { m, n, k, a_stride: k, b_stride: k, out_stride: n, transposed: true, scale: 1.0 }
    }

    /// Computes it; the slices begin at the first element of each matrix.
    pub(crate) fn run(self, a: &[f32], b: &[f32], out: &mut [f32]) {
        let Self { m, n, k, a_stride, b_stride, out_stride, transposed, scale } = self;
        if m == 0 || n == 0 {
            return;
        }
        let extent = |rows: usize, stride: usize, columns: usize| rows.saturating_sub(1) * stride + columns;
        let b_extent = if transposed { extent(n, b_stride, k) } else { extent(k, b_stride, n) };
        assert!(a.len() >= extent(m, a_stride, k) && b.len() >= b_extent && out.len() >= extent(m, out_stride, n));
        let (b_cs, b_rs) = if transposed { (b_stride as isize, 1) } else { (1, b_stride as isize) };
        // SAFETY: the assertion bounds every element that is read or written; `out` is borrowed mutably, so it overlaps
        // neither `a` nor `b`.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                out.as_mut_ptr(),
                1,
                out_stride as isize,
                false,
                a.as_ptr(),
                1,
                a_stride as isize,
                b.as_ptr(),
                b_cs,
                b_rs,
                0.0,
                scale,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_gelu_agree_with_double_precision() {
        let erf = |x: f64| {
            // Taylor series, exact to double precision for |x| <= 4.
            let (mut term, mut total) = (x, x);
            for n in 1..200 {
                term *= -x * x / f64::from(n);
                total += term / f64::from(2 * n + 1);
            }
            total * 2.0 / std::f64::consts::PI.sqrt()
        };
        for step in -5000..=5000 {
            let x = step as f32 * 0.001;
            let want = f64::from(x).exp();
            assert!((f64::from(exp(x)) / want - 1.0).abs() < 3e-7, "exp({x})");
            let want = 0.5 * f64::from(x) * (1.0 + erf(f64::from(x) / 2f64.sqrt()));
            assert!((f64::from(gelu(x)) - want).abs() < 1e-6, "gelu({x})");
        }
        assert!(exp(-1000.0) < 1e-37 && exp(0.0) == 1.0);
    }

    #[test]
    fn sums_cover_the_rest_after_full_lanes() {
        let a: Vec<f32> = (0..37).map(|i| i as f32).collect();
        assert_eq!(sum(&a), 666.0);
        assert_eq!(dot(&a, &a), a.iter().map(|x| x * x).sum::<f32>());
        assert_eq!(max(&a), 36.0);
        assert_eq!(max(&[]), f32::NEG_INFINITY);
    }

    #[test]
    fn products_of_strided_matrices() {
        let (a, b) = ([1.0, 2.0, 9.0, 3.0, 4.0, 9.0], [1.0, 0.0, 2.0, 1.0, 0.0, 3.0]);
        let mut out = [0.0; 6];
        // a = [[1, 2], [3, 4]] with stride 3, b^T = [[1, 0], [2, 1], [0, 3]].
        MatMul { m: 2, n: 3, k: 2, a_stride: 3, b_stride: 2, out_stride: 3, transposed: true, scale: 1.0 }
            .run(&a, &b, &mut out);
        assert_eq!(out, [1.0, 4.0, 6.0, 3.0, 10.0, 12.0]);
    }
}
