//! Which ordinary events a run reports.

/// Whether an ordinary event is reported, and how fast it has to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Not at all.
    Never,
    /// With the next event that has to be known at once, or within `LOOKS_EVERY` of the daemon's `sensors::ebpf`: it wakes nobody.
    Later,
    /// As soon as it happens.
    AtOnce,
}

/// Which ordinary events a run reports. Refusals, OOM, moves and watched system calls are always reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Programs started.
    pub exec: Delivery,
    /// Processes made and ended.
    pub life: Delivery,
    /// Connects that were allowed.
    pub connect: bool,
    /// Connects of datagram sockets to what the list does not name.
    pub probe: bool,
    /// Sends to an address that were allowed.
    pub send: bool,
    /// Binds that were allowed.
    pub bind: bool,
}

impl Watch {
    /// None of them.
    pub const NOTHING: Watch =
        Watch { exec: Delivery::Never, life: Delivery::Never, connect: false, probe: false, send: false, bind: false };
}

impl Default for Watch {
    fn default() -> Self {
        Self { exec: Delivery::AtOnce, life: Delivery::AtOnce, connect: true, probe: true, send: true, bind: true }
    }
}
