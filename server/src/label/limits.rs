//! How fast requests may go: token buckets for requests and tokens a minute, a pause of all when the endpoint is busy,
//! and the growing waits between attempts.
//!
//! There is no clock in here. Times are passed in, as what has gone by since the start, so that an hour can be tested in
//! no time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Share of a minute's allowance that may go at once.
const BURST: f64 = 0.1;
/// First wait after a failed attempt, doubled with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Longest of these waits.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Lets requests in.
#[derive(Debug)]
pub(crate) struct Limits(Mutex<State>);

#[derive(Debug)]
struct State {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    paused_until: Duration,
}

impl Limits {
    /// At most `requests` and `tokens` in any minute; `None`: no limit.
    pub(crate) fn new(requests: Option<u32>, tokens: Option<u32>) -> Self {
        let bucket = |per_minute: u32| Bucket::new(f64::from(per_minute));
        Self(Mutex::new(State {
            requests: requests.map(bucket),
            tokens: tokens.map(bucket),
            paused_until: Duration::ZERO,
        }))
    }

    /// Lets one request of about `tokens` tokens in at `now`.
    ///
    /// # Errors
    /// How long to wait before asking again.
    pub(crate) fn enter(&self, tokens: u64, now: Duration) -> Result<(), Duration> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wait = state.paused_until.saturating_sub(now);
        let State { requests, tokens: of_tokens, .. } = &mut *state;
        let mut asked = [(requests, 1.0), (of_tokens, tokens as f64)];
        for (bucket, amount) in &mut asked {
            if let Some(bucket) = bucket {
                wait = wait.max(bucket.wait(*amount, now));
            }
        }
        if !wait.is_zero() {
            return Err(wait);
        }
        for (bucket, amount) in asked {
            if let Some(bucket) = bucket {
                bucket.level -= amount;
            }
        }
        Ok(())
    }

    /// Corrects the tokens of a request that was let in with `expected` and took `used`.
    pub(crate) fn settle(&self, expected: u64, used: u64) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = &mut state.tokens {
            bucket.level += expected as f64 - used as f64;
        }
    }

    /// Lets nobody in before `until`.
    pub(crate) fn pause(&self, until: Duration) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.paused_until = state.paused_until.max(until);
    }
}

/// Fills at a steady rate and lets in what it holds. What it can hold and what flows in during a minute are together the
/// minute's allowance, which is therefore kept in every minute, wherever it begins.
#[derive(Debug)]
struct Bucket {
    capacity: f64,
    per_second: f64,
    level: f64,
    at: Duration,
}

impl Bucket {
    fn new(per_minute: f64) -> Self {
        let capacity = (per_minute * BURST).max(1.0);
        Self { capacity, per_second: per_minute * (1.0 - BURST) / 60.0, level: capacity, at: Duration::ZERO }
    }

    /// How long until it lets `amount` in. What is larger than the bucket goes when it is full, and leaves a debt.
    fn wait(&mut self, amount: f64, now: Duration) -> Duration {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.level = (self.level + passed * self.per_second).min(self.capacity);
        self.at = self.at.max(now);
        let missing = amount.min(self.capacity) - self.level;
        if missing > 1e-6 { Duration::from_secs_f64(missing / self.per_second) } else { Duration::ZERO }
    }
}

/// How long to wait after the `attempt`-th failed attempt (from 1): what the endpoint asks for, else a time that doubles
/// with each attempt, up to a minute. `random` (0 to 1) keeps those who failed together from coming back together.
pub(crate) fn wait_after(attempt: u32, asked: Option<Duration>, random: f64) -> Duration {
    match asked {
        Some(asked) => asked + Duration::from_secs_f64(0.25 * random),
        None => {
            let doubled = FIRST_WAIT.saturating_mul(1 << attempt.saturating_sub(1).min(16));
            doubled.min(LONGEST_WAIT).mul_f64(0.5 + 0.5 * random)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When requests of `tokens` tokens are let in that come as fast as they may, for `minutes`.
    fn admitted(limits: &Limits, tokens: u64, minutes: u64) -> Vec<Duration> {
        let (mut now, mut times) = (Duration::ZERO, Vec::new());
        while now < Duration::from_secs(60 * minutes) {
            match limits.enter(tokens, now) {
                Ok(()) => times.push(now),
                Err(wait) => now += wait,
            }
        }
        times
    }

    /// Most in any 60 seconds.
    fn most_in_a_minute(times: &[Duration]) -> usize {
        let before = |end: Duration| times.partition_point(|time| *time < end);
        times.iter().enumerate().map(|(i, time)| before(*time + Duration::from_secs(60)) - i).max().unwrap_or(0)
    }

    #[test]
    fn no_minute_holds_more_than_is_allowed_and_little_is_given_away() {
        for per_minute in [1, 3, 9, 10, 60, 500] {
            let times = admitted(&Limits::new(Some(per_minute), None), 1, 20);
            assert!(most_in_a_minute(&times) <= per_minute as usize, "{per_minute}: {}", most_in_a_minute(&times));
            assert!(times.len() as f64 >= 0.88 * 20.0 * f64::from(per_minute), "{per_minute}: {}", times.len());
        }
    }

    #[test]
    fn tokens_are_counted_too_and_large_requests_get_through() {
        let times = admitted(&Limits::new(Some(1000), Some(10_000)), 500, 10);
        assert!(most_in_a_minute(&times) <= 20 && times.len() >= 170, "{} {}", most_in_a_minute(&times), times.len());
        // Five times what the bucket can hold: two in a minute at most, and never none at all.
        let times = admitted(&Limits::new(None, Some(10_000)), 5_000, 10);
        assert!(most_in_a_minute(&times) <= 3 && times.len() >= 17, "{times:?}");
    }

    #[test]
    fn what_was_not_used_is_given_back() {
        let limits = Limits::new(None, Some(10_000));
        assert_eq!(limits.enter(1000, Duration::ZERO), Ok(()));
        let wait = limits.enter(1000, Duration::ZERO).unwrap_err();
        assert!(wait > Duration::from_secs(6), "{wait:?}");
        limits.settle(1000, 100);
        assert!(limits.enter(1000, Duration::ZERO).unwrap_err() < Duration::from_secs(1));
        limits.settle(0, 2000);
        assert!(limits.enter(1000, Duration::ZERO).unwrap_err() > Duration::from_secs(12));
    }

    #[test]
    fn a_pause_holds_everybody() {
        let limits = Limits::new(None, None);
        assert_eq!(limits.enter(1, Duration::ZERO), Ok(()));
        limits.pause(Duration::from_secs(5));
        limits.pause(Duration::from_secs(2));
        assert_eq!(limits.enter(1, Duration::from_secs(1)), Err(Duration::from_secs(4)));
        assert_eq!(limits.enter(1, Duration::from_secs(5)), Ok(()));
    }

    #[test]
    fn waits_grow_and_what_is_asked_for_is_kept() {
        let waits: Vec<f64> = (1..=10).map(|attempt| wait_after(attempt, None, 1.0).as_secs_f64()).collect();
        assert_eq!(waits[..4], [0.5, 1.0, 2.0, 4.0]);
        assert_eq!(waits[9], 60.0);
        assert_eq!(wait_after(1, None, 0.0), Duration::from_millis(250));
        for random in [0.0, 0.5, 0.99] {
            let wait = wait_after(3, Some(Duration::from_secs(7)), random);
            assert!((7.0..7.25).contains(&wait.as_secs_f64()), "{wait:?}");
        }
    }
}
