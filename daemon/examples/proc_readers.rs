//! How long the readers of `/proc` that this daemon has of its own take, beside those of the crate `procfs` (ADR 0029).
//!
//! `cargo run -p failsafed --release --example proc_readers [TRIALS]` prints medians in microseconds for one read of one
//! process, with opening and reading the file. Trials of both ways alternate, so that noise on the machine meets both.

use std::{fs::File, hint::black_box, time::Instant};

use anyhow::{Result, ensure};
use failsafed::platform::ProcFs;
use procfs::process::{FDTarget, Process};

/// Reads in one trial.
const READS: u32 = 1_000;
/// Files that the measured process has open, as a process that uses GPUs has.
const OPEN: usize = 64;

fn main() -> Result<()> {
    let trials: usize = std::env::args().nth(1).map_or(Ok(15), |n| n.parse())?;
    ensure!(trials > 0, "at least one trial is needed");
    let (proc, pid) = (ProcFs::default(), std::process::id());
    let number = i32::try_from(pid)?;
    let open = (0..OPEN).map(|_| File::open("/dev/null")).collect::<Result<Vec<_>, _>>()?;
    println!("reads             own_us  procfs_us  ratio");
    row("stat", trials, || Ok(proc.stat(pid)?), || Ok(Process::new(number)?.stat()?))?;
    row("RssShmem", trials, || Ok(proc.shared_memory(pid)?), || Ok(Process::new(number)?.status()?.rssshmem))?;
    row("cgroup", trials, || Ok(proc.cgroup(pid)?), || Ok(Process::new(number)?.cgroups()?))?;
    row("cmdline", trials, || Ok(proc.cmdline(pid, 4_096)?), || Ok(Process::new(number)?.cmdline()?))?;
    let own = || {
        let links = std::fs::read_dir(proc.path(pid, "fd"))?.flatten();
        let links = links.filter_map(|link| std::fs::read_link(link.path()).ok());
        Ok(links.filter(|to| to.starts_with("/dev/dri")).count())
    };
    let theirs = || {
        let files = Process::new(number)?.fd()?.flatten();
        let gpu = |target: &FDTarget| matches!(target, FDTarget::Path(path) if path.starts_with("/dev/dri"));
        Ok(files.filter(|file| gpu(&file.target)).count())
    };
    row("links of 64 files", trials, own, theirs)?;
    drop(open);
    Ok(())
}

/// Measures both ways in turns and prints one line.
fn row<A, B>(
    what: &str,
    trials: usize,
    mut own: impl FnMut() -> Result<A>,
    mut theirs: impl FnMut() -> Result<B>,
) -> Result<()> {
    let (mut of_own, mut of_theirs) = (Vec::new(), Vec::new());
    for _ in 0..trials {
        of_own.push(time(&mut own)?);
        of_theirs.push(time(&mut theirs)?);
    }
    let (own, theirs) = (median(of_own), median(of_theirs));
    println!("{what:17} {own:6.1} {theirs:10.1} {:6.2}", theirs / own);
    Ok(())
}

/// Microseconds for one read.
fn time<T>(read: &mut impl FnMut() -> Result<T>) -> Result<f64> {
    let began = Instant::now();
    for _ in 0..READS {
        black_box(read()?);
    }
    Ok(began.elapsed().as_secs_f64() * 1e6 / f64::from(READS))
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times[times.len() / 2]
}
