//! Ctrl-C: the first one asks the running work to stop at its next safe point, the second one ends the program.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use saequel_engine::ErrorKind;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use crate::error::{EXIT_CANCELLED, Failure, Result};
use crate::say::remark;

/// Whether the user asked to stop. Cheap to clone; clones share the state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt {
    asked: Arc<AtomicBool>,
    notify: Arc<Notify>,
}

impl Interrupt {
    /// Takes over Ctrl-C of this process. Must be called within the runtime.
    pub(crate) fn install() -> Self {
        let interrupt = Self::default();
        let watched = interrupt.clone();
        tokio::spawn(async move {
            while tokio::signal::ctrl_c().await.is_ok() {
                watched.ask();
            }
        });
        interrupt
    }

    /// Takes SIGTERM for Ctrl-C from now on, for work that can go on where it stopped. Must be called within the runtime.
    pub(crate) fn also_on_terminate(&self) {
        let watched = self.clone();
        tokio::spawn(async move {
            let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
            while terminate.recv().await.is_some() {
                watched.ask();
            }
        });
    }

    fn ask(&self) {
        if self.asked.swap(true, Ordering::SeqCst) {
            // The second one: nothing is lost that was committed.
            remark!("stopped");
            std::process::exit(i32::from(EXIT_CANCELLED));
        }
        remark!("stopping at the next safe point; Ctrl-C again ends at once");
        self.notify.notify_waiters();
    }

    /// Whether the user asked to stop.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// Forgets that the user asked; for the next statement of a shell.
    pub(crate) fn reset(&self) {
        self.asked.store(false, Ordering::SeqCst);
    }

    /// Runs `work` until it ends or the user asks to stop, whatever comes first.
    ///
    /// # Errors
    /// What `work` says, or [`ErrorKind::Cancelled`].
    pub(crate) async fn guard<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let asked = self.notify.notified();
        if self.is_asked() {
            return Err(cancelled());
        }
        tokio::select! {
            biased;
            outcome = work => outcome,
            () = asked => Err(cancelled()),
        }
    }
}

fn cancelled() -> Failure {
    Failure::new(ErrorKind::Cancelled, "stopped by Ctrl-C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_ends_when_the_user_asks() {
        let interrupt = Interrupt::default();
        assert_eq!(interrupt.guard(async { Ok(1) }).await.unwrap(), 1);
        let asking = interrupt.clone();
        let (outcome, ()) = tokio::join!(interrupt.guard(std::future::pending::<Result<()>>()), async move {
            asking.asked.store(true, Ordering::SeqCst);
            asking.notify.notify_waiters();
        });
        assert_eq!(outcome.unwrap_err().wire().exit, EXIT_CANCELLED);
        assert!(interrupt.guard(async { Ok(()) }).await.is_err());
        interrupt.reset();
        assert!(interrupt.guard(async { Ok(()) }).await.is_ok());
    }
}
