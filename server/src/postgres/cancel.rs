//! Cancelling: a client opens a second connection and shows the secret of the first.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use ring::rand::{SecureRandom, SystemRandom};
use tokio_util::sync::CancellationToken;

use super::error::{Report, Result, Trouble};

/// The connections that can be cancelled.
#[derive(Debug, Default)]
pub(super) struct Lines {
    lines: Mutex<HashMap<i32, Arc<Line>>>,
    last: AtomicI32,
}

/// One connection.
#[derive(Debug)]
struct Line {
    secret: Bytes,
    /// What cancels the statement that is being worked on.
    running: Mutex<Option<CancellationToken>>,
}

/// A connection's place among [`Lines`], given up when dropped.
#[derive(Debug)]
pub(super) struct Registered {
    lines: Arc<Lines>,
    line: Arc<Line>,
    /// Number of the connection, which PostgreSQL calls the process.
    pub(super) pid: i32,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that nobody guesses.
pub(super) fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(Trouble::Fatal(Report::fatal("XX000", "the system gives no random bytes"))),
    }
}

impl Lines {
    /// A new connection, with a secret of 32 bytes if its client can keep so many, else of 4.
    pub(super) fn register(self: &Arc<Self>, long_secret: bool) -> Result<Registered> {
        let secret = random_bytes::<32>()?;
        let secret = Bytes::copy_from_slice(if long_secret { &secret } else { &secret[..4] });
        let line = Arc::new(Line { secret, running: Mutex::default() });
        let mut lines = locked(&self.lines);
        let pid = loop {
            let pid = self.last.fetch_add(1, Ordering::Relaxed).wrapping_add(1) & i32::MAX;
            if pid != 0 && !lines.contains_key(&pid) {
                break pid;
            }
        };
        lines.insert(pid, Arc::clone(&line));
        Ok(Registered { lines: Arc::clone(self), line, pid })
    }

    /// Cancels what the connection works on, if the secret is right. Nobody is told whether it was.
    pub(super) fn cancel(&self, pid: i32, secret: &[u8]) {
        let line = locked(&self.lines).get(&pid).cloned();
        if let Some(line) = line.filter(|line| line.secret == secret)
            && let Some(running) = locked(&line.running).as_ref()
        {
            running.cancel();
        }
    }
}

impl Registered {
    /// The secret.
    pub(super) fn secret(&self) -> Bytes {
        self.line.secret.clone()
    }

    /// Something is worked on from now on; a request that came earlier is void.
    pub(super) fn begin(&self) -> CancellationToken {
        let token = CancellationToken::new();
        *locked(&self.line.running) = Some(token.clone());
        token
    }

    /// Nothing is worked on.
    pub(super) fn end(&self) {
        *locked(&self.line.running) = None;
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        locked(&self.lines.lines).remove(&self.pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_cancels_and_only_what_runs() {
        let lines = Arc::new(Lines::default());
        let one = lines.register(false).unwrap();
        let two = lines.register(true).unwrap();
        assert_eq!((one.secret().len(), two.secret().len()), (4, 32));
        lines.cancel(one.pid, &one.secret());
        let token = one.begin();
        assert!(!token.is_cancelled());
        lines.cancel(one.pid, b"1234");
        lines.cancel(two.pid, &one.secret());
        assert!(!token.is_cancelled());
        lines.cancel(one.pid, &one.secret());
        assert!(token.is_cancelled() && !one.begin().is_cancelled());
        let pid = one.pid;
        drop(one);
        assert!(!locked(&lines.lines).contains_key(&pid));
    }
}
