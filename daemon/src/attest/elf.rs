//! The build-id of an ELF file: the note that the linker writes. Only headers and notes are read, each within a limit; a file
//! may be anything, written by a run to mislead or to exhaust its reader.

use std::{fs::File, io, os::unix::fs::FileExt};

/// Most program headers that are looked at.
const HEADERS: u16 = 256;
/// Most bytes of notes that are read.
const NOTES: u64 = 64 << 10;
/// Longest build-id, bytes.
const LONGEST: usize = 64;
const PT_NOTE: u32 = 4;
const NT_GNU_BUILD_ID: u32 = 3;

/// The order of a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// The lowest first.
    Little,
    /// The highest first.
    Big,
}

impl Order {
    /// That of this machine.
    pub(super) const NATIVE: Order = if cfg!(target_endian = "little") { Order::Little } else { Order::Big };

    /// A number of 1 to 8 bytes.
    fn number(self, bytes: &[u8]) -> u64 {
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        match self {
            Order::Little => bytes.iter().rev().fold(0, add),
            Order::Big => bytes.iter().fold(0, add),
        }
    }
}

/// `build-id:HEX` of an ELF file; `None`: it has none, or is no ELF file.
///
/// # Errors
/// Those of reading.
pub(super) fn build_id(file: &File) -> io::Result<Option<String>> {
    let mut head = [0; 64];
    let read = fill(file, &mut head, 0)?;
    let head = &head[..read];
    if !head.starts_with(b"\x7fELF") || head.len() < 52 {
        return Ok(None);
    }
    let order = if head[5] == 2 { Order::Big } else { Order::Little };
    let wide = head[4] == 2;
    let at = |from: usize, bytes: usize| head.get(from..from + bytes).map(|bytes| order.number(bytes));
    let fields = if wide { (at(32, 8), at(54, 2), at(56, 2)) } else { (at(28, 4), at(42, 2), at(44, 2)) };
    let (Some(table), Some(size), Some(count)) = fields else { return Ok(None) };
    let least = if wide { 56 } else { 32 };
    if size < least || size > 1_024 {
        return Ok(None);
    }
    for n in 0..count.min(HEADERS.into()) {
        let mut header = [0; 56];
        let Some(place) = n.checked_mul(size).and_then(|offset| table.checked_add(offset)) else { break };
        let header = &mut header[..usize::try_from(least).unwrap_or(32)];
        if fill(file, header, place)? < header.len() {
            break;
        }
        let number = |from: usize, bytes: usize| order.number(&header[from..from + bytes]);
        if number(0, 4) != u64::from(PT_NOTE) {
            continue;
        }
        let (offset, length) = if wide { (number(8, 8), number(32, 8)) } else { (number(4, 4), number(16, 4)) };
        let mut notes = vec![0; usize::try_from(length.min(NOTES)).unwrap_or(0)];
        let read = fill(file, &mut notes, offset)?;
        if let Some(found) = build_id_of_notes(&notes[..read], order) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// `build-id:HEX` of notes: each is the sizes of name and content, a type, the name and the content, padded to 4 bytes.
pub(super) fn build_id_of_notes(mut notes: &[u8], order: Order) -> Option<String> {
    while notes.len() >= 12 {
        let number = |from: usize| usize::try_from(order.number(&notes[from..from + 4])).ok();
        let (name, content, kind) = (number(0)?, number(4)?, order.number(&notes[8..12]));
        let padded = |n: usize| n.checked_next_multiple_of(4);
        let start = 12_usize.checked_add(padded(name)?)?;
        let end = start.checked_add(content)?;
        let is_id = kind == u64::from(NT_GNU_BUILD_ID) && notes.get(12..12 + name) == Some(b"GNU\0");
        if is_id && (1..=LONGEST).contains(&content) {
            return Some(format!("build-id:{}", hex::encode(notes.get(start..end)?)));
        }
        notes = notes.get(start.checked_add(padded(content)?)?..)?;
    }
    None
}

/// Reads as much as there is.
fn fill(file: &File, into: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        let Some(place) = at.checked_add(filled as u64).filter(|place| i64::try_from(*place).is_ok()) else { break };
        match file.read_at(&mut into[filled..], place) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn of(bytes: &[u8]) -> Option<String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        build_id(&file).unwrap()
    }

    /// A file with one note segment.
    fn elf(wide: bool, big: bool, id: &[u8]) -> Vec<u8> {
        let put = |n: u64, bytes: usize| match big {
            true => n.to_be_bytes()[8 - bytes..].to_vec(),
            false => n.to_le_bytes()[..bytes].to_vec(),
        };
        let word = if wide { 8 } else { 4 };
        let (head, size) = if wide { (64, 56) } else { (52, 32) };
        let note = [put(4, 4), put(id.len() as u64, 4), put(3, 4), b"GNU\0".to_vec(), id.to_vec()].concat();
        let mut out = [b"\x7fELF".to_vec(), vec![1 + u8::from(wide), 1 + u8::from(big)], vec![0; 18]].concat();
        out.extend([put(0, word), put(head, word), put(0, word), vec![0; 6]].concat());
        out.extend([put(size, 2), put(1, 2), vec![0; 6]].concat());
        assert_eq!(out.len() as u64, head);
        let (at, length) = (put(head + size, word), put(note.len() as u64, word));
        out.extend(match wide {
            true => [put(4, 4), put(0, 4), at, vec![0; 16], length, vec![0; 16]].concat(),
            false => [put(4, 4), at, vec![0; 8], length, vec![0; 12]].concat(),
        });
        out.extend(note);
        out
    }

    #[test]
    fn the_build_id_of_each_kind_of_file_is_read() {
        for (wide, big) in [(true, false), (true, true), (false, false), (false, true)] {
            assert_eq!(of(&elf(wide, big, &[0xab; 20])), Some(format!("build-id:{}", "ab".repeat(20))), "{wide} {big}");
        }
        let own = build_id(&File::open("/proc/self/exe").unwrap()).unwrap();
        assert!(own.is_none_or(|id| id.starts_with("build-id:")));
    }

    #[test]
    fn no_cut_and_no_altered_byte_is_more_than_a_file_without_a_build_id() {
        let whole = elf(true, false, &[1; 8]);
        for cut in 0..whole.len() {
            let _none = of(&whole[..cut]);
        }
        for at in 0..whole.len() {
            for value in [0, 0x7f, 0xff] {
                let mut altered = whole.clone();
                altered[at] = value;
                let _any = of(&altered);
            }
        }
        assert_eq!(of(b"#!/bin/sh\n"), None);
        assert_eq!(of(b""), None);
        assert_eq!(of(&elf(true, false, &[1; 65])), None, "longer than any linker writes");
    }
}
