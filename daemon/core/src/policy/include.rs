//! `include`: rules and templates of further files, each named with its SHA-256.
//!
//! ```text
//! policy.toml ─┬─► include = [{ file, sha256 }] ─► loaded by the caller ─► digest checked ─┐
//!              └───────────────────────────────────────────────────────► one text ◄────────┘
//! ```
//!
//! The result is one text without `include`, which is what is checked, sent and pinned: whoever enforces a policy reads no further
//! file. Places in it lead back to the files. Depth, number and size of the files are bounded.

use super::{
    diagnostic::{Diagnostic, Diagnostics, quote},
    fields::found,
    parse::MAX_BYTES,
};
use sha2::{Digest, Sha256};
use std::ops::Range;
use toml::de::{DeTable, DeValue};

/// How deep files can include further files.
pub const MAX_DEPTH: usize = 8;
/// Files that a policy can include, directly or not.
pub const MAX_FILES: usize = 32;
/// What an included file can have.
const OF_INCLUDED: [&str; 4] = ["include", "rule", "template", "use"];

/// Loads an included file: gets the file that includes it and the name there, gives its own name and its text.
pub type Load<'l> = dyn FnMut(&str, &str) -> Result<(String, String), String> + 'l;

/// A policy with all that it includes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// One text without `include`.
    pub text: String,
    /// The files, with the line of the text at which each begins, from 0.
    parts: Vec<(usize, String)>,
}

impl Resolved {
    /// The same mistakes, at their places in the files.
    #[must_use]
    pub fn placed(&self, mut found: Diagnostics) -> Diagnostics {
        for one in &mut found.list {
            let line = one.line.saturating_sub(1);
            let part = self.parts.partition_point(|(first, _)| *first <= line).saturating_sub(1);
            if let Some((first, file)) = self.parts.get(part) {
                one.line = line - first + 1;
                one.file = Some(file.clone()).filter(|file| *file != found.file);
            }
        }
        found
    }

    /// The included files.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().skip(1).map(|(_, file)| file.as_str())
    }
}

/// Resolves what a policy includes. A text that includes nothing stays as it is.
///
/// # Errors
/// Each mistake with file and line: a file that cannot be loaded, has another digest, is included by itself, or has more than rules,
/// templates and their uses.
pub fn resolve(file: &str, text: &str, load: &mut Load<'_>) -> Result<Resolved, Diagnostics> {
    let mut all = Including {
        out: Resolved { text: String::new(), parts: Vec::new() },
        lines: 0,
        stack: Vec::new(),
        included: Vec::new(),
        load,
    };
    all.add(file, text)?;
    Ok(all.out)
}

struct Including<'l, 'f> {
    out: Resolved,
    lines: usize,
    /// The files that are being included, outermost first.
    stack: Vec<String>,
    included: Vec<String>,
    load: &'l mut Load<'f>,
}

struct Wanted {
    file: String,
    sha256: String,
    span: Range<usize>,
}

impl Including<'_, '_> {
    fn add(&mut self, file: &str, text: &str) -> Result<(), Diagnostics> {
        let wrong = |list| Diagnostics { file: file.to_owned(), list };
        let one = |span: Range<usize>, message: String, help| wrong(vec![Diagnostic::at(text, span, message, help)]);
        let (root, broken) = DeTable::parse_recoverable(text);
        if let (Some(error), false) = (broken.first(), self.stack.is_empty()) {
            return Err(wrong(vec![Diagnostic::of_toml(text, error)]));
        }
        if !self.stack.is_empty() {
            let list = more_than_rules(text, root.get_ref());
            if !list.is_empty() {
                return Err(wrong(list));
            }
        }
        let Some((key, value)) = root.get_ref().iter().find(|(key, _)| *key.get_ref() == "include") else {
            return self.push(file, text).map_err(|message| one(0..0, message, None));
        };
        let wanted = wanted(text, value.get_ref(), key.span(), value.span()).map_err(wrong)?;
        let rest = blanked(text, key.span().start..value.span().end);
        self.push(file, &rest).map_err(|message| one(0..0, message, None))?;
        self.stack.push(file.to_owned());
        for Wanted { file: name, sha256, span } in wanted {
            let at = |message: String, help| one(span.clone(), message, help);
            if self.stack.len() > MAX_DEPTH {
                return Err(at(format!("files include one another deeper than {MAX_DEPTH} levels"), None));
            }
            let (path, inner) = (self.load)(file, &name).map_err(|why| at(why, None))?;
            if self.stack.contains(&path) {
                let chain = self.stack.join(", ");
                return Err(at(format!("{} includes itself, through {chain}", quote(&path)), None));
            }
            // The digest that it has is not shown: it would be of a file that the author of the policy perhaps may not read.
            if hex::encode(Sha256::digest(inner.as_bytes())) != sha256 {
                let message = format!("{} does not have the SHA-256 {sha256}: it was changed", quote(&path));
                let help = "look at what changed; `sha256sum FILE` prints the digest to write here".to_owned();
                return Err(at(message, Some(help)));
            }
            if self.included.contains(&path) {
                continue;
            }
            if self.included.len() >= MAX_FILES {
                return Err(at(format!("the policy includes more than {MAX_FILES} files"), None));
            }
            self.included.push(path.clone());
            self.add(&path, &inner)?;
        }
        self.stack.pop();
        Ok(())
    }

    fn push(&mut self, file: &str, text: &str) -> Result<(), String> {
        if self.out.text.len() + text.len() + 1 > MAX_BYTES && !self.out.parts.is_empty() {
            return Err(format!("with this file the policy has more than {MAX_BYTES} bytes"));
        }
        if !self.out.text.is_empty() && !self.out.text.ends_with('\n') {
            self.out.text.push('\n');
            self.lines += 1;
        }
        self.out.parts.push((self.lines, file.to_owned()));
        self.out.text.push_str(text);
        self.lines += text.matches('\n').count();
        Ok(())
    }
}

/// The files of `include`, or what is wrong with them.
fn wanted(
    text: &str,
    value: &DeValue<'_>,
    key: Range<usize>,
    span: Range<usize>,
) -> Result<Vec<Wanted>, Vec<Diagnostic>> {
    let form = "include = [{ file = \"common.toml\", sha256 = \"...\" }]";
    let at = |span: Range<usize>, message: String| vec![Diagnostic::at(text, span, message, None)];
    let is_header = text.get(..key.start).is_some_and(|before| before.trim_end().ends_with('['));
    let items = match value {
        DeValue::Array(items) if !is_header => items,
        DeValue::Array(_) => return Err(at(key, format!("expected {form} at the top of the file, found [[include]]"))),
        other => return Err(at(span, format!("expected {form}, found {}", found(other)))),
    };
    let (mut out, mut wrong) = (Vec::new(), Vec::new());
    for item in items.iter() {
        let fields = item.get_ref().as_table();
        let field = |name: &str| fields?.get(name)?.get_ref().as_str().map(str::to_owned);
        let known =
            fields.is_some_and(|table| table.iter().all(|(key, _)| matches!(&**key.get_ref(), "file" | "sha256")));
        match (field("file"), field("sha256")) {
            (Some(file), Some(sha256)) if known && is_sha256(&sha256) => {
                out.push(Wanted { file, sha256, span: item.span() });
            }
            (_, Some(sha256)) if known && !is_sha256(&sha256) => {
                let message = format!("{}, expected 64 lower-case hex digits in `sha256`", quote(&sha256));
                let help = "sha256sum FILE prints them".to_owned();
                wrong.push(Diagnostic::at(text, item.span(), message, Some(help)));
            }
            _ => {
                let help = "sha256sum FILE prints the digest".to_owned();
                let message = "expected exactly `file` and `sha256`, both as texts".to_owned();
                wrong.push(Diagnostic::at(text, item.span(), message, Some(help)));
            }
        }
    }
    if wrong.is_empty() { Ok(out) } else { Err(wrong) }
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// What an included file may not have. What it has must begin with a header, because it comes behind other tables.
fn more_than_rules(text: &str, root: &DeTable<'_>) -> Vec<Diagnostic> {
    let mut wrong = Vec::new();
    for (key, _) in root.iter() {
        let name: &str = key.get_ref();
        let is_header = text.get(..key.span().start).is_some_and(|before| before.trim_end().ends_with("[["));
        let message = match name {
            "include" => continue,
            name if !OF_INCLUDED.contains(&name) => {
                let known = OF_INCLUDED.join(", ");
                format!("{} cannot stand in an included file, expected one of {known}", quote(name))
            }
            name if !is_header => format!("expected [[{name}]] in an included file, not {name} = ..."),
            _ => continue,
        };
        wrong.push(Diagnostic::at(text, key.span(), message, None));
    }
    wrong
}

/// The text with spaces in place of the bytes, so that every line and column stays where it is.
fn blanked(text: &str, span: Range<usize>) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        let inside = span.contains(&at) && c != '\n';
        out.push(if inside { ' ' } else { c });
    }
    out
}

#[cfg(test)]
mod tests;
