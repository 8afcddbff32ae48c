//! The interface as a program sees it: health, reflection, and errors by their codes.

use anyhow::{Context, Result, bail, ensure};
use failsafe_proto::{ErrorReason, v1};
use integration::{TWO_GPUS, on_gpu_node, on_node, wait_for, with_channel};
use prost::Message;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

#[test]
fn health_is_reported_for_the_services_that_schedulers_ask() -> Result<()> {
    on_node("health", "", |node| {
        with_channel(node, |channel| async move {
            let mut health = HealthClient::new(channel);
            for service in ["", "failsafe.v1.RunService", "failsafe.v1.NodeService"] {
                let request = HealthCheckRequest { service: service.into() };
                let answer = health.check(request).await.with_context(|| format!("`{service}`"))?.into_inner();
                ensure!(answer.status() == ServingStatus::Serving, "`{service}`: {answer:?}");
            }
            let unknown = health.check(HealthCheckRequest { service: "no.such".into() }).await;
            ensure!(unknown.is_err_and(|status| status.code() == Code::NotFound));
            Ok(())
        })
    })
}

#[test]
fn reflection_describes_every_service() -> Result<()> {
    on_node("reflection", "", |node| {
        with_channel(node, |channel| async move {
            let mut client = ServerReflectionClient::new(channel);
            let ask = |what| ServerReflectionRequest { host: String::new(), message_request: Some(what) };
            let requests = [
                ask(MessageRequest::ListServices(String::new())),
                ask(MessageRequest::FileContainingSymbol("failsafe.v1.RunService.Control".into())),
            ];
            let mut answers = client.server_reflection_info(tokio_stream::iter(requests)).await?.into_inner();
            let listed = answers.message().await?.and_then(|a| a.message_response).context("a list")?;
            let MessageResponse::ListServicesResponse(listed) = listed else { bail!("{listed:?}") };
            let names: Vec<&str> = listed.service.iter().map(|s| s.name.as_str()).collect();
            for service in
                ["RunService", "PolicyService", "EventService", "NodeService", "AttestationService", "LogService"]
            {
                ensure!(names.contains(&format!("failsafe.v1.{service}").as_str()), "{service} is not in {names:?}");
            }
            ensure!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
            let file = answers.message().await?.and_then(|a| a.message_response).context("a file")?;
            let MessageResponse::FileDescriptorResponse(file) = file else { bail!("{file:?}") };
            let bytes = file.file_descriptor_proto.first().context("no descriptor")?;
            let descriptor = prost_types::FileDescriptorProto::decode(bytes.as_slice())?;
            ensure!(descriptor.package() == "failsafe.v1" && descriptor.service.len() == 4, "{:?}", descriptor.name());
            Ok(())
        })
    })
}

#[test]
fn mistakes_have_the_codes_and_the_reasons_that_the_interface_promises() -> Result<()> {
    on_node("codes", "", |node| {
        with_channel(node, |channel| async move {
            let mut runs = v1::run_service_client::RunServiceClient::new(channel.clone());
            let bad =
                v1::StartRequest { policy_toml: "[policy".into(), policy_file: "f.toml".into(), ..Default::default() };
            let status = runs.start(bad).await.err().context("a broken policy was taken")?;
            ensure!(status.code() == Code::InvalidArgument && status.message().contains("f.toml:1"), "{status:?}");
            ensure!(ErrorReason::of(&status) == Some(ErrorReason::PolicyInvalid), "{status:?}");
            let status =
                runs.get(v1::GetRequest { run: "nobody".into(), ..Default::default() }).await.err().context("found")?;
            ensure!(status.code() == Code::NotFound, "{status:?}");
            ensure!(ErrorReason::of(&status) == Some(ErrorReason::RunNotFound), "{status:?}");
            let control = v1::ControlRequest { run: "nobody".into(), command: 77, ..Default::default() };
            let status = runs.control(control).await.err().context("command 77 was taken")?;
            ensure!(status.code() == Code::InvalidArgument, "{status:?}");
            ensure!(ErrorReason::of(&status) == Some(ErrorReason::InvalidRequest), "{status:?}");
            let gpu = v1::StartRequest {
                policy_toml: "[policy]\nname = \"p\"\nowner = \"o\"\n".into(),
                gpus: vec!["GPU-none".into()],
                ..Default::default()
            };
            let status = runs.start(gpu).await.err().context("an unknown GPU was taken")?;
            ensure!(status.code() == Code::InvalidArgument && status.message().contains("GPU-none"), "{status:?}");
            let mut events = v1::event_service_client::EventServiceClient::new(channel.clone());
            let past = v1::WatchRequest { from: 1_000_000, follow: true, ..Default::default() };
            let status = events.watch(past).await.err().context("a stream from past the end of the log")?;
            ensure!(ErrorReason::of(&status) == Some(ErrorReason::InvalidRequest), "{status:?}");
            ensure!(status.message().starts_with("from: entry 1000000 is past the end"), "{status:?}");
            let none = v1::WatchRequest { incident: "inc-09da37a735e2-2".into(), ..Default::default() };
            let status = events.watch(none).await.err().context("a stream about an unknown incident")?;
            ensure!(ErrorReason::of(&status) == Some(ErrorReason::IncidentNotFound), "{status:?}");
            let path = "/failsafe.v1.RunService/Get".parse()?;
            let mut raw = tonic::client::Grpc::new(channel.clone());
            raw.ready().await?;
            // A name that is no UTF-8 text.
            let codec = tonic_prost::ProstCodec::<Vec<u8>, v1::Run>::default();
            let status =
                raw.unary(tonic::Request::new(vec![0xff, 0xfe]), path, codec).await.err().context("decoded")?;
            ensure!(status.code() == Code::InvalidArgument, "{status:?}");
            ensure!(ErrorReason::of(&status) == Some(ErrorReason::InvalidRequest), "{status:?}");
            let mut nodes = v1::node_service_client::NodeServiceClient::new(channel);
            let told = nodes.status(v1::StatusRequest {}).await?.into_inner();
            ensure!(told.log_state == "healthy" && told.runs == 0, "{told:?}");
            Ok(())
        })
    })
}

#[test]
fn what_speaks_against_which_part_is_reported() -> Result<()> {
    let scenario = TWO_GPUS.to_owned() + "[gpu.rows]\nfailure = true\n";
    on_gpu_node("reasons", &scenario, "", |node| {
        wait_for("the second GPU is bad", || Ok(node.code(&["node", "health", "--gpu", "1"])? == 12))?;
        wait_for("the first is well", || Ok(node.code(&["node", "health", "--gpu", "0"])? == 0))?;
        node.ctl(["node", "cordon", "-r", "kernel update"])?.expect(0)?;
        with_channel(node, |channel| async move {
            let mut client = v1::node_service_client::NodeServiceClient::new(channel);
            let ask = |gpu: &str| v1::ReasonsRequest { gpu: gpu.into() };
            let all = client.reasons(ask("")).await?.into_inner();
            let [own, bad] = &all.parts[..] else { bail!("{all:?}") };
            ensure!(own.gpu.is_empty() && own.reasons[0].code == "cordoned", "{own:?}");
            ensure!(bad.index == 1 && bad.reasons[0].code == "row-remap-failure" && all.revision > 0, "{bad:?}");
            ensure!(client.reasons(ask("1")).await?.into_inner().parts == std::slice::from_ref(bad));
            ensure!(client.reasons(ask("0")).await?.into_inner().parts.is_empty());
            ensure!(client.reasons(ask("9")).await.is_err_and(|status| status.code() == Code::NotFound));
            Ok(())
        })
    })
}
