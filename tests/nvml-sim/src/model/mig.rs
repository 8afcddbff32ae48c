//! MIG devices: each a GPU instance of its own with one compute instance.

use super::Gpu;
use crate::scenario::MigProfile;

const MIB: u64 = 1024 * 1024;

/// One MIG device.
#[derive(Clone, Debug)]
pub(crate) struct Mig {
    pub(crate) uuid: String,
    pub(crate) gpu_instance: u32,
    pub(crate) compute_instance: u32,
    pub(crate) profile: MigProfile,
}

impl Mig {
    /// Bytes.
    pub(crate) fn memory(&self) -> u64 {
        self.profile.gigabytes * 1024 * MIB
    }
}

impl Gpu<'_> {
    pub(crate) fn mig_enabled(&self) -> bool {
        self.spec.table.mig.is_some()
    }

    pub(crate) fn mig_devices(&self) -> Vec<Mig> {
        let profiles = self.spec.table.mig.iter().flatten().enumerate();
        profiles.map(|(at, profile)| self.mig(at as u32, *profile)).collect()
    }

    fn mig(&self, at: u32, profile: MigProfile) -> Mig {
        let uuid = format!("MIG-5afe0000-0000-4000-{:04x}-{at:012x}", self.index);
        Mig { uuid, gpu_instance: at + 1, compute_instance: 0, profile }
    }
}
