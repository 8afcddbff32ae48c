//! An entry as its bytes show it, for who reads millions of them: its fields are borrowed, and its body stays text.
//!
//! [`View::parse`] accepts what [`Entry::parse`] accepts. It reads the text once, and only in the usual form. What it does not
//! understand (an escape in a name, a nesting that is too deep, anything wrong) is left to [`Entry::parse`], which writes the entry
//! anew and compares.

use std::borrow::Cow;

use crate::canonical;
use crate::entry::{Entry, Hash, MAX_ENTRY_BYTES, MAX_FIELD_BYTES, ParseError, is_word, leaf_hash};

/// An entry whose bytes were checked. See [`Entry`] for the fields.
#[derive(Debug, Clone, PartialEq)]
pub struct View<'a> {
    /// Position in the log, from 0.
    pub index: u64,
    /// Leaf hash of the entry before; zeros for the first.
    pub prev: Hash,
    /// Wall clock of what is recorded, nanoseconds since the Unix epoch.
    pub wall_ns: u64,
    /// Monotonic clock of what is recorded, nanoseconds.
    pub mono_ns: u64,
    /// Boot that `mono_ns` belongs to.
    pub boot_id: Cow<'a, str>,
    /// See [`kind`](crate::entry::kind).
    pub kind: Cow<'a, str>,
    /// Id of the run concerned.
    pub run: Option<Cow<'a, str>>,
    /// Id of the incident concerned.
    pub incident: Option<Cow<'a, str>>,
    /// RFC 6962 leaf hash of `bytes`.
    pub leaf_hash: Hash,
    /// The bytes as they lie in the log.
    pub bytes: &'a [u8],
}

impl<'a> View<'a> {
    /// Checks canonical bytes.
    ///
    /// # Errors
    /// [`ParseError`], as for [`Entry::parse`].
    pub fn parse(bytes: &'a [u8]) -> Result<View<'a>, ParseError> {
        match usual(bytes) {
            Some(view) => Ok(view),
            None => {
                let Entry { index, prev, wall_ns, mono_ns, boot_id, kind, run, incident, leaf_hash, .. } =
                    Entry::parse(bytes)?;
                let (boot_id, kind) = (Cow::Owned(boot_id), Cow::Owned(kind));
                let (run, incident) = (run.map(Cow::Owned), incident.map(Cow::Owned));
                Ok(View { index, prev, wall_ns, mono_ns, boot_id, kind, run, incident, leaf_hash, bytes })
            }
        }
    }

    /// The whole entry, with its body, if `wanted` says that its kind is of interest.
    #[must_use]
    pub fn entry_of(&self, wanted: impl FnOnce(&str) -> bool) -> Option<Entry> {
        if wanted(&self.kind) { self.entry().ok() } else { None }
    }

    /// The whole entry.
    ///
    /// # Errors
    /// None is known: the bytes were checked.
    pub fn entry(&self) -> Result<Entry, ParseError> {
        Entry::of(self)
    }
}

/// Leaves room for the head of an entry with larger numbers, which `Entry::parse` counts in the limit.
const USUAL_BYTES: usize = MAX_ENTRY_BYTES - 4096;

fn usual(bytes: &[u8]) -> Option<View<'_>> {
    if bytes.len() > USUAL_BYTES {
        return None;
    }
    let mut text = Text::of(bytes)?;
    text.skip("{\"index\":")?;
    let index = text.unsigned()?;
    text.skip(",\"prev\":")?;
    let prev = text.digest()?;
    text.skip(",\"wall_ns\":")?;
    let wall_ns = text.unsigned()?;
    text.skip(",\"mono_ns\":")?;
    let mono_ns = text.unsigned()?;
    text.skip(",\"boot_id\":")?;
    let boot_id = Cow::Borrowed(text.field()?);
    text.skip(",\"kind\":")?;
    let kind = text.field().filter(|kind| is_word(kind))?;
    text.skip(",\"run\":")?;
    let run = text.optional()?;
    text.skip(",\"incident\":")?;
    let incident = text.optional()?;
    text.skip(",\"body\":")?;
    text.object(0)?;
    text.skip("}")?;
    if text.left() > 0 {
        return None;
    }
    let (kind, run, incident) = (Cow::Borrowed(kind), run.map(Cow::Borrowed), incident.map(Cow::Borrowed));
    Some(View { index, prev, wall_ns, mono_ns, boot_id, kind, run, incident, leaf_hash: leaf_hash(bytes), bytes })
}

/// The digest of 64 lower-case hex digits. Its own decoder: it takes a seventh of the time of a verification with the crate `hex`.
fn digest(hex: &str) -> Option<Hash> {
    let digits: &[u8; 64] = hex.as_bytes().try_into().ok()?;
    let mut hash = Hash::default();
    let mut wrong = 0;
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let (high, low) = (NIBBLES[usize::from(pair[0])], NIBBLES[usize::from(pair[1])]);
        wrong |= high | low;
        *byte = high << 4 | low & 0x0f;
    }
    (wrong <= 0x0f).then_some(hash)
}

/// The value of each hex digit; 0xff for every other byte.
const NIBBLES: [u8; 256] = {
    let mut table = [0xff; 256];
    let mut value = 0;
    while value < 16 {
        table[b"0123456789abcdef"[value] as usize] = value as u8;
        value += 1;
    }
    table
};

/// Canonical JSON, as far as it was not read yet. Each method is `None` where the text is not in the usual form.
pub(crate) struct Text<'a> {
    rest: &'a str,
}

impl<'a> Text<'a> {
    /// `None`: it is no text.
    pub(crate) fn of(bytes: &'a [u8]) -> Option<Text<'a>> {
        Some(Text { rest: std::str::from_utf8(bytes).ok()? })
    }

    /// How many bytes are left.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Reads a digest in quotes.
    pub(crate) fn digest(&mut self) -> Option<Hash> {
        digest(self.plain()?)
    }

    /// Reads exactly `expected`.
    pub(crate) fn skip(&mut self, expected: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(expected)?;
        Some(())
    }

    fn take(&mut self, bytes: usize) -> Option<&'a str> {
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(taken)
    }

    fn digits(&mut self) -> Option<&'a str> {
        let count = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        let digits = self.take(count)?;
        // One with 20 digits may be too large for 64 bits.
        let canonical = (1..20).contains(&count) && (count == 1 || !digits.starts_with('0'));
        canonical.then_some(digits)
    }

    /// Reads an integer.
    pub(crate) fn unsigned(&mut self) -> Option<u64> {
        self.digits()?.parse().ok()
    }

    /// Up to the next quote or escape; a control character may not be in it.
    fn until_special(&mut self) -> Option<&'a str> {
        let text = self.take(memchr::memchr2(b'"', b'\\', self.rest.as_bytes())?)?;
        // Every byte is looked at, without a branch: this is what the compiler makes vectors of.
        let control = text.bytes().fold(false, |control, byte| control | (byte < 0x20));
        (!control).then_some(text)
    }

    /// A string in which nothing is escaped.
    fn plain(&mut self) -> Option<&'a str> {
        self.skip("\"")?;
        let text = self.until_special()?;
        self.skip("\"")?;
        Some(text)
    }

    fn field(&mut self) -> Option<&'a str> {
        self.plain().filter(|text| text.len() <= MAX_FIELD_BYTES)
    }

    fn optional(&mut self) -> Option<Option<&'a str>> {
        if self.skip("null").is_some() {
            return Some(None);
        }
        self.field().map(Some)
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        match self.rest.as_bytes().first()? {
            b'"' => self.string(),
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b't' => self.skip("true"),
            b'f' => self.skip("false"),
            b'n' => self.skip("null"),
            _ => self.number(),
        }
    }

    /// Reads an object that is inside `depth` others.
    pub(crate) fn object(&mut self, depth: usize) -> Option<()> {
        if depth >= canonical::MAX_DEPTH {
            return None;
        }
        self.members(|text| text.value(depth + 1))
    }

    fn members(&mut self, mut value: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.skip("{")?;
        if self.skip("}").is_some() {
            return Some(());
        }
        let mut before: Option<&str> = None;
        loop {
            let key = self.plain()?;
            if before.is_some_and(|before| before.as_bytes() >= key.as_bytes()) {
                return None;
            }
            before = Some(key);
            self.skip(":")?;
            value(self)?;
            if self.skip(",").is_none() {
                return self.skip("}");
            }
        }
    }

    /// Reads an object whose values are integers.
    pub(crate) fn counts(&mut self) -> Option<()> {
        self.members(|text| text.unsigned().map(drop))
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        if depth >= canonical::MAX_DEPTH {
            return None;
        }
        self.skip("[")?;
        if self.skip("]").is_some() {
            return Some(());
        }
        loop {
            self.value(depth + 1)?;
            if self.skip(",").is_none() {
                return self.skip("]");
            }
        }
    }

    /// A string whose escapes are the only ones that `canonical` writes.
    fn string(&mut self) -> Option<()> {
        self.skip("\"")?;
        loop {
            self.until_special()?;
            if self.skip("\"").is_some() {
                return Some(());
            }
            self.skip("\\")?;
            match self.take(1)? {
                "\"" | "\\" | "b" | "t" | "n" | "f" | "r" => {}
                "u" => match self.take(4)?.as_bytes() {
                    // Those with a short form are written in it.
                    [b'0', b'0', b'0', b'8' | b'9' | b'a' | b'c' | b'd'] => return None,
                    [b'0', b'0', b'0' | b'1', b'0'..=b'9' | b'a'..=b'f'] => {}
                    _ => return None,
                },
                _ => return None,
            }
        }
    }

    fn number(&mut self) -> Option<()> {
        let part = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
        let number = self.take(self.rest.bytes().take_while(|byte| part(byte)).count())?;
        let digits = number.strip_prefix('-').unwrap_or(number);
        if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            // 19 digits fit 64 bits without a sign, 18 with one. -0 is a float.
            let most = if digits.len() == number.len() { 19 } else { 18 };
            let leading = digits.starts_with('0') && number != "0";
            return (digits.len() <= most && !leading).then_some(());
        }
        let float: f64 = number.parse().ok()?;
        let mut written = String::with_capacity(number.len());
        canonical::write_float(&mut written, float);
        (written == number).then_some(())
    }
}

#[cfg(test)]
mod tests;
