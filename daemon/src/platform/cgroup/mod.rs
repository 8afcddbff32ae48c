//! cgroup v2 folders, held by descriptor (kernel: Documentation/admin-guide/cgroup-v2.rst).
//!
//! [`CgroupRoot`] is the mount; a [`Cgroup`] owns a descriptor of its folder, so every later read and write reaches
//! that cgroup or fails as vanished, never a new one at the same path.
//!
//! Invariants of a [`Cgroup`]:
//! - it lies inside the cgroup2 mount, reached without `..` and without a symbolic link or a mount on the way;
//! - it is not the root, and when it was opened it did not hold the daemon itself: freezing or killing that would
//!   leave nobody to undo it. [`Cgroup::refuse_if_own`] asks again, for the moment before acting;
//! - its id is the inode number of the folder, which is what `bpf_get_current_cgroup_id` gives.

mod by_id;
mod control;
mod error;
mod events;
mod handle;
mod own;
mod root;
mod tree;
mod unopened;
mod walk;

pub use error::{CgroupError, Result};
pub use events::Events;
pub use handle::Cgroup;
pub use root::CgroupRoot;
pub use tree::Members;
pub use unopened::Unopened;
pub use walk::Walk;
