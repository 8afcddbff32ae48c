//! `register`: adopt a cgroup that exists.

use super::{Place, manifest, named::Asked, without_gpus};
use crate::{
    args::RegisterArgs,
    client::{Client, block_on},
    exit::{Exit, Fail},
    render::{clean, count, json, print},
};
use failsafe_proto::v1 as pb;

pub(super) fn register(place: &Place<'_>, args: &RegisterArgs) -> Result<Exit, Fail> {
    let asked = Asked::of(&args.new.policy)?;
    let manifest = args.new.manifest.as_deref().map(manifest::read).transpose()?.unwrap_or_default();
    if let Some(warning) =
        asked.policy.as_ref().and_then(|policy| without_gpus(policy, &args.new.gpus)).filter(|_| !args.output.json())
    {
        note!("{warning}");
    }
    let target = match (&args.target.cgroup, args.target.pid) {
        (Some(path), _) => Some(pb::register_request::Target::Cgroup(path.clone())),
        (None, pid) => pid.map(pb::register_request::Target::Pid),
    };
    let request = pb::RegisterRequest {
        name: args.new.name.clone().unwrap_or_default(),
        labels: args.new.labels.iter().cloned().collect(),
        policy_toml: asked.toml.clone(),
        policy_file: asked.file.clone(),
        policy_name: asked.name.clone(),
        gpus: args.new.gpus.clone(),
        repair: args.new.repair,
        lineage: args.new.lineage.clone().unwrap_or_default(),
        accept_delegated: args.accept_delegated,
        manifest,
        target,
    };
    let run = block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.runs().register(request).await?.into_inner())
    })
    .map_err(|fail| asked.explain(fail))?;
    if args.output.json() {
        print(&json::text(&json::run(&run)))?;
    } else {
        let processes = count(usize::try_from(run.processes).unwrap_or(usize::MAX), "process", "processes");
        print(&format!(
            "run {} {} pinned to {} {} ({processes} in {})\n",
            clean(&run.name),
            run.id,
            clean(&run.policy_name),
            run.policy_digest,
            clean(&run.cgroup)
        ))?;
    }
    Ok(Exit::Done)
}
