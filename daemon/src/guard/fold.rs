//! From rules to the kernel's tables.
//!
//! The kernel looks a path up in a longest-prefix-match trie and sees one entry only, so an entry holds the strictest of
//! what all shorter ones around it say: [`fold`] makes it so. An exact path ends with its NUL in the kernel's table, so that it is no
//! prefix of a longer name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use failsafe_ebpf::abi::{Effects, RULE_PATH, effect, key_what, run_flag};
use failsafe_matchers::keys::{ANY_MINOR, Devices, Inode, Names, NumberKey};
use failsafe_matchers::rules::{Effect, NOTHING, PathPattern, Rules, named, stricter, with_list};

/// Rules in the form the kernel holds them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FoldedRules {
    /// Paths as bytes (an exact one ends with its NUL), each with all that applies to it.
    pub paths: BTreeMap<Vec<u8>, Effects>,
    /// Inodes, devices, families.
    pub numbers: BTreeMap<NumberKey, Effects>,
    /// Names of the inodes.
    pub names: Names,
    /// Names of the devices, so that who reads events need not ask the file system for them.
    pub devices: Devices,
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

    /// Flags of `fs_run_cfg` that say which tables have entries, and for which uses of a file: a hook of another use does no look-up.
    #[must_use]
    pub fn flags(&self) -> u32 {
        let has = |what: &[u32]| self.numbers.keys().any(|(w, _, _)| what.contains(w));
        let of_files = |(what, _, _): &NumberKey| [key_what::INODE, key_what::TREE].contains(what);
        let numbers = self.numbers.iter().filter(|(key, _)| of_files(key)).map(|(_, effects)| effects);
        let all = self.paths.values().chain(numbers).fold(NOTHING, |all, effects| stricter(all, *effects));
        let bits = [
            (!self.paths.is_empty(), run_flag::PATHS),
            (has(&[key_what::INODE]), run_flag::INODES),
            (has(&[key_what::TREE]), run_flag::TREES),
            (has(&[key_what::FAMILY]), run_flag::FAMILIES),
            (all.exec != effect::NONE, run_flag::EXECS),
            (all.map != effect::NONE, run_flag::MAPS),
            (all.read.max(all.write) != effect::NONE, run_flag::OPENS),
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
        let inode = Inode { number: meta.ino(), device: device_of(meta) };
        self.raise((what, inode.number, inode.device), effects);
        self.names.entry(inode).or_default().insert(path.to_owned());
    }
}

/// How much of the file system making the tables may look at.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Entries of folders and files, over all rules of a policy.
    pub files: u64,
    /// Time, over all rules of a policy.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { files: 200_000, time: Duration::from_secs(5) }
    }
}

/// The rules of a policy name more files than may be looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the policy's rules on paths need more than {limit} to be looked at ({looked_at} files so far, the last in {folder}): \
     name fewer paths, or folders with fewer files"
)]
pub struct TooManyFiles {
    limit: String,
    looked_at: u64,
    folder: String,
}

/// Looks at files, within limits. Each folder is listed once, however many patterns name it.
struct Sight<'a> {
    root: &'a Path,
    limits: Limits,
    until: Instant,
    looked_at: u64,
    /// Devices by folder and depth.
    listed: BTreeMap<(String, u32), Vec<String>>,
}

impl<'a> Sight<'a> {
    fn new(root: &'a Path, limits: Limits) -> Self {
        Self { root, limits, until: Instant::now() + limits.time, looked_at: 0, listed: BTreeMap::new() }
    }

    fn count(&mut self, folder: &str) -> Result<(), TooManyFiles> {
        self.looked_at += 1;
        let limit = if self.looked_at > self.limits.files {
            format!("{} files", self.limits.files)
        } else if self.looked_at.is_multiple_of(64) && Instant::now() >= self.until {
            format!("{} ms", self.limits.time.as_millis())
        } else {
            return Ok(());
        };
        Err(TooManyFiles { limit, looked_at: self.looked_at, folder: folder.to_owned() })
    }

    fn meta(&mut self, path: &str) -> Result<Option<fs::Metadata>, TooManyFiles> {
        self.count(path)?;
        Ok(fs::metadata(below(self.root, path)).ok())
    }

    /// The devices in a folder, and in those below it to this depth.
    fn devices(&mut self, folder: &str, depth: u32) -> Result<Vec<String>, TooManyFiles> {
        if let Some(found) = self.listed.get(&(folder.to_owned(), depth)) {
            return Ok(found.clone());
        }
        let mut found = Vec::new();
        let entries = fs::read_dir(below(self.root, &format!("{folder}/"))).into_iter().flatten().flatten();
        for entry in entries {
            self.count(folder)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = format!("{folder}/{name}");
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth > 0 => found.extend(self.devices(&path, depth - 1)?),
                // A plain file needs no further look; a link may lead to a device.
                Ok(kind) if kind.is_file() || kind.is_dir() => {}
                _ if self.meta(&path)?.is_some_and(|m| is_device(&m)) => found.push(path),
                _ => {}
            }
        }
        self.listed.insert((folder.to_owned(), depth), found.clone());
        Ok(found)
    }
}

/// Makes the kernel's tables. Paths that exist on `root` (`/`, but for tests) are entered by inode too, and devices by
/// their numbers: a hard link, a bind mount or another node is the same thing.
///
/// # Errors
/// More files than `limits` allow.
pub fn fold(rules: &Rules, root: &Path, limits: Limits) -> Result<FoldedRules, TooManyFiles> {
    let mut out = FoldedRules::default();
    let mut sight = Sight::new(root, limits);
    let mut patterns: Vec<&PathPattern> = rules.paths.iter().map(|r| &r.pattern).collect();
    let everything = PathPattern { path: String::new(), prefix: true };
    if let Some(list) = &rules.exec {
        patterns.push(&everything);
        patterns.extend(&list.allow);
    }
    for pattern in patterns {
        sight.count(&pattern.path)?;
        let covers = |other: &PathPattern| {
            if pattern.prefix && !other.prefix { false } else { other.fits(&pattern.path) }
        };
        let listed = rules.exec.as_ref().map(|list| (list.others, list.allow.iter().any(covers)));
        out.paths.insert(pattern.bytes(), with_list(named(rules, covers), listed));
    }
    let mut files = BTreeSet::new();
    for rule in &rules.paths {
        files.extend(existing(&rule.pattern, &mut sight)?);
    }
    for file in files {
        enter_file(rules, &file, &mut sight, &mut out)?;
    }
    for rule in &rules.paths {
        if rule.pattern.prefix && rule.pattern.path.starts_with("/dev/") {
            enter_kinds(rules, &rule.pattern, &mut sight, &mut out)?;
        }
        if rule.pattern.prefix && rule.pattern.path.ends_with('/') {
            enter_folder(rules, &rule.pattern.path, &mut sight, &mut out)?;
        }
    }
    let one = |e: Effect| Effects { read: e.byte(), ..NOTHING };
    for (family, e) in &rules.families {
        out.raise((key_what::FAMILY, u64::from(*family), 0), one(*e));
    }
    Ok(out)
}

/// The files that a pattern names now. A prefix is followed to devices only, in its own folder and those below it: what else lies
/// there is told by its path.
fn existing(pattern: &PathPattern, sight: &mut Sight<'_>) -> Result<Vec<String>, TooManyFiles> {
    if !pattern.prefix {
        return Ok(vec![pattern.path.clone()]);
    }
    let Some((folder, _)) = pattern.path.rsplit_once('/') else { return Ok(Vec::new()) };
    let mut found = sight.devices(folder, if folder.starts_with("/dev") { 1 } else { 0 })?;
    found.retain(|path| pattern.fits(path));
    Ok(found)
}

fn below(root: &Path, path: &str) -> std::path::PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn is_device(meta: &fs::Metadata) -> bool {
    meta.file_type().is_char_device() || meta.file_type().is_block_device()
}

/// A pattern that fits all devices of a kind (as `/dev/nvidia*` does) is held for those that are plugged in later, too.
fn enter_kinds(
    rules: &Rules,
    pattern: &PathPattern,
    sight: &mut Sight<'_>,
    out: &mut FoldedRules,
) -> Result<(), TooManyFiles> {
    let mut all: Vec<(u64, bool)> = Vec::new();
    for path in sight.devices("/dev", 1)? {
        if let Some(meta) = sight.meta(&path)? {
            all.push((device_key(&meta).1, pattern.fits(&path)));
        }
    }
    let whole = |kind: &u64| all.iter().filter(|(other, _)| other == kind).all(|(_, fits)| *fits);
    let kinds: BTreeSet<u64> = all.iter().map(|(kind, _)| *kind).filter(whole).collect();
    let effects = named(rules, |other| other.prefix && other.fits(&pattern.path));
    for kind in kinds {
        out.raise((key_what::DEVICE, kind, ANY_MINOR), effects);
        // The pattern itself stands for the name of a device that comes later: it fits whatever the pattern fits.
        out.devices.entry((kind, ANY_MINOR)).or_default().insert(pattern.path.clone());
        // The kernel asks for the one device first, and then no further.
        let one = (key_what::DEVICE, kind, 0)..(key_what::DEVICE, kind, ANY_MINOR);
        out.numbers.range_mut(one).for_each(|(_, held)| *held = stricter(*held, effects));
    }
    Ok(())
}

fn enter_file(rules: &Rules, path: &str, sight: &mut Sight<'_>, out: &mut FoldedRules) -> Result<(), TooManyFiles> {
    let Some(meta) = sight.meta(path)? else { return Ok(()) };
    let effects = named(rules, |pattern| pattern.fits(path));
    if is_device(&meta) {
        let key = device_key(&meta);
        out.raise(key, effects);
        out.devices.entry((key.1, key.2)).or_default().insert(path.to_owned());
    } else {
        out.raise_inode(key_what::INODE, &meta, path, effects);
    }
    Ok(())
}

/// Whatever name or mount leads below the folder: what is said of all paths that begin with it, its `/` included.
fn enter_folder(rules: &Rules, path: &str, sight: &mut Sight<'_>, out: &mut FoldedRules) -> Result<(), TooManyFiles> {
    let Some(meta) = sight.meta(path)? else { return Ok(()) };
    let effects = named(rules, |pattern| pattern.prefix && pattern.fits(path));
    out.raise_inode(key_what::TREE, &meta, path, effects);
    out.raise((key_what::TREE, 0, u64::MAX), effects);
    Ok(())
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
    use proptest::prelude::*;

    use super::*;
    use failsafe_matchers::rules::{ExecList, PathRule, Use, effects};

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
        let folded = fold(&rules, Path::new("/nonexistent"), Limits::default()).unwrap();
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
        let folded = fold(&rules, Path::new("/nonexistent"), Limits::default()).unwrap();
        let exec = |path: &str| folded.lookup(path).exec;
        assert_eq!([exec("/usr/bin/python3"), exec("/bin/sh"), exec("/bin/shred"), exec("/tmp/x")], [0, 0, 2, 2]);
        assert_eq!(folded.lookup("/usr/bin/gdb"), Effects { exec: 3, map: 3, ..NOTHING });
        assert_eq!(folded.lookup("/tmp/lib.so").map, 0);
    }

    #[test]
    fn a_policy_that_names_more_files_or_takes_longer_than_the_limit_is_refused_with_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let many = dir.path().join("many");
        std::fs::create_dir(&many).unwrap();
        for n in 0..200 {
            std::fs::write(many.join(format!("f{n}")), "").unwrap();
        }
        let paths = (0..200).map(|n| rule(&format!("/many/f{n}"), false, Use::Read, Effect::Deny)).collect();
        let rules = Rules { paths, ..Rules::default() };
        let fold = |files, time| fold(&rules, dir.path(), Limits { files, time });
        let minute = Duration::from_secs(60);
        assert!(fold(10_000, minute).is_ok());
        let refused = fold(10, minute).unwrap_err().to_string();
        assert!(refused.contains("10 files") && refused.contains("/many"), "{refused}");
        let refused = fold(10_000, Duration::ZERO).unwrap_err().to_string();
        assert!(refused.contains("0 ms") && refused.contains("/many"), "{refused}");
    }

    #[test]
    fn files_that_exist_are_entered_by_inode_and_devices_by_number() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/secret"), "x").unwrap();
        let rules = Rules { paths: vec![rule("/etc/secret", false, Use::Read, Effect::Deny)], ..Rules::default() };
        let folded = fold(&rules, dir.path(), Limits::default()).unwrap();
        let meta = std::fs::metadata(dir.path().join("etc/secret")).unwrap();
        assert!(folded.numbers.keys().any(|(what, ino, _)| *what == key_what::INODE && *ino == meta.ino()));
        assert_eq!(folded.flags(), run_flag::PATHS | run_flag::INODES | run_flag::OPENS);
        let null = Rules { paths: vec![rule("/dev/nul", true, Use::Read, Effect::Deny)], ..Rules::default() };
        let folded = fold(&null, Path::new("/"), Limits::default()).unwrap();
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
        let folded = fold(&rules, Path::new("/"), Limits::default()).unwrap();
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
        let folded = fold(&rules, dir.path(), Limits::default()).unwrap();
        let meta = std::fs::metadata(dir.path().join("data/out")).unwrap();
        let both = Effects { write: effect::DENY, read: effect::OBSERVE, ..NOTHING };
        assert_eq!(folded.numbers[&(key_what::TREE, meta.ino(), device_of(&meta))], both);
        assert_eq!(
            folded.names[&Inode { number: meta.ino(), device: device_of(&meta) }],
            BTreeSet::from(["/data/out/".to_owned()])
        );
        assert_eq!(folded.numbers[&(key_what::TREE, 0, u64::MAX)], both, "of those that exist the strictest");
        assert_eq!(folded.flags(), run_flag::PATHS | run_flag::TREES | run_flag::OPENS);
    }

    #[test]
    fn only_a_rule_on_opens_makes_opens_cost_and_only_one_on_programs_makes_programs_cost() {
        let uses = run_flag::EXECS | run_flag::MAPS | run_flag::OPENS;
        let flags = |rules: &Rules| fold(rules, Path::new("/"), Limits::default()).unwrap().flags() & uses;
        // A path that is there, so that inodes are entered, and a folder.
        for (path, prefix) in
            [("/proc/version", false), ("/proc/", true), ("/nonexistent", false), ("/dev/null", false)]
        {
            let of = |usage| Rules { paths: vec![rule(path, prefix, usage, Effect::Observe)], ..Rules::default() };
            assert_eq!(flags(&of(Use::Exec)), run_flag::EXECS | run_flag::MAPS, "{path}");
            assert_eq!(flags(&of(Use::Read)), run_flag::OPENS, "{path}");
            assert_eq!(flags(&of(Use::Write)), run_flag::OPENS, "{path}");
        }
        let allow = vec![PathPattern { path: "/usr/bin/".into(), prefix: true }];
        let list = Rules { exec: Some(ExecList { others: Effect::Deny, allow }), ..Rules::default() };
        assert_eq!(flags(&list), run_flag::EXECS, "a list of programs is none of libraries");
        assert_eq!(flags(&Rules { families: vec![(40, Effect::Deny)], ..Rules::default() }), 0);
        assert_eq!(flags(&Rules::default()), 0);
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
            let folded = fold(&rules, Path::new("/nonexistent"), Limits::default()).unwrap();
            prop_assert_eq!(folded.lookup(&path), effects(&rules, &path));
        }
    }
}
