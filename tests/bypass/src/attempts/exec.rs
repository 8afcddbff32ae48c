//! Ways to run a program that may not be run. `--path` is where the program, if it runs, leaves its mark; `--folder` holds it
//! as `forbidden`, and is where an attempt may write.

use super::{Attempt, Scene};
use crate::sys::process::{self, Racing};
use anyhow::{Context, Result, bail, ensure};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

/// What a forbidden program does when it runs.
pub(super) const MARK: Attempt = ("mark", |s| fs::write(s.path()?, "x").context("leaving the mark"));

/// How often the race is run.
const ROUNDS: usize = 100;

pub(super) const ALL: &[Attempt] = &[
    ("exec", |s| run(s, &forbidden(s)?, &[])),
    ("exec-by-thread", exec_by_thread),
    ("exec-by-descriptor", exec_by_descriptor),
    ("exec-by-symlink", exec_by_symlink),
    ("exec-by-dots", |s| run(s, &s.folder()?.join("work/../forbidden"), &[])),
    ("exec-by-proc-root", |s| run(s, &under("/proc/self/root", &forbidden(s)?), &[])),
    ("exec-by-hard-link", exec_by_hard_link),
    ("exec-by-shell", exec_by_shell),
    ("exec-as-interpreter", exec_as_interpreter),
    ("exec-by-loader", exec_by_loader),
    ("exec-copy", exec_copy),
    ("exec-memory-file", exec_memory_file),
    ("exec-deleted", exec_deleted),
    ("exec-race", exec_race),
];

fn forbidden(scene: &Scene) -> Result<PathBuf> {
    Ok(scene.folder()?.join("forbidden"))
}

fn work(scene: &Scene, name: &str) -> Result<PathBuf> {
    Ok(scene.folder()?.join("work").join(name))
}

/// An absolute path seen from another root.
pub(super) fn under(root: &str, path: &Path) -> PathBuf {
    Path::new(root).join(path.strip_prefix("/").unwrap_or(path))
}

/// Starts it in a child, and is content when it ended well.
pub(super) fn run(scene: &Scene, program: &Path, before: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    command.args(before).args(["mark", "--path"]).arg(scene.path()?);
    let status = command.status().context("exec")?;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}

/// A thread that is not the first execs in its own right: the whole process becomes the program.
fn exec_by_thread(scene: &Scene) -> Result<()> {
    let (program, path) = (process::c_text(forbidden(scene)?)?, process::c_text(scene.path()?)?);
    let child = process::fork(|| {
        let exec = || process::execute_at(io::stdin(), &program, &[c"forbidden", c"mark", c"--path", &path]);
        let refused = thread::scope(|threads| threads.spawn(exec).join().ok());
        refused.and_then(|error| error.raw_os_error()).unwrap_or(255)
    })
    .context("fork")?;
    ended(child)
}

/// A child's code is 0, or the errno by which the kernel refused it.
pub(super) fn ended(child: i32) -> Result<()> {
    match process::wait(child).context("wait")? {
        0 => Ok(()),
        code @ 1..128 => Err(io::Error::from_raw_os_error(code)).context("exec"),
        code => bail!("the child ended with {code}"),
    }
}

/// Execs the file behind a descriptor, under whatever name.
fn exec_file(scene: &Scene, file: File) -> Result<()> {
    let path = process::c_text(scene.path()?)?;
    let child = process::fork(|| {
        let error = process::execute_at(&file, c"", &[c"forbidden", c"mark", c"--path", &path]);
        error.raw_os_error().unwrap_or(255)
    })
    .context("fork")?;
    ended(child)
}

fn exec_by_descriptor(scene: &Scene) -> Result<()> {
    exec_file(scene, File::open(forbidden(scene)?).context("open")?)
}

fn exec_by_symlink(scene: &Scene) -> Result<()> {
    let link = work(scene, "symlink")?;
    symlink(forbidden(scene)?, &link).context("symlink")?;
    run(scene, &link, &[])
}

fn exec_by_hard_link(scene: &Scene) -> Result<()> {
    let link = work(scene, "hard-link")?;
    fs::hard_link(forbidden(scene)?, &link).context("link")?;
    run(scene, &link, &[])
}

fn exec_by_shell(scene: &Scene) -> Result<()> {
    let line = format!("{} mark --path {}", forbidden(scene)?.display(), scene.path()?.display());
    let status = Command::new("/bin/sh").args(["-c", &line]).status().context("exec of the shell")?;
    match status.code() {
        Some(0) => Ok(()),
        // The shell's word for what it could not execute.
        Some(126) => Err(io::Error::from_raw_os_error(libc::EACCES)).context("the shell could not run it"),
        _ => bail!("the shell ended with {status}"),
    }
}

/// A script whose first line names the program: the kernel starts it, nobody names it in a call.
fn exec_as_interpreter(scene: &Scene) -> Result<()> {
    let script = work(scene, "script")?;
    // One argument is all that a first line has; the mark's path comes by the environment.
    fs::write(&script, format!("#!{} mark\n", forbidden(scene)?.display())).context("the script")?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let status = Command::new(&script).env("BYPASS_MARK", scene.path()?).status().context("exec")?;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}

/// The loader maps the program by itself: the kernel is told of the loader only.
fn exec_by_loader(scene: &Scene) -> Result<()> {
    let loaders = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
    let loader = loaders.into_iter().find(|path| Path::new(path).exists()).context("no loader")?;
    let program = forbidden(scene)?.display().to_string();
    run(scene, Path::new(loader), &[&program])
}

fn exec_copy(scene: &Scene) -> Result<()> {
    let copy = work(scene, "copy")?;
    fs::copy(forbidden(scene)?, &copy).context("copying")?;
    run(scene, &copy, &[])
}

fn exec_memory_file(scene: &Scene) -> Result<()> {
    let bytes = fs::read(forbidden(scene)?).context("reading the program")?;
    exec_file(scene, process::memory_file(&bytes).context("memfd_create")?.into())
}

fn exec_deleted(scene: &Scene) -> Result<()> {
    let copy = work(scene, "deleted")?;
    fs::copy(forbidden(scene)?, &copy).context("copying")?;
    let file = File::open(&copy).context("open")?;
    fs::remove_file(&copy).context("unlink")?;
    exec_file(scene, file)
}

/// While children exec a path, a thread of theirs turns it from an allowed one into the forbidden one and back.
fn exec_race(scene: &Scene) -> Result<()> {
    let allowed = process::c_text(scene.folder()?.join("permitted"))?;
    let (forbidden, mark) = (process::c_text(forbidden(scene)?)?, process::c_text(scene.path()?)?);
    ensure!(allowed.as_bytes().len() == forbidden.as_bytes().len(), "the names differ in length");
    let mut last = Ok(());
    for _ in 0..ROUNDS {
        let child = process::fork(|| {
            // The child ends by exec or by `_exit`: what it leaks goes with it.
            let path: &Racing = Box::leak(Box::new(Racing::new(allowed.as_bytes_with_nul())));
            let (there, back) = (forbidden.clone(), allowed.clone());
            thread::spawn(move || {
                loop {
                    path.set(there.as_bytes());
                    path.set(back.as_bytes());
                }
            });
            let error = process::execute_racing(path, &[c"forbidden", c"mark", c"--path", &mark]);
            error.raw_os_error().unwrap_or(255)
        });
        match ended(child.context("fork")?) {
            // A name that is half the one and half the other.
            Err(error) if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::NotFound) => {}
            Err(error) => last = Err(error),
            Ok(()) => {}
        }
    }
    last
}
