//! What is wrong with a policy, and where: file, line and column, with a suggestion where there is one.

use std::{fmt, ops::Range};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, naming the field and what was expected.
    pub message: String,
    /// What to write instead, where that can be guessed.
    pub help: Option<String>,
    /// The line itself.
    pub excerpt: String,
}

impl Diagnostic {
    /// A mistake at `span`, bytes of `text`.
    pub fn at(text: &str, span: Range<usize>, message: impl Into<String>, help: Option<String>) -> Diagnostic {
        let start = (0..=span.start.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let excerpt = text[line_start..].lines().next().unwrap_or_default().to_owned();
        Diagnostic {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: message.into(),
            help,
            excerpt,
        }
    }
}

/// All that is wrong with one policy file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics {
    /// The file, as the caller named it.
    pub file: String,
    /// At least one.
    pub list: Vec<Diagnostic>,
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, d) in self.list.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:{}:{}: {}", self.file, d.line, d.column, d.message)?;
            if !d.excerpt.trim().is_empty() {
                write!(f, "\n  | {}\n  | {:>width$}", d.excerpt, "^", width = d.column)?;
            }
            if let Some(help) = &d.help {
                write!(f, "\n  = help: {help}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// The nearest of `candidates` to `word`, if near enough to have been meant.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 1.max(candidate.len().min(word.len()) / 3))
        .map(|(_, candidate)| candidate)
}
