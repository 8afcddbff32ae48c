//! Tests of policies. The input is a policy and, after a zero byte, its test file. Short tests are run twice, and end the same.
#![no_main]

use failsafe_core::{policy::parse, time::Span};
use failsafe_trial::{file, test};
use libfuzzer_sys::fuzz_target;

/// Inputs of a test that is run.
const MOST: u64 = 500;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Some((policy, tests)) = text.split_once('\0') else { return };
    let _named = file::policy_of(tests);
    let Ok(policy) = parse::parse("p.toml", policy) else { return };
    match file::read("p.test.toml", tests, &policy) {
        Ok(read) => {
            for case in &read.cases {
                let inputs: u64 = case.inputs.iter().map(|feed| feed.count).sum();
                if inputs <= MOST && case.length <= Span::from_secs(600) {
                    let (verdict, _) = test(&policy, case);
                    assert_eq!(format!("{verdict:?}"), format!("{:?}", test(&policy, case).0));
                }
            }
        }
        Err(wrong) => assert!(!wrong.list.is_empty() && !wrong.to_string().is_empty(), "refused without a reason"),
    }
});
