//! What the users of aya share: the marker of plain data in maps, and bpf(2) for the little that aya does not do: a link of a
//! device program to a cgroup, which aya makes but gives no way to pin.
//!
//! Source: `include/uapi/linux/bpf.h`, `union bpf_attr`.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Plain data of the ABI, as aya wants it marked.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Pod<T>(pub T);

// SAFETY: `Plain` is sealed and implemented only for `repr(C)` types made of integers, without implicit padding, for
// which any bytes are a value; the wrapper is transparent.
unsafe impl<T: failsafe_ebpf::abi::Plain + 'static> aya::Pod for Pod<T> {}

const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_QUERY: libc::c_int = 16;

/// `BPF_CGROUP_DEVICE` of `enum bpf_attach_type`.
pub const CGROUP_DEVICE: u32 = 6;

/// The members of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// The members for `BPF_OBJ_PIN`.
#[repr(C)]
#[derive(Default)]
struct ObjPin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Attaches a `BPF_PROG_TYPE_CGROUP_DEVICE` program to a cgroup, beside others. Closing the link detaches it, unless it is
/// pinned.
///
/// # Errors
/// As bpf(2).
pub fn link_device(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let attr =
        LinkCreate { prog_fd: fd(program), target_fd: fd(cgroup), attach_type: CGROUP_DEVICE, ..LinkCreate::default() };
    let made = bpf(BPF_LINK_CREATE, &attr)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}

/// The members for `BPF_PROG_QUERY`.
#[repr(C)]
#[derive(Default)]
struct ProgQuery {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
}

/// How many programs of this type (`enum bpf_attach_type`) are attached to this very cgroup.
///
/// # Errors
/// As bpf(2).
pub fn attached(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<u32> {
    // Without room for their ids, only their number is returned.
    let mut attr = ProgQuery { target_fd: fd(cgroup), attach_type, ..ProgQuery::default() };
    // JUSTIFICATION: libc has no wrapper for bpf(2).
    // SAFETY: `attr` is a live `repr(C)` prefix of `union bpf_attr` of the length given, which the kernel writes its answer to;
    // `prog_ids` is null and its length 0, so that nothing else is written.
    let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut attr, size_of::<ProgQuery>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(attr.prog_cnt) }
}

/// Pins an object in bpffs.
///
/// # Errors
/// As bpf(2); a path with a NUL byte.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = ObjPin { pathname: path.as_ptr() as u64, bpf_fd: fd(object), ..ObjPin::default() };
    bpf(BPF_OBJ_PIN, &attr).map(drop)
}

fn fd(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}

fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<i32> {
    // JUSTIFICATION: libc has no wrapper for bpf(2).
    // SAFETY: `attr` is a live `repr(C)` prefix of `union bpf_attr` of the length given, and what it points to outlives
    // the call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { i32::try_from(done).map_err(io::Error::other) }
}
