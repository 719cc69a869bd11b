//! What it will cost, what it has cost, and when to stop.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::client::Message;

/// Bytes of UTF-8 that are taken for a token where nobody has counted: right for English, and for other scripts not far
/// off, since their characters take more bytes and more tokens.
const BYTES_PER_TOKEN: u64 = 4;
/// Tokens that a message takes beside its text.
const TOKENS_PER_MESSAGE: u64 = 4;

/// Tokens of requests and answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Of requests.
    pub(crate) tokens_in: u64,
    /// Of answers.
    pub(crate) tokens_out: u64,
}

impl Usage {
    /// Both together.
    pub(crate) fn total(self) -> u64 {
        self.tokens_in + self.tokens_out
    }

    fn add(&mut self, other: Self) {
        self.tokens_in += other.tokens_in;
        self.tokens_out += other.tokens_out;
    }
}

/// About how many tokens a text has.
pub(crate) fn tokens(text: &str) -> u64 {
    (text.len() as u64).div_ceil(BYTES_PER_TOKEN)
}

/// About how many tokens a request has.
pub(crate) fn tokens_of(messages: &[Message]) -> u64 {
    messages.iter().map(|message| tokens(&message.content) + TOKENS_PER_MESSAGE).sum()
}

/// Prices of a hosted model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prices {
    /// USD for a million tokens of requests.
    pub(crate) input: f64,
    /// USD for a million tokens of answers.
    pub(crate) output: f64,
}

impl Prices {
    /// USD.
    pub(crate) fn of(&self, usage: Usage) -> f64 {
        (usage.tokens_in as f64 * self.input + usage.tokens_out as f64 * self.output) / 1e6
    }
}

/// What a run is expected to take.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Estimate {
    /// Requests to make.
    pub(crate) n_requests: u64,
    /// Answers that the cache holds.
    pub(crate) n_cached: u64,
    /// Tokens of the requests to make.
    pub(crate) usage: Usage,
}

impl Estimate {
    /// Counts a request and its expected answer.
    pub(crate) fn request(&mut self, messages: &[Message], tokens_out: u64) {
        self.n_requests += 1;
        self.usage.add(Usage { tokens_in: tokens_of(messages), tokens_out });
    }

    /// The lines that a user reads before agreeing.
    pub(crate) fn lines(&self, prices: Option<Prices>, max_cost: Option<f64>) -> String {
        let Self { n_requests, n_cached, usage } = self;
        let cached = match n_cached {
            0 => String::new(),
            n => format!(" ({} more are answered by the cache)", Thousands(*n)),
        };
        let mut lines = format!("  requests  {}{cached}\n", Thousands(*n_requests));
        lines.push_str(&format!(
            "  tokens    about {} in and {} out, counting {BYTES_PER_TOKEN} bytes as one; a model that thinks aloud \
             writes more\n",
            Thousands(usage.tokens_in),
            Thousands(usage.tokens_out)
        ));
        match prices {
            Some(prices) => {
                let (cost, Prices { input, output }) = (prices.of(*usage), prices);
                let limit = match max_cost {
                    Some(max) if cost > max => format!("; it ends at --max-cost {max}, before all is done"),
                    _ => String::new(),
                };
                lines.push_str(&format!(
                    "  cost      about {} at {input} in and {output} out for a million tokens{limit}",
                    Usd(cost)
                ));
            }
            None => lines.push_str("  cost      not known; --price-in and --price-out (USD for a million tokens) tell"),
        }
        lines
    }
}

/// Counts what is used, and lets nothing begin that might go over the limit.
#[derive(Debug)]
pub(crate) struct Meter {
    prices: Option<Prices>,
    max_cost: Option<f64>,
    state: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    used: Usage,
    n_requests: u64,
    /// Requests that are under way, and what they may cost, in USD.
    n_reserved: u64,
    reserved: f64,
}

/// Whether a request may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// It may.
    Now,
    /// Perhaps, when those under way have cost less than they might.
    Later,
    /// It would go over the limit.
    Never,
}

impl Meter {
    /// A meter; `max_cost` in USD means nothing without prices.
    pub(crate) fn new(prices: Option<Prices>, max_cost: Option<f64>) -> Self {
        Self { prices, max_cost, state: Mutex::default() }
    }

    fn cost(&self, usage: Usage) -> f64 {
        self.prices.map_or(0.0, |prices| prices.of(usage))
    }

    /// Whether a request that takes at most `most` may begin; if so, it is under way until [`Self::settle`].
    pub(crate) fn reserve(&self, most: Usage) -> Room {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let after = self.cost(state.used) + state.reserved + self.cost(most);
        if self.max_cost.is_some_and(|max| after > max) {
            return if state.n_reserved > 0 { Room::Later } else { Room::Never };
        }
        state.n_reserved += 1;
        state.reserved += self.cost(most);
        Room::Now
    }

    /// A request that was let in with `most` has ended and took `used`: nothing, if it was not answered.
    pub(crate) fn settle(&self, most: Usage, used: Option<Usage>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.n_reserved -= 1;
        state.reserved -= self.cost(most);
        if let Some(used) = used {
            state.used.add(used);
            state.n_requests += 1;
        }
    }

    /// `12 requests, 34,567 tokens, 0.0123 USD`
    pub(crate) fn line(&self) -> String {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let cost = self.prices.map(|prices| format!(", {}", Usd(prices.of(state.used)))).unwrap_or_default();
        let plural = if state.n_requests == 1 { "" } else { "s" };
        let (n_requests, n_tokens) = (Thousands(state.n_requests), Thousands(state.used.total()));
        format!("{n_requests} request{plural}, {n_tokens} tokens{cost}")
    }
}

/// An amount in USD with as many digits as it takes to see it.
struct Usd(f64);

impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.0 >= 1.0 || self.0 == 0.0 { 2 } else { 4 };
        write!(f, "{:.digits$} USD", self.0)
    }
}

/// A number as `1,234,567`.
pub(crate) struct Thousands(pub(crate) u64);

impl fmt::Display for Thousands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (position, digit) in digits.chars().enumerate() {
            if position > 0 && (digits.len() - position) % 3 == 0 {
                write!(f, ",")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRICES: Prices = Prices { input: 1.0, output: 10.0 };

    #[test]
    fn numbers_are_readable() {
        let numbers = [0, 12, 999, 1000, 12_345, 1_234_567].map(|n| Thousands(n).to_string());
        assert_eq!(numbers, ["0", "12", "999", "1,000", "12,345", "1,234,567"]);
        assert_eq!([0.0, 0.00123, 12.345].map(|usd| Usd(usd).to_string()), ["0.00 USD", "0.0012 USD", "12.35 USD"]);
    }

    #[test]
    fn an_estimate_counts_what_will_be_sent() {
        let mut estimate = Estimate { n_cached: 3, ..Estimate::default() };
        let message = Message { role: "user", content: "x".repeat(4_000) };
        estimate.request(&[message.clone(), message], 50);
        assert_eq!(estimate.usage, Usage { tokens_in: 2_008, tokens_out: 50 });
        let lines = estimate.lines(Some(PRICES), Some(0.001));
        for part in ["requests  1 (3 more", "about 2,008 in and 50 out", "about 0.0025 USD", "ends at --max-cost 0.001"]
        {
            assert!(lines.contains(part), "{part}: {lines}");
        }
        assert!(!estimate.lines(Some(PRICES), Some(1.0)).contains("--max-cost"));
        assert!(estimate.lines(None, None).contains("--price-in"));
        // Scripts with long characters are not taken for shorter than they are.
        assert!(tokens("ありがとうございます") > tokens("thank you!"));
    }

    #[test]
    fn nothing_begins_that_might_go_over_the_limit() {
        let meter = Meter::new(Some(PRICES), Some(0.003));
        let most = Usage { tokens_in: 1000, tokens_out: 50 }; // 0.0015 USD
        assert_eq!([(); 3].map(|()| meter.reserve(most)), [Room::Now, Room::Now, Room::Later]);
        meter.settle(most, Some(Usage { tokens_in: 900, tokens_out: 70 })); // 0.0016 USD
        assert_eq!(meter.reserve(most), Room::Later);
        meter.settle(most, None);
        assert_eq!(meter.reserve(most), Room::Never);
        assert_eq!(meter.reserve(Usage { tokens_in: 1000, tokens_out: 40 }), Room::Now);
        assert_eq!(meter.line(), "1 request, 970 tokens, 0.0016 USD");
        let free = Meter::new(None, None);
        assert_eq!(free.reserve(Usage { tokens_in: u64::from(u32::MAX), tokens_out: 0 }), Room::Now);
        assert_eq!(free.line(), "0 requests, 0 tokens");
    }
}
