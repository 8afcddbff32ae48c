//! Certificates of endorsement keys, which the manufacturer of a TPM leaves in its NV memory (TCG EK Credential Profile, 2.2.1.4).
//!
//! Nothing is verified here: whoever reads a certificate verifies it with the keys of manufacturers. The bytes are those of one
//! DER structure: manufacturers fill the NV index up with zeros or with 0xff behind it, and these are cut off. An index that cannot be
//! read hides no other one.

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

/// What is at the NV indices of certificates.
#[derive(Debug, Default)]
pub struct Endorsements {
    /// The certificates. Software TPMs and some firmware TPMs have none.
    pub found: Vec<Endorsement>,
    /// Indices at which something else is, or that cannot be read, with the kind of the key and the reason.
    pub unread: Vec<(u32, &'static str, TpmError)>,
}

impl<T: Transport> Tpm<T> {
    /// The certificates that are there.
    ///
    /// # Errors
    /// The device fails.
    pub fn endorsements(&mut self) -> Result<Endorsements, TpmError> {
        let mut all = Endorsements::default();
        for (index, kind) in INDICES {
            match self.certificate(index) {
                Ok(Some(certificate)) => all.found.push(Endorsement { index, kind, certificate }),
                Ok(None) => {}
                Err(error @ TpmError::Io(_)) => return Err(error),
                Err(error) => all.unread.push((index, kind, error)),
            }
        }
        Ok(all)
    }

    fn certificate(&mut self, index: u32) -> Result<Option<Vec<u8>>, TpmError> {
        let Some(bytes) = self.nv(index)? else { return Ok(None) };
        let wrong = |source| TpmError::Answer { command: "TPM2_NV_Read", source };
        structure(&bytes).map(|der| Some(der.to_vec())).map_err(wrong)
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
            let source = WireError::TooLarge { what: "the size of a certificate", found: size, most: MAX_CERTIFICATE };
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
    use crate::wire::put_sized;
    use std::io;

    /// A TPM with this at its NV indices; each index can be read.
    struct Indices(Vec<(u32, Vec<u8>)>);

    impl Transport for Indices {
        fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
            let number = |at: usize| u32::from_be_bytes(command[at..at + 4].try_into().unwrap());
            let (code, index) = (number(6), number(10));
            let found = self.0.iter().find(|(at, _)| *at == index).map(|(_, bytes)| bytes);
            let mut answer = Vec::new();
            let (tag, result) = match (code, found) {
                (_, None) => (0x8001_u16, NO_SUCH_HANDLE),
                (0x169, Some(bytes)) => {
                    let mut public = index.to_be_bytes().to_vec();
                    public.extend(0x0b_u16.to_be_bytes());
                    public.extend(READABLE.to_be_bytes());
                    put_sized(&mut public, &[]);
                    public.extend(u16::try_from(bytes.len()).unwrap().to_be_bytes());
                    put_sized(&mut answer, &public);
                    put_sized(&mut answer, &[0; 34]);
                    (0x8001, 0)
                }
                (_, Some(bytes)) => {
                    let end = command.len();
                    let two = |at: usize| usize::from(u16::from_be_bytes(command[at..at + 2].try_into().unwrap()));
                    let (size, from) = (two(end - 4), two(end - 2));
                    let mut part = Vec::new();
                    put_sized(&mut part, &bytes[from..from + size]);
                    answer.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
                    answer.extend(part);
                    answer.extend([0, 0, 1, 0, 0]);
                    (0x8002, 0)
                }
            };
            let length = u32::try_from(10 + answer.len()).unwrap();
            Ok([&tag.to_be_bytes()[..], &length.to_be_bytes(), &result.to_be_bytes(), &answer].concat())
        }
    }

    #[test]
    fn an_index_with_something_else_hides_no_certificate() {
        let certificate = [&[0x30, 0x82, 2, 0][..], &[7; 512]].concat();
        let [(rsa, _), (p256, _), (p384, _)] = INDICES;
        for (bad, expected) in [
            (vec![0; 900], "the tag of a certificate is 0x0"),
            (vec![0x30; MAX_CERTIFICATE + 1], "expected at most 4096"),
        ] {
            let indices = vec![(rsa, certificate.clone()), (p256, bad), (p384, certificate.clone())];
            let Endorsements { found, unread } = Tpm::new(Indices(indices)).endorsements().unwrap();
            assert_eq!(found.iter().map(|one| one.index).collect::<Vec<_>>(), [rsa, p384]);
            assert!(found.iter().all(|one| one.certificate == certificate));
            let [(index, "ECC P-256", why)] = &unread[..] else { panic!("{unread:?}") };
            assert!(*index == p256 && why.to_string().contains(expected), "{why}");
        }
        let none = Tpm::new(Indices(Vec::new())).endorsements().unwrap();
        assert!(none.found.is_empty() && none.unread.is_empty());
    }

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
