//! Connections that a cgroup has open when it is registered.

use anyhow::{Context, Result, ensure};
use integration::{Node, TestCgroup, frozen, on_node, wait_for};
use std::{
    io::Read,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// A server whose address no name server names, and how much it got.
struct Server {
    address: String,
    port: u16,
    got: Arc<AtomicU64>,
}

impl Server {
    fn start(ip: &str) -> Result<Server> {
        let listener = TcpListener::bind((ip, 0)).context("binding the server")?;
        let (address, got) = (listener.local_addr()?, Arc::new(AtomicU64::new(0)));
        let counted = got.clone();
        thread::spawn(move || {
            let count = |mut stream: TcpStream| {
                let mut bytes = [0; 256];
                while let Ok(n @ 1..) = stream.read(&mut bytes) {
                    counted.fetch_add(n as u64, Ordering::Relaxed);
                }
            };
            listener.incoming().map_while(Result::ok).for_each(count);
        });
        Ok(Server { address: address.to_string(), port: address.port(), got })
    }

    fn goes_on(&self, when: &str) -> Result<()> {
        let before = self.got.load(Ordering::Relaxed);
        wait_for(&format!("more comes {when}"), || Ok(self.got.load(Ordering::Relaxed) >= before + 20))
    }
}

/// Bash with a connection over which it writes without end.
struct Talker(Child);

impl Talker {
    fn start(cgroup: &Path, server: &Server) -> Result<Talker> {
        let (ip, port) = server.address.rsplit_once(':').context("no port")?;
        let script = format!(
            "echo $$ > {}/cgroup.procs && exec 3<>/dev/tcp/{ip}/{port} && while printf x >&3; do sleep 0.02; done",
            cgroup.display()
        );
        let talker =
            Command::new("bash").args(["-c", &script]).stdin(Stdio::null()).spawn().context("starting bash")?;
        Ok(Talker(talker))
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn policy(node: &Node, server: &Server) -> Result<String> {
    let text = format!(
        "[policy]\nname = \"named\"\nowner = \"tests\"\n[egress]\ndns_servers = [\"127.53.1.1\"]\n\
         allow = [{{ host = \"data.example.org\", ports = {}, protocol = \"tcp\" }}]\n\
         [[rule]]\nid = \"denied\"\nrationale = \"r\"\nwhen = {{ event = \"send\", verdict = \"denied\" }}\n\
         actions = [\"freeze\"]\n",
        server.port
    );
    Ok(node.policy("named", &text)?.display().to_string())
}

#[test]
fn a_connection_that_a_host_entry_may_allow_is_kept_where_that_is_asked_for_and_over_a_restart() -> Result<()> {
    on_node("kept-connection", "", |node| {
        let server = Server::start("127.77.5.1")?;
        let cgroup = TestCgroup::new("kept-connection")?;
        let talker = Talker::start(cgroup.path(), &server)?;
        server.goes_on("before the registration")?;
        let (policy, path) = (policy(node, &server)?, cgroup.path().display().to_string());
        let run = node.json(["register", "-p", &policy, "-n", "kept", "--cgroup", &path, "--adopt-connections"])?;
        ensure!(run["processes"].as_u64() >= Some(1), "{run}");
        let open = &run["connections"][0];
        ensure!(open["remote"] == server.address && open["kept"] == true && open["protocol"] == "tcp", "{run}");
        ensure!(
            open["hosts"][0] == "data.example.org" && run["connections"].as_array().map(Vec::len) == Some(1),
            "{run}"
        );
        server.goes_on("after the registration")?;
        let gap = node.wait_for_event("what was kept", |e| {
            e["body"]["type"] == "gap" && e["body"]["what"].as_str().is_some_and(|what| what.contains(&server.address))
        })?;
        ensure!(gap["body"]["what"].as_str().is_some_and(|what| what.contains("kept")), "{gap}");
        node.kill9()?;
        server.goes_on("while no daemon runs")?;
        node.restart()?;
        server.goes_on("under the next daemon")?;
        ensure!(node.run("kept")?["state"] == "running" && !frozen(cgroup.path())?);
        drop(talker);
        node.log_is_whole()
    })
}

#[test]
fn a_connection_that_the_list_does_not_name_is_reported_when_it_is_cut() -> Result<()> {
    on_node("cut-connection", "", |node| {
        let server = Server::start("127.77.5.2")?;
        let cgroup = TestCgroup::new("cut-connection")?;
        let talker = Talker::start(cgroup.path(), &server)?;
        server.goes_on("before the registration")?;
        let (policy, path) = (policy(node, &server)?, cgroup.path().display().to_string());
        let output = node.ctl(["register", "-p", &policy, "-n", "cut", "--cgroup", &path])?.expect(0)?;
        ensure!(output.out.contains("process in") || output.out.contains("processes in"), "{}", output.out);
        ensure!(!output.out.contains("(0 processes"), "{}", output.out);
        ensure!(output.err.contains(&server.address) && output.err.contains("--adopt-connections"), "{}", output.err);
        wait_for("its policy acts on it", || frozen(cgroup.path()))?;
        node.wait_for_event("what was cut", |e| {
            e["body"]["type"] == "gap"
                && e["body"]["what"]
                    .as_str()
                    .is_some_and(|w| w.contains("packets are dropped") && w.contains(&server.address))
        })?;
        node.ctl(["thaw", "cut", "--reason", "the test is over"])?.expect(0)?;
        drop(talker);
        node.log_is_whole()
    })
}
