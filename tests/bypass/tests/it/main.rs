//! The bypass suite: one module a subject, one table a test. See `bypass`'s own documentation for how an attempt is judged.

mod adoption;
mod cgroup;
mod exec;
mod flood;
mod inside;
mod outsider;
mod own;
mod paths;
mod process;
mod report;
mod sockets;
mod trial;
mod witness;
