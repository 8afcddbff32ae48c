//! What the kernel took of the programs, and what is used of its tables: for `doctor`, `node status` and health.

use super::Kernel;
use crate::guard::{kernel_quota::Usage as TableUsage, probe::ProgramStatus, syscalls::Via};
use std::{path::Path, sync::PoisonError};

impl Kernel {
    /// Why there is no eBPF; `None` when there is.
    pub fn blind(&self) -> Option<&str> {
        self.ebpf.as_ref().err().map(String::as_str)
    }

    /// What of the kernel's tables is used, by how much of it users are bounded, and how often each had no room for a run.
    pub fn table_usage(&self) -> Vec<(TableUsage, u64)> {
        self.lock().map(|ebpf| ebpf.table_usage()).unwrap_or_default()
    }

    /// How watched calls are seen now.
    pub fn syscalls_via(&self) -> Option<Via> {
        self.lock().and_then(|e| e.watching_via())
    }

    /// Why fentry is not used for them.
    pub fn fentry_refusal(&self) -> Option<String> {
        self.lock().and_then(|e| e.fentry_refusal().map(str::to_owned))
    }

    /// What became of each program.
    pub fn programs(&self) -> Vec<ProgramStatus> {
        self.lock().map(|e| e.programs().to_vec()).unwrap_or_default()
    }

    /// Guards of egress that this kernel refused.
    pub fn missing_guards(&self) -> Vec<&'static str> {
        self.lock().map(|e| e.missing_guards()).unwrap_or_default()
    }

    /// Where links are pinned, or why they are not.
    pub fn pins(&self) -> Result<std::path::PathBuf, String> {
        match self.lock() {
            Some(ebpf) => ebpf.pin_dir().map(Path::to_owned).map_err(str::to_owned),
            None => Err(self.blind().unwrap_or_default().into()),
        }
    }

    /// In which modes the kernel has had a run, as [`failsafe_ebpf::abi::mode`]; `None`: there is no eBPF, or no such run.
    pub fn modes(&self, slot: u32, epoch: u32) -> Option<u32> {
        self.lock().and_then(|ebpf| ebpf.modes(slot, epoch))
    }

    /// Why the programs are not pinned, so that they end with the daemon. `None`: they are pinned, or there are none.
    pub fn unpinned(&self) -> Option<String> {
        self.lock()?.pin_dir().err().map(str::to_owned)
    }

    /// Whether the run's policy watches system calls, or what is seen at their entry only.
    pub fn watches_calls(&self, slot: u32) -> bool {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get(&slot).is_some_and(|needs| needs.calls != 0 || needs.entries)
    }
}
