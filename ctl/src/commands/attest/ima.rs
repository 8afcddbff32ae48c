//! `attest verify --ima`: the measurement list of a node, replayed against PCR 10 of its quote.

use super::{expected::quoted, read, shown};
use crate::{
    exit::{Exit, Fail},
    render::{clean, count},
};
use failsafe_attest::{
    Verified,
    ima::{BadEntry, IMA_PCR, ImaError, MAX_LIST, Replayed, replay},
};
use serde_json::{Value, json};
use std::path::Path;

/// Replays the list of a file.
///
/// # Errors
/// There is no quoted PCR 10 to compare with, or the list does not give its value.
pub(super) fn replayed(list: &Path, file: &Path, verified: &Verified) -> Result<Replayed, Fail> {
    let refused = |why: &str| Fail::new(Exit::Tampered, format!("{}: {}", shown(file), clean(why)));
    let pcrs = &quoted(verified).map_err(|why| refused(&why))?.pcrs;
    let pcr = pcrs.0.get(&IMA_PCR).ok_or_else(|| {
        refused("PCR 10 is not quoted").advise("add 10 to `pcrs` in the section [tpm] of the node's configuration")
    })?;
    replay(&read(list, MAX_LIST)?, pcr).map_err(|error| {
        let exit = match error {
            ImaError::NoMatch { .. } | ImaError::Line { why: BadEntry::Altered, .. } => Exit::PcrsDiffer,
            _ => Exit::Usage,
        };
        let fail = Fail::because(shown(list), &error);
        Fail { exit, ..fail }.advise(
            "copy /sys/kernel/security/ima/ascii_runtime_measurements of the node after the statement was made, in the same boot",
        )
    })
}

/// For people.
pub(super) fn page(list: &Path, replayed: &Replayed) -> String {
    let Replayed { entries, later, violations } = replayed;
    let mut out = format!(
        "IMA list agrees with the quote: PCR 10 covers {} of {}\n",
        count(*entries, "entry", "entries"),
        shown(list)
    );
    if *later > 0 {
        out.push_str(&format!(
            "  {} behind them: measured after the quote, or added to the file; the quote does not vouch for them\n",
            count(*later, "entry", "entries")
        ));
    }
    if *violations > 0 {
        out.push_str(&format!(
            "  {} of files that were written while they were measured: the list has no hash of them\n",
            count(*violations, "violation", "violations")
        ));
    }
    out.push_str("  the quote vouches for the file hashes in these entries, not that the files are good ones\n");
    out
}

/// For programs.
pub(super) fn json(list: &Path, replayed: &Replayed) -> Value {
    let Replayed { entries, later, violations } = replayed;
    json!({ "file": list.display().to_string(), "entries": entries, "later": later, "violations": violations })
}
