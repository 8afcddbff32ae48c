//! The archive around the parts: ustar, each header in the one form that [`header`] gives it.
//!
//! A reader for tar accepts links, devices, sparse files, extensions, times and owners. Nothing of that is needed here, so a header
//! that is not byte for byte the expected one is refused: there is nothing to interpret.

use super::{MAX_ENTRIES, MAX_IN_MEMORY, MAX_RECORDINGS, Name};
use failsafe_journal::storage::ReadAt;
use std::{
    collections::BTreeMap,
    io::{self, Write},
};

/// Headers and data begin at multiples of this.
pub const BLOCK: usize = 512;

/// The header of a file in an archive.
///
/// # Errors
/// The name is too long.
pub fn header(name: &str, size: u64) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(header)
}

/// Writes a part.
///
/// # Errors
/// Those of writing and reading.
pub fn add(to: &mut impl Write, name: Name, content: &dyn ReadAt) -> io::Result<()> {
    let size = content.len()?;
    to.write_all(header(&name.to_string(), size)?.as_bytes())?;
    each_block(content, 0, size, |bytes| to.write_all(bytes))?;
    to.write_all(&[0; BLOCK][..padding(size)])
}

/// Writes the end of the archive.
///
/// # Errors
/// Those of writing.
pub fn finish(to: &mut impl Write) -> io::Result<()> {
    to.write_all(&[0; 2 * BLOCK])
}

/// Gives `to` the bytes of `content` in pieces.
///
/// # Errors
/// Those of reading; the content is shorter.
pub fn each_block(
    content: &dyn ReadAt,
    begin: u64,
    len: u64,
    mut to: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; usize::try_from(len).unwrap_or(usize::MAX).min(64 << 10)];
    let mut at = 0;
    while at < len {
        let most = usize::try_from(len - at).unwrap_or(usize::MAX).min(buffer.len());
        match content.read_at(begin + at, &mut buffer[..most])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                to(&buffer[..n])?;
                at += n as u64;
            }
        }
    }
    Ok(())
}

/// Where the parts are, as first byte and length.
pub type Places = BTreeMap<Name, (u64, u64)>;

/// Finds the parts of an archive.
///
/// # Errors
/// What is wrong with it, in words.
pub fn places(file: &dyn ReadAt) -> Result<Places, String> {
    let unreadable = |error: io::Error| format!("it cannot be read: {error}");
    let len = file.len().map_err(unreadable)?;
    let mut places = Places::new();
    let (mut entries, mut recordings, mut in_memory) = (0_usize, 0_usize, 0_u64);
    let mut at = 0;
    loop {
        let mut block = [0; BLOCK];
        read(file, at, &mut block).map_err(|_| format!("it is cut off at byte {len}: its end is missing"))?;
        if block == [0; BLOCK] {
            let end = at + 2 * BLOCK as u64;
            let mut last = [1; BLOCK];
            if len < end || read(file, at + BLOCK as u64, &mut last).is_err() || last != [0; BLOCK] {
                return Err(format!("it does not end as an archive must, at byte {}", at + BLOCK as u64));
            }
            return if len == end { Ok(places) } else { Err(format!("there are bytes behind its end, at byte {end}")) };
        }
        let (name, size) = part(&block).ok_or_else(|| {
            format!("at byte {at}: this is no header of a part, or not in the one form that a header has")
        })?;
        if size > name.limit() {
            return Err(format!("{name}: it has {size} bytes; the limit is {}", name.limit()));
        }
        match name {
            Name::Entry(_) | Name::Proof(_) => entries += 1,
            Name::Recording(_) => recordings += 1,
            _ => {}
        }
        if !matches!(name, Name::Recording(_)) {
            in_memory += size;
        }
        if entries > 2 * MAX_ENTRIES || recordings > MAX_RECORDINGS || in_memory > MAX_IN_MEMORY {
            return Err(format!(
                "it has more than {MAX_ENTRIES} entries, {MAX_RECORDINGS} recordings or {MAX_IN_MEMORY} bytes beside them"
            ));
        }
        if let Some((last, _)) = places.last_key_value()
            && *last >= name
        {
            let what = if *last == name { "twice" } else { "behind a part that it must precede" };
            return Err(format!("{name}: it is there {what} ({last}): parts were added or moved"));
        }
        let begin = at + BLOCK as u64;
        let pad = padding(size);
        if len.saturating_sub(begin) < size + pad as u64 {
            return Err(format!("{name}: it is cut off: {size} bytes are announced, the file ends at byte {len}"));
        }
        let mut zeros = [0; BLOCK];
        read(file, begin + size, &mut zeros[..pad]).map_err(unreadable)?;
        if zeros != [0; BLOCK] {
            return Err(format!("{name}: the bytes behind it are not zero"));
        }
        places.insert(name, (begin, size));
        at = begin + size + pad as u64;
    }
}

/// Bytes up to the next block.
fn padding(size: u64) -> usize {
    let over = (size % BLOCK as u64) as usize;
    (BLOCK - over) % BLOCK
}

/// Name and size in a header, if it is exactly the header of a part.
fn part(block: &[u8; BLOCK]) -> Option<(Name, u64)> {
    let text = |field: &[u8]| -> Option<String> {
        let end = field.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(&field[..end]).ok().map(str::to_owned)
    };
    let name = Name::parse(&text(&block[..100])?)?;
    let size = u64::from_str_radix(&text(&block[124..136])?, 8).ok()?;
    let expected = header(&name.to_string(), size).ok()?;
    (expected.as_bytes() == block).then_some((name, size))
}

fn read(file: &dyn ReadAt, at: u64, buffer: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    each_block(file, at, buffer.len() as u64, |bytes| {
        buffer[done..done + bytes.len()].copy_from_slice(bytes);
        done += bytes.len();
        Ok(())
    })
}
