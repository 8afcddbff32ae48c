//! A counter in the NV memory of a TPM: it only counts up, also when the disk is restored from a backup.

use crate::{
    command::{Command, Tpm, Transport},
    response::{NO_SUCH_HANDLE, TpmError},
    wire::{Reader, put_sized},
};

/// The NV index: in the range of owners, at a place that nobody else is known to use.
pub const INDEX: u32 = 0x0181_f5af;
/// `TPM_RH_OWNER`.
const OWNER: u32 = 0x4000_0001;
/// Counter, ownerwrite, ownerread, noDA. Not orderly: an orderly counter jumps after a power failure, which would look like a
/// rollback. Without authwrite, whoever does not know the owner's password (which may be empty) cannot count.
const ATTRIBUTES: u32 = 0x0202_0012;
/// `TPMA_NV_WRITTEN`: set by the TPM after the first increment.
const WRITTEN: u32 = 0x2000_0000;

impl<T: Transport> Tpm<T> {
    /// The value of the counter; `None`: it was never counted.
    ///
    /// # Errors
    /// [`TpmError`]; another kind of NV index is at the place.
    pub fn counter(&mut self) -> Result<Option<u64>, TpmError> {
        match self.attributes()? {
            Some(attributes) if attributes & WRITTEN != 0 => self.read().map(Some),
            _ => Ok(None),
        }
    }

    /// Counts up by one, and returns the new value. Makes the counter if there is none. A TPM begins a new counter with the
    /// highest value that any counter of it ever had, plus one, so that one that was removed cannot be made again with less.
    ///
    /// # Errors
    /// [`TpmError`]; another kind of NV index is at the place.
    pub fn count(&mut self) -> Result<u64, TpmError> {
        if self.attributes()?.is_none() {
            self.define()?;
        }
        let command = Command { name: "TPM2_NV_Increment", code: 0x134, handles: &[OWNER, INDEX], authorised: true };
        self.send(&command, &[], &[])?;
        self.read()
    }

    fn attributes(&mut self) -> Result<Option<u32>, TpmError> {
        let command = Command { name: "TPM2_NV_ReadPublic", code: 0x169, handles: &[INDEX], authorised: false };
        let answer = match self.send(&command, &[], &[]) {
            Ok(answer) => answer,
            Err(TpmError::Refused { code: NO_SUCH_HANDLE, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let read = |mut reader: Reader<'_>| {
            let mut public = Reader::new(reader.sized("the NV index", 256)?);
            public.expect32("its number", INDEX)?;
            public.u16("the algorithm of its name")?;
            let attributes = public.u32("its attributes")?;
            public.sized("its policy", 64)?;
            public.expect16("its size", 8)?;
            public.end()?;
            let made = (attributes & !WRITTEN).to_be_bytes();
            Reader::new(&made).expect32("its attributes", ATTRIBUTES)?;
            Ok(attributes)
        };
        read(Reader::new(&answer)).map(Some).map_err(|source| TpmError::Answer { command: command.name, source })
    }

    fn define(&mut self) -> Result<(), TpmError> {
        let command = Command { name: "TPM2_NV_DefineSpace", code: 0x12a, handles: &[OWNER], authorised: true };
        let mut public = INDEX.to_be_bytes().to_vec();
        public.extend(crate::public::SHA256.to_be_bytes());
        public.extend(ATTRIBUTES.to_be_bytes());
        public.extend([0, 0, 0, 8]);
        let mut parameters = vec![0, 0];
        put_sized(&mut parameters, &public);
        self.send(&command, &[], &parameters).map(drop)
    }

    fn read(&mut self) -> Result<u64, TpmError> {
        let command = Command { name: "TPM2_NV_Read", code: 0x14e, handles: &[OWNER, INDEX], authorised: true };
        let answer = self.send(&command, &[], &[0, 8, 0, 0])?;
        let read = |mut reader: Reader<'_>| {
            reader.expect16("the length of the value", 8)?;
            let value = reader.u64("the value")?;
            reader.end()?;
            Ok(value)
        };
        read(Reader::new(&answer)).map_err(|source| TpmError::Answer { command: command.name, source })
    }
}
