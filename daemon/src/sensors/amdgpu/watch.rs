//! The sensor's thread. A read of sysfs that blocks stops this thread only: the GPUs fall silent, and silence is `unknown`.

use super::{Card, Sample, cards, processes::Processes};
use crate::platform::{ProcFs, clock};
use failsafe_core::{Kind, MonoTime};
use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Cards are looked for anew this often.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What the sensor has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AmdgpuEvent {
    /// These are the cards; said at the start and when they change.
    Cards(Vec<Card>),
    /// One card's values.
    Sample {
        /// Which.
        id: String,
        /// When.
        at: MonoTime,
        /// What it said.
        sample: Sample,
    },
}

/// The running sensor; dropping it asks it to stop. A thread stuck in the driver is left behind.
#[derive(Debug)]
pub struct Amdgpu {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Amdgpu {
    /// Starts it on `/sys` and `/proc`, or folders like them. `of_runs` gives the pids of all runs' processes, which are looked
    /// at first.
    ///
    /// # Errors
    /// The thread could not be made.
    pub fn spawn(
        root: PathBuf,
        proc: ProcFs,
        interval: Duration,
        of_runs: impl Fn() -> BTreeSet<u32> + Send + 'static,
        mut sink: impl FnMut(AmdgpuEvent) + Send + 'static,
    ) -> std::io::Result<Amdgpu> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("amdgpu".into()).spawn(move || {
            let mut processes = Processes::new(proc);
            let mut known: Option<(Vec<Card>, Instant)> = None;
            while !stopped.load(Ordering::Relaxed) {
                let due = known.as_ref().is_none_or(|(_, looked)| looked.elapsed() >= LOOK_EVERY);
                if due {
                    let now = cards(&root);
                    if known.as_ref().is_none_or(|(before, _)| *before != now) {
                        sink(AmdgpuEvent::Cards(now.clone()));
                    }
                    known = Some((now, Instant::now()));
                }
                let all = known.as_ref().map(|(all, _)| all.as_slice()).unwrap_or_default();
                // Without a card nobody's files are looked at.
                let at = MonoTime(clock::monotonic_ns());
                let mut on = if all.is_empty() { Default::default() } else { processes.read(&of_runs(), at) };
                for card in all {
                    let at = MonoTime(clock::monotonic_ns());
                    let mut sample = card.sample();
                    // Without its address it cannot be told whose file is of this card.
                    match &card.pci {
                        Some(pci) => {
                            sample.processes = on.remove(&pci.to_ascii_lowercase()).unwrap_or_default();
                            let number = i64::try_from(sample.processes.len()).unwrap_or(i64::MAX);
                            sample.readings.insert(Kind::GpuProcesses, number);
                        }
                        None => sample.unsupported.push(Kind::GpuProcesses),
                    }
                    sink(AmdgpuEvent::Sample { id: card.id.clone(), at, sample });
                }
                std::thread::park_timeout(if all.is_empty() { LOOK_EVERY } else { interval });
            }
        })?;
        Ok(Amdgpu { stop, thread })
    }
}

impl Drop for Amdgpu {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
    }
}
