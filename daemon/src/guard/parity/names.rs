//! Names in the allow-list: what a run may reach once a name server has answered it.
//!
//! A case is an allow-list of names and some answers as they lie on the wire; the program on the run's cgroup reads them, and then
//! the kernel judges destinations. The twin reads the same bytes by RFC 1035 and asks each host of the list.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use failsafe_ebpf::abi::{run_flag, verdict};
use proptest::prelude::*;
use proptest::sample::Index;

use super::network::{Bounds, destination};
use super::{Kernel, Tables, answer, at, check, put};
use failsafe_matchers::egress::{Protocol, TCP, UDP};
use failsafe_matchers::hosts::{HostRule, fold_hosts};

const SERVER4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);
const SERVER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x53);
const NAMES: [&str; 6] = ["example.org", "a.example.org", "b.a.example.org", "xample.org", "org", "badexample.org"];
/// What the program reads of an answer at most.
const READ: usize = 4095;
/// The longest message of these tests: BPF_PROG_TEST_RUN takes no packet longer than a page. `answers` of the kernel's tests has
/// longer ones.
const MOST: usize = 3000;
/// Names as long are not read, a dot before each label counted.
const NAME: usize = 256;

fn addresses() -> [IpAddr; 6] {
    let four = Ipv4Addr::new(192, 0, 2, 1);
    [
        four.into(),
        Ipv4Addr::new(192, 0, 2, 2).into(),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2).into(),
        // Not what a record of that form means.
        four.to_ipv6_mapped().into(),
        // The first four bytes are those of an IPv4 address.
        Ipv6Addr::new(0xc000, 0x0201, 0, 0, 0, 0, 0, 0).into(),
    ]
}

/// One answer of a server, and how it comes.
#[derive(Clone, Debug)]
struct Answer {
    name: String,
    records: Vec<Record>,
    /// Of the header: the second pair of bytes, and how many questions it says there are.
    flags: u16,
    questions: u16,
    from: Ipv4Addr,
    port: u16,
    way: Way,
    cut: Option<Index>,
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Udp4,
    Udp6,
    /// With what is added to the length that stands before the message, and words of options.
    Tcp4(u16, u8),
}

#[derive(Clone, Debug)]
enum Record {
    Address(IpAddr),
    /// An alias, which says nothing.
    Alias,
    /// Its owner is written out, not pointed at.
    Named(IpAddr),
    /// Its owner is so long, and in part written out.
    Long(IpAddr, u8),
    /// Its owner begins as neither a label nor a pointer does.
    Reserved(IpAddr),
    /// Its size is not that of its type.
    Odd(IpAddr),
}

impl Record {
    fn write(&self, out: &mut Vec<u8>) {
        let (kind, mut data): (u16, Vec<u8>) = match self {
            Record::Alias => (5, b"\x01x\xc0\x0c".to_vec()),
            Record::Address(to) | Record::Named(to) | Record::Long(to, _) | Record::Reserved(to) | Record::Odd(to) => {
                match to {
                    IpAddr::V4(a) => (1, a.octets().to_vec()),
                    IpAddr::V6(a) => (28, a.octets().to_vec()),
                }
            }
        };
        if let Record::Odd(_) = self {
            data.push(0);
        }
        out.extend(match self {
            Record::Named(_) => b"\x01x\x00".to_vec(),
            Record::Long(_, labels) => {
                [[&[63][..], &[b'x'; 63]].concat().repeat(usize::from(*labels)), b"\xc0\x0c".to_vec()].concat()
            }
            Record::Reserved(_) => b"\x40\x0c".to_vec(),
            _ => b"\xc0\x0c".to_vec(),
        });
        out.extend(kind.to_be_bytes());
        out.extend([0, 1, 0, 0, 0, 60]);
        out.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        out.extend(data);
    }
}

impl Answer {
    fn message(&self) -> Vec<u8> {
        let mut out = vec![7, 7];
        out.extend(self.flags.to_be_bytes());
        out.extend(self.questions.to_be_bytes());
        out.extend(u16::try_from(self.records.len()).unwrap().to_be_bytes());
        out.extend([0; 4]);
        for label in self.name.split('.') {
            out.push(u8::try_from(label.len()).unwrap());
            out.extend(label.bytes());
        }
        out.extend([0, 0, 1, 0, 1]);
        self.records.iter().for_each(|record| record.write(&mut out));
        out
    }

    fn packet(&self) -> Vec<u8> {
        let message = self.message();
        let mut transport = self.port.to_be_bytes().to_vec();
        transport.extend([0x9c, 0x40]);
        match self.way {
            Way::Udp4 | Way::Udp6 => transport.extend([0; 4]),
            Way::Tcp4(_, options) => {
                transport.resize(20 + usize::from(options) * 4, 0);
                transport[12] = (5 + options) << 4;
                transport[13] = 0x10;
            }
        }
        if let Way::Tcp4(more, _) = self.way {
            transport.extend((u16::try_from(message.len()).unwrap() + more).to_be_bytes());
        }
        transport.extend(message);
        let mut packet = match self.way {
            Way::Udp6 => {
                let mut head = vec![0; 40];
                (head[0], head[6], head[7]) = (0x60, UDP, 64);
                head[8..24].copy_from_slice(&SERVER6.octets());
                head
            }
            Way::Udp4 | Way::Tcp4(..) => {
                let mut head = vec![0; 20];
                (head[0], head[8], head[9]) = (0x45, 64, if let Way::Udp4 = self.way { UDP } else { TCP });
                head[12..16].copy_from_slice(&self.from.octets());
                head
            }
        };
        let headers = packet.len();
        packet.extend(transport);
        if let Some(cut) = self.cut {
            packet.truncate(headers + cut.index(packet.len() - headers));
        }
        packet
    }
}

/// What an answer on the wire says: a name, and its addresses. `None`: it is not believed, or says nothing.
fn read(packet: &[u8]) -> Option<(String, Vec<IpAddr>)> {
    let (head, proto, server) = if packet[0] >> 4 == 4 {
        (20, packet[9], packet[12..16] == SERVER4.octets())
    } else {
        (40, packet[6], packet[8..24] == SERVER6.octets())
    };
    let rest = &packet[head..];
    let port = u16::from_be_bytes(*rest.first_chunk()?);
    if rest.len() < 4 || port != 53 || !server {
        return None;
    }
    let message = if proto == UDP {
        rest.get(8..)?
    } else {
        let behind = rest.get(usize::from(rest.get(12)? >> 4) * 4..)?;
        let (length, message) = behind.split_first_chunk::<2>()?;
        (usize::from(u16::from_be_bytes(*length)) == message.len()).then_some(message)?
    };
    let message = &message[..message.len().min(READ)];
    let word = |at: usize| Some(u16::from_be_bytes(*message.get(at..)?.first_chunk()?));
    // RFC 1035, 4.1.1: a response, without an error, to one question.
    if message.len() < 12 || word(2)? & 0x800f != 0x8000 || word(4)? != 1 {
        return None;
    }
    let (mut name, mut at) = (String::new(), 12);
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        if length > 63 {
            return None;
        }
        let label = message.get(at..at + length)?;
        name = name + "." + &String::from_utf8(label.to_ascii_lowercase()).ok()?;
        at += length;
    }
    at += 4;
    let mut addresses = Vec::new();
    for _ in 0..word(6)? {
        let Some(behind) = owner(message, at) else { break };
        let (Some(kind), Some(size)) = (word(behind), word(behind + 8)) else { break };
        let Some(data) = message.get(behind + 10..behind + 10 + usize::from(size)) else { break };
        if let (1, Ok(four)) = (kind, <[u8; 4]>::try_from(data)) {
            addresses.push(four.into());
        }
        if let (28, Ok(six)) = (kind, <[u8; 16]>::try_from(data)) {
            addresses.push(six.into());
        }
        at = behind + 10 + usize::from(size);
    }
    (name.len() < NAME).then_some((name.strip_prefix('.')?.to_owned(), addresses))
}

/// Where a record's owner ends: written out, or in part, with a pointer for the rest (RFC 1035, 4.1.4).
fn owner(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            0xc0.. => return Some(at + 2),
            length if length < 64 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

/// Whether the list lets the name be reached there.
fn allows(host: &HostRule, name: &str, port: u16, proto: u8) -> bool {
    let named = if host.below { name.ends_with(&format!(".{}", host.name)) } else { name == host.name };
    let ports = host.ports.is_empty() || host.ports.iter().any(|range| range.contains(&port));
    named && ports && host.protocol.is_none_or(|wanted| wanted.number() == proto)
}

fn any_ports() -> impl Strategy<Value = Vec<RangeInclusive<u16>>> {
    prop::collection::vec((0u16..8, 0u16..8).prop_map(|(low, more)| low..=low + more), 0..3)
}

prop_compose! {
    fn any_host()(
        name in prop::sample::select(&NAMES[..]),
        below in any::<bool>(),
        ports in any_ports(),
        protocol in prop_oneof![Just(None), Just(Some(Protocol::Tcp)), Just(Some(Protocol::Udp))],
    ) -> HostRule {
        HostRule { name: name.to_owned(), below, ports, protocol }
    }
}

fn any_record() -> impl Strategy<Value = Record> {
    let to = || prop::sample::select(addresses().to_vec());
    prop_oneof![
        6 => to().prop_map(Record::Address),
        2 => Just(Record::Alias),
        2 => to().prop_map(Record::Named),
        1 => (to(), 0u8..4).prop_map(|(to, labels)| Record::Long(to, labels)),
        1 => to().prop_map(Record::Odd),
    ]
}

/// One of the names or below it, in letters of either case; or too long to be read.
fn any_name() -> impl Strategy<Value = String> {
    let known = (prop::sample::select(&NAMES[..]), prop::option::weighted(0.3, "[a-z-]{1,63}"), any::<u64>());
    let known = known.prop_map(|(name, below, upper)| {
        let name = below.map_or_else(|| name.to_owned(), |below| format!("{below}.{name}"));
        let case = |(n, c): (usize, char)| if upper >> (n % 64) & 1 == 1 { c.to_ascii_uppercase() } else { c };
        name.chars().enumerate().map(case).collect::<String>()
    });
    prop_oneof![8 => known, 1 => (60usize..64).prop_map(|n| format!("{0}.{0}.{0}.{0}.example.org", "a".repeat(n)))]
}

prop_compose! {
    fn any_answer()(
        name in any_name(),
        records in prop::collection::vec(any_record(), 0..40),
        reserved in prop::option::weighted(0.2, (any::<Index>(), prop::sample::select(addresses().to_vec()))),
        flags in prop_oneof![8 => Just(0x8180u16), 1 => Just(0x0100), 1 => Just(0x8183)],
        questions in prop_oneof![9 => Just(1u16), 1 => Just(0), 1 => Just(2)],
        from in prop_oneof![9 => Just(SERVER4), 1 => Just(Ipv4Addr::new(192, 0, 2, 53))],
        port in prop_oneof![9 => Just(53u16), 1 => Just(5353)],
        way in prop_oneof![
            4 => Just(Way::Udp4),
            2 => Just(Way::Udp6),
            2 => (0u8..3).prop_map(|options| Way::Tcp4(0, options)),
            1 => (1u16..3).prop_map(|more| Way::Tcp4(more, 0)),
        ],
        cut in prop::option::weighted(0.2, any::<Index>()),
    ) -> Answer {
        let mut records = records;
        // An odd owner ends the reading: some answers have one.
        if let Some((at, to)) = reserved {
            records.insert(at.index(records.len() + 1), Record::Reserved(to));
        }
        let mut answer = Answer { name, records, flags, questions, from, port, way, cut };
        while answer.message().len() > MOST {
            answer.records.pop();
        }
        answer
    }
}

#[test]
fn a_run_may_reach_what_its_name_servers_have_answered_for_a_listed_name_and_nothing_else() {
    let Some(mut kernel) = Kernel::load(&["parity_answer", "parity_judge"]) else { return };
    let Some(cgroup) = kernel.own_cgroup() else { return };
    let bounds = Bounds::list(Vec::new());
    let answers = prop::collection::vec(any_answer(), 1..4);
    let asked = prop::collection::vec((0u16..16, prop_oneof![Just(TCP), Just(UDP)]), 1..6);
    check(
        kernel,
        1500,
        &(prop::collection::vec(any_host(), 0..6), answers, asked),
        |kernel, (hosts, answers, asked)| {
            let tables = Tables {
                hosts: fold_hosts(&hosts, &[], &[SERVER4.into(), SERVER6.into()]).unwrap(),
                ..bounds.tables()
            };
            kernel.under(&tables, |kernel, table| {
                let mut cfg = bounds.cfg(cgroup.id(), table);
                cfg.flags |= run_flag::DNS;
                kernel.object.write_run(cfg).unwrap();
                let mut known: Vec<(String, IpAddr)> = Vec::new();
                for packet in answers.iter().map(Answer::packet) {
                    prop_assert_eq!(kernel.packet("parity_answer", &packet), Some(1), "what comes in is let in");
                    if let Some((name, addresses)) = read(&packet) {
                        known.extend(addresses.into_iter().map(|to| (name.clone(), to)));
                    }
                }
                for (to, (port, proto)) in addresses().into_iter().flat_map(|to| asked.iter().map(move |it| (to, *it)))
                {
                    let mut question = destination(to, port, proto);
                    put(&mut question, at::RUN, &cgroup.id().to_ne_bytes());
                    let got = answer(&kernel.ask("parity_judge", &question)) as u8;
                    // A destination is its canonical address, a record what it says.
                    let names = known.iter().filter(|(_, of)| *of == to.to_canonical()).map(|(name, _)| name);
                    let reached = names.flat_map(|name| hosts.iter().map(move |host| (host, name)));
                    let expected = reached.into_iter().any(|(host, name)| allows(host, name, port, proto));
                    prop_assert_eq!(got == verdict::ALLOWED, expected, "{}:{} by {}, of {:?}", to, port, proto, known);
                }
                Ok(())
            })
        },
    );
}
