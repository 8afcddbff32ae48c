//! `scrape`: reads a Prometheus endpoint of the run that this command runs in, and reports its values.
//!
//! ```text
//! owner of the port (same cgroup?) ─► GET, bounded ─► owner again ─► values ─► the daemon's stream socket
//! ```
//! It runs as a process of the run, with the rights of the run's user: the daemon knows by the kernel of which run it is. It ends
//! with the process that started it, so that it does not keep the run alive.

mod get;
mod owner;

use super::report::exchange;
use crate::{
    args::{Endpoint, ScrapeArgs},
    exit::{Exit, Fail},
    render::print,
};
use failsafe_intake::{Taken, histogram::Earlier, prometheus};
use nix::{
    sys::{prctl, signal::Signal},
    unistd::{Pid, getppid},
};

pub(super) fn scrape(args: &ScrapeArgs) -> Result<Exit, Fail> {
    if args.once {
        let answer = once(args, &mut Earlier::default())?;
        print(&format!("{answer}\n"))?;
        return Ok(if answer.starts_with("accepted 0 ") { Exit::Error } else { Exit::Done });
    }
    let parent = getppid();
    prctl::set_pdeathsig(Signal::SIGTERM)
        .map_err(|error| Fail::because("cannot end with the process that started this one", &error))?;
    // The parent may have ended before the call. Of a container, the first process is the parent for good.
    if parent == Pid::from_raw(1) && !owner::is_here(parent) {
        return Err(Fail::new(
            Exit::Error,
            "the process that started this command has ended: start it from one that stays",
        ));
    }
    let (mut last, mut earlier) = (String::new(), Earlier::default());
    while getppid() == parent {
        let failure = once(args, &mut earlier).err().map(|fail| fail.to_string()).unwrap_or_default();
        // An endpoint that is not there yet, or no longer, is reported once.
        if !failure.is_empty() && failure != last {
            eprintln!("{failure}");
        }
        last = failure;
        std::thread::sleep(args.every);
    }
    Ok(Exit::Done)
}

/// `earlier`: what the port answered before.
fn once(args: &ScrapeArgs, earlier: &mut Earlier) -> Result<String, Fail> {
    let Endpoint { address, path } = &args.endpoint;
    let failed = |why: String| Fail::new(Exit::Error, format!("cannot read http://{address}{path}: {why}"));
    let owner = owner::of(*address).map_err(failed)?;
    let body = get::get(*address, path).map_err(failed)?;
    if owner::of(*address).map_err(failed)? != owner {
        return Err(failed("another process took the port".to_owned()));
    }
    let mut taken = prometheus::text(&body, earlier);
    if !args.names.is_empty() {
        taken.values.retain(|value| args.names.iter().any(|name| selects(name, &value.name)));
    }
    let answer = exchange(&args.metrics_socket, &lines(args.rank.as_deref(), &taken))?;
    if answer.starts_with("accepted 0 refused ") && !answer.starts_with("accepted 0 refused 0") {
        let reason = answer.splitn(5, ' ').nth(4).unwrap_or("no reason is given");
        return Err(Fail::new(Exit::Error, format!("failsafed did not accept the values: {reason}")));
    }
    Ok(answer)
}

fn lines(rank: Option<&str>, taken: &Taken) -> String {
    let rank = rank.map(|rank| format!("!rank {rank}\n")).unwrap_or_default();
    format!("{rank}{}?\n", taken.lines())
}

fn selects(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        // Labels are a part of the name.
        None => name == pattern || name.strip_prefix(pattern).is_some_and(|rest| rest.starts_with('/')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_selects_its_series_and_a_star_all_with_its_beginning() {
        assert!(selects("loss", "loss") && selects("loss", "loss/split/eval") && selects("lo*", "loss"));
        assert!(!selects("loss", "loss_total") && !selects("loss", "los") && !selects("a*", "loss"));
        let taken = prometheus::text(b"loss 2.5\nlo$s 1\n", &mut Earlier::default());
        assert_eq!(lines(Some("3"), &taken), "!rank 3\n!refused 1 name\nloss 2.5e0\n?\n");
    }
}
