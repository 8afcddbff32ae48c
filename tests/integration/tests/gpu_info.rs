//! What a GPU is, from NVML through the API to `gpu describe`.

use anyhow::{Context, Result, ensure};
use integration::{on_gpu_node, wait_for};

const SCENARIO: &str = r#"
[[gpu]]
model = "H100"
serial = "1650000000001"
mig = ["1g.10gb", "3g.40gb"]

[[gpu]]
model = "H100"
serial = "1650000000002"
persistence = true
compute_mode = "exclusive_process"

[gpu.ecc]
enabled = false

[[gpu]]
model = "H100"
"#;

#[test]
fn describe_shows_what_a_gpu_is() -> Result<()> {
    on_gpu_node("gpu-info", SCENARIO, "", |node| {
        wait_for("the GPUs are seen", || Ok(node.json(["gpu", "list"])?.as_array().map(Vec::len) == Some(3)))?;
        let info = |gpu: &str| Ok::<_, anyhow::Error>(node.json(["gpu", "describe", gpu])?["info"].clone());
        let (cut, whole) = (info("0")?, info("1")?);
        // The H100 of the simulator's presets.
        for (fact, value) in [
            ("serial", "1650000000002".into()),
            ("vbios", "96.00.74.00.01".into()),
            ("inforom", "G520.0200.00.05".into()),
            ("architecture", "Hopper".into()),
            ("compute_capability", "9.0".into()),
            ("minor", 1.into()),
            ("persistence", true.into()),
            ("compute_mode", "ExclusiveProcess".into()),
            ("ecc", false.into()),
            ("mig", false.into()),
        ] {
            let value: serde_json::Value = value;
            ensure!(whole[fact] == value, "{fact} is {}, not {value}: {whole}", whole[fact]);
        }
        ensure!(cut["serial"] == "1650000000001" && cut["mig"] == true && cut["ecc"] == true, "{cut}");
        ensure!(whole["cores"].as_u64() > Some(10_000) && !whole["board_part"].is_null(), "{whole}");
        let links = whole["nvlinks"].as_array().context("NVLinks")?;
        ensure!(links.len() == 18 && links.iter().all(|link| link["active"] == true), "{links:?}");
        ensure!(whole["fabric"]["state"] == 3 && !whole["fabric"]["cluster"].is_null(), "{whole}");
        let devices = cut["mig_devices"].as_array().context("MIG devices")?;
        ensure!(devices.len() == 2 && whole["mig_devices"].as_array().is_some_and(Vec::is_empty), "{devices:?}");
        let (small, large) = (devices[0]["memory"].as_u64(), devices[1]["memory"].as_u64());
        ensure!(small > Some(5 << 30) && large > small, "{devices:?}");
        let text = node.ctl(["gpu", "describe", "0"])?.expect(0)?.out;
        for word in ["1650000000001", "96.00.74.00.01", "InfoROM", "/dev/nvidia0", "MIG-", "GPU INSTANCE"] {
            ensure!(text.contains(word), "no {word} in {text}");
        }
        Ok(())
    })
}
