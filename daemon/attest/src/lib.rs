//! Fingerprints of nodes and runs: which factors there are, how they are compared, and how a statement about them is signed
//! and verified. The daemon collects factors and signs; failsafectl verifies and compares, without the daemon.
//!
//! ```text
//! readers (daemon) ─► Factor ─► Statement (three digests) ─► Envelope (DSSE, Ed25519; a TPM's quote beside it) ─► file
//! file ─► verify ─► Statement ─► diff of N statements: verdict, differences with class, reason and citation
//! ```
//!
//! Invariants: pure, like `failsafe-core`: no clock, file, environment or random number. What could not be read is never equal
//! to anything. Whatever is not understood of a file is an error, never skipped.

#![forbid(unsafe_code)]

pub mod common;
pub mod diff;
pub mod drift;
pub mod envelope;
pub mod factor;
pub mod ima;
pub mod json;
pub mod key;
pub mod manifest;
pub mod moment;
pub mod pcrs;
pub mod preflight;
pub mod reference;
pub mod statement;
pub mod table;
#[cfg(test)]
mod testing;
pub mod tpm;

pub use diff::{Comparison, Verdict, compare};
pub use drift::{Drift, Known};
pub use envelope::{Verified, VerifyError, seal, verify};
pub use factor::{Assurance, Class, Fact, Factor, Missing, Status};
/// Values of the PCRs of a quote.
pub use failsafe_tpm::Pcrs;
pub use json::Json;
pub use key::{AllowedKeys, KeyId, PublicKey, SOFTWARE_KEY};
pub use manifest::Manifest;
pub use moment::Moment;
pub use pcrs::{PcrFinding, PcrReference, PcrState, PcrVerdict};
pub use statement::{About, Scope, Statement};
pub use table::{Pattern, Regime, Table};
pub use tpm::{TpmKey, TpmOf, TpmQuote, TpmStatus, VerifiedQuote};
