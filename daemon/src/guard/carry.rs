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
use std::path::Path;

use aya::maps::{Array, HashMap, MapData};
use failsafe_ebpf::abi::{self, run_flag};

use super::tally::Outage;
use super::{Ebpf, Error, PreviousRun};
use crate::platform::bpf::Pod;

type Learnt<'a> = HashMap<&'a mut MapData, Pod<abi::LearntKey>, u64>;

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
        let removed = self.pins.as_ref().map_or(Ok(0), |pins| pins.release_others(keep))?;
        let gone = |live: &mut super::runs::Live| match keep.contains(&live.cfg.root_id) {
            true => Vec::new(),
            false => std::mem::take(&mut live.heir_of),
        };
        let heirs = self.runs.values_mut().map(|l| (gone(l), l.cfg.table, l.cfg.flags));
        let heirs: Vec<_> = heirs.filter(|(from, _, flags)| !from.is_empty() && flags & run_flag::DNS != 0).collect();
        for (from, table, _) in heirs {
            self.carry_learnt(&from, table)?;
        }
        let tables: BTreeSet<u32> = self.runs.values().map(|live| live.cfg.table).collect();
        self.forget_learnt(|table| !tables.contains(&table) && !kept.contains(&table))?;
        Ok(removed)
    }

    /// What earlier daemons' programs know of the run, at this moment.
    pub(super) fn previous_of(&self, root_id: u64) -> Option<PreviousRun> {
        self.pins.as_ref().ok().and_then(|pins| pins.previous_of(root_id))
    }

    /// Takes over what an earlier daemon's programs counted and held, once this daemon's own are attached.
    pub(super) fn take_over(&mut self, slot: u32, before: &PreviousRun) -> Result<(), Error> {
        self.restore(slot, before.latch, &before.stopped, &before.spent)?;
        self.note_strays(slot, &before.strays)?;
        if let Some(live) = self.runs.get_mut(&slot) {
            live.outage = Some(before.outage());
        }
        self.begin_tally(slot, before.total, before.sampled)
    }

    /// The exit of one that is gone by now was too early to remove its note, and its number may be another's next.
    fn note_strays(&mut self, slot: u32, pids: &[u32]) -> Result<(), Error> {
        let epoch = self.runs.get(&slot).ok_or(Error::Slot(slot))?.cfg.epoch;
        let mut strays: HashMap<_, u32, Pod<abi::Occupant>> =
            HashMap::try_from(self.map_mut("strays")?).map_err(Error::map("strays"))?;
        for pid in pids {
            strays.insert(pid, Pod(abi::Occupant { slot, epoch }), 0).map_err(Error::map("strays"))?;
            if !Path::new("/proc").join(pid.to_string()).exists() {
                let _ = strays.remove(pid);
            }
        }
        Ok(())
    }

    /// The number of a new table: one that no list of this or an earlier daemon ever had.
    pub(super) fn new_table(&mut self) -> Result<u32, Error> {
        let mut map: Array<_, u32> = Array::try_from(self.map_mut("last_table")?).map_err(Error::map("last_table"))?;
        let table = map.get(&0, 0).map_err(Error::map("last_table"))? + 1;
        map.set(0, table, 0).map_err(Error::map("last_table"))?;
        Ok(table)
    }

    /// What was learnt under one list holds under the next, whose hosts have the same numbers.
    pub(super) fn carry_learnt(&mut self, from: &[u32], to: u32) -> Result<(), Error> {
        let mut learnt = self.learnt()?;
        let known: Vec<_> =
            learnt.iter().filter_map(Result::ok).filter(|(Pod(key), _)| from.contains(&key.table)).collect();
        for (Pod(key), hosts) in known {
            let key = Pod(abi::LearntKey { table: to, ..key });
            let now = learnt.get(&key, 0).unwrap_or(0);
            if now | hosts != now {
                learnt.insert(key, now | hosts, 0).map_err(Error::map("learnt"))?;
            }
        }
        Ok(())
    }

    /// For lists that are no longer in force.
    pub(super) fn forget_learnt(&mut self, gone: impl Fn(u32) -> bool) -> Result<(), Error> {
        let mut learnt = self.learnt()?;
        let keys: Vec<_> = learnt.keys().filter_map(Result::ok).filter(|Pod(key)| gone(key.table)).collect();
        for key in keys {
            let _ = learnt.remove(&key);
        }
        Ok(())
    }

    fn learnt(&mut self) -> Result<Learnt<'_>, Error> {
        HashMap::try_from(self.map_mut("learnt")?).map_err(Error::map("learnt"))
    }
}
