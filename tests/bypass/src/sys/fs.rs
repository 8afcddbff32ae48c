//! Files and mounts by their less usual calls.

use super::{answer, descriptor};
use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

/// What `name_to_handle_at(2)` gives: a file without a path.
pub struct Handle(Box<[u64; 18]>);

/// The handle of a file.
///
/// # Errors
/// The kernel's answer.
pub fn handle_of(path: &CStr) -> io::Result<Handle> {
    // `struct file_handle`: the size of what follows, the kind, then up to MAX_HANDLE_SZ (128) bytes.
    let mut handle = Box::new([0_u64; 18]);
    let size = u32::to_ne_bytes(128);
    handle[0] = u64::from(u32::from_ne_bytes(size));
    if cfg!(target_endian = "big") {
        handle[0] <<= 32;
    }
    let mut mount = 0_i32;
    // SAFETY: the kernel writes at most 8 + 128 bytes to `handle`, which has 144, and one number to `mount`.
    let said = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            path.as_ptr(),
            handle.as_mut_ptr(),
            &raw mut mount,
            0,
        )
    };
    answer(said)?;
    Ok(Handle(handle))
}

/// `open_by_handle_at(2)`; `mount` is any file of the same file system.
///
/// # Errors
/// The kernel's answer.
pub fn open_handle(mount: impl AsFd, handle: &Handle, flags: i32) -> io::Result<OwnedFd> {
    let at = mount.as_fd().as_raw_fd();
    // SAFETY: the kernel reads the handle's own length of it, which is within the box.
    descriptor(unsafe { libc::syscall(libc::SYS_open_by_handle_at, at, handle.0.as_ptr(), flags) })
}

/// `openat2(2)` of an absolute path.
///
/// # Errors
/// The kernel's answer.
pub fn open2(path: &CStr, flags: i32) -> io::Result<OwnedFd> {
    let how = [u64::try_from(flags).unwrap_or_default(), 0, 0];
    // SAFETY: `struct open_how` is three numbers of 64 bits, as `how` is.
    descriptor(unsafe {
        libc::syscall(libc::SYS_openat2, libc::AT_FDCWD, path.as_ptr(), how.as_ptr(), size_of_val(&how))
    })
}

/// `open(2)` of a path that another thread rewrites meanwhile; it ends with a zero byte that nobody rewrites.
///
/// # Errors
/// The kernel's answer.
pub fn open_racing(path: &super::process::Racing, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads the path up to its zero byte; that it changes meanwhile is the kernel's to bear.
    descriptor(unsafe { libc::openat(libc::AT_FDCWD, path.pointer().cast(), flags) }.into())
}

/// A copy of the mount at `path`, attached nowhere: `open_tree(2)` with `OPEN_TREE_CLONE`.
///
/// # Errors
/// The kernel's answer.
pub fn clone_mount(path: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: the path ends with a zero byte.
    descriptor(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), 1 | libc::O_CLOEXEC) })
}

/// A new file system of this kind, attached nowhere: `fsopen`, `fsconfig`, `fsmount`.
///
/// # Errors
/// The kernel's answer.
pub fn new_mount(kind: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: the name ends with a zero byte.
    let context = descriptor(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1) })?;
    let none = std::ptr::null::<u8>();
    // SAFETY: FSCONFIG_CMD_CREATE (6) takes neither key nor value.
    answer(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), 6, none, none, 0) })?;
    // SAFETY: no pointer is passed.
    descriptor(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, 0) })
}

/// `move_mount(2)` of such a mount to `path`.
///
/// # Errors
/// The kernel's answer.
pub fn attach_mount(mount: impl AsFd, path: &CStr) -> io::Result<()> {
    let (from, empty, at) = (mount.as_fd().as_raw_fd(), c"".as_ptr(), libc::AT_FDCWD);
    // SAFETY: both paths end with a zero byte; 4 is MOVE_MOUNT_F_EMPTY_PATH.
    answer(unsafe { libc::syscall(libc::SYS_move_mount, from, empty, at, path.as_ptr(), 4) }).map(drop)
}
