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
        adopt_connections: args.adopt_connections,
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
        warn(&run);
        run.connections.iter().for_each(|open| note!("failsafectl: {}", connection(open)));
    }
    Ok(Exit::Done)
}

/// Shows what the daemon warns about in a new run.
pub(super) fn warn(run: &pb::Run) {
    run.warnings.iter().for_each(|warning| note!("failsafectl: warning: {}", clean(warning)));
}

/// What became of a connection that was open.
fn connection(open: &pb::OpenConnection) -> String {
    let what = format!("open connection to {} ({}, pid {})", clean(&open.remote), clean(&open.protocol), open.pid);
    let hosts: Vec<String> = open.hosts.iter().map(|host| clean(host).to_string()).collect();
    let hosts = hosts.join(", ");
    match (open.kept, hosts.is_empty()) {
        (true, _) => format!("{what}: kept; its address counts as one of {hosts}"),
        (false, true) => format!("{what}: not on the allow-list, its packets are dropped"),
        (false, false) => format!(
            "{what}: not on the allow-list, its packets are dropped. If the address is one of {hosts}, register with \
             --adopt-connections"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_is_cut_is_reported_with_what_would_keep_it() {
        let open = |hosts: &[&str], kept| {
            let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
            connection(&pb::OpenConnection {
                remote: "203.0.113.1:443".into(),
                protocol: "tcp".into(),
                pid: 7,
                hosts,
                kept,
            })
        };
        let cut = open(&["*.example.org"], false);
        assert!(cut.starts_with("open connection to 203.0.113.1:443 (tcp, pid 7): not on the allow-list"), "{cut}");
        assert!(cut.ends_with("one of *.example.org, register with --adopt-connections"), "{cut}");
        assert!(!open(&[], false).contains("--adopt-connections"));
        assert!(open(&["*.example.org"], true).ends_with("kept; its address counts as one of *.example.org"));
    }
}
