//! Manifests of runs, as people write them and as requests have them. What is read is written back in one form.
#![no_main]

use failsafe_attest::{Manifest, manifest::MAX_BYTES};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::from_json(bytes) {
        check(manifest);
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Manifest::parse("m.toml", text) {
        Ok(manifest) => check(manifest),
        Err(wrong) => assert!(!wrong.list.is_empty() && !wrong.to_string().is_empty(), "refused without a reason"),
    }
});

fn check(manifest: Manifest) {
    let _numbers = manifest.numbers();
    let _facts = manifest.facts();
    if let Ok(text) = manifest.canonical()
        && text.len() <= MAX_BYTES
    {
        let again = Manifest::from_json(text.as_bytes()).expect("a canonical manifest is read again");
        assert_eq!(again.canonical().expect("a canonical manifest"), text);
    }
    let mut redacted = manifest.clone();
    redacted.texts(&mut |_, text| text.clear());
    let _canonical = redacted.canonical();
}
