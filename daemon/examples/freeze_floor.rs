//! How much this daemon's verified freeze costs over the bare floor: one write and direct reads of one cgroup.
//!
//! `cargo run -p failsafed --release --example freeze_floor [TRIALS]` prints medians in microseconds, for sleeping
//! and for spinning processes. Trials of both ways alternate, so that noise on the machine meets both.

use std::io::{Read, Seek, Write};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use failsafed::actuators::cgroup::{FreezeOutcome, ThawOutcome, freeze, kill, thaw};
use failsafed::platform::{Cgroup, CgroupRoot};

struct Run {
    cgroup: Cgroup,
    children: Vec<Child>,
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = kill(&self.cgroup, Instant::now() + Duration::from_secs(10));
        for child in &mut self.children {
            let _ = child.wait();
        }
        let _ = self.cgroup.remove_tree();
    }
}

fn main() -> Result<()> {
    let trials: usize = std::env::args().nth(1).map_or(Ok(50), |n| n.parse())?;
    println!("kind      processes  floor_us  freeze_us  ratio  over_us");
    for (kind, script) in [("sleeping", "exec sleep 1000"), ("spinning", "while :; do :; done")] {
        for count in [1, 16, 64, 256] {
            let (floor, ours) = measure(kind, script, count, trials)?;
            let ratio = ours / floor;
            println!("{kind:9} {count:9} {floor:9.1} {ours:10.1} {ratio:6.2} {:8.1}", ours - floor);
        }
    }
    Ok(())
}

/// Medians of the floor and of ours, microseconds.
fn measure(kind: &str, script: &str, count: usize, trials: usize) -> Result<(f64, f64)> {
    let name = format!("failsafe-bench-{}-{kind}-{count}", std::process::id());
    let mut run = Run { cgroup: CgroupRoot::find()?.create(Path::new(&name))?, children: Vec::new() };
    for _ in 0..count {
        let child = Command::new("sh")
            .arg("-c")
            .arg(format!("echo $$ > \"$1/cgroup.procs\" || exit 1; {script}"))
            .args(["workload".as_ref(), run.cgroup.path()])
            .spawn()?;
        run.children.push(child);
    }
    let soon = || Instant::now() + Duration::from_secs(10);
    while run.cgroup.procs()?.len() < count {
        std::thread::sleep(Duration::from_millis(5));
    }
    let (mut floor, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..trials {
        floor.push(bare(run.cgroup.path())?);
        released(&thaw(&run.cgroup, &[], soon()))?;
        std::thread::sleep(Duration::from_millis(5));
        let began = Instant::now();
        let outcome = freeze(&run.cgroup, soon());
        ours.push(began.elapsed());
        ensure!(matches!(outcome, FreezeOutcome::Frozen { processes, .. } if processes == count as u64));
        released(&thaw(&run.cgroup, &[], soon()))?;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok((median(floor), median(ours)))
}

fn released(outcome: &ThawOutcome) -> Result<()> {
    ensure!(matches!(outcome, ThawOutcome::Thawed { .. }), "{outcome:?}");
    Ok(())
}

fn bare(cgroup: &Path) -> Result<Duration> {
    let mut write = std::fs::OpenOptions::new().write(true).open(cgroup.join("cgroup.freeze"))?;
    let mut events = std::fs::File::open(cgroup.join("cgroup.events"))?;
    let mut buffer = [0u8; 64];
    let began = Instant::now();
    write.write_all(b"1")?;
    loop {
        // Without this a floor on few processors would measure how long its own loop keeps them from freezing.
        std::thread::yield_now();
        events.rewind()?;
        let read = events.read(&mut buffer)?;
        if buffer.get(..read).is_some_and(|b| b.ends_with(b"frozen 1\n")) {
            return Ok(began.elapsed());
        }
    }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, |t| t.as_secs_f64() * 1e6)
}
