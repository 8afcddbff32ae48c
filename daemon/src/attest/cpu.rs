//! Processors and memory: `/proc/cpuinfo`, `/proc/meminfo`, and the lists of processors and NUMA nodes in sysfs.

use super::{files, shown};
use failsafe_attest::{Fact, Json, Missing};
use std::{collections::BTreeSet, path::Path};

pub(super) fn read(proc: &Path, sys: &Path) -> Vec<Fact> {
    let cpuinfo = proc.join("cpuinfo");
    let text = files::bytes(&cpuinfo)
        .and_then(|bytes| bytes.ok_or_else(|| Missing::unavailable(format!("there is no {}", cpuinfo.display()))))
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    // The first key is that of x86, the others are those of arm64.
    let field = |keys: &[&str]| text.clone().map(|text| one_or_all(values(&text, keys)));
    // Sorted, as kernels differ in the order; then processors with the same flags are the same.
    let flags = text.clone().map(|text| {
        one_or_all(values(&text, &["flags", "Features"]).iter().map(|flags| sorted_words(flags)).collect())
    });
    let sockets = text.clone().map(|text| Json::Int(i64::try_from(values(&text, &["physical id"]).len()).unwrap_or(0)));
    let from_cpuinfo = [
        ("node/cpu/model", field(&["model name", "CPU part"])),
        ("node/cpu/flags", flags),
        ("node/cpu/microcode", field(&["microcode", "CPU revision"])),
        ("node/cpu/sockets", sockets),
    ];
    let mut facts: Vec<Fact> =
        from_cpuinfo.into_iter().map(|(path, value)| Fact::measured(path, shown(&cpuinfo), value)).collect();
    for (path, list) in [
        ("node/cpu/count", sys.join("devices/system/cpu/online")),
        ("node/numa/nodes", sys.join("devices/system/node/online")),
    ] {
        let value = files::text(&list).and_then(|value| match value {
            Json::Text(text) => count(&text).map(Json::Int).ok_or_else(|| {
                Missing::unavailable(format!("{} is no list of numbers: `{}`", list.display(), text.escape_debug()))
            }),
            other => Ok(other),
        });
        facts.push(Fact::measured(path, shown(&list), value));
    }
    let meminfo = proc.join("meminfo");
    facts.push(Fact::measured("node/memory", shown(&meminfo), memory(&meminfo)));
    facts
}

/// The values of the first of these keys that the file has.
fn values(text: &str, keys: &[&str]) -> BTreeSet<String> {
    for key in keys {
        let of = text.lines().filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == *key).then(|| value.trim().to_owned())
        });
        let found: BTreeSet<String> = of.collect();
        if !found.is_empty() {
            return found;
        }
    }
    BTreeSet::new()
}

/// One value where all processors have the same.
fn one_or_all(values: BTreeSet<String>) -> Json {
    let mut all: Vec<Json> = values.into_iter().map(Json::Text).collect();
    match all.len() {
        0 => Json::Null,
        1 => all.remove(0),
        _ => Json::List(all),
    }
}

fn sorted_words(text: &str) -> String {
    text.split_whitespace().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" ")
}

/// How many numbers a list such as `0-3,8` names.
pub(super) fn count(list: &str) -> Option<i64> {
    let mut total: i64 = 0;
    for part in list.trim().split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (u32, u32) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
        total = total.checked_add(i64::from(to.checked_sub(from)?) + 1)?;
    }
    Some(total)
}

/// In whole GiB: the kernel keeps a little more or less for itself at each boot.
fn memory(meminfo: &Path) -> Result<Json, Missing> {
    let bytes = files::bytes(meminfo)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: Option<u64> = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    let kib = kib.ok_or_else(|| Missing::unavailable(format!("{} has no MemTotal", meminfo.display())))?;
    Ok(Json::Text(format!("{} GiB", (kib + (1 << 19)) >> 20)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::files::{fixture, value};

    const X86: &str = "processor\t: 0\nmodel name\t: EPYC\nmicrocode\t: 0x1\nphysical id\t: 0\nflags\t\t: sse fpu avx\n\n\
                       processor\t: 1\nmodel name\t: EPYC\nmicrocode\t: 0x2\nphysical id\t: 1\nflags\t\t: fpu sse avx\n";

    #[test]
    fn processors_are_read_and_a_mixture_is_a_list() {
        let dir = fixture(&[
            ("proc/cpuinfo", X86),
            ("proc/meminfo", "MemTotal:       131917764 kB\n"),
            ("sys/devices/system/cpu/online", "0-3,8\n"),
            ("sys/devices/system/node/online", "0-1\n"),
        ]);
        let facts = read(&dir.path().join("proc"), &dir.path().join("sys"));
        let of = |path| value(&facts, path).unwrap();
        assert_eq!(of("node/cpu/model"), Json::from("EPYC"));
        assert_eq!(of("node/cpu/flags"), Json::from("avx fpu sse"));
        assert_eq!(of("node/cpu/microcode"), Json::List(vec![Json::from("0x1"), Json::from("0x2")]));
        assert_eq!((of("node/cpu/sockets"), of("node/cpu/count")), (Json::Int(2), Json::Int(5)));
        assert_eq!((of("node/numa/nodes"), of("node/memory")), (Json::Int(2), Json::from("126 GiB")));
    }

    #[test]
    fn what_is_missing_or_strange_has_no_value() {
        let dir = fixture(&[("sys/devices/system/cpu/online", "3-1\n"), ("proc/meminfo", "x")]);
        let facts = read(&dir.path().join("proc"), &dir.path().join("sys"));
        for path in ["node/cpu/model", "node/cpu/count", "node/memory"] {
            assert!(value(&facts, path).is_err(), "{path}");
        }
        assert_eq!(value(&facts, "node/numa/nodes"), Ok(Json::Null), "a kernel without NUMA");
        for (list, expected) in [("0", Some(1)), ("0-127", Some(128)), ("", None), ("a", None), ("0-", None)] {
            assert_eq!(count(list), expected, "{list}");
        }
    }
}
