//! Which certificates are accepted, and how a refused one is reported.

use crate::{
    authority::{Authority, name},
    door::{Door, client, connect, control, is, on_door, write},
};
use anyhow::{Result, ensure};
use failsafe_proto::v1::{Command, HealthRequest, StatusRequest, node_service_client::NodeServiceClient};
use integration::{gateway::has, wait_for};
use rcgen::{ExtendedKeyUsagePurpose, SanType};
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream as StdStream,
};
use tonic::Code;

#[test]
fn only_certificates_of_the_authority_for_clients_get_in() -> Result<()> {
    on_door("rm-certs", "", |_, door, _| {
        let other = Authority::new()?;
        let ca = &door.authority;
        let admin = || name("email:admin@test");
        let ended = ca.sign(admin()?, ExtendedKeyUsagePurpose::ClientAuth, true)?;
        let server = ca.sign(admin()?, ExtendedKeyUsagePurpose::ServerAuth, false)?;
        let address = SanType::IpAddress([127, 0, 0, 1].into());
        let nobody = ca.sign(address, ExtendedKeyUsagePurpose::ClientAuth, false)?;
        let foreign = other.client("email:admin@test")?;
        let attempts = [
            ("no certificate", None),
            ("a certificate of another authority", Some(&foreign)),
            ("an expired certificate", Some(&ended)),
            ("a certificate for servers", Some(&server)),
            ("a certificate that names nobody", Some(&nobody)),
        ];
        for (what, signed) in attempts {
            let answer = client(async {
                let channel = connect(door.address, &ca.pem, signed).await?;
                Ok(NodeServiceClient::new(channel).health(HealthRequest {}).await?)
            });
            ensure!(answer.is_err(), "{what}: {answer:?}");
        }
        // Without TLS nothing is answered.
        let mut plain = StdStream::connect(door.address)?;
        plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        let mut answer = Vec::new();
        let _closed = plain.read_to_end(&mut answer);
        ensure!(!answer.windows(4).any(|bytes| bytes == b"HTTP"), "{answer:?}");
        client(async {
            NodeServiceClient::new(door.connect("dns:viewer").await?).health(HealthRequest {}).await?;
            Ok(())
        })
    })
}

#[test]
fn certificates_are_reloaded_and_a_file_with_a_mistake_changes_nothing() -> Result<()> {
    on_door("rm-certs-reload", "", |node, door, _| {
        let works = |door: &Door| {
            client(async {
                NodeServiceClient::new(door.connect("dns:viewer").await?).status(StatusRequest {}).await?;
                Ok(())
            })
        };
        works(door)?;
        let text = door.gateway.metrics()?;
        ensure!(text.contains("failsafe_gateway_certificate_expiry_timestamp_seconds{certificate=\"node\"}"), "{text}");
        fs::write(node.file("node.key"), "no key")?;
        wait_for("the mistake is reported", || Ok(door.gateway.log().contains("remote.key")))?;
        works(door)?;
        let old = std::mem::replace(&mut door.authority, Authority::new()?);
        write(node, &door.authority.server()?, &door.authority.pem)?;
        wait_for("the new certificates are used", || Ok(works(door).is_ok()))?;
        let answer = client(async {
            let channel = connect(door.address, &door.authority.pem, Some(&old.client("dns:viewer")?)).await?;
            Ok(NodeServiceClient::new(channel).status(StatusRequest {}).await?)
        });
        ensure!(answer.is_err(), "a client of the old authority: {answer:?}");
        ensure!(has(&door.gateway.metrics()?, "failsafe_up 1"));
        Ok(())
    })
}

#[test]
fn what_is_refused_is_counted_by_its_reason_and_logged_with_the_client() -> Result<()> {
    on_door("rm-refused", "", |_, door, _| {
        let admin = || name("email:admin@test");
        let ended = door.authority.sign(admin()?, ExtendedKeyUsagePurpose::ClientAuth, true)?;
        let foreign = Authority::new()?.client("email:admin@test")?;
        let address = SanType::IpAddress([127, 0, 0, 1].into());
        let unnamed = door.authority.sign(address, ExtendedKeyUsagePurpose::ClientAuth, false)?;
        for signed in [None, Some(&foreign), Some(&ended), Some(&unnamed)] {
            let answer = client(async {
                let channel = connect(door.address, &door.authority.pem, signed).await?;
                Ok(NodeServiceClient::new(channel).health(HealthRequest {}).await?)
            });
            ensure!(answer.is_err(), "{answer:?}");
        }
        client(async {
            let viewer = door.connect("dns:viewer").await?;
            for _ in 0..15 {
                is(control(&viewer, "victim", Command::Freeze).await, Code::PermissionDenied, "a viewer freezes")?;
            }
            let unknown = door.connect("dns:nobody").await?;
            is(NodeServiceClient::new(unknown).health(HealthRequest {}).await, Code::PermissionDenied, "no role")
        })?;
        let expected = [
            ("certificate-missing", 1),
            ("certificate-untrusted", 1),
            ("certificate-expired", 1),
            ("certificate-unnamed", 1),
            ("permission", 16),
            ("request-limit", 0),
        ];
        wait_for("all are counted", || {
            let text = door.gateway.metrics()?;
            let series = |(reason, count): &(&str, u32)| {
                format!("failsafe_gateway_remote_refused_total{{reason=\"{reason}\"}} {count}")
            };
            Ok(expected.iter().all(|it| has(&text, &series(it))))
        })?;
        let log = door.gateway.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("a remote client is refused")).collect();
        let of = |words: &[&str]| lines.iter().filter(|line| words.iter().all(|word| line.contains(word))).count();
        ensure!(of(&["peer=127.0.0.1:"]) == lines.len(), "{log}");
        let freeze = ["identity=\"dns:viewer\"", "method=\"/failsafe.v1.RunService/Control\"", "reason=permission"];
        ensure!(of(&freeze) == 10 && of(&["reason=permission"]) == 10, "ten lines a minute: {log}");
        ensure!(of(&["reason=certificate-expired"]) == 1 && of(&["reason=certificate-unnamed"]) == 1, "{log}");
        Ok(())
    })
}
