//! Cgroups that become runs by themselves: trees as schedulers make them, below a cgroup of the test's own.

mod early;
mod observe;
mod refused;
mod runs;
mod site;
