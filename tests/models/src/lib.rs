//! Models of the places where threads meet on the freeze path. loom runs a model through every order in which the steps of its
//! threads can happen, also those that only a processor with weak ordering shows.
//!
//! The modelled file is the daemon's own, included by path. It takes its atomics and threads from its neighbour `sync`; here that is
//! [`sync`], in the daemon `daemon/src/pipeline/sync.rs`.

#![forbid(unsafe_code)]

pub mod sync;

#[path = "../../../daemon/src/pipeline/queue.rs"]
pub mod queue;
