//! A flood of events: another run connects as fast as it can under a policy that observes every connect.

use crate::victim::withstand;
use anyhow::Result;
use integration::{Launch, program};
use std::time::Duration;

const POLICY: &str = "[policy]\nname = \"flood\"\nowner = \"tests\"\n[egress]\nallow = [{ cidr = \"127.0.0.1/32\" }]\n\
                      [[rule]]\nid = \"seen\"\nrationale = \"every connect is an event\"\n\
                      when = { event = \"connect\", address = \"192.0.2.1\" }\nactions = [\"notify\"]\n";

#[test]
fn a_flood_of_events_delays_no_freeze() -> Result<()> {
    withstand("events", "", |node, strike| {
        let flood = program("connect-loop")?.display().to_string();
        let run = Launch::new("flood", POLICY).user("root").start(node, [flood.as_str(), "--seconds", "120"])?;
        std::thread::sleep(Duration::from_millis(300));
        let struck = strike();
        let counted = node.run("flood")?;
        eprintln!("events of the flood: {}", counted["events"]);
        drop(run);
        struck
    })
}
