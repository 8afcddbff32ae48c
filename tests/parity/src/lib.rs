//! The daemon's eBPF programs with some more that call their matchers on what a test asks (`parity.bpf.c`): so the tests of
//! `failsafed` hold the matchers' twins in user space against the very code that the kernel runs. No product links this crate.

/// Forces the alignment that ELF parsers need.
#[repr(C, align(16))]
struct Aligned<T: ?Sized>(T);

static ALIGNED: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/parity.bpf.o")));

/// The compiled object: as `failsafe_ebpf::OBJECT`, and the programs `parity_*`, each of which answers what the map `parity` asks.
pub static OBJECT: &[u8] = &ALIGNED.0;

/// Where the parts of the one value of the map `parity` lie, in bytes; integers are the host's. `struct parity` in
/// `parity.bpf.c`.
pub mod at {
    /// Key of the run in `runs`; `u64`.
    pub const RUN: usize = 0;
    /// A number that is asked about; `u64`.
    pub const NUMBER: usize = 8;
    /// The answer; `u64`.
    pub const ANSWER: usize = 16;
    /// Generation of the tables; `u32`.
    pub const TABLE: usize = 24;
    /// `enum fs_net_flag` that the answer came with; `u16`.
    pub const FLAGS: usize = 28;
    /// Host order; `u16`.
    pub const PORT: usize = 30;
    /// 4: the address's first four bytes; 6: all.
    pub const FAMILY: usize = 32;
    /// `IPPROTO_*`.
    pub const PROTO: usize = 33;
    /// `enum fs_net_op`.
    pub const OP: usize = 34;
    /// Network order; 16 bytes.
    pub const ADDR: usize = 40;
    /// Ends with a NUL; [`super::PATH`] bytes.
    pub const PATH: usize = 56;
    /// Of the whole.
    pub const END: usize = PATH + super::PATH;
}

/// Room for a path, in bytes: `PATH_MAX` of linux/limits.h.
pub const PATH: usize = 4096;
