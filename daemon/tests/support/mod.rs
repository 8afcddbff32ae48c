//! What tests on the real kernel share: a cgroup that is killed and removed on drop, and processes to put into it.

mod until;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use failsafed::platform::{Cgroup, CgroupRoot};
pub use until::until;

/// A cgroup of this test alone, with the processes put into it and a folder for their files.
pub struct TestCgroup {
    pub cgroup: Cgroup,
    pub dir: tempfile::TempDir,
    children: Vec<Child>,
}

impl TestCgroup {
    pub fn new(name: &str) -> Result<Self> {
        let root = CgroupRoot::find()?;
        let path = format!("failsafe-test-{}-{name}", std::process::id());
        Ok(Self { cgroup: root.create(Path::new(&path))?, dir: folder()?, children: Vec::new() })
    }

    /// Runs a shell script inside this cgroup (or the one given), `$1` being its cgroup and `$2` a file of its own.
    pub fn sh(&mut self, cgroup: &Path, script: &str) -> Result<PathBuf> {
        self.command(cgroup, &format!("{script}\n"), "sh")
    }

    /// Runs a Python program inside this cgroup.
    pub fn python(&mut self, program: &str) -> Result<PathBuf> {
        let file = self.dir.path().join("program.py");
        std::fs::write(&file, program)?;
        let cgroup = self.cgroup.path().to_owned();
        self.command(&cgroup, &format!("exec python3 {}", file.display()), "sh")
    }

    fn command(&mut self, cgroup: &Path, script: &str, shell: &str) -> Result<PathBuf> {
        let file = self.dir.path().join(format!("out-{}", self.children.len()));
        let child = Command::new(shell)
            .arg("-c")
            .arg(format!("echo $$ > \"$1/cgroup.procs\" || exit 1\n{script}"))
            .arg("workload")
            .args([cgroup, &file])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        self.children.push(child);
        Ok(file)
    }

    /// Starts processes that count by growing a file, and waits until each does.
    pub fn spinners(&mut self, cgroup: &Path, count: usize) -> Result<Vec<PathBuf>> {
        let files: Vec<PathBuf> =
            (0..count).map(|_| self.sh(cgroup, "while :; do echo >> \"$2\"; done")).collect::<Result<_>>()?;
        until("every spinner counts", || Ok(files.iter().all(|f| length(f) > 0)))?;
        Ok(files)
    }

    /// The number of the n-th process started.
    pub fn pid(&self, n: usize) -> Result<u32> {
        Ok(self.children.get(n).context("no such child")?.id())
    }

    /// Waits for the processes that ended, so that no zombie is taken for a survivor.
    pub fn reap(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.children.clear();
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        let _ = self.cgroup.write_file("cgroup.kill", b"1");
        self.reap();
        let gone = until("the cgroup is empty", || {
            let _ = self.cgroup.write_file("cgroup.kill", b"1");
            Ok(self.cgroup.remove_tree().is_ok())
        });
        if let Err(e) = gone {
            eprintln!("left behind {}: {e:#}", self.cgroup.path().display());
        }
    }
}

/// In memory: a counter on a disk makes its process wait for the journal in state D now and then.
fn folder() -> Result<tempfile::TempDir> {
    Ok(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?)
}

/// How far a spinner has counted.
pub fn length(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |m| m.len())
}

/// The sum of the counters.
pub fn total(files: &[PathBuf]) -> u64 {
    files.iter().map(|f| length(f)).sum()
}

/// That nobody counts: over 30 ms no counter grows. A single runnable spinner counts thousands in that time.
pub fn ensure_still(files: &[PathBuf]) -> Result<()> {
    let before = total(files);
    std::thread::sleep(Duration::from_millis(30));
    let after = total(files);
    ensure!(before == after, "{} counts after the freeze", after - before);
    Ok(())
}

/// That every counter grows.
pub fn ensure_all_run(files: &[PathBuf]) -> Result<()> {
    let before: Vec<u64> = files.iter().map(|f| length(f)).collect();
    until("every spinner counts again", || Ok(files.iter().zip(&before).all(|(f, b)| length(f) > *b)))
}

/// A deadline this far from now.
pub fn within(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}
