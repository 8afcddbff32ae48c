//! TPM 2.0: the few commands that failsafe sends, and the structures that a quote consists of.
//!
//! ```text
//! daemon:   Tpm<Transport> ─► key, PCR values, quote, counter          (command)
//!           Tpm<Transport> ─► certificates of the endorsement keys     (endorsement)
//!           Tpm<Transport> ─► the secret of a verifier               (activation)
//! verifier: bytes of a quote ─► Public, Quoted, signature              (public, quoted)
//! ```
//!
//! Invariants: pure but for the transport, which the caller gives; every byte from a TPM or from a file is checked, and what is
//! not understood is an error; commands are written by hand, because the library of the TCG's stack would bind the package to a
//! version of libtss2 (`docs/adr/0048-tpm-commands-are-written-by-hand.md`).

#![forbid(unsafe_code)]

pub mod activation;
pub mod command;
pub mod counter;
pub mod endorsement;
pub mod public;
pub mod quoted;
pub mod response;
pub mod wire;

pub use activation::Credential;
pub use command::{Key, Pcrs, Quote, Tpm, Transport};
pub use endorsement::{Endorsement, Endorsements};
pub use public::Public;
pub use quoted::{Quoted, signature};
pub use response::TpmError;
