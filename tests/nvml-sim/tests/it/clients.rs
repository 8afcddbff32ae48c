//! Clients nobody wrote for the simulator: nvidia-ml-py, gpustat and nvitop, from the
//! virtual environment `FAILSAFE_NVML_CLIENTS` or `target/nvml-clients`.

use crate::sim::Sim;
use std::env;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

fn clients() -> Option<PathBuf> {
    let folder = match env::var_os("FAILSAFE_NVML_CLIENTS") {
        Some(path) => PathBuf::from(path),
        None => env::current_exe().ok()?.ancestors().nth(3)?.join("nvml-clients"),
    };
    let found = folder.join("bin/python").exists();
    if !found {
        crate::skip::skip(&format!(
            "no {}: make it with `python3 -m venv` and `pip install nvidia-ml-py nvitop gpustat`",
            folder.display()
        ));
    }
    found.then_some(folder)
}

/// Runs a client on the simulator; what it printed, once it has succeeded.
fn run(sim: &Sim, program: PathBuf, args: &[&str]) -> String {
    let link = sim.path("libnvidia-ml.so.1");
    symlink(nvidia_ml::library_path().unwrap(), &link).unwrap();
    let output = Command::new(&program)
        .args(args)
        .env("LD_LIBRARY_PATH", link.parent().unwrap())
        .env(nvidia_ml::SCENARIO_ENV, sim.path("scenario.toml"))
        .env("TERM", "xterm-256color")
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {text}", program.display());
    text
}

fn sim() -> Sim {
    Sim::new(&format!(
        "[[gpu]]\nmodel = \"H100\"\ntemperature = 71\npower = 512\nutilization = 83\n\
         [[gpu.process]]\npid = {}\nmemory = \"7 GiB\"\n[[gpu]]\nmodel = \"A100\"\n",
        std::process::id()
    ))
}

#[test]
fn gpustat_shows_the_gpus() {
    let Some(clients) = clients() else { return };
    let text = run(&sim(), clients.join("bin/gpustat"), &["--json"]);
    for part in ["NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "\"temperature.gpu\": 71", "\"power.draw\": 512"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(text.contains(&format!("\"pid\": {}", std::process::id())) && text.contains("\"gpu_memory_usage\": 7168"));
}

#[test]
fn nvitop_shows_the_gpus() {
    let Some(clients) = clients() else { return };
    let text = run(&sim(), clients.join("bin/nvitop"), &["-1", "--ascii"]);
    for part in ["H100 80GB HBM3", "A100-SXM4-80GB", "71C", "512W / 700W", "83%", "7168MiB"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn nvidia_ml_py_reads_versioned_structs() {
    let Some(clients) = clients() else { return };
    let program = "import pynvml as n\nn.nvmlInit()\nh = n.nvmlDeviceGetHandleByIndex(0)\n\
        print(n.nvmlDeviceGetMemoryInfo(h, version=n.nvmlMemory_v2).used, n.nvmlDeviceGetTemperatureV(h, 0), \
        n.nvmlDeviceGetMarginTemperature(h), [p.pid for p in n.nvmlDeviceGetComputeRunningProcesses(h)])\n\
        v = n.nvmlDeviceGetFieldValues(h, [186, 82])\nprint(v[0].value.uiVal, v[1].value.uiVal)\nn.nvmlShutdown()\n";
    let text = run(&sim(), clients.join("bin/python"), &["-c", program]);
    assert_eq!(text, format!("{} 71 16 [{}]\n512000 77\n", 7u64 << 30, std::process::id()));
}
