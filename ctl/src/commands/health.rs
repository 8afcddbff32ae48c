//! `node health`, `capacity`, `placeable`, `watch`, and the orders about node and GPUs.

use super::{
    Place,
    attest::reference::{Compared, Expected},
};
use crate::{
    args::{HealthArgs, OrderArgs, Output, PlaceableArgs, WatchArgs, each},
    client::{Client, block_on},
    exit::{Exit, Fail},
    render::{Paint, clean, health as page, json, print, stream},
};
use failsafe_proto::v1 as pb;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// An order.
#[derive(Debug, Clone, Copy)]
pub(super) enum HealthSubcommand {
    Cordon,
    Uncordon,
    Reset,
    Forget,
}

pub(super) fn health(place: &Place<'_>, args: &HealthArgs) -> Result<Exit, Fail> {
    let deadline = Instant::now() + args.wait.unwrap_or_default();
    let mut asked = ask(place);
    while unknown(&asked, args) && Instant::now() < deadline {
        std::thread::sleep(RETRY);
        asked = ask(place);
    }
    let health = match asked {
        Ok(health) => health,
        Err(fail) => return Err(nobody_to_ask(fail)),
    };
    let chosen = page::choose(&health, &each(&args.gpus))?;
    let level = page::level(&health, &chosen, !args.gpus.is_empty());
    if args.output.json() {
        print(&json::text(&json::health(&health, &chosen, level)))?;
    } else if !args.quiet || level != pb::HealthLevel::Healthy {
        print(&page::health(&health, &chosen, level, Paint::stdout()))?;
    }
    Ok(match level {
        pb::HealthLevel::Healthy => Exit::Done,
        pb::HealthLevel::Degraded if args.accept_degraded => Exit::Done,
        pb::HealthLevel::Degraded => Exit::Degraded,
        pb::HealthLevel::Draining => Exit::Draining,
        pb::HealthLevel::Unhealthy => Exit::Unhealthy,
        pb::HealthLevel::Unknown | pb::HealthLevel::Unspecified => Exit::Unknown,
    })
}

/// A daemon that does not answer is no sign of health. Who may not ask, or asks wrongly, gets the exit code of that.
fn nobody_to_ask(fail: Fail) -> Fail {
    match fail.exit {
        Exit::Error => Fail { exit: Exit::Unknown, ..fail },
        _ => fail,
    }
}

/// Between two tries of `--wait`.
const RETRY: Duration = Duration::from_millis(200);

fn ask(place: &Place<'_>) -> Result<pb::HealthResponse, Fail> {
    block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.node().health(pb::HealthRequest {}).await?.into_inner())
    })
}

/// Whether a later answer may differ: nobody answers, or what was asked for is not known yet.
fn unknown(asked: &Result<pb::HealthResponse, Fail>, args: &HealthArgs) -> bool {
    match asked {
        Err(fail) => matches!(fail.exit, Exit::Error | Exit::Unknown),
        Ok(health) => match page::choose(health, &each(&args.gpus)) {
            Ok(chosen) => page::level(health, &chosen, !args.gpus.is_empty()) == pb::HealthLevel::Unknown,
            // A daemon that has just started does not know its GPUs yet.
            Err(fail) => fail.exit == Exit::NotFound,
        },
    }
}

pub(super) fn capacity(place: &Place<'_>, output: Output) -> Result<Exit, Fail> {
    let capacity = block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.node().capacity(pb::CapacityRequest {}).await?.into_inner())
    })
    .map_err(nobody_to_ask)?;
    print(&if output.json() { json::text(&json::capacity(&capacity)) } else { page::capacity(&capacity) })?;
    Ok(Exit::Done)
}

pub(super) fn placeable(place: &Place<'_>, args: &PlaceableArgs) -> Result<Exit, Fail> {
    let output = args.output;
    let expected = args.like.as_deref().map(|file| Expected::read(file, args.keys.as_deref())).transpose()?;
    let args = args.clone();
    let request = pb::PlaceableRequest {
        gpus: each(&args.gpus),
        count: args.count,
        degraded: args.degraded,
        shared: args.shared,
        model: args.model.unwrap_or_default(),
        memory_free: args.memory_free.unwrap_or_default(),
        mig: args.mig.unwrap_or_default(),
        same_numa_node: args.same_numa_node,
        nvlinked: args.nvlinked,
        exclude: each(&args.exclude),
    };
    let answer = block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.node().placeable(request).await?.into_inner())
    })
    .map_err(nobody_to_ask)?;
    if let Some(expected) = expected {
        let compared = answer.placeable.then(|| expected.compare(place)).transpose()?;
        let (exit, text, more) =
            compared.map_or((Exit::NotPlaceable, String::new(), json!({ "like": null })), Compared::parts);
        // One answer: programs read one JSON value.
        let mut value = json::placeable(&answer);
        if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
            value.extend(more);
        }
        print(&if output.json() { json::text(&value) } else { format!("{}{text}", page::placeable(&answer)) })?;
        return Ok(exit);
    }
    print(&if output.json() { json::text(&json::placeable(&answer)) } else { page::placeable(&answer) })?;
    Ok(if answer.placeable { Exit::Done } else { Exit::NotPlaceable })
}

pub(super) fn watch(place: &Place<'_>, args: &WatchArgs, gpus_only: bool) -> Result<Exit, Fail> {
    block_on(async {
        let client = Client::connect(place.daemon).await?;
        let request = pb::WatchSinceRequest { revision: args.since, follow: !args.once };
        let mut changes = client.node().watch_since(request).await?.into_inner();
        while let Some(change) = changes.message().await? {
            if gpus_only && change.gpu.is_empty() && !change.missed {
                continue;
            }
            // One line each, so that a program can read them as they come.
            stream(&if args.output.json() {
                format!("{}\n", json::change(&change))
            } else {
                page::change(&change, &place.zone, Paint::stdout())
            })?;
        }
        Ok(Exit::Done)
    })
}

pub(super) fn order(place: &Place<'_>, order: HealthSubcommand, gpu: &str, args: &OrderArgs) -> Result<Exit, Fail> {
    let request = pb::OrderRequest { gpu: gpu.to_owned(), reason: args.reason.clone() };
    let answer = block_on(async {
        let mut node = Client::connect(place.daemon).await?.node();
        Ok(match order {
            HealthSubcommand::Cordon => node.cordon(request).await?,
            HealthSubcommand::Uncordon => node.uncordon(request).await?,
            HealthSubcommand::Reset => node.reset_health(request).await?,
            HealthSubcommand::Forget => node.forget_gpu(request).await?,
        }
        .into_inner())
    })?;
    let part = answer.part.unwrap_or_default();
    print(&if args.output.json() { json::text(&json::part(&part)) } else { page::part(&part, Paint::stdout()) })?;
    if let (HealthSubcommand::Cordon, Some(before)) = (order, cordoned_before(&part, &args.reason)) {
        note!("failsafectl: it was cordoned already ({before}); the new reason is only in the audit log");
    }
    Ok(Exit::Done)
}

/// The reason of an earlier cordon, which a further one does not replace.
fn cordoned_before(part: &pb::PartHealth, reason: &str) -> Option<String> {
    let cordon = part.reasons.iter().find(|found| found.code == "cordoned")?;
    (!cordon.text.contains(reason)).then(|| clean(&cordon.text))
}
