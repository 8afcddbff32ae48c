//! The how-tos of docs/: what they show is written, run and printed, in their order, on a node of the test's own.

use anyhow::{Result, ensure};
use integration::{
    IMAGE, Podman, TestCgroup, beside_slurm,
    howto::{Howto, document, shown_file},
    on_node, podman_is_missing, skip,
};
use std::{fs, path::Path};

/// Has the node read its policies where the document writes them.
fn drop_in(node: &mut integration::Node) -> Result<()> {
    let policies = node.file("policies.d");
    for folder in [&policies, &node.file("failsafed.d")] {
        fs::create_dir_all(folder)?;
    }
    let text = format!("policy_dir = {policies:?}\n");
    fs::write(node.file("failsafed.d/50-test.toml"), text)?;
    node.stop()?;
    node.restart()
}

#[test]
fn the_how_to_of_slurm_works_as_it_is_written() -> Result<()> {
    let lines = shown_file(&document("slurm.md")?, "/etc/slurm/slurm.conf")?;
    // The document has a check each minute.
    let lines = lines.replace("HealthCheckInterval=60", "HealthCheckInterval=1");
    ensure!(lines.contains("HealthCheckInterval=1\n"), "{lines}");
    beside_slurm("howto-slurm", &lines, "", |node, slurm| {
        drop_in(node)?;
        let scratch = slurm.file("shown.conf");
        let howto = Howto::new(node, &[])?.variable("SLURM_CONF", &slurm.file("slurm.conf"));
        let counts = howto.path("/etc/slurm/slurm.conf", &scratch).run("slurm.md")?;
        ensure!(counts.files == 4 && counts.run >= 6 && counts.not_run == 0, "{counts:?}");
        Ok(())
    })
}

#[test]
fn the_how_to_of_containers_works_as_it_is_written() -> Result<()> {
    if let Some(why) = podman_is_missing() {
        skip(&why);
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        skip("not root");
        return Ok(());
    }
    let root = TestCgroup::new("howto-podman")?;
    let podman = Podman::start(root.path())?;
    let settings = format!("\n[discovery]\nroot = {:?}\n", root.path().file_name().unwrap_or_default());
    on_node("howto-podman", &settings, |node| {
        drop_in(node)?;
        let bin = podman.wrapper().parent().map(Path::to_owned);
        let howto = Howto::new(node, bin.as_slice())?.path("docker.io/library/busybox:1.36", Path::new(IMAGE));
        let counts = howto.run("containers.md")?;
        ensure!(counts.files == 2 && counts.run == 4 && counts.not_run == 0, "{counts:?}");
        Ok(())
    })
}

#[test]
fn the_how_to_of_kubernetes_works_as_far_as_it_needs_no_cluster() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        skip("not root");
        return Ok(());
    }
    let root = TestCgroup::new("howto-kube")?;
    let settings = format!("\n[discovery]\nroot = {:?}\n", root.path().file_name().unwrap_or_default());
    on_node("howto-kube", &settings, |node| {
        drop_in(node)?;
        let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/kubernetes");
        let howto = Howto::new(node, &[])?.path("/usr/share/failsafe/kubernetes", &package);
        let counts = howto.run("kubernetes.md")?;
        ensure!(counts.files == 2 && counts.run == 2 && counts.not_run == 4, "{counts:?}");
        Ok(())
    })
}

#[test]
fn the_how_to_of_the_first_week_works_as_it_is_written() -> Result<()> {
    on_node("howto-week", "", |node| {
        drop_in(node)?;
        let counts = Howto::new(node, &[])?.run("first-week.md")?;
        ensure!(counts.files == 2 && counts.run == 10 && counts.not_run == 0, "{counts:?}");
        Ok(())
    })
}
