//! How a command ends: the exit codes that scripts rely on, and the one error type of this program.
//!
//! Invariant: every failure says what failed and, where that is known, what to do about it.

use failsafe_proto::ErrorReason;
use std::{error::Error, fmt, io, process::ExitCode};
use tonic::{Code, Status};

/// The exit codes, as `docs/cli.md` promises them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, and proved where there is something to prove.
    Done = 0,
    /// It failed, or what was checked does not hold.
    Error = 1,
    /// What was asked makes no sense.
    Usage = 2,
    /// Done in part; what is missing was said.
    Partial = 3,
    /// The caller may not.
    Denied = 4,
    /// No answer, or no outcome, in time. What was begun goes on.
    Timeout = 5,
    /// There is no such run or incident.
    NotFound = 6,
    /// `replay`: the recording is not the one that was written, or does not agree with the audit log. `attest`: the statement is not
    /// what was signed, or not signed by an allowed key.
    Tampered = 7,
    /// `node health`: it works, but not as it should.
    Degraded = 10,
    /// `node health`: cordoned.
    Draining = 11,
    /// `node health`: not to be used until somebody resets it.
    Unhealthy = 12,
    /// No daemon answers. `node health`: not seen, or not lately.
    Unknown = 13,
    /// `node placeable`: no.
    NotPlaceable = 14,
    /// `attest verify`, and `attest diff` with the verdict `result-equal`: the signatures are valid; the keys were not checked, as
    /// no list of allowed keys was given.
    KeyNotChecked = 15,
    /// `attest diff`: only factors that change speed differ.
    PerformanceDiffers = 20,
    /// `attest diff`: a factor that can change results differs.
    ResultDiffers = 21,
    /// `attest diff`: a factor that can change results is not known everywhere.
    CannotKnow = 22,
    /// `log consistency`, `log witness cosign`: the log does not contain a checkpoint, or is another log.
    Forked = 25,
    /// `log consistency`: entries at the end of the log are missing.
    Shortened = 26,
    /// `log consistency`, `log witness cosign`: the newer checkpoint is older than the earlier one.
    Stale = 27,
    /// `attest verify --expect`: a PCR was quoted with another value than its reference value.
    PcrsDiffer = 28,
    /// `policy would`: the call is denied.
    CallDenied = 30,
    /// `policy would`: what decides the call is known on the node only.
    NodeDecides = 31,
    /// `attest common`: no factor is shared by the bad statements alone.
    NothingShared = 23,
    /// `attest preflight`: something will not be reproducible.
    NotReproducible = 24,
    /// `run`: the command exists but cannot be executed, as shells have it.
    NotExecutable = 126,
    /// `run`: the command does not exist, as shells have it.
    NoCommand = 127,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// What to do where a run that is started again would differ.
pub const ACCEPT_DIFFERENCES: &str = "to start it all the same: --accept-differences REASON";

/// Why a command could not do its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fail {
    /// The exit code.
    pub exit: Exit,
    /// What failed; empty when there is nothing to say (the reader of our output went away).
    pub message: String,
    /// What to do.
    pub advice: Option<String>,
}

impl Fail {
    /// A failure without advice.
    pub fn new(exit: Exit, message: impl Into<String>) -> Fail {
        Fail { exit, message: message.into(), advice: None }
    }

    /// A failure of the caller's.
    pub fn usage(message: impl Into<String>) -> Fail {
        Fail::new(Exit::Usage, message)
    }

    /// A failure with the whole chain of its causes.
    pub fn because(message: impl fmt::Display, cause: &dyn Error) -> Fail {
        Fail::new(Exit::Error, format!("{message}: {}", chain(cause)))
    }

    /// The same failure, with what to do.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Fail {
        self.advice = Some(advice.into());
        self
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Texts of files and of the daemon are in it.
        let harmless = |text: &str| text.split('\n').map(crate::text::clean).collect::<Vec<_>>().join("\n");
        write!(f, "failsafectl: {}", harmless(&self.message))?;
        match &self.advice {
            Some(advice) => write!(f, "\n  {}", harmless(advice)),
            None => Ok(()),
        }
    }
}

impl From<Status> for Fail {
    fn from(status: Status) -> Fail {
        let (reason, accept) = (ErrorReason::of(&status), Some(ACCEPT_DIFFERENCES));
        let (exit, advice) = match status.code() {
            _ if reason == Some(ErrorReason::ResultsDiffer) => (Exit::ResultDiffers, accept),
            _ if reason == Some(ErrorReason::CannotKnow) => (Exit::CannotKnow, accept),
            Code::InvalidArgument | Code::OutOfRange => (Exit::Usage, None),
            // The message names the command that lists what there is.
            Code::NotFound => (Exit::NotFound, None),
            Code::AlreadyExists => (
                Exit::Error,
                Some("`failsafectl list` shows the live runs, `failsafectl describe RUN` the cgroup of each"),
            ),
            Code::PermissionDenied | Code::Unauthenticated => (
                Exit::Denied,
                Some(
                    "root and the group `failsafe` may act on every run; a run's owner may see and freeze its own, and thaw its own freeze",
                ),
            ),
            Code::DeadlineExceeded => {
                (Exit::Timeout, Some("an action that has begun continues; see `failsafectl describe RUN`"))
            }
            Code::Unavailable => {
                (Exit::Error, Some("the daemon closed the connection; `journalctl -u failsafed` may say why"))
            }
            Code::Unimplemented => (
                Exit::Error,
                Some("the daemon does not support this command: daemon and failsafectl have different versions"),
            ),
            _ => (Exit::Error, None),
        };
        let mut message = match status.message() {
            "" => format!("the daemon answered {:?}", status.code()),
            message => crate::text::clean(message),
        };
        // A status of this side, not the daemon's: its last cause says why the connection ended, such as a limit that is reached.
        let mut last = status.source();
        while let Some(deeper) = last.and_then(Error::source) {
            last = Some(deeper);
        }
        if let Some(cause) = last {
            message = format!("{message}: {}", crate::text::clean(&cause.to_string()));
        }
        Fail { exit, message, advice: advice.map(str::to_owned) }
    }
}

impl From<io::Error> for Fail {
    /// Of writing our own output.
    fn from(error: io::Error) -> Fail {
        match error.kind() {
            // `failsafectl events | head`: nothing went wrong.
            io::ErrorKind::BrokenPipe => Fail::new(Exit::Done, ""),
            _ => Fail::because("cannot write the output", &error),
        }
    }
}

/// The error and all its causes, the outermost first.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Some libraries print their source themselves.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_exit_code() {
        for (code, exit) in [
            (Code::InvalidArgument, 2),
            (Code::NotFound, 6),
            (Code::AlreadyExists, 1),
            (Code::PermissionDenied, 4),
            (Code::Unauthenticated, 4),
            (Code::FailedPrecondition, 1),
            (Code::DeadlineExceeded, 5),
            (Code::ResourceExhausted, 1),
            (Code::Unavailable, 1),
            (Code::Internal, 1),
        ] {
            assert_eq!(Fail::from(Status::new(code, "x")).exit as u8, exit, "{code:?}");
        }
        assert_eq!(Fail::from(Status::new(Code::Internal, "")).message, "the daemon answered Internal");
    }

    #[test]
    fn a_start_again_that_would_differ_has_its_own_exit_code() {
        for (reason, exit) in
            [(ErrorReason::ResultsDiffer, Exit::ResultDiffers), (ErrorReason::CannotKnow, Exit::CannotKnow)]
        {
            let fail = Fail::from(reason.status("x"));
            assert_eq!((fail.exit, fail.advice.as_deref()), (exit, Some(ACCEPT_DIFFERENCES)));
        }
    }

    #[test]
    fn a_reader_that_left_is_no_error() {
        let fail = Fail::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((fail.exit, fail.message.as_str()), (Exit::Done, ""));
        assert_eq!(Fail::from(io::Error::from(io::ErrorKind::StorageFull)).exit, Exit::Error);
    }

    #[test]
    fn the_chain_of_causes_is_reported_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("read a")]
        struct Outer(#[source] io::Error);
        assert_eq!(chain(&Outer(io::Error::other("disk on fire"))), "read a: disk on fire");
    }
}
