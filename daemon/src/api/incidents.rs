//! `IncidentService`: the incidents of the audit log in pages, one by one, and as they change.
//!
//! Invariants: a caller sees the incidents of the runs that it may see, and of others learns nothing; nothing here reads the log;
//! an incident is shared by all who watch it until it is sent.

mod watch;

use super::{
    Context,
    authorize::Principal,
    convert,
    follow::{Answer, Follow},
    gate::Deadline,
    list::Selector,
    peer::Peer,
};
use crate::watchers::incidents::{Problem, known};
use failsafe_core::{
    Mode, RunId,
    decision::{IncidentId, Severity},
    incidents::{Incident, Incomplete, Taken},
    standing::IncidentState,
};
use failsafe_proto::{ErrorReason, v1};
use prost::Message;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status};
pub(super) use watch::Marks;
use watch::Watched;

/// Incidents of a page, if the request does not say, and at most.
const INCIDENTS: (usize, usize) = (100, 1_000);
/// Bytes of a page, more or less.
const PAGE_BYTES: usize = 1 << 20;
/// How long a daemon that has just started is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// `IncidentService`.
pub struct IncidentApi(pub Arc<Context>);

#[tonic::async_trait]
impl v1::incident_service_server::IncidentService for IncidentApi {
    async fn list_incidents(
        &self,
        request: Request<v1::ListIncidentsRequest>,
    ) -> Result<Response<v1::ListIncidentsResponse>, Status> {
        let (who, share) = (self.0.principal(&request)?, Peer::of(&request)?.share());
        self.read(Deadline::of(&request)).await?;
        let asked = request.into_inner();
        let filter = Filter::new(&self.0, who, (&asked.run, &asked.rule, &asked.selector))?;
        let state =
            v1::IncidentState::try_from(asked.state).map_err(|_| bad("state: expected UNSPECIFIED, OPEN or CLOSED"))?;
        let behind = match asked.page_token.as_str() {
            "" => None,
            token => {
                let token = token.parse::<u64>();
                Some(token.map_err(|_| bad("page_token: expected the `next_page_token` of an answer"))?)
            }
        };
        let most = match usize::try_from(asked.page_size).unwrap_or(usize::MAX) {
            0 => INCIDENTS.0,
            size => size.min(INCIDENTS.1),
        };
        let (since, until) = (asked.since_ns, asked.until_ns);
        let context = self.0.clone();
        let page = self.0.work(share).read(share, move || {
            let wanted = |it: &&Arc<Incident>| {
                behind.is_none_or(|behind| it.entry > behind)
                    && (state == v1::IncidentState::Unspecified || (state == v1::IncidentState::Open) == it.is_open())
                    && (since <= 0 || it.is_open() || it.changed_ns >= since)
                    && (until <= 0 || it.opened_ns < until)
                    && filter.wants(it)
            };
            let list = context.incidents.list();
            let mut found: Vec<Arc<Incident>> = list.iter().filter(wanted).cloned().collect();
            let (revision, earlier_in_log) = (list.revision(), list.incomplete().in_log_only);
            let incomplete = incomplete(&context, list.incomplete());
            drop(list);
            let mut sees = filter.sees();
            found.retain(|it| sees(it));
            found.sort_unstable_by_key(|it| it.entry);
            let (mut incidents, mut bytes, mut next) = (Vec::new(), 0, None);
            for (at, one) in found.iter().enumerate() {
                if at == most || bytes >= PAGE_BYTES {
                    next = at.checked_sub(1).and_then(|last| found.get(last)).map(|last| last.entry.to_string());
                    break;
                }
                let message = message(one);
                bytes += message.encoded_len();
                incidents.push(message);
            }
            let (next_page_token, only_own) = (next.unwrap_or_default(), !filter.who.reads_log());
            v1::ListIncidentsResponse { incidents, next_page_token, only_own, revision, earlier_in_log, incomplete }
        });
        page.await.map(Response::new)
    }

    async fn get_incident(&self, request: Request<v1::GetIncidentRequest>) -> Result<Response<v1::Incident>, Status> {
        let (who, share) = (self.0.principal(&request)?, Peer::of(&request)?.share());
        self.read(Deadline::of(&request)).await?;
        let v1::GetIncidentRequest { incident } = request.into_inner();
        let id: IncidentId = incident.parse().map_err(|why| bad(&format!("incident: {why}")))?;
        let filter = Filter::new(&self.0, who, ("", "", ""))?;
        let context = self.0.clone();
        let found = self.0.work(share).read(share, move || {
            let found = context.incidents.list().get(id).cloned();
            let mut sees = filter.sees();
            found.filter(|it| sees(it)).map(|it| message(&it))
        });
        let found = found.await?.ok_or_else(|| {
            let text =
                format!("no incident {id} in memory; older ones are in the audit log (`failsafectl explain {id}`)");
            ErrorReason::IncidentNotFound.status(text)
        })?;
        Ok(Response::new(found))
    }

    type WatchIncidentsStream = Answer<v1::WatchIncidentsResponse>;

    async fn watch_incidents(
        &self,
        request: Request<v1::WatchIncidentsRequest>,
    ) -> Result<Response<Self::WatchIncidentsStream>, Status> {
        let (who, peer) = (self.0.principal(&request)?, Peer::of(&request)?);
        self.read(Deadline::of(&request)).await?;
        let v1::WatchIncidentsRequest { revision, follow, run, rule, selector } = request.into_inner();
        let filter = Filter::new(&self.0, who, (&run, &rule, &selector))?;
        let growth = follow.then(|| self.0.incidents.progress());
        let source = Watched::after(filter, revision, follow);
        let (work, unread) = (self.0.work(peer.share()).clone(), self.0.config.limits.unread());
        // Here, where it is sent: what waits to be sent is shared.
        let items = Follow { work, peer, unread, growth }.stream(source).map(|item| item.map(watch::Item::message));
        Ok(Response::new(Box::pin(items)))
    }
}

impl IncidentApi {
    /// Waits until the list has what the log has now.
    async fn read(&self, deadline: Option<Instant>) -> Result<(), Status> {
        let patience = Instant::now() + PATIENCE;
        let until = deadline.map_or(patience, |deadline| deadline.min(patience));
        let mut progress = self.0.incidents.progress();
        let settled = progress.wait_for(|progress| progress.complete || progress.problem.is_some());
        let not_in_time =
            || ErrorReason::NotInTime.status("the daemon still reads the incidents of the audit log: try again");
        let settled = tokio::time::timeout_at(until.into(), settled).await.map_err(|_| not_in_time())?;
        let stopping = |_| ErrorReason::DaemonStopping.status("the daemon is stopping");
        if settled.map_err(stopping)?.problem.is_some() {
            // What was read before is answered, with the reason why it is not all.
            return Ok(());
        }
        // Who has the answer to a command finds its incident.
        let written = *self.0.log.latest().borrow();
        let mut read = self.0.incidents.read();
        let caught_up = async {
            tokio::select! {
                read = read.wait_for(|read| *read >= written) => read.map(|_| ()),
                failed = progress.wait_for(|progress| progress.problem.is_some()) => failed.map(|_| ()),
            }
        };
        tokio::time::timeout_at(until.into(), caught_up).await.map_err(|_| not_in_time())?.map_err(stopping)
    }
}

fn bad(why: &str) -> Status {
    ErrorReason::InvalidRequest.status(why.to_owned())
}

/// Which incidents somebody asks for, and may see.
struct Filter {
    context: Arc<Context>,
    who: Principal,
    run: Option<RunId>,
    rule: String,
    selector: Selector,
}

impl Filter {
    fn new(context: &Arc<Context>, who: Principal, asked: (&str, &str, &str)) -> Result<Filter, Status> {
        let (run, rule, selector) = asked;
        let selector = Selector::parse(selector).map_err(|why| bad(&why))?;
        let run = match (run, run.parse::<RunId>()) {
            ("", _) => None,
            (text, Ok(id)) => {
                // The list can have incidents of runs that are not listed any more.
                let mut owners =
                    context.incidents.list().of(id).map(|it| it.known.owner_uid).collect::<Vec<_>>().into_iter();
                if !owners.any(|owner| who.may_see_of(id, owner).is_some()) {
                    context.find(&who, text)?;
                }
                Some(id)
            }
            (name, Err(_)) => Some(context.find(&who, name)?.0.run().id),
        };
        Ok(Filter { context: context.clone(), who, run, rule: rule.to_owned(), selector })
    }

    /// Whether it is asked for. It may still be hidden.
    fn wants(&self, incident: &Incident) -> bool {
        self.run.is_none_or(|run| run == incident.run)
            && (self.rule.is_empty() || incident.rule.as_ref() == Some(&self.rule))
            && self.selector.selects(&incident.known.labels)
    }

    /// Whether the caller may see an incident. It looks for each run once: not to be asked while the list is held.
    fn sees(&self) -> impl FnMut(&Incident) -> bool {
        let mut owners: BTreeMap<RunId, Option<u32>> = BTreeMap::new();
        move |incident| {
            // Of a discovered run the owner can be learnt after the last change of the incident.
            let learnt =
                || *owners.entry(incident.run).or_insert_with(|| known(&self.context.registry, incident.run).owner_uid);
            self.who.reads_log() || {
                let owner = incident.known.owner_uid.or_else(learnt);
                self.who.may_see_of(incident.run, owner).is_some()
            }
        }
    }
}

/// Why the list may lack incidents, or may not have the last state of one, each in words.
fn incomplete(context: &Context, list: &Incomplete) -> Vec<String> {
    let mut why = Vec::new();
    if list.in_log_only {
        why.push("some incidents are in the audit log only".to_owned());
    }
    if list.limited > 0 {
        let entries = list.limited;
        why.push(format!(
            "{entries} entries about incidents were summed up, because the log budget of a user was spent"
        ));
    }
    if list.unreadable > 0 {
        why.push(format!("{} entries of the audit log could not be read", list.unreadable));
    }
    if let Some(Problem { why: problem, .. }) = &context.incidents.progress().borrow().problem {
        why.push(format!("the audit log cannot be read on: {problem}"));
    }
    why.extend(log_problem(context));
    why
}

/// Why the list does not have what happens now: only what is durable is in it.
fn log_problem(context: &Context) -> Option<String> {
    let state = context.log.state();
    (state != "healthy").then(|| format!("the audit log is not written as it should be: {state}"))
}

fn message(of: &Incident) -> v1::Incident {
    let (id, standing) = (of.id.to_string(), of.standing());
    let (rationale, contact, playbook) = match &of.text {
        Some(text) => (text.rationale.clone(), text.owner.clone(), text.playbook.clone().unwrap_or_default()),
        None => Default::default(),
    };
    v1::Incident {
        next_command: format!("failsafectl explain {id}"),
        id,
        revision: of.revision,
        state: if of.is_open() { v1::IncidentState::Open } else { v1::IncidentState::Closed } as i32,
        standing: of.standing_name().into(),
        standing_detail: match &standing {
            IncidentState::Noted | IncidentState::Thawed => Vec::new(),
            IncidentState::Pending(actions) | IncidentState::Contained(actions) => {
                actions.iter().map(ToString::to_string).collect()
            }
            IncidentState::Partial(why) | IncidentState::Failed(why) => why.clone(),
        },
        run_id: of.run.to_string(),
        run_name: of.known.name.clone(),
        owner_uid: of.known.owner_uid,
        labels: of.known.labels.clone().into_iter().collect(),
        policy_digest: of.policy.to_string(),
        policy_name: of.policy_name().to_owned(),
        rule: of.rule.clone().unwrap_or_default(),
        condition: of.condition.clone(),
        values: of.values.clone(),
        rationale,
        contact,
        playbook,
        severity: match of.severity {
            Severity::Info => v1::IncidentSeverity::Info,
            Severity::Warning => v1::IncidentSeverity::Warning,
            Severity::Critical => v1::IncidentSeverity::Critical,
        } as i32,
        mode: mode(of.mode) as i32,
        actor: of.actor.as_ref().map(convert::actor),
        decisions: of.decisions,
        steps: of.steps.iter().map(step).collect(),
        steps_left_out: of.left_out,
        opened_ns: of.opened_ns,
        closed_ns: of.closed_ns.unwrap_or_default(),
        changed_ns: of.changed_ns,
        entry: of.entry,
        drill: of.drill,
        beginning_unknown: of.beginning_unknown,
        entries_limited: of.entries_limited,
    }
}

fn step(of: &Taken) -> v1::IncidentStep {
    let (verdict, missing) = match &of.verdict {
        Some(verdict) => convert::verdict(verdict.clone()),
        None if of.mode == Mode::Enforce => (v1::Verdict::Pending, Vec::new()),
        None => (v1::Verdict::Unspecified, Vec::new()),
    };
    v1::IncidentStep {
        decision: of.decision,
        action: of.action.to_string(),
        mode: mode(of.mode) as i32,
        desired: of.desired,
        verdict: verdict as i32,
        missing,
        proofs: of.proofs.clone(),
        actor: Some(convert::actor(&of.actor)),
        role: of.role.clone(),
        reason: of.reason.clone(),
        decided_ns: of.decided_ns,
        result_ns: of.result_ns.unwrap_or_default(),
        entry: of.entry,
        result_entry: of.result_entry,
    }
}

fn mode(mode: Mode) -> v1::NodeMode {
    match mode {
        Mode::Enforce => v1::NodeMode::Enforce,
        Mode::Observe => v1::NodeMode::Observe,
    }
}
