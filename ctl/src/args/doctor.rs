//! Arguments of `doctor`.

use super::Output;
use clap::Args as ClapArgs;
use std::path::PathBuf;

/// `doctor`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  failsafectl doctor\n  failsafectl doctor --cleanup --dry-run")]
pub struct DoctorArgs {
    /// Remove the BPF programs that a stopped daemon of this state folder left in the kernel. Root only. Runs that have
    /// processes keep theirs.
    #[arg(long)]
    pub cleanup: bool,
    /// Only list what would be removed.
    #[arg(long, requires = "cleanup")]
    pub dry_run: bool,
    /// Also remove the enforcement of this run, which has processes: nothing limits them afterwards. Run id or cgroup,
    /// not its name; repeatable.
    #[arg(long, requires = "cleanup", value_name = "RUN")]
    pub release: Vec<String>,
    /// Where the BPF file system is mounted, as the daemon's configuration says.
    #[arg(long, default_value = "/sys/fs/bpf", value_name = "PATH", requires = "cleanup")]
    pub bpffs: PathBuf,
    #[command(flatten)]
    pub output: Output,
}
