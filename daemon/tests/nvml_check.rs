//! `failsafed nvml-check` on the simulated library: every function it has is asked, and what cannot answer is told.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

fn check(scenario: &str, args: &[&str]) -> Result<Value> {
    let folder = tempfile::tempdir()?;
    let library = folder.path().join("libnvidia-ml.so.1");
    fs::copy(nvidia_ml::library_path()?, &library)?;
    fs::set_permissions(&library, fs::Permissions::from_mode(0o644))?;
    fs::write(folder.path().join("scenario.toml"), scenario)?;
    report(&library, &folder.path().join("scenario.toml"), args)
}

fn report(library: &Path, scenario: &Path, args: &[&str]) -> Result<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_failsafed"))
        .args(["nvml-check", "--library"])
        .arg(library)
        .args(args)
        .env(nvidia_ml::SCENARIO_ENV, scenario)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("the report is no JSON")
}

fn call<'a>(report: &'a Value, gpu: usize, function: &str, arguments: &[u64]) -> Option<&'a Value> {
    let matches = |call: &&Value| {
        let given: Vec<u64> = call["arguments"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
        call["function"] == function && given == arguments
    };
    report["gpus"][gpu]["calls"].as_array()?.iter().find(matches)
}

#[test]
fn every_function_is_called_timed_and_answered_or_named() -> Result<()> {
    let report = check(
        "[[gpu]]\nmodel = \"H100\"\ntemperature = 61\npower = 512\nuuid = \"GPU-secret\"\n[[gpu]]\nmodel = \"L4\"\n\
         [[fault]]\nfunction = \"nvmlDeviceGetPowerUsage\"\ngpu = 1\nlatency_us = 20000\nerror = \"UNKNOWN\"\n",
        &[],
    )?;
    ensure!(report["simulated"] == true && report["driver"] == "575.57.08", "{}", report["driver"]);
    let temperature = call(&report, 0, "nvmlDeviceGetTemperature", &[0]).context("no temperature")?;
    ensure!(temperature["value"] == serde_json::json!([61]) && temperature["answer"] == "Success", "{temperature}");
    let power = call(&report, 1, "nvmlDeviceGetPowerUsage", &[]).context("no power")?;
    ensure!(power["answer"] == "Unknown Error" && power["us"].as_u64() >= Some(20_000), "{power}");
    let fans = call(&report, 0, "nvmlDeviceGetFanSpeed", &[]).context("no fans")?;
    ensure!(fans["answer"] == "Not Supported" && fans.get("value").is_none(), "{fans}");
    ensure!(call(&report, 0, "nvmlDeviceGetNvLinkState", &[17]).is_some_and(|it| it["answer"] == "Success"));
    let margin = call(&report, 0, "nvmlDeviceGetMarginTemperature", &[]).context("no margin")?;
    ensure!(margin["value"].as_str().is_some_and(|hex| hex.ends_with("1a000000")), "87 - 61 C: {margin}");
    ensure!(report["gpus"][0]["fields"]["values"]["186"] == 512_000, "{}", report["gpus"][0]["fields"]);
    ensure!(!report.to_string().contains("GPU-secret"), "what tells a board from another is in the report");

    // Whatever the simulator exports is known here, and whatever it lacks is named.
    let text = |list: &Value| -> BTreeSet<String> {
        list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let (absent, not_called) = (text(&report["functions"]["absent"]), text(&report["functions"]["not_called"]));
    for name in nvidia_ml::exported() {
        let called = call(&report, 0, name, &[]).is_some()
            || report["gpus"][0]["calls"].as_array().into_iter().flatten().any(|it| it["function"] == name)
            || report["system"].as_array().into_iter().flatten().any(|it| it["function"] == name)
            || report["gpus"][0]["fields"]["function"] == name;
        ensure!(called || not_called.contains(name), "{name} is nowhere in the report");
        ensure!(!absent.contains(name), "{name} is there, but is said to be absent");
    }
    ensure!(absent.contains("nvmlDeviceSetPowerManagementLimit"), "{absent:?}");

    // Every call is in the sum of answers, that for all fields too; a function counts once.
    let calls = || {
        let gpus = report["gpus"].as_array().into_iter().flatten();
        let of_gpus = gpus.flat_map(|gpu| gpu["calls"].as_array().into_iter().flatten().chain([&gpu["fields"]]));
        report["system"].as_array().into_iter().flatten().chain(of_gpus)
    };
    let told: u64 = report["answers"].as_object().context("no answers")?.values().filter_map(Value::as_u64).sum();
    ensure!(told == calls().count() as u64, "{} calls, {}", calls().count(), report["answers"]);
    let names: BTreeSet<&str> = calls().filter_map(|call| call["function"].as_str()).collect();
    let never = absent.iter().filter(|name| !names.contains(name.as_str())).count();
    ensure!(report["functions"]["known"] == names.len() + never + not_called.len(), "{}", report["functions"]["known"]);
    Ok(())
}

#[test]
fn identity_is_there_when_it_is_asked_for() -> Result<()> {
    let report = check("[[gpu]]\nmodel = \"A100\"\nuuid = \"GPU-known\"\n", &["--identity"])?;
    let uuid = call(&report, 0, "nvmlDeviceGetUUID", &[]).context("no UUID")?;
    ensure!(uuid["value"] == "GPU-known", "{uuid}");
    Ok(())
}
