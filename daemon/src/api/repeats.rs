//! Commands that are sent again: a client that lost the answer sends its command once more with the same request id, and gets the
//! answer of the first time. Without this a thaw whose answer was lost, sent again, would lift a freeze that came in between.
//!
//! Owns the answers of the last [`KEPT_FOR`], at most [`EACH`] of one caller and [`ALL`] in all; the oldest give way. They are not
//! stored: the next daemon does not know them. Invariants: an id means one command of one caller; a command that was not begun is
//! not remembered, so sending it again carries it out; a command is never refused for want of room here; it is
//! withdrawn before it begins only when nobody waits for it any more.

use super::{authorize::Principal, control::not_begun};
use crate::{
    pipeline::lane::{Caller, Ticket},
    platform::clock,
};
use failsafe_core::{RunId, input::Command};
use failsafe_proto::{ErrorReason, v1};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tonic::Status;

/// How long an answer is kept.
pub const KEPT_FOR: Duration = Duration::from_secs(600);
/// Answers that are kept of one caller.
pub const EACH: usize = 64;
/// Answers that are kept in all.
pub const ALL: usize = 4_096;
/// Bytes of a request id.
const ID_BYTES: usize = 64;

type Answered = Result<v1::ControlResponse, Status>;

/// A command with a request id, and who sent it.
#[derive(Debug, Clone)]
pub struct Request {
    key: Key,
    what: String,
}

/// The caller, and the id that it chose.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    caller: String,
    id: String,
}

impl Request {
    /// Of a request; `None`: it has no id.
    ///
    /// # Errors
    /// `INVALID_REQUEST`: the id has characters other than letters, digits and `-_.:`, or is longer than 64 bytes.
    pub fn new(who: &Principal, id: &str, what: (RunId, Command, &str)) -> Result<Option<Request>, Status> {
        if id.is_empty() {
            return Ok(None);
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        if id.len() > ID_BYTES || !id.bytes().all(allowed) {
            return Err(ErrorReason::InvalidRequest
                .status(format!("request_id: expected at most {ID_BYTES} letters, digits, `-`, `_`, `.` or `:`")));
        }
        // A process in a run has ids of its own: it must not use up those of its user outside, or take them.
        let caller = match (&who.remote, who.inside) {
            (Some(remote), _) => remote.name.clone(),
            (None, Some(run)) => format!("uid {} in {run}", who.uid()),
            (None, None) => format!("uid {}", who.uid()),
        };
        Ok(Some(Request { key: Key { caller, id: id.to_owned() }, what: format!("{what:?}") }))
    }
}

/// What a command with an id finds.
pub enum Entered {
    /// It is the first with this id: it is to be carried out.
    First(Pending, Sent),
    /// It was sent before.
    Again(Sent),
    /// As many as may be kept are being carried out: it is carried out as if it had no id.
    NotKept(Ticket),
}

/// How far a command has come.
#[derive(Debug, Clone, Default)]
enum Progress {
    #[default]
    Waiting,
    /// There is an outcome, and another may follow.
    SoFar(v1::ControlResponse),
    Settled(Answered),
}

/// A command that is being carried out. Dropped without an answer, it is forgotten.
pub struct Pending {
    repeats: Arc<Repeats>,
    key: Key,
    tell: watch::Sender<Progress>,
    settled: bool,
}

impl Pending {
    /// Shows an outcome that is not the last one.
    pub fn show(&self, answer: v1::ControlResponse) {
        self.tell.send_replace(Progress::SoFar(answer));
    }

    /// Answers everybody who sent it. An error means that nothing was done: it is not kept.
    pub fn settle(mut self, answer: Answered) {
        self.settled = answer.is_ok();
        self.tell.send_replace(Progress::Settled(answer));
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut kept = self.repeats.kept();
        // Its place may be another command's by now.
        let own = kept.get(&self.key).is_some_and(|one| one.progress.same_channel(&self.tell.subscribe()));
        if own && !self.settled {
            kept.remove(&self.key);
        }
    }
}

/// A request that waits for the answer of a command. When the last one is gone, a command that was not begun is withdrawn.
pub struct Sent {
    progress: watch::Receiver<Progress>,
    wanted: Arc<Caller>,
    /// When the command was sent first, nanoseconds since the epoch; 0: now.
    repeated_from_ns: i64,
}

impl Sent {
    /// The ticket of the command.
    pub fn ticket(&self) -> Ticket {
        self.wanted.0.clone()
    }

    /// The answer, which is waited for until then; after that, what is known by then.
    ///
    /// # Errors
    /// That of the command. `NOT_BEGUN`: it was withdrawn.
    pub async fn answer(self, until: Instant) -> Answered {
        let repeated_from_ns = self.repeated_from_ns;
        self.settled(until).await.map(|answer| v1::ControlResponse { repeated_from_ns, ..answer })
    }

    async fn settled(mut self, until: Instant) -> Answered {
        let settled = self.progress.wait_for(|progress| matches!(progress, Progress::Settled(_)));
        let failed = matches!(tokio::time::timeout_at(until.into(), settled).await, Ok(Err(_)));
        let progress = self.progress.borrow().clone();
        match progress {
            Progress::Settled(answer) => answer,
            Progress::SoFar(answer) => Ok(answer),
            Progress::Waiting if failed => Err(ErrorReason::Internal.status("a worker failed")),
            Progress::Waiting if Arc::strong_count(&self.wanted) == 1 && self.wanted.0.withdraw() => {
                Err(not_begun("the command"))
            }
            Progress::Waiting => Ok(super::convert::answer(None)),
        }
    }
}

struct Kept {
    what: String,
    since: Instant,
    since_ns: i64,
    progress: watch::Receiver<Progress>,
    wanted: Weak<Caller>,
    ticket: Ticket,
}

/// The answers that are kept.
#[derive(Default)]
pub struct Repeats(Mutex<BTreeMap<Key, Kept>>);

impl Repeats {
    fn kept(&self) -> MutexGuard<'_, BTreeMap<Key, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a command in, with the ticket that it would have.
    ///
    /// # Errors
    /// `INVALID_REQUEST`: the caller used the id for another command.
    pub fn enter(self: &Arc<Repeats>, request: Request, ticket: Ticket, now: Instant) -> Result<Entered, Status> {
        let Request { key, what } = request;
        let mut kept = self.kept();
        kept.retain(|_, one| now.saturating_duration_since(one.since) < KEPT_FOR);
        if let Some(first) = kept.get_mut(&key) {
            if first.what != what {
                return Err(ErrorReason::InvalidRequest
                    .status("request_id: it was used for another command: expected a new one for each command"));
            }
            let wanted = first.wanted.upgrade().unwrap_or_else(|| Arc::new(Caller(first.ticket.clone())));
            first.wanted = Arc::downgrade(&wanted);
            let (progress, repeated_from_ns) = (first.progress.clone(), first.since_ns);
            return Ok(Entered::Again(Sent { progress, wanted, repeated_from_ns }));
        }
        let own = |one: &Key| one.caller == key.caller;
        let has_room = (kept.keys().filter(|one| own(one)).count() < EACH || forget_oldest(&mut kept, own))
            && (kept.len() < ALL || forget_oldest(&mut kept, |_| true));
        if !has_room {
            return Ok(Entered::NotKept(ticket));
        }
        let (tell, progress) = watch::channel(Progress::Waiting);
        let wanted = Arc::new(Caller(ticket.clone()));
        let (progress_kept, weak, since_ns) = (progress.clone(), Arc::downgrade(&wanted), clock::wall_ns());
        let one = Kept { what, since: now, since_ns, progress: progress_kept, wanted: weak, ticket };
        kept.insert(key.clone(), one);
        let pending = Pending { repeats: self.clone(), key, tell, settled: false };
        Ok(Entered::First(pending, Sent { progress, wanted, repeated_from_ns: 0 }))
    }
}

/// Forgets the oldest answer. Of a command that is still being carried out it is not there yet: those stay.
fn forget_oldest(kept: &mut BTreeMap<Key, Kept>, of: impl Fn(&Key) -> bool) -> bool {
    let settled = kept.iter().filter(|(key, one)| of(key) && matches!(*one.progress.borrow(), Progress::Settled(_)));
    let oldest = settled.min_by_key(|(_, one)| one.since).map(|(key, _)| key.clone());
    oldest.is_some_and(|key| kept.remove(&key).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(caller: &str, id: &str, run: &str) -> Request {
        Request { key: Key { caller: caller.into(), id: id.into() }, what: run.into() }
    }

    fn first(repeats: &Arc<Repeats>, request: Request, now: Instant) -> Option<(Pending, Sent)> {
        match repeats.enter(request, Ticket::new(None), now).unwrap() {
            Entered::First(pending, sent) => Some((pending, sent)),
            Entered::Again(_) | Entered::NotKept(_) => None,
        }
    }

    fn again(repeats: &Arc<Repeats>, request: Request, now: Instant) -> Sent {
        match repeats.enter(request, Ticket::new(None), now).unwrap() {
            Entered::Again(sent) => sent,
            Entered::First(..) | Entered::NotKept(_) => panic!("it is carried out a second time"),
        }
    }

    fn answer(run: &str) -> v1::ControlResponse {
        v1::ControlResponse { run_name: run.into(), ..Default::default() }
    }

    #[tokio::test]
    async fn a_command_that_is_sent_again_gets_the_answer_of_the_first() {
        let (repeats, now) = (Arc::new(Repeats::default()), Instant::now());
        let (pending, sent) = first(&repeats, request("uid 0", "a", "bert"), now).unwrap();
        let second = again(&repeats, request("uid 0", "a", "bert"), now);
        pending.settle(Ok(answer("bert")));
        let third = again(&repeats, request("uid 0", "a", "bert"), now);
        for (sent, is_repeated) in [(sent, false), (second, true), (third, true)] {
            let answer = sent.answer(now).await.unwrap();
            assert_eq!((answer.run_name.as_str(), answer.repeated_from_ns > 0), ("bert", is_repeated));
        }
        assert!(first(&repeats, request("uid 7", "a", "bert"), now).is_some(), "ids are each caller's own");
        assert!(first(&repeats, request("uid 0", "a", "bert"), now + KEPT_FOR).is_some(), "after ten minutes");
    }

    #[tokio::test]
    async fn a_command_without_its_last_outcome_is_answered_with_what_is_known_and_later_with_more() {
        let (repeats, now) = (Arc::new(Repeats::default()), Instant::now());
        let ticket = Ticket::new(None);
        let Ok(Entered::First(pending, sent)) = repeats.enter(request("uid 0", "a", "bert"), ticket.clone(), now)
        else {
            panic!("it is the first")
        };
        let second = again(&repeats, request("uid 0", "a", "bert"), now);
        assert_eq!(sent.answer(now).await.unwrap().verdict(), v1::Verdict::Pending, "somebody else waits for it");
        pending.show(answer("partial"));
        assert_eq!(second.answer(now).await.unwrap().run_name, "partial");
        let third = again(&repeats, request("uid 0", "a", "bert"), now);
        pending.settle(Ok(answer("whole")));
        assert_eq!(third.answer(now).await.unwrap().run_name, "whole");
    }

    #[tokio::test]
    async fn a_command_is_withdrawn_when_the_last_who_sent_it_is_gone() {
        let (repeats, now) = (Arc::new(Repeats::default()), Instant::now());
        let ticket = Ticket::new(None);
        let Ok(Entered::First(pending, sent)) = repeats.enter(request("uid 0", "a", "bert"), ticket.clone(), now)
        else {
            panic!("it is the first")
        };
        let second = again(&repeats, request("uid 0", "a", "bert"), now);
        drop(sent);
        assert!(!ticket.is_withdrawn(), "its first connection broke, and it was sent again");
        assert_eq!(second.answer(now).await.unwrap_err().code(), tonic::Code::DeadlineExceeded);
        assert!(ticket.is_withdrawn());
        drop(pending);
        assert!(first(&repeats, request("uid 0", "a", "bert"), now).is_some(), "it was not begun");
    }

    #[test]
    fn an_id_of_another_command_is_refused() {
        let (repeats, now) = (Arc::new(Repeats::default()), Instant::now());
        let _pending = first(&repeats, request("uid 0", "a", "bert"), now);
        let Err(refused) = repeats.enter(request("uid 0", "a", "gpt"), Ticket::new(None), now) else {
            panic!("taken for the first")
        };
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }

    #[tokio::test]
    async fn a_command_that_was_not_begun_is_carried_out_when_it_is_sent_again() {
        let (repeats, now) = (Arc::new(Repeats::default()), Instant::now());
        let (pending, _sent) = first(&repeats, request("uid 0", "a", "bert"), now).unwrap();
        let second = again(&repeats, request("uid 0", "a", "bert"), now);
        pending.settle(Err(ErrorReason::NotBegun.status("not begun")));
        assert_eq!(second.answer(now).await.unwrap_err().code(), tonic::Code::DeadlineExceeded);
        assert!(first(&repeats, request("uid 0", "a", "bert"), now).is_some());
    }

    #[test]
    fn commands_that_are_being_carried_out_are_not_forgotten_and_no_more_than_may_be_kept() {
        let (repeats, now) = (Arc::new(Repeats::default()), Instant::now());
        let pending: Vec<_> =
            (0..EACH).filter_map(|n| first(&repeats, request("uid 7", &n.to_string(), "bert"), now)).collect();
        assert_eq!(pending.len(), EACH);
        let more = repeats.enter(request("uid 7", "more", "bert"), Ticket::new(None), now);
        assert!(matches!(more, Ok(Entered::NotKept(_))));
        let _second = again(&repeats, request("uid 7", "0", "bert"), now);
        assert!(first(&repeats, request("uid 0", "a", "bert"), now).is_some(), "others have their own");
    }

    #[test]
    fn the_oldest_answers_of_a_caller_give_way_and_no_other_callers() {
        let (repeats, now) = (Arc::new(Repeats::default()), Instant::now());
        first(&repeats, request("uid 0", "a", "bert"), now).unwrap().0.settle(Ok(answer("bert")));
        for n in 0..=EACH {
            let at = now + Duration::from_millis(n as u64);
            first(&repeats, request("uid 7", &n.to_string(), "bert"), at).unwrap().0.settle(Ok(answer("bert")));
        }
        let mut kept = repeats.kept();
        assert_eq!(kept.len(), EACH + 1);
        assert!(kept.remove(&Key { caller: "uid 0".into(), id: "a".into() }).is_some());
        assert!(kept.remove(&Key { caller: "uid 7".into(), id: "0".into() }).is_none(), "the oldest of uid 7");
    }
}
