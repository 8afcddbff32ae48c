//! Limits of connections and of requests on a connection.

use crate::door::{client, on_door};
use anyhow::{Context, Result, ensure};
use failsafe_proto::v1::{HealthRequest, node_service_client::NodeServiceClient};

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
