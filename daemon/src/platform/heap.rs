//! The daemon's own heap.

/// Bytes from which a block has pages of its own, which go back to the system as soon as it is freed.
#[cfg(target_env = "gnu")]
const OWN_PAGES: libc::c_int = 256 << 10;

/// Keeps large blocks out of the heaps of threads. Without it glibc raises the limit from which blocks have pages of their own to
/// the largest block that was freed (9 MiB, when the kernel's BTF is read), and later ones stay in the heaps. Call it once, first.
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
