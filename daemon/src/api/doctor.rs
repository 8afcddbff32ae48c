//! Checks each probe, mount, library and permission: works, degraded (reason and effect) or missing (remedy).

use super::{Context, drill, log_state};
use crate::{
    guard::{Group, ProgramState, Via},
    pipeline::pulse::Stuck,
    platform::{
        Mounts, ProcFs, clock,
        sched::{self, Granted},
        users,
    },
    runs::grants::grants,
    watchers::{
        discover::gpus::alive::Alive,
        keep::{MISSING_CODE, STATE_CODE},
        rollback::Counter,
    },
};
use failsafe_core::{policy::assurance, time::Span};
use failsafe_proto::v1::{CheckState, DoctorCheck, DrillProof};
use std::time::Instant;

fn check(
    area: &str,
    name: &str,
    state: CheckState,
    detail: impl Into<String>,
    advice: impl Into<String>,
) -> DoctorCheck {
    DoctorCheck {
        area: area.into(),
        name: name.into(),
        state: state as i32,
        detail: detail.into(),
        advice: advice.into(),
    }
}

fn works(area: &str, name: &str, detail: impl Into<String>) -> DoctorCheck {
    check(area, name, CheckState::Works, detail, "")
}

/// All checks, made now.
pub(super) fn checks(context: &Context) -> Vec<DoctorCheck> {
    let mut out = Vec::new();
    mounts(&mut out);
    programs(context, &mut out);
    scheduling(&mut out);
    progress(context, &mut out);
    rules(context, &mut out);
    cgroups(context, &mut out);
    sensors(context, &mut out);
    log(context, &mut out);
    state_folder(context, &mut out);
    access(context, &mut out);
    counter(context, &mut out);
    drills(context, &mut out);
    run_gpus(context.discovery.finder(), &mut out);
    out
}

fn mounts(out: &mut Vec<DoctorCheck>) {
    let proc = ProcFs::default();
    let Ok(mounts) = Mounts::read(proc.root()) else {
        out.push(check("kernel", "mountinfo", CheckState::Missing, "cannot be read", "is /proc mounted?"));
        return;
    };
    out.push(match mounts.cgroup2() {
        Some(mount) => works("kernel", "cgroup2", mount.target.display().to_string()),
        None => check(
            "kernel",
            "cgroup2",
            CheckState::Missing,
            "not mounted",
            "boot with systemd.unified_cgroup_hierarchy=1",
        ),
    });
    out.push(if std::path::Path::new("/sys/kernel/btf/vmlinux").exists() {
        works("kernel", "btf", "/sys/kernel/btf/vmlinux")
    } else {
        check(
            "kernel",
            "btf",
            CheckState::Missing,
            "no BTF: no eBPF program can be loaded",
            "use a kernel with CONFIG_DEBUG_INFO_BTF",
        )
    });
    out.push(if std::path::Path::new("/proc/pressure/cpu").exists() {
        works("kernel", "psi", "/proc/pressure")
    } else {
        check("kernel", "psi", CheckState::Degraded, "no pressure signals", "boot with psi=1")
    });
}

/// How the threads of the freeze path are scheduled beside the runs that they stop.
fn scheduling(out: &mut Vec<DoctorCheck>) {
    let advice = "give the daemon CAP_SYS_NICE; without it a freeze takes longer while the run keeps every CPU busy";
    for (thread, granted) in sched::granted() {
        let name = format!("scheduling of {thread}");
        out.push(match granted {
            Granted::Slice => works("daemon", &name, "nice -10, slice 0.1 ms (used by kernels from 6.12 on)"),
            Granted::Weight(why) => works("daemon", &name, format!("nice -10; no short slice: {why}")),
            Granted::Nothing(why) => check("daemon", &name, CheckState::Degraded, format!("ordinary: {why}"), advice),
        });
    }
}

/// Whether the threads of the freeze path make progress now.
fn progress(context: &Context, out: &mut Vec<DoctorCheck>) {
    let name = "freeze path";
    out.push(match context.node_health.pulses().stuck() {
        None => works("daemon", name, "its threads make progress"),
        Some(Stuck { thread, since }) => {
            let detail = format!(
                "the thread `{thread}` has made no progress for {} s: violations are not acted upon",
                since.as_secs()
            );
            let advice = "see the daemon's own log; systemd restarts the daemon if this lasts (WatchdogSec)";
            check("daemon", name, CheckState::Missing, detail, advice)
        }
    });
}

/// The enforcement level of rules on this kernel, by kind of event.
fn rules(context: &Context, out: &mut Vec<DoctorCheck>) {
    for judged in assurance::kinds(&grants(context.registry.kernel())) {
        let state = if judged.holds() { CheckState::Works } else { CheckState::Degraded };
        let why = if judged.detail.is_empty() { String::new() } else { format!(": {}", judged.detail) };
        let advice = if judged.holds() { "" } else { "boot with `bpf` in lsm= (CONFIG_BPF_LSM)" };
        out.push(check("rules", &judged.rule, state, format!("{}{why}", judged.name()), advice));
    }
}

fn programs(context: &Context, out: &mut Vec<DoctorCheck>) {
    let kernel = context.registry.kernel();
    if let Some(why) = kernel.blind() {
        let advice = "run as root, or with CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_ADMIN";
        out.push(check("ebpf", "programs", CheckState::Missing, why, advice));
        return;
    }
    for program in kernel.programs() {
        let name = format!("{} ({})", program.name, program.hook);
        out.push(match (program.state, program.group) {
            (ProgramState::Loaded, _) => works("ebpf", &name, program.detail),
            (ProgramState::Unused, _) => {
                works("ebpf", &name, if program.detail.is_empty() { "not in use".into() } else { program.detail })
            }
            (ProgramState::Refused, Group::Syscall) => check(
                "ebpf",
                &name,
                CheckState::Degraded,
                format!("refused: {}", program.detail),
                "watched system calls use sys_enter while a policy needs them, which slows every process of the host",
            ),
            (ProgramState::Refused, Group::Guard) => check(
                "ebpf",
                &name,
                CheckState::Missing,
                format!("refused: {}", program.detail),
                "policies with an egress list are refused on this kernel",
            ),
            (ProgramState::Refused, Group::Lsm | Group::LsmOnNeed) => check(
                "ebpf",
                &name,
                CheckState::Degraded,
                format!("refused: {}", program.detail),
                "deny rules on it are only observed here: boot with `bpf` in lsm= (CONFIG_BPF_LSM)",
            ),
            (ProgramState::Refused, Group::Stop) => check(
                "ebpf",
                &name,
                CheckState::Degraded,
                format!("refused: {}", program.detail),
                "a thread that stops its run by a call judged on the cgroup runs on until the daemon freezes it",
            ),
            (ProgramState::Refused, Group::Device) => check(
                "ebpf",
                &name,
                CheckState::Degraded,
                format!("refused: {}", program.detail),
                "rules on devices hold only where LSM programs do",
            ),
            (ProgramState::Refused, Group::Early) => check(
                "ebpf",
                &name,
                CheckState::Degraded,
                format!("refused: {}", program.detail),
                "cgroups of discovery are bound when they are registered, and not when they are made",
            ),
            (ProgramState::Refused, Group::Life | Group::Meter | Group::Sight) => check(
                "ebpf",
                &name,
                CheckState::Degraded,
                format!("refused: {}", program.detail),
                "rules on what it sees stay silent",
            ),
        });
    }
    out.push(match kernel.pins() {
        Ok(path) => works("ebpf", "pins", path.display().to_string()),
        Err(why) => {
            check("ebpf", "pins", CheckState::Degraded, why, "in-kernel blocks end with the daemon: mount bpffs")
        }
    });
    out.push(match (kernel.syscalls_via(), kernel.fentry_refusal()) {
        (Some(Via::SysEnter), why) => {
            let why = why.unwrap_or_default();
            check(
                "ebpf",
                "watched system calls",
                CheckState::Degraded,
                format!("by sys_enter: {why}"),
                costs(context).join("; "),
            )
        }
        (Some(Via::Fentry), _) => works("ebpf", "watched system calls", "by fentry, on the calls themselves"),
        (None, Some(why)) => check(
            "ebpf",
            "watched system calls",
            CheckState::Degraded,
            format!("none watched now; fentry is refused: {why}"),
            "a policy that watches calls will attach sys_enter, which slows every process of the host",
        ),
        (None, None) => works("ebpf", "watched system calls", "none watched now; fentry is available"),
    });
}

fn cgroups(context: &Context, out: &mut Vec<DoctorCheck>) {
    let mount = context.registry.root().mount();
    let controllers = std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
    for controller in ["memory", "cpu", "pids"] {
        out.push(if controllers.split_whitespace().any(|c| c == controller) {
            works("cgroup", controller, "controller on cgroup2")
        } else {
            let advice = "figures are summed from /proc instead; OOM kills come from eBPF only";
            check(
                "cgroup",
                controller,
                CheckState::Degraded,
                "controller is not on cgroup2 (a v1 mount has it)",
                advice,
            )
        });
    }
    let systemd = std::path::Path::new("/run/systemd/system").exists();
    out.push(if systemd {
        works("cgroup", "systemd", "PID 1")
    } else {
        check(
            "cgroup",
            "systemd",
            CheckState::Degraded,
            "PID 1 is not systemd",
            "nothing restarts the daemon if it dies",
        )
    });
}

fn sensors(context: &Context, out: &mut Vec<DoctorCheck>) {
    let node = context.view();
    for (source, view) in &node.sensors {
        out.push(match &view.blind {
            None => works("sensor", source.name(), view.detail.clone()),
            Some(why) => check(
                "sensor",
                source.name(),
                CheckState::Degraded,
                why.clone(),
                "policies that need it are refused, unless they say on_blind = \"continue\"",
            ),
        });
    }
    for gpu in node.gpus.values() {
        let name = format!("gpu {} {}", gpu.index, gpu.uuid);
        let area = if gpu.uuid.is_amd() { "amdgpu" } else { "nvml" };
        let lacks = format!("unsupported: [{}]", gpu.unsupported.join(", "));
        let failing: Vec<&str> = gpu
            .failing
            .iter()
            .chain(gpu.slices.values().flat_map(|slice| &slice.failing))
            .map(String::as_str)
            .collect();
        out.push(if failing.is_empty() {
            works(area, &name, format!("{}; {lacks}", gpu.name))
        } else {
            let advice = "see the driver's log (dmesg)";
            check(area, &name, CheckState::Degraded, format!("failing: [{}]; {lacks}", failing.join("; ")), advice)
        });
    }
}

fn log(context: &Context, out: &mut Vec<DoctorCheck>) {
    let state = log_state::state(context);
    let path = context.log.path().display().to_string();
    let found = "`failsafectl log verify`; compare with copies of the log made earlier, and keep the state folder";
    out.push(if state == "healthy" {
        works("log", "audit log", path)
    } else {
        let written = context.log.state() == "healthy";
        let advice = if written { found } else { "make room on its disk; containment goes on" };
        check("log", "audit log", CheckState::Degraded, format!("{path}: {state}"), advice)
    });
    for finding in context.log.findings() {
        let advice = found;
        out.push(check("log", "audit log at start", CheckState::Degraded, finding, advice));
    }
}

/// Whether the state folder is as the daemon and the audit log know it.
fn state_folder(context: &Context, out: &mut Vec<DoctorCheck>) {
    let (area, name) = ("log", "state folder");
    let view = context.node_health.view();
    let mut amiss =
        view.node.reasons.iter().filter(|reason| [STATE_CODE, MISSING_CODE].contains(&reason.code.as_str()));
    let first = amiss.next();
    if first.is_none() {
        out.push(works(area, name, context.config.state_dir.display().to_string()));
    }
    for reason in first.into_iter().chain(amiss) {
        let advice = "find out who writes there; `failsafectl node reset-health` after that; docs/gpu-health.md#node";
        let detail = format!("{}: {}", reason.code, reason.text);
        out.push(check(area, name, CheckState::Degraded, detail, advice));
    }
}

/// Whether a rollback of the log would be found at the next start, beyond what its files show.
fn counter(context: &Context, out: &mut Vec<DoctorCheck>) {
    let (area, name) = ("log", "TPM counter");
    out.push(match context.counter.get() {
        Counter::Agreed(value) => works(area, name, format!("log and TPM agree on {value}")),
        Counter::Unread => works(area, name, "it is being read".to_owned()),
        Counter::Unused(why) => works(area, name, format!("not used: {why}")),
        Counter::Missing(why) => {
            let advice = "enable the TPM and load its driver; if it was removed on purpose, set tpm.counter = false; \
                          docs/transparency-log.md";
            check(area, name, CheckState::Degraded, why, advice)
        }
        Counter::Failed(why) => {
            let advice = "a log that is replaced by an older copy of the whole state folder is not found out; docs/transparency-log.md";
            check(area, name, CheckState::Degraded, why, advice)
        }
    });
}

/// Whether the GPUs that processes of discovered runs have open are found.
fn run_gpus(finder: &Alive, out: &mut Vec<DoctorCheck>) {
    let (area, name) = ("discovery", "GPUs of runs");
    out.extend(finder.check(Instant::now()).map(|works_now| match works_now {
        Ok(()) => works(area, name, "open device files are looked for"),
        Err(why) => {
            let advice = "GPUs that the driver reports are still found; look for a process in uninterruptible sleep (state D), \
                          then restart failsafed";
            check(area, name, CheckState::Degraded, why, advice)
        }
    }));
}

/// Whether it is proved that the node can stop a run.
fn drills(context: &Context, out: &mut Vec<DoctorCheck>) {
    let state = drill::state(context);
    let every = Span::from_millis(state.every_ms);
    let age = u64::try_from(clock::wall_ns().saturating_sub(state.proved_ns)).unwrap_or(0);
    let proved = match &state.proved {
        Some(proved) => {
            let stopped_in = proved.stopped_in_ns.map_or(String::new(), |ns| format!(", frozen within {}", Span(ns)));
            format!("the last stop was proved {} min ago{stopped_in}", age / 60_000_000_000)
        }
        None => "no drill has proved a stop yet".to_owned(),
    };
    let advice = "`failsafectl drill now`; docs/drill.md says what each step shows";
    out.push(match (&state.failed, state.overdue) {
        (Some(failed), _) => {
            let at =
                if failed.failed_step.is_empty() { String::new() } else { format!(" at step {}", failed.failed_step) };
            let detail = format!("{} failed{at}: {}; {proved}", failed.name, failed.problem);
            check("containment", "drill", CheckState::Degraded, detail, advice)
        }
        (None, true) => {
            let detail = format!("overdue (drill.every is {every}): {proved}");
            check("containment", "drill", CheckState::Degraded, detail, advice)
        }
        (None, false) => {
            let schedule = if state.every_ms == 0 { "; no schedule ([drill] every is not set)" } else { "" };
            let last = state.last.as_ref().filter(|last| last.proof() != DrillProof::Proved);
            let last = last.map(|last| format!("; {} proved nothing: {}", last.name, last.problem)).unwrap_or_default();
            let detail = format!("{proved}{last}{schedule}");
            match state.proved {
                Some(_) => works("containment", "drill", detail),
                None => check("containment", "drill", CheckState::NotProved, detail, advice),
            }
        }
    });
}

fn access(context: &Context, out: &mut Vec<DoctorCheck>) {
    let group = &context.config.admin_group;
    out.push(match users::group_id(group) {
        Ok(Some(gid)) => works("socket", "administrators", format!("group {group} ({gid}) and root")),
        _ => check(
            "socket",
            "administrators",
            CheckState::Degraded,
            format!("no group {group}: only root may act"),
            format!("groupadd --system {group}"),
        ),
    });
    out.push(works("socket", "gRPC", context.config.socket.display().to_string()));
    out.push(works("socket", "metrics", context.config.metrics_socket.display().to_string()));
}

/// What is being paid now by processes outside the runs.
pub(super) fn costs(context: &Context) -> Vec<String> {
    let mut costs = Vec::new();
    if context.registry.kernel().syscalls_via() == Some(Via::SysEnter) {
        costs.push(
            "a pinned policy watches system calls, and this kernel refuses fentry: sys_enter is attached, which slows every \
             system call of every process on this host (`cargo xtask bench overhead` measures by how much)"
                .into(),
        );
    }
    costs
}
