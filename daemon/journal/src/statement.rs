//! What entries of the journal itself state about the log.
//!
//! Heartbeats, and entries about sealed segments, state of how many entries the last checkpoint is: who deletes the latest
//! checkpoint, or puts an earlier one in its place, is found out by them. Findings state what a start of the daemon found amiss.

use crate::entry::{Entry, Hash, kind};

/// The field of such an entry.
pub(crate) const SIGNED: &str = "signed";
/// The field of an entry about a sealed segment with the link of the catalog.
pub(crate) const CATALOG: &str = "catalog";

/// What `entry` states. `Some(0)`: what was signed before was put aside, and counts no longer.
pub(crate) fn signed(entry: &Entry) -> Option<u64> {
    let ours = matches!(entry.kind.as_str(), kind::HEARTBEAT | kind::SEGMENT) || is_finding(entry);
    entry.body[SIGNED].as_u64().filter(|_| ours)
}

/// What was found amiss with the log as a whole, if `entry` states that.
pub(crate) fn finding(entry: &Entry) -> Option<&str> {
    entry.body["what"].as_str().filter(|_| is_finding(entry))
}

/// Whether an entry of this kind may state something about the log itself.
pub(crate) fn may_be_in(kind: &str) -> bool {
    matches!(kind, kind::HEARTBEAT | kind::SEGMENT | kind::GAP)
}

fn is_finding(entry: &Entry) -> bool {
    entry.kind == kind::GAP && entry.body["cause"] == "integrity"
}

/// The link of the catalog of all segments before the file, if `entry` states it.
pub(crate) fn catalog(entry: &Entry) -> Option<Hash> {
    let link = entry.body[CATALOG].as_str().filter(|_| entry.kind == kind::SEGMENT)?;
    hex::decode(link).ok()?.try_into().ok()
}

/// The hash of the summary of the segment before the file, if `entry` states it.
pub(crate) fn sealed_summary(entry: &Entry) -> Option<Hash> {
    let hash = entry.body["sealed"]["summary_sha256"].as_str().filter(|_| entry.kind == kind::SEGMENT)?;
    hex::decode(hash).ok()?.try_into().ok()
}
