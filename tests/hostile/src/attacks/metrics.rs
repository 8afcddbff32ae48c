//! A flood of metrics.

use crate::{Judge, judge::all};
use anyhow::Result;
use integration::wait_for;
use std::{
    os::unix::net::UnixDatagram,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

/// Holds the attack while `judge` strikes.
///
/// # Errors
/// A victim is not frozen in time, or the attack could not be made.
pub fn metrics(judge: &mut dyn Judge) -> Result<()> {
    judge.withstand("metrics", "", &mut |node, strike| {
        let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        let socket = node.metrics_socket();
        thread::scope(|scope| {
            let flood = scope.spawn(|| -> Result<()> {
                let from = UnixDatagram::unbound()?;
                from.connect(&socket)?;
                while !stop.load(Ordering::Relaxed) {
                    // Waits while the daemon's queue is full: as fast as it takes them.
                    sent.fetch_add(u64::from(from.send(b"loss=1.5\n").is_ok()), Ordering::Relaxed);
                }
                Ok(())
            });
            let begun = || Ok(sent.load(Ordering::Relaxed) >= 1_000 || flood.is_finished());
            let struck = wait_for("the flood has begun", begun).and_then(|()| all(node, strike));
            stop.store(true, Ordering::Relaxed);
            let flooded = flood.join().map_err(|_| anyhow::anyhow!("the flood panicked"))?;
            eprintln!("{} metrics", sent.load(Ordering::Relaxed));
            struck.and(flooded)
        })
    })
}
