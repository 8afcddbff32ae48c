//! A PCI address as NVML writes it.

use serde::Deserialize;
use std::fmt;

/// Domain, bus and device; NVML's function number is always 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct PciAddress {
    pub(crate) domain: u32,
    pub(crate) bus: u32,
    pub(crate) device: u32,
}

impl PciAddress {
    /// Where the GPU of this index sits when the scenario does not say: buses apart
    /// as on the usual 8-GPU boards.
    pub(crate) fn default_of(index: usize) -> Self {
        Self { domain: 0, bus: 0x1b + 0x0a * (index as u32 % 22), device: index as u32 / 22 }
    }

    /// Reads `[DOMAIN:]BUS:DEVICE[.FUNCTION]`, hexadecimal, as `nvmlDeviceGetHandleByPciBusId` takes it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let address = text
            .split_once('.')
            .map_or(Some(text), |(address, function)| u32::from_str_radix(function, 16).ok().map(|_| address))?;
        let parts: Option<Vec<u32>> = address.split(':').map(|part| u32::from_str_radix(part, 16).ok()).collect();
        let (domain, bus, device) = match parts?.as_slice() {
            [domain, bus, device] => (*domain, *bus, *device),
            [bus, device] => (0, *bus, *device),
            _ => return None,
        };
        (bus <= 0xff && device <= 0x1f).then_some(Self { domain, bus, device })
    }

    /// The older form with a four-digit domain (`busIdLegacy`).
    pub(crate) fn legacy(&self) -> String {
        format!("{:04X}:{:02X}:{:02X}.0", self.domain, self.bus, self.device)
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}:{:02X}:{:02X}.0", self.domain, self.bus, self.device)
    }
}

impl TryFrom<String> for PciAddress {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("{text} is not a PCI address such as 00000000:1B:00.0"))
    }
}

#[cfg(test)]
mod tests {
    use super::PciAddress;

    #[test]
    fn every_form_reads_and_writes_back() {
        let address = PciAddress { domain: 0, bus: 0x1b, device: 0 };
        for text in ["00000000:1B:00.0", "0000:1b:00.0", "0000:1B:00", "1b:00.0"] {
            assert_eq!(PciAddress::parse(text), Some(address), "{text}");
        }
        assert_eq!(address.to_string(), "00000000:1B:00.0");
        assert_eq!(address.legacy(), "0000:1B:00.0");
        for text in ["", "1b", "0:1b:20.0", "0:100:0", "0:zz:0", "0:1b:0.x", "0:0:0:0"] {
            assert_eq!(PciAddress::parse(text), None, "{text}");
        }
    }
}
