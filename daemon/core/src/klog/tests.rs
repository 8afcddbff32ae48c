//! The patterns of the kernel's log, over real lines and over any bytes.

mod records;

use super::*;
use proptest::prelude::*;
use records::Fault;

fn s(seconds: u64) -> MonoTime {
    MonoTime(seconds * 1_000_000_000)
}

/// The built-in patterns, compiled once for all tests.
fn built_in() -> Lines {
    static LINES: std::sync::OnceLock<Lines> = std::sync::OnceLock::new();
    LINES.get_or_init(|| Lines::built_in().unwrap_or_else(|e| panic!("{e}"))).clone()
}

fn hear(message: &str) -> Option<LogFact> {
    built_in().hear(message, s(1))
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
        match hear(line) {
            Some(LogFact::Xid { bus: b, code: 79, slice: (None, None), .. }) => assert_eq!(b, bus("3b:00"), "{line}"),
            other => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn xids_of_mig_say_which_instance() {
    for (line, slice) in [
        ("NVRM: Xid (PCI:0000:3b:00 GPU-I:05): 94, pid=77, name=python3, Contained", (Some(5), None)),
        ("NVRM: Xid (PCI:0000:3b:00 GPU-I:11 GPU-CI:02): 94, pid=77, name=python3, Contained", (Some(11), Some(2))),
    ] {
        let text = " pid=77, name=python3, Contained".to_owned();
        assert_eq!(hear(line), Some(LogFact::Xid { bus: bus("0000:3b:00"), code: 94, slice, text }), "{line}");
    }
}

#[test]
fn other_lines_of_the_hardware_are_read() {
    let lost = hear("NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.");
    assert!(matches!(lost, Some(LogFact::GpuLost { bus: b, .. }) if b == bus("3b:00")), "{lost:?}");
    let lost =
        hear("NVRM: The NVIDIA GPU 0000:3b:00.0 (PCI ID: 10de:2330) installed in this system has fallen off the bus");
    assert!(matches!(lost, Some(LogFact::GpuLost { bus: b, .. }) if b == bus("3b:00")), "{lost:?}");
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
            Some(LogFact::Note { bus: b, reason: r, .. }) => assert_eq!((r.as_str(), b), (reason, bus(at)), "{line}"),
            other => panic!("{line}: {other:?}"),
        }
    }
    for (line, reason) in [
        ("mce: [Hardware Error]: CPU 5: Machine Check: 0 Bank 8: be00000000800400", "machine-check"),
        ("EDAC MC0: 1 UE memory read error on CPU_SrcID#0", "memory-uncorrected"),
    ] {
        assert!(matches!(hear(line), Some(LogFact::Note { bus: None, reason: r, .. }) if r == reason), "{line}");
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
    let mut lines = built_in();
    let line = "mlx5_core 0000:5e:00.0 ens1f0np0: Link down";
    assert_eq!(lines.hear(line, s(0)), None);
    assert_eq!(lines.hear(line, s(300)), None);
    assert_eq!(lines.hear(line, s(900)), None, "not three within ten minutes");
    assert_eq!(lines.hear("mlx5_core 0000:af:00.0 ens2f0np0: Link down", s(910)), None, "another card");
    assert!(lines.hear(line, s(920)).is_none(), "two within ten minutes of the first still counted");
    assert!(matches!(lines.hear(line, s(930)), Some(LogFact::Note { reason, .. }) if reason == "nic-link-flaps"));
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
        let mut lines = built_in();
        let told: Vec<Option<LogFact>> = (0..times).map(|n| lines.hear(line, s(n * apart))).collect();
        let (last, before) = told.split_last().unwrap();
        assert!(before.iter().all(Option::is_none), "{line}: told too early");
        match last {
            Some(LogFact::Note { bus: b, reason: r, .. }) => {
                assert_eq!((r.as_str(), *b), (reason, at.and_then(bus)), "{line}")
            }
            other => panic!("{line}: {other:?}"),
        }
        let mut lines = built_in();
        let seldom = (0..times * 2).find_map(|n| lines.hear(line, s(n * (apart + apart / 2))));
        assert_eq!(seldom, None, "{line}: so seldom it says nothing");
    }
    let hot = hear("mlx5_core 0000:5e:00.0: mlx5_pcie_event:293:(pid 9): Sensor 0, High Temperature: 105");
    assert!(
        matches!(&hot, Some(LogFact::Note { bus: b, reason, .. }) if *b == bus("5e:00") && reason == "nic-temperature")
    );
}

#[test]
fn a_storm_is_reported_once_a_second() {
    let mut lines = built_in();
    let line = "mce: [Hardware Error]: CPU 5: Machine Check: 0 Bank 8: be00000000800400";
    let told = (0..5_000u64).filter(|i| lines.hear(line, MonoTime(i * 1_000_000)).is_some()).count();
    assert_eq!(told, 5);
}

#[test]
fn records_of_user_space_count_for_nothing() {
    let line = "4,1234,5678901,-;NVRM: Xid (PCI:0000:3b:00): 79, x\n";
    let expected = Record { sequence: 1234, micros: 5_678_901, message: "NVRM: Xid (PCI:0000:3b:00): 79, x".into() };
    assert_eq!(record(line), Some(expected));
    assert_eq!(record("12,1235,5678901,-;NVRM: Xid (PCI:0000:3b:00): 79, x"), None, "facility 1: a user's");
    for line in [" SUBSYSTEM=pci", "", ";", "4,1;x", "4,1,2", "x,1,2,-;y", "4,-1,2,-;y"] {
        assert_eq!(record(line), None, "{line}");
    }
}

#[test]
fn mistakes_in_patterns_are_reported_with_their_place() {
    for (text, expected) in [
        (
            "[[pattern]]\nline = \"ab\"\nsays = \"gpu-lost\"\n",
            "f.toml:2:8: `line`: expected at least 4 fixed characters",
        ),
        ("[[pattern]]\nline = \"NVRM: .*lost\"\nsays = \"gpu-lost\"\n", "`.*` could skip over text that a user chose"),
        ("[[pattern]]\nline = \"NVRM: (\"\nsays = \"gpu-lost\"\n", "not a regular expression"),
        ("[[pattern]]\nline = \"abcd {x}\"\nsays = \"gpu-lost\"\n", "{x} is unknown, expected one of {bus}"),
        ("[[pattern]]\nline = \"NVRM {bus}\"\nsays = \"xid\"\n", "needs {code}"),
        ("[[pattern]]\nline = \"NVRM\"\nsays = \"note\"\n", "a note needs `reason`"),
        ("[[pattern]]\nline = \"NVRM\"\nsays = \"gpu-lost\"\ntimes = 3\n", "`within_s`"),
        ("[[pattern]]\nline = \"NVRM\"\nsays = \"gpu-lost\"\napart_s = 3\n", "`apart_s` goes with `times`"),
        ("[[pattern]]\nlnie = \"NVRM\"\n", "unknown field `lnie`"),
    ] {
        let error = Lines::parse("f.toml", text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// The kernel's own texts that quote a process's name (`{c}`, at most 15 bytes) or a file's (`{f}`).
const QUOTING: &[&str] = &[
    "{c}[4242]: segfault at 0 ip 0000000000401136 sp 00007ffd5 error 6 in {f}[401000+1000] likely on CPU 1 (core 1, socket 0)",
    "traps: {c}[4242] trap divide error ip:401136 sp:7ffd5 error:0 in {f}[401000+1000]",
    "traps: {c}[4242] general protection fault ip:401136 sp:7ffd5 error:0 in {f}[401000+1000]",
    "{c}[4242] bad frame in rt_sigreturn frame:0000 ip:401136 sp:7ffd5 orax:f in {f}[401000+1000]",
    "{c}[4242]: unhandled signal 11 at 0000 nip 0000 lr 0000 code 1",
    "{c}[4242] vsyscall attempted with vsyscall=none ip:401136 cs:33 sp:7ffd5 ax:0 si:0 di:0",
    "{c} invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
    "oom-kill:constraint=CONSTRAINT_MEMCG,oom_memcg=/{f},task_memcg=/{f},task={c},pid=4242,uid=1000",
    "Memory cgroup out of memory: Killed process 4242 ({c}) total-vm:1kB, anon-rss:1kB",
    "Out of memory: Killed process 4242 ({c}) total-vm:1kB, anon-rss:1kB, file-rss:0kB",
    "oom_reaper: reaped process 4242 ({c}), now anon-rss:0kB",
    "INFO: task {c}:4242 blocked for more than 120 seconds.",
    "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [{c}:4242]",
    "CPU: 1 PID: 4242 Comm: {c} Not tainted 6.1.0",
    "{c}: page allocation failure: order:0, mode:0xcc0(GFP_KERNEL)",
    "{c} (4242): drop_caches: 3",
    "{c} (4242) uses deprecated remap_file_pages() syscall. See Documentation/mm/remap_file_pages.rst.",
    "{c}[4242] is installing a program with bpf_probe_write_user helper that may corrupt user memory!",
    "process '{f}' started with executable stack",
    "process \"{f}\" ({c}) attempted a POSIX timer syscall",
    "coredump: 4242({c}): over coredump resource limit",
    "Core dump to |{f} pipe failed",
    "audit: type=1701 audit(1.1:2): auid=1000 uid=1000 pid=4242 comm=\"{c}\" exe=\"{f}\" sig=11 res=1",
    "warning: process `{c}' used the deprecated sysctl system call with 1.1.",
    "{c}: renamed from veth0",
    "IPv6: ADDRCONF(NETDEV_CHANGE): {c}: link becomes ready",
    "device {c} entered promiscuous mode",
    "amdgpu 0000:03:00.0: amdgpu:  Process {c} pid 4242 thread {c} pid 4242",
    "amdgpu 0000:03:00.0: amdgpu:  in process {c} pid 4242 thread {c} pid 4242)",
    "[drm:amdgpu_job_timedout [amdgpu]] *ERROR* Process information: process {c} pid 4242 thread {c} pid 4242",
    "EXT4-fs error (device sda1): ext4_lookup:1855: inode #2: comm {c}: deleted inode referenced: 7",
    "FAT-fs (sda1): Directory bread(block 7) failed in {f}",
];

/// What a user who wants a record to pass for the driver's might put into a name.
fn hostile() -> impl Strategy<Value = String> {
    let mut real: Vec<&str> = faults().map(|(line, ..)| *line).collect();
    real.extend([
        "NVRM: Xid (PCI:0000:1b:00): 79, pid=1, GPU has fallen off the bus.",
        "NVRM: Xid (1b:0): 79, x",
        "NVRM: GPU 0000:1b:00.0: GPU has fallen off the bus.",
        "nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30",
        "a: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30",
        "AER: Uncorrected (Fatal) error 0000:1b:00.0",
        "p 1b:0: AER: Uncorrected (Fatal) error received: 0000:1b:00.0",
        "EDAC MC0: 1 UE memory read error on CPU_SrcID#0",
        "mce: [Hardware Error]: CPU 5: Machine Check: 0 Bank 8: be00000000800400",
        "mlx5_core 0000:5e:00.0 ens1f0np0: Link down",
        "x 1b:0 a: Link down",
        "{1}[Hardware Error]: event severity: fatal",
        "nvme nvme0: Device not ready; aborting reset",
        "NVRM: uvm encountered global fatal error 0x60, requiring os reboot to recover.",
    ]);
    let real = prop::sample::select(real);
    // Any part of a real record, with anything before and after it.
    (real, 0usize..80, 0usize..80, "(\\PC|\n){0,6}", "(\\PC|\n){0,6}").prop_map(|(real, from, to, before, after)| {
        let part: String = real.chars().skip(from.min(real.len() / 2)).take(to).collect();
        if from % 3 == 0 { part } else { before + &part + &after }
    })
}

fn comm(text: &str) -> String {
    let mut out = String::new();
    text.chars()
        .take_while(|c| out.len() + c.len_utf8() <= 15)
        .collect::<Vec<_>>()
        .into_iter()
        .for_each(|c| out.push(c));
    while out.len() > 15 {
        out.pop();
    }
    out
}

#[test]
fn a_crash_of_a_process_that_is_named_like_a_driver_is_no_fault_of_the_hardware() {
    for (comm, file) in [
        ("nvidia-nvswitch", "a: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30"),
        ("trainer", "AER: Uncorrected (Fatal) error 0000:1b:00.0"),
        ("NVRM: Xid (PCI:", "0000:1b:00): 79, x"),
        ("NVRM: Xid (1:1)", ": 79, x"),
        ("EDAC MC0: 1 UE ", "EDAC MC0: 1 UE memory"),
        ("p 1b:0: AER: ", "Uncorrected (Fatal) error received: 0000:1b:00.0"),
    ] {
        for text in QUOTING {
            let record = text.replace("{c}", comm).replace("{f}", file);
            assert_eq!(hear(&record), None, "{record}");
        }
    }
}

#[test]
fn a_process_name_in_a_drivers_record_does_not_hide_it() {
    for name in ["Comm: x", "a invoked oom-killer: ", "b[12]: ", "traps: "] {
        let record = format!("NVRM: Xid (PCI:0000:3b:00): 79, pid=77, name={name}, GPU has fallen off the bus.");
        assert!(matches!(hear(&record), Some(LogFact::Xid { code: 79, .. })), "{record}");
    }
}

#[test]
fn a_lost_gpu_is_found_in_each_wording() {
    for line in [
        "NVRM: The NVIDIA GPU 0000:1b:00.0\\x0aNVRM: (PCI ID: 10de:26b5) installed in this system has\\x0aNVRM: fallen off \
         the bus and is not responding to commands.",
        "NVRM: GPU at 0000:1b:00.0 has fallen off the bus.",
        "NVRM: GPU 0000:1b:00.0: GPU has fallen off the bus.",
        "amdgpu 0000:1b:00.0: amdgpu: device lost from bus!",
    ] {
        let line = format!("3,1,2,-;{line}");
        let found = hear(&record(&line).unwrap().message);
        assert!(matches!(&found, Some(LogFact::GpuLost { bus: b, .. }) if *b == bus("1b:00")), "{line}: {found:?}");
    }
}

#[test]
fn other_wordings_and_generations_are_found() {
    for (line, expected, at) in [
        ("NVRM: GPU 0000:1b:00.0: RmInitAdapter failed! (0x24:0x72:1568)", "gpu-initialization-failed", Some("1b:00")),
        ("NVRM: GPU0 _kgspIsHeartbeatTimedOut: GSP RM heartbeat timed out", "gpu-firmware-timeout", None),
        (
            "NVRM: nvGpuOpsReportFatalError: uvm encountered global fatal error 0x60, requiring os reboot to recover.",
            "gpu-reboot-required",
            None,
        ),
        (
            "pcieport 0000:00:03.0: AER: Multiple Uncorrected (Fatal) error received: 0000:1b:00.0",
            "pcie-aer-fatal",
            Some("1b:00"),
        ),
        (
            "pcieport 0000:00:03.0: AER: Multiple Uncorrectable (Fatal) error message received from 0000:1b:00.0",
            "pcie-aer-fatal",
            Some("1b:00"),
        ),
        (
            "nvidia 0000:1b:00.0: AER: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer",
            "pcie-aer-fatal",
            Some("1b:00"),
        ),
        (
            "pcieport 0000:00:03.0: DPC: containment event, status:0x1f01 source:0x0000",
            "pcie-link-contained",
            Some("0:3"),
        ),
        ("nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 26006, SOE HALTED", "nvswitch-unknown", Some("c1:00")),
        (
            "mlx5_core 0000:41:00.0: temp_warn:170:(pid 0): High temperature on sensors with bit set 0 1",
            "nic-temperature",
            Some("41:00"),
        ),
        ("{1}[Hardware Error]: event severity: fatal", "firmware-hardware-error", None),
        (
            "Memory failure: 0x1f3a: Sending SIGBUS to python3:77 due to hardware memory corruption",
            "memory-uncorrected",
            None,
        ),
        ("amdgpu 0000:03:00.0: amdgpu: GPU reset begin!", "gpu-reset", Some("3:0")),
        ("[Hardware Error]: Uncorrected, software restartable error.", "machine-check", None),
        ("EDAC MC0: 262 CE memory read error on CPU_SrcID#0", "memory-corrected", None),
    ] {
        match hear(line) {
            Some(LogFact::Note { bus: b, reason, .. }) => {
                assert_eq!((reason.as_str(), b), (expected, at.and_then(Bus::parse)), "{line}")
            }
            other => panic!("{line}: {other:?}"),
        }
    }
    for line in [
        "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 28006, Severity 0 Engine instance 46 Sub-engine instance 00",
        "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 28006, Data {0x80000001, 0x00000000}",
        "mce: [Hardware Error]: CPU 5: Machine Check: 0 Bank 8: 8c00004000010090",
    ] {
        assert_eq!(hear(line), None, "{line}");
    }
}

/// Every record of a fault that counts at the first time.
fn faults() -> impl Iterator<Item = &'static Fault> {
    records::PCIE.iter().chain(records::SEVERITY).chain(records::NVIDIA).chain(records::HOST)
}

#[test]
fn each_form_of_a_fault_is_found_at_its_first_record() {
    for (line, expected, at) in faults() {
        match hear(line) {
            Some(LogFact::Note { bus: b, reason, .. }) => {
                assert_eq!((reason.as_str(), b), (*expected, at.and_then(Bus::parse)), "{line}")
            }
            other => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn a_corrected_error_counts_when_a_hundred_came_within_an_hour() {
    for (line, expected) in records::CORRECTED {
        let mut lines = built_in();
        let found: Vec<_> = (0..100).map(|n| lines.hear(line, s(n * 35))).collect();
        assert!(found[..99].iter().all(Option::is_none), "{line}");
        assert!(
            matches!(&found[99], Some(LogFact::Note { reason, .. }) if reason == expected),
            "{line}: {:?}",
            found[99]
        );
    }
}

#[test]
fn a_fault_that_passes_counts_at_the_third_record_within_an_hour() {
    for (line, expected) in records::REPEATED {
        let mut lines = built_in();
        assert_eq!((lines.hear(line, s(0)), lines.hear(line, s(1_700))), (None, None), "{line}");
        let third = lines.hear(line, s(3_500));
        assert!(matches!(&third, Some(LogFact::Note { reason, .. }) if reason == expected), "{line}: {third:?}");
    }
}

#[test]
fn a_record_of_a_recovery_or_of_a_corrected_error_is_no_fault() {
    for line in records::HARMLESS {
        assert_eq!(hear(line), None, "{line}");
    }
}

#[test]
fn each_disk_counts_for_itself() {
    let mut lines = built_in();
    for disk in ["nvme0n1", "nvme1n1", "sda"] {
        assert_eq!(lines.hear(&format!("critical medium error, dev {disk}, sector 7"), s(1)), None, "{disk}");
    }
}

#[test]
fn records_of_one_event_count_once() {
    let mut lines = built_in();
    let down = "mlx5_core 0000:5e:00.0 ens1f0np0: Link down";
    for n in 0..10 {
        assert_eq!(lines.hear(down, MonoTime(s(1).0 + n * 100_000_000)), None);
    }
    assert_eq!(lines.hear(down, s(4)), None);
    assert!(lines.hear(down, s(7)).is_some(), "the third time");
}

#[test]
fn each_function_of_a_card_has_its_own_link() {
    let mut lines = built_in();
    for function in 0..3 {
        assert_eq!(
            lines.hear(&format!("mlx5_core 0000:5e:00.{function} ens1f{function}: Link down"), s(function)),
            None
        );
    }
}

proptest! {
    #[test]
    fn no_name_that_a_user_chooses_makes_a_fault(name in hostile(), file in hostile(), text in 0..QUOTING.len()) {
        let record = QUOTING[text].replace("{c}", &comm(&name)).replace("{f}", &file);
        prop_assert_eq!(hear(&record), None, "{}", record);
    }

    #[test]
    fn any_line_is_heard_without_harm(line in "\\PC{0,300}", cut in 0usize..200) {
        let mut lines = built_in();
        let real = "nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30 LTSSM Fault Up";
        let _any = lines.hear(&line, s(1));
        let _any = record(&line);
        // A real line, cut anywhere and gone on with anything.
        let cut = cut.min(real.len());
        let _any = lines.hear(&format!("{}{line}", &real[..cut]), s(2));
        let _any = lines.hear(&format!("NVRM: Xid (PCI:{line}): {line}"), s(3));
    }
}
