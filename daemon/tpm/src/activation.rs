//! Credential activation: a verifier encrypts a secret for an endorsement key (EK) and for the name of the attestation key. Only the
//! TPM that has both decrypts it, and for nobody but the attestation key of failsafe (TPM 2.0 Library, part 1, section 24).
//!
//! The EK is made again from the template of the TCG (EK Credential Profile, templates L-1 and L-2). It is used by its policy, which is
//! the authorisation of the endorsement hierarchy: an empty password.

use crate::{
    command::{Command, EMPTY_PASSWORD, Key, Tpm, Transport},
    public::{ECC, ENDORSEMENT, NULL, P256, SHA256},
    response::TpmError,
    wire::{Reader, WireError, put_sized},
};

/// What a file of `tpm2_makecredential` begins with, and its version.
const MAGIC: u32 = 0xbadc_c0de;
const VERSION: u32 = 1;
/// Largest file: a credential of a secret of 64 bytes for an RSA key has about 370 bytes.
pub const MAX_CREDENTIAL: usize = 1_024;
/// Bytes of a secret that is encrypted for an RSA key of 2,048 bits, and for a point of P-256.
const RSA_SECRET: usize = 256;
const ECC_SECRET: usize = 68;
/// `TPM_ALG_RSA`, `TPM_ALG_AES`, `TPM_ALG_CFB`.
const RSA: u16 = 0x0001;
const AES: u16 = 0x0006;
const CFB: u16 = 0x0043;
/// fixedTPM, fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted, decrypt.
const ATTRIBUTES: u32 = 0x0003_00b2;
/// The policy of the templates: `TPM2_PolicySecret` of the endorsement hierarchy.
const POLICY: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7,
    0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];
/// `TPM_SE_POLICY`.
const POLICY_SESSION: u8 = 1;
/// `TPM_RH_NULL`.
const NO_KEY: u32 = 0x4000_0007;
/// The nonce of a session that no key protects.
const NONCE: [u8; 16] = [0; 16];

/// Of which kind the EK is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rsa2048,
    EccP256,
}

/// An encrypted secret, as `tpm2_makecredential` writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    blob: Vec<u8>,
    secret: Vec<u8>,
    kind: Kind,
}

impl Credential {
    /// Reads the file.
    ///
    /// # Errors
    /// It is none, or not for an EK of RSA 2048 or ECC P-256.
    pub fn parse(bytes: &[u8]) -> Result<Credential, WireError> {
        if bytes.len() > MAX_CREDENTIAL {
            return Err(WireError::Range { what: "the size", found: bytes.len() as u64, expected: "at most 1024" });
        }
        let mut reader = Reader::new(bytes);
        reader.expect32("what it begins with", MAGIC)?;
        reader.expect32("the version", VERSION)?;
        let blob = reader.sized("the credential", MAX_CREDENTIAL)?.to_vec();
        let secret = reader.sized("the encrypted key", MAX_CREDENTIAL)?.to_vec();
        reader.end()?;
        let kind = match secret.len() {
            RSA_SECRET => Kind::Rsa2048,
            ECC_SECRET => Kind::EccP256,
            other => {
                let (what, found) = ("the length of the encrypted key", other as u64);
                return Err(WireError::Range { what, found, expected: "256 (EK of RSA 2048) or 68 (EK of ECC P-256)" });
            }
        };
        Ok(Credential { blob, secret, kind })
    }
}

impl<T: Transport> Tpm<T> {
    /// Decrypts the secret. To make an RSA key takes some TPMs many seconds.
    ///
    /// # Errors
    /// [`TpmError`]; it is for another key or another TPM.
    pub fn activate(&mut self, key: &Key, credential: &Credential) -> Result<Vec<u8>, TpmError> {
        let (endorsement, _) = self.primary(&template(credential.kind))?;
        let answer = self.activate_by(key, endorsement, credential);
        // Whatever came of it: it takes room in the TPM.
        let flushed = self.flush_handle(endorsement);
        answer.and_then(|secret| flushed.map(|()| secret))
    }

    fn activate_by(&mut self, key: &Key, endorsement: u32, credential: &Credential) -> Result<Vec<u8>, TpmError> {
        let session = self.policy_session()?;
        let answer = self.policy_secret(session).and_then(|()| self.decrypt(key, endorsement, session, credential));
        if answer.is_err() {
            // A command that succeeds ends it.
            let _gone_with_the_device = self.flush_handle(session);
        }
        answer
    }

    fn policy_session(&mut self) -> Result<u32, TpmError> {
        let command =
            Command { name: "TPM2_StartAuthSession", code: 0x176, handles: &[NO_KEY, NO_KEY], authorised: false };
        let mut parameters = Vec::new();
        put_sized(&mut parameters, &NONCE);
        // No salt, which a key would encrypt.
        parameters.extend([0, 0, POLICY_SESSION]);
        parameters.extend(NULL.to_be_bytes());
        parameters.extend(SHA256.to_be_bytes());
        let answer = self.send(&command, &[], &parameters)?;
        let wrong = |source| TpmError::Answer { command: command.name, source };
        Reader::new(&answer).u32("the handle of the session").map_err(wrong)
    }

    /// Has the session fulfil [`POLICY`].
    fn policy_secret(&mut self, session: u32) -> Result<(), TpmError> {
        let command = Command { name: "TPM2_PolicySecret", code: 0x151, handles: &[ENDORSEMENT], authorised: true };
        // No nonce of the TPM, no parameters of the command, no reference, no end.
        self.send(&command, &[session], &[0; 10]).map(drop)
    }

    fn decrypt(
        &mut self,
        key: &Key,
        endorsement: u32,
        session: u32,
        credential: &Credential,
    ) -> Result<Vec<u8>, TpmError> {
        let command = Command { name: "TPM2_ActivateCredential", code: 0x147, handles: &[], authorised: true };
        // The attestation key has an empty password, the EK a policy. The session ends with the command.
        let mut authorisation = EMPTY_PASSWORD.to_vec();
        authorisation.extend(session.to_be_bytes());
        authorisation.extend([0; 5]);
        let mut parameters = Vec::new();
        put_sized(&mut parameters, &credential.blob);
        put_sized(&mut parameters, &credential.secret);
        let answer = self.send_authorised(&command, &[key.handle(), endorsement], &authorisation, &parameters)?;
        let read = |mut reader: Reader<'_>| {
            let secret = reader.sized("the secret", 64)?.to_vec();
            reader.end()?;
            Ok(secret)
        };
        read(Reader::new(&answer)).map_err(|source| TpmError::Answer { command: command.name, source })
    }
}

fn template(kind: Kind) -> Vec<u8> {
    let mut out = Vec::new();
    let words = |out: &mut Vec<u8>, words: &[u16]| words.iter().for_each(|word| out.extend(word.to_be_bytes()));
    words(&mut out, &[if kind == Kind::Rsa2048 { RSA } else { ECC }, SHA256]);
    out.extend(ATTRIBUTES.to_be_bytes());
    put_sized(&mut out, &POLICY);
    words(&mut out, &[AES, 128, CFB, NULL]);
    match kind {
        Kind::Rsa2048 => {
            words(&mut out, &[2_048, 0, 0]);
            put_sized(&mut out, &[0; 256]);
        }
        Kind::EccP256 => {
            words(&mut out, &[P256, NULL]);
            put_sized(&mut out, &[0; 32]);
            put_sized(&mut out, &[0; 32]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(secret: usize) -> Vec<u8> {
        let mut bytes = [MAGIC.to_be_bytes(), VERSION.to_be_bytes()].concat();
        put_sized(&mut bytes, &[1; 68]);
        put_sized(&mut bytes, &vec![2; secret]);
        bytes
    }

    #[test]
    fn a_credential_that_is_cut_or_for_another_kind_of_key_is_refused() {
        for (secret, kind) in [(RSA_SECRET, Kind::Rsa2048), (ECC_SECRET, Kind::EccP256)] {
            let good = file(secret);
            assert_eq!(Credential::parse(&good).map(|it| it.kind), Ok(kind));
            for cut in 0..good.len() {
                assert!(Credential::parse(&good[..cut]).is_err(), "cut at {cut}");
            }
            assert_eq!(Credential::parse(&[&good[..], &[0]].concat()), Err(WireError::Trailing(1)));
        }
        for wrong in [file(100), vec![0; 300], vec![0; 5_000]] {
            assert!(Credential::parse(&wrong).is_err());
        }
    }
}
