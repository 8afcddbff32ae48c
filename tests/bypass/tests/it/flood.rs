//! The deed amid so many events that the ring has no room for it.

use crate::{
    inside::Inside,
    trial::{Stage, judge},
    witness::Witness,
};
use anyhow::{Context, Result};
use bypass::table::{FLOOD, Row};
use integration::{Node, TestCgroup, members, on_node, program, remove_tree};
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
};

#[test]
fn amid_a_flood_of_events() -> Result<()> {
    on_node("bypass-flood", "ring_kib = 4\n", |node| {
        let folder = node.file("flood");
        fs::create_dir(&folder)?;
        fs::copy(program("bypass")?, folder.join("forbidden")).context("copying the program")?;
        fs::set_permissions(&folder, Permissions::from_mode(0o777))?;
        let cgroup = TestCgroup::new("bypass-flood-out")?;
        let mut flood = Flood { cgroup, witness: Witness::new()?, token: String::new(), folder };
        judge(node, "flood", FLOOD, &mut flood)
    })
}

struct Flood {
    cgroup: TestCgroup,
    witness: Witness,
    token: String,
    folder: PathBuf,
}

impl Flood {
    fn mark(&self) -> PathBuf {
        self.folder.join("mark")
    }
}

impl Stage for Flood {
    /// The flood is allowed, so that it is not what the run is stopped for: what is lost on the way is.
    fn policy(&mut self, row: &Row, _: bool) -> Result<String> {
        let rule = match row.attempt {
            "flood-and-exec" => format!(
                "[[rule]]\nid = \"forbidden\"\nrationale = \"it is tried\"\n\
                 when = {{ event = \"exec\", path = \"{}\" }}\nactions = [\"freeze\"]\n\
                 [[rule]]\nid = \"lost\"\nrationale = \"what was lost may have been that\"\n\
                 when = {{ signal = \"events.lost\", above = 0 }}\nactions = [\"freeze\"]\n",
                self.folder.join("forbidden").display()
            ),
            _ => String::new(),
        };
        Ok(format!(
            "[policy]\nname = \"flood\"\nowner = \"tests\"\n[egress]\nallow = [{{ cidr = \"127.88.0.0/16\" }}]\n{rule}"
        ))
    }

    fn prepare(&mut self, _: &Node, row: &Row, _: &str) -> Result<Vec<String>> {
        self.token = self.witness.token();
        let _ = fs::remove_file(self.mark());
        let path = if row.attempt == "flood-and-leave" { self.cgroup.path().to_owned() } else { self.mark() };
        let (path, folder) = (path.display().to_string(), self.folder.display().to_string());
        let to = self.witness.forbidden().to_string();
        let told = ["--path", &path, "--folder", &folder, "--to", &to, "--token", &self.token];
        Ok(told.map(str::to_owned).to_vec())
    }

    fn happened(&mut self, node: &Node, row: &Row, run: &Inside) -> Result<Option<String>> {
        match row.attempt {
            "flood-and-send" => self.witness.since(&self.token),
            "flood-and-exec" => Ok(self.mark().exists().then(|| "the program ran".to_owned())),
            _ => {
                let left =
                    |e: &serde_json::Value| e["body"]["decision"]["values"][0]["value"]["Event"]["Leave"].is_object();
                let out = self.at_large()? || run.events(node)?.iter().any(left);
                Ok(out.then(|| "a process outside".to_owned()))
            }
        }
    }

    fn at_large(&self) -> Result<bool> {
        Ok(!members(self.cgroup.path())?.is_empty())
    }

    fn tidy(&mut self, _: &mut Node) -> Result<()> {
        remove_tree(self.cgroup.path());
        Ok(fs::create_dir(self.cgroup.path())?)
    }
}
