//! XID events of every GPU, waited for in one event set by one thread.
//!
//! Owns the set and what it has told lately. Invariants: every wait has a timeout; errors back off; an XID is told even
//! when its GPU no longer gives its UUID; the same XID again is told once a second, with a count.

use super::{
    super::frame::{Frame, Xid},
    now_ns,
    read::{Standing, standing},
    shared::{NoXid, Shared, same},
};
use nvml_wrapper::{Device, EventSet, Nvml, bitmasks::event::EventTypes, enums::event::XidError, error::NvmlError};
use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

const WAIT_MS: u32 = 1_000;
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// The same XID of the same GPU is told this often at most.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// A set that misses GPUs is made anew this often.
const REGISTER_AGAIN: Duration = Duration::from_secs(30);

/// Waits until the process ends.
pub fn watch(nvml: &'static Nvml, shared: &Shared) {
    let mut backoff = FIRST_BACKOFF;
    let mut told = Told::default();
    loop {
        let generation = shared.gpus().generation;
        let made = Instant::now();
        let (set, whole) = match register(nvml, shared) {
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
            match set.wait(WAIT_MS) {
                Ok(event) => {
                    backoff = FIRST_BACKOFF;
                    if let Some(code) = event.event_data {
                        told.xid(&name(&event.device, &devices), number(&code));
                    }
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
            told.flush(shared);
            if shared.gpus().generation != generation || (!whole && made.elapsed() > REGISTER_AGAIN) {
                break;
            }
        }
    }
}

type Registered = (EventSet<'static>, Vec<(String, Device<'static>)>);

/// A set with every GPU that takes part, and whether none failed. One failed registration frees the whole set, so the
/// next try leaves that GPU out.
fn register(nvml: &'static Nvml, shared: &Shared) -> Result<(Option<Registered>, bool), NvmlError> {
    let mut devices: Vec<_> =
        shared.gpus().devices.iter().map(|(gpu, device)| (gpu.clone(), same(nvml, device))).collect();
    let mut whole = true;
    'anew: loop {
        if devices.is_empty() {
            return Ok((None, whole));
        }
        let mut set = nvml.create_event_set()?;
        for (at, (gpu, device)) in devices.iter().enumerate() {
            set = match device.register_events(EventTypes::CRITICAL_XID_ERROR, set) {
                Ok(set) => set,
                Err(error) => {
                    let why = match error.error {
                        NvmlError::NotSupported => NoXid::Unsupported,
                        error => {
                            whole = false;
                            NoXid::Failing(error.to_string())
                        }
                    };
                    shared.gpus().xid.insert(gpu.clone(), Some(why));
                    devices.remove(at);
                    continue 'anew;
                }
            };
        }
        let mut gpus = shared.gpus();
        for (gpu, _) in &devices {
            gpus.xid.insert(gpu.clone(), None);
        }
        drop(gpus);
        return Ok((Some((set, devices)), whole));
    }
}

fn fails(shared: &Shared, error: &NvmlError) {
    if standing(error) == Standing::Void {
        shared.restart(format!("nvmlEventSetWait_v2: {error}"));
    }
    for why in shared.gpus().xid.values_mut() {
        if !matches!(why, Some(NoXid::Unsupported)) {
            *why = Some(NoXid::Failing(error.to_string()));
        }
    }
}

/// The GPU of an event, by its handle: a lost GPU does not tell its UUID any more.
fn name(device: &Device<'_>, known: &[(String, Device<'static>)]) -> String {
    // SAFETY: the handles are compared as addresses and never used.
    let equal = |other: &Device<'_>| unsafe { std::ptr::eq(device.handle(), other.handle()) };
    match known.iter().find(|(_, other)| equal(other)) {
        Some((gpu, _)) => gpu.clone(),
        None => device.uuid().unwrap_or_default(),
    }
}

fn number(code: &XidError) -> u64 {
    match code {
        XidError::Value(code) => *code,
        XidError::Unknown => 999,
    }
}

/// XIDs that wait to be told.
#[derive(Default)]
struct Told {
    waiting: BTreeMap<(String, u64), Waiting>,
}

struct Waiting {
    count: u64,
    seen_ns: u64,
    told: Option<Instant>,
}

impl Told {
    fn xid(&mut self, gpu: &str, code: u64) {
        let new = || Waiting { count: 0, seen_ns: 0, told: None };
        let waiting = self.waiting.entry((gpu.to_owned(), code)).or_insert_with(new);
        waiting.count += 1;
        waiting.seen_ns = now_ns();
    }

    fn flush(&mut self, shared: &Shared) {
        let due = |told: Option<Instant>| told.is_none_or(|at| at.elapsed() >= TELL_EVERY);
        self.waiting.retain(|(gpu, code), waiting| {
            if waiting.count > 0 && due(waiting.told) {
                let xid = Xid { mono_ns: waiting.seen_ns, gpu: gpu.clone(), code: *code, count: waiting.count };
                shared.send(&Frame::Xid(xid));
                waiting.count = 0;
                waiting.told = Some(Instant::now());
            }
            waiting.count > 0 || !due(waiting.told)
        });
    }
}
