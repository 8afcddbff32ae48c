//! What README.md and the docs tell people to type is there, and the policy they show is taken.

use anyhow::{Context, Result, ensure};
use integration::{CommandOutput, TWO_GPUS, on_gpu_node, on_node, program, wait_for};
use std::{collections::BTreeSet, path::Path, process::Command};

/// Commands that have commands of their own.
const GROUPS: [&str; 7] = ["attest", "gpu", "incident", "log", "manifest", "node", "policy"];

fn read(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name);
    std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

/// The README, the documents and the playbooks.
fn docs() -> Result<Vec<String>> {
    let mut all = vec!["README.md".to_owned()];
    for folder in ["docs", "docs/playbooks"] {
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.ends_with(".md") {
                all.push(format!("{folder}/{name}"));
            }
        }
    }
    Ok(all)
}

/// The commands of failsafectl that a document shows as code: in a fenced block, or behind a backtick.
fn commands_of(text: &str) -> BTreeSet<String> {
    let mut commands = BTreeSet::new();
    let mut is_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_block = !is_block;
            continue;
        }
        let mut before = "";
        for rest in line.split("failsafectl ") {
            let is_code = std::mem::replace(&mut before, rest);
            if rest.as_ptr() == line.as_ptr() || !(is_block || is_code.ends_with('`') || is_code.ends_with("sudo ")) {
                continue;
            }
            let word = |w: &&str| w.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !w.starts_with('-');
            let words: Vec<&str> = rest.split([' ', '`']).take(2).take_while(word).collect();
            match words.as_slice() {
                [group, command, ..] if GROUPS.contains(group) => {
                    commands.insert(format!("{group} {command}"));
                }
                [command, ..] if !command.is_empty() => {
                    commands.insert((*command).to_owned());
                }
                _ => {}
            }
        }
    }
    commands
}

#[test]
fn every_command_that_the_docs_show_is_there() -> Result<()> {
    let mut commands = BTreeSet::new();
    for doc in docs()? {
        commands.extend(commands_of(&read(&doc)?));
    }
    for known in ["run", "events", "explain", "replay", "thaw", "log verify", "policy check", "report", "doctor"] {
        ensure!(commands.contains(known), "README.md no longer shows `failsafectl {known}`: {commands:?}");
    }
    let failsafectl = program("failsafectl")?;
    for command in commands {
        CommandOutput::of(Command::new(&failsafectl).args(command.split(' ')).arg("--help"))?.expect(0)?;
    }
    Ok(())
}

#[test]
fn the_policy_of_the_readme_is_taken() -> Result<()> {
    let readme = read("README.md")?;
    let policy = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).context("no policy")?;
    on_node("readme", "", |node| {
        let path = node.policy("readme", policy)?.display().to_string();
        let output = node.ctl(["policy", "check", "--node", &path])?.expect(0)?;
        ensure!(output.out.contains("sha256:"), "{output:?}");
        Ok(())
    })
}

#[test]
fn the_prolog_of_the_docs_drains_no_node_for_a_job_without_gpus() -> Result<()> {
    let text = read("docs/cli.md")?;
    let prolog = text
        .split("```sh\n")
        .filter_map(|rest| rest.split("```").next())
        .find(|block| block.contains("failsafectl node health ${"))
        .context("no prolog")?
        .to_owned();
    let scenario = TWO_GPUS.to_owned() + "[gpu.rows]\nfailure = true\n";
    on_gpu_node("prolog", &scenario, "", |node| {
        wait_for("the second GPU is bad", || Ok(node.code(&["node", "health", "--gpu", "1"])? == 12))?;
        wait_for("the first is well", || Ok(node.code(&["node", "health", "--gpu", "0"])? == 0))?;
        let folder = program("failsafectl")?.parent().context("no folder")?.display().to_string();
        let path = format!("{folder}:{}", std::env::var("PATH").unwrap_or_default());
        let code = |gpus: Option<&str>| {
            let mut sh = Command::new("sh");
            sh.args(["-c", &prolog]).env("PATH", &path).env("FAILSAFE_SOCKET", node.socket());
            match gpus {
                Some(gpus) => sh.env("SLURM_JOB_GPUS", gpus),
                None => sh.env_remove("SLURM_JOB_GPUS"),
            };
            Ok::<_, anyhow::Error>(CommandOutput::of(&mut sh)?.code)
        };
        for (gpus, expected) in [(Some("0"), 0), (Some("0,1"), 1), (Some("1"), 1), (Some(""), 0), (None, 0)] {
            let code = code(gpus)?;
            ensure!(code == expected, "SLURM_JOB_GPUS={gpus:?}: exit {code}");
        }
        Ok(())
    })
}

/// The commands below `path`, by the list that `--help` prints.
fn subcommands(failsafectl: &Path, path: &[String]) -> Result<Vec<String>> {
    let help = CommandOutput::of(Command::new(failsafectl).args(path).arg("--help"))?.expect(0)?.out;
    let list = help.split("\nCommands:\n").nth(1).unwrap_or_default();
    let rows = list.lines().take_while(|line| !line.is_empty());
    let names = rows.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    Ok(names
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect())
}

#[test]
fn every_command_is_documented_with_its_synopsis_and_an_example() -> Result<()> {
    let failsafectl = program("failsafectl")?;
    let docs = read("docs/cli.md")?;
    let sections: Vec<(&str, &str)> =
        docs.split("\n### ").skip(1).filter_map(|section| section.split_once('\n')).collect();
    let mut waiting = vec![Vec::<String>::new()];
    let mut missing = Vec::new();
    while let Some(path) = waiting.pop() {
        let below = subcommands(&failsafectl, &path)?;
        // `get runs` is another name of `list`.
        if below.is_empty() && path.first().is_none_or(|first| first != "get") {
            let command = path.join(" ");
            let documented = sections.iter().any(|(heading, body)| {
                *heading == command && body.contains("```") && body.contains(&format!("failsafectl {command}"))
            });
            if !documented {
                missing.push(command);
            }
        }
        waiting.extend(below.into_iter().map(|name| path.iter().cloned().chain([name]).collect()));
    }
    ensure!(missing.is_empty(), "docs/cli.md has no section with an example of: {missing:?}");
    Ok(())
}

#[test]
fn every_policy_in_the_documents_is_taken() -> Result<()> {
    let mut seen = 0;
    for document in ["README.md", "docs/policy.md", "docs/policy-rules.md", "docs/policy-index.md", "docs/detectors.md"]
    {
        for block in read(document)?.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            // A section alone is shown without the head that every policy has.
            let head = if block.contains("[policy]") { "" } else { "[policy]\nname = \"example\"\nowner = \"docs\"\n" };
            let folder = tempfile::tempdir()?;
            let path = folder.path().join("example.toml");
            std::fs::write(&path, format!("{head}{block}"))?;
            let output = CommandOutput::of(Command::new(program("failsafectl")?).args(["policy", "check"]).arg(&path))?;
            ensure!(output.code == 0, "{document}: an example is refused: {}\n{block}", output.err);
            seen += 1;
        }
    }
    ensure!(seen >= 20, "only {seen} examples were found");
    Ok(())
}
