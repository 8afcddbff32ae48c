//! NVML's types as C sees them: structs (`layout`), constants (`consts`) and
//! return codes (`code`). Names are those of `nvml.h`, so that a search finds both.

mod code;
pub(crate) mod consts;
mod layout;

pub(crate) use code::Code;
pub(crate) use layout::*;
pub use layout::{Layout, layouts};

/// The integer every NVML function returns (`nvmlReturn_t`).
pub(crate) type ReturnCode = core::ffi::c_uint;

/// `nvmlDevice_t`: opaque to the caller and never dereferenced here, so it is a number
/// of a pointer's size.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeviceHandle(usize);

/// Base and stride make stray pointers and small integers fail to pass as handles.
const HANDLE_BASE: usize = 0x4e56_4d4c_0000;
const HANDLE_STRIDE: usize = 0x1000;
const HANDLE_LIMIT: usize = 256;
/// MIG devices lie behind their GPU's handle.
const MIG_STRIDE: usize = 0x10;
const MIG_LIMIT: usize = 64;

impl DeviceHandle {
    pub(crate) fn of_index(index: usize) -> Self {
        Self(HANDLE_BASE + index * HANDLE_STRIDE)
    }

    pub(crate) fn of_mig(index: usize, mig: usize) -> Self {
        Self(HANDLE_BASE + index * HANDLE_STRIDE + (mig + 1) * MIG_STRIDE)
    }

    /// The GPU's index, and the MIG device's where the handle is of one.
    pub(crate) fn mig(self) -> Option<(usize, Option<usize>)> {
        let offset = self.0.checked_sub(HANDLE_BASE)?;
        let (index, inside) = (offset / HANDLE_STRIDE, offset % HANDLE_STRIDE);
        let mig = inside / MIG_STRIDE;
        let sound = index < HANDLE_LIMIT && inside % MIG_STRIDE == 0 && mig <= MIG_LIMIT;
        sound.then_some((index, mig.checked_sub(1)))
    }

    /// The index this handle was made for, or `None` for anything never handed out.
    pub(crate) fn index(self) -> Option<usize> {
        let offset = self.0.checked_sub(HANDLE_BASE)?;
        let index = offset / HANDLE_STRIDE;
        (offset % HANDLE_STRIDE == 0 && index < HANDLE_LIMIT).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::DeviceHandle;

    #[test]
    fn only_handles_made_here_have_an_index() {
        assert_eq!(DeviceHandle::of_index(7).index(), Some(7));
        assert_eq!(DeviceHandle(0).index(), None, "null");
        assert_eq!(DeviceHandle(3).index(), None);
        let off_by_one = DeviceHandle(DeviceHandle::of_index(7).0 + 1);
        assert_eq!(off_by_one.index(), None);
        assert_eq!(DeviceHandle(usize::MAX).index(), None);
        let mig = DeviceHandle::of_mig(7, 2);
        assert_eq!((mig.index(), mig.mig()), (None, Some((7, Some(2)))));
        assert_eq!(DeviceHandle::of_index(7).mig(), Some((7, None)));
    }
}
