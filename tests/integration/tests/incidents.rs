//! `IncidentService` and `RunService.WatchRuns` as programs use them: lists, watches that go on after a restart, and who sees what.

use anyhow::{Context, Result, ensure};
use failsafe_proto::{
    ErrorReason,
    v1::{
        self, Incident, IncidentState, ListIncidentsRequest, RunChange, Verdict, WatchIncidentsRequest,
        WatchIncidentsResponse, WatchRunsRequest, WatchRunsResponse, incident_service_client::IncidentServiceClient,
        run_service_client::RunServiceClient,
    },
};
use integration::{Launch, NOBODY, Node, Tmpfs, on_node, program, wait_for, with_channel};
use std::{
    fs::{self, File},
    io::Write,
    os::unix::process::CommandExt,
    process::Stdio,
    time::Duration,
};
use tonic::{Code, Streaming, transport::Channel};

const PLAIN: &str = "[policy]\nname = \"plain\"\nowner = \"tests\"\n";
const LOSS: &str = r#"
[policy]
name = "trainer"
version = 3
owner = "oncall@example.org"

[[rule]]
id = "loss-high"
rationale = "a loss as high is no loss"
playbook = "docs/playbooks/loss.md"
severity = "critical"
when = { signal = "metric.loss", above = 4 }
actions = ["freeze", "notify"]
"#;
/// How long a stream is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

async fn next<T>(stream: &mut Streaming<T>) -> Result<T> {
    tokio::time::timeout(PATIENCE, stream.message()).await.context("nothing came")??.context("the stream ended")
}

/// Changes until one `is` it.
async fn until<T: std::fmt::Debug>(stream: &mut Streaming<T>, is: impl Fn(&T) -> bool) -> Result<T> {
    loop {
        let item = next(stream).await?;
        if is(&item) {
            return Ok(item);
        }
    }
}

async fn list(channel: &Channel, request: ListIncidentsRequest) -> Result<Vec<Incident>> {
    let answer = IncidentServiceClient::new(channel.clone()).list_incidents(request).await?;
    Ok(answer.into_inner().incidents)
}

fn ids(incidents: &[Incident]) -> Vec<&str> {
    incidents.iter().map(|incident| incident.id.as_str()).collect()
}

fn act(node: &Node, command: &str, run: &str) -> Result<String> {
    let answer = node.json([command, run, "--reason", "test"])?;
    answer["incident"].as_str().map(str::to_owned).context("no incident")
}

#[test]
fn an_incident_has_its_cause_and_each_action_with_its_proof_and_the_entries_of_the_log() -> Result<()> {
    on_node("inc-message", "", |node| {
        let script = format!("{} report loss 12; sleep 600", program("failsafectl")?.display());
        let launch = Launch::new("trainer", LOSS).label("team=vision");
        let launch = launch.env("FAILSAFE_METRICS_SOCKET", node.metrics_socket()).env("RANK", "0");
        let run = launch.start(node, ["sh", "-c", &script])?;
        run.freezes()?;
        wait_for("the freeze is proved", || Ok(node.run("trainer")?["state"] == "frozen"))?;
        let (run_id, events) = (run.id().to_owned(), node.events()?);
        let id = node.run("trainer")?["incident"].as_str().context("no incident")?.to_owned();
        let shown = node.json(["incident", "show", &id])?;
        let entry = |index: &serde_json::Value| events.iter().find(|entry| entry["index"] == *index);
        let decision = entry(&shown["entry"]).context("no entry of the decision")?;
        ensure!(decision["kind"] == "decision" && decision["incident"] == id.as_str(), "{decision}");
        let page = node.ctl(["incident", "show", &id])?.expect(0)?.out;
        ensure!(
            page.contains("rule loss-high: ") && page.contains(&format!("next: failsafectl explain {id}")),
            "{page}"
        );
        with_channel(node, |channel| async move {
            let mut client = IncidentServiceClient::new(channel);
            let incident = client.get_incident(v1::GetIncidentRequest { incident: id.clone() }).await?.into_inner();
            ensure!(incident.state() == IncidentState::Open && incident.standing == "contained", "{incident:?}");
            ensure!(incident.run_id == run_id && incident.run_name == "trainer", "{incident:?}");
            ensure!(incident.labels.get("team").is_some_and(|team| team == "vision"), "{incident:?}");
            ensure!(incident.rule == "loss-high" && incident.contact == "oncall@example.org", "{incident:?}");
            ensure!(incident.playbook == "docs/playbooks/loss.md" && incident.policy_name.contains("trainer"));
            ensure!(incident.values.iter().any(|value| value.contains("metric.loss: 12")), "{:?}", incident.values);
            ensure!(incident.severity() == v1::IncidentSeverity::Critical && incident.closed_ns == 0);
            ensure!(matches!(
                incident.actor.as_ref().and_then(|it| it.actor.as_ref()),
                Some(v1::actor::Actor::Daemon(_))
            ));
            let freeze = incident.steps.iter().find(|step| step.action == "freeze").context("no freeze")?;
            ensure!(freeze.desired && freeze.verdict() == Verdict::Proved, "{freeze:?}");
            ensure!(freeze.proofs.iter().any(|proof| proof.contains("frozen 1")), "{freeze:?}");
            ensure!(freeze.result_entry.is_some_and(|entry| entry > incident.entry && entry < incident.revision));
            let notify = incident.steps.iter().find(|step| step.action == "notify").context("no notify")?;
            ensure!(!notify.desired && notify.mode() == v1::NodeMode::Enforce, "{notify:?}");
            Ok(())
        })
    })
}

#[test]
fn incidents_are_given_in_pages_and_chosen_by_run_state_rule_time_and_labels() -> Result<()> {
    on_node("inc-list", "", |node| {
        let start = |name: &str, label: &str| Launch::new(name, PLAIN).label(label).start(node, ["sleep", "600"]);
        let (_a, b, _c) = (start("a", "team=a")?, start("b", "team=b")?, start("c", "team=b")?);
        let [of_a, of_b, of_c] = ["a", "b", "c"].map(|run| act(node, "freeze", run));
        let (of_a, of_b, of_c) = (of_a?, of_b?, of_c?);
        act(node, "thaw", "a")?;
        let between = node.json(["incident", "show", &of_b])?["opened_ns"].as_i64().context("no time")?;
        let b_id = b.id().to_owned();
        let expected = (of_a.clone(), of_b.clone(), of_c.clone());
        with_channel(node, |channel| async move {
            let (of_a, of_b, of_c) = (expected.0.as_str(), expected.1.as_str(), expected.2.as_str());
            let (mut found, mut page_token) = (Vec::new(), String::new());
            let mut client = IncidentServiceClient::new(channel.clone());
            loop {
                let request = ListIncidentsRequest { page_size: 2, page_token, ..Default::default() };
                let page = client.list_incidents(request).await?.into_inner();
                ensure!(page.incomplete.is_empty(), "{page:?}");
                ensure!(page.incidents.len() <= 2 && !page.earlier_in_log && !page.only_own, "{page:?}");
                found.extend(page.incidents);
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            ensure!(ids(&found) == [of_a, of_b, of_c], "{:?}", ids(&found));
            let (open, closed) = (IncidentState::Open as i32, IncidentState::Closed as i32);
            let none = ListIncidentsRequest::default;
            for (request, wanted) in [
                (ListIncidentsRequest { state: open, ..none() }, vec![of_b, of_c]),
                (ListIncidentsRequest { state: closed, ..none() }, vec![of_a]),
                (ListIncidentsRequest { run: "b".into(), ..none() }, vec![of_b]),
                (ListIncidentsRequest { run: b_id, ..none() }, vec![of_b]),
                (ListIncidentsRequest { selector: "team=b".into(), ..none() }, vec![of_b, of_c]),
                (ListIncidentsRequest { rule: "loss-high".into(), ..none() }, vec![]),
                (ListIncidentsRequest { until_ns: between, ..none() }, vec![of_a]),
                (ListIncidentsRequest { since_ns: i64::MAX, ..none() }, vec![of_b, of_c]),
            ] {
                let found = list(&channel, request.clone()).await?;
                ensure!(ids(&found) == wanted, "{request:?}: {:?}", ids(&found));
            }
            for (field, request) in [
                ("selector", ListIncidentsRequest { selector: "=".into(), ..none() }),
                ("page_token", ListIncidentsRequest { page_token: "x".into(), ..none() }),
                ("state", ListIncidentsRequest { state: 7, ..none() }),
            ] {
                let refused =
                    client.list_incidents(request).await.err().with_context(|| format!("{field} was taken"))?;
                ensure!(refused.code() == Code::InvalidArgument && refused.message().starts_with(field), "{refused:?}");
            }
            Ok(())
        })?;
        let listed = node.ctl(["incident", "list", "--state", "open", "-l", "team=b"])?.expect(0)?.out;
        ensure!(listed.contains(&of_b) && listed.contains(&of_c) && !listed.contains(&of_a), "{listed}");
        Ok(())
    })
}

#[test]
fn a_watch_of_incidents_begins_with_the_open_ones_and_goes_on_after_a_restart() -> Result<()> {
    on_node("inc-watch", "", |node| {
        let (_a, _b) = (
            Launch::new("a", PLAIN).start(node, ["sleep", "600"])?,
            Launch::new("b", PLAIN).start(node, ["sleep", "600"])?,
        );
        let of_a = act(node, "freeze", "a")?;
        let (ctl, wanted) = (node.ctl_command(["thaw", "a", "--reason", "test"]), of_a.clone());
        let revision = std::cell::Cell::new(0);
        let (at, mut ctl) = (&revision, ctl);
        with_channel(node, |channel| async move {
            let mut client = IncidentServiceClient::new(channel);
            let request = WatchIncidentsRequest { follow: true, ..Default::default() };
            let mut changes = client.watch_incidents(request).await?.into_inner();
            let open = next(&mut changes).await?.incident.context("no open incident")?;
            ensure!(open.id == wanted && open.state() == IncidentState::Open, "{open:?}");
            let begun = until(&mut changes, |change| change.incident.is_none()).await?;
            ensure!(!begun.missed && begun.revision >= open.revision, "{begun:?}");
            ensure!(ctl.stdout(Stdio::null()).status()?.success());
            let is_closed = |change: &WatchIncidentsResponse| {
                change.incident.as_ref().is_some_and(|it| it.id == wanted && it.state() == IncidentState::Closed)
            };
            let closed = until(&mut changes, is_closed).await?;
            ensure!(closed.incident.as_ref().is_some_and(|it| it.standing == "thawed"), "{closed:?}");
            at.set(closed.revision);
            Ok(())
        })?;
        let revision = revision.get();
        node.kill9()?;
        node.restart()?;
        let of_b = act(node, "freeze", "b")?;
        let shown = node.json(["incident", "list"])?;
        let all = shown["incidents"].as_array().context("no list")?;
        let known: Vec<_> = all.iter().map(|it| (it["incident"].as_str(), it["run_name"].as_str())).collect();
        ensure!(known == [(Some(of_a.as_str()), Some("a")), (Some(of_b.as_str()), Some("b"))], "{shown}");
        ensure!(all.iter().all(|it| it["owner_uid"] == NOBODY), "{shown}");
        let watched = |since: u64| -> Result<Vec<serde_json::Value>> {
            let output =
                node.ctl(["incident", "watch", "--once", "--since", &since.to_string(), "-o", "json"])?.expect(0)?;
            output.out.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
        };
        let mut after = watched(revision)?;
        let last = after.pop().context("nothing came")?;
        ensure!(last["incident"].is_null() && last["missed"] == false && last["log_problem"].is_null(), "{last}");
        ensure!(
            !after.is_empty() && after.iter().all(|change| change["incident"]["incident"] == of_b.as_str()),
            "{after:?}"
        );
        let to = last["revision"].as_u64().context("no revision")?;
        let none = watched(to)?;
        ensure!(
            none.len() == 1 && none[0]["incident"].is_null() && none[0]["revision"].as_u64() >= Some(to),
            "{none:?}"
        );
        let all = watched(0)?;
        ensure!(all.iter().any(|change| change["incident"]["incident"] == of_a.as_str()), "{all:?}");
        let missed = watched(u64::MAX)?;
        ensure!(missed.len() == 1 && missed[0]["missed"] == true && missed[0]["incident"].is_null(), "{missed:?}");
        Ok(())
    })
}

#[test]
fn a_proved_thaw_of_a_guarded_run_closes_its_incident() -> Result<()> {
    on_node("inc-guarded", "", |node| {
        let _a = Launch::new("a", PLAIN).start(node, ["sleep", "600"])?;
        let id = act(node, "freeze", "a")?;
        let digest = node.run("a")?["policy_digest"].as_str().context("no digest")?.to_owned();
        node.kill9()?;
        let hex = digest.strip_prefix("sha256:").context("no digest")?;
        fs::remove_file(node.state_dir().join(format!("policies/{hex}.json")))?;
        node.restart()?;
        wait_for("the run is guarded", || Ok(node.run("a")?["state"] == "guarded"))?;
        let shown = |word: &str| -> Result<()> {
            let shown = node.json(["incident", "show", &id])?;
            ensure!(shown["state"] == word, "{shown}");
            Ok(())
        };
        shown("open")?;
        node.ctl(["thaw", "a", "--reason", "go on"])?.expect(0)?;
        shown("closed")?;
        let listed = node.json(["incident", "list", "--state", "open"])?;
        ensure!(listed["incidents"].as_array().is_some_and(Vec::is_empty), "{listed}");
        Ok(())
    })
}

#[test]
fn an_owner_sees_the_incidents_of_its_own_runs_only() -> Result<()> {
    on_node("inc-owner", "", |node| {
        let _own = Launch::new("own", PLAIN).user("nobody").start(node, ["sleep", "600"])?;
        let other_run = Launch::new("other", PLAIN).user("root").start(node, ["sleep", "600"])?;
        let (own, other) = (act(node, "freeze", "own")?, act(node, "freeze", "other")?);
        let listed = node.ctl_as(NOBODY, ["incident", "list", "-o", "json"])?.expect(0)?.json()?;
        let listed: Vec<_> =
            listed["incidents"].as_array().context("no list")?.iter().map(|it| it["incident"].clone()).collect();
        ensure!(listed == [own.as_str()], "{listed:?}");
        node.ctl_as(NOBODY, ["incident", "show", &own])?.expect(0)?;
        let hidden = node.ctl_as(NOBODY, ["incident", "show", &other])?.expect(6)?;
        let none = node.ctl_as(NOBODY, ["incident", "show", "inc-5f0c9a1b2c3d-1"])?.expect(6)?;
        let text = |output: &str, id: &str| output.replace(id, "ID");
        ensure!(text(&hidden.err, &other) == text(&none.err, "inc-5f0c9a1b2c3d-1"), "{hidden:?} {none:?}");
        let by_run = node.ctl_as(NOBODY, ["incident", "list", "--run", "other"])?.expect(6)?;
        ensure!(by_run.err.contains("no run `other`"), "{by_run:?}");
        // The id of a run that is hidden, and one that no run has.
        for id in [other_run.id(), "01a2252a-c7a0-7575-a3a7-09da37a735e2"] {
            let none = node.ctl_as(NOBODY, ["incident", "list", "--run", id])?.expect(6)?;
            ensure!(none.err.contains(&format!("no run `{id}`")), "{none:?}");
        }
        node.ctl(["incident", "list", "--run", other_run.id()])?.expect(0)?;
        let watched = node.ctl_as(NOBODY, ["incident", "watch", "--once"])?.expect(0)?.out;
        ensure!(watched.contains(&own) && !watched.contains(&other), "{watched}");
        let all = node.ctl(["incident", "list"])?.expect(0)?.out;
        ensure!(all.contains(&own) && all.contains(&other), "{all}");
        with_channel(node, |channel| async move {
            let request = v1::GetIncidentRequest { incident: "inc-5f0c9a1b2c3d-1".into() };
            let none = IncidentServiceClient::new(channel).get_incident(request).await.err().context("it was found")?;
            ensure!(ErrorReason::of(&none) == Some(ErrorReason::IncidentNotFound), "{none:?}");
            Ok(())
        })
    })
}

#[test]
fn runs_are_watched_from_their_start_to_their_end_and_after_a_break() -> Result<()> {
    on_node("runs-watch", "", |node| {
        let here = Launch::new("here", PLAIN).label("team=a").start(node, ["sleep", "600"])?;
        let (here_id, node) = (here.id().to_owned(), &*node);
        with_channel(node, |channel| async move {
            let mut client = RunServiceClient::new(channel.clone());
            let request = WatchRunsRequest { follow: true, ..Default::default() };
            let mut changes = client.watch_runs(request).await?.into_inner();
            let present = next(&mut changes).await?;
            ensure!(present.change() == RunChange::Present && present.run.is_some_and(|run| run.id == here_id));
            let begun = next(&mut changes).await?;
            ensure!(begun.run.is_none() && !begun.missed && begun.revision > 0, "{begun:?}");

            // Calls that block this thread: what the daemon sends meanwhile waits in the connection.
            let run = Launch::new("new", PLAIN).label("team=b").start(node, ["sleep", "600"])?;
            let of = |wanted: RunChange| {
                let id = run.id().to_owned();
                move |change: &WatchRunsResponse| {
                    change.change() == wanted && change.run.as_ref().is_some_and(|run| run.id == id)
                }
            };
            until(&mut changes, of(RunChange::Started)).await?;
            node.ctl(["freeze", "new", "--reason", "test"])?.expect(0)?;
            let frozen = until(&mut changes, of(RunChange::Contained)).await?;
            // Decided, or proved already.
            let state = frozen.run.map(|run| run.state()).context("no run")?;
            ensure!(matches!(state, v1::RunState::Partial | v1::RunState::Frozen), "{state:?}");
            node.ctl(["thaw", "new", "--reason", "test"])?.expect(0)?;
            let thawed = until(&mut changes, of(RunChange::State)).await?;
            node.ctl(["kill", "new", "--reason", "test"])?.expect(0)?;
            until(&mut changes, of(RunChange::Ended)).await?;

            let again = |revision, selector: &str| {
                let mut client = RunServiceClient::new(channel.clone());
                let request = WatchRunsRequest { revision: Some(revision), follow: false, selector: selector.into() };
                async move {
                    let mut stream = client.watch_runs(request).await?.into_inner();
                    let mut all = Vec::new();
                    while let Some(change) = stream.message().await? {
                        all.push(change);
                    }
                    anyhow::Ok(all)
                }
            };
            // What happened after a revision is one change of each run, as it is now.
            let after = again(thawed.revision, "").await?;
            ensure!(after.len() == 2 && of(RunChange::Ended)(&after[0]), "{after:?}");
            let (ended, last) = (after[0].revision, &after[1]);
            ensure!(last.run.is_none() && !last.missed && last.revision >= ended, "{after:?}");
            let of_other = again(thawed.revision, "team=a").await?;
            ensure!(of_other.len() == 1 && of_other[0].run.is_none(), "of another run: {of_other:?}");
            ensure!(of_other[0].revision >= ended && !of_other[0].missed, "it goes on from the end: {of_other:?}");
            for unknown in [0, 1, u64::MAX] {
                let missed = again(unknown, "").await?;
                ensure!(missed.len() == 1 && missed[0].missed && missed[0].run.is_none(), "{unknown}: {missed:?}");
            }
            Ok(())
        })
    })
}

#[test]
fn the_list_that_is_watched_prints_what_changes_and_names_no_run_of_others() -> Result<()> {
    on_node("list-watch", "", |node| {
        let _here = Launch::new("here", PLAIN).user("root").start(node, ["sleep", "600"])?;
        let watch = |uid: u32, file: &str| -> Result<(std::process::Child, std::path::PathBuf)> {
            let file = node.file(file);
            let mut command = node.ctl_command(["list", "--watch"]);
            if uid != 0 {
                command.uid(uid).gid(uid).current_dir("/");
            }
            Ok((command.stdin(Stdio::null()).stdout(File::create(&file)?).spawn()?, file))
        };
        let (mut all, of_root) = watch(0, "root.out")?;
        let (mut own, of_nobody) = watch(NOBODY, "nobody.out")?;
        let printed = |file: &std::path::Path, text: &str| Ok(fs::read_to_string(file)?.contains(text));
        for file in [&of_root, &of_nobody] {
            wait_for("the watch has begun", || printed(file, "watching from revision"))?;
        }
        let _new = Launch::new("mine", PLAIN).user("nobody").start(node, ["sleep", "600"])?;
        node.ctl(["freeze", "here", "--reason", "test"])?.expect(0)?;
        node.ctl(["kill", "mine", "--reason", "test"])?.expect(0)?;
        wait_for("the freeze is printed", || printed(&of_root, "contained"))?;
        for file in [&of_root, &of_nobody] {
            wait_for("the end is printed", || {
                Ok(fs::read_to_string(file)?.lines().any(|line| line.contains("  ended ") && line.contains("  mine  ")))
            })?;
        }
        ensure!(!printed(&of_nobody, "here")?, "{}", fs::read_to_string(&of_nobody)?);
        for watcher in [&mut all, &mut own] {
            watcher.kill()?;
            watcher.wait()?;
        }
        Ok(())
    })
}

#[test]
fn a_watch_reports_that_the_log_cannot_be_written_and_that_it_is_written_again() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        integration::skip("not root");
        return Ok(());
    }
    let folder = tempfile::Builder::new().prefix("failsafe-inc-full-").tempdir()?;
    let disk = Tmpfs::mount(&folder.path().join("mounted"), 8 << 10)?;
    let state = disk.path().join("state");
    on_node("inc-full", &format!("state_dir = {:?}\n", state.display().to_string()), |node| {
        node.use_state_dir(&state);
        let _a = Launch::new("a", PLAIN).start(node, ["sleep", "600"])?;
        let said = node.file("watch.out");
        let mut watch = node.ctl_command(["incident", "watch", "-o", "json"]);
        let mut watch = watch.stdin(Stdio::null()).stdout(File::create(&said)?).spawn()?;
        let is_said = |what: &dyn Fn(&serde_json::Value) -> bool| -> Result<bool> {
            let lines = fs::read_to_string(&said)?;
            Ok(lines.lines().filter_map(|line| serde_json::from_str(line).ok()).any(|line| what(&line)))
        };
        wait_for("the watch has begun", || is_said(&|line| line["revision"].is_u64()))?;
        let mut filler = File::create(disk.path().join("filler"))?;
        for size in [64 << 10, 512, 1] {
            while filler.write(&vec![0; size]).is_ok_and(|written| written > 0) {}
        }
        // More than finds room in the last page of the file. Each waits until its entries are durable.
        let commands = ["freeze", "thaw", "freeze"].map(|what| {
            let mut command = node.ctl_command([what, "a", "--reason", &"test ".repeat(100)]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
        });
        let problem =
            |line: &serde_json::Value| line["log_problem"].as_str().is_some_and(|why| why.contains("degraded"));
        wait_for("the problem of the log is reported", || is_said(&problem))?;
        filler.set_len(0)?;
        let incident = |line: &serde_json::Value| line["incident"]["run_name"] == "a";
        wait_for("the incident is reported", || is_said(&incident))?;
        let is_over = || -> Result<bool> {
            let lines = fs::read_to_string(&said)?;
            let lines: Vec<serde_json::Value> =
                lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            let last = lines.iter().rev().find(|line| line["incident"].is_null());
            Ok(last.is_some_and(|line| line["log_problem"].is_null()))
        };
        wait_for("the end of the problem is reported", is_over)?;
        for command in commands {
            command?.wait()?;
        }
        watch.kill()?;
        watch.wait()?;
        Ok(())
    })
}
