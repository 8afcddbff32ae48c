//! The attacks, one file each.

mod compile;
mod crowds;
mod descriptors;
mod ends;
mod events;
mod full_disk;
mod hanging_disk;
mod metrics;
mod opens;
mod policies;

pub use compile::compile;
pub use crowds::{followers, health, idle};
pub use descriptors::descriptors;
pub use ends::ends;
pub use events::events;
pub use full_disk::full_disk;
pub use hanging_disk::hanging_disk;
pub use metrics::metrics;
pub use opens::opens;
pub use policies::policies;
