//! The sampler process, as its parent holds it.
//!
//! Owns the child and the reading end of its pipe. Dropping it kills it without waiting.

use super::{
    NvmlConfig,
    asked::{Asked, timeout},
    frame::{Decoder, Frame, FrameError},
};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, poll},
    unistd::read,
};
use std::{
    io,
    os::fd::AsFd,
    path::Path,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// Bytes read at once; what is more comes with the next look.
const BUFFER: usize = 16 << 10;
/// How long SIGKILL may take before the child counts as unkillable.
const KILL_WITHIN: Duration = Duration::from_secs(2);

/// A running sampler.
pub struct Sampler {
    child: Child,
    out: ChildStdout,
    decoder: Decoder,
    buffer: Vec<u8>,
}

/// What waiting for a sampler gave.
pub enum PipeEvent {
    /// Frames, maybe none.
    Frames(Vec<Frame>),
    /// Its end of the pipe is closed, or it does not speak in frames.
    Closed(Option<FrameError>),
    /// The sensor is asked for something.
    Asked,
}

impl Sampler {
    /// Starts one, which leaves the GPUs of `spare` alone for so long.
    pub fn start(config: &NvmlConfig, library: Option<&Path>, spare: &[(u32, Duration)]) -> io::Result<Sampler> {
        let mut command = Command::new(&config.exe);
        command.arg("nvml-sampler").arg("--interval-ms").arg(config.interval.as_millis().to_string());
        command.arg("--slow-ms").arg(config.slow.as_millis().to_string());
        for (rated, pace) in &config.every {
            command.arg("--every").arg(format!("{rated}:{}", pace.as_millis()));
        }
        for (index, wait) in spare {
            command.arg("--spare").arg(format!("{index}:{}", wait.as_secs()));
        }
        command.arg("--parent").arg(std::process::id().to_string());
        if let Some(library) = library {
            command.arg("--library").arg(library);
        }
        let env = config.env.iter().map(|(name, value)| (name, value));
        let mut child = command.envs(env).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().ok_or_else(|| io::Error::other("the sampler has no standard output"))?;
        fcntl(&out, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Sampler { child, out, decoder: Decoder::default(), buffer: vec![0; BUFFER] })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for frames, the end, or what is asked, at most until `until`.
    pub fn hear(&mut self, asked: &Asked, until: Instant) -> PipeEvent {
        let mut fds = [PollFd::new(asked.fd(), PollFlags::POLLIN), PollFd::new(self.out.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout(until)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => tracing::warn!(%errno, "waiting for the NVML sampler"),
        }
        if fds[0].any() == Some(true) {
            return PipeEvent::Asked;
        }
        match read(&self.out, &mut self.buffer) {
            Ok(0) => return PipeEvent::Closed(None),
            Ok(n) => self.decoder.push(&self.buffer[..n]),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => return PipeEvent::Closed(None),
        }
        let mut frames = Vec::new();
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return PipeEvent::Frames(frames),
                // What came before is still true, but the sampler is broken and will be replaced.
                Err(error) => return PipeEvent::Closed(Some(error)),
            }
        }
    }

    /// Kills it. The exit status, or the child when it does not die.
    pub fn kill(mut self) -> Result<ExitStatus, Sampler> {
        // Already ended is as good.
        let _ended = self.child.kill();
        let until = Instant::now() + KILL_WITHIN;
        loop {
            match self.ended() {
                Some(status) => return Ok(status),
                None if Instant::now() >= until => return Err(self),
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        let _ended = self.child.kill();
    }
}
