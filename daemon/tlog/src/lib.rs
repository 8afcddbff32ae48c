//! A transparency log's arithmetic and text formats, as pure functions: no file, clock, random number or network.
//!
//! ```text
//!  entries --leaf hash--> frontier::Frontier --root--> checkpoint::Checkpoint --sign--> note (Ed25519)
//!                    \--> collect::Collector --------> inclusion and consistency proofs --> proof_file (tlog-proof@v1)
//!                    \                                 consistency_file (tlog-witness)
//!  consistency_file + what a witness cosigned last ------> witness: cosign it, or refuse it
//!  checkpoint with cosignatures + policy (tlog-policy) ---> accepted or not
//!                    \--> tile: the C2SP tlog-tiles layout
//! ```
//!
//! Sources: RFC 6962 section 2.1 (tree), RFC 9162 section 2.1 (verification of proofs), and the C2SP specifications
//! signed-note, tlog-checkpoint, tlog-proof, tlog-witness, tlog-cosignature, tlog-policy and tlog-tiles.
//!
//! Invariants:
//! - Every parser refuses what it does not understand completely, with a message that names the part.
//! - Memory grows with the logarithm of the tree, never with the tree.
//! - A tree can be continued, and its entries proved, from the [`frontier::Frontier`] at any earlier size, without the entries
//!   before it. So entries that retention removed do not have to be read again.
#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod collect;
pub mod consistency_file;
pub mod cosignature;
pub mod frontier;
pub mod hash;
pub mod note;
pub mod policy;
pub mod proof;
pub mod proof_file;
pub mod tile;
pub mod witness;

pub use checkpoint::Checkpoint;
pub use collect::Collector;
pub use consistency_file::ConsistencyFile;
pub use cosignature::{Cosigner, WitnessKey};
pub use frontier::Frontier;
pub use hash::{Hash, leaf_hash, node_hash};
pub use note::{Keys, Note, Signer, VerifierKey};
pub use policy::Policy;
pub use proof_file::ProofFile;
