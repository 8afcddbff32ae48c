//! The kernel's matchers against their twins in user space: the programs themselves, loaded and run by BPF_PROG_TEST_RUN on what
//! proptest makes up. Source: Documentation/bpf/bpf_prog_run.rst.
//!
//! The object is the daemon's own with programs that call its matchers ([`parity::OBJECT`]); tables are written by the code that
//! writes the daemon's. Nothing is attached to anything. A machine that cannot do it (not root, no BTF) says so and skips.

mod calls;
mod devices;
mod names;
mod network;
mod packets;
mod paths;
mod room;

use std::cell::RefCell;

use aya::maps::Array;
use aya::programs::{CgroupSkb, Program, SchedClassifier, TestRun, TestRunOptions};
use failsafe_ebpf::abi;
use failsafe_matchers::tables::Tables;
use parity::at;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};

use super::object::Object;
use crate::skip;

/// Key of the run that programs judge by; no cgroup has it.
const RUN: u64 = u64::MAX;

/// The value of the map `parity`.
type Asked = [u8; at::END];

/// The object's maps, and the programs of a test, in the kernel.
struct Kernel {
    object: Object,
    tables: u32,
}

impl Kernel {
    /// `None`, with the reason printed, on a machine that cannot run these tests.
    fn load(programs: &[&str]) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            skip::skip("needs root");
            return None;
        }
        if !std::path::Path::new("/sys/kernel/btf/vmlinux").exists() {
            skip::skip("the kernel has no BTF");
            return None;
        }
        let mut object = Object::only_maps(parity::OBJECT).unwrap();
        for name in programs {
            match object.program_mut(name).unwrap() {
                Program::SchedClassifier(program) => program.load().unwrap(),
                Program::CgroupSkb(program) => program.load().unwrap(),
                other => panic!("{name} is of a type that these tests do not run: {other:?}"),
            }
        }
        Some(Self { object, tables: 0 })
    }

    /// Puts tables in the maps under a number of their own, and takes them out again when `judge` is done with it.
    fn under<T>(&mut self, tables: &Tables, judge: impl FnOnce(&mut Self, u32) -> T) -> T {
        self.tables += 1;
        let number = self.tables;
        self.object.write_table(number, tables).unwrap();
        let result = judge(self, number);
        self.object.drop_table(number, tables).unwrap();
        result
    }

    /// Runs a program on what is asked; what is returned is the value as it is then.
    fn ask(&mut self, program: &str, asked: &Asked) -> Asked {
        let mut map: Array<_, Asked> = Array::try_from(self.object.map_mut("parity").unwrap()).unwrap();
        map.set(0, asked, 0).unwrap();
        let classifier: &mut SchedClassifier = self.object.program_mut(program).unwrap().try_into().unwrap();
        // The kernel takes no packet shorter than its headers.
        let options = TestRunOptions { data_in: Some(&[0; 64]), ..TestRunOptions::default() };
        assert_eq!(classifier.test_run(options).unwrap().return_value, 0, "{program} was not asked well");
        let map: Array<_, Asked> = Array::try_from(self.object.map("parity").unwrap()).unwrap();
        map.get(&0, 0).unwrap()
    }

    /// What a program on the run's cgroup says of a packet, which begins with its network header.
    fn packet(&mut self, program: &str, packet: &[u8]) -> Option<u32> {
        let skb: &mut CgroupSkb = self.object.program_mut(program).unwrap().try_into().unwrap();
        let ether_type: [u8; 2] = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
        let frame = [&[0; 12][..], &ether_type[..], packet].concat();
        let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() };
        skb.test_run(options).ok().map(|result| result.return_value)
    }

    fn latch(&self) -> u32 {
        let latches: Array<_, u32> = Array::try_from(self.object.map("latches").unwrap()).unwrap();
        latches.get(&0, 0).unwrap()
    }
}

fn answer(asked: &Asked) -> u64 {
    u64::from_ne_bytes(std::array::from_fn(|i| asked[at::ANSWER + i]))
}

fn put(asked: &mut Asked, at: usize, bytes: &[u8]) {
    asked[at..at + bytes.len()].copy_from_slice(bytes);
}

/// The run in slot 0, of which nothing is said.
fn run_of(root_id: u64) -> abi::RunCfg {
    abi::RunCfg {
        slot: 0,
        epoch: 1,
        flags: 0,
        table: 0,
        watch: 0,
        deny: 0,
        stop: 0,
        root_id,
        dead_after_ns: 0,
        max_procs: 0,
        max_forks: 0,
        netns: 0,
        modes: 0,
    }
}

/// Holds what `property` says for so many cases, each of which has the kernel to itself.
fn check<S: Strategy>(
    kernel: Kernel,
    cases: u32,
    strategy: &S,
    property: impl Fn(&mut Kernel, S::Value) -> Result<(), TestCaseError>,
) {
    let kernel = RefCell::new(kernel);
    let mut runner = TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) });
    if let Err(failed) = runner.run(strategy, |case| property(&mut kernel.borrow_mut(), case)) {
        panic!("{failed}");
    }
}
