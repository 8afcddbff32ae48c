//! Notifications of the gateway, from a run of a real daemon to a server of the test.

use anyhow::{Context, Result, ensure};
use integration::{
    Hooks, Launch, NOBODY, Node, TestCgroup,
    gateway::{Gateway, accepts, cgroup, has},
    on_node, skip, wait_for, wait_for_some,
};
use nix::unistd::{Uid, chown};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

const PLAIN: &str = "[policy]\nname = \"plain\"\nowner = \"tests\"\n";
const READS: &str = "events are read for notifications";

fn allows(cgroup: &TestCgroup) -> String {
    format!("{}notifications = true\n", accepts(cgroup))
}

/// A folder for the queue, which the gateway's user can write to.
fn folder(node: &Node) -> Result<PathBuf> {
    let folder = node.file("queue");
    std::fs::create_dir_all(&folder)?;
    chown(&folder, Some(Uid::from_raw(NOBODY)), None)?;
    Ok(folder)
}

fn webhook(name: &str, hooks: &Hooks) -> String {
    format!("[notify.target.{name}]\ntype = \"webhook\"\nurl = {:?}\n", hooks.url())
}

fn reads(gateway: &Gateway) -> Result<()> {
    wait_for("events are read", || Ok(gateway.log().contains(READS))).with_context(|| gateway.log())
}

/// The messages that a server took, in their order. A gateway that is killed before it noted an answer sends the same message
/// again, with the same id.
fn messages(hooks: &Hooks) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    hooks.taken().into_iter().filter(|event| seen.insert(event["id"].to_string())).collect()
}

/// The standings of incidents in them.
fn standings(hooks: &Hooks) -> Vec<String> {
    let standing = |event: &Value| event["data"]["standing"].as_str().unwrap_or_default().to_owned();
    messages(hooks).iter().filter(|event| event["type"] == "failsafe.v1.incident").map(standing).collect()
}

#[test]
fn an_incident_is_reported_once_although_gateway_and_target_are_away_meanwhile() -> Result<()> {
    let Some(cgroup) = cgroup("gw-notify") else { return Ok(()) };
    on_node("gw-notify", &allows(&cgroup), |node| {
        let (up, down) = (Hooks::start(200)?, Hooks::start(503)?);
        let settings = format!(
            "[notify]\nstate_dir = {:?}\nnode = \"node7\"\n{}{}",
            folder(node)?.display().to_string(),
            webhook("up", &up),
            webhook("down", &down)
        );
        let mut gateway = Gateway::start(node, cgroup.path(), &settings)?;
        reads(&gateway)?;
        let run = Launch::new("trainer", PLAIN).label("team=llm").start(node, ["sleep", "600"])?;
        node.ctl(["freeze", "trainer", "--reason", "loss is odd"])?.expect(0)?;
        wait_for("the freeze is reported", || Ok(standings(&up) == ["contained"])).with_context(|| gateway.log())?;
        let event = up.taken().into_iter().find(|it| it["type"] == "failsafe.v1.incident").context("the event")?;
        let data = &event["data"];
        let incident = node.run("trainer")?["incident"].as_str().context("its incident")?.to_owned();
        ensure!(data["run"]["name"] == "trainer" && data["run"]["labels"]["team"] == "llm", "{data}");
        ensure!(data["key"] == incident && data["next"] == format!("failsafectl explain {incident}"), "{data}");
        ensure!(data["condition"].as_str().is_some_and(|it| it.contains("loss is odd")), "{data}");
        ensure!(data["done"][0].as_str().is_some_and(|it| it.starts_with("freeze: proved")), "{data}");
        // What happens while the gateway is away is reported when it is back.
        gateway.kill()?;
        node.ctl(["thaw", "trainer", "--reason", "it was not"])?.expect(0)?;
        let mut gateway = Gateway::start(node, cgroup.path(), &settings)?;
        wait_for("the thaw is reported", || Ok(standings(&up) == ["contained", "thawed"]))
            .with_context(|| gateway.log())?;
        // So is what happens while the daemon is away from the gateway.
        node.kill9()?;
        node.restart()?;
        node.ctl(["freeze", "trainer", "--reason", "again"])?.expect(0)?;
        wait_for("the second freeze is reported", || Ok(standings(&up).len() == 3)).with_context(|| gateway.log())?;
        gateway.kill()?;
        let gateway = Gateway::start(node, cgroup.path(), &settings)?;
        reads(&gateway)?;
        // The other target gets all of it, in the same order.
        down.answer_with(200);
        wait_for("the target that was away has all", || Ok(standings(&down).len() == 3))
            .with_context(|| gateway.log())?;
        let all = ["contained", "thawed", "contained"];
        ensure!(standings(&up) == all && standings(&down) == all, "{:?} {:?}", up.taken(), down.taken());
        ensure!(messages(&up) == messages(&down), "{:?} {:?}", messages(&up), messages(&down));
        drop(run);
        Ok(())
    })
}

#[test]
fn routes_send_a_message_to_the_targets_that_they_name() -> Result<()> {
    let Some(cgroup) = cgroup("gw-routes") else { return Ok(()) };
    on_node("gw-routes", &allows(&cgroup), |node| {
        let (llm, others, health) = (Hooks::start(200)?, Hooks::start(200)?, Hooks::start(200)?);
        let route = |name: &str, hooks: &Hooks, route: &str| {
            format!("{}[[notify.target.{name}.route]]\n{route}\n", webhook(name, hooks))
        };
        let settings = format!(
            "[metrics]\naddress = \"127.0.0.1:0\"\n[notify]\nstate_dir = {:?}\n{}{}{}",
            folder(node)?.display().to_string(),
            route("llm", &llm, "labels = { team = \"llm\" }\nabout = [\"incident\"]"),
            route("others", &others, "owners = [4242]"),
            route("health", &health, "about = [\"health\"]"),
        );
        let mut gateway = Gateway::start(node, cgroup.path(), &settings)?;
        reads(&gateway)?;
        let run = Launch::new("trainer", PLAIN).label("team=llm").start(node, ["sleep", "600"])?;
        node.ctl(["freeze", "trainer", "--reason", "test"])?.expect(0)?;
        node.ctl(["node", "cordon", "--reason", "test"])?.expect(0)?;
        wait_for("both are reported", || Ok(standings(&llm) == ["contained"] && !health.taken().is_empty()))
            .with_context(|| gateway.log())?;
        let cordon = health.taken().into_iter().next_back().context("the cordon")?;
        ensure!(cordon["data"]["standing"] == "draining" && cordon["data"]["key"] == "health/node", "{cordon}");
        ensure!(health.taken().iter().all(|it| it["type"] == "failsafe.v1.health"), "{:?}", health.taken());
        let sent = "failsafe_gateway_notifications_sent_total{target=\"llm\"} 1";
        wait_for("it is counted", || Ok(has(&gateway.metrics()?, sent)))?;
        let text = gateway.metrics()?;
        ensure!(has(&text, "failsafe_gateway_notifications_up 1"), "{text}");
        ensure!(has(&text, "failsafe_gateway_notifications_queued{target=\"others\"} 0"), "{text}");
        ensure!(others.taken().is_empty(), "{:?}", others.taken());
        drop(run);
        Ok(())
    })
}

#[test]
fn a_gateway_that_may_not_read_the_log_names_the_setting_that_is_missing() -> Result<()> {
    let Some(cgroup) = cgroup("gw-denied") else { return Ok(()) };
    on_node("gw-denied", &accepts(&cgroup), |node| {
        let settings = format!(
            "[notify]\nstate_dir = {:?}\n[notify.target.a]\ntype = \"journald\"\n",
            folder(node)?.display().to_string()
        );
        let gateway = Gateway::start(node, cgroup.path(), &settings)?;
        wait_for("the log has the setting", || Ok(gateway.log().contains("`gateway.notifications = true`")))?;
        ensure!(!gateway.log().contains(READS), "{}", gateway.log());
        Ok(())
    })
}

/// Debian's Alertmanager. Dropped, it is killed.
struct Alertmanager {
    child: Child,
    url: String,
}

impl Alertmanager {
    /// `None`: it is not installed.
    fn start(node: &Node) -> Result<Option<Alertmanager>> {
        let config = node.file("alertmanager.yml");
        std::fs::write(&config, "route:\n  receiver: none\nreceivers:\n  - name: none\n")?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let spawned = Command::new("prometheus-alertmanager")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}", node.file("alertmanager").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--cluster.listen-address=")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(node.file("alertmanager.log"))?)
            .spawn();
        let child = match spawned {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            child => child?,
        };
        Ok(Some(Alertmanager { child, url: format!("http://127.0.0.1:{port}") }))
    }

    /// The alerts that are open.
    fn alerts(&self) -> Result<Vec<Value>> {
        let Ok(mut stream) = TcpStream::connect(self.url.trim_start_matches("http://")) else { return Ok(Vec::new()) };
        // By HTTP/1.0 the answer ends with the connection.
        stream.write_all(b"GET /api/v2/alerts HTTP/1.0\r\nHost: test\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        Ok(serde_json::from_str(body).unwrap_or_default())
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn alertmanager_opens_an_alert_for_an_incident_and_closes_it_after_the_thaw() -> Result<()> {
    let Some(cgroup) = cgroup("gw-alerts") else { return Ok(()) };
    on_node("gw-alerts", &allows(&cgroup), |node| {
        let Some(manager) = Alertmanager::start(node)? else {
            skip("prometheus-alertmanager is not installed");
            return Ok(());
        };
        let settings = format!(
            "[notify]\nstate_dir = {:?}\nnode = \"node7\"\n[notify.target.am]\ntype = \"alertmanager\"\nurl = {:?}\n\
             [[notify.target.am.route]]\nabout = [\"incident\"]\n",
            folder(node)?.display().to_string(),
            manager.url
        );
        let gateway = Gateway::start(node, cgroup.path(), &settings)?;
        reads(&gateway)?;
        let run = Launch::new("trainer", PLAIN).start(node, ["sleep", "600"])?;
        node.ctl(["freeze", "trainer", "--reason", "test"])?.expect(0)?;
        let alert = wait_for_some("the alert is open", || Ok(manager.alerts()?.into_iter().next()))
            .with_context(|| gateway.log())?;
        let labels = &alert["labels"];
        ensure!(labels["alertname"] == "FailsafeIncident" && labels["instance"] == "node7", "{alert}");
        ensure!(labels["run_name"] == "trainer" && labels["run"] == run.id(), "{alert}");
        ensure!(alert["annotations"]["standing"] == "contained", "{alert}");
        node.ctl(["thaw", "trainer", "--reason", "test"])?.expect(0)?;
        wait_for("the alert is closed", || Ok(manager.alerts()?.is_empty())).with_context(|| gateway.log())?;
        Ok(())
    })
}
