//! Commands that are sent again: a client that lost the answer sends its command once more with the same request id, and gets the
//! answer of the first time. Without this a thaw whose answer was lost, sent again, would lift a freeze that came in between.
//!
//! Owns the answers of the last [`KEPT_FOR`], at most [`EACH`] of one caller and [`ALL`] in all; the oldest give way. They are not
//! stored: the next daemon does not know them. Invariants: an id means one command of one caller; a command that was not begun is
//! not remembered, so sending it again carries it out; a command is never refused because of this table.

use super::authorize::Principal;
use failsafe_core::{RunId, input::Command};
use failsafe_proto::{ErrorReason, v1};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
        let caller = match &who.remote {
            Some(remote) => remote.name.clone(),
            None => format!("uid {}", who.uid()),
        };
        Ok(Some(Request { key: Key { caller, id: id.to_owned() }, what: format!("{what:?}") }))
    }
}

/// What a command with an id finds.
pub enum Entered {
    /// It is the first with this id: it is to be carried out.
    First(Pending),
    /// It was sent before.
    Again(First),
}

/// A command that is being carried out. Dropped without an answer, it is forgotten.
pub struct Pending {
    repeats: Arc<Repeats>,
    key: Key,
    tell: watch::Sender<Option<Answered>>,
    settled: bool,
}

impl Pending {
    /// Answers everybody who sent it. An error means that nothing was done: it is not kept.
    pub fn settle(mut self, answer: Answered) {
        self.settled = answer.is_ok();
        self.tell.send_replace(Some(answer));
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut kept = self.repeats.kept();
        // Its place may be another command's by now.
        let own = kept.get(&self.key).is_some_and(|one| one.answer.same_channel(&self.tell.subscribe()));
        if own && !self.settled {
            kept.remove(&self.key);
        }
    }
}

/// The first command with an id.
pub struct First(watch::Receiver<Option<Answered>>);

impl First {
    /// Its answer, which is waited for until then.
    ///
    /// # Errors
    /// The first command's; `NOT_IN_TIME`: it has no answer yet.
    pub async fn answer(mut self, until: Instant) -> Answered {
        let answer = tokio::time::timeout_at(until.into(), self.0.wait_for(Option::is_some)).await;
        match answer {
            Ok(Ok(answer)) => answer.clone().unwrap_or_else(|| Err(no_answer())),
            Ok(Err(_)) | Err(_) => Err(no_answer()),
        }
    }
}

fn no_answer() -> Status {
    ErrorReason::NotInTime.status("request_id: the first command with this id has no answer yet: send it again")
}

struct Kept {
    what: String,
    since: Instant,
    answer: watch::Receiver<Option<Answered>>,
}

/// The answers that are kept.
#[derive(Default)]
pub struct Repeats(Mutex<BTreeMap<Key, Kept>>);

impl Repeats {
    fn kept(&self) -> MutexGuard<'_, BTreeMap<Key, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a command in.
    ///
    /// # Errors
    /// `INVALID_REQUEST`: the caller used the id for another command.
    pub fn enter(self: &Arc<Repeats>, request: Request, now: Instant) -> Result<Entered, Status> {
        let Request { key, what } = request;
        let mut kept = self.kept();
        kept.retain(|_, one| now.saturating_duration_since(one.since) < KEPT_FOR);
        if let Some(first) = kept.get(&key) {
            if first.what != what {
                return Err(ErrorReason::InvalidRequest
                    .status("request_id: it was used for another command: expected a new one for each command"));
            }
            return Ok(Entered::Again(First(first.answer.clone())));
        }
        if kept.keys().filter(|one| one.caller == key.caller).count() >= EACH {
            forget_oldest(&mut kept, |one| one.caller == key.caller);
        }
        if kept.len() >= ALL {
            forget_oldest(&mut kept, |_| true);
        }
        let (tell, answer) = watch::channel(None);
        kept.insert(key.clone(), Kept { what, since: now, answer });
        Ok(Entered::First(Pending { repeats: self.clone(), key, tell, settled: false }))
    }
}

fn forget_oldest(kept: &mut BTreeMap<Key, Kept>, of: impl Fn(&Key) -> bool) {
    let oldest = kept.iter().filter(|(key, _)| of(key)).min_by_key(|(_, one)| one.since);
    if let Some(key) = oldest.map(|(key, _)| key.clone()) {
        kept.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(caller: &str, id: &str, run: &str) -> Request {
        Request { key: Key { caller: caller.into(), id: id.into() }, what: run.into() }
    }

    fn first(repeats: &Arc<Repeats>, request: Request, now: Instant) -> Option<Pending> {
        match repeats.enter(request, now).unwrap() {
            Entered::First(pending) => Some(pending),
            Entered::Again(_) => None,
        }
    }

    fn answer(run: &str) -> Answered {
        Ok(v1::ControlResponse { run_name: run.into(), ..Default::default() })
    }

    #[tokio::test]
    async fn a_command_that_is_sent_again_gets_the_answer_of_the_first() {
        let (repeats, now) = (Arc::new(Repeats::default()), Instant::now());
        let pending = first(&repeats, request("uid 0", "a", "bert"), now).unwrap();
        let Entered::Again(again) = repeats.enter(request("uid 0", "a", "bert"), now).unwrap() else { panic!("acts") };
        pending.settle(answer("bert"));
        assert_eq!(again.answer(now + Duration::from_secs(60)).await.unwrap().run_name, "bert");
        let Entered::Again(later) = repeats.enter(request("uid 0", "a", "bert"), now).unwrap() else { panic!("acts") };
        assert_eq!(later.answer(now).await.unwrap().run_name, "bert");
        assert!(first(&repeats, request("uid 7", "a", "bert"), now).is_some(), "ids are each caller's own");
        assert!(first(&repeats, request("uid 0", "a", "bert"), now + KEPT_FOR).is_some(), "after ten minutes");
    }

    #[test]
    fn an_id_of_another_command_is_refused() {
        let (repeats, now) = (Arc::new(Repeats::default()), Instant::now());
        let _pending = first(&repeats, request("uid 0", "a", "bert"), now);
        let Err(refused) = repeats.enter(request("uid 0", "a", "gpt"), now) else { panic!("taken for the first") };
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }

    #[tokio::test]
    async fn a_command_that_was_not_begun_is_carried_out_when_it_is_sent_again() {
        let (repeats, now) = (Arc::new(Repeats::default()), Instant::now());
        let pending = first(&repeats, request("uid 0", "a", "bert"), now).unwrap();
        let Entered::Again(again) = repeats.enter(request("uid 0", "a", "bert"), now).unwrap() else { panic!("acts") };
        pending.settle(Err(ErrorReason::NotBegun.status("not begun")));
        assert_eq!(again.answer(now).await.unwrap_err().code(), tonic::Code::DeadlineExceeded);
        let pending = first(&repeats, request("uid 0", "a", "bert"), now).unwrap();
        drop(pending);
        assert!(first(&repeats, request("uid 0", "a", "bert"), now).is_some(), "the worker failed");
    }

    #[test]
    fn the_oldest_answers_of_a_caller_give_way_and_no_other_callers() {
        let (repeats, now) = (Arc::new(Repeats::default()), Instant::now());
        first(&repeats, request("uid 0", "a", "bert"), now).unwrap().settle(answer("bert"));
        for n in 0..=EACH {
            let at = now + Duration::from_millis(n as u64);
            first(&repeats, request("uid 7", &n.to_string(), "bert"), at).unwrap().settle(answer("bert"));
        }
        let mut kept = repeats.kept();
        assert_eq!(kept.len(), EACH + 1);
        assert!(kept.remove(&Key { caller: "uid 0".into(), id: "a".into() }).is_some());
        assert!(kept.remove(&Key { caller: "uid 7".into(), id: "0".into() }).is_none(), "the oldest of uid 7");
    }
}
