//! The node's files, as the tables of a policy need them: looked at within limits, for a policy may name many and a file system may
//! hang.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use failsafe_matchers::fold::{Files, NodeFile};
use failsafe_matchers::keys::Inode;
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
    "the policy's rules on paths need more than {limit} to be looked at (the last was {rule}): name fewer paths, or folders with \
     fewer files"
)]
pub struct TooManyFiles {
    limit: String,
    /// As the policy has it: names that were found on the node are not for whoever wrote the policy.
    rule: String,
}

/// Looks at files, within limits. Each folder is listed once, however many patterns name it.
pub(super) struct NodeFiles<'a> {
    root: &'a Path,
    limits: Limits,
    until: Instant,
    looked_at: u64,
    /// Paths of the policy, and the one that is looked at now. Only these are in errors: what else is found is not for whoever wrote the
    /// policy, who may not look there.
    named: BTreeSet<String>,
    rule: String,
    /// Devices by folder and depth.
    listed: BTreeMap<(String, u32), Vec<String>>,
}

impl<'a> NodeFiles<'a> {
    pub fn new(root: &'a Path, limits: Limits) -> Self {
        let (named, rule) = (BTreeSet::new(), String::new());
        Self { root, limits, until: Instant::now() + limits.time, looked_at: 0, named, rule, listed: BTreeMap::new() }
    }
}

impl Files for NodeFiles<'_> {
    type Error = TooManyFiles;

    fn count(&mut self, path: &str) -> Result<(), TooManyFiles> {
        self.named.insert(path.to_owned());
        self.rule = path.to_owned();
        self.one_more()
    }

    fn look(&mut self, path: &str) -> Result<Option<NodeFile>, TooManyFiles> {
        if self.named.contains(path) {
            self.rule = path.to_owned();
        }
        self.one_more()?;
        let meta = fs::metadata(below(self.root, path)).ok();
        Ok(meta.map(|meta| NodeFile { inode: inode_of(&meta), device: device_key(&meta) }))
    }

    fn devices(&mut self, folder: &str, depth: u32) -> Result<Vec<String>, TooManyFiles> {
        self.rule = format!("{folder}/");
        self.devices_below(folder, depth)
    }
}

impl NodeFiles<'_> {
    fn one_more(&mut self) -> Result<(), TooManyFiles> {
        self.looked_at += 1;
        let limit = if self.looked_at > self.limits.files {
            format!("{} files", self.limits.files)
        } else if self.looked_at.is_multiple_of(64) && Instant::now() >= self.until {
            format!("{} ms", self.limits.time.as_millis())
        } else {
            return Ok(());
        };
        Err(TooManyFiles { limit, rule: self.rule.clone() })
    }

    fn devices_below(&mut self, folder: &str, depth: u32) -> Result<Vec<String>, TooManyFiles> {
        if let Some(found) = self.listed.get(&(folder.to_owned(), depth)) {
            return Ok(found.clone());
        }
        let mut found = Vec::new();
        let entries = fs::read_dir(below(self.root, &format!("{folder}/"))).into_iter().flatten().flatten();
        for entry in entries {
            self.one_more()?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = format!("{folder}/{name}");
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth > 0 => found.extend(self.devices_below(&path, depth - 1)?),
                // A plain file needs no further look; a link may lead to a device.
                Ok(kind) if kind.is_file() || kind.is_dir() => {}
                _ if self.look(&path)?.is_some_and(|found| found.device.is_some()) => found.push(path),
                _ => {}
            }
        }
        self.listed.insert((folder.to_owned(), depth), found.clone());
        Ok(found)
    }
}

fn below(root: &Path, path: &str) -> std::path::PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// The device that a file is on, as the kernel has it: 12 bits of major above 20 of minor.
pub(super) fn device_of(meta: &fs::Metadata) -> u64 {
    u64::from(libc::major(meta.dev())) << 20 | u64::from(libc::minor(meta.dev()))
}

fn inode_of(meta: &fs::Metadata) -> Inode {
    Inode { number: meta.ino(), device: device_of(meta) }
}

/// Of a device, its kind and major number, and its minor number.
fn device_key(meta: &fs::Metadata) -> Option<(u64, u64)> {
    let kind: u64 = match meta.file_type() {
        kind if kind.is_block_device() => 1,
        kind if kind.is_char_device() => 2,
        _ => return None,
    };
    let (major, minor) = (libc::major(meta.rdev()), libc::minor(meta.rdev()));
    Some((kind << 32 | u64::from(major), u64::from(minor)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_ebpf::abi::{Effects, effect, key_what, run_flag};
    use failsafe_matchers::fold::{FoldedRules, fold};
    use failsafe_matchers::keys::ANY_MINOR;
    use failsafe_matchers::rules::{Effect, ExecList, NOTHING, PathPattern, Rules, Use};
    use failsafe_matchers::strategies::path_rule;

    fn fold_on(rules: &Rules, root: &Path) -> FoldedRules {
        fold(rules, &mut NodeFiles::new(root, Limits::default())).unwrap()
    }

    #[test]
    fn a_policy_that_names_more_files_or_takes_longer_than_the_limit_is_refused_with_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let many = dir.path().join("many");
        std::fs::create_dir(&many).unwrap();
        for n in 0..200 {
            std::fs::write(many.join(format!("f{n}")), "").unwrap();
        }
        let paths = (0..200).map(|n| path_rule(&format!("/many/f{n}"), false, Use::Read, Effect::Deny)).collect();
        let rules = Rules { paths, ..Rules::default() };
        let fold = |files, time| fold(&rules, &mut NodeFiles::new(dir.path(), Limits { files, time }));
        let minute = Duration::from_secs(60);
        assert!(fold(10_000, minute).is_ok());
        let refused = fold(10, minute).unwrap_err().to_string();
        assert!(refused.contains("10 files") && refused.contains("/many"), "{refused}");
        let refused = fold(10_000, Duration::ZERO).unwrap_err().to_string();
        assert!(refused.contains("0 ms") && refused.contains("/many"), "{refused}");
    }

    #[test]
    fn neither_what_a_run_is_counted_with_nor_an_error_shows_which_files_exist() {
        let dir = tempfile::tempdir().unwrap();
        let rules = Rules {
            paths: vec![
                path_rule("/hidden/key", false, Use::Read, Effect::Deny),
                path_rule("/hidden/same", false, Use::Read, Effect::Deny),
                path_rule("/hidden/", true, Use::Write, Effect::Deny),
                path_rule("/hidden/below/", true, Use::Read, Effect::Deny),
            ],
            families: vec![(40, Effect::Deny)],
            ..Rules::default()
        };
        let counted = || {
            let folded = fold_on(&rules, dir.path());
            (folded.counted_numbers(), folded.numbers.len())
        };
        let (nothing, none) = counted();
        std::fs::create_dir_all(dir.path().join("hidden/below")).unwrap();
        std::fs::write(dir.path().join("hidden/key"), "x").unwrap();
        let (some, entries) = counted();
        std::fs::hard_link(dir.path().join("hidden/key"), dir.path().join("hidden/same")).unwrap();
        let (linked, _) = counted();
        assert!(none < entries && entries <= some, "{none} {entries} {some}");
        assert_eq!((nothing, some), (some, linked), "two files, two folders, all folders, a family");
        // A device of a folder that only root may enter.
        let dev = dir.path().join("hidden/dev-of-root");
        std::os::unix::fs::symlink("/dev/null", &dev).unwrap();
        let few = Limits { files: 5, time: Duration::from_secs(60) };
        let refused = fold(&rules, &mut NodeFiles::new(dir.path(), few)).unwrap_err().to_string();
        assert!(refused.contains("/hidden") && !refused.contains("dev-of-root"), "{refused}");
    }

    #[test]
    fn files_that_exist_are_entered_by_inode_and_devices_by_number() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/secret"), "x").unwrap();
        let rules = Rules { paths: vec![path_rule("/etc/secret", false, Use::Read, Effect::Deny)], ..Rules::default() };
        let folded = fold_on(&rules, dir.path());
        let meta = std::fs::metadata(dir.path().join("etc/secret")).unwrap();
        assert!(folded.numbers.keys().any(|(what, ino, _)| *what == key_what::INODE && *ino == meta.ino()));
        assert_eq!(folded.flags(), run_flag::PATHS | run_flag::INODES | run_flag::OPENS);
        let null = Rules { paths: vec![path_rule("/dev/nul", true, Use::Read, Effect::Deny)], ..Rules::default() };
        let folded = fold_on(&null, Path::new("/"));
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
                path_rule("/dev/", true, Use::Write, Effect::Deny),
                path_rule("/dev/tty", false, Use::Read, Effect::Stop),
            ],
            ..Rules::default()
        };
        let folded = fold_on(&rules, Path::new("/"));
        let held = |minor| folded.numbers.get(&(key_what::DEVICE, 2 << 32 | u64::from(major), minor)).copied();
        assert_eq!(held(ANY_MINOR), Some(Effects { write: effect::DENY, ..NOTHING }));
        assert_eq!(held(0), Some(Effects { write: effect::DENY, read: effect::STOP, ..NOTHING }), "its own and that");
    }

    #[test]
    fn a_folder_that_exists_is_entered_by_inode_with_all_rules_on_what_is_below_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("data/out")).unwrap();
        let rules = Rules {
            paths: vec![
                path_rule("/data/", true, Use::Write, Effect::Deny),
                path_rule("/data/out/", true, Use::Read, Effect::Observe),
                path_rule("/data/out/x", true, Use::Read, Effect::Stop),
                path_rule("/gone/", true, Use::Read, Effect::Stop),
            ],
            ..Rules::default()
        };
        let folded = fold_on(&rules, dir.path());
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
        let flags = |rules: &Rules| fold_on(rules, Path::new("/")).flags() & uses;
        // A path that is there, so that inodes are entered, and a folder.
        for (path, prefix) in
            [("/proc/version", false), ("/proc/", true), ("/nonexistent", false), ("/dev/null", false)]
        {
            let of = |usage| Rules { paths: vec![path_rule(path, prefix, usage, Effect::Observe)], ..Rules::default() };
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
}
