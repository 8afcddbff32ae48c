//! Ctrl-C: a flag that long commands poll. They end with an error, so that every guard is dropped and cleans up.
//!
//! The signals are caught by a handler (tokio's), not by a blocked mask: a mask is inherited, and a daemon started under it
//! would never hear its SIGTERM.

use anyhow::{Context, Result, bail};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT and SIGTERM only set the flag.
///
/// # Errors
/// The handlers cannot be installed.
pub fn catch() -> Result<()> {
    let (ready, installed) = sync_channel(1);
    std::thread::spawn(move || {
        if let Err(error) = listen(&ready) {
            let _nobody = ready.send(Err(error));
        }
    });
    installed.recv().context("the signal thread ended")?.context("catching SIGINT and SIGTERM")
}

fn listen(ready: &SyncSender<std::io::Result<()>>) -> std::io::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let _nobody = ready.send(Ok(()));
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            REQUESTED.store(true, Ordering::Relaxed);
        }
    })
}

/// Whether somebody asked to end.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// An error if somebody asked to end.
///
/// # Errors
/// Somebody did.
pub fn check() -> Result<()> {
    if requested() {
        bail!("interrupted");
    }
    Ok(())
}

/// Asks `found` until it has something.
///
/// # Errors
/// `limit` passed, somebody asked to end, or `found` itself failed.
pub fn wait_for<T>(what: &str, limit: Duration, mut found: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        check()?;
        if let Some(value) = found()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("{what} did not come within {:.1} s", limit.as_secs_f64());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
