//! Ways to a file whose path may not be opened, under other names or by other calls. `--path` is the file, `--folder` where
//! an attempt may write. What is read is printed, so that it is seen outside whether it was.

use super::{Attempt, Scene, exec::under};
use crate::sys::{
    fs as kernel,
    process::{Racing, c_text},
    uring::{Ring, Submit},
};
use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{OpenOptionsExt, symlink},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

pub(super) const ALL: &[Attempt] = &[
    ("open", |s| read(s.path()?)),
    ("open-to-write", open_to_write),
    ("truncate", truncate),
    ("openat2", |s| print_contents(kernel::open2(&c_text(s.path()?)?, libc::O_RDONLY).context("openat2")?.into())),
    ("open-through-io-uring", |s| open_through_ring(s, Submit::Caller)),
    ("open-through-io-uring-worker", |s| open_through_ring(s, Submit::Worker)),
    ("open-by-symlink", open_by_symlink),
    ("open-by-dots", open_by_dots),
    ("open-by-proc-root", |s| read(&under("/proc/self/root", s.path()?))),
    ("open-by-descriptor", open_by_descriptor),
    ("open-by-hard-link", open_by_hard_link),
    ("open-by-renamed-folder", open_by_renamed_folder),
    ("open-by-moved-file", open_by_moved_file),
    ("open-by-bind-mount", open_by_bind_mount),
    ("open-by-mount-clone", open_by_mount_clone),
    ("open-by-new-root", open_by_new_root),
    ("open-by-handle", open_by_handle),
    ("open-race", open_race),
];

/// Prints what the file holds.
fn print_contents(mut file: File) -> Result<()> {
    let mut text = String::new();
    file.read_to_string(&mut text).context("read")?;
    println!("READ {text}");
    Ok(())
}

fn read(path: &Path) -> Result<()> {
    print_contents(File::open(path).context("open")?)
}

fn work(scene: &Scene, name: &str) -> Result<PathBuf> {
    Ok(scene.folder()?.join(name))
}

fn open_to_write(scene: &Scene) -> Result<()> {
    let mut file = OpenOptions::new().append(true).open(scene.path()?).context("open")?;
    file.write_all(b"intruder").context("write")
}

/// Changes the file without opening it.
fn truncate(scene: &Scene) -> Result<()> {
    nix::unistd::truncate(scene.path()?, 3).context("truncate")
}

fn open_through_ring(scene: &Scene, submit: Submit) -> Result<()> {
    let mut ring = Ring::new(submit).context("io_uring_setup")?;
    print_contents(ring.open(&c_text(scene.path()?)?, libc::O_RDONLY).context("openat")?.into())
}

fn open_by_symlink(scene: &Scene) -> Result<()> {
    let link = work(scene, "symlink")?;
    symlink(scene.path()?, &link).context("symlink")?;
    read(&link)
}

fn open_by_dots(scene: &Scene) -> Result<()> {
    let (folder, name) = (scene.path()?.parent(), scene.path()?.file_name());
    let (folder, name) = (folder.context("no folder")?, name.context("no name")?);
    let last = folder.file_name().context("no folder's name")?;
    read(&folder.join("..").join(last).join(".").join(name))
}

/// Named without being opened, then opened by the number.
fn open_by_descriptor(scene: &Scene) -> Result<()> {
    let named = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(scene.path()?).context("O_PATH")?;
    read(Path::new(&format!("/proc/self/fd/{}", named.as_raw_fd())))
}

fn open_by_hard_link(scene: &Scene) -> Result<()> {
    let link = work(scene, "hard-link")?;
    fs::hard_link(scene.path()?, &link).context("link")?;
    read(&link)
}

/// The folder gets another name, and with it all that lies in it.
fn open_by_renamed_folder(scene: &Scene) -> Result<()> {
    let (folder, name) = (scene.path()?.parent(), scene.path()?.file_name());
    let new = work(scene, "renamed")?;
    fs::rename(folder.context("no folder")?, &new).context("rename")?;
    read(&new.join(name.context("no name")?))
}

fn open_by_moved_file(scene: &Scene) -> Result<()> {
    let new = work(scene, "moved")?;
    fs::rename(scene.path()?, &new).context("rename")?;
    read(&new)
}

/// A folder of the attempt's own to mount on, in a mount namespace of its own.
fn place(scene: &Scene, name: &str) -> Result<PathBuf> {
    use nix::sched::{CloneFlags, unshare};
    unshare(CloneFlags::CLONE_NEWNS).context("unshare")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("a private mount tree")?;
    let place = work(scene, name)?;
    fs::create_dir(&place).context("mkdir")?;
    Ok(place)
}

fn open_by_bind_mount(scene: &Scene) -> Result<()> {
    let place = place(scene, "bound")?;
    let folder = scene.path()?.parent().context("no folder")?;
    mount(Some(folder), &place, None::<&str>, MsFlags::MS_BIND, None::<&str>).context("mount")?;
    read(&place.join(scene.path()?.file_name().context("no name")?))
}

fn open_by_mount_clone(scene: &Scene) -> Result<()> {
    let place = place(scene, "cloned")?;
    let folder = scene.path()?.parent().context("no folder")?;
    let tree = kernel::clone_mount(&c_text(folder)?).context("open_tree")?;
    kernel::attach_mount(&tree, &c_text(&place)?).context("move_mount")?;
    read(&place.join(scene.path()?.file_name().context("no name")?))
}

/// Under a root of its own the path is a short one.
fn open_by_new_root(scene: &Scene) -> Result<()> {
    nix::unistd::chroot(scene.path()?.parent().context("no folder")?).context("chroot")?;
    read(&Path::new("/").join(scene.path()?.file_name().context("no name")?))
}

/// By the file system's own number of the file.
fn open_by_handle(scene: &Scene) -> Result<()> {
    let handle = kernel::handle_of(&c_text(scene.path()?)?).context("name_to_handle_at")?;
    let mount = File::open(scene.folder()?).context("open of the folder")?;
    print_contents(kernel::open_handle(mount, &handle, libc::O_RDONLY).context("open_by_handle_at")?.into())
}

/// A thread turns the path from an allowed one into the forbidden one and back.
fn open_race(scene: &Scene) -> Result<()> {
    let forbidden = c_text(scene.path()?)?;
    // As long as the forbidden one, beside its folder.
    let last = forbidden.as_bytes().len() - scene.folder()?.as_os_str().len() - 1;
    let allowed = scene.folder()?.join("a".repeat(last));
    fs::write(&allowed, "allowed").context("the allowed file")?;
    let allowed = c_text(&allowed)?;
    ensure!(allowed.as_bytes().len() == forbidden.as_bytes().len(), "the names differ in length");
    let path = Racing::new(allowed.as_bytes_with_nul());
    let over = AtomicBool::new(false);
    let mut refusal = Ok(());
    thread::scope(|threads| {
        threads.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                path.set(forbidden.as_bytes());
                thread::yield_now();
                path.set(allowed.as_bytes());
            }
        });
        let end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end {
            match kernel::open_racing(&path, libc::O_RDONLY) {
                Ok(file) => {
                    let mut text = String::new();
                    if File::from(file).read_to_string(&mut text).is_ok() && text != "allowed" {
                        println!("READ {text}");
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => refusal = Err(error),
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    refusal.context("the last refusal of the race")
}
