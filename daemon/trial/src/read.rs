//! Reading a test file: strict TOML in, tests or all that is wrong with them out.

mod expect;
mod input;

use crate::{
    file::{Case, Feed, MAX_INPUTS, MAX_LENGTH, Property, Read, TestFile},
    names::{FILE, TEST},
};
use failsafe_core::{
    Policy,
    policy::{
        diagnostic::{Diagnostic, Diagnostics, quote},
        fields::{Fields, Known, unknown_choice},
        mistakes::Mistakes,
    },
    subject::GpuId,
    time::Span,
};
use std::{collections::BTreeSet, ops::Range};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// Largest test file that is read, in bytes.
pub const MAX_BYTES: usize = 256 * 1024;
/// How long a run is watched after the last input and the last expected decision, unless the test has a `length`.
const AFTERWARDS: Span = Span::from_secs(10);

/// The policy that a test file names; `None`: the one of the same name.
pub fn policy_of(text: &str) -> Option<String> {
    let (root, _) = DeTable::parse_recoverable(text);
    root.get_ref().get("policy")?.get_ref().as_str().map(str::to_owned)
}

/// Reads the tests of a policy. `file` only names the file in errors.
///
/// # Errors
/// Each mistake with its place, its field and what was expected.
pub fn read(file: &str, text: &str, policy: &Policy) -> Read {
    let all = |list| Diagnostics { file: file.to_owned(), list };
    if text.len() > MAX_BYTES {
        let message = format!("the test file has {} bytes, expected at most {MAX_BYTES}", text.len());
        return Err(all(vec![Diagnostic::at("", 0..0, message, None)]));
    }
    let mut wrong = Mistakes::new();
    let (root, broken) = DeTable::parse_recoverable(text);
    for error in broken {
        wrong.syntax(error.span().unwrap_or(0..0), error.message());
    }
    let starts: Vec<usize> = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
    let cases = Reader { wrong: &mut wrong, policy, starts: &starts }.file(root.get_ref());
    if wrong.any() { Err(all(wrong.finish(text, root.get_ref()))) } else { Ok(TestFile { cases }) }
}

struct Reader<'r> {
    wrong: &'r mut Mistakes,
    policy: &'r Policy,
    /// Where the lines begin.
    starts: &'r [usize],
}

impl Reader<'_> {
    fn file(&mut self, root: &DeTable<'_>) -> Vec<Case> {
        let mut root = Fields::of_table(self.wrong, root, 0..0, &Known::new("the test file", FILE));
        root.text(self.wrong, "policy");
        let properties = self.properties(&mut root);
        let tables = root.tables(self.wrong, "test", "[[test]]");
        if tables.is_empty() && !root.has("test") {
            self.wrong.missing(0..0, "the file has no tests, expected at least one [[test]]", None);
        }
        let mut names = BTreeSet::new();
        let mut cases = Vec::new();
        for (table, span) in tables {
            if let Some(case) = self.case(table, span, &properties, &mut names) {
                cases.push(case);
            }
        }
        cases
    }

    fn line(&self, span: &Range<usize>) -> usize {
        self.starts.partition_point(|start| *start <= span.start)
    }

    fn case(
        &mut self,
        table: &DeTable<'_>,
        span: Range<usize>,
        shared: &BTreeSet<Property>,
        names: &mut BTreeSet<String>,
    ) -> Option<Case> {
        let mut fields = Fields::of_table(self.wrong, table, span.clone(), &Known::new("[[test]]", TEST));
        fields.require(self.wrong, "name", "what the test shows, such as name = \"one spike is harmless\"");
        let name = fields.text(self.wrong, "name");
        if let Some(name) = &name {
            if name.get_ref().trim().is_empty() {
                self.wrong.error(name.span(), "the name is empty, expected what the test shows", None);
            } else if !names.insert(name.get_ref().clone()) {
                let message = format!("another test has the name {} already", quote(name.get_ref()));
                self.wrong.error(name.span(), message, None);
            }
        }
        let gpus = self.gpus(&mut fields);
        let seed = fields.whole_number(self.wrong, "seed");
        let seed = seed.map_or(Some(0), |seed| {
            let number = u64::try_from(*seed.get_ref()).ok();
            if number.is_none() {
                self.wrong.error(seed.span(), "expected a number from 0", None);
            }
            number
        });
        let length = fields.duration(self.wrong, "length").map(|text| self.length(&text));
        let mut properties = self.properties(&mut fields);
        properties.extend(shared);
        let mut inputs = Vec::new();
        for (table, span) in fields.tables(self.wrong, "input", "[[test.input]]") {
            inputs.push(self.input(table, span, &gpus, length.flatten()));
        }
        let expected = self.expected(&mut fields);
        if !fields.has("expect") && properties.is_empty() {
            let help = "write expect = \"none\", [[test.expect]] or properties = [\"no-containment\"]".to_owned();
            self.wrong.missing(span.clone(), "the test expects nothing", Some(help));
        }
        // Without `expect`, only the properties are held against what happens.
        let others = if fields.has("expect") { self.flag(&fields, "others") } else { Some(true) };
        let inputs: Option<Vec<Feed>> = inputs.into_iter().collect();
        let (inputs, expect) = (inputs?, expected?);
        let length = match length {
            Some(length) => length?,
            None => {
                let last = inputs.iter().map(Feed::last).max().unwrap_or_default();
                let expected = expect.iter().filter(|one| one.until < MAX_LENGTH).map(|one| one.until).max();
                Span(last.max(expected.unwrap_or_default()).0 + AFTERWARDS.0)
            }
        };
        let count: u64 = inputs.iter().map(|feed| feed.count).fold(0, u64::saturating_add);
        if count > MAX_INPUTS {
            let message = format!("the test has {count} inputs, expected at most {MAX_INPUTS}");
            self.wrong.error(span, message, None);
            return None;
        }
        let others = others?;
        let line = self.line(&fields.span);
        let name = name?.into_inner();
        Some(Case { name, line, gpus, seed: seed?, length, inputs, expect, others, properties })
    }

    fn flag(&mut self, fields: &Fields<'_>, name: &'static str) -> Option<bool> {
        let Some(value) = fields.value(name) else { return Some(false) };
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            _ => {
                self.wrong.error(value.span(), "expected true or false", None);
                None
            }
        }
    }

    fn gpus(&mut self, fields: &mut Fields<'_>) -> BTreeSet<GpuId> {
        let Some(list) = fields.texts(self.wrong, "gpus", "[\"GPU-0\"]") else { return BTreeSet::new() };
        let mut gpus = BTreeSet::new();
        for gpu in list.get_ref() {
            if gpu.get_ref().is_empty() || !gpus.insert(GpuId(gpu.get_ref().clone())) {
                self.wrong.error(gpu.span(), "expected a name, each once, such as \"GPU-0\"", None);
            }
        }
        gpus
    }

    fn properties(&mut self, fields: &mut Fields<'_>) -> BTreeSet<Property> {
        let Some(list) = fields.texts(self.wrong, "properties", "[\"freeze-before-kill\"]") else {
            return BTreeSet::new();
        };
        let mut found = BTreeSet::new();
        for text in list.get_ref() {
            match Property::ALL.iter().find(|(name, _)| name == text.get_ref()) {
                Some((_, property)) => drop(found.insert(*property)),
                None => unknown_choice(self.wrong, text, Property::ALL.iter().map(|(name, _)| *name)),
            }
        }
        found
    }

    fn duration(&mut self, text: &Spanned<String>) -> Option<Span> {
        let span = Span::parse(text.get_ref());
        match span {
            None => {
                let message = format!(
                    "{} is not a duration, expected for example \"500 ms\", \"3s\", \"2m\" or \"1h30m\"",
                    quote(text.get_ref())
                );
                self.wrong.error(text.span(), message, None);
            }
            Some(span) if span > MAX_LENGTH => {
                self.wrong.error(text.span(), "expected at most 7 days", None);
                return None;
            }
            Some(_) => {}
        }
        span
    }

    fn length(&mut self, text: &Spanned<String>) -> Option<Span> {
        let length = self.duration(text)?;
        if length == Span(0) {
            self.wrong.error(text.span(), "expected a time above 0", None);
            return None;
        }
        Some(length)
    }

    /// A duration that has to be above 0.
    fn some_time(&mut self, text: &Spanned<String>) -> Option<Span> {
        self.length(text)
    }
}

#[cfg(test)]
mod tests;
