//! Tests that compare a signal with its own first values or with another signal, and a warm-up in steps.

use super::*;

impl Bench {
    fn stepped(&mut self, ms: u64, name: &str, value: f64, step: u64) -> Vec<Decision> {
        let value =
            Value::Claimed(Claimed { value: Real(value), step: Some(step), series: Series::rank("0").unwrap() });
        self.signal(ms, Subject::Run(self.run), Kind::Metric(name.into()), value)
    }
}

fn condition(decisions: &[Decision]) -> &str {
    let Cause::Rule { condition, .. } = &decisions[0].cause else { panic!("{decisions:?}") };
    condition
}

#[test]
fn a_loss_is_compared_with_the_median_of_its_first_minutes() {
    let mut b = bench("signal = \"metric.loss\", above = { first = \"10m\", factor = 1.5, offset = 0.5 }");
    for n in 0..20 {
        let value = if n == 7 { 1_000.0 } else { 2.0 };
        assert!(b.metric(n * 30_000, "loss", value).is_empty(), "no baseline yet");
    }
    assert_eq!(b.unknown(600_000), ["rule tree (the run): metric.loss: not finite, or still among its first values"]);
    assert!(b.metric(600_000, "loss", 3.5).is_empty(), "the bound is 3.5");
    assert!(b.unknown(600_000).is_empty());
    let trip = b.metric(630_000, "loss", 3.6);
    assert_eq!(rules(&trip), ["tree"]);
    assert_eq!(
        condition(&trip),
        "metric.loss above 1.5 times the median of its first 600.0 s plus 0.5 \
         [holds: metric.loss above 1.5 times the median of its first 600.0 s plus 0.5: bound 3.5000 in rank 0]"
    );
    assert_eq!(trip[0].values[0].show(), "3.6 (claimed by rank 0)");
    assert!(b.replay(ENGINE).identical());
}

#[test]
fn the_first_values_last_until_there_are_ten() {
    let mut b = bench("signal = \"metric.loss\", above = { first = \"1s\", statistic = \"mean\" }");
    for n in 0..10 {
        assert!(b.metric(n * 60_000, "loss", 2.0 + 2.0 * (n % 2) as f64).is_empty());
    }
    assert!(b.metric(600_000, "loss", 3.0).is_empty(), "the mean is 3");
    assert_eq!(rules(&b.metric(660_000, "loss", 3.1)), ["tree"]);
}

#[test]
fn the_first_values_can_be_given_in_steps_of_a_run_that_continues() {
    let mut b = bench("signal = \"metric.loss\", below = { first = \"100 steps\", factor = 0.5 }");
    for n in 0..10 {
        assert!(b.stepped(n * 1_000, "loss", 4.0, 5_000 + 10 * n).is_empty());
    }
    assert!(b.stepped(10_000, "loss", 1.0, 5_099).is_empty(), "one of the first 100 steps");
    assert!(b.stepped(11_000, "loss", 2.0, 5_100).is_empty(), "half of 4");
    assert_eq!(rules(&b.stepped(12_000, "loss", 1.9, 5_110)), ["tree"]);
}

#[test]
fn each_series_has_its_own_first_values() {
    let mut b = bench("signal = \"metric.loss\", above = { first = \"1s\", factor = 2 }, over = \"all\"");
    for n in 0..11 {
        assert!(b.ranked(n * 1_000, "loss", 1.0, "0").is_empty());
        assert!(b.ranked(n * 1_000, "loss", 10.0, "1").is_empty());
    }
    assert!(b.ranked(12_000, "loss", 3.0, "0").is_empty(), "rank 1 is as it was");
    assert_eq!(rules(&b.ranked(13_000, "loss", 30.0, "1")), ["tree"]);
}

#[test]
fn a_value_that_is_not_finite_is_no_part_of_the_first_values_and_makes_the_test_unknown() {
    let mut b = bench("all = [{ signal = \"metric.loss\", above = { first = \"1s\" } }]");
    for n in 0..10 {
        assert!(b.metric(n * 1_000, "loss", 1.0).is_empty());
        assert!(b.metric(n * 1_000 + 1, "loss", f64::NAN).is_empty());
        assert!(b.metric(n * 1_000 + 2, "loss", f64::INFINITY).is_empty());
    }
    assert!(b.metric(20_000, "loss", f64::INFINITY).is_empty());
    assert_eq!(b.unknown(20_000).len(), 1);
    assert_eq!(rules(&b.metric(21_000, "loss", 1.1)), ["tree"]);
}

#[test]
fn a_metric_is_compared_with_another_metric() {
    let mut b = bench("signal = \"metric.val_loss\", above = { signal = \"metric.loss\", factor = 1.2 }");
    assert!(b.metric(1, "val_loss", 9.0).is_empty(), "nothing to compare with");
    assert_eq!(b.unknown(1), ["rule tree (the run): metric.val_loss: no value of metric.loss yet"]);
    assert!(b.metric(2, "loss", 2.0).is_empty(), "judged at the values of the first");
    assert!(b.metric(3, "val_loss", 2.3).is_empty());
    let trip = b.metric(4, "val_loss", 2.5);
    assert_eq!(rules(&trip), ["tree"]);
    let values: Vec<String> = trip[0].values.iter().map(|seen| format!("{} = {}", seen.kind, seen.show())).collect();
    assert_eq!(values, ["metric.loss = 2 (claimed by rank 0)", "metric.val_loss = 2.5 (claimed by rank 0)"]);
    assert!(b.replay(ENGINE).identical());
}

#[test]
fn a_series_is_compared_with_the_same_series_or_with_the_only_one() {
    let mut b = bench("signal = \"metric.a\", above = { signal = \"metric.b\" }");
    assert!(b.ranked(1, "b", 5.0, "0").is_empty());
    assert!(b.ranked(2, "a", 4.0, "1").is_empty(), "with the only series");
    assert!(b.ranked(3, "b", 1.0, "2").is_empty());
    assert!(b.ranked(4, "a", 4.0, "1").is_empty(), "with neither of two others");
    assert_eq!(b.unknown(4), ["rule tree (the run): metric.a: not finite, or metric.b has no such series"]);
    assert_eq!(rules(&b.ranked(5, "a", 4.0, "2")), ["tree"]);
}

#[test]
fn two_signals_of_a_gpu_are_compared_on_the_same_gpu() {
    let mut b = bench("signal = \"gpu.clock_sm\", below = { signal = \"gpu.clock_sm_max\", factor = 0.5 }");
    let gpus = ["GPU-0", "GPU-1"].map(|gpu| GpuId(gpu.into())).into();
    assert!(b.feed(Input::RunGpus { run: b.run, gpus, at: at(1) }).is_empty());
    assert!(b.gpu(2, "GPU-0", Kind::GpuClockSmMax, 1_000).is_empty());
    assert!(b.gpu(3, "GPU-1", Kind::GpuClockSmMax, 2_000).is_empty());
    assert!(b.gpu(4, "GPU-0", Kind::GpuClockSm, 600).is_empty());
    let trip = b.gpu(5, "GPU-1", Kind::GpuClockSm, 600);
    assert_eq!(rules(&trip), ["tree"]);
    assert!(condition(&trip).contains(" on GPU-1 [holds: "), "{}", condition(&trip));
    assert!(trip[0].values.iter().all(|seen| seen.subject == Subject::Gpu(GpuId("GPU-1".into()))), "{trip:?}");
}

#[test]
fn a_blind_sensor_makes_a_comparison_unknown_until_both_values_came_again() {
    let mut b = bench("signal = \"gpu.clock_sm\", below = { signal = \"gpu.clock_sm_max\", factor = 0.5 }");
    assert!(b.gpu(1, "GPU-0", Kind::GpuClockSmMax, 1_000).is_empty());
    assert_eq!(rules(&b.gap(2, Source::Nvml, true)), ["blind"]);
    assert!(b.gpu(3, "GPU-0", Kind::GpuClockSm, 100).is_empty(), "the greatest clock is from before");
    assert!(b.gpu(4, "GPU-0", Kind::GpuClockSmMax, 1_000).is_empty());
    assert_eq!(rules(&b.gpu(5, "GPU-0", Kind::GpuClockSm, 100)), ["tree"]);
}

#[test]
fn a_warm_up_can_be_given_in_steps() {
    let mut b = bench("signal = \"metric.loss\", above = 20, warm_up = \"500 steps\"");
    assert!(b.metric(1, "loss", 90.0).is_empty(), "without a step");
    assert_eq!(b.unknown(1), ["rule tree (the run): warm-up: the run has reported no step yet"]);
    assert!(b.stepped(2, "loss", 90.0, 7_000).is_empty());
    assert!(b.stepped(3, "other", 90.0, 9_000).is_empty(), "the steps of the metrics of the rule count");
    assert!(b.stepped(4, "loss", 90.0, 7_499).is_empty());
    assert_eq!(rules(&b.stepped(5, "loss", 90.0, 7_500)), ["tree"]);
    assert!(b.replay(ENGINE).identical());
}

impl Bench {
    fn manifest(&mut self, ms: u64, values: &[(&str, f64)]) -> Vec<Decision> {
        let values = values.iter().map(|(key, value)| ((*key).to_owned(), Real(*value))).collect();
        self.feed(Input::Manifest { run: self.run, values, at: at(ms) })
    }
}

#[test]
fn a_metric_is_compared_with_a_number_of_the_manifest_and_unknown_without_one() {
    let mut b =
        bench("signal = \"metric.val_loss\", above = { manifest = \"hyperparameters.base_loss\", factor = 1.25 }");
    let none = "rule tree (the run): metric.val_loss: not finite, or the run's manifest has no number \
                hyperparameters.base_loss";
    assert!(b.metric(0, "val_loss", 9.0).is_empty(), "there is no bound");
    assert_eq!(b.unknown(0), [none]);
    assert!(b.manifest(1_000, &[("hyperparameters.lr", 0.1), ("config.base_loss", 1.0)]).is_empty());
    assert!(b.metric(2_000, "val_loss", 9.0).is_empty(), "another number is no bound");
    assert!(b.manifest(3_000, &[("hyperparameters.base_loss", 2.0)]).is_empty(), "judged with the next value");
    assert!(b.metric(4_000, "val_loss", 2.5).is_empty(), "the bound is 2.5");
    assert!(b.unknown(4_000).is_empty());
    let trip = b.metric(5_000, "val_loss", 2.6);
    assert_eq!(rules(&trip), ["tree"]);
    let words = "metric.val_loss above 1.25 times hyperparameters.base_loss of the run's manifest";
    assert!(condition(&trip).starts_with(words) && condition(&trip).contains("bound 2.5000"), "{}", condition(&trip));
    assert!(b.metric(6_000, "val_loss", f64::NAN).is_empty());
    assert_eq!(b.unknown(6_000), [none]);
    assert!(b.replay(ENGINE).identical());
}

#[test]
fn the_first_number_of_a_manifest_counts_so_that_a_run_cannot_move_its_bound() {
    let mut b = bench("signal = \"metric.loss\", above = { manifest = \"config.most\", offset = 1 }");
    b.manifest(0, &[("config.most", 4.0)]);
    b.manifest(1_000, &[("config.most", 1_000.0)]);
    assert!(b.metric(2_000, "loss", 5.0).is_empty());
    assert_eq!(rules(&b.metric(3_000, "loss", 5.1)), ["tree"]);
}

#[test]
fn a_number_of_the_manifest_that_is_too_large_is_no_bound() {
    let mut b = bench("signal = \"metric.loss\", below = { manifest = \"seeds.x\", factor = 1000 }");
    b.manifest(0, &[("seeds.x", 1e307)]);
    assert!(b.metric(1_000, "loss", -1.0).is_empty());
    assert_eq!(b.unknown(1_000).len(), 1);
}
