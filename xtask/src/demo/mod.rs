//! `cargo xtask demo`: the whole flow on this machine. A daemon of its own watches three real training runs that go wrong,
//! each under a shipped policy; every record is printed as it comes, with the time it took.
//!
//! ```text
//!  stories ── start ──► failsafectl run ──► trainer
//!     │                                       │ eBPF, metrics, NVML
//!     ◄── records ── failsafectl events ◄── failsafed
//!  ending: explain, replay, log verify
//! ```

mod ending;
mod gpu;
mod records;
mod run;
mod screen;
mod stories;

use crate::daemon::{Daemon, Options};
use crate::{interrupt, setup, shell};
use anyhow::{Context, Result};
use records::Watch;
use screen::Screen;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

/// How the demo is built.
#[derive(clap::Args)]
pub struct Args {
    /// Use the release build, which takes minutes to make
    #[arg(long)]
    release: bool,
}

/// What every story has at hand.
struct Stage {
    watch: Watch,
    daemon: Daemon,
    screen: Screen,
    gpu: gpu::Gpu,
    /// As whom the trainers run.
    user: String,
    /// What the daemon says of its NVML: `simulated`, or the driver's version.
    nvml: String,
}

/// Runs the demo.
///
/// # Errors
/// Something could not be built or started, or did not happen as it should.
pub fn run(args: &Args) -> Result<()> {
    setup::run()?;
    build(args.release)?;
    interrupt::catch()?;
    let screen = Screen::start();
    let stage = open(args.release, screen)?;
    let first = stories::exfiltration(&stage)?;
    let second = stories::divergence(&stage)?;
    let third = stories::overheating(&stage)?;
    ending::explain(&stage, &first)?;
    ending::replay(&stage, &[&first, &second, &third])?;
    ending::verify(&stage)?;
    let seconds = stage.screen.elapsed().as_secs_f64();
    drop(stage);
    println!("\nThree runs went wrong, three were contained, in {seconds:.1} s; the daemon and all it made are gone.");
    Ok(())
}

fn build(release: bool) -> Result<()> {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--locked", "-p", "failsafed", "-p", "failsafectl", "-p", "workloads", "-p", "nvml-sim"]);
    if release {
        cargo.arg("--release");
    }
    shell::run(&mut cargo)
}

fn open(release: bool, screen: Screen) -> Result<Stage> {
    let folder = folder(release)?;
    let gpu = gpu::Gpu::new(folder.path())?;
    let library = shell::built(release).join("libnvidia_ml.so");
    let options = Options { name: "demo", release, sample_interval_ms: 100, nvml: Some((library, gpu.scenario())) };
    screen.title("failsafed starts, with a state folder, sockets and a cgroup of its own");
    let daemon = Daemon::start(&options, folder)?;
    let status = daemon.json(["node", "status"])?;
    let word = |name: &str| status[name].as_str().unwrap_or("?").to_owned();
    let nvml = word("nvml");
    screen.say(format_args!("failsafed {} answers, pid {}, kernel {}", word("version"), daemon.pid(), word("kernel")));
    for sensor in status["sensors"].as_array().into_iter().flatten() {
        let sees = if sensor["sees"].as_bool().unwrap_or_default() { "sees" } else { "BLIND" };
        screen.more(format_args!(
            "sensor {:<7} {sees:<6} {}",
            sensor["name"].as_str().unwrap_or("?"),
            sensor["detail"].as_str().unwrap_or("")
        ));
    }
    let watch = Watch::start(&daemon)?;
    // A trainer is no work for root.
    let user = std::env::var("SUDO_USER").unwrap_or_else(|_| "nobody".to_owned());
    screen.say(format_args!("trainers will run as {user}"));
    Ok(Stage { daemon, watch, screen, gpu, user, nvml })
}

/// A folder that other users may pass through, with a trainer that they may start: a checkout below /root is closed to
/// them.
fn folder(release: bool) -> Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("failsafe-demo-").tempdir().context("making the demo's folder")?;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).context("opening the demo's folder")?;
    fs::copy(shell::built(release).join("trainer"), folder.path().join("trainer")).context("copying the trainer")?;
    Ok(folder)
}
