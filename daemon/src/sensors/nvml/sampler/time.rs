//! How long a pass takes, for `cargo xtask bench gpu`: the sampler's own passes, timed and printed.

use super::{Rates, SamplerArgs, load, read, shared};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::Arc,
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

/// Makes `passes` of each kind on every GPU, one GPU after the other as the sampler does, and prints how long each took, as
/// JSON.
///
/// # Errors
/// NVML cannot be had, or a GPU does not answer.
pub fn passes(args: &SamplerArgs, passes: usize) -> Result<()> {
    let nvml = load(args.library.as_deref()).map_err(|end| anyhow::anyhow!(end.why))?;
    // Only what is renewed is due again.
    let long = Duration::from_secs(86_400);
    let rates = Arc::new(Rates { second: long, slow: long, rare: long, own: BTreeMap::new(), slack: Duration::ZERO });
    let reader = |index| -> Result<read::Reader> {
        let device = nvml.device_by_index(index)?;
        let uuid = device.uuid()?;
        Ok(read::Reader::new(device, &uuid, &shared::Busyness::new(uuid.clone()), &rates))
    };
    let mut readers = (0..nvml.device_count()?).map(reader).collect::<Result<Vec<_>>>()?;
    let mut times = Times::default();
    for pass in 0..=2 * passes {
        let whole = pass > passes;
        for (index, reader) in readers.iter_mut().enumerate() {
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
    }
    println!("{}", serde_json::to_string(&times).context("printing the times")?);
    Ok(())
}
