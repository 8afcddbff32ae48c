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

impl Diagnostic {
    /// A mistake at `span`, bytes of `text`.
    pub fn at(text: &str, span: Range<usize>, message: impl Into<String>, help: Option<String>) -> Diagnostic {
        let start = (0..=span.start.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let column = before[line_start..].chars().count() + 1;
        let line = text[line_start..].lines().next().unwrap_or_default();
        let cut = if line.len() <= EXCERPT { 0 } else { column.saturating_sub(BEFORE + 1) };
        let excerpt = line.chars().skip(cut).take(EXCERPT).collect();
        let line = before.matches('\n').count() + 1;
        Diagnostic { line, column, message: message.into(), help, excerpt, cut }
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
        write!(f, "{}:{}:{}: {}", shown(file), self.line, self.column, shown(&self.message))?;
        if !self.excerpt.trim().is_empty() {
            // The caret stands below what is shown of the line, however wide that became.
            let before = self.excerpt.chars().take(self.column.saturating_sub(self.cut + 1)).collect::<String>();
            let width = shown(&before).chars().count() + 1;
            write!(f, "\n  | {}\n  | {:>width$}", shown(&self.excerpt), "^")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  = help: {}", shown(help))?;
        }
        Ok(())
    }
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
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => {
                out.extend(c.escape_unicode());
            }
            c if c.is_control() => out.extend(c.escape_default()),
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

/// The nearest of `candidates` to `word`, if near enough to have been meant.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 1.max(candidate.len().min(word.len()) / 3))
        .map(|(_, candidate)| candidate)
}
