//! System calls that can be watched, and their bits in the masks of a run.

use failsafe_ebpf::abi;

/// The bits of all calls in a mask.
pub const ALL_CALLS: u64 = (1 << abi::SYSCALLS.len()) - 1;

/// A system call that can be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WatchedCall(u8);

impl WatchedCall {
    /// By the kernel's name for it; `None` when it cannot be watched.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let i = abi::SYSCALLS.iter().position(|n| *n == name)?;
        u8::try_from(i).ok().map(Self)
    }

    /// By its bit in a mask of watched calls.
    #[must_use]
    pub fn of_bit(bit: u32) -> Option<Self> {
        u8::try_from(bit).ok().filter(|bit| usize::from(*bit) < abi::SYSCALLS.len()).map(Self)
    }

    /// The kernel's name for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        abi::SYSCALLS.get(usize::from(self.0)).copied().unwrap_or("unknown")
    }

    /// Its bit in a mask of watched calls.
    #[must_use]
    pub fn mask(self) -> u64 {
        1 << self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_masks_of_watched_calls_agree() {
        for (i, name) in abi::SYSCALLS.iter().enumerate() {
            let call = WatchedCall::from_name(name).unwrap();
            assert_eq!((call.name(), call.mask()), (*name, 1 << i));
        }
        assert_eq!(WatchedCall::from_name("read"), None);
    }
}
