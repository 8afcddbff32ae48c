//! A file that may not be opened, under other names and by other calls.

use crate::{
    inside::Inside,
    trial::{Stage, judge},
};
use anyhow::Result;
use bypass::table::{PATHS, Row};
use integration::{Node, on_node};
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
};

#[test]
fn files_that_may_not_be_opened() -> Result<()> {
    on_node("bypass-paths", "", |node| {
        let folder = node.file("files");
        fs::create_dir(&folder)?;
        // So that nobody may rename what lies in it.
        fs::set_permissions(&folder, Permissions::from_mode(0o777))?;
        judge(node, "paths", PATHS, &mut Files { folder, secret: String::new(), round: 0 })
    })
}

struct Files {
    folder: PathBuf,
    secret: String,
    round: u32,
}

impl Files {
    fn path(&self) -> PathBuf {
        self.folder.join("secret/file")
    }
}

impl Stage for Files {
    fn policy(&mut self, _: &Row, lsm: bool) -> Result<String> {
        let effect = if lsm { "effect = \"deny\"\n" } else { "" };
        let rule = format!(
            "[[rule]]\nid = \"secret\"\nrationale = \"it is tried\"\n\
             when = {{ event = \"open\", path = \"{}/secret/*\" }}\n{effect}actions = [\"freeze\"]\n",
            self.folder.display()
        );
        Ok(format!("[policy]\nname = \"files\"\nowner = \"tests\"\n{rule}"))
    }

    fn prepare(&mut self, _: &Node, _: &Row, _: &str) -> Result<Vec<String>> {
        self.round += 1;
        self.secret = format!("secret-{}-{}", std::process::id(), self.round);
        for (name, mode) in [("secret", 0o777), ("work", 0o777)] {
            let _ = fs::remove_dir_all(self.folder.join(name));
            fs::create_dir(self.folder.join(name))?;
            fs::set_permissions(self.folder.join(name), Permissions::from_mode(mode))?;
        }
        fs::write(self.path(), &self.secret)?;
        fs::set_permissions(self.path(), Permissions::from_mode(0o666))?;
        let (path, folder) = (self.path().display().to_string(), self.folder.join("work").display().to_string());
        Ok(["--path", &path, "--folder", &folder].map(str::to_owned).to_vec())
    }

    fn happened(&mut self, _: &Node, _: &Row, run: &Inside) -> Result<Option<String>> {
        if run.output().contains(&format!("READ {}", self.secret)) {
            return Ok(Some("the secret was read".to_owned()));
        }
        // Moved away with its folder, it is no longer there to be looked at.
        let changed = fs::read_to_string(self.path()).is_ok_and(|text| text != self.secret);
        Ok(changed.then(|| "the file was changed".to_owned()))
    }
}
