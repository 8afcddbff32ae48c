//! The kernel: release, command line, build-id, and the settings that change how it schedules and places memory.

use super::{elf, files, shown};
use crate::redact::Redactor;
use failsafe_attest::{Fact, Json, Missing};
use std::path::Path;

/// Settings below `/proc/sys`.
const SYSCTLS: [&str; 6] = [
    "kernel/randomize_va_space",
    "kernel/numa_balancing",
    "vm/overcommit_memory",
    "vm/swappiness",
    "vm/zone_reclaim_mode",
    "vm/nr_hugepages",
];
/// Words of the command line that name this machine's disks: two nodes with the same image differ in them.
const OWN: [&str; 7] = ["BOOT_IMAGE=", "root=", "initrd=", "resume=", "rd.luks.", "rd.lvm.", "ip="];

pub(super) fn read(proc: &Path, sys: &Path, redact: &Redactor) -> Vec<Fact> {
    let (release, cmdline, notes) = (proc.join("sys/kernel/osrelease"), proc.join("cmdline"), sys.join("kernel/notes"));
    let mut facts = vec![
        Fact::measured("node/kernel/release", shown(&release), files::text(&release)),
        Fact::measured("node/kernel/command-line", shown(&cmdline), command_line(&cmdline, redact)),
        Fact::measured("node/kernel/build-id", shown(&notes), build_id(&notes)),
    ];
    for name in SYSCTLS {
        let path = proc.join("sys").join(name);
        facts.push(Fact::measured(format!("node/sysctl/{}", name.replace('/', ".")), shown(&path), files::text(&path)));
    }
    let pages = sys.join("kernel/mm/transparent_hugepage/enabled");
    facts.push(Fact::measured("node/sysctl/transparent_hugepage", shown(&pages), files::text(&pages).map(chosen)));
    facts
}

/// Without the words that name this machine's disks, and without secrets.
fn command_line(path: &Path, redact: &Redactor) -> Result<Json, Missing> {
    let Json::Text(text) = files::text(path)? else { return Ok(Json::Null) };
    let words = text.split_whitespace().filter(|word| !OWN.iter().any(|own| word.starts_with(own)));
    let mut words: Vec<String> = words.map(str::to_owned).collect();
    redact.argv(&mut words, &[]);
    Ok(Json::Text(words.join(" ")))
}

fn build_id(path: &Path) -> Result<Json, Missing> {
    let bytes = files::bytes(path)?;
    let found = bytes.map(|bytes| elf::build_id_of_notes(&bytes, elf::Order::NATIVE));
    Ok(found.flatten().map_or(Json::Null, Json::Text))
}

/// The word in brackets, as in `always [madvise] never`.
fn chosen(value: Json) -> Json {
    let word = value.text().and_then(|text| Some(text.split_once('[')?.1.split_once(']')?.0.to_owned()));
    word.map_or(value, Json::Text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::files::{fixture, value};

    #[test]
    fn the_kernel_is_read_without_names_of_disks_and_without_secrets() {
        let line =
            "BOOT_IMAGE=/boot/vmlinuz root=UUID=1-2 ro mitigations=off isolcpus=2-3 api_token=abcdefghijklmnop\n";
        let dir = fixture(&[
            ("proc/sys/kernel/osrelease", "6.8.0\n"),
            ("proc/cmdline", line),
            ("proc/sys/kernel/numa_balancing", "1\n"),
            ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
        ]);
        let note = [4_u32, 4, 3].map(u32::to_ne_bytes).concat();
        std::fs::write(dir.path().join("sys/kernel/notes"), [&note[..], b"GNU\0", &[0xab; 4]].concat()).unwrap();
        let facts = read(&dir.path().join("proc"), &dir.path().join("sys"), &Redactor::default());
        let of = |path| value(&facts, path).unwrap();
        assert_eq!(of("node/kernel/release"), Json::from("6.8.0"));
        assert_eq!(of("node/kernel/command-line"), Json::from("ro mitigations=off isolcpus=2-3 api_token=[redacted]"));
        assert_eq!(of("node/kernel/build-id"), Json::from("build-id:abababab"));
        assert_eq!(of("node/sysctl/kernel.numa_balancing"), Json::from("1"));
        assert_eq!(of("node/sysctl/vm.swappiness"), Json::Null);
        assert_eq!(of("node/sysctl/transparent_hugepage"), Json::from("madvise"));
    }
}
