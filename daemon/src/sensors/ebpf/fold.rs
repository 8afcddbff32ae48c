//! From rules to the kernel's tables.
//!
//! The kernel looks a path up in a longest-prefix-match trie and sees one entry only, so an entry holds the strictest of
//! what all shorter ones around it say: [`fold`] makes it so. An exact path ends with its NUL in the kernel's table, so that it is no
//! prefix of a longer name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use failsafe_ebpf::abi::{Effects, RULE_PATH, key_what, run_flag};

use super::rules::{Effect, NOTHING, PathPattern, Rules, named, stricter, with_list};

/// A key of the kernel's table of numbers: what it is of, and its two parts.
pub type NumberKey = (u32, u64, u64);

/// A file or folder, whatever its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Inode {
    /// Its number.
    pub number: u64,
    /// Its device, as the kernel has it.
    pub device: u64,
}

impl Inode {
    fn of(meta: &fs::Metadata) -> Inode {
        Inode { number: meta.ino(), device: device_of(meta) }
    }
}

/// How the rules call what is entered by inode: the exact path of a file, that of a folder with its `/`.
pub type Names = BTreeMap<Inode, BTreeSet<String>>;

/// Rules in the form the kernel holds them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FoldedRules {
    /// Paths as bytes (an exact one ends with its NUL), each with all that applies to it.
    pub paths: BTreeMap<Vec<u8>, Effects>,
    /// Inodes, devices, families.
    pub numbers: BTreeMap<NumberKey, Effects>,
    /// Names of the inodes.
    pub names: Names,
}

impl FoldedRules {
    /// The kernel's look-up of a path: the longest entry that is a prefix of it.
    #[must_use]
    pub fn lookup(&self, path: &str) -> Effects {
        let mut bytes = path.as_bytes().to_vec();
        bytes.push(0);
        bytes.truncate(RULE_PATH);
        let hit = self.paths.iter().filter(|(entry, _)| bytes.starts_with(entry)).max_by_key(|(entry, _)| entry.len());
        hit.map_or(NOTHING, |(_, effects)| *effects)
    }

    /// Flags of `fs_run_cfg` that say which tables have entries.
    #[must_use]
    pub fn flags(&self) -> u32 {
        let has = |what: &[u32]| self.numbers.keys().any(|(w, _, _)| what.contains(w));
        let bits = [
            (!self.paths.is_empty(), run_flag::PATHS),
            (has(&[key_what::INODE]), run_flag::INODES),
            (has(&[key_what::TREE]), run_flag::TREES),
            (has(&[key_what::FAMILY]), run_flag::FAMILIES),
        ];
        bits.iter().filter(|(on, _)| *on).fold(0, |all, (_, bit)| all | bit)
    }

    /// Whether devices are ruled on.
    #[must_use]
    pub fn has_devices(&self) -> bool {
        self.numbers.keys().any(|(what, _, _)| *what == key_what::DEVICE)
    }

    fn raise(&mut self, key: NumberKey, effects: Effects) {
        let entry = self.numbers.entry(key).or_insert(NOTHING);
        *entry = stricter(*entry, effects);
    }

    fn raise_inode(&mut self, what: u32, meta: &fs::Metadata, path: &str, effects: Effects) {
        let inode = Inode::of(meta);
        self.raise((what, inode.number, inode.device), effects);
        self.names.entry(inode).or_default().insert(path.to_owned());
    }
}

/// `b` of a device's key that stands for every minor number.
const ANY_MINOR: u64 = u64::MAX;

/// Makes the kernel's tables. Paths that exist on `root` (`/`, but for tests) are entered by inode too, and devices by
/// their numbers: a hard link, a bind mount or another node is the same thing.
#[must_use]
pub fn fold(rules: &Rules, root: &Path) -> FoldedRules {
    let mut out = FoldedRules::default();
    let mut patterns: Vec<&PathPattern> = rules.paths.iter().map(|r| &r.pattern).collect();
    let everything = PathPattern { path: String::new(), prefix: true };
    if let Some(list) = &rules.exec {
        patterns.push(&everything);
        patterns.extend(&list.allow);
    }
    for pattern in patterns {
        let covers = |other: &PathPattern| {
            if pattern.prefix && !other.prefix { false } else { other.fits(&pattern.path) }
        };
        let listed = rules.exec.as_ref().map(|list| (list.others, list.allow.iter().any(covers)));
        out.paths.insert(pattern.bytes(), with_list(named(rules, covers), listed));
    }
    for file in rules.paths.iter().flat_map(|rule| existing(&rule.pattern, root)) {
        enter_file(rules, &file, root, &mut out);
    }
    for rule in &rules.paths {
        if rule.pattern.prefix && rule.pattern.path.starts_with("/dev/") {
            enter_kinds(rules, &rule.pattern, root, &mut out);
        }
        if rule.pattern.prefix && rule.pattern.path.ends_with('/') {
            enter_folder(rules, &rule.pattern.path, root, &mut out);
        }
    }
    let one = |e: Effect| Effects { read: e.byte(), ..NOTHING };
    for (family, e) in &rules.families {
        out.raise((key_what::FAMILY, u64::from(*family), 0), one(*e));
    }
    out
}

/// The files that a pattern names now. A prefix is followed to devices only, in its own folder and those below it: what else lies
/// there is told by its path.
fn existing(pattern: &PathPattern, root: &Path) -> Vec<String> {
    if !pattern.prefix {
        return vec![pattern.path.clone()];
    }
    let Some((folder, _)) = pattern.path.rsplit_once('/') else { return Vec::new() };
    let mut found = devices(folder, root, if folder.starts_with("/dev") { 1 } else { 0 });
    found.retain(|path| pattern.fits(path));
    found
}

fn devices(folder: &str, root: &Path, depth: u32) -> Vec<String> {
    let mut found = Vec::new();
    let entries = fs::read_dir(below(root, &format!("{folder}/"))).into_iter().flatten().flatten();
    for name in entries.filter_map(|e| e.file_name().into_string().ok()) {
        let path = format!("{folder}/{name}");
        match fs::symlink_metadata(below(root, &path)) {
            Ok(meta) if meta.is_dir() && depth > 0 => found.extend(devices(&path, root, depth - 1)),
            _ if fs::metadata(below(root, &path)).is_ok_and(|m| is_device(&m)) => found.push(path),
            _ => {}
        }
    }
    found
}

fn below(root: &Path, path: &str) -> std::path::PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn is_device(meta: &fs::Metadata) -> bool {
    meta.file_type().is_char_device() || meta.file_type().is_block_device()
}

/// A pattern that fits all devices of a kind (as `/dev/nvidia*` does) is held for those that are plugged in later, too.
fn enter_kinds(rules: &Rules, pattern: &PathPattern, root: &Path, out: &mut FoldedRules) {
    let all: Vec<(u64, bool)> = devices("/dev", root, 1)
        .iter()
        .filter_map(|path| Some((device_key(&fs::metadata(below(root, path)).ok()?).1, pattern.fits(path))))
        .collect();
    let whole = |kind: &u64| all.iter().filter(|(other, _)| other == kind).all(|(_, fits)| *fits);
    let kinds: BTreeSet<u64> = all.iter().map(|(kind, _)| *kind).filter(whole).collect();
    let effects = named(rules, |other| other.prefix && other.fits(&pattern.path));
    for kind in kinds {
        out.raise((key_what::DEVICE, kind, ANY_MINOR), effects);
        // The kernel asks for the one device first, and then no further.
        let one = (key_what::DEVICE, kind, 0)..(key_what::DEVICE, kind, ANY_MINOR);
        out.numbers.range_mut(one).for_each(|(_, held)| *held = stricter(*held, effects));
    }
}

fn enter_file(rules: &Rules, path: &str, root: &Path, out: &mut FoldedRules) {
    let Ok(meta) = fs::metadata(below(root, path)) else { return };
    let effects = named(rules, |pattern| pattern.fits(path));
    if is_device(&meta) {
        out.raise(device_key(&meta), effects);
    } else {
        out.raise_inode(key_what::INODE, &meta, path, effects);
    }
}

/// Whatever name or mount leads below the folder: what is said of all paths that begin with it, its `/` included.
fn enter_folder(rules: &Rules, path: &str, root: &Path, out: &mut FoldedRules) {
    let Ok(meta) = fs::metadata(below(root, path)) else { return };
    let effects = named(rules, |pattern| pattern.prefix && pattern.fits(path));
    out.raise_inode(key_what::TREE, &meta, path, effects);
    out.raise((key_what::TREE, 0, u64::MAX), effects);
}

/// The device that a file is on, as the kernel has it: 12 bits of major above 20 of minor.
pub(super) fn device_of(meta: &fs::Metadata) -> u64 {
    u64::from(libc::major(meta.dev())) << 20 | u64::from(libc::minor(meta.dev()))
}

fn device_key(meta: &fs::Metadata) -> NumberKey {
    let kind: u64 = if meta.file_type().is_block_device() { 1 } else { 2 };
    let (major, minor) = (libc::major(meta.rdev()), libc::minor(meta.rdev()));
    (key_what::DEVICE, kind << 32 | u64::from(major), u64::from(minor))
}

#[cfg(test)]
pub(super) mod tests {
    use failsafe_ebpf::abi::effect;
    use proptest::prelude::*;

    use super::super::rules::{ExecList, PathRule, Use, effects};
    use super::*;

    fn rule(path: &str, prefix: bool, usage: Use, effect: Effect) -> PathRule {
        PathRule { pattern: PathPattern { path: path.to_owned(), prefix }, usage, effect }
    }

    #[test]
    fn the_longest_entry_holds_all_that_is_said_of_it() {
        let rules = Rules {
            paths: vec![
                rule("/data/", true, Use::Write, Effect::Deny),
                rule("/data/out/", true, Use::Write, Effect::Observe),
                rule("/data/out/key", false, Use::Read, Effect::Stop),
            ],
            ..Rules::default()
        };
        let folded = fold(&rules, Path::new("/nonexistent"));
        assert_eq!(folded.lookup("/data/out/x").write, effect::DENY);
        assert_eq!(folded.lookup("/data/out/key"), Effects { write: effect::DENY, read: effect::STOP, ..NOTHING });
        assert_eq!(folded.lookup("/data/out/key2").read, effect::NONE);
        assert_eq!(folded.lookup("/dat"), NOTHING);
    }

    #[test]
    fn what_a_list_of_programs_does_not_name_is_refused_and_libraries_are_no_programs() {
        let allow = vec![
            PathPattern { path: "/usr/bin/".into(), prefix: true },
            PathPattern { path: "/bin/sh".into(), prefix: false },
        ];
        let rules = Rules {
            exec: Some(ExecList { others: Effect::Deny, allow }),
            paths: vec![rule("/usr/bin/gdb", false, Use::Exec, Effect::Stop)],
            ..Rules::default()
        };
        let folded = fold(&rules, Path::new("/nonexistent"));
        let exec = |path: &str| folded.lookup(path).exec;
        assert_eq!([exec("/usr/bin/python3"), exec("/bin/sh"), exec("/bin/shred"), exec("/tmp/x")], [0, 0, 2, 2]);
        assert_eq!(folded.lookup("/usr/bin/gdb"), Effects { exec: 3, map: 3, ..NOTHING });
        assert_eq!(folded.lookup("/tmp/lib.so").map, 0);
    }

    #[test]
    fn files_that_exist_are_entered_by_inode_and_devices_by_number() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/secret"), "x").unwrap();
        let rules = Rules { paths: vec![rule("/etc/secret", false, Use::Read, Effect::Deny)], ..Rules::default() };
        let folded = fold(&rules, dir.path());
        let meta = std::fs::metadata(dir.path().join("etc/secret")).unwrap();
        assert!(folded.numbers.keys().any(|(what, ino, _)| *what == key_what::INODE && *ino == meta.ino()));
        assert_eq!(folded.flags(), run_flag::PATHS | run_flag::INODES);
        let null = Rules { paths: vec![rule("/dev/nul", true, Use::Read, Effect::Deny)], ..Rules::default() };
        let folded = fold(&null, Path::new("/"));
        assert_eq!(folded.numbers.keys().next(), Some(&(key_what::DEVICE, 2 << 32 | 1, 3)));
        assert!(folded.has_devices());
        let others_of_its_kind = folded.numbers.contains_key(&(key_what::DEVICE, 2 << 32 | 1, ANY_MINOR));
        assert!(!others_of_its_kind, "/dev/zero is of the same kind and not meant");
    }

    #[test]
    fn a_pattern_of_all_devices_of_a_kind_holds_those_that_come_later() {
        let major = libc::major(std::fs::metadata("/dev/tty").unwrap().rdev());
        let rules = Rules {
            paths: vec![
                rule("/dev/", true, Use::Write, Effect::Deny),
                rule("/dev/tty", false, Use::Read, Effect::Stop),
            ],
            ..Rules::default()
        };
        let folded = fold(&rules, Path::new("/"));
        let held = |minor| folded.numbers.get(&(key_what::DEVICE, 2 << 32 | u64::from(major), minor)).copied();
        assert_eq!(held(ANY_MINOR), Some(Effects { write: effect::DENY, ..NOTHING }));
        assert_eq!(held(0), Some(Effects { write: effect::DENY, read: effect::STOP, ..NOTHING }), "its own and that");
    }

    #[test]
    fn a_folder_that_exists_is_entered_by_inode_with_all_that_is_said_of_what_is_below_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("data/out")).unwrap();
        let rules = Rules {
            paths: vec![
                rule("/data/", true, Use::Write, Effect::Deny),
                rule("/data/out/", true, Use::Read, Effect::Observe),
                rule("/data/out/x", true, Use::Read, Effect::Stop),
                rule("/gone/", true, Use::Read, Effect::Stop),
            ],
            ..Rules::default()
        };
        let folded = fold(&rules, dir.path());
        let meta = std::fs::metadata(dir.path().join("data/out")).unwrap();
        let both = Effects { write: effect::DENY, read: effect::OBSERVE, ..NOTHING };
        assert_eq!(folded.numbers[&(key_what::TREE, meta.ino(), device_of(&meta))], both);
        assert_eq!(folded.names[&Inode::of(&meta)], BTreeSet::from(["/data/out/".to_owned()]));
        assert_eq!(folded.numbers[&(key_what::TREE, 0, u64::MAX)], both, "of those that exist the strictest");
        assert_eq!(folded.flags(), run_flag::PATHS | run_flag::TREES);
    }

    pub(crate) fn any_path() -> impl Strategy<Value = String> {
        // Few names, so that prefixes overlap.
        prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("ab")], 1..4)
            .prop_map(|p| format!("/{}", p.join("/")))
    }

    prop_compose! {
        pub(crate) fn any_rule()(
            path in any_path(),
            slash in any::<bool>(),
            prefix in any::<bool>(),
            usage in prop_oneof![Just(Use::Exec), Just(Use::Read), Just(Use::Write)],
            effect in prop_oneof![Just(Effect::Observe), Just(Effect::Deny), Just(Effect::Stop)],
        ) -> PathRule {
            rule(&if slash && prefix { format!("{path}/") } else { path }, prefix, usage, effect)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn the_folded_table_says_what_the_rules_say(
            paths in prop::collection::vec(any_rule(), 0..8),
            list in prop::option::of(prop::collection::vec(any_rule(), 0..4)),
            path in any_path(),
        ) {
            let exec = list.map(|l| ExecList { others: Effect::Deny, allow: l.into_iter().map(|r| r.pattern).collect() });
            let rules = Rules { paths, exec, ..Rules::default() };
            let folded = fold(&rules, Path::new("/nonexistent"));
            prop_assert_eq!(folded.lookup(&path), effects(&rules, &path));
        }
    }
}
