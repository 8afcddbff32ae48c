//! Followers of the node's health. The node is cordoned, and each follower notes when it has the change.

use crate::{connect::To, percentile};
use anyhow::{Context, Result, bail};
use failsafe_proto::v1::{HealthRequest, OrderRequest, WatchSinceRequest, node_service_client::NodeServiceClient};
use serde_json::{Value, json};
use std::{io::Write, time::Instant};

pub async fn run(to: &To, count: usize, connections: usize) -> Result<Value> {
    let channels = to.connect(connections + 1).await?;
    let (last, channels) = channels.split_last().context("no connection")?;
    let mut orders = NodeServiceClient::new(last.clone());
    let revision = orders.health(HealthRequest {}).await?.into_inner().revision;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..count {
        let mut client = NodeServiceClient::new(channels[n % channels.len()].clone());
        // It is a follower from when its stream is answered.
        let mut stream = client.watch_since(WatchSinceRequest { revision, follow: true }).await?.into_inner();
        tasks.spawn(async move {
            let change = stream.message().await;
            // Kept until all have the change: their number is to be the same for each.
            change.map(|change| (change.map(|_| Instant::now()), stream))
        });
    }
    println!("ready");
    std::io::stdout().flush()?;
    crate::line().await?;
    let began = Instant::now();
    orders.cordon(OrderRequest { gpu: String::new(), reason: "bench".into() }).await?;
    let answered = began.elapsed();
    let (mut times, mut streams) = (Vec::new(), Vec::new());
    while let Some(done) = tasks.join_next().await {
        match done.context("a follower")?? {
            (Some(at), stream) => {
                times.push(u64::try_from((at - began).as_micros())?);
                streams.push(stream);
            }
            (None, _) => bail!("a stream ended"),
        }
    }
    orders.uncordon(OrderRequest { gpu: String::new(), reason: "bench".into() }).await?;
    times.sort_unstable();
    Ok(json!({
        "watchers": streams.len(),
        "order_us": u64::try_from(answered.as_micros())?,
        "p50_us": percentile(&times, 50),
        "p99_us": percentile(&times, 99),
        "max_us": times.last(),
    }))
}
