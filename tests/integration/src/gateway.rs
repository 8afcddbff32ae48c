//! A gateway of a test's own: `failsafe-gateway` as an unprivileged user, in a cgroup of its own.

use crate::{NOBODY, Node, TestCgroup, program, skip, wait_for, wait_for_some};
use anyhow::{Context, Result, bail};
use nix::unistd::{Uid, chown, geteuid};
use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// The gateway. Dropped, it is killed.
#[derive(Debug)]
pub struct Gateway {
    child: Child,
    log: PathBuf,
}

/// A cgroup for the gateway; `None`: it cannot be made here, and the test is skipped.
pub fn cgroup(name: &str) -> Option<TestCgroup> {
    if !geteuid().is_root() {
        skip("not root");
        return None;
    }
    let made = TestCgroup::new(name);
    made.inspect_err(|error| skip(&error.to_string())).ok()
}

/// Lines of failsafed's configuration: the process of user `nobody` in this cgroup is the gateway.
pub fn accepts(cgroup: &TestCgroup) -> String {
    let name = cgroup.path().file_name().unwrap_or_default().to_string_lossy();
    format!("[gateway]\nuser = \"nobody\"\ncgroup = \"/{name}\"\n")
}

/// The same, and it may report metrics for runs.
pub fn receives(cgroup: &TestCgroup) -> String {
    format!("{}receive = true\n", accepts(cgroup))
}

/// A gateway that receives OTLP, and its socket, which every user may connect to.
///
/// # Errors
/// It cannot be started, or does not receive.
pub fn receiver(node: &Node, cgroup: &TestCgroup) -> Result<(Gateway, PathBuf)> {
    let folder = node.file("otlp");
    fs::create_dir_all(&folder)?;
    // The gateway makes its socket as its user.
    chown(&folder, Some(Uid::from_raw(NOBODY)), None)?;
    let socket = folder.join("otlp.sock");
    let settings = format!(
        "[receive]\nsocket = {:?}\nmetrics_socket = {:?}\n",
        socket.display().to_string(),
        node.metrics_socket().display().to_string()
    );
    let gateway = Gateway::start(node, cgroup.path(), &settings)?;
    wait_for("metrics are received", || Ok(gateway.log().contains("metrics of runs are received")))
        .with_context(|| gateway.log())?;
    Ok((gateway, socket))
}

impl Gateway {
    /// Starts it with these lines of configuration.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(node: &Node, cgroup: &Path, settings: &str) -> Result<Gateway> {
        Gateway::start_as(node, cgroup, NOBODY, settings)
    }

    /// The same as another user.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_as(node: &Node, cgroup: &Path, uid: u32, settings: &str) -> Result<Gateway> {
        let (config, log) = (node.file(&format!("gateway-{uid}.toml")), node.file(&format!("gateway-{uid}.log")));
        fs::write(&config, format!("socket = {:?}\n{settings}", node.socket().display().to_string()))?;
        // It joins the cgroup as root, and becomes the user in the same process.
        let script = "echo $$ > \"$1\"/cgroup.procs && shift && exec setpriv --clear-groups \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(cgroup).arg(format!("--reuid={uid}")).arg(format!("--regid={uid}"));
        command.arg(program("failsafe-gateway")?).arg("--config").arg(config).current_dir("/");
        command.env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        Ok(Gateway { child: command.spawn().context("starting failsafe-gateway")?, log })
    }

    /// What it wrote to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends it at once, as a crash would.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The address that follows `what` in its log.
    ///
    /// # Errors
    /// It ends, or writes none.
    pub fn address(&mut self, what: &str) -> Result<SocketAddr> {
        let found = wait_for_some(what, || {
            if let Some(status) = self.child.try_wait()? {
                bail!("the gateway ended: {status}");
            }
            let log = self.log();
            let line = log.lines().find(|line| line.contains(what));
            let address = line.and_then(|line| line.split("address=").nth(1)?.split_whitespace().next());
            Ok(address.and_then(|address| address.parse().ok()))
        });
        found.with_context(|| self.log())
    }

    /// The body of `/metrics`.
    ///
    /// # Errors
    /// The server does not answer, or not with 200.
    pub fn metrics(&mut self) -> Result<String> {
        let answer = get(self.address("metrics are served")?, "/metrics")?;
        let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no answer: {answer:?}"))?;
        if !head.starts_with("HTTP/1.1 200") {
            bail!("{head}");
        }
        Ok(body.to_owned())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the gateway's log\n{}---", self.log());
        }
    }
}

/// What an HTTP server answers, head and body.
///
/// # Errors
/// It cannot be reached.
pub fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Whether the text has this line.
pub fn has(text: &str, line: &str) -> bool {
    text.lines().any(|it| it == line)
}
