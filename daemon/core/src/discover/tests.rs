//! Every form of path that schedulers and container engines of the field make.

use super::*;
use crate::decision::Mode;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const POD: &str = "1e0c22a1_52ba_4bb0_9c2c_7a5e8a1b2c3d";
const POD_DASHES: &str = "1e0c22a1-52ba-4bb0-9c2c-7a5e8a1b2c3d";

fn rules() -> Rules {
    let rules = Preset::ALL.iter().map(|preset| Rule {
        name: preset.name().into(),
        patterns: preset.patterns().unwrap(),
        policy: "p".into(),
        shadow: None,
        mode: Mode::Enforce,
        labels: Labels::new(),
    });
    Rules::new(rules.collect()).unwrap()
}

fn filled(path: &str) -> String {
    path.replace("ID", ID).replace("PODU", POD).replace("PODD", POD_DASHES)
}

#[test]
fn every_form_of_the_field_matches_with_its_labels() {
    let rules = rules();
    for (path, rule, labels) in [
        ("system.slice/slurmstepd.scope/job_7/step_0/user", "slurm", "job=7 step=0"),
        ("system.slice/slurmstepd.scope/job_7/step_batch/user", "slurm", "job=7 step=batch"),
        ("system.slice/slurmstepd.scope/job_7/step_extern/user", "slurm", "job=7 step=extern"),
        ("system.slice/slurmstepd.scope/job_7/step_interactive/user", "slurm", "job=7 step=interactive"),
        ("system.slice/n1_slurmstepd.scope/job_7/step_0/user", "slurm", "job=7 node=n1 step=0"),
        ("system.slice/slurmstepd.scope/s7K3B0ABCDEF/step_0/user", "slurm", "job=s7K3B0ABCDEF step=0"),
        ("system.slice/n1_slurmstepd.scope/s7K3B0ABCDEF/step_0/user", "slurm", "job=s7K3B0ABCDEF node=n1 step=0"),
        ("kubepods.slice/kubepods-podPODU.slice/cri-containerd-ID.scope", "kubernetes", "container=ID pod=PODD"),
        (
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podPODU.slice/crio-ID.scope",
            "kubernetes",
            "container=ID pod=PODD",
        ),
        (
            "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podPODU.slice/docker-ID.scope",
            "kubernetes",
            "container=ID pod=PODD",
        ),
        ("kubepods/podPODD/ID", "kubernetes", "container=ID pod=PODD"),
        ("kubepods/burstable/podPODD/ID", "kubernetes", "container=ID pod=PODD"),
        ("kubepods/besteffort/podPODD/crio-ID", "kubernetes", "container=ID pod=PODD"),
        (
            "kubepods/pod0123456789abcdef0123456789abcdef/ID",
            "kubernetes",
            "container=ID pod=0123456789abcdef0123456789abcdef",
        ),
        ("system.slice/docker-ID.scope", "docker", "container=ID"),
        ("docker/ID", "docker", "container=ID"),
        ("machine.slice/libpod-ID.scope", "podman", "container=ID"),
        ("machine.slice/machine-libpod_pod_ID.slice/libpod-ID.scope", "podman", "container=ID pod=ID"),
        ("system.slice/train.service/libpod-payload-ID", "podman", "container=ID unit=train"),
        ("libpod_parent/libpod-ID", "podman", "container=ID"),
        ("libpod_parent/ID/libpod-ID", "podman", "container=ID pod=ID"),
        ("system.slice/run-u12.service", "systemd-run", "unit=12"),
        ("system.slice/run-u12.scope", "systemd-run", "unit=12"),
        ("system.slice/run-p812-i4711.service", "systemd-run", "pid=812 unit=4711"),
        (
            "system.slice/run-r0123456789abcdef0123456789abcdef.scope",
            "systemd-run",
            "unit=0123456789abcdef0123456789abcdef",
        ),
        ("user.slice/user-1000.slice", "user-slices", "uid=1000"),
    ] {
        let path = filled(path);
        let Explained::Match(found) = rules.explain(&path) else { panic!("{path}: {:?}", rules.explain(&path)) };
        assert_eq!(found.rule.name, rule, "{path}");
        let mut given = found.labels.clone();
        assert_eq!(given.remove(LABEL).as_deref(), Some(rule), "{path}");
        let given: Vec<String> = given.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(given.join(" "), filled(labels), "{path}");
        assert_eq!(found.uid, (rule == "user-slices").then_some(1000), "{path}");
    }
}

#[test]
fn nothing_else_matches() {
    let rules = rules();
    for path in [
        "system.slice",
        "system.slice/sshd.service",
        "system.slice/slurmd.service",
        "system.slice/slurmstepd.scope/job_7/step_0/user/task_0",
        "system.slice/slurmstepd.scope/job_7/step_0/user/task_special",
        "system.slice/slurmstepd.scope/system",
        "user.slice/user-1000.slice/session-3.scope",
        "user.slice/user-1000.slice/user@1000.service/app.slice/system.slice/docker-ID.scope",
        "user.slice/user-1000.slice/system.slice/slurmstepd.scope/job_7/step_0/user",
        "user.slice/user-x.slice",
        "x/system.slice/slurmstepd.scope/job_7/step_0/user",
        "kubepods.slice/kubepods-podPODU.slice",
        "kubepods/podPODD",
        "docker",
        "docker/short",
        "machine.slice/libpod-ID.scope/container",
        "libpod_parent/conmon",
        "libpod_parent/ID/conmon",
        "libpod_parent/ID",
        "system.slice/run-backup.service",
        "slurm/uid_1000/job_7/step_0/task_0",
    ] {
        let path = filled(path);
        let Explained::None(misses) = rules.explain(&path) else { panic!("{path} matches") };
        assert_eq!(misses.len(), Preset::ALL.iter().map(|preset| preset.texts().len()).sum::<usize>(), "{path}");
    }
}

#[test]
fn no_cgroup_of_a_supervisor_matches_whatever_a_rule_says() {
    let any = |text: &str| Rule {
        name: "any".into(),
        patterns: vec![text.parse().unwrap()],
        policy: "p".into(),
        shadow: None,
        mode: Mode::Enforce,
        labels: Labels::new(),
    };
    for (pattern, path) in [
        ("system.slice/slurmstepd.scope", "system.slice/slurmstepd.scope"),
        ("system.slice/{x}", "system.slice/n1_slurmstepd.scope"),
        ("system.slice/slurmstepd.scope/{x}", "system.slice/slurmstepd.scope/job_7"),
        ("system.slice/slurmstepd.scope/{x}/{y}", "system.slice/slurmstepd.scope/job_7/step_0"),
        ("system.slice/slurmstepd.scope/{x}/{y}/{z}", "system.slice/slurmstepd.scope/job_7/step_0/slurm"),
        ("system.slice/slurmstepd.scope/{x}/{y}/{z}/*", "system.slice/slurmstepd.scope/job_7/step_0/slurm/x"),
        ("machine.slice/{x}", "machine.slice/libpod-conmon-ID.scope"),
        ("kubepods.slice/{x}/{y}", "kubepods.slice/kubepods-podPODU.slice/crio-conmon-ID.scope"),
        ("system.slice/{x}/{y}", "system.slice/train.service/runtime"),
        ("machine.slice/{x}/{y}", "machine.slice/libpod-ID.scope/supervisor"),
        ("libpod_parent/{x}", "libpod_parent/conmon"),
        ("user.slice/{x}/{y}/{z}", "user.slice/user-1000.slice/user@1000.service/init.scope"),
        ("user.slice/user-{uid:number}.slice", "user.slice/user-0.slice"),
        ("user.slice/{x}/{y}", "user.slice/user-0.slice/session-1.scope"),
    ] {
        let (rules, path) = (Rules::new(vec![any(pattern)]).unwrap(), filled(path));
        assert!(matches!(rules.explain(&path), Explained::Supervisor { .. }), "{path}: {:?}", rules.explain(&path));
    }
    let (rules, path) = (rules(), "system.slice/slurmstepd.scope/job_7/step_0/user");
    assert!(matches!(rules.explain(path), Explained::Match(_)));
    for (path, child) in [
        ("system.slice/train.service", "runtime"),
        ("kubepods.slice/kubepods-pod1.slice", "crio-conmon-1.scope"),
        ("system.slice/slurmstepd.scope/job_7/step_0", "slurm"),
    ] {
        assert!(holds_supervisor(path, child), "{path} {child}");
    }
    // Root of a container can make such names in its own cgroup.
    for child in ["slurm", "runtime", "conmon", "supervisor", "container", "init.scope"] {
        for path in ["docker/1", "system.slice/slurmstepd.scope/job_7/step_0/user", "jobs/7"] {
            assert!(!holds_supervisor(path, child), "{path} {child}");
        }
    }
}

#[test]
fn a_name_that_a_user_chose_keeps_no_policy_away() {
    let long = "x".repeat(200);
    let umlauts = "ä".repeat(100);
    for (pattern, path) in [
        ("jobs/{job}", "jobs/my-conmon-1"),
        ("jobs/{job}", "jobs/conmon-1"),
        ("jobs/{job}", "jobs/xslurmstepd.scope"),
        ("jobs/{job}/{part}", "jobs/x_slurmstepd.scope/7"),
        ("jobs/{job}", "jobs/init.scope"),
        ("jobs/{job}/{part}", "jobs/a.service/runtime"),
        ("system.slice/{unit}.service", "system.slice/train-conmon-1.service"),
        ("jobs/{job}", &format!("jobs/{long}")),
        ("jobs/{job}", &format!("jobs/{umlauts}")),
    ] {
        let rule = Rule {
            name: "any".into(),
            patterns: vec![pattern.parse().unwrap()],
            policy: "p".into(),
            shadow: None,
            mode: Mode::Enforce,
            labels: Labels::new(),
        };
        let rules = Rules::new(vec![rule]).unwrap();
        let Explained::Match(found) = rules.explain(path) else { panic!("{path}: {:?}", rules.explain(path)) };
        assert!(
            found.labels.values().all(|value| value.len() <= LABEL_BYTES && !value.is_empty()),
            "{:?}",
            found.labels
        );
    }
}

#[test]
fn the_first_rule_counts_and_a_rules_own_labels_give_way_to_those_of_the_path() {
    #[derive(serde::Deserialize)]
    struct File {
        discover: Vec<Rule>,
    }
    let file = |text: &str| toml::from_str::<File>(text).map_err(|error| error.to_string());
    let read = file(
        "[[discover]]\nname = \"a\"\nmatch = \"docker/{job}\"\npolicy = \"x\"\nlabels = { job = \"no\", site = \"s1\" }\n\
         [[discover]]\nname = \"b\"\nmatch = [\"docker/*\"]\npolicy = \"y\"\nmode = \"observe\"\n",
    );
    let rules = Rules::new(read.unwrap().discover).unwrap();
    let Explained::Match(found) = rules.explain("/docker/7") else { panic!("no match") };
    assert_eq!(
        (found.rule.name.as_str(), found.labels["job"].as_str(), found.labels["site"].as_str()),
        ("a", "7", "s1")
    );
    assert_eq!(rules.get("b").unwrap().mode, Mode::Observe);
    for (text, why) in [
        ("name = \"a\"\npolicy = \"x\"", "either `match` or `preset`"),
        ("name = \"a\"\npolicy = \"x\"\nmatch = \"a/b\"\npreset = \"slurm\"", "either `match` or `preset`"),
        ("name = \"a\"\npolicy = \"x\"\npreset = \"pbs\"", "unknown variant `pbs`"),
        ("name = \"a\"\npolicy = \"/etc/x.toml\"\npreset = \"slurm\"", "not a path"),
        ("name = \"a b\"\npolicy = \"x\"\npreset = \"slurm\"", "name `a b`"),
        ("name = \"a\"\npolicy = \"x\"\npreset = \"slurm\"\nmode = \"off\"", "unknown variant `off`"),
        ("name = \"a\"\npolicy = \"x\"\nmatch = \"/x\"", "relative to the cgroup2 mount"),
        ("name = \"a\"\npolicy = \"x\"\nmatch = []", "at least one pattern"),
        ("name = \"a\"\npolicy = \"x\"\npreset = \"slurm\"\nlabels = { \"failsafe.x\" = \"1\" }", "are the daemon's"),
        ("name = \"a\"\npolicy = \"x\"\npreset = \"slurm\"\nextra = 1", "unknown field `extra`"),
    ] {
        let found = file(&format!("[[discover]]\n{text}\n")).map(|_| ()).unwrap_err();
        assert!(found.contains(why), "{text}: {found}");
    }
    let twice = rules.iter().next().unwrap().clone();
    assert!(Rules::new(vec![twice.clone(), twice]).unwrap_err().contains("two rules are named `a`"));
}

#[test]
fn the_rules_of_drop_ins_follow_those_of_the_file_and_an_empty_list_removes_none() {
    let rule = |name: &str| format!("[[discover]]\nname = \"{name}\"\nmatch = \"{name}/{{id}}\"\npolicy = \"p\"\n");
    let of = |texts: &[String]| {
        let names = ["n.toml", "n.d/1.toml", "n.d/2.toml"].map(str::to_owned);
        of_config(&names.into_iter().zip(texts.iter().cloned()).collect::<Vec<_>>())
    };
    let root = "[discovery]\nroot = \"site\"\n".to_owned();
    let (found, at) = of(&[rule("a") + &root, "ring_kib = 64\n".into(), rule("b")]).unwrap();
    assert_eq!(
        (found.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>(), at.as_str()),
        (vec!["a", "b"], "site")
    );
    assert_eq!(of(&[root.clone(), root.replace("site", "other")]).unwrap().1, "other");
    let error = of(&[rule("a"), "ring_kib = 64\ndiscover = []\n".into()]).unwrap_err().to_string();
    assert!(error.starts_with("n.d/1.toml:2:12: discover: an empty list does not remove the rules"), "{error}");
    assert!(of(&["discover = []\n".into(), rule("a")]).is_ok(), "nothing is removed");
    let error = of(&[rule("a"), rule("b"), rule("a")]).unwrap_err().to_string();
    assert!(error.starts_with("n.d/2.toml:1:") && error.contains("two rules are named `a`"), "{error}");
    let error = of(&[rule("a") + &rule("b").replace("b/{id}", "/b")]).unwrap_err().to_string();
    assert!(error.starts_with("n.toml:7:9: pattern `/b`: expected a path relative to"), "{error}");
    let error = of(&[rule("a") + &rule("b").replace("match", "#")]).unwrap_err().to_string();
    assert!(error.starts_with("n.toml:5:1: discover: rule `b`: expected either `match` or `preset`"), "{error}");
    let error = of(&["discover = 3\n".into()]).unwrap_err().to_string();
    assert!(error.starts_with("n.toml:1:12: discover: expected a list of tables"), "{error}");
}
