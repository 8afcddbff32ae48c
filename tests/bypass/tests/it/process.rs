//! Other processes, namespaces, mounts and rights.

use crate::{
    inside::Inside,
    outsider::{Outsider, becomes, namespace, process},
    trial::{Stage, judge},
    witness::Witness,
};
use anyhow::{Context, Result};
use bypass::table::{PROCESS, Row};
use integration::{Node, members, on_node, program};
use nix::mount::{MntFlags, umount2};
use procfs::process::{MMPermissions, MMapPath, MemoryMap};
use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::PathBuf,
    process::Stdio,
};

#[test]
fn processes_namespaces_and_rights() -> Result<()> {
    on_node("bypass-process", "", |node| {
        let mut around = Around::new(node)?;
        judge(node, "process", PROCESS, &mut around)
    })
}

/// What there is around the run.
struct Around {
    witness: Witness,
    token: String,
    neighbour: Option<Outsider>,
    /// Where a run may write, with a program of root's in it.
    folder: PathBuf,
}

impl Around {
    fn new(node: &Node) -> Result<Around> {
        let folder = node.file("around");
        fs::create_dir_all(folder.join("mount")).context("making the folder")?;
        fs::set_permissions(&folder, Permissions::from_mode(0o755))?;
        let setuid = folder.join("setuid");
        fs::copy(program("bypass")?, &setuid).context("copying the program")?;
        fs::set_permissions(&setuid, Permissions::from_mode(0o4755))?;
        Ok(Around { witness: Witness::new()?, token: String::new(), neighbour: None, folder })
    }

    fn neighbour(&self) -> Result<&Outsider> {
        self.neighbour.as_ref().context("no neighbour")
    }

    fn mark(&self) -> PathBuf {
        self.folder.join("marks/mark")
    }

    /// Of any process of the run: another namespace than this test's own.
    fn moved(&self, run: &Inside, kind: &str) -> Result<Option<String>> {
        let own = namespace(std::process::id(), kind)?;
        let away = |pid: u32| namespace(pid, kind).is_ok_and(|n| n != own);
        Ok(members(run.cgroup())?.into_iter().any(away).then(|| format!("another {kind} namespace")))
    }
}

/// The rule that sees the deed, and refuses it where a hook can.
fn rule(row: &Row, lsm: bool) -> Option<String> {
    let calls = |names: &str| format!("event = \"syscall\", name = {names}");
    let when = match row.attempt {
        "ptrace-outside" | "write-memory-outside" | "write-memory-file-outside" => {
            calls("[\"ptrace\", \"process_vm_writev\"]")
        }
        "unshare-user" | "clone-user" => "event = \"privilege\", gain = \"userns\"".to_owned(),
        "unshare-mounts" | "enter-namespace" => calls("[\"unshare\", \"setns\"]"),
        "mount" | "mount-new-calls" | "mount-clone" => calls("[\"mount\", \"move_mount\"]"),
        "setuid-program" => "event = \"privilege\", gain = \"setuid\"".to_owned(),
        "executable-memory" | "turn-executable" => {
            "event = \"exec-memory\", kind = [\"anonymous\", \"write-exec\"]".to_owned()
        }
        _ => return None,
    };
    let effect = if lsm { "effect = \"deny\"\n" } else { "" };
    Some(format!(
        "[[rule]]\nid = \"forbidden\"\nrationale = \"it is tried\"\nwhen = {{ {when} }}\n{effect}\
         actions = [\"freeze\", \"notify\"]\n"
    ))
}

impl Stage for Around {
    fn policy(&mut self, row: &Row, lsm: bool) -> Result<String> {
        let egress = if row.attempt == "daemonise" { "[egress]\nallow = []\n" } else { "" };
        let rule = rule(row, lsm).unwrap_or_default();
        Ok(format!("[policy]\nname = \"alone\"\nowner = \"tests\"\n{egress}{rule}"))
    }

    fn prepare(&mut self, _: &Node, row: &Row, user: &str) -> Result<Vec<String>> {
        let marks = self.folder.join("marks");
        let _ = fs::remove_dir_all(&marks);
        fs::create_dir(&marks)?;
        // Only root may write there, whoever runs.
        fs::set_permissions(&marks, Permissions::from_mode(0o755))?;
        let command: &[&str] =
            if row.attempt == "enter-namespace" { &["unshare", "--uts", "sleep", "600"] } else { &["sleep", "600"] };
        let neighbour = self.neighbour.insert(Outsider::start(user, command, Stdio::null())?);
        let pid = neighbour.pid();
        integration::wait_for("the neighbour sleeps", || {
            Ok(fs::read_to_string(format!("/proc/{pid}/comm"))?.trim() == "sleep")
        })?;
        self.token = self.witness.token();
        let (pid, to, mark) =
            (pid.to_string(), self.witness.forbidden().to_string(), self.mark().display().to_string());
        let folder = match row.attempt {
            "setuid-program" => self.folder.clone(),
            _ => self.folder.join("mount"),
        };
        let folder = folder.display().to_string();
        let told = ["--pid", &pid, "--to", &to, "--token", &self.token, "--path", &mark, "--folder", &folder];
        Ok(told.map(str::to_owned).to_vec())
    }

    fn happened(&mut self, _: &Node, row: &Row, run: &Inside) -> Result<Option<String>> {
        let when = |is: bool, what: &str| Ok(is.then(|| what.to_owned()));
        match row.attempt {
            "ptrace-outside" => {
                when(process(self.neighbour()?.pid())?.status()?.tracerpid != 0, "the neighbour is traced")
            }
            "write-memory-outside" | "write-memory-file-outside" => {
                when(self.neighbour()?.arguments()?.contains("666"), "the neighbour's memory")
            }
            "signal-outside" => when(becomes(self.neighbour()?.pid(), 'T'), "the neighbour stands"),
            "daemonise" => self.witness.since(&self.token),
            "unshare-user" | "clone-user" => self.moved(run, "user"),
            "unshare-mounts" => self.moved(run, "mnt"),
            "enter-namespace" => self.moved(run, "uts"),
            "mount" | "mount-new-calls" | "mount-clone" => {
                let place = self.folder.join("mount").display().to_string();
                when(procfs::mounts()?.iter().any(|mount| mount.fs_file == place), "a mount")
            }
            "setuid-program" => {
                let uid = fs::metadata(self.mark()).map(|file| file.uid()).ok();
                when(uid == Some(0), "a file that only root may write")
            }
            "executable-memory" | "turn-executable" => {
                let maps = process(run.pid())?.maps()?;
                when(maps.iter().any(is_anonymous_code), "code in anonymous memory")
            }
            other => anyhow::bail!("nobody knows what to look for: {other}"),
        }
    }

    fn tidy(&mut self, _: &mut Node) -> Result<()> {
        // Mounted only where the attempt got through.
        let _ = umount2(&self.folder.join("mount"), MntFlags::MNT_DETACH);
        self.neighbour = None;
        Ok(())
    }
}

/// An executable mapping of no file and not the kernel's own.
fn is_anonymous_code(map: &MemoryMap) -> bool {
    map.perms.contains(MMPermissions::EXECUTE) && map.pathname == MMapPath::Anonymous
}
