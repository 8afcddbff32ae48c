//! Freezes and thaws a run: from the request to its proved outcome.

use crate::{connect::To, percentile};
use anyhow::{Context, Result, ensure};
use failsafe_proto::v1::{Command, ControlRequest, Verdict, run_service_client::RunServiceClient};
use serde_json::{Value, json};
use std::time::Instant;

pub async fn run(to: &To, run: &str, times: usize) -> Result<Value> {
    let channel = to.connect(1).await?.pop().context("no connection")?;
    let mut client = RunServiceClient::new(channel);
    let mut taken = Vec::new();
    for _ in 0..times {
        for command in [Command::Freeze, Command::Thaw] {
            let request = ControlRequest {
                run: run.to_owned(),
                command: command as i32,
                reason: "bench".to_owned(),
                ..ControlRequest::default()
            };
            let began = Instant::now();
            let answer = client.control(request).await?.into_inner();
            let took = u64::try_from(began.elapsed().as_micros())?;
            ensure!(answer.verdict == Verdict::Proved as i32, "{command:?}: {answer:?}");
            if command == Command::Freeze {
                taken.push(took);
            }
        }
    }
    taken.sort_unstable();
    Ok(json!({
        "freezes": taken.len(),
        "p50_us": percentile(&taken, 50),
        "p99_us": percentile(&taken, 99),
        "max_us": taken.last(),
    }))
}
