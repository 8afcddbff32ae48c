//! What NVIDIA's kernel driver says of its GPUs by itself: `/proc/driver/nvidia/gpus/ADDRESS/information`.
//!
//! Reading only, and of small files that the driver answers from memory: this works while NVML hangs, or before it has answered.

use failsafe_core::klog::Bus;
use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

/// Most bytes of a file that are looked at.
const MOST: u64 = 4_096;

/// The UUID of the GPU at a PCI address; `None` where the driver has none there, or does not know it itself: it says
/// `GPU-????????-...` of one that was not opened since the boot.
pub fn uuid_at(root: &Path, bus: Bus) -> Option<String> {
    let mut folders = fs::read_dir(root.join("gpus")).ok()?.flatten();
    let folder = folders.find(|entry| entry.file_name().to_str().and_then(Bus::parse) == Some(bus))?;
    let mut text = String::new();
    File::open(folder.path().join("information")).ok()?.take(MOST).read_to_string(&mut text).ok()?;
    let uuid = text.lines().find_map(|line| line.strip_prefix("GPU UUID:"))?.trim();
    let whole = uuid.starts_with("GPU-") && uuid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    whole.then(|| uuid.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_found_by_its_address_and_only_with_a_whole_uuid() {
        let root = tempfile::tempdir().unwrap();
        let gpu = |address: &str, uuid: &str| {
            let folder = root.path().join("gpus").join(address);
            fs::create_dir_all(&folder).unwrap();
            let text = format!(
                "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 41\nGPU UUID: \t {uuid}\nBus Location: \t {address}\nDevice Minor: \t 0\n"
            );
            fs::write(folder.join("information"), text).unwrap();
        };
        gpu("0000:1b:00.0", "GPU-00000000-1111-2222-3333-444444444444");
        gpu("0000:2b:00.0", "GPU-????????-????-????-????-????????????");
        fs::create_dir_all(root.path().join("gpus/0000:3b:00.0")).unwrap();
        let at = |text: &str| uuid_at(root.path(), Bus::parse(text).unwrap());
        assert_eq!(at("00000000:1B:00.0").as_deref(), Some("GPU-00000000-1111-2222-3333-444444444444"));
        assert_eq!((at("2b:00.0"), at("3b:00.0"), at("4b:00.0")), (None, None, None));
        assert_eq!(uuid_at(Path::new("/nonexistent"), Bus::parse("1b:00").unwrap()), None);
    }
}
