//! The hostile suite: one module an attack. See `hostile`'s own documentation for how it is judged.

mod compile;
mod descriptors;
mod disk;
mod ends;
mod events;
mod metrics;
mod victim;
