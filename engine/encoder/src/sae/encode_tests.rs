//! Every architecture against its formula in double precision, row by row.

use super::super::{Output, Precision, Spec, Weights};
use super::*;
use crate::level::Level;
use crate::sae::random::Random;
use crate::testing;

const WIDTH: usize = 70;
const INPUTS: usize = 19;
const ROWS: usize = 300;

fn numbers(seed: u64, n: usize, spread: f32) -> Vec<f32> {
    testing::numbers(seed, 7, n, spread)
}

fn spec(architecture: Architecture, normalization: InputNormalization) -> Spec {
    Spec { normalization, prefixes: vec![30, WIDTH], ..testing::spec(architecture, WIDTH, INPUTS) }
}

fn weights() -> Weights {
    Weights {
        encoder: numbers(1, WIDTH * INPUTS, 0.5),
        encoder_bias: numbers(2, WIDTH, 0.3),
        decoder: numbers(3, WIDTH * INPUTS, 0.4),
        decoder_bias: numbers(4, INPUTS, 0.3),
        mean: numbers(5, INPUTS, 0.5),
        deviation: numbers(10, INPUTS, 0.8).iter().map(|x| x.exp()).collect(),
        shift: numbers(6, INPUTS, 0.5),
        thresholds: numbers(7, WIDTH, 0.6),
        magnitude: numbers(8, WIDTH, 0.4).iter().map(|x| x.exp()).collect(),
        magnitude_bias: numbers(9, WIDTH, 0.3),
        ..Weights::default()
    }
}

fn normalized(row: &[f32], normalization: InputNormalization, weights: &Weights) -> Vec<f64> {
    let row: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
    let n = row.len() as f64;
    let mean = row.iter().sum::<f64>() / n;
    let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let shifted = |row: Vec<f64>| row.iter().zip(&weights.shift).map(|(x, shift)| x - f64::from(*shift)).collect();
    match normalization {
        InputNormalization::Centred { scale, unit } => {
            let row: Vec<f64> = row.iter().zip(&weights.mean).map(|(x, mean)| x - f64::from(*mean)).collect();
            let length = if unit { row.iter().map(|x| x * x).sum::<f64>().sqrt() } else { 1.0 };
            row.iter().map(|x| x / length * f64::from(scale)).collect()
        }
        InputNormalization::Standardised { scale } => {
            let root = (row.iter().map(|x| x * x).sum::<f64>() / n).sqrt();
            let means = weights.mean.iter().zip(&weights.deviation);
            let one =
                |(x, (mean, deviation)): (&f64, (&f32, &f32))| (x / root - f64::from(*mean)) / f64::from(*deviation);
            row.iter().zip(means).map(one).map(|x| x * f64::from(scale)).collect()
        }
        InputNormalization::None => shifted(row),
        InputNormalization::Scale { factor } => shifted(row.iter().map(|x| x * f64::from(factor)).collect()),
        InputNormalization::RowNorm => shifted(row.iter().map(|x| x * n.sqrt() / length).collect()),
        InputNormalization::RowCentred { factor } => {
            shifted(row.iter().map(|x| (x - mean) * f64::from(factor)).collect())
        }
        InputNormalization::LayerNorm => shifted(row.iter().map(|x| (x - mean) / (variance.sqrt() + 1e-5)).collect()),
    }
}

/// The `n` of `values` for which `by` is largest, the lower position first among equal ones.
fn strongest(values: &[f64], n: usize, by: impl Fn(f64) -> f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| by(values[b]).total_cmp(&by(values[a])).then(a.cmp(&b)));
    order.truncate(n);
    order
}

/// Signed activations of a normalised row, by the formulas.
fn expected(y: &[f64], architecture: Architecture, weights: &Weights) -> Vec<f64> {
    let product = |matrix: &[f32], y: &[f64]| -> Vec<f64> {
        matrix.chunks_exact(INPUTS).map(|row| row.iter().zip(y).map(|(w, y)| f64::from(*w) * y).sum()).collect()
    };
    let plain = product(&weights.encoder, y);
    let pre: Vec<f64> = plain.iter().zip(&weights.encoder_bias).map(|(p, e)| p + f64::from(*e)).collect();
    let mut out = vec![0.0; WIDTH];
    let keep = |latents: Vec<usize>, out: &mut Vec<f64>, relu: bool| {
        latents.into_iter().for_each(|i| out[i] = if relu { pre[i].max(0.0) } else { pre[i] });
    };
    match architecture {
        Architecture::BatchTopk { threshold, cap } => {
            let above = strongest(&pre, cap.unwrap_or(WIDTH), |p| p);
            keep(above.into_iter().filter(|&i| pre[i] > f64::from(threshold)).collect(), &mut out, false);
        }
        Architecture::Relu => keep((0..WIDTH).collect(), &mut out, true),
        Architecture::JumpRelu => {
            keep((0..WIDTH).filter(|&i| pre[i] > f64::from(weights.thresholds[i])).collect(), &mut out, true);
        }
        Architecture::Gated => {
            for i in (0..WIDTH).filter(|&i| pre[i] > 0.0) {
                let magnitude = plain[i] * f64::from(weights.magnitude[i]) + f64::from(weights.magnitude_bias[i]);
                out[i] = magnitude.max(0.0);
            }
        }
        Architecture::TopK { k } => keep(strongest(&pre, k, |p| p), &mut out, true),
        Architecture::GroupMax { k } => {
            for group in 0..k {
                let size = WIDTH / k;
                let best = group * size + strongest(&pre[group * size..(group + 1) * size], 1, |p| p)[0];
                out[best] = pre[best].max(0.0);
            }
        }
        Architecture::AbsTopK { k } => keep(strongest(&pre, k, f64::abs), &mut out, false),
        Architecture::Temporal { .. } => panic!("rows are not enough for it; see temporal_tests.rs"),
        Architecture::MatchingPursuit { .. } | Architecture::Itda { .. } => {
            let (steps, signed, least, stop) = match architecture {
                Architecture::MatchingPursuit { max_iterations, residual_threshold, stop_on_duplicate } => {
                    (max_iterations, false, f64::from(residual_threshold), stop_on_duplicate)
                }
                Architecture::Itda { k } => (k, true, 0.0, false),
                _ => unreachable!(),
            };
            let mut residual = y.to_vec();
            for _ in 0..steps {
                let products = product(&weights.decoder, &residual);
                let best = strongest(&products, 1, |p| if signed { p.abs() } else { p })[0];
                let value = if signed { products[best] } else { products[best].max(0.0) };
                let again = out[best] != 0.0 || value == 0.0;
                out[best] += value;
                let atom = &weights.decoder[best * INPUTS..(best + 1) * INPUTS];
                residual.iter_mut().zip(atom).for_each(|(r, d)| *r -= value * f64::from(*d));
                if stop && again || residual.iter().map(|r| r * r).sum::<f64>().sqrt() < least {
                    break;
                }
            }
        }
    }
    out
}

fn compare(architecture: Architecture, normalization: InputNormalization) {
    let mut weights = weights();
    if architecture.is_tied() {
        for row in weights.decoder.chunks_exact_mut(INPUTS) {
            let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            row.iter_mut().for_each(|x| *x /= length);
        }
    }
    let sae = Sae::new(spec(architecture, normalization), weights.clone());
    // Enough rows for two blocks.
    let states = numbers(10, ROWS * INPUTS, 2.0);
    let rows = sae.encode_states(&states).unwrap();
    assert_eq!(rows.len(), ROWS);
    if architecture.is_tied() {
        let (mut rows_read, mut dense) = (states.clone(), SparseRows::default());
        sae.normalize(&mut rows_read);
        densely(&sae, &rows_read, &mut EncodeScratch::default(), &mut dense);
        for (i, row) in rows.iter().enumerate() {
            let (latents, activations) = dense.row(i);
            assert!(row.iter().map(|(latent, _)| latent).eq(latents), "{architecture:?} {normalization:?}: row {i}");
            assert!(row.iter().zip(activations).all(|(a, b)| (a.1 - b).abs() < 2e-5), "{architecture:?}: row {i}");
        }
    }
    let mut fired = 0;
    for (state, row) in states.chunks_exact(INPUTS).zip(&rows) {
        let want = expected(&normalized(state, normalization, &weights), architecture, &weights);
        let mut got = vec![0.0; WIDTH];
        assert!(row.is_sorted_by(|a, b| a.0 < b.0));
        for &(feature, activation) in row {
            assert!(activation > 0.0);
            let (latent, sign) = match feature as usize {
                latent if latent < WIDTH => (latent, 1.0),
                latent => (latent - WIDTH, -1.0),
            };
            got[latent] += sign * f64::from(activation);
        }
        for (latent, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!((got - want).abs() < 2e-5, "{architecture:?} {normalization:?}: latent {latent}: {got} for {want}");
        }
        fired += row.len();
        // Rebuilt from features is rebuilt from signed latents.
        let rebuilt = sae.rebuild(row);
        for (i, rebuilt) in rebuilt.iter().enumerate() {
            let sum: f64 =
                want.iter().enumerate().map(|(latent, a)| a * f64::from(weights.decoder[latent * INPUTS + i])).sum();
            let shift = if normalization.is_centred() { 0.0 } else { weights.shift[i] };
            let want = sum + f64::from(weights.decoder_bias[i]) + f64::from(shift);
            assert!((f64::from(*rebuilt) - want).abs() < 1e-4, "{architecture:?}: {rebuilt} for {want}");
        }
    }
    assert!(fired > ROWS, "{architecture:?}: {fired}");
}

const CENTRED: InputNormalization = InputNormalization::Centred { scale: 0.7, unit: false };

#[test]
fn every_architecture_follows_its_formula() {
    for architecture in [
        Architecture::BatchTopk { threshold: 0.8, cap: Some(9) },
        Architecture::BatchTopk { threshold: 0.8, cap: None },
        Architecture::Relu,
        Architecture::JumpRelu,
        Architecture::Gated,
        Architecture::TopK { k: 6 },
        Architecture::GroupMax { k: 10 },
        Architecture::AbsTopK { k: 7 },
        Architecture::MatchingPursuit { max_iterations: 19, residual_threshold: 0.5, stop_on_duplicate: true },
        Architecture::MatchingPursuit { max_iterations: 12, residual_threshold: 0.0, stop_on_duplicate: false },
        Architecture::Itda { k: 8 },
    ] {
        compare(architecture, InputNormalization::None);
        compare(architecture, CENTRED);
    }
}

#[test]
fn every_normalization_follows_its_formula() {
    for normalization in [
        InputNormalization::Centred { scale: 2.0, unit: true },
        InputNormalization::Standardised { scale: 0.6 },
        InputNormalization::Scale { factor: 0.4 },
        InputNormalization::RowNorm,
        InputNormalization::RowCentred { factor: 1.5 },
        InputNormalization::LayerNorm,
    ] {
        compare(Architecture::TopK { k: 6 }, normalization);
    }
}

#[test]
fn equal_activations_go_to_the_lower_latent() {
    let mut weights = weights();
    // Latents 10 and 40 are the same.
    weights.encoder.copy_within(10 * INPUTS..11 * INPUTS, 40 * INPUTS);
    weights.encoder_bias[40] = weights.encoder_bias[10];
    weights.encoder_bias[10] += 0.0;
    let states = numbers(11, ROWS * INPUTS, 2.0);
    for architecture in [Architecture::TopK { k: 1 }, Architecture::AbsTopK { k: 1 }] {
        let sae = Sae::new(spec(architecture, InputNormalization::None), weights.clone());
        let rows = sae.encode_states(&states).unwrap();
        let chosen =
            |latent: u32| rows.iter().filter(|row| row.iter().any(|(f, _)| f % WIDTH as u32 == latent)).count();
        assert!(chosen(10) > 0 && chosen(40) == 0, "{architecture:?}");
    }
}

#[test]
fn dictionaries_of_every_kind_survive_the_disk() {
    let states = numbers(12, 64 * INPUTS, 2.0);
    let dir = tempfile::tempdir().unwrap();
    for (i, (architecture, normalization)) in [
        (Architecture::BatchTopk { threshold: 0.8, cap: None }, CENTRED),
        (Architecture::TopK { k: 6 }, InputNormalization::Standardised { scale: 0.6 }),
        (Architecture::JumpRelu, InputNormalization::LayerNorm),
        (Architecture::Gated, InputNormalization::RowNorm),
        (Architecture::AbsTopK { k: 7 }, InputNormalization::Scale { factor: 0.5 }),
        (Architecture::Itda { k: 5 }, InputNormalization::None),
    ]
    .into_iter()
    .enumerate()
    {
        let folder = dir.path().join(i.to_string());
        let sae = Sae::new(spec(architecture, normalization), weights());
        sae.save(&folder).unwrap();
        let loaded = Sae::load(&folder).unwrap();
        assert_eq!((loaded.architecture(), loaded.prefixes()), (architecture, &[30, WIDTH][..]));
        assert_eq!(loaded.encode_states(&states).unwrap(), sae.encode_states(&states).unwrap());
        assert_eq!(loaded.decoder(), sae.decoder());
    }
}

#[test]
fn transcoders_rebuild_other_states() {
    let mut spec = spec(Architecture::Relu, InputNormalization::None);
    spec.output = Some(Output { hook: "blocks.0.hook_mlp_out".to_owned(), width: 5 });
    let weights = Weights {
        decoder: numbers(3, WIDTH * 5, 0.4),
        decoder_bias: numbers(4, 5, 0.3),
        shift: Vec::new(),
        ..weights()
    };
    let sae = Sae::new(spec, weights);
    let states = numbers(13, 8 * INPUTS, 2.0);
    let rows = sae.encode_states(&states).unwrap();
    assert_eq!(sae.rebuild(&rows[0]).len(), 5);
    let mut sparse = SparseRows::default();
    sparse.push(&rows[0]);
    assert_eq!(sae.unexplained(&states, &sparse, 0..1, &mut EncodeScratch::default()), (0.0, 0.0));
    assert!(sae.encode_states(&states[1..]).unwrap_err().message().contains("rows of 19 values"));
}

#[test]
fn the_shipped_dictionaries_of_version_1_read_as_they_did() {
    for sae in Sae::shipped().unwrap() {
        let Architecture::BatchTopk { threshold, cap: Some(cap) } = sae.architecture() else { panic!() };
        let InputNormalization::Centred { unit, .. } = sae.normalization() else { panic!() };
        assert_eq!((cap, sae.layer(), sae.input_width(), sae.precision()), (32, 4, 384, Precision::F16));
        assert_eq!(unit, sae.level() == Level::Span);
        // The way of version 1, written out.
        let states = numbers(14, 20 * 384, 1.0);
        let mut rows = states.clone();
        super::normalize(&mut rows, sae.normalization(), &sae.weights.mean, &[]);
        let mut dense = vec![0.0; 20 * sae.width()];
        MatMul::linear(20, sae.width(), 384).run(&rows, &sae.weights.encoder, &mut dense);
        let encoded = sae.encode_states(&states).unwrap();
        for (products, row) in dense.chunks_exact(sae.width()).zip(&encoded) {
            let mut found = Vec::new();
            above(products, &sae.weights.encoder_bias, threshold, &mut found);
            found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            found.truncate(cap);
            found.sort_by_key(|&(_, latent)| latent);
            assert_eq!(row.iter().map(|&(latent, x)| (x, latent)).collect::<Vec<_>>(), found);
        }
        let dir = tempfile::tempdir().unwrap();
        sae.save(dir.path()).unwrap();
        let again = Sae::load(dir.path()).unwrap();
        assert_eq!(again.encode_states(&states).unwrap(), encoded);
        assert_eq!(again.latents(), sae.latents());
    }
}

#[test]
fn what_is_out_of_range_is_said() {
    for (architecture, message) in [
        (Architecture::TopK { k: 0 }, "out of range for width 70"),
        (Architecture::GroupMax { k: 9 }, "out of range for width 70"),
        (Architecture::BatchTopk { threshold: f32::NAN, cap: None }, "out of range"),
    ] {
        assert!(spec(architecture, CENTRED).wrong().unwrap().contains(message));
    }
    assert!(spec(Architecture::Relu, InputNormalization::Scale { factor: 0.0 }).wrong().unwrap().contains("factor"));
    assert!(spec(Architecture::TopK { k: WIDTH + 1 }, CENTRED).wrong().unwrap().contains("TopK"));
    let mut nested = spec(Architecture::Relu, CENTRED);
    nested.prefixes = vec![30, 20, WIDTH];
    assert!(nested.wrong().unwrap().contains("grow up to width 70"));
}

/// A dictionary of directions that is pursued, and states made of `n_parts` of them and a little noise.
fn pursued(architecture: Architecture, width: usize, inputs: usize, n_rows: usize, n_parts: usize) -> (Sae, Vec<f32>) {
    let mut decoder = numbers(16, width * inputs, 1.0);
    for row in decoder.chunks_exact_mut(inputs) {
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= length);
    }
    let mut states = numbers(17, n_rows * inputs, 0.01);
    let mut random = Random::new(18, 0);
    for state in states.chunks_exact_mut(inputs) {
        for _ in 0..n_parts {
            let (part, amount) = (random.below(width), 0.5 + random.below(1000) as f32 / 1000.0);
            state.iter_mut().zip(&decoder[part * inputs..]).for_each(|(x, d)| *x += amount * d);
        }
    }
    let spec =
        Spec { width, input_width: inputs, prefixes: Vec::new(), ..spec(architecture, InputNormalization::None) };
    let weights = Weights { decoder, decoder_bias: vec![0.0; inputs], ..Weights::default() };
    (Sae::new(spec, weights), states)
}

fn densely(sae: &Sae, rows: &[f32], scratch: &mut EncodeScratch, out: &mut SparseRows) {
    out.clear();
    for block in rows.chunks(BLOCK_ROWS * sae.input_width()) {
        scratch.left.clear();
        scratch.left.extend_from_slice(block);
        sae.pursue_densely(&sae.pursuit().unwrap(), scratch, out);
    }
}

#[test]
fn a_pursuit_takes_the_same_by_products_of_rows_as_by_products_computed_anew() {
    for architecture in [
        Architecture::MatchingPursuit { max_iterations: 24, residual_threshold: 0.2, stop_on_duplicate: false },
        Architecture::MatchingPursuit { max_iterations: 24, residual_threshold: 0.0, stop_on_duplicate: true },
        Architecture::Itda { k: 24 },
    ] {
        let (sae, mut states) = pursued(architecture, 700, 48, 400, 8);
        // Rows of which nothing is left after no step, and after one.
        states[..48].fill(0.0);
        states[48..96].copy_from_slice(&sae.decoder()[..48]);
        let (mut scratch, mut dense) = (EncodeScratch::default(), SparseRows::default());
        densely(&sae, &states, &mut scratch, &mut dense);
        let (mut taken, mut others) = (0, 0);
        for (i, row) in sae.encode_states(&states).unwrap().iter().enumerate() {
            let (latents, activations) = dense.row(i);
            let same = row.iter().map(|(latent, _)| latent).eq(latents);
            others += usize::from(!same);
            if same {
                let most = row.iter().zip(activations).map(|(a, b)| (a.1 - b).abs()).fold(0.0, f32::max);
                assert!(most < 1e-5, "{architecture:?}: row {i} differs by {most}");
            }
            taken += row.len();
        }
        // Where two latents say the same to the last digit either may be taken, as of what rounding leaves of an atom.
        assert!(taken > 400 * 4 && others <= 4, "{architecture:?}: {taken} taken, {others} rows differ");
    }
}

/// Prints how long pursuits take by products of rows, in multiples of those that compute them anew, interleaved: run it
/// alone, with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn speed_of_pursuits() {
    for (width, inputs, k) in [(4096, 384, 16), (4096, 384, 32), (8192, 768, 32)] {
        let (sae, states) = pursued(Architecture::Itda { k }, width, inputs, 512, k);
        let (mut scratch, mut sparse) = (EncodeScratch::default(), SparseRows::default());
        let start = std::time::Instant::now();
        sae.encode_rows(&states[..inputs], &mut scratch, &mut sparse);
        let first = start.elapsed().as_secs_f64();
        let mut seconds = [Vec::new(), Vec::new()];
        for _ in 0..5 {
            let start = std::time::Instant::now();
            sae.encode_rows(&states, &mut scratch, &mut sparse);
            seconds[0].push(start.elapsed().as_secs_f64());
            let start = std::time::Instant::now();
            densely(&sae, &states, &mut scratch, &mut sparse);
            seconds[1].push(start.elapsed().as_secs_f64());
        }
        let mut ratios: Vec<f64> = seconds[1].iter().zip(&seconds[0]).map(|(anew, kept)| anew / kept).collect();
        ratios.sort_by(f64::total_cmp);
        let [kept, anew] = seconds.map(|seconds| 512.0 / seconds.into_iter().fold(f64::INFINITY, f64::min));
        println!(
            "{width} x {inputs}, {k} steps: {kept:.0} rows/s by products of rows ({first:.2} s to compute them), \
             {anew:.0} anew, median ratio {:.1}",
            ratios[2]
        );
    }
}

/// Prints how long encoding takes, in multiples of the loop of version 1 on the same states, interleaved: run it alone, with
/// `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn speed_of_the_loop() {
    let sae = Sae::open(crate::sae::DEFAULT.as_ref()).unwrap();
    let Architecture::BatchTopk { threshold, cap: Some(cap) } = sae.architecture() else { panic!() };
    let mut rows = numbers(15, 2048 * 384, 1.0);
    sae.normalize(&mut rows);
    let (mut scratch, mut sparse) = (EncodeScratch::default(), SparseRows::default());
    let (mut dense, mut found) = (vec![0.0; BLOCK_ROWS * sae.width()], Vec::new());
    let (mut new, mut old) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let start = std::time::Instant::now();
        sae.encode_rows(&rows, &mut scratch, &mut sparse);
        new.push(start.elapsed().as_secs_f64());
        let start = std::time::Instant::now();
        sparse.clear();
        for block in rows.chunks(BLOCK_ROWS * 384) {
            let n = block.len() / 384;
            MatMul::linear(n, sae.width(), 384).run(block, &sae.weights.encoder, &mut dense[..n * sae.width()]);
            for products in dense[..n * sae.width()].chunks_exact(sae.width()) {
                found.clear();
                above(products, &sae.weights.encoder_bias, threshold, &mut found);
                if found.len() > cap {
                    found.select_nth_unstable_by(cap, |a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
                    found.truncate(cap);
                    found.sort_unstable_by_key(|&(_, latent)| latent);
                }
                sparse.push_found(&found);
            }
        }
        old.push(start.elapsed().as_secs_f64());
    }
    let least = |times: &[f64]| times.iter().copied().fold(f64::INFINITY, f64::min);
    let mut ratios: Vec<f64> = new.iter().zip(&old).map(|(new, old)| new / old).collect();
    ratios.sort_by(f64::total_cmp);
    println!(
        "2,048 rows: {:.1} ms, version 1 {:.1} ms, median ratio {:.3}",
        least(&new) * 1e3,
        least(&old) * 1e3,
        ratios[10]
    );
}
