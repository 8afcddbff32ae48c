//! A medium in memory that can be short of space, fail, hang and lose power. For tests, here and in the daemon.
//!
//! It keeps two images: what programs see (`seen`) and what a power cut leaves at least (`safe`). As on Linux, bytes that
//! were dirty during a failed sync are not written by a later one: after a power cut they read as zeros.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{ReadAt, Storage};

/// Shared handle to one simulated medium: give one clone to the log, keep one to torment it.
#[derive(Debug, Clone, Default)]
pub struct SimStorage {
    shared: Arc<(Mutex<Disk>, Condvar)>,
}

#[derive(Debug, Default)]
struct Disk {
    seen: Vec<u8>,
    safe: Vec<u8>,
    /// Shortest `seen` since the last sync: below it, `seen` and `safe` agree.
    floor: usize,
    lost: Vec<Range<usize>>,
    capacity: Option<usize>,
    longest_write: Option<usize>,
    failing_syncs: u32,
    failing_truncates: u32,
    held: bool,
    waiting_syncs: u32,
    syncs: u64,
}

impl SimStorage {
    /// An empty medium without faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A medium that safely holds `image`.
    #[must_use]
    pub fn holding(image: &[u8]) -> Self {
        let sim = Self::new();
        let mut disk = sim.disk();
        (disk.seen, disk.safe, disk.floor) = (image.to_vec(), image.to_vec(), image.len());
        drop(disk);
        sim
    }

    /// Bytes the medium can hold; None without limit. Beyond it, writes are cut short and then fail with ENOSPC.
    pub fn set_capacity(&self, capacity: Option<usize>) {
        self.disk().capacity = capacity;
    }

    /// Longest single write; longer ones are cut short.
    pub fn set_longest_write(&self, longest: Option<usize>) {
        self.disk().longest_write = longest;
    }

    /// The next `n` syncs fail with EIO.
    pub fn fail_syncs(&self, n: u32) {
        self.disk().failing_syncs = n;
    }

    /// The next `n` truncations fail with EIO.
    pub fn fail_truncates(&self, n: u32) {
        self.disk().failing_truncates = n;
    }

    /// Makes syncs hang until [`release`](Self::release).
    pub fn hold(&self) {
        self.disk().held = true;
    }

    /// Lets hanging and later syncs go on.
    pub fn release(&self) {
        self.disk().held = false;
        self.shared.1.notify_all();
    }

    /// Waits until a sync hangs.
    pub fn await_held_sync(&self) {
        let mut disk = self.disk();
        while disk.waiting_syncs == 0 {
            disk = self.shared.1.wait(disk).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Successful syncs so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.disk().syncs
    }

    /// What programs see.
    #[must_use]
    pub fn image(&self) -> Vec<u8> {
        self.disk().seen.clone()
    }

    /// Changes what programs see and what is safe, as another program would.
    pub fn tamper(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut disk = self.disk();
        change(&mut disk.seen);
        (disk.safe, disk.floor) = (disk.seen.clone(), disk.seen.len());
    }

    /// The medium after a power cut now: of the unsynced bytes `keep` survive at most, and an unsynced truncation took place
    /// only if `cut_kept`. All faults are gone.
    #[must_use]
    pub fn power_cut(&self, keep: usize, cut_kept: bool) -> Self {
        let disk = self.disk();
        let image = if disk.floor < disk.safe.len() && !cut_kept {
            disk.safe.clone()
        } else {
            let mut image = disk.seen[..disk.floor.saturating_add(keep).min(disk.seen.len())].to_vec();
            for lost in &disk.lost {
                let end = lost.end.min(image.len());
                if let Some(bytes) = image.get_mut(lost.start..end) {
                    bytes.fill(0);
                }
            }
            image
        };
        drop(disk);
        Self::holding(&image)
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn eio() -> io::Error {
    io::Error::from(nix::errno::Errno::EIO)
}

impl ReadAt for SimStorage {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.disk().seen.as_slice().read_at(offset, buf)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk().seen.len() as u64)
    }
}

impl Storage for SimStorage {
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut disk = self.disk();
        let space = disk.capacity.map_or(usize::MAX, |capacity| capacity.saturating_sub(disk.seen.len()));
        let n = bytes.len().min(space).min(disk.longest_write.unwrap_or(usize::MAX));
        if n == 0 && !bytes.is_empty() {
            return Err(io::Error::from(nix::errno::Errno::ENOSPC));
        }
        disk.seen.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.waiting_syncs += 1;
        self.shared.1.notify_all();
        while disk.held {
            disk = self.shared.1.wait(disk).unwrap_or_else(PoisonError::into_inner);
        }
        disk.waiting_syncs -= 1;
        if disk.failing_syncs > 0 {
            disk.failing_syncs -= 1;
            let dirty = disk.floor..disk.seen.len();
            disk.lost.push(dirty);
            return Err(eio());
        }
        disk.syncs += 1;
        let mut safe = disk.seen.clone();
        for lost in &disk.lost {
            safe[lost.start.min(disk.seen.len())..lost.end.min(disk.seen.len())].fill(0);
        }
        disk.floor = disk.seen.len();
        disk.safe = safe;
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let mut disk = self.disk();
        if disk.failing_truncates > 0 {
            disk.failing_truncates -= 1;
            return Err(eio());
        }
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        disk.seen.resize(len, 0);
        disk.floor = disk.floor.min(len);
        // Pages that are written anew become dirty again, and a later sync does write those.
        for lost in &mut disk.lost {
            lost.end = lost.end.min(len);
        }
        disk.lost.retain(|lost| lost.start < lost.end);
        Ok(())
    }
}
