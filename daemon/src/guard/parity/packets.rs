//! What the programs on a run's cgroup make of packets, as they lie on the wire.
//!
//! The kernel gives the packet of a test a socket in the caller's cgroup, so the test moves itself into one of its own.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use aya::maps::Array;
use failsafe_ebpf::abi::{self, run_flag, verdict};
use proptest::prelude::*;

use super::network::{Bounds, any_bounds, class_of_longest};
use super::{Kernel, Tables, check};
use crate::platform::bpf::Pod;
use crate::{platform::clock, skip};
use failsafe_matchers::egress::{EgressMode, EgressRule, TCP, UDP};
use failsafe_matchers::hosts::BudgetRule;
use failsafe_matchers::strategies::{any_addr, any_rule};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// A cgroup with this process in it; dropped, the process is where it was.
pub(super) struct OwnCgroup {
    path: PathBuf,
    before: PathBuf,
    level: u8,
}

impl OwnCgroup {
    /// `None`, with the reason printed, where there is none to be had.
    fn enter() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = mounts.lines().find(|l| l.contains(" - cgroup2 ")).and_then(|l| l.split(' ').nth(4));
        let Some(root) = root.map(PathBuf::from) else {
            skip::skip("no cgroup v2 is mounted");
            return None;
        };
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|l| l.strip_prefix("0::/")).unwrap().to_owned();
        let path = root.join(format!("failsafe-parity-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let cgroup = Self { path, before: root.join(own), level: 1 };
        fs::write(cgroup.path.join("cgroup.procs"), "0").unwrap();
        Some(cgroup)
    }

    pub fn id(&self) -> u64 {
        fs::metadata(&self.path).unwrap().ino()
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.before.join("cgroup.procs"), "0");
        let _ = fs::remove_dir(&self.path);
    }
}

impl Kernel {
    /// A cgroup with this process in it, whose level is one that runs are on.
    pub(super) fn own_cgroup(&mut self) -> Option<OwnCgroup> {
        let cgroup = OwnCgroup::enter()?;
        let mut next = [0; abi::LEVELS];
        next[0] = cgroup.level;
        let mut control: Array<_, Pod<abi::Control>> =
            Array::try_from(self.object.map_mut("control").unwrap()).unwrap();
        control.set(0, Pod(abi::Control { next }), 0).unwrap();
        Some(cgroup)
    }
}

/// What a packet says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PacketHeader {
    to: IpAddr,
    proto: u8,
    /// 0 where it has none.
    port: u16,
    /// Of TCP; 0 where they cannot be read.
    tcp_flags: u8,
    /// Its destination may be another, or cannot be told.
    unclear: bool,
}

/// Reads a packet as RFC 791, 8200, 9293 and 768 have it: the twin of `parse` in `packet.h`.
fn read(packet: &[u8]) -> PacketHeader {
    let mut header = PacketHeader { to: IpAddr::from([0; 4]), proto: 0, port: 0, tcp_flags: 0, unclear: true };
    let rest = if packet.first().is_some_and(|b| b >> 4 == 4) {
        let Some(fixed) = packet.first_chunk::<20>() else { return header };
        header.to = Ipv4Addr::from_octets([fixed[16], fixed[17], fixed[18], fixed[19]]).into();
        header.proto = fixed[9];
        let words = usize::from(fixed[0] & 0xf);
        header.unclear = words != 5;
        if u16::from_be_bytes([fixed[6], fixed[7]]) & 0x1fff != 0 {
            return header;
        }
        packet.get(words * 4..)
    } else {
        let Some(fixed) = packet.first_chunk::<40>() else { return header };
        header.to = IpAddr::from(Ipv6Addr::from_octets(std::array::from_fn(|i| fixed[24 + i])));
        header.unclear = false;
        match extensions(&mut header, fixed[6], &packet[40..]) {
            Chain::Ends(rest) => Some(rest),
            Chain::Broken => None,
            Chain::NoPorts => return header,
        }
    };
    let Some(rest) = rest else {
        header.unclear |= matches!(header.proto, TCP | UDP) || header.unclear;
        return header;
    };
    if !matches!(header.proto, TCP | UDP) {
        return header;
    }
    match rest.first_chunk::<4>() {
        Some([_, _, high, low]) => header.port = u16::from_be_bytes([*high, *low]),
        None => header.unclear = true,
    }
    if header.proto == TCP && !rest.is_empty() {
        header.tcp_flags = rest.get(13).copied().unwrap_or(0);
    }
    header
}

enum Chain<'a> {
    Ends(&'a [u8]),
    Broken,
    NoPorts,
}

/// Follows at most four extension headers.
fn extensions<'a>(header: &mut PacketHeader, first: u8, mut rest: &'a [u8]) -> Chain<'a> {
    header.proto = first;
    for left in (0..=4).rev() {
        if !matches!(header.proto, 0 | 43 | 44 | 60) {
            return Chain::Ends(rest);
        }
        // Where it goes on to: RFC 8200, 4.4.
        header.unclear |= header.proto == 43;
        let Some(&[next, words, high, low]) = rest.first_chunk::<4>().filter(|_| left > 0) else {
            header.unclear = true;
            return Chain::Broken;
        };
        let (fragment, kind) = (u16::from_be_bytes([high, low]) >> 3, header.proto);
        header.proto = next;
        if kind == 44 && fragment != 0 {
            return Chain::NoPorts;
        }
        let length = if kind == 44 { 8 } else { (usize::from(words) + 1) * 8 };
        rest = rest.get(length..).unwrap_or(&[]);
    }
    Chain::Broken
}

prop_compose! {
    /// What stands behind the network header.
    fn any_transport()(port in 0u16..18, flags in prop_oneof![Just(SYN), Just(SYN | ACK), Just(ACK), any::<u8>()], room in 0usize..40)
        -> Vec<u8> {
        let mut bytes = vec![0; 20 + room];
        bytes[1] = 80;
        bytes[2..4].copy_from_slice(&port.to_be_bytes());
        bytes[13] = flags;
        bytes
    }
}

fn any_protocol() -> impl Strategy<Value = u8> {
    prop_oneof![3 => Just(TCP), 3 => Just(UDP), 1 => Just(1), 1 => any::<u8>()]
}

/// 0 most of the time; in units of eight bytes.
fn any_offset() -> impl Strategy<Value = u16> {
    prop_oneof![5 => Just(0u16), 1 => 1u16..0x1fff]
}

prop_compose! {
    fn v4()(
        to in any_addr().prop_map(|a| if let IpAddr::V4(a) = a.to_canonical() { a } else { Ipv4Addr::LOCALHOST }),
        options in prop_oneof![4 => Just(5u8), 1 => 0u8..16],
        offset in any_offset(),
        more in any::<bool>(),
        proto in any_protocol(),
        transport in any_transport(),
    ) -> Vec<u8> {
        let mut bytes = vec![0; 20 + usize::from(options.saturating_sub(5)) * 4];
        bytes[0] = 0x40 | options;
        bytes[6..8].copy_from_slice(&(offset | if more { 0x2000 } else { 0 }).to_be_bytes());
        bytes[8] = 64;
        bytes[9] = proto;
        bytes[16..20].copy_from_slice(&to.octets());
        bytes.extend(transport);
        bytes
    }
}

prop_compose! {
    fn v6()(
        to in any_addr().prop_map(|a| if let IpAddr::V4(a) = a { a.to_ipv6_mapped() } else if let IpAddr::V6(a) = a { a } else { unreachable!() }),
        chain in prop_oneof![
            3 => Just(Vec::new()),
            2 => prop::collection::vec((prop_oneof![Just(0u8), Just(43), Just(44), Just(60)], any_offset(), 0u8..3), 1..7),
        ],
        proto in any_protocol(),
        transport in any_transport(),
    ) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        bytes[0] = 0x60;
        bytes[6] = chain.first().map_or(proto, |(kind, ..)| *kind);
        bytes[7] = 64;
        bytes[24..40].copy_from_slice(&to.octets());
        for (i, (kind, offset, words)) in chain.iter().enumerate() {
            let next = chain.get(i + 1).map_or(proto, |(kind, ..)| *kind);
            let mut header = vec![0; if *kind == 44 { 8 } else { 8 + usize::from(*words) * 8 }];
            header[0] = next;
            if *kind == 44 {
                header[2..4].copy_from_slice(&(offset << 3).to_be_bytes());
            } else {
                header[1] = *words;
            }
            bytes.extend(header);
        }
        bytes.extend(transport);
        bytes
    }
}

/// Whole, or cut anywhere.
fn any_packet() -> impl Strategy<Value = Vec<u8>> {
    let cut = prop_oneof![3 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)];
    (prop_oneof![v4(), v6()], cut).prop_map(|(mut bytes, cut)| {
        if let Some(cut) = cut {
            bytes.truncate(1 + cut.index(bytes.len()));
        }
        bytes
    })
}

impl Bounds {
    /// The twin of `packet_verdict`: replies of TCP are let through where nothing tells who opened the connection.
    fn packet(&self, header: &PacketHeader, flags: u32) -> u8 {
        let begins = header.tcp_flags & (SYN | ACK) == SYN;
        let replies = flags & run_flag::NO_REPLIES == 0;
        let answers = flags & run_flag::SYN_ONLY != 0 || header.tcp_flags & SYN != 0;
        if !self.latched && header.tcp_flags != 0 && !header.unclear && !begins && replies && answers {
            return verdict::ALLOWED;
        }
        self.judge(header.to, header.port, header.proto, header.unclear).verdict
    }
}

const ALLOW: u32 = 1;

#[test]
fn a_packet_is_judged_by_what_stands_in_its_headers() {
    let Some(mut kernel) = Kernel::load(&["fs_egress"]) else { return };
    let Some(cgroup) = kernel.own_cgroup() else { return };
    let budgets = prop::collection::vec((any_rule().prop_map(|rule| rule.net), 0u64..400), 0..3);
    let flags = prop::sample::select(vec![0, run_flag::NO_REPLIES, run_flag::SYN_ONLY]);
    let strategy = (any_bounds(), budgets, flags, prop::collection::vec(any_packet(), 1..16));
    check(kernel, 1500, &strategy, |kernel, (bounds, budgets, flags, packets)| {
        let mut nets = std::collections::BTreeSet::new();
        let budgets: Vec<_> = budgets
            .into_iter()
            .filter(|(net, _)| nets.insert(net.trunc()))
            .map(|(net, bytes)| BudgetRule { to: vec![net], bytes, rate: 0, stop: false })
            .collect();
        let tables = Tables { budgets: budgets.clone(), ..bounds.tables() };
        kernel.set_latch(bounds.latched);
        kernel.object.reset_budgets(0).unwrap();
        kernel.object.write_budgets(0, &budgets).unwrap();
        kernel.under(&tables, |kernel, table| {
            let mut cfg = bounds.cfg(cgroup.id(), table);
            cfg.flags |= flags | if budgets.is_empty() { 0 } else { run_flag::BUDGETS };
            kernel.object.write_run(cfg).unwrap();
            let mut spent = vec![0u64; budgets.len()];
            let mut latched = bounds.latched;
            for packet in &packets {
                let header = read(packet);
                let now = Bounds { latched, ..bounds.clone() };
                let mut expected = now.packet(&header, flags);
                latched |= expected == verdict::DENIED
                    && now.judge(header.to, header.port, header.proto, header.unclear).latched;
                // Newer kernels run no program on what is shorter than its network header.
                let Some(got) = kernel.packet("fs_egress", packet) else {
                    prop_assert!(packet.len() < if packet[0] >> 4 == 4 { 20 } else { 40 }, "{:02x?}", packet);
                    latched = now.latched;
                    continue;
                };
                if expected != verdict::DENIED {
                    let length = u64::try_from(packet.len()).unwrap();
                    expected = budget(&budgets, &mut spent, &header, length, bounds.mode == EgressMode::Enforce);
                }
                prop_assert_eq!(got == ALLOW, expected != verdict::DENIED, "{:?} of {:02x?}", header, packet);
                prop_assert_eq!(kernel.latch() != 0, latched, "{:?}", header);
            }
            Ok(())
        })
    });
}

/// What the budget of the packet's destination leaves of it.
fn budget(budgets: &[BudgetRule], spent: &mut [u64], header: &PacketHeader, length: u64, enforced: bool) -> u8 {
    let Some(class) = usize::try_from(class_of_longest(budgets, header.to)).unwrap().checked_sub(1) else {
        return verdict::ALLOWED;
    };
    let bound = budgets[class].bytes;
    if bound != 0 && spent[class] + length > bound && enforced {
        return verdict::DENIED;
    }
    spent[class] += length;
    verdict::ALLOWED
}

#[test]
fn no_run_is_bounded_by_what_another_cgroup_sends() {
    let Some(mut kernel) = Kernel::load(&["fs_egress"]) else { return };
    let Some(cgroup) = kernel.own_cgroup() else { return };
    let bounds = Bounds::list(Vec::new());
    let mut packet = vec![0; 40];
    packet[0] = 0x45;
    packet[9] = UDP;
    let other: abi::RunCfg = bounds.cfg(cgroup.id() + 1, 1);
    kernel.object.write_run(other).unwrap();
    assert_eq!(kernel.packet("fs_egress", &packet), Some(ALLOW));
    kernel.object.write_run(bounds.cfg(cgroup.id(), 1)).unwrap();
    assert_eq!(kernel.packet("fs_egress", &packet), Some(0));
}

/// How far ahead of its time a packet may be, see `budget.h`; nanoseconds.
const BURST: u64 = 100_000_000;

/// The instant at which all that was sent would have been due: no earlier than `least`, no later than `most`, as the packets' own
/// times are known to an interval only. ITU-T I.371, virtual scheduling.
struct Due {
    least: u64,
    most: u64,
}

#[test]
fn a_rate_lets_a_packet_through_while_what_was_sent_is_due_within_the_burst() {
    let Some(mut kernel) = Kernel::load(&["fs_egress"]) else { return };
    let Some(cgroup) = kernel.own_cgroup() else { return };
    let bounds =
        Bounds::list(vec![EgressRule { net: "0.0.0.0/0".parse().unwrap(), ports: Vec::new(), protocol: None }]);
    // A burst holds some packets and not all of them; what they take to send gives some of it back.
    let strategy = (20_000u64..2_000_000, prop::collection::vec(40usize..1_400, 1..200));
    let seen = std::cell::Cell::new((0, 0));
    check(kernel, 60, &strategy, |kernel, (rate, sizes)| {
        let budgets = [BudgetRule { to: vec!["0.0.0.0/0".parse().unwrap()], bytes: 0, rate, stop: false }];
        kernel.set_latch(false);
        kernel.object.reset_budgets(0).unwrap();
        kernel.object.write_budgets(0, &budgets).unwrap();
        let tables = Tables { budgets: budgets.to_vec(), ..bounds.tables() };
        kernel.under(&tables, |kernel, table| {
            let mut cfg = bounds.cfg(cgroup.id(), table);
            cfg.flags |= run_flag::BUDGETS;
            kernel.object.write_run(cfg).unwrap();
            let mut due = Due { least: 0, most: 0 };
            for size in sizes {
                let mut packet = vec![0; size];
                (packet[0], packet[9]) = (0x45, UDP);
                let before = clock::monotonic_ns();
                let passed = kernel.packet("fs_egress", &packet) == Some(ALLOW);
                let after = clock::monotonic_ns();
                let (passes, fails) = seen.get();
                if due.most <= before + BURST {
                    prop_assert!(passed, "{} bytes at {} B/s", size, rate);
                    seen.set((passes + 1, fails));
                } else if due.least > after + BURST {
                    prop_assert!(!passed, "{} bytes at {} B/s", size, rate);
                    seen.set((passes, fails + 1));
                }
                if passed {
                    let takes = size as u64 * 1_000_000_000 / rate;
                    due = Due { least: due.least.max(before) + takes, most: due.most.max(after) + takes };
                }
            }
            Ok(())
        })
    });
    let (passes, fails) = seen.get();
    assert!(passes > 100 && fails > 100, "{passes} packets had to pass and {fails} had to fail: nothing was tried");
}
