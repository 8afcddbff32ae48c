//! The patterns of the kernel's log, over real lines and over any bytes.

use super::*;
use proptest::prelude::*;

fn s(seconds: u64) -> MonoTime {
    MonoTime(seconds * 1_000_000_000)
}

fn hear(message: &str) -> Option<Said> {
    Lines::built_in().unwrap_or_else(|e| panic!("{e}")).hear(message, s(1))
}

fn bus(text: &str) -> Option<Bus> {
    Some(Bus::parse(text).unwrap())
}

#[test]
fn xids_are_read_in_each_form_that_drivers_write() {
    for line in [
        "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
        "NVRM: Xid (0000:3b:00): 79, GPU has fallen off the bus.",
        "NVRM: Xid (PCI:0000:3B:00.0): 79, x",
    ] {
        assert_eq!(hear(line), Some(Said::Xid { bus: bus("0000:3b:00"), code: 79, slice: (None, None) }), "{line}");
    }
}

#[test]
fn xids_of_mig_say_which_instance() {
    for (line, slice) in [
        ("NVRM: Xid (PCI:0000:3b:00 GPU-I:05): 94, pid=77, name=python3, Contained", (Some(5), None)),
        ("NVRM: Xid (PCI:0000:3b:00 GPU-I:11 GPU-CI:02): 94, pid=77, name=python3, Contained", (Some(11), Some(2))),
    ] {
        assert_eq!(hear(line), Some(Said::Xid { bus: bus("0000:3b:00"), code: 94, slice }), "{line}");
    }
}

#[test]
fn other_lines_of_the_hardware_are_read() {
    let lost = hear("NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.");
    assert!(matches!(lost, Some(Said::GpuLost { bus: b, .. }) if b == bus("3b:00")), "{lost:?}");
    let lost =
        hear("NVRM: The NVIDIA GPU 0000:3b:00.0 (PCI ID: 10de:2330) installed in this system has fallen off the bus");
    assert!(matches!(lost, Some(Said::GpuLost { bus: b, .. }) if b == bus("3b:00")), "{lost:?}");
    for (line, reason, at) in [
        ("nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30 LTSSM Fault Up", "nvswitch-fatal", "c1:00"),
        ("nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 28006, Non-fatal, Link 46", "nvswitch-error", "c1:00"),
        ("pcieport 0000:00:01.0: AER: Uncorrected (Fatal) error received: 0000:01:00.0", "pcie-aer-fatal", "01:00"),
        (
            "pcieport 0000:00:01.0: AER: Uncorrectable (Non-Fatal) error message received from 0000:01:00.0",
            "pcie-aer-uncorrected",
            "01:00",
        ),
        (
            "mlx5_core 0000:5e:00.0: mlx5_pcie_event:301:(pid 9): Detected insufficient power on the PCIe slot (27W).",
            "nic-slot-power",
            "5e:00",
        ),
    ] {
        match hear(line) {
            Some(Said::Note { bus: b, reason: r, .. }) => assert_eq!((r.as_str(), b), (reason, bus(at)), "{line}"),
            other => panic!("{line}: {other:?}"),
        }
    }
    for (line, reason) in [
        ("mce: [Hardware Error]: CPU 5: Machine Check: 0 Bank 8: be00000000800400", "machine-check"),
        ("EDAC MC0: 1 UE memory read error on CPU_SrcID#0", "memory-uncorrected"),
    ] {
        assert!(matches!(hear(line), Some(Said::Note { bus: None, reason: r, .. }) if r == reason), "{line}");
    }
    for line in [
        "",
        "NVRM: Xid",
        "NVRM: Xid (PCI:0000:3b:00): ",
        // Cut within the number, perhaps: 79 began so.
        "NVRM: Xid (PCI:0000:3b:00): 7",
        "NVRM: loading NVIDIA UNIX x86_64 Kernel Module",
        "usb 1-1: new",
    ] {
        assert_eq!(hear(line), None, "{line}");
    }
}

#[test]
fn a_link_that_goes_down_once_is_no_flapping() {
    let mut lines = Lines::built_in().unwrap();
    let line = "mlx5_core 0000:5e:00.0 ens1f0np0: Link down";
    assert_eq!(lines.hear(line, s(0)), None);
    assert_eq!(lines.hear(line, s(300)), None);
    assert_eq!(lines.hear(line, s(900)), None, "not three within ten minutes");
    assert_eq!(lines.hear("mlx5_core 0000:af:00.0 ens2f0np0: Link down", s(910)), None, "another card");
    assert!(lines.hear(line, s(920)).is_none(), "two within ten minutes of the first still counted");
    assert!(matches!(lines.hear(line, s(930)), Some(Said::Note { reason, .. }) if reason == "nic-link-flaps"));
}

#[test]
fn what_is_corrected_counts_when_it_is_much() {
    for (line, times, apart, reason, at) in [
        (
            "pcieport 0000:00:01.0: AER: Corrected error received: 0000:3b:00.0",
            20,
            29,
            "pcie-aer-corrected",
            Some("3b:00"),
        ),
        (
            "pcieport 0000:00:01.0: AER: Multiple Correctable error message received from 0000:3b:00.0",
            20,
            29,
            "pcie-aer-corrected",
            Some("3b:00"),
        ),
        ("EDAC MC0: 1 CE memory read error on CPU_SrcID#0_Ha#0_Chan#1_DIMM#0", 100, 36, "memory-corrected", None),
        ("bnxt_en 0000:5e:00.0 ens1f0: NIC Link is Down", 3, 290, "nic-link-flaps", Some("5e:00")),
    ] {
        let mut lines = Lines::built_in().unwrap();
        let told: Vec<Option<Said>> = (0..times).map(|n| lines.hear(line, s(n * apart))).collect();
        let (last, before) = told.split_last().unwrap();
        assert!(before.iter().all(Option::is_none), "{line}: told too early");
        match last {
            Some(Said::Note { bus: b, reason: r, .. }) => {
                assert_eq!((r.as_str(), *b), (reason, at.and_then(bus)), "{line}")
            }
            other => panic!("{line}: {other:?}"),
        }
        let mut lines = Lines::built_in().unwrap();
        let seldom = (0..times * 2).find_map(|n| lines.hear(line, s(n * (apart + apart / 2))));
        assert_eq!(seldom, None, "{line}: so seldom it says nothing");
    }
    let hot = hear("mlx5_core 0000:5e:00.0: mlx5_pcie_event:293:(pid 9): Sensor 0, High Temperature: 105");
    assert!(
        matches!(&hot, Some(Said::Note { bus: b, reason, .. }) if *b == bus("5e:00") && reason == "nic-temperature")
    );
}

#[test]
fn a_storm_is_told_once_a_second() {
    let mut lines = Lines::built_in().unwrap();
    let line = "mce: [Hardware Error]: CPU 5: Machine Check: 0 Bank 8: be00000000800400";
    let told = (0..5_000u64).filter(|i| lines.hear(line, MonoTime(i * 1_000_000)).is_some()).count();
    assert_eq!(told, 5);
}

#[test]
fn records_of_user_space_count_for_nothing() {
    let line = "4,1234,5678901,-;NVRM: Xid (PCI:0000:3b:00): 79, x\n";
    let expected = Record { sequence: 1234, micros: 5_678_901, message: "NVRM: Xid (PCI:0000:3b:00): 79, x" };
    assert_eq!(record(line), Some(expected));
    assert_eq!(record("12,1235,5678901,-;NVRM: Xid (PCI:0000:3b:00): 79, x"), None, "facility 1: a user's");
    for line in [" SUBSYSTEM=pci", "", ";", "4,1;x", "4,1,2", "x,1,2,-;y", "4,-1,2,-;y"] {
        assert_eq!(record(line), None, "{line}");
    }
}

#[test]
fn mistakes_in_patterns_are_told_with_their_place() {
    for (text, expected) in [
        ("[[pattern]]\nline = \"*\"\nsays = \"gpu-lost\"\n", "f.toml:2:8: `line`: expected some literal text"),
        ("[[pattern]]\nline = \"abc {x}\"\nsays = \"gpu-lost\"\n", "{x}, expected {bus}"),
        ("[[pattern]]\nline = \"NVRM {bus}\"\nsays = \"xid\"\n", "needs {code}"),
        ("[[pattern]]\nline = \"NVRM\"\nsays = \"note\"\n", "a note needs `reason`"),
        ("[[pattern]]\nline = \"NVRM\"\nsays = \"gpu-lost\"\ntimes = 3\n", "`within_s`"),
        ("[[pattern]]\nlnie = \"NVRM\"\n", "unknown field `lnie`"),
    ] {
        let error = Lines::parse("f.toml", text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

proptest! {
    #[test]
    fn any_line_is_heard_without_harm(line in "\\PC{0,300}", cut in 0usize..200) {
        let mut lines = Lines::built_in().unwrap();
        let real = "nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30 LTSSM Fault Up";
        let _any = lines.hear(&line, s(1));
        let _any = record(&line);
        // A real line, cut anywhere and gone on with anything.
        let cut = cut.min(real.len());
        let _any = lines.hear(&format!("{}{line}", &real[..cut]), s(2));
        let _any = lines.hear(&format!("NVRM: Xid (PCI:{line}): {line}"), s(3));
    }
}
