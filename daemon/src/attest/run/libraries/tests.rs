//! Libraries of hostile processes, from fixtures and from this process.

use super::*;
use std::{fs, os::fd::AsRawFd, time::Duration};

const LIMITS: Limits = Limits {
    processes: 8,
    map: 1 << 20,
    maps: 2 << 20,
    libraries: 8,
    texts: 1 << 20,
    hashed_file: 1 << 20,
    hashed: 1 << 20,
    time: Duration::from_secs(60),
};

/// A `/proc` with one process, number 7: each line of its map, and what `map_files` has for it.
struct Fixture(tempfile::TempDir);

impl Fixture {
    fn new(lines: &str) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("7/map_files")).unwrap();
        let stat = "7 (t) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5 0 1 0 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n";
        let (statm, cgroup) = (("statm", "1 1 0 0 0 0 0\n"), ("cgroup", "0::/run\n"));
        let status = ("status", "Name:\tt\n");
        for (name, text) in [("stat", stat), statm, cgroup, status, ("cmdline", "t\0"), ("maps", lines)] {
            fs::write(dir.path().join("7").join(name), text).unwrap();
        }
        Fixture(dir)
    }

    fn file(&self, range: &str) -> PathBuf {
        self.0.path().join("7/map_files").join(range)
    }

    fn facts(&self, limits: Limits) -> Vec<Fact> {
        let processes = [Process::open(self.0.path(), 7, &|_| true).unwrap().unwrap()];
        let mut out = Vec::new();
        facts(&processes, None, (limits, Instant::now() + limits.time), &mut |fact| out.push(fact));
        out
    }
}

fn line(range: &str, inode: u64, path: &str) -> String {
    format!("{range} r-xp 00000000 08:01 {inode}                      {path}\n")
}

fn value(facts: &[Fact], path: &str) -> Result<Json, Missing> {
    facts.iter().find(|fact| fact.path == path).unwrap_or_else(|| panic!("no {path}: {facts:?}")).value.clone()
}

#[test]
fn only_files_that_are_mapped_for_execution_are_libraries() {
    for (text, expected) in [
        ("1-2 r-xp 0 08:01 5 /lib/a.so", Some(("/lib/a.so", 5))),
        ("1-2 r-xp 0 08:01 5 /lib/a b.so (deleted)", Some(("/lib/a b.so", 5))),
        ("1-2 r-xp 0 00:01 9 /memfd:x (deleted)", Some(("/memfd:x", 9))),
        ("1-2 r--p 0 08:01 5 /lib/a.so", None),
        ("1-2 r-xp 0 00:00 0 [vdso]", None),
        ("1-2 r-xp 0 00:00 0", None),
        ("../1-2 r-xp 0 08:01 5 /lib/a.so", None),
        ("1-2 r-xp 0 0801 5 /lib/a.so", None),
        ("", None),
    ] {
        let found = parse(text.as_bytes());
        let found = found.as_ref().map(|(_, mapped)| (mapped.path.to_str().unwrap(), mapped.inode));
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn a_deleted_library_is_read_through_its_mapping_and_one_without_a_build_id_is_hashed() {
    let map = line("1000-2000", 5, "/lib/x.so (deleted)") + &line("2000-3000", 6, "/other/x.so");
    let fixture = Fixture::new(&map);
    fs::write(fixture.file("1000-2000"), "one").unwrap();
    fs::write(fixture.file("2000-3000"), "two").unwrap();
    let facts = fixture.facts(LIMITS);
    let hash = |text: &str| Json::Text(format!("sha256:{}", hex::encode(Sha256::digest(text))));
    let mut both = vec![hash("one"), hash("two")];
    both.sort();
    assert_eq!(value(&facts, "run/library/x.so"), Ok(Json::List(both)), "two files of one name");
    assert_eq!(value(&facts, "run/library"), Ok(Json::from("complete")));
}

/// The kernel pads addresses in `maps` and does not pad them in `map_files`. A program that is not position-independent is mapped at
/// 0x400000, such as `python3` of Debian.
#[test]
fn a_file_that_is_mapped_at_a_low_address_is_read() {
    let fixture = Fixture::new(&line("0041f000-006d2000", 5, "/usr/bin/python3.11"));
    fs::write(fixture.file("41f000-6d2000"), "one").unwrap();
    let hash = Json::Text(format!("sha256:{}", hex::encode(Sha256::digest("one"))));
    assert_eq!(value(&fixture.facts(LIMITS), "run/library/python3.11"), Ok(hash));
}

#[test]
fn a_fifo_or_a_mapping_that_is_gone_has_no_value_and_is_not_waited_for() {
    let fixture = Fixture::new(&(line("1000-2000", 5, "/lib/fifo.so") + &line("2000-3000", 6, "/lib/gone.so")));
    nix::unistd::mkfifo(&fixture.file("1000-2000"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let facts = fixture.facts(LIMITS);
    assert!(value(&facts, "run/library/fifo.so").unwrap_err().reason.contains("not a regular file"));
    assert!(value(&facts, "run/library/gone.so").is_err());
}

#[test]
fn a_map_with_a_hundred_thousand_lines_is_cut_and_the_group_is_marked() {
    let map: String =
        (0..100_000).map(|n| line(&format!("{n:x}000-{:x}000", n + 1), n + 1, &format!("/l/{n}.so"))).collect();
    let fixture = Fixture::new(&map);
    let group = value(&fixture.facts(LIMITS), "run/library").unwrap_err();
    assert!(group.reason.contains("memory map of process 7 is larger than the 1048576 bytes"), "{group:?}");
    let wide = Limits { map: 1 << 30, maps: 1 << 30, ..LIMITS };
    let facts = fixture.facts(wide);
    assert!(value(&facts, "run/library").unwrap_err().reason.contains("more than 8 different files"));
    assert_eq!(facts.iter().filter(|fact| fact.path.starts_with("run/library/")).count(), 8);
    let short = fixture.facts(Limits { texts: 20, ..wide });
    assert!(value(&short, "run/library").unwrap_err().reason.contains("more than 20 bytes"));
    assert_eq!(short.iter().filter(|fact| fact.path.starts_with("run/library/")).count(), 2);
}

#[test]
fn what_is_too_large_to_hash_or_late_has_no_value() {
    let fixture = Fixture::new(&(line("1000-2000", 5, "/lib/a.so") + &line("2000-3000", 6, "/lib/b.so")));
    fs::write(fixture.file("1000-2000"), vec![0; 3_000]).unwrap();
    fs::write(fixture.file("2000-3000"), vec![1; 3_000]).unwrap();
    let small = fixture.facts(Limits { hashed_file: 2_000, ..LIMITS });
    assert!(value(&small, "run/library/a.so").unwrap_err().reason.contains("more than 2000 bytes"));
    let together = fixture.facts(Limits { hashed: 4_000, ..LIMITS });
    assert!(value(&together, "run/library/a.so").is_ok());
    assert!(value(&together, "run/library/b.so").unwrap_err().reason.contains("are used up"));
    let late = fixture.facts(Limits { time: Duration::ZERO, ..LIMITS });
    assert!(value(&late, "run/library/a.so").unwrap_err().reason.contains("within 0ns"));
    assert!(value(&late, "run/library").unwrap_err().reason.contains("within 0ns"));
}

/// Without the right to follow `map_files`, a file of the same name counts only if it is the mapped one.
#[test]
fn a_name_that_leads_to_another_file_is_not_taken_for_the_mapped_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lib.so");
    fs::write(&path, "the mapped one").unwrap();
    let about = fs::metadata(&path).unwrap();
    let mapped = Mapped { device: (major(about.dev()), minor(about.dev())), inode: about.ino(), path: path.clone() };
    let kept = fs::File::open(&path).unwrap();
    let own = Folder::open(format!("/proc/{}", std::process::id()).into()).unwrap().unwrap();
    assert!(by_name(&own, &mapped).is_ok());
    fs::rename(&path, dir.path().join("kept")).unwrap();
    let gone = by_name(&own, &mapped).unwrap_err();
    fs::write(&path, "another").unwrap();
    assert_eq!(by_name(&own, &mapped).unwrap_err(), gone, "whether there is a file is not told");
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(by_name(&own, &mapped).unwrap_err(), gone);
    // A link of /proc is not followed, even to the mapped file.
    let magic = format!("/proc/self/fd/{}", kept.as_raw_fd());
    assert_eq!(by_name(&own, &Mapped { path: magic.into(), ..mapped }).unwrap_err(), gone);
}
