//! The commands about the log as a transparency log: `log ...`.

use super::Output;
use clap::{Args as ClapArgs, Subcommand};
use std::{net::SocketAddr, path::PathBuf};

/// `log`.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Verify the whole log without the daemon: framing, checksums, canonical form, hash links, and the signed checkpoints.
    #[command(
        after_help = "Examples:\n  failsafectl log verify\n  failsafectl log verify --checkpoint last-week.checkpoint --keys trusted.keys\n  \
                            failsafectl log verify --file copy.log\n  failsafectl log verify --archive /backup/node7 --keys trusted.keys"
    )]
    Verify {
        /// Verify this log file only, for example one that was copied. Its tree is not compared with checkpoints.
        #[arg(long, conflicts_with_all = ["checkpoint", "keys"])]
        file: Option<PathBuf>,
        /// Verify this archive, which `log archive` made: segments, checkpoints and tiles.
        #[arg(long, value_name = "DIR", conflicts_with = "file")]
        archive: Option<PathBuf>,
        /// Verify also that the log extends this earlier checkpoint. Can be repeated.
        #[arg(long, value_name = "FILE")]
        checkpoint: Vec<PathBuf>,
        /// The public keys that may have signed checkpoints. Default: those that the daemon wrote to the state folder, or those in
        /// the archive.
        #[arg(long, value_name = "FILE")]
        keys: Option<PathBuf>,
        /// A policy (C2SP tlog-policy): its logs may have signed checkpoints, and its witnesses must have cosigned those of
        /// --checkpoint.
        #[arg(long, value_name = "FILE", requires = "checkpoint", conflicts_with_all = ["file", "keys"])]
        policy: Option<PathBuf>,
        #[command(flatten)]
        output: Output,
    },
    /// Show the latest signed checkpoint of the log, or write it to a file to keep on another machine.
    #[command(
        after_help = "Examples:\n  failsafectl log checkpoint\n  failsafectl log checkpoint -o node7.checkpoint\n  \
                            failsafectl --host node7:7443 log checkpoint --keys trusted.keys -o node7.checkpoint"
    )]
    Checkpoint {
        #[command(flatten)]
        out: LogOut,
        /// The public keys that may have signed it. Default: those that the daemon wrote to the state folder, or names.
        #[arg(long, value_name = "FILE")]
        keys: Option<PathBuf>,
        /// Ask the daemon instead of reading the files of the state folder. This is the default for callers who may not read them, and
        /// with --host.
        #[arg(long)]
        from_daemon: bool,
    },
    /// Copy the sealed segments of the log, its checkpoints and its tiles to a folder; again, to add what is new.
    Archive(ArchiveArgs),
    /// Prove and verify that the log of a newer checkpoint extends an older one.
    Consistency(ConsistencyArgs),
    /// Write a proof that an entry is in the log: the entry, its inclusion proof and a signed checkpoint in one file.
    #[command(after_help = "Example:\n  failsafectl log prove 1234 -o entry.tlog-proof")]
    Prove {
        /// The index of the entry, as `events -o json` shows it.
        #[arg(value_name = "ENTRY")]
        entry: u64,
        /// Prove it in this checkpoint. Default: the latest one.
        #[arg(long, value_name = "FILE")]
        checkpoint: Option<PathBuf>,
        #[command(flatten)]
        out: LogOut,
        /// Ask the daemon instead of reading the files of the state folder. This is the default for callers who may not read them, and
        /// with --host.
        #[arg(long, conflicts_with = "checkpoint")]
        from_daemon: bool,
    },
    /// Verify a proof offline: without the log, the daemon and the network.
    #[command(after_help = "Example:\n  failsafectl log verify-proof entry.tlog-proof --keys trusted.keys")]
    VerifyProof {
        /// The proof.
        file: PathBuf,
        /// The public keys that may have signed the checkpoint. Default: those that the daemon wrote to the state folder.
        #[arg(long, value_name = "FILE")]
        keys: Option<PathBuf>,
        /// A policy (C2SP tlog-policy): one of its logs must have signed the checkpoint, and its witnesses must have cosigned it.
        #[arg(long, value_name = "FILE", conflicts_with = "keys")]
        policy: Option<PathBuf>,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Be a witness of the logs of other nodes: cosign their checkpoints, as long as each extends the one before.
    Witness {
        /// What.
        #[command(subcommand)]
        what: WitnessCommand,
    },
}

/// `log witness`.
#[derive(Debug, Subcommand)]
pub enum WitnessCommand {
    /// Show the public key of a witness; with --name, make the witness if there is none.
    #[command(
        after_help = "Examples:\n  failsafectl log witness key /var/lib/witness --name witness.example.org/w1\n  \
                            failsafectl log witness key /var/lib/witness"
    )]
    Key {
        /// The folder of the witness: its key, and what it cosigned last of each log.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// The name of the witness, in cosignatures and policies: a host that you own and a path, without a scheme.
        #[arg(long)]
        name: Option<String>,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Cosign a checkpoint if it extends what this witness cosigned last of the log, and keep it.
    #[command(
        after_help = "Examples:\n  failsafectl log witness cosign /var/lib/witness node7.checkpoint --keys trusted.keys -o node7.cosigned\n  \
                            failsafectl log witness cosign /var/lib/witness node7.request --keys trusted.keys -o node7.cosigned"
    )]
    Cosign {
        /// The folder of the witness.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// What `log consistency OLD -o FILE` wrote on the node, where OLD is the checkpoint that was cosigned last; or, the first
        /// time, a checkpoint.
        #[arg(value_name = "REQUEST")]
        request: PathBuf,
        /// The public keys of the nodes of which this is a witness.
        #[arg(long, value_name = "FILE")]
        keys: PathBuf,
        #[command(flatten)]
        out: LogOut,
    },
    /// Serve requests by HTTP (c2sp.org/tlog-witness) until SIGTERM.
    #[command(
        after_help = "Example:\n  failsafectl log witness serve /var/lib/witness --keys trusted.keys --listen 127.0.0.1:8620"
    )]
    Serve {
        /// The folder of the witness.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// The public keys of the nodes of which this is a witness; read again for each request.
        #[arg(long, value_name = "FILE")]
        keys: PathBuf,
        /// The address and port to listen at.
        #[arg(long, value_name = "ADDRESS:PORT")]
        listen: SocketAddr,
    },
}

/// Where `log checkpoint`, `log prove` and `log witness cosign` write to.
#[derive(Debug, ClapArgs)]
pub struct LogOut {
    /// The file to write. Default: the terminal.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace the file if it exists. A symbolic link is never replaced.
    #[arg(long)]
    pub force: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `log archive`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  failsafectl log archive /backup/node7\n  failsafectl log verify --archive /backup/node7 --keys trusted.keys"
)]
pub struct ArchiveArgs {
    /// The folder of the archive. It is made if it does not exist.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// The public keys that may have signed the checkpoints. Default: those that the daemon wrote to the state folder.
    #[arg(long, value_name = "FILE")]
    pub keys: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `log consistency`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  failsafectl log consistency last-week.checkpoint --keys trusted.keys\n  \
                  failsafectl log consistency last-week.checkpoint -o week.consistency\n  \
                  failsafectl log consistency last-week.checkpoint --proof week.consistency --keys trusted.keys")]
pub struct ConsistencyArgs {
    /// The earlier checkpoint, which you kept.
    #[arg(value_name = "OLD-CHECKPOINT")]
    pub old: PathBuf,
    /// The newer checkpoint. Default: the latest one in the state folder, or of the daemon with --from-daemon.
    #[arg(value_name = "NEW-CHECKPOINT", conflicts_with = "proof")]
    pub new: Option<PathBuf>,
    /// Verify this proof, which has the newer checkpoint, without the log.
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    pub proof: Option<PathBuf>,
    /// The public keys that may have signed the checkpoints. Default: those that the daemon wrote to the state folder, or names
    /// with --from-daemon. Required with --host.
    #[arg(long, value_name = "FILE")]
    pub keys: Option<PathBuf>,
    /// Ask the daemon instead of reading the files of the state folder. This is the default for callers who may not read them, and
    /// with --host.
    #[arg(long, conflicts_with = "proof")]
    pub from_daemon: bool,
    /// Write the proof to this file.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace the file if it exists. A symbolic link is never replaced.
    #[arg(long)]
    pub force: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}
