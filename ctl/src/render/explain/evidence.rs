//! The evidence of an incident: the process tree and the last signals.

use super::super::{count, table, time};
use crate::incident::Incident;
use failsafe_core::{
    record::{ProcessFacts, Snapshot},
    signal::Kind,
    subject::Subject,
    unit::Unit,
};
use std::{collections::BTreeSet, fmt::Write};

/// Most processes that are shown; `-o json` has all.
const MOST: usize = 60;

/// All snapshots of the incident.
pub(super) fn of(incident: &Incident<'_>) -> String {
    let mut out = String::new();
    for decided in &incident.decisions {
        let Some((entry, snapshot)) = decided.evidence else { continue };
        let cut = if snapshot.complete { "" } else { "; the time budget cut the list: there were more" };
        let state = if snapshot.frozen { "frozen" } else { "still running" };
        let n = count(snapshot.processes.len(), "process", "processes");
        let _ =
            writeln!(out, "  {n}, taken {state} for decision #{}{cut} (entry {})", decided.decision.id.n, entry.index);
        tree(&mut out, snapshot);
        signals(&mut out, snapshot, incident);
    }
    out
}

/// Parents before children, drawn by `ppid`; a process whose parent is not in the run stands at the left.
fn tree(out: &mut String, snapshot: &Snapshot) {
    let all = &snapshot.processes;
    let pids: BTreeSet<u32> = all.iter().map(|p| p.pid).collect();
    let mut shown = BTreeSet::new();
    let roots = all.iter().filter(|p| !pids.contains(&p.ppid) || p.ppid == p.pid);
    // Roots first; then whatever a circle of re-used pids may have left over.
    for process in roots.chain(all) {
        branch(out, all, process, "", "", &mut shown);
    }
    if all.len() > MOST {
        let _ = writeln!(out, "    ... and {} more (`-o json` has all)", all.len() - MOST);
    }
}

fn branch(
    out: &mut String,
    all: &[ProcessFacts],
    process: &ProcessFacts,
    lead: &str,
    below: &str,
    shown: &mut BTreeSet<u32>,
) {
    if shown.len() >= MOST || !shown.insert(process.pid) {
        return;
    }
    let ProcessFacts { pid, comm, argv, state, uid, rss_bytes, cpu_us, .. } = process;
    let what = if argv.is_empty() { format!("[{comm}]") } else { argv.clone() };
    let (rss, cpu) = (table::bytes(*rss_bytes), Unit::Microseconds.show(i64::try_from(*cpu_us).unwrap_or(i64::MAX)));
    let _ = writeln!(out, "    {lead}{pid} {comm} {state}  user {uid}, {rss}, cpu {cpu}: {what}");
    let mut children: Vec<&ProcessFacts> = all.iter().filter(|p| p.ppid == *pid && p.pid != *pid).collect();
    children.sort_by_key(|p| (p.start_ticks, p.pid));
    for (i, child) in children.iter().enumerate() {
        let last = i + 1 == children.len();
        let lead = format!("{below}{}", if last { "└─ " } else { "├─ " });
        let below = format!("{below}{}", if last { "   " } else { "│  " });
        branch(out, all, child, &lead, &below, shown);
    }
}

fn signals(out: &mut String, snapshot: &Snapshot, incident: &Incident<'_>) {
    if snapshot.signals.is_empty() {
        return;
    }
    let zero = incident.zero().0;
    let rows = snapshot.signals.iter().filter(|seen| seen.kind != Kind::Event).map(|seen| {
        let whose = match &seen.subject {
            Subject::Run(_) => "run".to_owned(),
            subject => subject.to_string(),
        };
        let age = time::delta(i128::from(seen.at.0) - i128::from(zero.0));
        [seen.kind.to_string(), seen.show(), whose, age]
    });
    let text = table::table(["LAST SIGNALS", "VALUE", "OF", "SEEN"], rows);
    for line in text.lines() {
        let _ = writeln!(out, "    {line}");
    }
}
