//! What the kernel is to do on its own: effects, lists, limits, budgets.

use super::{errors, with_rule};
use crate::{
    decision::{Action, Mode},
    event::Field,
    policy::{Condition, Effect, Limits, OnDead, Pattern, parse::parse},
    time::Span,
};

/// A policy that uses all of it; the fuzzing by mutation starts from it.
pub(super) const FULL: &str = r#"
[policy]
name = "lockdown"
owner = "safety@example.org"
on_dead_daemon = "deny-egress"
dead_after = "10s"

[exec]
mode = "enforce"
allow = ["/usr/bin/*", "/bin/sh"]

[limits]
processes = 64
forks_per_second = 100

[egress]
dns_servers = ["10.0.0.53"]
allow = [{ cidr = "10.0.0.0/8", ports = 443 }, { host = "*.Example.org", protocol = "tcp" }]

[[egress.budget]]
name = "storage"
to = ["10.20.0.0/16", "fd00::/8"]
bytes = "10 GiB"
rate = "100 MiB/s"

[syscalls]
watch = ["@raw-io"]

[[rule]]
id = "no-modules"
rationale = "a trainer loads no kernel code"
effect = "deny"
when = { event = "syscall", name = ["@module", "bpf"] }
actions = ["notify"]

[[rule]]
id = "no-shadow"
rationale = "a trainer has no business there"
effect = "stop"
when = { event = "open", path = ["/etc/shadow", "/root/*"], access = ["read", "write"] }
actions = ["notify", "block"]

[[rule]]
id = "raw-sockets"
rationale = "raw packets pass by the allow-list"
effect = "deny"
when = { event = "socket", family = ["packet", "xdp", 38] }
actions = ["notify"]

[[rule]]
id = "leaving"
rationale = "whatever tries to leave is to stop"
effect = "stop"
when = { event = "connect", verdict = "denied" }
actions = ["freeze"]
"#;

fn full(from: &str, to: &str) -> String {
    assert!(FULL.contains(from), "{from}");
    FULL.replacen(from, to, 1)
}

#[test]
fn a_full_policy_is_read_whole() {
    let policy = parse("p.toml", FULL).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((policy.on_dead_daemon, policy.dead_after), (OnDead::DenyEgress, Span::from_secs(10)));
    let exec = policy.exec.as_ref().unwrap();
    assert_eq!(exec.mode, Mode::Enforce);
    assert_eq!(exec.allow, [Pattern::Prefix("/usr/bin/".into()), Pattern::Exact("/bin/sh".into())]);
    assert_eq!(policy.limits, Some(Limits { processes: Some(64), forks_per_second: Some(100) }));
    let egress = policy.egress.as_ref().unwrap();
    assert_eq!(egress.dns_servers, ["10.0.0.53".parse::<std::net::IpAddr>().unwrap()]);
    let hosts: Vec<Option<&str>> = egress.allow.iter().map(|allow| allow.host.as_deref()).collect();
    assert_eq!(hosts, [None, Some("*.example.org")]);
    assert_eq!(egress.allow.iter().map(|allow| allow.cidr.is_some()).collect::<Vec<_>>(), [true, false]);
    let budget = &egress.budgets[0];
    assert_eq!((budget.name.as_str(), budget.bytes, budget.rate), ("storage", Some(10 << 30), Some(100 << 20)));
    assert_eq!(budget.to.len(), 2);
    assert_eq!(policy.rules.iter().map(|r| r.effect).collect::<Vec<_>>(), {
        [Effect::Deny, Effect::Stop, Effect::Deny, Effect::Stop]
    });
    // A stop freezes even where its owner forgot to say so, in the place where a freeze is carried out.
    assert_eq!(policy.rules[1].actions, [Action::Block, Action::Freeze, Action::Notify]);
    let Condition::Event(sockets) = &policy.rules[2].when else { panic!() };
    assert_eq!(sockets.fields[0].field, Field::Family);
    assert_eq!(sockets.fields[0].any_of, [17, 44, 38].map(Pattern::Number));
}

#[test]
fn groups_are_expanded_and_watched() {
    let policy = parse("p", FULL).unwrap();
    let watch: Vec<&str> = policy.watch.iter().map(String::as_str).collect();
    assert_eq!(watch, ["bpf", "delete_module", "finit_module", "init_module", "ioperm", "iopl"]);
    let written_out = full("\"@module\"", "\"init_module\", \"finit_module\", \"delete_module\"");
    assert_eq!(parse("p", &written_out).unwrap().digest(), policy.digest());
    assert!(errors(&full("@module", "@modul")).contains("did you mean `@module`?"));
}

#[test]
fn what_is_left_out_does_nothing() {
    let policy = parse("p", &with_rule("{ event = \"oom\" }")).unwrap();
    assert_eq!((policy.on_dead_daemon, policy.dead_after), (OnDead::Keep, Span::from_secs(30)));
    assert!(policy.exec.is_none() && policy.limits.is_none());
    assert_eq!(policy.rules[0].effect, Effect::Observe);
}

#[test]
fn every_part_is_in_the_digest() {
    let digest = parse("p", FULL).unwrap().digest();
    for (from, to) in [
        ("\"deny-egress\"", "\"deny-all\""),
        ("\"10s\"", "\"11s\""),
        ("mode = \"enforce\"", "mode = \"observe\""),
        ("/bin/sh", "/bin/bash"),
        ("processes = 64", "processes = 65"),
        ("forks_per_second = 100", "forks_per_second = 101"),
        ("10.0.0.53", "10.0.0.54"),
        ("*.Example.org", "example.org"),
        ("\"storage\"", "\"stores\""),
        ("\"10 GiB\"", "\"11 GiB\""),
        ("100 MiB/s", "101 MiB/s"),
        ("effect = \"deny\"", "effect = \"observe\""),
    ] {
        assert_ne!(parse("p", &full(from, to)).unwrap().digest(), digest, "{from} -> {to}");
    }
}

/// A rule with an effect, on line 8 as in the tests beside.
fn denied(when: &str, effect: &str) -> String {
    with_rule(when).replace("\nactions", &format!("\neffect = \"{effect}\"\nactions"))
}

#[test]
fn a_stop_by_a_budget_speaks_of_one_that_is_enforced() {
    let rule = |budget: &str| denied(&format!("{{ event = \"budget\", budget = \"{budget}\" }}"), "stop");
    let egress = |mode: &str| {
        format!(
            "\n[egress]\nmode = \"{mode}\"\nallow = [{{ cidr = \"10.0.0.0/8\" }}]\n[[egress.budget]]\nname = \"storage\"\nto = [\"10.0.0.0/8\"]\nbytes = \"1 GiB\"\n"
        )
    };
    assert!(parse("p", &(rule("stor*") + &egress("enforce"))).is_ok());
    for (text, expected) in [
        (rule("storage"), "rule.r.id: effect \"stop\" on no `[[egress.budget]]`"),
        (rule("other") + &egress("enforce"), "rule.r.id: effect \"stop\" on no `[[egress.budget]]`"),
        (
            denied("{ event = \"budget\", address = \"10.0.0.0/8\" }", "stop") + &egress("enforce"),
            "the kernel cannot match `address`",
        ),
        (rule("storage") + &egress("observe"), "contradicts `mode = \"observe\"` of `[egress]`"),
    ] {
        let got = errors(&text);
        assert!(got.contains(expected), "{got}");
    }
}

#[test]
fn the_kernel_is_given_only_what_it_can_match() {
    let long = format!("{{ event = \"open\", path = \"/{}\" }}", "a".repeat(240));
    for (when, effect, expected) in [
        ("{ event = \"exec\", comm = \"nc\" }", "deny", "the kernel cannot match `comm`; leave it out"),
        ("{ event = \"exec\", argv = \"*x*\" }", "deny", "the kernel cannot match `argv`"),
        ("{ event = \"open\", path = \"/x\", uid = 0 }", "stop", "the kernel cannot match `uid`"),
        ("{ event = \"exec\", verdict = \"denied\" }", "stop", "the kernel cannot match `verdict`"),
        ("{ event = \"bind\", family = \"inet\" }", "deny", "the kernel cannot match `family`"),
        ("{ event = \"listen\", protocol = 132 }", "stop", "a `protocol` of tcp, udp or both"),
        ("{ event = \"socket\", family = \"alg\", protocol = 6 }", "deny", "the kernel cannot match `protocol`"),
        ("{ event = \"socket\" }", "deny", "expected `family`"),
        ("{ event = \"budget\" }", "deny", "itself denies what is beyond it, expected effect \"stop\""),
        ("{ event = \"exec\", path = \"/x\", kind = \"memfd\" }", "deny", "`path` or `kind`, not both"),
        ("{ event = \"exec\", kind = \"file\" }", "stop", "cannot refuse all of kind `file`"),
        ("{ event = \"open\", path = \"*.key\" }", "deny", "whole paths and beginnings"),
        ("{ event = \"open\", path = \"*key*\" }", "stop", "whole paths and beginnings"),
        ("{ event = \"open\", path = \"etc/*\" }", "deny", "begins with `/`"),
        ("{ event = \"open\", path = \"/a/../b\" }", "deny", "matches nothing"),
        (&long, "deny", "241 bytes, expected at most 240"),
        ("{ event = \"oom\" }", "deny", "the kernel cannot refuse `oom`"),
        ("{ event = \"exit\" }", "stop", "expected effect \"stop\" on one of exec, fork, open"),
        ("{ signal = \"process.count\", above = 3 }", "deny", "is for events"),
        ("{ event = \"connect\", verdict = \"denied\" }", "deny", "one of `address`, `port` and `protocol`"),
        ("{ event = \"send\" }", "deny", "in `[egress] allow`"),
        ("{ event = \"send\" }", "stop", "makes every refusal of that list stop the run"),
        ("{ event = \"connect\", verdict = \"denied\", port = 4 }", "stop", "and no other field"),
        ("{ event = \"connect\", port = 4, comm = \"x\" }", "deny", "and no other field"),
        ("{ event = \"connect\", port = 4, protocol = 132 }", "deny", "a `protocol` of tcp, udp or both"),
        ("{ event = \"connect\", verdict = [\"denied\", \"allowed\"] }", "stop", "and no other field"),
        (
            "{ event = \"bind\", port = [1, 3, 5, 7, 9, 11, 13, 15, 17], protocol = [\"tcp\", \"udp\"] }",
            "deny",
            "18 port ranges of one destination, expected at most 16",
        ),
    ] {
        let got = errors(&denied(when, effect));
        assert!(got.contains(expected), "{when}\n{got}");
        assert!(got.starts_with("p.toml:8:") || got.starts_with("p.toml:9:"), "{when}\n{got}");
    }
    let observed = denied("{ event = \"exec\" }", "deny").replace("\nactions", "\nmode = \"observe\"\nactions");
    assert!(errors(&observed).contains("contradicts `effect = \"deny\"`"));
    for when in [
        "{ event = \"exec\", kind = [\"memfd\", \"deleted\"] }",
        "{ event = \"listen\", port = [22, 8080] }",
        "{ event = \"bind\", port = 22 }",
        "{ event = \"bind\", port = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18] }",
        "{ event = \"bind\", address = \"10.0.0.0/8\", port = 22, protocol = \"tcp\" }",
        "{ event = \"connect\", address = [\"169.254.169.254/32\", \"fd00::/8\"] }",
        "{ event = \"send\", port = 53, protocol = [\"tcp\", \"udp\"] }",
        "{ event = \"privilege\", gain = \"userns\" }",
        "{ event = \"exec-memory\", kind = \"write-exec\" }",
        "{ event = \"fork\" }",
    ] {
        assert_eq!(parse("p", &denied(when, "deny")).unwrap().rules[0].effect, Effect::Deny, "{when}");
    }
}

#[test]
fn fields_of_closed_sets_take_their_names_only() {
    for (when, expected) in [
        ("{ event = \"exec\", kind = \"anonymous\" }", "one of file, memfd, deleted, script"),
        ("{ event = \"exec-memory\", kind = \"script\" }", "one of anonymous, memfd, write-exec"),
        ("{ event = \"open\", access = \"rw\" }", "one of read, write"),
        ("{ event = \"privilege\", gain = \"root\" }", "one of setuid, capability, userns"),
        ("{ event = \"socket\", family = \"ipv6\" }", "inet6"),
        ("{ event = \"connect\", assurance = \"sure\" }", "blocked-in-kernel"),
        ("{ event = \"exec\", kind = [] }", "the list is empty"),
    ] {
        let got = errors(&with_rule(when));
        assert!(got.contains(expected), "{when}\n{got}");
    }
    for when in [
        "{ event = \"dns\", name = \"*.example.org\", address = \"10.0.0.0/8\" }",
        "{ event = \"protect\", what = \"pin*\" }",
        "{ event = \"budget\", budget = \"storage\", verdict = \"would-deny\" }",
        "{ event = \"syscall\", name = \"bpf\", assurance = \"observed, arguments unreliable\" }",
    ] {
        parse("p", &with_rule(when)).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn each_mistake_of_a_section_has_its_own_message() {
    let second = "name = \"other\"\nto = [\"10.20.0.1/16\"]\nrate = \"1 MiB/s\"\n\n[syscalls]";
    for (from, to, expected) in [
        ("on_dead_daemon = \"deny-egress\"\n", "", "`dead_after` has no effect without `on_dead_daemon`"),
        ("\"10s\"", "\"2s\"", "expected at least 3.0 s"),
        ("\"/bin/sh\"", "\"bin/sh\"", "begins with `/`"),
        ("\"/bin/sh\"", "\"*/sh\"", "whole paths and beginnings"),
        ("\"/bin/sh\"", "\"/usr/bin/*\"", "listed twice"),
        ("processes = 64", "processes = 0", "limits.processes: `0`, expected a number from 1"),
        ("processes = 64\nforks_per_second = 100", "", "expected `processes`, `forks_per_second` or both"),
        ("{ cidr = \"10.0.0.0/8\", ports", "{ ports", "exactly one of `cidr` and `host`"),
        ("{ host", "{ cidr = \"10.0.0.0/8\", host", "exactly one of `cidr` and `host`"),
        ("*.Example.org", "10.0.0.1", "write it as `cidr`"),
        ("*.Example.org", "a.*.org", "not a host name"),
        (
            "ports = 443",
            "ports = [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31, 443]",
            "17 port ranges of one destination, expected at most 16",
        ),
        ("*.Example.org", "*", "not a host name"),
        ("*.Example.org", "a..org", "not a host name"),
        ("*.Example.org", "-a.org", "not a host name"),
        ("*.Example.org", "exämple.org", "not a host name"),
        ("*.Example.org", &"a.".repeat(65), "130 bytes, expected at most 128"),
        ("10.0.0.53", "dns.local", "is not an address"),
        ("\"10.20.0.0/16\", ", "\"10.20.0.0/99\", ", "is not a network"),
        ("[\"10.20.0.0/16\", \"fd00::/8\"]", "[]", "no networks"),
        ("\"10 GiB\"", "\"10 GiB/s\"", "bytes: expected a text such as"),
        ("\"10 GiB\"", "10", "bytes: expected a text such as"),
        ("\"10 GiB\"", "\"-1 GiB\"", "above 0"),
        ("\"100 MiB/s\"", "\"100 MiB\"", "rate: expected a text such as"),
        ("bytes = \"10 GiB\"\nrate = \"100 MiB/s\"\n", "", "expected `bytes`, `rate` or both"),
        ("[syscalls]", &format!("[[egress.budget]]\n{second}"), "10.20.0.0/16 is in budget `storage` already"),
        (
            "[syscalls]",
            &format!("[[egress.budget]]\n{}", second.replace("other", "storage")),
            "another budget has the name `storage` already",
        ),
    ] {
        let got = errors(&full(from, to));
        assert!(got.contains(expected), "{from} -> {to}\n{got}");
    }
    let many: String = (0..7)
        .map(|n| format!("[[egress.budget]]\nname = \"b{n}\"\nto = [\"10.{n}.0.0/24\"]\nbytes = \"1 B\"\n\n"))
        .collect();
    assert!(errors(&full("[syscalls]", &format!("{many}[syscalls]"))).contains("8 budgets, expected at most 7"));
}

#[test]
fn every_mistake_is_reported_at_once() {
    let text = full("\"/bin/sh\"", "\"bin/sh\"");
    let text = text.replace("\"2s\"", "\"1s\"").replace("64", "0").replace("\"packet\"", "\"pakket\"");
    let text = text.replace("\"/root/*\"", "\"*/root\"").replace("100 MiB/s", "100 MiB");
    assert_eq!(parse("p", &text).unwrap_err().list.len(), 5);
}
