//! `attest verify --ima`: the measurement list of a node, replayed against PCR 10 of its quote.

use super::{expected::quoted, read, shown};
use crate::{
    exit::{Exit, Fail},
    render::{clean, count},
};
use failsafe_attest::{
    Verified,
    ima::{IMA_PCR, ImaError, MAX_LIST, Replayed, replay},
};
use serde_json::{Value, json};
use std::path::Path;

/// Replays the list of a file.
///
/// # Errors
/// There is no quoted PCR 10 to compare with, or the list does not give its value.
pub(super) fn replayed(list: &Path, file: &Path, verified: &Verified) -> Result<Replayed, Fail> {
    let unknown = |why: &str| Fail::new(Exit::CannotKnow, format!("{}: {}", shown(file), clean(why)));
    let pcrs = &quoted(verified).map_err(|why| unknown(&why))?.pcrs;
    let pcr = pcrs.0.get(&IMA_PCR).ok_or_else(|| {
        unknown("PCR 10 is not quoted").advise("add 10 to `pcrs` in the section [tpm] of the node's configuration")
    })?;
    replay(&read(list, MAX_LIST)?, pcr).map_err(|error| {
        let fail = Fail::because(shown(list), &error);
        Fail { exit: exit(&error), ..fail }.advise(
            "copy /sys/kernel/security/ima/binary_runtime_measurements of the node after the statement was made, in the same boot",
        )
    })
}

fn exit(error: &ImaError) -> Exit {
    match error {
        ImaError::OnlySha1 => Exit::CannotKnow,
        error if error.is_no_list() => Exit::Usage,
        _ => Exit::PcrsDiffer,
    }
}

/// For people.
pub(super) fn page(list: &Path, replayed: &Replayed) -> String {
    let Replayed { entries, later, violations, others } = replayed;
    let mut out = format!(
        "IMA list agrees with the quote: PCR 10 covers {} of {}\n",
        count(*entries, "entry", "entries"),
        shown(list)
    );
    let mut not_covered = |n: usize, one: &str, many: &str, why: &str| {
        if n > 0 {
            out.push_str(&format!("  {}: {why}\n", count(n, one, many)));
        }
    };
    not_covered(
        *later,
        "entry after them",
        "entries after them",
        "measured after the quote, or added to the file; the quote does not vouch for them",
    );
    not_covered(
        *others,
        "entry of another PCR",
        "entries of other PCRs",
        "anybody can add such entries to the file; the quote does not vouch for them",
    );
    not_covered(
        *violations,
        "violation",
        "violations",
        "a file was written while it was measured; the quote vouches neither for the name of the file nor for a hash",
    );
    out.push_str(
        "  the quote vouches for the names and hashes of the files in all other entries, not that the files are good ones\n",
    );
    out
}

/// For programs.
pub(super) fn json(list: &Path, replayed: &Replayed) -> Value {
    let Replayed { entries, later, violations, others } = replayed;
    json!({
        "file": list.display().to_string(), "entries": entries, "later": later, "other_pcrs": others, "violations": violations,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_attest::ima::{BadEntry, Place};

    #[test]
    fn a_list_that_was_altered_has_another_exit_code_than_a_file_that_is_no_list() {
        let entry = |place, why| ImaError::Entry { place, why };
        for (error, expected) in [
            (entry(Place::Line(1), BadEntry::Form), Exit::Usage),
            (entry(Place::Line(1), BadEntry::Altered), Exit::PcrsDiffer),
            (entry(Place::Line(2), BadEntry::Template("x".to_owned())), Exit::PcrsDiffer),
            (entry(Place::Record(3, 200), BadEntry::Cut), Exit::PcrsDiffer),
            (ImaError::Empty, Exit::Usage),
            (ImaError::OnlySha1, Exit::CannotKnow),
        ] {
            assert_eq!(exit(&error), expected, "{error}");
        }
    }

    #[test]
    fn what_the_quote_does_not_vouch_for_is_on_the_page_and_in_json() {
        let replayed = Replayed { entries: 9, later: 2, violations: 1, others: 3 };
        let page = page(Path::new("ima"), &replayed);
        for expected in [
            "PCR 10 covers 9 entries of ima",
            "2 entries after them: measured after the quote",
            "3 entries of other PCRs: anybody can add such entries",
            "1 violation: a file was written while it was measured; the quote vouches neither for the name",
        ] {
            assert!(page.contains(expected), "{expected}: {page}");
        }
        assert_eq!(json(Path::new("ima"), &replayed)["other_pcrs"], 3);
    }
}
