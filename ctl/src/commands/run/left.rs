//! What goes on of a run after its command has ended: a process in the background keeps the run alive.

use crate::{
    client::{Client, Target},
    commands::cleanup::hierarchy,
    exit::Fail,
    render::count,
};
use failsafe_proto::v1 as pb;
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// How long the daemon may take to answer: the command's exit code waits for it.
const ASKED: Duration = Duration::from_millis(500);

/// How long the scrapers of the run may take to see that the command has ended, and how far apart it is looked. On a busy machine, one may
/// not have begun when the command of a short run ends.
const SCRAPERS_END: Duration = Duration::from_secs(5);
const BETWEEN: Duration = Duration::from_millis(10);

/// What to say of the run, if processes of it are left. `scraped`: scrapers of the run are about to end.
pub(super) async fn left(daemon: &Target, id: &str, scraped: bool) -> Result<Option<String>, Fail> {
    let asked = async {
        let request = pb::GetRequest { run: id.to_owned(), ..Default::default() };
        Ok::<_, Fail>(Client::connect(daemon).await?.runs().get(request).await?.into_inner())
    };
    let Ok(run) = tokio::time::timeout(ASKED, asked).await else { return Ok(None) };
    let Ok(Some(mount)) = hierarchy() else { return Ok(None) };
    let below = run?.cgroup;
    if below.trim_matches('/').is_empty() {
        return Ok(None);
    }
    // What the daemon counted last may be older than the command's end.
    let root = mount.join(below.trim_start_matches('/'));
    let mut left = processes(&root);
    let until = Instant::now() + SCRAPERS_END;
    while scraped && left.iter().any(|pid| is_about_to_end(pid)) && Instant::now() < until {
        tokio::time::sleep(BETWEEN).await;
        left = processes(&root);
    }
    Ok((!left.is_empty()).then(|| {
        let left = count(left.len(), "process", "processes");
        format!(
            "failsafectl: the command has ended, but the run goes on with {left}: `failsafectl describe {id}` shows it, `failsafectl kill \
             {id} --reason TEXT` ends it"
        )
    }))
}

/// Whether this process is a scraper of the run, or has ended since it was listed. One that only looks like a scraper delays the exit code
/// of `run`.
fn is_about_to_end(pid: &str) -> bool {
    let words = fs::read(Path::new("/proc").join(pid).join("cmdline")).unwrap_or_default();
    words.is_empty() || words.starts_with(b"failsafectl\0scrape\0")
}

/// The processes in a cgroup and below it.
fn processes(root: &Path) -> Vec<String> {
    let (mut found, mut levels) = (Vec::new(), vec![root.to_owned()]);
    while let Some(level) = levels.pop() {
        let pids = fs::read_to_string(level.join("cgroup.procs")).unwrap_or_default();
        found.extend(pids.lines().map(str::to_owned));
        let below = fs::read_dir(&level).into_iter().flatten().flatten();
        levels
            .extend(below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()));
    }
    found
}
