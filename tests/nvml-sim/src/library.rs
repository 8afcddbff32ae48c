//! The library's state between calls: how often it was initialised, the scenario, the
//! clock and the event sets, all behind one lock that is held for no longer than it takes
//! to look at them. Delays and hangs happen outside of it.

use crate::abi::{Code, DeviceHandle};
use crate::clock::Clock;
use crate::edge::{self, Answer};
use crate::events::{Due, EventSet};
use crate::faults::{Effect, Verdict, verdict};
use crate::model::Gpu;
use crate::scenario::{ClockSource, Scenario, ScenarioStore};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{env, thread};

/// How often a hanging call looks whether its window has ended.
const HANG_POLL: Duration = Duration::from_millis(2);
/// How often a waiting call looks at a clock file or a changed scenario.
const WAIT_POLL: Duration = Duration::from_millis(5);
/// The same on the wall clock, where the next event's time is known.
const LIVE_POLL: Duration = Duration::from_millis(100);
/// The same where the scenario cannot change.
const STILL_POLL: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Library {
    inits: u32,
    /// Kept over `nvmlShutdown`, so that time goes on.
    session: Option<Session>,
    event_sets: BTreeMap<usize, EventSet>,
    last_set: usize,
}

#[derive(Debug)]
struct Session {
    store: ScenarioStore,
    clock: Clock,
}

static LIBRARY: Mutex<Library> =
    Mutex::new(Library { inits: 0, session: None, event_sets: BTreeMap::new(), last_set: 0 });

/// The scenario at the moment of a call.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) scenario: Arc<Scenario>,
    /// Scenario time, seconds.
    pub(crate) t: f64,
}

impl Moment {
    pub(crate) fn gpu(&self, index: usize) -> Answer<Gpu<'_>> {
        let spec = self.scenario.gpus.get(index).ok_or(Code::GpuIsLost)?;
        Ok(Gpu { spec, index, t: self.t })
    }

    /// Every GPU, in index order.
    pub(crate) fn gpus(&self) -> impl Iterator<Item = Gpu<'_>> {
        self.scenario.gpus.iter().enumerate().map(|(index, spec)| Gpu { spec, index, t: self.t })
    }
}

fn lock() -> MutexGuard<'static, Library> {
    // A panic inside is answered as an error; what it left is still a library.
    LIBRARY.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Library {
    fn moment(&mut self) -> Answer<Moment> {
        if self.inits == 0 {
            return Err(Code::Uninitialized);
        }
        self.look().ok_or(Code::Uninitialized)
    }

    fn look(&mut self) -> Option<Moment> {
        let session = self.session.as_mut()?;
        let (scenario, error) = session.store.current();
        if let Some(error) = error {
            eprintln!("nvml-sim: keeping the last good scenario: {error}");
        }
        let t = session.clock.now(&scenario.clock);
        Some(Moment { scenario, t })
    }
}

/// `nvmlInit`: reads the scenario at the first, counts the others.
pub(crate) fn init(function: &'static str) -> Answer<()> {
    let moment = {
        let mut library = lock();
        if library.inits == 0 {
            open(&mut library)?;
        }
        library.look().ok_or(Code::Unknown)?
    };
    strike(function, None, moment)?;
    lock().inits += 1;
    Ok(())
}

fn open(library: &mut Library) -> Answer<()> {
    let Some(path) = env::var_os(crate::SCENARIO_ENV).map(PathBuf::from) else {
        eprintln!("nvml-sim: {} names no scenario file", crate::SCENARIO_ENV);
        return Err(Code::DriverNotLoaded);
    };
    if library.session.as_ref().is_some_and(|it| it.store.path() == path) {
        return Ok(());
    }
    let store = ScenarioStore::open(path).map_err(|error| {
        let cause = std::error::Error::source(&error).map(|it| format!(": {it}")).unwrap_or_default();
        eprintln!("nvml-sim: {error}{cause}");
        Code::Unknown
    })?;
    library.session = Some(Session { store, clock: Clock::new() });
    Ok(())
}

/// `nvmlShutdown`: the last one voids the event sets.
pub(crate) fn shutdown(function: &'static str) -> Answer<()> {
    let moment = lock().moment()?;
    strike(function, None, moment)?;
    let mut library = lock();
    library.inits = library.inits.checked_sub(1).ok_or(Code::Uninitialized)?;
    if library.inits == 0 {
        library.event_sets.clear();
    }
    Ok(())
}

/// A call about no GPU in particular.
pub(crate) fn system<T>(function: &'static str, answer: impl FnOnce(&Moment) -> Answer<T>) -> Answer<T> {
    let moment = lock().moment()?;
    answer(&strike(function, None, moment)?)
}

/// How many GPUs the scenario has, for calls about more than one.
pub(crate) fn gpu_count() -> Answer<usize> {
    Ok(lock().moment()?.scenario.gpus.len())
}

/// A call about the GPU of `handle`.
pub(crate) fn device<T>(
    function: &'static str,
    handle: DeviceHandle,
    answer: impl FnOnce(&Gpu<'_>) -> Answer<T>,
) -> Answer<T> {
    let moment = lock().moment()?;
    let index = handle.index().ok_or(Code::InvalidArgument)?;
    let moment = strike(function, Some(index), moment)?;
    answer(&moment.gpu(index)?)
}

/// A call about the GPU of `handle`, or about the MIG device that it is.
pub(crate) fn device_or_mig<T>(
    function: &'static str,
    handle: DeviceHandle,
    answer: impl FnOnce(&Gpu<'_>, Option<usize>) -> Answer<T>,
) -> Answer<T> {
    let moment = lock().moment()?;
    let (index, mig) = handle.mig().ok_or(Code::InvalidArgument)?;
    let moment = strike(function, Some(index), moment)?;
    let gpu = moment.gpu(index)?;
    match mig {
        Some(mig) if mig >= gpu.mig_devices().len() => Err(Code::InvalidArgument),
        mig => answer(&gpu, mig),
    }
}

/// Lets the faults at the call: waits out latency and hang, and gives the moment after it.
fn strike(function: &str, gpu: Option<usize>, moment: Moment) -> Answer<Moment> {
    let Verdict { latency, effect } = verdict(&moment.scenario.faults, function, gpu, moment.t);
    if latency > Duration::ZERO {
        thread::sleep(latency);
    }
    match effect {
        Effect::DelayOnly if latency.is_zero() => Ok(moment),
        Effect::DelayOnly => lock().look().ok_or(Code::Uninitialized),
        Effect::Fail(code) => Err(code),
        Effect::Hang => hang(function, gpu),
        Effect::Corrupt(how) => {
            edge::corrupt(Some(how));
            Ok(moment)
        }
    }
}

fn hang(function: &str, gpu: Option<usize>) -> Answer<Moment> {
    loop {
        thread::sleep(HANG_POLL);
        let moment = lock().look().ok_or(Code::Uninitialized)?;
        match verdict(&moment.scenario.faults, function, gpu, moment.t).effect {
            Effect::Hang => {}
            Effect::Fail(code) => return Err(code),
            Effect::DelayOnly | Effect::Corrupt(_) => return Ok(moment),
        }
    }
}

/// `nvmlEventSetCreate`: the new set's number, never 0.
pub(crate) fn create_event_set() -> usize {
    let mut library = lock();
    library.last_set += 1;
    let number = library.last_set;
    library.event_sets.insert(number, EventSet::default());
    number
}

/// `nvmlEventSetFree`.
pub(crate) fn free_event_set(number: usize) -> Answer<()> {
    lock().event_sets.remove(&number).map(|_| ()).ok_or(Code::InvalidArgument)
}

/// `nvmlDeviceRegisterEvents`.
pub(crate) fn register_events(number: usize, gpu: usize, mask: u64) -> Answer<()> {
    let mut library = lock();
    let moment = library.moment()?;
    let set = library.event_sets.get_mut(&number).ok_or(Code::InvalidArgument)?;
    set.register(&moment.scenario, gpu, mask, moment.t);
    Ok(())
}

/// `nvmlEventSetWait`: the next event due, or `Timeout` after that much wall time. A fault
/// on the function that begins meanwhile strikes a call that is waiting.
pub(crate) fn wait_for_event(function: &'static str, number: usize, timeout: Duration) -> Answer<Due> {
    // A timeout too far away to be told (the caller's "for ever") is none.
    let deadline = Instant::now().checked_add(timeout);
    loop {
        let (moment, due, next) = poll_event(number)?;
        if let Some(due) = due {
            return Ok(due);
        }
        match verdict(&moment.scenario.faults, function, None, moment.t).effect {
            Effect::DelayOnly | Effect::Corrupt(_) => {}
            Effect::Fail(code) => return Err(code),
            Effect::Hang => drop(hang(function, None)?),
        }
        let left = deadline.map_or(LIVE_POLL, |it| it.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            return Err(Code::Timeout);
        }
        thread::sleep(left.min(pause(&moment, next)));
    }
}

fn poll_event(number: usize) -> Answer<(Moment, Option<Due>, Option<f64>)> {
    let mut library = lock();
    let moment = library.moment()?;
    let set = library.event_sets.get_mut(&number).ok_or(Code::InvalidArgument)?;
    let due = set.take(&moment.scenario, moment.t);
    let next = set.next_at(&moment.scenario);
    Ok((moment, due, next))
}

fn pause(moment: &Moment, next: Option<f64>) -> Duration {
    // Nothing but a scenario that is changed, or a fault of it, can bring news before the next event.
    let still = !moment.scenario.live && moment.scenario.faults.is_empty();
    let most = if still { STILL_POLL } else { LIVE_POLL };
    match (&moment.scenario.clock, next) {
        (ClockSource::File(_), _) => WAIT_POLL,
        (ClockSource::Wall, Some(at)) => Duration::from_secs_f64((at - moment.t).clamp(0.000_1, 1.0)).min(most),
        (ClockSource::Wall, None) => most,
    }
}
