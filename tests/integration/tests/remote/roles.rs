//! What each role may do, and from whom an identity is accepted.

use crate::{
    PLAIN,
    door::{Door, client, control, is, on_door, tls},
};
use anyhow::{Context, Result, ensure};
use failsafe_proto::v1::{
    Command, ControlRequest, HealthRequest, ListIncidentsRequest, ListRequest, OrderRequest, StartRequest,
    WatchRequest, WatchRunsRequest, event_service_client::EventServiceClient,
    incident_service_client::IncidentServiceClient, node_service_client::NodeServiceClient,
    run_service_client::RunServiceClient,
};
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, body::Bytes};
use hyper_util::rt::{TokioExecutor, TokioIo};
use integration::{Launch, NOBODY, TestCgroup, wait_for};
use nix::sys::signal::Signal;
use prost::Message;
use std::fs;
use tokio::net::UnixStream;
use tonic::{Code, Request, transport::Endpoint};

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
