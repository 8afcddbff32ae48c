//! failsafe's eBPF programs.
//!
//! The C sources under `src/` (see `failsafe.bpf.c`) are compiled by `build.rs` into one CO-RE object, which this
//! crate carries, beside the Rust mirror of the ABI it shares with the daemon ([`abi`]). Nothing here talks to the
//! kernel: loading is `guard` in the daemon.

pub mod abi;

/// Forces the alignment that ELF parsers need.
#[repr(C, align(16))]
struct Aligned<T: ?Sized>(T);

static ALIGNED: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/failsafe.bpf.o")));

/// The compiled object: an ELF file for the eBPF machine, of the build target's architecture, 16-byte aligned.
pub static OBJECT: &[u8] = &ALIGNED.0;
