use super::adam::BETAS;
use super::*;

const INPUTS: usize = 32;

/// Directions, and rows that are sums of two of them, of either sign if `signed`.
fn planted(n: usize, inputs: usize, seed: u64, signed: bool) -> (Vec<f32>, Vec<f32>) {
    let mut random = Random::new(seed, 0);
    let mut uniform = move || random.below(1 << 24) as f32 / (1 << 24) as f32;
    let mut directions = Vec::new();
    for _ in 0..24 {
        let row: Vec<f32> = (0..inputs).map(|_| uniform() - 0.5).collect();
        directions.extend(normalized(&row));
    }
    let mut rows = vec![0.0; n * inputs];
    for row in rows.chunks_exact_mut(inputs) {
        for _ in 0..2 {
            let direction = (uniform() * 23.99) as usize * inputs;
            let sign = if signed && uniform() < 0.5 { -1.0 } else { 1.0 };
            simd::axpy(sign * (0.5 + uniform()), &directions[direction..direction + inputs], row);
        }
    }
    (rows, directions)
}

/// Directions that a decoder row agrees with; in either sense if `signed`.
fn n_found(trainer: &Trainer, directions: &[f32], signed: bool) -> usize {
    let agrees = |row: &[f32], direction: &[f32]| {
        let product = simd::dot(row, direction);
        (if signed { product.abs() } else { product }) > 0.9
    };
    let found = directions
        .chunks_exact(INPUTS)
        .filter(|direction| trainer.decoder.value.chunks_exact(INPUTS).any(|row| agrees(row, direction)));
    found.count()
}

fn learned_rules() -> [Rule; 6] {
    [
        Rule::BatchTopK,
        Rule::TopK { signed: false },
        Rule::TopK { signed: true },
        Rule::Matryoshka { ends: vec![12, 48] },
        Rule::JumpRelu,
        Rule::MatchingPursuit,
    ]
}

#[test]
fn planted_directions_are_found_and_rows_stay_of_length_one() {
    for rule in learned_rules() {
        let signed = rule == Rule::TopK { signed: true };
        let (samples, directions) = planted(4096, INPUTS, 1, signed);
        let mut trainer = Trainer::new(rule.clone(), &samples, INPUTS, 48, 2, 1, 2).unwrap();
        let mut reports = Vec::new();
        for step in 0..600 {
            let from = step % 16 * 256 * INPUTS;
            reports.push(trainer.step(&samples[from..from + 256 * INPUTS], 3e-3).unwrap());
        }
        let (first, last) = (reports[0], reports[599]);
        assert!(last.fvu < 0.1 && last.fvu < first.fvu / 3.0, "{rule:?}: FVU {} -> {}", first.fvu, last.fvu);
        assert!(last.l0 > 1.5 && last.l0 < 2.5, "{rule:?}: L0 {}", last.l0);
        for row in trainer.decoder.value.chunks_exact(INPUTS) {
            assert!((simd::dot(row, row) - 1.0).abs() < 1e-4);
        }
        let found = n_found(&trainer, &directions, signed);
        assert!(found >= 18, "{rule:?}: {found} of 24 found");
    }
}

#[test]
fn itda_takes_what_it_cannot_explain_and_nothing_else() {
    let (_, directions) = planted(1, INPUTS, 1, true);
    // Each direction several times, of either sign and of different lengths.
    let rows: Vec<f32> = (0..6).flat_map(|i| directions.iter().map(move |x| x * [1.0, -0.3, 2.0][i % 3])).collect();
    let rule = Rule::Itda { tolerance: 0.2 };
    let mut trainer = Trainer::new(rule, &rows, INPUTS, 40, 6, 1, 2).unwrap();
    let before = trainer.step(&rows[..INPUTS], 0.0).unwrap();
    assert_eq!((before.fvu, trainer.n_atoms()), (1.0, 1));
    trainer.step(&rows, 0.0).unwrap();
    assert_eq!(trainer.n_atoms(), 24);
    assert_eq!(n_found(&trainer, &directions, true), 24);
    let after = trainer.step(&rows, 0.0).unwrap();
    assert!(after.fvu < 1e-6, "{}", after.fvu);
    assert_eq!(trainer.n_atoms(), 24);
    assert!(!trainer.is_finished());
    // Nothing is tolerated: every row that is no multiple of a latent becomes one, until there is no room.
    let (mixed, _) = planted(64, INPUTS, 9, true);
    trainer.rule = Rule::Itda { tolerance: 0.0 };
    trainer.step(&mixed, 0.0).unwrap();
    assert!(trainer.is_finished());
}

/// Mean squared error of the latents in `support` (row, latent), a mean over `ends`; double precision.
fn loss(trainer: &Trainer, batch: &[f32], support: &[(usize, usize)], ends: &[usize]) -> f64 {
    let mut total = 0.0;
    for (i, x) in batch.chunks_exact(INPUTS).enumerate() {
        for &end in ends {
            let mut error: Vec<f64> =
                trainer.decoder_bias.value.iter().zip(x).map(|(b, x)| f64::from(*b) - f64::from(*x)).collect();
            for &(_, latent) in support.iter().filter(|&&(row, latent)| row == i && latent < end) {
                let at = latent * INPUTS..(latent + 1) * INPUTS;
                let product =
                    trainer.encoder.value[at.clone()].iter().zip(x).map(|(e, x)| f64::from(*e) * f64::from(*x));
                let activation = product.sum::<f64>() + f64::from(trainer.encoder_bias.value[latent]);
                let row = &trainer.decoder.value[at];
                error.iter_mut().zip(row).for_each(|(error, d)| *error += activation * f64::from(*d));
            }
            total += error.iter().map(|error| error * error).sum::<f64>() / ends.len() as f64;
        }
    }
    total / (batch.len() / INPUTS) as f64
}

/// A direction at right angles to `row`.
fn tangent(row: &[f32], seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed, 77);
    let mut other: Vec<f32> = row.iter().map(|_| random.below(1000) as f32 / 1000.0 - 0.5).collect();
    let along = simd::dot(&other, row);
    simd::axpy(-along, row, &mut other);
    normalized(&other).collect()
}

/// What a step with step size 0 found: its first moments are the gradient.
fn gradient(moments: &Moments) -> Vec<f32> {
    moments.first.iter().map(|first| first / (1.0 - BETAS.0)).collect()
}

fn assert_near(found: f64, want: f64, scale: f64, what: &str) {
    assert!((found - want).abs() < 2e-3 * scale.max(want.abs()), "{what}: {found}, finite difference {want}");
}

#[test]
fn gradients_agree_with_finite_differences() {
    let nested = Rule::Matryoshka { ends: vec![6, 20, 48] };
    for rule in [Rule::BatchTopK, Rule::TopK { signed: true }, nested, Rule::JumpRelu] {
        let (batch, _) = planted(300, INPUTS, 5, true);
        let mut trainer = Trainer::new(rule.clone(), &batch, INPUTS, 48, 3, 1, 2).unwrap();
        trainer.decoder_bias.value.iter_mut().zip(0..).for_each(|(b, i)| *b = 0.01 * (i % 5) as f32);
        let selection = trainer.select(&batch).unwrap();
        let taken = |kept: &&Kept| match rule {
            Rule::JumpRelu => kept.activation > 0.0,
            _ => kept.activation >= selection.weakest,
        };
        let support: Vec<(usize, usize)> =
            selection.blocks.iter().flatten().filter(taken).map(|k| (k.row as usize, k.latent as usize)).collect();
        let ends = match &rule {
            Rule::Matryoshka { ends } => ends.clone(),
            _ => vec![48],
        };
        let base = trainer.clone();
        trainer.step(&batch, 0.0).unwrap();
        let (by_encoder, by_bias) = (gradient(&trainer.encoder), gradient(&trainer.encoder_bias));
        let (by_decoder, by_decoder_bias) = (gradient(&trainer.decoder), gradient(&trainer.decoder_bias));
        let h = 1e-2f32;
        let difference = |change: &dyn Fn(&mut Trainer, f32)| {
            let at = |step: f32| {
                let mut moved = base.clone();
                change(&mut moved, step);
                loss(&moved, &batch, &support, &ends)
            };
            (at(h) - at(-h)) / (2.0 * f64::from(h))
        };
        let scale = f64::from(by_bias.iter().fold(0.0f32, |most, x| most.max(x.abs())));
        for latent in [0, 3, 7, 21, 40] {
            let at = latent * INPUTS + latent % 30;
            let want = difference(&|t, step| t.encoder.value[at] += step);
            assert_near(f64::from(by_encoder[at]), want, scale, &format!("{rule:?} encoder"));
            let want = difference(&|t, step| t.encoder_bias.value[latent] += step);
            assert_near(f64::from(by_bias[latent]), want, scale, &format!("{rule:?} encoder bias"));
            let range = latent * INPUTS..(latent + 1) * INPUTS;
            let direction = tangent(&base.decoder.value[range.clone()], latent as u64);
            let want = difference(&|t, step| simd::axpy(step, &direction, &mut t.decoder.value[range.clone()]));
            let found = simd::dot(&by_decoder[range.clone()], &direction);
            assert_near(f64::from(found), want, scale, &format!("{rule:?} decoder"));
        }
        for i in [0, 11, 31] {
            let want = difference(&|t, step| t.decoder_bias.value[i] += step);
            assert_near(f64::from(by_decoder_bias[i]), want, scale, &format!("{rule:?} decoder bias"));
        }
    }
}

#[test]
fn gradients_of_pursuit_agree_with_finite_differences() {
    let (batch, _) = planted(200, INPUTS, 5, false);
    let mut trainer = Trainer::new(Rule::MatchingPursuit, &batch, INPUTS, 40, 4, 3, 2).unwrap();
    // Which latents are taken, and in which order, is fixed.
    trainer.measure_products();
    let taken = trainer.pursuits(&batch).unwrap();
    let loss = |decoder: &[f32]| -> f64 {
        let rows = batch.chunks_exact(INPUTS).zip(&taken).map(|(x, latents)| {
            let mut left: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            for &latent in latents {
                let row = &decoder[latent * INPUTS..(latent + 1) * INPUTS];
                let amount: f64 = row.iter().zip(&left).map(|(d, left)| f64::from(*d) * left).sum();
                left.iter_mut().zip(row).for_each(|(left, d)| *left -= amount * f64::from(*d));
            }
            left.iter().map(|left| left * left).sum::<f64>()
        });
        rows.sum::<f64>() / taken.len() as f64
    };
    assert!(taken.iter().filter(|latents| latents.len() == 4).count() > 150);
    let base = trainer.decoder.value.clone();
    let report = trainer.step(&batch, 0.0).unwrap();
    let length: f64 = batch.iter().map(|x| f64::from(x * x)).sum::<f64>() / taken.len() as f64;
    assert!((report.fvu - loss(&base) / length).abs() < 1e-5);
    let found = gradient(&trainer.decoder);
    let scale = f64::from(found.iter().fold(0.0f32, |most, x| most.max(x.abs())));
    for latent in 0..40 {
        let range = latent * INPUTS..(latent + 1) * INPUTS;
        let direction = tangent(&base[range.clone()], latent as u64);
        let at = |step: f32| {
            let mut moved = base.clone();
            simd::axpy(step, &direction, &mut moved[range.clone()]);
            loss(&moved)
        };
        let want = (at(1e-2) - at(-1e-2)) / 2e-2;
        let found = f64::from(simd::dot(&found[range.clone()], &direction));
        assert_near(found, want, scale, &format!("decoder row {latent}"));
    }
}

#[test]
fn straight_through_gradients_of_thresholds_agree_with_the_change_of_the_loss() {
    let (batch, _) = planted(8192, INPUTS, 5, false);
    let mut trainer = Trainer::new(Rule::JumpRelu, &batch, INPUTS, 48, 4, 1, 2).unwrap();
    let base = trainer.clone();
    trainer.step(&batch, 0.0).unwrap();
    let found = gradient(&trainer.log_thresholds);
    // The derivative of the loss over the batch: its change when one threshold goes from one end of the rectangle to the
    // other.
    let loss = |latent: usize, by: f32| -> f64 {
        let mut moved = base.clone();
        let threshold = moved.thresholds()[latent] + by;
        moved.log_thresholds.value[latent] = threshold.ln();
        let mut kept: Vec<Kept> = moved.jumps(&batch).unwrap().into_iter().flatten().collect();
        kept.retain(|kept| kept.activation > 0.0);
        let l0 = kept.len() as f64 / 8192.0;
        let (mut from, mut sum, mut error) = (0, 0.0, vec![0.0; INPUTS]);
        for (i, row) in batch.chunks_exact(INPUTS).enumerate() {
            let to = from + kept[from..].partition_point(|kept| kept.row as usize <= i);
            let (bias, decoder) = (&moved.decoder_bias.value, &moved.decoder.value);
            sum += f64::from(backward_row(row, bias, decoder, &mut kept[from..to], &mut error));
            from = to;
        }
        sum / 8192.0 + jump::penalty(l0, 4.0)
    };
    let (mut product, mut squares) = (0.0, (0.0, 0.0));
    for latent in 0..48 {
        let (half, threshold) = (base.bandwidth() / 2.0, base.thresholds()[latent]);
        let want = (loss(latent, half) - loss(latent, -half)) / f64::from(2.0 * half) * f64::from(threshold);
        let found = f64::from(found[latent]);
        product += found * want;
        squares = (squares.0 + found * found, squares.1 + want * want);
    }
    let cosine = product / (squares.0 * squares.1).sqrt();
    let ratio = (squares.0 / squares.1).sqrt();
    assert!(cosine > 0.98 && (ratio - 1.0).abs() < 0.1, "cosine {cosine}, ratio of lengths {ratio}");
}

#[test]
fn a_latent_that_lost_every_competition_comes_back() {
    for rule in [Rule::BatchTopK, Rule::TopK { signed: true }, Rule::Matryoshka { ends: vec![12, 48] }] {
        let (samples, _) = planted(512, INPUTS, 2, false);
        let mut trainer = Trainer::new(rule.clone(), &samples, INPUTS, 48, 2, 1, 1).unwrap();
        // Dead, but not out of reach: it fires, too weakly to be kept.
        trainer.encoder.value[5 * INPUTS..6 * INPUTS].iter_mut().for_each(|value| *value *= 0.01);
        trainer.step = 1000;
        trainer.last_kept.fill(1000);
        trainer.last_kept[5] = 0;
        let mut steps = 0;
        while trainer.last_kept[5] == 0 && steps < 1000 {
            trainer.step(&samples, 1e-3).unwrap();
            steps += 1;
        }
        assert!(steps < 1000, "{rule:?}: still dead after {steps} steps");
    }
}

#[test]
fn dead_latents_are_revived() {
    for rule in learned_rules() {
        let (samples, _) = planted(512, INPUTS, 2, false);
        let mut trainer = Trainer::new(rule.clone(), &samples, INPUTS, 48, 2, 1, 1).unwrap();
        for _ in 0..20 {
            trainer.step(&samples, 1e-3).unwrap();
        }
        let before = trainer.decoder.value.clone();
        trainer.revive(&[5], &samples, 3).unwrap();
        assert_ne!(trainer.decoder.value[5 * INPUTS..6 * INPUTS], before[5 * INPUTS..6 * INPUTS]);
        assert_eq!(trainer.decoder.value[..5 * INPUTS], before[..5 * INPUTS]);
        trainer.step(&samples, 1e-3).unwrap();
        assert_eq!(trainer.last_kept[5], trainer.step, "{rule:?}: still dead");
    }
}

#[test]
fn the_result_does_not_depend_on_the_number_of_threads() {
    for rule in learned_rules() {
        let (samples, _) = planted(700, INPUTS, 2, false);
        let mut one = Trainer::new(rule.clone(), &samples, INPUTS, 48, 2, 1, 1).unwrap();
        let mut three = Trainer::new(rule.clone(), &samples, INPUTS, 48, 2, 1, 3).unwrap();
        for _ in 0..3 {
            one.step(&samples, 1e-3).unwrap();
            three.step(&samples, 1e-3).unwrap();
        }
        assert_eq!(one.decoder.value, three.decoder.value, "{rule:?}");
    }
}
