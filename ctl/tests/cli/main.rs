//! The program itself, as scripts use it: arguments in; stdout, stderr and exit code out. The daemon is a stand-in on a real
//! socket; logs and recordings are real files.

#![expect(clippy::unwrap_used, reason = "test code")]

mod archive;
mod beside;
mod cleanup;
mod consistency;
mod daemon;
mod files;
mod fixtures;
mod health;
mod incidents;
mod log;
mod run;
#[path = "../../../tests/skip.rs"]
mod skip;
mod support;
