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
        Event::Drift {
            path: "run/env/OMP_NUM_THREADS".into(),
            old: Some("1".into()),
            new: None,
            class: FactorClass::Result,
            since: DriftSince::Predecessor,
        },
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

/// What was left out may be anything: a pattern that it could decide is neither met nor missed.
#[test]
fn a_pattern_on_a_cut_text_is_met_missed_or_unknown() {
    use crate::policy::Fit::{self, No, Unknown, Yes};
    let fit = |pattern: Pattern, text: &str| pattern.fit(FieldValue::Text(text));
    let text = format!("python train.py{CUT}--out /data");
    let cases: [(Pattern, Fit); 12] = [
        (Pattern::Suffix("--out /data".into()), Yes),
        (Pattern::Suffix("/data".into()), Yes),
        (Pattern::Suffix("x--out /data".into()), Unknown),
        (Pattern::Suffix("--exfil".into()), No),
        (Pattern::Prefix("python ".into()), Yes),
        (Pattern::Prefix("python train.py --x".into()), Unknown),
        (Pattern::Prefix("perl".into()), No),
        (Pattern::Holds("train".into()), Yes),
        (Pattern::Holds("--out".into()), Yes),
        (Pattern::Holds("--exfil".into()), Unknown),
        (Pattern::Exact("python train.py x --out /data".into()), Unknown),
        (Pattern::Exact("python train.py --out /other".into()), No),
    ];
    for (pattern, expected) in cases {
        assert_eq!(fit(pattern.clone(), &text), expected, "{pattern}");
    }
    // Without a cut it is as always.
    assert_eq!(fit(Pattern::Suffix("--exfil".into()), "a --exfil"), Yes);
    assert_eq!(fit(Pattern::Holds("--exfil".into()), "a"), No);
}

/// Whatever was left out: a pattern that fits the whole text is never missed, and one that is met fits it.
#[test]
fn a_cut_hides_no_match_and_makes_none() {
    use crate::policy::Fit;
    use proptest::prelude::*;
    proptest!(|(whole in "[ab]{0,12}", at in 0usize..13, left_out in 0usize..13, needle in "[ab]{0,6}", kind in 0..4)| {
        let at = at.min(whole.len());
        let end = (at + left_out).min(whole.len());
        let cut = format!("{}{CUT}{}", &whole[..at], &whole[end..]);
        let pattern = match kind {
            0 => Pattern::Exact(needle),
            1 => Pattern::Prefix(needle),
            2 => Pattern::Suffix(needle),
            _ => Pattern::Holds(needle),
        };
        let really = pattern.fits(FieldValue::Text(&whole));
        let seen = pattern.fit(FieldValue::Text(&cut));
        prop_assert!(end == at || !really || seen != Fit::No, "{pattern} on {whole} as {cut}");
        prop_assert!(seen != Fit::Yes || really, "{pattern} on {whole} as {cut}");
    });
}

/// The resolved path counts, whatever name was given; a whole name that does not fit does not outweigh one that may.
#[test]
fn an_exec_is_matched_by_its_resolved_path_and_its_end() {
    use crate::policy::Fit;
    let (verdict, assurance, kind) = (Verdict::Allowed, Assurance::Observed, ExecKind::File);
    let exec = |path: &str, known_as: &[&str]| Event::Exec {
        path: path.into(),
        known_as: known_as.iter().map(|name| (*name).to_owned()).collect(),
        argv: String::new(),
        kind,
        verdict,
        assurance,
    };
    let on = |pattern: &str| EventMatch {
        kind: EventKind::Exec,
        fields: vec![FieldMatch { field: Field::Path, any_of: vec![Pattern::Suffix(pattern.into())] }],
    };
    assert_eq!(on("/evil").fit(&exec("evil", &["/tmp/evil"]), None), Fit::Yes);
    assert_eq!(on("/evil").fit(&exec("/bin/sh", &[&format!("{CUT}/long/evil")]), None), Fit::Yes);
    assert_eq!(on("/evil").fit(&exec("/bin/sh", &[&format!("{CUT}/long/good")]), None), Fit::No);
    assert_eq!(on("/evil").fit(&exec(&format!("/long{CUT}"), &[]), None), Fit::Unknown);
    assert_eq!(exec(&format!("/a{CUT}"), &[]).to_string(), "exec /a[...] []");
}
