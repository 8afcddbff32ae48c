//! Structures of a TPM, as a quote in a file has them, and answers of a TPM to each command.
#![no_main]

use failsafe_tpm::{endorsement::structure, Public, Quoted, Tpm, Transport, signature};
use libfuzzer_sys::fuzz_target;
use std::io;

/// Gives the same answer to each command, as often as a command can be sent.
struct Answers<'a>(&'a [u8], u32);

impl Transport for Answers<'_> {
    fn exchange(&mut self, _command: &[u8]) -> io::Result<Vec<u8>> {
        self.1 = self.1.checked_sub(1).ok_or_else(|| io::Error::other("no more answers"))?;
        Ok(self.0.to_vec())
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(public) = Public::parse(bytes) {
        assert_eq!(public.area(), bytes);
        // Nothing but the point differs between two keys that are accepted.
        assert_eq!(Public::of_point(public.point()), public);
        let _name = public.qualified_name();
    }
    if let Ok(quoted) = Quoted::parse(bytes) {
        assert!(quoted.pcrs.is_sorted_by(|one, next| one < next) && quoted.qualifying.len() <= 64);
    }
    if let Ok(certificate) = structure(bytes) {
        assert_eq!(structure(certificate), Ok(certificate));
    }
    let _signature = signature(bytes);
    let tpm = || Tpm::new(Answers(bytes, 8));
    let _about = tpm().about();
    let _endorsements = tpm().endorsements();
    let _counter = tpm().counter();
    let _counted = tpm().count();
    let _pcrs = tpm().pcrs(&[0, 7, 10]);
    if let Ok(key) = tpm().key() {
        let _quote = tpm().quote(&key, &[0, 7, 10], &[0; 32]);
        let _gone = tpm().flush(&key);
    }
});
