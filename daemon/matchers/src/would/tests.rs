//! That the answers are those of the matchers, and that each names what it comes from.

use super::*;
use crate::rejudge::{Judged, Rejudge, Unknown};
use failsafe_core::policy::parse::parse;
use proptest::prelude::*;

fn policy(text: &str) -> Policy {
    parse("t.toml", &format!("[policy]\nname = \"t\"\nowner = \"o\"\n{text}")).unwrap_or_else(|error| panic!("{error}"))
}

fn rule(id: &str, effect: &str, when: &str) -> String {
    format!(
        "[[rule]]\nid = \"{id}\"\nrationale = \"x\"\neffect = \"{effect}\"\nwhen = {{ {when} }}\nactions = [\"notify\"]\n"
    )
}

fn tcp(to: &str) -> Call {
    let to: std::net::SocketAddr = to.parse().unwrap();
    Call::Connect { to: Destination::Address(to.ip()), port: to.port(), protocol: 6 }
}

fn name(to: &str, port: u16) -> Call {
    Call::Connect { to: Destination::Name(to.into()), port, protocol: 6 }
}

fn ask(policy: &Policy, call: &Call) -> (Answer, String) {
    let found = would(policy, call);
    (found.answer, found.by.join(", "))
}

#[test]
fn what_failsafe_denies_to_protect_itself_is_known_on_the_node_only() {
    let nothing = policy("");
    let call = |name| Call::Syscall(WatchedCall::from_name(name).unwrap());
    let open = |path: &str, write| Call::Open { path: path.into(), write };
    for protected in [
        call("bpf"),
        call("ptrace"),
        call("process_vm_writev"),
        call("mount"),
        call("umount2"),
        open("/sys/fs/bpf/failsafe/runs", false),
        open("/sys/fs/cgroup/cgroup.procs", true),
        open("/var/lib/failsafe/audit.log", true),
        open("/proc/1/oom_score_adj", true),
    ] {
        let found = would(&nothing, &protected);
        assert!(matches!(found.answer, Answer::Depends(_)), "{protected:?}: {:?}", found.answer);
        assert_eq!(found.by, ["self-protection"], "{protected:?}");
    }
    for free in [
        call("memfd_create"),
        open("/sys/fs/cgroup/cgroup.procs", false),
        open("/sys/fs/bpfx", true),
        open("/var/lib/failsafely/x", true),
    ] {
        assert_eq!(ask(&nothing, &free), (Answer::Allowed, String::new()), "{free:?}");
    }
    // A rule denies it on every node, and a rule that watches it is named.
    let denied = policy(&rule("no-bpf", "deny", "event = \"syscall\", name = \"bpf\""));
    assert_eq!(ask(&denied, &call("bpf")), (Answer::Denied, "rule no-bpf".into()));
    let watched = policy(&rule("sees-bpf", "observe", "event = \"syscall\", name = \"bpf\""));
    let found = would(&watched, &call("bpf"));
    assert_eq!(found.matches.iter().map(|(rule, _)| rule.id.as_str()).collect::<Vec<_>>(), ["sees-bpf"]);
}

const LIST: &str = "allow = [{ cidr = \"10.0.0.0/8\", ports = 443, protocol = \"tcp\" }]\n";

#[test]
fn a_destination_is_answered_with_the_section_or_the_rule() {
    let enforced = policy(&format!(
        "[egress]\n{LIST}{}",
        rule("no-metadata", "deny", "event = \"connect\", address = \"10.9.0.0/16\"")
    ));
    assert_eq!(ask(&enforced, &tcp("10.0.0.9:443")), (Answer::Allowed, "[egress]".into()));
    assert_eq!(ask(&enforced, &tcp("10.0.0.9:80")), (Answer::Denied, "[egress]".into()));
    assert_eq!(ask(&enforced, &tcp("10.9.0.9:443")), (Answer::Denied, "rule no-metadata".into()));
    let observed = policy(&format!("[egress]\nmode = \"observe\"\n{LIST}"));
    assert_eq!(ask(&observed, &tcp("192.0.2.1:443")), (Answer::WouldDeny, "[egress], which only observes".into()));
    assert_eq!(ask(&policy(""), &tcp("192.0.2.1:443")), (Answer::Allowed, String::new()));
    let stops =
        policy(&format!("[egress]\n{LIST}{}", rule("leaves", "stop", "event = \"connect\", verdict = \"denied\"")));
    let found = would(&stops, &tcp("192.0.2.1:443"));
    assert_eq!((found.answer, found.by.join(", ")), (Answer::Stopped, "[egress]".into()));
    assert_eq!(
        found.matches.iter().map(|(rule, alone)| (rule.id.as_str(), *alone)).collect::<Vec<_>>(),
        [("leaves", true)]
    );
}

#[test]
fn what_a_name_stands_for_is_not_guessed() {
    let list = "[egress]\nallow = [{ host = \"*.example.org\", ports = 443, protocol = \"tcp\" }]\n";
    let named = policy(list);
    assert_eq!(ask(&named, &name("A.example.org.", 443)).0, Answer::Allowed);
    assert_eq!(ask(&named, &name("a.example.org", 80)).0, Answer::Denied);
    assert_eq!(ask(&named, &name("example.org", 443)).0, Answer::Denied);
    let Answer::Depends(why) = ask(&named, &tcp("192.0.2.1:443")).0 else { panic!() };
    assert!(why.contains("returned 192.0.2.1 for one of *.example.org"), "{why}");
    let Answer::Depends(why) = ask(&named, &tcp("192.0.2.1:53")).0 else { panic!() };
    assert!(why.contains("the node's name server"), "{why}");
    let servers = policy(&list.replace("allow", "dns_servers = [\"192.0.2.1\"]\nallow"));
    assert_eq!(ask(&servers, &tcp("192.0.2.1:53")), (Answer::Allowed, "[egress] dns_servers".into()));
    let both = policy(&format!("[egress]\n{LIST}"));
    assert!(matches!(ask(&both, &name("a.example.org", 443)).0, Answer::Depends(_)));
}

#[test]
fn a_name_that_may_have_a_denied_address_is_not_allowed() {
    let list = "[egress]\nallow = [{ host = \"*.example.org\", ports = 443 }]\n";
    let metadata = rule("no-metadata", "deny", "event = \"connect\", address = \"169.254.169.254/32\", port = 443");
    let call = |port| name("a.example.org", port);
    for section in [list, ""] {
        let policy = policy(&format!("{section}{metadata}"));
        let (Answer::Depends(why), by) = ask(&policy, &call(443)) else { panic!("{section}") };
        assert_eq!(by, "rule no-metadata", "{section}");
        assert!(why.contains("if a.example.org has an address"), "{why}");
        let other = if section.is_empty() { Answer::Allowed } else { Answer::Denied };
        assert_eq!(ask(&policy, &call(80)).0, other, "{section}: the rule is on another port");
        let udp = Call::Connect { to: Destination::Name("a.example.org".into()), port: 443, protocol: UDP };
        assert!(matches!(ask(&policy, &udp).0, Answer::Depends(_)), "{section}: the rule is on every protocol");
    }
    let tcp_only = "event = \"connect\", address = \"10.0.0.0/8\", protocol = \"tcp\"";
    let udp = Call::Connect { to: Destination::Name("a".into()), port: 443, protocol: UDP };
    assert_eq!(ask(&policy(&rule("r", "deny", tcp_only)), &udp).0, Answer::Allowed);
    // Only what the name server answers decides, also where the list only observes.
    let observed = policy(&format!("[egress]\nmode = \"observe\"\nallow = []\n{metadata}"));
    assert!(matches!(ask(&observed, &call(443)).0, Answer::Depends(_)));
    let denied = policy(&format!("[egress]\nallow = []\n{metadata}"));
    assert_eq!(ask(&denied, &call(443)), (Answer::Denied, "[egress]".into()), "whatever its addresses are");
}

#[test]
fn a_name_is_denied_by_a_rule_on_every_address_only() {
    let of = |addresses: &str| {
        let policy = policy(&rule("r", "stop", &format!("event = \"connect\", address = [{addresses}]")));
        ask(&policy, &name("a.example.org", 443)).0
    };
    assert_eq!(of("\"0.0.0.0/0\", \"::/0\""), Answer::Stopped);
    assert_eq!(of("\"::ffff:0:0/96\", \"::/0\""), Answer::Stopped, "all of IPv4, mapped");
    for some in ["\"0.0.0.0/0\"", "\"::/0\"", "\"0.0.0.0/8\", \"255.0.0.0/8\", \"::/8\", \"ff00::/8\""] {
        assert!(matches!(of(some), Answer::Depends(_)), "{some}");
    }
    let port = policy(&rule("r", "deny", "event = \"connect\", port = 25"));
    assert_eq!([25, 443].map(|port_of| ask(&port, &name("a", port_of)).0), [Answer::Denied, Answer::Allowed]);
}

#[test]
fn a_path_is_answered_for_its_use() {
    let text = [
        rule("secrets", "stop", "event = \"open\", path = \"/etc/shadow\""),
        rule("config", "deny", "event = \"open\", path = \"/etc/*\", access = \"write\""),
        rule("gdb", "deny", "event = \"exec\", path = \"/usr/bin/gdb\""),
        rule("seen", "observe", "event = \"open\", path = \"/data/*\""),
    ];
    let with_list = policy(&format!("[exec]\nallow = [\"/usr/bin/*\"]\n{}", text.concat()));
    let open = |path: &str, write| Call::Open { path: path.into(), write };
    let exec = |path: &str| Call::Exec(path.into());
    for (call, answer, by) in [
        (open("/etc/shadow", false), Answer::Stopped, "rule secrets"),
        (open("/etc/passwd", false), Answer::Allowed, ""),
        (open("/etc/passwd", true), Answer::Denied, "rule config"),
        (open("/data/x", false), Answer::Allowed, ""),
        (exec("/usr/bin/python3"), Answer::Allowed, "[exec]"),
        (exec("/usr/bin/gdb"), Answer::Denied, "rule gdb"),
        (exec("/tmp/x"), Answer::Denied, "[exec]"),
        (
            Call::Syscall(WatchedCall::from_name("mount").unwrap()),
            Answer::Denied,
            "[exec], as the call gives files another name",
        ),
    ] {
        assert_eq!(ask(&with_list, &call), (answer, by.to_owned()), "{call:?}");
    }
    let seen =
        would(&with_list, &open("/data/x", false)).matches.iter().map(|(rule, _)| rule.id.clone()).collect::<Vec<_>>();
    assert_eq!(seen, ["seen"]);
    let observed = policy("[exec]\nmode = \"observe\"\nallow = [\"/usr/bin/*\"]\n");
    assert_eq!(ask(&observed, &exec("/tmp/x")).0, Answer::WouldDeny);
}

#[test]
fn a_system_call_is_denied_by_the_rule_that_names_it() {
    let policy = policy(&rule("modules", "deny", "event = \"syscall\", name = \"@module\""));
    let call = |name| Call::Syscall(WatchedCall::from_name(name).unwrap());
    assert_eq!(ask(&policy, &call("init_module")), (Answer::Denied, "rule modules".into()));
    assert_eq!(ask(&policy, &call("memfd_create")).0, Answer::Allowed);
}

#[test]
fn an_event_that_is_one_test_of_a_condition_is_named_as_such() {
    let text = "[[rule]]\nid = \"r\"\nrationale = \"x\"\nactions = [\"freeze\"]\n\
                when = { all = [{ event = \"exec\", path = \"/usr/bin/curl\", within = \"9s\" }, { signal = \"metric.loss\", above = 3 }] }\n";
    let policy = policy(text);
    let found = would(&policy, &Call::Exec("/usr/bin/curl".into()));
    assert_eq!(found.answer, Answer::Allowed);
    assert_eq!(
        found.matches.iter().map(|(rule, alone)| (rule.id.as_str(), *alone)).collect::<Vec<_>>(),
        [("r", false)]
    );
}

fn any_text() -> impl Strategy<Value = String> {
    let entry = (0u8..3, prop::sample::select(&[8u8, 16, 24, 32][..]), 0u16..4)
        .prop_map(|(a, len, port)| format!("{{ cidr = \"10.{a}.0.0/{len}\", ports = {} }}", port + 440));
    let list =
        (prop::collection::vec(entry, 0..4), any::<bool>(), any::<bool>()).prop_map(|(mut list, host, observe)| {
            if host {
                list.push("{ host = \"a.example.org\" }".into());
            }
            format!(
                "[egress]\nmode = \"{}\"\nallow = [{}]\n",
                if observe { "observe" } else { "enforce" },
                list.join(", ")
            )
        });
    let rules = prop::collection::vec((0u8..3, any::<bool>()), 0..3).prop_map(|rules| {
        let one = |(n, (a, stop)): (usize, &(u8, bool))| {
            rule(
                &format!("r{n}"),
                if *stop { "stop" } else { "deny" },
                &format!("event = \"connect\", address = \"10.{a}.0.0/16\""),
            )
        };
        rules.iter().enumerate().map(one).collect::<String>()
    });
    (prop::option::of(list), rules).prop_map(|(list, rules)| format!("{}{rules}", list.unwrap_or_default()))
}

proptest! {
    /// [`Rejudge`] is held against the kernel's verdicts of recordings; this holds the answers against it.
    #[test]
    fn an_address_is_answered_as_a_recording_is_judged(text in any_text(), a in 0u8..4, port in 438u16..446) {
        let policy = policy(&text);
        let address: IpAddr = [10, a, 0, 1].into();
        let call = Call::Connect { to: Destination::Address(address), port, protocol: 6 };
        let event = Event::Net {
            op: NetOp::Connect, protocol: 6, address, port, family: 2,
            verdict: Verdict::Allowed, assurance: Assurance::Observed,
        };
        let expected = match Rejudge::by(&policy).judge(&event) {
            Judged::As(event) => event.verdict(),
            Judged::Unknown(Unknown::HostName) => None,
            other => panic!("{other:?}"),
        };
        let answer = match would(&policy, &call).answer {
            Answer::Allowed => Some(Verdict::Allowed),
            Answer::WouldDeny => Some(Verdict::WouldDeny),
            Answer::Denied | Answer::Stopped => Some(Verdict::Denied),
            Answer::Depends(_) => None,
        };
        prop_assert_eq!(answer, expected);
    }

    #[test]
    fn a_path_is_answered_as_by_the_matcher_of_paths(
        rules in prop::collection::vec((0usize..4, 0usize..3, any::<bool>()), 0..5),
        path in prop::sample::select(&["/a", "/a/b", "/a/bc", "/d"][..]),
        list in any::<bool>(),
    ) {
        let patterns = ["/a", "/a*", "/a/b*", "/*"];
        let uses = ["event = \"exec\"", "event = \"open\", access = \"read\"", "event = \"open\", access = \"write\""];
        let one = |(n, (pattern, usage, stop)): (usize, &(usize, usize, bool))| {
            let effect = if *stop { "stop" } else { "deny" };
            rule(&format!("r{n}"), effect, &format!("{}, path = \"{}\"", uses[*usage], patterns[*pattern]))
        };
        let rules: String = rules.iter().enumerate().map(one).collect();
        let policy = policy(&format!("{}{rules}", if list { "[exec]\nallow = [\"/a/*\"]\n" } else { "" }));
        let all = effects(&compile::rules(&policy, u64::MAX, &Resolver::default()), path);
        let calls = [
            (Call::Exec(path.into()), all.exec),
            (Call::Open { path: path.into(), write: false }, all.read),
            (Call::Open { path: path.into(), write: true }, all.write),
        ];
        for (call, expected) in calls {
            let found = would(&policy, &call);
            prop_assert_eq!(&found.answer, &of_effect(expected).unwrap_or(Answer::Allowed), "{:?}", call);
            prop_assert_eq!(found.by.is_empty(), expected < effect::DENY && !(list && matches!(call, Call::Exec(_))));
        }
    }
}
