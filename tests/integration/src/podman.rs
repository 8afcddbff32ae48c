//! Debian's Podman with crun as root, without systemd: storage and state in a folder of the test's own, and containers in a cgroup of
//! the test's own.
//!
//! ```text
//! ROOT (a cgroup of the test)        the engine has a cgroup namespace with this root, and its own mount at /sys/fs/cgroup
//!   engine/                          podman itself, and each conmon that Podman leaves there
//!   libpod_parent/libpod-ID          made by crun: the container
//! ```
//!
//! Invariants: nothing outside the folder and ROOT is changed, and no registry is asked: the image is made of busybox. Dropped, all of it
//! is killed.

use crate::{CommandOutput, cgroup, wait_for};
use anyhow::{Context, Result, ensure};
use procfs::process::Process;
use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

const PROGRAMS: [&str; 7] = ["podman", "crun", "conmon", "unshare", "nsenter", "setpriv", "cc"];
const LIMITS: &str = include_str!("podman/memlock.c");
/// Of capabilities(7).
const CAP_SYS_RESOURCE: u32 = 24;
/// Its own image.
pub const IMAGE: &str = "localhost/busybox:test";

/// What this machine lacks to run containers with Podman, if anything.
pub fn podman_is_missing() -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &&str| std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    if let Some(name) = PROGRAMS.iter().find(|name| !is_there(name)) {
        return Some(format!("{name} is not installed (Debian: podman, crun, conmon)"));
    }
    if busybox().is_none() {
        return Some("a static busybox is not installed (Debian: busybox-static)".to_owned());
    }
    None
}

/// A busybox without an interpreter: it must run in an image that has no library.
fn busybox() -> Option<PathBuf> {
    let all = ["/usr/bin/busybox", "/bin/busybox"].map(PathBuf::from);
    // Of a static program ldd says that it is no dynamic executable, and fails.
    let is_static =
        |path: &PathBuf| CommandOutput::of(Command::new("ldd").arg(path)).is_ok_and(|output| output.code != 0);
    all.into_iter().find(|path| path.is_file() && is_static(path))
}

/// The engine.
#[derive(Debug)]
pub struct Podman {
    folder: TempDir,
    root: PathBuf,
    holder: Child,
}

impl Podman {
    /// Prepares it below the cgroup `root`, with its image.
    ///
    /// # Errors
    /// A namespace or the image cannot be made.
    pub fn start(root: &Path) -> Result<Podman> {
        let folder = tempfile::Builder::new().prefix("failsafe-podman-").tempdir()?;
        fs::create_dir(root.join("engine"))?;
        fs::create_dir(folder.path().join("bin"))?;
        let ready = folder.path().join("ready");
        // The root of the namespace is the cgroup that the process is in when it makes the namespace. Podman keeps its locks in /dev/shm,
        // and what it knows of images in /var/lib/containers.
        let inner = format!(
            "mount -t cgroup2 none /sys/fs/cgroup && echo $$ > /sys/fs/cgroup/engine/cgroup.procs && mount -t tmpfs none /dev/shm && \
             {{ [ ! -d /var/lib/containers ] || mount -t tmpfs none /var/lib/containers; }} && touch {} && exec sleep infinity",
            ready.display()
        );
        let outer = format!(
            "echo $$ > {}/cgroup.procs && exec unshare --cgroup --mount --propagation private sh -c '{inner}'",
            root.display()
        );
        let log = File::create(folder.path().join("holder.log"))?;
        let holder = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "sh", "-c", &outer])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting the holder of the namespaces")?;
        let mut podman = Podman { folder, root: root.to_owned(), holder };
        wait_for("the namespaces are there", || {
            let ended = podman.holder.try_wait()?;
            let log = fs::read_to_string(podman.file("holder.log")).unwrap_or_default();
            ensure!(ended.is_none(), "the holder of the namespaces ended: {log}");
            Ok(ready.exists())
        })?;
        podman.configure()?;
        podman.image()?;
        Ok(podman)
    }

    fn configure(&self) -> Result<()> {
        let folder = self.folder.path().display();
        let crun = self.runtime()?;
        // No controller of cgroup v2 is needed, and no limit that this process may not set.
        let engine = format!(
            "[containers]\npids_limit = 0\nnetns = \"host\"\nlog_driver = \"k8s-file\"\n\
             default_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nruntime = \"crun\"\n\n\
             [engine.runtimes]\ncrun = [{crun:?}]\n"
        );
        fs::write(self.file("containers.conf"), engine)?;
        let storage =
            format!("[storage]\ndriver = \"vfs\"\ngraphroot = \"{folder}/storage\"\nrunroot = \"{folder}/run\"\n");
        fs::write(self.file("storage.conf"), storage)?;
        let script = format!(
            "#!/bin/sh\necho $$ > {}/engine/cgroup.procs\nexport CONTAINERS_CONF={folder}/containers.conf \
             CONTAINERS_STORAGE_CONF={folder}/storage.conf TMPDIR={folder}\nexport PATH=/usr/sbin:/usr/bin:/sbin:/bin\n\
             exec nsenter --target {} --mount --cgroup -- podman --tmpdir {folder}/tmp \"$@\"\n",
            self.root.display(),
            self.holder.id()
        );
        executable(&self.wrapper(), &script)
    }

    /// The program that makes containers. crun raises a limit before it loads a program of devices, and ends if it may not, although the
    /// kernel has not used that limit since 5.11: without the capability it gets a library that has the call succeed.
    fn runtime(&self) -> Result<String> {
        let capabilities = Process::myself()?.status()?.capeff;
        if capabilities >> CAP_SYS_RESOURCE & 1 == 1 {
            return Ok("/usr/bin/crun".to_owned());
        }
        let (source, library, script) = (self.file("memlock.c"), self.file("memlock.so"), self.file("bin/crun"));
        fs::write(&source, LIMITS)?;
        let mut cc = Command::new("cc");
        CommandOutput::of(cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl"))?
            .expect(0)?;
        executable(&script, &format!("#!/bin/sh\nLD_PRELOAD={} exec crun \"$@\"\n", library.display()))?;
        Ok(script.display().to_string())
    }

    fn image(&self) -> Result<()> {
        let bin = self.file("rootfs/bin");
        fs::create_dir_all(&bin)?;
        fs::copy(busybox().context("no busybox")?, bin.join("busybox"))?;
        for name in ["sh", "nc", "sleep", "echo"] {
            symlink("busybox", bin.join(name))?;
        }
        let archive = self.file("rootfs.tar");
        CommandOutput::of(Command::new("tar").arg("-C").arg(self.file("rootfs")).arg("-cf").arg(&archive).arg("."))?
            .expect(0)?;
        self.command(["import", &archive.display().to_string(), IMAGE])?.expect(0).map(|_| ())
    }

    /// A file of the engine's folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `podman` of this engine, as a program.
    pub fn wrapper(&self) -> PathBuf {
        self.file("bin/podman")
    }

    /// What `podman ARGS` says.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn command<const N: usize>(&self, args: [&str; N]) -> Result<CommandOutput> {
        CommandOutput::of(Command::new(self.wrapper()).args(args).current_dir("/"))
    }

    /// Starts a container that runs `script`, and returns its id.
    ///
    /// # Errors
    /// Podman refuses it.
    pub fn run(&self, name: &str, script: &str) -> Result<String> {
        let output = self.command(["run", "--detach", "--name", name, IMAGE, "sh", "-c", script])?.expect(0)?;
        Ok(output.out.trim().to_owned())
    }

    /// The cgroup of a container.
    pub fn cgroup(&self, id: &str) -> PathBuf {
        self.root.join(format!("libpod_parent/libpod-{id}"))
    }

    /// The process id of the conmon of a container.
    ///
    /// # Errors
    /// Podman does not answer.
    pub fn conmon(&self, id: &str) -> Result<u32> {
        let output = self.command(["inspect", "--format", "{{.State.ConmonPid}}", id])?.expect(0)?;
        output.out.trim().parse().with_context(|| format!("no process id: {output:?}"))
    }
}

fn executable(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, Permissions::from_mode(0o755))?)
}

impl Drop for Podman {
    fn drop(&mut self) {
        // Containers and their conmon are no children of this process. The mounts end with the namespace.
        cgroup::remove_tree(&self.root);
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
