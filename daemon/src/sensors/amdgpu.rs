//! AMD's GPUs, by what the amdgpu driver shows in sysfs and hwmon, and of open files in /proc: no library.
//!
//! Reads files below a root, `/sys` but for tests. Invariants: a file that is missing is a signal that this GPU does not have;
//! one that cannot be read or understood is failing, and stops no other; names and units are the catalogue's. Not yet run on
//! a real AMD GPU.

mod fdinfo;
mod processes;
mod read;
mod watch;

pub use watch::{Amdgpu, AmdgpuEvent};

use crate::sensors::nvml::GpuProcess;
use failsafe_core::Kind;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// PCI vendor of AMD.
const VENDOR: &str = "0x1002";

/// A GPU of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// `amdgpu-` with the driver's unique id, or with the PCI address where it gives none.
    pub id: String,
    /// Its number, `card0` is 0.
    pub index: u32,
    /// PCI address.
    pub pci: Option<String>,
    /// What the driver calls it.
    pub name: String,
    device: PathBuf,
    hwmon: Option<PathBuf>,
}

/// What one GPU said at one time. Each signal is in exactly one of the three.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// Values, each in its kind's unit.
    pub readings: BTreeMap<Kind, i64>,
    /// Signals that this GPU does not have.
    pub unsupported: Vec<Kind>,
    /// Signals whose file cannot be read or understood, with the reason.
    pub failing: Vec<(Kind, String)>,
    /// Processes that use it, in the daemon's pid namespace.
    pub processes: Vec<GpuProcess>,
}

/// The AMD GPUs below `root`, by number.
pub fn cards(root: &Path) -> Vec<Card> {
    let Ok(entries) = std::fs::read_dir(root.join("class/drm")) else { return Vec::new() };
    let mut cards: Vec<Card> = entries.flatten().filter_map(|entry| card(&entry.path())).collect();
    cards.sort_by_key(|card| card.index);
    cards
}

fn card(path: &Path) -> Option<Card> {
    // `card0`, but not its connectors `card0-DP-1`.
    let index = path.file_name()?.to_str()?.strip_prefix("card")?.parse().ok()?;
    let device = path.join("device");
    let text = |name: &str| read::text(&device.join(name)).ok().flatten();
    if text("vendor")? != VENDOR {
        return None;
    }
    // /sys/class/drm/card0/device is a link to the device's own folder, whose name is the PCI address.
    let place = std::fs::canonicalize(&device).ok();
    let place = place.as_deref().and_then(Path::file_name).and_then(|name| name.to_str()).map(str::to_owned);
    let pci = place.filter(|name| name.contains(':'));
    let unique = text("unique_id").filter(|id| !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric()));
    let id = unique.or_else(|| pci.clone()).unwrap_or_else(|| format!("card{index}"));
    let hwmon = std::fs::read_dir(device.join("hwmon")).ok().and_then(|mut all| Some(all.next()?.ok()?.path()));
    let name = text("product_name").filter(|name| !name.is_empty()).unwrap_or_else(|| "AMD GPU".into());
    Some(Card { id: format!("amdgpu-{id}"), index, pci, name, device, hwmon })
}

impl Card {
    /// Reads every signal once.
    pub fn sample(&self) -> Sample {
        read::sample(&self.device, self.hwmon.as_deref())
    }
}

#[cfg(test)]
mod tests;
