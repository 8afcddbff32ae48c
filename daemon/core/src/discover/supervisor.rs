//! Cgroups of those who look after a job: `slurmstepd`, `conmon`, the runtime of a quadlet, and the sessions of root. A freeze of one of
//! them has its scheduler or engine take the job, or the node, for dead, or keeps root out.
//!
//! Such a name counts only in the tree of the engine that makes it: elsewhere a user may choose it, to stay without a policy.

/// Why the cgroup at this path is a supervisor's, or holds one by its place; `None`: neither.
pub fn supervisor(path: &str) -> Option<&'static str> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let (last, above) = parts.split_last()?;
    if let Some(why) = in_slurm(&parts) {
        return Some(why);
    }
    let of_conmon = |part: &&str| {
        *part == "conmon" || ["conmon-", "libpod-conmon-", "crio-conmon-"].iter().any(|begin| part.starts_with(begin))
    };
    if matches!(parts[0], "machine.slice" | "libpod_parent" | "kubepods" | "kubepods.slice")
        && parts.iter().any(of_conmon)
    {
        return Some("it is the cgroup of conmon");
    }
    let parent = above.last().copied().unwrap_or_default();
    let in_unit = matches!(parts[0], "system.slice" | "machine.slice")
        && (parent.ends_with(".service") || parent.ends_with(".scope"));
    match *last {
        "runtime" if in_unit => Some("it is the cgroup of the container's runtime and conmon"),
        "supervisor" if in_unit => Some("it is the cgroup of a supervisor"),
        "init.scope" if above.is_empty() || parent.starts_with("user@") => {
            Some("it is the cgroup of a service manager")
        }
        _ if user_of_slice(path) == Some(0) => Some("it is a session of root: a freeze would keep root out"),
        _ => None,
    }
}

/// Whose `user.slice/user-UID.slice` the path is, or lies in.
pub fn user_of_slice(path: &str) -> Option<u32> {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let slice = (parts.next()? == "user.slice").then(|| parts.next())??;
    slice.strip_prefix("user-")?.strip_suffix(".slice")?.parse().ok()
}

fn in_slurm(parts: &[&str]) -> Option<&'static str> {
    // The name of the slice can be configured; with several slurmd on a node, the scope begins with the name of the node.
    let scope = parts.get(1).filter(|scope| **scope == "slurmstepd.scope" || scope.ends_with("_slurmstepd.scope"))?;
    if !parts[0].ends_with(".slice") || scope.is_empty() {
        return None;
    }
    match parts.get(2..).unwrap_or_default() {
        [] => Some("it holds the slurmstepd of every job"),
        // JOB, JOB/step_S, JOB/step_S/slurm: slurmstepd is in the last one.
        [_] | [_, _] => Some("it holds the cgroup of slurmstepd"),
        [_, _, "slurm", ..] => Some("it is the cgroup of slurmstepd"),
        _ => None,
    }
}

/// Whether a cgroup with this name, directly below the one at `path`, is a supervisor's: then the other one holds it.
pub fn holds_supervisor(path: &str, child: &str) -> bool {
    supervisor(&format!("{path}/{child}")).is_some()
}
