//! What is found wrong while a policy is read. Reading goes on after a mistake, so that all of them are reported at once.

use super::diagnostic::{Diagnostic, Level, Lines};
use std::{collections::BTreeSet, ops::Range};
use toml::de::{DeTable, DeValue};

/// Mistakes that are kept; the rest are counted. A person fixes fewer at a time, and each costs time to describe.
const MOST: usize = 400;
/// Characters of one part of a field's name that are shown at most.
const PART: usize = 40;

/// The mistakes of one file.
#[derive(Default)]
pub struct Mistakes {
    list: Vec<Mistake>,
    left_out: usize,
    first_left_out: usize,
}

struct Mistake {
    level: Level,
    kind: MistakeKind,
    span: Range<usize>,
    field: String,
    message: String,
    help: Option<String>,
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum MistakeKind {
    /// The text is not TOML.
    Syntax,
    /// A field is missing: not certain where a part of the text could not be read.
    Missing,
    Other,
}

impl Mistakes {
    /// None yet.
    pub fn new() -> Mistakes {
        Mistakes { list: Vec::new(), left_out: 0, first_left_out: 0 }
    }

    /// The text is not TOML.
    pub fn syntax(&mut self, span: Range<usize>, message: &str) {
        self.note(Level::Error, MistakeKind::Syntax, span, format!("the text is not valid TOML: {message}"), None);
    }

    /// A field or a section is missing.
    pub fn missing(&mut self, span: Range<usize>, message: impl Into<String>, help: Option<String>) {
        self.note(Level::Error, MistakeKind::Missing, span, message.into(), help);
    }

    /// Anything else that is wrong.
    pub fn error(&mut self, span: Range<usize>, message: impl Into<String>, help: Option<String>) {
        self.note(Level::Error, MistakeKind::Other, span, message.into(), help);
    }

    /// What is accepted, and probably not meant.
    pub fn warning(&mut self, span: Range<usize>, message: impl Into<String>, help: Option<String>) {
        self.note(Level::Warning, MistakeKind::Other, span, message.into(), help);
    }

    /// Whether further mistakes are only counted, so that no suggestion for them needs to be sought.
    pub fn full(&self) -> bool {
        self.list.len() >= MOST
    }

    /// Whether the policy is refused.
    pub fn any(&self) -> bool {
        self.left_out > 0 || self.list.iter().any(|mistake| mistake.level == Level::Error)
    }

    fn note(&mut self, level: Level, kind: MistakeKind, span: Range<usize>, message: String, help: Option<String>) {
        if !self.full() {
            self.list.push(Mistake { level, kind, span, field: String::new(), message, help });
        } else if level == Level::Error {
            if self.left_out == 0 {
                self.first_left_out = span.start;
            }
            self.left_out += 1;
        }
    }

    /// All of them in the order of the text, each with its line and field.
    pub fn finish(mut self, text: &str, root: &DeTable<'_>) -> Vec<Diagnostic> {
        let lines = Lines::of(text);
        let broken = self.list.iter().filter(|m| m.kind == MistakeKind::Syntax).map(|m| lines.line(m.span.start)).min();
        if let Some(broken) = broken {
            // Behind a syntax error the text may mean something else than what was read, and one error causes others.
            let mut syntax = BTreeSet::new();
            self.list.retain(|mistake| match mistake.kind {
                MistakeKind::Syntax => syntax.insert(lines.line(mistake.span.start)),
                MistakeKind::Missing => false,
                MistakeKind::Other => lines.line(mistake.span.start) < broken,
            });
        }
        self.list.sort_by_key(|mistake| (mistake.span.start, mistake.level == Level::Warning));
        self.list.dedup_by(|a, b| a.span.start == b.span.start && a.message == b.message);
        name_table(root, &mut String::new(), &mut self.list);
        let mut found: Vec<Diagnostic> = self
            .list
            .iter()
            .map(|m| lines.at(m.level, m.span.clone(), &m.field, &m.message, m.help.as_deref()))
            .collect();
        if self.left_out > 0 {
            let message = format!("{} more mistakes are not listed: fix these first", self.left_out);
            found.push(lines.at(Level::Error, self.first_left_out..self.first_left_out, "", &message, None));
        }
        found
    }
}

/// Gives each mistake the name of the innermost field that holds it. The list is in the order of the text.
fn name_table(table: &DeTable<'_>, path: &mut String, list: &mut [Mistake]) {
    for (key, value) in table.iter() {
        let end = push(path, key.get_ref());
        mark(path, &key.span(), list);
        name_value(value.get_ref(), &value.span(), path, list);
        path.truncate(end);
    }
}

fn name_value(value: &DeValue<'_>, span: &Range<usize>, path: &mut String, list: &mut [Mistake]) {
    mark(path, span, list);
    match value {
        DeValue::Table(table) => name_table(table, path, list),
        DeValue::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                let end = path.len();
                // Only tables need a number: in a list of values the column shows which one is meant.
                if let DeValue::Table(table) = item.get_ref() {
                    match table.get("id").and_then(|id| id.get_ref().as_str()).filter(|id| !id.is_empty()) {
                        Some(id) => drop(push(path, id)),
                        None => path.push_str(&format!("[{}]", n + 1)),
                    }
                }
                name_value(item.get_ref(), &item.span(), path, list);
                path.truncate(end);
            }
        }
        _ => {}
    }
}

fn push(path: &mut String, part: &str) -> usize {
    let end = path.len();
    if end > 0 {
        path.push('.');
    }
    path.extend(part.chars().take(PART));
    end
}

fn mark(path: &str, span: &Range<usize>, list: &mut [Mistake]) {
    let from = list.partition_point(|mistake| mistake.span.start < span.start);
    // One of the whole file has no place: it is not of the field that happens to stand first.
    let held = list[from..].iter_mut().take_while(|mistake| mistake.span.start < span.end);
    for mistake in held.filter(|mistake| !mistake.span.is_empty()) {
        path.clone_into(&mut mistake.field);
    }
}
