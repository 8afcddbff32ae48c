//! A TPM's quote: whether there is one, by which key, and what it proves.

use failsafe_attest::{PcrFinding, PcrState, Pcrs, Statement, TpmStatus, Verified, VerifiedQuote};
use serde_json::{Value, json};

/// A few words for the line about a file that was written.
pub fn short(statement: &Statement) -> String {
    match &statement.predicate.tpm {
        Some(tpm) if tpm.status == TpmStatus::Quoted => "quoted by a TPM".to_owned(),
        Some(tpm) => format!("no TPM quote ({})", tpm.reason),
        None => "no TPM quote".to_owned(),
    }
}

/// Whether there is a quote, and whether its key is allowed.
pub fn summary(verified: &Verified) -> String {
    match &verified.quote {
        Some(VerifiedQuote { key, allowed: Some(comment), .. }) if comment.is_empty() => {
            format!("valid, TPM key allowed: {key}")
        }
        Some(VerifiedQuote { key, allowed: Some(comment), .. }) => {
            format!("valid, TPM key allowed: {key} ({comment})")
        }
        Some(VerifiedQuote { key, allowed: None, .. }) => {
            format!("valid, but TPM key {key} is not in a list of allowed keys: any program can make such a quote")
        }
        None => match &verified.statement.predicate.tpm {
            Some(tpm) => format!("no TPM quote: {}", tpm.reason),
            None => "no TPM quote: the statement does not say whether the node has a TPM".to_owned(),
        },
    }
}

/// What follows from the quote; empty: there is none.
pub fn proved(verified: &Verified) -> String {
    match &verified.quote {
        Some(quote @ VerifiedQuote { allowed: Some(_), quoted, .. }) => format!(
            "the TPM with this key quoted this statement and its nonce, and PCRs {} (SHA-256) had the values of \
             node/tpm/pcr/sha256/* then; resets of the TPM until then: {}",
            ranges(&quote.pcrs),
            quoted.resets
        ),
        Some(_) => "nothing".to_owned(),
        None => String::new(),
    }
}

/// What does not follow from it. `expected`: how the PCRs compare with reference values; `None`: none were given.
pub fn not_proved(verified: &Verified, expected: Option<&[PcrFinding]>) -> String {
    match &verified.quote {
        Some(VerifiedQuote { allowed: Some(_), .. }) => format!(
            "that the key is in a genuine TPM, and in the node whose software key signed (whoever put both on the list \
             vouches for that); {}that other factors are true (root on the node can change them)",
            not_judged(expected)
        ),
        _ => String::new(),
    }
}

/// What the reference values leave open about the PCRs.
fn not_judged(expected: Option<&[PcrFinding]>) -> String {
    let Some(findings) = expected else {
        return "that the values of the PCRs are good ones: no reference values were given (--expect), and the quote \
                proves only which values the TPM had; "
            .to_owned();
    };
    let open = findings.iter().filter(|one| one.state == PcrState::NoReference).map(|one| (one.pcr, [0; 32]));
    let open = Pcrs(open.collect());
    match open.0.is_empty() {
        true => String::new(),
        false => format!("that the values of PCRs {} are good ones: they have no reference value; ", ranges(&open)),
    }
}

/// The same for programs.
pub fn json(verified: &Verified) -> Value {
    match &verified.quote {
        Some(quote) => json!({
            "status": "valid",
            "keyid": quote.key.0,
            "key_checked": quote.allowed.is_some(),
            "key_comment": quote.allowed,
            "pcrs": quote.pcrs.0.iter().map(|(pcr, value)| (pcr.to_string(), hex::encode(value).into()))
                .collect::<serde_json::Map<String, Value>>(),
            "resets": quote.quoted.resets,
            "restarts": quote.quoted.restarts,
            "clock_ms": quote.quoted.clock_ms,
            "clock_safe": quote.quoted.safe,
        }),
        None => json!({ "status": "none", "why": summary(verified) }),
    }
}

/// The numbers of the PCRs, such as `0-7, 10`.
pub fn ranges(pcrs: &Pcrs) -> String {
    let mut ranges: Vec<(u8, u8)> = Vec::new();
    for pcr in pcrs.0.keys().copied() {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == pcr => *last = pcr,
            _ => ranges.push((pcr, pcr)),
        }
    }
    let text = |(first, last): (u8, u8)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.into_iter().map(text).collect::<Vec<_>>().join(", ")
}
