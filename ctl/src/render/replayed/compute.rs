//! The compute time by which two policies differ: what the new one would have saved, lost, stopped or let go on.
//!
//! Whether a stop that only one of them makes saves work or loses it depends on whether the finding is right, which no recording
//! shows. So only the time between two stops of the same run counts as saved or lost.

use super::{clean, time};
use failsafe_core::replay::{Compute, StopDifference, StopKind, Until};
use serde_json::{Value, json as object};
use std::fmt::Write;

/// The course of one run over the recordings of one argument.
pub struct OfRun {
    /// The run's name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Whether recordings of it are missing: the time of a missing one counts as if nothing had changed in it.
    pub incomplete: bool,
    /// What is counted.
    pub compute: Compute,
}

/// The GPU-seconds of each kind, and of what is not known.
#[derive(Default)]
struct Total {
    by_kind: [u128; 4],
    /// Runs that would have gone on after the end of their recording.
    go_on: usize,
}

impl Total {
    fn of(all: &[OfRun]) -> Total {
        let mut total = Total::default();
        for run in all {
            for one in run.compute.differences() {
                if let Some(sum) = total.by_kind.get_mut(one.kind as usize) {
                    *sum += one.gpu_ns;
                }
            }
            total.go_on += usize::from(run.compute.would_go_on());
        }
        total
    }

    fn gpu_seconds(&self, kind: StopKind) -> f64 {
        seconds(self.by_kind.get(kind as usize).copied().unwrap_or(0))
    }
}

/// For people, after the decisions of each recording. Nothing where no stop differs.
pub fn text(all: &[OfRun]) -> String {
    let mut out = String::new();
    for run in all {
        let lines: Vec<String> = run.compute.differences().iter().map(|one| run.line(one)).collect();
        if lines.is_empty() {
            continue;
        }
        let _ = writeln!(out, "\ncompute    run {} {}", clean(&run.name), run.id);
        for line in lines {
            let _ = writeln!(out, "  {line}");
        }
        if run.compute.would_go_on() {
            out.push_str("  after the recording, the run would have gone on: for how long is not known\n");
        }
        if run.incomplete {
            out.push_str("  recordings of this run are missing: their time counts as if nothing had changed in it\n");
        }
    }
    let total = Total::of(all);
    let of = |kind| total.gpu_seconds(kind);
    let _ = writeln!(
        out,
        "\ncompute: {:.1} GPU-seconds saved by earlier stops, {:.1} lost by later ones",
        of(StopKind::Earlier),
        of(StopKind::Later)
    );
    let (added, removed) = (of(StopKind::Added), of(StopKind::Removed));
    if added > 0.0 {
        let _ = writeln!(
            out,
            "         {added:.1} GPU-seconds stopped by the new policy only: saved if the stop is right, lost if it is a false alarm"
        );
    }
    if removed > 0.0 {
        let _ = writeln!(
            out,
            "         {removed:.1} GPU-seconds stopped by the recorded policy only: lost if that stop was right, saved if it was a false alarm"
        );
    }
    if total.go_on > 0 {
        let _ = writeln!(
            out,
            "         {} would have gone on after the end of the recording: this time is not known, and not counted",
            super::count(total.go_on, "run", "runs")
        );
    }
    out
}

impl OfRun {
    fn line(&self, one: &StopDifference) -> String {
        let gpus = match one.gpus {
            0 => "of a run without GPUs".to_owned(),
            n => format!("of {}", super::count(n, "GPU", "GPUs")),
        };
        let what = match (one.kind, one.until) {
            (StopKind::Earlier, _) => "stopped earlier by",
            (StopKind::Later, _) => "stopped later by",
            (StopKind::Added, _) => "would have stopped",
            (StopKind::Removed, _) => "would not have stopped",
        };
        let until = match one.until {
            Until::Stopped => "",
            Until::Thawed => ", until an operator thaws the run",
            Until::RunEnded => ", until the run really ends",
            Until::RecordingEnded => ", until the recording ends",
        };
        let at = time::delta(i128::from(one.from.0) - i128::from(self.compute.began().0));
        let (length, total) = (seconds(one.ns.into()), seconds(one.gpu_ns));
        format!("{at}  {what} {length:.3} s {gpus}{until}: {total:.1} GPU-seconds")
    }

    fn json(&self) -> Value {
        let began = self.compute.began();
        let one = |one: &StopDifference| {
            object!({
                "kind": one.kind,
                "from_seconds": seconds(u128::from(one.from.0.saturating_sub(began.0))),
                "seconds": seconds(one.ns.into()),
                "until": one.until,
                "gpus": one.gpus,
                "gpu_seconds": seconds(one.gpu_ns),
            })
        };
        object!({
            "run_id": self.id,
            "run_name": self.name,
            "counted_seconds": seconds(self.compute.counted_ns().into()),
            "gpus": self.compute.gpus(),
            "incomplete": self.incomplete,
            "goes_on_after_end": self.compute.would_go_on(),
            "differences": self.compute.differences().iter().map(one).collect::<Vec<_>>(),
        })
    }
}

/// For programs.
pub fn json(all: &[OfRun]) -> Value {
    let total = Total::of(all);
    object!({
        "saved_gpu_seconds": total.gpu_seconds(StopKind::Earlier),
        "lost_gpu_seconds": total.gpu_seconds(StopKind::Later),
        "added_gpu_seconds": total.gpu_seconds(StopKind::Added),
        "removed_gpu_seconds": total.gpu_seconds(StopKind::Removed),
        "runs_that_go_on_after_end": total.go_on,
        "runs": all.iter().map(OfRun::json).collect::<Vec<_>>(),
    })
}

fn seconds(ns: u128) -> f64 {
    ns as f64 / 1e9
}
