//! A policy with many prefix patterns over a folder with many files is compiled while others violate theirs.

use crate::Judge;
use anyhow::{Context, Result, ensure};
use std::{
    fmt::Write as _,
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

const FILES: usize = 20_000;
const PATTERNS: usize = 1_000;
/// A compilation takes no less, so whoever was struck meanwhile was struck during it.
const LEAST: Duration = Duration::from_millis(500);

/// Holds the attack while `judge` strikes.
///
/// # Errors
/// A victim is not frozen in time, or the attack could not be made.
pub fn compile(judge: &mut dyn Judge) -> Result<()> {
    judge.withstand("compile", "", &mut |node, strike| {
        let folder = node.file("many");
        fs::create_dir(&folder)?;
        for n in 0..FILES {
            std::os::unix::fs::symlink("/dev/null", folder.join(format!("f{n}"))).context("making a file")?;
        }
        let mut text = "[policy]\nname = \"huge\"\nowner = \"tests\"\n".to_owned();
        for n in 0..PATTERNS {
            writeln!(
                text,
                "[[rule]]\nid = \"r{n}\"\nrationale = \"x\"\nactions = [\"notify\"]\n\
                 when = {{ event = \"open\", path = \"{}/f{n}*\" }}",
                folder.display()
            )?;
        }
        let policy = node.policy("huge", &text)?;
        let messages = node.file("huge.err");
        loop {
            let mut compiling = node.ctl_command(["run", "--user", "root", "--name", "huge", "--policy"]);
            compiling.arg(&policy).args(["--", "sleep", "1"]).stdin(Stdio::null());
            let mut compiling = compiling.stdout(Stdio::null()).stderr(fs::File::create(&messages)?).spawn()?;
            let began = Instant::now();
            // Into the compilation; whether it was still under way is looked at below, and counts only then.
            std::thread::sleep(Duration::from_millis(150));
            let more = strike(node);
            // Whether the policy fits into the kernel's tables is known only after it was compiled; here it is too large.
            let during = compiling.try_wait()?.is_none();
            let ended = compiling.wait()?;
            let messages = fs::read_to_string(&messages)?;
            eprintln!("the huge policy: {ended} after {:.1} s: {messages}", began.elapsed().as_secs_f64());
            // Of a series the last strikes may come later.
            ensure!(
                during || began.elapsed() > LEAST,
                "the compilation had ended before the victims violated their policy"
            );
            if !more? {
                return Ok(());
            }
        }
    })
}
