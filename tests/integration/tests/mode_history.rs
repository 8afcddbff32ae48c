//! In which modes the kernel has had a run is known over a restart of the daemon: in the run's account, and where a run is guarded.

use anyhow::{Context, Result, ensure};
use integration::{Launch, Node, on_node, wait_for};
use std::fs;

const POLICY: &str =
    "[policy]\nname = \"bounded\"\nowner = \"tests\"\n[egress]\nallow = [{ cidr = \"127.0.0.1/32\" }]\n";

fn observe(node: &Node) -> Result<()> {
    let set = node.json(["mode", "observe", "--for", "1h", "--reason", "a test"])?;
    ensure!(set["mode"] == "observe" && set["failed"].as_array().is_some_and(Vec::is_empty), "{set}");
    Ok(())
}

/// The mode that the account of the run `job` gives, which is that of its whole life.
fn mode(node: &Node) -> Result<String> {
    let account = node.json(["egress", "job"])?;
    let gaps = account["gaps"].to_string();
    ensure!(!gaps.contains("and the mode are those since then"), "{gaps}");
    account["mode"].as_str().map(str::to_owned).context("no mode")
}

/// Why the run `observed` is not judged; empty: it is.
fn reason(node: &Node) -> Result<String> {
    Ok(node.run("observed")?["guarded"].as_str().unwrap_or_default().to_owned())
}

fn without_pins(node: &Node) -> bool {
    let missing = !node.pins().join("failsafe").exists();
    if missing {
        integration::skip("nothing is pinned here: the next daemon finds no programs");
    }
    missing
}

#[test]
fn the_modes_that_a_run_had_under_an_earlier_daemon_are_in_its_account() -> Result<()> {
    on_node("mode-history", "", |node| {
        let run = Launch::new("job", POLICY).start(node, ["sleep", "600"])?;
        if without_pins(node) {
            return Ok(());
        }
        ensure!(mode(node)? == "enforce", "{}", mode(node)?);
        observe(node)?;
        ensure!(mode(node)? == "changed", "{}", mode(node)?);
        node.kill9()?;
        node.restart()?;
        ensure!(mode(node)? == "changed", "{}", mode(node)?);
        node.ctl(["mode", "enforce", "--reason", "enough"])?.expect(0)?;
        node.kill9()?;
        node.restart()?;
        // This daemon has only ever enforced it.
        ensure!(mode(node)? == "changed", "{}", mode(node)?);
        drop(run);
        node.log_is_whole()
    })
}

#[test]
fn a_guarded_run_that_an_earlier_daemon_observed_is_listed_as_not_refused_anything() -> Result<()> {
    on_node("guarded-observed", "", |node| {
        let observed = Launch::new("observed", POLICY).start(node, ["sleep", "600"])?;
        if without_pins(node) {
            return Ok(());
        }
        observe(node)?;
        node.kill9()?;
        let folder = node.state_dir().join("policies");
        let away = node.file("policies-away");
        fs::rename(&folder, &away)?;
        fs::create_dir(&folder)?;
        node.restart()?;
        wait_for("it is guarded", || Ok(!reason(node)?.is_empty()))?;
        let text = "guarded, not judged, and the kernel only observes it: it refuses nothing";
        ensure!(reason(node)?.contains(text), "{}", reason(node)?);
        ensure!(node.ctl(["describe", "observed"])?.expect(0)?.out.contains("it refuses nothing"));
        let text = "the kernel only observes 1 and refuses nothing: observed";
        wait_for("the node's health says so", || Ok(node.ctl(["node", "health", "-o", "json"])?.out.contains(text)))?;
        // Where it can be taken up again it follows the mode.
        fs::remove_dir_all(&folder)?;
        fs::rename(&away, &folder)?;
        wait_for("it is judged", || Ok(node.run("observed")?["state"] == "running"))?;
        drop(observed);
        node.log_is_whole()
    })
}
