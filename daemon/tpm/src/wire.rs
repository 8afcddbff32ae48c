//! The TPM's encoding: big-endian numbers, and byte strings behind their length.

/// Why bytes are not of the expected structure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// They end too early.
    #[error("{what}: {left} bytes are left, expected {expected}")]
    Short {
        /// Which field.
        what: &'static str,
        /// Bytes that are there.
        left: usize,
        /// Bytes that are needed.
        expected: usize,
    },
    /// There are bytes behind the end.
    #[error("{0} bytes are behind the end")]
    Trailing(usize),
    /// A field has another value.
    #[error("{what} is {found:#x}, expected {expected:#x}")]
    Value {
        /// Which field.
        what: &'static str,
        /// Its value.
        found: u64,
        /// The only value that is accepted.
        expected: u64,
    },
    /// A length or a size is beyond its limit.
    #[error("{what} is {found}, expected at most {most}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How much it is.
        found: usize,
        /// The limit.
        most: usize,
    },
    /// A field is outside its range.
    #[error("{what} is {found}, expected {expected}")]
    Range {
        /// Which field.
        what: &'static str,
        /// Its value.
        found: u64,
        /// What is accepted.
        expected: &'static str,
    },
}

/// Reads a structure from its beginning.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// From these bytes.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// There are fewer.
    pub fn take(&mut self, what: &'static str, n: usize) -> Result<&'a [u8], WireError> {
        let Some((taken, rest)) = self.0.split_at_checked(n) else {
            return Err(WireError::Short { what, left: self.0.len(), expected: n });
        };
        self.0 = rest;
        Ok(taken)
    }

    /// A number of `N` bytes.
    fn number<const N: usize>(&mut self, what: &'static str) -> Result<u64, WireError> {
        Ok(self.take(what, N)?.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)))
    }

    /// One byte.
    ///
    /// # Errors
    /// There is none.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, WireError> {
        Ok(self.take(what, 1)?[0])
    }

    /// Two bytes.
    ///
    /// # Errors
    /// There are fewer.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, WireError> {
        // Two bytes fit.
        self.number::<2>(what).map(|n| n as u16)
    }

    /// Four bytes.
    ///
    /// # Errors
    /// There are fewer.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, WireError> {
        self.number::<4>(what).map(|n| n as u32)
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// There are fewer.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, WireError> {
        self.number::<8>(what)
    }

    /// A byte string behind its length of two bytes (`TPM2B`), of at most `most` bytes.
    ///
    /// # Errors
    /// It is longer, or cut off.
    pub fn sized(&mut self, what: &'static str, most: usize) -> Result<&'a [u8], WireError> {
        let n = usize::from(self.u16(what)?);
        if n > most {
            return Err(WireError::TooLarge { what, found: n, most });
        }
        self.take(what, n)
    }

    /// A field of two bytes that has one value only.
    ///
    /// # Errors
    /// It has another one.
    pub fn expect16(&mut self, what: &'static str, expected: u16) -> Result<(), WireError> {
        let found = self.u16(what)?;
        same(what, found.into(), expected.into())
    }

    /// A field of four bytes that has one value only.
    ///
    /// # Errors
    /// It has another one.
    pub fn expect32(&mut self, what: &'static str, expected: u32) -> Result<(), WireError> {
        let found = self.u32(what)?;
        same(what, found.into(), expected.into())
    }

    /// The structure ends here.
    ///
    /// # Errors
    /// It does not.
    pub fn end(self) -> Result<(), WireError> {
        if self.0.is_empty() { Ok(()) } else { Err(WireError::Trailing(self.0.len())) }
    }
}

fn same(what: &'static str, found: u64, expected: u64) -> Result<(), WireError> {
    if found == expected { Ok(()) } else { Err(WireError::Value { what, found, expected }) }
}

/// Appends a byte string behind its length. Longer ones than 65,535 bytes do not occur: callers pass digests and structures.
pub fn put_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    let n = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend(n.to_be_bytes());
    out.extend(&bytes[..usize::from(n)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_structure_that_is_cut_or_too_long_is_an_error() {
        let mut reader = Reader::new(&[0, 2, 7, 8, 9]);
        assert_eq!(reader.sized("x", 2), Ok(&[7, 8][..]));
        assert_eq!(reader.end(), Err(WireError::Trailing(1)));
        assert_eq!(reader.u8("y"), Ok(9));
        assert!(reader.end().is_ok());
        assert!(Reader::new(&[0, 3, 1]).sized("x", 9).is_err());
        let why = Reader::new(&[0, 3, 1, 2, 3]).sized("the length of x", 2).unwrap_err();
        assert_eq!(why.to_string(), "the length of x is 3, expected at most 2");
        assert!(Reader::new(&[0, 3]).expect16("x", 4).is_err());
        assert!(Reader::new(&[0, 3]).u32("x").is_err());
    }
}
