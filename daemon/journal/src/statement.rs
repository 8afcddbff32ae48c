//! Entries of the journal itself state of how many entries the last checkpoint is: heartbeats, and those about sealed segments.
//! Who deletes the latest checkpoint, or puts an earlier one in its place, is found out by them.

use crate::entry::{Entry, kind};

/// The field of such an entry.
pub(crate) const SIGNED: &str = "signed";

/// What `entry` states. `Some(0)`: what was signed before was put aside, and counts no longer.
pub(crate) fn signed(entry: &Entry) -> Option<u64> {
    let ours = matches!(entry.kind.as_str(), kind::HEARTBEAT | kind::SEGMENT)
        || (entry.kind == kind::GAP && entry.body["cause"] == "integrity");
    entry.body[SIGNED].as_u64().filter(|_| ours)
}
