//! `attest common`, `attest expect`, and `node placeable --like`: what bad runs share, and what a node is expected to have.

use super::{allowed, expected::quoted, opened, read, shown, table};
use crate::{
    args::{AttestCommonArgs, AttestExpectArgs},
    client::{Client, block_on},
    commands::{
        Place,
        file::{free, save},
    },
    exit::{Exit, Fail},
    render::{Paint, clean, count, json, print, quote::ranges, reference as page},
};
use failsafe_attest::{
    Scope, Statement, Verdict, Verified,
    common::common as find,
    envelope::{self, MAX_ENVELOPE},
    reference::{Checked, Reference},
};
use failsafe_proto::v1 as pb;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

pub(in crate::commands) fn common(args: &AttestCommonArgs) -> Result<Exit, Fail> {
    let how = &args.compare;
    let keys = how.keys.as_deref().map(allowed).transpose()?;
    let open = |files: &[PathBuf]| files.iter().map(|file| opened(file, keys.as_ref())).collect::<Result<Vec<_>, _>>();
    let (bad, good) = (open(&args.bad)?, open(&args.good)?);
    let of = |verified: &[Verified]| verified.iter().map(|one| one.statement.clone()).collect::<Vec<Statement>>();
    let (bad, good) = (of(&bad), of(&good));
    let (bad, good): (Vec<&Statement>, Vec<&Statement>) = (bad.iter().collect(), good.iter().collect());
    let answer = find(&bad, &good, &table()?, how.regime, &how.ignore);
    let text = if how.output.json() {
        json::text(&json!({ "keys_checked": keys.is_some(), "common": answer }))
    } else {
        page::common(&answer, (args.bad.len(), args.good.len()), how.show_identity, keys.is_some(), Paint::stdout())
    };
    print(&text)?;
    let counts = |found: &[failsafe_attest::common::Shared]| {
        found.iter().any(|one| how.show_identity || one.class != failsafe_attest::Class::Identity)
    };
    Ok(match (counts(&answer.separates), counts(&answer.candidates)) {
        (true, _) => Exit::Done,
        (false, true) => Exit::CannotKnow,
        (false, false) => Exit::NothingShared,
    })
}

pub(in crate::commands) fn expect(args: &AttestExpectArgs) -> Result<Exit, Fail> {
    free(&args.file, args.force)?;
    let keys = args.keys.as_deref().map(allowed).transpose()?;
    let verified = args.files.iter().map(|file| opened(file, keys.as_ref())).collect::<Result<Vec<_>, _>>()?;
    let statements: Vec<&Statement> = verified.iter().map(|one| &one.statement).collect();
    let made = Reference::of(&statements, &table()?, args.regime, &args.ignore);
    let made = made.map_err(|error| Fail::because("no reference values can be made", &error))?;
    let (made, pcrs) = with_pcrs(made, args, &verified);
    if args.require_pcrs && made.pcrs.is_empty() {
        return Err(Fail::new(Exit::CannotKnow, format!("no reference values are written: {}", clean(&pcrs)))
            .advise("attest these nodes again when their TPMs work, or leave their statements out"));
    }
    let text = made.text().map_err(|error| Fail::because("the reference values cannot be written", &error))?;
    save(&args.file, args.force, format!("{text}\n").as_bytes())?;
    print(&format!(
        "{}: {} of {}, {} left out; {}\n",
        clean(&args.file.display().to_string()),
        count(made.factors.len(), "value", "values"),
        count(args.files.len(), "statement", "statements"),
        made.left_out.len(),
        clean(&pcrs),
    ))?;
    let has_quote = verified.iter().any(|one| quoted(one).is_ok());
    Ok(written(keys.is_some(), has_quote, !made.pcrs.is_empty()))
}

/// The exit code when the file is written.
fn written(keys_checked: bool, has_quote: bool, has_pcrs: bool) -> Exit {
    match keys_checked {
        false => Exit::KeyNotChecked,
        // One node without a quote takes the PCRs of all others away.
        true if has_quote && !has_pcrs => Exit::Partial,
        true => Exit::Done,
    }
}

/// Adds the PCRs that the quotes of all statements share, and says which.
fn with_pcrs(made: Reference, args: &AttestExpectArgs, verified: &[Verified]) -> (Reference, String) {
    let mut quotes = Vec::new();
    for (file, one) in args.files.iter().zip(verified) {
        match quoted(one) {
            Ok(quote) => quotes.push(quote.pcrs.clone()),
            Err(why) => return (made, format!("no PCRs: {}: {why}", file.display())),
        }
    }
    let made = made.with_pcrs(&quotes, &args.ignore);
    let said = match made.pcrs.is_empty() {
        true => "no PCRs: no PCR has one value in all quotes".to_owned(),
        false => format!("PCRs {}", ranges(&made.pcrs.0)),
    };
    (made, said)
}

/// What a node is expected to have, by a file: a statement of a node or run, or reference values.
pub(in crate::commands) struct Expected {
    file: PathBuf,
    reference: Reference,
    signed: Signed,
}

/// What is known of the signer of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Signed {
    /// Reference values are not signed: the caller vouches for its own file.
    Not,
    /// With a key that nobody looked up.
    ByAnyone,
    /// With an allowed key.
    ByAllowed,
}

/// How a node compares with that.
pub(in crate::commands) struct Compared {
    exit: Exit,
    page: String,
    json: Value,
}

impl Compared {
    /// Exit code, text and JSON.
    pub(in crate::commands) fn parts(self) -> (Exit, String, Value) {
        (self.exit, self.page, self.json)
    }
}

impl Expected {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// It is not valid, or has nothing of a node.
    pub(in crate::commands) fn read(file: &Path, keys: Option<&Path>) -> Result<Expected, Fail> {
        let keys = keys.map(allowed).transpose()?;
        let bytes = read(file, MAX_ENVELOPE)?;
        let wrong = |error: &dyn std::error::Error| Fail::because(format!("{}: not valid", shown(file)), error);
        let (reference, signed) = if Reference::is_meant(&bytes) {
            (Reference::parse(&bytes, MAX_ENVELOPE).map_err(|error| wrong(&error))?, Signed::Not)
        } else {
            let Verified { statement, allowed, .. } = envelope::verify(&bytes, keys.as_ref())
                .map_err(|error| Fail { exit: Exit::Tampered, ..wrong(&error) })?;
            let made = Reference::of(&[&statement], &table()?, None, &[]);
            let signed = if allowed.is_some() { Signed::ByAllowed } else { Signed::ByAnyone };
            (made.map_err(|error| wrong(&error))?, signed)
        };
        // What a run had says nothing of this node.
        let reference = reference.of_node();
        if reference.factors.is_empty() {
            return Err(Fail::usage(format!("{} has no factors of a node", shown(file))));
        }
        Ok(Expected { file: file.to_owned(), reference, signed })
    }

    /// Compares this node with it.
    ///
    /// # Errors
    /// The daemon gives no fingerprint.
    pub(in crate::commands) fn compare(&self, place: &Place<'_>) -> Result<Compared, Fail> {
        let Expected { file, reference, signed } = self;
        let answer = block_on(async {
            let request = pb::FingerprintRequest { run: String::new() };
            Ok(Client::connect(place.daemon).await?.attestation().get_fingerprint(request).await?.into_inner())
        })?;
        let broken = |error: &dyn std::error::Error| Fail::because("the daemon sent a broken fingerprint", error);
        let node = Statement::parse(&answer.statement, MAX_ENVELOPE).map_err(|error| broken(&error))?;
        if node.predicate.scope != Scope::Node {
            return Err(Fail::new(Exit::Error, "the daemon sent a fingerprint of another kind"));
        }
        let checked: Checked = reference.check(&node, &table()?);
        let anyone = *signed == Signed::ByAnyone;
        let exit = match checked.verdict {
            // Who may not see the factors of speed gets no word about them.
            Verdict::ResultEqual | Verdict::PerformanceDiffers if anyone => Exit::KeyNotChecked,
            Verdict::ResultEqual => Exit::Done,
            Verdict::PerformanceDiffers => Exit::PerformanceDiffers,
            Verdict::ResultDiffers => Exit::ResultDiffers,
            Verdict::CannotKnow => Exit::CannotKnow,
        };
        Ok(Compared {
            exit,
            page: page::like(file, &checked, !anyone, Paint::stdout()),
            json: json!({
                "file": file.display().to_string(),
                "signed": *signed != Signed::Not,
                "key_checked": *signed == Signed::ByAllowed,
                "like": checked,
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pcrs_that_one_statement_takes_away_are_not_a_whole_result() {
        for (keys, quote, pcrs, expected) in [
            (true, true, true, Exit::Done),
            (true, true, false, Exit::Partial),
            (true, false, false, Exit::Done),
            (false, false, false, Exit::KeyNotChecked),
        ] {
            assert_eq!(written(keys, quote, pcrs), expected, "{keys} {quote} {pcrs}");
        }
    }
}
