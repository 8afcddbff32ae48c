//! Clients of one unprivileged user at the control socket, as many as the user can make.

use crate::{Judge, judge::all};
use anyhow::{Context, Result, ensure};
use integration::{Crowd, NOBODY};

/// A thousand followers of the log: while each freeze is recorded, each of them is written to.
///
/// # Errors
/// A victim is not frozen in time, or the attack could not be made.
pub fn followers(judge: &mut dyn Judge) -> Result<()> {
    crowd(judge, "followers", &["--followers", "1000"], "following")
}

/// A thousand connections that send nothing.
///
/// # Errors
/// As [`followers`].
pub fn idle(judge: &mut dyn Judge) -> Result<()> {
    crowd(judge, "idle", &["--idle", "1000"], "idle")
}

/// Health calls without a pause, over sixteen connections.
///
/// # Errors
/// As [`followers`].
pub fn health(judge: &mut dyn Judge) -> Result<()> {
    judge.withstand("health", "", &mut |node, strike| {
        let mut crowd = Crowd::come(node, NOBODY, &["--floods", "16"])?;
        crowd.got()?;
        let struck = all(node, strike);
        crowd.goes();
        let asked = crowd.line()?["asked"].as_u64().context("no count of calls")?;
        ensure!(asked > 0, "no health call was answered: there was no flood");
        struck
    })
}

fn crowd(judge: &mut dyn Judge, attack: &str, args: &[&str], there: &str) -> Result<()> {
    judge.withstand(attack, "", &mut |node, strike| {
        let mut crowd = Crowd::come(node, NOBODY, args)?;
        let got = crowd.got()?;
        ensure!(got[there].as_u64() > Some(0), "nobody of the crowd came in: {got}");
        all(node, strike)
    })
}
