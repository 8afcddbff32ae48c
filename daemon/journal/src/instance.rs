//! The name under which the daemon of a state folder pins what outlives it in the BPF file system. Whoever cleans up after it
//! must find the same.

use sha2::{Digest, Sha256};
use std::path::Path;

/// 16 hex digits of the folder's path, as it is configured: daemons of different state folders do not meet.
#[must_use]
pub fn name(state_dir: &Path) -> String {
    hex::encode(&Sha256::digest(state_dir.as_os_str().as_encoded_bytes())[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An upgraded daemon must find the pins of the one before: the name never changes.
    #[test]
    fn the_name_stays() {
        assert_eq!(name(Path::new("/var/lib/failsafe")), "9cae5a58ec56c979");
        assert_ne!(name(Path::new("/var/lib/failsafe2")), name(Path::new("/var/lib/failsafe")));
    }
}
