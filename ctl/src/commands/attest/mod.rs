//! `attest`: the daemon makes statements; verifying and comparing them needs neither the daemon nor the network.

mod endorsement;
mod expected;
mod ima;
pub(super) mod key;
pub(super) mod preflight;
pub(super) mod reference;

use super::{
    Place,
    file::{free, save},
};
use crate::{
    args::{AttestArgs, AttestDiffArgs, AttestNodeArgs, AttestRunArgs, AttestVerifyArgs},
    client::{Client, block_on},
    exit::{Exit, Fail},
    render::{Paint, attest as page, clean, json, print},
};
use endorsement::{Endorsement, Roots};
use expected::{Expected, quoted};
use failsafe_attest::{
    AllowedKeys, Statement, Table, Verdict, Verified, VerifyError, compare,
    diff::Options,
    envelope::{self, MAX_ENVELOPE},
    key::MAX_KEYS_FILE,
};
use failsafe_proto::v1 as pb;
use std::{fs::File, io::Read, path::Path};

pub(super) fn node(place: &Place<'_>, args: &AttestNodeArgs) -> Result<Exit, Fail> {
    if args.digest {
        let answer = block_on(async {
            let request = pb::FingerprintRequest { run: String::new() };
            Ok(Client::connect(place.daemon).await?.attestation().get_fingerprint(request).await?.into_inner())
        })?;
        print(&page::digests(&answer))?;
        return Ok(Exit::Done);
    }
    attested(place, "", "", &args.attest)
}

pub(super) fn run(place: &Place<'_>, args: &AttestRunArgs) -> Result<Exit, Fail> {
    attested(place, &args.run, args.at.as_deref().unwrap_or_default(), &args.attest)
}

fn attested(place: &Place<'_>, run: &str, at: &str, args: &AttestArgs) -> Result<Exit, Fail> {
    if let Some(file) = &args.output {
        free(file, args.force)?;
    }
    let nonce = args.nonce.as_ref().map(|nonce| nonce.0.clone()).unwrap_or_default();
    let answer = block_on(async {
        let request = pb::AttestRequest { run: run.to_owned(), nonce, at: at.to_owned() };
        Ok(Client::connect(place.daemon).await?.attestation().attest(request).await?.into_inner())
    })?;
    let Some(file) = &args.output else {
        let text = String::from_utf8(answer.envelope);
        print(&text.map_err(|_| Fail::new(Exit::Error, "the daemon sent a broken statement"))?)?;
        return Ok(Exit::Done);
    };
    save(file, args.force, &answer.envelope)?;
    // What the daemon answered is read as it will be read elsewhere.
    let Verified { statement, .. } = opened(file, None)?;
    print(&page::written(file, &statement))?;
    Ok(Exit::Done)
}

pub(super) fn verify(place: &Place<'_>, args: &AttestVerifyArgs) -> Result<Exit, Fail> {
    let keys = args.keys.as_deref().map(allowed).transpose()?;
    let verified = opened(&args.file, keys.as_ref())?;
    if let Some(nonce) = &args.nonce {
        let (found, wanted) = (&verified.statement.predicate.nonce, hex::encode(&nonce.0));
        if *found != wanted {
            let found = if found.is_empty() { "none" } else { found };
            let message = format!("{}: the nonce is {found}, expected {wanted}", shown(&args.file));
            return Err(Fail::new(Exit::Tampered, message)
                .advise("the statement may be an old one: have the node attested again with --nonce"));
        }
    }
    if args.require_tpm
        && let Err(why) = quoted(&verified)
    {
        let message = format!("{}: {}", shown(&args.file), clean(&why));
        let advice = match verified.quote {
            Some(_) => "add the TPM key of the node to the list of allowed keys (`failsafectl attest key show` there)",
            None => {
                "have the node attested again when its TPM works; without --require-tpm the statement is verified without it"
            }
        };
        return Err(Fail::new(Exit::Tampered, message).advise(advice));
    }
    let replayed = args.ima.as_deref().map(|list| ima::replayed(list, &args.file, &verified)).transpose()?;
    let ima = args.ima.as_deref().zip(replayed.as_ref());
    let endorsement = match (&args.tpm_roots, &keys) {
        (Some(roots), Some(keys)) => Some(Endorsement::of(&args.file, &verified, keys, &Roots::read(roots)?)?),
        _ => None,
    };
    let expected = args.expect.as_deref().map(|file| Expected::of(file, &verified)).transpose()?;
    let checked = verified.allowed.is_some();
    let text = if args.output.json() {
        let mut value = page::verified_json(&verified);
        value["endorsement"] = endorsement.as_ref().map(Endorsement::json).unwrap_or_default();
        value["ima"] = ima.map(|(list, replayed)| ima::json(list, replayed)).unwrap_or_default();
        value["expected"] = expected.as_ref().map(Expected::json).unwrap_or_default();
        json::text(&value)
    } else {
        let pcrs = expected.as_ref().map(Expected::pcrs);
        let text = page::verified(&args.file, &verified, pcrs, &place.zone, Paint::stdout());
        let endorsement = endorsement.as_ref().map(Endorsement::page).unwrap_or_default();
        let ima = ima.map(|(list, replayed)| ima::page(list, replayed)).unwrap_or_default();
        text + &endorsement
            + &ima
            + &expected.as_ref().map(|expected| expected.page(checked, Paint::stdout())).unwrap_or_default()
    };
    print(&text)?;
    let exit = match expected {
        Some(expected) => expected.exit(checked, args.require_pcrs),
        None if checked => Exit::Done,
        None => Exit::KeyNotChecked,
    };
    let is_proved = endorsement.is_none_or(|endorsement| endorsement.is_activated());
    Ok(match exit {
        Exit::Done | Exit::PerformanceDiffers if !is_proved => Exit::CannotKnow,
        exit => exit,
    })
}

pub(super) fn diff(place: &Place<'_>, args: &AttestDiffArgs) -> Result<Exit, Fail> {
    let how = &args.compare;
    let keys = how.keys.as_deref().map(allowed).transpose()?;
    let opened = args.files.iter().map(|file| opened(file, keys.as_ref())).collect::<Result<Vec<_>, _>>()?;
    let statements: Vec<&Statement> = opened.iter().map(|one| &one.statement).collect();
    let options = Options { regime: how.regime, ignore: how.ignore.clone() };
    let comparison = compare(&statements, &table()?, &options);
    let sides: Vec<page::Side<'_>> =
        args.files.iter().zip(&opened).map(|(file, verified)| page::Side { file, verified }).collect();
    let text = if how.output.json() {
        json::text(&page::comparison_json(&sides, &comparison, how.show_identity)?)
    } else {
        let asked = (how.regime.is_some(), !how.ignore.is_empty(), how.show_identity);
        page::comparison(&sides, &comparison, asked, &place.zone, Paint::stdout())
    };
    print(&text)?;
    Ok(match comparison.verdict {
        // Anybody can sign two equal statements.
        Verdict::ResultEqual if keys.is_none() => Exit::KeyNotChecked,
        Verdict::ResultEqual => Exit::Done,
        Verdict::PerformanceDiffers => Exit::PerformanceDiffers,
        Verdict::ResultDiffers => Exit::ResultDiffers,
        Verdict::CannotKnow => Exit::CannotKnow,
    })
}

fn table() -> Result<Table, Fail> {
    Table::built_in().map_err(|errors| Fail::new(Exit::Error, format!("the table of factors is broken\n{errors}")))
}

/// A verified statement of a file.
fn opened(file: &Path, keys: Option<&AllowedKeys>) -> Result<Verified, Fail> {
    let bytes = read(file, MAX_ENVELOPE)?;
    envelope::verify(&bytes, keys).map_err(|error| {
        let fail = Fail::because(format!("{}: not valid", shown(file)), &error);
        let advice = match error {
            VerifyError::NotAllowed(_) => {
                "if you trust the node that signed it, add its line of `failsafectl attest key show` to the list of allowed keys"
            }
            _ => "believe nothing of this file; have the node or run attested again",
        };
        Fail { exit: Exit::Tampered, message: clean(&fail.message), ..fail }.advise(advice)
    })
}

fn allowed(file: &Path) -> Result<AllowedKeys, Fail> {
    let bytes = read(file, MAX_KEYS_FILE)?;
    let text = String::from_utf8(bytes).map_err(|_| Fail::usage(format!("{} is not text", shown(file))))?;
    let keys = AllowedKeys::parse(&text).map_err(|error| Fail::usage(format!("{}: {error}", shown(file))))?;
    Ok(keys)
}

/// At most `most` bytes and one: then whoever reads them says that it is too much.
fn read(file: &Path, most: usize) -> Result<Vec<u8>, Fail> {
    let fail = |error| Fail::because(format!("cannot read {}", shown(file)), &error);
    let source: Box<dyn Read> = match file.as_os_str() == "-" {
        true => Box::new(std::io::stdin().lock()),
        false => Box::new(File::open(file).map_err(fail)?),
    };
    let mut bytes = Vec::new();
    source.take(most as u64 + 1).read_to_end(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

fn shown(file: &Path) -> String {
    clean(&file.display().to_string())
}

#[cfg(test)]
mod tests;
