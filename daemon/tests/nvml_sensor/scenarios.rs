//! The ready scenarios (`tests/scenarios/gpu`), from the simulated library through the sampler and the sensor to the health and
//! the derived signals of the core. Time is the scenario's: each second of it is as long as a pass of the sampler takes.

mod cases;

use crate::rig::{Rig, until};
use anyhow::{Context, Result, ensure};
use cases::{CASES, Case};
use failsafe_core::{
    GpuId, Input, Kind, MonoTime, PolicySet, RunId, Signal, State, Subject, Value,
    event::Event,
    health::{Fact, Health, Kept, Slot, Start, Thresholds},
    input::{Contained, Gap, Run},
    policy::parse::parse,
    signal::Source,
    step,
    time::Span,
    xid::Catalogue,
};
use failsafed::{
    platform::clock,
    sensors::nvml::{self, NvmlEvent},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Bounds that nothing reaches: the detectors compute what rules name.
const POLICY: &str = r#"
[policy]
name = "p"
owner = "o"
[[rule]]
id = "straggler"
rationale = "x"
when = { signal = "gpu.derived.straggler", above = "1000 %" }
actions = ["notify"]
[[rule]]
id = "spinning"
rationale = "x"
when = { signal = "gpu.derived.spinning", above = "9000 s" }
actions = ["notify"]
[[rule]]
id = "stalled"
rationale = "x"
when = { signal = "gpu.derived.stalled", above = "9000 s" }
actions = ["notify"]
[[rule]]
id = "held"
rationale = "x"
when = { signal = "gpu.derived.clock_held", above = "9000 s" }
actions = ["notify"]
"#;

/// A scenario under way.
struct World {
    rig: Rig,
    health: Health,
    policies: PolicySet,
    state: State,
    run: RunId,
    /// By NVML's index.
    gpus: BTreeMap<u32, GpuId>,
    /// When each was sampled last, by the clock of the machine.
    sampled: BTreeMap<GpuId, u64>,
    blind: BTreeSet<Option<GpuId>>,
    xids: usize,
    /// The scenario's time.
    now: MonoTime,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/scenarios/gpu")
}

impl World {
    fn new(scenario: &str) -> Result<World> {
        let rig = Rig::with(scenario, |config| {
            (config.interval, config.slow) = (Duration::from_millis(20), Duration::from_millis(20));
        })?;
        rig.put("miner.pid", &std::process::id().to_string())?;
        let now = MonoTime(1_000_000_000_000);
        let start = Start { at: now, wall_offset_ns: 0, fresh: Span::from_secs(10), gpus: true };
        let (catalogue, thresholds) = (Arc::new(Catalogue::built_in()?), Arc::new(Thresholds::built_in()?));
        let health = Health::new(catalogue, thresholds, Kept::default(), start);
        let policy = parse("p", POLICY)?;
        let (run, digest) = (RunId(uuid::Uuid::from_u128(1)), policy.digest());
        let policies = PolicySet::from([(digest, Arc::new(policy))]);
        let mut world = World {
            rig,
            health,
            policies,
            state: State::default(),
            run,
            gpus: BTreeMap::new(),
            sampled: BTreeMap::new(),
            blind: BTreeSet::new(),
            xids: 0,
            now,
        };
        world.take(&Input::RunStarted(Run {
            id: run,
            name: "r".into(),
            labels: BTreeMap::new(),
            owner_uid: 0,
            cgroup: "x".into(),
            cgroup_id: 1,
            boot_id: "b".into(),
            policy: digest,
            gpus: BTreeSet::new(),
            mig: BTreeMap::new(),
            registered: now,
            registered_wall_ns: 0,
            decisions: 0,
            incidents: 0,
            contained: Contained::default(),
        }));
        Ok(world)
    }

    fn take(&mut self, input: &Input) {
        step(&self.policies, &mut self.state, input);
        self.health.take(input);
    }

    fn signal(&mut self, gpu: &GpuId, kind: Kind, value: Value) {
        let (at, source, subject) = (self.now, Source::Nvml, Subject::Gpu(gpu.clone()));
        self.take(&Input::Signal(Signal { seq: 0, at, source, subject, kind, value, repeats: 0 }));
    }

    fn gap(&mut self, gpu: Option<GpuId>, what: String, blind: bool) {
        let (at, source) = (self.now, Source::Nvml);
        self.take(&Input::Gap(Gap { seq: 0, at, source, run: None, gpu, what, lost: 0, blind }));
    }

    /// As the daemon's pipeline tells it.
    fn event(&mut self, event: NvmlEvent) {
        match event {
            NvmlEvent::Hello(hello) => {
                self.gpus = hello.gpus.iter().map(|gpu| (gpu.index, GpuId(gpu.uuid.clone()))).collect();
                let gpus: BTreeSet<GpuId> = self.gpus.values().cloned().collect();
                let slots = gpus.iter().map(|gpu| (gpu.clone(), Slot::default())).collect();
                self.health.fact(&Fact::Listed { gpus: slots, unreachable: BTreeMap::new(), at: self.now });
                self.take(&Input::RunGpus { run: self.run, gpus, at: self.now });
            }
            NvmlEvent::Sample(sample) => {
                let gpu = GpuId(sample.gpu.clone());
                self.sampled.insert(gpu.clone(), sample.mono_ns);
                for (kind, value) in nvml::signals(&sample) {
                    self.signal(&gpu, kind, Value::Integer(value));
                }
            }
            NvmlEvent::Xid(xid) => {
                self.xids += usize::try_from(xid.count).unwrap_or(usize::MAX);
                self.signal(&GpuId(xid.gpu), Kind::Event, Value::Event(Event::Xid { code: xid.code, slice: None }));
            }
            NvmlEvent::Happened(it) => {
                self.signal(&GpuId(it.gpu), Kind::Event, Value::Event(Event::Gpu { what: it.what }));
            }
            NvmlEvent::Blind { gpu, why, .. } => {
                let gpu = gpu.map(GpuId);
                if let Some(gpu) = gpu.clone().filter(|_| nvml::means_lost(&why)) {
                    self.health.fact(&Fact::Lost { gpu, why: why.clone(), at: self.now });
                }
                self.blind.insert(gpu.clone());
                self.gap(gpu, why, true);
            }
            NvmlEvent::Sees { gpu } => {
                let gpu = gpu.map(GpuId);
                self.blind.remove(&gpu);
                self.gap(gpu, "sees again".into(), false);
            }
            NvmlEvent::Info(_) | NvmlEvent::Pause => {}
        }
    }

    fn hear(&mut self) {
        while let Ok(event) = self.rig.events.recv_timeout(Duration::from_millis(5)) {
            self.event(event);
        }
    }

    /// A second of the scenario: every GPU that is not blind is sampled in it, and every XID up to it has come.
    fn second(&mut self, t: u32, xids: usize) -> Result<()> {
        self.rig.at(f64::from(t))?;
        self.now = MonoTime((1_000 + u64::from(t)) * 1_000_000_000);
        let since = clock::monotonic_ns();
        until(&format!("second {t}"), || {
            self.hear();
            let fresh = |gpu: &GpuId| self.sampled.get(gpu).is_some_and(|at| *at >= since);
            let out = |gpu: &GpuId| self.blind.contains(&None) || self.blind.contains(&Some(gpu.clone()));
            let all = !self.gpus.is_empty() && self.gpus.values().all(|gpu| fresh(gpu) || out(gpu));
            Ok(all && (self.xids >= xids || self.blind.contains(&None)))
        })?;
        self.take(&Input::Tick(self.now));
        Ok(())
    }

    fn gpu(&self, index: usize) -> Result<&GpuId> {
        self.gpus.get(&u32::try_from(index)?).context("no such GPU")
    }

    /// What does not stand as the case says.
    fn wrong(&self, case: &Case) -> Result<Option<String>> {
        let view = self.health.view();
        for (index, (level, codes)) in case.gpus.iter().enumerate() {
            let part = &view.gpus[self.gpu(index)?];
            let has = |code: &&str| part.reasons.iter().any(|reason| reason.code == **code);
            if part.level != *level || !codes.iter().all(has) {
                return Ok(Some(format!("GPU {index}: wanted {level} by {codes:?}, there is {part:#?}")));
            }
        }
        let last = self.state.last_signals(self.run);
        for (index, kind, least) in case.derived {
            let subject = Subject::Gpu(self.gpu(*index)?.clone());
            let seen = last.iter().find(|seen| seen.subject == subject && seen.kind == *kind).map(|seen| &seen.value);
            if !matches!(seen, Some(Value::Integer(value)) if value >= least) {
                return Ok(Some(format!("GPU {index}: wanted {kind} of at least {least}, there is {seen:?}")));
            }
        }
        Ok(None)
    }
}

/// Times of the XIDs that a scenario has, in seconds.
fn xid_times(text: &str) -> Result<Vec<f64>> {
    let table: toml::Table = toml::from_str(text)?;
    let gpus = table.get("gpu").and_then(toml::Value::as_array).into_iter().flatten();
    let events = gpus.flat_map(|gpu| gpu.get("event").and_then(toml::Value::as_array).into_iter().flatten());
    Ok(events.filter_map(|event| event.get("at")?.as_float()).collect())
}

fn play(file: &str) -> Result<World> {
    let case = CASES.iter().find(|case| case.file == file).context("no such case")?;
    let text = fs::read_to_string(folder().join(format!("{file}.toml")))?;
    let xids = xid_times(&text)?;
    let mut world = World::new(&text)?;
    // An XID before the registration for it is never told.
    let mut ready = nvml::Current::default();
    let first = world.rig.wait("XIDs are registered", |event| match event {
        NvmlEvent::Hello(hello) => Some(hello),
        _ => None,
    })?;
    let last = first.gpus.last().map(|gpu| gpu.uuid.clone()).unwrap_or_default();
    world.event(NvmlEvent::Hello(first));
    world.rig.wait("XIDs are registered", |event| match event {
        NvmlEvent::Sample(sample) if sample.gpu == last => {
            ready.take(&sample);
            (!ready.failing.contains_key("gpu.xid")).then_some(())
        }
        _ => None,
    })?;
    for t in 0..=case.seconds {
        world.second(t, xids.iter().filter(|at| **at <= f64::from(t)).count())?;
    }
    // A sampler that starts afresh takes its time.
    let mut wrong = None;
    for t in 1..200 {
        wrong = world.wrong(case)?;
        if wrong.is_none() {
            return Ok(world);
        }
        if !world.blind.contains(&None) && t > 3 {
            break;
        }
        world.second(case.seconds + t.min(9), 0)?;
        std::thread::yield_now();
    }
    ensure!(wrong.is_none(), "{file}: {}", wrong.unwrap_or_default());
    Ok(world)
}

/// One test each, so that they go on beside one another.
macro_rules! scenarios {
    ($($test:ident: $file:literal),* $(,)?) => {
        $(#[test]
        fn $test() -> Result<()> {
            play($file).map(drop)
        })*
        const PLAYED: &[&str] = &[$($file,)* "straggler", "driver-reload"];
    };
}

#[test]
fn each_file_is_played() -> Result<()> {
    let played: BTreeSet<String> = PLAYED.iter().map(|file| (*file).to_owned()).collect();
    let there: Result<BTreeSet<String>, std::io::Error> = fs::read_dir(folder())?
        .map(|entry| Ok(entry?.path().file_stem().unwrap_or_default().to_string_lossy().into_owned()))
        .collect();
    ensure!(played == there?, "played: {played:?}");
    Ok(())
}

scenarios! {
    healthy: "healthy",
    overheating: "overheating",
    fan_failure: "fan-failure",
    ecc_storm: "ecc-storm",
    row_remap_failure: "row-remap-failure",
    xid48: "xid48",
    xid63_64: "xid63-64",
    xid79: "xid79",
    xid94_95: "xid94-95",
    xid119_120: "xid119-120",
    nvlink_error: "nvlink-error",
    power_brake: "power-brake",
    crypto_miner: "crypto-miner",
    hang: "hang",
    mig: "mig",
}

#[test]
fn the_straggler_is_found_and_no_other() -> Result<()> {
    let world = play("straggler")?;
    for seen in world.state.last_signals(world.run) {
        if let (Kind::GpuDerivedStraggler, Subject::Gpu(gpu), Value::Integer(value)) =
            (&seen.kind, &seen.subject, &seen.value)
        {
            ensure!(gpu == world.gpu(5)? || *value < 1_000, "{gpu} is behind by {value}");
        }
    }
    Ok(())
}

#[test]
fn a_driver_that_is_loaded_anew_is_unknown_meanwhile_and_healthy_again() -> Result<()> {
    let world = play("driver-reload")?;
    ensure!(world.health.view().revision > 2, "it was never out of sight");
    Ok(())
}
