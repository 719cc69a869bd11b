//! Dictionaries with planted faults, and rows on which they show.

use super::*;
use crate::sae::{Architecture, Spec, Weights};
use crate::testing;

pub(in crate::sae) const INPUTS: usize = 24;

/// `e_i` of each pair times its factor, summed.
pub(in crate::sae) fn row(of: &[(usize, f32)]) -> Vec<f32> {
    let mut row = vec![0.0; INPUTS];
    of.iter().for_each(|&(i, value)| row[i] += value);
    row
}

/// A dictionary of latents that are each given as encoder and decoder row.
pub(in crate::sae) fn dictionary(latents: &[[Vec<f32>; 2]]) -> Sae {
    let width = latents.len();
    let spec = Spec {
        format: 2,
        name: "planted".to_owned(),
        reader: "none".to_owned(),
        ..testing::spec(Architecture::Relu, width, INPUTS)
    };
    let rows = |i: usize| latents.iter().flat_map(|latent| latent[i].clone()).collect();
    let weights = Weights {
        encoder: rows(0),
        encoder_bias: vec![-1e-4; width],
        decoder: rows(1),
        decoder_bias: vec![0.0; INPUTS],
        ..Weights::default()
    };
    Sae::new(spec, weights)
}

/// Looks at rows, ten a document, as reading does.
fn report(sae: &Sae, rows: &[Vec<f32>]) -> EvalReport {
    let gauge = Gauge::new(sae, 2).unwrap();
    let mut tally = Tally::new(&gauge);
    let mut scratch = Scratch::default();
    for document in rows.chunks(10) {
        let Scratch { encode, sparse, rows, .. } = &mut scratch;
        *rows = document.concat();
        sae.normalize(rows);
        sae.encode_rows(rows, encode, sparse);
        let seen = gauge.look(&[(tally.n_docs, 0..document.len())], &mut scratch);
        tally.take(sae, document.len() as u64, &seen);
    }
    tally.report(&gauge, 2).unwrap()
}

fn same(i: usize) -> [Vec<f32>; 2] {
    [row(&[(i, 1.0)]), row(&[(i, 1.0)])]
}

/// Numbers from 0 to 1.
fn uniform() -> impl FnMut() -> f32 {
    let mut random = Random::new(7, 0);
    move || random.below(1 << 24) as f32 / (1 << 24) as f32
}

#[test]
fn a_latent_that_a_more_specific_one_silences_is_told_and_one_that_is_not_is_not() {
    let half = 0.5f32.sqrt();
    // The second of each pair stands for `e_0 + e_1` (`e_2 + e_3`); the first for `e_0` (`e_2`), of which the one is
    // silenced by `e_1`, and the other fires whatever else there is.
    let absorbed = [row(&[(0, 1.0), (1, -1.0)]), row(&[(0, 1.0)])];
    let absorbing = [row(&[(1, 1.0 / half)]), row(&[(0, half), (1, half)])];
    let honest = [row(&[(2, 1.0)]), row(&[(2, 1.0)])];
    let specific = [row(&[(3, 1.0 / half)]), row(&[(2, half), (3, half)])];
    let sae = dictionary(&[absorbed, absorbing, honest, specific]);
    let mut share = uniform();
    let rows: Vec<Vec<f32>> = (0..4000)
        .map(|i| match i % 10 {
            0 => row(&[(0, 1.1), (1, 1.1)]),
            1..4 => row(&[(0, 0.8 + 0.4 * share())]),
            4 => row(&[(2, 1.1), (3, 1.1)]),
            5..8 => row(&[(2, 0.8 + 0.4 * share())]),
            _ => row(&[(8, share())]),
        })
        .collect();
    let report = report(&sae, &rows);
    let pair = report.absorbed[0];
    assert_eq!((report.absorbed.len(), pair.general, pair.specific), (1, 0, 1));
    assert_eq!((pair.due, pair.missed), (400, 400));
    assert!((pair.cosine - half).abs() < 1e-5);
    assert_eq!(report.absorption_pairs, 2);
    assert_eq!((report.absorption_missed, report.absorbed_share), (Some(0.5), Some(0.25)));
    // Where nothing stands in for them they do not miss.
    assert_eq!(report.absorption_missed_otherwise, Some(0.0));
}

#[test]
fn duplicates_are_told_and_densities_counted() {
    let mut latents: Vec<[Vec<f32>; 2]> = (0..8).map(same).collect();
    // Latent 8 repeats latent 3 at another length; latent 9 never fires.
    latents.push([row(&[(3, 0.5)]), row(&[(3, 2.0)])]);
    latents.push([row(&[]), row(&[(9, 1.0)])]);
    let sae = dictionary(&latents);
    // Latent 0 on every sample, latent 1 on every tenth, latents 3 and 8 on every hundredth.
    let rows: Vec<Vec<f32>> = (0..2000)
        .map(|i| row(&[(0, 1.0), (1, f32::from(u8::from(i % 10 == 0))), (3, f32::from(u8::from(i % 100 == 0)))]))
        .collect();
    let report = report(&sae, &rows);
    assert_eq!(report.redundant, [SimilarPair { a: 3, b: 8, cosine: 1.0 }]);
    assert!((report.redundant_share - 0.2).abs() < 1e-9 && report.nearest == [0.0, 1.0, 1.0], "{:?}", report.nearest);
    let density: Vec<(f64, u64)> = report.density.iter().map(|bin| (bin.from, bin.n_latents)).collect();
    assert_eq!(density, [(0.0, 6), (1e-4, 0), (1e-3, 0), (1e-2, 2), (1e-1, 2)]);
    assert!((report.l0 - 1.12).abs() < 1e-9 && (report.dead_share - 0.6).abs() < 1e-9);
    assert!((report.dense_share - 0.2).abs() < 1e-9);
    // Whatever fires is present, since no threshold is known: two features in most documents of ten, four in some.
    assert_eq!((report.present[1], report.present[3], report.n_docs), (2.0, 4.0, 200));
}

#[test]
fn the_error_is_split_into_what_follows_from_the_input_and_what_does_not() {
    let sae = dictionary(&(0..8).map(same).collect::<Vec<_>>());
    let mut share = uniform();
    // Latent 5 sees only the positive half of a symmetric value: the error is min(x, 0). Of its square, 1/6, the best line
    // leaves 1/48.
    let rows: Vec<Vec<f32>> = (0..8000).map(|_| row(&[(0, share()), (1, share()), (5, 2.0 * share() - 1.0)])).collect();
    let half = report(&sae, &rows);
    assert!((half.error_linear.unwrap() - 0.875).abs() < 0.02, "{:?}", half.error_linear);
    assert!((half.fvu_nonlinear.unwrap() / half.fvu.unwrap() - 0.125).abs() < 0.02);
    // Variance is 1/12 + 1/12 + 1/3, of which a 1/6 is lost.
    assert!((half.explained_variance.unwrap() - 2.0 / 3.0).abs() < 0.02, "{:?}", half.explained_variance);
    // What lies in directions that the dictionary does not have is left whole, and follows from the input.
    let rows: Vec<Vec<f32>> = (0..8000).map(|_| row(&[(0, share()), (12, share() - 0.5)])).collect();
    let whole = report(&sae, &rows);
    assert!(whole.error_linear.unwrap() > 0.99, "{:?}", whole.error_linear);
    // Of too few samples nothing is said, but why.
    let few = report(&sae, &rows[..60]);
    assert_eq!(few.error_linear, None);
    assert!(few.skipped[0].contains("60 samples are too few"), "{:?}", few.skipped);
}

#[test]
fn a_transcoder_is_measured_only_where_that_makes_sense() {
    let mut sae = dictionary(&(0..4).map(same).collect::<Vec<_>>());
    sae.spec.output = Some(crate::sae::Output { hook: "mlp.1".to_owned(), width: INPUTS });
    let rows: Vec<Vec<f32>> = (0..200).map(|i| row(&[(i % 4, 1.0)])).collect();
    let report = report(&sae, &rows);
    assert_eq!((report.fvu, report.error_linear, report.absorbed_share), (None, None, None));
    assert!(report.skipped[0].contains("transcoder") && report.l0 == 1.0);
}
