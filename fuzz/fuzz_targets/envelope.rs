//! DSSE envelopes, statements, JSON and lists of allowed keys.
#![no_main]

use failsafe_attest::{AllowedKeys, Json, envelope};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _verified = envelope::verify(bytes, None);
    if let Ok(value) = Json::parse(bytes, 1 << 20) {
        let canonical = value.canonical();
        assert!(Json::parse(canonical.as_bytes(), usize::MAX).is_ok_and(|again| again.canonical() == canonical));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _keys = AllowedKeys::parse(text);
    }
});
