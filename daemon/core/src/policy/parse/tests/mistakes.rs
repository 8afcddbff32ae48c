//! Bad policies, one a case. Each mistake is reported, at its line, beside all others of the file.

use super::*;
use crate::policy::diagnostic::{Diagnostic, Level};

/// A bad policy. A line that is a mistake ends with a comment `#! TEXT`, and TEXT is in what is reported for that line; several
/// mistakes of a line are separated by ` & `. `^! TEXT` is about the line before, for places where no comment can stand.
const CASES: &[(&str, &str)] = &[
    (
        "no owner",
        "[policy]                 #! policy: missing field `owner`\nname = \"p\"\n\n[[rule]] #! missing field `rationale`\nid = \"r\"\nwhen = { signal = \"gpu.temprature\", above = \"90 C\" } #! did you mean `gpu.temperature`?\nactions = [\"freze\"] #! did you mean `freeze`?\n",
    ),
    (
        "no name",
        "[policy] #! missing field `name`\nowner = \"o\"\n[egress]\nallow = [{ cidr = \"10/8\" }] #! `10/8` is not a network\n",
    ),
    ("nothing at all", "# only a comment #! missing section [policy]\n"),
    (
        "misspelt section",
        "[polcy] #! did you mean `policy`?\nname = \"p\"\nowner = 3 #! expected a text in quotes, found the number `3`\n",
    ),
    (
        "misspelt rule section",
        "HEAD[[rules]] #! did you mean `rule`? & missing field `when`\nid = \"r\"\nrationale = \"x\"\nactions = []  #! no actions\n",
    ),
    (
        "one bracket for a rule",
        "HEAD[rule] #! written [[rule]]\nid = \"r\"\nrationale = \"x\"\nwhen = { event = \"oom\" }\nactions = [\"kil\"] #! did you mean `kill`?\n",
    ),
    (
        "misspelt fields beside one signal",
        "HEAD[[rule]]\nid = \"r\"\nrationale = \"x\"\nactions = [\"notify\"]\n[rule.when]\nsignal = \"gpu.temperature\"\nabove = \"90 C\"\nkeep_firing = \"1m\" #! did you mean `keep_firing_for`?\nwarmup = \"10m\" #! stale, rearm, absent, detect, keep_firing_for, phase, warm_up\n",
    ),
    (
        "two brackets for the policy",
        "[[policy]] #! expected one table for the section [policy], found a list\nname = \"p p\" #! expected 1 to 64 characters\nowner = \"o\"\n",
    ),
    (
        "unknown field",
        "HEADonwer = \"x\" #! unknown field `onwer` in the section [policy]\nversion = \"3\" #! expected a whole number, found the text `3`\n",
    ),
    (
        "wrong types of the head",
        "[policy]\nname = 3 #! policy.name: expected a text in quotes, found the number `3`\nowner = [\"a\"] #! policy.owner: expected a text in quotes, found a list\nversion = -1 #! expected a whole number from 0\ndescription = true #! found `true`\non_blind = \"frieze\" #! did you mean `freeze`?\ndead_after = 30 #! expected a duration in quotes, such as \"3s\", found the number `30`\n",
    ),
    (
        "choices",
        "HEADon_blind = \"stop\" #! `stop` is not one of refuse, continue, freeze\non_escape = \"recaptur\" #! did you mean `recapture`?\non_dead_daemon = \"deny_all\" #! did you mean `deny-all`?\ndead_after = \"1s\" #! `1s` is too short\n",
    ),
    ("dead_after alone", "HEADdead_after = \"soon\" #! `dead_after` has no effect & `soon` is not a duration\n"),
    ("egress as a text", "HEADegress = \"10.0.0.0/8\" #! unknown field `egress` in the section [policy]\n"),
    (
        "egress without allow",
        "HEAD[egress] #! missing field `allow` in the section [egress]\nmode = \"enforced\" #! did you mean `enforce`?\n",
    ),
    (
        "a budget without allow",
        "HEAD\n\n[[egress.budget]] #! `[[egress.budget]]` needs the list `allow` in [egress]\nname = \"b\"\nto = [\"10.0.0.0/8\"]\nbytes = \"10 GiB/s\" #! expected a text such as \"10 GiB\"\n",
    ),
    (
        "a budget without anything",
        "HEADALLOW[[egress.budget]] #! missing field `name` & missing field `to` & expected `bytes`, `rate` or both\n",
    ),
    (
        "one bracket for a budget",
        "HEADALLOW[egress.budget] #! written [[egress.budget]]\nname = \"b\"\nto = \"10.0.0.0/8\" #! expected a list in brackets\nrate = 5 #! expected a text such as \"100 MiB/s\"\n",
    ),
    (
        "budgets that overlap",
        "HEADALLOW[[egress.budget]]\nname = \"b\"\nto = [\n  \"10.0.0.0/8\",\n  \"10.0.0.0/99\", #! is not a network\n  \"10.0.0.0/8\", #! is in budget `b` already\n]\nrate = \"1 MB/s\"\n[[egress.budget]]\nname = \"b\" #! another budget has the name `b`\nto = [] #! no networks\nbytes = \"0 B\" #! above 0\n",
    ),
    (
        "allow of texts",
        "HEAD[egress]\nallow = [\n  \"10.0.0.0/8\", #! expected a table, written { cidr\n  { cdir = \"10.0.0.0/8\" }, #! did you mean `cidr`?\n  { ports = 443 }, #! found neither\n  { cidr = \"::/0\", host = \"a.org\" }, #! found both\n  { host = \"10.0.0.1\" }, #! write it as `cidr`\n  { host = \"a..b\", ports = 70000 }, #! is not a host name & expected a port or a range\n  { cidr = \"::/0\", protocol = \"tpc\" }, #! did you mean `tcp`?\n]\ndns_servers = [\n  \"dns.local\", #! is not an address\n  53, #! expected a text in quotes, found the number `53`\n]\n",
    ),
    (
        "ports in several lines",
        "HEAD[egress]\nallow = [{ cidr = \"::/0\", ports = [\n  443,\n  \"9-1\", #! expected a port or a range\n  true, #! found `true`\n] }]\n",
    ),
    (
        "exec",
        "HEAD[exec]\nmode = 1 #! expected a text in quotes\nallow = [\n  \"bin/sh\", #! begins with `/`\n  \"/bin/sh\",\n  \"/bin/sh\", #! listed twice\n  \"/a/../b\", #! matches nothing\n]\nalow = [] #! unknown field `alow`\n",
    ),
    ("exec without allow", "HEAD[exec] #! missing field `allow`\n"),
    (
        "limits",
        "HEAD[limits]\nprocesses = 0 #! `0`, expected a number from 1\nforks_per_second = \"many\" #! expected a whole number\n",
    ),
    ("empty limits", "HEAD[limits] #! expected `processes`, `forks_per_second` or both\n"),
    ("misspelt limits", "HEAD[limits]\nprocess = -2 #! did you mean `processes`? & `-2`, expected a number from 1\n"),
    (
        "syscalls",
        "HEAD[syscalls]\nwatch = [\n  \"ptrac\", #! did you mean `ptrace`?\n  \"@mounts\", #! did you mean `@mount`?\n  \"read\", #! the groups are @module\n]\n",
    ),
    ("syscalls without watch", "HEAD[syscalls] #! missing field `watch`\n"),
    (
        "derived",
        "HEAD[derived]\nspining = { power = \"20 %\" } #! did you mean `spinning`?\nidle_power = { power = 5, utilisation = \"5 %\" } #! expected a share & did you mean `utilization`?\nstalled = { low = \"99 %\" } #! expected low below high\necc_rate = {} #! missing field `over`\nstraggler = { over = \"1s\" } #! expected a duration from\nthermal_slope = \"60s\" #! expected a table\n",
    ),
    ("metrics", "HEAD[metrics]\ngrace = 5 #! expected a duration in quotes\nstale = \"10 ms\" #! expected at least\n"),
    (
        "rule without anything",
        "HEAD[[rule]] #! missing field `id` & missing field `rationale` & missing field `when` & missing field `actions`\n",
    ),
    (
        "rule with wrong types",
        "HEAD[[rule]]\nid = 7 #! expected a text in quotes\nrationale = \"\" #! the text is empty\nowner = false #! expected a text\nseverity = \"high\" #! `high` is not one of info, warning, critical\nconfidence = \"hihg\" #! did you mean `high`?\nlabels = { team = 3 } #! rule[1].labels.team: expected a text\nplaybook = {} #! found a table\nmode = \"obsreve\" #! did you mean `observe`?\nwhen = \"oom\" #! expected a table for `when`, found the text `oom`\nactions = \"freeze\" #! expected a list in brackets\ncooldown = 10 #! expected a duration in quotes\n",
    ),
    ("rules with one id", "RULE{ event = \"oom\" }\nTAILRULE{ event = \"oom\" }\nTAIL^2! another rule has the id `r`"),
    (
        "field of when beside it",
        "RULE{ signal = \"metric.loss\", above = 3 }\nfor = \"3s\" #! `for` belongs in `when`\nTAIL",
    ),
    (
        "field of a rule in when",
        "RULE{ event = \"oom\", severity = \"info\" } #! `severity` belongs beside `when`\nTAIL",
    ),
    ("empty when", "RULE{} #! expected `signal`, `event`, `all`\nTAIL"),
    ("signal and event", "RULE{ signal = \"metric.loss\", event = \"oom\", above = 3 } #! found both\nTAIL"),
    (
        "misspelt signal field",
        "RULE{ signal = \"gpu.power\", abov = \"300 C\" } #! did you mean `above`? & has the unit `C`\nTAIL",
    ),
    (
        "misspelt event field",
        "RULE{ event = \"connect\", adress = \"10.0.0/8\" } #! did you mean `address`? & is not a network\nTAIL",
    ),
    (
        "metric family",
        "RULE{ signal = \"metrics.loss\", above = 3, for = \"x\" } #! did you mean `metric.loss`? & `x` is not a duration\nTAIL",
    ),
    ("cut signal", "RULE{ signal = \"gpu.temp\", above = \"90 C\" } #! did you mean `gpu.temperature`?\nTAIL"),
    (
        "signal in capitals",
        "RULE{ signal = \"GPU-Temperature\", above = \"90 C\" } #! did you mean `gpu.temperature`?\nTAIL",
    ),
    ("no signal of that kind", "RULE{ signal = \"weather\", above = 3 } #! signals are\nTAIL"),
    (
        "several mistakes of a bound",
        "RULE{ signal = \"gpu.temperature\", above = \"90 W\", clear = 80, for = 3 } #! has the unit `W` & the bound needs its unit & expected a duration in quotes\nTAIL",
    ),
    (
        "clear beyond the bound",
        "RULE{ signal = \"gpu.temperature\", above = \"90 C\", clear = \"95 C\" } #! at or below the bound\nTAIL",
    ),
    (
        "window of no rate",
        "RULE{ signal = \"net.egress_bytes\", above = \"10 MiB\", over = \"5s\" } #! the bound has no `/s`\nTAIL",
    ),
    (
        "window of nothing",
        "RULE{ signal = \"net.egress_bytes\", above = \"10 MiB/s\", over = \"0s\" } #! above 0\nTAIL",
    ),
    ("not a number", "RULE{ signal = \"metric.loss\", is = \"not_finite\" } #! expected \"not-finite\"\nTAIL"),
    (
        "grace of another signal",
        "RULE{ signal = \"process.count\", above = 3, grace = \"2m\" } #! is for rules on metric.NAME\nTAIL",
    ),
    (
        "cooldown of a signal",
        "RULE{ signal = \"metric.loss\", above = 3 }\ncooldown = \"later\" #! `cooldown` is for rules on events & `later` is not a duration\nTAIL",
    ),
    (
        "misspelt event",
        "RULE{ event = \"conect\", port = \"https\" } #! did you mean `connect`? & `https`, expected a number\nTAIL",
    ),
    (
        "fields of other events",
        "RULE{ event = \"oom\", port = 4, path = \"/x\" } #! has no field `port` & has no field `path`\nTAIL",
    ),
    (
        "bounds of an event",
        "RULE{ event = \"exec\", above = 3, for = \"3s\" } #! `above` is for signals & `for` is for signals\nTAIL",
    ),
    (
        "values of closed sets",
        "RULE{ event = \"exec\", kind = [\n  \"memfdd\", #! did you mean `memfd`?\n  3, #! `3`, expected one of file\n], verdict = \"deny\" } #! expected one of allowed\nTAIL",
    ),
    (
        "names of families",
        "RULE{ event = \"socket\", family = \"packt\", protocol = \"tpc\" } #! did you mean `packet`? & did you mean `tcp`?\nTAIL",
    ),
    ("syscall without name", "RULE{ event = \"syscall\" } #! expected `name`\nTAIL"),
    (
        "an operator's action",
        "RULE{ event = \"oom\" }\nactions = [\"thaw\", \"notify\", \"notify\"] #! for operators & given twice\n",
    ),
    (
        "an action that no policy has",
        "RULE{ event = \"oom\" }\nactions = [\"recaptur\", 3] #! unknown action `recaptur` & found the number `3`\n",
    ),
    ("misspelt effect", "RULE{ event = \"fork\" }\neffect = \"denny\" #! did you mean `deny`?\nTAIL"),
    (
        "misspelt effect that the event cannot have",
        "RULE{ event = \"oom\" }\neffect = \"denny\" #! `denny` is not one of observe\nTAIL",
    ),
    (
        "effect that the kernel does not give",
        "RULE{ event = \"open\", path = \"etc/x\", comm = \"x\" } #! begins with `/` & cannot match `comm`\neffect = \"deny\"\nTAIL",
    ),
    (
        "a list with a comma too many",
        "HEADversion = \"1\" #! expected a whole number\n[exec]\nallow = [\"/bin/sh\",, \"/x\"] #! not valid TOML\n",
    ),
    ("a text without quotes", "[policy]\nname = trainer #! not valid TOML\nowner = \"o\"\n"),
    ("a key given twice", "HEADname = \"q\" #! not valid TOML: duplicate key\n"),
];

const HEAD: &str = "[policy]\nname = \"p\"\nowner = \"o\"\n";

fn written(case: &str) -> String {
    let rule = format!("{HEAD}[[rule]]\nid = \"r\"\nrationale = \"x\"\nwhen = ");
    let mut text = case.replace("HEAD", HEAD).replace("ALLOW", "[egress]\nallow = [{ cidr = \"::/0\" }]\n");
    if let Some(first) = text.find("RULE") {
        text.replace_range(first..first + 4, &rule);
        text = text.replace("RULE", "[[rule]]\nid = \"r\"\nrationale = \"x\"\nwhen = ");
    }
    text.replace("TAIL", "actions = [\"notify\"]\n")
}

/// The policy as a file, and what is expected of which line.
fn split(case: &str) -> (String, Vec<(usize, String)>) {
    let (mut text, mut expected) = (String::new(), Vec::new());
    for line in written(case).lines() {
        if let Some((_, about)) = line.split_once("^2! ") {
            // The second id of the file.
            let second = text.lines().enumerate().filter(|(_, line)| *line == "id = \"r\"").nth(1).unwrap().0 + 1;
            expected.push((second, about.to_owned()));
            continue;
        }
        let (kept, mistakes) = line.split_once("#! ").unwrap_or((line, ""));
        text.push_str(kept);
        text.push('\n');
        let number = text.lines().count();
        expected
            .extend(mistakes.split(" & ").filter(|text| !text.is_empty()).map(|text| (number, text.trim().to_owned())));
    }
    (text, expected)
}

fn whole(d: &Diagnostic) -> String {
    Diagnostics { file: "p.toml".into(), list: vec![d.clone()] }.to_string()
}

fn found(text: &str) -> Vec<Diagnostic> {
    let list = parse("p.toml", text).expect_err(text).list;
    list.into_iter().filter(|d| d.level == Level::Error).collect()
}

#[test]
fn every_mistake_is_reported_at_its_line() {
    assert!(CASES.len() >= 40);
    for (name, case) in CASES {
        let (text, expected) = split(case);
        assert!(!expected.is_empty(), "{name}");
        let all = found(&text);
        let shown = Diagnostics { file: "p.toml".into(), list: all.clone() };
        for (line, about) in &expected {
            let there = all.iter().any(|d| d.line == *line && whole(d).contains(about.as_str()));
            assert!(there, "{name}: line {line}: {about}\nin\n{text}\ngot\n{shown}");
        }
        assert_eq!(all.len(), expected.len(), "{name}: no mistake causes a second one\n{text}\ngot\n{shown}");
    }
}

#[test]
fn every_diagnostic_has_a_place_and_plain_words() {
    for (name, case) in CASES {
        let (text, _) = split(case);
        for d in found(&text) {
            let shown = whole(&d);
            for word in ["struct", "Raw", "enum", "variant", " map", "invalid type", "sequence", "serde", "deserial"] {
                assert!(!shown.contains(word), "{name}: {word}\n{shown}");
            }
            assert!((1..=text.lines().count()).contains(&d.line) && d.column > 0, "{name}\n{shown}");
            let whole_file = d.message.contains("section [policy]") || d.message.contains("not valid TOML");
            assert!(whole_file || !d.field.is_empty(), "{name}: no field\n{shown}");
        }
    }
}

/// A suggestion that is followed ends the mistake: nobody is sent to a name that a policy cannot use there.
#[test]
fn what_is_suggested_can_be_used() {
    let mut followed = 0;
    for (name, case) in CASES {
        let (text, _) = split(case);
        let before = found(&text);
        for d in &before {
            let Some(near) = d.help.as_deref().and_then(|help| help.strip_prefix("did you mean `")) else { continue };
            let near = near.trim_end_matches("`?");
            let lines: Vec<&str> = text.lines().collect();
            let (line, column) = (lines[d.line - 1], d.column - 1);
            let rest = &line[column..];
            let quoted = rest.starts_with('"');
            let start = column + usize::from(quoted);
            let length = line[start..]
                .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@')))
                .unwrap_or(line.len() - start);
            let mut mended: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            mended[d.line - 1].replace_range(start..start + length, near);
            let mended = format!("{}\n", mended.join("\n"));
            let after = parse("p.toml", &mended).map_or_else(|wrong| wrong.list, |_| Vec::new());
            let still = after
                .iter()
                .any(|other| other.line == d.line && other.column == d.column && other.level == Level::Error);
            let other_mistake =
                before.iter().any(|other| other != d && other.line == d.line && other.column == d.column);
            assert!(!still || other_mistake, "{name}: `{near}`\n{mended}\n{}", whole(d));
            followed += 1;
        }
    }
    assert!(followed >= 25, "{followed}");
}

#[test]
fn durations_are_the_same_everywhere() {
    for text in ["90s", "5m", "5min", "1h", "1h30m", "1.5h", "2d"] {
        let fields = [
            format!("{HEAD}on_dead_daemon = \"deny-all\"\ndead_after = \"{text}\"\n"),
            format!("{HEAD}[metrics]\ngrace = \"{text}\"\nstale = \"{text}\"\n"),
            with_rule(&format!(
                "{{ signal = \"metric.loss\", above = 3, for = \"{text}\", grace = \"{text}\", stale = \"{text}\" }}"
            )),
            with_rule(&format!("{{ signal = \"metric.loss\", above = 3, rearm = \"after {text}\" }}")),
            with_rule(&format!("{{ signal = \"net.egress_bytes\", above = \"1 MiB/s\", over = \"{text}\" }}")),
            with_rule(&format!("{{ signal = \"cpu.time\", above = \"{text}\" }}")),
            with_rule("{ event = \"oom\" }") + &format!("cooldown = \"{text}\"\n"),
        ];
        for policy in fields {
            parse("p", &policy).unwrap_or_else(|e| panic!("{text}: {e}"));
        }
    }
    parse("p", &format!("{HEAD}[derived]\necc_rate = {{ over = \"1h30m\" }}\n")).unwrap();
}

fn warnings(text: &str) -> Vec<Diagnostic> {
    check("p.toml", text).unwrap_or_else(|e| panic!("{e}")).warnings.list
}

#[test]
fn a_network_with_bits_behind_its_prefix_is_warned_about() {
    let rule = with_rule("{ event = \"connect\", address = \"10.0.0.1/8\" }");
    let egress = "\n[egress]\nallow = [\n  { cidr = \"10.0.0.1/8\" },\n  { cidr = \"10.0.0.1\" },\n]\n\
                  [[egress.budget]]\nname = \"b\"\nto = [\"fd00::1/8\"]\nrate = \"1 MB/s\"\n";
    let found = warnings(&(rule + egress));
    assert_eq!(found.iter().map(|d| d.line).collect::<Vec<_>>(), [8, 13, 18]);
    assert!(found.iter().all(|d| d.level == Level::Warning), "{found:?}");
    let shown = whole(&found[1]);
    assert!(
        shown.starts_with("p.toml:13:12: warning: egress.allow[1].cidr: `10.0.0.1/8` has bits behind its prefix"),
        "{shown}"
    );
    assert!(shown.contains("read as 10.0.0.0/8") && shown.contains("write \"10.0.0.0/8\""), "{shown}");
}

#[test]
fn a_policy_without_rules_is_warned_about() {
    for (text, expected) in [
        (HEAD.to_owned(), "no rules and no sections: it limits nothing"),
        (format!("{HEAD}[limits]\nprocesses = 3\n"), "nobody is notified and no run is frozen"),
    ] {
        let found = warnings(&text);
        assert!(found.len() == 1 && found[0].line == 1 && found[0].message.contains(expected), "{found:?}");
    }
    assert!(warnings(GOOD).is_empty(), "{:?}", warnings(GOOD));
}

#[test]
fn a_rule_that_never_trips_is_warned_about() {
    let one = |when: &str| warnings(&with_rule(when)).into_iter().map(|d| d.message).collect::<Vec<_>>();
    for (when, expected) in [
        ("{ event = \"exec\", path = \"curl\" }", "a path begins with `/`, but `curl` does not"),
        ("{ event = \"exec\", path = \"/usr/*/curl\" }", "has one inside"),
        ("{ event = \"open\", path = [\"etc/*\", \"shadow\"] }", "but `etc/` does not"),
        ("{ event = \"connect\", verdict = \"denied\" }", "nothing in this policy denies `connect`: add [egress]"),
        ("{ event = \"exec\", verdict = \"denied\" }", "nothing in this policy denies `exec`: add [exec]"),
        ("{ event = \"dns\", name = \"Example.ORG\" }", "names are in lower case"),
        ("{ signal = \"process.count\", below = 0 }", "process.count is never below 0"),
    ] {
        let found = one(when);
        assert!(
            found.iter().any(|d| d.starts_with("the rule never trips: ") && d.contains(expected)),
            "{when}: {found:?}"
        );
    }
    for when in [
        "{ event = \"exec\", path = [\"curl\", \"*/curl\"] }",
        "{ event = \"exec\", path = \"/usr/bin/*\" }",
        "{ event = \"connect\", verdict = [\"denied\", \"allowed\"] }",
        "{ event = \"dns\", name = \"*.example.org\" }",
        "{ signal = \"process.count\", below = 1 }",
        "{ signal = \"gpu.temperature\", below = \"0 C\" }",
    ] {
        assert_eq!(one(when), Vec::<String>::new(), "{when}");
    }
    let egress = "\n[egress]\nallow = [{ cidr = \"10.0.0.0/8\" }]\n";
    assert!(warnings(&(with_rule("{ event = \"send\", verdict = \"denied\" }") + egress)).is_empty());
    let cordon = with_rule("{ event = \"fork\" }").replace("[\"freeze\"]", "[\"cordon-gpu\"]");
    assert!(warnings(&cordon).iter().any(|d| d.message.contains("the rule does not trip on a GPU")), "{cordon}");
}

#[test]
fn a_mistake_of_the_whole_file_has_no_field() {
    let text = "[[rule]]\nid = \"a\"\nrationale = \"x\"\nwhen = { event = \"oom\" }\nactions = [\"notify\"]\n";
    let missing = found(text).into_iter().find(|d| d.message.contains("missing section [policy]")).unwrap();
    assert_eq!((missing.line, missing.field.as_str()), (1, ""));
}

#[test]
fn what_is_quoted_is_short_and_has_no_control_characters() {
    let long = "x".repeat(10_000);
    for text in [
        with_rule(&format!("{{ signal = \"{long}\", above = 3 }}")),
        with_rule(&format!("{{ event = \"{long}\" }}")),
        with_rule(&format!("{{ event = \"syscall\", name = \"{long}\" }}")),
        with_rule(&format!("{{ event = \"oom\", {long} = 3 }}")),
        format!("{HEAD}on_blind = \"{long}\"\n"),
        format!("{HEAD}[exec]\nallow = [\"{long}\"]\n"),
        format!("[policy]\nname = \"{long}\"\nowner = \"o\"\n"),
    ] {
        for d in found(&text) {
            assert!(whole(&d).chars().count() < 1_200, "{}", whole(&d));
        }
    }
    for raw in ["\\u001b[2J", "\\u009b2J", "\\u202e", "\\u0007"] {
        let text = with_rule(&format!("{{ signal = \"{raw}\", above = 3, \"{raw}\" = 3 }}"));
        for d in found(&text) {
            let shown = whole(&d);
            assert!(shown.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{shown:?}");
            assert!(!d.message.chars().any(char::is_control), "programs get it without them too: {:?}", d.message);
        }
    }
}

#[test]
fn thousands_of_mistakes_are_counted_and_cost_little() {
    let entries = "3,".repeat(60_000);
    let text = format!("{HEAD}[exec]\nallow = [{entries}]\n");
    let all = found(&text);
    assert!(all.len() <= 500 && all.last().unwrap().message.contains("more mistakes are not listed"), "{}", all.len());
    let rules = "[[rule]]\nwhen = { signal = \"gpu.temprature\" }\n".repeat(5_000);
    assert!(found(&format!("{HEAD}{rules}")).len() <= 500);
    let paths: String = (0..20_000).map(|n| format!("\"/{n}\",")).collect();
    assert!(parse("p", &format!("{HEAD}[exec]\nallow = [{paths}]\n")).is_ok());
}
