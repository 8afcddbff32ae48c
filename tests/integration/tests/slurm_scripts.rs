//! The shipped prolog, epilog and health check of Slurm: each answer of failsafectl with commands that only record, and then called by
//! a real slurmd.

use anyhow::{Context, Result, ensure};
use integration::{CommandOutput, NOBODY, Node, Slurm, on_cluster, run_of_step, skip, wait_for};
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/slurm").join(name)
}

/// Commands that record how they are called, and answer what the test wants.
struct Fakes {
    folder: TempDir,
}

const HEALTHY: (i32, &str) = (0, "healthy (revision 4)");
const CORDONED: (i32, &str) = (11, "draining (revision 5): cordoned by user 0: \"fan\"; `reboot` $(x)\n  more");
const AWAY: (i32, &str) = (13, "failsafectl: failsafed is not running");
const IDLE: &str = "NodeName=n1 OS=Linux 6.1 State=IDLE ThreadsPerCore=1 MCS_label=N/A";
const OURS: &str = "NodeName=n1 OS=Linux 6.1 State=IDLE+DRAIN ThreadsPerCore=1 Reason=failsafed:draining: x [root@now]";
const OTHERS: &str = "NodeName=n1 OS=Linux 6.1 State=IDLE+DRAIN ThreadsPerCore=1 Reason=disk State=IDLE [root@now]";
const NOTED: &str = "NodeName=n1 OS=Linux 6.1 State=IDLE ThreadsPerCore=1 Reason=look at the fan [root@now]";

impl Fakes {
    fn new(health: (i32, &str), node: &str, settings: &str) -> Result<Fakes> {
        let fakes = Fakes { folder: TempDir::with_prefix("failsafe-it-fakes-")? };
        fs::write(fakes.file("health"), health.1)?;
        fs::write(fakes.file("node"), node)?;
        fs::write(fakes.file("settings"), settings)?;
        fakes.command("failsafectl", &format!("cat {}; exit {}", fakes.file("health").display(), health.0))?;
        fakes.command("scontrol", &format!("[ $1 = update ] || cat {}", fakes.file("node").display()))?;
        fakes.command("logger", "")?;
        Ok(fakes)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command; its calls go to `NAME.calls`, one a line, with its arguments in brackets.
    fn command(&self, name: &str, body: &str) -> Result<()> {
        let calls = self.file(&format!("{name}.calls")).display().to_string();
        let text = format!("#!/bin/sh\n(printf '[%s]' \"$@\"; echo) >> {calls}\n{body}\n");
        fs::write(self.file(name), text)?;
        Ok(fs::set_permissions(self.file(name), Permissions::from_mode(0o755))?)
    }

    fn calls(&self, name: &str) -> String {
        fs::read_to_string(self.file(&format!("{name}.calls"))).unwrap_or_default()
    }

    fn run(&self, name: &str, variables: &[(&str, &str)]) -> Result<CommandOutput> {
        let mut command = Command::new(script(name));
        command.env_clear().envs(variables.iter().copied());
        command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.folder.path().display()));
        command.env("FAILSAFE_SLURM_SETTINGS", self.file("settings")).env("SLURMD_NODENAME", "n1").current_dir("/");
        CommandOutput::of(&mut command)
    }
}

#[test]
fn the_prolog_fails_only_for_a_bad_or_unknown_health_and_as_the_settings_say() -> Result<()> {
    let report = "FAILSAFE_ACTION=report\n";
    let unknown = "FAILSAFE_WHEN_UNKNOWN=report\n";
    for (health, settings, code) in [
        (HEALTHY, "", 0),
        (CORDONED, "", 1),
        (CORDONED, report, 0),
        (CORDONED, unknown, 1),
        ((12, "unhealthy"), "", 1),
        ((10, "degraded"), "FAILSAFE_DEGRADED=drain\n", 1),
        ((6, "no such GPU"), unknown, 1),
        (AWAY, "", 1),
        (AWAY, unknown, 0),
        (AWAY, report, 0),
        ((4, "permission denied"), "", 1),
        ((4, "permission denied"), unknown, 0),
        // Mistakes in the settings leave the defaults.
        (CORDONED, "FAILSAFE_ACTION=reprot\n", 1),
        (CORDONED, "FAILSAFE_ACTION=report; if\n", 1),
    ] {
        let fakes = Fakes::new(health, IDLE, settings)?;
        let output = fakes.run("prolog", &[("SLURM_JOB_ID", "7")])?;
        ensure!(output.code == code, "{health:?} with {settings:?}: {output:?}");
        ensure!(output.err.contains("job 7") != (health == HEALTHY), "{output:?}");
        ensure!(fakes.calls("scontrol").is_empty(), "a prolog calls no command of Slurm");
    }
    Ok(())
}

#[test]
fn the_prolog_asks_about_the_gpus_of_the_job_alone() -> Result<()> {
    for (gpus, settings, asked) in [
        (None, "", "[node][health][--wait][10s][--accept-degraded]\n"),
        (Some(""), "FAILSAFE_WAIT=3\n", "[node][health][--wait][3s][--accept-degraded]\n"),
        (
            Some("0,2-3"),
            "FAILSAFE_WAIT=08\n",
            "[node][health][--gpu][minor:0,minor:2-3][--wait][10s][--accept-degraded]\n",
        ),
        (Some("0"), "FAILSAFE_WAIT=99\nFAILSAFE_DEGRADED=drain\n", "[node][health][--gpu][minor:0][--wait][20s]\n"),
    ] {
        let fakes = Fakes::new(HEALTHY, IDLE, settings)?;
        let gpus: Vec<(&str, &str)> = gpus.iter().map(|gpus| ("SLURM_JOB_GPUS", *gpus)).collect();
        fakes.run("prolog", &gpus)?.expect(0)?;
        ensure!(fakes.calls("failsafectl") == asked, "{gpus:?} {settings:?}: {}", fakes.calls("failsafectl"));
    }
    Ok(())
}

#[test]
fn a_failsafectl_that_hangs_is_an_unknown_health() -> Result<()> {
    let fakes = Fakes::new(HEALTHY, IDLE, "FAILSAFE_WAIT=1\n")?;
    fakes.command("failsafectl", "exec sleep 600")?;
    let output = fakes.run("prolog", &[])?.expect(1)?;
    ensure!(output.err.contains("failsafectl did not answer within 6 s"), "{output:?}");
    Ok(())
}

#[test]
fn the_health_check_drains_and_resumes_only_what_nobody_else_drained() -> Result<()> {
    let drain = "[update][nodename=n1][state=drain][reason=failsafed:draining: draining (revision 5): cordoned by user 0: \
                 _fan__ _reboot_ _(x)]\n";
    let away = "[update][nodename=n1][state=drain][reason=failsafed:unknown: failsafectl: failsafed is not running]\n";
    let resume = "[update][nodename=n1][state=undrain]\n";
    let (report, unknown) = ("FAILSAFE_ACTION=report\n", "FAILSAFE_WHEN_UNKNOWN=report\n");
    for (health, node, settings, update) in [
        (HEALTHY, IDLE, "", ""),
        (HEALTHY, OURS, "", resume),
        (HEALTHY, OURS, report, ""),
        (HEALTHY, OTHERS, "", ""),
        (HEALTHY, NOTED, "", ""),
        (CORDONED, IDLE, "", drain),
        (CORDONED, IDLE, unknown, drain),
        (CORDONED, IDLE, report, ""),
        (CORDONED, OURS, "", ""),
        (CORDONED, OTHERS, "", ""),
        (CORDONED, NOTED, "", ""),
        (AWAY, IDLE, "", away),
        (AWAY, IDLE, unknown, ""),
        (AWAY, IDLE, report, ""),
        // Neither drains nor resumes while the health is not known.
        (AWAY, OURS, unknown, ""),
    ] {
        let fakes = Fakes::new(health, node, settings)?;
        fakes.run("health-check", &[])?.expect(0)?;
        let calls = fakes.calls("scontrol");
        let updates = calls.strip_prefix("[show][node][n1][--oneliner]\n").context(calls.clone())?;
        ensure!(updates == update, "{health:?} of `{node}` with {settings:?}: {updates}");
    }
    Ok(())
}

#[test]
fn a_health_check_that_cannot_read_or_change_the_node_fails_with_the_reason() -> Result<()> {
    let fakes = Fakes::new(CORDONED, IDLE, "")?;
    fakes.command("scontrol", "echo slurm_load_node: Unable to contact slurm controller; exit 1")?;
    let output = fakes.run("health-check", &[])?.expect(1)?;
    ensure!(output.err.contains("n1: cannot read its state: slurm_load_node"), "{output:?}");
    let fakes = Fakes::new(CORDONED, IDLE, "")?;
    fakes.command(
        "scontrol",
        &format!("[ $1 = show ] && cat {} && exit; echo denied; exit 1", fakes.file("node").display()),
    )?;
    let output = fakes.run("health-check", &[])?.expect(1)?;
    ensure!(output.err.contains("n1: cannot drain it: denied"), "{output:?}");
    Ok(())
}

#[test]
fn the_epilog_reports_the_incidents_of_its_job_and_always_succeeds() -> Result<()> {
    let list = "NAME           ID    STATE   USER          POLICY  INCIDENT\n\
                slurm-7.batch  01-a  ended   1000 (alice)  jobs    -\n\
                slurm-7.0+1    02-b  ended   1000 (alice)  jobs    -\n";
    let fakes = Fakes::new((0, list), IDLE, "")?;
    let answer = format!(
        "case $2 in --all) cat {} ;; 01-a) echo 'Incident inc-1 of run slurm-7.batch'; echo more ;; \
         02-b) echo no incident; exit 6 ;; *) exit 1 ;; esac",
        fakes.file("health").display()
    );
    fakes.command("failsafectl", &answer)?;
    let output = fakes.run("epilog", &[("SLURM_JOB_ID", "7")])?.expect(0)?;
    ensure!(
        output.err == "failsafe: job 7: run slurm-7.batch had an incident: failsafectl explain inc-1\n",
        "{output:?}"
    );
    // By labels that no user may set: a user may name a run as if it were of another's job.
    let asked = "[list][--all][-o][wide][--selector][failsafe.discover,job=7]\n[explain][01-a]\n[explain][02-b]\n";
    ensure!(fakes.calls("failsafectl") == asked, "{}", fakes.calls("failsafectl"));
    ensure!(
        fakes.calls("logger").contains("[failsafe-slurm][--][job 7: run slurm-7.batch"),
        "{}",
        fakes.calls("logger")
    );
    for (variables, health) in
        [(vec![], HEALTHY), (vec![("SLURM_JOB_ID", "x")], HEALTHY), (vec![("SLURM_JOB_ID", "7")], AWAY)]
    {
        let fakes = Fakes::new(health, IDLE, "")?;
        let output = fakes.run("epilog", &variables)?.expect(0)?;
        ensure!(output.err.starts_with("failsafe: "), "{variables:?}: {output:?}");
        ensure!(fakes.calls("scontrol").is_empty(), "an epilog calls no command of Slurm");
    }
    Ok(())
}

#[test]
fn shellcheck_finds_nothing_in_the_scripts_for_slurm() -> Result<()> {
    let names = ["prolog", "epilog", "health-check", "common.sh", "default"];
    for name in names {
        CommandOutput::of(Command::new("sh").arg("-n").arg(script(name)))?.expect(0)?;
    }
    if Command::new("shellcheck").arg("--version").output().is_err() {
        skip("shellcheck is not installed (Debian: shellcheck)");
        return Ok(());
    }
    let mut shellcheck = Command::new("shellcheck");
    shellcheck.args(["--external-sources", "--shell", "sh", "--exclude", "SC2034"]).args(names.map(script));
    let output = CommandOutput::of(shellcheck.current_dir(script("")))?;
    ensure!(output.code == 0, "{}{}", output.out, output.err);
    Ok(())
}

const JOB: &str = "#!/bin/sh\necho started\nexec sleep 600\n";

#[test]
fn slurm_starts_no_job_on_a_cordoned_node_and_reports_the_incident_of_a_job_at_its_end() -> Result<()> {
    let lines = "Prolog=/usr/share/failsafe/slurm/prolog\nEpilog=/usr/share/failsafe/slurm/epilog\n";
    on_cluster("slurm-prolog", lines, |node, slurm| {
        node.ctl(["node", "cordon", "--reason", "fan"])?.expect(0)?;
        let refused = slurm.submit(NOBODY, "refused", JOB)?;
        wait_for("the node is drained", || Ok(slurm.node_field("State")?.contains("DRAIN")))?;
        ensure!(slurm.node_field("Reason")? == "Prolog error", "{}", slurm.node_field("Reason")?);
        wait_for("the job is in the queue again", || Ok(slurm.job(refused, "JobState")? == "PENDING"))?;
        ensure!(!slurm.output("refused").contains("started"), "the job has started: {}", slurm.output("refused"));
        ensure!(slurm.calls("prolog") == ["1"], "{:?}", slurm.calls("prolog"));
        let log = slurm.script_log("prolog");
        ensure!(log.contains(&format!("job {refused} does not start, the health is draining")), "{log}");
        slurm.command("scancel", [&refused.to_string()])?.expect(0)?;

        node.ctl(["node", "uncordon", "--reason", "fan replaced"])?.expect(0)?;
        // Slurm drained the node itself, so an operator has it take jobs again.
        slurm.command("scontrol", ["update", &format!("nodename={}", slurm.node()), "state=resume"])?.expect(0)?;
        let job = slurm.submit(NOBODY, "job", JOB)?;
        slurm.says("job", "started")?;
        let run = run_of_step(node, job, "batch")?;
        let name = run["name"].as_str().context("a name")?;
        node.ctl(["freeze", name, "--reason", "loss is not finite"])?.expect(0)?;
        let incident = node.run(name)?["incident"].as_str().context("an incident")?.to_owned();
        slurm.command("scancel", [&job.to_string()])?.expect(0)?;
        let line = format!("job {job}: run {name} had an incident: failsafectl explain {incident}");
        wait_for("the epilog reports the incident", || Ok(slurm.script_log("epilog").contains(&line)))
            .with_context(|| slurm.script_log("epilog"))?;
        node.ctl(["explain", &incident])?.expect(0)?;
        ensure!(slurm.calls("prolog") == ["1", "0"], "{:?}", slurm.calls("prolog"));
        ensure!(slurm.calls("epilog").iter().all(|code| code == "0"), "{:?}", slurm.calls("epilog"));
        Ok(())
    })
}

/// Waits until a health check has begun after now and ended.
fn checked(slurm: &Slurm) -> Result<()> {
    let before = slurm.calls("health-check").len();
    // The first one may have begun before.
    wait_for("two health checks end", || Ok(slurm.calls("health-check").len() >= before + 2))
        .with_context(|| slurm.script_log("health-check"))
}

fn drained_with(slurm: &Slurm, reason: &str) -> Result<()> {
    let is = || Ok(slurm.node_field("State")?.contains("DRAIN") && slurm.node_field("Reason")?.starts_with(reason));
    wait_for(&format!("the node is drained with {reason}"), is)
        .with_context(|| format!("{:?} {}", slurm.node_field("Reason"), slurm.script_log("health-check")))
}

fn takes_jobs(slurm: &Slurm) -> Result<()> {
    wait_for("the node takes jobs again", || Ok(slurm.node_field("State")? == "IDLE"))
        .with_context(|| format!("{:?} {}", slurm.node_field("State"), slurm.script_log("health-check")))
}

#[test]
fn the_health_check_of_slurm_drains_a_cordoned_node_and_leaves_a_drain_of_others_alone() -> Result<()> {
    let lines = "HealthCheckProgram=/usr/share/failsafe/slurm/health-check\nHealthCheckInterval=1\n";
    on_cluster("slurm-health", lines, |node: &mut Node, slurm| {
        let settings = format!("FAILSAFE_SOCKET={}\nFAILSAFE_WAIT=1\n", node.socket().display());
        slurm.settings(&settings)?;
        node.ctl(["node", "cordon", "--reason", "fan"])?.expect(0)?;
        drained_with(slurm, "failsafed:draining: draining")?;
        node.ctl(["node", "uncordon", "--reason", "fan replaced"])?.expect(0)?;
        takes_jobs(slurm)?;

        let name = format!("nodename={}", slurm.node());
        slurm.command("scontrol", ["update", &name, "state=drain", "reason=disk swap"])?.expect(0)?;
        node.ctl(["node", "cordon", "--reason", "fan"])?.expect(0)?;
        checked(slurm)?;
        drained_with(slurm, "disk swap")?;
        node.ctl(["node", "uncordon", "--reason", "fan replaced"])?.expect(0)?;
        checked(slurm)?;
        drained_with(slurm, "disk swap")?;
        slurm.command("scontrol", ["update", &name, "state=resume"])?.expect(0)?;
        takes_jobs(slurm)?;

        node.stop()?;
        drained_with(slurm, "failsafed:unknown: ")?;
        node.restart()?;
        takes_jobs(slurm)?;
        Ok(())
    })
}
