//! A run as the guard is given it, and as it holds it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use failsafe_ebpf::abi;
use failsafe_matchers::egress::EgressPolicy;
use failsafe_matchers::keys::{Devices, Names};
use failsafe_matchers::rules::Rules;
use failsafe_matchers::tables::Tables;
use failsafe_matchers::watch::Watch;

use super::attach::Held;
use super::kernel_quota::Holder;
use super::left::Outage;
use super::netns::NetNs;
use super::totals::Total;

/// A run to be watched.
#[derive(Clone, Debug)]
pub struct RunSpec<'a> {
    /// Index into the per-run maps, chosen by the caller; free to use again after [`super::Ebpf::remove_run`].
    pub slot: u32,
    /// Root of the run: a directory of the cgroup v2 file system.
    pub cgroup: &'a Path,
    /// Its cgroup id (the inode number of the directory).
    pub cgroup_id: u64,
    /// Its depth below the root of the hierarchy, which has level 0.
    pub level: u32,
    /// What may leave it.
    pub egress: &'a EgressPolicy,
    /// What else it may do, and what of it is watched; see [`super::Ebpf::require_syscalls`] for the host's side of calls.
    pub rules: &'a Rules,
    /// Which events are wanted.
    pub watch: Watch,
    /// In which share of the kernel's tables it is counted.
    pub holder: Holder,
    /// Addresses that hosts of its list have from the first instant, by the hosts' bits.
    pub learnt: &'a [(IpAddr, u64)],
    /// Its latch from the first instant ([`abi::latch`]), for a run that was so under an earlier daemon.
    pub latch: u32,
    /// Whether an earlier daemon's programs may guard it: what they hold and counted is taken over, see [`super::carry`].
    pub adopt: bool,
}

/// A run that is being watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAttachment {
    /// Its slot.
    pub slot: u32,
    /// Occupant of the slot, as in [`crate::sensors::ebpf::Event::epoch`].
    pub epoch: u32,
    /// Programs that are not attached to it because the kernel refused them.
    pub missing: Vec<&'static str>,
    /// Guards stay in force when the daemon dies.
    pub pinned: bool,
    /// How its rules call the files and folders that the kernel knows by inode.
    pub names: Names,
    /// ... and the devices.
    pub devices: Devices,
}

/// A run in the maps.
#[derive(Debug)]
pub(super) struct Live {
    pub cfg: abi::RunCfg,
    pub level: u32,
    pub path: PathBuf,
    pub links: Vec<Held>,
    pub tables: Option<Tables>,
    /// Numbers of the lists it had under earlier daemons, until their programs are removed.
    pub heir_of: Vec<u32>,
    /// What was counted of it before.
    pub earlier: Total,
    pub outage: Option<Outage>,
    /// Keeps the number in `cfg` that namespace's own.
    pub _netns: NetNs,
}
