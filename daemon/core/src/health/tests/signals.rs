//! What signals say: thresholds, and signals that are not read.

use super::*;

#[test]
fn thresholds_hold_and_clear_with_hysteresis() {
    let mut h = node_of_two();
    h.take(&value("a", Kind::GpuTemperatureSlowdown, 90_000, s(2)));
    h.take(&value("a", Kind::GpuTemperature, 91_000, s(3)));
    h.take(&value("a", Kind::GpuTemperature, 91_000, s(30)));
    assert_eq!(level(&h, "a"), Level::Healthy, "not yet half a minute");
    h.take(&value("a", Kind::GpuTemperature, 91_000, s(34)));
    assert_eq!(codes(&h, "a"), ["temperature-slowdown"]);
    h.take(&value("a", Kind::GpuTemperature, 70_000, s(40)));
    h.take(&value("a", Kind::GpuTemperature, 70_000, s(600)));
    assert_eq!(level(&h, "a"), Level::Degraded, "not yet good for ten minutes");
    h.take(&value("a", Kind::GpuTemperature, 70_000, s(641)));
    assert_eq!(level(&h, "a"), Level::Healthy);
}

#[test]
fn each_threshold_of_the_field_trips() {
    type Case<'a> = (&'a str, &'a [(Kind, i64)], Level);
    let cases: &[Case<'_>] = &[
        ("retired-pages", &[(Kind::GpuRetiredPagesSingle, 60), (Kind::GpuRetiredPagesDouble, 3)], Level::Unhealthy),
        ("retired-pages-double-bit", &[(Kind::GpuRetiredPagesDouble, 16)], Level::Degraded),
        ("row-remap-pending", &[(Kind::GpuRemappedRowsPending, 1)], Level::Degraded),
        ("row-remap-failure", &[(Kind::GpuRemappedRowsFailure, 1)], Level::Unhealthy),
        ("row-remaps", &[(Kind::GpuRemappedRowsUncorrectable, 512)], Level::Unhealthy),
        ("ecc-uncorrected", &[(Kind::GpuEccUncorrected, 1)], Level::Degraded),
        ("ecc-storm", &[(Kind::GpuEccUncorrected, 0), (Kind::GpuEccUncorrected, 10)], Level::Unhealthy),
        ("nvlink-crc", &[(Kind::GpuNvlinkCrcErrors, 0), (Kind::GpuNvlinkCrcErrors, 1_001)], Level::Degraded),
        ("nvlink-replays", &[(Kind::GpuNvlinkReplays, 4), (Kind::GpuNvlinkReplays, 5)], Level::Degraded),
        (
            "pcie-replays",
            &[
                (Kind::GpuPcieGeneration, 5),
                (Kind::GpuPcieWidth, 16),
                (Kind::GpuPcieReplays, 100),
                (Kind::GpuPcieReplays, 132),
            ],
            Level::Degraded,
        ),
        ("recovery-action", &[(Kind::GpuRecoveryAction, 1)], Level::Unhealthy),
        ("recovery-drain-p2p", &[(Kind::GpuRecoveryAction, 3)], Level::Degraded),
        ("retired-pages-pending", &[(Kind::GpuRetiredPagesPending, 1)], Level::Degraded),
        ("row-remap-banks", &[(Kind::GpuRemapBanksExhausted, 1)], Level::Degraded),
        ("ecc-sram-threshold", &[(Kind::GpuEccSramThreshold, 1)], Level::Unhealthy),
        ("pcie-uncorrectable", &[(Kind::GpuPcieUncorrectable, 3), (Kind::GpuPcieUncorrectable, 4)], Level::Degraded),
        ("pcie-width", &[(Kind::GpuPcieWidthMax, 16), (Kind::GpuPcieWidth, 8)], Level::Degraded),
        ("temperature-margin", &[(Kind::GpuTemperatureMargin, 0)], Level::Degraded),
        (
            "memory-temperature",
            &[(Kind::GpuMemoryTemperatureLimit, 95_000), (Kind::GpuMemoryTemperature, 95_000)],
            Level::Degraded,
        ),
        ("nvlink-recoveries", &[(Kind::GpuNvlinkRecoveries, 0), (Kind::GpuNvlinkRecoveries, 1)], Level::Degraded),
        ("nvlink-down", &[(Kind::GpuNvlinkActive, 18), (Kind::GpuNvlinkActive, 17)], Level::Degraded),
        (
            "temperature-shutdown",
            &[(Kind::GpuTemperatureShutdown, 95_000), (Kind::GpuTemperature, 95_000)],
            Level::Unhealthy,
        ),
    ];
    for (code, values, expected) in cases {
        let mut h = node_of_two();
        for (i, (kind, v)) in values.iter().enumerate() {
            h.take(&value("a", kind.clone(), *v, s(2 + u64::try_from(i).unwrap())));
        }
        // Longer than any is held.
        if let Some((kind, v)) = values.last() {
            h.take(&value("a", kind.clone(), *v, s(70)));
        }
        let part = &h.view().gpus[&gpu("a")];
        let found = part.reasons.iter().find(|r| r.code == *code);
        assert_eq!(found.map(|r| r.level), Some(*expected), "{code}: {:?}", part.reasons);
    }
    // Just within each bound nothing trips.
    let mut h = node_of_two();
    for (kind, v) in [
        (Kind::GpuRetiredPagesDouble, 15),
        (Kind::GpuRetiredPagesSingle, 47),
        (Kind::GpuRemappedRowsUncorrectable, 511),
        (Kind::GpuNvlinkReplays, 7),
        (Kind::GpuRecoveryAction, 0),
        (Kind::GpuPcieReplays, 31),
        (Kind::GpuPcieUncorrectable, 5),
        (Kind::GpuPcieWidthMax, 16),
        (Kind::GpuPcieWidth, 16),
        (Kind::GpuTemperatureMargin, 1_000),
        (Kind::GpuMemoryTemperatureLimit, 95_000),
        (Kind::GpuMemoryTemperature, 94_000),
        (Kind::GpuNvlinkRecoveries, 9),
        (Kind::GpuNvlinkActive, 17),
    ] {
        h.take(&value("a", kind.clone(), v, s(2)));
        h.take(&value("a", kind, v, s(70)));
    }
    assert_eq!(codes(&h, "a"), Vec::<String>::new());
}

#[test]
fn hardware_slowdowns_are_counted_when_they_come_on() {
    let mut h = node_of_two();
    for i in 0..6 {
        let bits = |on: bool| if on { 0x40 | 0x4 } else { 0x4 };
        h.take(&value("a", Kind::GpuThrottle, bits(false), s(10 * i + 2)));
        assert_eq!(level(&h, "a"), Level::Healthy);
        h.take(&value("a", Kind::GpuThrottle, bits(true), s(10 * i + 7)));
    }
    assert_eq!(codes(&h, "a"), ["hw-slowdown"]);
}

#[test]
fn a_hardware_slowdown_that_stays_on_degrades() {
    let mut h = node_of_two();
    let bits = |power_brake: bool, at| value("a", Kind::GpuThrottle, if power_brake { 0x88 } else { 0x4 }, at);
    h.take(&bits(true, s(2)));
    h.take(&bits(true, s(61)));
    assert_eq!(level(&h, "a"), Level::Healthy, "not yet a minute");
    h.take(&bits(true, s(62)));
    assert_eq!(codes(&h, "a"), ["hw-slowdown-held"]);
    h.take(&bits(false, s(70)));
    h.take(&bits(false, s(669)));
    assert_eq!(level(&h, "a"), Level::Degraded, "not yet off for ten minutes");
    h.take(&bits(false, s(670)));
    assert_eq!(level(&h, "a"), Level::Healthy);
}

#[test]
fn a_gpu_is_not_well_while_a_signal_that_it_is_judged_by_is_not_read() {
    let mut h = node_of_two();
    let unread = |kind, why: Option<&str>| {
        let (gpu, why) = (gpu("a"), why.map(str::to_owned));
        Input::Unread(Unread { seq: 1, at: s(2), source: Source::Nvml, gpu, kind, why })
    };
    assert!(h.take(&unread(Kind::GpuSmActive, Some("x"))).is_empty(), "nothing is judged by it");
    h.take(&unread(Kind::GpuTemperature, Some("unknown error")));
    h.take(&unread(Kind::GpuEccUncorrected, Some("x")));
    assert_eq!((level(&h, "a"), codes(&h, "a")), (Level::Degraded, vec![UNREAD.to_owned()]));
    let text = h.view().gpus[&gpu("a")].reasons[0].text.clone();
    assert!(text.contains("gpu.temperature (unknown error)") && text.contains("gpu.ecc_uncorrected"), "{text}");
    h.order(&order(OrderKind::Reset, Target::Gpu(gpu("a"))), s(3)).unwrap();
    assert_eq!(codes(&h, "a"), [UNREAD], "an order makes nothing readable");
    h.take(&unread(Kind::GpuEccUncorrected, None));
    assert_eq!(level(&h, "a"), Level::Degraded);
    h.take(&unread(Kind::GpuTemperature, None));
    assert_eq!(level(&h, "a"), Level::Healthy);
}
