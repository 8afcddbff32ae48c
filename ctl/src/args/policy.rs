//! `policy`.

use super::Output;
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use failsafe_core::canary::Criterion;
use std::{path::PathBuf, time::Duration};

/// `policy`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Check a policy file, print its digest, and ask whether this node would accept it.
    Check(PolicyCheckArgs),
    /// Explain each rule of a policy in plain words. Works without the daemon.
    Explain(PolicyExplainArgs),
    /// Ask what a policy does with one call. Works without the daemon.
    Would(PolicyWouldArgs),
    /// Run the tests of policies: described inputs, expected decisions. Works without the daemon.
    Test(PolicyTestArgs),
    /// Judge recorded runs by another policy: decisions added, removed, earlier, later.
    Replay(PolicyReplayArgs),
    /// Give a new policy to a share of the new runs of a named policy, and promote or withdraw it by criteria.
    Canary {
        /// What.
        #[command(subcommand)]
        what: CanaryCommand,
    },
    /// Judge a policy live beside the one of a run, without effect, and show how they differ.
    Shadow {
        /// What.
        #[command(subcommand)]
        what: ShadowCommand,
    },
    /// Print a policy with all that it includes as one text. Works without the daemon.
    #[command(after_help = "Example:\n  failsafectl policy resolve trainer.toml")]
    Resolve {
        /// The policy's file; `-` is stdin.
        file: PathBuf,
    },
    /// Print the JSON schema of policy files, for editors.
    #[command(after_help = "Example:\n  failsafectl policy schema")]
    Schema,
    /// List the named policies of this node.
    #[command(visible_alias = "ls", after_help = "Example:\n  failsafectl policy list")]
    List(Output),
    /// Print a named policy of this node.
    #[command(after_help = "Example:\n  failsafectl policy show trainer")]
    Show {
        /// Its name.
        name: String,
        #[command(flatten)]
        output: Output,
    },
}

/// `policy check`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  failsafectl policy check trainer.toml\n  failsafectl policy check trainer.toml --node"
)]
pub struct PolicyCheckArgs {
    /// The policy's file; `-` is stdin.
    pub file: PathBuf,
    /// Show the enforcement level of each rule on this node. Exit with 1 if the daemon does not answer, refuses the
    /// policy, or cannot enforce a rule.
    #[arg(long, conflicts_with = "offline")]
    pub node: bool,
    /// Do not ask the daemon.
    #[arg(long)]
    pub offline: bool,
    #[command(flatten)]
    pub output: Output,
}

/// `policy explain`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  failsafectl policy explain trainer.toml\n  failsafectl policy explain trainer.toml loss-exploded"
)]
pub struct PolicyExplainArgs {
    /// The policy's file; `-` is stdin.
    pub file: PathBuf,
    /// Only this rule.
    pub rule: Option<String>,
    #[command(flatten)]
    pub output: Output,
}

/// `policy would`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Exit codes: 0 the call succeeds, 30 it is denied, 31 only the node can tell; 1 the policy is invalid.\n\n\
                  Examples:\n  failsafectl policy would trainer.toml connect 10.0.0.9:443/tcp\n  \
                  failsafectl policy would trainer.toml open /etc/shadow\n  \
                  failsafectl policy would trainer.toml exec /usr/bin/curl\n  \
                  failsafectl policy would trainer.toml syscall ptrace"
)]
pub struct PolicyWouldArgs {
    /// The policy's file; `-` is stdin.
    pub file: PathBuf,
    /// The kind of call.
    #[arg(value_enum)]
    pub call: CallKind,
    /// `connect`: ADDRESS:PORT or NAME:PORT, with /tcp (default) or /udp. `open`, `exec`: the resolved absolute path. `syscall`:
    /// its name.
    pub what: String,
    /// `open`: for writing. Default: for reading only
    #[arg(long)]
    pub write: bool,
    #[command(flatten)]
    pub output: Output,
}

/// `policy test`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Exit codes: 0 every test passed; 1 a test failed, or a file is invalid; 6 no test has the name of --only.\n\n\
                  Examples:\n  failsafectl policy test trainer.toml\n  \
                  failsafectl policy test policies/*.test.toml --require-coverage\n  \
                  failsafectl policy test trainer.toml --only spike\n  \
                  failsafectl policy test trainer.toml --junit results.xml"
)]
pub struct PolicyTestArgs {
    /// Policies NAME.toml, each with its tests NAME.test.toml beside it, or test files.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The test file of the policy, where it is not beside it.
    #[arg(long, value_name = "FILE")]
    pub tests: Option<PathBuf>,
    /// Only tests that have this text in their name.
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Fail if a rule, or a test in a condition, is not reached both ways.
    #[arg(long)]
    pub require_coverage: bool,
    /// Write the results as JUnit XML to this file, too.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    #[command(flatten)]
    pub output: Output,
}

/// `policy replay`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Exit codes: 0 the same decisions; 1 other decisions; 3 the same, but the recording cannot answer all.\n\n\
                  Examples:\n  failsafectl policy replay --policy new.toml trainer\n  \
                  failsafectl policy replay --policy new.toml a.fsrec b.fsrec"
)]
pub struct PolicyReplayArgs {
    /// The policy to judge by.
    #[arg(short, long, value_name = "FILE")]
    pub policy: PathBuf,
    /// Recordings, files of `export`, folders of runs' recordings, or runs of this node.
    #[arg(required = true, value_name = "FILE|RUN")]
    pub recordings: Vec<String>,
    #[command(flatten)]
    pub output: Output,
}

/// A kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CallKind {
    /// Connect to a destination, or send a datagram to it
    Connect,
    /// Open a file or device
    Open,
    /// Execute a program
    Exec,
    /// Make a system call
    Syscall,
}

/// `policy shadow`.
#[derive(Debug, Subcommand)]
pub enum ShadowCommand {
    /// Judge a policy beside the one of a live run. The run does not change.
    #[command(after_help = "Examples:\n  failsafectl policy shadow add trainer-1 new.toml\n  \
                            failsafectl policy shadow add trainer-1 trainer-next")]
    Add {
        /// Id or name of the run.
        run: String,
        /// A policy's file, or the name of one of the node's.
        policy: PathBuf,
        #[command(flatten)]
        output: Output,
    },
    /// End a shadow, and show what it found.
    #[command(after_help = "Example:\n  failsafectl policy shadow remove trainer-1 trainer-next")]
    Remove {
        /// Id or name of the run.
        run: String,
        /// Name of the shadow's policy as `policy shadow list` shows it, or its digest.
        policy: String,
        #[command(flatten)]
        output: Output,
    },
    /// List the shadows that judge now, and those that are delayed after a restart of the daemon.
    #[command(visible_alias = "ls", after_help = "Example:\n  failsafectl policy shadow list")]
    List(Output),
    /// Show the decisions that only one of two policies took, or that the shadow took earlier or later.
    #[command(
        after_help = "Exit codes: 0 the same decisions; 1 other decisions; 3 the same, but the report is incomplete.\n\n\
                      Examples:\n  failsafectl policy shadow report\n  failsafectl policy shadow report trainer-1 -o json"
    )]
    Report {
        /// Id or name of a live run. Default: all runs since the daemon started.
        run: Option<String>,
        #[command(flatten)]
        output: Output,
    },
}

/// `policy canary`.
#[derive(Debug, Subcommand)]
pub enum CanaryCommand {
    /// Give a candidate to a share of the new runs of a named policy from now on.
    #[command(
        after_help = "A criterion is `MEASURE > NUMBER` (to withdraw) or `MEASURE <= NUMBER` (to promote). Measures:\n  \
                            contained  runs that the candidate froze, killed or blocked\n  \
                            excess     the same beyond the share of the runs with the policy in force\n  \
                            share      in percent of the runs with the candidate\n\n\
                            Example:\n  failsafectl policy canary start trainer --policy new.toml --share 10% --reason egress"
    )]
    Start(CanaryStartArgs),
    /// List the canaries of this node.
    #[command(visible_alias = "ls", after_help = "Example:\n  failsafectl policy canary list")]
    List(Output),
    /// Show a canary: its criteria, the runs of both policies, and what was decided.
    #[command(after_help = "Example:\n  failsafectl policy canary show trainer")]
    Show {
        /// The name of the policy.
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Give the candidate to every new run of the name. Refused while the criteria are not met.
    #[command(
        after_help = "Example:\n  failsafectl policy canary promote trainer --reason \"a week without a freeze\""
    )]
    Promote {
        #[command(flatten)]
        decide: CanaryDecideArgs,
        /// Promote although the criteria are not met.
        #[arg(long)]
        force: bool,
    },
    /// Give the candidate to no new run. Runs that have it keep it until they end.
    #[command(after_help = "Example:\n  failsafectl policy canary withdraw trainer --reason \"it stops evaluation\"")]
    Withdraw(CanaryDecideArgs),
}

/// `policy canary start`.
#[derive(Debug, ClapArgs)]
pub struct CanaryStartArgs {
    /// The name of a policy of this node.
    pub name: String,
    /// The candidate: a policy's file, or the name of another policy of this node.
    #[arg(long, value_name = "POLICY")]
    pub policy: PathBuf,
    /// Share of the new runs that gets it, as 10%: more than 0%, at most 90%.
    #[arg(long, value_name = "PERCENT", value_parser = share)]
    pub share: u32,
    /// How long all of --promote-if have to hold at a stretch before it is promoted.
    #[arg(long = "for", value_name = "TIME", default_value = "24h", value_parser = hold)]
    pub hold: Duration,
    /// Runs with the candidate that have to end before it is promoted.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub runs_at_least: u64,
    /// The node promotes it when all of these hold. Default: it is promoted by command only.
    #[arg(long, value_name = "CRITERION")]
    pub promote_if: Vec<Criterion>,
    /// The node withdraws it at once when one of these holds.
    #[arg(long, value_name = "CRITERION", default_value = "excess > 2")]
    pub withdraw_if: Vec<Criterion>,
    /// Why; it goes into the audit log.
    #[arg(short, long, value_name = "TEXT", value_parser = super::reason)]
    pub reason: String,
    #[command(flatten)]
    pub output: Output,
}

/// What is decided of a canary.
#[derive(Debug, ClapArgs)]
pub struct CanaryDecideArgs {
    /// The name of the policy.
    pub name: String,
    /// Why; it goes into the audit log.
    #[arg(short, long, value_name = "TEXT", value_parser = super::reason)]
    pub reason: String,
    #[command(flatten)]
    pub output: Output,
}

/// How long criteria have to hold.
fn hold(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration from 1s to 365d, such as 24h or 30m");
    let parsed = failsafe_core::time::Span::parse(text).map(|span| Duration::from_nanos(span.0));
    let range = Duration::from_secs(1)..=Duration::from_secs(365 * 24 * 3_600);
    parsed.filter(|hold| range.contains(hold)).ok_or_else(wrong)
}

/// A share in percent, in millionths.
fn share(text: &str) -> Result<u32, String> {
    let bad = || format!("`{text}`: expected a share in percent, as 10% or 0.5%, at most 90%");
    let (whole, part) =
        text.strip_suffix('%').map(|number| number.split_once('.').unwrap_or((number, ""))).ok_or_else(bad)?;
    let digits = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit());
    if whole.is_empty() || whole.len() > 2 || part.len() > 4 || !digits(whole) || !digits(part) {
        return Err(bad());
    }
    let ppm: u32 = format!("{whole}{part:0<4}").parse().map_err(|_| bad())?;
    if (1..=900_000).contains(&ppm) { Ok(ppm) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::{hold, share};

    #[test]
    fn the_time_for_which_criteria_hold_may_be_a_year() {
        assert!(["1s", "24h", "365d"].iter().all(|text| hold(text).is_ok()));
        assert!(["0s", "500ms", "366d", "x", ""].iter().all(|text| hold(text).is_err()));
    }

    #[test]
    fn a_share_is_read_in_percent_and_others_are_refused() {
        let good = [("10%", 100_000), ("0.5%", 5_000), ("90%", 900_000), ("0.0001%", 1), ("33.3333%", 333_333)];
        for (text, ppm) in good {
            assert_eq!(share(text), Ok(ppm), "{text}");
        }
        for text in ["", "10", "0%", "0.00001%", "90.0001%", "100%", "-1%", "+1%", "x%", "1e1%", ".5%", "%", "1.2.3%"] {
            assert!(share(text).is_err(), "{text}");
        }
    }
}
