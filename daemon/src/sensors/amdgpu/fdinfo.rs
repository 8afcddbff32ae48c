//! What an open file of a GPU says of its use: `/proc/PID/fdinfo/FD`, the kernel's `drm-usage-stats`.
//!
//! Pure. Text of the kernel: keys that are not known are passed over, a number that is none is as if it were not there.

/// One open file, or several that are the same to the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Client {
    /// PCI address of the GPU.
    pub pci: String,
    /// Tells it from others of the same GPU.
    pub id: u64,
    /// Bytes of the GPU's memory, where the driver says.
    pub memory: Option<u64>,
    /// Time that its engines worked, nanoseconds, where the driver says.
    pub worked_ns: Option<u64>,
}

/// Reads it; `None` where it is not of an AMD GPU.
pub(super) fn parse(bytes: &[u8]) -> Option<Client> {
    let text = String::from_utf8_lossy(bytes);
    let (mut amd, mut pci, mut id) = (false, None, None);
    let (mut resident, mut memory, mut total) = (None, None, None);
    let mut worked_ns: Option<u64> = None;
    for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        match key {
            "drm-driver" => amd = value == "amdgpu",
            "drm-pdev" => pci = Some(value.to_ascii_lowercase()),
            "drm-client-id" => id = value.parse().ok(),
            "drm-resident-vram" => resident = size(value),
            "drm-memory-vram" => memory = size(value),
            "drm-total-vram" => total = size(value),
            _ => {
                if let Some(ns) = engine(key, value) {
                    worked_ns = Some(worked_ns.unwrap_or(0).saturating_add(ns));
                }
            }
        }
    }
    // What is there counts, not what was asked for; kernels before 6.13 have one number only.
    let memory = resident.or(memory).or(total);
    amd.then_some(Client { pci: pci?, id: id?, memory, worked_ns })
}

/// The time of an engine; `drm-engine-capacity-NAME` is none.
fn engine(key: &str, value: &str) -> Option<u64> {
    let name = key.strip_prefix("drm-engine-")?;
    if name.starts_with("capacity-") {
        return None;
    }
    value.strip_suffix("ns")?.trim_end().parse().ok()
}

/// Bytes; without a unit, or in KiB and MiB, as the kernel's document says.
fn size(value: &str) -> Option<u64> {
    let (number, unit) = value.split_once(' ').unwrap_or((value, ""));
    let shift = match unit.trim() {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OLD: &str = include_str!("../../../../tests/fixtures/amdgpu/fdinfo-6.1");
    const NEW: &str = include_str!("../../../../tests/fixtures/amdgpu/fdinfo-6.13");

    #[test]
    fn memory_and_work_are_read_in_the_formats_of_old_and_new_kernels() {
        let client = |id, memory, worked_ns| Client { pci: "0000:c1:00.0".into(), id, memory, worked_ns };
        assert_eq!(parse(OLD.as_bytes()), Some(client(40, Some(8 << 30), Some(4_000_000_000))));
        assert_eq!(parse(NEW.as_bytes()), Some(client(57, Some(20 << 30), Some(4_000_000_000))), "resident, not total");
        let total = NEW.replace("drm-resident-vram", "x").replace("drm-memory-vram", "y");
        assert_eq!(parse(total.as_bytes()).unwrap().memory, Some(24 << 30));
    }

    #[test]
    fn what_is_no_amd_gpu_or_lacks_a_number_is_distinguished() {
        assert_eq!(parse(OLD.replace("amdgpu", "i915").as_bytes()), None);
        assert_eq!(parse(OLD.replace("drm-client-id", "id").as_bytes()), None);
        assert_eq!(parse(b"pos:\t0\nflags:\t0100000\n"), None);
        let odd = OLD.replace("8388608 KiB", "8 potatoes").replace(" ns", " s");
        let odd = parse(odd.as_bytes()).unwrap();
        assert_eq!((odd.memory, odd.worked_ns), (None, None));
        let capacity = OLD.to_owned() + "drm-engine-capacity-compute:\t8\n";
        assert_eq!(parse(capacity.as_bytes()).unwrap().worked_ns, Some(4_000_000_000));
        let huge = OLD.replace("8388608 KiB", "18446744073709551615 KiB");
        assert_eq!(parse(huge.as_bytes()).unwrap().memory, None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0..OLD.len()) {
            parse(&bytes);
            // A file that was cut short, and one with noise in it.
            parse(&OLD.as_bytes()[..cut]);
            let noisy = [&OLD.as_bytes()[..cut], &bytes, &OLD.as_bytes()[cut..]].concat();
            parse(&noisy);
        }
    }
}
