//! Tests of policies: described inputs go through the engine of the daemon, and the decisions are held against expected ones.
//!
//! ```text
//! NAME.test.toml ─► file::read ─► Case ─► run (core's engine, matchers) ─► Ran ─► judge ─► Verdict
//! ```
//!
//! Pure: no file, clock or random number is read here; noise comes from a seed that the file states. The same policy and the same
//! file give the same result on every machine.

#![forbid(unsafe_code)]

pub mod coverage;
pub mod events;
pub mod file;
pub mod judge;
mod names;
mod read;
pub mod run;
pub mod values;

pub use coverage::Coverage;
pub use file::{Case, TestFile};
pub use judge::{Failure, Verdict};
pub use run::Ran;

use failsafe_core::{Policy, time::Span};

/// Runs one test, and judges what came of it.
pub fn test(policy: &Policy, case: &Case) -> (Verdict, Ran) {
    let ran = run::run(policy, case);
    (judge::judge(case, &ran), ran)
}

/// A time after the start of a test, for people: `61.25 s`.
pub fn seconds(span: Span) -> String {
    let (whole, rest) = (span.0 / 1_000_000_000, span.0 % 1_000_000_000);
    if rest == 0 {
        return format!("{whole} s");
    }
    let rest = format!("{rest:09}");
    format!("{whole}.{} s", rest.trim_end_matches('0'))
}
