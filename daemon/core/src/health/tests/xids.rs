//! What XIDs and their records in the kernel log make of a GPU.

use super::*;

const LINK: &str = "XC0 i0 Link 00";

/// The record of an XID in the kernel log.
fn record(name: &str, code: u64, text: &str, at: MonoTime) -> Fact {
    Fact::XidRecord { gpu: gpu(name), code, text: text.to_owned(), at }
}

fn reason(h: &Health, name: &str, code: &str) -> Option<(Level, Advice)> {
    let reasons = &h.view().gpus[&gpu(name)].reasons;
    reasons.iter().find(|reason| reason.code == code).map(|reason| (reason.level, reason.advice))
}

#[test]
fn an_nvlink_error_is_judged_by_unit_status_and_severity() {
    const RESET: Option<(Level, Advice)> = Some((Level::Unhealthy, Advice::ResetGpu));
    const UNKNOWN: Option<(Level, Advice)> = Some((Level::Degraded, Advice::FollowWorkflow));
    for (code, text, expected) in [
        (145, "RLW_SRC_TRACK Fatal XC0 i0 Link 00 (0x00000007 0x00000001 0x00000000)", RESET),
        (145, "RLW_RSPCOL Nonfatal XC0 i0 Link 00 (0x00000005 0x00000001 0x00000000)", None),
        // The driver's other form of the first number.
        (145, "RLW_SRC_TRACK Nonfatal XC1 i0 Link 12 (0x040988e2 0x00000008 0x00000000)", None),
        // The same status of two units.
        (145, "RLW_REMAP Nonfatal XC0 i0 Link 00 (0x00000004 0x00000001)", None),
        (144, "SAW_MVB Fatal XC0 i0 Link -1 (0x00000001 0x00000010)", RESET),
        (144, "SAW_MVB Nonfatal XC0 i0 Link -1 (0x00000001 0x00000020)", None),
        // Two errors at once, one of which needs a reset.
        (146, "TLW_CTRL Nonfatal XC0 i0 Link 00 (0x00000009 0x00000005)", RESET),
        // A bit of the first number decides.
        (145, "RLW_RXPIPE Nonfatal XC0 i0 Link 00 (0x000000c2 0x00000002)", None),
        (145, "RLW_RXPIPE Nonfatal XC0 i0 Link 00 (0x000004c2 0x00000002)", RESET),
        (145, "RLW_RXPIPE Nonfatal XC0 i0 Link 00 (0x00000086 0x00000002)", RESET),
        // The sub-code of a link that went down: bits 20 to 25 of the first number.
        (149, "NETIR_LINK_EVT Fatal XC0 i0 Link 08 (0x004505c6 0x00000000 0x00000000)", RESET),
        (
            149,
            "NETIR_LINK_EVT Fatal XC0 i0 Link 08 (0x026005c6 0x00000000 0x00000000)",
            Some((Level::Degraded, Advice::InspectHardware)),
        ),
        (149, "NETIR_BER_EVENT Nonfatal XC0 i0 Link 01 (0x00082226 0x00000001 0x00000000)", None),
        (150, "MSE_WATCHDOG Fatal XC0 i0 Link -1 (0x00000000 0x00000000)", RESET),
        // What no row fits counts by its severity.
        (147, "TREX Nonfatal XC0 i0 Link 00 (0x0000000e 0x00000040)", UNKNOWN),
        (148, "NVLPW_NEW Nonfatal XC0 i0 Link 00 (0x0000000f 0x80000000)", UNKNOWN),
        (148, "NVLPW_NEW Fatal XC0 i0 Link 00 (0x0000000f 0x80000000)", RESET),
        // The record is worse than the table.
        (145, "RLW_RSPCOL Fatal XC0 i0 Link 00 (0x00000005 0x00000001)", RESET),
    ] {
        // The number alone degrades, and comes from NVML before the record or after it.
        for before in [true, false] {
            let mut h = node_of_two();
            if before {
                h.take(&xid("a", code, s(2)));
                assert_eq!(reason(&h, "a", &format!("xid-{code}")), UNKNOWN, "{text}");
            }
            h.fact(&record("a", code, &format!(" pid=7, name=x, {text}"), s(3)));
            if !before {
                h.take(&xid("a", code, s(4)));
            }
            assert_eq!(reason(&h, "a", &format!("xid-{code}")), expected, "{text}");
        }
    }
}

#[test]
fn a_harmless_nvlink_error_does_not_take_back_an_earlier_one() {
    let mut h = node_of_two();
    h.take(&xid("a", 145, s(2)));
    h.fact(&record("a", 145, &format!(" RLW_RSPCOL Nonfatal {LINK} (0x5 0x1)"), s(60)));
    assert_eq!(codes(&h, "a"), ["xid-145"], "the first one was not explained");
    let mut h = node_of_two();
    h.fact(&record("a", 145, &format!(" RLW_SRC_TRACK Fatal {LINK} (0x7 0x1)"), s(2)));
    h.fact(&record("a", 145, &format!(" RLW_RSPCOL Nonfatal {LINK} (0x5 0x1)"), s(3)));
    assert_eq!(level(&h, "a"), Level::Unhealthy);
}

#[test]
fn the_text_of_xid_154_decides_where_nvml_is_blind() {
    let changed = |to: &str| format!(" pid=1, name=x, GPU recovery action changed from 0x0 (None) to {to}");
    for (to, expected) in [
        ("0x1 (GPU Reset Required)", Some(("recovery-action", Level::Unhealthy, Advice::ResetGpu))),
        ("0x2 (Node Reboot Required)", Some(("recovery-action", Level::Unhealthy, Advice::RebootNode))),
        ("0x3 (Drain P2P)", Some(("recovery-drain-p2p", Level::Degraded, Advice::DrainGpu))),
        ("0x4 (Drain and Reset)", Some(("recovery-action", Level::Unhealthy, Advice::DrainGpu))),
        ("0x5 (Recover IMEX Domain)", Some(("recovery-action", Level::Unhealthy, Advice::FollowWorkflow))),
        ("0x6 (Unknown)", Some(("recovery-action", Level::Unhealthy, Advice::AskDriver))),
        ("0xff (Unknown)", Some(("recovery-action", Level::Unhealthy, Advice::AskDriver))),
        ("0x0 (None)", None),
    ] {
        let mut h = node_of_two();
        h.take(&gap(None, true, s(2)));
        h.fact(&record("a", 154, &changed(to), s(3)));
        let found = h.view().gpus[&gpu("a")].reasons.iter().find(|reason| reason.code != BLIND).cloned();
        let found = found.as_ref().map(|reason| (reason.code.as_str(), reason.level, reason.advice));
        assert_eq!(found, expected, "{to}");
    }
    let mut h = node_of_two();
    h.fact(&record("a", 154, &changed("0x3 (Drain P2P)"), s(3)));
    h.fact(&record("a", 154, " GPU recovery action changed from 0x3 (Drain P2P) to 0x0 (None)", s(4)));
    assert!(codes(&h, "a").is_empty());
    h.fact(&record("a", 13, &changed("0x2 (Node Reboot Required)"), s(5)));
    assert!(codes(&h, "a").is_empty(), "the text of another XID is not looked at");
}

#[test]
fn an_unknown_recovery_action_is_bad_and_reported_as_unknown() {
    for value_of in [5, 6, 42] {
        let mut h = node_of_two();
        h.take(&value("a", Kind::GpuRecoveryAction, value_of, s(2)));
        assert_eq!(reason(&h, "a", "recovery-action").map(|(level, _)| level), Some(Level::Unhealthy), "{value_of}");
        let text = h.view().gpus[&gpu("a")].reasons[0].text.clone();
        assert_eq!(text.contains("unknown"), value_of != 5, "{text}");
    }
}

#[test]
fn one_crash_counts_once_and_repeated_means_over_processes_or_over_time() {
    // Six records of one process within 1.1 s.
    let mut h = node_of_two();
    for n in 0..6 {
        let at = MonoTime(s(2).0 + n * 220_000_000);
        h.take(&xid("a", 13, at));
        h.fact(&record("a", 13, " pid=77, name=python3, Graphics SM Warp Exception", at));
    }
    assert!(codes(&h, "a").is_empty());
    // Of one process, over time.
    for n in 1..5 {
        assert!(codes(&h, "a").is_empty(), "{n}");
        h.take(&xid("a", 13, s(2 + n * 60)));
    }
    assert_eq!(codes(&h, "a"), ["xid-13-repeated"]);
    // Of five processes, at one time.
    for pid in 1..6 {
        assert!(codes(&h, "b").is_empty(), "{pid}");
        h.take(&xid("b", 13, s(2)));
        h.fact(&record("b", 13, &format!(" pid={pid}, name=python3, Graphics SM Warp Exception"), s(2)));
    }
    assert_eq!(codes(&h, "b"), ["xid-13-repeated"]);
    // A job of many processes is killed: one XID 45 for each.
    let mut h = node_of_two();
    for pid in 1..9 {
        h.take(&xid("a", 45, s(2)));
        h.fact(&record("a", 45, &format!(" pid={pid}, name=python3, Ch 00000010"), s(2)));
    }
    assert!(codes(&h, "a").is_empty());
}

#[test]
fn fatal_xids_of_one_failure_count_once_until_it_is_resolved() {
    let mut h = node_of_two();
    for n in 0..50 {
        h.take(&xid("a", 119, s(2 + n * 60)));
        h.take(&xid("a", 79, s(3 + n * 60)));
    }
    assert_eq!(codes(&h, "a"), ["xid-119", "xid-79"]);
    for n in 0..4 {
        h.order(&order(OrderKind::Reset, Target::Gpu(gpu("a"))), s(4_000 + n * 600)).unwrap();
        h.take(&xid("a", 119, s(4_001 + n * 600)));
    }
    assert!(codes(&h, "a").contains(&"xid-fatal-repeated".to_owned()), "the fifth failure");
}
