//! What rules are worth on three kinds of node: with LSM, with cgroup hooks only, and without eBPF.

use super::*;
use crate::policy::parse::parse;

const CGROUP: [&str; 10] = [
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "sock_create",
    "skb_egress",
    "skb_ingress",
    "bind4",
    "bind6",
    "dev",
];

const LSM: [&str; 32] = [
    "bprm_check_security",
    "file_open",
    "mmap_file",
    "file_mprotect",
    "ptrace_access_check",
    "ptrace_traceme",
    "bpf",
    "task_kill",
    "inode_unlink",
    "inode_rename",
    "kernel_load_data",
    "kernel_read_file",
    "inode_init_security_anon",
    "bprm_creds_from_file",
    "task_fix_setuid",
    "userns_create",
    "task_alloc",
    "socket_create",
    "socket_listen",
    "file_receive",
    "sb_mount",
    "sb_umount",
    "sb_pivotroot",
    "move_mount",
    "path_chroot",
    "key_permission",
    "key_alloc",
    "settime",
    "perf_event_open",
    "quotactl",
    "capable",
    "file_alloc_security",
];

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

/// A kernel with `bpf` in lsm= and fentry.
fn full() -> Grants {
    Grants {
        lsm: names(&LSM),
        fentry: true,
        sys_enter: true,
        listens: true,
        gains: true,
        cgroup: names(&CGROUP),
        unpinned: None,
    }
}

/// A kernel that refuses LSM and fentry.
fn plain() -> Grants {
    Grants { lsm: BTreeSet::new(), fentry: false, ..full() }
}

/// One before 6.10 as well.
fn old() -> Grants {
    Grants { gains: false, ..plain() }
}

fn rule(when: &str, effect: &str, head: &str) -> Policy {
    let text = format!(
        "[policy]\nname = \"p\"\nowner = \"o\"\n{head}\n[[rule]]\nid = \"r\"\nrationale = \"x\"\neffect = \"{effect}\"\nwhen = {when}\nactions = [\"notify\"]\n"
    );
    parse("p", &text).unwrap_or_else(|e| panic!("{e}"))
}

fn worth(when: &str, effect: &str, grants: &Grants) -> (&'static str, String) {
    let all = assess(&rule(when, effect, ""), grants);
    let last = all.last().unwrap();
    (last.name(), last.detail.clone())
}

#[test]
fn lsm_blocks_what_cgroup_hooks_cannot() {
    for (when, plainly) in [
        ("{ event = \"exec\", path = \"/tmp/*\" }", "observed"),
        ("{ event = \"open\", path = \"/etc/shadow\" }", "observed, arguments unreliable"),
        ("{ event = \"syscall\", name = [\"ptrace\", \"mount\"] }", "observed, arguments unreliable"),
        ("{ event = \"listen\", port = 22 }", "observed"),
        ("{ event = \"socket\", family = \"packet\" }", "observed, arguments unreliable"),
        ("{ event = \"socket\", family = \"inet\" }", "observed, arguments unreliable"),
        ("{ event = \"privilege\", gain = \"userns\" }", "observed, arguments unreliable"),
        ("{ event = \"privilege\", gain = \"capability\" }", "observed"),
        ("{ event = \"privilege\", gain = \"setuid\" }", "observed, arguments unreliable"),
        ("{ event = \"exec-memory\", kind = \"anonymous\" }", "observed, arguments unreliable"),
        ("{ event = \"exec-memory\" }", "not seen"),
    ] {
        assert_eq!(worth(when, "deny", &full()), ("blocked-in-kernel", String::new()), "{when}");
        let (got, why) = worth(when, "deny", &plain());
        assert_eq!(got, plainly, "{when}: {why}");
        assert!(why.contains("lsm/"), "{when}: {why}");
    }
}

#[test]
fn cgroup_hooks_block_on_every_kernel() {
    for when in
        ["{ event = \"bind\", port = 22 }", "{ event = \"open\", path = [\"/dev/mem\", \"/dev/infiniband/uverbs0\"] }"]
    {
        assert_eq!(worth(when, "deny", &plain()), ("blocked-in-kernel", String::new()), "{when}");
    }
    let many =
        "{ event = \"open\", path = [\"/dev/nvidia*\", \"/dev/infiniband/*\", \"/dev/nvidia-caps/nvidia-cap*\"] }";
    assert_eq!(worth(many, "deny", &plain()), ("blocked-in-kernel", String::new()));
    for path in
        ["/dev/shm/x", "/dev/fd", "/dev/s*", "/dev/*", "/dev/core*", "/device", "/dev/infiniband/a/b", "/dev/x/*"]
    {
        let when = format!("{{ event = \"open\", path = [\"/dev/mem\", \"{path}\"] }}");
        assert_eq!(worth(&when, "deny", &plain()).0, "observed, arguments unreliable", "{path}");
    }
}

#[test]
fn every_call_that_can_be_watched_can_be_refused() {
    for name in crate::policy::groups::names() {
        let when = format!("{{ event = \"syscall\", name = \"{name}\" }}");
        assert_eq!(worth(&when, "deny", &full()), ("blocked-in-kernel", String::new()), "{name}");
        let (got, why) = worth(&when, "deny", &plain());
        assert_eq!(got, "observed, arguments unreliable", "{name}");
        assert!(why.contains("no lsm/"), "{name}: {why}");
    }
}

#[test]
fn a_stop_lists_what_its_latch_cannot_refuse() {
    let when = "{ event = \"connect\", verdict = \"denied\" }";
    assert_eq!(worth(when, "stop", &full()), ("blocked-in-kernel", String::new()));
    let (got, why) = worth(when, "stop", &plain());
    assert!(got == "blocked-in-kernel" && why.contains("lsm/file_open"), "{got}: {why}");
    let mut deaf = plain();
    deaf.cgroup.remove("sendmsg6");
    assert_eq!(worth(when, "stop", &deaf), ("not seen", "egress: no cgroup/sendmsg6".to_owned()));
}

#[test]
fn observing_asks_for_sight_only() {
    for (when, lsm, plainly) in [
        ("{ event = \"exec\" }", "observed", "observed"),
        ("{ event = \"open\", path = \"/etc/*\" }", "observed", "observed, arguments unreliable"),
        ("{ event = \"open\", path = [\"/etc/*\", \"*.key\"] }", "not seen", "not seen"),
        ("{ event = \"syscall\", name = \"reboot\" }", "observed", "observed, arguments unreliable"),
        ("{ event = \"listen\" }", "observed", "observed"),
        ("{ event = \"oom\" }", "observed", "observed"),
    ] {
        assert_eq!(worth(when, "observe", &full()).0, lsm, "{when}");
        assert_eq!(worth(when, "observe", &plain()).0, plainly, "{when}");
        let (got, why) = worth(when, "observe", &Grants::default());
        assert_eq!(got, "not seen", "{when}: {why}");
    }
    let both_lsm_and_no_call = Grants { fentry: false, sys_enter: false, ..full() };
    assert_eq!(worth("{ event = \"syscall\", name = \"bpf\" }", "observe", &both_lsm_and_no_call).0, "not seen");
}

#[test]
fn a_run_is_refused_when_a_refusal_is_only_promised() {
    let when = "{ event = \"exec\", path = \"/tmp/*\" }";
    let why = refusal(&rule(when, "deny", ""), &plain()).unwrap();
    assert!(why.contains("r would be observed") && why.contains("lsm/bprm_check_security"), "{why}");
    assert_eq!(refusal(&rule(when, "deny", ""), &full()), None);
    assert_eq!(refusal(&rule(when, "observe", ""), &plain()), None);
    let unseen = "{ event = \"privilege\", gain = \"capability\" }";
    let why = refusal(&rule(unseen, "observe", ""), &old()).unwrap();
    assert!(why.contains("what r is about is not seen (capability: no lsm/bprm_creds_from_file)"), "{why}");
    assert_eq!(refusal(&rule(unseen, "observe", ""), &full()), None);
    assert_eq!(refusal(&rule(unseen, "observe", "on_blind = \"continue\""), &old()), None);
    let willing = rule(when, "deny", "on_blind = \"continue\"");
    assert_eq!(refusal(&willing, &plain()), None);
    assert_eq!(broken(&willing, &plain()).len(), 1, "what is not kept is known all the same");
}

#[test]
fn every_kind_of_event_is_judged_for_the_node() {
    let worth = |grants: &Grants| -> Vec<(String, &'static str)> {
        kinds(grants).into_iter().map(|judged| (judged.rule.clone(), judged.name())).collect()
    };
    let of = |all: &[(String, &'static str)], kind: &str| {
        all.iter().find(|(name, _)| name == kind).unwrap_or_else(|| panic!("{kind} is missing")).1
    };
    let (lsm, plainly) = (worth(&full()), worth(&plain()));
    assert!(lsm.iter().all(|(_, name)| *name != "not seen"), "{lsm:?}");
    for (kind, with, without) in [
        ("exec", "blocked-in-kernel", "observed"),
        ("open", "blocked-in-kernel", "observed, arguments unreliable"),
        ("connect", "blocked-in-kernel", "blocked-in-kernel"),
        ("listen", "blocked-in-kernel", "observed"),
        ("syscall", "blocked-in-kernel", "observed, arguments unreliable"),
        ("dns", "observed", "observed"),
        ("exit", "observed", "observed"),
    ] {
        assert_eq!((of(&lsm, kind), of(&plainly, kind)), (with, without), "{kind}");
    }
    assert!(!lsm.iter().any(|(kind, _)| kind == "xid"), "which is no event of the kernel's programs");
}

#[test]
fn sections_are_judged_too() {
    let head = "on_dead_daemon = \"deny-all\"\n[exec]\nallow = [\"/usr/bin/*\"]\n[limits]\nprocesses = 4\n[egress]\nallow = [{ host = \"a.org\" }]\n[[egress.budget]]\nname = \"b\"\nto = [\"10.0.0.0/8\"]\nbytes = \"1 B\"";
    let policy = rule("{ event = \"oom\" }", "observe", head);
    let kept = |grants: &Grants| -> Vec<(String, &'static str)> {
        assess(&policy, grants).into_iter().map(|judged| (judged.rule.clone(), judged.name())).collect()
    };
    let blocked = "blocked-in-kernel";
    let line = |rule: &str, name| (rule.to_owned(), name);
    assert_eq!(
        kept(&plain()),
        [
            line("[egress]", blocked),
            line("[egress] hosts", "observed"),
            line("[egress] budget b", blocked),
            line("[exec]", "observed"),
            line("[limits]", "observed"),
            line("on_dead_daemon", "not enforced"),
            line("r", "observed"),
        ]
    );
    assert!(assess(&policy, &full()).iter().all(RuleAssurance::holds));
    let names: Vec<String> = broken(&policy, &plain()).into_iter().map(|judged| judged.rule).collect();
    assert_eq!(names, ["[exec]", "[limits]", "on_dead_daemon"]);
}

#[test]
fn limits_that_are_only_observed_are_listed_and_do_not_prevent_a_start() {
    let policy = rule("{ event = \"oom\" }", "observe", "[limits]\nprocesses = 4");
    assert_eq!(broken(&policy, &full()), []);
    let listed = broken(&policy, &plain());
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!((listed[0].rule.as_str(), listed[0].name()), ("[limits]", "observed"));
    assert!(listed[0].detail.contains("lsm/task_alloc"), "{listed:?}");
    assert_eq!(refusal(&policy, &plain()), None);
}

#[test]
fn a_deny_on_fork_is_enforced_only_beyond_limits() {
    let when = "{ event = \"fork\" }";
    let bounded = rule(when, "deny", "[limits]\nprocesses = 4");
    assert_eq!(broken(&bounded, &full()), []);
    assert!(
        broken(&bounded, &plain()).iter().any(|judged| judged.rule == "r" && judged.detail.contains("lsm/task_alloc"))
    );
    for effect in ["deny", "stop"] {
        let unbounded = rule(when, effect, "");
        assert_eq!(worth(when, effect, &full()).0, "observed");
        assert!(worth(when, effect, &full()).1.contains("no [limits]"));
        let why = refusal(&unbounded, &full()).unwrap();
        assert!(why.contains("r would be observed") && why.contains("no [limits]") && !why.contains("lsm="), "{why}");
    }
    assert_eq!(worth(when, "observe", &full()), ("observed", String::new()));
    assert_eq!(worth(when, "deny", &Grants::default()).0, "not seen");
}

#[test]
fn without_pins_no_policy_is_enforced_after_a_crash_of_the_daemon() {
    let unpinned = || Grants { unpinned: Some("no bpffs".to_owned()), ..full() };
    let bounded = "[egress]\nallow = []";
    let when = "{ event = \"oom\" }";
    for (head, prevents) in
        [(bounded, false), ("on_dead_daemon = \"deny-egress\"", true), ("on_dead_daemon = \"deny-all\"", true)]
    {
        let policy = rule(when, "observe", head);
        assert_eq!(broken(&policy, &full()), [], "{head}");
        let listed = broken(&policy, &unpinned());
        assert_eq!(listed.len(), 1, "{head}: {listed:?}");
        assert_eq!((listed[0].rule.as_str(), listed[0].name()), ("on_dead_daemon", "not enforced"), "{head}");
        assert!(listed[0].detail.contains("not pinned") && listed[0].detail.contains("no bpffs"), "{head}");
        assert_eq!(is_less_than_asked(&policy, &unpinned()), prevents, "{head}: without pins nobody asked for more");
        let refused = refusal(&policy, &unpinned());
        assert_eq!(refused.is_some(), prevents, "{head}: {refused:?}");
        assert!(refused.is_none_or(|why| why.contains("`bpffs`") && !why.contains("lsm=")), "{head}");
    }
    assert_eq!(broken(&rule(when, "observe", ""), &unpinned()), [], "nothing is refused that would have to stay so");
}

/// The shipped policy promises nothing that a kernel with LSM does not keep.
#[test]
fn lockdown_is_kept_where_lsm_is() {
    let lockdown = parse("lockdown.toml", include_str!("../../../../../policies/lockdown.toml")).unwrap();
    let weak: Vec<RuleAssurance> = assess(&lockdown, &full()).into_iter().filter(|judged| !judged.holds()).collect();
    assert_eq!(weak, []);
    assert!(refusal(&lockdown, &plain()).unwrap().contains("no-secrets would be observed, arguments unreliable"));
}

#[test]
fn events_that_are_parts_of_a_condition_are_seen_and_never_denied() {
    let when = "{ any = [{ event = \"exec\", within = \"9s\" }, { all = [{ event = \"listen\", within = \"9s\" }, \
                { signal = \"metric.loss\", above = 3 }] }] }";
    let alone = "{ all = [{ signal = \"metric.loss\", above = 3 }] }";
    assert_eq!(worth(when, "observe", &full()), ("observed", String::new()));
    let blind = Grants { listens: false, ..plain() };
    let (got, why) = worth(when, "observe", &blind);
    assert_eq!((got, why.contains("listen")), ("not seen", true), "the worst of its events counts: {why}");
    assert!(refusal(&rule(when, "observe", ""), &blind).unwrap().contains("what r is about is not seen"));
    assert!(assess(&rule(alone, "observe", ""), &full()).is_empty(), "nothing of it depends on the kernel");
}
