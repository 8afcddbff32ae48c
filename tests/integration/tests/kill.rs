//! What a proved kill leaves: nobody, and nothing that says otherwise.

use anyhow::{Context, Result, ensure};
use integration::{Launch, on_node, populated, program};

const POLICY: &str = "[policy]\nname = \"p\"\nowner = \"tests\"\n";

#[test]
fn a_killed_run_is_ended_for_whoever_asks_next_and_its_name_is_free() -> Result<()> {
    on_node("kill-reads", "", |node| {
        // More than once: the sampler may come in time by chance.
        for _ in 0..5 {
            let run = Launch::new("job", POLICY).start(node, ["sleep", "300"])?;
            node.ctl(["kill", "job", "--reason", "test"])?.expect(0)?;
            let listed = node.ctl(["list", "-o", "json"])?.expect(0)?.out;
            ensure!(!listed.contains(run.id()), "the killed run is still listed: {listed}");
            let shown = node.run(run.id())?;
            ensure!(shown["state"] == "ended", "{shown}");
            let export = node.file("killed.fsrec");
            let _ = std::fs::remove_file(&export);
            node.ctl(["export", run.id(), "--output", &export.display().to_string()])?.expect(0)?;
            let replayed = node.ctl(["replay", &export.display().to_string()])?;
            ensure!(!replayed.out.contains("open") && !replayed.err.contains("open"), "{replayed:?}");
        }
        Ok(())
    })
}

#[test]
fn a_process_whose_first_thread_has_ended_is_killed_too() -> Result<()> {
    on_node("kill-leaderless", "", |node| {
        let leaderless = program("leaderless")?;
        let run = Launch::new("leaderless", POLICY).user("root").start(node, [leaderless])?;
        run.says("a worker goes on")?;
        let cgroup = run.cgroup().to_owned();
        node.ctl(["kill", "leaderless", "--reason", "test"])?.expect(0)?;
        ensure!(!cgroup.exists() || !populated(&cgroup).context("reading events")?, "somebody is left");
        Ok(())
    })
}
