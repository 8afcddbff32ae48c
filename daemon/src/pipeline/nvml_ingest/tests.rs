//! When a sample leads to inputs, and what is shown of a GPU.

use super::*;
use crate::{
    guard::kernel::Kernel,
    pipeline::queue,
    platform::{ProcFs, cgroup::CgroupRoot},
    runs::store::Store,
    sensors::{
        nvml::{Happened, Xid},
        repeat::REPEAT_AFTER,
    },
};
use failsafe_core::event::GpuEvent;

fn of(readings: &[(Kind, i64)], unsupported: &[&str], failing: &[(&str, &str)]) -> Sample {
    Sample {
        gpu: "GPU-1".into(),
        readings: readings.to_vec(),
        unsupported: unsupported.iter().map(|name| (*name).to_owned()).collect(),
        failing: failing.iter().map(|(name, why)| ((*name).to_owned(), (*why).to_owned())).collect(),
        ..Sample::default()
    }
}

#[test]
fn the_view_of_a_gpu_is_what_is_known_of_it() {
    let temperature = |value| (Kind::GpuTemperature, value);
    let samples = [
        of(&[temperature(60), (Kind::GpuPower, 7), (Kind::GpuFanSpeed, 3)], &["gpu.ecc_corrected"], &[]),
        of(&[temperature(61)], &[], &[("gpu.power", "unknown")]),
        of(&[temperature(62)], &["gpu.fan_speed"], &[]),
        of(&[(Kind::GpuEccCorrected, 1), (Kind::GpuPower, 8)], &[], &[]),
        // As many as before, but others.
        of(&[(Kind::GpuFanSpeed, 4)], &["gpu.ecc_corrected"], &[]),
    ];
    let (mut current, mut view) = (Current::default(), GpuView::new(GpuId("GPU-1".into())));
    let mut late = view.clone();
    for (n, sample) in samples.iter().enumerate() {
        current.take(sample);
        show(&mut view, &current, sample);
        let readings: BTreeMap<Kind, i64> = current.values.iter().map(|(k, (v, _))| (k.clone(), *v)).collect();
        assert_eq!(view.readings, readings, "after sample {n}");
        assert!(view.unsupported.iter().eq(&current.unsupported), "after sample {n}: {:?}", view.unsupported);
        let failing = current.failing.iter().map(|(name, why)| format!("{name}: {why}"));
        assert!(view.failing.iter().cloned().eq(failing), "after sample {n}: {:?}", view.failing);
    }
    // A blindness is over with the next sample.
    late.failing = vec!["it is lost".into()];
    show(&mut late, &current, &samples[4]);
    assert_eq!((&late.readings, &late.failing, &late.unsupported), (&view.readings, &view.failing, &view.unsupported));
}

/// One that sends to a queue; the folder is its registry's. `None` where no cgroup2 is mounted.
fn ingest() -> Option<(NvmlIngest, queue::Receiver<Message>, tempfile::TempDir)> {
    let (pipeline, queue) = queue::channel(64);
    let folder = tempfile::tempdir().unwrap();
    let Ok(root) = CgroupRoot::find() else {
        crate::skip::skip("no cgroup2 is mounted");
        return None;
    };
    let registry = Arc::new(Registry::new(root, Kernel::new(Err("none".into())), Store::open(folder.path()).unwrap()));
    let ownership = GpuOwnership::new(&registry, ProcFs::default());
    let ingest = NvmlIngest::new(&registry, &pipeline, &Arc::default(), &ownership);
    let gpu = GpuId("GPU-1".into());
    ingest.node().gpus.insert(gpu.clone(), GpuView::new(gpu));
    Some((ingest, queue, folder))
}

#[test]
fn while_nobody_knows_who_is_on_a_gpu_what_was_known_stays() {
    let Some((mut ingest, _queue, _folder)) = ingest() else { return };
    let kind = nvml::ProcessKind::Compute;
    let (memory, gpu_instance, compute_instance, sm) = (Some(9), None, None, None);
    let process = nvml::GpuProcess { pid: 7, memory, kind, gpu_instance, compute_instance, sm };
    let readings = [(Kind::GpuTemperature, 60_000)];
    ingest.take(NvmlEvent::Sample(Sample { mono_ns: 5, processes: Some(vec![process]), ..of(&readings, &[], &[]) }));
    let failed = of(&readings, &[], &[("gpu.processes", "unknown")]);
    ingest.take(NvmlEvent::Sample(Sample { mono_ns: 6, ..failed }));
    let shown = |ingest: &NvmlIngest| {
        let view = ingest.node().gpus[&GpuId("GPU-1".into())].clone();
        (view.processes.iter().map(|it| it.pid).collect::<Vec<_>>(), view.processes_at, view.failing)
    };
    assert_eq!(shown(&ingest), (vec![7], Some(MonoTime(5)), vec!["gpu.processes: unknown".into()]));
    let again = of(&[(Kind::GpuProcesses, 0)], &[], &[]);
    ingest.take(NvmlEvent::Sample(Sample { mono_ns: 7, processes: Some(Vec::new()), ..again }));
    assert_eq!(shown(&ingest), (Vec::new(), Some(MonoTime(7)), Vec::new()));
}

#[test]
fn a_signal_that_keeps_failing_is_reported_to_the_core_and_shown() {
    let Some((mut ingest, queue, _folder)) = ingest() else { return };
    let gpu = GpuId("GPU-1".into());
    for s in [1, 5, 11] {
        let failing = of(&[(Kind::GpuUtilization, 0)], &[], &[("gpu.temperature", "unknown")]);
        ingest.take(NvmlEvent::Sample(Sample { mono_ns: s * 1_000_000_000, ..failing }));
    }
    ingest.take(NvmlEvent::Pause);
    ingest.flush();
    let inputs = queue.try_iter().flat_map(|message| if let Message::Inputs(all) = message { all } else { Vec::new() });
    let unread: Vec<_> = inputs
        .filter_map(|it| if let Input::Unread(it) = it { Some((it.gpu, it.kind, it.why)) } else { None })
        .collect();
    assert_eq!(unread, [(gpu.clone(), Kind::GpuTemperature, Some("unknown".into()))]);
    let unwatched = ingest.node().unwatched(&[gpu].into(), &BTreeMap::new());
    assert_eq!(unwatched.keys().collect::<Vec<_>>(), [&Kind::GpuTemperature]);
}

#[test]
fn what_samples_say_waits_for_the_pause_and_goes_before_all_else() {
    let Some((mut ingest, queue, _folder)) = ingest() else { return };
    let sample = |value| NvmlEvent::Sample(of(&[(Kind::GpuTemperature, value)], &[], &[]));
    let (two, one) = ([60, 61], [62]);
    two.into_iter().for_each(|value| ingest.take(sample(value)));
    assert!(queue.try_recv().is_err(), "sent before the pause");
    ingest.take(NvmlEvent::Pause);
    one.into_iter().for_each(|value| ingest.take(sample(value)));
    ingest.take(NvmlEvent::Xid(Xid {
        mono_ns: 1,
        gpu: "GPU-1".into(),
        code: 79,
        count: 1,
        gpu_instance: None,
        compute_instance: None,
    }));
    let (gpu, what) = ("GPU-1".into(), GpuEvent::DramRetirement);
    ingest.take(NvmlEvent::Happened(Happened { mono_ns: 2, gpu, what, count: 3 }));
    ingest.take(NvmlEvent::Pause);
    let heard: Vec<Vec<Value>> = queue
        .try_iter()
        .map(|message| match message {
            Message::Inputs(inputs) => inputs.into_iter().filter_map(|input| match input {
                Input::Signal(signal) => Some(signal.value),
                _ => None,
            }),
            _ => panic!("no inputs"),
        })
        .map(Iterator::collect)
        .collect();
    let values = |values: &[i64]| values.iter().map(|value| Value::Integer(*value)).collect::<Vec<_>>();
    let mut last = values(&one);
    last.push(Value::Event(Event::Xid { code: 79, slice: None }));
    let event = vec![Value::Event(Event::Gpu { what: GpuEvent::DramRetirement })];
    assert_eq!(heard, [values(&two), last, event]);
}

#[test]
fn what_has_not_changed_is_sent_again_only_where_something_waits_for_it() {
    let mut seen = GpuRepeatState::default();
    let mut now = Instant::now();
    assert!(seen.is_due(&Kind::GpuTemperature, 90_000, now) && seen.is_due(&Kind::GpuTemperature, 90_000, now));
    assert!(seen.is_due(&Kind::GpuMemoryTotal, 80, now));
    assert!(!seen.is_due(&Kind::GpuMemoryTotal, 80, now), "an unchanged total was sent at once");
    assert!(seen.is_due(&Kind::GpuMemoryTotal, 81, now) && !seen.is_due(&Kind::GpuMemoryTotal, 81, now));
    now += REPEAT_AFTER;
    assert!(seen.is_due(&Kind::GpuMemoryTotal, 81, now), "silence would read as a sensor that does not see");
}
