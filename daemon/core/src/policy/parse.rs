//! Reading a policy: strict TOML in, a [`Policy`] or all that is wrong with it out.

use super::{
    Policy, build,
    diagnostic::{Diagnostic, Diagnostics, nearest},
    raw::RawPolicy,
};

/// Largest policy that is read, in bytes: a larger one is a mistake or an attack on the daemon.
pub const MAX_BYTES: usize = 256 * 1024;

/// Reads a policy. `file` only names it in errors.
///
/// # Errors
/// [`Diagnostics`] with file, line, column, what was expected, and a suggestion where a name is nearly right.
pub fn parse(file: &str, text: &str) -> Result<Policy, Diagnostics> {
    let fail = |list| Diagnostics { file: file.to_owned(), list };
    if text.len() > MAX_BYTES {
        let message = format!("the policy has {} bytes, expected at most {MAX_BYTES}", text.len());
        return Err(fail(vec![Diagnostic::at("", 0..0, message, None)]));
    }
    let raw: RawPolicy = toml::from_str(text).map_err(|error| {
        let message = error.message();
        fail(vec![Diagnostic::at(text, error.span().unwrap_or(0..0), message, suggestion(message))])
    })?;
    build::build(text, raw).map_err(fail)
}

/// A suggestion out of serde's "unknown field `x`, expected one of `a`, `b`" and its like.
pub(crate) fn suggestion(message: &str) -> Option<String> {
    if !message.starts_with("unknown ") {
        return None;
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let word = quoted.next()?;
    nearest(word, quoted).map(|near| format!("did you mean `{near}`?"))
}

#[cfg(test)]
mod tests;
