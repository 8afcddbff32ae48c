//! Commands to a TPM over a transport.
//!
//! Invariants: one command at a time; the hierarchies are used with an empty password; whatever is loaded into the TPM is named
//! by a [`Key`] that the caller gives back with [`Tpm::flush`], or that is gone with the transport.

use crate::{
    public::{ENDORSEMENT, NULL, Public, template},
    quoted::{MAX_ATTEST, Quoted, put_selection, selection},
    response::TpmError,
    wire::{Reader, WireError, put_sized},
};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, io};

/// Largest answer that is read, bytes.
pub const MAX_ANSWER: usize = 4_096;
/// `TPM_ST_NO_SESSIONS`.
const NO_SESSIONS: u16 = 0x8001;
/// `TPM_ST_SESSIONS`.
const SESSIONS: u16 = 0x8002;
/// A session with an empty password: `TPM_RS_PW`, no nonce, no attributes, no password.
pub(crate) const EMPTY_PASSWORD: [u8; 9] = [0x40, 0, 0, 9, 0, 0, 0, 0, 0];
const CREATE_PRIMARY: &str = "TPM2_CreatePrimary";
/// Bytes in front of an answer.
const HEADER: usize = 10;

/// The way to a TPM.
pub trait Transport {
    /// Sends a command and returns the whole answer.
    ///
    /// # Errors
    /// The device failed, or did not answer in time. The transport is not used again.
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>>;
}

/// A TPM.
pub struct Tpm<T>(T);

/// An attestation key that is loaded in a TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    handle: u32,
    /// Its public area.
    pub public: Public,
}

/// Values of PCRs of the SHA-256 bank.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pcrs(pub BTreeMap<u8, [u8; 32]>);

impl Pcrs {
    /// What a quote has of them: SHA-256 over the values, one after the other.
    pub fn digest(&self) -> [u8; 32] {
        self.0.values().fold(Sha256::new(), |hash, value| hash.chain_update(value)).finalize().into()
    }
}

/// A quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// The bytes of the `TPMS_ATTEST`: what is signed.
    pub attest: Vec<u8>,
    /// What they say.
    pub quoted: Quoted,
    /// The bytes of the `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
}

/// A command: its name for messages, its code, its handles; whether it needs authorisation.
pub(crate) struct Command {
    pub name: &'static str,
    pub code: u32,
    pub handles: &'static [u32],
    pub authorised: bool,
}

impl Key {
    /// What the TPM calls it while it is loaded.
    pub(crate) fn handle(&self) -> u32 {
        self.handle
    }
}

impl<T: Transport> Tpm<T> {
    /// Over this transport.
    pub fn new(transport: T) -> Tpm<T> {
        Tpm(transport)
    }

    /// The transport.
    pub fn transport(&mut self) -> &mut T {
        &mut self.0
    }

    /// Manufacturer and firmware, such as `IBM, firmware 20191023.163636`.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn about(&mut self) -> Result<String, TpmError> {
        let manufacturer: String = self
            .property(0x105)?
            .to_be_bytes()
            .into_iter()
            .map(char::from)
            .filter(|c| c.is_ascii_graphic() || *c == ' ')
            .collect();
        let (first, second) = (self.property(0x10b)?, self.property(0x10c)?);
        Ok(format!("{}, firmware {first:x}.{second:x}", manufacturer.trim()))
    }

    /// A fixed property.
    fn property(&mut self, property: u32) -> Result<u32, TpmError> {
        let command = Command { name: "TPM2_GetCapability", code: 0x17a, handles: &[], authorised: false };
        let parameters: Vec<u8> = [6, property, 1].into_iter().flat_map(u32::to_be_bytes).collect();
        let answer = self.send(&command, &[], &parameters)?;
        let read = |mut reader: Reader<'_>| {
            reader.u8("whether there are more")?;
            reader.expect32("the capability", 6)?;
            reader.expect32("the number of properties", 1)?;
            reader.expect32("the property", property)?;
            let value = reader.u32("its value")?;
            reader.end()?;
            Ok(value)
        };
        read(Reader::new(&answer)).map_err(|source| TpmError::Answer { command: command.name, source })
    }

    /// Makes the attestation key. One TPM always makes the same one.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn key(&mut self) -> Result<Key, TpmError> {
        let (handle, area) = self.primary(&template())?;
        let public = Public::parse(&area).map_err(|source| TpmError::Answer { command: CREATE_PRIMARY, source })?;
        Ok(Key { handle, public })
    }

    /// Makes a key of the endorsement hierarchy: its handle and its public area.
    pub(crate) fn primary(&mut self, template: &[u8]) -> Result<(u32, Vec<u8>), TpmError> {
        let command = Command { name: CREATE_PRIMARY, code: 0x131, handles: &[ENDORSEMENT], authorised: true };
        // No password and no data of the caller; no outside data; no PCRs of the creation.
        let mut parameters = vec![0, 4, 0, 0, 0, 0];
        put_sized(&mut parameters, template);
        parameters.extend([0, 0, 0, 0, 0, 0]);
        let (handle, answer) = self.send_for_handle(&command, &parameters)?;
        let area = Reader::new(&answer).sized("the public area", 512).map(<[u8]>::to_vec);
        area.map(|area| (handle, area)).map_err(|source| TpmError::Answer { command: command.name, source })
    }

    /// Removes a loaded key from the TPM.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn flush(&mut self, key: &Key) -> Result<(), TpmError> {
        self.flush_handle(key.handle)
    }

    /// The same with any key or session.
    pub(crate) fn flush_handle(&mut self, handle: u32) -> Result<(), TpmError> {
        let command = Command { name: "TPM2_FlushContext", code: 0x165, handles: &[], authorised: false };
        self.send(&command, &[], &handle.to_be_bytes()).map(drop)
    }

    /// The values of PCRs. A TPM gives eight of them at once, so they are not of one moment: compare with the digest of a quote.
    ///
    /// # Errors
    /// [`TpmError`]; the bank has not all of them.
    pub fn pcrs(&mut self, wanted: &[u8]) -> Result<Pcrs, TpmError> {
        let command = Command { name: "TPM2_PCR_Read", code: 0x17e, handles: &[], authorised: false };
        let mut values = Pcrs::default();
        loop {
            let left: Vec<u8> = wanted.iter().copied().filter(|pcr| !values.0.contains_key(pcr)).collect();
            let Some(first) = left.first() else { return Ok(values) };
            let mut parameters = Vec::new();
            put_selection(&mut parameters, &left);
            let answer = self.send(&command, &[], &parameters)?;
            let read = pcr_values(&answer).map_err(|source| TpmError::Answer { command: command.name, source })?;
            let new: BTreeMap<u8, [u8; 32]> = read.into_iter().filter(|(pcr, _)| left.contains(pcr)).collect();
            if new.is_empty() {
                return Err(TpmError::NoBank(*first));
            }
            values.0.extend(new);
        }
    }

    /// Has the key sign the values of PCRs along with up to 32 bytes of the caller.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn quote(&mut self, key: &Key, pcrs: &[u8], qualifying: &[u8; 32]) -> Result<Quote, TpmError> {
        let command = Command { name: "TPM2_Quote", code: 0x158, handles: &[], authorised: true };
        let mut parameters = Vec::new();
        put_sized(&mut parameters, qualifying);
        // The scheme is that of the key.
        parameters.extend(NULL.to_be_bytes());
        put_selection(&mut parameters, pcrs);
        let answer = self.send(&command, &[key.handle], &parameters)?;
        let read = |mut reader: Reader<'_>| {
            let attest = reader.sized("the quote", MAX_ATTEST)?;
            Ok((attest.to_vec(), Quoted::parse(attest)?, rest(reader)))
        };
        let (attest, quoted, signature) =
            read(Reader::new(&answer)).map_err(|source| TpmError::Answer { command: command.name, source })?;
        Ok(Quote { attest, quoted, signature })
    }

    /// The parameters of the answer.
    pub(crate) fn send(&mut self, command: &Command, handles: &[u32], parameters: &[u8]) -> Result<Vec<u8>, TpmError> {
        self.send_authorised(command, handles, &EMPTY_PASSWORD, parameters)
    }

    /// The same with these sessions, if the command needs authorisation.
    pub(crate) fn send_authorised(
        &mut self,
        command: &Command,
        handles: &[u32],
        authorisation: &[u8],
        parameters: &[u8],
    ) -> Result<Vec<u8>, TpmError> {
        let answer = self.exchange(command, handles, authorisation, parameters)?;
        let read = |mut reader: Reader<'_>| {
            if command.authorised {
                let n = reader.u32("the length of the parameters")?;
                return Ok(reader.take("the parameters", n as usize)?.to_vec());
            }
            Ok(rest(reader))
        };
        read(Reader::new(&answer)).map_err(|source| TpmError::Answer { command: command.name, source })
    }

    /// The handle and the parameters of the answer of an authorised command.
    fn send_for_handle(&mut self, command: &Command, parameters: &[u8]) -> Result<(u32, Vec<u8>), TpmError> {
        let answer = self.exchange(command, &[], &EMPTY_PASSWORD, parameters)?;
        let read = |mut reader: Reader<'_>| {
            let (handle, n) = (reader.u32("the handle")?, reader.u32("the length of the parameters")?);
            Ok((handle, reader.take("the parameters", n as usize)?.to_vec()))
        };
        read(Reader::new(&answer)).map_err(|source| TpmError::Answer { command: command.name, source })
    }

    /// What is behind the header of the answer.
    fn exchange(
        &mut self,
        command: &Command,
        handles: &[u32],
        authorisation: &[u8],
        parameters: &[u8],
    ) -> Result<Vec<u8>, TpmError> {
        let mut body = Vec::new();
        for handle in command.handles.iter().chain(handles) {
            body.extend(handle.to_be_bytes());
        }
        if command.authorised {
            body.extend((authorisation.len() as u32).to_be_bytes());
            body.extend(authorisation);
        }
        body.extend(parameters);
        let tag = if command.authorised { SESSIONS } else { NO_SESSIONS };
        let mut bytes = tag.to_be_bytes().to_vec();
        bytes.extend(((HEADER + body.len()) as u32).to_be_bytes());
        bytes.extend(command.code.to_be_bytes());
        bytes.extend(body);
        let answer = self.0.exchange(&bytes)?;
        let wrong = |source| TpmError::Answer { command: command.name, source };
        let mut reader = Reader::new(&answer);
        let (_tag, size, code) = header(&mut reader).map_err(wrong)?;
        if size as usize != answer.len() {
            let (found, expected) = (size.into(), answer.len() as u64);
            return Err(wrong(WireError::Value { what: "the size", found, expected }));
        }
        match code {
            0 => Ok(rest(reader)),
            code => Err(TpmError::Refused { command: command.name, code }),
        }
    }
}

fn header(reader: &mut Reader<'_>) -> Result<(u16, u32, u32), WireError> {
    Ok((reader.u16("the tag")?, reader.u32("the size")?, reader.u32("the response code")?))
}

/// What is left.
fn rest(mut reader: Reader<'_>) -> Vec<u8> {
    let mut left = Vec::new();
    while let Ok(byte) = reader.u8("") {
        left.push(byte);
    }
    left
}

fn pcr_values(answer: &[u8]) -> Result<Vec<(u8, [u8; 32])>, WireError> {
    let mut reader = Reader::new(answer);
    reader.u32("the counter of updates")?;
    let read = selection(&mut reader)?;
    reader.expect32("the number of values", read.len() as u32)?;
    let mut values = Vec::new();
    for pcr in read {
        let value = reader.sized("the value of a PCR", 32)?;
        let value = <[u8; 32]>::try_from(value).map_err(|_| WireError::Range {
            what: "the length of the value of a PCR",
            found: value.len() as u64,
            expected: "32",
        })?;
        values.push((pcr, value));
    }
    reader.end()?;
    Ok(values)
}
