//! Ordinary jobs under each shipped policy: each ends well, and no rule decides anything.

use anyhow::{Context, Result, bail, ensure};
use integration::{CommandOutput, Node, on_node, skip, wait_for, wait_for_some};
use ordinary::{
    names::Server,
    policy::{Needs, for_test},
};
use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

const NOBODY: u32 = 65_534;
const PYTHON: &str = "/usr/bin/python3";
/// The zone of the test's name server, and a name in it.
const ZONE: &str = "ordinary.test";
const HOST: &str = "two.ordinary.test";

/// The shipped policies that runs are started under; each has a test below. The others are catalogues and checks of the node.
const POLICIES: [&str; 11] = [
    "exfiltration",
    "fine-tuning",
    "gpu-overheating",
    "hardware",
    "inference-test",
    "lockdown",
    "loss-divergence",
    "online-evaluation",
    "pre-training",
    "rl-tools",
    "trainer-baseline",
];

#[test]
fn every_shipped_policy_of_runs_is_tested() -> Result<()> {
    let mut shipped = Vec::new();
    for entry in fs::read_dir(root().join("policies"))? {
        let path = entry?.path();
        if fs::read_to_string(&path)?.lines().any(|line| line == "[policy]") {
            shipped.push(path.file_stem().unwrap_or_default().to_string_lossy().into_owned());
        }
    }
    shipped.sort();
    ensure!(shipped == POLICIES, "{shipped:?} are shipped, {POLICIES:?} are tested");
    Ok(())
}

#[test]
fn exfiltration_stops_no_ordinary_job() -> Result<()> {
    ordinary(0)
}

#[test]
fn fine_tuning_stops_no_ordinary_job() -> Result<()> {
    ordinary(1)
}

#[test]
fn gpu_overheating_stops_no_ordinary_job() -> Result<()> {
    ordinary(2)
}

#[test]
fn hardware_stops_no_ordinary_job() -> Result<()> {
    ordinary(3)
}

#[test]
fn inference_test_stops_no_ordinary_job() -> Result<()> {
    ordinary(4)
}

#[test]
fn lockdown_stops_no_ordinary_job() -> Result<()> {
    ordinary(5)
}

#[test]
fn loss_divergence_stops_no_ordinary_job() -> Result<()> {
    ordinary(6)
}

#[test]
fn online_evaluation_stops_no_ordinary_job() -> Result<()> {
    ordinary(7)
}

#[test]
fn pre_training_stops_no_ordinary_job() -> Result<()> {
    ordinary(8)
}

#[test]
fn rl_tools_stops_no_ordinary_job() -> Result<()> {
    ordinary(9)
}

#[test]
fn trainer_baseline_stops_no_ordinary_job() -> Result<()> {
    ordinary(10)
}

fn ordinary(policy: u8) -> Result<()> {
    if CommandOutput::of(Command::new(PYTHON).arg("--version")).is_err() {
        skip(&format!("{PYTHON} is not installed"));
        return Ok(());
    }
    let name = POLICIES[usize::from(policy)];
    on_node(&format!("ordinary-{policy}"), "", |node| {
        let around = Around::start(node, 61 + policy)?;
        jobs_under(node, &around, name)?;
        node.log_is_whole()
    })
}

/// What the tests above would miss if nothing were watched: datagrams and connects that are not allowed.
#[test]
fn the_same_policies_stop_what_leaves_their_list() -> Result<()> {
    on_node("not-ordinary", "", |node| {
        let around = Around::start(node, 60)?;
        for (policy, call) in [("exfiltration", "tcp"), ("exfiltration", "udp"), ("lockdown", "connected-udp")] {
            let script = around.jobs.join("leaves.py").display().to_string();
            let name = format!("{policy}-{call}");
            let mut run = around.run(node, &name, policy, &[PYTHON, "-I", &script, call])?;
            // It is listed once failsafectl has asked for it.
            let frozen = wait_for(&format!("{name} is frozen"), || {
                Ok(node.run(&name).is_ok_and(|run| run["state"] == "frozen"))
            });
            node.ctl(["kill", &name, "--reason", "the test is over"])?;
            run.wait()?;
            frozen?;
        }
        Ok(())
    })
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn jobs_under(node: &Node, around: &Around, name: &str) -> Result<()> {
    let script = around.jobs.join("all.sh").display().to_string();
    let mut run = around.run(node, name, name, &["/bin/sh", &script])?;
    let output = |what: &str| fs::read_to_string(node.file(&format!("{name}.{what}"))).unwrap_or_default();
    let mut counted = serde_json::Value::Null;
    let ended = wait_for_some(&format!("the jobs under {name} end"), || {
        if let Some(status) = run.try_wait()? {
            return Ok(Some(status));
        }
        // The run may not be listed yet.
        match node.run(name) {
            Ok(run) if run["state"] == "frozen" => bail!("the run was frozen"),
            Ok(run) if output("out").contains("JOBS done") => {
                counted = run["kernel"].clone();
                fs::write(node.file(&format!("work-{name}/seen")), "")?;
                Ok(None)
            }
            _ => Ok(None),
        }
    });
    if ended.is_err() {
        node.ctl(["kill", name, "--reason", "the test is over"])?;
        run.wait()?;
    }
    let explain = || {
        let page = node.ctl(["explain", name]).map(|output| output.out).unwrap_or_default();
        format!("{page}\n{}{}", output("out"), output("err"))
    };
    let status = ended.with_context(explain)?;
    for line in output("out").lines().filter(|line| line.contains(" SKIPPED ")) {
        skip(&format!("under {name}: {}", line.trim_start_matches("JOB ")));
    }
    ensure!(status.success(), "the jobs ended with {status}\n{}", explain());
    wait_for("the run has ended", || Ok(node.run(name)?["state"] == "ended"))?;
    let seen = node.run(name)?;
    ensure!(seen["decisions"] == 0, "{} decisions\n{}", seen["decisions"], explain());
    ensure!(counted["denied_calls"] == 0 && counted["dropped_packets"] == 0, "{counted}\n{}", explain());
    Ok(())
}

/// What the jobs find around them: a name server and what it leads to. Dropped, all of it ends.
struct Around {
    _names: Server,
    /// Names have several addresses, as those of most services; this one is served.
    served: Ipv4Addr,
    name_server: Ipv4Addr,
    servers: Vec<Child>,
    jobs: PathBuf,
    resolv_conf: PathBuf,
    env: Vec<(&'static str, String)>,
}

impl Around {
    /// At addresses of 127.0.`net`.0/24: each test has its own.
    fn start(node: &Node, net: u8) -> Result<Around> {
        let [served, unserved, name_server] = [1, 2, 53].map(|host| Ipv4Addr::new(127, 0, net, host));
        let (web, jobs) = (node.file("web"), node.file("jobs"));
        let simple = web.join("simple/ordinary-demo");
        fs::create_dir_all(&simple)?;
        fs::create_dir_all(&jobs)?;
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("jobs"))? {
            let from = entry?.path();
            fs::copy(&from, jobs.join(from.file_name().unwrap_or_default()))?;
        }
        CommandOutput::of(Command::new(PYTHON).arg(jobs.join("wheel.py")).arg(&simple))?.expect(0)?;
        let resolv_conf = node.file("resolv.conf");
        fs::write(&resolv_conf, format!("nameserver {name_server}\n"))?;
        let names = Server::start(name_server, ZONE, vec![unserved.into(), served.into()])?;
        let mut around =
            Around { _names: names, served, name_server, servers: Vec::new(), jobs, resolv_conf, env: Vec::new() };
        let port = around.free_port()?;
        around.serve(
            port,
            Command::new(PYTHON)
                .args(["-I", "-m", "http.server", "--bind"])
                .arg(served.to_string())
                .arg(port.to_string())
                .arg("--directory")
                .arg(&web),
        )?;
        let git = around.git(&node.file("git"))?;
        let rsync = around.rsync(node, &web)?;
        let (ssh, key) = (around.ssh(node)?, node.file("ssh/key"));
        around.env = vec![
            ("PYTHON", PYTHON.into()),
            ("HOST", HOST.into()),
            ("WEB", port.to_string()),
            ("GIT", git),
            ("RSYNC", rsync),
            ("SSH", ssh),
            ("KEY", key.display().to_string()),
            ("JOBS", around.jobs.display().to_string()),
        ];
        Ok(around)
    }

    fn free_port(&self) -> Result<u16> {
        Ok(TcpListener::bind((self.served, 0))?.local_addr()?.port())
    }

    /// Starts a server, and waits until it takes connections.
    fn serve(&mut self, port: u16, command: &mut Command) -> Result<()> {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.servers.push(quiet.spawn().with_context(|| format!("starting {command:?}"))?);
        wait_for(&format!("a server at port {port}"), || Ok(TcpStream::connect((self.served, port)).is_ok()))
    }

    /// A repository that anybody may clone; its port, or empty where git has no daemon.
    fn git(&mut self, folder: &Path) -> Result<String> {
        let Ok(output) = CommandOutput::of(Command::new("git").arg("--exec-path")) else { return Ok(String::new()) };
        let daemon = Path::new(output.out.trim()).join("git-daemon");
        if !daemon.is_file() {
            return Ok(String::new());
        }
        let repo = folder.join("repo");
        fs::create_dir_all(&repo)?;
        let git = |args: &[&str]| {
            let who = ["-c", "user.name=t", "-c", "user.email=t@example.org"];
            CommandOutput::of(Command::new("git").arg("-C").arg(&repo).args(who).args(args).env("HOME", folder))?
                .expect(0)
        };
        git(&["init", "-q"])?;
        git(&["commit", "-q", "--allow-empty", "-m", "the first"])?;
        let port = self.free_port()?;
        let (listen, port_arg) = (format!("--listen={}", self.served), format!("--port={port}"));
        let base = format!("--base-path={}", folder.display());
        let args = ["--export-all", "--reuseaddr", &listen, &port_arg, &base];
        self.serve(port, Command::new(daemon).args(args).arg(folder).env("HOME", folder))?;
        Ok(port.to_string())
    }

    /// The web's folder by rsync; its port, or empty where rsync is not installed.
    fn rsync(&mut self, node: &Node, web: &Path) -> Result<String> {
        if CommandOutput::of(Command::new("rsync").arg("--version")).is_err() {
            return Ok(String::new());
        }
        let port = self.free_port()?;
        let config = node.file("rsyncd.conf");
        let text = format!("use chroot = no\n[web]\npath = {}\nread only = yes\n", web.display());
        fs::write(&config, text)?;
        let file = format!("--config={}", config.display());
        let (at, port_arg) = (format!("--address={}", self.served), format!("--port={port}"));
        self.serve(port, Command::new("rsync").args(["--daemon", "--no-detach", &file, &at, &port_arg]))?;
        Ok(port.to_string())
    }

    /// An SSH server that takes the key `ssh/key`; its port, or empty where there is none.
    fn ssh(&mut self, node: &Node) -> Result<String> {
        let (sshd, folder) = (Path::new("/usr/sbin/sshd"), node.file("ssh"));
        if !sshd.is_file() {
            return Ok(String::new());
        }
        fs::create_dir_all(&folder)?;
        // It separates privileges there.
        fs::create_dir_all("/run/sshd")?;
        let keys = ["host", "key"].map(|name| folder.join(name));
        for key in &keys {
            CommandOutput::of(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(key))?
                .expect(0)?;
        }
        let [host, key] = keys;
        chown(&key, Some(NOBODY), Some(NOBODY))?;
        let port = self.free_port()?;
        let config = folder.join("sshd_config");
        let lines = [
            format!("ListenAddress {}:{port}", self.served),
            format!("HostKey {}", host.display()),
            format!("AuthorizedKeysFile {}.pub", key.display()),
            format!("PidFile {}", folder.join("pid").display()),
            // The folder of the test lies below /tmp, which all may write to.
            "StrictModes no".to_owned(),
            "PermitRootLogin yes".to_owned(),
        ];
        fs::write(&config, lines.join("\n"))?;
        self.serve(port, Command::new(sshd).arg("-D").arg("-f").arg(&config))?;
        Ok(port.to_string())
    }

    /// Starts a run under a shipped policy, with what the jobs need on its list. It resolves names by the test's own server.
    fn run(&self, node: &Node, name: &str, shipped: &str, command: &[&str]) -> Result<Child> {
        let needs = Needs { server: self.name_server, host: &format!("*.{ZONE}") };
        let policy = node.policy(
            name,
            &for_test(&fs::read_to_string(root().join("policies").join(format!("{shipped}.toml")))?, needs),
        )?;
        let work = node.file(&format!("work-{name}"));
        fs::create_dir(&work)?;
        chown(&work, Some(NOBODY), Some(NOBODY))?;
        fs::set_permissions(&work, fs::Permissions::from_mode(0o755))?;
        let mut ctl = node.ctl_command(["run", "--no-watch", "--user", "nobody", "--name", name, "--policy"]);
        ctl.arg(policy);
        let passed = self.env.iter().map(|(key, _)| *key).filter(|key| *key != "SSH").chain(["SSH", "WORK", "TMPDIR"]);
        for key in passed {
            ctl.args(["--env", key]);
        }
        ctl.arg("--").args(command);
        // failsafectl becomes the job: it gets the mount namespace in which resolv.conf is the test's. The network is the host's.
        let mut apart = Command::new("unshare");
        apart.args(["--mount", "--propagation", "private", "sh", "-c"]);
        apart.arg("mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"").arg(&self.resolv_conf);
        apart.arg(ctl.get_program()).args(ctl.get_args());
        apart.envs(ctl.get_envs().filter_map(|(key, value)| Some((key, value?))));
        apart.envs(self.env.iter().map(|(key, value)| (*key, value.as_str())));
        if name.starts_with("lockdown") {
            // Its rule `no-secrets` stops who opens /etc/ssh.
            apart.env("SSH", "");
        }
        apart.env("WORK", &work).env("HOME", &work).env("TMPDIR", &work).current_dir("/").stdin(Stdio::null());
        let file = |what| fs::File::create(node.file(&format!("{name}.{what}")));
        apart.stdout(file("out")?).stderr(file("err")?).spawn().context("starting a run")
    }
}

impl Drop for Around {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}
