//! Every kind of event answers for the fields it lists, and survives its records.

use super::*;
use crate::policy::{EventMatch, FieldMatch, Pattern};

fn every() -> Vec<Event> {
    let address: IpAddr = "2001:db8::1".parse().unwrap();
    let (verdict, assurance) = (Verdict::Denied, Assurance::BlockedInKernel);
    let net = |op| Event::Net { op, protocol: 6, address, port: 443, family: 10, verdict, assurance };
    let exec = |kind| Event::Exec {
        path: "/bin/x".into(),
        known_as: Vec::new(),
        argv: "x -y".into(),
        kind,
        verdict,
        assurance,
    };
    let (via, args) = (Via::SysEnter, [1, 2, 3]);
    let unreliable = Assurance::ObservedUnreliable;
    vec![
        exec(ExecKind::File),
        exec(ExecKind::Memfd),
        Event::Fork { child: 0, verdict },
        Event::Exit { status: 9 },
        Event::Open {
            path: "/tmp/x".into(),
            known_as: vec!["/dev/mem".into()],
            access: Access::Write,
            verdict,
            assurance,
        },
        net(NetOp::Connect),
        net(NetOp::Send),
        net(NetOp::Bind),
        net(NetOp::Listen),
        net(NetOp::Socket),
        Event::Syscall { name: "bpf".into(), args, via, verdict: Verdict::Allowed, assurance: unreliable },
        Event::Privilege { gain: Gain::Userns, verdict, assurance },
        Event::ExecMemory { kind: MemoryKind::WriteExec, verdict, assurance },
        Event::Protect { what: "pins".into(), verdict, assurance },
        Event::Budget { budget: "storage".into(), address, bytes: 1 << 30, verdict },
        Event::Dns { name: "a.example.org".into(), address },
        Event::Oom { victim: 4 },
        Event::Leave { pid: 4, mover: 4, mover_in_run: true, to: 9 },
        Event::ForeignThaw { levels: 2 },
        Event::Latched,
        Event::ForeignGpuProcess { gpu: "GPU-a".into(), of: None },
        Event::Xid { code: 79, slice: None },
        Event::Gpu { what: GpuEvent::MigConfig },
    ]
}

#[test]
fn an_event_answers_for_every_field_it_lists() {
    let process = Process { pid: 9, ppid: 1, uid: 1000, start_ns: 5, comm: "python".into() };
    for event in every() {
        for field in event.kind().fields() {
            assert!(event.field(*field, Some(&process)).is_some(), "{event}: {}", field.name());
        }
        let process_only = event.kind().fields().contains(&Field::Comm);
        assert!(!process_only || event.field(Field::Comm, None).is_none(), "{event}");
    }
}

/// A rule is of the file, not of the name by which a run reaches it.
#[test]
fn a_path_is_matched_by_every_name_that_the_file_has() {
    let (verdict, assurance) = (Verdict::Denied, Assurance::BlockedInKernel);
    let known_as = vec!["/data/key".into(), "/secret/".into()];
    let event = Event::Open { path: "/tmp/x".into(), known_as, access: Access::Read, verdict, assurance };
    let on = |pattern| EventMatch {
        kind: EventKind::Open,
        fields: vec![FieldMatch { field: Field::Path, any_of: vec![pattern] }],
    };
    for pattern in [
        Pattern::Exact("/tmp/x".into()),
        Pattern::Exact("/data/key".into()),
        Pattern::Prefix("/secret/".into()),
        Pattern::Prefix("/sec".into()),
    ] {
        assert!(on(pattern.clone()).matches(&event, None), "{pattern}");
    }
    for pattern in [Pattern::Exact("/data/ke".into()), Pattern::Prefix("/secret/deeper/".into())] {
        assert!(!on(pattern.clone()).matches(&event, None), "{pattern}");
    }
    assert_eq!(event.to_string(), "open /tmp/x (known as /data/key, /secret/) to read: denied");
}

#[test]
fn every_kind_is_shown_in_one_line_and_survives_its_records() {
    let mut kinds = Vec::new();
    for event in every() {
        let text = event.to_string();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert_eq!(text.contains("denied"), event.verdict() == Some(Verdict::Denied), "{text}");
        assert_eq!(serde_json::from_str::<Event>(&serde_json::to_string(&event).unwrap()).unwrap(), event);
        assert_eq!(postcard::from_bytes::<Event>(&postcard::to_allocvec(&event).unwrap()).unwrap(), event);
        kinds.push(event.kind());
    }
    kinds.dedup();
    assert_eq!(kinds, EventKind::ALL, "every kind has an example here");
}

#[test]
fn families_are_named_both_ways() {
    for name in family_names() {
        assert_eq!(family(name).map(family_name).as_deref(), Some(name));
    }
    assert_eq!(
        (family("packet"), family("vsock"), family("xdp"), family("alg")),
        (Some(17), Some(40), Some(44), Some(38))
    );
    assert_eq!((family("x25"), family_name(9).as_str()), (None, "family 9"));
}

/// A connect that sends nothing trips only a rule that asks for it by name.
#[test]
fn a_probe_matches_only_a_rule_that_names_its_verdict() {
    let address: IpAddr = "2001:db8::1".parse().unwrap();
    let (verdict, assurance) = (Verdict::Probe, Assurance::Observed);
    let probe = Event::Net { op: NetOp::Connect, protocol: 17, address, port: 0, family: 10, verdict, assurance };
    let rule = |fields: &[(Field, &str)]| {
        let field = |(field, text): &(Field, &str)| FieldMatch {
            field: *field,
            any_of: vec![match field {
                Field::Address => Pattern::Net(text.parse().unwrap()),
                _ => Pattern::Exact((*text).to_owned()),
            }],
        };
        EventMatch { kind: EventKind::Connect, fields: fields.iter().map(field).collect() }
    };
    let address = (Field::Address, "2001:db8::/32");
    for others in
        [vec![], vec![address], vec![(Field::Verdict, "denied")], vec![(Field::Verdict, "would-deny"), address]]
    {
        assert!(!rule(&others).matches(&probe, None), "{others:?}");
    }
    assert!(rule(&[(Field::Verdict, "probe"), address]).matches(&probe, None));
    assert_eq!(probe.to_string(), "connect to [2001:db8::1]:0 (udp): probe");
}
