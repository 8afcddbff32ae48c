//! Which cgroups become runs by themselves: patterns over cgroup paths, and the rules of the configuration that use them.
//!
//! ```text
//! [[discover]] ─► Rules ─┐
//! path of a cgroup ──────┴─► Rules::explain ─► a match with labels | a supervisor | why each pattern does not match
//! ```
//! Pure: knows no file system. Invariants: the first rule that matches counts; a supervisor's cgroup never matches, whatever a rule
//! says; matching takes time linear in the length of the path.

mod automaton;
mod pattern;
mod preset;
mod rule;
mod supervisor;

pub use automaton::{Automaton, CLASSES, State};
pub use pattern::{Pattern, Stop};
pub use preset::Preset;
pub use rule::{Explained, LABEL, LABEL_BYTES, Labels, Match, Miss, Rule, Rules, is_discovered, is_name, of_config};
pub use supervisor::{holds_supervisor, supervisor, user_of_slice};

#[cfg(test)]
mod tests;
