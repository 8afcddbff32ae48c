//! `attest verify --expect`: how a verified statement and its quote compare with reference values, offline.
//!
//! Invariant: a quote by a key that is not on the list of allowed keys has no PCRs here, because any program can make one.

use super::{read, shown, table};
use crate::{
    exit::{Exit, Fail},
    render::{Paint, reference as page},
};
use failsafe_attest::{
    PcrFinding, PcrVerdict, Verdict, Verified, VerifiedQuote,
    envelope::MAX_ENVELOPE,
    reference::{Checked, Reference},
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// How a statement compares.
pub(super) struct Expected {
    file: PathBuf,
    pcrs: Vec<PcrFinding>,
    factors: Checked,
}

impl Expected {
    /// Compares a statement with the reference values of a file.
    ///
    /// # Errors
    /// The file has no reference values.
    pub fn of(file: &Path, verified: &Verified) -> Result<Expected, Fail> {
        let bytes = read(file, MAX_ENVELOPE)?;
        let reference = Reference::parse(&bytes, MAX_ENVELOPE).map_err(|error| {
            let fail = Fail::because(format!("{}: not valid", shown(file)), &error);
            Fail { exit: Exit::Usage, ..fail }.advise("`failsafectl attest expect` writes reference values")
        })?;
        Ok(Expected {
            file: file.to_owned(),
            pcrs: reference.pcrs.check(quoted(verified).ok().map(|quote| &quote.pcrs)),
            factors: reference.check(&verified.statement, &table()?),
        })
    }

    /// What is known of the PCRs.
    pub fn pcrs(&self) -> &[PcrFinding] {
        &self.pcrs
    }

    /// The exit code.
    pub fn exit(&self, keys_checked: bool, require_pcrs: bool) -> Exit {
        exit(PcrVerdict::of(&self.pcrs), self.factors.verdict, keys_checked, require_pcrs)
    }

    /// For people.
    pub fn page(&self, keys_checked: bool, paint: Paint) -> String {
        page::expected(&self.file, &self.pcrs, &self.factors, keys_checked, paint)
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "file": self.file.display().to_string(),
            "pcrs": { "verdict": PcrVerdict::of(&self.pcrs), "findings": self.pcrs },
            "factors": self.factors,
        })
    }
}

/// The quote by an allowed key, or why there is none. Without a list of allowed keys no quote proves anything.
pub(super) fn quoted(verified: &Verified) -> Result<&VerifiedQuote, String> {
    let proving = verified.quote.as_ref().filter(|quote| quote.allowed.is_some());
    proving.ok_or_else(|| crate::render::quote::summary(verified))
}

fn exit(pcrs: PcrVerdict, factors: Verdict, keys_checked: bool, require_pcrs: bool) -> Exit {
    match (pcrs, factors) {
        (PcrVerdict::Differ, _) => Exit::PcrsDiffer,
        (_, Verdict::ResultDiffers) => Exit::ResultDiffers,
        (PcrVerdict::CannotKnow, _) | (_, Verdict::CannotKnow) => Exit::CannotKnow,
        (PcrVerdict::NoReference, _) if require_pcrs => Exit::CannotKnow,
        (_, Verdict::PerformanceDiffers) => Exit::PerformanceDiffers,
        (_, Verdict::ResultEqual) if !keys_checked => Exit::KeyNotChecked,
        (_, Verdict::ResultEqual) => Exit::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pcr_that_differs_counts_more_than_factors_and_a_missing_quote_is_never_success() {
        use PcrVerdict::{CannotKnow, Differ, Equal, NoReference};
        for (pcrs, factors, keys, expected) in [
            (Differ, Verdict::ResultDiffers, true, Exit::PcrsDiffer),
            (Differ, Verdict::ResultEqual, false, Exit::PcrsDiffer),
            (Equal, Verdict::ResultDiffers, true, Exit::ResultDiffers),
            (CannotKnow, Verdict::ResultEqual, true, Exit::CannotKnow),
            (CannotKnow, Verdict::PerformanceDiffers, true, Exit::CannotKnow),
            (Equal, Verdict::CannotKnow, true, Exit::CannotKnow),
            (Equal, Verdict::PerformanceDiffers, true, Exit::PerformanceDiffers),
            (Equal, Verdict::ResultEqual, true, Exit::Done),
            (Equal, Verdict::ResultEqual, false, Exit::KeyNotChecked),
            (NoReference, Verdict::ResultEqual, true, Exit::Done),
        ] {
            assert_eq!(exit(pcrs, factors, keys, false), expected, "{pcrs:?} {factors:?} {keys}");
            let required = if pcrs == NoReference { Exit::CannotKnow } else { expected };
            assert_eq!(exit(pcrs, factors, keys, true), required, "{pcrs:?} {factors:?} {keys}");
        }
        assert_eq!(exit(NoReference, Verdict::ResultDiffers, true, true), Exit::ResultDiffers);
        assert_eq!(exit(NoReference, Verdict::PerformanceDiffers, true, true), Exit::CannotKnow);
    }
}
