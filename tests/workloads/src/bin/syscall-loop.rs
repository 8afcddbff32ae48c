//! Makes one system call in a loop and prints, as one JSON line, how many nanoseconds a call took.

use anyhow::{Context, Result};
use clap::Parser;
use serde_json::json;
use std::time::Duration;
use workloads::{
    calls::{CALLS, Call},
    say, timing,
};

#[derive(Parser)]
#[command(about = "Times a system call in a loop")]
struct Args {
    /// Which: `getppid`, or a watched one such as `memfd_create`
    #[arg(long, default_value = "getppid")]
    call: String,
    /// For how long, seconds
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Calls in one batch
    #[arg(long, default_value_t = 1000)]
    batch: u32,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let names = || format!("no call `{}`, expected one of {}", args.call, CALLS.map(|call| call.name).join(", "));
    let call = Call::named(&args.call).with_context(names)?;
    let mut line = timing::measure(Duration::from_secs_f64(args.seconds), args.batch, || {
        // Most calls of the table are refused; the time is that of the refusal.
        let _ = call.make();
    });
    line["call"] = json!(args.call);
    say(line);
    Ok(())
}
