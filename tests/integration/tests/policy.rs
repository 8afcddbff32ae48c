//! Policies at the door: a mistake is reported with its place, and a node takes none that it cannot hold.

use anyhow::{Result, ensure};
use integration::{on_node, wait_for};

#[test]
fn a_bad_policy_is_refused_with_file_line_and_column() -> Result<()> {
    on_node("bad-policy", "", |node| {
        let head = "[policy]\nname = \"p\"\nowner = \"o\"\n";
        let rule = "[[rule]]\nid = \"r\"\nrationale = \"because\"\n";
        let cases = [
            ("unknown", format!("{head}{rule}rationle = \"x\"\n"), ":7:1", "rationale"),
            (
                "unit",
                format!(
                    "{head}{rule}when = {{ signal = \"gpu.temperature\", above = \"90 W\" }}\nactions = [\"freeze\"]\n"
                ),
                ":7:",
                "90 W",
            ),
            (
                "bounds",
                format!(
                    "{head}{rule}when = {{ signal = \"memory.used\", above = \"1 GiB\", clear = \"2 GiB\" }}\nactions = [\"freeze\"]\n"
                ),
                ":7:",
                "clear",
            ),
        ];
        for (name, text, place, word) in cases {
            let path = node.policy(name, &text)?.display().to_string();
            let output = node.ctl(["policy", "check", "--offline", &path])?.expect(1)?;
            let place = format!("{name}.toml{place}");
            ensure!(
                output.err.contains(&place) && output.err.contains(word),
                "expected {place} and {word}: {output:?}"
            );
            let json = node.ctl(["policy", "check", &path, "-o", "json"])?.expect(1)?.json()?;
            ensure!(json["valid"] == false && json["errors"][0]["line"].as_u64() > Some(0), "{json}");
            let run = node.ctl(["run", "-p", &path, "--user", "nobody", "--", "true"])?;
            ensure!(run.code != 0 && run.err.contains(&place), "{run:?}");
        }
        ensure!(node.json(["list", "--all"])?.as_array().is_some_and(Vec::is_empty), "a bad policy made a run");
        Ok(())
    })
}

#[test]
fn a_policy_that_needs_a_blind_sensor_is_refused_unless_it_continues_without() -> Result<()> {
    on_node("blind-policy", "", |node| {
        let policy = |on_blind: &str| {
            format!(
                "[policy]\nname = \"hot\"\nowner = \"o\"\n{on_blind}[[rule]]\nid = \"too-hot\"\nrationale = \"heat\"\n\
                 when = {{ signal = \"gpu.temperature\", above = \"90 C\" }}\nactions = [\"freeze\"]\n"
            )
        };
        let refused = node.policy("hot", &policy(""))?.display().to_string();
        let check = node.ctl(["policy", "check", "--node", &refused])?.expect(1)?;
        ensure!(check.out.contains("too-hot") && check.out.contains("nvml"), "{check:?}");
        let run = node.ctl(["run", "-p", &refused, "--user", "nobody", "--", "true"])?.expect(1)?;
        ensure!(run.err.contains("too-hot") && run.err.contains("on_blind"), "{run:?}");
        node.wait_for_event("the refusal", |e| e["body"]["type"] == "policy-refused")?;
        let taken = node.policy("warm", &policy("on_blind = \"continue\"\n"))?.display().to_string();
        node.ctl(["policy", "check", "--node", &taken])?.expect(0)?;
        node.ctl(["run", "-p", &taken, "-n", "warm", "--user", "nobody", "--", "true"])?.expect(0)?;
        wait_for("the run has ended", || Ok(node.run("warm")?["state"] == "ended"))
    })
}

#[test]
fn a_policy_that_this_kernel_does_not_enforce_is_refused_unless_it_allows_that() -> Result<()> {
    on_node("unkept", "", |node| {
        // Only LSM refuses this call.
        let policy = |on_blind: &str| {
            format!(
                "[policy]\nname = \"modules\"\nowner = \"o\"\n{on_blind}[[rule]]\nid = \"no-unload\"\nrationale = \"modules stay\"\n\
                 effect = \"deny\"\nwhen = {{ event = \"syscall\", name = \"delete_module\" }}\nactions = [\"notify\"]\n"
            )
        };
        let refused = node.policy("strict", &policy(""))?.display().to_string();
        let check = node.ctl(["policy", "check", "--node", &refused])?;
        if check.code == 0 {
            integration::skip("this kernel keeps every refusal");
            return Ok(());
        }
        ensure!(check.out.contains("NOT ENFORCED") && check.out.contains("no lsm/capable"), "{check:?}");
        let run = node.ctl(["run", "-p", &refused, "--user", "nobody", "--", "true"])?.expect(1)?;
        ensure!(run.err.contains("no-unload") && run.err.contains("not blocked-in-kernel"), "{run:?}");
        let taken = node.policy("lax", &policy("on_blind = \"continue\"\n"))?.display().to_string();
        node.ctl(["policy", "check", "--node", &taken])?.expect(1)?;
        node.ctl(["run", "-p", &taken, "-n", "lax", "--user", "nobody", "--", "true"])?.expect(0)?;
        let started = node.wait_for_event("the start", |e| e["body"]["type"] == "run-started")?;
        let broken = started["body"]["broken"][0].as_str().unwrap_or_default();
        ensure!(broken.contains("no-unload") && broken.contains("no lsm/capable"), "{started}");
        Ok(())
    })
}

#[test]
fn the_policies_of_this_repository_are_good() -> Result<()> {
    on_node("shipped", "", |node| {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies");
        let mut checked = 0;
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            // Beside the policies lie the catalogues, which are data of other kinds.
            let policy = std::fs::read_to_string(&path).is_ok_and(|text| text.contains("[policy]"));
            if policy && name.ends_with(".toml") && !name.ends_with(".test.toml") {
                node.ctl(["policy", "check", &path.display().to_string()])?.expect(0)?;
                checked += 1;
            }
        }
        ensure!(checked > 0, "no policy is shipped");
        Ok(())
    })
}

#[test]
fn a_run_is_judged_by_the_policy_it_was_pinned_to() -> Result<()> {
    on_node("pinned", "", |node| {
        let text = |version: u32| format!("[policy]\nname = \"p\"\nversion = {version}\nowner = \"o\"\n");
        let run = integration::Launch::new("pinned", &text(1)).start(node, ["sleep", "600"])?;
        let file = node.policy("pinned", &text(2))?.display().to_string();
        let digest = |text: &str| text.lines().find_map(|l| l.strip_prefix("digest")).map(|d| d.trim().to_owned());
        let changed = digest(&node.ctl(["policy", "check", &file])?.expect(0)?.out);
        let pinned = node.run("pinned")?["policy_digest"].as_str().map(str::to_owned);
        ensure!(changed.is_some() && pinned != changed, "{pinned:?} {changed:?}");
        node.kill9()?;
        node.restart()?;
        ensure!(
            node.run(run.id())?["policy_digest"].as_str().map(str::to_owned) == pinned,
            "a restart changed its policy"
        );
        Ok(())
    })
}
