//! The two maps that containment writes, each by a descriptor and a lock of its own: whoever latches a run, or says that
//! the daemon lives, waits for nobody who adds, removes or reads runs.
//!
//! Owns the descriptors. Each lock is held over one or two bpf(2) calls on an array map, a few microseconds, and never
//! over anything else.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{Array, Map, MapData};
use failsafe_ebpf::abi::{self, latch};

use super::error::Error;
use super::object::Object;
use crate::platform::bpf::Pod;

/// The latches of all runs ([`abi::latch`]).
pub struct Latches(Mutex<Inner>);

struct Inner {
    map: Array<MapData, u32>,
    /// Which occupant a slot has.
    occupants: BTreeMap<u32, u32>,
}

impl Latches {
    pub(super) fn of(object: &Object) -> Result<Self, Error> {
        Ok(Self(Mutex::new(Inner { map: array(object, "latches")?, occupants: BTreeMap::new() })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn occupy(&self, slot: u32, epoch: u32) {
        self.inner().occupants.insert(slot, epoch);
    }

    pub(super) fn vacate(&self, slot: u32) {
        self.inner().occupants.remove(&slot);
    }

    /// Blocks all egress of the slot's occupant (true), or lifts that and what a stop rule latched; reads it back.
    ///
    /// # Errors
    /// The slot has another occupant by now, the map could not be written, or it reads back otherwise.
    pub fn set_block(&self, slot: u32, epoch: u32, blocked: bool) -> Result<(), Error> {
        let mut inner = self.inner();
        if inner.occupants.get(&slot) != Some(&epoch) {
            return Err(Error::Slot(slot));
        }
        let wanted = if blocked { inner.read(slot)? | latch::EGRESS } else { 0 };
        inner.write(slot, wanted)?;
        // A stop rule may have latched it meanwhile: of a block only its own bit matters.
        match inner.read(slot)? {
            now if !blocked || now & latch::EGRESS != 0 => Ok(()),
            _ => Err(Error::Latch(slot)),
        }
    }

    /// The latch as the kernel has it.
    ///
    /// # Errors
    /// The map could not be read.
    pub fn read(&self, slot: u32) -> Result<u32, Error> {
        self.inner().read(slot)
    }

    pub(super) fn write(&self, slot: u32, latch: u32) -> Result<(), Error> {
        self.inner().write(slot, latch)
    }

    /// Changes it in one step.
    pub(super) fn change(&self, slot: u32, change: impl FnOnce(u32) -> u32) -> Result<(), Error> {
        let mut inner = self.inner();
        let now = inner.read(slot)?;
        inner.write(slot, change(now))
    }
}

impl Inner {
    fn read(&self, slot: u32) -> Result<u32, Error> {
        self.map.get(&slot, 0).map_err(Error::map("latches"))
    }

    fn write(&mut self, slot: u32, latch: u32) -> Result<(), Error> {
        self.map.set(slot, latch, 0).map_err(Error::map("latches"))
    }
}

/// The daemon's sign of life to the programs.
pub struct Heartbeat(Mutex<Array<MapData, Pod<abi::Watchdog>>>);

impl Heartbeat {
    pub(super) fn of(object: &Object) -> Result<Self, Error> {
        Ok(Self(Mutex::new(array(object, "watchdog")?)))
    }

    /// Gives it: [`failsafe_matchers::rules::Dead`] counts from the last one.
    ///
    /// # Errors
    /// The map could not be written.
    pub fn beat(&self) -> Result<(), Error> {
        let beat =
            abi::Watchdog { beat_ns: crate::platform::clock::monotonic_ns(), daemon_tgid: std::process::id(), pad: 0 };
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.set(0, Pod(beat), 0).map_err(Error::map("watchdog"))
    }
}

/// An array map of the object, by a descriptor of its own.
fn array<V: aya::Pod>(object: &Object, name: &'static str) -> Result<Array<MapData, V>, Error> {
    let Map::Array(data) = object.map(name)? else { return Err(Error::Missing(name)) };
    let fd = data.fd().as_fd().try_clone_to_owned().map_err(|source| Error::Handle { map: name, source })?;
    let data = MapData::from_fd(fd).map_err(Error::map(name))?;
    Array::try_from(Map::Array(data)).map_err(Error::map(name))
}
