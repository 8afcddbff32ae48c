//! What is equal, what differs, what cannot be known.

use super::*;
use crate::{
    factor::{Fact, Missing},
    testing::{fact, statement},
};

fn compared(all: &[Vec<Fact>], options: &Options) -> Comparison {
    let all: Vec<Statement> = all.iter().map(|facts| statement(Scope::Run, facts.clone())).collect();
    compare(&all.iter().collect::<Vec<_>>(), &Table::built_in().unwrap(), options)
}

fn verdict_of(all: &[Vec<Fact>]) -> Verdict {
    compared(all, &Options::default()).verdict
}

fn missing(path: &str, value: Missing) -> Fact {
    Fact::measured(path, "a test", Err(value))
}

#[test]
fn the_worst_difference_decides_and_stands_first() {
    let one = vec![fact("node/hostname", "a"), fact("node/memory", "1"), fact("run/command", "x")];
    let other = |hostname, memory, command| {
        vec![fact("node/hostname", hostname), fact("node/memory", memory), fact("run/command", command)]
    };
    assert_eq!(verdict_of(&[one.clone(), one.clone()]), Verdict::ResultEqual);
    assert_eq!(verdict_of(&[one.clone(), other("b", "1", "x")]), Verdict::ResultEqual);
    assert_eq!(verdict_of(&[one.clone(), other("b", "2", "x")]), Verdict::PerformanceDiffers);
    let worst = compared(&[one.clone(), other("b", "2", "y")], &Options::default());
    assert_eq!(worst.verdict, Verdict::ResultDiffers);
    let paths: Vec<&str> = worst.differences.iter().map(|one| one.path.as_str()).collect();
    assert_eq!(paths, ["run/command", "node/memory", "node/hostname"]);
    let first = &worst.differences[0];
    assert!(!first.reason.is_empty() && !first.citation.is_empty());
    let ignored = Options { ignore: vec![Pattern::parse("run/**").unwrap()], ..Options::default() };
    let with_cpu = |mut facts: Vec<Fact>| {
        facts.push(fact("node/cpu/model", "c"));
        facts
    };
    let without = compared(&[with_cpu(one), with_cpu(other("b", "2", "y"))], &ignored);
    assert_eq!((without.verdict, without.ignored), (Verdict::PerformanceDiffers, 1));
}

#[test]
fn statements_that_share_no_factor_of_results_are_not_called_equal() {
    let with = |memory: &str| vec![fact("node/hostname", "a"), fact("node/memory", memory), fact("run/command", "x")];
    let ignored = Options { ignore: vec![Pattern::parse("run/**").unwrap()], ..Options::default() };
    for all in [[with("1"), with("1")], [with("1"), with("2")], [vec![], vec![]]] {
        assert_eq!(compared(&all, &ignored).verdict, Verdict::CannotKnow);
    }
    assert_eq!(verdict_of(&[with("1"), with("1")]), Verdict::ResultEqual);
}

#[test]
fn what_is_not_known_in_one_of_them_is_never_equal() {
    for value in [Missing::unavailable("x"), Missing::denied("x"), Missing::not_asked("x")] {
        let unknown = vec![missing("node/cpu/flags", value)];
        assert_eq!(verdict_of(&[unknown.clone(), unknown.clone()]), Verdict::CannotKnow, "unknown in both");
        assert_eq!(verdict_of(&[unknown.clone(), vec![fact("node/cpu/flags", "avx")]]), Verdict::CannotKnow);
        let also = |flags: &str| vec![fact("node/cpu/flags", flags)];
        assert_eq!(verdict_of(&[unknown.clone(), also("a"), also("b")]), Verdict::ResultDiffers, "two are known");
        let mut differs = unknown.clone();
        differs.push(fact("run/command", "y"));
        let known = vec![fact("node/cpu/flags", "avx"), fact("run/command", "x")];
        assert_eq!(verdict_of(&[differs, known]), Verdict::ResultDiffers);
    }
    // What changes speed only does not decide about results.
    let slow = vec![missing("node/memory", Missing::unavailable("x")), fact("node/cpu/flags", "avx")];
    let answer = compared(&[slow.clone(), slow], &Options::default());
    assert_eq!((answer.verdict, answer.differences[0].kind), (Verdict::ResultEqual, Kind::Unknown));
}

#[test]
fn a_factor_that_one_statement_lacks_is_absent_only_if_its_group_is_whole() {
    let with = vec![fact("run/library", "complete"), fact("run/library/libm.so.6", "build-id:1")];
    let whole = vec![fact("run/library", "complete")];
    let cut = vec![missing("run/library", Missing::unavailable("limit"))];
    let absent = compared(&[with.clone(), whole], &Options::default());
    assert_eq!(absent.verdict, Verdict::ResultDiffers);
    assert_eq!(absent.differences[0].values, [Cell::Value(Json::from("build-id:1")), Cell::Absent]);
    let unknown = compared(&[with.clone(), cut], &Options::default());
    assert_eq!(unknown.verdict, Verdict::CannotKnow);
    assert!(unknown.differences.iter().all(|one| one.kind == Kind::Unknown));
    assert_eq!(verdict_of(&[with, vec![]]), Verdict::CannotKnow, "of another version");
    let unset = vec![Fact::measured("run/env/OMP_NUM_THREADS", "a test", Ok(Json::Null))];
    let set = vec![fact("run/env/OMP_NUM_THREADS", "4")];
    assert_eq!(verdict_of(&[unset.clone(), set]), Verdict::ResultDiffers);
    assert_eq!(verdict_of(&[unset.clone(), unset]), Verdict::ResultEqual, "unset in both");
}

#[test]
fn a_node_and_a_run_are_compared_where_both_have_facts() {
    let node = statement(Scope::Node, vec![fact("node/cpu/model", "a")]);
    let run = statement(Scope::Run, vec![fact("node/cpu/model", "a"), fact("run/command", "x")]);
    let table = Table::built_in().unwrap();
    let all = compare(&[&node, &run], &table, &Options::default());
    assert_eq!(all.verdict, Verdict::CannotKnow);
    let nodes = Options { ignore: vec![Pattern::parse("run/**").unwrap()], ..Options::default() };
    assert_eq!(compare(&[&node, &run], &table, &nodes).verdict, Verdict::ResultEqual);
}

#[test]
fn the_regime_decides_what_speed_changes() {
    let with = |limit: &str| vec![fact("node/gpu/0/power-limit", limit), fact("run/command", "x")];
    let of = |regime| compared(&[with("700"), with("500")], &Options { regime, ..Options::default() });
    assert_eq!((of(None).verdict, of(None).regime_declared), (Verdict::PerformanceDiffers, false));
    assert_eq!(of(Some(Regime::None)).verdict, Verdict::ResultDiffers);
    assert_eq!(of(Some(Regime::Deterministic)).verdict, Verdict::PerformanceDiffers);
}

#[test]
fn a_factor_of_another_version_has_the_class_that_its_statement_gives() {
    let of = |class| {
        let with = |value| statement(Scope::Run, vec![fact("new/x", value), fact("run/command", "x")]);
        let mut all = [with("1"), with("2")];
        all.iter_mut().for_each(|one| one.predicate.factors[0].class = class);
        compare(&all.iter().collect::<Vec<_>>(), &Table::built_in().unwrap(), &Options::default()).verdict
    };
    assert_eq!(of(Class::Performance), Verdict::PerformanceDiffers);
    assert_eq!(of(Class::Result), Verdict::ResultDiffers);
}

/// Reports of "same code, different result" (`policies/factors.toml` cites them), each as two runs that differ in one factor.
#[test]
fn each_known_cause_of_other_results_is_named_first() {
    let common = || {
        vec![
            fact("node/hostname", "a"),
            fact("node/cpu/model", "EPYC 9654"),
            fact("node/cpu/microcode", "0xa101148"),
            fact("node/gpu", "1"),
            fact("node/gpu/0/model", "H100 80GB HBM3"),
            fact("node/gpu/0/cores", "16896"),
            fact("node/gpu/0/power-limit", "700000"),
            fact("node/nvidia/driver", "550.54.15"),
            fact("run/command", "python3 train.py"),
            fact("run/cpu/count", "16"),
            fact("run/env", "read"),
            fact("run/library", "complete"),
            fact("run/library/libcudnn.so.9", "build-id:01"),
            fact("run/library/libnccl.so.2", "build-id:02"),
            fact("run/library/libtorch_cuda.so", "build-id:03"),
            fact("run/library/libturbojpeg.so.0", "build-id:04"),
        ]
    };
    let with = |path: &str, value: Option<&str>| {
        let mut facts = common();
        facts.retain(|fact| fact.path != path);
        // Beside the cause, something harmless differs too.
        facts.retain(|fact| !["node/hostname", "node/cpu/microcode"].contains(&fact.path.as_str()));
        facts.extend([fact("node/hostname", "b"), fact("node/cpu/microcode", "0xa101150")]);
        facts.extend(value.map(|value| fact(path, value)));
        facts
    };
    let env = |name: &str| (format!("run/env/{name}"), None, "set");
    let cases: Vec<(String, Option<&str>, &str)> = vec![
        ("node/gpu/0/cores".into(), Some("16896"), "7424"),
        ("node/gpu/0/model".into(), Some(""), "A100-SXM4-80GB"),
        ("node/nvidia/driver".into(), Some(""), "550.90.07"),
        ("run/library/libcudnn.so.9".into(), Some(""), "build-id:ff"),
        ("run/library/libnccl.so.2".into(), Some(""), "build-id:ff"),
        ("run/library/libtorch_cuda.so".into(), Some(""), "build-id:ff"),
        ("run/library/libturbojpeg.so.0".into(), Some(""), "build-id:ff"),
        ("run/cpu/count".into(), Some(""), "8"),
        ("node/cpu/model".into(), Some(""), "Xeon 8480"),
        env("NCCL_ALGO"),
        env("OMP_NUM_THREADS"),
        env("OPENBLAS_CORETYPE"),
        env("PYTHONHASHSEED"),
        env("CUBLAS_WORKSPACE_CONFIG"),
        env("NVIDIA_TF32_OVERRIDE"),
        env("ATEN_CPU_CAPABILITY"),
    ];
    for (path, _, value) in &cases {
        let answer = compared(&[common(), with(path, Some(value))], &Options::default());
        assert_eq!(answer.verdict, Verdict::ResultDiffers, "{path}");
        let first = &answer.differences[0];
        assert_eq!((first.path.as_str(), first.class, first.kind), (path.as_str(), Class::Result, Kind::Differs));
        assert!(first.citation.len() > 10, "{path} cites nobody");
        let results = answer.differences.iter().filter(|one| one.class == Class::Result).count();
        assert_eq!(results, 1, "{path}: {:?}", answer.differences);
    }
    // A library that only one of them has loaded.
    let answer = compared(&[common(), with("run/library/libnccl.so.2", None)], &Options::default());
    assert_eq!((answer.verdict, &answer.differences[0].values[1]), (Verdict::ResultDiffers, &Cell::Absent));
}

#[test]
fn pairs_that_compute_the_same_are_not_called_different() {
    let common =
        || vec![fact("run/command", "python3 train.py"), fact("node/cpu/model", "EPYC 9654"), fact("node/gpu", "1")];
    for (path, a, b, expected) in [
        ("node/hostname", "n1", "n2", Verdict::ResultEqual),
        ("node/gpu/0/serial", "1", "2", Verdict::ResultEqual),
        ("node/gpu/0/uuid", "GPU-1", "GPU-2", Verdict::ResultEqual),
        ("run/id", "1", "2", Verdict::ResultEqual),
        ("node/dmi/bios-date", "1", "2", Verdict::ResultEqual),
        ("run/env/NCCL_DEBUG", "INFO", "WARN", Verdict::ResultEqual),
        ("node/cpu/microcode", "1", "2", Verdict::PerformanceDiffers),
        ("node/gpu/0/power-limit", "700", "500", Verdict::PerformanceDiffers),
        ("node/gpu/0/ecc", "on", "off", Verdict::PerformanceDiffers),
        ("node/kernel/release", "6.1", "6.8", Verdict::PerformanceDiffers),
        ("node/infiniband/mlx5_0/firmware", "28.1", "28.2", Verdict::PerformanceDiffers),
        ("node/memory", "512", "1024", Verdict::PerformanceDiffers),
        ("run/cpu/list", "0-7", "8-15", Verdict::PerformanceDiffers),
    ] {
        let with = |value| common().into_iter().chain([fact(path, value)]).collect::<Vec<_>>();
        let answer = compared(&[with(a), with(b)], &Options::default());
        assert_eq!(answer.verdict, expected, "{path}");
        assert_eq!(answer.differences[0].path, path);
    }
}
