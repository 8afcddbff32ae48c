//! NVLinks, the fabric, and GPM's shares.

use super::{Gpu, process};

/// Counts over all links of a GPU.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LinkCount {
    Crc,
    Replays,
    Recoveries,
    Sent,
    Received,
}

impl Gpu<'_> {
    pub(crate) fn links(&self) -> u32 {
        self.preset().nvlink.count
    }

    /// The first so many are up.
    pub(crate) fn links_up(&self) -> u32 {
        let all = self.links();
        self.value(self.spec.table.nvlink.active.as_ref(), f64::from(all)).min(f64::from(all)) as u32
    }

    /// Over all links; the first link has all errors.
    pub(crate) fn link_count(&self, what: LinkCount) -> u64 {
        let table = &self.spec.table.nvlink;
        match what {
            LinkCount::Crc => self.count(table.crc.as_ref()),
            LinkCount::Replays => self.count(table.replays.as_ref()),
            LinkCount::Recoveries => self.count(table.recoveries.as_ref()),
            LinkCount::Sent => self.value(table.sent.as_ref(), 0.0) as u64,
            LinkCount::Received => self.value(table.received.as_ref(), 0.0) as u64,
        }
    }

    /// `nvmlGpuFabricState_t`; `None` for a model that is on no fabric.
    pub(crate) fn fabric_state(&self) -> Option<u32> {
        let given = self.spec.table.fabric.state.as_ref().map(|it| it.at(self.t) as u32);
        given.or(self.preset().fabric.then_some(3))
    }

    /// % of the time, or of what there is: any work, SMs active, warps resident, tensor cores, memory bandwidth.
    pub(crate) fn gpm(&self) -> [f64; 5] {
        let (table, busy) = (&self.spec.table, self.utilization());
        [
            busy,
            self.load(table.sm_active.as_ref(), busy * 0.9),
            self.load(table.sm_occupancy.as_ref(), busy * 0.4),
            self.load(table.tensor_active.as_ref(), busy * 0.5),
            self.load(table.dram_active.as_ref(), self.memory_utilization()),
        ]
    }

    /// The same of a MIG device: that of the scenario's GPU while a process runs there, else nothing.
    pub(crate) fn gpm_of(&self, mig: usize) -> [f64; 5] {
        let works = self.processes().iter().any(|it| it.mig == Some(mig) && process::runs(it.pid));
        if works { self.gpm() } else { [0.0; 5] }
    }
}
