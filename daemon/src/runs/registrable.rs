//! Which existing cgroup a user who is no administrator may register as a run.
//!
//! A run bounds whatever is in its cgroup, now and later, and its owner may freeze and kill it. A user therefore registers only a
//! cgroup that no process of somebody else is placed into:
//!
//! ```text
//! owned by the user, with all levels below            ─► accepted: the kernel lets its owner freeze and kill it anyway
//! of root, without levels below, made for one job     ─► accepted: what makes it places only that job's processes there
//! everything else (slices, inner levels, services)    ─► refused
//! ```
//! Who is in the cgroup at the moment is asked elsewhere ([`super::start::sole_owner`]): that shows nothing of what comes later.

use crate::platform::{Cgroup, CgroupError};
use std::path::Path;

/// Why `uid` may not register this cgroup, and what to do instead; `None`: it may.
///
/// # Errors
/// The owner or the levels of the cgroup cannot be read.
pub fn refusal(cgroup: &Cgroup, uid: u32) -> Result<Option<String>, CgroupError> {
    let why = if cgroup.owner()? == uid { foreign_level(cgroup, uid)? } else { foreign(cgroup, uid)? };
    Ok(why.map(|why| {
        format!(
            "cgroup {} cannot be registered by uid {uid}: {why}, so processes of others could come under your run. Start the \
             processes with `failsafectl run`, register a cgroup that your user owns, or a scope or job step that has only your \
             processes and no cgroup below it, or ask root or the administrators' group to register this one",
            cgroup.path().display()
        )
    }))
}

/// A level below a user's own cgroup that is not the user's.
fn foreign_level(cgroup: &Cgroup, uid: u32) -> Result<Option<String>, CgroupError> {
    let mut found = None;
    let walk = cgroup.walk(None, |level| {
        let owner = level.owner()?;
        if owner != uid && found.is_none() {
            found = Some(format!("{} below it belongs to uid {owner}", level.path().display()));
        }
        Ok(())
    })?;
    Ok(found.or_else(|| (!walk.complete).then(|| "it has more levels than can be looked at".into())))
}

/// Of a cgroup that is not the user's own.
fn foreign(cgroup: &Cgroup, uid: u32) -> Result<Option<String>, CgroupError> {
    let path = cgroup.cgroup_path();
    if let Some(why) = shared(path.strip_prefix("/").unwrap_or(&path), uid) {
        return Ok(Some(why));
    }
    Ok((!cgroup.is_leaf()?).then(|| "it is not owned by your user and has cgroups below it".into()))
}

/// Why somebody else's processes may be placed into a cgroup of root at this path; `None`: it is made for one job.
fn shared(relative: &Path, uid: u32) -> Option<String> {
    let parts: Vec<&str> = relative.components().filter_map(|part| part.as_os_str().to_str()).collect();
    let of_other = |part: &&&str| {
        let user = part.strip_prefix("user-").and_then(|rest| rest.strip_suffix(".slice"));
        user.or_else(|| part.strip_prefix("uid_")).is_some_and(|user| user.parse() != Ok(uid))
    };
    if let Some(part) = parts.iter().find(of_other) {
        return Some(format!("it lies in {part}, which is another user's"));
    }
    let (last, above) = parts.split_last()?;
    let parent = above.last().copied().unwrap_or_default();
    if last.ends_with(".slice") {
        return Some("it is a systemd slice, into which systemd places other units".into());
    }
    if last.ends_with("slurmstepd.scope") || *last == "init.scope" {
        return Some("it is the scope of a service for all users".into());
    }
    if last.ends_with(".service") && !is_transient(last) {
        return Some(
            "it is a systemd service, into which systemd places processes at each start of the service".into(),
        );
    }
    let one_job = last.ends_with(".scope")
        || is_transient(last)
        || (*last == "container" && parent.starts_with("libpod-") && parent.ends_with(".scope"))
        || is_container(last, parent)
        || is_slurm_task(&parts);
    (!one_job).then(|| "it belongs to root, and its path does not show that it is made for one job".into())
}

/// A unit that `systemd-run` has named: it is not started again (`run-u12`, `run-r` and 32 digits, `run-p12-i34`).
fn is_transient(name: &str) -> bool {
    let Some(id) = name.strip_prefix("run-").and_then(|rest| rest.strip_suffix(".service")) else { return false };
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let pair = |text: &str| text.split_once("-i").is_some_and(|(pid, inode)| number(pid) && number(inode));
    id.strip_prefix('u').is_some_and(number)
        || id.strip_prefix('r').is_some_and(|digits| is_hex(digits, 32))
        || id.strip_prefix('p').is_some_and(pair)
}

/// A container by its id: `docker/ID`, `POD/ID`, `POD/crio-ID`, `UNIT/libpod-payload-ID`.
fn is_container(name: &str, parent: &str) -> bool {
    let id = name.strip_prefix("crio-").unwrap_or(name);
    let engine = parent == "docker" || parent.starts_with("pod");
    (engine && is_hex(id, 64)) || name.strip_prefix("libpod-payload-").is_some_and(|id| is_hex(id, 64))
}

/// `...slurmstepd.scope/JOB/step_S/user/task_N`, and `slurm/uid_U/job_J/step_S/task_N` of cgroup v1. JOB is `job_J` or an SLUID.
fn is_slurm_task(parts: &[&str]) -> bool {
    match parts {
        [.., scope, _job, step, "user", task] => {
            scope.ends_with("slurmstepd.scope") && step.starts_with("step_") && task.starts_with("task_")
        }
        ["slurm", user, job, step, task] => {
            user.starts_with("uid_")
                && job.starts_with("job_")
                && step.starts_with("step_")
                && task.starts_with("task_")
        }
        _ => false,
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_users_job_step_scope_or_container_is_accepted() {
        let id = |form: &str| form.replace("ID", ID);
        for form in [
            "system.slice/slurmstepd.scope/job_12/step_0/user/task_0",
            "system.slice/node7_slurmstepd.scope/job_12/step_batch/user/task_special",
            "system.slice/slurmstepd.scope/s7K3B0ABCDEF/step_interactive/user/task_3",
            "slurm/uid_1000/job_12/step_0/task_1",
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podab_1.slice/cri-containerd-ID.scope",
            "kubepods/besteffort/pod12-34/ID",
            "kubepods/pod12-34/crio-ID",
            "machine.slice/libpod-ID.scope",
            "machine.slice/libpod-ID.scope/container",
            "system.slice/train.service/libpod-payload-ID",
            "system.slice/docker-ID.scope",
            "docker/ID",
            "user.slice/user-1000.slice/session-3.scope",
            "system.slice/run-u12.service",
            "system.slice/run-r0123456789abcdef0123456789abcdef.service",
            "system.slice/run-p812-i4711.service",
            "system.slice/run-u13.scope",
        ] {
            assert_eq!(shared(Path::new(&id(form)), 1000), None, "{form}");
        }
    }

    #[test]
    fn a_cgroup_into_which_others_are_placed_is_refused() {
        for (form, why) in [
            ("user.slice", "slice"),
            ("user.slice/user-1000.slice", "slice"),
            ("tenant.slice", "slice"),
            ("user.slice/user-1001.slice/session-3.scope", "user-1001.slice"),
            ("user.slice/user-0.slice/session-1.scope", "user-0.slice"),
            ("slurm/uid_1001/job_1/step_0/task_0", "uid_1001"),
            ("system.slice/sshd.service", "service"),
            ("system.slice/run-backup.service", "service"),
            ("user.slice/user-1000.slice/user@1000.service", "service"),
            ("system.slice/slurmstepd.scope", "all users"),
            ("init.scope", "all users"),
            ("system.slice/slurmstepd.scope/job_12", "one job"),
            ("system.slice/slurmstepd.scope/job_12/step_0/user", "one job"),
            ("system.slice/slurmstepd.scope/job_12/step_0/slurm", "one job"),
            ("kubepods/pod12-34", "one job"),
            ("docker", "one job"),
            ("other/0123", "one job"),
            ("mine", "one job"),
        ] {
            let found = shared(Path::new(form), 1000).unwrap_or_else(|| panic!("{form} is accepted"));
            assert!(found.contains(why), "{form}: {found}");
        }
    }
}
