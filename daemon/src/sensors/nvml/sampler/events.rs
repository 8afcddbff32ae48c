//! Events of every GPU, waited for in one event set by one thread: XIDs, and what else NVML says has happened.
//!
//! Owns the set and what it has told lately. Invariants: every wait has a timeout; errors back off; an XID is told even
//! when its GPU no longer gives its UUID; the same event again is told once a second, with a count; of other events only those
//! are asked for that the GPU says it has, and one that it refuses hides no XID. Clocks and performance states change with all
//! work: when that floods, they are not listened to for a while.

use super::{
    super::frame::{Frame, Happened, Xid},
    now_ns,
    raw::events::{self, Event, KINDS},
    read::{HandleState, is_absence, standing},
    shared::{EVENTS, Shared, Unseen, XID, same},
};
use failsafe_core::event::GpuEvent;
use nvml_wrapper::{Device, EventSet, Nvml, error::NvmlError};
use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

const WAIT_MS: u32 = 1_000;
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// The same event of the same GPU is told this often at most.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// A set that misses GPUs is made anew this often.
const REGISTER_AGAIN: Duration = Duration::from_secs(30);
/// So many changes of clocks and performance states within [`TELL_EVERY`] are a flood: each wakes this process.
const FLOOD: u32 = 64;
/// For so long they are not listened to then.
const DEAF: Duration = Duration::from_secs(60);

/// Waits until the process ends.
pub fn watch(nvml: &'static Nvml, shared: &Shared) {
    let mut backoff = FIRST_BACKOFF;
    let mut pending = PendingEvents::default();
    let mut flood = Flood::default();
    loop {
        let generation = shared.gpus().generation;
        let made = Instant::now();
        let deaf = flood.deaf();
        let (set, whole) = match set(nvml, shared, deaf) {
            Ok(set) => set,
            Err(error) => {
                fails(shared, &error);
                thread::sleep(backoff);
                backoff = (backoff * 2).min(MAX_BACKOFF);
                continue;
            }
        };
        // Without a GPU there is nothing to wait for, and drivers differ in what they say of it.
        let Some((set, devices)) = set else {
            thread::sleep(Duration::from_secs(1));
            continue;
        };
        loop {
            match events::wait(nvml, &set, WAIT_MS) {
                Ok(event) => {
                    backoff = FIRST_BACKOFF;
                    take(nvml, shared, &event, &devices, &mut pending, &mut flood);
                }
                Err(NvmlError::Timeout) => backoff = FIRST_BACKOFF,
                Err(error) => {
                    fails(shared, &error);
                    // Events that are already in the set come first after a short wait; then a new set is made.
                    thread::sleep(backoff);
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                    break;
                }
            }
            pending.flush(shared);
            let missing = !whole && made.elapsed() > REGISTER_AGAIN;
            if shared.gpus().generation != generation || missing || flood.deaf() != deaf {
                break;
            }
        }
    }
}

fn take(
    nvml: &'static Nvml,
    shared: &Shared,
    event: &Event,
    devices: &[(String, Device<'static>)],
    pending: &mut PendingEvents,
    flood: &mut Flood,
) {
    let known = devices.iter().find(|(_, device)| event.is_of(device)).map(|(gpu, _)| gpu.clone());
    let gpu = known.or_else(|| event.uuid(nvml)).unwrap_or_default();
    if event.kind == events::XID {
        return pending.take(gpu, What::Xid(event.data, event.instances()));
    }
    // One that is not known here was not asked for.
    let Some((_, what)) = KINDS.iter().find(|(bit, _)| *bit == event.kind) else { return };
    if what.is_ordinary() {
        flood.came();
    } else {
        shared.gpus().anew.insert(gpu.clone());
    }
    pending.take(gpu, What::Event(*what));
}

type Registered = (EventSet<'static>, Vec<(String, Device<'static>)>);

/// A set with every GPU that takes part, and whether none failed.
fn set(nvml: &'static Nvml, shared: &Shared, deaf: bool) -> Result<(Option<Registered>, bool), NvmlError> {
    let devices: Vec<_> = shared.gpus().devices.iter().map(|(gpu, device)| (gpu.clone(), same(nvml, device))).collect();
    if devices.is_empty() {
        return Ok((None, true));
    }
    let set = nvml.create_event_set()?;
    let mut whole = true;
    let mut taking = Vec::new();
    for (gpu, device) in devices {
        let xid = events::register(&device, events::XID, &set);
        let others = others(&device, &set, deaf);
        let mut gpus = shared.gpus();
        let mut note = |name, answer: &Result<(), NvmlError>| {
            let unseen = answer.as_ref().err().map(|error| match error {
                error if is_absence(error) => Unseen::Unsupported,
                error => Unseen::Failing(error.to_string()),
            });
            whole &= !matches!(unseen, Some(Unseen::Failing(_)));
            gpus.sees(&gpu, name, unseen);
        };
        note(XID, &xid);
        note(EVENTS, &others);
        drop(gpus);
        if xid.is_ok() || others.is_ok() {
            taking.push((gpu, device));
        }
    }
    Ok(((!taking.is_empty()).then_some((set, taking)), whole))
}

/// Asks for what the GPU has beside XIDs, and is known here.
fn others(device: &Device<'_>, set: &EventSet<'_>, deaf: bool) -> Result<(), NvmlError> {
    let listened = KINDS.iter().filter(|(_, what)| !(deaf && what.is_ordinary()));
    let known = listened.fold(0, |all, (bit, _)| all | bit);
    match events::supported(device)? & known {
        0 => Err(NvmlError::NotSupported),
        kinds => events::register(device, kinds, set),
    }
}

fn fails(shared: &Shared, error: &NvmlError) {
    if standing(error) == HandleState::Void {
        shared.restart(format!("nvmlEventSetWait_v2: {error}"));
    }
    let mut gpus = shared.gpus();
    let names: Vec<String> = gpus.devices.iter().map(|(gpu, _)| gpu.clone()).collect();
    for (gpu, events) in names.iter().flat_map(|gpu| [(gpu, XID), (gpu, EVENTS)]) {
        if !matches!(gpus.unseen.get(&(gpu.clone(), events)), Some(Unseen::Unsupported)) {
            gpus.sees(gpu, events, Some(Unseen::Failing(error.to_string())));
        }
    }
}

/// Whether clocks and states change too often to be listened to.
#[derive(Default)]
struct Flood {
    since: Option<Instant>,
    came: u32,
    until: Option<Instant>,
}

impl Flood {
    fn came(&mut self) {
        let now = Instant::now();
        if self.since.is_none_or(|since| now.duration_since(since) >= TELL_EVERY) {
            (self.since, self.came) = (Some(now), 0);
        }
        self.came += 1;
        if self.came > FLOOD {
            self.until = Some(now + DEAF);
        }
    }

    fn deaf(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// With the GPU instance and the compute instance that it is of.
    Xid(u64, (Option<u32>, Option<u32>)),
    Event(GpuEvent),
}

/// Events that wait to be told.
#[derive(Default)]
struct PendingEvents {
    waiting: BTreeMap<(String, What), PendingEvent>,
}

struct PendingEvent {
    count: u64,
    seen_ns: u64,
    last_sent: Option<Instant>,
}

impl PendingEvents {
    fn take(&mut self, gpu: String, what: What) {
        let new = || PendingEvent { count: 0, seen_ns: 0, last_sent: None };
        let waiting = self.waiting.entry((gpu, what)).or_insert_with(new);
        waiting.count += 1;
        waiting.seen_ns = now_ns();
    }

    fn flush(&mut self, shared: &Shared) {
        let due = |last_sent: Option<Instant>| last_sent.is_none_or(|at| at.elapsed() >= TELL_EVERY);
        self.waiting.retain(|(gpu, what), waiting| {
            if waiting.count > 0 && due(waiting.last_sent) {
                let (mono_ns, gpu, count) = (waiting.seen_ns, gpu.clone(), waiting.count);
                shared.send(&match *what {
                    What::Xid(code, (gpu_instance, compute_instance)) => {
                        Frame::Xid(Xid { mono_ns, gpu, code, gpu_instance, compute_instance, count })
                    }
                    What::Event(what) => Frame::Happened(Happened { mono_ns, gpu, what, count }),
                });
                waiting.count = 0;
                waiting.last_sent = Some(Instant::now());
            }
            waiting.count > 0 || !due(waiting.last_sent)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_clock_changes_is_not_listened_to_for_a_while() {
        let mut flood = Flood::default();
        (0..FLOOD).for_each(|_| flood.came());
        assert!(!flood.deaf(), "so many are borne");
        flood.came();
        assert!(flood.deaf());
        let mut slow = Flood::default();
        for _ in 0..3 * FLOOD {
            slow.came();
            // Each in a second of its own.
            slow.since = slow.since.and_then(|since| since.checked_sub(TELL_EVERY));
        }
        assert!(!slow.deaf());
    }
}
