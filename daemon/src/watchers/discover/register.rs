//! From a matching cgroup to a run, or why there is none.

use super::{Discovery, canary::Chosen};
use crate::{
    causes::chain,
    pipeline::Message,
    platform::Cgroup,
    runs::{
        LiveRun, NO_UID,
        claims::Unclaimed,
        delegation::Delegated,
        grants,
        guarded::gap,
        owner::owner_of,
        start::{Place, StartError, Wanted},
        translate,
    },
};
use failsafe_core::{
    Input, RunId,
    canary::LABEL as CANARY,
    discover::{LABEL, Match, holds_supervisor},
    input::Gap,
};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// The label of a run whose cgroup had processes before it was registered.
pub const EARLIER: &str = "failsafe.earlier";
/// How often held events are taken, at most.
const ROUNDS: usize = 8;
/// From when on no events of a run are held any more.
const HELD_FOR: Duration = Duration::from_secs(2);
/// How many held events the pipeline judges before it takes other messages.
const PART: usize = 32;

/// Why a cgroup has no run.
#[derive(Debug)]
pub(super) struct Refused {
    /// In words.
    pub why: String,
    /// What follows.
    pub kind: Kind,
}

/// What follows from a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing bounds it, which people have to know.
    Open,
    /// It is not to have a run.
    Overruled,
    /// The run that had its path is about to end: it is tried again soon.
    Again,
}

impl From<String> for Refused {
    fn from(why: String) -> Refused {
        Refused { why, kind: Kind::Open }
    }
}

fn overruled(why: String) -> Refused {
    Refused { why, kind: Kind::Overruled }
}

fn again(why: &str) -> Refused {
    Refused { why: why.into(), kind: Kind::Again }
}

impl Discovery {
    /// Makes the run of a cgroup, unless it has one. `existed`: it was there when the daemon started.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn register(&mut self, path: &str, matched: &Match<'_>, existed: bool) -> Result<RunId, Refused> {
        if let Some(uid) = self.admins.around(path)? {
            return Err(overruled(format!("uid {uid} is an administrator, whom a freeze would keep out")));
        }
        let registry = &self.parts.registry;
        let cgroup = registry.root().open_path(&self.root.join(path)).map_err(|e| e.chain())?;
        if let Some(run) = self.run_of(&cgroup, matched)? {
            self.judge_beside(run, matched.rule);
            return Ok(run);
        }
        if registry.is_left_by(&cgroup) {
            return Err(again("the run that had this place before is being ended"));
        }
        let mount = registry.root().mount();
        let others = Delegated::named_by_others(cgroup.path(), mount).map_err(|e| chain(&e))?;
        if let Some(by) = others {
            return Err(overruled(format!("{by}: a path that a user chose says nothing")));
        }
        if let Some(delegated) = Delegated::around(cgroup.path(), mount).map_err(|e| chain(&e))? {
            return Err(overruled(delegated.refusal()));
        }
        if let Some(child) = supervisor_in(path, &cgroup) {
            return Err(format!("it holds the cgroup `{child}` of a supervisor").into());
        }
        let owner = owner_of(&cgroup, matched.uid, existed, matched.container);
        self.has_room(owner)?;
        let mut chosen = self.policy_of(matched.rule, path)?;
        let populated = cgroup.events().map_err(|e| e.chain())?.populated;
        // Then its policy was in force before the first process.
        let early = registry.kernel().provisional(cgroup.id()).is_some();
        let left = registry.kernel().is_left(cgroup.id());
        let mut labels = matched.labels.clone();
        if populated && !early && !left {
            labels.insert(EARLIER.into(), "unknown".into());
        }
        let live = loop {
            let why = match self.make(&chosen, name_of(matched), &labels, owner, &cgroup) {
                Ok(live) => break live,
                Err(why) => why,
            };
            // At once: the processes of the cgroup do not wait.
            chosen = chosen.instead(&format!("it cannot be attached: {why}")).map_err(|_| why)?;
        };
        let earlier_policy = early && !self.is_bound_by(&matched.rule.name, &chosen.policy.digest().to_string());
        let broken = grants::broken(&chosen.policy, &grants::grants(registry.kernel()));
        let _unclaimed = Unclaimed::of(&live);
        let (done, judged) = oneshot::channel();
        self.send(Message::Started { live: live.clone(), repair: Vec::new(), broken, done });
        // The pipeline waits for nobody; without it the daemon is stopping.
        let _judged = judged.blocking_recv();
        self.judge_beside(live.run.id, matched.rule);
        self.judge_held(&live);
        let before = match (existed, populated) {
            _ if left => {
                Some("the kernel bound it while no daemon ran: what its processes did until now is not judged")
            }
            _ if earlier_policy => Some(
                "the kernel bound it by the earlier policy of its rule, or by the one that a canary replaces: what that refused is judged \
                 by the present one",
            ),
            _ if early => None,
            (true, true) => Some("it ran before the daemon started: what its processes did until now is not known"),
            (false, true) => {
                Some("processes were in it before its policy was in force: what they did until then is not known")
            }
            (_, false) if live.cgroup.events().is_ok_and(|events| events.populated) => {
                Some("processes came in while it was registered: what they did in the first milliseconds is not known")
            }
            _ => None,
        };
        for what in before.map(str::to_owned).into_iter().chain(chosen.instead) {
            self.send(Message::Input(Input::Gap(gap(live.run.id, what, false))));
        }
        tracing::info!(run = %live.run.id, name = live.run.name, path, rule = matched.rule.name, "a cgroup was discovered");
        Ok(live.run.id)
    }

    /// Makes the run, under another name if it cannot have this one.
    fn make(
        &self,
        chosen: &Chosen,
        name: String,
        labels: &BTreeMap<String, String>,
        owner: u32,
        cgroup: &Cgroup,
    ) -> Result<Arc<LiveRun>, String> {
        let mut labels = labels.clone();
        labels.extend(chosen.label.clone().map(|label| (CANARY.to_owned(), label)));
        let make = |name: String| {
            let wanted = Wanted {
                name,
                labels: labels.clone(),
                policy: (*chosen.policy).clone(),
                gpus: Default::default(),
                mig: BTreeMap::new(),
                owner_uid: owner,
                unlimited: false,
                learnt: Vec::new(),
            };
            let place = Place::Discovered(cgroup.try_clone()?);
            self.parts.registry.make(wanted, place, &self.parts.boot_id)
        };
        let made = match make(name) {
            Err(
                StartError::NameTaken(_) | StartError::LikeAnId(_) | StartError::BadName(_) | StartError::Reserved(_),
            ) => make(String::new()),
            made => made,
        };
        made.map_err(|why| why.to_string())
    }

    /// What the run did before it was registered, in order: its processes were bounded by the kernel, and nobody judged them. What they do
    /// meanwhile is held, too, until the pipeline has judged what came before. A run that is never quiet ends that: after [`ROUNDS`], or
    /// [`HELD_FOR`], its last held events and its next ones are judged beside each other.
    fn judge_held(&self, live: &LiveRun) {
        let (mut refusals, mut others) = (0, 0);
        let (until, kernel) = (Instant::now() + HELD_FOR, self.parts.registry.kernel());
        for round in 1..=ROUNDS {
            let last = round == ROUNDS || Instant::now() >= until;
            let Some(held) = self.parts.registry.take_held(live.slot, live.epoch, last) else { break };
            refusals += held.lost_refusals;
            others += held.lost_others;
            let inputs = held.events.into_iter().filter_map(|event| translate::event_of(kernel, live.run.id, event));
            let pipeline_is_there = judge_in_parts(inputs, |message| self.send(message));
            if last || !pipeline_is_there {
                break;
            }
        }
        let lost = refusals + others;
        if lost > 0 {
            let what = format!(
                "{lost} events of the time before it was registered are not judged, {refusals} of them refusals: its policy was in force"
            );
            self.send(Message::Input(Input::Gap(Gap { lost, ..gap(live.run.id, what, false) })));
        }
    }

    /// The run that a cgroup has already, if it is one of this rule, or has its policy. Another one does not do what the rule says.
    fn run_of(&self, cgroup: &Cgroup, matched: &Match<'_>) -> Result<Option<RunId>, Refused> {
        let (registry, path) = (&self.parts.registry, cgroup.cgroup_path());
        let (run, id) = if let Some(live) = registry.of_cgroup(&path) {
            if live.ended().is_some() {
                return Err(again("the run that had this place before is being ended"));
            }
            if live.cgroup.events().is_err_and(|error| error.is_vanished()) {
                // Its cgroup was removed, and this one was made at the same path or in another one there.
                self.send(Message::Ended(live.run.id));
                return Err(again("the cgroup of the run that had this place before is gone: the run ends"));
            }
            (live.run.clone(), live.cgroup.id())
        } else if let Some(guarded) = registry.guarded().iter().find(|run| run.contains(&path)) {
            (guarded.run.clone(), guarded.run.cgroup_id)
        } else {
            return Ok(None);
        };
        let called = format!("run `{}` ({})", run.name, run.id);
        if id != cgroup.id() {
            return Err(format!("it lies in {called}, which bounds it").into());
        }
        let of_rule = run.labels.get(LABEL) == Some(&matched.rule.name);
        let name = &matched.rule.policy;
        let of_policy = || {
            let in_force = self.policies.with_digest(name).is_ok_and(|(_, digest)| digest == run.policy);
            in_force || registry.canaries().is_candidate(name, run.policy)
        };
        match of_rule || of_policy() {
            true => Ok(Some(run.id)),
            false => {
                Err(format!("it is {called} already, with another policy than rule {} names", matched.rule.name).into())
            }
        }
    }

    /// Whether one more discovered run fits, for everybody and for its owner.
    fn has_room(&self, owner: u32) -> Result<(), String> {
        let (mut all, mut own) = (0u32, 0u32);
        for live in self.discovered() {
            all += 1;
            own += u32::from(live.known().owner_uid == owner);
        }
        if all >= self.limits.runs {
            return Err(format!("limit `discovery.runs`: there are {all} discovered runs already"));
        }
        if own >= self.limits.runs_per_owner {
            let of = if owner == NO_UID { "runs without a known owner".into() } else { format!("runs of uid {owner}") };
            return Err(format!("limit `discovery.runs_per_owner`: there are {own} discovered {of} already"));
        }
        Ok(())
    }
}

/// Has the pipeline judge inputs, in order. One part waits in its queue at a time, so that what concerns other runs gets in between. False:
/// the pipeline is gone, and the daemon is stopping.
fn judge_in_parts(inputs: impl Iterator<Item = Input>, send: impl Fn(Message)) -> bool {
    let mut inputs = inputs.peekable();
    while inputs.peek().is_some() {
        send(Message::Inputs(inputs.by_ref().take(PART).collect()));
        let (done, judged) = oneshot::channel();
        send(Message::Judged(done));
        if judged.blocking_recv().is_err() {
            return false;
        }
    }
    true
}

/// A cgroup of a supervisor directly below. One that a user made is none: its name would keep the policy away.
fn supervisor_in(path: &str, cgroup: &Cgroup) -> Option<String> {
    let of_root = |entry: &fs::DirEntry| entry.metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == 0);
    let names = fs::read_dir(cgroup.path()).ok()?.flatten().filter(of_root);
    names.filter_map(|entry| entry.file_name().into_string().ok()).find(|name| holds_supervisor(path, name))
}

/// A name for people: the rule, and what the path names, shortened.
fn name_of(matched: &Match<'_>) -> String {
    let good = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' };
    let own = |key: &str| key == LABEL || matched.rule.labels.contains_key(key) || key == "node" || key == "pid";
    let parts = matched.labels.iter().filter(|(key, _)| !own(key));
    let parts: Vec<String> = parts.map(|(_, value)| value.chars().take(12).map(good).collect()).collect();
    let mut name = format!("{}-{}", matched.rule.name, parts.join("."));
    name.truncate(64);
    name.trim_end_matches(['-', '.']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::queue;
    use failsafe_core::MonoTime;

    /// The pipeline is the test: while it judges a part, an event of another run comes.
    #[test]
    fn an_event_of_another_run_waits_for_one_part_of_the_held_events_at_most() {
        let (sender, messages) = queue::channel(64);
        let held = sender.clone();
        let thread = std::thread::spawn(move || {
            let inputs = (0..1_000).map(|n| Input::Tick(MonoTime(n)));
            judge_in_parts(inputs, |message| held.send(message).unwrap())
        });
        let (mut judged, mut before_other) = (Vec::new(), None);
        while judged.len() < 1_000 {
            match messages.recv_timeout(Duration::from_secs(60)).unwrap() {
                Message::Inputs(part) => {
                    judged.extend(part);
                    if judged.len() == PART {
                        sender.send(Message::Input(Input::Tick(MonoTime(u64::MAX)))).unwrap();
                    }
                }
                Message::Input(_) => before_other = Some(judged.len()),
                Message::Judged(done) => drop(done.send(())),
                _ => unreachable!(),
            }
        }
        let Ok(Message::Judged(done)) = messages.recv_timeout(Duration::from_secs(60)) else { panic!() };
        done.send(()).unwrap();
        assert!(thread.join().unwrap());
        assert!(before_other.is_some_and(|before| before <= 2 * PART), "{before_other:?}");
        let in_order = (0..1_000).map(|n| Input::Tick(MonoTime(n)));
        assert!(judged.into_iter().eq(in_order));
    }

    #[test]
    fn held_events_are_given_up_when_the_pipeline_is_gone() {
        let (sender, messages) = queue::channel(4);
        drop(messages);
        let inputs = (0..1_000).map(|n| Input::Tick(MonoTime(n)));
        assert!(!judge_in_parts(inputs, |message| drop(sender.send(message))));
    }
}
