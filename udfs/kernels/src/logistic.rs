//! Logistic regression on few examples of many dimensions, by their kernel.
//!
//! `f = K a` with `K[i][j]` the inner product of examples `i` and `j`; `a` minimises
//! `sum_i w_i ln(1 + exp(-y_i f_i)) + penalty / 2 a' K a`, `y_i` being 1 or -1 (Hastie, Tibshirani, Friedman, *The Elements
//! of Statistical Learning*, 2nd edition, 12.3.3 and 18.5.2). The weights of the dimensions are `sum_i a_i x_i`. Cost is the
//! cube of the number of examples, whatever the number of dimensions.

/// Steps of Newton's method, at most; five are usual.
const MOST_STEPS: usize = 50;
/// Steps end when the objective falls by less than this part of it.
const TOLERANCE: f64 = 1e-10;
/// Curvature of an example that is decided, at least, so that the system can be solved.
const LEAST_CURVATURE: f64 = 1e-9;

/// The coefficients `a`, one an example. `kernel` is row-major, symmetric and positive semi-definite; `weights` and
/// `penalty` are above 0. All 0 where the system cannot be solved (a kernel with infinities).
pub fn fit(kernel: &[f64], targets: &[bool], weights: &[f64], penalty: f64) -> Vec<f64> {
    let n = targets.len();
    let mut a = vec![0.0; n];
    if n == 0 {
        return a;
    }
    let mut f = vec![0.0; n];
    let mut loss = objective(&f, &a, targets, weights, penalty);
    let mut system = vec![0.0; n * n];
    for _ in 0..MOST_STEPS {
        // With W the curvatures and g the gradient of the data: (K + penalty / W) a' = f + g / W.
        let mut right = Vec::with_capacity(n);
        system.copy_from_slice(kernel);
        for (i, ((&f, &target), &weight)) in f.iter().zip(targets).zip(weights).enumerate() {
            let p = 1.0 / (1.0 + (-f).exp());
            let curvature = (weight * p * (1.0 - p)).max(LEAST_CURVATURE);
            right.push(f + weight * (f64::from(u8::from(target)) - p) / curvature);
            system[i * n + i] += penalty / curvature;
        }
        if !solve(&mut system, &mut right) {
            break;
        }
        let step: Vec<f64> = right.iter().zip(&a).map(|(new, old)| new - old).collect();
        let along: Vec<f64> = kernel.chunks_exact(n).map(|row| dot(row, &step)).collect();
        let mut best = None;
        let mut size = 1.0;
        while size > 1e-6 {
            let moved = |from: &[f64], by: &[f64]| -> Vec<f64> {
                from.iter().zip(by).map(|(from, by)| from + size * by).collect()
            };
            let (next_a, next_f) = (moved(&a, &step), moved(&f, &along));
            let next_loss = objective(&next_f, &next_a, targets, weights, penalty);
            if next_loss < loss {
                best = Some((next_a, next_f, next_loss));
                break;
            }
            size /= 2.0;
        }
        let Some((next_a, next_f, next_loss)) = best else { break };
        let fallen = loss - next_loss;
        (a, f, loss) = (next_a, next_f, next_loss);
        if fallen < TOLERANCE * loss {
            break;
        }
    }
    a
}

fn objective(f: &[f64], a: &[f64], targets: &[bool], weights: &[f64], penalty: f64) -> f64 {
    let losses = f.iter().zip(targets).zip(weights).map(|((&f, &target), weight)| {
        let margin = if target { f } else { -f };
        // ln(1 + exp(-margin)) without overflow.
        weight * ((-margin.abs()).exp().ln_1p() + (-margin).max(0.0))
    });
    losses.sum::<f64>() + penalty / 2.0 * dot(a, f)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Solves a symmetric positive definite system in place (Cholesky); false if it is not one.
fn solve(matrix: &mut [f64], right: &mut [f64]) -> bool {
    let n = right.len();
    for i in 0..n {
        for j in 0..=i {
            let (row_i, row_j) = (&matrix[i * n..i * n + j], &matrix[j * n..j * n + j]);
            let rest = matrix[i * n + j] - dot(row_i, row_j);
            if i > j {
                matrix[i * n + j] = rest / matrix[j * n + j];
            } else if rest > 0.0 && rest.is_finite() {
                matrix[i * n + i] = rest.sqrt();
            } else {
                return false;
            }
        }
        right[i] = (right[i] - dot(&matrix[i * n..i * n + i], &right[..i])) / matrix[i * n + i];
    }
    for i in (0..n).rev() {
        let above: f64 = (i + 1..n).map(|j| matrix[j * n + i] * right[j]).sum();
        right[i] = (right[i] - above) / matrix[i * n + i];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn kernel(points: &[Vec<f64>]) -> Vec<f64> {
        points.iter().flat_map(|a| points.iter().map(|b| dot(a, b))).collect()
    }

    #[test]
    fn solves_what_it_multiplied() {
        let matrix = [4.0, 2.0, 0.6, 2.0, 5.0, 1.0, 0.6, 1.0, 3.0];
        let wanted = [1.0, -2.0, 0.5];
        let mut right: Vec<f64> = matrix.chunks_exact(3).map(|row| dot(row, &wanted)).collect();
        assert!(solve(&mut matrix.to_vec(), &mut right));
        assert!(right.iter().zip(&wanted).all(|(x, y)| (x - y).abs() < 1e-12), "{right:?}");
        assert!(!solve(&mut [1.0, 2.0, 2.0, 1.0], &mut [0.0, 0.0]));
        assert!(!solve(&mut [f64::INFINITY], &mut [1.0]));
    }

    /// At the minimum the gradient is zero: `penalty a_i = w_i (t_i - p_i)`.
    #[test]
    fn ends_where_the_gradient_is_zero() {
        let mut random = Random::new(3, 0);
        for n in [1, 2, 30] {
            let points: Vec<Vec<f64>> = (0..n).map(|_| (0..5).map(|_| 3.0 * random.normal()).collect()).collect();
            let targets: Vec<bool> = points.iter().map(|point| point[0] + random.normal() > 0.0).collect();
            let weights: Vec<f64> = (0..n).map(|_| 0.1 + random.unit()).collect();
            let kernel = kernel(&points);
            let a = fit(&kernel, &targets, &weights, 0.7);
            for (i, row) in kernel.chunks_exact(n).enumerate() {
                let p = 1.0 / (1.0 + (-dot(row, &a)).exp());
                let target = f64::from(u8::from(targets[i]));
                assert!((0.7 * a[i] - weights[i] * (target - p)).abs() < 1e-5, "n = {n}, example {i}");
            }
        }
    }

    #[test]
    fn one_example_as_by_hand() {
        // 1 / (1 + exp(a)) = a has its solution at 0.4010581.
        let a = fit(&[1.0], &[true], &[1.0], 1.0);
        assert!((a[0] - 0.401_058_1).abs() < 1e-6, "{a:?}");
        assert_eq!(fit(&[f64::INFINITY], &[true], &[1.0], 1.0), [0.0]);
        assert!(fit(&[], &[], &[], 1.0).is_empty());
    }
}
