//! NVIDIA's kernel driver, from sysfs; and whether there are NVIDIA GPUs on PCI, which does not depend on the driver.

use super::{files, shown};
use failsafe_attest::{Fact, Missing};
use std::path::Path;

pub(super) fn read(sys: &Path) -> Vec<Fact> {
    let file = |name| sys.join("module/nvidia").join(name);
    [("node/nvidia/driver", file("version")), ("node/nvidia/srcversion", file("srcversion"))]
        .map(|(path, file)| Fact::measured(path, shown(&file), files::text(&file)))
        .to_vec()
}

/// How many NVIDIA GPUs PCI lists.
pub(super) fn on_pci(sys: &Path) -> Result<usize, Missing> {
    let folder = sys.join("bus/pci/devices");
    let mut found = 0;
    for name in files::names(&folder)?.unwrap_or_default() {
        let of = |file: &str| files::text(&folder.join(&name).join(file));
        let (vendor, class) = (of("vendor")?, of("class")?);
        // Display controllers: VGA and 3D.
        let is_gpu = class.text().is_some_and(|class| class.starts_with("0x0300") || class.starts_with("0x0302"));
        found += usize::from(vendor.text() == Some("0x10de") && is_gpu);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::files::{fixture, value};
    use failsafe_attest::Json;

    #[test]
    fn the_driver_and_the_gpus_on_pci_are_read() {
        let dir = fixture(&[
            ("module/nvidia/version", "550.54.15\n"),
            ("bus/pci/devices/0000:01:00.0/vendor", "0x10de\n"),
            ("bus/pci/devices/0000:01:00.0/class", "0x030200\n"),
            ("bus/pci/devices/0000:02:00.0/vendor", "0x10de\n"),
            ("bus/pci/devices/0000:02:00.0/class", "0x068000\n"),
            ("bus/pci/devices/0000:03:00.0/vendor", "0x1002\n"),
            ("bus/pci/devices/0000:03:00.0/class", "0x030000\n"),
        ]);
        assert_eq!(on_pci(dir.path()), Ok(1), "a switch and another vendor's GPU are none");
        let facts = read(dir.path());
        assert_eq!(value(&facts, "node/nvidia/driver"), Ok(Json::from("550.54.15")));
        assert_eq!(value(&facts, "node/nvidia/srcversion"), Ok(Json::Null));
        assert_eq!(on_pci(fixture(&[]).path()), Ok(0));
    }
}
