//! A file system that stops answering, as a user can serve one: FUSE with `allow_other`.

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// `struct fuse_in_header` has 40 bytes, `struct fuse_out_header` 16 (linux/fuse.h).
const HEADER: usize = 40;
const FUSE_INIT: u32 = 26;

/// A mounted file system that answers no request but the first, which the kernel asks of each. Unmounted on drop; then whoever
/// waits gets an error.
#[derive(Debug)]
pub struct HungFs {
    at: PathBuf,
    asked_by: Arc<Mutex<Vec<u32>>>,
}

impl HungFs {
    /// Mounts one at `at`, which is made. `None`: this kernel has no FUSE.
    ///
    /// # Errors
    /// The kernel refuses the mount.
    pub fn mount(at: &Path) -> Result<Option<HungFs>> {
        let Ok(device) = OpenOptions::new().read(true).write(true).open("/dev/fuse") else { return Ok(None) };
        std::fs::create_dir_all(at).with_context(|| format!("making {}", at.display()))?;
        let options = format!("fd={},rootmode=40755,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        mount(Some("hung"), at, Some("fuse"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options.as_str()))
            .with_context(|| format!("mounting FUSE at {}", at.display()))?;
        let fs = HungFs { at: at.to_owned(), asked_by: Arc::default() };
        begin(&device)?;
        let asked_by = fs.asked_by.clone();
        std::thread::spawn(move || serve(device, &asked_by));
        Ok(Some(fs))
    }

    /// The threads whose requests wait, by id.
    pub fn asked_by(&self) -> Vec<u32> {
        self.asked_by.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for HungFs {
    fn drop(&mut self) {
        // Forced: every request that waits ends with an error. Then lazily, for a file of it may be open.
        for flags in [MntFlags::MNT_FORCE, MntFlags::MNT_DETACH] {
            let _tried_again = umount2(&self.at, flags);
        }
    }
}

/// Answers the kernel's first request.
fn begin(mut device: &File) -> Result<()> {
    let mut request = [0; 8192];
    let size = device.read(&mut request).context("reading FUSE's first request")?;
    ensure!(size >= HEADER && number(&request, 4) == FUSE_INIT, "FUSE's first request is not INIT");
    // `struct fuse_init_out` of 7.31: major, minor, max_readahead, flags, max_background and congestion_threshold, max_write, ...
    let mut answer = Vec::new();
    answer.extend(80_u32.to_ne_bytes());
    answer.extend(0_u32.to_ne_bytes());
    answer.extend(&request[8..16]);
    for field in [7_u32, 31, 4_096, 0, 0, 4_096] {
        answer.extend(field.to_ne_bytes());
    }
    answer.resize(80, 0);
    device.write_all(&answer).context("answering FUSE's first request")
}

/// Takes requests, so that whoever waits for them waits until they are answered, whatever signal comes. Ends with the mount.
fn serve(mut device: File, asked_by: &Mutex<Vec<u32>>) {
    let mut request = vec![0; 1 << 16];
    while let Ok(size) = device.read(&mut request) {
        if size >= HEADER {
            asked_by.lock().unwrap_or_else(PoisonError::into_inner).push(number(&request, 32));
        }
    }
}

fn number(request: &[u8], at: usize) -> u32 {
    request.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
}
