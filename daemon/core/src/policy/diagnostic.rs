//! What is wrong with a policy, and where: file, line and column, with a suggestion where there is one.

mod plain;

use crate::visible::is_hidden;
use std::{fmt, ops::Range};

/// How bad a diagnostic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The policy is refused.
    Error,
    /// The policy is accepted, but it may not do what its author wants.
    Warning,
}

/// One mistake, or one warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub level: Level,
    /// The file, where it is not the one that was named: an included one.
    pub file: Option<String>,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The field, such as `rule.too-hot.when.above`; empty where there is none.
    pub field: String,
    /// What is wrong, and what was expected.
    pub message: String,
    /// What to write instead, where that can be guessed.
    pub help: Option<String>,
    /// The line itself; of a long one the part around the column.
    pub excerpt: String,
    /// Columns of the line before the excerpt.
    pub cut: usize,
}

/// Characters of a line that are shown at most.
const EXCERPT: usize = 160;
/// Those before the column, of a longer line.
const BEFORE: usize = 60;
/// Characters of a message or a suggestion that are shown at most: they quote the policy.
const TEXT: usize = 4_000;
/// Characters of one value of the policy that a message quotes at most.
const QUOTED: usize = 80;

/// Where the lines of a text begin: found once, so that many mistakes do not read the text many times.
pub(crate) struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub(crate) fn of(text: &'t str) -> Lines<'t> {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Lines { text, starts }
    }

    /// The line of a byte, from 0.
    pub(crate) fn line(&self, byte: usize) -> usize {
        self.starts.partition_point(|start| *start <= byte).saturating_sub(1)
    }

    pub(crate) fn at(
        &self,
        level: Level,
        span: Range<usize>,
        field: &str,
        message: &str,
        help: Option<&str>,
    ) -> Diagnostic {
        let text = self.text;
        let start = (0..=span.start.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        let number = self.line(start);
        let line_start = self.starts.get(number).copied().unwrap_or(0);
        let line_end = self.starts.get(number + 1).map_or(text.len(), |next| next - 1);
        let line = text[line_start..line_end.max(line_start)].trim_end_matches('\r');
        let column = text[line_start..start].chars().count() + 1;
        let cut = if line.len() <= EXCERPT { 0 } else { column.saturating_sub(BEFORE + 1) };
        Diagnostic {
            level,
            file: None,
            line: number + 1,
            column,
            field: shown(field),
            message: shown(message),
            help: help.map(shown),
            excerpt: line.chars().skip(cut).take(EXCERPT).collect(),
            cut,
        }
    }
}

impl Diagnostic {
    /// A mistake at `span`, bytes of `text`.
    pub fn at(text: &str, span: Range<usize>, message: impl Into<String>, help: Option<String>) -> Diagnostic {
        Lines::of(text).at(Level::Error, span, "", &message.into(), help.as_deref())
    }

    /// What the TOML reader found wrong.
    pub fn of_toml(text: &str, error: &toml::de::Error) -> Diagnostic {
        let (message, help) = plain::plain(error.message());
        Diagnostic::at(text, error.span().unwrap_or(0..0), message, help)
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

impl Diagnostic {
    /// As people read it, on a terminal too: whoever wrote the policy does not write on the terminal of who checks it.
    fn show(&self, file: &str, f: &mut impl fmt::Write) -> fmt::Result {
        let file = self.file.as_deref().unwrap_or(file);
        write!(f, "{}:{}:{}: ", shown(file), self.line, self.column)?;
        if self.level == Level::Warning {
            f.write_str("warning: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)?;
        if !self.excerpt.trim().is_empty() {
            // The caret stands below what is shown of the line, however wide that became.
            let before = self.excerpt.chars().take(self.column.saturating_sub(self.cut + 1)).collect::<String>();
            let width = shown(&before).chars().count() + 1;
            write!(f, "\n  | {}\n  | {:>width$}", shown(&self.excerpt), "^")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  = help: {help}")?;
        }
        Ok(())
    }
}

/// A value of the policy as a message quotes it: its beginning, where it is long.
pub fn quote(value: &str) -> String {
    if value.chars().nth(QUOTED).is_none() {
        return format!("`{value}`");
    }
    let beginning: String = value.chars().take(QUOTED).collect();
    format!("`{beginning}...` ({} bytes)", value.len())
}

/// Text out of a policy: control and direction characters are spelled out, and it ends after [`TEXT`] characters.
fn shown(text: &str) -> String {
    let mut out = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == TEXT {
            out.push_str("...");
            break;
        }
        match c {
            '\t' => out.push(' '),
            c if is_hidden(c) => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

impl Diagnostics {
    /// The first `most`, each as people read it, and how many more there are.
    pub fn texts(&self, most: usize) -> Vec<String> {
        let one = |d: &Diagnostic| {
            let mut text = String::new();
            let _never = d.show(&self.file, &mut text);
            text
        };
        let mut texts: Vec<String> = self.list.iter().take(most).map(one).collect();
        if let more @ 1.. = self.list.len().saturating_sub(most) {
            texts.push(more_of(more));
        }
        texts
    }

    /// As many as fit into so many bytes, the first in any case, and how many more there are.
    pub fn summary(&self, bytes: usize) -> String {
        let mut out = String::new();
        for (n, d) in self.list.iter().enumerate() {
            let mut text = String::new();
            let _never = d.show(&self.file, &mut text);
            if n > 0 && out.len() + text.len() > bytes {
                let more = more_of(self.list.len() - n);
                return format!("{out}\n{more}; `failsafectl policy check` shows more of them");
            }
            if n > 0 {
                out.push('\n');
            }
            out.push_str(&text);
        }
        out
    }
}

fn more_of(more: usize) -> String {
    format!("and {more} more {}", if more == 1 { "mistake" } else { "mistakes" })
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, d) in self.list.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            d.show(&self.file, f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// Longest word for which a suggestion is sought.
const LONGEST_WORD: usize = 64;

/// The nearest of `candidates` to `word`, if near enough to have been meant: differing in case, in `-` and `_`, in few letters,
/// or cut off.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > LONGEST_WORD {
        return None;
    }
    let plain = |text: &str| text.trim().to_ascii_lowercase().replace(['-', ' '], "_");
    let word = plain(word);
    let near = |candidate: &'a str| {
        let wanted = plain(candidate);
        let distance = strsim::damerau_levenshtein(&word, &wanted);
        if distance <= 1.max(wanted.len().min(word.len()) / 3) {
            return Some((0, distance, candidate));
        }
        let shared = word.bytes().zip(wanted.bytes()).take_while(|(a, b)| a == b).count();
        let begins = wanted.starts_with(&word) || (shared + 1 >= word.len() && distance <= 2);
        (word.len() >= 4 && begins).then_some((1, distance, candidate))
    };
    candidates.into_iter().filter_map(near).min().map(|(_, _, candidate)| candidate)
}

/// A suggestion out of `candidates`, in words.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(word, candidates).map(|near| format!("did you mean `{near}`?"))
}
