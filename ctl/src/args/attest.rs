//! `attest`.

use super::{Output, reason};
use clap::{Args as ClapArgs, Subcommand};
use failsafe_attest::{Pattern, Regime, statement::MAX_NONCE};
use std::path::PathBuf;

/// `attest`.
#[derive(Debug, Subcommand)]
pub enum AttestCommand {
    /// Write a signed statement about this node.
    Node(AttestNodeArgs),
    /// Write a signed statement about a run and the node that it is on: a new one of a live run, or a stored one.
    Run(AttestRunArgs),
    /// Verify a statement, without the daemon and without the network.
    Verify(AttestVerifyArgs),
    /// Compare statements: what differs, and whether it can change results. Works without the daemon.
    Diff(AttestDiffArgs),
    /// Find the factors that bad runs share and good ones lack. Works without the daemon.
    Common(AttestCommonArgs),
    /// Write reference values: what all of these statements have. Works without the daemon.
    Expect(AttestExpectArgs),
    /// Warn of what will not be reproducible of a command, before it is executed. Works without the daemon.
    Preflight(AttestPreflightArgs),
    /// Show and replace the keys that this node signs with.
    Key {
        /// What.
        #[command(subcommand)]
        what: AttestKeyCommand,
    },
}

/// `attest key`.
#[derive(Debug, Subcommand)]
pub enum AttestKeyCommand {
    /// Show the public keys of this node, as lines for a list of allowed keys.
    Show(Output),
    /// Decrypt a verifier's secret with the TPM, which shows that the TPM key is in the TPM of an endorsement key.
    Activate(AttestActivateArgs),
    /// Sign with a new key from now on. The old public key stays listed.
    Rotate(AttestRotateArgs),
}

/// What `attest node` and `attest run` have in common.
#[derive(Debug, ClapArgs)]
pub struct AttestArgs {
    /// A number that whoever will verify the statement chose, in hex, at most 64 bytes: it shows that the statement is not an old
    /// one.
    #[arg(long, value_name = "HEX", value_parser = nonce)]
    pub nonce: Option<Nonce>,
    /// The file to write. Only its owner may read it. Default: standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace the file if it exists. A symbolic link is never replaced.
    #[arg(long, requires = "output")]
    pub force: bool,
}

/// `attest node`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  failsafectl attest node -o node.json\n  failsafectl attest node --nonce 5f0c9a1b -o node.json\n  failsafectl attest node --digest"
)]
pub struct AttestNodeArgs {
    /// Only print the digests, without a signature. Users who are not administrators get the result digest.
    #[arg(long, conflicts_with_all = ["nonce", "output"])]
    pub digest: bool,
    #[command(flatten)]
    pub attest: AttestArgs,
}

/// `attest run`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  failsafectl attest run trainer -o trainer.json\n  failsafectl attest run trainer --at end -o end.json"
)]
pub struct AttestRunArgs {
    /// Id, name, or an unambiguous prefix of either.
    pub run: String,
    /// The stored statement of this moment, also of an ended run: `start`, `end`, or an incident (its id or number).
    #[arg(long, value_name = "MOMENT", conflicts_with = "nonce")]
    pub at: Option<String>,
    #[command(flatten)]
    pub attest: AttestArgs,
}

/// `attest verify`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  failsafectl attest verify trainer.json --keys allowed-keys\n  failsafectl attest verify trainer.json --keys allowed-keys --nonce 5f0c9a1b -o json\n  failsafectl attest verify node.json --keys allowed-keys --require-tpm\n  failsafectl attest verify node.json --keys allowed-keys --expect expected.json --require-pcrs\n  failsafectl attest verify node.json --keys allowed-keys --tpm-roots manufacturers.pem\n  failsafectl attest verify node.json --keys allowed-keys --ima binary_runtime_measurements"
)]
pub struct AttestVerifyArgs {
    /// The statement's file; `-` is standard input.
    pub file: PathBuf,
    /// The allowed keys: lines `KEYID BASE64 COMMENT`, as `attest key show` prints them. Without it the key is not checked, and the
    /// exit code is 15.
    #[arg(long, value_name = "FILE")]
    pub keys: Option<PathBuf>,
    /// Also refuse a statement without a quote by a TPM key of the list of allowed keys.
    #[arg(long, requires = "keys")]
    pub require_tpm: bool,
    /// Also verify the EK certificates that the list of allowed keys has of the TPM key that quoted the statement. The file has the
    /// certificates of manufacturers' CAs, PEM. The exit code is 7 if one is not valid. It is 22 if there is none, or if no line of
    /// the list says `activated`: the key is then not proved to be in that TPM.
    #[arg(long, value_name = "FILE", requires = "keys")]
    pub tpm_roots: Option<PathBuf>,
    /// The nonce that the statement must have.
    #[arg(long, value_name = "HEX", value_parser = nonce)]
    pub nonce: Option<Nonce>,
    /// Also compare the quoted PCRs and the factors with these reference values, which `attest expect` wrote. The exit code is 28 if
    /// a PCR differs, 22 if an expected one is not quoted.
    #[arg(long, value_name = "FILE")]
    pub expect: Option<PathBuf>,
    /// The exit code is 22 if the reference values have no PCRs. Without it, only the factors are compared then.
    #[arg(long, requires = "expect")]
    pub require_pcrs: bool,
    /// Also replay this measurement list of IMA, a copy of binary_runtime_measurements (or ascii_runtime_measurements) in
    /// /sys/kernel/security/ima of the node: its entries must give the quoted PCR 10. The exit code is 28 if they do not.
    #[arg(long, value_name = "FILE", requires = "keys")]
    pub ima: Option<PathBuf>,
    #[command(flatten)]
    pub output: Output,
}

/// How statements are compared.
#[derive(Debug, ClapArgs)]
pub struct CompareArgs {
    /// The allowed keys, as for `attest verify`.
    #[arg(long, value_name = "FILE")]
    pub keys: Option<PathBuf>,
    /// How deterministic the runs are meant to be: deterministic, seeded or none. Default: what the statements name, else seeded.
    #[arg(long, value_name = "REGIME")]
    pub regime: Option<Regime>,
    /// Leave out factors: `*` stands for any text inside a segment, `**` at the end for the rest. May be repeated.
    #[arg(long, value_name = "PATTERN", value_parser = Pattern::parse)]
    pub ignore: Vec<Pattern>,
    /// Also list factors that only say which machine or run it is.
    #[arg(long)]
    pub show_identity: bool,
    #[command(flatten)]
    pub output: Output,
}

/// `attest diff`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  failsafectl attest diff monday.json tuesday.json\n  failsafectl attest diff a.json b.json c.json --keys allowed-keys -o json\n  failsafectl attest diff node.json trainer.json --ignore \"run/**\""
)]
pub struct AttestDiffArgs {
    /// Two statements or more. The signature of each is verified.
    #[arg(required = true, num_args = 2.., value_name = "FILE")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub compare: CompareArgs,
}

/// `attest common`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  failsafectl attest common --bad mon.json --good tue.json wed.json\n  failsafectl attest common --bad bad-*.json --good good-*.json --keys allowed-keys -o json"
)]
pub struct AttestCommonArgs {
    /// Statements of runs that went wrong.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub bad: Vec<PathBuf>,
    /// Statements of runs that went well.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub good: Vec<PathBuf>,
    #[command(flatten)]
    pub compare: CompareArgs,
}

/// `attest expect`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  failsafectl attest expect node-1.json node-2.json --keys allowed-keys -o expected.json\n  failsafectl node placeable --like expected.json\n  failsafectl attest verify node-3.json --keys allowed-keys --expect expected.json"
)]
pub struct AttestExpectArgs {
    /// Statements that are known to be good, all of nodes or all of runs.
    #[arg(required = true, value_name = "STATEMENT")]
    pub files: Vec<PathBuf>,
    /// The file to write.
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    pub file: PathBuf,
    /// Replace the file if it exists. A symbolic link is never replaced.
    #[arg(long)]
    pub force: bool,
    /// The allowed keys, as for `attest verify`. Without it the exit code is 15.
    #[arg(long, value_name = "FILE")]
    pub keys: Option<PathBuf>,
    /// As for `attest diff`.
    #[arg(long, value_name = "REGIME")]
    pub regime: Option<Regime>,
    /// Leave out factors, as for `attest diff`.
    #[arg(long, value_name = "PATTERN", value_parser = Pattern::parse)]
    pub ignore: Vec<Pattern>,
    /// Write nothing, with exit code 22, if the file would have no PCRs.
    #[arg(long, requires = "keys")]
    pub require_pcrs: bool,
}

/// `attest preflight`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  failsafectl attest preflight --manifest run.toml -- python3 train.py\n  failsafectl attest preflight --env OMP_NUM_THREADS=8 -- ./train.sh"
)]
pub struct AttestPreflightArgs {
    /// A variable of the command, as for `run`; may be repeated.
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// The manifest of the run, as for `run`.
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    #[command(flatten)]
    pub output: Output,
    /// The command and its arguments. It is not executed.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<std::ffi::OsString>,
}

/// `attest key activate`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  failsafectl attest key activate credential -o answer")]
pub struct AttestActivateArgs {
    /// The encrypted secret, a file of `tpm2_makecredential`; `-`: standard input.
    #[arg(value_name = "CREDENTIAL")]
    pub credential: PathBuf,
    /// The file to write the secret to. Only its owner may read it.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Replace the file if it exists. A symbolic link is never replaced.
    #[arg(long)]
    pub force: bool,
}

/// `attest key rotate`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  failsafectl attest key rotate --reason \"yearly rotation\"")]
pub struct AttestRotateArgs {
    /// Why; it goes into the audit log.
    #[arg(short, long, value_name = "TEXT", value_parser = reason)]
    pub reason: String,
    #[command(flatten)]
    pub output: Output,
}

/// Bytes in hex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nonce(pub Vec<u8>);

fn nonce(text: &str) -> Result<Nonce, String> {
    let bytes = hex::decode(text).map_err(|_| "expected an even number of hexadecimal digits".to_owned())?;
    match bytes.len() {
        1..=MAX_NONCE => Ok(Nonce(bytes)),
        n => Err(format!("it has {n} bytes, expected 1 to {MAX_NONCE}")),
    }
}
