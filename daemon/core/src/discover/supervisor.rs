//! Cgroups of those who look after a job: `slurmstepd`, `conmon`, the runtime of a quadlet. A freeze of one of them has its scheduler
//! or engine take the job, or the node, for dead.

/// Why the cgroup at this path is a supervisor's, or holds one by its place; `None`: neither.
pub fn supervisor(path: &str) -> Option<&'static str> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let (last, above) = parts.split_last()?;
    let parent = above.last().copied().unwrap_or_default();
    let in_slurm = above.iter().any(|part| part.ends_with("slurmstepd.scope"));
    if last.ends_with("slurmstepd.scope") {
        return Some("it holds the slurmstepd of every job");
    }
    if in_slurm {
        // JOB, JOB/step_S, JOB/step_S/slurm: slurmstepd is in the last one.
        let inner = above.iter().rev().take_while(|part| !part.ends_with("slurmstepd.scope")).count();
        if inner < 2 {
            return Some("it holds the cgroup of slurmstepd");
        }
        if *last == "slurm" || above.iter().rev().take(inner).any(|part| *part == "slurm") {
            return Some("it is the cgroup of slurmstepd");
        }
    }
    if parts.iter().any(|part| *part == "conmon" || part.contains("-conmon-") || part.starts_with("conmon-")) {
        return Some("it is the cgroup of conmon");
    }
    let of_unit = |part: &str| part.ends_with(".service") || part.ends_with(".scope");
    if *last == "runtime" && of_unit(parent) {
        return Some("it is the cgroup of the container's runtime and conmon");
    }
    if *last == "supervisor" && of_unit(parent) {
        return Some("it is the cgroup of a supervisor");
    }
    if *last == "init.scope" {
        return Some("it is the cgroup of a service manager");
    }
    None
}

/// Whether a cgroup with this name, directly below another one, is a supervisor's: then the other one holds it.
pub fn holds_supervisor(child: &str) -> bool {
    matches!(child, "slurm" | "runtime" | "conmon" | "supervisor") || child.contains("-conmon-")
}
