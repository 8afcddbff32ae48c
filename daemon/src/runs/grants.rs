//! What this node's kernel grants, in the words that policies are held against.

use crate::guard::ProgramState;
use crate::guard::kernel::Kernel;
use failsafe_core::{
    Policy,
    policy::assurance::{self, Grants},
};

/// What the loaded programs can refuse and see. Empty where eBPF is not available.
pub fn grants(kernel: &Kernel) -> Grants {
    let programs = kernel.programs();
    let mut grants = of(programs.iter().map(|p| (p.name, p.hook, &p.state)));
    grants.fentry &= kernel.fentry_refusal().is_none();
    grants.unpinned = kernel.unpinned();
    grants
}

/// Which rules and sections of a policy are not enforced as it asks, and why.
pub fn broken(policy: &Policy, grants: &Grants) -> Vec<String> {
    let broken = assurance::broken(policy, grants);
    broken.iter().map(|b| format!("{} is {}: {}", b.rule, b.name(), b.detail)).collect()
}

/// Whether something that the policy asks for is not enforced.
pub fn unenforced(policy: &Policy, grants: &Grants) -> bool {
    assurance::is_less_than_asked(policy, grants)
}

fn of<'a>(programs: impl Iterator<Item = (&'a str, &'a str, &'a ProgramState)>) -> Grants {
    let mut grants = Grants::default();
    for (name, hook, state) in programs {
        // The program at sys_enter waits unused until a policy watches calls.
        if *state == ProgramState::Refused {
            continue;
        }
        let loaded = *state == ProgramState::Loaded;
        match hook.split_once('/') {
            Some(("tp_btf", "sys_enter")) => grants.sys_enter = true,
            Some(("tp_btf", "inet_sock_set_state")) => grants.listens = true,
            Some(("tp_btf", "sched_prepare_exec") | ("fentry", "commit_creds")) => grants.gains |= loaded,
            Some(("cgroup", hook)) if loaded => _ = grants.cgroup.insert(hook.to_owned()),
            Some(("cgroup_skb", hook)) if loaded => _ = grants.cgroup.insert(format!("skb_{hook}")),
            None if hook == "fentry" && loaded => grants.fentry = true,
            _ => {
                if let Some(hook) = name.strip_prefix("fs_lsm_").filter(|_| loaded) {
                    grants.lsm.insert(hook.to_owned());
                }
            }
        }
    }
    grants
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_loaded_is_granted() {
        use ProgramState::{Loaded, Refused, Unused};
        let programs = [
            ("fs_connect4", "cgroup/connect4", &Loaded),
            ("fs_connect6", "cgroup/connect6", &Refused),
            ("fs_egress", "cgroup_skb/egress", &Loaded),
            ("fs_lsm_file_open", "lsm/file_open", &Loaded),
            ("fs_lsm_bpf", "lsm/bpf", &Refused),
            ("fs_lsm_task_kill", "lsm/task_kill", &Unused),
            ("fs_exec", "tp_btf/sched_process_exec", &Loaded),
            ("fs_sys_enter", "tp_btf/sys_enter", &Unused),
            ("fs_sys_reboot", "fentry", &Refused),
            ("fs_listen", "tp_btf/inet_sock_set_state", &Loaded),
            ("fs_gain_exec", "tp_btf/sched_prepare_exec", &Loaded),
            ("fs_gain_creds", "fentry/commit_creds", &Unused),
        ];
        let grants = of(programs.into_iter());
        assert_eq!(grants.cgroup.iter().collect::<Vec<_>>(), ["connect4", "skb_egress"]);
        assert_eq!(grants.lsm.iter().collect::<Vec<_>>(), ["file_open"]);
        assert!(grants.sys_enter && !grants.fentry && grants.listens && grants.gains);
        assert_eq!(of([("fs_sys_enter", "tp_btf/sys_enter", &Refused)].into_iter()), Grants::default());
    }
}
