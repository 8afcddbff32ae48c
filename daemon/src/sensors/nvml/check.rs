//! `failsafed nvml-check`: asks the library of this machine everything that only reads, and reports what each function said
//! and how long it took. Started by `cargo xtask gpu-check`; the daemon itself never does this.
//!
//! ```text
//!  table (names, shapes) -> call (one thread each, so that one that hangs is told and left) -> JSON
//! ```
//! Owns nothing of the daemon's. Invariants: nothing is changed on a GPU; what tells one board from another (UUID, serial
//! number, PCI address) is left out unless it is asked for, so that the report can be committed.

mod call;
mod table;

use super::{library::trusted_library, sampler};
use anyhow::{Context, Result, bail};
use call::{Device, Library, Shape, Value};
use serde_json::{Map, json};
use std::{
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// A call that takes longer is told as one that gave no answer, and is left alone.
const PATIENCE: Duration = Duration::from_secs(10);
/// The last field that is asked for: above it drivers have changed what the numbers mean.
const LAST_FIELD: u32 = 250;
/// The function that is asked for every field at once, and has a shape of its own.
const FIELDS: &str = "nvmlDeviceGetFieldValues";
/// Functions whose answers tell one board from another.
const IDENTITY: [&str; 13] = [
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetSerial",
    "nvmlDeviceGetBoardId",
    "nvmlDeviceGetPgpuMetadataString",
    "nvmlDeviceGetPlatformInfo",
    "nvmlDeviceGetPciInfo",
    "nvmlDeviceGetPciInfo_v2",
    "nvmlDeviceGetPciInfo_v3",
    "nvmlDeviceGetPciInfoExt",
    "nvmlDeviceGetNvLinkRemotePciInfo",
    "nvmlDeviceGetNvLinkRemotePciInfo_v2",
    "nvmlDeviceGetGpuFabricInfo",
    "nvmlDeviceGetGpuFabricInfoV",
];

/// What to check.
#[derive(Debug, Clone, clap::Args)]
pub struct CheckArgs {
    /// The library; without it the dynamic loader finds `libnvidia-ml.so.1`.
    #[arg(long, value_name = "PATH")]
    pub library: Option<PathBuf>,
    /// Keep UUIDs, serial numbers and PCI addresses in the report.
    #[arg(long)]
    pub identity: bool,
}

struct Check {
    library: Library,
    identity: bool,
    /// Calls by what became of them.
    tally: std::collections::BTreeMap<String, u64>,
}

/// Checks, and prints the report as JSON on standard output.
///
/// # Errors
/// The library is not trusted, cannot be loaded, or does not initialise.
pub fn check_main(args: &CheckArgs) -> Result<()> {
    let path = match &args.library {
        Some(path) => trusted_library(path).context("the NVML library is not trusted")?,
        None => PathBuf::from("libnvidia-ml.so.1"),
    };
    let library = Library::open(&path).map_err(|why| anyhow::anyhow!("loading {}: {why}", path.display()))?;
    match timed(move || library.init()) {
        Some((Some(0), _)) => {}
        Some((Some(code), _)) => bail!("nvmlInit_v2: {}", library.error_text(code)),
        Some((None, _)) => bail!("{} is not an NVML library: it has no nvmlInit_v2", path.display()),
        None => bail!("nvmlInit_v2 gave no answer within {} s", PATIENCE.as_secs()),
    }
    let mut check = Check { library, identity: args.identity, tally: Default::default() };
    println!("{:#}", check.report());
    // Threads may be inside calls that never come back.
    std::process::exit(0)
}

/// What a call gave and how long it took; `None` when it gave nothing in time.
fn timed<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Option<(T, Duration)> {
    let (tell, done) = mpsc::channel();
    thread::spawn(move || {
        let began = Instant::now();
        let answer = call();
        // Whoever waited may have gone on.
        let _late = tell.send((answer, began.elapsed()));
    });
    done.recv_timeout(PATIENCE).ok()
}

impl Check {
    fn report(&mut self) -> serde_json::Value {
        let system: Vec<_> = self.calls(0, |shape| matches!(shape, Shape::SystemNumber | Shape::SystemText));
        let text = |name: &str| {
            let call = system.iter().find(|call| call["function"] == name);
            call.and_then(|call| call["value"].as_str()).unwrap_or_default().to_owned()
        };
        let (driver, nvml) = (text("nvmlSystemGetDriverVersion"), text("nvmlSystemGetNVMLVersion"));
        let counted = system.iter().find(|call| call["function"] == "nvmlDeviceGetCount_v2");
        let count = counted.and_then(|call| call["value"][0].as_u64()).unwrap_or(0);
        let gpus: Vec<_> = (0..u32::try_from(count).unwrap_or(0).min(64)).map(|index| self.gpu(index)).collect();
        let called = table::CALLED.iter().map(|(name, _)| *name).chain([FIELDS]);
        let known = || called.clone().chain(table::NOT_CALLED.iter().copied());
        let absent: Vec<&str> = known().filter(|name| !self.library.has(name)).collect();
        let not_called: Vec<&str> = table::NOT_CALLED.iter().copied().filter(|name| self.library.has(name)).collect();
        json!({
            "report": "failsafe gpu-check",
            "version": 1,
            "simulated": sampler::simulated(&driver, &nvml, Path::new("/")),
            "driver": driver,
            "nvml": nvml,
            "answers": self.tally,
            "functions": { "known": known().count(), "absent": absent, "not_called": not_called },
            "system": system,
            "gpus": gpus,
        })
    }

    fn gpu(&mut self, index: u32) -> serde_json::Value {
        let library = self.library;
        let device = match timed(move || library.device(index)) {
            Some((Ok(device), _)) => device,
            Some((Err(code), _)) => return json!({ "index": index, "handle": library.error_text(code) }),
            None => return json!({ "index": index, "handle": "no answer" }),
        };
        let calls = self.calls(device, |shape| !matches!(shape, Shape::SystemNumber | Shape::SystemText));
        json!({ "index": index, "handle": "Success", "calls": calls, "fields": self.fields(device) })
    }

    fn calls(&mut self, device: Device, wanted: impl Fn(Shape) -> bool) -> Vec<serde_json::Value> {
        let mut calls = Vec::new();
        for (name, shape) in table::CALLED.iter().filter(|(_, shape)| wanted(*shape)) {
            for indices in call::indices(*shape) {
                let call = self.call(name, *shape, device, &indices);
                let missing = call["answer"] == "no such function";
                calls.push(call);
                if missing {
                    break;
                }
            }
        }
        calls
    }

    fn call(&mut self, name: &'static str, shape: Shape, device: Device, indices: &[u32]) -> serde_json::Value {
        let (library, asked) = (self.library, indices.to_vec());
        let answer = timed(move || library.ask(name, shape, device, &asked));
        let mut call = Map::new();
        call.insert("function".into(), name.into());
        if !indices.is_empty() {
            call.insert("arguments".into(), indices.into());
        }
        let status = match answer {
            None => "no answer".to_owned(),
            Some((None, _)) => "no such function".to_owned(),
            Some((Some((code, value)), took)) => {
                call.insert("us".into(), u64::try_from(took.as_micros()).unwrap_or(u64::MAX).into());
                let value = value.map(shown);
                if let Some(value) = value {
                    let hidden = !self.identity && IDENTITY.contains(&name);
                    call.insert("value".into(), if hidden { "left out".into() } else { value });
                }
                library.error_text(code)
            }
        };
        *self.tally.entry(status.clone()).or_default() += 1;
        call.insert("answer".into(), status.into());
        call.into()
    }

    fn fields(&mut self, device: Device) -> serde_json::Value {
        let library = self.library;
        let (status, answer) = match timed(move || library.fields(device, LAST_FIELD)) {
            None => ("no answer".to_owned(), None),
            Some((None, _)) => ("no such function".to_owned(), None),
            Some((Some((code, fields)), took)) => (library.error_text(code), Some((fields, took))),
        };
        *self.tally.entry(status.clone()).or_default() += 1;
        match answer {
            None => json!({ "function": FIELDS, "answer": status }),
            Some((fields, took)) => {
                let mut supported = Map::new();
                let mut others: std::collections::BTreeMap<String, Vec<u32>> = Default::default();
                for (field, code, value) in fields {
                    match code {
                        0 => drop(supported.insert(field.to_string(), value.into())),
                        code => others.entry(library.error_text(code)).or_default().push(field),
                    }
                }
                let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                json!({ "function": FIELDS, "answer": status, "us": us, "values": supported, "others": others })
            }
        }
    }
}

fn shown(value: Value) -> serde_json::Value {
    match value {
        Value::Numbers(numbers) => numbers.into(),
        Value::Text(text) => text.into(),
        Value::Bytes(bytes) => hex::encode(bytes).into(),
    }
}
