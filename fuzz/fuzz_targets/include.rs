//! Policies with included files and templates. The input is up to eight texts, each after a zero byte: file `0`, which is the policy, file
//! `1`, and so on. `@N` in a text stands for the SHA-256 of file N, if N is greater: no input could guess it otherwise, and a file
//! that includes itself cannot have its own digest.
#![no_main]

use failsafe_core::policy::{
    include::{MAX_FILES, resolve},
    parse,
};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut files: Vec<String> = text.split('\0').take(8).map(str::to_owned).collect();
    for n in (1..files.len()).rev() {
        let digest = hex::encode(Sha256::digest(files[n].as_bytes()));
        for file in &mut files[..n] {
            *file = file.replace(&format!("@{n}"), &digest);
        }
    }
    let mut loaded = 0;
    let mut load = |_: &str, name: &str| {
        loaded += 1;
        let file = name.parse().ok().and_then(|n: usize| files.get(n));
        file.map(|text| (name.to_owned(), text.clone())).ok_or_else(|| "no such file".to_owned())
    };
    match resolve("0", &files[0], &mut load) {
        Ok(resolved) => {
            assert!(resolved.files().count() <= MAX_FILES);
            match parse::parse("0", &resolved.text) {
                Ok(policy) => page::explain(&policy),
                Err(wrong) => drop(resolved.placed(wrong).to_string()),
            }
        }
        Err(wrong) => assert!(!wrong.list.is_empty(), "refused without a reason"),
    }
});

#[path = "check/explain.rs"]
mod page;
