//! A flood of events: another run sends as fast as it can to addresses that its policy forbids. Each is an event.

use crate::{Judge, judge::all};
use anyhow::{Context, Result};
use integration::{Launch, program, wait_for};

const POLICY: &str = "[policy]\nname = \"flood\"\nowner = \"tests\"\n[egress]\nallow = [{ cidr = \"127.0.0.1/32\" }]\n";
/// Events that the daemon has counted before the strike, and more of them come meanwhile.
const EVENTS: u64 = 10_000;

/// Holds the attack while `judge` strikes.
///
/// # Errors
/// A victim is not frozen in time, or the attack could not be made.
pub fn events(judge: &mut dyn Judge) -> Result<()> {
    judge.withstand("events", "", &mut |node, strike| {
        let command = format!("echo 50000 300 | exec {}", program("burst")?.display());
        let run = Launch::new("flood", POLICY).user("root").start(node, ["sh", "-c", &command])?;
        let counted = || -> Result<u64> { node.run("flood")?["events"].as_u64().context("no count of events") };
        wait_for("the flood is under way", || Ok(counted()? >= EVENTS))?;
        let before = counted()?;
        let struck = all(node, strike);
        // The count is sampled: it grows after the strike only while the flood goes on.
        let after = counted()?;
        eprintln!("events during the strike: {}", after - before);
        wait_for("the flood goes on after the strike", || Ok(counted()? > after))?;
        drop(run);
        struck
    })
}
