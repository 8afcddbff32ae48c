//! Clients that call again as soon as they have an answer.

use crate::{connect::To, percentile};
use anyhow::{Context, Result, ensure};
use failsafe_proto::v1::{
    HealthRequest, ListRequest, node_service_client::NodeServiceClient, run_service_client::RunServiceClient,
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tonic::{Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

/// Calls that begin within this time are not counted.
const SETTLE: Duration = Duration::from_millis(500);
/// Largest answer: a list of many runs.
const MESSAGE: usize = 64 << 20;

/// What is called.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Method {
    /// The node's health
    Health,
    /// All live runs
    List,
    /// Hello-world
    Hello,
}

async fn call(method: Method, channel: &Channel) -> Result<u64, Status> {
    match method {
        Method::Health => NodeServiceClient::new(channel.clone()).health(HealthRequest {}).await.map(|_| 1),
        Method::List => {
            let mut client = RunServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE);
            let listed = client.list(ListRequest::default()).await?.into_inner();
            Ok(listed.runs.len() as u64)
        }
        Method::Hello => HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.map(|_| 1),
    }
}

pub async fn run(to: &To, method: Method, clients: usize, connections: usize, length: Duration) -> Result<Value> {
    ensure!((1..=clients).contains(&connections), "expected 1 to {clients} connections");
    let channels = to.connect(connections).await?;
    let begin = Instant::now() + SETTLE;
    let mut tasks = tokio::task::JoinSet::new();
    let (first, mut answered) = tokio::sync::mpsc::channel(clients);
    for n in 0..clients {
        let channel = channels[n % connections].clone();
        let mut first = Some(first.clone());
        tasks.spawn(async move {
            let (mut times, mut errors, mut answers) = (Vec::new(), Vec::new(), 0);
            loop {
                let began = Instant::now();
                if began >= begin + length {
                    return (times, errors, answers);
                }
                let got = call(method, &channel).await;
                if let Some(first) = first.take_if(|_| got.is_ok()) {
                    let _ = first.try_send(());
                }
                match got {
                    Err(status) => errors.push(format!("{:?}: {}", status.code(), status.message())),
                    // What began before is only there to warm up.
                    Ok(_) if began < begin => {}
                    Ok(size) => {
                        answers = size;
                        times.push(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
                    }
                }
            }
        });
    }
    drop(first);
    // Whoever waits for the load reads this line.
    let mut all = 0;
    while all < clients && answered.recv().await.is_some() {
        all += 1;
    }
    println!("{all} of {clients} clients have an answer");
    let (mut times, mut errors, mut answers, mut idle) = (Vec::new(), Vec::new(), 0, 0);
    while let Some(done) = tasks.join_next().await {
        let (own, wrong, size) = done.context("a client")?;
        idle += usize::from(own.is_empty());
        times.extend(own);
        errors.extend(wrong);
        answers = answers.max(size);
    }
    times.sort_unstable();
    Ok(json!({
        "calls": times.len(),
        "errors": errors.len(),
        "error": errors.first(),
        "clients_without_an_answer": idle,
        "size": answers,
        "per_second": times.len() as f64 / length.as_secs_f64(),
        "p50_us": percentile(&times, 50),
        "p99_us": percentile(&times, 99),
        "max_us": times.last(),
    }))
}
