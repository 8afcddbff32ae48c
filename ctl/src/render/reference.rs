//! What bad runs share and good ones lack, and whether a node is as expected, for people.

use super::{Paint, attest::cell_text, clean, count, fill, table};
use failsafe_attest::{
    Class, PcrFinding, PcrState, PcrVerdict, Verdict,
    common::{Common, Shared},
    reference::Checked,
};
use std::{fmt::Write, path::Path};

/// Columns of a paragraph.
const WIDTH: usize = 96;

/// The factors that bad statements share and good ones lack.
pub fn common(
    answer: &Common,
    (bad, good): (usize, usize),
    show_identity: bool,
    keys_checked: bool,
    paint: Paint,
) -> String {
    let shown = |list: &[Shared]| {
        list.iter().filter(|one| show_identity || one.class != Class::Identity).cloned().collect::<Vec<_>>()
    };
    let (separates, candidates) = (shown(&answer.separates), shown(&answer.candidates));
    let hidden = answer.separates.len() + answer.candidates.len() - separates.len() - candidates.len();
    let (bad, good) = (count(bad, "bad statement", "bad statements"), count(good, "good one", "good ones"));
    let mut out = match separates.len() {
        0 => paint.warn(&format!("no factor is known to be shared by {bad} and by none of {good}")),
        n => paint.good(&format!("{} {bad} from {good}", count(n, "factor separates", "factors separate"))),
    };
    out.push('\n');
    for (title, list) in [("", separates), ("may separate them, but is not known everywhere", candidates)] {
        if !title.is_empty() && !list.is_empty() {
            let _ = writeln!(out, "\n{title}");
        }
        for one in list {
            let unknown = if one.unknown > 0 { format!(", not known in {}", one.unknown) } else { String::new() };
            let values: Vec<String> = one.good.iter().map(cell_text).collect();
            let _ = writeln!(out, "\n{}  [{}{unknown}]", paint.head(&clean(&one.path)), one.class);
            let _ = writeln!(out, "  bad   {}\n  good  {}", cell_text(&one.bad), values.join("; "));
            explained(&mut out, &one.reason, &one.citation, paint);
        }
    }
    let keys = if keys_checked { "checked" } else { "not checked: anybody may have signed these statements (--keys)" };
    let _ = write!(
        out,
        "\n{}",
        table::pairs(
            "",
            [
                ("compared", count(answer.compared, "factor", "factors")),
                (
                    "not shown",
                    if hidden > 0 { format!("{hidden} identity factors (--show-identity)") } else { String::new() }
                ),
                ("regime", answer.regime.name().to_owned()),
                ("keys", keys.to_owned()),
            ]
        )
    );
    out
}

/// Whether a node is as a file says.
pub fn like(file: &Path, checked: &Checked, is_checked: bool, paint: Paint) -> String {
    let name = checked.verdict.name();
    let (name, meaning) = match checked.verdict {
        Verdict::ResultEqual => (paint.good(name), "this node has every value that can change results"),
        Verdict::PerformanceDiffers => (paint.warn(name), "only factors that change speed differ"),
        Verdict::ResultDiffers => (paint.bad(name), "a factor that can change results differs"),
        Verdict::CannotKnow => (paint.warn(name), "a factor that can change results is not known"),
    };
    let mut out = format!("{name}: {meaning}\n");
    mismatches(&mut out, checked, "this node", paint);
    let keys = if is_checked { "" } else { "not checked: anybody may have signed the file (--keys)" };
    let _ = write!(
        out,
        "\n{}",
        table::pairs(
            "",
            [
                ("file", file.display().to_string()),
                ("equal", count(checked.matches, "factor", "factors")),
                ("key", keys.to_owned()),
            ]
        )
    );
    out
}

/// How a statement compares with reference values: its quoted PCRs, and its factors.
pub fn expected(file: &Path, pcrs: &[PcrFinding], checked: &Checked, keys_checked: bool, paint: Paint) -> String {
    let file = clean(&file.display().to_string());
    let judged = pcrs.iter().filter(|one| one.state != PcrState::NoReference).count();
    let equal = pcrs.iter().filter(|one| one.state == PcrState::Equal).count();
    let judged = count(judged, "PCR", "PCRs");
    let mut out = match PcrVerdict::of(pcrs) {
        PcrVerdict::Equal => {
            format!("\n{}: {judged} of {file}\n", paint.good("every PCR with a reference value is as expected"))
        }
        PcrVerdict::Differ => {
            format!("\n{}: {equal} of {judged} as in {file}\n", paint.bad("PCRs differ from their reference values"))
        }
        PcrVerdict::CannotKnow => {
            format!("\n{}: {equal} of {judged} as in {file}\n", paint.warn("not every expected PCR is quoted"))
        }
        PcrVerdict::NoReference => format!(
            "\n{}: {file} has none: a quote proves which values the PCRs had, not that they are good\n",
            paint.warn("no reference values of PCRs")
        ),
    };
    let hex = |value: &Option<String>| value.clone().unwrap_or_default();
    for one in pcrs {
        let what = match one.state {
            PcrState::Equal => continue,
            PcrState::Differs => {
                format!("differs\n  expected        {}\n  quoted          {}", hex(&one.expected), hex(&one.found))
            }
            PcrState::NotQuoted => {
                format!("is not quoted by an allowed TPM key\n  expected        {}", hex(&one.expected))
            }
            PcrState::NoReference => format!("has no reference value\n  quoted          {}", hex(&one.found)),
        };
        let _ = writeln!(out, "PCR {} (SHA-256) {what}", one.pcr);
    }
    let (name, meaning) = match checked.verdict {
        Verdict::ResultEqual if !keys_checked => (
            paint.warn("factors not checked"),
            "they equal the file, but anybody may have signed this statement (--keys)",
        ),
        Verdict::ResultEqual => {
            (paint.good("factors as expected"), "every value that can change results is as expected")
        }
        Verdict::PerformanceDiffers => (paint.warn("performance-differs"), "only factors that change speed differ"),
        Verdict::ResultDiffers => (paint.bad("result-differs"), "a factor that can change results differs"),
        Verdict::CannotKnow => (paint.warn("cannot-know"), "a factor that can change results is not known"),
    };
    let _ = writeln!(out, "{name}: {meaning} ({} equal)", count(checked.matches, "factor", "factors"));
    mismatches(&mut out, checked, "this statement", paint);
    out
}

/// The factors that differ or are not known; `whose` says of what the found values are.
fn mismatches(out: &mut String, checked: &Checked, whose: &str, paint: Paint) {
    let width = whose.len();
    for one in &checked.mismatches {
        let _ = writeln!(out, "\n{}  [{}]", paint.head(&clean(&one.path)), one.class);
        let (expected, found) = (cell_text(&one.expected), cell_text(&one.found));
        let _ = writeln!(out, "  {:width$}  {expected}\n  {whose}  {found}", "expected");
        explained(out, &one.reason, &one.citation, paint);
    }
}

/// Why a factor has its class, and who found that.
fn explained(out: &mut String, reason: &str, citation: &str, paint: Paint) {
    let source = if citation.is_empty() { String::new() } else { format!(" ({citation})") };
    for line in fill(&format!("{reason}{source}"), WIDTH) {
        let _ = writeln!(out, "     {}", paint.dim(&clean(&line)));
    }
}
