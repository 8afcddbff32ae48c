//! The XID catalogue: read strictly, complete, and what follows from what.

use super::*;
use crate::{signal::Source, time::MonoTime};

#[test]
fn the_built_in_catalogue_knows_what_field_and_vendor_say() {
    let catalogue = Catalogue::built_in().unwrap_or_else(|e| panic!("{e}"));
    assert!(catalogue.len() > 80);
    for (code, action, harm) in [
        (13, Advice::RestartApplication, HealthImpact::None),
        (46, Advice::DrainNode, HealthImpact::Unhealthy),
        (48, Advice::DrainNode, HealthImpact::Unhealthy),
        (54, Advice::InspectHardware, HealthImpact::Unhealthy),
        (63, Advice::RecordOnly, HealthImpact::None),
        (64, Advice::ResetGpu, HealthImpact::Unhealthy),
        (74, Advice::FollowWorkflow, HealthImpact::Degraded),
        (79, Advice::RebootNode, HealthImpact::Unhealthy),
        (94, Advice::RestartApplication, HealthImpact::Degraded),
        (95, Advice::ResetGpu, HealthImpact::Unhealthy),
        (119, Advice::ResetGpu, HealthImpact::Unhealthy),
        (154, Advice::AskDriver, HealthImpact::None),
    ] {
        let xid = catalogue.get(code).unwrap();
        assert_eq!((xid.action, xid.harm), (action, harm), "XID {code}");
    }
    for xid in catalogue.xids() {
        assert!(catalogue.sources[&xid.source].contains("https://docs.nvidia.com/"), "XID {}", xid.code);
        // What NVIDIA says to drain stands in another document than what it says of all others.
        assert_eq!(xid.action == Advice::DrainNode, xid.source == "xid-checks", "XID {}", xid.code);
    }
    assert!(catalogue.get(45).unwrap().follows);
    assert_eq!(catalogue.get(162).unwrap().cancels, [163]);
    assert_eq!(catalogue.get(31).unwrap().repeated, Some(5));
    assert!(catalogue.describe(9_999).contains("does not know"));
}

#[test]
fn mistakes_are_reported_with_their_place() {
    let head = "[catalogue]\nname = \"n\"\n[sources]\ndoc = \"d\"\n";
    let xid = |more: &str| {
        format!(
            "[[xid]]\ncode = 1\nname = \"a\"\nmeaning = \"b\"\naction = \"reset-gpu\"\n\
             source = \"doc\"\nhealth = \"none\"\n{more}\n"
        )
    };
    assert!(Catalogue::parse("x.toml", &format!("{head}{}", xid(""))).is_ok());
    for (text, expected) in [
        (format!("{head}{}", xid("repaeted = 3")), "x.toml:12:1: unknown field `repaeted`"),
        (format!("{head}{}", xid("repeated = 1")), "x.toml:12:12: XID 1: `repeated` is 1"),
        (format!("{head}{}", xid("cancels = [7]")), "x.toml:12:12: XID 1: `cancels` names 7"),
        (format!("{head}{}{}", xid(""), xid("")), "x.toml:14:8: `code` 1 is there twice"),
        (format!("{head}{}", xid("").replace("reset-gpu", "reset")), "unknown name `reset`"),
        (format!("{head}{}", xid("").replace("= \"doc\"", "= \"dco\"")), "x.toml:10:10: XID 1: `source` is `dco`"),
        (format!("{head}{}", xid("").replace("source = \"doc\"\n", "")), "missing field `source`"),
        (
            format!("{head}{}", xid("")).replace("doc = \"d\"", "doc = \"\""),
            "x.toml:4:7: the source `doc` says nothing",
        ),
        (format!("{head}{}", xid("").replace("= 1", "= -1")), "x.toml:6:8: expected a whole number, 0 or more"),
    ] {
        let error = Catalogue::parse("x.toml", &text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\nexpected: {expected}");
    }
}

#[test]
fn a_storm_is_reported_once_a_second_and_an_echo_not_at_all() {
    let ms = |ms: u64| MonoTime(1_000_000_000_000 + ms * 1_000_000);
    let mut storms = Storms::default();
    assert_eq!(storms.hear("GPU-a", 95, Source::Nvml, ms(0)), DedupResult::Tell { held_back: 0 });
    let mut held = 0;
    for i in 1..1_000 {
        held += u64::from(storms.hear("GPU-a", 95, Source::Nvml, ms(i)) == DedupResult::Storm);
    }
    assert_eq!(held, 999);
    assert_eq!(storms.hear("GPU-a", 95, Source::Nvml, ms(1_000)), DedupResult::Tell { held_back: 999 });
    assert_eq!(storms.hear("GPU-a", 95, Source::Kernel, ms(900)), DedupResult::Echo, "told second, seen first");
    assert_eq!(storms.hear("GPU-b", 95, Source::Kernel, ms(900)), DedupResult::Tell { held_back: 0 });
    assert_eq!(storms.hear("GPU-a", 95, Source::Kernel, ms(9_000)), DedupResult::Tell { held_back: 0 });
}
