//! The configuration: defaults, mistakes with their places, drop-ins.

use super::*;

fn parse(text: &str) -> Result<Config, String> {
    let texts = [failsafe_files::Text { path: "f.toml".into(), text: text.to_owned() }];
    let merged = failsafe_files::merged(&texts, Config::wrong).map(|(config, _)| config);
    merged.map_err(|wrong| Mistakes(wrong.into_iter().map(ConfigError::Wrong).collect()).to_string())
}

#[test]
fn defaults_hold_and_mistakes_are_named() {
    assert_eq!(parse("").unwrap().sample_interval_ms, 1_000);
    assert_eq!(parse("[nvml]\nlibrary = \"/x.so\"").unwrap().nvml.library.unwrap(), Path::new("/x.so"));
    for (text, expected) in [
        ("sokcet = \"/x\"", "unknown field `sokcet`"),
        ("socket = \"x\"", "f.toml:1:10: socket: expected an absolute path"),
        ("cgroup_parent = \"/sys\"", "relative to the cgroup2 mount"),
        ("start_from = [\"/\"]", "not the root"),
        ("sample_interval_ms = 5", "50 to 60000"),
        ("ring_kib = 1000", "power of two"),
        ("[kernel_tables]\nper_user_percent = 90", "f.toml:1:2: kernel_tables: expected per_user_percent"),
        ("[limits.streams]\nper_user = 9\ntotal = 9\nreserve = 99", "limits.streams: expected per_user"),
        ("[audit_log]\nheartbeat = \"5 ms\"", "audit_log.heartbeat: expected 1s to 1h, not 5ms"),
        ("[audit_log]\nkeep_days = 0", "audit_log.keep_days: expected 1 to 36500, not 0"),
        ("[drill]\nevery = \"1s\"", "f.toml:2:9: drill.every: expected 10s to 30d, not 1.0 s"),
        ("[drill]\nevery = \"90d\"", "`90d`: expected a time up to 30d"),
        ("[drill]\nevery = \"1h\"\njitter = \"2h\"", "drill.jitter: expected at most drill.every"),
        ("[redact]\nname = []", "unknown field `name`"),
        ("[limits]\nmessage_kib = 8", "limits.message_kib: expected 320 to 4096, not 8"),
        ("[limits]\nconnections = { per_user = 1 }", "missing field"),
        ("policy_dir = \"x\"", "f.toml:1:14: policy_dir: expected an absolute path"),
        ("mode = \"off\"", "unknown name `off`"),
        ("[discovery]\nroot = \"/x\"", "f.toml:2:8: discovery.root: expected a path relative"),
        ("[discovery]\nroot = \"a/../b\"", "discovery.root"),
        ("[discovery]\nruns = 0", "f.toml:2:8: discovery.runs: expected 1 to 1000, not 0"),
        ("[[discover]]\nname = \"a\"\npolicy = \"p\"", "expected either `match` or `preset`"),
        ("[[discover]]\nname = \"a\"\npolicy = \"p\"\nmatch = \"/x\"", "relative to the cgroup2 mount"),
        ("[nvml.every]\nslwo = \"5s\"", "f.toml:2:1: "),
        ("[nvml.every]\nslwo = \"5s\"", "no group and no signal is named `slwo`"),
        ("[nvml.every]\nslow = \"5 parsecs\"", "f.toml:2:8: "),
        ("[nvml.every]\nslow = \"2h\"", "`2h`: expected a time up to 1h"),
        ("[nvml.every]\n\"gpu.power\" = \"0s\"", "expected a time up to 1h"),
        ("[nvml.every]\n\"memory.used\" = \"5s\"", "not read of a GPU"),
        (
            "[nvml.every]\nslow = \"500 ms\"",
            "f.toml:2:8: nvml.every.slow: expected at least sample_interval_ms, which is 1000",
        ),
    ] {
        assert!(parse(text).unwrap_err().contains(expected), "{text}");
    }
}

#[test]
fn groups_and_signals_have_rates_of_their_own() {
    let text = "sample_interval_ms = 500\n[nvml.every]\nslow = \"2s\"\n\"gpu.ecc_uncorrected\" = \"500 ms\"\n";
    let every = parse(text).unwrap().every();
    let ms = Duration::from_millis;
    let ecc = Rated::Signal(failsafe_core::Kind::GpuEccUncorrected);
    assert_eq!(every, Every::from([(Rated::Slow, ms(2_000)), (ecc, ms(500))]));
    assert!(parse("").unwrap().every().is_empty());
}

#[test]
fn thresholds_of_health_come_from_the_file_that_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("health.toml");
    let config = parse(&format!("[gpu]\nhealth = {:?}", file.display().to_string())).unwrap();
    assert!(config.catalogues().unwrap_err().to_string().contains("cannot be read"), "a file that is not there");
    std::fs::write(&file, "[[check]]\ncode = \"ecc-storm\"\ngrows = 99\n").unwrap();
    assert_ne!(config.catalogues().unwrap().health, Thresholds::built_in().unwrap());
    std::fs::write(&file, "[[check]]\ncode = \"ecc-storm\"\ngrows = \"many\"\n").unwrap();
    let told = config.catalogues().unwrap_err().to_string();
    assert!(told.contains("health.toml:3:9: check `ecc-storm`: `grows` is `many`"), "{told}");
}

/// The fields of a section that its reader names for one that it does not know.
fn fields(section: &str) -> Vec<String> {
    let told = parse(&format!("{section}no-such-field = 1")).unwrap_err();
    let (_, list) = told.lines().next().unwrap().split_once(", expected ").unwrap_or_else(|| panic!("{told}"));
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_field_is_in_the_reference_and_in_the_shipped_file_and_they_name_no_other() {
    const REFERENCE: &str = include_str!("../../../docs/configuration.md");
    const SHIPPED: &str = include_str!("../../../systemd/failsafed.toml");
    let rows = REFERENCE.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let mut documented: Vec<&str> = rows.map(|(key, _)| key).filter(|key| !key.starts_with('/')).collect();
    let is_section = |field: &String| REFERENCE.contains(&format!("### `[{field}]`"));
    let (sections, single): (Vec<String>, Vec<String>) = fields("").into_iter().partition(is_section);
    let inner = |section: &String| {
        let fields = fields(&format!("[{section}]\n"));
        fields.into_iter().map(|field| format!("{section}.{field}")).collect::<Vec<_>>()
    };
    let all: Vec<String> = single.into_iter().chain(sections.iter().flat_map(inner)).collect();
    for key in &all {
        assert!(documented.contains(&key.as_str()), "docs/configuration.md lacks {key}");
        let name = key.rsplit('.').next().unwrap();
        let shown = [format!("#{name} = "), format!(".{name}]"), format!("[[{name}]]")]
            .iter()
            .any(|text| SHIPPED.contains(text));
        assert!(shown, "systemd/failsafed.toml lacks {key}");
    }
    documented.retain(|key| !all.iter().any(|field| field == key));
    assert_eq!(documented, Vec::<&str>::new(), "docs/configuration.md has keys that are none");
}

/// A configuration with these drop-ins.
fn folder(base: &str, drop_ins: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("failsafed.toml");
    std::fs::write(&file, base).unwrap();
    std::fs::create_dir(folder.path().join("failsafed.d")).unwrap();
    for (name, text) in drop_ins {
        std::fs::write(folder.path().join("failsafed.d").join(name), text).unwrap();
    }
    (folder, file)
}

#[test]
fn every_mistake_of_every_file_is_named_with_its_line_and_field() {
    let base = "sample_interval_ms = \"often\"\n\n[limits]\nidle = 3\nstreams = { per_user = 1 }\n";
    let (_folder, file) = folder(base, &[("10-a.toml", "[drift]\nperiod_s = -1\n"), ("20-b.toml", "ring_kib = [1\n")]);
    let told = Config::load(Some(&file)).unwrap_err().to_string();
    for expected in [
        "failsafed.toml:1:22: sample_interval_ms: expected a whole number, 0 or more, found the text `often`",
        "failsafed.toml:4:1: limits.idle: unknown field `idle`",
        "failsafed.toml:5:11: limits.streams: missing field `total`",
        "10-a.toml:2:12: drift.period_s: ",
        "20-b.toml:1:",
    ] {
        assert!(told.contains(expected), "{expected} is missing in\n{told}");
    }
    let values = "sample_interval_ms = 5\n[drift]\nperiod_s = 0\ncpu_percent = 0\n[limits]\nidle_s = 0\n";
    let (_folder, file) = folder(values, &[("a.toml", "[limits]\nunread_s = 0\n")]);
    let told = Config::load(Some(&file)).unwrap_err().to_string();
    for expected in [
        "failsafed.toml:1:22: sample_interval_ms: expected 50 to 60000, not 5",
        "failsafed.toml:3:12: drift.period_s: expected 1 to 86400, not 0",
        "failsafed.toml:4:15: drift.cpu_percent: expected 0.01 to 100, not 0",
        "failsafed.toml:6:10: limits.idle_s: expected 1 to 86400, not 0",
        "a.toml:2:12: limits.unread_s: expected 1 to 3600, not 0",
    ] {
        assert!(told.contains(expected), "{expected} is missing in\n{told}");
    }
}

#[test]
fn every_mistake_of_every_discovery_rule_is_reported_at_its_rule() {
    let rule = |name: &str, rest: &str| format!("[[discover]]\nname = \"{name}\"\n{rest}");
    let text = [
        rule("a", "match = \"x/*\"\npolicy = \"p\"\n"),
        rule("b", "match = [\"y/*\", \"/z\"]\npolicy = \"./p\"\n"),
        rule("c", "policy = \"p\"\n"),
        rule("a", "match = \"x/*\"\npolicy = \"p\"\nmode = \"obey\"\n"),
        rule("d", "match = []\npolicy = \"p\"\n"),
    ];
    let (_folder, file) = folder(&text.concat(), &[]);
    let reported = Config::load(Some(&file)).unwrap_err().to_string();
    for expected in [
        "failsafed.toml:7:17: discover.match: pattern `/z`: expected a path relative to the cgroup2 mount",
        "failsafed.toml:8:10: discover.policy: policy `./p`: expected the name of a policy, not a path",
        "failsafed.toml:9:1: discover: rule `c`: expected either `match` or `preset`",
        "failsafed.toml:16:8: discover.mode: ",
        "failsafed.toml:19:9: discover.match: expected at least one pattern",
    ] {
        assert!(reported.contains(expected), "{expected} is missing in\n{reported}");
    }
    let text = [rule("a", "match = \"x/*\"\npolicy = \"p\"\n"), rule("a", "match = \"y/*\"\npolicy = \"p\"\n")];
    let (_folder, file) = folder(&text.concat(), &[]);
    let reported = Config::load(Some(&file)).unwrap_err().to_string();
    assert!(reported.contains("failsafed.toml:5:1: discover: two rules are named `a`"), "{reported}");
}

#[test]
fn one_mistake_hides_no_other_one() {
    let rule =
        |name: &str, pattern: &str| format!("[[discover]]\nname = \"{name}\"\nmatch = {pattern}\npolicy = \"p\"\n");
    let folder_of_roles = tempfile::tempdir().unwrap();
    let roles = folder_of_roles.path().join("roles.toml");
    std::fs::write(
        &roles,
        "[[identity]]\nsan = \"a\"\nrole = \"viewer\"\n[[identity]]\nsan = \"dns:b\"\nrole = \"root\"\n",
    )
    .unwrap();
    let text = [
        "start_from = [1, \"/a\", true]\nring_kib = 3\n".to_owned(),
        format!("[gateway]\nroles = {:?}\n", roles.display().to_string()),
        rule("a", "[\"/x\", \"y/*\", \"/z\"]"),
        rule("b", "\"x/*\""),
        rule("b", "\"y/*\""),
    ];
    let (_folder, file) =
        folder(&text.concat(), &[("a.toml", &format!("[discovery]\nruns = 0\n{}", rule("b", "\"z/*\"")))]);
    let reported = Config::load_all(Some(&file)).unwrap_err().to_string();
    for expected in [
        "failsafed.toml:1:15: start_from: ",
        "failsafed.toml:1:24: start_from: ",
        "failsafed.toml:2:12: ring_kib: expected a power of two",
        "failsafed.toml:7:10: discover.match: pattern `/x`: expected",
        "failsafed.toml:7:23: discover.match: pattern `/z`: expected",
        "failsafed.toml:13:1: discover: two rules are named `b`",
        "a.toml:2:8: discovery.runs: expected 1 to 1000, not 0",
        "a.toml:3:1: discover: two rules are named `b`",
        "roles.toml:2:7: identity.san: expected dns:NAME",
        "roles.toml:6:8: identity.role: ",
    ] {
        assert!(reported.contains(expected), "{expected} is missing in\n{reported}");
    }
    // Nothing is reported of a key only because its value is wrong otherwise.
    let (_folder, file) = folder("sample_interval_ms = \"1s\"\n[limits]\nconnections = { per_user = 0 }\n", &[]);
    let Mistakes(all) = Config::load(Some(&file)).unwrap_err();
    assert_eq!(all.len(), 1, "one file: {all:?}");
}

#[test]
fn tables_of_discovery_that_are_mixed_up_are_explained() {
    for (text, help) in [
        ("[discover]\nname = \"a\"\npolicy = \"p\"\nmatch = \"x/*\"\n", "write `[[discover]]`: each rule"),
        ("[[discovery]]\nname = \"a\"\npolicy = \"p\"\nmatch = \"x/*\"\n", "write `[[discover]]` for a rule"),
    ] {
        let (_folder, file) = folder(text, &[]);
        let reported = Config::load(Some(&file)).unwrap_err().to_string();
        assert!(reported.contains(&format!("= help: {help}")), "{help} is missing in\n{reported}");
    }
}

#[test]
fn drop_ins_are_merged_in_the_order_of_their_names() {
    let base = "ring_kib = 64\nstart_from = [\"/a\", \"/b\"]\n[limits]\nidle_s = 7\nunread_s = 9\n[nvml.every]\nslow = \"3s\"\n";
    let drop_ins = [
        ("20-late.toml", "ring_kib = 256\nstart_from = [\"/c\"]\n[nvml.every]\nrare = \"9s\"\n"),
        (
            "10-early.toml",
            "ring_kib = 128\n[limits]\nidle_s = 8\nstreams = { per_user = 1, total = 2, reserve = 16 }\n",
        ),
        ("ignored.conf", "ring_kib = 3\n"),
        (".ignored.toml", "ring_kib = 3\n"),
        ("README", "text\n"),
    ];
    let (_folder, file) = folder(base, &drop_ins);
    let config = Config::load(Some(&file)).unwrap();
    assert_eq!((config.ring_kib, config.limits.idle_s, config.limits.unread_s), (256, 8, 9));
    assert_eq!((config.limits.streams.per_user, config.limits.requests.per_user), (1, 64));
    assert_eq!(config.start_from, [PathBuf::from("/c")], "a list is replaced");
    assert_eq!(config.every().len(), 2, "tables are merged");

    let rule = |name: &str| format!("[[discover]]\nname = \"{name}\"\npreset = \"slurm\"\npolicy = \"p\"\n");
    let (_folder, file) = folder(&rule("a"), &[("a.toml", &rule("b"))]);
    let rules = format!("{:?}", Config::load(Some(&file)).unwrap().discover);
    assert!(rules.contains("\"a\"") && rules.contains("\"b\""), "entries of both files: {rules}");
    let (_folder, file) = folder(&rule("a"), &[("a.toml", &rule("a"))]);
    let twice = Config::load(Some(&file)).unwrap_err().to_string();
    assert!(twice.contains("failsafed.d/a.toml:1:1: discover: two rules are named `a`"), "{twice}");
    let (_folder, file) = folder(&rule("a"), &[("a.toml", "ring_kib = 64\ndiscover = []\n")]);
    let error = Config::load(Some(&file)).unwrap_err().to_string();
    assert!(error.contains("failsafed.d/a.toml:2:12: discover: an empty list does not remove"), "{error}");
    let (_folder, file) = folder("discover = []\n", &[("a.toml", &rule("a"))]);
    assert!(!Config::load(Some(&file)).unwrap().discover.0.is_empty(), "nothing is removed");
}

#[test]
fn keys_that_are_set_otherwise_are_named_wherever_they_are_set() {
    let base = "ring_kib = 64\n[limits]\nidle_s = 7\nstreams = { per_user = 1, total = 2, reserve = 16 }\n";
    let (_one, before) = folder(base, &[]);
    let streams = "[limits.streams]\nper_user = 1\ntotal = 3\nreserve = 16\n[drift]\nperiod_s = 9\n";
    let (_other, after) = folder(&base.replace("idle_s = 7\n", ""), &[("a.toml", streams)]);
    let keys = |file: &Path| Config::load_keys(Some(file)).unwrap().1;
    assert_eq!(keys(&before).changed(&keys(&after)), ["drift.period_s", "limits.idle_s", "limits.streams.total"]);
    assert_eq!(keys(&before).changed(&keys(&before)), Vec::<String>::new());
}

#[test]
fn a_wrong_value_that_a_later_file_corrects_is_no_mistake_and_the_last_file_is_named_for_one() {
    let (_folder, file) = folder("ring_kib = 3\n", &[("a.toml", "ring_kib = 64\n")]);
    assert_eq!(Config::load(Some(&file)).unwrap().ring_kib, 64);
    let (_folder, file) = folder("ring_kib = 64\n", &[("a.toml", "\nring_kib = 3\n")]);
    let told = Config::load(Some(&file)).unwrap_err().to_string();
    assert!(
        told.contains("failsafed.d/a.toml:2:12: ring_kib: expected a power of two from 4 to 65536, not 3"),
        "{told}"
    );
}

#[test]
fn a_file_that_is_no_regular_file_or_no_text_is_refused_and_read_to_no_end() {
    let (folder, file) = folder("", &[("a.toml", "")]);
    std::fs::write(folder.path().join("failsafed.d/b.toml"), [0xff, 0xfe]).unwrap();
    nix::unistd::mkfifo(&folder.path().join("failsafed.d/c.toml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink("/dev/zero", folder.path().join("failsafed.d/d.toml")).unwrap();
    std::fs::write(folder.path().join("failsafed.d/e.toml"), " ".repeat(1 << 21)).unwrap();
    let told = Config::load(Some(&file)).unwrap_err().to_string();
    for name in ["b.toml: cannot be read", "c.toml: cannot", "d.toml: cannot", "e.toml: cannot"] {
        assert!(told.contains(name), "{name} is missing in\n{told}");
    }
    assert!(Config::load(Some(&folder.path().join("other.toml"))).is_err(), "a file that is named must exist");
}
