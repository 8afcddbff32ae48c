//! The threads without which the daemon does not do what it promises. The end of one ends the process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Critical threads, and how they are told to stop.
pub(super) struct Threads {
    all: Vec<Critical>,
    ended: UnboundedSender<&'static str>,
    /// Set when the daemon stops.
    pub(super) stop: Arc<AtomicBool>,
}

struct Critical {
    name: &'static str,
    thread: JoinHandle<()>,
}

/// Sends the name of a thread that ends, by a panic too.
struct Ended(&'static str, UnboundedSender<&'static str>);

impl Drop for Ended {
    fn drop(&mut self) {
        let _stopping = self.1.send(self.0);
    }
}

impl Threads {
    /// None yet. The receiver gets the name of each thread that ends.
    pub(super) fn new() -> (Threads, UnboundedReceiver<&'static str>) {
        let (ended, any_ended) = unbounded_channel();
        (Threads { all: Vec::new(), ended, stop: Arc::default() }, any_ended)
    }

    /// Starts one.
    ///
    /// # Errors
    /// The system has no room for a thread.
    pub(super) fn spawn(&mut self, name: &'static str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let ended = Ended(name, self.ended.clone());
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            let _ended = ended;
            work();
        })?;
        self.all.push(Critical { name, thread });
        Ok(())
    }

    /// The same for one that looks at the stop flag.
    ///
    /// # Errors
    /// As [`Threads::spawn`].
    pub(super) fn spawn_until_stop(
        &mut self,
        name: &'static str,
        work: impl FnOnce(&AtomicBool) + Send + 'static,
    ) -> std::io::Result<()> {
        let stop = self.stop.clone();
        self.spawn(name, move || work(&stop))
    }

    /// Tells those that look at the flag to stop.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits for the threads of this name.
    pub(super) fn join_named(&mut self, name: &str) {
        self.all.extract_if(.., |thread| thread.name == name).for_each(Critical::join);
    }

    /// Waits for all.
    pub(super) fn join(self) {
        self.all.into_iter().for_each(Critical::join);
    }
}

impl Critical {
    fn join(self) {
        let Critical { name, thread } = self;
        thread.thread().unpark();
        if thread.join().is_err() {
            tracing::error!(name, "a thread panicked");
        }
    }
}

/// Waits for threads that end by themselves, unless a disk holds them up: then they end with the process.
pub(super) fn join_by(threads: impl IntoIterator<Item = JoinHandle<()>>, deadline: Instant) {
    for thread in threads {
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        if thread.is_finished() {
            let _panicked = thread.join();
        } else {
            tracing::warn!(
                thread = thread.thread().name(),
                "a thread still tidies up after ended runs; the next start goes on"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_ends_is_named_also_when_it_panics() {
        let (mut threads, mut ended) = Threads::new();
        threads.spawn("returns", || ()).unwrap();
        assert_eq!(ended.blocking_recv(), Some("returns"));
        threads.spawn("panics", || std::panic::resume_unwind(Box::new(()))).unwrap();
        assert_eq!(ended.blocking_recv(), Some("panics"));
        threads
            .spawn_until_stop("waits", |stop| {
                while !stop.load(Ordering::Relaxed) {
                    std::thread::park_timeout(Duration::from_millis(5))
                }
            })
            .unwrap();
        threads.join_named("panics");
        threads.stop();
        threads.join();
        assert_eq!(ended.blocking_recv(), Some("waits"));
    }
}
