//! The few commands of `bpf(2)` that an intruder needs: find a program's link by number and cut it, write a map by its pin.

use super::{answer, descriptor};
use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, OwnedFd},
};

const MAP_UPDATE: i32 = 2;
const MAP_NEXT_KEY: i32 = 4;
const OBJECT_GET: i32 = 7;
const INFO_BY_FD: i32 = 15;
const LINK_BY_ID: i32 = 30;
const LINK_NEXT_ID: i32 = 31;
const LINK_DETACH: i32 = 34;

/// `BPF_LINK_TYPE_CGROUP`.
const CGROUP_LINK: u32 = 3;

/// One attribute block: every field that these commands use lies within 64 bytes.
#[repr(C, align(8))]
struct Attributes([u32; 16]);

impl Attributes {
    fn new() -> Attributes {
        Attributes([0; 16])
    }

    fn word(mut self, at: usize, value: u32) -> Attributes {
        self.0[at] = value;
        self
    }

    /// A 64-bit field that begins at this 32-bit word.
    fn long(mut self, at: usize, value: u64) -> Attributes {
        let bytes = value.to_ne_bytes();
        let (low, high) = bytes.split_at(4);
        for (word, half) in self.0[at..].iter_mut().zip([low, high]) {
            *word = u32::from_ne_bytes([half[0], half[1], half[2], half[3]]);
        }
        self
    }
}

/// # Safety
/// Every pointer among the attributes must be good for what the command does with it, until this returns.
unsafe fn bpf(command: i32, attributes: &mut Attributes) -> io::Result<libc::c_long> {
    // SAFETY: the block is as long as is said; the rest is the caller's promise.
    answer(unsafe { libc::syscall(libc::SYS_bpf, command, attributes.0.as_mut_ptr(), size_of::<Attributes>()) })
}

/// The link after this number; `None` after the last.
///
/// # Errors
/// The kernel's answer.
pub fn next_link(after: u32) -> io::Result<Option<u32>> {
    let mut attributes = Attributes::new().word(0, after);
    // SAFETY: the command takes no pointer.
    match unsafe { bpf(LINK_NEXT_ID, &mut attributes) } {
        Ok(_) => Ok(Some(attributes.0[1])),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The link of this number.
///
/// # Errors
/// The kernel's answer.
pub fn link(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: the command takes no pointer.
    descriptor(unsafe { bpf(LINK_BY_ID, &mut Attributes::new().word(0, id)) }?)
}

/// The cgroup that a link hangs on; `None` for links of other kinds.
///
/// # Errors
/// The kernel's answer.
pub fn cgroup_of(link: &OwnedFd) -> io::Result<Option<u64>> {
    // `struct bpf_link_info`: type, id, program, padding, then of a cgroup link the cgroup's number.
    let mut info = [0_u64; 16];
    let (fd, at) = (link.as_raw_fd().cast_unsigned(), info.as_mut_ptr().expose_provenance());
    let mut attributes = Attributes::new().word(0, fd).word(1, 128).long(2, at as u64);
    // SAFETY: the kernel writes at most the 128 bytes that `info` has.
    unsafe { bpf(INFO_BY_FD, &mut attributes) }?;
    let [first, _, cgroup, ..] = info;
    let bytes = first.to_ne_bytes();
    let kind = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    Ok((kind == CGROUP_LINK).then_some(cgroup))
}

/// Takes the link's program off.
///
/// # Errors
/// The kernel's answer.
pub fn detach(link: &OwnedFd) -> io::Result<()> {
    // SAFETY: the command takes no pointer.
    unsafe { bpf(LINK_DETACH, &mut Attributes::new().word(0, link.as_raw_fd().cast_unsigned())) }.map(drop)
}

/// What is pinned there.
///
/// # Errors
/// The kernel's answer.
pub fn pinned(path: &CStr) -> io::Result<OwnedFd> {
    let at = path.as_ptr().expose_provenance() as u64;
    // SAFETY: the path ends with a zero byte and outlives the call.
    descriptor(unsafe { bpf(OBJECT_GET, &mut Attributes::new().long(0, at)) }?)
}

/// Fills the value under the map's first key with zeroes. `key` and `value` are at least as long as the map's own.
///
/// # Errors
/// The kernel's answer; a map without an entry has none to be written.
pub fn clear_first(map: &OwnedFd, key: &mut [u8; 64], value: &[u8; 4096]) -> io::Result<()> {
    let fd = map.as_raw_fd().cast_unsigned();
    let key_at = key.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: the kernel writes one key, of which no map of failsafe has one longer than 64 bytes.
    unsafe { bpf(MAP_NEXT_KEY, &mut Attributes::new().word(0, fd).long(4, key_at)) }?;
    let value_at = value.as_ptr().expose_provenance() as u64;
    let mut attributes = Attributes::new().word(0, fd).long(2, key_at).long(4, value_at);
    // SAFETY: the kernel reads one key and one value, no longer than the buffers.
    unsafe { bpf(MAP_UPDATE, &mut attributes) }.map(drop)
}
