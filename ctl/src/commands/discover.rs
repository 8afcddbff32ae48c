//! `discover`: what the rules of discovery make of a path, and what the daemon found.

use super::{Place, cleanup::cgroup2_mounts, file_name};
use crate::{
    args::DiscoverTestArgs,
    args::Output,
    client::{Client, block_on},
    exit::{Exit, Fail},
    render::{clean, json, print, table},
};
use failsafe_core::{
    Mode,
    discover::{Explained, of_config},
};
use failsafe_proto::v1 as pb;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

pub(super) fn test(place: &Place<'_>, args: &DiscoverTestArgs) -> Result<Exit, Fail> {
    let answer = match &args.config {
        Some(config) => offline(config, &args.path)?,
        None => block_on(async {
            let client = Client::connect(place.daemon).await?;
            let request = pb::DiscoveryTestRequest { path: args.path.clone() };
            Ok(client.discovery().test(request).await?.into_inner())
        })?,
    };
    print(&if args.output.json() { json::text(&tested(&answer)) } else { page(&answer) })?;
    let matches = !answer.rule.is_empty() && answer.supervisor.is_empty();
    Ok(if matches { Exit::Done } else { Exit::Error })
}

fn offline(config: &Path, path: &str) -> Result<pb::DiscoveryTestResponse, Fail> {
    let texts = failsafe_files::read(config, false).map_err(|unread| cannot_read(&unread))?;
    let texts: Vec<(String, String)> = texts.into_iter().map(|it| (file_name(&it.path), it.text)).collect();
    let (rules, root) = of_config(&texts)
        .map_err(|errors| Fail::new(Exit::Usage, format!("the configuration is not valid\n{errors}")))?;
    // A host without a cgroup2 mount is not the one that the configuration is for.
    let mounts = fs::read("/proc/self/mountinfo").map(|text| cgroup2_mounts(&text)).unwrap_or_default();
    let path = below(path, &mounts, &root);
    let mut out = pb::DiscoveryTestResponse { path: path.clone(), ..Default::default() };
    match rules.explain(&path) {
        Explained::Match(found) => {
            out.rule.clone_from(&found.rule.name);
            out.pattern = found.pattern.to_string();
            out.policy.clone_from(&found.rule.policy);
            out.mode = if found.rule.mode == Mode::Observe { "observe" } else { "enforce" }.into();
            out.labels = found.labels.into_iter().collect();
        }
        Explained::Supervisor { rule, why } => {
            out.rule = rule.into();
            out.supervisor = why.into();
        }
        Explained::None(misses) => {
            let misses = misses.iter().map(|miss| pb::DiscoveryMiss {
                rule: miss.rule.into(),
                pattern: miss.pattern.into(),
                why: miss.stop.to_string(),
            });
            out.misses = misses.collect();
        }
    }
    Ok(out)
}

/// The path below the folder of discovery. One with a mount of cgroup2 in front is taken without it; on a host with cgroup v1 beside v2
/// the mount is not `/sys/fs/cgroup`.
fn below(path: &str, mounts: &[PathBuf], root: &str) -> String {
    let usual = || Path::new("/sys/fs/cgroup");
    let mounts = mounts.iter().map(PathBuf::as_path).chain(std::iter::once(usual()));
    let folders = mounts.map(|mount| mount.join(root.trim_matches('/')));
    let rests = folders.filter_map(|folder| Path::new(path).strip_prefix(folder).ok()?.to_str());
    // A mount can lie in another one: the longer one counts.
    rests.min_by_key(|rest| rest.len()).unwrap_or(path).trim_matches('/').to_owned()
}

/// The first file of a configuration that cannot be read.
fn cannot_read(unread: &[failsafe_files::Unread]) -> Fail {
    match unread.first() {
        Some(first) => Fail::because(format!("cannot read {}", file_name(&first.path)), &first.source),
        None => Fail::new(Exit::Error, "the configuration cannot be read"),
    }
}

fn page(answer: &pb::DiscoveryTestResponse) -> String {
    let mut labels: Vec<String> = answer.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.sort();
    let verdict = match (answer.rule.as_str(), answer.supervisor.as_str()) {
        ("", _) if answer.misses.is_empty() => "no: there is no rule of discovery".to_owned(),
        ("", _) => "no: no pattern matches".to_owned(),
        (_, "") => "yes".to_owned(),
        (rule, why) => format!("no: rule {rule} would match, but {why}"),
    };
    let rule = if answer.supervisor.is_empty() { answer.rule.clone() } else { String::new() };
    let mut out = table::pairs(
        "",
        [
            ("path", answer.path.clone()),
            ("matches", verdict),
            ("rule", rule),
            ("pattern", answer.pattern.clone()),
            ("policy", answer.policy.clone()),
            ("mode", answer.mode.clone()),
            ("labels", labels.join(", ")),
            ("run", answer.run_id.clone()),
            ("NO RUN", answer.refused.clone()),
        ],
    );
    if !answer.misses.is_empty() {
        let rows = answer.misses.iter().map(|miss| [miss.rule.clone(), miss.pattern.clone(), miss.why.clone()]);
        out.push('\n');
        out.push_str(&table::table(["RULE", "PATTERN", "WHY NOT"], rows));
    }
    out
}

fn tested(answer: &pb::DiscoveryTestResponse) -> Value {
    let misses = answer.misses.iter().map(|m| json!({ "rule": m.rule, "pattern": m.pattern, "why": m.why }));
    json!({
        "path": answer.path,
        "matches": !answer.rule.is_empty() && answer.supervisor.is_empty(),
        "rule": answer.rule,
        "pattern": answer.pattern,
        "policy": answer.policy,
        "mode": answer.mode,
        "labels": answer.labels.iter().collect::<std::collections::BTreeMap<_, _>>(),
        "supervisor": answer.supervisor,
        "misses": misses.collect::<Vec<_>>(),
        "run": answer.run_id,
        "refused": answer.refused,
    })
}

pub(super) fn list(place: &Place<'_>, output: Output) -> Result<Exit, Fail> {
    let answer = block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.discovery().list(pb::DiscoveryListRequest {}).await?.into_inner())
    })?;
    print(&if output.json() { json::text(&listed(&answer)) } else { list_page(&answer) })?;
    Ok(Exit::Done)
}

fn list_page(answer: &pb::DiscoveryListResponse) -> String {
    if answer.rules.is_empty() {
        return "there is no rule of discovery: see [[discover]] in docs/discovery.md\n".to_owned();
    }
    let rules = answer.rules.iter().map(|rule| {
        let counts = [rule.registered, rule.refused].map(|n| n.to_string());
        let [registered, refused] = counts;
        [rule.name.clone(), rule.policy.clone(), rule.mode.clone(), registered, refused]
    });
    let mut out = table::table(["RULE", "POLICY", "MODE", "RUNS", "NO RUN"], rules);
    let errors = answer.rules.iter().map(|rule| &rule.error).chain([&answer.problem]).filter(|text| !text.is_empty());
    let mut errors: Vec<&String> = errors.collect();
    errors.dedup();
    for error in errors {
        out.push_str(&format!("\nPROBLEM: {}\n", clean(error)));
    }
    if !answer.cgroups.is_empty() {
        let rows = answer.cgroups.iter().map(|found| {
            let state = match (found.refused.is_empty(), found.gpus.as_slice()) {
                (false, _) => found.refused.clone(),
                (true, []) => found.run_id.clone(),
                (true, gpus) => format!("{}, GPUs {}", found.run_id, gpus.join(", ")),
            };
            let run = match (found.refused.is_empty(), found.overruled) {
                (true, _) => "run",
                (false, true) => "overruled",
                (false, false) => "NO RUN",
            };
            [found.rule.clone(), found.path.clone(), run.to_owned(), state]
        });
        out.push('\n');
        out.push_str(&table::table(["RULE", "CGROUP", "", "RUN OR REASON"], rows));
    }
    let mut more: Vec<_> = answer.unlisted.iter().collect();
    more.sort();
    for (why, count) in more {
        out.push_str(&format!("\n{count} more without a run: {}\n", clean(why)));
    }
    out.push('\n');
    out.push_str(&made(answer));
    out.push_str(&format!(
        "{} of {} folders watched; {} lost reports of the kernel; limits: {} runs of one owner, {} in all\n",
        answer.watched, answer.watches, answer.overflows, answer.runs_per_owner, answer.runs
    ));
    out
}

/// When new cgroups are bound.
fn made(answer: &pb::DiscoveryListResponse) -> String {
    if !answer.early_off.is_empty() {
        return format!("new cgroups are bound when they are registered: {}\n", clean(&answer.early_off));
    }
    let late = answer.rules.iter().filter(|rule| !rule.early).map(|rule| rule.name.as_str());
    let late = late.collect::<Vec<_>>().join(", ");
    let but = if late.is_empty() { late } else { format!(", but for those of {late}") };
    format!(
        "new cgroups are bound when they are made{but}: {} so far, {} more found none of {} slots free\n",
        answer.early_bound, answer.early_missed, answer.early_slots
    )
}

fn listed(answer: &pb::DiscoveryListResponse) -> Value {
    let rules = answer.rules.iter().map(|rule| {
        json!({
            "name": rule.name,
            "patterns": rule.patterns,
            "policy": rule.policy,
            "mode": rule.mode,
            "error": rule.error,
            "registered": rule.registered,
            "refused": rule.refused,
            "early": rule.early,
        })
    });
    let cgroups = answer.cgroups.iter().map(|found| {
        json!({
            "path": found.path,
            "rule": found.rule,
            "run": found.run_id,
            "refused": found.refused,
            "overruled": found.overruled,
            "gpus": found.gpus,
        })
    });
    json!({
        "rules": rules.collect::<Vec<_>>(),
        "cgroups": cgroups.collect::<Vec<_>>(),
        "unlisted": answer.unlisted.iter().collect::<std::collections::BTreeMap<_, _>>(),
        "watched": answer.watched,
        "watches": answer.watches,
        "overflows": answer.overflows,
        "problem": answer.problem,
        "runs_per_owner": answer.runs_per_owner,
        "runs": answer.runs,
        "early_off": answer.early_off,
        "early_slots": answer.early_slots,
        "early_bound": answer.early_bound,
        "early_missed": answer.early_missed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_taken_without_the_mount_of_cgroup2_that_it_begins_with() {
        let hybrid = [PathBuf::from("/sys/fs/cgroup/unified")];
        let nested = [PathBuf::from("/sys/fs/cgroup"), PathBuf::from("/sys/fs/cgroup/below")];
        for (path, mounts, root, rest) in [
            ("/sys/fs/cgroup/unified/docker/12", &hybrid[..], "", "docker/12"),
            ("/sys/fs/cgroup/unified/jobs/docker/12", &hybrid[..], "jobs", "docker/12"),
            ("/sys/fs/cgroup/below/a", &nested[..], "", "a"),
            ("/sys/fs/cgroup/docker/12", &nested[..], "", "docker/12"),
            ("/sys/fs/cgroup/docker/12", &[], "", "docker/12"),
            ("/docker/12/", &hybrid[..], "", "docker/12"),
            ("docker/12", &[], "", "docker/12"),
        ] {
            assert_eq!(below(path, mounts, root), rest, "{path}");
        }
    }
}
