//! Debian's Slurm on loopback: munged, slurmctld and slurmd of a test's own, in a cgroup of the test's own.
//!
//! ```text
//! ROOT (a cgroup of the test)          slurmd has a cgroup namespace with this root, and its own cgroup2 mount
//!   slurmd/                            munged, slurmctld, and slurmd until it has its scope
//!   system.slice/NODE_slurmstepd.scope made by slurmd: job_J/step_S/{slurm,user}
//! ```
//!
//! Invariants: nothing in /etc is read or written, and nothing outside the folder and ROOT is changed. Ports depend on the
//! process id and lie below those that the kernel gives to clients. Dropped, all of it is killed.

use crate::{CommandOutput, cgroup, wait_for};
use anyhow::{Context, Result, ensure};
use std::{
    fs::{self, File, Permissions},
    net::{Ipv4Addr, TcpListener, ToSocketAddrs},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

const PROGRAMS: [&str; 8] = ["munged", "slurmctld", "slurmd", "sbatch", "scontrol", "unshare", "setpriv", "cc"];
const VIEW: &str = include_str!("slurm/unified_view.c");

/// What this machine lacks to run Slurm, if anything.
pub fn slurm_is_missing() -> Option<String> {
    let is_there = |name: &&str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
        folders.into_iter().any(|folder| folder.join(name).is_file())
    };
    if let Some(name) = PROGRAMS.iter().find(|name| !is_there(name)) {
        return Some(format!("{name} is not installed (Debian: slurmctld, slurmd, slurm-client, munge)"));
    }
    let host = host();
    if (host.as_str(), 0).to_socket_addrs().is_err() {
        return Some(format!("the name of this host, {host}, has no address, which srun needs"));
    }
    None
}

/// The name of this host, without its domain.
fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().split('.').next().unwrap_or_default().to_owned()
}

/// A port of two that follow each other and are free.
fn ports() -> Result<u16> {
    let first = 20_000 + u16::try_from(std::process::id() % 5_000)? * 2;
    let is_free = |port: u16| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok();
    let mut all = (first..32_000).chain(20_000..first).step_by(2);
    all.find(|port| is_free(*port) && is_free(*port + 1)).context("no two ports are free")
}

/// The cluster of one node.
#[derive(Debug)]
pub struct Slurm {
    folder: TempDir,
    root: PathBuf,
    port: u16,
    daemons: Vec<Child>,
}

impl Slurm {
    /// Starts it below the cgroup `root`, and waits until the node is idle. `more` are further lines of slurm.conf; those that name
    /// a script of the package get the one of this source tree, see [`Slurm::settings`].
    ///
    /// # Errors
    /// A daemon ends or does not answer; the logs are in the error.
    pub fn start(root: &Path, more: &str) -> Result<Slurm> {
        let folder = tempfile::Builder::new().prefix("failsafe-slurm-").tempdir()?;
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        let mut slurm = Slurm { folder, root: root.to_owned(), port: ports()?, daemons: Vec::new() };
        slurm.write_configuration(more)?;
        slurm.write_scripts()?;
        // There is no failsafed yet, and a health check runs before slurmd has registered the node.
        slurm.settings("FAILSAFE_ACTION=report\nFAILSAFE_WAIT=1\n")?;
        slurm.spawn()?;
        let idle = wait_for("the node is idle", || {
            for daemon in &mut slurm.daemons {
                let ended = daemon.try_wait()?;
                ensure!(ended.is_none(), "a daemon ended: {ended:?}");
            }
            let output = slurm.command("sinfo", ["--noheader", "--format=%T"])?;
            Ok(output.out.trim() == "idle")
        });
        idle.with_context(|| slurm.logs())?;
        Ok(slurm)
    }

    /// Writes what stands for `/etc/default/failsafe-slurm`, in one step: a script may be reading it.
    ///
    /// # Errors
    /// It cannot be written, or failsafectl is not built.
    pub fn settings(&self, text: &str) -> Result<()> {
        let (new, file) = (self.file("settings.new"), self.file("settings"));
        let folder = crate::program("failsafectl")?.parent().context("no folder")?.display().to_string();
        fs::write(&new, format!("PATH={folder}:$PATH\n{text}"))?;
        fs::rename(new, file).context("replacing the settings")
    }

    /// How the calls of a script of the package ended so far, in order: its exit codes.
    pub fn calls(&self, script: &str) -> Vec<String> {
        let text = fs::read_to_string(self.file(&format!("{script}.calls"))).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// What a script of the package printed so far.
    pub fn script_log(&self, script: &str) -> String {
        fs::read_to_string(self.file(&format!("{script}.log"))).unwrap_or_default()
    }

    /// Each script of the package with the settings of this cluster, and with a record of its calls.
    fn write_scripts(&self) -> Result<()> {
        let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/slurm").canonicalize()?;
        let folder = self.folder.path().display();
        fs::create_dir(self.file("scripts"))?;
        for name in ["prolog", "epilog", "health-check"] {
            let text = format!(
                "#!/bin/sh\nexport FAILSAFE_SLURM_SETTINGS={folder}/settings SLURM_CONF={folder}/slurm.conf\n\
                 {}/{name} >> {folder}/{name}.log 2>&1\ncode=$?\necho $code >> {folder}/{name}.calls\nexit $code\n",
                package.display()
            );
            let file = self.file("scripts").join(name);
            fs::write(&file, text)?;
            fs::set_permissions(&file, Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    fn write_configuration(&self, more: &str) -> Result<()> {
        for name in ["state", "spool", "cgroup"] {
            fs::create_dir(self.file(name))?;
        }
        for name in ["slurmd", "system.slice"] {
            fs::create_dir_all(self.root.join(name))?;
        }
        // Jobs of unprivileged users write here.
        fs::create_dir(self.file("out"))?;
        fs::set_permissions(self.file("out"), Permissions::from_mode(0o777))?;
        let (folder, host, port) = (self.folder.path().display().to_string(), host(), self.port);
        let next = port + 1;
        let text = format!(
            "ClusterName=test\nSlurmctldHost={host}(127.0.0.1)\nSlurmUser=root\nSlurmctldPort={port}\nSlurmdPort={next}\n\
             AuthType=auth/munge\nAuthInfo=socket={folder}/munge.sock\nCredType=cred/munge\n\
             StateSaveLocation={folder}/state\nSlurmdSpoolDir={folder}/spool\n\
             SlurmctldPidFile={folder}/slurmctld.pid\nSlurmdPidFile={folder}/slurmd.pid\n\
             SlurmdDebug=debug\nSlurmctldDebug=debug\n\
             ProctrackType=proctrack/cgroup\nTaskPlugin=task/none\nMpiDefault=none\n\
             JobAcctGatherType=jobacct_gather/none\nSelectType=select/cons_tres\nSelectTypeParameters=CR_Core\n\
             ReturnToService=2\nSlurmdParameters=config_overrides\nKillWait=2\nMessageTimeout=60\n\
             NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN\n\
             PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n{}\n",
            more.replace("/usr/share/failsafe/slurm/", &format!("{folder}/scripts/"))
        );
        fs::write(self.file("slurm.conf"), text)?;
        let cgroup = format!(
            "CgroupPlugin=cgroup/v2\nCgroupMountpoint={folder}/cgroup\nIgnoreSystemd=yes\n\
             ConstrainCores=no\nConstrainDevices=no\nConstrainRAMSpace=no\n"
        );
        fs::write(self.file("cgroup.conf"), cgroup)?;
        let mut key = vec![0; 128];
        std::io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut key)?;
        fs::write(self.file("munge.key"), key)?;
        fs::set_permissions(self.file("munge.key"), Permissions::from_mode(0o600))?;
        Ok(())
    }

    fn spawn(&mut self) -> Result<()> {
        let file = |name: &str| self.file(name).display().to_string();
        let munged = format!(
            "munged --foreground --force --key-file={} --socket={} --pid-file={} --seed-file={} --log-file={}",
            file("munge.key"),
            file("munge.sock"),
            file("munged.pid"),
            file("munged.seed"),
            file("munged.daemon.log")
        );
        let ctld = format!("slurmctld -D -f {}", file("slurm.conf"));
        // The namespace's root is the cgroup that the process is in when it makes the namespace.
        let inner = format!(
            "echo $$ > {}/slurmd/cgroup.procs && mount -t cgroup2 none {} && {} exec slurmd -D -f {}",
            self.root.display(),
            file("cgroup"),
            self.preload()?,
            file("slurm.conf")
        );
        let slurmd = format!(
            "sh -c 'echo $$ > {}/cgroup.procs && exec unshare --cgroup --mount --propagation slave sh -c \"$1\"' sh '{}'",
            self.root.display(),
            inner
        );
        for (name, command) in [("munged", munged), ("slurmctld", ctld), ("slurmd", slurmd)] {
            if name == "slurmctld" {
                let socket = self.file("munge.sock");
                wait_for("munged listens", || Ok(socket.exists()))?;
            }
            // slurmd enters its own cgroups; the others lie beside them, so that removing the root ends them.
            let enter = format!("echo $$ > {}/slurmd/cgroup.procs && ", self.root.display());
            let enter = if name == "slurmd" { "" } else { &enter };
            let log = File::create(self.file(&format!("{name}.log")))?;
            let mut shell = Command::new("setpriv");
            shell.args(["--pdeathsig", "KILL", "sh", "-c", &format!("{enter}exec {command}")]);
            shell.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir("/");
            shell.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            self.daemons.push(shell.spawn().with_context(|| format!("starting {name}"))?);
        }
        Ok(())
    }

    /// What hides controllers of v1 from slurmd, where there are any.
    fn preload(&self) -> Result<String> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        if own.lines().all(|line| line.starts_with("0::")) {
            return Ok(String::new());
        }
        let (source, library) = (self.file("unified_view.c"), self.file("unified_view.so"));
        fs::write(&source, VIEW)?;
        let built = CommandOutput::of(
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl"),
        )?;
        built.expect(0)?;
        Ok(format!("LD_PRELOAD={}", library.display()))
    }

    /// A file of the cluster's folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The cgroup below which it runs.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The name of its only node.
    pub fn node(&self) -> String {
        host()
    }

    /// The ports of slurmctld and slurmd, which a job's `srun` connects to.
    pub fn ports(&self) -> [u16; 2] {
        [self.port, self.port + 1]
    }

    /// A step's cgroup.
    pub fn step(&self, job: u32, step: &str) -> PathBuf {
        self.root.join(format!("system.slice/{}_slurmstepd.scope/job_{job}/step_{step}", host()))
    }

    /// What one of Slurm's commands says.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn command<const N: usize>(&self, program: &str, args: [&str; N]) -> Result<CommandOutput> {
        CommandOutput::of(self.client(program).args(args))
    }

    fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("SLURM_CONF", self.file("slurm.conf"))
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/");
        command
    }

    /// Submits a script as this user, and returns the job's number. Its output goes to `out/NAME`.
    ///
    /// # Errors
    /// Slurm refuses it.
    pub fn submit(&self, uid: u32, name: &str, script: &str) -> Result<u32> {
        let (file, out) = (self.file(name), self.output_file(name));
        fs::write(&file, script)?;
        fs::set_permissions(&file, Permissions::from_mode(0o755))?;
        let mut sbatch = self.client("sbatch");
        sbatch.uid(uid).gid(uid).args(["--parsable", "--chdir=/", "--open-mode=append", "--output"]);
        let output = CommandOutput::of(sbatch.arg(out).arg(file))?.expect(0)?;
        output.out.trim().parse().with_context(|| format!("no job number: {output:?}"))
    }

    fn output_file(&self, name: &str) -> PathBuf {
        self.file("out").join(name)
    }

    /// What a job has printed so far.
    pub fn output(&self, name: &str) -> String {
        fs::read_to_string(self.output_file(name)).unwrap_or_default()
    }

    /// Waits until a job has printed `text`.
    ///
    /// # Errors
    /// It does not; its output and the logs are in the error.
    pub fn says(&self, name: &str, text: &str) -> Result<()> {
        let output = wait_for(&format!("job {name} prints `{text}`"), || Ok(self.output(name).contains(text)));
        output.with_context(|| format!("it printed:\n{}\n{}", self.output(name), self.logs()))
    }

    /// A field of a job, as `scontrol show job` has it.
    ///
    /// # Errors
    /// Slurm does not answer.
    pub fn job(&self, job: u32, field: &str) -> Result<String> {
        let output = self.command("scontrol", ["show", "job", "--oneliner", &job.to_string()])?.expect(0)?;
        Ok(value(&output.out, field))
    }

    /// A field of the node, as `scontrol show node` has it.
    ///
    /// # Errors
    /// Slurm does not answer.
    pub fn node_field(&self, field: &str) -> Result<String> {
        let output = self.command("scontrol", ["show", "node", "--oneliner", &self.node()])?.expect(0)?;
        Ok(value(&output.out, field))
    }

    /// The ends of the daemons' logs.
    pub fn logs(&self) -> String {
        let end = |name: &str| {
            let text = fs::read_to_string(self.file(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("--- {name}\n{}\n", lines[lines.len().saturating_sub(40)..].join("\n"))
        };
        ["munged.log", "slurmctld.log", "slurmd.log"].map(end).concat()
    }
}

/// The value of `FIELD=VALUE` in a line; a reason may have spaces and runs to the next field.
fn value(line: &str, field: &str) -> String {
    let rest = line.split(&format!(" {field}=")).nth(1).unwrap_or_default();
    let end = if field == "Reason" { rest.find(" [") } else { rest.find(char::is_whitespace) };
    rest[..end.unwrap_or(rest.len())].trim().to_owned()
}

impl Drop for Slurm {
    fn drop(&mut self) {
        for daemon in self.daemons.iter_mut().rev() {
            let _ = daemon.kill();
        }
        // Steps and their supervisors are no children of this process.
        cgroup::remove_tree(&self.root);
        for daemon in &mut self.daemons {
            let _ = daemon.wait();
        }
    }
}
