//! Events of tests, and what the kernel says to them.

use super::*;

use failsafe_core::policy::parse::parse;

fn fields(list: &[(Field, &str)]) -> Fields {
    list.iter().map(|(field, text)| (*field, text.parse().map_or(Given::Text((*text).into()), Given::Number))).collect()
}

#[test]
fn every_kind_of_event_can_be_made_and_is_of_its_kind() {
    let some = [
        (Field::Path, "/a"),
        (Field::Address, "198.51.100.7"),
        (Field::Port, "443"),
        (Field::Name, "ptrace"),
        (Field::Gain, "setuid"),
        (Field::Budget, "store"),
        (Field::Class, "result"),
        (Field::Code, "79"),
        (Field::Family, "packet"),
    ];
    for kind in EventKind::ALL.iter().copied() {
        let mut given = fields(&some);
        given.retain(|field, _| kind.fields().contains(field));
        match kind {
            EventKind::ExecMemory => drop(given.insert(Field::Kind, Given::Text("write-exec".into()))),
            EventKind::Protect => drop(given.insert(Field::What, Given::Text("bpf(2)".into()))),
            EventKind::GpuEvent => drop(given.insert(Field::What, Given::Text("poison".into()))),
            EventKind::Connect => drop(given.remove(&Field::Family)),
            _ => {}
        }
        let made = event(kind, &given, None).unwrap_or_else(|(_, why)| panic!("{}: {why}", kind.name()));
        assert_eq!(made.kind(), kind);
        assert_eq!(EventKind::named(kind.name()), Some(kind));
    }
}

#[test]
fn the_kernel_denies_what_the_policy_denies() {
    let policy = parse(
        "p.toml",
        r#"
[policy]
name = "p"
owner = "o"
[exec]
allow = ["/usr/bin/*"]
[egress]
mode = "observe"
allow = [{ cidr = "10.0.0.0/8" }]
[[rule]]
id = "secrets"
rationale = "x"
effect = "deny"
when = { event = "open", path = "/etc/shadow" }
actions = ["notify"]
[[rule]]
id = "trace"
rationale = "x"
effect = "stop"
when = { event = "syscall", name = "ptrace" }
actions = ["freeze"]
[[rule]]
id = "root"
rationale = "x"
effect = "deny"
when = { event = "privilege", gain = "setuid" }
actions = ["notify"]
"#,
    )
    .unwrap();
    let mut kernel = Kernel::under(&policy);
    for (kind, given, expected) in [
        (EventKind::Exec, &[(Field::Path, "/usr/bin/env")][..], Verdict::Allowed),
        (EventKind::Exec, &[(Field::Path, "/tmp/x")], Verdict::Denied),
        (EventKind::Open, &[(Field::Path, "/etc/shadow")], Verdict::Denied),
        (EventKind::Open, &[(Field::Path, "/etc/hosts")], Verdict::Allowed),
        (EventKind::Syscall, &[(Field::Name, "ptrace")], Verdict::Denied),
        (EventKind::Syscall, &[(Field::Name, "keyctl")], Verdict::Allowed),
        (EventKind::Connect, &[(Field::Address, "198.51.100.7"), (Field::Port, "443")], Verdict::WouldDeny),
        (EventKind::Privilege, &[(Field::Gain, "setuid")], Verdict::Denied),
        (EventKind::Privilege, &[(Field::Gain, "capability")], Verdict::Allowed),
        (EventKind::Protect, &[(Field::What, "bpf(2)")], Verdict::Denied),
    ] {
        let made = event(kind, &fields(given), None).unwrap();
        let judged = kernel.judge(&made, false).unwrap();
        assert_eq!(judged.verdict(), Some(expected), "{judged}");
    }
    let inside =
        event(EventKind::Connect, &fields(&[(Field::Address, "10.0.0.9"), (Field::Port, "443")]), None).unwrap();
    assert_eq!(kernel.judge(&inside, true).unwrap().verdict(), Some(Verdict::Latched));
}
