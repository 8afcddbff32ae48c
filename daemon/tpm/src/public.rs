//! The attestation key: the public area of a restricted P-256 signing key.
//!
//! Only one kind of key is accepted. A **restricted** key signs what the TPM itself produced, and digests of other data only if
//! these do not begin like that. So a signature by it over a quote means that a TPM made the quote, if the key is in a TPM. That
//! it is in one does not follow from these bytes: somebody vouches for the key by putting it on a list of allowed keys.

use crate::wire::{Reader, WireError, put_sized};
use sha2::{Digest, Sha256};

/// `TPM_ALG_ECC`.
pub(crate) const ECC: u16 = 0x0023;
/// `TPM_ALG_SHA256`.
pub const SHA256: u16 = 0x000b;
/// `TPM_ALG_NULL`.
pub const NULL: u16 = 0x0010;
/// `TPM_ALG_ECDSA`.
pub const ECDSA: u16 = 0x0018;
/// `TPM_ECC_NIST_P256`.
pub(crate) const P256: u16 = 0x0003;
/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign.
const ATTRIBUTES: u32 = 0x0005_0472;
/// `TPM_RH_ENDORSEMENT`: the hierarchy of the key.
pub const ENDORSEMENT: u32 = 0x4000_000b;
/// What distinguishes failsafe's key from other keys that the same TPM derives.
const LABEL: &[u8] = b"failsafe attestation key 1";
/// Bytes of a coordinate.
const COORDINATE: usize = 32;
/// Largest public area that is read: one of this form has 86 bytes.
const MAX_AREA: usize = 128;

/// The public area of an attestation key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Public {
    area: Vec<u8>,
    point: [u8; 2 * COORDINATE],
}

impl Public {
    /// Reads a `TPMT_PUBLIC`. Whether the point is on the curve is not checked here.
    ///
    /// # Errors
    /// It is no restricted P-256 signing key of the form that failsafe makes.
    pub fn parse(area: &[u8]) -> Result<Public, WireError> {
        if area.len() > MAX_AREA {
            return Err(WireError::TooLarge { what: "the size", found: area.len(), most: MAX_AREA });
        }
        let mut reader = Reader::new(area);
        reader.expect16("the type of the key", ECC)?;
        reader.expect16("the algorithm of its name", SHA256)?;
        reader.expect32("its attributes", ATTRIBUTES)?;
        reader.expect16("the length of its policy", 0)?;
        reader.expect16("its symmetric algorithm", NULL)?;
        reader.expect16("its scheme", ECDSA)?;
        reader.expect16("the hash of its scheme", SHA256)?;
        reader.expect16("its curve", P256)?;
        reader.expect16("its key derivation", NULL)?;
        let mut point = [0; 2 * COORDINATE];
        for (what, half) in ["its x", "its y"].into_iter().zip(point.chunks_exact_mut(COORDINATE)) {
            reader.expect16(what, COORDINATE as u16)?;
            half.copy_from_slice(reader.take(what, COORDINATE)?);
        }
        reader.end()?;
        Ok(Public { area: area.to_vec(), point })
    }

    /// The public area of a key with this point: x, then y.
    pub fn of_point(point: &[u8; 64]) -> Public {
        Public { area: area(&point[..COORDINATE], &point[COORDINATE..]), point: *point }
    }

    /// The bytes of the `TPMT_PUBLIC`.
    pub fn area(&self) -> &[u8] {
        &self.area
    }

    /// The point: x, then y.
    pub fn point(&self) -> &[u8; 64] {
        &self.point
    }

    /// SHA-256 of the public area: the TPM's name of the key without the algorithm in front.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.area).into()
    }

    /// The qualified name that the key has as a primary key of the endorsement hierarchy.
    pub fn qualified_name(&self) -> Vec<u8> {
        let mut hashed = ENDORSEMENT.to_be_bytes().to_vec();
        hashed.extend(SHA256.to_be_bytes());
        hashed.extend(self.digest());
        [&SHA256.to_be_bytes()[..], &Sha256::digest(hashed)].concat()
    }
}

/// From what the TPM makes the key. The same template always gives the same key of one TPM, so nothing is stored.
pub(crate) fn template() -> Vec<u8> {
    area(&Sha256::digest(LABEL), &[0; COORDINATE])
}

fn area(x: &[u8], y: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(MAX_AREA);
    out.extend(ECC.to_be_bytes());
    out.extend(SHA256.to_be_bytes());
    out.extend(ATTRIBUTES.to_be_bytes());
    for field in [0, NULL, ECDSA, SHA256, P256, NULL] {
        out.extend(field.to_be_bytes());
    }
    put_sized(&mut out, x);
    put_sized(&mut out, y);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_with_any_other_property_is_refused() {
        let good = Public::of_point(&[7; 64]);
        assert_eq!(Public::parse(good.area()), Ok(good.clone()));
        // Everything before the coordinates has one value, and their lengths too.
        for at in (0..22).chain([54, 55]) {
            let mut area = good.area().to_vec();
            area[at] ^= 1;
            assert!(Public::parse(&area).is_err(), "byte {at}");
        }
        for cut in 0..good.area().len() {
            assert!(Public::parse(&good.area()[..cut]).is_err(), "cut at {cut}");
        }
        assert_eq!(Public::parse(&[good.area(), &[0]].concat()), Err(WireError::Trailing(1)));
    }
}
