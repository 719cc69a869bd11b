//! Products with weights that are packed once: `act(x W^T + b)`.
//!
//! With AVX2 a kernel of our own keeps 6 rows by 16 columns of the result in registers, reads the weights in panels of 16
//! columns that fit the first cache (Goto and van de Geijn 2008, doi:10.1145/1356052.1356053), takes the rows where they
//! lie, and adds bias and GELU to a tile before it leaves the registers. With bf16 instructions a tile is 12 rows by 32
//! columns. Everything else goes to the `gemm` crate. The order of additions depends on the shape of the weights alone,
//! so a row gives the same bits in every batch.

use std::borrow::Cow;

use super::simd::{self, MatMul, multiversion};
use crate::options::Precision;

/// Columns of a panel of `f32`.
const COLUMNS: usize = 16;
/// Columns of a panel of bf16.
const COLUMNS_BF16: usize = 32;
/// Inputs that are multiplied before the next panel: 24 kB of a panel of either kind stay in the first cache.
const DEPTH: usize = 384;
/// Rows that are multiplied with all panels before the next rows: they stay in the second cache.
const ROWS: usize = 192;

/// What is done to a product before it is written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Finish<'a> {
    /// Nothing.
    Product,
    /// `+ bias`.
    Bias(&'a [f32]),
    /// `gelu(. + bias)`.
    BiasGelu(&'a [f32]),
}

#[derive(Debug, Clone)]
enum Weights {
    /// `[n, k]` as they came.
    Plain(Vec<f32>),
    /// Per panel of 16 columns `[k, 16]`, the last filled with zeros.
    #[cfg(target_arch = "x86_64")]
    Panels(Vec<f32>),
    /// Per panel of 32 columns `[k / 2, 32, 2]`, filled with zeros.
    #[cfg(target_arch = "x86_64")]
    PanelsBf16(Vec<u16>),
}

/// Weights of a linear layer, `[n, k]`.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    n: usize,
    k: usize,
    /// Whether both factors are rounded to bf16.
    rounded: bool,
    weights: Weights,
}

/// Nearest bf16 (ties to even) as the upper half of an `f32`; NaN stays NaN.
#[inline(always)]
fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    (if value.is_nan() { (bits >> 16) | 0x40 } else { rounded }) as u16
}

multiversion! {
    fn round_to_bf16(values: &[f32], out: &mut [u16]) {
        for (out, &value) in out.iter_mut().zip(values) {
            *out = to_bf16(value);
        }
    }
}

multiversion! {
    fn round(values: &[f32], out: &mut [f32]) {
        for (out, &value) in out.iter_mut().zip(values) {
            *out = f32::from_bits(u32::from(to_bf16(value)) << 16);
        }
    }
}

multiversion! {
    fn finish_rows(rows: &mut [f32], bias: &[f32], gelu: bool) {
        for row in rows.chunks_exact_mut(bias.len().max(1)) {
            if gelu {
                for (value, bias) in row.iter_mut().zip(bias) {
                    *value = simd::gelu(*value + bias);
                }
            } else {
                for (value, bias) in row.iter_mut().zip(bias) {
                    *value += bias;
                }
            }
        }
    }
}

/// Whether this processor multiplies bf16.
pub(crate) fn has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        simd::level() == 2 && is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

impl Packed {
    /// Packs row-major weights `[n, k]`.
    ///
    /// With [`Precision::Bf16`] both factors are rounded to bf16 and products are summed in `f32`, by the processor's own
    /// instructions if it has them, else by rounding first: the same numbers to `f32` tolerance, but no faster.
    pub(crate) fn new(weights: &[f32], n: usize, k: usize, precision: Precision) -> Self {
        assert_eq!(weights.len(), n * k, "weights of {n} outputs and {k} inputs");
        let rounded = precision == Precision::Bf16;
        #[cfg(target_arch = "x86_64")]
        if rounded && has_bf16() {
            return Self { n, k, rounded, weights: Weights::PanelsBf16(panels_bf16(weights, n, k)) };
        }
        let plain = match rounded {
            true => Cow::Owned(self::rounded(weights)),
            false => Cow::Borrowed(weights),
        };
        #[cfg(target_arch = "x86_64")]
        if simd::level() == 1 {
            return Self { n, k, rounded, weights: Weights::Panels(panels(&plain, n, k)) };
        }
        Self { n, k, rounded, weights: Weights::Plain(plain.into_owned()) }
    }

    /// Columns of the result.
    pub(crate) fn n(&self) -> usize {
        self.n
    }

    /// Columns of the left factor.
    pub(crate) fn k(&self) -> usize {
        self.k
    }

    /// Whether products have the bits of [`products_in_order`].
    pub(crate) fn is_in_order(&self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            !self.rounded && matches!(self.weights, Weights::Panels(_))
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            false
        }
    }

    /// `x W^T` finished as told, for `x: [m, k]`: row-major `[m, n]`. Runs on the calling thread.
    pub(crate) fn apply(&self, x: &[f32], finish: Finish) -> Vec<f32> {
        let mut out = Vec::new();
        self.apply_to(x, finish, &mut out);
        out
    }

    /// The same into a buffer, whose contents are replaced.
    pub(crate) fn apply_to(&self, x: &[f32], finish: Finish, out: &mut Vec<f32>) {
        let (n, k) = (self.n, self.k);
        let m = x.len() / k.max(1);
        assert_eq!(x.len(), m * k, "rows of {k} values");
        if let Finish::Bias(bias) | Finish::BiasGelu(bias) = finish {
            assert_eq!(bias.len(), n, "bias of {n} outputs");
        }
        match &self.weights {
            #[cfg(target_arch = "x86_64")]
            Weights::PanelsBf16(panels) => {
                let pairs = k.div_ceil(2);
                // An odd last input has a zero beside it.
                let mut rounded = vec![0u16; m * pairs * 2];
                for (row, out) in x.chunks_exact(k).zip(rounded.chunks_exact_mut(pairs * 2)) {
                    round_to_bf16(row, out);
                }
                out.clear();
                out.reserve(m * n);
                // SAFETY: these weights are made only if `has_bf16`; `rounded` has m rows of 2 * pairs values, `panels` was
                // made by `panels_bf16` for n and k, and `out` has room for m * n values, each of which is written.
                unsafe {
                    x86::multiply_bf16(rounded.as_ptr(), panels.as_ptr(), out.as_mut_ptr(), (m, n, pairs), finish);
                    out.set_len(m * n);
                }
            }
            #[cfg(target_arch = "x86_64")]
            Weights::Panels(panels) => {
                let rounded = self.rounded.then(|| rounded(x));
                let x = rounded.as_deref().unwrap_or(x);
                out.clear();
                out.reserve(m * n);
                // SAFETY: these weights are made only with AVX2 and FMA; x has m rows of k values, `panels` was made by
                // `panels` for n and k, and `out` has room for m * n values, each of which is written.
                unsafe {
                    x86::multiply(x.as_ptr(), panels.as_ptr(), out.as_mut_ptr(), (m, n, k), finish);
                    out.set_len(m * n);
                }
            }
            Weights::Plain(weights) => {
                let rounded = self.rounded.then(|| rounded(x));
                out.resize(m * n, 0.0);
                MatMul::linear(m, n, k).run(rounded.as_deref().unwrap_or(x), weights, out);
                match finish {
                    Finish::Product => {}
                    Finish::Bias(bias) => finish_rows(out, bias, false),
                    Finish::BiasGelu(bias) => finish_rows(out, bias, true),
                }
            }
        }
    }
}

/// Products of some rows with some of the weights (`[m, k]` and `[n, k]`, as they came), by pairs of their numbers, into a
/// buffer whose contents are replaced: bit for bit those of [`Packed::apply`] if [`Packed::is_in_order`]. Pairs with near
/// weights should be near.
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
pub(crate) fn products_in_order(rows: &[f32], weights: &[f32], k: usize, pairs: &[(u32, u32)], out: &mut Vec<f32>) {
    out.clear();
    #[cfg(target_arch = "x86_64")]
    for pairs in pairs.chunks(4 * x86::LANES) {
        assert!(simd::level() > 0, "products in order without AVX2");
        let mut sums = [0.0; 4 * x86::LANES];
        // Lanes without a pair compute the first.
        let of = |i: usize| {
            let (row, column) = *pairs.get(i).unwrap_or(&pairs[0]);
            let part = |i: u32| i as usize * k..(i as usize + 1) * k;
            (rows[part(row)].as_ptr(), weights[part(column)].as_ptr())
        };
        // SAFETY: the processor has AVX2 and FMA; every pointer is to k values.
        unsafe {
            match pairs.len().div_ceil(x86::LANES) {
                1 => x86::products_of::<1>(k, of, &mut sums),
                2 => x86::products_of::<2>(k, of, &mut sums),
                3 => x86::products_of::<3>(k, of, &mut sums),
                _ => x86::products_of::<4>(k, of, &mut sums),
            }
        }
        out.extend_from_slice(&sums[..pairs.len()]);
    }
}

fn rounded(values: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    round(values, &mut out);
    out
}

#[cfg(target_arch = "x86_64")]
fn panels(weights: &[f32], n: usize, k: usize) -> Vec<f32> {
    let mut out = vec![0.0; n.div_ceil(COLUMNS) * COLUMNS * k];
    let of_columns = weights.chunks(COLUMNS * k);
    out.chunks_exact_mut(COLUMNS * k).zip(of_columns).for_each(|(panel, columns)| {
        for (column, weights) in columns.chunks_exact(k).enumerate() {
            for (at, &weight) in weights.iter().enumerate() {
                panel[at * COLUMNS + column] = weight;
            }
        }
    });
    out
}

#[cfg(target_arch = "x86_64")]
fn panels_bf16(weights: &[f32], n: usize, k: usize) -> Vec<u16> {
    let depth = k.div_ceil(2) * 2;
    let mut out = vec![0; n.div_ceil(COLUMNS_BF16) * COLUMNS_BF16 * depth];
    let of_columns = weights.chunks(COLUMNS_BF16 * k);
    out.chunks_exact_mut(COLUMNS_BF16 * depth).zip(of_columns).for_each(|(panel, columns)| {
        for (column, weights) in columns.chunks_exact(k).enumerate() {
            for (at, &weight) in weights.iter().enumerate() {
                panel[(at / 2 * COLUMNS_BF16 + column) * 2 + at % 2] = to_bf16(weight);
            }
        }
    });
    out
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{COLUMNS, COLUMNS_BF16, DEPTH, Finish, ROWS};

    /// Rows of a tile.
    const TILE: usize = 6;
    const TILE_BF16: usize = 12;

    /// Where a tile lies: `out` points at its first value, rows lie `stride` apart, `columns` of it exist.
    #[derive(Clone, Copy)]
    struct Tile {
        out: *mut f32,
        stride: usize,
        columns: usize,
        /// First column, for the bias.
        column: usize,
        /// Whether there is a sum to add to, and whether this is the last part of it.
        first: bool,
        last: bool,
    }

    /// Numerator and denominator, by powers of x^2, of `erf(x / sqrt(2)) / x` up to |x| = 5.4, where it has reached 1 / x:
    /// a least-squares fit with weights moved to where the error is largest, to 2e-8 of what becomes of it in GELU.
    const ERF: ([f32; 6], [f32; 6]) = (
        [0.797_884_35, 0.067_701_18, 9.363_289e-3, 3.388_961_2e-4, 1.283_523_1e-5, 4.627_567_7e-8],
        [1.0, 0.251_516_26, 0.028_656_546, 1.887_558e-3, 7.417_176_7e-5, 1.213_679_6e-6],
    );

    /// What belongs to a width of vectors: GELU, and the way of a row of a tile from registers to memory.
    macro_rules! vectors {
        ($width:literal, $vector:ty, $features:literal, $gelu:ident, $put:ident, $load:ident, $store:ident, $set:ident,
         $add:ident, $mul:ident, $fma:ident, $min:ident, $max:ident, $div:ident) => {
            /// `x / 2 * (1 + erf(x / sqrt(2)))` to 3e-7 of the larger of 1 and |x|.
            #[inline]
            #[target_feature(enable = $features)]
            fn $gelu(x: $vector) -> $vector {
                let within = $max($min(x, $set(5.4)), $set(-5.4));
                let square = $mul(within, within);
                let [mut above, mut below] = [$set(ERF.0[5]), $set(ERF.1[5])];
                for i in (0..5).rev() {
                    above = $fma(above, square, $set(ERF.0[i]));
                    below = $fma(below, square, $set(ERF.1[i]));
                }
                let half = $mul(x, $set(0.5));
                $fma(half, $div($mul(within, above), below), half)
            }

            /// Adds `sums` to row `i` of a tile and finishes it if this is the last part.
            ///
            /// # Safety
            /// Row `i` of the tile exists.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn $put(tile: Tile, i: usize, sums: [$vector; 2], how: Finish) {
                const N: usize = 2 * $width;
                let row = tile.out.wrapping_add(i * tile.stride);
                let whole = tile.columns == N;
                let (mut part, mut part_of_bias) = ([0.0f32; N], [0.0f32; N]);
                let (to, mut bias_from) =
                    if whole { (row, std::ptr::null()) } else { (part.as_mut_ptr(), part_of_bias.as_ptr()) };
                if let Finish::Bias(bias) | Finish::BiasGelu(bias) = how {
                    let bias = &bias[tile.column..tile.column + tile.columns];
                    if whole {
                        bias_from = bias.as_ptr();
                    } else {
                        part_of_bias[..bias.len()].copy_from_slice(bias);
                    }
                }
                // SAFETY: `to` has N values; so has `bias_from` where there is a bias; `columns` of the row exist.
                unsafe {
                    if !whole && !tile.first {
                        std::ptr::copy_nonoverlapping(row, to, tile.columns);
                    }
                    for (half, mut sum) in sums.into_iter().enumerate() {
                        let at = to.add(half * $width);
                        if !tile.first {
                            sum = $add(sum, $load(at));
                        }
                        if tile.last {
                            sum = match how {
                                Finish::Product => sum,
                                Finish::Bias(_) => $add(sum, $load(bias_from.add(half * $width))),
                                Finish::BiasGelu(_) => $gelu($add(sum, $load(bias_from.add(half * $width)))),
                            };
                        }
                        $store(at, sum);
                    }
                    if !whole {
                        std::ptr::copy_nonoverlapping(to, row, tile.columns);
                    }
                }
            }
        };
    }

    vectors!(
        8,
        __m256,
        "avx2,fma",
        gelu_256,
        put_256,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_set1_ps,
        _mm256_add_ps,
        _mm256_mul_ps,
        _mm256_fmadd_ps,
        _mm256_min_ps,
        _mm256_max_ps,
        _mm256_div_ps
    );
    vectors!(
        16,
        __m512,
        "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma",
        gelu_512,
        put_512,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_set1_ps,
        _mm512_add_ps,
        _mm512_mul_ps,
        _mm512_fmadd_ps,
        _mm512_min_ps,
        _mm512_max_ps,
        _mm512_div_ps
    );

    /// `out[m, n]` from rows `a: [m, k]` and panels.
    ///
    /// # Safety
    /// The processor has AVX2 and FMA; `a` points at m * k values, `panels` at ceil(n / 16) panels of k * 16, `out` at room
    /// for m * n values.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn multiply(
        a: *const f32,
        panels: *const f32,
        out: *mut f32,
        (m, n, k): (usize, usize, usize),
        how: Finish,
    ) {
        for row in (0..m).step_by(ROWS) {
            let rows = ROWS.min(m - row);
            for depth in (0..k.max(1)).step_by(DEPTH) {
                let length = DEPTH.min(k - depth);
                for column in (0..n).step_by(COLUMNS) {
                    // SAFETY: all offsets lie within what the caller promised.
                    unsafe {
                        let panel = panels.add(column * k + depth * COLUMNS);
                        let mut i = row;
                        while i < row + rows {
                            let tile = Tile {
                                out: out.add(i * n + column),
                                stride: n,
                                columns: COLUMNS.min(n - column),
                                column,
                                first: depth == 0,
                                last: depth + length >= k,
                            };
                            let a = a.add(i * k + depth);
                            match row + rows - i {
                                1 => tile_of::<1>(a, k, panel, length, tile, how),
                                2 => tile_of::<2>(a, k, panel, length, tile, how),
                                3 => tile_of::<3>(a, k, panel, length, tile, how),
                                4 => tile_of::<4>(a, k, panel, length, tile, how),
                                5 => tile_of::<5>(a, k, panel, length, tile, how),
                                _ => tile_of::<TILE>(a, k, panel, length, tile, how),
                            }
                            i += TILE;
                        }
                    }
                }
            }
        }
    }

    /// R rows by 16 columns.
    ///
    /// # Safety
    /// As [`multiply`]; `a` has R rows, `stride` apart, of `length` values; `panel` has `length` rows.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn tile_of<const R: usize>(
        a: *const f32,
        stride: usize,
        panel: *const f32,
        length: usize,
        tile: Tile,
        how: Finish,
    ) {
        let mut sums = [[_mm256_setzero_ps(); 2]; R];
        for i in 0..R {
            // The line is there when the sums are.
            _mm_prefetch::<_MM_HINT_T0>(tile.out.wrapping_add(i * tile.stride).cast());
        }
        for at in 0..length {
            // SAFETY: promised by the caller.
            unsafe {
                let left = _mm256_loadu_ps(panel.add(at * COLUMNS));
                let right = _mm256_loadu_ps(panel.add(at * COLUMNS + 8));
                for (i, sums) in sums.iter_mut().enumerate() {
                    let value = _mm256_broadcast_ss(&*a.add(i * stride + at));
                    sums[0] = _mm256_fmadd_ps(value, left, sums[0]);
                    sums[1] = _mm256_fmadd_ps(value, right, sums[1]);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            // SAFETY: the row exists.
            unsafe { put_256(tile, i, *sums, how) }
        }
    }

    /// Products of a vector.
    pub(super) const LANES: usize = 8;

    /// Products of G vectors of pairs of k values, the additions in the order of [`multiply`]. One sum waits for its last
    /// addition, several do not.
    ///
    /// # Safety
    /// The processor has AVX2 and FMA; `pair` tells for G * 8 numbers where two times k values lie.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn products_of<const G: usize>(
        k: usize,
        pair: impl Fn(usize) -> (*const f32, *const f32),
        out: &mut [f32; 4 * LANES],
    ) {
        let mut pairs = [[[std::ptr::null(); LANES]; 2]; G];
        for (i, [rows, columns]) in pairs.iter_mut().enumerate() {
            for (j, (row, column)) in rows.iter_mut().zip(columns).enumerate() {
                (*row, *column) = pair(i * LANES + j);
            }
        }
        for depth in (0..k).step_by(DEPTH) {
            let end = k.min(depth + DEPTH);
            let whole = depth + (end - depth) / 4 * 4;
            let mut sums = [_mm256_setzero_ps(); G];
            // SAFETY: `at` and the 3 values behind it, or `at` alone, lie before the end.
            unsafe {
                for at in (depth..whole).step_by(4) {
                    for (sum, [rows, columns]) in sums.iter_mut().zip(&pairs) {
                        for (values, weights) in transposed(rows, at).into_iter().zip(transposed(columns, at)) {
                            *sum = _mm256_fmadd_ps(values, weights, *sum);
                        }
                    }
                }
                for at in whole..end {
                    for (sum, pair) in sums.iter_mut().zip(&pairs) {
                        let [values, weights] = pair.map(|side| side.map(|from| *from.add(at)));
                        *sum =
                            _mm256_fmadd_ps(_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(weights.as_ptr()), *sum);
                    }
                }
                for (sum, out) in sums.into_iter().zip(out.chunks_exact_mut(LANES)) {
                    let sum = if depth == 0 { sum } else { _mm256_add_ps(sum, _mm256_loadu_ps(out.as_ptr())) };
                    _mm256_storeu_ps(out.as_mut_ptr(), sum);
                }
            }
        }
    }

    /// The 4 values from `at` on of each of 8.
    ///
    /// # Safety
    /// Each pointer is to `at + 4` values; the processor has AVX2.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn transposed(from: &[*const f32; LANES], at: usize) -> [__m256; 4] {
        let both = |i: usize| {
            // SAFETY: promised by the caller.
            unsafe {
                let low = _mm256_castps128_ps256(_mm_loadu_ps(from[i].add(at)));
                _mm256_insertf128_ps::<1>(low, _mm_loadu_ps(from[i + 4].add(at)))
            }
        };
        let [a, b, c, d] = [both(0), both(1), both(2), both(3)];
        let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
        let (ab_high, cd_high) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
        [
            _mm256_shuffle_ps::<0b01_00_01_00>(ab, cd),
            _mm256_shuffle_ps::<0b11_10_11_10>(ab, cd),
            _mm256_shuffle_ps::<0b01_00_01_00>(ab_high, cd_high),
            _mm256_shuffle_ps::<0b11_10_11_10>(ab_high, cd_high),
        ]
    }

    /// `out[m, n]` from rows `a: [m, pairs, 2]` of bf16 and panels.
    ///
    /// # Safety
    /// The processor has AVX-512 and its bf16 products; `a` points at m * pairs * 2 values, `panels` at ceil(n / 32) panels
    /// of pairs * 64, `out` at room for m * n values.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
    pub(super) unsafe fn multiply_bf16(
        a: *const u16,
        panels: *const u16,
        out: *mut f32,
        (m, n, pairs): (usize, usize, usize),
        how: Finish,
    ) {
        for row in (0..m).step_by(ROWS) {
            let rows = ROWS.min(m - row);
            for depth in (0..pairs.max(1)).step_by(DEPTH / 2) {
                let length = (DEPTH / 2).min(pairs - depth);
                for column in (0..n).step_by(COLUMNS_BF16) {
                    // SAFETY: all offsets lie within what the caller promised.
                    unsafe {
                        let panel = panels.add((column * pairs + depth * COLUMNS_BF16) * 2);
                        let mut i = row;
                        while i < row + rows {
                            let tile = Tile {
                                out: out.add(i * n + column),
                                stride: n,
                                columns: COLUMNS_BF16.min(n - column),
                                column,
                                first: depth == 0,
                                last: depth + length >= pairs,
                            };
                            let left = row + rows - i;
                            let a = a.add((i * pairs + depth) * 2);
                            if left >= TILE_BF16 {
                                tile_of_bf16::<TILE_BF16>(a, pairs, panel, length, tile, how);
                                i += TILE_BF16;
                            } else if left >= 4 {
                                tile_of_bf16::<4>(a, pairs, panel, length, tile, how);
                                i += 4;
                            } else {
                                tile_of_bf16::<1>(a, pairs, panel, length, tile, how);
                                i += 1;
                            }
                        }
                    }
                }
            }
        }
    }

    /// R rows by 32 columns.
    ///
    /// # Safety
    /// As [`multiply_bf16`]; `a` has R rows of `length` pairs, `stride` pairs apart; `panel` has `length` rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn tile_of_bf16<const R: usize>(
        a: *const u16,
        stride: usize,
        panel: *const u16,
        length: usize,
        tile: Tile,
        how: Finish,
    ) {
        // 16 columns by 2 inputs.
        type Pairs = [u16; 32];
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        for at in 0..length {
            // SAFETY: promised by the caller; the vector types have 64 bytes and any bits are a value of them.
            unsafe {
                let left: __m512bh =
                    std::mem::transmute(panel.add(at * 2 * COLUMNS_BF16).cast::<Pairs>().read_unaligned());
                let right: __m512bh =
                    std::mem::transmute(panel.add((at * 2 + 1) * COLUMNS_BF16).cast::<Pairs>().read_unaligned());
                for (i, sums) in sums.iter_mut().enumerate() {
                    let pair = a.add((i * stride + at) * 2).cast::<i32>().read_unaligned();
                    let pair: __m512bh = std::mem::transmute(_mm512_set1_epi32(pair));
                    sums[0] = _mm512_dpbf16_ps(sums[0], pair, left);
                    sums[1] = _mm512_dpbf16_ps(sums[1], pair, right);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            // SAFETY: the row exists.
            unsafe { put_512(tile, i, *sums, how) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sae::random::Random;

    fn random(n: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed, 0);
        (0..n).map(|_| (random.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
    }

    /// In double precision.
    fn expected(x: &[f32], weights: &[f32], bias: &[f32], k: usize, gelu: bool) -> Vec<f32> {
        let mut out = Vec::new();
        for row in x.chunks_exact(k) {
            for (weights, bias) in weights.chunks_exact(k).zip(bias) {
                let sum: f64 = row.iter().zip(weights).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                let sum = sum as f32 + bias;
                out.push(if gelu { simd::gelu(sum) } else { sum });
            }
        }
        out
    }

    fn assert_near(got: &[f32], want: &[f32], tolerance: f32) {
        assert_eq!(got.len(), want.len());
        for (at, (got, want)) in got.iter().zip(want).enumerate() {
            assert!((got - want).abs() <= tolerance, "{at}: {got}, expected {want}");
        }
    }

    #[test]
    fn products_of_all_shapes_agree_with_double_precision() {
        // Rows, columns and inputs that fill tiles, panels and depths, and that do not.
        for (m, n, k) in [(1, 1, 1), (5, 3, 7), (6, 16, 384), (197, 50, 385), (13, 33, 800), (24, 64, 2), (0, 8, 4)] {
            let (x, weights, bias) = (random(m * k, 1), random(n * k, 2), random(n, 3));
            for precision in [Precision::F32, Precision::Bf16] {
                let packed = Packed::new(&weights, n, k, precision);
                let tolerance = 4e-6 * (k as f32).sqrt().max(4.0);
                let (x_seen, weights_seen) = match precision {
                    Precision::F32 => (x.clone(), weights.clone()),
                    Precision::Bf16 => (rounded(&x), rounded(&weights)),
                };
                for gelu in [false, true] {
                    let how = if gelu { Finish::BiasGelu(&bias) } else { Finish::Bias(&bias) };
                    let want = expected(&x_seen, &weights_seen, &bias, k, gelu);
                    assert_near(&packed.apply(&x, how), &want, tolerance);
                }
                let want = expected(&x_seen, &weights_seen, &vec![0.0; n], k, false);
                assert_near(&packed.apply(&x, Finish::Product), &want, tolerance);
            }
        }
    }

    #[test]
    fn a_row_gives_the_same_bits_in_every_batch() {
        let (k, n) = (768, 100);
        let (x, weights, bias) = (random(211 * k, 4), random(n * k, 5), random(n, 6));
        for precision in [Precision::F32, Precision::Bf16] {
            let packed = Packed::new(&weights, n, k, precision);
            // Only our own kernels promise it.
            if matches!(packed.weights, Weights::Plain(_)) {
                continue;
            }
            let all = packed.apply(&x, Finish::BiasGelu(&bias));
            for row in [0, 5, 191, 192, 210] {
                let alone = packed.apply(&x[row * k..(row + 1) * k], Finish::BiasGelu(&bias));
                assert_eq!(alone, all[row * n..(row + 1) * n]);
            }
        }
    }

    #[test]
    fn rounding_to_bf16_is_to_the_nearest_and_even() {
        let rounded = |value: f32| f32::from_bits(u32::from(to_bf16(value)) << 16);
        assert_eq!(rounded(1.0), 1.0);
        assert_eq!(rounded(1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(rounded(1.0 + 3.0 / 256.0), 1.0 + 4.0 / 256.0);
        assert_eq!(rounded(1.0 + 1.1 / 256.0), 1.0 + 2.0 / 256.0);
        assert_eq!(rounded(f32::MAX), f32::INFINITY);
        assert!(rounded(f32::from_bits(0x7f80_0001)).is_nan());
    }

    /// Speed of one core: `cargo test -p saequel-encoder --lib -- --ignored --nocapture gigaflops`.
    #[test]
    #[ignore = "prints a measurement"]
    fn gigaflops() {
        for (m, n, k) in [(1024, 1536, 384), (1024, 384, 1536), (1024, 1152, 384), (1024, 384, 384), (256, 4096, 384)] {
            let (x, weights, bias) = (random(m * k, 1), random(n * k, 2), random(n, 3));
            let operations = 2e-9 * (m * n * k) as f64;
            let best = |work: &mut dyn FnMut()| {
                let seconds = (0..20).map(|_| {
                    let start = std::time::Instant::now();
                    work();
                    start.elapsed().as_secs_f64()
                });
                operations / seconds.fold(f64::INFINITY, f64::min)
            };
            let mut out = vec![0.0; m * n];
            let theirs = best(&mut || MatMul::linear(m, n, k).run(&x, &weights, &mut out));
            let ours =
                [(Precision::F32, false), (Precision::F32, true), (Precision::Bf16, false)].map(|(precision, gelu)| {
                    let packed = Packed::new(&weights, n, k, precision);
                    best(&mut || {
                        let how = if gelu { Finish::BiasGelu(&bias) } else { Finish::Bias(&bias) };
                        packed.apply_to(&x, how, &mut out);
                    })
                });
            println!(
                "{m} x {k} x {n}: gemm crate {theirs:.0} GFLOP/s, f32 {:.0}, with GELU {:.0}, bf16 {:.0}",
                ours[0], ours[1], ours[2]
            );
        }
    }
}
