//! The daemon's own heap.

/// Gives memory that was needed once back to the system: the daemon stays for months.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: malloc_trim takes no pointers and is safe to call at any time from any thread.
        let _ = unsafe { libc::malloc_trim(0) };
    }
}
