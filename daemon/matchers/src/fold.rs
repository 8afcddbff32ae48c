//! From rules to the kernel's tables.
//!
//! The kernel looks a path up in a longest-prefix-match trie and sees one entry only, so an entry holds the strictest of
//! what all shorter ones around it say: [`fold`] makes it so. An exact path ends with its NUL in the kernel's table, so that it is no
//! prefix of a longer name.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use failsafe_ebpf::abi::{Effects, RULE_PATH, effect, key_what, run_flag};

use crate::keys::{ANY_MINOR, Devices, Inode, Names, NumberKey};
use crate::rules::{Effect, NOTHING, PathPattern, Rules, named, stricter, with_list};

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
    /// Names of files and folders that were looked up, whether or not they exist.
    looked_up: BTreeSet<(u32, String)>,
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

    /// The entries of `numbers` that a run is counted with: as if all files and folders that its policy names existed, each for itself.
    /// So what a user has of the table does not show which files exist.
    #[must_use]
    pub fn counted_numbers(&self) -> usize {
        let by_name = |(what, inode, _): &NumberKey| match *what {
            key_what::INODE => true,
            // The entry for all folders has no inode.
            key_what::TREE => *inode != 0,
            _ => false,
        };
        let others = self.numbers.keys().filter(|key| !by_name(key) && key.0 != key_what::TREE).count();
        let files = self.looked_up.iter().filter(|(what, _)| *what == key_what::INODE).count();
        let folders = self.looked_up.len() - files;
        others + files + folders + usize::from(folders > 0)
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

    fn raise_inode(&mut self, what: u32, inode: Inode, path: &str, effects: Effects) {
        self.raise((what, inode.number, inode.device), effects);
        self.names.entry(inode).or_default().insert(path.to_owned());
    }
}

/// What is at a path of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeFile {
    /// The file or folder.
    pub inode: Inode,
    /// Of a device, the parts of its key: kind and major number, and minor number. See [`crate::keys::device_keys`].
    pub device: Option<(u64, u64)>,
}

/// The files of the node, as far as tables need them. Making tables offline does without: see [`NoFiles`].
pub trait Files {
    /// Why no more may be looked at.
    type Error;

    /// Counts a pattern of the rules, which costs time although nothing is looked at.
    ///
    /// # Errors
    /// No more may be looked at.
    fn count(&mut self, path: &str) -> Result<(), Self::Error>;

    /// What is at a path; `None`: nothing, or nothing that can be looked at.
    ///
    /// # Errors
    /// No more may be looked at.
    fn look(&mut self, path: &str) -> Result<Option<NodeFile>, Self::Error>;

    /// The devices in a folder, and in those below it to this depth.
    ///
    /// # Errors
    /// No more may be looked at.
    fn devices(&mut self, folder: &str, depth: u32) -> Result<Vec<String>, Self::Error>;
}

/// A node without files: rules hold by the names of files only.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFiles;

impl Files for NoFiles {
    type Error = Infallible;

    fn count(&mut self, _: &str) -> Result<(), Infallible> {
        Ok(())
    }

    fn look(&mut self, _: &str) -> Result<Option<NodeFile>, Infallible> {
        Ok(None)
    }

    fn devices(&mut self, _: &str, _: u32) -> Result<Vec<String>, Infallible> {
        Ok(Vec::new())
    }
}

/// Makes the kernel's tables. Paths that exist are entered by inode too, and devices by their numbers: a hard link, a bind mount or
/// another node is the same thing.
///
/// # Errors
/// As [`Files`].
pub fn fold<F: Files>(rules: &Rules, sight: &mut F) -> Result<FoldedRules, F::Error> {
    let mut out = FoldedRules::default();
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
        files.extend(existing(&rule.pattern, sight)?);
    }
    for file in files {
        enter_file(rules, &file, sight, &mut out)?;
    }
    for rule in &rules.paths {
        if rule.pattern.prefix && rule.pattern.path.starts_with("/dev/") {
            enter_kinds(rules, &rule.pattern, sight, &mut out)?;
        }
        if rule.pattern.prefix && rule.pattern.path.ends_with('/') {
            enter_folder(rules, &rule.pattern.path, sight, &mut out)?;
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
fn existing<F: Files>(pattern: &PathPattern, sight: &mut F) -> Result<Vec<String>, F::Error> {
    if !pattern.prefix {
        return Ok(vec![pattern.path.clone()]);
    }
    let Some((folder, _)) = pattern.path.rsplit_once('/') else { return Ok(Vec::new()) };
    let mut found = sight.devices(folder, if folder.starts_with("/dev") { 1 } else { 0 })?;
    found.retain(|path| pattern.fits(path));
    Ok(found)
}

/// A pattern that fits all devices of a kind (as `/dev/nvidia*` does) is held for those that are plugged in later, too.
fn enter_kinds<F: Files>(
    rules: &Rules,
    pattern: &PathPattern,
    sight: &mut F,
    out: &mut FoldedRules,
) -> Result<(), F::Error> {
    let mut all: Vec<(u64, bool)> = Vec::new();
    for path in sight.devices("/dev", 1)? {
        if let Some((kind, _)) = sight.look(&path)?.and_then(|found| found.device) {
            all.push((kind, pattern.fits(&path)));
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

fn enter_file<F: Files>(rules: &Rules, path: &str, sight: &mut F, out: &mut FoldedRules) -> Result<(), F::Error> {
    let found = sight.look(path)?;
    // A device is counted by its number.
    if found.is_none_or(|found| found.device.is_none()) {
        out.looked_up.insert((key_what::INODE, path.to_owned()));
    }
    let Some(found) = found else { return Ok(()) };
    let effects = named(rules, |pattern| pattern.fits(path));
    if let Some((kind, minor)) = found.device {
        out.raise((key_what::DEVICE, kind, minor), effects);
        out.devices.entry((kind, minor)).or_default().insert(path.to_owned());
    } else {
        out.raise_inode(key_what::INODE, found.inode, path, effects);
    }
    Ok(())
}

/// Whatever name or mount leads below the folder: what is said of all paths that begin with it, its `/` included.
fn enter_folder<F: Files>(rules: &Rules, path: &str, sight: &mut F, out: &mut FoldedRules) -> Result<(), F::Error> {
    out.looked_up.insert((key_what::TREE, path.to_owned()));
    let Some(found) = sight.look(path)? else { return Ok(()) };
    let effects = named(rules, |pattern| pattern.prefix && pattern.fits(path));
    out.raise_inode(key_what::TREE, found.inode, path, effects);
    out.raise((key_what::TREE, 0, u64::MAX), effects);
    Ok(())
}

/// The tables of a node without files.
#[must_use]
pub fn offline(rules: &Rules) -> FoldedRules {
    let Ok(folded) = fold(rules, &mut NoFiles);
    folded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rules::{ExecList, Use, effects};
    use crate::strategies::{any_path, any_path_rule, path_rule};

    #[test]
    fn the_longest_entry_holds_all_of_its_rules() {
        let rules = Rules {
            paths: vec![
                path_rule("/data/", true, Use::Write, Effect::Deny),
                path_rule("/data/out/", true, Use::Write, Effect::Observe),
                path_rule("/data/out/key", false, Use::Read, Effect::Stop),
            ],
            ..Rules::default()
        };
        let folded = offline(&rules);
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
            paths: vec![path_rule("/usr/bin/gdb", false, Use::Exec, Effect::Stop)],
            ..Rules::default()
        };
        let folded = offline(&rules);
        let exec = |path: &str| folded.lookup(path).exec;
        assert_eq!([exec("/usr/bin/python3"), exec("/bin/sh"), exec("/bin/shred"), exec("/tmp/x")], [0, 0, 2, 2]);
        assert_eq!(folded.lookup("/usr/bin/gdb"), Effects { exec: 3, map: 3, ..NOTHING });
        assert_eq!(folded.lookup("/tmp/lib.so").map, 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn the_folded_table_decides_as_the_rules_do(
            paths in prop::collection::vec(any_path_rule(), 0..8),
            list in prop::option::of(prop::collection::vec(any_path_rule(), 0..4)),
            path in any_path(),
        ) {
            let exec = list.map(|l| ExecList { others: Effect::Deny, allow: l.into_iter().map(|r| r.pattern).collect() });
            let rules = Rules { paths, exec, ..Rules::default() };
            let folded = offline(&rules);
            prop_assert_eq!(folded.lookup(&path), effects(&rules, &path));
        }
    }
}
