//! What the kernel knows by number instead of by name, and how the rules call it.

use std::collections::{BTreeMap, BTreeSet};

/// A key of the kernel's table of numbers: what it is of, and its two parts.
pub type NumberKey = (u32, u64, u64);

/// A file or folder, whatever its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Inode {
    /// Its number.
    pub number: u64,
    /// Its device, as the kernel has it.
    pub device: u64,
}

/// How the rules call what is entered by inode: the exact path of a file, that of a folder with its `/`.
pub type Names = BTreeMap<Inode, BTreeSet<String>>;

/// How the rules call devices, by the kind and major number, and the minor number, of a device's key.
pub type Devices = BTreeMap<(u64, u64), BTreeSet<String>>;

/// `b` of a device's key that stands for every minor number.
pub const ANY_MINOR: u64 = u64::MAX;

/// The key in [`Devices`] of one device, and that of all of its kind and major number.
#[must_use]
pub fn device_keys(block: bool, major: u32, minor: u32) -> [(u64, u64); 2] {
    let kind = (if block { 1 } else { 2 } << 32) | u64::from(major);
    [(kind, u64::from(minor)), (kind, ANY_MINOR)]
}
