//! Statements and what differs between them, as text and as JSON.
//!
//! Invariant: each page says how far its facts can be trusted: which key signed, whether that key was checked, and what is not
//! covered. Values were chosen by runs: all of them are made harmless for a terminal.

use super::{Paint, clean, count, fill, quote, table, time};
use crate::exit::Fail;
use base64::{Engine, engine::general_purpose::STANDARD};
use failsafe_attest::{
    Class, Comparison, Json, PcrFinding, Statement, Status, Verdict, Verified,
    diff::{Cell, Difference, Kind},
    statement::DigestOf,
    tpm::{EK_PREFIX, TPM_KEY, TPM_PREFIX},
};
use failsafe_proto::v1 as pb;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::{fmt::Write, path::Path};

/// Characters of a value that are shown; JSON has all of them.
const VALUE: usize = 160;
/// Columns of a paragraph.
const WIDTH: usize = 96;

/// A statement that is compared, and its file.
pub struct Side<'a> {
    /// As the caller named it.
    pub file: &'a Path,
    /// What is in it.
    pub verified: &'a Verified,
}

/// The digests alone.
pub fn digests(answer: &pb::FingerprintResponse) -> String {
    let rows = [("result", &answer.result), ("performance", &answer.performance), ("full", &answer.full)];
    let row = |(name, digest): (&'static str, &Option<pb::FingerprintDigest>)| {
        let digest = digest.as_ref()?;
        Some((name, format!("{}  {}", clean(&digest.digest), unknown(digest.unknown))))
    };
    table::pairs("", rows.into_iter().filter_map(row))
}

fn unknown(n: u32) -> String {
    if n == 0 {
        "every factor is known".to_owned()
    } else {
        format!("{} without a value: equal digests do not mean equal factors", count(n as usize, "factor", "factors"))
    }
}

/// After a statement was written.
pub fn written(file: &Path, statement: &Statement) -> String {
    let predicate = &statement.predicate;
    let known = predicate.factors.iter().filter(|factor| factor.status == Status::Ok).count();
    format!(
        "{}: {} of a {}, {known} known, signed by a {}, {}\n",
        clean(&file.display().to_string()),
        count(predicate.factors.len(), "factor", "factors"),
        predicate.scope.name(),
        clean(&predicate.signer.kind),
        clean(&quote::short(statement)),
    )
}

/// A verified statement. `expected`: how the quoted PCRs compare with reference values, if some were given.
pub fn verified(
    file: &Path,
    verified: &Verified,
    expected: Option<&[PcrFinding]>,
    zone: &TimeZone,
    paint: Paint,
) -> String {
    let Verified { statement, key, allowed, .. } = verified;
    let predicate = &statement.predicate;
    let mut out = match allowed {
        Some(comment) => paint.good("signature valid, key allowed") + &comment_text(comment),
        None => paint.warn("signature valid, key not checked against an allowed list (--keys)"),
    };
    let digest = |of: &DigestOf| format!("sha256:{}  {}", of.sha256, unknown(of.unknown));
    let declared = if predicate.regime.declared { "declared by the run" } else { "assumed: the run declares none" };
    out.push('\n');
    out.push_str(&table::pairs(
        "  ",
        [
            ("file", file.display().to_string()),
            ("of", subject(statement)),
            ("moment", moment(statement, zone)),
            ("taken", time::wall(taken(statement), zone)),
            ("key", format!("{} ({})", key.id(), predicate.signer.kind)),
            ("nonce", predicate.nonce.clone()),
            ("tpm quote", quote::summary(verified)),
            ("quote proves", quote::proved(verified)),
            ("not proved", quote::not_proved(verified, expected)),
            ("producer", format!("{} {}", predicate.producer.name, predicate.producer.version)),
            ("regime", format!("{} ({declared})", predicate.regime.name)),
            ("classes", format!("{} {}", predicate.table.name, predicate.table.digest)),
            ("result digest", digest(&predicate.digests.result)),
            ("performance digest", digest(&predicate.digests.performance)),
            ("full digest", digest(&predicate.digests.full)),
            ("factors", factors(statement)),
            ("not covered", predicate.not_covered.join("; ")),
        ],
    ));
    let missing = predicate.factors.iter().filter(|factor| factor.status != Status::Ok);
    let rows: Vec<[String; 4]> = missing
        .map(|factor| {
            let status = factor.status.name().to_owned();
            [factor.class.name().to_owned(), factor.path.clone(), status, short(&factor.reason)]
        })
        .collect();
    if !rows.is_empty() {
        let _ = write!(out, "\n{}", table::table(["CLASS", "FACTOR WITHOUT A VALUE", "STATUS", "WHY"], rows));
    }
    if let Some(account) = &predicate.egress {
        let _ = write!(out, "\nwhat the run sent\n{}", super::egress::page(account));
    }
    out
}

/// Of which moment of a run a stored statement is.
fn moment(statement: &Statement, zone: &TimeZone) -> String {
    let Some(moment) = &statement.predicate.moment else { return String::new() };
    let read = match moment.read_ns.parse::<i64>() {
        Ok(ns) => format!("the run was read at {}", time::wall(i128::from(ns), zone)),
        Err(_) => "the run was never read".to_owned(),
    };
    let of = if moment.incident.is_empty() { "" } else { " " };
    format!("{}{of}{} of run {}; {read}", moment.at.name(), moment.incident, moment.run)
}

/// The same for programs.
pub fn verified_json(verified: &Verified) -> Value {
    json!({
        "signature": "valid",
        "key_checked": verified.allowed.is_some(),
        "key_comment": verified.allowed,
        "keyid": verified.key.id().0,
        "tpm_quote": quote::json(verified),
        "statement": verified.statement,
    })
}

/// What differs between statements.
pub fn comparison(
    sides: &[Side<'_>],
    comparison: &Comparison,
    (asked, ignores, show_identity): (bool, bool, bool),
    zone: &TimeZone,
    paint: Paint,
) -> String {
    let name = comparison.verdict.name();
    let name = match comparison.verdict {
        Verdict::ResultEqual => paint.good(name),
        Verdict::PerformanceDiffers | Verdict::CannotKnow => paint.warn(name),
        Verdict::ResultDiffers => paint.bad(name),
    };
    let mut out = format!("{name}: {}\n", meaning(comparison));
    for (n, side) in sides.iter().enumerate() {
        let (file, taken) =
            (clean(&side.file.display().to_string()), time::wall(taken(&side.verified.statement), zone));
        let _ = writeln!(out, "  {}  {file}  {}, {taken}", letter(n), subject(&side.verified.statement));
    }
    let of_runs =
        sides.iter().filter(|side| side.verified.statement.predicate.scope == failsafe_attest::Scope::Run).count();
    if !ignores && (1..sides.len()).contains(&of_runs) {
        out.push_str("  one of a node has no factors of a run: leave them out with --ignore 'run/**'\n");
    }
    let (shown, hidden): (Vec<&Difference>, Vec<&Difference>) =
        comparison.differences.iter().partition(|one| show_identity || one.class != Class::Identity);
    for one in &shown {
        let what = match one.kind {
            Kind::Differs => one.class.name().to_owned(),
            Kind::Unknown => format!("{}, not known everywhere", one.class.name()),
        };
        let _ = writeln!(out, "\n{}  [{what}]", paint.head(&clean(&one.path)));
        for (n, cell) in one.values.iter().enumerate() {
            let _ = writeln!(out, "  {}  {}", letter(n), cell_text(cell));
        }
        let source = if one.citation.is_empty() { String::new() } else { format!(" ({})", one.citation) };
        for line in fill(&format!("{}{source}", one.reason), WIDTH) {
            let _ = writeln!(out, "     {}", paint.dim(&clean(&line)));
        }
    }
    let equal = comparison.equal;
    let declared = match (asked, comparison.regime_declared) {
        (true, _) => "given by --regime",
        (false, true) => "declared",
        (false, false) => "assumed",
    };
    let checked = sides.iter().all(|side| side.verified.allowed.is_some());
    let keys = match checked {
        true => "valid, keys allowed".to_owned(),
        false => "valid, keys not checked against an allowed list (--keys)".to_owned(),
    };
    out.push('\n');
    out.push_str(&table::pairs(
        "",
        [
            (
                "equal",
                format!(
                    "{} result, {} performance, {} identity factors",
                    equal.result, equal.performance, equal.identity
                ),
            ),
            (
                "not shown",
                if hidden.is_empty() {
                    String::new()
                } else {
                    format!(
                        "{} that differ or are not known (--show-identity)",
                        count(hidden.len(), "identity factor", "identity factors")
                    )
                },
            ),
            (
                "ignored",
                if comparison.ignored == 0 { String::new() } else { count(comparison.ignored, "factor", "factors") },
            ),
            ("regime", format!("{} ({declared})", comparison.regime)),
            ("signatures", keys),
            ("not covered", comparison.not_covered.join("; ")),
        ],
    ));
    out
}

/// The same for programs.
///
/// # Errors
/// None for a comparison of this program.
pub fn comparison_json(sides: &[Side<'_>], comparison: &Comparison, show_identity: bool) -> Result<Value, Fail> {
    let failed = |error| Fail::because("cannot write the comparison as JSON", &error);
    let mut value = serde_json::to_value(comparison).map_err(failed)?;
    if !show_identity && let Some(list) = value.get_mut("differences").and_then(Value::as_array_mut) {
        list.retain(|one| one["class"] != Class::Identity.name());
    }
    value["statements"] = sides
        .iter()
        .map(|side| {
            json!({
                "file": side.file,
                "of": subject(&side.verified.statement),
                "taken_ns": side.verified.statement.predicate.taken_ns,
                "keyid": side.verified.key.id().0,
                "key_checked": side.verified.allowed.is_some(),
            })
        })
        .collect();
    Ok(value)
}

/// Public keys, as lines for a list of allowed keys.
pub fn keys(keys: &[pb::NodeKey], (no_tpm, no_endorsement): (&str, &str), host: &str, zone: &TimeZone) -> String {
    let line = |key: &pb::NodeKey| {
        let base64 = STANDARD.encode(&key.public_key);
        if key.kind == TPM_KEY {
            let line = format!("{} {TPM_PREFIX}{base64} {}\n", clean(&key.keyid), clean(&format!("{host}, {TPM_KEY}")));
            let endorsement = |one: &pb::EndorsementCertificate| {
                let (id, base64) = (clean(&key.keyid), STANDARD.encode(&one.certificate));
                format!("{id} {EK_PREFIX}{base64} {}\n", clean(&format!("EK certificate, {}, {host}", one.kind)))
            };
            return line + &key.endorsements.iter().map(endorsement).collect::<String>();
        }
        let created = time::wall(key.created_ns.into(), zone);
        let until = match key.retired_ns {
            0 => String::new(),
            retired => format!(", retired {}", time::wall(retired.into(), zone)),
        };
        let comment = format!("{host}, {}, created {created}{until}", key.kind);
        format!("{} {base64} {}\n", clean(&key.keyid), clean(&comment))
    };
    let none = |what: &str, why: &str| match why.is_empty() {
        true => String::new(),
        false => format!("# no {what}: {}\n", clean(why)),
    };
    let some = keys.iter().any(|key| !key.endorsements.is_empty());
    let endorsement = match some && !no_endorsement.is_empty() {
        true => format!("# not every EK certificate can be read: {}\n", clean(no_endorsement)),
        false => none("EK certificate", no_endorsement),
    };
    keys.iter().map(line).chain([none("TPM key", no_tpm), endorsement]).collect()
}

/// A public key for programs.
pub fn key_json(key: &pb::NodeKey) -> Value {
    json!({
        "keyid": key.keyid,
        "public_key": STANDARD.encode(&key.public_key),
        "kind": key.kind,
        "created_ns": key.created_ns,
        "retired_ns": key.retired_ns,
        "endorsements": key.endorsements.iter().map(|one| json!({
            "nv_index": one.nv_index,
            "kind": one.kind,
            "certificate": STANDARD.encode(&one.certificate),
        })).collect::<Vec<_>>(),
    })
}

fn comment_text(comment: &str) -> String {
    if comment.is_empty() { String::new() } else { format!(" ({})", clean(comment)) }
}

fn meaning(comparison: &Comparison) -> String {
    let of = |class, kind| {
        let all = comparison.differences.iter().filter(|one| one.class == class && one.kind == kind);
        all.count()
    };
    let number = |n| count(n, "factor", "factors");
    let differs = |n: usize| if n == 1 { "differs" } else { "differ" };
    match comparison.verdict {
        Verdict::ResultDiffers => {
            let n = of(Class::Result, Kind::Differs);
            format!("{} that can change results {}", number(n), differs(n))
        }
        Verdict::CannotKnow => match of(Class::Result, Kind::Unknown) {
            0 => "no factor that can change results was compared".to_owned(),
            n => format!("{} that can change results not known everywhere", number(n)),
        },
        Verdict::PerformanceDiffers => {
            let n = of(Class::Performance, Kind::Differs);
            format!("no factor that can change results differs; {} that change speed {}", number(n), differs(n))
        }
        Verdict::ResultEqual => match of(Class::Performance, Kind::Unknown) {
            0 => "every factor that can change results is known and equal".to_owned(),
            n => format!("every factor that can change results is known and equal; {} of speed not known", number(n)),
        },
    }
}

fn subject(statement: &Statement) -> String {
    let value = |path| match statement.factor(path) {
        Some(factor) if factor.status == Status::Ok => clean(&factor.value.to_string()),
        _ => "an unnamed one".to_owned(),
    };
    match statement.predicate.scope {
        failsafe_attest::Scope::Node => format!("node {}", value("node/hostname")),
        failsafe_attest::Scope::Run => format!("run {}", value("run/name")),
    }
}

fn factors(statement: &Statement) -> String {
    let of = |class| statement.predicate.factors.iter().filter(|factor| factor.class == class).count();
    let (result, performance, identity) = (of(Class::Result), of(Class::Performance), of(Class::Identity));
    format!("{result} result, {performance} performance, {identity} identity")
}

fn taken(statement: &Statement) -> i128 {
    statement.predicate.taken_ns.parse().unwrap_or(0)
}

fn letter(n: usize) -> String {
    let letter = u8::try_from(n).ok().filter(|n| *n < 26).map(|n| char::from(b'A' + n));
    letter.map_or_else(|| format!("#{}", n + 1), String::from)
}

pub(super) fn cell_text(cell: &Cell) -> String {
    match cell {
        Cell::Value(Json::Text(text)) => short(text),
        Cell::Value(value) => short(&value.to_string()),
        Cell::Absent => "absent".to_owned(),
        Cell::Unknown(why) => format!("not known: {}", short(why)),
    }
}

fn short(text: &str) -> String {
    let text = clean(text);
    match text.char_indices().nth(VALUE) {
        Some((at, _)) => format!("{}... ({} characters)", &text[..at], text.chars().count()),
        None => text,
    }
}
