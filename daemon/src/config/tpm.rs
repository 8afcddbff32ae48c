//! `[tpm]`: the node's TPM.

use super::check::Wrong;
use crate::tpm::Settings;
use serde::Deserialize;
use std::{collections::BTreeSet, path::PathBuf};

/// `[tpm]`: the node's TPM.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tpm {
    /// The device with the kernel's resource manager, or the socket of a software TPM.
    pub device: PathBuf,
    /// The PCRs of the SHA-256 bank that are quoted.
    pub pcrs: Vec<u8>,
    /// Whether it counts, so that a rollback of the audit log is found.
    pub counter: bool,
    /// True: it is not used.
    pub disabled: bool,
}

impl Default for Tpm {
    fn default() -> Tpm {
        Tpm { device: "/dev/tpmrm0".into(), pcrs: vec![0, 1, 2, 3, 4, 5, 6, 7, 10], counter: true, disabled: false }
    }
}

impl Tpm {
    /// What is out of its range.
    pub(super) fn wrong(&self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        if !self.device.is_absolute() {
            let message = format!("expected an absolute path, not `{}`", self.device.display());
            wrong.push(Wrong::new("tpm.device", message));
        }
        let once: BTreeSet<u8> = self.pcrs.iter().copied().collect();
        if self.pcrs.is_empty() || once.len() < self.pcrs.len() {
            wrong.push(Wrong::new("tpm.pcrs", "expected one PCR or more, each once"));
        }
        // Programs can reset these two, so their values prove nothing.
        if let Some(pcr) = once.iter().find(|pcr| **pcr > 22 || **pcr == 16) {
            wrong.push(Wrong::new("tpm.pcrs", format!("expected 0 to 15 and 17 to 22, not {pcr}")));
        }
        wrong
    }

    /// As the thread takes it.
    pub fn settings(&self) -> Settings {
        let pcrs: BTreeSet<u8> = self.pcrs.iter().copied().collect();
        Settings { device: self.device.clone(), pcrs: pcrs.into_iter().collect(), disabled: self.disabled }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pcr_that_can_be_reset_or_stands_twice_is_refused() {
        let wrong = |pcrs: &[u8]| Tpm { pcrs: pcrs.to_vec(), ..Tpm::default() }.wrong();
        assert!(Tpm::default().wrong().is_empty() && wrong(&[22, 17, 0]).is_empty());
        for pcrs in [&[][..], &[1, 1], &[16], &[0, 23], &[24]] {
            assert_eq!(wrong(pcrs).len(), 1, "{pcrs:?}");
        }
        assert_eq!(Tpm { device: "tpm0".into(), ..Tpm::default() }.wrong().len(), 1);
        assert_eq!(Tpm { pcrs: vec![7, 0], ..Tpm::default() }.settings().pcrs, [0, 7]);
    }
}
