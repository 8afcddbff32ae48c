//! Signed notes, checkpoints and keys. What is read is written back in the same form.
#![no_main]

use failsafe_tlog::{Checkpoint, Keys, Note, VerifierKey};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(note) = Note::parse(bytes) {
        assert!(Note::parse(&note.encode()).is_ok_and(|again| again == note));
        if let Ok(checkpoint) = Checkpoint::parse(note.text()) {
            assert!(Checkpoint::parse(&checkpoint.text()).is_ok_and(|again| again == checkpoint));
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _keys = Keys::parse(text);
        if let Ok(key) = VerifierKey::parse(text) {
            assert_eq!(key.to_string(), text);
        }
    }
});
