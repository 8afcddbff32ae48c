//! Templates: rules with parameters, which `[[use]]` makes rules of.
//!
//! They are expanded before a rule is read, so that the policy and its digest have the rules as if somebody had written them out. What
//! they expand to is bounded.

use super::{
    diagnostic::{did_you_mean, quote},
    fields::{Fields, Known, found},
    mistakes::Mistakes,
    raw::{TEMPLATE, USE},
};
use std::{borrow::Cow, collections::BTreeMap, ops::Range};
use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue},
};

/// Size of all that the templates of a policy expand to: texts in bytes, and 16 for each value.
pub const MAX_EXPANDED: usize = 1024 * 1024;
const OF_VALUE: usize = 16;

type Given<'g, 't> = BTreeMap<&'g str, &'g Spanned<DeValue<'t>>>;

struct Template<'f, 't> {
    parameters: Vec<String>,
    defaults: Given<'f, 't>,
    rules: Vec<(&'f DeTable<'t>, Range<usize>)>,
}

/// The rules that the uses of templates make, in their order.
pub(super) fn rules<'t>(wrong: &mut Mistakes, root: &mut Fields<'t>) -> Vec<(DeTable<'t>, Range<usize>)> {
    let mut templates: BTreeMap<String, Template<'_, 't>> = BTreeMap::new();
    for (table, span) in root.tables(wrong, "template", "[[template]]") {
        let mut fields = Fields::of_table(wrong, table, span, &Known::new("[[template]]", TEMPLATE));
        fields.require(wrong, "name", "the name of the template, such as name = \"spike\"");
        fields.require(wrong, "rule", "its rules, written [[template.rule]]");
        let template = Template::read(wrong, &mut fields);
        let Some(name) = fields.text(wrong, "name") else { continue };
        if templates.contains_key(name.get_ref()) {
            let message = format!("another template has the name {} already", quote(name.get_ref()));
            wrong.error(name.span(), message, None);
            continue;
        }
        templates.insert(name.into_inner(), template);
    }
    let (mut out, mut room) = (Vec::new(), MAX_EXPANDED);
    for (table, span) in root.tables(wrong, "use", "[[use]]") {
        let mut fields = Fields::of_table(wrong, table, span.clone(), &Known::new("[[use]]", USE));
        fields.require(wrong, "template", "the name of a template, such as template = \"spike\"");
        let Some(name) = fields.text(wrong, "template") else { continue };
        let Some(template) = templates.get(name.get_ref()) else {
            let help = did_you_mean(name.get_ref(), templates.keys().map(String::as_str));
            wrong.error(name.span(), format!("there is no template {}", quote(name.get_ref())), help);
            continue;
        };
        let Some(given) = template.given(wrong, &mut fields, &span) else { continue };
        for (rule, place) in &template.rules {
            match filled_table(wrong, rule, &given, &mut room) {
                Ok(rule) => out.push((rule, place.clone())),
                Err(Stop::Mistake) => {}
                Err(Stop::TooLarge) => {
                    let message = format!(
                        "the templates of the policy expand to more than {MAX_EXPANDED} bytes up to this use: use fewer"
                    );
                    wrong.error(span, message, None);
                    return out;
                }
            }
        }
    }
    out
}

impl<'f, 't> Template<'f, 't> {
    fn read(wrong: &mut Mistakes, fields: &mut Fields<'t>) -> Template<'f, 't>
    where
        't: 'f,
    {
        let listed = fields.texts(wrong, "parameters", "[\"id\", \"limit\"]");
        let mut parameters: Vec<String> = Vec::new();
        for name in listed.map_or_else(Vec::new, Spanned::into_inner) {
            if !is_name(name.get_ref()) {
                let message = format!(
                    "{}, expected a parameter of 1 to 64 lower-case letters, digits, `_` and `-`",
                    quote(name.get_ref())
                );
                wrong.error(name.span(), message, None);
            } else if parameters.contains(name.get_ref()) {
                wrong.error(name.span(), format!("the parameter {} is there twice", quote(name.get_ref())), None);
            }
            parameters.push(name.into_inner());
        }
        let defaults = values(wrong, fields, "defaults", &parameters).unwrap_or_default();
        let rules = fields.tables(wrong, "rule", "[[template.rule]]");
        for (rule, _) in &rules {
            rule.iter().for_each(|(_, value)| check(wrong, value, &parameters));
        }
        Template { parameters, defaults, rules }
    }

    /// The value of each parameter, of a use.
    fn given(&self, wrong: &mut Mistakes, fields: &mut Fields<'t>, span: &Range<usize>) -> Option<Given<'_, 't>> {
        let mut given: Given<'_, 't> = self.defaults.iter().map(|(name, value)| (*name, *value)).collect();
        given.extend(values(wrong, fields, "with", &self.parameters)?);
        let missing: Vec<&str> =
            self.parameters.iter().map(String::as_str).filter(|name| !given.contains_key(name)).collect();
        if !missing.is_empty() {
            let names = missing.join(", ");
            wrong.error(span.clone(), format!("expected a value in `with` for {names}, which has no default"), None);
            return None;
        }
        Some(given)
    }
}

/// A table of values of parameters. `None`: it is wrong.
fn values<'t>(
    wrong: &mut Mistakes,
    fields: &mut Fields<'t>,
    name: &'static str,
    parameters: &[String],
) -> Option<Given<'t, 't>> {
    let mut values = Given::new();
    let Some(value) = fields.value(name) else { return Some(values) };
    let DeValue::Table(table) = value.get_ref() else {
        let message = format!("expected a table of values such as {{ limit = 8 }}, found {}", found(value.get_ref()));
        wrong.error(value.span(), message, None);
        return None;
    };
    let mut good = true;
    for (key, value) in table.iter() {
        let key_name: &str = key.get_ref();
        if !parameters.iter().any(|parameter| parameter == key_name) {
            let help = did_you_mean(key_name, parameters.iter().map(String::as_str));
            wrong.error(key.span(), format!("the template has no parameter {}", quote(key_name)), help);
            good = false;
        }
        values.insert(key_name, value);
    }
    good.then_some(values)
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
}

/// A piece of a text.
enum Piece<'s> {
    Text(&'s str),
    /// `${name}`.
    Parameter(&'s str),
}

/// The pieces of a text; `Err`: `${` without `}`. `$${` stands for `${`.
fn pieces(text: &str) -> Result<Vec<Piece<'_>>, ()> {
    let (mut out, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find("${") {
        let (before, after) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            out.extend([Piece::Text(before), Piece::Text("${")]);
            rest = &after[2..];
            continue;
        }
        let (name, behind) = after[2..].split_once('}').ok_or(())?;
        out.extend([Piece::Text(before), Piece::Parameter(name)]);
        rest = behind;
    }
    out.push(Piece::Text(rest));
    out.retain(|piece| !matches!(piece, Piece::Text("")));
    Ok(out)
}

/// Notes each parameter that the template does not have.
fn check(wrong: &mut Mistakes, value: &Spanned<DeValue<'_>>, parameters: &[String]) {
    match value.get_ref() {
        DeValue::String(text) => match pieces(text) {
            Err(()) => wrong.error(value.span(), "`${` without `}`: write `$${` for the text itself", None),
            Ok(pieces) => {
                for piece in pieces {
                    let Piece::Parameter(name) = piece else { continue };
                    if !parameters.iter().any(|parameter| parameter == name) {
                        let help = did_you_mean(name, parameters.iter().map(String::as_str));
                        let message = format!("the template has no parameter {} in `parameters`", quote(name));
                        wrong.error(value.span(), message, help);
                    }
                }
            }
        },
        DeValue::Array(items) => items.iter().for_each(|item| check(wrong, item, parameters)),
        DeValue::Table(table) => table.iter().for_each(|(_, value)| check(wrong, value, parameters)),
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {}
    }
}

enum Stop {
    /// It is noted.
    Mistake,
    TooLarge,
}

fn filled_table<'t>(
    wrong: &mut Mistakes,
    table: &DeTable<'t>,
    given: &Given<'_, 't>,
    room: &mut usize,
) -> Result<DeTable<'t>, Stop> {
    let mut out = DeTable::new();
    for (key, value) in table.iter() {
        take(room, key.get_ref().len())?;
        out.insert(key.clone(), filled(wrong, value, given, room)?);
    }
    Ok(out)
}

fn filled<'t>(
    wrong: &mut Mistakes,
    value: &Spanned<DeValue<'t>>,
    given: &Given<'_, 't>,
    room: &mut usize,
) -> Result<Spanned<DeValue<'t>>, Stop> {
    take(room, OF_VALUE)?;
    let span = value.span();
    Ok(match value.get_ref() {
        DeValue::String(text) => {
            let Ok(pieces) = pieces(text) else { return Err(Stop::Mistake) };
            if let [Piece::Parameter(name)] = pieces.as_slice() {
                // A value that is not a text keeps its type, and a mistake in it has its own place.
                let value = *given.get(name).ok_or(Stop::Mistake)?;
                take(room, size(value.get_ref()))?;
                return Ok(value.clone());
            }
            let mut out = String::new();
            for piece in pieces {
                let text = match piece {
                    Piece::Text(text) => text,
                    Piece::Parameter(name) => inserted(wrong, given.get(name).ok_or(Stop::Mistake)?)?,
                };
                take(room, text.len())?;
                out.push_str(text);
            }
            Spanned::new(span, DeValue::String(Cow::Owned(out)))
        }
        DeValue::Array(items) => {
            let mut out = DeArray::new();
            for item in items.iter() {
                out.push(filled(wrong, item, given, room)?);
            }
            Spanned::new(span, DeValue::Array(out))
        }
        DeValue::Table(table) => Spanned::new(span, DeValue::Table(filled_table(wrong, table, given, room)?)),
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => value.clone(),
    })
}

/// A parameter within a text.
fn inserted<'v>(wrong: &mut Mistakes, value: &'v Spanned<DeValue<'_>>) -> Result<&'v str, Stop> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text),
        DeValue::Integer(number) => Ok(number.as_str()),
        DeValue::Float(number) => Ok(number.as_str()),
        other => {
            let message = format!("expected a text or a number, which the template inserts, found {}", found(other));
            wrong.error(value.span(), message, None);
            Err(Stop::Mistake)
        }
    }
}

fn size(value: &DeValue<'_>) -> usize {
    OF_VALUE
        + match value {
            DeValue::String(text) => text.len(),
            DeValue::Array(items) => items.iter().map(|item| size(item.get_ref())).sum(),
            DeValue::Table(table) => table.iter().map(|(key, value)| key.get_ref().len() + size(value.get_ref())).sum(),
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => 0,
        }
}

fn take(room: &mut usize, bytes: usize) -> Result<(), Stop> {
    *room = room.checked_sub(bytes).ok_or(Stop::TooLarge)?;
    Ok(())
}
