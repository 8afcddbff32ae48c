//! Text that is safe to show, and short forms of ids.

pub use failsafe_core::visible::clean;

/// The first 13 characters of a run's id: its time of birth in milliseconds.
pub fn short(id: &str) -> String {
    id.chars().take(13).collect()
}
