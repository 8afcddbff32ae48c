//! Remote clients: who gets in by a certificate, what each role may do, and who is believed.

use anyhow::{Context, Result, ensure};
use failsafe_proto::v1::{
    Command, ControlRequest, HealthRequest, ListIncidentsRequest, ListRequest, OrderRequest, StartRequest,
    StatusRequest, WatchRequest, WatchRunsRequest, event_service_client::EventServiceClient,
    incident_service_client::IncidentServiceClient, node_service_client::NodeServiceClient,
    run_service_client::RunServiceClient,
};
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, body::Bytes};
use hyper_util::rt::{TokioExecutor, TokioIo};
use integration::{
    Launch, NOBODY, Node, Said, TestCgroup,
    gateway::{self, Gateway, accepts, has},
    on_node, wait_for,
};
use nix::sys::signal::Signal;
use prost::Message;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    date_time_ymd,
};
use std::{
    fs::{self, Permissions},
    future::Future,
    io::{Read, Write},
    net::{SocketAddr, TcpStream as StdStream},
    os::unix::fs::PermissionsExt,
    sync::Arc,
};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};

const PLAIN: &str = "[policy]\nname = \"plain\"\nowner = \"tests\"\n";
const ROLES: &str = "[[identity]]\nsan = \"dns:viewer\"\nrole = \"viewer\"\n\n\
    [[identity]]\nsan = \"uri:spiffe://test/operator\"\nrole = \"operator\"\n\n\
    [[identity]]\nsan = \"email:admin@test\"\nrole = \"administrator\"\n";

/// An authority that signs certificates.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, PEM.
struct Signed {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Result<Authority> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Authority { pem, issuer: Issuer::new(params, key) })
    }

    fn sign(&self, name: SanType, purpose: ExtendedKeyUsagePurpose, ended: bool) -> Result<Signed> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.subject_alt_names = vec![name];
        params.extended_key_usages = vec![purpose];
        if ended {
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        }
        let key = KeyPair::generate()?;
        Ok(Signed { certificate: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }

    fn server(&self) -> Result<Signed> {
        self.sign(SanType::DnsName("localhost".try_into()?), ExtendedKeyUsagePurpose::ServerAuth, false)
    }

    fn client(&self, identity: &str) -> Result<Signed> {
        self.sign(name(identity)?, ExtendedKeyUsagePurpose::ClientAuth, false)
    }
}

fn name(identity: &str) -> Result<SanType> {
    let (kind, name) = identity.split_once(':').context("no kind")?;
    Ok(match kind {
        "dns" => SanType::DnsName(name.try_into()?),
        "uri" => SanType::URI(name.try_into()?),
        _ => SanType::Rfc822Name(name.try_into()?),
    })
}

/// Whether the gateway's authority signs the clients and the server.
struct Door {
    authority: Authority,
    gateway: Gateway,
    address: SocketAddr,
}

impl Door {
    /// The gateway with a server for remote clients; `settings` are further lines of its table.
    fn open(node: &Node, cgroup: &TestCgroup, settings: &str) -> Result<Door> {
        let authority = Authority::new()?;
        write(node, &authority.server()?, &authority.pem)?;
        let path = |name: &str| format!("{:?}", node.file(name).display().to_string());
        let config = format!(
            "[metrics]\naddress = \"127.0.0.1:0\"\n[remote]\naddress = \"127.0.0.1:0\"\ncertificate = {}\nkey = {}\nclient_ca = {}\n\
             reload_s = 1\n{settings}",
            path("node.crt"),
            path("node.key"),
            path("ca.crt")
        );
        let mut gateway = Gateway::start(node, cgroup.path(), &config)?;
        let address = gateway.address("remote clients are served")?;
        Ok(Door { authority, gateway, address })
    }

    async fn connect(&self, identity: &str) -> Result<Channel> {
        connect(self.address, &self.authority.pem, Some(&self.authority.client(identity)?)).await
    }
}

/// Files that the gateway's user may read.
fn write(node: &Node, server: &Signed, ca: &str) -> Result<()> {
    for (file, text) in [("node.crt", server.certificate.as_str()), ("node.key", &server.key), ("ca.crt", ca)] {
        let path = node.file(file);
        fs::write(&path, text)?;
        fs::set_permissions(&path, Permissions::from_mode(0o644))?;
    }
    Ok(())
}

/// Makes a connection with TLS.
fn tls(
    address: SocketAddr,
    ca: &str,
    client: Option<&Signed>,
) -> Result<impl Future<Output = std::io::Result<TlsStream<TcpStream>>> + Send + 'static> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes())?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match client {
        Some(Signed { certificate, key }) => config.with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes())?],
            PrivateKeyDer::from_pem_slice(key.as_bytes())?,
        )?,
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    Ok(async move {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
        connector.connect(name, stream).await
    })
}

/// Connects with TLS. An error of the handshake comes with the first request at the latest.
async fn connect(address: SocketAddr, ca: &str, client: Option<&Signed>) -> Result<Channel> {
    let stream = tls(address, ca, client)?.await?;
    // Once: a connection that ends is not made again.
    let stream = std::sync::Mutex::new(Some(stream));
    let connect = tower::service_fn(move |_: tonic::transport::Uri| {
        let stream = stream.lock().ok().and_then(|mut stream| stream.take());
        async move { stream.map(TokioIo::new).ok_or_else(|| std::io::Error::other("the connection has ended")) }
    });
    Ok(Endpoint::from_static("http://localhost").connect_with_connector(connect).await?)
}

/// The `grpc-status` of a command whose trailers claim to be the administrator's.
async fn with_trailers(door: &Door, identity: &str, request: &ControlRequest) -> Result<String> {
    let tls = tls(door.address, &door.authority.pem, Some(&door.authority.client(identity)?))?;
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls.await?)).await?;
    tokio::spawn(connection);
    let message = request.encode_to_vec();
    let mut data = vec![0];
    data.extend_from_slice(&u32::try_from(message.len())?.to_be_bytes());
    data.extend_from_slice(&message);
    let mut trailers = HeaderMap::new();
    trailers.insert("failsafe-remote-identity", "email:admin@test".parse()?);
    let body = Full::new(Bytes::from(data)).with_trailers(std::future::ready(Some(Ok(trailers))));
    let request = hyper::Request::post("http://localhost/failsafe.v1.RunService/Control")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)?;
    let answer = send.send_request(request).await?;
    let status = answer.headers().get("grpc-status").cloned();
    let body = answer.into_body().collect().await?;
    let status = status.or_else(|| body.trailers()?.get("grpc-status").cloned());
    Ok(status.context("no status")?.to_str()?.to_owned())
}

/// Runs the test's part that is a client.
fn client<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

fn on_door(
    test: &'static str,
    settings: &str,
    run: impl FnOnce(&mut Node, &mut Door, &TestCgroup) -> Result<()>,
) -> Result<()> {
    let Some(cgroup) = gateway::cgroup(test) else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let roles = folder.path().join("roles.toml");
    fs::write(&roles, ROLES)?;
    let config = format!("{}roles = {:?}\n", accepts(&cgroup), roles.display().to_string());
    on_node(test, &config, |node| {
        let mut door = Door::open(node, &cgroup, settings)?;
        let done = run(node, &mut door, &cgroup);
        if done.is_err() {
            eprintln!("--- the gateway's log\n{}---", door.gateway.log());
        }
        done
    })
}

async fn control(channel: &Channel, run: &str, command: Command) -> Result<(), Status> {
    let request = ControlRequest {
        run: run.to_owned(),
        command: command as i32,
        reason: "test".to_owned(),
        ..ControlRequest::default()
    };
    RunServiceClient::new(channel.clone()).control(request).await.map(|_| ())
}

fn is<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, what: &str) -> Result<()> {
    let got = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
    ensure!(got == code, "{what}: expected {code:?}, got {answer:?}");
    Ok(())
}

#[test]
fn each_role_may_do_what_it_is_given_and_the_log_names_the_identity() -> Result<()> {
    on_door("rm-roles", "", |node, door, _| {
        let run = Launch::new("victim", PLAIN).start(node, ["sleep", "600"])?;
        client(async {
            let viewer = door.connect("dns:viewer").await?;
            let mut runs = RunServiceClient::new(viewer.clone());
            let listed = runs.list(ListRequest { all: true, ..Default::default() }).await?.into_inner();
            ensure!(listed.runs.len() == 1 && !listed.only_own, "{listed:?}");
            NodeServiceClient::new(viewer.clone()).health(HealthRequest {}).await?;
            let mut incidents = IncidentServiceClient::new(viewer.clone());
            let seen = incidents.list_incidents(ListIncidentsRequest::default()).await?.into_inner();
            ensure!(!seen.only_own, "a viewer sees the incidents of all runs: {seen:?}");
            let mut watched = runs.watch_runs(WatchRunsRequest::default()).await?.into_inner();
            let present = watched.message().await?.and_then(|change| change.run);
            ensure!(present.as_ref().is_some_and(|run| run.name == "victim"), "{present:?}");
            let mut events = EventServiceClient::new(viewer.clone()).watch(WatchRequest::default()).await?.into_inner();
            ensure!(events.message().await?.is_some(), "a viewer reads the log");
            for command in [Command::Freeze, Command::Thaw, Command::Kill] {
                is(control(&viewer, "victim", command).await, Code::PermissionDenied, "viewer")?;
            }
            let start = StartRequest { policy_toml: PLAIN.into(), ..StartRequest::default() };
            is(runs.start(start.clone()).await, Code::PermissionDenied, "a viewer starts a run")?;

            let operator = door.connect("uri:spiffe://test/operator").await?;
            control(&operator, "victim", Command::Freeze).await?;
            for command in [Command::Thaw, Command::Kill] {
                is(control(&operator, "victim", command).await, Code::PermissionDenied, "operator")?;
            }
            let order = OrderRequest { reason: "test".into(), ..OrderRequest::default() };
            let mut node_of = NodeServiceClient::new(operator);
            is(node_of.cordon(order.clone()).await, Code::PermissionDenied, "an operator cordons")?;

            let admin = door.connect("email:admin@test").await?;
            control(&admin, "victim", Command::Thaw).await?;
            NodeServiceClient::new(admin.clone()).cordon(order.clone()).await?;
            NodeServiceClient::new(admin.clone()).uncordon(order).await?;
            is(
                RunServiceClient::new(admin.clone()).start(start).await,
                Code::PermissionDenied,
                "an admin starts a run",
            )?;
            control(&admin, "victim", Command::Kill).await?;
            let unknown = door.connect("dns:nobody").await?;
            is(NodeServiceClient::new(unknown).health(HealthRequest {}).await, Code::PermissionDenied, "no role")
        })?;
        let freeze =
            node.wait_for_event("the freeze", |e| e["kind"] == "control" && e["body"]["command"] == "freeze")?;
        let expected = serde_json::json!({ "remote": { "name": "uri:spiffe://test/operator", "method": "mtls" } });
        ensure!(freeze["body"]["actor"] == expected && freeze["body"]["role"] == "operator", "{freeze}");
        drop(run);
        node.log_is_whole()
    })
}

#[test]
fn a_client_gets_more_than_a_hundred_answers_on_one_connection() -> Result<()> {
    on_door("rm-many", "", |_, door, _| {
        client(async {
            let mut node = NodeServiceClient::new(door.connect("dns:viewer").await?);
            for n in 0..150 {
                node.health(HealthRequest {}).await.with_context(|| format!("request {n}"))?;
            }
            Ok(())
        })
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
fn an_identity_is_believed_of_the_gateway_only_and_of_its_certificate_only() -> Result<()> {
    on_door("rm-forged", "", |node, door, _| {
        let _run = Launch::new("victim", PLAIN).start(node, ["sleep", "600"])?;
        let claim = |identity: &str| {
            let mut request = Request::new(ControlRequest {
                run: "victim".into(),
                command: Command::Kill as i32,
                reason: "test".into(),
                ..ControlRequest::default()
            });
            let value = identity.parse().context("metadata")?;
            request.metadata_mut().append("failsafe-remote-identity", value);
            anyhow::Ok(request)
        };
        client(async {
            // A viewer that writes the metadata itself stays a viewer.
            let viewer = door.connect("dns:viewer").await?;
            let forged = RunServiceClient::new(viewer).control(claim("email:admin@test")?).await;
            is(forged, Code::PermissionDenied, "a viewer that claims to be the administrator")?;
            // Neither in the trailers, which tonic adds to the metadata.
            let mut request = ControlRequest::default();
            (request.run, request.command) = ("victim".into(), Command::Kill as i32);
            request.reason = "test".into();
            let status = with_trailers(door, "dns:viewer", &request).await?;
            ensure!(status == "7", "a viewer that claims to be the administrator in trailers: {status}");
            let unknown = door.connect("dns:nobody").await?;
            let forged = RunServiceClient::new(unknown).control(claim("email:admin@test")?).await;
            is(forged, Code::PermissionDenied, "an identity without a role that claims to be the administrator")?;
            // Nobody but the gateway may write it, not even root.
            let socket = node.socket();
            let connect = tower::service_fn(move |_: tonic::transport::Uri| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            });
            let local = Endpoint::from_static("http://local").connect_with_connector(connect).await?;
            for identity in ["email:admin@test", "dns:viewer", "x"] {
                let forged = RunServiceClient::new(local.clone()).control(claim(identity)?).await;
                is(forged, Code::PermissionDenied, "root that claims an identity")?;
            }
            Ok(())
        })?;
        // The gateway's own user, outside its cgroup, is nobody.
        let refused = node.ctl_as(NOBODY, ["node", "health"])?;
        ensure!(refused.code == 4, "{refused:?}");
        // Once it left its cgroup, the gateway is not believed any more.
        let elsewhere = TestCgroup::new("rm-elsewhere")?;
        fs::write(elsewhere.path().join("cgroup.procs"), door.gateway.pid().to_string())?;
        client(async {
            let admin = door.connect("email:admin@test").await?;
            is(control(&admin, "victim", Command::Kill).await, Code::PermissionDenied, "a gateway that left its cgroup")
        })?;
        ensure!(node.run("victim")?["state"] == "running");
        Ok(())
    })
}

#[test]
fn a_role_that_is_taken_away_ends_with_a_reload() -> Result<()> {
    on_door("rm-reload", "", |node, door, _| {
        let config = fs::read_to_string(node.file("failsafed.toml"))?;
        let roles = config.lines().find_map(|line| line.strip_prefix("roles = ")).context("roles")?.trim_matches('"');
        client(async {
            let viewer = door.connect("dns:viewer").await?;
            NodeServiceClient::new(viewer.clone()).health(HealthRequest {}).await?;
            // A file with a mistake changes nothing.
            fs::write(roles, "[[identity]]\nsan = \"viewer\"\nrole = \"viewer\"\n")?;
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(node.pid()?), Signal::SIGHUP)?;
            wait_for("the mistake is reported", || Ok(node.daemon_log().contains("expected dns:NAME")))?;
            NodeServiceClient::new(viewer.clone()).health(HealthRequest {}).await?;
            fs::write(roles, "")?;
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(node.pid()?), Signal::SIGHUP)?;
            wait_for("the reload", || Ok(node.daemon_log().contains("the configuration is reloaded")))?;
            is(
                NodeServiceClient::new(viewer).health(HealthRequest {}).await,
                Code::PermissionDenied,
                "no role any more",
            )
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
fn one_identity_cannot_take_the_connections_of_another() -> Result<()> {
    on_door("rm-limits", "connections_per_identity = 2\nconnections = 3\n", |_, door, _| {
        client(async {
            let first = door.connect("dns:viewer").await?;
            NodeServiceClient::new(first.clone()).health(HealthRequest {}).await?;
            let second = door.connect("dns:viewer").await?;
            NodeServiceClient::new(second.clone()).health(HealthRequest {}).await?;
            let third =
                async { Ok(NodeServiceClient::new(door.connect("dns:viewer").await?).health(HealthRequest {}).await?) };
            let third: Result<_> = third.await;
            ensure!(third.is_err(), "a third connection of the same identity: {third:?}");
            let admin = door.connect("email:admin@test").await?;
            NodeServiceClient::new(admin).health(HealthRequest {}).await?;
            // Both are still served.
            NodeServiceClient::new(first).health(HealthRequest {}).await?;
            NodeServiceClient::new(second).health(HealthRequest {}).await?;
            Ok(())
        })
    })
}

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
        let ctl = |identity: &str, line: &str| -> Result<Said> {
            let mut command = node.ctl_command(line.split_whitespace());
            Said::of(command.env("FAILSAFE_SOCKET", "/nowhere").envs(of(identity)?))
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
        let gone = ctl("dns:viewer", &format!("--host localhost:{nobody} list"))?.expect(1)?;
        ensure!(gone.err.contains(&format!("cannot reach localhost:{nobody}")), "{gone:?}");

        let nodes = node.file("nodes");
        fs::write(&nodes, format!("{here} # this one\nlocalhost:{nobody}\n"))?;
        let all = format!("--hosts @{}", nodes.display());
        let both = ctl("dns:viewer", &format!("{all} list"))?.expect(1)?;
        ensure!(both.out.lines().all(|line| line.starts_with(&format!("{here}: "))), "{both:?}");
        ensure!(both.err.contains(&format!("1 of 2 nodes: exit code 0; 1: localhost:{nobody}")), "{both:?}");
        let both =
            ctl("uri:spiffe://test/operator", &format!("{all} freeze victim --reason test -o json"))?.expect(1)?;
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
        let refused = Said::of(&mut command)?.expect(1)?;
        ensure!(refused.err.contains(&here) && refused.err.contains("certificate"), "{refused:?}");
        Ok(())
    })
}

/// A port at which nobody listens.
fn unused_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
