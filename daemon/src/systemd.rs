//! What systemd is told: readiness, stopping, and that the pipeline advances. Nothing is sent where nobody listens.

use sd_notify::NotifyState;

/// The daemon serves.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The daemon stops on purpose.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Feeds systemd's watchdog; only the heartbeat holds it, which stops when a thread that freezes makes no progress.
pub struct Watchdog {
    wanted: bool,
}

impl Watchdog {
    /// Whether systemd wants to be told is in the environment (`WATCHDOG_USEC`, see sd_watchdog_enabled(3)).
    #[must_use]
    pub fn new() -> Watchdog {
        Watchdog { wanted: sd_notify::watchdog_enabled().is_some() }
    }

    /// The daemon is alive.
    pub fn feed(&self) {
        if self.wanted {
            notify(&[NotifyState::Watchdog]);
        }
    }
}

impl Default for Watchdog {
    fn default() -> Self {
        Self::new()
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd could not be notified");
    }
}
