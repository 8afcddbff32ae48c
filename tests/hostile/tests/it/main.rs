//! The hostile suite: one test an attack. See `hostile`'s own documentation for how it is judged.

mod once;

use anyhow::Result;
use hostile::attacks;
use once::Once;

#[test]
fn compiling_a_huge_policy_delays_no_freeze() -> Result<()> {
    attacks::compile(&mut Once)
}

#[test]
fn without_a_free_descriptor_a_run_is_frozen_and_stays_so() -> Result<()> {
    attacks::descriptors(&mut Once)
}

#[test]
fn a_disk_that_hangs_while_another_run_ends_delays_no_freeze() -> Result<()> {
    attacks::hanging_disk(&mut Once)
}

#[test]
fn a_full_disk_delays_no_freeze() -> Result<()> {
    attacks::full_disk(&mut Once)
}

#[test]
fn a_hundred_runs_that_end_at_once_delay_no_freeze() -> Result<()> {
    attacks::ends(&mut Once, 100)
}

#[test]
fn a_flood_of_events_delays_no_freeze() -> Result<()> {
    attacks::events(&mut Once)
}

#[test]
fn a_flood_of_opens_delays_no_freeze() -> Result<()> {
    attacks::opens(&mut Once)
}

#[test]
fn a_flood_of_metrics_delays_no_freeze() -> Result<()> {
    attacks::metrics(&mut Once)
}

#[test]
fn a_thousand_followers_delay_no_freeze() -> Result<()> {
    attacks::followers(&mut Once)
}

#[test]
fn a_thousand_idle_connections_delay_no_freeze() -> Result<()> {
    attacks::idle(&mut Once)
}

#[test]
fn a_flood_of_health_calls_delays_no_freeze() -> Result<()> {
    attacks::health(&mut Once)
}

#[test]
fn the_largest_policies_of_another_user_delay_no_freeze() -> Result<()> {
    attacks::policies(&mut Once)
}
