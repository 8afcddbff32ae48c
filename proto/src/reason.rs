//! Why a request is refused, for programs: one stable name for each reason, as `google.rpc.ErrorInfo` carries it.
//! Source: AIP-193 <https://google.aip.dev/193>, and the richer error model of gRPC <https://grpc.io/docs/guides/error/>.

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _, pb};

/// The domain of the reasons in `ErrorInfo`.
pub const DOMAIN: &str = "failsafe";

/// Most bytes of the message that are repeated in the details. Details travel in a header, and clients limit the size of headers.
const REPEATED: usize = 512;

macro_rules! reasons {
    ($($(#[doc = $meaning:literal])+ $variant:ident = $name:literal, $code:ident;)+) => {
        /// A reason. Its name never changes, and always comes with the same status code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorReason {
            $($(#[doc = $meaning])+ $variant,)+
        }

        impl ErrorReason {
            /// All of them.
            pub const ALL: &[ErrorReason] = &[$(ErrorReason::$variant,)+];

            /// The name, as it stands in `ErrorInfo.reason`.
            pub const fn name(self) -> &'static str {
                match self { $(ErrorReason::$variant => $name,)+ }
            }

            /// The status code that it comes with.
            pub const fn code(self) -> Code {
                match self { $(ErrorReason::$variant => Code::$code,)+ }
            }

            /// What it means.
            pub fn meaning(self) -> String {
                match self { $(ErrorReason::$variant => [$($meaning),+].map(str::trim).join(" "),)+ }
            }
        }
    };
}

reasons! {
    /// A field has a wrong value. The message names the field.
    InvalidRequest = "INVALID_REQUEST", InvalidArgument;
    /// No run has this name or id, or the caller may not see it.
    RunNotFound = "RUN_NOT_FOUND", NotFound;
    /// No incident has this id, or the caller may not see it.
    IncidentNotFound = "INCIDENT_NOT_FOUND", NotFound;
    /// Several runs match.
    RunAmbiguous = "RUN_AMBIGUOUS", InvalidArgument;
    /// A live run has this name.
    RunNameTaken = "RUN_NAME_TAKEN", AlreadyExists;
    /// The cgroup is that of a run, or lies in one, or holds one.
    CgroupTaken = "CGROUP_TAKEN", AlreadyExists;
    /// The cgroup cannot be made, read or used as a run.
    CgroupUnusable = "CGROUP_UNUSABLE", FailedPrecondition;
    /// The process cannot be moved into the run.
    ProcessNotMoved = "PROCESS_NOT_MOVED", FailedPrecondition;
    /// The daemon died or gave the start up before it was complete. Nothing runs.
    StartAborted = "START_ABORTED", Aborted;
    /// The run has ended.
    RunEnded = "RUN_ENDED", FailedPrecondition;
    /// Only the kernel enforces the policy of the run.
    RunNotJudged = "RUN_NOT_JUDGED", FailedPrecondition;
    /// The run to start again has not ended.
    RunNotEnded = "RUN_NOT_ENDED", FailedPrecondition;
    /// What the run was started with is not known, or not stored.
    RunNotRestartable = "RUN_NOT_RESTARTABLE", FailedPrecondition;
    /// A restart would compute with other factors that change results.
    ResultsDiffer = "RESULTS_DIFFER", FailedPrecondition;
    /// Whether a restart would compute the same cannot be known.
    CannotKnow = "CANNOT_KNOW", FailedPrecondition;
    /// The freeze of the run is not proved in time.
    FreezeNotProved = "FREEZE_NOT_PROVED", FailedPrecondition;
    /// The policy has mistakes. The message names the lines.
    PolicyInvalid = "POLICY_INVALID", InvalidArgument;
    /// No policy of this node has this name.
    PolicyNotFound = "POLICY_NOT_FOUND", NotFound;
    /// The file of the policy cannot be read, or others than root may write it.
    PolicyUnusable = "POLICY_UNUSABLE", FailedPrecondition;
    /// This node cannot provide what the policy needs.
    PolicyNotSupported = "POLICY_NOT_SUPPORTED", FailedPrecondition;
    /// The node or a GPU is cordoned or unhealthy: no run starts there.
    NotPlaceable = "NOT_PLACEABLE", FailedPrecondition;
    /// No GPU has this name.
    GpuNotFound = "GPU_NOT_FOUND", NotFound;
    /// A run or another reset uses the GPU.
    GpuInUse = "GPU_IN_USE", FailedPrecondition;
    /// The GPU cannot be reset from here.
    GpuNotResettable = "GPU_NOT_RESETTABLE", FailedPrecondition;
    /// The state of the node or the GPU does not allow the order.
    OrderRefused = "ORDER_REFUSED", FailedPrecondition;
    /// Signing does not work, or the statement was changed.
    StatementUnavailable = "STATEMENT_UNAVAILABLE", FailedPrecondition;
    /// What is asked for is not stored: a recording, an account or a statement.
    NotStored = "NOT_STORED", NotFound;
    /// No signed checkpoint covers the entry yet.
    NotSigned = "NOT_SIGNED", FailedPrecondition;
    /// The two checkpoints are of different logs.
    OtherLog = "OTHER_LOG", FailedPrecondition;
    /// The log is not the one of a checkpoint: it was changed.
    LogForked = "LOG_FORKED", FailedPrecondition;
    /// The log ends before a checkpoint: entries are missing.
    LogShortened = "LOG_SHORTENED", FailedPrecondition;
    /// The checkpoint that is given as the newer one is the older one.
    CheckpointStale = "CHECKPOINT_STALE", FailedPrecondition;
    /// The entries that the checkpoints need were removed.
    NotCompared = "NOT_COMPARED", FailedPrecondition;
    /// The kernel does not say who the caller is.
    CallerUnknown = "CALLER_UNKNOWN", Unauthenticated;
    /// The caller may not do this.
    PermissionDenied = "PERMISSION_DENIED", PermissionDenied;
    /// A limit is reached. The message names it.
    LimitReached = "LIMIT_REACHED", ResourceExhausted;
    /// The order was not begun in time, and was withdrawn: nothing was done.
    NotBegun = "NOT_BEGUN", DeadlineExceeded;
    /// The order takes effect, and its record is not on disk yet.
    NotDurable = "NOT_DURABLE", DeadlineExceeded;
    /// The state folder or the audit log cannot be read or written now.
    StorageUnavailable = "STORAGE_UNAVAILABLE", Unavailable;
    /// Stored data is damaged.
    DataDamaged = "DATA_DAMAGED", DataLoss;
    /// The daemon is stopping.
    DaemonStopping = "DAEMON_STOPPING", Unavailable;
    /// The daemon did not do the work in time, and nothing changed.
    NotInTime = "NOT_IN_TIME", Unavailable;
    /// A defect of the daemon.
    Internal = "INTERNAL", Internal;
}

impl ErrorReason {
    /// The status that refuses a request for this reason, with a message for people.
    pub fn status(self, message: impl Into<String>) -> Status {
        let message = message.into();
        let mut details = ErrorDetails::new();
        details.set_error_info(self.name(), DOMAIN, []);
        let mut repeated = message.clone();
        repeated.truncate(message.floor_char_boundary(REPEATED));
        let with_details = Status::with_error_details(self.code(), repeated, details);
        Status::with_details(self.code(), message, with_details.details().to_vec().into())
    }

    /// The reason of a status, if this version knows it.
    pub fn of(status: &Status) -> Option<ErrorReason> {
        // Not `get_error_details`: a broken message is no reason.
        pb::Status::decode(status.details()).ok()?;
        let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
        ErrorReason::ALL.iter().copied().find(|reason| reason.name() == info.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_reason_has_a_name_of_its_own_that_aip_193_allows() {
        let names: BTreeSet<&str> = ErrorReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), ErrorReason::ALL.len());
        for name in names {
            let parts = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
            assert!(name.len() <= 63 && name.bytes().all(parts) && !name.starts_with('_') && !name.ends_with('_'));
        }
    }

    #[test]
    fn the_table_of_the_manual_has_every_reason() {
        let code = |code: Code| {
            let name = format!("{code:?}");
            let parts = name.char_indices().map(|(at, c)| match c.is_ascii_uppercase() && at > 0 {
                true => format!("_{c}"),
                false => c.to_ascii_uppercase().to_string(),
            });
            parts.collect::<String>()
        };
        let row = |r: &ErrorReason| format!("| `{}` | `{}` | {} |", r.name(), code(r.code()), r.meaning());
        let expected: Vec<String> = ErrorReason::ALL.iter().map(row).collect();
        let manual = include_str!("../../docs/api.md");
        let rows: Vec<&str> = manual.lines().skip_while(|line| !line.starts_with("| Reason |")).skip(2).collect();
        let rows: Vec<&str> = rows.into_iter().take_while(|line| line.starts_with('|')).collect();
        assert_eq!(rows, expected);
    }

    #[test]
    fn a_status_carries_its_reason_and_its_whole_message() {
        for reason in ErrorReason::ALL {
            let message = "é".repeat(2_000);
            let status = reason.status(message.clone());
            assert_eq!((status.code(), status.message()), (reason.code(), message.as_str()));
            assert!(status.details().len() < 1_024, "clients limit headers");
            assert_eq!(ErrorReason::of(&status), Some(*reason));
        }
    }

    #[test]
    fn a_status_of_somebody_else_has_no_reason() {
        assert_eq!(ErrorReason::of(&Status::not_found("x")), None);
        assert_eq!(ErrorReason::of(&Status::with_details(Code::NotFound, "x", vec![255; 9].into())), None);
        let mut details = ErrorDetails::new();
        details.set_error_info("RUN_NOT_FOUND", "example.org", []);
        assert_eq!(ErrorReason::of(&Status::with_error_details(Code::NotFound, "x", details)), None);
    }
}
