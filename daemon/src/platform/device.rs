//! Which device a file is.

use std::{ffi::CString, mem::MaybeUninit, os::unix::ffi::OsStrExt, path::Path};

/// Major and minor number, if the file is a character device. A link is followed, that of an open file below `/proc/PID/fd` too. The
/// file system is not asked: one that a user serves (FUSE), or a server that is gone, does not hold up the caller.
pub fn character_device(path: &Path) -> Option<(u32, u32)> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;
    // JUSTIFICATION: neither std nor nix has statx, and stat waits for the file system.
    // SAFETY: the path ends with a zero byte, and `found` has room for what the kernel writes; both outlive the call.
    let done = unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, libc::STATX_TYPE, found.as_mut_ptr()) };
    if done != 0 {
        return None;
    }
    // SAFETY: all bytes were zero before the call, which is a valid value of each field.
    let found = unsafe { found.assume_init() };
    let is_device = u32::from(found.stx_mode) & libc::S_IFMT == libc::S_IFCHR;
    is_device.then_some((found.stx_rdev_major, found.stx_rdev_minor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_character_device_has_its_numbers_also_by_the_link_of_an_open_file() {
        assert_eq!(character_device(Path::new("/dev/null")), Some((1, 3)));
        let open = std::fs::File::open("/dev/zero").unwrap();
        let link = format!("/proc/self/fd/{}", open.as_raw_fd());
        assert_eq!(character_device(Path::new(&link)), Some((1, 5)));
        assert_eq!(character_device(Path::new("/proc/self/exe")), None);
        assert_eq!(character_device(Path::new("/nowhere")), None);
    }
}
