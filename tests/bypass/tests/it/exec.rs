//! A program that may not be run, by its path; what has no path may not be run either.

use crate::{
    inside::Inside,
    trial::{Stage, judge},
};
use anyhow::{Context, Result};
use bypass::table::{EXEC, Row};
use integration::{Node, on_node, program};
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
};

#[test]
fn programs_that_may_not_be_run() -> Result<()> {
    on_node("bypass-exec", "", |node| {
        let mut programs = Programs::new(node)?;
        judge(node, "exec", EXEC, &mut programs)
    })
}

struct Programs {
    folder: PathBuf,
}

impl Programs {
    fn new(node: &Node) -> Result<Programs> {
        let folder = node.file("programs");
        fs::create_dir(&folder)?;
        for name in ["forbidden", "permitted"] {
            let source = if name == "forbidden" { program("bypass")? } else { PathBuf::from("/bin/true") };
            fs::copy(&source, folder.join(name)).with_context(|| format!("copying {}", source.display()))?;
            // Everybody may write to it, so that everybody may link to it.
            fs::set_permissions(folder.join(name), Permissions::from_mode(0o777))?;
        }
        Ok(Programs { folder })
    }

    fn mark(&self) -> PathBuf {
        self.folder.join("work/mark")
    }
}

impl Stage for Programs {
    fn policy(&mut self, _: &Row, lsm: bool) -> Result<String> {
        let effect = if lsm { "effect = \"deny\"\n" } else { "" };
        let forbidden = self.folder.join("forbidden").display().to_string();
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

    fn prepare(&mut self, _: &Node, _: &Row, _: &str) -> Result<Vec<String>> {
        let work = self.folder.join("work");
        let _ = fs::remove_dir_all(&work);
        fs::create_dir(&work)?;
        fs::set_permissions(&work, Permissions::from_mode(0o777))?;
        let (path, folder) = (self.mark().display().to_string(), self.folder.display().to_string());
        Ok(["--path", &path, "--folder", &folder].map(str::to_owned).to_vec())
    }

    fn happened(&mut self, _: &Node, _: &Row, _: &Inside) -> Result<Option<String>> {
        Ok(self.mark().exists().then(|| "the program ran".to_owned()))
    }
}
