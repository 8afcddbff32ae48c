//! `MetricsService`: one bounded answer with what monitoring reads of the node.
//!
//! Invariant: its size is bounded by constants, whatever users start and name.

use super::{Context, convert, doctor, drill, health, log_state, mode, node, peer::Peer};
use crate::{
    platform::clock,
    runs::{LiveRun, canaries::Monitored, guarded::GuardedRun},
};
use failsafe_core::{Mode, RunId, canary::Arm, drill::is_drill, input::Run, tally};
use failsafe_proto::v1;
use std::{collections::BTreeSet, sync::Arc};
use tonic::{Request, Response, Status};

/// Runs that are listed.
const RUNS: usize = 1_000;
/// Labels of a run that are listed.
const LABELS: usize = 16;

/// `MetricsService`.
pub struct Metrics(pub Arc<Context>);

#[tonic::async_trait]
impl v1::metrics_service_server::MetricsService for Metrics {
    async fn snapshot(
        &self,
        request: Request<v1::MetricsSnapshotRequest>,
    ) -> Result<Response<v1::MetricsSnapshotResponse>, Status> {
        self.0.principal(&request)?.may_read_metrics()?;
        let share = Peer::of(&request)?.share();
        let context = self.0.clone();
        let snapshot = self.0.work(share).read(share, move || snapshot(&context));
        Ok(Response::new(snapshot.await?))
    }
}

fn snapshot(context: &Context) -> v1::MetricsSnapshotResponse {
    let (mut live, mut guarded) = context.registry.live_and_guarded();
    live.retain(|run| !is_drill(&run.run.labels));
    guarded.retain(|guarded| !is_drill(&guarded.run.labels));
    let tallying = context.log.tallying();
    let (counts, totals) = tallying.with(|tally| {
        for run in &live {
            let earlier = run.run.registered_wall_ns < context.started_ns;
            tally.count(run.run.id, run.status().counted.totals(), earlier);
        }
        let ids: BTreeSet<RunId> = live.iter().map(|run| run.run.id).collect();
        let totals = tally.settle(|run| ids.contains(run));
        (tally.counts(), totals)
    });
    let left_out = (live.len() + guarded.len()).saturating_sub(RUNS);
    let run_counts = run_counts(&live, guarded.len());
    let runs = live.iter().map(|run| live_run(run)).chain(guarded.iter().map(|run| guarded_run(run))).take(RUNS);
    let runs = runs.collect();
    let (healthy, dropped) = context.log.written();
    let findings = log_state::findings(context).len();
    let log = v1::LogCounts {
        entries: *context.log.latest().borrow(),
        healthy: healthy && findings == 0,
        limited: counts.limited,
        dropped,
        findings: findings as u64,
    };
    let (shadows, shadow_inputs_dropped) = context.shadows.counts();
    let view = context.view();
    v1::MetricsSnapshotResponse {
        version: env!("CARGO_PKG_VERSION").into(),
        at_ns: clock::wall_ns(),
        started_ns: context.started_ns,
        mode: Some(mode::shown(context)),
        gpus: view.gpus.values().map(node::gpu).collect(),
        sensors: view.sensors.iter().map(|(source, view)| node::sensor(context, *source, view)).collect(),
        health: {
            drop(view);
            Some(health::health(context))
        },
        runs,
        runs_left_out: left_out as u64,
        run_counts,
        interventions: interventions(&counts),
        actions: actions(&counts),
        durations: durations(&counts),
        denials: Some(convert::kernel_counts(&totals)),
        events_lost: totals.events_lost,
        gaps: gaps(&counts),
        log: Some(log),
        limits: node::limits(context),
        overhead: Some(overhead(context)),
        policies_refused: counts.policies_refused,
        uncounted: tallying.missed(),
        drill: Some(drill::state(context)),
        shadows,
        shadow_inputs_dropped,
        canaries: context.registry.canaries().monitored().iter().map(canary).collect(),
    }
}

fn canary(Monitored { kept, interventions, waits }: &Monitored) -> v1::MetricsCanary {
    let side = |Arm { runs, contained, .. }: Arm, live, interventions| {
        Some(v1::MetricsCanarySide { runs, live, contained, interventions })
    };
    let (seen, live) = (kept.arms(), kept.live());
    v1::MetricsCanary {
        name: kept.name.clone(),
        stage: kept.stage.name().into(),
        since_ns: kept.since_ns,
        candidate: side(seen.candidate, live.0, interventions.candidate),
        control: side(seen.control, live.1, interventions.control),
        waits: *waits,
    }
}

fn state(live: &LiveRun) -> v1::RunState {
    convert::run_state(live.status().containment.state())
}

fn run_counts(live: &[Arc<LiveRun>], guarded: usize) -> Vec<v1::RunCount> {
    let all: Vec<v1::RunState> = live.iter().map(|run| state(run)).collect();
    let of = |wanted: v1::RunState| all.iter().filter(|state| **state == wanted).count();
    let states = [v1::RunState::Running, v1::RunState::Frozen, v1::RunState::Partial];
    let counts = states.map(|state| (state, of(state))).into_iter().chain([(v1::RunState::Guarded, guarded)]);
    let counts = counts.filter(|(_, count)| *count > 0);
    counts.map(|(state, count)| v1::RunCount { state: state as i32, count: count as u64 }).collect()
}

fn metrics_run(run: &Run, policy_name: &str, state: v1::RunState) -> v1::MetricsRun {
    v1::MetricsRun {
        id: run.id.to_string(),
        name: run.name.clone(),
        owner_uid: run.owner_uid,
        policy_name: policy_name.to_owned(),
        policy_digest: run.policy.to_string(),
        state: state as i32,
        labels: run.labels.clone().into_iter().take(LABELS).collect(),
        registered_ns: run.registered_wall_ns,
        ..v1::MetricsRun::default()
    }
}

fn live_run(live: &LiveRun) -> v1::MetricsRun {
    let status = live.status().clone();
    v1::MetricsRun {
        observed: live.mode() == Mode::Observe,
        gpus: status.gpus.iter().map(ToString::to_string).collect(),
        frozen_ms: Some(status.frozen.total_ns(clock::monotonic_ns()) / 1_000_000),
        ..metrics_run(live.known(), &live.policy.name, state(live))
    }
}

fn guarded_run(guarded: &GuardedRun) -> v1::MetricsRun {
    metrics_run(&guarded.run, &guarded.policy_name, v1::RunState::Guarded)
}

fn interventions(counts: &tally::Counts) -> Vec<v1::InterventionCount> {
    let one = |((action, rule, enforced), count): (&(&'static str, String, bool), &u64)| v1::InterventionCount {
        action: (*action).to_owned(),
        rule: rule.clone(),
        enforced: *enforced,
        count: *count,
    };
    counts.interventions.iter().map(one).collect()
}

fn actions(counts: &tally::Counts) -> Vec<v1::ActionCount> {
    let one = |((action, result), count): (&(&'static str, &'static str), &u64)| v1::ActionCount {
        action: (*action).to_owned(),
        result: (*result).to_owned(),
        count: *count,
    };
    counts.actions.iter().map(one).collect()
}

fn durations(counts: &tally::Counts) -> Vec<v1::ActionDuration> {
    let one = |(action, durations): (&&'static str, &tally::Durations)| v1::ActionDuration {
        action: (*action).to_owned(),
        count: durations.count,
        sum_ns: durations.sum_ns,
        counts: durations.within.to_vec(),
        bounds_ns: tally::BOUNDS.to_vec(),
    };
    counts.durations.iter().map(one).collect()
}

fn gaps(counts: &tally::Counts) -> Vec<v1::GapCount> {
    let one = |(source, gaps): (&&'static str, &tally::Gaps)| v1::GapCount {
        source: (*source).to_owned(),
        times: gaps.times,
        lost: gaps.lost,
    };
    counts.gaps.iter().map(one).collect()
}

fn overhead(context: &Context) -> v1::Overhead {
    let own = procfs::process::Process::myself().ok();
    let stat = own.as_ref().and_then(|own| own.stat().ok());
    let cpu = |stat: &procfs::process::Stat| (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
    v1::Overhead {
        cpu_seconds: stat.as_ref().map(cpu),
        resident_bytes: stat.as_ref().map(|stat| stat.rss * procfs::page_size()),
        open_files: own.and_then(|own| own.fd_count().ok()).map(|open| open as u64),
        threads: stat.and_then(|stat| u64::try_from(stat.num_threads).ok()),
        costs: doctor::costs(context),
    }
}
