//! Files, damaged at random, for property tests of readers. Included by path where it is needed, so that no crate depends on another for
//! it.

use proptest::prelude::*;

/// How, where, how many bytes, and which byte.
type Change = (u8, usize, usize, u8);

/// Changes of a file: bytes set, a part removed or repeated, and the end cut off. A part has fewer bytes than `longest`.
pub fn damage(longest: usize) -> impl Strategy<Value = Vec<Change>> {
    prop::collection::vec((0..5_u8, any::<usize>(), 0..longest, any::<u8>()), 1..6)
}

/// The bytes after the changes.
pub fn damaged(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for (how, at, len, byte) in changes {
        if bytes.is_empty() {
            break;
        }
        let from = at % bytes.len();
        let to = (from + len).min(bytes.len());
        match how {
            0 => bytes[from] ^= 1 << (byte % 8),
            1 => bytes[from] = *byte,
            2 => drop(bytes.drain(from..to)),
            3 => {
                let part = bytes[from..to].to_vec();
                bytes.splice(from..from, part);
            }
            _ => bytes.truncate(from),
        }
    }
    bytes
}
