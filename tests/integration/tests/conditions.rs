//! Rules whose condition has several parts, over a metric of the run and an event of the kernel: what is not known trips nothing, what
//! is needed is reported by the kernel, and the record has both values.

use anyhow::{Result, ensure};
use integration::{Launch, on_node, program, sentinel, wait_for};
use std::fs;

const POLICY: &str = r#"
[policy]
name = "conditions"
owner = "training@example.org"

[[rule]]
id = "both"
rationale = "a high loss together with a program that a trainer does not execute"
when = { all = [
  { signal = "metric.loss", above = 20, clear = 5 },
  { event = "exec", path = ["/bin/true", "/usr/bin/true"], within = "5m" },
] }
actions = ["freeze", "snapshot", "notify"]
"#;

#[test]
fn a_loss_and_a_program_together_freeze_the_run_and_are_both_explained() -> Result<()> {
    on_node("conditions", "", |node| {
        let gate = sentinel(node, "gate")?;
        let ctl = program("failsafectl")?.display().to_string();
        let wait = format!("until [ -s {} ]; do sleep 0.1; done", gate.display());
        let script = format!("{ctl} report loss 30 && echo reported; {wait}; /bin/true; sleep 600");
        let socket = node.metrics_socket();
        let both =
            Launch::new("both", POLICY).env("FAILSAFE_METRICS_SOCKET", &socket).start(node, ["sh", "-c", &script])?;
        let silent = Launch::new("silent", POLICY).start(node, ["sh", "-c", "/bin/true; echo executed; sleep 600"])?;
        both.says("reported")?;
        silent.says("executed")?;
        let unknown = "unknown: rule both (the run): metric.loss: no value yet";
        wait_for("what is not known", || Ok(node.ctl(["describe", "silent"])?.expect(0)?.out.contains(unknown)))?;
        let described = node.ctl(["describe", "both"])?.expect(0)?.out;
        ensure!(!described.contains("unknown:"), "everything is known of it: {described}");
        ensure!(!integration::frozen(both.cgroup())?, "one part alone trips nothing");

        fs::write(&gate, "go")?;
        both.freezes()?;
        let decision =
            node.wait_for_event("the decision", |e| e["body"]["decision"]["cause"]["Rule"]["rule"] == "both")?;
        let values = &decision["body"]["decision"]["values"];
        ensure!(values.as_array().is_some_and(|values| values.len() == 2), "{values}");
        ensure!(values[0]["value"]["Claimed"]["value"] == "30", "{values}");
        let page = node.ctl(["explain", "both", "--full"])?.expect(0)?.out;
        ensure!(page.contains("all of (metric.loss above 20; event exec") && page.contains("bin/true"), "{page}");
        ensure!(page.contains("metric.loss = 30"), "{page}");
        ensure!(!integration::frozen(silent.cgroup())?, "the loss of the other is not known");
        ensure!(node.ctl(["replay", "both"])?.expect(0)?.out.contains("identical"));
        node.log_is_whole()
    })
}
