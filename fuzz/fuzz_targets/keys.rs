//! Lists of allowed keys, with keys of TPMs and certificates of their endorsement keys.
#![no_main]

use failsafe_attest::{AllowedKeys, KeyId, tpm::MAX_CERTIFICATE};
use failsafe_tpm::endorsement::structure;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(keys) = AllowedKeys::parse(text) else { return };
    assert!(keys.len() > 0);
    for id in text.split_whitespace().map(|word| KeyId(word.to_owned())) {
        for listed in keys.endorsements(&id) {
            // A certificate is that of a key on the list.
            assert!(keys.tpm(&id).is_some() && listed.der.len() <= MAX_CERTIFICATE);
            assert_eq!(structure(&listed.der), Ok(listed.der.as_slice()));
        }
    }
});
