//! Slots of runs that come and go at the same time.

use super::bench::{TestCgroup, ready};
use failsafe_core::{RunId, policy::parse::parse};
use failsafed::guard::kernel::{Home, Kernel};
use failsafed::guard::{Config, Ebpf, Holder};

const TIMES: u32 = 40;

/// A slot that was given on before its last occupant was forgotten would leave the new one refused, or without its events.
#[test]
fn a_slot_is_given_on_only_when_nothing_of_its_last_run_is_left() {
    let Some(bench) = ready("slots") else { return };
    let ebpf = Ebpf::load(&Config {
        ring_bytes: 1 << 16,
        max_runs: 8,
        bpffs: None,
        instance: "slots".into(),
        lsm: true,
        ..Config::default()
    })
    .unwrap();
    let kernel = Kernel::new(Ok(ebpf));
    let policy = parse("plain.toml", "[policy]\nname = \"plain\"\nowner = \"tests\"\n").unwrap();
    let cgroups = ["a", "b", "c"].map(|name| bench.cgroup(name));
    let come_and_go = |cgroup: &TestCgroup, n: u128| {
        for time in 0..TIMES {
            let run = RunId(uuid::Uuid::from_u128(n << 64 | u128::from(time)));
            let level = usize::try_from(cgroup.level()).unwrap();
            let home = Home { cgroup: &cgroup.path, cgroup_id: cgroup.id, level, holder: Holder::Administrator };
            let placed = kernel.add(run, kernel.compile(&policy).unwrap(), home, None).unwrap();
            for _ in 0..20 {
                assert_eq!(kernel.run_of(placed.slot, placed.epoch), Some(run), "time {time}");
                std::thread::yield_now();
            }
            kernel.remove(placed.slot);
            assert_eq!(kernel.run_of(placed.slot, placed.epoch), None, "time {time}");
        }
    };
    std::thread::scope(|scope| {
        let work: Vec<_> = (1..).zip(&cgroups).map(|(n, cgroup)| scope.spawn(move || come_and_go(cgroup, n))).collect();
        work.into_iter().for_each(|work| work.join().unwrap());
    });
}
