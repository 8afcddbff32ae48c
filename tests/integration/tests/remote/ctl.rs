//! failsafectl as a remote client of one node and of many.

use crate::{PLAIN, authority::Authority, door::on_door};
use anyhow::{Context, Result, ensure};
use integration::{CommandOutput, Launch};
use std::fs;

#[test]
fn failsafectl_asks_other_nodes_and_ends_with_the_worst_exit_code() -> Result<()> {
    on_door("rm-ctl", "", |node, door, _| {
        let _run = Launch::new("victim", PLAIN).start(node, ["sleep", "600"])?;
        let of = |identity: &str| -> Result<[(&'static str, std::path::PathBuf); 3]> {
            let signed = door.authority.client(identity)?;
            let file = |name: &str, text: &str| -> Result<std::path::PathBuf> {
                let path = node.file(name);
                fs::write(&path, text)?;
                Ok(path)
            };
            Ok([
                ("FAILSAFE_TLS_CA", file("door-ca.crt", &door.authority.pem)?),
                ("FAILSAFE_TLS_CERT", file("client.crt", &signed.certificate)?),
                ("FAILSAFE_TLS_KEY", file("client.key", &signed.key)?),
            ])
        };
        // The socket is of no use: whatever is answered came over the network.
        let ctl = |identity: &str, line: &str| -> Result<CommandOutput> {
            let mut command = node.ctl_command(line.split_whitespace());
            CommandOutput::of(command.env("FAILSAFE_SOCKET", "/nowhere").envs(of(identity)?))
        };
        let (here, nobody) = (format!("localhost:{}", door.address.port()), unused_port()?);
        let listed = ctl("dns:viewer", &format!("--host {here} list"))?.expect(0)?;
        ensure!(listed.out.contains("victim"), "{listed:?}");
        let events = ctl("dns:viewer", &format!("--host {here} events -o json"))?.expect(0)?;
        ensure!(events.out.contains("daemon"), "{events:?}");
        let refused = ctl("dns:viewer", &format!("--host {here} freeze victim --reason test"))?.expect(4)?;
        ensure!(refused.err.contains(&here) && refused.err.contains("the role of your certificate"), "{refused:?}");
        ensure!(node.run("victim")?["state"] == "running");
        for (line, what) in [("log verify", "it reads files"), ("events --offline", "it reads files")] {
            let refused = ctl("dns:viewer", &format!("--host {here} {line}"))?.expect(2)?;
            ensure!(refused.err.contains(what), "{refused:?}");
        }
        let gone = ctl("dns:viewer", &format!("--host localhost:{nobody} list"))?.expect(13)?;
        ensure!(gone.err.contains(&format!("cannot reach localhost:{nobody}")), "{gone:?}");

        let nodes = node.file("nodes");
        fs::write(&nodes, format!("{here} # this one\nlocalhost:{nobody}\n"))?;
        let all = format!("--hosts @{}", nodes.display());
        let both = ctl("dns:viewer", &format!("{all} list"))?.expect(13)?;
        ensure!(both.out.lines().all(|line| line.starts_with(&format!("{here}: "))), "{both:?}");
        ensure!(both.err.contains(&format!("1 of 2 nodes: exit code 0; 13: localhost:{nobody}")), "{both:?}");
        let both =
            ctl("uri:spiffe://test/operator", &format!("{all} freeze victim --reason test -o json"))?.expect(13)?;
        let lines: Result<Vec<serde_json::Value>, _> = both.out.lines().map(serde_json::from_str).collect();
        let lines = lines?;
        let done = lines.iter().find(|line| line["node"] == here.as_str()).context("a line of the node")?;
        ensure!(lines.len() == 2 && done["exit"] == 0 && done["output"].is_object(), "{lines:?}");
        ensure!(node.run("victim")?["state"] == "frozen");
        let follow = ctl("dns:viewer", &format!("{all} events --follow"))?.expect(2)?;
        ensure!(follow.err.contains("--host"), "{follow:?}");
        // A certificate of another authority.
        let other = Authority::new()?.client("dns:viewer")?;
        let (certificate, key) = (node.file("other.crt"), node.file("other.key"));
        fs::write(&certificate, other.certificate)?;
        fs::write(&key, other.key)?;
        let mut command = node.ctl_command(["--host", &here, "list"]);
        command.envs(of("dns:viewer")?).env("FAILSAFE_TLS_CERT", certificate).env("FAILSAFE_TLS_KEY", key);
        let refused = CommandOutput::of(&mut command)?.expect(1)?;
        ensure!(refused.err.contains(&here) && refused.err.contains("certificate"), "{refused:?}");
        Ok(())
    })
}

/// A port at which nobody listens.
fn unused_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
