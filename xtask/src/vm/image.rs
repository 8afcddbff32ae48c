//! The machine's root: a minimal Debian with systemd, the kernel's modules, and one unit that runs the tests; and the
//! initramfs that loads the disk's drivers and hands over to it.

use super::kernel::Unpacked;
use crate::shell;
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian 12.
pub const SUITE: &str = "bookworm";
/// Python for tests and clients in Python; the rest is what tests call by name.
const PACKAGES: &str = "systemd-sysv,dbus,python3,iproute2,kmod,procps,openssh-client";
const UNIT: &str = include_str!("guest.service");
const TARGET: &str = include_str!("guest.target");
const INIT: &str = include_str!("init.sh");
/// In the order of their dependencies; a kernel has some of them built in.
const DRIVERS: [&str; 6] =
    ["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk"];

/// The root image of this kernel, made where it is not yet there.
///
/// # Errors
/// A tool fails.
pub fn root(kernel: &Unpacked, cache: &Path) -> Result<PathBuf> {
    let key = key(&[SUITE, PACKAGES, UNIT, TARGET, &kernel.release]);
    let image = cache.join("images").join(format!("{}-{key:016x}.ext4", kernel.release));
    if image.is_file() {
        return Ok(image);
    }
    let tar = debian(cache)?;
    let images = cache.join("images");
    fs::create_dir_all(&images).with_context(|| format!("making {}", images.display()))?;
    let work = tempfile::tempdir_in(&images).context("making a folder for the root")?;
    let (root, unfinished) = (work.path().join("root"), work.path().join("image"));
    fs::create_dir(&root).context("making a folder for the root")?;
    shell::run(Command::new("tar").arg("-xf").arg(&tar).arg("-C").arg(&root))?;
    let modules = kernel.folder.join("lib/modules");
    shell::run(Command::new("cp").arg("-a").arg(&modules).arg(root.join("usr/lib")))?;
    shell::run(Command::new("depmod").arg("-b").arg(&root).arg(&kernel.release))?;
    let units = root.join("etc/systemd/system");
    fs::write(units.join("failsafe-vm.service"), UNIT).context("writing the machine's unit")?;
    fs::write(units.join("failsafe-vm.target"), TARGET).context("writing the machine's target")?;
    disk(&root, &unfinished, 512)?;
    fs::rename(&unfinished, &image).with_context(|| format!("moving the root to {}", image.display()))?;
    Ok(image)
}

/// An ext4 image of a folder, with this many MiB free.
///
/// # Errors
/// A tool fails.
pub fn disk(folder: &Path, image: &Path, free_mib: u64) -> Result<()> {
    let used = shell::read(Command::new("du").args(["-sm", "--apparent-size"]).arg(folder))?;
    let used: u64 = used.split_whitespace().next().and_then(|n| n.parse().ok()).context("reading du's output")?;
    // A fifth more, for what the file system itself takes.
    let size = format!("{}M", used + used / 5 + free_mib);
    let mut mkfs = Command::new("mkfs.ext4");
    shell::run(mkfs.args(["-q", "-F", "-O", "^has_journal", "-d"]).arg(folder).arg(image).arg(size))
}

/// The initramfs of this kernel.
///
/// # Errors
/// A module or tool is missing.
pub fn initramfs(kernel: &Unpacked) -> Result<PathBuf> {
    let work = tempfile::tempdir_in(&kernel.folder).context("making a folder for the initramfs")?;
    let root = work.path().join("root");
    for folder in ["modules", "dev", "root"] {
        fs::create_dir_all(root.join(folder)).context("making the initramfs")?;
    }
    let busybox = shell::which("busybox").context("busybox is missing")?;
    fs::copy(busybox, root.join("busybox")).context("copying busybox")?;
    let init = root.join("init");
    fs::write(&init, INIT).context("writing the initramfs")?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).context("writing the initramfs")?;
    let found =
        shell::read(Command::new("find").arg(kernel.folder.join("lib/modules")).args(["-name", "virtio*.ko*"]))?;
    for (order, driver) in DRIVERS.iter().enumerate() {
        let of_driver = |path: &&str| {
            Path::new(path).file_name().is_some_and(|f| f.to_string_lossy().split('.').next() == Some(*driver))
        };
        let Some(file) = found.lines().find(of_driver) else { continue };
        let to = root.join("modules").join(format!("{order}-{driver}.ko"));
        let mut unpack = Command::new(if file.ends_with(".xz") { "xz" } else { "cat" });
        if file.ends_with(".xz") {
            unpack.arg("-dc");
        }
        let status = unpack.arg(file).stdout(fs::File::create(&to).context("writing the initramfs")?).status();
        anyhow::ensure!(status.is_ok_and(|s| s.success()), "{file} could not be unpacked");
    }
    let initramfs = kernel.folder.join("initramfs");
    let script = "cd \"$1\" && find . | cpio -o -H newc --quiet > \"$2\"";
    shell::run(Command::new("sh").args(["-c", script, "sh"]).arg(&root).arg(&initramfs))?;
    Ok(initramfs)
}

/// A minimal Debian as a tar.
///
/// # Errors
/// mmdebstrap fails.
pub fn debian(cache: &Path) -> Result<PathBuf> {
    let tar = cache.join(format!("debian-{SUITE}-{:016x}.tar", key(&[SUITE, PACKAGES])));
    if tar.is_file() {
        return Ok(tar);
    }
    let unfinished = tar.with_extension("unfinished.tar");
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--variant=minbase", &format!("--include={PACKAGES}"), SUITE]);
    shell::run(command.arg(&unfinished))?;
    fs::rename(&unfinished, &tar).with_context(|| format!("moving the root to {}", tar.display()))?;
    Ok(tar)
}

/// Changes with what it is made of (FNV-1a).
fn key(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
