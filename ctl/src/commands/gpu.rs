//! `gpu list`, `describe`, `top`, `reset`.

use super::Place;
use crate::{
    args::{GpuOrderArgs, Output, TopArgs},
    client::{Client, block_on},
    exit::{Exit, Fail},
    render::{Paint, clean, health as page, json, print, stream},
};
use failsafe_proto::v1 as pb;
use std::io::IsTerminal;

async fn ask(client: &Client) -> Result<(pb::StatusResponse, pb::HealthResponse), Fail> {
    let status = client.node().status(pb::StatusRequest {}).await?.into_inner();
    let health = client.node().health(pb::HealthRequest {}).await?.into_inner();
    Ok((status, health))
}

pub(super) fn list(place: &Place<'_>, output: Output) -> Result<Exit, Fail> {
    let (status, health) = block_on(async { ask(&Client::connect(place.daemon).await?).await })?;
    print(&if output.json() { json::text(&json::gpus(&status, &health)) } else { page::gpus(&status, &health) })?;
    Ok(Exit::Done)
}

pub(super) fn describe(place: &Place<'_>, gpu: &str, output: Output) -> Result<Exit, Fail> {
    let (status, health) = block_on(async { ask(&Client::connect(place.daemon).await?).await })?;
    let chosen = page::choose(&health, &[gpu.to_owned()])?;
    let Some(part) = chosen.first() else {
        return Err(Fail::new(Exit::NotFound, format!("this node has no GPU `{}`", clean(gpu))));
    };
    let seen = status.gpus.iter().find(|g| g.uuid == part.gpu);
    print(&if output.json() {
        json::text(&json::gpu(part, seen))
    } else {
        page::gpu(part, seen, status.at_ns, Paint::stdout())
    })?;
    Ok(Exit::Done)
}

pub(super) fn top(place: &Place<'_>, args: &TopArgs) -> Result<Exit, Fail> {
    let screen = std::io::stdout().is_terminal();
    block_on(async {
        let client = Client::connect(place.daemon).await?;
        let mut left = args.iterations;
        while left != Some(0) {
            let (status, health) = ask(&client).await?;
            let clear = if screen { "\u{1b}[H\u{1b}[2J" } else { "" };
            stream(&format!("{clear}{}\n", page::gpus(&status, &health)))?;
            left = left.map(|n| n - 1);
            if left != Some(0) {
                tokio::time::sleep(args.interval).await;
            }
        }
        Ok(Exit::Done)
    })
}

pub(super) fn reset(place: &Place<'_>, args: &GpuOrderArgs) -> Result<Exit, Fail> {
    let request = pb::ResetGpuRequest { gpu: args.gpu.clone(), reason: args.order.reason.clone() };
    let answer = block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.node().reset_gpu(request).await?.into_inner())
    })?;
    if args.order.output.json() {
        print(&json::text(&serde_json::json!({ "done": answer.done, "detail": answer.detail })))?;
    } else {
        let head = if answer.done { "the GPU was reset" } else { "the GPU was NOT reset" };
        print(&format!("{head}: {}\n", clean(&answer.detail)))?;
    }
    Ok(if answer.done { Exit::Done } else { Exit::Error })
}
