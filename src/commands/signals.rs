//! SIGINT and SIGTERM: the first ends in order, the second at once. SIGUSR1, which batch systems send
//! before the end, has an agent drain its node.

use std::convert::Infallible;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::agent::Shutdown;
use crate::printer;

/// The signals, caught from the moment that this is made.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    announce: Signal,
}

impl Signals {
    /// Catches the signals.
    pub(super) fn install() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("SIGTERM")?,
            announce: signal(SignalKind::user_defined1()).context("SIGUSR1")?,
        })
    }

    /// Waits for the next of them.
    pub(super) async fn next(&mut self) {
        // Cancel-safe: `Signal::recv` loses nothing.
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Turns signals into the shutdown of an agent, for ever.
    pub(super) async fn steer(&mut self, shutdown: &Shutdown, drain: bool) -> Infallible {
        loop {
            // Cancel-safe: `Signal::recv` loses nothing.
            tokio::select! {
                // A SIGTERM that came together with others goes first.
                biased;
                () = async {
                    tokio::select! {
                        _ = self.interrupt.recv() => {}
                        _ = self.terminate.recv() => {}
                    }
                } => break,
                _ = self.announce.recv() => shutdown.soon.cancel(),
            }
        }
        if drain {
            printer::note("ending the pods; signal again to leave at once");
            shutdown.drain.cancel();
        } else {
            shutdown.abort.cancel();
        }
        loop {
            self.next().await;
            shutdown.abort.cancel();
        }
    }
}
