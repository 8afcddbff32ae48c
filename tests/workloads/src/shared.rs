//! Counters in a file that several processes map: they advance without a system call, so a frozen process's counter
//! stands still and nothing else explains it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// `n` counters of 64 bits, little-endian in the file on x86, mapped shared.
pub struct Counters {
    base: NonNull<AtomicU64>,
    n: usize,
}

// SAFETY: the mapping lives as long as the value and is only reached through atomics.
unsafe impl Sync for Counters {}

impl Counters {
    /// Maps the file at `path`, made or grown to hold `n` counters.
    ///
    /// # Errors
    /// The file cannot be opened, sized or mapped.
    pub fn open(path: &Path, n: usize) -> io::Result<Counters> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let bytes = n.max(1) * size_of::<AtomicU64>();
        if file.metadata()?.len() < bytes as u64 {
            file.set_len(bytes as u64)?;
        }
        Counters::map(libc::MAP_SHARED, file.as_raw_fd(), n)
    }

    /// `n` counters without a file, shared with children made by fork.
    ///
    /// # Errors
    /// The kernel refuses the memory.
    pub fn anonymous(n: usize) -> io::Result<Counters> {
        Counters::map(libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, n)
    }

    /// The counter `i`; `None` beyond the last.
    #[must_use]
    pub fn get(&self, i: usize) -> Option<&AtomicU64> {
        // SAFETY: `i` is within the mapping, which is page-aligned and at least `n` counters long.
        (i < self.n).then(|| unsafe { self.base.add(i).as_ref() })
    }

    fn map(flags: i32, fd: i32, n: usize) -> io::Result<Counters> {
        let bytes = n.max(1) * size_of::<AtomicU64>();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, fd, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap gave address 0"))?;
        Ok(Counters { base, n })
    }
}

impl Drop for Counters {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this length, and no reference outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.n.max(1) * size_of::<AtomicU64>()) };
    }
}

/// Reads the counters of a file from outside, without mapping it.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<u64>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect())
}

/// Counts up until `stop` says so; it is asked only now and then.
pub fn spin(counter: &AtomicU64, mut stop: impl FnMut() -> bool) {
    while !stop() {
        for _ in 0..100_000 {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_shared_through_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("counters");
        let a = Counters::open(&path, 3).unwrap();
        let b = Counters::open(&path, 3).unwrap();
        a.get(1).unwrap().fetch_add(5, Ordering::Relaxed);
        assert_eq!(b.get(1).unwrap().load(Ordering::Relaxed), 5);
        assert_eq!(read(&path).unwrap(), [0, 5, 0]);
        assert!(a.get(3).is_none());
    }
}
