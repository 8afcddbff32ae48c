//! Why a TPM gives no answer, or refuses.

use crate::wire::WireError;
use std::io;

/// `TPM_RC_HANDLE` for the first handle: there is no such NV index.
pub(crate) const NO_SUCH_HANDLE: u32 = 0x18b;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// The device.
    #[error("the TPM does not answer: {0}")]
    Io(#[from] io::Error),
    /// The TPM refused a command.
    #[error("the TPM refuses {command}: {} ({code:#05x})", meaning(*code))]
    Refused {
        /// Which.
        command: &'static str,
        /// The response code.
        code: u32,
    },
    /// The answer is not of the expected structure.
    #[error("the answer of the TPM to {command} cannot be read: {source}")]
    Answer {
        /// To which command.
        command: &'static str,
        /// What is wrong with it.
        source: WireError,
    },
    /// A bank.
    #[error("the TPM has no value of PCR {0} in its SHA-256 bank: the bank is not allocated")]
    NoBank(u8),
    /// The PCRs go on changing.
    #[error("the PCRs changed {0} times while they were read and quoted")]
    Unsteady(u32),
}

/// What a response code means, for those that an operator can do something about.
fn meaning(code: u32) -> &'static str {
    // In codes with bit 7, bits 8 to 11 name the parameter, handle or session.
    let format1 = code & 0x80 != 0;
    match if format1 { code & 0xbf } else { code } {
        0x100 => "it was not started (TPM_RC_INITIALIZE)",
        0x101 => "it is in failure mode (TPM_RC_FAILURE); a reboot may help",
        0x120 => "it is disabled (TPM_RC_DISABLED)",
        0x143 => "it does not know the command (TPM_RC_COMMAND_CODE)",
        0x149 => "the NV index does not allow it (TPM_RC_NV_AUTHORIZATION)",
        0x14a => "the NV index was not written yet (TPM_RC_NV_UNINITIALIZED)",
        0x14b => "it has no room for another NV index (TPM_RC_NV_SPACE)",
        0x14c => "the NV index is defined already (TPM_RC_NV_DEFINED)",
        0x902 => "it has no room for another object (TPM_RC_OBJECT_MEMORY)",
        0x908 => "it gave up (TPM_RC_YIELDED)",
        0x909 => "the command was cancelled (TPM_RC_CANCELED)",
        0x920 => "NV memory is written too often (TPM_RC_NV_RATE); try again later",
        0x921 => "it is locked out after wrong authorisations (TPM_RC_LOCKOUT)",
        0x922 => "it is busy (TPM_RC_RETRY)",
        0x923 => "NV memory cannot be written now (TPM_RC_NV_UNAVAILABLE)",
        0x84 => "a value is wrong (TPM_RC_VALUE)",
        0x85 => "the hierarchy is disabled (TPM_RC_HIERARCHY)",
        0x9f => "it is not for this key, or not for this TPM (TPM_RC_INTEGRITY)",
        0x8b => "there is no such handle (TPM_RC_HANDLE)",
        0x8e | 0xa2 => "the hierarchy has a password, which failsafe does not have (TPM_RC_AUTH_FAIL)",
        _ => "for a reason that failsafe does not know",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_command_and_reason() {
        let why = |code| TpmError::Refused { command: "TPM2_Quote", code }.to_string();
        assert_eq!(
            why(0x921),
            "the TPM refuses TPM2_Quote: it is locked out after wrong authorisations (TPM_RC_LOCKOUT) (0x921)"
        );
        assert!(why(0x9a2).contains("has a password"));
        assert!(why(0x18b).contains("no such handle"));
        assert!(why(0x7ff).contains("does not know"));
    }
}
