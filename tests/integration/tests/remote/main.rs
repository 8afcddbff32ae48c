//! Remote clients: who gets in by a certificate, what each role may do, and who is believed.

mod authority;
mod certificates;
mod ctl;
mod door;
mod limits;
mod roles;

/// A policy without rules.
pub const PLAIN: &str = "[policy]\nname = \"plain\"\nowner = \"tests\"\n";
