//! Totals of runs, kept in the kernel per CPU and summed here: on top of what earlier daemons' programs counted.
//!
//! Read at the sampling interval, for the slots in use only: one system call a run.

use aya::maps::PerCpuArray;
use failsafe_ebpf::abi;

use super::ebpf::Ebpf;
use super::error::Error;
use super::live::Live;
use super::totals::{Counted, Total};
use crate::platform::bpf::Pod;

impl Ebpf {
    /// Totals of every live run.
    ///
    /// # Errors
    /// A map look-up failed.
    pub fn read_counters(&self) -> Result<Vec<Counted>, Error> {
        self.totals()?.into_iter().map(|(slot, total)| self.counters_of(slot, total)).collect()
    }

    /// Totals of one live run.
    ///
    /// # Errors
    /// Unknown slot, or a map look-up failed.
    pub fn read_counters_of(&self, slot: u32) -> Result<Counted, Error> {
        let live = self.runs.get(&slot).ok_or(Error::Slot(slot))?;
        let (_, total) = self.totals_of([(&slot, live)])?.pop().ok_or(Error::Slot(slot))?;
        self.counters_of(slot, total)
    }

    /// What one live run sent within each of its budgets, and packets beyond them, in the order of its policy.
    ///
    /// # Errors
    /// Unknown slot, or a map look-up failed.
    pub fn budgets_used(&self, slot: u32, budgets: usize) -> Result<Vec<(u64, u64)>, Error> {
        self.runs.get(&slot).ok_or(Error::Slot(slot))?;
        self.object.budgets_used(slot, budgets)
    }

    /// Totals by slot, of every live run.
    fn totals(&self) -> Result<Vec<(u32, Total)>, Error> {
        self.totals_of(&self.runs)
    }

    fn totals_of<'a>(&self, runs: impl IntoIterator<Item = (&'a u32, &'a Live)>) -> Result<Vec<(u32, Total)>, Error> {
        let map = self.object.map("counters")?;
        let counters: PerCpuArray<_, Pod<abi::Counters>> =
            PerCpuArray::try_from(map).map_err(Error::map("counters"))?;
        let drops: PerCpuArray<_, u64> =
            PerCpuArray::try_from(self.object.map("drops")?).map_err(Error::map("drops"))?;
        let of = |(slot, live): (&u32, &Live)| {
            let here = Total::read(&counters, &drops, *slot).map_err(Error::map("counters"))?;
            Ok((*slot, here.plus(live.earlier)))
        };
        runs.into_iter().map(of).collect()
    }

    fn counters_of(&self, slot: u32, total: Total) -> Result<Counted, Error> {
        let live = self.runs.get(&slot).ok_or(Error::Slot(slot))?;
        Ok(Counted { slot, epoch: live.cfg.epoch, latch: self.latch(slot)?, total, earlier: live.earlier })
    }

    /// Leavings that the ring had no room for, since the last call; they are forgotten here. By process id: no more is known of the
    /// process.
    ///
    /// # Errors
    /// The map could not be read.
    pub fn take_leavers(&mut self) -> Result<Vec<(u32, abi::Leaver)>, Error> {
        let mut map = self.object.hash::<u32, Pod<abi::Leaver>>("leavers")?;
        let left: Vec<(u32, abi::Leaver)> = map.iter().filter_map(Result::ok).map(|(pid, Pod(l))| (pid, l)).collect();
        for (pid, _) in &left {
            let _ = map.remove(pid);
        }
        Ok(left)
    }

    /// Events lost so far, as (slot, epoch, number), of every live run.
    ///
    /// # Errors
    /// A map look-up failed.
    pub fn read_drops(&self) -> Result<Vec<(u32, u32, u64)>, Error> {
        let drops: PerCpuArray<_, u64> =
            PerCpuArray::try_from(self.object.map("drops")?).map_err(Error::map("drops"))?;
        self.live()
            .map(|(slot, epoch)| {
                let per_cpu = drops.get(&slot, 0).map_err(Error::map("drops"))?;
                Ok((slot, epoch, per_cpu.iter().sum()))
            })
            .collect()
    }

    /// As [`Ebpf::read_counters`], and leaves them for the next daemon to tell by what was counted after this one's last look.
    ///
    /// # Errors
    /// A map look-up failed.
    pub fn sample_counters(&mut self) -> Result<Vec<Counted>, Error> {
        let now = crate::platform::clock::monotonic_ns();
        let totals = self.totals()?;
        for (slot, total) in &totals {
            let earlier = self.runs.get(slot).map_or(Total::NONE, |live| live.earlier);
            self.object.write_tally(*slot, earlier, Some((*total, now)))?;
        }
        totals.into_iter().map(|(slot, total)| self.counters_of(slot, total)).collect()
    }

    /// Events of the run that are known to be lost although no programs tell: its total counts on from there.
    ///
    /// # Errors
    /// Unknown slot, or the map could not be written.
    pub fn count_lost(&mut self, slot: u32, lost: u64) -> Result<(), Error> {
        let earlier = self.runs.get(&slot).ok_or(Error::Slot(slot))?.earlier;
        self.begin_tally(slot, Total { lost: earlier.lost.max(lost), ..earlier }, None)
    }

    /// Totals go on from what earlier daemons' programs counted.
    pub(super) fn begin_tally(
        &mut self,
        slot: u32,
        earlier: Total,
        sampled: Option<(Total, u64)>,
    ) -> Result<(), Error> {
        if let Some(live) = self.runs.get_mut(&slot) {
            live.earlier = earlier;
        }
        self.object.write_tally(slot, earlier, sampled)
    }
}
