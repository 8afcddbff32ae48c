//! Reference values of PCRs: which values the PCRs of a good node have, and how those of a quote compare with them.
//!
//! A quote proves which values the PCRs had. Only a reference says whether these values are good: it is made from quotes of nodes
//! that somebody trusts. Invariants: a PCR has a reference value only if all these quotes have one value of it; a PCR that is not
//! quoted counts as not known.

use crate::{
    table::Pattern,
    tpm::{PCR_FACTOR, pcr_value},
};
use failsafe_tpm::{Pcrs, quoted::PCRS};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the PCRs of a node are expected to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Banks", into = "Banks")]
pub struct PcrReference(pub Pcrs);

/// The form in a file: for each bank, its values in hex by the number of the PCR.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Banks {
    sha256: BTreeMap<String, String>,
}

/// How a PCR compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PcrState {
    /// It was quoted with the expected value.
    Equal,
    /// It was quoted with another value.
    Differs,
    /// There is a reference value, and no quoted value.
    NotQuoted,
    /// It was quoted, and there is no reference value.
    NoReference,
}

/// How one PCR compares with its reference value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PcrFinding {
    /// Its number, in the SHA-256 bank.
    pub pcr: u8,
    /// How it compares.
    pub state: PcrState,
    /// The reference value, hex.
    pub expected: Option<String>,
    /// The quoted value, hex.
    pub found: Option<String>,
}

/// What a comparison of all PCRs amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PcrVerdict {
    /// Every PCR that has a reference value was quoted with it.
    Equal,
    /// At least one was quoted with another value.
    Differ,
    /// None differs, but one that has a reference value was not quoted.
    CannotKnow,
    /// There are no reference values of PCRs.
    NoReference,
}

impl PcrReference {
    /// Whether there is no reference value.
    pub fn is_empty(&self) -> bool {
        self.0.0.is_empty()
    }

    /// From the PCRs of quotes of good nodes, and the factors that are left out because the quotes differ, each with the reason.
    /// PCRs of which the factor fits a pattern of `ignore` are not looked at.
    pub fn of(quotes: &[Pcrs], ignore: &[Pattern]) -> (PcrReference, BTreeMap<String, String>) {
        let (mut shared, mut left_out) = (Pcrs::default(), BTreeMap::new());
        for pcr in 0..PCRS {
            let path = format!("{PCR_FACTOR}{pcr}");
            if ignore.iter().any(|pattern| pattern.fits(&path)) {
                continue;
            }
            let values: Vec<Option<&[u8; 32]>> = quotes.iter().map(|quote| quote.0.get(&pcr)).collect();
            match values.first().copied().flatten() {
                Some(first) if values.iter().all(|value| *value == Some(first)) => {
                    shared.0.insert(pcr, *first);
                }
                _ if values.iter().all(Option::is_none) => {}
                _ => drop(left_out.insert(path, "the quotes of the statements differ".to_owned())),
            }
        }
        (PcrReference(shared), left_out)
    }

    /// Compares each PCR that has a reference value, or was quoted. `quoted`: the PCRs of a quote that was verified.
    pub fn check(&self, quoted: Option<&Pcrs>) -> Vec<PcrFinding> {
        let of = |pcrs: Option<&Pcrs>, pcr| pcrs.and_then(|pcrs| pcrs.0.get(&pcr)).map(hex::encode);
        let finding = |pcr| {
            let (expected, found) = (of(Some(&self.0), pcr), of(quoted, pcr));
            let state = match (&expected, &found) {
                (None, None) => return None,
                (Some(expected), Some(found)) if expected == found => PcrState::Equal,
                (Some(_), Some(_)) => PcrState::Differs,
                (Some(_), None) => PcrState::NotQuoted,
                (None, Some(_)) => PcrState::NoReference,
            };
            Some(PcrFinding { pcr, state, expected, found })
        };
        (0..PCRS).filter_map(finding).collect()
    }
}

impl PcrVerdict {
    /// Of these findings.
    pub fn of(findings: &[PcrFinding]) -> PcrVerdict {
        let any = |state| findings.iter().any(|finding| finding.state == state);
        match (any(PcrState::Differs), any(PcrState::NotQuoted), any(PcrState::Equal)) {
            (true, ..) => PcrVerdict::Differ,
            (false, true, _) => PcrVerdict::CannotKnow,
            (false, false, true) => PcrVerdict::Equal,
            (false, false, false) => PcrVerdict::NoReference,
        }
    }
}

impl From<PcrReference> for Banks {
    fn from(reference: PcrReference) -> Banks {
        Banks { sha256: reference.0.0.iter().map(|(pcr, value)| (pcr.to_string(), hex::encode(value))).collect() }
    }
}

impl TryFrom<Banks> for PcrReference {
    type Error = String;

    fn try_from(banks: Banks) -> Result<PcrReference, String> {
        let mut pcrs = Pcrs::default();
        for (number, text) in banks.sha256 {
            let pcr = number.parse::<u8>().ok().filter(|pcr| *pcr < PCRS && pcr.to_string() == number);
            let pcr = pcr.ok_or_else(|| {
                format!("`pcrs.sha256` has the PCR `{}`, expected a number from 0 to 23", number.escape_debug())
            })?;
            let value = pcr_value(&text)
                .ok_or_else(|| format!("`pcrs.sha256.{pcr}` is not 64 lowercase hexadecimal digits"))?;
            pcrs.0.insert(pcr, value);
        }
        Ok(PcrReference(pcrs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pcrs(values: &[(u8, u8)]) -> Pcrs {
        Pcrs(values.iter().map(|(pcr, byte)| (*pcr, [*byte; 32])).collect())
    }

    fn states(reference: &PcrReference, quoted: Option<&Pcrs>) -> Vec<(u8, PcrState)> {
        reference.check(quoted).into_iter().map(|finding| (finding.pcr, finding.state)).collect()
    }

    #[test]
    fn pcrs_that_all_quotes_share_are_expected_and_others_are_left_out_by_name() {
        let quotes = [pcrs(&[(0, 1), (7, 2), (10, 3)]), pcrs(&[(0, 1), (7, 2), (10, 4), (11, 5)])];
        let (reference, left_out) = PcrReference::of(&quotes, &[]);
        assert_eq!(reference.0, pcrs(&[(0, 1), (7, 2)]));
        assert_eq!(left_out.into_keys().collect::<Vec<_>>(), ["node/tpm/pcr/sha256/10", "node/tpm/pcr/sha256/11"]);
        let ignored = [Pattern::parse("node/tpm/pcr/sha256/1*").unwrap()];
        assert_eq!(PcrReference::of(&quotes, &ignored), (reference, BTreeMap::new()));
        assert!(PcrReference::of(&[], &[]).0.is_empty());
    }

    #[test]
    fn each_pcr_is_compared_and_one_that_is_not_quoted_is_never_equal() {
        let reference = PcrReference(pcrs(&[(0, 1), (7, 2)]));
        use PcrState::{Differs, Equal, NoReference, NotQuoted};
        for (quoted, expected, verdict) in [
            (Some(pcrs(&[(0, 1), (7, 2)])), vec![(0, Equal), (7, Equal)], PcrVerdict::Equal),
            (
                Some(pcrs(&[(0, 1), (7, 2), (10, 3)])),
                vec![(0, Equal), (7, Equal), (10, NoReference)],
                PcrVerdict::Equal,
            ),
            (Some(pcrs(&[(0, 9), (10, 3)])), vec![(0, Differs), (7, NotQuoted), (10, NoReference)], PcrVerdict::Differ),
            (Some(pcrs(&[(0, 1)])), vec![(0, Equal), (7, NotQuoted)], PcrVerdict::CannotKnow),
            (None, vec![(0, NotQuoted), (7, NotQuoted)], PcrVerdict::CannotKnow),
        ] {
            assert_eq!(states(&reference, quoted.as_ref()), expected);
            assert_eq!(PcrVerdict::of(&reference.check(quoted.as_ref())), verdict, "{quoted:?}");
        }
        let none = PcrReference::default();
        assert_eq!(PcrVerdict::of(&none.check(Some(&pcrs(&[(0, 1)])))), PcrVerdict::NoReference);
        assert_eq!(PcrVerdict::of(&none.check(None)), PcrVerdict::NoReference);
    }

    #[test]
    fn every_flipped_bit_of_a_quoted_value_is_a_difference() {
        let good = pcrs(&[(7, 2)]);
        let reference = PcrReference(good.clone());
        for bit in 0..256 {
            let mut bad = good.clone();
            bad.0.get_mut(&7).unwrap()[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(states(&reference, Some(&bad)), [(7, PcrState::Differs)], "bit {bit}");
        }
    }

    #[test]
    fn the_form_in_a_file_is_read_back_and_a_wrong_entry_is_named() {
        let reference = PcrReference(pcrs(&[(0, 1), (10, 0xab)]));
        let text = serde_json::to_string(&reference).unwrap();
        assert_eq!(text, format!(r#"{{"sha256":{{"0":"{}","10":"{}"}}}}"#, "01".repeat(32), "ab".repeat(32)));
        assert_eq!(serde_json::from_str::<PcrReference>(&text).unwrap(), reference);
        for (from, to, expected) in [
            ("\"10\"", "\"24\"", "the PCR `24`, expected a number from 0 to 23"),
            ("\"10\"", "\"010\"", "the PCR `010`"),
            ("\"10\"", "\"x\"", "the PCR `x`"),
            ("abab", "ABab", "`pcrs.sha256.10` is not 64 lowercase hexadecimal digits"),
            ("abab", "ab", "`pcrs.sha256.10` is not"),
            ("sha256", "sha1", "unknown field `sha1`"),
        ] {
            let why = serde_json::from_str::<PcrReference>(&text.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(why.contains(expected), "{why}");
        }
    }
}
