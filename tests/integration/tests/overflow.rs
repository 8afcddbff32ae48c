//! What the ring buffer could not take is counted in the kernel and told: a sensor that lost something never reads as whole.

use anyhow::{Result, ensure};
use integration::{Launch, on_node, program, wait_for};

#[test]
fn events_that_the_ring_could_not_take_become_a_gap_with_their_number() -> Result<()> {
    on_node("overflow", "ring_kib = 4\n", |node| {
        let connects = program("connect-loop")?.display().to_string();
        let policy = "[policy]\nname = \"p\"\nowner = \"o\"\n[egress]\nmode = \"observe\"\nallow = []\n";
        let script = format!("for i in 1 2 3 4; do {connects} --stream --seconds 2 & done; wait; sleep 600");
        let _run = Launch::new("busy", policy).start(node, ["sh", "-c", &script])?;
        let gap =
            node.wait_for_event("the gap", |e| e["body"]["type"] == "gap" && e["body"]["lost"].as_u64() > Some(0))?;
        ensure!(gap["body"]["source"] == "Ebpf" && gap["body"]["run"].is_string(), "{gap}");
        wait_for("the loss is counted", || Ok(node.run("busy")?["events_lost"].as_u64() > Some(0)))?;
        // Containment does not hang on the ring.
        node.ctl(["freeze", "busy", "--reason", "too loud"])?.expect(0)?;
        let lost = || -> Result<u64> {
            Ok(node
                .events()?
                .iter()
                .filter(|e| e["body"]["type"] == "gap")
                .filter_map(|e| e["body"]["lost"].as_u64())
                .sum())
        };
        wait_for("every loss is in a gap", || {
            Ok(lost()? == node.run("busy")?["events_lost"].as_u64().unwrap_or_default())
        })?;
        eprintln!("{} events lost, {} seen", lost()?, node.run("busy")?["events"]);
        ensure!(node.ctl(["replay", "busy"])?.expect(0)?.out.contains("identical"));
        node.log_is_whole()
    })
}
