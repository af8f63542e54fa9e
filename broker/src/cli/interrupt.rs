//! Ctrl-C and SIGTERM for client commands: the first asks to finish, the second ends at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::exit::Exit;

/// How long a command may take to end before it is said that a second signal ends it at once.
const SAY_AFTER: Duration = Duration::from_secs(1);

/// Tells whether somebody wants the command to end; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Interrupt {
    asked: CancellationToken,
    code: Arc<AtomicU8>,
}

impl Interrupt {
    /// Begins to listen; from now on a first signal no longer ends the process by itself.
    pub(super) fn listen() -> anyhow::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
        let this = Self {
            asked: CancellationToken::new(),
            code: Arc::default(),
        };
        let shared = this.clone();
        tokio::spawn(async move {
            let mut next = async || {
                tokio::select! {
                    _ = interrupt.recv() => 130,
                    _ = terminate.recv() => 143,
                }
            };
            shared.code.store(next().await, Ordering::Relaxed);
            shared.asked.cancel();
            let second = match timeout(SAY_AFTER, next()).await {
                Ok(code) => code,
                Err(_) => {
                    eprintln!("finishing what was begun; interrupt again to end at once");
                    next().await
                }
            };
            std::process::exit(second.into());
        });
        Ok(this)
    }

    /// Waits until somebody wants the command to end. May be dropped at any time.
    pub(super) async fn asked(&self) {
        self.asked.cancelled().await;
    }

    /// The same, for those who wait for several things.
    pub(super) fn token(&self) -> CancellationToken {
        self.asked.clone()
    }

    /// How the command ends, if it was interrupted.
    pub(super) fn exit(&self) -> Option<Exit> {
        self.asked
            .is_cancelled()
            .then(|| Exit::Interrupted(self.code.load(Ordering::Relaxed)))
    }
}
