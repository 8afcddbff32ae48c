//! `freeze --all`: the emergency switch.
//!
//! Every run that is not frozen is frozen, many at a time; then the runs are listed again, for those that were
//! started meanwhile. It ends when a list shows none that is left.

use super::{
    Place,
    control::{ask, exit_of},
};
use crate::{
    args::FreezeArgs,
    client::{Client, block_on},
    exit::{Exit, Fail},
    render::{clean, json, print, table, users},
};
use failsafe_proto::v1 as pb;
use serde_json::json;
use std::collections::BTreeMap;

/// Freezes that are under way at once.
const AT_ONCE: usize = 32;
/// Runs of one part of a list.
const PAGE: u32 = 64;
/// Lists at most: runs may be started without end.
const ROUNDS: usize = 10;

/// What came of one run.
struct Done {
    name: String,
    verdict: Exit,
    why: String,
}

pub(super) fn freeze_all(place: &Place<'_>, args: &FreezeArgs) -> Result<Exit, Fail> {
    let (done, left) = block_on(async {
        let client = Client::connect(place.daemon).await?;
        let mut done: BTreeMap<String, Done> = BTreeMap::new();
        for _ in 0..ROUNDS {
            let left = unfrozen(&client, &done).await?;
            if left.is_empty() || args.dry_run {
                return Ok((done, left));
            }
            for some in left.chunks(AT_ONCE) {
                let mut tasks = tokio::task::JoinSet::new();
                for run in some {
                    let (client, run, args) = (client.clone(), run.clone(), args.of(&run.id));
                    tasks.spawn(async move {
                        let answer = ask(&client, pb::Command::Freeze, &args).await;
                        (run, answer)
                    });
                }
                while let Some(Ok((run, answer))) = tasks.join_next().await {
                    done.insert(run.id, of(run.name, answer));
                }
            }
        }
        let left = unfrozen(&client, &done).await?;
        Ok((done, left))
    })?;
    report(args, &done, &left)
}

/// Live runs that are not frozen and were not tried yet.
async fn unfrozen(client: &Client, done: &BTreeMap<String, Done>) -> Result<Vec<pb::Run>, Fail> {
    let (mut left, mut page_token) = (Vec::new(), String::new());
    let is_left =
        |run: &pb::Run| run.state() != pb::RunState::Frozen && !run.guarded_frozen && !done.contains_key(&run.id);
    loop {
        // In parts: no number of runs makes an answer too large.
        let request = pb::ListRequest { page_size: PAGE, page_token, ..Default::default() };
        let pb::ListResponse { runs, only_own, next_page_token } = client.runs().list(request).await?.into_inner();
        if only_own {
            // To freeze some and call it all would leave the others to run.
            return Err(Fail::new(
                Exit::Denied,
                "freeze --all is for root and the administrators' group: you see your own runs only, so nothing was frozen; \
                 `failsafectl freeze RUN` freezes a run of yours",
            ));
        }
        left.extend(runs.into_iter().filter(is_left));
        if next_page_token.is_empty() {
            return Ok(left);
        }
        page_token = next_page_token;
    }
}

fn of(name: String, answer: Result<pb::ControlResponse, Fail>) -> Done {
    match answer {
        Ok(answer) => Done { name, verdict: exit_of(answer.verdict()), why: answer.missing.join("; ") },
        Err(fail) => Done { name, verdict: fail.exit, why: fail.message },
    }
}

fn report(args: &FreezeArgs, done: &BTreeMap<String, Done>, left: &[pb::Run]) -> Result<Exit, Fail> {
    let bad: Vec<(&String, &Done)> = done.iter().filter(|(_, done)| done.verdict != Exit::Done).collect();
    let frozen = done.len() - bad.len();
    if args.output.json() {
        let runs = done.iter().map(|(id, done)| {
            json!({ "run": id, "name": done.name, "exit": done.verdict as u8, "frozen": done.verdict == Exit::Done, "why": done.why })
        });
        let left: Vec<_> = left.iter().map(|run| json!({ "run": run.id, "name": run.name })).collect();
        print(&json::text(
            &json!({ "frozen": frozen, "runs": runs.collect::<Vec<_>>(), "not_frozen": left, "dry_run": args.dry_run }),
        ))?;
    } else if args.dry_run {
        let rows = left.iter().map(|run| [run.name.clone(), run.id.clone(), users::id(run.owner_uid)]);
        print(&format!("would freeze {} runs\n{}", left.len(), table::table(["NAME", "RUN", "OWNER"], rows)))?;
    } else {
        let mut out = format!("{frozen} runs frozen\n");
        for (id, done) in &bad {
            out.push_str(&format!("NOT PROVED FROZEN: {} {id}: {}\n", clean(&done.name), clean(&done.why)));
        }
        for run in left {
            out.push_str(&format!("NOT FROZEN, started meanwhile: {} {}\n", clean(&run.name), clean(&run.id)));
        }
        print(&out)?;
    }
    if args.dry_run {
        return Ok(Exit::Done);
    }
    // A run that ended before the command reached it needs none.
    let worst = bad.iter().map(|(_, done)| done.verdict).max_by_key(|exit| *exit as u8);
    Ok(worst.unwrap_or(if left.is_empty() { Exit::Done } else { Exit::Partial }))
}
