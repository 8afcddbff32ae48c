//! The eBPF sensor and guard on the running kernel: real cgroups, processes, sockets; loopback addresses only.
//!
//! What must happen in a run's cgroup is done by this binary started again as [`agent_process`], which takes commands on
//! its standard input. A machine that cannot do it (not root, no cgroup v2) says so and skips.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's helpers fail the test")]

#[path = "ebpf/agent.rs"]
mod agent;
#[path = "ebpf/answers.rs"]
mod answers;
#[path = "ebpf/bench.rs"]
mod bench;
#[path = "ebpf/calls.rs"]
mod calls;
#[path = "ebpf/early.rs"]
mod early;
#[path = "ebpf/figures.rs"]
mod figures;
#[path = "ebpf/files.rs"]
mod files;
#[path = "ebpf/guard.rs"]
mod guard;
#[path = "ebpf/levels.rs"]
mod levels;
#[path = "ebpf/life.rs"]
mod life;
#[path = "ebpf/names.rs"]
mod names;
#[path = "ebpf/network.rs"]
mod network;
#[path = "ebpf/outlive.rs"]
mod outlive;
#[path = "ebpf/probes.rs"]
mod probes;
#[path = "ebpf/quota.rs"]
mod quota;
#[path = "ebpf/rules.rs"]
mod rules;
#[path = "../../tests/skip.rs"]
mod skip;
#[path = "ebpf/slots.rs"]
mod slots;

/// Not a test: the process that acts inside a run.
#[test]
fn agent_process() {
    agent::agent_main();
}
