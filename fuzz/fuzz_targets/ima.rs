//! Measurement lists of IMA, as text and in binary form, behind 32 bytes with the quoted value of the PCR.
#![no_main]

use failsafe_attest::ima::{ImaError, replay};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((quoted, list)) = bytes.split_first_chunk() else { return };
    match replay(list, quoted) {
        Ok(found) => assert!(found.entries > 0 && found.violations <= found.entries),
        // The value that the whole list gives is one that it agrees with.
        Err(ImaError::NoMatch { entries, last, .. }) => {
            let mut quoted = [0; 32];
            assert!(hex::decode_to_slice(last, &mut quoted).is_ok());
            let found = replay(list, &quoted);
            assert!(found.is_ok_and(|found| found.entries == entries && found.later == 0));
        }
        Err(_) => {}
    }
});
