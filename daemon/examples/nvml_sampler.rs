//! The sampler process by itself: `nvml_sampler nvml-sampler --library PATH --interval-ms N`, as the daemon starts it.

use clap::Parser;
use failsafed::sensors::nvml::{SamplerArgs, sampler_main};

#[derive(Parser)]
enum Args {
    /// Samples GPUs and writes frames to standard output.
    NvmlSampler(SamplerArgs),
}

fn main() -> anyhow::Result<()> {
    let Args::NvmlSampler(args) = Args::parse();
    sampler_main(args)
}
