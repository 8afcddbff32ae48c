//! Putting results into text: tables, times, the page of an incident, JSON. Pure, but for names of users: values in, text out.

pub mod actors;
pub mod attest;
pub mod bundle;
pub mod canary;
pub mod decision;
pub mod drill;
pub mod egress;
pub mod event;
pub mod explain;
pub mod gpu_info;
pub mod health;
pub mod incident;
pub mod incidents;
pub mod json;
pub mod policy;
pub mod policy_test;
pub mod quote;
pub mod reference;
pub mod replayed;
pub mod runs;
pub mod shadow;
pub mod table;
pub mod time;
pub mod users;

pub use crate::text::clean;
use std::io::{self, IsTerminal, Write};

/// Writes an answer to stdout. Where nobody reads it, the command goes on: its exit code is an answer, too, and a tampered log must not
/// become 0 because of `| head`.
///
/// # Errors
/// Those of writing, but for a reader that went away.
pub fn print(text: &str) -> io::Result<()> {
    match stream(text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Writes one of many texts to stdout, such as the next entry of a log.
///
/// # Errors
/// Those of writing; a reader that went away ends the program quietly, with 0.
pub fn stream(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Colours, on a terminal that wants them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint {
    on: bool,
}

impl Paint {
    /// For stdout: on a terminal, unless `NO_COLOR` is set.
    pub fn stdout() -> Paint {
        Paint { on: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) }
    }

    /// No colours.
    #[cfg(test)]
    pub fn plain() -> Paint {
        Paint { on: false }
    }

    /// A heading.
    pub fn head(self, text: &str) -> String {
        self.wrap(text, "1")
    }

    /// Good news.
    pub fn good(self, text: &str) -> String {
        self.wrap(text, "32")
    }

    /// Something to look at.
    pub fn warn(self, text: &str) -> String {
        self.wrap(text, "33")
    }

    /// Bad news.
    pub fn bad(self, text: &str) -> String {
        self.wrap(text, "1;31")
    }

    /// What matters less.
    pub fn dim(self, text: &str) -> String {
        self.wrap(text, "2")
    }

    fn wrap(self, text: &str, code: &str) -> String {
        if self.on && !text.is_empty() { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// A number of things: `1 process`, `2 processes`.
pub fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// Breaks a paragraph into lines of at most `width` characters, between words only.
pub fn fill(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_break_between_words() {
        assert_eq!(fill("aa bb  cc\ndddddddd e", 5), ["aa bb", "cc", "dddddddd", "e"]);
        assert_eq!(fill("", 5), [""]);
    }
}
