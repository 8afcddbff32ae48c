//! Files of incidents: where the parts of the archive are, its list, and its digests.
#![no_main]
#![expect(dead_code, reason = "only the readers of the module are fuzzed")]

#[path = "../../ctl/src/bundle/mod.rs"]
mod bundle;

use bundle::{Name, archive::places, manifest::{Manifest, check_sums}};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(found) = places(&bytes) {
        for name in found.keys() {
            assert_eq!(Name::parse(&name.to_string()), Some(*name));
        }
    }
    let none = Default::default();
    let _manifest = Manifest::parse(bytes, &none);
    let _sums = check_sums(bytes, &none);
});
