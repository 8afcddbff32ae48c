//! `failsafe.v1`: the gRPC interface. The comments of its messages are in `failsafe/v1/*.proto`.
//!
//! Invariant: these types stop at the daemon's `api::convert` and at failsafectl's commands.

#![forbid(unsafe_code)]

mod reason;

pub use reason::{DOMAIN, ErrorReason};

/// `failsafe.v1`.
#[expect(
    missing_docs,
    clippy::all,
    clippy::allow_attributes,
    reason = "generated code; the .proto file has the comments"
)]
pub mod v1 {
    tonic::include_proto!("failsafe.v1");
}

/// The encoded `FileDescriptorSet`, for gRPC reflection.
pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));
