//! How long a pass takes, for `cargo xtask bench gpu`: the sampler's own passes on every GPU at once, timed and printed.

use super::{SamplerArgs, load, read, spawn, work};
use anyhow::{Context, Result, bail};
use nvml_wrapper::Nvml;
use serde::Serialize;
use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

/// Microseconds, over all GPUs and passes.
#[derive(Debug, Default, Serialize)]
struct Times {
    /// Passes of the fast group alone.
    fast_us: Vec<u64>,
    /// Passes of every group.
    whole_us: Vec<u64>,
}

/// Makes `passes` of each kind on every GPU and prints how long each took, as JSON.
///
/// # Errors
/// NVML cannot be had, or a GPU does not answer.
pub fn passes(args: &SamplerArgs, passes: usize) -> Result<()> {
    let nvml = load(args.library.as_deref()).map_err(|end| anyhow::anyhow!(end.why))?;
    let (tell, told) = mpsc::channel();
    for index in 0..nvml.device_count()? {
        let tell = tell.clone();
        // Nobody listens any more only when another GPU has failed, which ends the process.
        spawn(&format!("gpu-{index}"), move || drop(tell.send(one(nvml, index, passes))))?;
    }
    drop(tell);
    let mut all = Times::default();
    for times in told {
        let times = times?;
        all.fast_us.extend(times.fast_us);
        all.whole_us.extend(times.whole_us);
    }
    println!("{}", serde_json::to_string(&all).context("printing the times")?);
    Ok(())
}

fn one(nvml: &'static Nvml, index: u32, passes: usize) -> Result<Times> {
    let device = nvml.device_by_index(index)?;
    let uuid = device.uuid()?;
    // Only what is renewed is due again.
    let long = Duration::from_secs(86_400);
    let rates = read::Rates { second: long, slow: long, rare: long };
    let mut reader = read::Reader::new(device, &uuid, &work::Busyness::new(uuid.clone()), rates);
    let mut times = Times::default();
    for pass in 0..=2 * passes {
        let whole = pass > passes;
        if whole {
            reader.renew();
        }
        let began = Instant::now();
        let (sample, _) = reader.pass();
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        if sample.readings.is_empty() {
            bail!("GPU {index} gave no value: {:?}", sample.failing.first());
        }
        // The first pass is of every group, and learns what the GPU does not have.
        match pass {
            0 => {}
            _ if whole => times.whole_us.push(took),
            _ => times.fast_us.push(took),
        }
    }
    Ok(times)
}
