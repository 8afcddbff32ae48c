//! The last values of the metrics that a live run reports, for whoever describes the run. The pipeline has them, and is asked for them only
//! then: it copies nothing for nobody, and nobody waits for it for long.

use super::Context;
use crate::{pipeline::Message, platform::clock, runs::FoundRun};
use failsafe_core::{Kind, Value, decision::Observation, signal::Series};
use failsafe_proto::v1;
use std::time::Duration;
use tokio::{sync::oneshot, time::timeout};

/// How long the pipeline is waited for.
const WAIT: Duration = Duration::from_millis(500);

/// Puts them into the description of the run.
pub(super) async fn put(context: &Context, found: &FoundRun, into: &mut v1::Run) {
    let FoundRun::Live(live) = found else { return };
    let (done, answer) = oneshot::channel();
    // A pipeline with a full queue has more to do than this.
    let sent = context.pipeline.try_send(Message::Metrics { run: live.run.id, done });
    let found = match sent {
        Ok(()) => timeout(WAIT, answer).await.ok().and_then(Result::ok),
        Err(_) => None,
    };
    let Some((metrics, left_out)) = found else {
        into.metrics_unknown = true;
        return;
    };
    let now = clock::monotonic_ns();
    into.metrics = metrics.iter().filter_map(|metric| message(metric, now)).collect();
    into.metrics_left_out = left_out as u64;
}

fn message(of: &Observation, now_ns: u64) -> Option<v1::LastMetric> {
    let Kind::Metric(name) = &of.kind else { return None };
    let (value, step, series) = match &of.value {
        Value::Claimed(claimed) => (claimed.value.0, claimed.step, Some(&claimed.series)),
        Value::Real(value) => (value.0, None, None),
        _ => return None,
    };
    let (rank, pid) = match series {
        Some(Series::Rank(rank)) => (rank.clone(), 0),
        Some(Series::Process { pid, .. }) => (String::new(), *pid),
        None => Default::default(),
    };
    Some(v1::LastMetric { name: name.clone(), value, step, rank, pid, age_ns: now_ns.saturating_sub(of.at.0) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_core::{
        MonoTime, RunId, Subject,
        signal::{Claimed, Real},
    };

    #[test]
    fn a_metric_has_name_value_step_rank_and_age() {
        let series = Series::Rank("3".into());
        let value = Value::Claimed(Claimed { value: Real(2.5), step: Some(0), series });
        let seen = Observation {
            seq: 1,
            at: MonoTime(1_000),
            subject: Subject::Run(RunId(uuid::Uuid::from_u128(1))),
            kind: Kind::Metric("loss".into()),
            value,
            repeats: 0,
        };
        let expected =
            v1::LastMetric { name: "loss".into(), value: 2.5, step: Some(0), rank: "3".into(), pid: 0, age_ns: 500 };
        assert_eq!(message(&seen, 1_500), Some(expected.clone()));
        let of_process = Series::Process { pid: 42, start_ticks: 7 };
        let value = Value::Claimed(Claimed { value: Real(2.5), step: None, series: of_process });
        let expected = v1::LastMetric { step: None, rank: String::new(), pid: 42, age_ns: 0, ..expected };
        // The value came after the time was read.
        assert_eq!(message(&Observation { value, ..seen.clone() }, 900), Some(expected));
        assert_eq!(message(&Observation { kind: Kind::Memory, ..seen }, 900), None);
    }
}
