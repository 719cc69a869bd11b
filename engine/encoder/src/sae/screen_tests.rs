//! The screen against the dense product, bit for bit.

use super::*;
use crate::sae::Weights;
use crate::sae::random::Random;
use crate::testing;

/// Roughly normal numbers.
fn numbers(random: &mut Random, n: usize) -> Vec<f32> {
    let mut one = || (0..6).map(|_| (random.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).sum::<f32>() * 0.7;
    (0..n).map(|_| one()).collect()
}

fn dictionary(architecture: Architecture, width: usize, inputs: usize, weights: Weights) -> Sae {
    let spec = testing::spec(architecture, width, inputs);
    Sae::new(spec, weights)
}

fn random_weights(random: &mut Random, width: usize, inputs: usize) -> Weights {
    let spread = 1.0 / (inputs as f32).sqrt();
    let mut encoder = numbers(random, width * inputs);
    encoder.iter_mut().for_each(|value| *value *= spread);
    Weights {
        decoder: encoder.clone(),
        encoder,
        encoder_bias: numbers(random, width).iter().map(|value| value * 0.1).collect(),
        decoder_bias: vec![0.0; inputs],
        thresholds: numbers(random, width).iter().map(|value| 2.5 + value * 0.2).collect(),
        magnitude: vec![1.3; width],
        magnitude_bias: numbers(random, width),
        ..Weights::default()
    }
}

/// Rows like hidden states: some decoder rows and noise.
fn mixtures(random: &mut Random, sae: &Sae, n: usize, strength: f32, noise: f32) -> Vec<f32> {
    let inputs = sae.input_width();
    let mut rows = numbers(random, n * inputs);
    for row in rows.chunks_exact_mut(inputs) {
        row.iter_mut().for_each(|value| *value *= noise);
        for _ in 0..12 {
            let latent = random.below(sae.spec.width);
            let amount = strength * (0.3 + random.below(1000) as f32 / 1000.0);
            let direction = &sae.decoder()[latent * inputs..(latent + 1) * inputs];
            row.iter_mut().zip(direction).for_each(|(value, direction)| *value += amount * direction);
        }
    }
    rows
}

fn bits(sparse: &SparseRows) -> Vec<Vec<(u32, u32)>> {
    let row = |i| {
        let (latents, activations): (&[u32], &[f32]) = sparse.row(i);
        latents.iter().copied().zip(activations.iter().map(|activation| activation.to_bits())).collect()
    };
    (0..sparse.len()).map(row).collect()
}

/// What the dense product gives and what the screen gives; and whether the screen was used for all rows at once.
fn both(sae: &Sae, rows: &[f32]) -> (Vec<Vec<(u32, u32)>>, Vec<Vec<(u32, u32)>>, bool) {
    let with = sae.pack(Precision::F32).unwrap();
    let without = with.without_screen();
    let (mut scratch, mut sparse) = (EncodeScratch::default(), SparseRows::default());
    sae.encode_windows(Some(&without), rows, &[], &mut scratch, &mut sparse);
    let dense = bits(&sparse);
    sae.encode_windows(Some(&with), rows, &[], &mut scratch, &mut sparse);
    let screened = bits(&sparse);
    let used = with.screen.as_ref().is_some_and(|screen| screen.find(rows, &mut scratch.screen));
    (dense, screened, used)
}

/// Only with AVX2, and not where AVX-512 has other kernels, is there a screen.
fn has_screen() -> bool {
    cfg!(target_arch = "x86_64") && Packed::new(&[1.0], 1, 1, Precision::F32).is_in_order()
}

#[test]
fn every_architecture_gives_the_same_bits() {
    let random = &mut Random::new(1, 0);
    for (width, inputs) in [(4096, 384), (1000, 385), (333, 769), (512, 33)] {
        let weights = random_weights(random, width, inputs);
        for architecture in [
            Architecture::BatchTopk { threshold: 2.5, cap: Some(8) },
            Architecture::BatchTopk { threshold: 2.5, cap: None },
            Architecture::JumpRelu,
            Architecture::Relu,
            Architecture::Gated,
            Architecture::TopK { k: 9 },
        ] {
            let mut weights = weights.clone();
            if matches!(architecture, Architecture::Relu | Architecture::Gated) {
                weights.encoder_bias.iter_mut().for_each(|bias| *bias -= 2.5);
            }
            let sae = dictionary(architecture, width, inputs, weights);
            // Two blocks, and a rest that fills no tile.
            let rows = mixtures(random, &sae, 199, 3.0, 0.5);
            let (dense, screened, _) = both(&sae, &rows);
            assert_eq!(dense, screened, "{architecture:?}, {width} x {inputs}");
            assert!(dense.iter().any(|row| !row.is_empty()), "{architecture:?}: nothing fires");
            let used = both(&sae, &rows[..100 * inputs]).2;
            // Of short rows the bound is too wide.
            let pays = !matches!(architecture, Architecture::TopK { .. });
            assert!(used == (has_screen() && pays) || inputs < 100, "{architecture:?}, {width} x {inputs}");
        }
    }
}

#[test]
fn shipped_dictionaries_give_the_same_bits() {
    let random = &mut Random::new(2, 0);
    for sae in Sae::shipped().unwrap() {
        for (strength, noise) in [(0.3, 0.02), (0.25, 0.01), (0.2, 0.02)] {
            let rows = mixtures(random, &sae, 190, strength, noise);
            let (dense, screened, used) = both(&sae, &rows);
            assert_eq!(dense, screened);
            assert_eq!(used, has_screen(), "{}: {strength}", sae.name());
            assert!(dense.iter().map(Vec::len).sum::<usize>() > 190, "{}: {strength}", sae.name());
        }
    }
}

#[test]
fn a_latent_at_its_threshold_is_computed() {
    let random = &mut Random::new(3, 0);
    let (width, inputs) = (512, 384);
    let mut sae = dictionary(Architecture::JumpRelu, width, inputs, random_weights(random, width, inputs));
    let rows = mixtures(random, &sae, 12, 3.0, 0.5);
    // The thresholds are what the latents reach on the first row, or the numbers next to it: they fire or not by one bit.
    let packed = Packed::new(&sae.weights.encoder, width, inputs, Precision::F32);
    let products = packed.apply(&rows[..inputs], crate::reader::packed::Finish::Product);
    let mut expected = Vec::new();
    for latent in 0..width {
        let value = products[latent] + sae.weights.encoder_bias[latent];
        sae.weights.thresholds[latent] = match latent % 24 {
            0 => value,
            8 => value.next_down(),
            16 => value.next_up(),
            _ => 100.0,
        };
        if latent % 24 == 8 && value > 0.0 {
            expected.push((latent as u32, value.to_bits()));
        }
    }
    let (dense, screened, _) = both(&sae, &rows);
    assert_eq!(dense, screened);
    if has_screen() {
        assert_eq!(screened[0], expected);
        assert!(expected.len() > 5);
    }
}

#[test]
fn rows_of_any_size_give_the_same_bits() {
    let random = &mut Random::new(4, 0);
    let (width, inputs) = (640, 96);
    for spread in [1.0, 1e-30, 1e25, 0.0] {
        let mut weights = random_weights(random, width, inputs);
        weights.encoder[..width * inputs / 2].iter_mut().for_each(|value| *value *= spread);
        // An encoder row of which one value is nearly all.
        weights.encoder[inputs * 600 + 7] = 1e4;
        weights.encoder_bias[3] = 9.0;
        weights.encoder_bias[5] = 2.5;
        let sae = dictionary(Architecture::BatchTopk { threshold: 2.5, cap: None }, width, inputs, weights);
        for scale in [0.0, 1e-45, 1e-38, 1e-20, 1e-12, 1.0, 1e10, 1e14, 1e20, 3e38] {
            let mut rows = numbers(random, 13 * inputs);
            rows.iter_mut().for_each(|value| *value *= scale);
            // Ordinary rows beside them, one with a single large value.
            rows[..6 * inputs].copy_from_slice(&mixtures(random, &sae, 6, 2.0, 0.3).as_slice()[..6 * inputs]);
            rows[2 * inputs..3 * inputs].fill(0.0);
            rows[2 * inputs + 11] = 50.0;
            let (dense, screened, _) = both(&sae, &rows);
            assert_eq!(dense, screened, "weights times {spread}, rows times {scale}");
        }
    }
}

#[test]
fn rows_that_are_no_numbers_are_left_to_the_dense_product() {
    let random = &mut Random::new(5, 0);
    let (width, inputs) = (512, 48);
    let sae = dictionary(
        Architecture::BatchTopk { threshold: 2.5, cap: Some(32) },
        width,
        inputs,
        random_weights(random, width, inputs),
    );
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
        let mut rows = mixtures(random, &sae, 20, 3.0, 0.5);
        rows[9 * inputs + 5] = value;
        let (dense, screened, used) = both(&sae, &rows);
        assert!(!used);
        assert_eq!(dense, screened, "{value}");
    }
}

/// The bound holds and is near: what is left after screening, on the shipped dictionaries, is a few times what fires.
#[test]
fn a_few_times_as_many_are_computed_as_fire() {
    let random = &mut Random::new(6, 0);
    for sae in Sae::shipped().unwrap() {
        let packed = sae.pack(Precision::F32).unwrap();
        let Some(screen) = &packed.screen else { continue };
        let rows = mixtures(random, &sae, 190, 0.25, 0.01);
        let (mut scratch, mut sparse) = (EncodeScratch::default(), SparseRows::default());
        sae.encode_windows(Some(&packed), &rows, &[], &mut scratch, &mut sparse);
        assert!(screen.find(&rows, &mut scratch.screen));
        let Architecture::BatchTopk { threshold, .. } = sae.architecture() else { panic!() };
        let products = packed.dense.apply(&rows, crate::reader::packed::Finish::Product);
        let above = |products: &[f32]| {
            products
                .iter()
                .zip(&sae.weights.encoder_bias)
                .filter(|(product, bias)| *product + *bias > threshold)
                .count()
        };
        let above: usize = products.chunks_exact(sae.width()).map(above).sum();
        let left = scratch.screen.pairs.len();
        println!("{}: {left} left, {above} above the threshold", sae.name());
        assert!(left >= above && left as f64 <= 5.0 * above as f64, "{left} left of {above}");
    }
}

/// Prints rows a second on one thread, dense and screened, interleaved: run it alone, with `--ignored --nocapture screen`.
#[test]
#[ignore = "prints a measurement"]
fn speed_of_the_screen() {
    let random = &mut Random::new(7, 0);
    for sae in Sae::shipped().unwrap() {
        let with = sae.pack(Precision::F32).unwrap();
        let without = with.without_screen();
        let rows = mixtures(random, &sae, 1920, 0.25, 0.01);
        let (mut scratch, mut sparse) = (EncodeScratch::default(), SparseRows::default());
        let mut seconds = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..15 {
            for (packed, seconds) in [&without, &with].into_iter().zip(&mut seconds) {
                let start = std::time::Instant::now();
                sae.encode_windows(Some(packed), &rows, &[], &mut scratch, &mut sparse);
                seconds.push(start.elapsed().as_secs_f64());
            }
            if let Some(screen) = &with.screen {
                let start = std::time::Instant::now();
                for rows in rows.chunks(192 * 384) {
                    assert!(screen.find(rows, &mut scratch.screen));
                }
                seconds[2].push(start.elapsed().as_secs_f64());
            }
        }
        let mut ratios: Vec<f64> =
            seconds[0].iter().zip(&seconds[1]).map(|(dense, screened)| dense / screened).collect();
        ratios.sort_by(f64::total_cmp);
        let fired: usize = bits(&sparse).iter().map(Vec::len).sum();
        let [dense, screened, alone] = seconds.map(|times| 1920.0 / times.into_iter().fold(f64::INFINITY, f64::min));
        println!(
            "{}: {dense:.0} rows/s dense, {screened:.0} screened ({alone:.0} the screen alone), median ratio {:.2}; {:.1} \
             latents fire on a row",
            sae.name(),
            ratios[7],
            fired as f64 / 1920.0
        );
    }
}
