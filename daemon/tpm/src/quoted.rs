//! What a TPM signs in a quote (`TPMS_ATTEST` of the type quote), and the signature.

use crate::{
    public::{ECDSA, SHA256},
    wire::{Reader, WireError},
};

/// `TPM_GENERATED_VALUE`.
const MAGIC: u32 = 0xff54_4347;
/// `TPM_ST_ATTEST_QUOTE`.
const QUOTE: u16 = 0x8018;
/// Largest structure that is read: a quote over one bank has about 130 bytes.
pub const MAX_ATTEST: usize = 512;
/// Most bytes of a selection of PCRs.
const MAX_SELECTION: u8 = 4;
/// The PCRs of a bank.
pub const PCRS: u8 = 24;

/// What a TPM signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quoted {
    /// The qualified name of the key.
    pub signer: Vec<u8>,
    /// What the caller gave it to sign along (`extraData`).
    pub qualifying: Vec<u8>,
    /// Milliseconds that the TPM has been running, over all boots.
    pub clock_ms: u64,
    /// How often the TPM was reset: with the boots of the node it counts up.
    pub resets: u32,
    /// How often it was restarted or resumed since the last reset.
    pub restarts: u32,
    /// Whether its clock did not go back.
    pub safe: bool,
    /// The TPM's firmware.
    pub firmware: u64,
    /// The PCRs of the SHA-256 bank that the digest covers, ascending.
    pub pcrs: Vec<u8>,
    /// SHA-256 over their values, one after the other.
    pub digest: [u8; 32],
}

impl Quoted {
    /// Reads a `TPMS_ATTEST`.
    ///
    /// # Errors
    /// It is no quote over PCRs of the SHA-256 bank.
    pub fn parse(bytes: &[u8]) -> Result<Quoted, WireError> {
        if bytes.len() > MAX_ATTEST {
            return Err(WireError::TooLarge { what: "the size", found: bytes.len(), most: MAX_ATTEST });
        }
        let mut reader = Reader::new(bytes);
        reader.expect32("the magic number", MAGIC)?;
        reader.expect16("the type", QUOTE)?;
        let signer = reader.sized("the signer's name", 66)?.to_vec();
        let qualifying = reader.sized("the qualifying data", 64)?.to_vec();
        let (clock_ms, resets, restarts) = (reader.u64("the clock")?, reader.u32("resets")?, reader.u32("restarts")?);
        let safe = match reader.u8("the state of the clock")? {
            0 => false,
            1 => true,
            other => {
                let (what, found) = ("the state of the clock", other.into());
                return Err(WireError::Range { what, found, expected: "0 or 1" });
            }
        };
        let firmware = reader.u64("the firmware")?;
        let pcrs = selection(&mut reader)?;
        let digest = reader.sized("the digest of the PCRs", 32)?;
        let digest = <[u8; 32]>::try_from(digest).map_err(|_| WireError::Range {
            what: "the length of the digest of the PCRs",
            found: digest.len() as u64,
            expected: "32",
        })?;
        reader.end()?;
        Ok(Quoted { signer, qualifying, clock_ms, resets, restarts, safe, firmware, pcrs, digest })
    }
}

/// Reads a `TPML_PCR_SELECTION` of the SHA-256 bank alone.
pub(crate) fn selection(reader: &mut Reader<'_>) -> Result<Vec<u8>, WireError> {
    reader.expect32("the number of PCR banks", 1)?;
    reader.expect16("the PCR bank", SHA256)?;
    let n = reader.u8("the length of the PCR selection")?;
    if n > MAX_SELECTION {
        let (what, found, most) = ("the length of the PCR selection", n.into(), MAX_SELECTION.into());
        return Err(WireError::TooLarge { what, found, most });
    }
    let bits = reader.take("the PCR selection", usize::from(n))?;
    let selected = (0..n * 8).filter(|pcr| bits[usize::from(pcr / 8)] & 1 << (pcr % 8) != 0);
    Ok(selected.collect())
}

/// Writes a `TPML_PCR_SELECTION` of the SHA-256 bank.
pub(crate) fn put_selection(out: &mut Vec<u8>, pcrs: &[u8]) {
    let mut bits = [0_u8; 3];
    for pcr in pcrs.iter().filter(|pcr| **pcr < PCRS) {
        bits[usize::from(pcr / 8)] |= 1 << (pcr % 8);
    }
    out.extend(1_u32.to_be_bytes());
    out.extend(SHA256.to_be_bytes());
    out.push(3);
    out.extend(bits);
}

/// The two numbers of an ECDSA signature with SHA-256 (`TPMT_SIGNATURE`), 32 bytes each.
///
/// # Errors
/// It is another signature.
pub fn signature(bytes: &[u8]) -> Result<[u8; 64], WireError> {
    let mut reader = Reader::new(bytes);
    reader.expect16("the algorithm of the signature", ECDSA)?;
    reader.expect16("the hash of the signature", SHA256)?;
    let mut out = [0; 64];
    for (what, half) in ["its r", "its s"].into_iter().zip(out.chunks_exact_mut(32)) {
        // A TPM may leave out zeros in front.
        let number = reader.sized(what, 32)?;
        half[32 - number.len()..].copy_from_slice(number);
    }
    reader.end()?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_is_read_as_it_was_written() {
        let mut out = Vec::new();
        put_selection(&mut out, &[0, 7, 10, 23]);
        let mut reader = Reader::new(&out);
        assert_eq!(selection(&mut reader), Ok(vec![0, 7, 10, 23]));
        assert!(reader.end().is_ok());
    }

    #[test]
    fn a_signature_with_zeros_left_out_has_the_same_numbers() {
        let short = [&[0, 0x18, 0, 0x0b, 0, 1, 5, 0, 2, 1, 2][..]].concat();
        let mut expected = [0; 64];
        (expected[31], expected[62], expected[63]) = (5, 1, 2);
        assert_eq!(signature(&short), Ok(expected));
        assert!(signature(&[short.as_slice(), &[0]].concat()).is_err());
        assert!(signature(&[&[0, 0x14], &short[2..]].concat()).is_err());
    }
}
