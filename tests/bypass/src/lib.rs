//! Attempts to get round the bounds of a run, and what each must come to: a release is held back by a silent miss.
//!
//! ```text
//! tests/SUBJECT.rs ─► node, witness outside ─► run without bounds: does the attempt work on this kernel at all?
//!                                          └─► run under a policy: what arrived outside, what was decided?
//!                          table::ROWS ────────► blocked | contained | known leak, as expected, or the test fails
//! bin `bypass NAME ...` = attempts::NAME, the part that runs inside
//! ```
//!
//! Invariants: an attempt is judged by what was seen outside the run, its own words only say why it stopped; a "blocked"
//! counts only beside a control that got through; a known leak stands in `docs/threat-model.md`, in the words of the table.

pub mod attempts;
pub mod sys;
pub mod table;
