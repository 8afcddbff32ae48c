//! A run's latch, and whom a stop rule stopped: turning, reading, lifting and handing on.

use std::sync::Arc;

use failsafe_ebpf::abi::{self, latch};

use super::ebpf::Ebpf;
use super::error::Error;
use super::handles::{Heartbeat, Latches};
use crate::platform::bpf::Pod;

impl Ebpf {
    /// Refuses everything that could leave the run over IP (true), or puts its policy back in force (false): then also what a
    /// stop rule latched.
    ///
    /// # Errors
    /// Unknown slot, or the map could not be written.
    pub fn set_block(&mut self, slot: u32, blocked: bool) -> Result<(), Error> {
        let epoch = self.runs.get(&slot).ok_or(Error::Slot(slot))?.cfg.epoch;
        self.latches.set_block(slot, epoch, blocked)
    }

    /// Takes over what an earlier daemon's programs had of the run: its latch, on top of what it has now, and whom they stopped.
    ///
    /// # Errors
    /// Unknown slot, or a map could not be written.
    pub fn restore(&mut self, slot: u32, latch: u32, pids: &[u32], spent: &[u64]) -> Result<(), Error> {
        let epoch = self.runs.get(&slot).ok_or(Error::Slot(slot))?.cfg.epoch;
        self.latches.change(slot, |now| now | latch)?;
        let mut stopped = self.object.hash::<u32, Pod<abi::Occupant>>("stopped")?;
        for pid in pids {
            stopped.insert(pid, Pod(abi::Occupant { slot, epoch }), 0).map_err(Error::map("stopped"))?;
        }
        self.object.add_spent(slot, spent)
    }

    /// Lifts what a stop rule latched, but not an operator's or a rule's block.
    ///
    /// # Errors
    /// Unknown slot, or the map could not be written.
    pub fn lift_stop(&mut self, slot: u32, blocked: bool) -> Result<(), Error> {
        self.latches.write(slot, if blocked { latch::EGRESS } else { 0 })
    }

    /// Processes that a stop rule sent SIGSTOP since the last call, of this run; they are forgotten here.
    ///
    /// # Errors
    /// Unknown slot, or the map could not be read.
    pub fn take_stopped(&mut self, slot: u32) -> Result<Vec<u32>, Error> {
        let epoch = self.runs.get(&slot).ok_or(Error::Slot(slot))?.cfg.epoch;
        self.object.take_processes("stopped", |s: &abi::Occupant| (s.slot, s.epoch) == (slot, epoch))
    }

    /// Whether the run is blocked altogether, as the kernel has it.
    ///
    /// # Errors
    /// Unknown slot, or the map could not be read.
    pub fn is_blocked(&self, slot: u32) -> Result<bool, Error> {
        Ok(self.latch(slot)? != 0)
    }

    /// The run's latch ([`abi::latch`]), as the kernel has it.
    ///
    /// # Errors
    /// Unknown slot, or the map could not be read.
    pub fn latch(&self, slot: u32) -> Result<u32, Error> {
        if !self.runs.contains_key(&slot) {
            return Err(Error::Slot(slot));
        }
        self.latches.read(slot)
    }

    /// Whether the slot still has this occupant.
    #[must_use]
    pub fn is_occupant(&self, slot: u32, epoch: u32) -> bool {
        self.runs.get(&slot).is_some_and(|live| live.cfg.epoch == epoch)
    }

    /// The handle by which latches are set without waiting for whoever changes runs.
    #[must_use]
    pub fn latches(&self) -> Arc<Latches> {
        self.latches.clone()
    }

    /// The handle of the daemon's sign of life.
    #[must_use]
    pub fn heartbeat(&self) -> Arc<Heartbeat> {
        self.heartbeat.clone()
    }
}
