//! Requests on their way: within the limits and the budget, and again where that can help.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use saequel_engine::ErrorKind;

use super::client::{Cause, Client, Message, Reply, Trouble};
use super::cost::{Meter, Room, Usage, tokens_of};
use super::limits::{Limits, wait_after};
use super::random::Random;
use crate::error::Failure;
use crate::interrupt::Interrupt;

/// Attempts before the endpoint counts as gone: with doubled waits, about a minute.
const ATTEMPTS: u32 = 8;
/// Attempts before it counts as too slow: each has taken as long as the user would wait.
const SLOW_ATTEMPTS: u32 = 3;
/// Longer than this nobody waits, whatever the endpoint asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// How often those who wait look whether the run has ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoReply {
    /// This request cannot be answered.
    Refused(String),
    /// The run ends: [`Sender::stopped`] says why.
    Stopped,
}

/// Sends requests for all who work at the same time.
pub(crate) struct Sender {
    client: Arc<Client>,
    limits: Limits,
    meter: Meter,
    interrupt: Interrupt,
    began: Instant,
    random: Mutex<Random>,
    stopped: Mutex<Option<Failure>>,
}

impl Sender {
    /// A sender; Ctrl-C stops it when the requests under way have ended.
    pub(crate) fn new(client: Client, limits: Limits, meter: Meter, interrupt: Interrupt) -> Self {
        let random = Random::new(RandomState::new().hash_one(0), 0);
        Self {
            client: Arc::new(client),
            limits,
            meter,
            interrupt,
            began: Instant::now(),
            random: Mutex::new(random),
            stopped: Mutex::default(),
        }
    }

    /// The wire.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// What was used so far.
    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Ends the run: no further request begins. The first reason counts.
    pub(crate) fn stop(&self, why: Failure) {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    }

    /// Why the run ended before its time, if it did; tells it once.
    pub(crate) fn stopped(&self) -> Option<Failure> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Sends a request, which is expected to be answered in `tokens_out` tokens, until it is answered.
    ///
    /// # Errors
    /// See [`NoReply`].
    pub(crate) async fn ask(&self, messages: &[Message], tokens_out: u64) -> Result<Reply, NoReply> {
        let tokens_in = tokens_of(messages);
        let expected = tokens_in + tokens_out;
        let most = Usage { tokens_in, tokens_out: u64::from(self.client.max_tokens()) };
        for attempt in 1.. {
            self.enter(expected, most).await?;
            let (client, question) = (Arc::clone(&self.client), messages.to_vec());
            let outcome = tokio::task::spawn_blocking(move || client.post(&question)).await;
            let used = outcome.as_ref().ok().and_then(|outcome| outcome.as_ref().ok()).map(|reply| reply.usage);
            self.meter.settle(most, used);
            self.limits.settle(expected, used.map_or(expected, Usage::total));
            let trouble = match outcome {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(trouble)) => trouble,
                Err(error) => Trouble::Fatal(Box::new(Failure::new(ErrorKind::Internal, error.to_string()))),
            };
            match trouble {
                Trouble::Refused(what) => return Err(NoReply::Refused(what)),
                Trouble::Fatal(failure) => return Err(self.end(*failure)),
                Trouble::Passing { what, cause, retry_after } => self.pause(attempt, &what, cause, retry_after).await?,
            }
        }
        Err(NoReply::Stopped)
    }

    /// Waits until a request may begin.
    async fn enter(&self, expected: u64, most: Usage) -> Result<(), NoReply> {
        loop {
            self.go_on()?;
            let wait = match self.meter.reserve(most) {
                Room::Now => match self.limits.enter(expected, self.began.elapsed()) {
                    Ok(()) => return Ok(()),
                    Err(wait) => {
                        self.meter.settle(most, None);
                        wait
                    }
                },
                Room::Later => LOOK_EVERY,
                Room::Never => {
                    let failure = Failure::new(ErrorKind::Resources, "--max-cost is reached");
                    let hint = "raise --max-cost and run the same command again: it goes on where it stopped";
                    return Err(self.end(failure.hint(hint)));
                }
            };
            tokio::time::sleep(wait.min(LOOK_EVERY)).await;
        }
    }

    /// Waits after the `attempt`-th failed attempt; if the endpoint is busy, everybody waits.
    async fn pause(&self, attempt: u32, what: &str, cause: Cause, asked: Option<Duration>) -> Result<(), NoReply> {
        let random = self.random.lock().unwrap_or_else(PoisonError::into_inner).share();
        let wait = wait_after(attempt, asked, random);
        tracing::info!("attempt {attempt}: {what}; waiting {wait:?}");
        let attempts = if cause == Cause::Slow { SLOW_ATTEMPTS } else { ATTEMPTS };
        let give_up = match wait {
            _ if attempt >= attempts => Some(format!("{what} (after {attempt} attempts)")),
            wait if wait > LONGEST_PAUSE => Some(format!("{what} (it asks to wait {} s)", wait.as_secs())),
            _ => None,
        };
        if let Some(what) = give_up {
            let (endpoint, model) = (self.client.endpoint().shown(), self.client.endpoint().model());
            let failure = Failure::new(ErrorKind::Io, format!("{endpoint}, model '{model}': {what}"));
            return Err(self.end(failure.hint("run the same command again later: it goes on where it stopped")));
        }
        let until = self.began.elapsed() + wait;
        if cause == Cause::Busy {
            self.limits.pause(until);
        }
        while let Some(left) = until.checked_sub(self.began.elapsed()).filter(|left| !left.is_zero()) {
            self.go_on()?;
            tokio::time::sleep(left.min(LOOK_EVERY)).await;
        }
        Ok(())
    }

    /// Whether another request may begin.
    fn go_on(&self) -> Result<(), NoReply> {
        if self.interrupt.is_asked() {
            let failure = Failure::new(ErrorKind::Cancelled, "stopped by Ctrl-C");
            return Err(self.end(failure.hint("run the same command again: it goes on where it stopped")));
        }
        match *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(_) => Err(NoReply::Stopped),
            None => Ok(()),
        }
    }

    fn end(&self, why: Failure) -> NoReply {
        self.stop(why);
        NoReply::Stopped
    }
}
