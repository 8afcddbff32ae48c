//! Certificates of endorsement keys, which the manufacturer of a TPM leaves in its NV memory (TCG EK Credential Profile, 2.2.1.4).
//!
//! Nothing is verified here: whoever reads a certificate verifies it with the keys of manufacturers. The bytes are those of one
//! DER structure: manufacturers fill the NV index up with zeros or with 0xff behind it, and these are cut off.

use crate::{
    command::{Command, Tpm, Transport},
    response::{NO_SUCH_HANDLE, TpmError},
    wire::{Reader, WireError},
};

/// Where the certificates are, with the kind of the endorsement key of each.
pub const INDICES: [(u32, &str); 3] =
    [(0x01c0_0002, "RSA 2048"), (0x01c0_000a, "ECC P-256"), (0x01c0_0016, "ECC P-384")];
/// Largest certificate that is read, bytes.
pub const MAX_CERTIFICATE: usize = 4_096;
/// Bytes that one command reads: every TPM gives as many.
const PART: usize = 512;
/// `TPMA_NV_AUTHREAD`, `TPMA_NV_WRITTEN`.
const READABLE: u32 = 0x2004_0000;

/// The certificate of an endorsement key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endorsement {
    /// The NV index.
    pub index: u32,
    /// The kind of the key, by the index.
    pub kind: &'static str,
    /// The certificate, DER.
    pub certificate: Vec<u8>,
}

impl<T: Transport> Tpm<T> {
    /// The certificates that are there. A TPM without any is not an error: software TPMs and some firmware TPMs have none.
    ///
    /// # Errors
    /// [`TpmError`]; what is at an index is no certificate.
    pub fn endorsements(&mut self) -> Result<Vec<Endorsement>, TpmError> {
        let mut found = Vec::new();
        for (index, kind) in INDICES {
            if let Some(bytes) = self.nv(index)? {
                let wrong = |source| TpmError::Answer { command: "TPM2_NV_Read", source };
                found.push(Endorsement { index, kind, certificate: structure(&bytes).map_err(wrong)?.to_vec() });
            }
        }
        Ok(found)
    }

    /// The bytes at an NV index that everybody may read; `None`: there is none, or nothing was written to it.
    fn nv(&mut self, index: u32) -> Result<Option<Vec<u8>>, TpmError> {
        let command = Command { name: "TPM2_NV_ReadPublic", code: 0x169, handles: &[], authorised: false };
        let answer = match self.send(&command, &[index], &[]) {
            Ok(answer) => answer,
            Err(TpmError::Refused { code: NO_SUCH_HANDLE, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let read = |mut reader: Reader<'_>| {
            let mut public = Reader::new(reader.sized("the NV index", 256)?);
            public.expect32("its number", index)?;
            public.u16("the algorithm of its name")?;
            let attributes = public.u32("its attributes")?;
            public.sized("its policy", 64)?;
            let size = usize::from(public.u16("its size")?);
            public.end()?;
            Ok((attributes, size))
        };
        let (attributes, size) =
            read(Reader::new(&answer)).map_err(|source| TpmError::Answer { command: command.name, source })?;
        if attributes & READABLE != READABLE {
            return Ok(None);
        }
        if size > MAX_CERTIFICATE {
            let (what, found, expected) = ("the size of a certificate", size as u64, "at most 4096");
            let source = WireError::Range { what, found, expected };
            return Err(TpmError::Answer { command: command.name, source });
        }
        let mut bytes = Vec::with_capacity(size);
        while bytes.len() < size {
            bytes.extend(self.nv_part(index, bytes.len(), PART.min(size - bytes.len()))?);
        }
        Ok(Some(bytes))
    }

    fn nv_part(&mut self, index: u32, from: usize, length: usize) -> Result<Vec<u8>, TpmError> {
        let command = Command { name: "TPM2_NV_Read", code: 0x14e, handles: &[], authorised: true };
        // Both fit: the index has at most `MAX_CERTIFICATE` bytes.
        let parameters = [(length as u16).to_be_bytes(), (from as u16).to_be_bytes()].concat();
        let answer = self.send(&command, &[index, index], &parameters)?;
        let read = |mut reader: Reader<'_>| {
            let part = reader.sized("a part of the NV index", PART)?;
            reader.end()?;
            // Fewer bytes than asked for would never end.
            match part.len() == length {
                true => Ok(part.to_vec()),
                false => Err(WireError::Value {
                    what: "the length of a part of the NV index",
                    found: part.len() as u64,
                    expected: length as u64,
                }),
            }
        };
        read(Reader::new(&answer)).map_err(|source| TpmError::Answer { command: command.name, source })
    }
}

/// The DER structure (`SEQUENCE`) at the beginning of the bytes, without what fills them up.
///
/// # Errors
/// They do not begin with one, or it is cut off.
pub fn structure(bytes: &[u8]) -> Result<&[u8], WireError> {
    let mut reader = Reader::new(bytes);
    let tag = reader.u8("the tag of a certificate")?;
    if tag != 0x30 {
        let (what, found) = ("the tag of a certificate", tag.into());
        return Err(WireError::Value { what, found, expected: 0x30 });
    }
    let what = "the length of a certificate";
    let (head, length) = match reader.u8(what)? {
        0x81 => (3, usize::from(reader.u8(what)?)),
        0x82 => (4, usize::from(reader.u16(what)?)),
        // A certificate is never shorter than 128 bytes, nor longer than 65,535.
        other => return Err(WireError::Range { what, found: other.into(), expected: "0x81 or 0x82" }),
    };
    Reader::new(bytes).take("a certificate", head + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_cut_out_of_what_fills_its_index_up() {
        let certificate = [&[0x30, 0x82, 1, 0][..], &[7; 256]].concat();
        for filler in [&[][..], &[0; 9], &[0xff; 300]] {
            assert_eq!(structure(&[&certificate, filler].concat()), Ok(certificate.as_slice()));
        }
        let short = [&[0x30, 0x81, 200][..], &[7; 200]].concat();
        assert_eq!(structure(&short), Ok(short.as_slice()));
        for cut in 0..certificate.len() {
            assert!(structure(&certificate[..cut]).is_err(), "cut at {cut}");
        }
        for wrong in [&[0xff; 300][..], &[0; 300], &[0x30, 0x83, 0, 1, 0], &[0x30, 5, 1, 2, 3, 4, 5], &[0x30, 0x80]] {
            assert!(structure(wrong).is_err(), "{wrong:x?}");
        }
    }
}
