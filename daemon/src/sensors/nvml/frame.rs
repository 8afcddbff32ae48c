//! What the sampler process tells the daemon: postcard frames over a pipe, `length u32le | bytes`.
//!
//! The first byte of each is [`VERSION`]: both ends are the same binary, unless somebody starts another one by hand.
//! Invariants: a frame is at most [`MAX_FRAME`]; the decoder holds at most one unfinished frame; bytes that are not a
//! frame end the sampler, never the daemon.

use super::info::GpuInfo;
use failsafe_core::{event::GpuEvent, signal::Kind};
use serde::{Deserialize, Serialize};
use std::io::Write;

/// Version of the frames, to be raised whenever one of them changes.
pub const VERSION: u8 = 7;
/// The largest frame; a sample of one GPU with a hundred processes takes about 1 KiB.
pub const MAX_FRAME: usize = 1 << 20;

/// One message of the sampler.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Frame {
    /// NVML is initialised; sent again when a GPU answers late.
    Hello(Hello),
    /// What a GPU is: sent again when it has changed.
    Info(Box<GpuInfo>),
    /// What one GPU says now.
    Sample(Sample),
    /// An XID event.
    Xid(Xid),
    /// Another event.
    Happened(Happened),
    /// The sampler's own thread runs; what its other threads are waiting for.
    Alive {
        /// Calls under way.
        busy: Vec<Busy>,
    },
    /// The sampler ends for this reason.
    Ends {
        /// What is to be done.
        fault: Fault,
        /// Why, for a person.
        why: String,
    },
}

/// Why a sampler ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// The library is missing, or is not NVML.
    Library,
    /// `nvmlInit` failed, for example because the driver is not loaded.
    Init,
    /// Handles are void or the set of GPUs has changed: a new process starts afresh.
    Restart,
}

/// The library and its GPUs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hello {
    /// Driver version (`nvmlSystemGetDriverVersion`); empty when the call failed.
    pub driver: String,
    /// Library version (`nvmlSystemGetNVMLVersion`); empty when the call failed.
    pub nvml: String,
    /// The kernel has no NVIDIA driver of that version: what follows is not measured on a GPU, and must be labelled.
    pub simulated: bool,
    /// GPUs that answer.
    pub gpus: Vec<GpuInfo>,
    /// GPUs that are counted but do not answer.
    pub unreachable: Vec<Unreachable>,
}

/// A GPU that NVML counts but that gives no handle or no UUID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreachable {
    /// NVML's index.
    pub index: u32,
    /// What the call returned, or that it has not returned.
    pub why: String,
    /// The call returned an error: the GPU has failed, and is not only slow or left alone.
    pub failed: bool,
}

/// What one GPU said at one time. Each signal that was asked for is in exactly one of the three lists; what changes slowly
/// is not asked for every time, and then in none: what was said of it before still holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sample {
    /// `CLOCK_MONOTONIC` at the first call, nanoseconds.
    pub mono_ns: u64,
    /// The GPU's UUID.
    pub gpu: String,
    /// Values, each in its kind's unit.
    pub readings: Vec<(Kind, i64)>,
    /// Signals, by name, that this GPU or driver does not have.
    pub unsupported: Vec<String>,
    /// Signals, by name, whose call failed, with what it said.
    pub failing: Vec<(String, String)>,
    /// Processes on the GPU, compute, graphics and MPS, by pid of the host; `None` where a list of them could not be read, or
    /// the GPU has none: not known is not nobody.
    pub processes: Option<Vec<GpuProcess>>,
}

/// A process on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuProcess {
    /// Pid in the pid namespace of the sampler.
    pub pid: u32,
    /// Bytes of GPU memory, where the driver says.
    pub memory: Option<u64>,
    /// What it does there.
    pub kind: ProcessKind,
    /// GPU instance of the MIG device that it is on.
    pub gpu_instance: Option<u32>,
    /// Compute instance of the MIG device that it is on.
    pub compute_instance: Option<u32>,
    /// Percent of the SMs' time that was its lately; `None` where the GPU does not tell it, or it is alone there.
    pub sm: Option<u32>,
}

/// What a process does on a GPU; one in more than one list counts as what comes first here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum ProcessKind {
    /// It computes.
    #[default]
    Compute,
    /// It computes through MPS.
    Mps,
    /// It draws.
    Graphics,
}

/// An XID event; a storm of the same one is told once a second with its count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xid {
    /// When the last of them was seen, `CLOCK_MONOTONIC`, nanoseconds.
    pub mono_ns: u64,
    /// The GPU's UUID; empty when the lost GPU could not be told.
    pub gpu: String,
    /// NVIDIA's number; 999 when the driver does not know it.
    pub code: u64,
    /// The GPU instance that it is of, in MIG mode and where the driver says it.
    pub gpu_instance: Option<u32>,
    /// The compute instance in it.
    pub compute_instance: Option<u32>,
    /// How often since the last frame about it.
    pub count: u64,
}

/// An event that is no XID; the same again is told once a second with its count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happened {
    /// When the last of them was seen, `CLOCK_MONOTONIC`, nanoseconds.
    pub mono_ns: u64,
    /// The GPU's UUID; empty when the lost GPU could not be told.
    pub gpu: String,
    /// What happened.
    pub what: GpuEvent,
    /// How often since the last frame about it.
    pub count: u64,
}

/// A call that has not come back yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Busy {
    /// The GPU's UUID, or `index N` before it is known.
    pub gpu: String,
    /// The NVML function.
    pub call: String,
    /// When it was called, `CLOCK_MONOTONIC`, nanoseconds.
    pub since_ns: u64,
}

/// A frame that cannot be sent or understood.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The length is 0 or above [`MAX_FRAME`].
    #[error("a frame of {0} bytes")]
    Size(usize),
    /// Another version speaks.
    #[error("frames of version {0}, not {VERSION}")]
    Version(u8),
    /// The bytes are not a frame.
    #[error("decoding a frame")]
    Decode(#[source] postcard::Error),
    /// The frame could not be encoded.
    #[error("encoding a frame")]
    Encode(#[source] postcard::Error),
    /// The pipe refused it.
    #[error("writing a frame")]
    Write(#[source] std::io::Error),
}

impl Frame {
    /// Writes the frame in one call, so that a reader never sees half of it for long.
    ///
    /// # Errors
    /// When it is too large or the pipe is closed.
    pub fn write(&self, out: &mut impl Write) -> Result<(), FrameError> {
        let mut bytes = postcard::to_extend(self, vec![0, 0, 0, 0, VERSION]).map_err(FrameError::Encode)?;
        let length = bytes.len() - 4;
        let prefix = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME).ok_or(FrameError::Size(length))?;
        bytes[..4].copy_from_slice(&prefix.to_le_bytes());
        out.write_all(&bytes).and_then(|()| out.flush()).map_err(FrameError::Write)
    }
}

/// Puts frames together from a stream of bytes.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
}

impl Decoder {
    /// Takes what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame; `None` when more bytes are needed.
    ///
    /// # Errors
    /// When the stream is not one of frames; nothing after that can be trusted.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((prefix, rest)) = self.bytes.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes(*prefix)).unwrap_or(usize::MAX);
        if length == 0 || length > MAX_FRAME {
            return Err(FrameError::Size(length));
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let frame = match body.split_first() {
            Some((&VERSION, body)) => postcard::from_bytes(body).map_err(FrameError::Decode)?,
            Some((&version, _)) => return Err(FrameError::Version(version)),
            None => return Err(FrameError::Size(0)),
        };
        self.bytes.drain(..4 + length);
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames() -> Vec<Frame> {
        vec![
            Frame::Hello(Hello { driver: "575.57.08".into(), simulated: true, ..Hello::default() }),
            Frame::Sample(Sample {
                mono_ns: 7,
                gpu: "GPU-1".into(),
                readings: vec![(Kind::GpuTemperature, 62_000), (Kind::GpuPower, -1)],
                unsupported: vec!["gpu.ecc_corrected".into()],
                failing: vec![("gpu.power".into(), "unknown".into())],
                processes: Some(vec![GpuProcess {
                    pid: 1,
                    memory: None,
                    kind: ProcessKind::Mps,
                    gpu_instance: Some(3),
                    compute_instance: None,
                    sm: Some(7),
                }]),
            }),
            Frame::Info(Box::new(GpuInfo { uuid: "GPU-1".into(), numa_node: Some(-1), ..GpuInfo::default() })),
            Frame::Xid(Xid {
                mono_ns: 1,
                gpu: "GPU-1".into(),
                code: 79,
                gpu_instance: Some(3),
                compute_instance: None,
                count: 1,
            }),
            Frame::Happened(Happened { mono_ns: 1, gpu: "GPU-1".into(), what: GpuEvent::MigConfig, count: 2 }),
            Frame::Ends { fault: Fault::Init, why: "driver is not loaded".into() },
        ]
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(cuts in proptest::collection::vec(1usize..9, 1..80)) {
            let mut wire = Vec::new();
            for frame in frames() {
                frame.write(&mut wire).unwrap();
            }
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            let mut rest = wire.as_slice();
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                decoder.push(now);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    got.push(frame);
                }
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(got, frames());
            prop_assert!(decoder.bytes.is_empty());
        }

        #[test]
        fn any_bytes_are_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_frame() {}
            prop_assert!(decoder.bytes.len() <= bytes.len());
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut wire = Vec::new();
        Frame::Alive { busy: Vec::new() }.write(&mut wire).unwrap();
        wire[4] = VERSION + 1;
        let mut decoder = Decoder::default();
        decoder.push(&wire);
        assert!(matches!(decoder.next_frame(), Err(FrameError::Version(v)) if v == VERSION + 1));
    }

    #[test]
    fn a_monstrous_length_is_refused_at_once() {
        let mut decoder = Decoder::default();
        decoder.push(&u32::MAX.to_le_bytes());
        assert!(matches!(decoder.next_frame(), Err(FrameError::Size(_))));
    }
}
