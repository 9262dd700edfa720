//! SIGINT and SIGTERM, which end what could go on for ever as if it had come to its end.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Either signal, from when this is made.
pub struct Ending {
    interrupt: Signal,
    terminate: Signal,
}

impl Ending {
    /// Catches both from now on. Within a runtime.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn catch() -> Result<Self> {
        let caught = |kind, name| signal(kind).with_context(|| format!("could not wait for {name}"));
        Ok(Self {
            interrupt: caught(SignalKind::interrupt(), "SIGINT")?,
            terminate: caught(SignalKind::terminate(), "SIGTERM")?,
        })
    }

    /// Waits for one.
    pub async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
