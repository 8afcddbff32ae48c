//! Reading a policy: strict TOML in, a [`Policy`] or all that is wrong with it out.

use super::{
    Policy, build,
    diagnostic::{Diagnostic, Diagnostics},
    mistakes::Mistakes,
    raw::RawPolicy,
};
use toml::de::DeTable;

/// Largest policy that is read, in bytes: a larger one is a mistake or an attack on the daemon.
pub const MAX_BYTES: usize = 256 * 1024;

/// A policy that was read, with what its author should look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The policy.
    pub policy: Policy,
    /// Warnings only.
    pub warnings: Diagnostics,
}

/// Reads a policy. `file` only names it in errors.
///
/// # Errors
/// [`Diagnostics`] with file, line, column, what was expected, and a suggestion where a name is nearly right.
pub fn parse(file: &str, text: &str) -> Result<Policy, Diagnostics> {
    check(file, text).map(|checked| checked.policy)
}

/// Reads a policy, with warnings.
///
/// # Errors
/// As [`parse`]; warnings are among the mistakes.
pub fn check(file: &str, text: &str) -> Result<Checked, Diagnostics> {
    let all = |list| Diagnostics { file: file.to_owned(), list };
    if text.len() > MAX_BYTES {
        let message = format!("the policy has {} bytes, expected at most {MAX_BYTES}", text.len());
        return Err(all(vec![Diagnostic::at("", 0..0, message, None)]));
    }
    let mut wrong = Mistakes::new();
    let (root, broken) = DeTable::parse_recoverable(text);
    for error in broken {
        wrong.syntax(error.span().unwrap_or(0..0), error.message());
    }
    let raw = RawPolicy::read(&mut wrong, root.get_ref());
    let policy = build::build(&mut wrong, raw);
    let refused = wrong.any();
    let found = all(wrong.finish(text, root.get_ref()));
    if refused { Err(found) } else { Ok(Checked { policy, warnings: found }) }
}

#[cfg(test)]
mod tests;
