//! `manifest` and `checkpoint`.

use super::Output;
use clap::{Args as ClapArgs, Subcommand};
use std::path::PathBuf;

/// `manifest`.
#[derive(Debug, Subcommand)]
pub enum ManifestCommand {
    /// Claim what a live run computes with: code, data, seeds, hyperparameters. It replaces what was claimed before.
    Set(ManifestSetArgs),
    /// Show what was claimed about a run, and its checkpoints.
    Show(ManifestShowArgs),
    /// Print the digest of a file or folder, as lines for a manifest. Works without the daemon.
    Hash(ManifestHashArgs),
}

/// `manifest set`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  failsafectl manifest set trainer manifest.toml")]
pub struct ManifestSetArgs {
    /// Exact id or name.
    pub run: String,
    /// The manifest, a TOML file.
    pub file: PathBuf,
    #[command(flatten)]
    pub output: Output,
}

/// `manifest show`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  failsafectl manifest show trainer")]
pub struct ManifestShowArgs {
    /// Id, name, or an unambiguous prefix of either.
    pub run: String,
    #[command(flatten)]
    pub output: Output,
}

/// `manifest hash`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  failsafectl manifest hash --name c4 --version 3.0.1 /data/c4")]
pub struct ManifestHashArgs {
    /// The file or folder. Links are followed.
    pub path: PathBuf,
    /// The name of the data [default: name of the file or folder]
    #[arg(short, long)]
    pub name: Option<String>,
    /// The version of the data.
    #[arg(long)]
    pub version: Option<String>,
}

/// `checkpoint`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  failsafectl checkpoint /ckpt/step-12000 --step 12000 --good\n  failsafectl checkpoint /ckpt/last.pt --run trainer"
)]
pub struct CheckpointArgs {
    /// The checkpoint, a file or folder. It is hashed with your own rights.
    pub path: PathBuf,
    /// Exact id or name of the run [default: the run that this command runs in]
    #[arg(short, long, value_name = "RUN", default_value = "", hide_default_value = true)]
    pub run: String,
    /// The step of training.
    #[arg(long, value_name = "N")]
    pub step: Option<u64>,
    /// The checkpoint is known to be good.
    #[arg(long)]
    pub good: bool,
    #[command(flatten)]
    pub output: Output,
}
