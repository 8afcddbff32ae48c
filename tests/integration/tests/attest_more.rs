//! What bad runs share, reference values, whether a node is like them, and the look before a start.

use anyhow::{Context, Result, ensure};
use integration::{Launch, NOBODY, Node, on_node};
use serde_json::Value;
use std::{fs, os::unix::fs::PermissionsExt};

const PLAIN: &str = "[policy]\nname = \"plain\"\nowner = \"tests\"\n";

fn attest(node: &Node, what: &[&str], name: &str) -> Result<String> {
    let path = node.file(name).display().to_string();
    let mut args = vec!["attest"];
    args.extend(what);
    args.extend(["-o", &path]);
    node.ctl(&args)?.expect(0)?;
    Ok(path)
}

#[test]
fn the_factor_that_bad_runs_share_is_found_among_real_statements() -> Result<()> {
    on_node("common", "", |node| {
        let of = |name: &str, threads: &str| -> Result<String> {
            let _run = Launch::new(name, PLAIN).env("OMP_NUM_THREADS", threads).start(node, ["sleep", "60"])?;
            attest(node, &["run", name], &format!("{name}.json"))
        };
        let (b1, b2, g1, g2) = (of("b1", "7")?, of("b2", "7")?, of("g1", "1")?, of("g2", "2")?);
        let ask = |bad: &[&String], good: &[&String]| -> Result<(i32, Value)> {
            let mut command = node.ctl_command(["attest", "common", "-o", "json", "--bad"]);
            command.args(bad).arg("--good").args(good).env("FAILSAFE_SOCKET", "/nowhere");
            let output = integration::CommandOutput::of(&mut command)?;
            Ok((output.code, output.json().with_context(|| output.err.clone())?))
        };
        let (code, answer) = ask(&[&b1, &b2], &[&g1, &g2])?;
        let separates = answer["common"]["separates"].as_array().context("no list")?.clone();
        let results: Vec<&Value> = separates.iter().filter(|one| one["class"] == "result").collect();
        ensure!(code == 0 && results.len() == 1 && results[0]["path"] == "run/env/OMP_NUM_THREADS", "{answer:#}");
        ensure!(results[0]["citation"].as_str().is_some_and(|who| who.contains("OpenBLAS")), "{answer:#}");
        // A good run that has it too: nothing is left to blame.
        let (code, _) = ask(&[&b1], &[&b2, &g1])?;
        ensure!(code == 23, "{code}");
        let page = node.ctl(["attest", "common", "--bad", &b1, &b2, "--good", &g1])?.expect(0)?.out;
        ensure!(
            page.contains("1 factor separates 2 bad statements from 1 good one") && page.contains("bad   7"),
            "{page}"
        );
        Ok(())
    })
}

#[test]
fn a_node_is_like_its_own_reference_values_and_not_like_those_of_another() -> Result<()> {
    on_node("expect", "", |node| {
        let of_node = attest(node, &["node"], "node.json")?;
        let keys = node.file("keys");
        fs::write(&keys, node.ctl(["attest", "key", "show"])?.expect(0)?.out)?;
        let (keys, expected) = (keys.display().to_string(), node.file("expected.json").display().to_string());
        node.ctl(["attest", "expect", &of_node, "--keys", &keys, "-o", &expected])?.expect(0)?;
        node.ctl(["attest", "expect", &of_node, "-o", &expected])?.expect(1)?;
        node.ctl(["node", "placeable", "--like", &expected])?.expect(0)?;
        // The file is read first, with the rights of the caller.
        let unread = node.ctl_as(NOBODY, ["node", "placeable", "--like", &expected])?.expect(1)?;
        ensure!(unread.out.is_empty() && unread.err.contains("cannot read"), "{unread:?}");
        fs::set_permissions(&expected, fs::Permissions::from_mode(0o644))?;
        node.ctl_as(NOBODY, ["node", "placeable", "--like", &expected])?.expect(4)?;
        // A statement works as well; without a list of keys anybody may have signed it.
        node.ctl(["node", "placeable", "--like", &of_node, "--keys", &keys])?.expect(0)?;
        node.ctl(["node", "placeable", "--like", &of_node])?.expect(15)?;
        // Nobody signed reference values, and programs read one value.
        let answer = node.json(["node", "placeable", "--like", &expected])?;
        ensure!(answer["placeable"] == true && answer["like"]["verdict"] == "result-equal", "{answer:#}");
        ensure!(answer["key_checked"] == false && answer["signed"] == false, "{answer:#}");

        let text = fs::read_to_string(&expected)?;
        let value: Value = serde_json::from_str(&text)?;
        let model = value["factors"]["node/cpu/model"]["value"].to_string();
        let altered = |name: &str, from: &str, to: &str| -> Result<String> {
            ensure!(text.contains(from), "{from}");
            fs::write(node.file(name), text.replacen(from, to, 1))?;
            Ok(node.file(name).display().to_string())
        };
        let other = altered("other.json", &model, "\"another processor\"")?;
        let output = node.ctl(["node", "placeable", "--like", &other])?.expect(21)?;
        ensure!(output.out.contains("node/cpu/model") && output.out.contains("another processor"), "{}", output.out);
        let unknown = altered("unknown.json", "\"node/cpu/model\"", "\"node/cpu/shape\"")?;
        node.ctl(["node", "placeable", "--like", &unknown])?.expect(22)?;
        let broken = altered("broken.json", "\"format\":1", "\"format\":9")?;
        node.ctl(["node", "placeable", "--like", &broken])?.expect(1)?;
        Ok(())
    })
}

#[test]
fn a_command_is_looked_at_before_it_is_executed() -> Result<()> {
    on_node("preflight", "", |node| {
        let trace = node.file("executed").display().to_string();
        let preflight = ["attest", "preflight", "--env", "OMP_NUM_THREADS=4", "--", "python3", "-c"];
        let script = format!("open('{trace}', 'w')");
        let output = node.ctl(preflight.iter().copied().chain([script.as_str()]))?.expect(24)?;
        ensure!(output.out.contains("PYTHONHASHSEED is not set") && output.out.contains("no seeds"), "{}", output.out);
        ensure!(!output.out.contains("OMP_NUM_THREADS") && !node.file("executed").exists(), "{}", output.out);
        Ok(())
    })
}
