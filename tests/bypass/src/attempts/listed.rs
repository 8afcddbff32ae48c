//! Ways to run a program that is not on the list of those that may be run, by the name of one that is. `--folder` holds it as
//! `forbidden`, and `listed/permitted`, which is on the list; `--path` is where the program, if it runs, leaves its mark.

use super::{
    Attempt, Scene,
    exec::{ended, run, under},
};
use crate::sys::{fs as kernel, process};
use anyhow::{Context, Result};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::Uid,
};
use procfs::process::{MMapPath, Process};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

pub(super) const ALL: &[Attempt] = &[
    ("not-listed", |s| run(s, &s.folder()?.join("forbidden"), &[])),
    ("listed-by-bind-mount", listed_by_bind_mount),
    ("listed-by-mount-clone", listed_by_mount_clone),
    ("listed-by-detached-tree", listed_by_detached_tree),
    ("listed-by-new-root", listed_by_new_root),
];

fn listed(scene: &Scene) -> Result<PathBuf> {
    Ok(scene.folder()?.join("listed/permitted"))
}

/// Mounts of its own; for those who are not root in a user namespace, where they have all rights.
fn own_mounts() -> Result<()> {
    let user = if Uid::effective().is_root() { CloneFlags::empty() } else { CloneFlags::CLONE_NEWUSER };
    unshare(user | CloneFlags::CLONE_NEWNS).context("unshare")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("a private mount tree")
}

fn listed_by_bind_mount(scene: &Scene) -> Result<()> {
    own_mounts()?;
    let forbidden = scene.folder()?.join("forbidden");
    mount(Some(&forbidden), &listed(scene)?, None::<&str>, MsFlags::MS_BIND, None::<&str>).context("mount")?;
    run(scene, &listed(scene)?, &[])
}

fn listed_by_mount_clone(scene: &Scene) -> Result<()> {
    own_mounts()?;
    let tree = kernel::clone_mount(&process::c_text(scene.folder()?.join("forbidden"))?).context("open_tree")?;
    kernel::attach_mount(&tree, &process::c_text(listed(scene)?)?).context("move_mount")?;
    run(scene, &listed(scene)?, &[])
}

/// A tree of its own in which the program has the listed name.
fn tree(scene: &Scene) -> Result<PathBuf> {
    let tree = scene.folder()?.join("work/tree");
    let place = under(&tree.display().to_string(), &listed(scene)?);
    fs::create_dir_all(place.parent().context("no folder")?).context("mkdir")?;
    fs::copy(scene.folder()?.join("forbidden"), &place).context("copying the program")?;
    Ok(tree)
}

/// The kernel tells the path of a file in a tree that is mounted nowhere from the tree's own root.
fn listed_by_detached_tree(scene: &Scene) -> Result<()> {
    own_mounts()?;
    let tree = kernel::clone_mount(&process::c_text(tree(scene)?)?).context("open_tree")?;
    let name = process::c_text(listed(scene)?.strip_prefix("/").context("no absolute path")?)?;
    let mark = process::c_text(scene.path()?)?;
    let arguments = [c"permitted", c"mark", c"--path", &mark];
    let child = process::fork(|| process::execute_at(&tree, &name, &arguments).raw_os_error().unwrap_or(255));
    ended(child.context("fork")?)
}

fn listed_by_new_root(scene: &Scene) -> Result<()> {
    let tree = tree(scene)?;
    libraries(&tree)?;
    fs::create_dir_all(under(&tree.display().to_string(), scene.path()?.parent().context("no folder")?))
        .context("mkdir")?;
    if !Uid::effective().is_root() {
        unshare(CloneFlags::CLONE_NEWUSER).context("unshare")?;
    }
    nix::unistd::chroot(&tree).context("chroot")?;
    std::env::set_current_dir("/").context("chdir")?;
    run(scene, &listed(scene)?, &[])
}

/// What this program has mapped, and so the other needs: libraries and their loader.
fn libraries(tree: &Path) -> Result<()> {
    let maps = Process::myself().and_then(|own| own.maps()).context("reading what is mapped")?;
    for map in maps {
        let MMapPath::Path(library) = map.pathname else { continue };
        let name = library.file_name().context("no name")?;
        if !name.to_string_lossy().contains(".so") {
            continue;
        }
        for folder in [library.parent().context("no folder")?, Path::new("/lib64")] {
            let to = under(&tree.display().to_string(), folder);
            fs::create_dir_all(&to).context("mkdir")?;
            let to = to.join(name);
            if File::open(&to).is_err() {
                fs::copy(&library, &to).with_context(|| format!("copying {}", library.display()))?;
            }
        }
    }
    Ok(())
}
