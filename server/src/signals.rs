//! What the operating system tells a server: stop, stop at once, read again.

use std::io::IsTerminal;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::{Result, io_failure};
use crate::listener::Server;

/// Signals that no longer end the process by themselves.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// Takes them over. Must be called within the runtime.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn take() -> Result<Self> {
        let take = |kind: SignalKind| signal(kind).map_err(|error| io_failure("signals", &error));
        Ok(Self {
            interrupt: take(SignalKind::interrupt())?,
            terminate: take(SignalKind::terminate())?,
            hangup: take(SignalKind::hangup())?,
        })
    }

    /// Lets a server answer until SIGINT or SIGTERM; the second one does not wait for running queries. SIGHUP opens the
    /// audit log anew and reads the certificate again; where standard input is a terminal, which then was closed, it stops.
    ///
    /// # Errors
    /// As [`Server::run`].
    pub(crate) async fn run(self, server: Server) -> Result<()> {
        let (stop, at_once) = (CancellationToken::new(), CancellationToken::new());
        let reload = server.reload();
        let watching = tokio::spawn(self.watch(stop.clone(), at_once.clone(), move || reload.now()));
        let ended = server.run_until(stop.cancelled_owned(), at_once.cancelled_owned()).await;
        watching.abort();
        ended
    }

    async fn watch(mut self, stop: CancellationToken, at_once: CancellationToken, reload: impl Fn()) {
        let on_terminal = std::io::stdin().is_terminal();
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
                _ = self.hangup.recv() => if !on_terminal {
                    reload();
                    continue;
                }
            }
            if stop.is_cancelled() {
                tracing::warn!("told to stop again: running queries are cut off");
                at_once.cancel();
                return;
            }
            tracing::info!(
                "told to stop: no new connections; running queries may finish, a second signal cuts them off"
            );
            stop.cancel();
        }
    }
}

/// Ends with the first SIGINT or SIGTERM, for who has nothing to finish. Never, where the operating system does not tell.
pub(crate) async fn stop_signal() {
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        _ => std::future::pending().await,
    }
}
