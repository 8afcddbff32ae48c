//! `scrape`: reads a Prometheus endpoint of the run that this command runs in, and reports its values.
//!
//! ```text
//! owner of the port (same cgroup?) ─► GET, bounded ─► owner again ─► values ─► the daemon's stream socket
//! ```
//! It runs as a process of the run, with the rights of the run's user: the daemon knows by the kernel of which run it is. It ends
//! with the process that started it, so that it does not keep the run alive.

pub(super) mod detach;
mod get;
pub(super) mod owner;
mod pass;

pub(in crate::commands) use self::{detach::ITSELF, pass::allowed};

use self::pass::{Before, Pass, pass};
use crate::{
    args::ScrapeArgs,
    exit::{Exit, Fail},
    render::{print, stream},
};
use nix::unistd::getppid;
use std::{
    io::{Write, stderr},
    time::Duration,
};

/// A connection that the policy refuses is an event of the run each time, and may trip a rule: it is tried again after this.
const REFUSED_AGAIN: Duration = Duration::from_secs(60);

pub(super) fn scrape(args: &ScrapeArgs) -> Result<Exit, Fail> {
    if args.once {
        return once(args);
    }
    if args.detach {
        return detach::detach(detach::Ready::AtOnce);
    }
    if args.beside {
        detach::end_with_the_caller()?;
        return again_and_again(args, || true);
    }
    let parent = detach::end_with_the_parent()?;
    again_and_again(args, || getppid() == parent)
}

fn once(args: &ScrapeArgs) -> Result<Exit, Fail> {
    let done = pass(args, &mut Before::default());
    if args.json {
        print(&format!("{}\n", pass::json(args, &done)))?;
    }
    let Pass { answer, .. } = done?;
    if !args.json {
        print(&format!("{answer}\n"))?;
    }
    Ok(if answer.accepted == 0 { Exit::Error } else { Exit::Done })
}

fn again_and_again(args: &ScrapeArgs, wanted: impl Fn() -> bool) -> Result<Exit, Fail> {
    let (mut last, mut earlier) = (String::new(), Before::default());
    while wanted() {
        let done = pass(args, &mut earlier);
        if args.json {
            stream(&format!("{}\n", pass::json(args, &done)))?;
        }
        let pause = match &done {
            Err(fail) if fail.exit == Exit::Denied => args.every.max(REFUSED_AGAIN),
            _ => args.every,
        };
        let failure = done.err().map(|fail| fail.to_string()).unwrap_or_default();
        // An endpoint that is not there yet, or no longer, is reported once.
        if !failure.is_empty() && failure != last {
            // Nobody may be left to read it.
            let _closed = writeln!(stderr(), "{failure}\n  it is read again every {} s", pause.as_secs_f64());
        }
        last = failure;
        std::thread::sleep(pause);
    }
    Ok(Exit::Done)
}
