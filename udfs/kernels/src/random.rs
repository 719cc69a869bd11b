//! A small seeded generator, so that samples and starting points are the same on every machine and in every version.
//!
//! SplitMix64 (Steele, Lea, Flood 2014): 64 bits of state, passes BigCrush, not for secrets.

/// Source of reproducible numbers.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// Starts the sequence of `seed`; different `stream`s of one seed are independent.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self { state: seed ^ stream.wrapping_mul(0xD6E8_FEB8_6659_FD93) };
        random.next_u64();
        random
    }

    /// 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if `bound` is 0. The bias of the multiply-shift is below `bound / 2^64`.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal (Box-Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// `count` different positions below `n`, ascending; all of them if `count >= n`.
    pub fn sample(&mut self, n: usize, count: usize) -> Vec<usize> {
        let mut chosen = Vec::with_capacity(count.min(n));
        // Selection sampling (Knuth, algorithm S): ascending, one draw a position.
        for position in 0..n {
            let (left, wanted) = ((n - position) as u64, (count.min(n) - chosen.len()) as u64);
            if wanted == 0 {
                break;
            }
            if self.below(left) < wanted {
                chosen.push(position);
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_reproducible_ascending_and_even() {
        let mut hits = [0usize; 20];
        for stream in 0..2_000 {
            let chosen = Random::new(7, stream).sample(20, 5);
            assert_eq!(chosen, Random::new(7, stream).sample(20, 5));
            assert_eq!(chosen.len(), 5);
            assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
            for position in chosen {
                hits[position] += 1;
            }
        }
        // Each position is expected 500 times with a standard deviation of 19.
        assert!(hits.iter().all(|&count| (400..600).contains(&count)), "{hits:?}");
        assert_eq!(Random::new(1, 1).sample(3, 9), vec![0, 1, 2]);
    }

    #[test]
    fn normal_has_mean_zero_and_variance_one() {
        let mut random = Random::new(3, 0);
        let values: Vec<f64> = (0..20_000).map(|_| random.normal()).collect();
        let mean = values.iter().sum::<f64>() / 20_000.0;
        let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }
}
