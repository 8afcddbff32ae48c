//! Makes each system call that a policy can watch, harmlessly, and says what the kernel answered.

use anyhow::{Result, bail};
use clap::Parser;
use std::time::Duration;
use workloads::{
    calls::{CALLS, Call},
    errno_name, say,
};

#[derive(Parser)]
#[command(about = "Makes watched system calls harmlessly")]
struct Args {
    /// Only these calls, by name; all when empty
    names: Vec<String>,
    /// Pause before each call, milliseconds
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(unknown) = args.names.iter().find(|name| Call::named(name).is_none()) {
        bail!("no call `{unknown}`, expected one of {}", CALLS.map(|call| call.name).join(", "));
    }
    for call in
        CALLS.into_iter().filter(|call| args.names.is_empty() || args.names.iter().any(|name| name == call.name))
    {
        std::thread::sleep(Duration::from_millis(args.pause_ms));
        match call.make() {
            Ok(answer) => say(format_args!("{} {answer}", call.name)),
            Err(error) => say(format_args!("{} {}", call.name, errno_name(&error))),
        }
    }
    Ok(())
}
