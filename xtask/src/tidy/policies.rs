//! Every shipped policy is a good one and bears the name of its file.

use super::Findings;
use crate::shell;
use anyhow::{Context, Result};
use failsafe_core::policy::parse::parse;
use std::path::{Path, PathBuf};

/// Parses each `policies/NAME.toml`.
///
/// # Errors
/// The folder or a file cannot be read.
pub fn check(findings: &mut Findings) -> Result<()> {
    let files = shipped(&shell::root().join("policies"))?;
    if files.is_empty() {
        findings.wrong.push("no policies are shipped".to_owned());
    }
    for file in files {
        let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        findings.wrong.extend(judge(&file, &text));
    }
    Ok(())
}

/// The policies themselves, without their scenarios (`NAME.test.toml`) and the catalogues, which the core reads.
fn shipped(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    files.retain(|file| {
        let name = file.to_string_lossy();
        name.ends_with(".toml")
            && !name.ends_with(".test.toml")
            && !name.ends_with("/xid.toml")
            && !name.ends_with("/kernel-log.toml")
            && !name.ends_with("/gpu-health.toml")
            && !name.ends_with("/factors.toml")
    });
    files.sort();
    Ok(files)
}

/// What is wrong with one policy.
fn judge(file: &Path, text: &str) -> Vec<String> {
    let policy = match parse(&file.to_string_lossy(), text) {
        Ok(policy) => policy,
        Err(errors) => return vec![errors.to_string()],
    };
    let place = file.display();
    let mut wrong = Vec::new();
    if file.file_stem().is_none_or(|stem| stem.to_string_lossy() != policy.name) {
        wrong.push(format!("{place}: its policy is named {}", policy.name));
    }
    if policy.description.is_empty() || policy.rules.is_empty() {
        wrong.push(format!("{place}: a shipped policy has a description and rules"));
    }
    for rule in &policy.rules {
        // What on-call reads at three in the morning must say something, and name somebody.
        if rule.rationale.len() < 20 || !rule.owner.contains('@') {
            wrong.push(format!("{place}: rule {} says too little of why, or of whom to ask", rule.id));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_policies_are_good_and_differ() {
        let files = shipped(&shell::root().join("policies")).unwrap();
        assert!(files.len() >= 4, "{files:?}");
        let mut digests = Vec::new();
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            assert_eq!(judge(&file, &text), Vec::<String>::new());
            digests.push(parse("", &text).unwrap().digest());
        }
        digests.sort();
        assert!(digests.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn bad_policies_are_named() {
        let text = "[policy]\nname = \"a\"\nowner = \"me\"\ndescription = \"x\"\n[[rule]]\nid = \"r\"\nrationale = \"because\"\nwhen = { event = \"oom\" }\nactions = [\"notify\"]\n";
        let wrong = judge(Path::new("b.toml"), text).join("\n");
        assert!(wrong.contains("named a") && wrong.contains("rule r says too little"), "{wrong}");
        assert!(judge(Path::new("b.toml"), "[policy]\n")[0].starts_with("b.toml:1:"));
    }
}
