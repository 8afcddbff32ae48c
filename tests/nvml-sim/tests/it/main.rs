//! The built library as its clients meet it. One binary, so that the helper is built once.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod clients;
mod header;
mod models;
#[path = "../../../patience.rs"]
mod patience;
mod scenarios;
mod sim;
#[path = "../../../skip.rs"]
mod skip;
mod wrapper;
