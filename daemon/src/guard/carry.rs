//! Handing a run on: from an earlier daemon's programs to this one's, and from one allow-list of a run to the next.
//!
//! ```text
//! add_run:       latch, addresses learnt ─► attach ─► latch again, the stopped, strays, budgets, totals
//! adopt_finish:  remove the earlier programs ─► addresses that they learnt in between
//! ```
//! What decides about packets is there before the run's programs are attached, so that they cut nothing that was allowed;
//! what is counted is read after that, so that nothing is left out. While both are attached, both count: totals may be
//! too high by that instant, never too low.

use std::collections::BTreeSet;

use failsafe_ebpf::abi::run_flag;

use super::ebpf::Ebpf;
use super::error::Error;
use super::left::{Outage, PreviousRun};
use super::live::Live;

impl Ebpf {
    /// What was counted of a run that was taken up, between its last daemon's last look and this daemon's first. `None`: it is
    /// new, or no earlier daemon's programs were found.
    #[must_use]
    pub fn outage(&self, slot: u32) -> Option<Outage> {
        self.runs.get(&slot).and_then(|live| live.outage)
    }

    /// As [`Ebpf::release_previous`], of every run.
    ///
    /// # Errors
    /// As [`Ebpf::release_previous`].
    pub fn adopt_finish(&mut self) -> Result<usize, Error> {
        self.release_previous(&BTreeSet::new())
    }

    /// Removes the guards that earlier daemons left on runs, but for those with their root in `keep`: the guards of runs that were
    /// added again have been replaced, those of runs that ended guard nothing. What is kept stays in force with its own maps. Returns
    /// the number of generations removed. May be called again, when fewer are to be kept.
    ///
    /// # Errors
    /// bpffs could not be changed; the old guards stay, which is safe.
    pub fn release_previous(&mut self, keep: &BTreeSet<u64>) -> Result<usize, Error> {
        let kept = self.previous_runs()?.into_iter().filter(|run| keep.contains(&run.root_id));
        let kept: BTreeSet<u32> = kept.flat_map(|run| run.tables).collect();
        let removed = self.object.pins().map_or(Ok(0), |pins| pins.release_others(keep))?;
        let gone = |live: &mut Live| match keep.contains(&live.cfg.root_id) {
            true => Vec::new(),
            false => std::mem::take(&mut live.heir_of),
        };
        let heirs = self.runs.values_mut().map(|l| (gone(l), l.cfg.table, l.cfg.flags));
        let heirs: Vec<_> = heirs.filter(|(from, _, flags)| !from.is_empty() && flags & run_flag::DNS != 0).collect();
        for (from, table, _) in heirs {
            self.object.carry_learnt(&from, table)?;
        }
        // What provisional runs have learnt is known by the tables of their rules.
        let early = self.early.tables.values().map(|(table, _)| *table);
        let tables: BTreeSet<u32> = self.runs.values().map(|live| live.cfg.table).chain(early).collect();
        self.object.forget_learnt(|table| !tables.contains(&table) && !kept.contains(&table))?;
        Ok(removed)
    }

    /// What earlier daemons' programs know of the run, at this moment.
    pub(super) fn previous_of(&self, root_id: u64) -> Option<PreviousRun> {
        self.object.pins().ok().and_then(|pins| pins.previous_of(root_id))
    }

    /// Takes over what an earlier daemon's programs counted and held, once this daemon's own are attached.
    pub(super) fn take_over(&mut self, slot: u32, before: &PreviousRun) -> Result<(), Error> {
        self.restore(slot, before.latch, &before.stopped, &before.spent)?;
        let epoch = self.runs.get(&slot).ok_or(Error::Slot(slot))?.cfg.epoch;
        self.object.note_strays((slot, epoch), &before.strays)?;
        if let Some(live) = self.runs.get_mut(&slot) {
            live.outage = Some(before.outage());
        }
        self.begin_tally(slot, before.total, before.sampled)
    }
}
