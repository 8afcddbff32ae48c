//! What entries say of a device, whatever it is called.

use std::fs;
use std::path::Path;

use failsafe_ebpf::abi::Effects;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use proptest::prelude::*;

use super::super::files::{Limits, NodeFiles};
use super::{Asked, Kernel, Tables, answer, at, check, put};
use crate::skip;
use failsafe_matchers::fold::fold;
use failsafe_matchers::rules::{Effect, PathPattern, PathRule, Rules, Use, effects};

/// Kinds of the kernel's keys, `BPF_DEVCG_DEV_*` of linux/bpf.h.
const BLOCK: u64 = 1;
const CHARACTER: u64 = 2;
/// Accesses, `BPF_DEVCG_ACC_*`.
const MAKE: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;

/// Name below `/dev`, kind, major and minor number. The last is another name of the first.
const NODES: [(&str, u64, u32, u32); 9] = [
    ("nvidia0", CHARACTER, 195, 0),
    ("nvidia1", CHARACTER, 195, 1),
    ("nvidiactl", CHARACTER, 195, 255),
    ("mem", CHARACTER, 1, 1),
    ("null", CHARACTER, 1, 3),
    ("sda", BLOCK, 8, 0),
    ("infiniband/uverbs0", CHARACTER, 231, 192),
    ("infiniband/uverbs1", CHARACTER, 231, 193),
    ("alias", CHARACTER, 195, 0),
];
const NOTHING: Effects = Effects { exec: 0, map: 0, read: 0, write: 0 };
const PREFIXES: [&str; 5] = ["/dev/", "/dev/n", "/dev/nvidia", "/dev/infiniband/", "/dev/s"];
/// Kind, major, minor: of every node, and of some that are not there yet.
const LATER: [(u64, u32, u32); 4] = [(CHARACTER, 195, 7), (CHARACTER, 231, 0), (BLOCK, 8, 1), (CHARACTER, 7, 7)];

/// `false`, with the reason printed, where no device can be made.
fn make(root: &Path) -> bool {
    fs::create_dir_all(root.join("dev/infiniband")).unwrap();
    NODES.iter().all(|(name, kind, major, minor)| {
        let flag = if *kind == BLOCK { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
        let device = makedev(u64::from(*major), u64::from(*minor));
        let made = mknod(&root.join("dev").join(name), flag, Mode::S_IRUSR, device);
        made.inspect_err(|error| skip::skip(&format!("cannot make a device: {error}"))).is_ok()
    })
}

fn any_rule() -> impl Strategy<Value = PathRule> {
    let name = prop::sample::select(&NODES[..]).prop_map(|(name, ..)| (format!("/dev/{name}"), false));
    let prefix = prop::sample::select(&PREFIXES[..]).prop_map(|path| (path.to_owned(), true));
    let usage = prop_oneof![Just(Use::Read), Just(Use::Write)];
    let effect = prop_oneof![Just(Effect::Observe), Just(Effect::Deny), Just(Effect::Stop)];
    (prop_oneof![name, prefix], usage, effect).prop_map(|((path, prefix), usage, effect)| PathRule {
        pattern: PathPattern { path, prefix },
        usage,
        effect,
    })
}

/// What the rules say of a device. One that is there: all that is said of any of its names. One that is not: what is said of all of
/// its kind.
fn expected_effects(rules: &Rules, kind: u64, major: u32, minor: u32) -> Effects {
    let paths = |same: &dyn Fn(u32) -> bool| -> Vec<String> {
        let of_kind = NODES.iter().filter(|(_, k, m, n)| (*k, *m) == (kind, major) && same(*n));
        of_kind.map(|(name, ..)| format!("/dev/{name}")).collect()
    };
    let (own, all) = (paths(&|n| n == minor), paths(&|_| true));
    if own.is_empty() {
        let whole = |rule: &&PathRule| rule.pattern.prefix && all.iter().all(|path| rule.pattern.fits(path));
        let paths = rules.paths.iter().filter(whole).cloned().collect();
        return all.first().map_or(NOTHING, |path| effects(&Rules { paths, ..Rules::default() }, path));
    }
    own.iter().map(|path| effects(rules, path)).fold(NOTHING, |a, b| Effects {
        read: a.read.max(b.read),
        write: a.write.max(b.write),
        ..a
    })
}

#[test]
fn the_kernel_finds_of_a_device_what_the_rules_say_of_its_names() {
    let Some(kernel) = Kernel::load(&["parity_device"]) else { return };
    let root = tempfile::tempdir().unwrap();
    if !make(root.path()) {
        return;
    }
    check(kernel, 600, &prop::collection::vec(any_rule(), 0..8), |kernel, paths| {
        let rules = Rules { paths, ..Rules::default() };
        let tables = Tables {
            rules: fold(&rules, &mut NodeFiles::new(root.path(), Limits::default())).unwrap(),
            ..Tables::default()
        };
        kernel.under(&tables, |kernel, table| {
            let there = NODES.iter().map(|(_, kind, major, minor)| (*kind, *major, *minor));
            for (kind, major, minor) in there.chain(LATER) {
                let Effects { read, write, .. } = expected_effects(&rules, kind, major, minor);
                for access in [READ, WRITE, READ | WRITE, MAKE] {
                    let mut asked: Asked = [0; at::END];
                    put(&mut asked, at::TABLE, &table.to_ne_bytes());
                    put(&mut asked, at::NUMBER, &(kind << 32 | u64::from(major)).to_ne_bytes());
                    put(&mut asked, at::ADDR, &minor.to_ne_bytes());
                    put(&mut asked, at::OP, &[access]);
                    let reads = if access & (READ | MAKE) != 0 { read } else { 0 };
                    let writes = if access & (WRITE | MAKE) != 0 { write } else { 0 };
                    let got = answer(&kernel.ask("parity_device", &asked));
                    prop_assert_eq!(
                        got,
                        u64::from(reads.max(writes)),
                        "{}:{} {} of {:?}",
                        major,
                        minor,
                        access,
                        &rules.paths
                    );
                }
            }
            Ok(())
        })
    });
}
