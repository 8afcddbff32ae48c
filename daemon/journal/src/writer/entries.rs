//! The entries that the journal itself writes about the log.

use super::torn::Dropped;
use crate::clock::Stamp;
use crate::entry::{Draft, kind};
use crate::segments::Summary;
use crate::statement;
use crate::storage::CatalogState;
use serde_json::{Value, json};
use std::borrow::Cow;

/// An entry that states what was found amiss with the log as a whole.
#[must_use]
pub fn finding(what: &str, now: Stamp) -> Draft {
    mismatch(what, false, now)
}

/// With `anew`, what was signed is put aside, and what entries before this one state about it counts no longer.
pub(super) fn mismatch(finding: &str, anew: bool, now: Stamp) -> Draft {
    let mut body = json!({ "cause": "integrity", "what": finding });
    if anew {
        body[statement::SIGNED] = json!(0);
    }
    Draft::new(Cow::Borrowed(kind::GAP), now, body)
}

/// The first entry of a file: about the segment that was sealed, and the catalog.
pub(super) fn segment_entry(
    sealed: Option<&Summary>,
    signed: u64,
    late: Option<&str>,
    catalog: &CatalogState,
    now: Stamp,
) -> Draft {
    let mut body = json!({ (statement::SIGNED): signed });
    if let Some(summary) = sealed {
        body["sealed"] = json!({
            "first": summary.first,
            "entries": summary.entries,
            "bytes": summary.bytes,
            "head": hex::encode(summary.head),
            "summary_sha256": hex::encode(summary.hash()),
        });
    }
    if let Some(link) = &catalog.link {
        body[statement::CATALOG] = json!(hex::encode(link));
    }
    if let Some(why) = &catalog.made_again {
        body["catalog_made_again"] = json!(why);
    }
    if let Some(why) = late {
        body["late"] = json!(why);
    }
    Draft::new(Cow::Borrowed(kind::SEGMENT), now, body)
}

/// A torn tail was cut off.
pub(super) fn recovered(dropped: &Dropped, now: Stamp) -> Draft {
    let body: Value = json!({
        "offset": dropped.offset,
        "dropped_bytes": dropped.bytes,
        "why": dropped.why.to_string(),
        "sha256": hex::encode(dropped.sha256),
        "excerpt": dropped.excerpt,
    });
    Draft::new(Cow::Borrowed(kind::RECOVERED), now, body)
}
