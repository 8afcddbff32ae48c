//! Test files that are understood, and mistakes in them.

use super::*;
use crate::{file::What, values::Values};
use failsafe_core::policy::parse::parse;

fn policy() -> Policy {
    let text = "[policy]\nname = \"p\"\nowner = \"o\"\n[[rule]]\nid = \"exploded\"\nrationale = \"x\"\n\
                when = { signal = \"metric.loss\", above = 20 }\nactions = [\"notify\"]\n";
    parse("p.toml", text).unwrap()
}

fn wrong(text: &str) -> Vec<String> {
    read("p.test.toml", text, &policy()).unwrap_err().texts(100)
}

#[test]
fn a_file_is_understood_with_its_defaults() {
    let text = r#"
properties = ["freeze-before-kill"]
[[test]]
name = "one"
gpus = ["GPU-0", "GPU-1"]
[[test.input]]
signal = "metric.loss"
value = [1, 2.5, nan, "missing"]
[[test.input]]
at = "10s"
every = "2s"
for = "1m"
signal = "gpu.temperature"
value = { ramp = ["60 C", "95.5 C"], noise = "500 mC" }
[[test.expect]]
rule = "exploded"
between = ["3s", "90s"]
actions = ["notify"]
[[test]]
name = "two"
expect = "none"
"#;
    let file = read("p.test.toml", text, &policy()).unwrap();
    let [one, two] = file.cases.as_slice() else { panic!() };
    assert_eq!((one.line, one.seed, one.others), (3, 0, false));
    assert_eq!(one.length, Span::from_secs(100), "10 s after the last expected time");
    let [loss, hot] = one.inputs.as_slice() else { panic!() };
    assert_eq!((loss.every, loss.count), (Span::from_secs(1), 4));
    assert_eq!((hot.at, hot.every, hot.count, hot.line), (Span::from_secs(10), Span::from_secs(2), 30, 9));
    let What::Values { gpus, values: Values::Curve { noise, .. }, .. } = &hot.what else { panic!() };
    assert_eq!((gpus.len(), *noise), (2, 500.0));
    assert!(two.expect.is_empty() && !two.others && two.properties.len() == 1);
}

#[test]
fn each_mistake_has_its_line_its_field_and_what_was_expected() {
    let head = "[[test]]\nname = \"a\"\nexpect = \"none\"\n";
    let input = |fields: &str| format!("{head}[[test.input]]\n{fields}\n");
    let expect = |fields: &str| format!("[[test]]\nname = \"a\"\n[[test.expect]]\n{fields}\n");
    for (text, place, says) in [
        (String::new(), "1:1", "the file has no tests"),
        (input("signal = \"metric.loss\"\nvalue = 1\nstep = -1"), "7:8", "expected a step from 0"),
        (input("signal = \"metric.loss\"\nvalue = 1\nstep = \"3\""), "7:8", "expected a step from 0"),
        (input("signal = \"metric.loss\"\nvalue = 1\nstep = { by = 3 }"), "7:8", "missing field `from`"),
        (input("signal = \"cpu.time\"\nvalue = \"1 s\"\nstep = 3"), "7:8", "so it has no steps"),
        (input("operator = \"thaw\"\nstep = 3"), "6:8", "`step` has no meaning beside `operator`"),
        ("[[test]]\nname = \"a\"\n".into(), "1:1", "the test expects nothing"),
        (format!("{head}{head}"), "5:8", "another test has the name `a` already"),
        (format!("{head}seeds = 1\n"), "4:1", "did you mean `seed`?"),
        (format!("{head}seed = -1\n"), "4:8", "expected a number from 0"),
        (format!("{head}length = \"8d\"\n"), "4:10", "at most 7 days"),
        (format!("{head}properties = [\"freeze-before\"]\n"), "4:15", "is not one of no-decision"),
        (format!("{head}gpus = [\"A\", \"A\"]\n"), "4:14", "each once"),
        (input("signal = \"metric.loss\""), "4:1", "missing field `value`"),
        (input("signal = \"metrik.loss\"\nvalue = 1"), "5:10", "unknown signal"),
        (input("signal = \"metric.loss\"\nvalue = \"1 C\""), "6:9", "metric.loss expects for example 2.5"),
        (input("signal = \"memory.used\"\nvalue = 1"), "6:9", "\"10 GiB\""),
        (input("signal = \"memory.used\"\nvalue = \"1 GiB/s\""), "6:9", "its rate is computed"),
        (input("signal = \"gpu.temperature\"\nvalue = \"1 C\""), "4:1", "gpus = [\"GPU-0\"]"),
        (input("signal = \"gpu.derived.spinning\"\nvalue = \"1 s\""), "5:10", "is computed from gpu.utilization"),
        (input("signal = \"metric.loss\"\nvalue = { ramp = [1, 2], step = [1, 2] }"), "6:9", "exactly one of"),
        (input("signal = \"metric.loss\"\nvalue = { ramp = [1] }"), "6:18", "expected two values"),
        (input("signal = \"metric.loss\"\nvalue = { spike = [1, 2], after = \"3s\" }"), "6:9", "expected `width`"),
        (input("signal = \"metric.loss\"\nvalue = []"), "6:9", "the list is empty"),
        (input("signal = \"metric.loss\"\nvalue = 1\nfor = \"3s\""), "4:1", "expected `every` beside `for`"),
        (input("signal = \"metric.loss\"\nvalue = 1\nevery = \"3s\""), "4:1", "expected `for` beside `every`"),
        (input("signal = \"metric.loss\"\nvalue = 1\nat = \"soon\""), "7:6", "is not a duration"),
        (input("signal = \"metric.loss\"\nvalue = 1\npath = \"/x\""), "7:8", "`path` has no meaning beside `signal`"),
        (input("signal = \"memory.used\"\nvalue = \"1 B\"\nrank = \"0\""), "7:8", "it has no ranks"),
        (input("event = \"connekt\""), "5:9", "did you mean `connect`?"),
        (input("event = \"connect\""), "4:1", "expected `address`"),
        (input("event = \"connect\"\naddress = \"10.0.0.0/8\""), "6:11", "one address"),
        (input("event = \"oom\"\npath = \"/x\""), "6:8", "event oom has no field `path`"),
        (input("event = \"open\"\npath = \"x\""), "6:8", "absolute path"),
        (input("event = \"open\"\npath = [\"/x\", \"/y\"]"), "6:8", "expected one value"),
        (input("event = \"syscall\"\nname = \"read\""), "6:8", "cannot be watched"),
        (input("operator = \"stop\""), "5:12", "is not one of freeze, thaw, kill"),
        (input("blind = \"ebpf\"\nevery = \"1s\""), "4:1", "`every` has no meaning here"),
        (input("at = \"3s\""), "4:1", "expected exactly one of signal, event"),
        (input("event = \"oom\"\nsignal = \"metric.loss\""), "4:1", "expected exactly one of signal, event"),
        (expect("rule = \"explodd\""), "4:8", "did you mean `exploded`?"),
        (expect("at = \"3s\""), "3:1", "exactly one of `rule` and `upkeep`"),
        (expect("rule = \"exploded\"\nat = \"3s\"\nby = \"4s\""), "3:1", "one of `at`, `between` and `by`"),
        (expect("rule = \"exploded\"\nbetween = [\"3s\"]"), "5:11", "expected two times"),
        (expect("rule = \"exploded\"\nbetween = [\"3s\", \"2s\"]"), "5:11", "the earlier time first"),
        (expect("rule = \"exploded\"\nactions = [\"frieze\"]"), "5:12", "did you mean `freeze`?"),
        (expect("rule = \"exploded\"\ncount = 0"), "5:9", "a number from 1"),
        ("[[test]]\nname = \"a\"\nexpect = \"nothing\"\n".into(), "3:10", "expected \"none\" or tables"),
    ] {
        let all = wrong(&text);
        let found = all.iter().any(|one| one.starts_with(&format!("p.test.toml:{place}:")) && one.contains(says));
        assert!(found, "{text}\nexpected {place}: {says}, found\n{}", all.join("\n"));
    }
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let text = "[[test]]\nname = \"a\"\n[[test.input]]\nsignal = \"metric.loss\"\nvalue = \"x\"\n\
                [[test.input]]\nevent = \"om\"\n[[test.expect]]\nrule = \"none\"\n";
    assert_eq!(wrong(text).len(), 3, "{:?}", wrong(text));
}

#[test]
fn what_is_too_large_is_refused() {
    let huge = format!("# {}\n", "x".repeat(MAX_BYTES));
    assert!(wrong(&huge)[0].contains("expected at most 262144"));
    let many = "[[test]]\nname = \"a\"\nexpect = \"none\"\n[[test.input]]\nsignal = \"metric.loss\"\nvalue = { constant = 1 }\n\
                every = \"10 ms\"\nfor = \"7d\"\n";
    assert!(wrong(many)[0].contains("has 60480000 inputs, expected at most 5000000"));
}
