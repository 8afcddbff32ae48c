//! The process that makes the attempt: the first of a run, or, for the control, one of no run.

use anyhow::{Context, Result};
use integration::{Launch, NOBODY, Node, Started, TestCgroup, program};
use serde_json::Value;
use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Whoever makes the attempt. Dropped, it and all that it left in its cgroup are dead.
pub enum Inside {
    /// A run.
    Run(Started),
    /// A process of no run, in a cgroup of its own.
    NoRun(NoRun),
}

/// See [`Inside::NoRun`].
pub struct NoRun {
    child: Child,
    out: PathBuf,
    err: PathBuf,
    cgroup: TestCgroup,
}

impl Inside {
    /// Starts a run that makes the attempt, and lets it begin when the run is known.
    pub fn run(node: &Node, attempt: &str, user: &str, told: &[String], policy: &str) -> Result<Inside> {
        let name = format!("{attempt}-{user}");
        let go = node.file(&format!("{name}.go"));
        let run = Launch::new(&name, policy).user(user).start(node, command(attempt, told, &go)?)?;
        // From here on there may be no daemon to ask.
        fs::write(&go, "").context("letting it begin")?;
        Ok(Inside::Run(run))
    }

    /// The same without a run.
    pub fn no_run(node: &Node, attempt: &str, user: &str, told: &[String]) -> Result<Inside> {
        let name = format!("{attempt}-{user}-control");
        let file = |ending: &str| node.file(&format!("{name}.{ending}"));
        let (go, out, err) = (file("go"), file("out"), file("err"));
        let cgroup = TestCgroup::new(&format!("bypass-{name}"))?;
        let mut words = command(attempt, told, &go)?;
        words.push("--unbounded".to_owned());
        let uid = if user == "root" { 0 } else { NOBODY };
        let mut command = Command::new(words.first().context("no command")?);
        command.args(words.iter().skip(1)).uid(uid).gid(uid).current_dir("/").stdin(Stdio::null());
        let child = command.stdout(File::create(&out)?).stderr(File::create(&err)?).spawn().context("the control")?;
        let control = NoRun { child, out, err, cgroup };
        fs::write(control.cgroup.path().join("cgroup.procs"), control.child.id().to_string())
            .context("a cgroup for the control")?;
        fs::write(&go, "").context("letting it begin")?;
        Ok(Inside::NoRun(control))
    }

    /// Its first process.
    pub fn pid(&self) -> u32 {
        match self {
            Inside::Run(run) => run.pid(),
            Inside::NoRun(control) => control.child.id(),
        }
    }

    /// Where it lives.
    pub fn cgroup(&self) -> &Path {
        match self {
            Inside::Run(run) => run.cgroup(),
            Inside::NoRun(control) => control.cgroup.path(),
        }
    }

    /// What it printed so far.
    pub fn output(&self) -> String {
        match self {
            Inside::Run(run) => run.output(),
            Inside::NoRun(control) => fs::read_to_string(&control.out).unwrap_or_default(),
        }
    }

    /// What it wrote to stderr so far.
    pub fn errors(&self) -> String {
        match self {
            Inside::Run(run) => run.errors(),
            Inside::NoRun(control) => fs::read_to_string(&control.err).unwrap_or_default(),
        }
    }

    /// What the log says of the run; of no run, nothing.
    pub fn events(&self, node: &Node) -> Result<Vec<Value>> {
        match self {
            Inside::Run(run) => node.events_of(run.id()),
            Inside::NoRun(_) => Ok(Vec::new()),
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // The attempt lingers, with all that it has started.
        if let Err(error) = fs::write(self.cgroup().join("cgroup.kill"), "1") {
            eprintln!("{}: {error}", self.cgroup().display());
        }
        if let Inside::NoRun(control) = self {
            let _ = control.child.kill();
            let _ = control.child.wait();
        }
    }
}

fn command(attempt: &str, told: &[String], go: &Path) -> Result<Vec<String>> {
    let fixed = [program("bypass")?.display().to_string(), attempt.to_owned(), "--linger".to_owned()];
    let after = ["--after".to_owned(), go.display().to_string()];
    let _ = fs::remove_file(go);
    Ok(fixed.into_iter().chain(after).chain(told.iter().cloned()).collect())
}
