//! What the audit log lacks: logs and checkpoints that were set aside, and what a start of the daemon found amiss. Without it an
//! empty answer would read as "nothing happened".

use crate::{client::Client, entry::Logged, render::clean};
use failsafe_journal::storage::file::asides;
use failsafe_proto::v1 as pb;
use std::path::Path;

/// Findings that are printed at most, the last ones.
const SHOWN: usize = 3;

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Missing {
    findings: Vec<String>,
    asides: Vec<String>,
}

impl Missing {
    /// As the daemon knows it. One of an earlier version knows nothing.
    pub async fn of_daemon(client: &Client) -> Missing {
        let status = client.node().status(pb::StatusRequest {}).await;
        let status = status.map(tonic::Response::into_inner).unwrap_or_default();
        Missing { findings: status.log_findings, asides: status.log_asides }
    }

    /// As the log itself has it: `gaps` are its entries of that kind, `dir` the folder of a log that was not copied.
    pub fn of_log(gaps: &[Logged], dir: Option<&Path>) -> Missing {
        let findings = gaps.iter().filter_map(Logged::finding).map(str::to_owned).collect();
        let asides = dir.into_iter().flat_map(asides).map(|path| path.display().to_string()).collect();
        Missing { findings, asides }
    }

    pub fn is_empty(&self) -> bool {
        self.findings.is_empty() && self.asides.is_empty()
    }

    /// The log that was set aside last.
    pub fn earlier_log(&self) -> Option<&str> {
        self.asides.iter().rev().find(|path| path.contains("/audit.log.aside-")).map(String::as_str)
    }

    /// What is missing, one line each.
    pub fn lines(&self) -> Vec<String> {
        let findings = &self.findings[self.findings.len().saturating_sub(SHOWN)..];
        let mut lines: Vec<String> = findings.iter().map(|finding| clean(finding)).collect();
        // A finding names the log that was set aside for it.
        let named = |path: &&String| !self.findings.iter().any(|finding| finding.contains(*path));
        let asides: Vec<&String> = self.asides.iter().filter(named).collect();
        lines.extend(asides.iter().rev().take(SHOWN).map(|path| format!("set aside earlier: {}", clean(path))));
        lines
    }

    /// Says on stderr that older entries may be missing.
    pub fn warn(&self) {
        if self.is_empty() {
            return;
        }
        note!(
            "failsafectl: warning: entries of the audit log are missing or were replaced; what is shown may not be all"
        );
        self.lines().iter().for_each(|line| note!("  {line}"));
        note!("  `failsafectl log verify` lists what is known; read an earlier log with --file");
    }
}
