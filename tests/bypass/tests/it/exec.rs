//! A program that may not be run, by its path, and what has no path; and one that is not on the list of those that may be.

use crate::{
    inside::Inside,
    trial::{Stage, judge},
};
use anyhow::{Context, Result};
use bypass::table::{EXEC, LISTED, Row};
use integration::{Node, on_node, program};
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

#[test]
fn programs_that_may_not_be_run() -> Result<()> {
    on_node("bypass-exec", "", |node| {
        let mut programs = Programs::new(node, deny_list)?;
        judge(node, "exec", EXEC, &mut programs)
    })
}

#[test]
fn programs_that_are_not_on_the_list() -> Result<()> {
    on_node("bypass-list", "", |node| {
        let mut programs = Programs::new(node, list)?;
        judge(node, "listed", LISTED, &mut programs)
    })
}

struct Programs {
    folder: PathBuf,
    policy: fn(&Path, bool) -> Result<String>,
}

fn deny_list(folder: &Path, lsm: bool) -> Result<String> {
    let effect = if lsm { "effect = \"deny\"\n" } else { "" };
    let forbidden = folder.join("forbidden").display().to_string();
    let mut text = "[policy]\nname = \"programs\"\nowner = \"tests\"\n".to_owned();
    let mut rule = |id: &str, when: &str| {
        text.push_str(&format!(
            "[[rule]]\nid = \"{id}\"\nrationale = \"it is tried\"\nwhen = {{ event = \"exec\", {when} }}\n{effect}\
             actions = [\"freeze\"]\n"
        ));
    };
    rule("forbidden", &format!("path = \"{forbidden}\""));
    if lsm {
        rule("pathless", "kind = [\"memfd\", \"deleted\"]");
    } else {
        rule("pathless", "path = \"/dev/fd/*\"");
    }
    Ok(text)
}

/// This program, which makes the attempts, and what lies in a folder.
fn list(folder: &Path, lsm: bool) -> Result<String> {
    let mode = if lsm { "enforce" } else { "observe" };
    let (own, folder) = (program("bypass")?.canonicalize()?, folder.join("listed"));
    Ok(format!(
        "[policy]\nname = \"list\"\nowner = \"tests\"\n[exec]\nmode = \"{mode}\"\nallow = [\"{}\", \"{}/*\"]\n",
        own.display(),
        folder.display()
    ))
}

impl Programs {
    fn new(node: &Node, policy: fn(&Path, bool) -> Result<String>) -> Result<Programs> {
        let folder = node.file("programs");
        fs::create_dir(&folder)?;
        fs::create_dir(folder.join("listed"))?;
        for name in ["forbidden", "permitted", "listed/permitted"] {
            let source = if name == "forbidden" { program("bypass")? } else { PathBuf::from("/bin/true") };
            fs::copy(&source, folder.join(name)).with_context(|| format!("copying {}", source.display()))?;
            // Everybody may write to it, so that everybody may link to it.
            fs::set_permissions(folder.join(name), Permissions::from_mode(0o777))?;
        }
        Ok(Programs { folder, policy })
    }

    fn mark(&self) -> PathBuf {
        self.folder.join("work/mark")
    }
}

impl Stage for Programs {
    fn policy(&mut self, _: &Row, lsm: bool) -> Result<String> {
        (self.policy)(&self.folder, lsm)
    }

    fn prepare(&mut self, _: &Node, _: &Row, _: &str) -> Result<Vec<String>> {
        let work = self.folder.join("work");
        let _ = fs::remove_dir_all(&work);
        fs::create_dir(&work)?;
        fs::set_permissions(&work, Permissions::from_mode(0o777))?;
        let (path, folder) = (self.mark().display().to_string(), self.folder.display().to_string());
        Ok(["--path", &path, "--folder", &folder].map(str::to_owned).to_vec())
    }

    fn happened(&mut self, _: &Node, _: &Row, _: &Inside) -> Result<Option<String>> {
        // Under a root of its own it leaves the mark there.
        let inside = self.folder.join("work/tree").join(self.mark().strip_prefix("/")?);
        Ok((self.mark().exists() || inside.exists()).then(|| "the program ran".to_owned()))
    }
}
