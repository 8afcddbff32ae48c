//! The daemon's own heap.

/// Bytes from which a block has pages of its own, which go back to the system as soon as it is freed.
#[cfg(target_env = "gnu")]
const OWN_PAGES: libc::c_int = 256 << 10;

/// Keeps large blocks out of the heaps of threads. Without it glibc raises the limit from which blocks have pages of their own to
/// the largest block that was freed (9 MiB, when the kernel's BTF is read), and later ones stay in the heaps. Call it once, first.
///
/// The price: a block of 300 KiB that is made, filled and freed takes 163 us, most of it for page faults, and 3 us otherwise. glibc no longer
/// adapts the size of free memory at the end of a heap that it gives back, 128 KiB, either: a block of 200 KiB at the end takes 41 us,
/// and 2 us otherwise. More than that per thread would stay in the heaps if it were raised.
pub fn keep_large_blocks_apart() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: mallopt takes numbers and is safe to call at any time. Its result says only whether it knows the option.
        let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES) };
    }
}

/// Gives memory that was needed once back to the system: the daemon stays for months.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: malloc_trim takes no pointers and is safe to call at any time from any thread.
        let _ = unsafe { libc::malloc_trim(0) };
    }
}
