//! A run that a test starts: `failsafectl run`, which becomes the command, with its output in a file.

use crate::{Node, cgroup, wait_for_some};
use anyhow::{Context, Result, bail};
use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
};

/// What is to be started.
#[derive(Debug)]
pub struct Launch<'a> {
    name: &'a str,
    policy: &'a str,
    named: bool,
    user: &'a str,
    caller: Option<u32>,
    gpus: Vec<&'a str>,
    manifest: Option<PathBuf>,
    label: Option<&'a str>,
    env: Vec<(&'a str, OsString)>,
    options: Vec<OsString>,
}

impl<'a> Launch<'a> {
    /// A run of that name under this policy (its text), as the user `nobody`, started by root.
    pub fn new(name: &'a str, policy: &'a str) -> Launch<'a> {
        Launch {
            name,
            policy,
            named: false,
            user: "nobody",
            caller: None,
            gpus: Vec::new(),
            manifest: None,
            label: None,
            env: Vec::new(),
            options: Vec::new(),
        }
    }

    /// The same under a policy of the node, by its name.
    pub fn named(name: &'a str, policy: &'a str) -> Launch<'a> {
        Launch { named: true, ..Launch::new(name, policy) }
    }

    /// As this user instead (`--user`).
    #[must_use]
    pub fn user(mut self, user: &'a str) -> Launch<'a> {
        self.user = user;
        self
    }

    /// Started by this unprivileged user, without `--user`.
    #[must_use]
    pub fn called_by(mut self, uid: u32) -> Launch<'a> {
        self.caller = Some(uid);
        self
    }

    /// On this GPU or MIG device (`--gpu`); may be given more than once.
    #[must_use]
    pub fn gpu(mut self, gpu: &'a str) -> Launch<'a> {
        self.gpus.push(gpu);
        self
    }

    /// With this manifest (`--manifest`).
    #[must_use]
    pub fn manifest(mut self, file: PathBuf) -> Launch<'a> {
        self.manifest = Some(file);
        self
    }

    /// With this label (`--label KEY=VALUE`).
    #[must_use]
    pub fn label(mut self, label: &'a str) -> Launch<'a> {
        self.label = Some(label);
        self
    }

    /// With a variable in its environment.
    #[must_use]
    pub fn env(mut self, key: &'a str, value: impl Into<OsString>) -> Launch<'a> {
        self.env.push((key, value.into()));
        self
    }

    /// With these further options of `failsafectl run`.
    #[must_use]
    pub fn options<I: Into<OsString>>(mut self, options: impl IntoIterator<Item = I>) -> Launch<'a> {
        self.options.extend(options.into_iter().map(Into::into));
        self
    }

    /// Starts `command` and waits until the run is listed.
    ///
    /// # Errors
    /// It ended before that, or never came.
    pub fn start<I: Into<OsString>>(self, node: &Node, command: impl IntoIterator<Item = I>) -> Result<Started> {
        let policy = if self.named { self.policy.into() } else { node.policy(self.name, self.policy)? };
        let (out, err) = (node.file(&format!("{}.out", self.name)), node.file(&format!("{}.err", self.name)));
        // The process that is started is the run's first one: tests look at it and kill it.
        let mut ctl = node.ctl_command(["run", "--no-watch", "--policy"]);
        ctl.arg(policy).args(["--name", self.name]).args(self.gpus.iter().flat_map(|gpu| ["--gpu", gpu]));
        ctl.args(self.manifest.iter().flat_map(|file| [OsStr::new("--manifest"), file.as_os_str()]));
        ctl.args(self.label.iter().flat_map(|label| ["--label", label])).args(&self.options);
        match self.caller {
            Some(uid) => ctl.uid(uid).gid(uid),
            None => ctl.args(["--user", self.user]),
        };
        for (key, value) in &self.env {
            let mut variable = OsString::from(key);
            variable.push("=");
            variable.push(value);
            ctl.arg("--env").arg(variable);
        }
        ctl.arg("--").args(command.into_iter().map(Into::into)).current_dir("/");
        ctl.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(File::create(&err)?);
        let child = ctl.spawn().context("starting failsafectl run")?;
        let mut started =
            Started { name: self.name.to_owned(), child, out, err, id: String::new(), cgroup: PathBuf::new() };
        started.id = wait_for_some(&format!("run {} is registered", self.name), || {
            let output = started.errors();
            let id = output.lines().find(|line| line.contains(" pinned to ")).and_then(|line| line.split(' ').nth(2));
            if id.is_none()
                && let Some(status) = started.child.try_wait()?
            {
                bail!("failsafectl run ended with {status}: {output}");
            }
            Ok(id.map(str::to_owned))
        })?;
        let run = node.run(&started.id)?;
        started.cgroup = node.mount().join(run["cgroup"].as_str().unwrap_or_default());
        Ok(started)
    }
}

/// A started run. Dropped, its first process is killed.
#[derive(Debug)]
pub struct Started {
    name: String,
    child: Child,
    out: PathBuf,
    err: PathBuf,
    id: String,
    cgroup: PathBuf,
}

impl Started {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its cgroup's folder.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Its first process: what `failsafectl run` became.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// What it and failsafectl wrote to stderr so far.
    pub fn errors(&self) -> String {
        fs::read_to_string(&self.err).unwrap_or_default()
    }

    /// Waits until `text` stands in its output.
    ///
    /// # Errors
    /// It does not come.
    pub fn says(&self, text: &str) -> Result<()> {
        crate::wait_for(&format!("run {} says `{text}`", self.name), || Ok(self.output().contains(text)))
            .with_context(|| format!("it said:\n{}{}", self.output(), self.errors()))
    }

    /// Waits until the kernel says that the whole run is frozen.
    ///
    /// # Errors
    /// It does not.
    pub fn freezes(&self) -> Result<()> {
        crate::wait_for(&format!("run {} is frozen", self.name), || cgroup::frozen(&self.cgroup))
    }

    /// Waits until the kernel says that it is not frozen.
    ///
    /// # Errors
    /// It stays frozen.
    pub fn thaws(&self) -> Result<()> {
        crate::wait_for(&format!("run {} is thawed", self.name), || Ok(!cgroup::frozen(&self.cgroup)?))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It lives on.
    pub fn ends(&mut self) -> Result<ExitStatus> {
        let name = self.name.clone();
        wait_for_some(&format!("run {name} ends"), || Ok(self.child.try_wait()?))
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // A frozen process of cgroup v2 dies of SIGKILL too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
