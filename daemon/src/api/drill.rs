//! `DrillService`.

use super::Context;
use crate::watchers::drill::{Asked, Counts, Refused};
use failsafe_core::drill::{Drill, Finding};
use failsafe_proto::{ErrorReason, v1};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// `DrillService`.
pub struct Drills(pub Arc<Context>);

#[tonic::async_trait]
impl v1::drill_service_server::DrillService for Drills {
    async fn run(&self, request: Request<v1::RunDrillRequest>) -> Result<Response<v1::DrillResult>, Status> {
        let actor = self.0.principal(&request)?.may_drill()?.actor;
        let v1::RunDrillRequest { reason } = request.into_inner();
        if reason.trim().is_empty() || reason.len() > 1_000 {
            return Err(ErrorReason::InvalidRequest
                .status("reason: expected why, in 1 to 1000 bytes; it is kept in the audit log"));
        }
        let asked = self.0.drills.ask(Asked { actor, reason });
        let result = asked.map_err(|why| match why {
            Refused::Busy => ErrorReason::LimitReached.status(why.to_string()),
            Refused::Closed => ErrorReason::DaemonStopping.status(why.to_string()),
        })?;
        let stopping = |_| ErrorReason::DaemonStopping.status(Refused::Closed.to_string());
        let drill = result.await.map_err(stopping)?;
        Ok(Response::new(shown(&drill)))
    }

    async fn get(&self, request: Request<v1::GetDrillsRequest>) -> Result<Response<v1::DrillState>, Status> {
        self.0.principal(&request)?.on_node()?;
        Ok(Response::new(state(&self.0)))
    }
}

/// The last results, and the schedule.
pub(super) fn state(context: &Context) -> v1::DrillState {
    let view = context.drills.view();
    let schedule = context.config.drill.schedule();
    let ms = |ns: u64| ns / 1_000_000;
    let Counts { proved, unproved, not_done, failed } = view.counts;
    v1::DrillState {
        every_ms: schedule.map_or(0, |schedule| ms(schedule.every.0)),
        jitter_ms: schedule.map_or(0, |schedule| ms(schedule.jitter.0)),
        last: view.drills.last.as_ref().map(shown),
        proved: view.drills.proved.as_ref().map(shown),
        failed: view.drills.failed.as_ref().map(shown),
        due_ns: view.due_ns.unwrap_or(0),
        overdue: view.overdue,
        running: view.drills.under.is_some(),
        proved_ns: view.drills.proved.as_ref().map_or(0, Drill::ended_ns),
        proved_count: proved,
        unproved_count: unproved,
        failed_count: failed,
        not_done_count: not_done,
    }
}

fn shown(drill: &Drill) -> v1::DrillResult {
    let proof = match drill.result {
        Finding::Proved => v1::DrillProof::Proved,
        Finding::Unproved => v1::DrillProof::Unproved,
        Finding::NotDone => v1::DrillProof::NotDone,
        Finding::Failed => v1::DrillProof::Failed,
    };
    let step =
        |done: &failsafe_core::drill::Done| v1::DrillStep { name: done.step.name().into(), took_ns: done.took.0 };
    v1::DrillResult {
        run_id: drill.run.map(|run| run.to_string()).unwrap_or_default(),
        name: drill.name.clone(),
        proof: proof.into(),
        stopped_in_ns: drill.stopped_in.map(|span| span.0),
        steps: drill.steps.iter().map(step).collect(),
        failed_step: drill.failed.map(|step| step.name().to_owned()).unwrap_or_default(),
        problem: drill.problem.clone().unwrap_or_default(),
        began_ns: drill.began_ns,
        took_ns: drill.took.0,
        by: drill.actor.to_string(),
        reason: drill.reason.clone(),
    }
}
