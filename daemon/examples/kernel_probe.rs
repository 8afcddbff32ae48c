//! What this kernel takes of the eBPF object: one line of JSON a program, for the table of `docs/kernel-support.md`.
//!
//! `cargo run -p failsafed --example kernel_probe` loads the programs, pins nothing, prints, and is gone again.

use anyhow::Result;
use failsafed::guard::{Config, Ebpf, ProgramState, ProgramStatus};
use serde_json::json;

fn main() -> Result<()> {
    let mut ebpf = Ebpf::load(&Config { bpffs: None, ..Config::default() })?;
    ebpf.load_early();
    ebpf.programs().iter().for_each(|program| println!("{}", line(program)));
    Ok(())
}

fn line(program: &ProgramStatus) -> serde_json::Value {
    let state = match program.state {
        ProgramState::Loaded => "loaded",
        ProgramState::Refused => "refused",
        ProgramState::Unused => "unused",
    };
    json!({
        "name": program.name,
        "hook": program.hook,
        "group": format!("{:?}", program.group).to_lowercase(),
        "state": state,
        "detail": program.detail,
        "verified_insns": program.verified_insns,
        "load_us": u64::try_from(program.load_time.as_micros()).unwrap_or(u64::MAX),
    })
}
