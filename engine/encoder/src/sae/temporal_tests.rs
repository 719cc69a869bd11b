//! Against the formulas in double precision: every token of a window by itself, all codes there, nothing left out.

use super::super::{InputNormalization, Spec, Weights};
use super::*;
use crate::level::Level;
use crate::progress::Silent;
use crate::sae::AttentionWeights;
use crate::sae::harvest::{Harvest, Tap};
use crate::sae::survey::Survey;
use crate::testing;

const WIDTH: usize = 72;
const INPUTS: usize = 20;

fn numbers(seed: u64, n: usize, spread: f32) -> Vec<f32> {
    testing::numbers(seed, 11, n, spread)
}

const FACTOR: f32 = 0.7;

fn dictionary(layers: usize, heads: usize, keys: usize, k: Option<usize>, tied: bool) -> Sae {
    let spec = Spec {
        normalization: InputNormalization::Scale { factor: FACTOR },
        ..testing::spec(Architecture::Temporal { layers, heads, keys, k, tied }, WIDTH, INPUTS)
    };
    // Codes are about 0.05; queries and keys so large that shares are far from equal.
    let weights = Weights {
        encoder: if tied { Vec::new() } else { numbers(1, WIDTH * INPUTS, 1.0) },
        decoder: numbers(2, WIDTH * INPUTS, 1.0),
        decoder_bias: if tied { vec![0.0; INPUTS] } else { numbers(3, INPUTS, 0.3) },
        shift: numbers(4, INPUTS, 0.5),
        attention: AttentionWeights {
            query: numbers(5, layers * keys * WIDTH, 12.0),
            query_bias: numbers(6, layers * keys, 1.0),
            key: numbers(7, layers * keys * WIDTH, 12.0),
            value: numbers(8, layers * WIDTH * WIDTH, 3.0),
            value_bias: numbers(9, layers * WIDTH, 0.2),
            output: numbers(10, layers * WIDTH * WIDTH, 0.5),
            output_bias: numbers(11, layers * WIDTH, 0.2),
        },
        ..Weights::default()
    };
    Sae::new(spec, weights)
}

fn times(matrix: &[f32], row: &[f64]) -> Vec<f64> {
    matrix.chunks_exact(row.len()).map(|line| line.iter().zip(row).map(|(a, b)| f64::from(*a) * b).sum()).collect()
}

fn add(mut row: Vec<f64>, bias: &[f32]) -> Vec<f64> {
    row.iter_mut().zip(bias).for_each(|(value, bias)| *value += f64::from(*bias));
    row
}

fn rebuild(codes: &[f64], decoder: &[f32]) -> Vec<f64> {
    let mut row = vec![0.0; INPUTS];
    for (code, line) in codes.iter().zip(decoder.chunks_exact(INPUTS)) {
        row.iter_mut().zip(line).for_each(|(value, weight)| *value += code * f64::from(*weight));
    }
    row
}

fn rectified(row: Vec<f64>) -> Vec<f64> {
    row.into_iter().map(|value| value.max(0.0)).collect()
}

/// What the formulas say of the states of one window.
struct Expected {
    /// Of each token, all latents.
    features: Vec<Vec<f64>>,
    /// Squared error of the sum of both reconstructions, and squared length, of the normalised states.
    residual: Vec<f64>,
    total: Vec<f64>,
}

/// The formulas as they are written, with a key bias.
fn expected(sae: &Sae, states: &[f32]) -> Expected {
    let Architecture::Temporal { layers, heads, keys, k, tied } = sae.architecture() else { panic!() };
    let weights = &sae.weights;
    let attention = &weights.attention;
    let encoder = if tied { &weights.decoder } else { &weights.encoder };
    let normalized: Vec<Vec<f64>> = states
        .chunks_exact(INPUTS)
        .map(|row| row.iter().zip(&weights.shift).map(|(x, b)| f64::from(x * FACTOR) - f64::from(*b)).collect())
        .collect();
    let code = |left: &Vec<f64>| {
        let scaled: Vec<f64> = left.iter().map(|x| x / (4.0 * INPUTS as f64)).collect();
        rectified(times(encoder, &scaled))
    };
    let key_bias = numbers(99, keys, 5.0);
    let mut left = normalized.clone();
    let mut predicted = vec![vec![0.0; WIDTH]; left.len()];
    for layer in 0..layers {
        let part = |all: &[f32], n: usize| all[layer * n..(layer + 1) * n].to_vec();
        let codes: Vec<Vec<f64>> = left.iter().map(code).collect();
        // The codes of the tokens before, zeros first.
        let context: Vec<Vec<f64>> = std::iter::once(vec![0.0; WIDTH]).chain(codes.iter().cloned()).collect();
        let linear = |weight: &[f32], bias: &[f32], rows: &[Vec<f64>]| -> Vec<Vec<f64>> {
            rows.iter().map(|row| add(times(weight, row), bias)).collect()
        };
        let q = linear(&part(&attention.query, keys * WIDTH), &part(&attention.query_bias, keys), &codes);
        let key = linear(&part(&attention.key, keys * WIDTH), &key_bias, &context);
        let value = linear(&part(&attention.value, WIDTH * WIDTH), &part(&attention.value_bias, WIDTH), &context);
        for t in 0..left.len() {
            let mut mixed = vec![0.0; WIDTH];
            for head in 0..heads {
                let of = |row: &[f64], n: usize| row[head * (n / heads)..(head + 1) * (n / heads)].to_vec();
                let query = of(&q[t], keys);
                let scores: Vec<f64> = (0..=t)
                    .map(|s| {
                        let dot: f64 = query.iter().zip(of(&key[s], keys)).map(|(a, b)| a * b).sum();
                        dot / ((keys / heads) as f64).sqrt()
                    })
                    .collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let scores: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
                let sum: f64 = scores.iter().sum();
                for (s, score) in scores.iter().enumerate() {
                    let from = head * (WIDTH / heads);
                    let values = of(&value[s], WIDTH);
                    mixed[from..].iter_mut().zip(values).for_each(|(m, v)| *m += score / sum * v);
                }
            }
            let output = times(&part(&attention.output, WIDTH * WIDTH), &mixed);
            let codes = rectified(add(output, &part(&attention.output_bias, WIDTH)));
            let rebuilt = rebuild(&codes, &weights.decoder);
            let length = rebuilt.iter().map(|x| x * x).sum::<f64>().sqrt() + f64::from(EPSILON);
            let share = rebuilt.iter().zip(&left[t]).map(|(a, b)| a * b).sum::<f64>() / (length * length);
            left[t].iter_mut().zip(&rebuilt).for_each(|(x, d)| *x -= share * d);
            predicted[t].iter_mut().zip(&codes).for_each(|(sum, code)| *sum += share * code);
        }
    }
    let mut features: Vec<Vec<f64>> = left.iter().map(code).collect();
    for row in &mut features {
        let mut order: Vec<usize> = (0..WIDTH).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        order[k.unwrap_or(WIDTH)..].iter().for_each(|&latent| row[latent] = 0.0);
    }
    let error = |t: usize| {
        let both: Vec<f64> = features[t].iter().zip(&predicted[t]).map(|(a, b)| a + b).collect();
        let rebuilt = add(rebuild(&both, &weights.decoder), &weights.decoder_bias);
        rebuilt.iter().zip(&normalized[t]).map(|(a, b)| (a - b).powi(2)).sum()
    };
    let residual = (0..features.len()).map(error).collect();
    let distance =
        |row: &Vec<f64>| row.iter().zip(&weights.decoder_bias).map(|(a, b)| (a - f64::from(*b)).powi(2)).sum();
    let total = normalized.iter().map(distance).collect();
    Expected { features, residual, total }
}

/// Compares features of rows with those of the formulas, to 1e-5 of a row's largest.
fn agree<'a>(got: impl Iterator<Item = Vec<(u32, f32)>>, want: impl Iterator<Item = &'a Vec<f64>>, what: &str) {
    let mut n = 0;
    for (i, (got, want)) in got.zip(want).enumerate() {
        let largest = want.iter().copied().fold(0.0, f64::max);
        assert!(got.is_sorted_by(|a, b| a.0 < b.0) && got.iter().all(|(_, activation)| *activation > 0.0));
        let mut dense = vec![0.0; WIDTH];
        got.iter().for_each(|&(latent, activation)| dense[latent as usize] = f64::from(activation));
        for (latent, (got, want)) in dense.iter().zip(want).enumerate() {
            assert!((got - want).abs() <= 1e-5 * largest, "{what}: row {i}, latent {latent}: {got} for {want}");
        }
        n += got.len();
    }
    assert!(n > 0, "{what}: nothing fired");
}

fn row(sparse: &SparseRows, i: usize) -> Vec<(u32, f32)> {
    let (latents, activations) = sparse.row(i);
    latents.iter().copied().zip(activations.iter().copied()).collect()
}

#[test]
fn features_are_those_of_the_formulas() {
    // Enough rows for three blocks.
    let states = numbers(20, 450 * INPUTS, 4.0);
    for (layers, heads, keys, k, tied) in
        [(1, 4, 12, Some(7), true), (2, 3, 72, Some(9), false), (3, 1, 5, None, true), (1, 8, 8, None, false)]
    {
        let sae = dictionary(layers, heads, keys, k, tied);
        let want = expected(&sae, &states);
        let what = sae.architecture().describe();
        agree(sae.encode_states(&states).unwrap().into_iter(), want.features.iter(), &what);
        // Saved and loaded, it is the same.
        let folder = tempfile::tempdir().unwrap();
        sae.save(folder.path()).unwrap();
        let loaded = Sae::load(folder.path()).unwrap();
        assert_eq!(loaded.describe(), sae.describe());
        assert_eq!(loaded.encode_states(&states).unwrap(), sae.encode_states(&states).unwrap());
    }
}

#[test]
fn what_comes_before_matters_and_what_comes_after_does_not() {
    let sae = dictionary(2, 4, 12, Some(9), true);
    let mut states = numbers(21, 30 * INPUTS, 4.0);
    let whole = sae.encode_states(&states).unwrap();
    let begin = sae.encode_states(&states[..20 * INPUTS]).unwrap();
    agree(begin.into_iter(), expected(&sae, &states).features[..20].iter(), "the first tokens alone");
    states[..INPUTS].fill(3.0);
    let other = sae.encode_states(&states).unwrap();
    assert!((1..30).all(|i| whole[i] != other[i]), "the first token is seen by all others");
}

#[test]
fn windows_are_read_apart_each_with_what_leads_it() {
    for tied in [true, false] {
        let sae = dictionary(2, 4, 12, Some(9), tied);
        // Tokens that lead and own tokens: across blocks, nothing before, nothing of its own, neither.
        let lengths = [(1, 5), (1, 0), (17, 190), (0, 1), (0, 0), (3, 400), (0, 30), (1, 2)];
        let states = |i: usize| {
            let (lead, own): (usize, usize) = lengths[i];
            // A first special token is many times longer than others.
            let mut states = numbers(30 + i as u64, (lead + own) * INPUTS, 4.0);
            states[..lead.min(1) * INPUTS].iter_mut().for_each(|value| *value *= 5.0);
            states
        };
        let all: Vec<Vec<f32>> = (0..lengths.len()).map(states).collect();
        let (mut rows, mut windows) = (Vec::new(), Vec::new());
        for (states, (lead, own)) in all.iter().zip(lengths) {
            let from = rows.len() / INPUTS;
            let (lead, own_states) = states.split_at(lead * INPUTS);
            rows.extend_from_slice(own_states);
            windows.push(WindowStates { lead, rows: from..from + own });
        }
        sae.normalize(&mut rows);
        let (mut scratch, mut sparse) = (EncodeScratch::default(), SparseRows::default());
        // What an earlier call left behind does not matter.
        sae.encode_rows(&numbers(40, 250 * INPUTS, 2.0), &mut scratch, &mut sparse);
        sae.encode_windows(None, &rows, &windows, &mut scratch, &mut sparse);
        assert_eq!(sparse.len(), rows.len() / INPUTS);
        for ((states, window), (lead, own)) in all.iter().zip(&windows).zip(lengths) {
            let want = expected(&sae, states);
            if own > 0 {
                let got = window.rows.clone().map(|i| row(&sparse, i));
                agree(got, want.features[lead..].iter(), &format!("window of {lead} and {own} tokens"));
            }
            let (residual, total) = sae.unexplained(&rows, &sparse, window.rows.clone(), &mut scratch);
            let sum = |of: &[f64]| of[lead..].iter().sum::<f64>();
            assert!((residual - sum(&want.residual)).abs() <= 1e-4 * sum(&want.residual), "{residual}");
            assert!((total - sum(&want.total)).abs() <= 1e-4 * sum(&want.total), "{total}");
        }
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let spec = |change: &dyn Fn(&mut Spec)| {
        let mut spec = dictionary(1, 4, 12, Some(7), true).spec;
        change(&mut spec);
        spec.wrong().unwrap_or_default()
    };
    let temporal = |heads, keys, k| Architecture::Temporal { layers: 1, heads, keys, k, tied: true };
    assert_eq!(spec(&|_| {}), "");
    assert!(spec(&|spec| spec.level = Level::Span).contains("expected level token, got span"));
    for architecture in [temporal(5, 10, None), temporal(4, 10, None), temporal(0, 12, None), temporal(4, 12, Some(0))]
    {
        assert!(
            spec(&|spec| spec.architecture = architecture).contains("out of range for width 72"),
            "{architecture:?}"
        );
    }
    // States on disk do not say where windows begin.
    let (sae, harvest) = (dictionary(1, 4, 12, None, true), Harvest::default());
    let survey = Survey::of_harvest(&sae, &harvest, Tap::new(sae.hook(), sae.level()), 1, &Silent);
    assert!(survey.err().unwrap().message().contains("give it the texts instead"));
}
