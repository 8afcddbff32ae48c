//! `attest common`, `attest expect`, and `node placeable --like`: what bad runs share, and what a node is expected to have.

use super::{allowed, opened, read, shown, table};
use crate::{
    args::{AttestCommonArgs, AttestExpectArgs},
    client::{Client, block_on},
    commands::{
        Place,
        file::{free, save},
    },
    exit::{Exit, Fail},
    render::{Paint, clean, count, json, print, reference as page},
};
use failsafe_attest::{
    Scope, Statement, Verdict, Verified,
    common::common as find,
    envelope::{self, MAX_ENVELOPE},
    reference::{Checked, Reference},
};
use failsafe_proto::v1 as pb;
use serde_json::json;
use std::path::{Path, PathBuf};

pub(in crate::commands) fn common(args: &AttestCommonArgs) -> Result<Exit, Fail> {
    let keys = args.keys.as_deref().map(allowed).transpose()?;
    let open = |files: &[PathBuf]| files.iter().map(|file| opened(file, keys.as_ref())).collect::<Result<Vec<_>, _>>();
    let (bad, good) = (open(&args.bad)?, open(&args.good)?);
    let of = |verified: &[Verified]| verified.iter().map(|one| one.statement.clone()).collect::<Vec<Statement>>();
    let (bad, good) = (of(&bad), of(&good));
    let (bad, good): (Vec<&Statement>, Vec<&Statement>) = (bad.iter().collect(), good.iter().collect());
    let answer = find(&bad, &good, &table()?, args.regime, &args.ignore);
    let text = if args.output.json() {
        json::text(&json!({ "keys_checked": keys.is_some(), "common": answer }))
    } else {
        page::common(&answer, (args.bad.len(), args.good.len()), args.show_identity, keys.is_some(), Paint::stdout())
    };
    print(&text)?;
    let counts = |found: &[failsafe_attest::common::Shared]| {
        found.iter().any(|one| args.show_identity || one.class != failsafe_attest::Class::Identity)
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
    let statements = args.files.iter().map(|file| opened(file, keys.as_ref())).collect::<Result<Vec<_>, _>>()?;
    let statements: Vec<&Statement> = statements.iter().map(|one| &one.statement).collect();
    let made = Reference::of(&statements, &table()?, args.regime, &args.ignore);
    let made = made.map_err(|error| Fail::because("no reference values can be made", &error))?;
    let text = made.text().map_err(|error| Fail::because("the reference values cannot be written", &error))?;
    save(&args.file, args.force, format!("{text}\n").as_bytes())?;
    print(&format!(
        "{}: {} of {}, {} left out\n",
        clean(&args.file.display().to_string()),
        count(made.factors.len(), "value", "values"),
        count(args.files.len(), "statement", "statements"),
        made.left_out.len(),
    ))?;
    Ok(if keys.is_some() { Exit::Done } else { Exit::KeyNotChecked })
}

/// Whether this node computes as the file says: a statement of a node or run, or reference values.
pub(in crate::commands) fn like(
    place: &Place<'_>,
    file: &Path,
    keys: Option<&Path>,
    as_json: bool,
) -> Result<Exit, Fail> {
    let keys = keys.map(allowed).transpose()?;
    let bytes = read(file, MAX_ENVELOPE)?;
    let table = table()?;
    let wrong = |error: &dyn std::error::Error| Fail::because(format!("{}: not valid", shown(file)), error);
    let (reference, is_checked) = if Reference::is_meant(&bytes) {
        // It is not signed: the caller vouches for its own file.
        (Reference::parse(&bytes, MAX_ENVELOPE).map_err(|error| wrong(&error))?, true)
    } else {
        let Verified { statement, allowed, .. } =
            envelope::verify(&bytes, keys.as_ref()).map_err(|error| Fail { exit: Exit::Tampered, ..wrong(&error) })?;
        let made = Reference::of(&[&statement], &table, None, &[]);
        (made.map_err(|error| wrong(&error))?, allowed.is_some())
    };
    let reference = reference.of_node();
    if reference.factors.is_empty() {
        return Err(Fail::usage(format!("{} has no factors of a node", shown(file))));
    }
    let answer = block_on(async {
        let request = pb::FingerprintRequest { run: String::new() };
        Ok(Client::connect(place.socket).await?.attestation().get_fingerprint(request).await?.into_inner())
    })?;
    let broken = |error: &dyn std::error::Error| Fail::because("the daemon sent a broken fingerprint", error);
    let node = Statement::parse(&answer.statement, MAX_ENVELOPE).map_err(|error| broken(&error))?;
    if node.predicate.scope != Scope::Node {
        return Err(Fail::new(Exit::Error, "the daemon sent a fingerprint of another kind"));
    }
    let checked: Checked = reference.check(&node, &table);
    let text = if as_json {
        json::text(&json!({ "file": file.display().to_string(), "key_checked": is_checked, "like": checked }))
    } else {
        page::like(file, &checked, is_checked, Paint::stdout())
    };
    print(&text)?;
    Ok(match checked.verdict {
        // Who may not see the factors of speed gets no word about them.
        Verdict::ResultEqual | Verdict::PerformanceDiffers if !is_checked => Exit::KeyNotChecked,
        Verdict::ResultEqual => Exit::Done,
        Verdict::PerformanceDiffers => Exit::PerformanceDiffers,
        Verdict::ResultDiffers => Exit::ResultDiffers,
        Verdict::CannotKnow => Exit::CannotKnow,
    })
}
