//! What the daemon says when it refuses a connection: a GOAWAY frame that names the limit (RFC 9113, 6.8).
//!
//! The daemon can say it before the first request is sent. Then the HTTP/2 library drops the connection with the reason
//! and connects again. This connection remembers what it read first, so that the reason can still be given.

use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::AsyncRead;
use tokio_util::io::InspectReader;

/// Bytes that are remembered: the daemon's farewell is shorter.
const REMEMBERED: usize = 1_024;
const FRAME_HEADER: usize = 9;
const GOAWAY: u8 = 7;
/// Last stream and error code, before the debug data.
const GOAWAY_FIXED: usize = 8;

/// The first bytes that a connection read.
#[derive(Debug, Clone, Default)]
pub struct FirstBytes(Arc<Mutex<Vec<u8>>>);

impl FirstBytes {
    /// Why the daemon refused the connection, if that is what it said first.
    pub fn refusal(&self) -> Option<String> {
        refusal(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, read: &[u8]) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = REMEMBERED.saturating_sub(first.len());
        first.extend_from_slice(&read[..read.len().min(room)]);
    }
}

/// The debug data of the first GOAWAY frame among `bytes`.
fn refusal(mut bytes: &[u8]) -> Option<String> {
    loop {
        let (header, rest) = bytes.split_at_checked(FRAME_HEADER)?;
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let (payload, after) = rest.split_at_checked(length)?;
        if header[3] == GOAWAY {
            let why = payload.get(GOAWAY_FIXED..)?;
            return (!why.is_empty()).then(|| String::from_utf8_lossy(why).into_owned());
        }
        bytes = after;
    }
}

/// A connection that remembers what it read first.
pub fn remembering<S: AsyncRead>(stream: S, first: FirstBytes) -> InspectReader<S, impl FnMut(&[u8])> {
    InspectReader::new(stream, move |read: &[u8]| first.push(read))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_goaway_frame_is_found_behind_other_frames() {
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let goaway = [&[0, 0, 13, 7, 0, 0, 0, 0, 0][..], &[0; 8], b"limit"].concat();
        assert_eq!(refusal(&[&settings[..], &goaway].concat()).as_deref(), Some("limit"));
        assert_eq!(refusal(&settings), None);
        assert_eq!(refusal(&goaway[..20]), None, "it is cut off");
        assert_eq!(refusal(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None, "no reason");
        assert_eq!(refusal(&[0, 0, 2, 7, 0, 0, 0, 0, 0, 1, 1]), None, "a frame that is too short");
    }

    #[test]
    fn only_the_first_bytes_are_remembered() {
        let first = FirstBytes::default();
        (0..3).for_each(|_| first.push(&[1; REMEMBERED / 2 + 1]));
        assert_eq!(first.0.lock().unwrap().len(), REMEMBERED);
    }
}
