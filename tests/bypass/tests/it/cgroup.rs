//! Out of the run's cgroup.

use crate::{
    inside::Inside,
    trial::{Stage, judge},
    witness::Witness,
};
use anyhow::Result;
use bypass::table::{CGROUP, Row};
use integration::{Node, TestCgroup, members, on_node, remove_tree};

#[test]
fn out_of_the_cgroup() -> Result<()> {
    on_node("bypass-cgroup", "", |node| {
        let mut outside =
            Outside { cgroup: TestCgroup::new("bypass-out")?, witness: Witness::new()?, token: String::new() };
        judge(node, "cgroup", CGROUP, &mut outside)
    })
}

/// A cgroup of nobody's run.
struct Outside {
    cgroup: TestCgroup,
    witness: Witness,
    token: String,
}

impl Stage for Outside {
    fn policy(&mut self, _: &Row, _: bool) -> Result<String> {
        let home = self.witness.home()?;
        Ok(format!(
            "[policy]\nname = \"stays\"\nowner = \"tests\"\non_escape = \"recapture\"\n\
             [egress]\nallow = [{{ cidr = \"{}/32\", ports = [{}] }}]\n",
            home.ip(),
            home.port()
        ))
    }

    fn prepare(&mut self, node: &Node, _: &Row, _: &str) -> Result<Vec<String>> {
        self.token = self.witness.token();
        let (path, mount) = (self.cgroup.path().display().to_string(), node.mount().display().to_string());
        let to = self.witness.forbidden().to_string();
        let told = ["--path", &path, "--folder", &mount, "--to", &to, "--token", &self.token];
        Ok(told.map(str::to_owned).to_vec())
    }

    /// The kernel's own word of the move, or the process itself.
    fn happened(&mut self, node: &Node, row: &Row, run: &Inside) -> Result<Option<String>> {
        if row.attempt == "move-and-send" {
            return self.witness.since(&self.token);
        }
        if self.at_large()? {
            return Ok(Some("a process outside".to_owned()));
        }
        let left = |e: &serde_json::Value| e["body"]["decision"]["values"][0]["value"]["Event"]["Leave"].is_object();
        let left = run.events(node)?.iter().any(left);
        Ok(left.then(|| "the kernel saw it leave".to_owned()))
    }

    fn at_large(&self) -> Result<bool> {
        Ok(!members(self.cgroup.path())?.is_empty())
    }

    fn tidy(&mut self, _: &mut Node) -> Result<()> {
        remove_tree(self.cgroup.path());
        Ok(std::fs::create_dir(self.cgroup.path())?)
    }
}
