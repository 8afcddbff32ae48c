//! From the texts of the files to one configuration: every mistake is found, with its file and place, and nothing is used
//! if there is one.
//!
//! ```text
//! texts ─► tables, each alone: syntax, names, types ─► merged table ─► configuration ─► values out of range (`wrong`)
//! ```
//! A mistake of names and types ends serde's reading. What it names is then taken out, and the rest is read again, until
//! nothing more is found. What is left is merged and checked as well, so that one mistake hides no other.

use crate::Text;
use failsafe_core::policy::diagnostic::{Diagnostic, Diagnostics};
use serde::de::{Deserialize, DeserializeOwned};
use std::ops::{Range, RangeInclusive};
use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue, Deserializer},
};

/// Mistakes of one file that are looked for.
const MOST: usize = 100;

/// A wrong value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Its field, such as `limits.idle_s`.
    pub field: String,
    /// What was expected.
    pub message: String,
}

impl Wrong {
    /// This field, and what was expected of it.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Wrong {
        Wrong { field: field.into(), message: message.into() }
    }

    /// Those of the values that are out of their ranges.
    pub fn outside<F: Into<String>>(ranges: impl IntoIterator<Item = (F, u64, RangeInclusive<u64>)>) -> Vec<Wrong> {
        let wrong = ranges.into_iter().filter(|(_, value, range)| !range.contains(value));
        let said = |(field, value, range): (F, u64, RangeInclusive<u64>)| {
            Wrong::new(field, format!("expected {} to {}, not {value}", range.start(), range.end()))
        };
        wrong.map(said).collect()
    }
}

/// Merges the files, the later ones over the earlier ones: the configuration, and its keys and values as the files have them.
/// `check` finds the values of a configuration that are wrong.
///
/// # Errors
/// All mistakes.
pub fn merged<C: DeserializeOwned>(
    texts: &[Text],
    check: impl Fn(&C) -> Vec<Wrong>,
) -> Result<(C, toml::Table), Vec<Diagnostics>> {
    let mut errors = Vec::new();
    let mut all = Vec::new();
    for text in texts {
        let read = read::<C>(&text.text);
        if !read.mistakes.is_empty() {
            errors.push(wrong(text, read.mistakes.clone()));
        }
        all.push(read);
    }
    // What else is found then may only be a consequence.
    if all.iter().any(|read| read.is_broken) {
        return Err(errors);
    }
    let mut merged = DeTable::new();
    for (read, text) in all.iter().zip(texts) {
        let mistakes = add::<C>(&mut merged, &read.table, &text.text);
        if !mistakes.is_empty() {
            errors.push(wrong(text, mistakes));
        }
    }
    let at_all = |error: toml::de::Error| wrong_at_all(texts, error.message());
    let (plain, config): (toml::Table, C) = match (deserialized(merged.clone()), deserialized(merged)) {
        (Ok(plain), Ok(config)) => (plain, config),
        (Err(error), _) | (_, Err(error)) => {
            errors.push(at_all(error));
            return Err(errors);
        }
    };
    for Wrong { field, message } in check(&config) {
        if all.iter().flat_map(|read| &read.taken).any(|taken| is_consequence(taken, &field, &message)) {
            continue;
        }
        // The file that has the last word on the field, or else on what it is part of.
        let parts: Vec<&str> = field.split('.').collect();
        let places = (1..=parts.len()).rev().flat_map(|length| {
            let named = &parts[..length];
            let of_file = move |(read, text): (&Read<'_>, _)| Some((text, place(&read.table, named)?));
            all.iter().zip(texts).rev().filter_map(of_file)
        });
        errors.push(match places.into_iter().next() {
            Some((text, span)) => {
                let mistake = Diagnostic { field, ..Diagnostic::at(&text.text, span, message, None) };
                wrong(text, vec![mistake])
            }
            None => wrong_at_all(texts, &format!("{field}: {message}")),
        });
    }
    if errors.is_empty() { Ok((config, plain)) } else { Err(errors) }
}

/// Reads one text alone: what of it is right, and all mistakes.
pub fn alone<C: DeserializeOwned>(text: &str) -> (Option<C>, Vec<Diagnostic>) {
    let Read { table, mistakes, .. } = read::<C>(text);
    (deserialized(table).ok(), mistakes)
}

/// Whether a value is wrong because a key was taken out: it, what it is part of, or what is said to lack it.
fn is_consequence(taken: &str, field: &str, message: &str) -> bool {
    let within = |inner: &str, outer: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('.'));
    let lacks = |key: &str| message.strip_prefix(key).is_some_and(|rest| rest.starts_with(':'));
    taken == field
        || within(field, taken)
        || taken.strip_prefix(field).is_some_and(|key| lacks(key.trim_start_matches('.')))
}

/// Puts the table of a file over those before it. What does not go together with them is left out and reported.
fn add<'t, C: DeserializeOwned>(merged: &mut DeTable<'t>, table: &DeTable<'t>, text: &str) -> Vec<Diagnostic> {
    let (mut mistakes, mut table) = (Vec::new(), table.clone());
    loop {
        let (mut joined, mut emptied) = (merged.clone(), Vec::new());
        over(&mut joined, table.clone(), &mut emptied);
        let Err(error) = deserialized::<C>(joined.clone()) else {
            let removes = "an empty list does not remove the entries of earlier files: remove them there";
            let mistake = |(field, span)| Diagnostic { field, ..Diagnostic::at(text, span, removes, None) };
            mistakes.extend(emptied.into_iter().map(mistake));
            *merged = joined;
            return mistakes;
        };
        let Some((list, entry)) = take_out_foreign::<C>(merged, &mut table) else {
            mistakes.push(Diagnostic::at(text, 0..0, error.message(), None));
            return mistakes;
        };
        mistakes.push(Diagnostic { field: list, ..Diagnostic::at(text, entry, error.message(), None) });
    }
}

/// Takes out the first entry of a list of tables that does not go together with the files before: the list, and the entry's place.
fn take_out_foreign<C: DeserializeOwned>(
    merged: &DeTable<'_>,
    table: &mut DeTable<'_>,
) -> Option<(String, Range<usize>)> {
    let keys: Vec<String> = table.keys().map(|key| key.get_ref().to_string()).collect();
    for key in keys {
        let Some(DeValue::Array(list)) = table.get(key.as_str()).map(|value| value.get_ref().clone()) else { continue };
        if !tables(&list) {
            continue;
        }
        let fits = |count: usize| {
            let entries = DeValue::Array(list.iter().take(count).cloned().collect());
            let alone = [(Spanned::new(0..0, key.as_str().into()), Spanned::new(0..0, entries))].into_iter().collect();
            let mut joined = merged.clone();
            over(&mut joined, alone, &mut Vec::new());
            deserialized::<C>(joined).is_ok()
        };
        let Some(wrong) = (0..list.len()).find(|entry| !fits(entry + 1)) else { continue };
        let span = list.get(wrong)?.span();
        leave_out(table, &key, wrong);
        return Some((key, span));
    }
    None
}

fn wrong(text: &Text, list: Vec<Diagnostic>) -> Diagnostics {
    Diagnostics { file: text.path.display().to_string(), list }
}

fn wrong_at_all(texts: &[Text], message: &str) -> Diagnostics {
    let file = texts.first().map(|text| text.path.display().to_string()).unwrap_or_default();
    Diagnostics { file, list: vec![Diagnostic::at("", 0..0, message, None)] }
}

fn deserialized<'de, C: Deserialize<'de>>(table: DeTable<'de>) -> Result<C, toml::de::Error> {
    C::deserialize(Deserializer::from(Spanned::new(0..0, table)))
}

/// A text that was read.
struct Read<'t> {
    /// What of it is right.
    table: DeTable<'t>,
    mistakes: Vec<Diagnostic>,
    /// The keys that were taken out.
    taken: Vec<String>,
    /// It is no TOML, or not all mistakes could be taken out.
    is_broken: bool,
}

fn read<C: DeserializeOwned>(text: &str) -> Read<'_> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let (mut table, mut out) = (table.into_inner(), Vec::new());
    let mut mistakes: Vec<Diagnostic> = errors.iter().map(|error| Diagnostic::of_toml(text, error)).collect();
    // Entries of lists that lack a field because it was taken out: that they are incomplete is a consequence.
    let mut incomplete: Vec<Range<usize>> = Vec::new();
    // After a mistake of syntax, what else is missing or unknown may only be its consequence.
    while mistakes.is_empty() || mistakes.len() < MOST && errors.is_empty() {
        let Err(error) = deserialized::<C>(table.clone()) else { break };
        let at = error.span().map(|span| span.start);
        if let Some(wrong) = at.and_then(|at| take_out_entry::<C>(&mut table, at)) {
            if !incomplete.contains(&wrong.entry) {
                let Diagnostic { message, help, .. } = Diagnostic::of_toml(text, &wrong.error);
                let mistake = Diagnostic::at(text, wrong.entry, message, help);
                mistakes.push(Diagnostic { field: wrong.list, ..mistake });
            }
            continue;
        }
        let taken = at.and_then(|at| take_out(&mut table, at));
        let found = taken.is_some();
        let Taken { field, entry } = taken.unwrap_or_default();
        out.push(field.clone());
        mistakes.push(Diagnostic { field, ..Diagnostic::of_toml(text, &error) });
        incomplete.extend(entry);
        if !found {
            break;
        }
    }
    mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
    let is_broken = !errors.is_empty() || deserialized::<C>(table.clone()).is_err();
    Read { table, mistakes, taken: out, is_broken }
}

/// An entry of a list of tables that is wrong as a whole, or does not go together with those before it.
struct WrongEntry {
    list: String,
    entry: Range<usize>,
    error: toml::de::Error,
}

/// Takes out the wrong entry of the list of tables that begins at the byte, or one of whose entries does. The position of a mistake
/// that is no single field's is one of these.
fn take_out_entry<C: DeserializeOwned>(table: &mut DeTable<'_>, at: usize) -> Option<WrongEntry> {
    let (key, list) = table.iter().find_map(|(key, value)| {
        let list = value.get_ref().as_array().filter(|list| tables(list))?;
        let begins = value.span().start == at || list.iter().any(|entry| entry.span().start == at);
        begins.then(|| (key.get_ref().to_string(), list.clone()))
    })?;
    let error_of_first = |count: usize| {
        let entries = list.iter().take(count).cloned().collect();
        let value = Spanned::new(0..0, DeValue::Array(entries));
        let alone = [(Spanned::new(0..0, key.as_str().into()), value)].into_iter().collect();
        deserialized::<C>(alone).err()
    };
    let (wrong, error) = (0..list.len()).find_map(|entry| Some((entry, error_of_first(entry + 1)?)))?;
    let entry = list.get(wrong)?.span();
    leave_out(table, &key, wrong);
    Some(WrongEntry { list: key, entry, error })
}

/// Removes one element of a list, or the list with its last one: an empty list would mean something else.
fn leave_out(table: &mut DeTable<'_>, key: &str, wrong: usize) {
    let Some(DeValue::Array(list)) = table.get_mut(key).map(Spanned::get_mut) else { return };
    if list.len() == 1 {
        table.remove(key);
        return;
    }
    let all = std::mem::replace(list, DeArray::new()).into_iter().enumerate();
    *list = all.filter(|(at, _)| *at != wrong).map(|(_, other)| other).collect();
}

/// A key that was taken out.
#[derive(Default)]
struct Taken {
    field: String,
    /// The entry of a list of tables that it was in.
    entry: Option<Range<usize>>,
}

/// Takes out the innermost key that the byte belongs to, or the element of its list if others are left.
fn take_out(table: &mut DeTable<'_>, at: usize) -> Option<Taken> {
    let within = |span: Range<usize>| span.contains(&at) || span.start == at;
    for (key, value) in table.iter_mut() {
        let inner = match value.get_mut() {
            DeValue::Table(inner) => take_out(inner, at),
            DeValue::Array(all) => all.iter_mut().find_map(|one| {
                let entry = Some(one.span());
                match one.get_mut() {
                    DeValue::Table(inner) => take_out(inner, at).map(|taken| Taken { entry, ..taken }),
                    _ => None,
                }
            }),
            _ => None,
        };
        if let Some(inner) = inner {
            return Some(Taken { field: format!("{}.{}", key.get_ref(), inner.field), ..inner });
        }
    }
    let here = table.iter().find(|(key, value)| within(key.span()) || within(value.span()))?.0.clone();
    let list = table.get(here.get_ref().as_ref()).and_then(|value| value.get_ref().as_array());
    if let Some(wrong) = list.and_then(|list| list.iter().position(|one| within(one.span()))) {
        leave_out(table, here.get_ref().as_ref(), wrong);
        return Some(Taken { field: here.into_inner().into_owned(), entry: None });
    }
    table.remove(here.get_ref().as_ref());
    Some(Taken { field: here.into_inner().into_owned(), entry: None })
}

/// Puts `upper` over `lower`: tables key by key, lists of tables one after the other, and anything else replaces what was
/// there. An empty list over a list of tables is left out and added to `emptied`: it would remove what lists can only add to.
fn over<'t>(lower: &mut DeTable<'t>, upper: DeTable<'t>, emptied: &mut Vec<(String, Range<usize>)>) {
    for (key, value) in upper {
        let Some(below) = lower.get_mut(key.get_ref().as_ref()) else {
            lower.insert(key, value);
            continue;
        };
        let span = value.span();
        match (below.get_mut(), value.into_inner()) {
            (DeValue::Table(lower), DeValue::Table(upper)) => over(lower, upper, emptied),
            (DeValue::Array(lower), DeValue::Array(upper)) if tables(lower) && tables(&upper) => {
                upper.into_iter().for_each(|one| lower.push(one));
            }
            (DeValue::Array(lower), DeValue::Array(upper)) if tables(lower) && upper.is_empty() => {
                emptied.push((key.get_ref().to_string(), span));
            }
            (_, value) => *below = Spanned::new(span, value),
        }
    }
}

fn tables(list: &[Spanned<DeValue<'_>>]) -> bool {
    !list.is_empty() && list.iter().all(|one| one.get_ref().is_table())
}

/// Where the table has the field.
fn place(table: &DeTable<'_>, field: &[&str]) -> Option<Range<usize>> {
    // A key may have dots itself, as the names of signals do.
    for length in 1..=field.len() {
        let Some((key, value)) = table.get_key_value(field[..length].join(".").as_str()) else { continue };
        if length == field.len() {
            return Some(if value.get_ref().is_table() { key.span() } else { value.span() });
        }
        let inner = value.get_ref().as_table().and_then(|inner| place(inner, &field[length..]));
        if inner.is_some() {
            return inner;
        }
    }
    None
}
