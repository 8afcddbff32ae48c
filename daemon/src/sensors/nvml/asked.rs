//! What the sensor's thread is asked for from outside: to end, to let go of a GPU, to take it up again.
//!
//! Owns the descriptor that wakes the thread and what it is to do then. A handle on a GPU can hinder its reset, and NVML gives
//! back no single one: the sampler is replaced by one that leaves that GPU alone, and replaced again afterwards.

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};
use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::{Duration, Instant},
};

/// One thing that is asked.
#[derive(Debug)]
pub enum SensorCommand {
    /// No sampler is to hold this GPU, by UUID. Answered once none does.
    LetGo(String, mpsc::Sender<Result<(), NotLetGo>>),
    /// It may be held again.
    TakeUp(String),
}

/// Why the GPU is held still.
#[derive(Debug, thiserror::Error)]
pub enum NotLetGo {
    /// The process that holds it cannot be killed.
    #[error("the NVML sampler sleeps in the driver and does not die: it still holds the GPU")]
    Stuck,
    /// The thread has not answered.
    #[error("the NVML sensor has not let go of the GPU within {0:?}")]
    Late(Duration),
}

#[derive(Debug, Default)]
struct PendingCommands {
    stop: bool,
    orders: Vec<SensorCommand>,
}

/// What was asked, and what wakes the thread for it.
#[derive(Debug)]
pub struct Asked {
    wake: EventFd,
    waiting: Mutex<PendingCommands>,
}

impl Asked {
    pub fn new() -> std::io::Result<Asked> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Asked { wake, waiting: Mutex::default() })
    }

    fn waiting(&self) -> MutexGuard<'_, PendingCommands> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread is to end.
    pub fn stop(&self) {
        self.waiting().stop = true;
        self.wake();
    }

    fn order(&self, order: SensorCommand) {
        self.waiting().orders.push(order);
        self.wake();
    }

    fn wake(&self) {
        // An eventfd takes a write unless its count is at the maximum, which wakes just as well.
        let _full = self.wake.write(1);
    }

    /// Readable when something was asked.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Whether the thread is to end; else what it was asked for since.
    pub fn take(&self) -> Option<Vec<SensorCommand>> {
        // Nothing there is as good: what was asked is looked at next.
        let _empty = self.wake.read();
        let mut waiting = self.waiting();
        if waiting.stop { None } else { Some(std::mem::take(&mut waiting.orders)) }
    }

    /// Waits until the thread is to end, or something else is asked, or time is up; true for the first.
    pub fn stopped_within(&self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            let waiting = self.waiting();
            if waiting.stop || !waiting.orders.is_empty() {
                return waiting.stop;
            }
            drop(waiting);
            let mut fds = [PollFd::new(self.fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout(until)) {
                Ok(n) if n > 0 => drop(self.wake.read()),
                Ok(_) if Instant::now() >= until => return false,
                Err(errno) if errno != Errno::EINTR => return true,
                _ => {}
            }
        }
    }
}

/// Rounded up, so that a wait is not a spin of zero-length ones.
pub fn timeout(until: Instant) -> PollTimeout {
    let left = until.saturating_duration_since(Instant::now());
    PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX)
}

/// Asks the sensor; outlives it without harm.
#[derive(Debug, Clone)]
pub struct NvmlControl(pub(super) Arc<Asked>);

impl NvmlControl {
    /// Has every handle on the GPU closed, and none made until [`NvmlControl::take_up`]. Blocks until that is so.
    ///
    /// # Errors
    /// [`NotLetGo`].
    pub fn let_go(&self, uuid: &str, within: Duration) -> Result<(), NotLetGo> {
        let (tell, told) = mpsc::channel();
        self.0.order(SensorCommand::LetGo(uuid.to_owned(), tell));
        match told.recv_timeout(within) {
            Ok(answer) => answer,
            // A sensor that has ended holds nothing.
            Err(mpsc::RecvTimeoutError::Disconnected) => Ok(()),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(NotLetGo::Late(within)),
        }
    }

    /// The GPU may be held again.
    pub fn take_up(&self, uuid: &str) {
        self.0.order(SensorCommand::TakeUp(uuid.to_owned()));
    }
}
