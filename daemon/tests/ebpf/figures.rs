//! Measurements, ignored in ordinary runs.

use std::time::Duration;

use failsafe_matchers::calls::WatchedCall;
use failsafe_matchers::egress::EgressPolicy;
use failsafed::sensors::ebpf::What;

use super::agent::Agent;
use super::bench::{enforce, ready, resident_kib};

/// Figures, not a test: `cargo nextest run -p failsafed --run-ignored only figures --no-capture`.
#[test]
#[ignore = "measures"]
fn figures() {
    let before = resident_kib();
    let Some(mut bench) = ready("figures") else { return };
    println!("resident: {before} KiB before load, {} KiB after", resident_kib());
    let run = bench.add("a", &enforce(&[]));
    println!("resident with a run: {} KiB", resident_kib());
    let mut agent = Agent::start(&run.cgroup);
    bench.drain();
    let mut delays: Vec<u64> = Vec::new();
    for _ in 0..300 {
        assert_eq!(agent.ask("tcp 127.0.0.1:9"), "EPERM");
        let at = bench.until(|e| matches!(e.what, What::Net(_))).last().unwrap().at_ns;
        delays.push(bench.taken_ns() - at);
        // Let the reader go to sleep, as it would be.
        std::thread::sleep(Duration::from_millis(2));
    }
    delays.sort_unstable();
    println!("event to callback: p50 {} us, p99 {} us", delays[150] / 1000, delays[297] / 1000);

    for (what, policy) in
        [("refused, with event", enforce(&[])), ("refused, observing nothing", EgressPolicy::default())]
    {
        bench.ebpf.set_egress(run.slot, &policy).unwrap();
        println!("connect, {what}: {} ns", agent.ask("time tcp 127.0.0.1:9"));
    }
    println!("connect, outside: {} ns", Agent::start_outside().ask("time tcp 127.0.0.1:9"));
    bench.ebpf.set_egress(run.slot, &enforce(&[("127.0.0.0/8", 9)])).unwrap();
    println!("udp sendto, enforced: {} ns", agent.ask("time udp 127.0.0.1:9"));
    bench.ebpf.set_egress(run.slot, &EgressPolicy::default()).unwrap();
    println!("udp sendto, unbounded run: {} ns", agent.ask("time udp 127.0.0.1:9"));
    println!("udp sendto, outside: {} ns", Agent::start_outside().ask("time udp 127.0.0.1:9"));
    println!("getppid, no sys_enter: {} ns", agent.ask("time getppid"));
    let mask = WatchedCall::from_name("keyctl").unwrap().mask();
    bench.ebpf.set_syscalls(run.slot, mask).unwrap();
    println!("watching by {:?}", bench.ebpf.require_syscalls(mask, false).unwrap());
    println!("getppid, sys_enter: {} ns", agent.ask("time getppid"));
    println!("getppid outside, sys_enter: {} ns", Agent::start_outside().ask("time getppid"));
    println!("keyctl watched: {} ns", agent.ask("time keyctl"));
    println!("keyctl outside: {} ns", Agent::start_outside().ask("time keyctl"));
    println!("{:?}", bench.counters(&run));
}
