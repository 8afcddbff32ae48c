//! Processes that fork on and on while their cgroup becomes a run: from the moment that the registration is answered, none of
//! them gets out, whenever it was born.

use crate::{
    inside::Inside,
    report::{Judged, Report},
    trial::lsm,
    witness::Witness,
};
use anyhow::{Result, ensure};
use bypass::table::{ADOPTION, Come};
use integration::{Node, on_node, sentinel, wait_for};
use std::{fs, path::Path};

/// Tries after the registration, and before it for the control.
const TRIES: u64 = 200;

#[test]
fn forks_before_and_after_the_registration() -> Result<()> {
    on_node("bypass-adoption", "", |node| {
        let with_lsm = lsm(node)?;
        let mut report = Report::new("adoption", with_lsm);
        for row in ADOPTION {
            for user in row.who.users() {
                report.add(row, user, row.expected(with_lsm), registered(node, row.attempt, user));
            }
        }
        report.close()
    })
}

fn registered(node: &Node, attempt: &str, user: &str) -> Result<Judged> {
    let witness = Witness::new()?;
    let token = witness.token();
    let tries = sentinel(node, &format!("{user}-tries"))?;
    let (to, path) = (witness.forbidden().to_string(), tries.display().to_string());
    let told = ["--to", &to, "--token", &token, "--path", &path].map(str::to_owned);
    let inside = Inside::no_run(node, attempt, user, &told)?;
    more(&tries)?;
    ensure!(witness.since(&token)?.is_some(), "the control did not get through");
    let policy = node.policy(user, "[policy]\nname = \"closed\"\nowner = \"tests\"\n[egress]\nallow = []\n")?;
    let (policy, cgroup) = (policy.display().to_string(), inside.cgroup().display().to_string());
    let name = format!("{attempt}-{user}");
    node.ctl(["register", "-p", &policy, "-n", &name, "--cgroup", &cgroup])?.expect(0)?;
    // What came before is not counted.
    witness.since(&token)?;
    more(&tries)?;
    Ok(match witness.since(&token)? {
        None => Judged::Came(Come::Blocked, format!("{TRIES} tries")),
        Some(by) => Judged::Came(Come::Leak(""), format!("seen: {by}")),
    })
}

/// Waits until it was tried so many times more.
fn more(tries: &Path) -> Result<()> {
    let before = fs::metadata(tries)?.len();
    wait_for("it is tried on", || Ok(fs::metadata(tries)?.len() >= before + TRIES))
}
