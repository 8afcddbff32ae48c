//! Rules on `exec` meet a program whatever name it was given and however long its arguments are; where they cannot, a gap says so.

use anyhow::{Result, ensure};
use integration::{Launch, frozen, on_node};
use std::fs;

fn policy(name: &str, when: &str) -> String {
    format!(
        "[policy]\nname = \"{name}\"\nowner = \"tests\"\n[[rule]]\nid = \"evil\"\nrationale = \"a test\"\n\
         when = {{ event = \"exec\", {when} }}\nactions = [\"freeze\", \"notify\"]\n"
    )
}

#[test]
fn a_program_is_frozen_by_its_resolved_path_and_by_the_end_of_long_arguments() -> Result<()> {
    on_node("exec-names", "", |node| {
        let evil = node.file("evil");
        fs::copy("/bin/true", &evil)?;
        std::os::unix::fs::symlink(&evil, node.file("harmless"))?;
        let linked = format!("{}; sleep 600", node.file("harmless").display());
        Launch::new("linked", &policy("path", "path = \"*/evil\"")).start(node, ["sh", "-c", &linked])?.freezes()?;
        let padded = format!("/bin/true {} --exfil; sleep 600", "x".repeat(5_000));
        let script = node.file("padded.sh");
        fs::write(&script, padded)?;
        let script = script.display().to_string();
        Launch::new("padded", &policy("argv", "argv = \"*--exfil\"")).start(node, ["sh", &script])?.freezes()?;
        node.log_is_whole()
    })
}

#[test]
fn a_rule_that_cannot_be_judged_on_long_arguments_is_reported_as_a_gap() -> Result<()> {
    on_node("exec-unknown", "", |node| {
        let script = node.file("padded.sh");
        fs::write(&script, format!("/bin/true {} --exfil {}; sleep 600", "x".repeat(2_000), "y".repeat(2_000)))?;
        let script = script.display().to_string();
        let run = Launch::new("padded", &policy("holds", "argv = \"*--exfil*\"")).start(node, ["sh", &script])?;
        node.wait_for_event("a gap of the rule", |e| {
            let what = e["body"]["what"].as_str().unwrap_or_default();
            e["body"]["type"] == "gap"
                && e["run"] == run.id()
                && what.contains("rule evil cannot be judged on the exec")
        })?;
        ensure!(!frozen(run.cgroup())?, "it is unknown, not a match");
        node.log_is_whole()
    })
}

#[test]
fn a_program_that_is_executed_from_memory_is_frozen_by_its_kind() -> Result<()> {
    let python = "/usr/bin/python3";
    if !std::path::Path::new(python).exists() {
        integration::skip("/usr/bin/python3 is not installed");
        return Ok(());
    }
    on_node("exec-memfd", "", |node| {
        let from_memory = "import os; fd = os.memfd_create('x', 0); os.write(fd, open('/bin/sleep', 'rb').read()); \
                           os.execve(fd, ['sleep', '600'], {})";
        let memory = policy("memory", "kind = \"memfd\"");
        Launch::new("memory", &memory).start(node, [python, "-c", from_memory])?.freezes()?;
        // A file of a folder that is named like one in memory, and a deleted file, are none.
        let copy = node.file("memfd:x");
        fs::copy("/bin/sleep", &copy)?;
        let script = format!("rm {0}; exec /proc/self/fd/9 600", copy.display());
        let deleted = format!("exec 9<{}; {script}", copy.display());
        let gone = policy("gone", "kind = \"deleted\"");
        Launch::new("deleted", &gone).user("root").start(node, ["sh", "-c", &deleted])?.freezes()?;
        node.log_is_whole()
    })
}
