//! The fields of one TOML table. A field that is unknown, missing or of the wrong type is noted, and reading goes on.
//!
//! A misspelt field is noted and then read as the field that was meant, so that mistakes in its value are found too and the
//! field that was meant is not reported as missing.

use super::{
    diagnostic::{nearest, quote},
    mistakes::Mistakes,
};
use std::{collections::BTreeMap, ops::Range};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// A value as it is written.
#[derive(Clone)]
pub enum Literal {
    /// A whole number.
    Integer(i64),
    /// A number with a point, or `nan` or `inf`.
    Float(f64),
    /// A text in quotes.
    Text(String),
}

/// One value, or a list of them; each has its own place.
#[derive(Clone)]
pub struct OneOrMany(pub Vec<Spanned<Literal>>);

/// A name alone, or a table.
pub(super) enum Named<'t> {
    Alone(Spanned<String>),
    Table(&'t DeTable<'t>),
}

/// The fields of one table.
pub struct Fields<'t> {
    found: BTreeMap<&'static str, &'t Spanned<DeValue<'t>>>,
    /// Fields that were found under a misspelt name: the name is the mistake, their type is not reported too.
    misspelt: Vec<&'static str>,
    /// Where the table begins: its header or its braces.
    pub span: Range<usize>,
    what: &'static str,
    /// Whether a field was given and could not be read.
    pub unreadable: bool,
}

/// What a table is, for messages, and which fields it may have.
pub struct Known<'k> {
    /// What it is called.
    pub what: &'static str,
    /// Its fields.
    pub fields: &'k [&'static str],
    /// Those that are suggested for a misspelt one.
    pub suggest: &'k [&'static str],
    /// Fields of another table that people write into this one, and where they belong.
    pub elsewhere: Option<(&'static [&'static str], &'static str)>,
}

impl Known<'static> {
    /// A table with these fields.
    pub const fn new(what: &'static str, fields: &'static [&'static str]) -> Known<'static> {
        Known { what, fields, suggest: fields, elsewhere: None }
    }
}

impl<'t> Fields<'t> {
    /// The fields of `table`. Those that it may not have are noted.
    pub fn of_table(wrong: &mut Mistakes, table: &'t DeTable<'t>, span: Range<usize>, known: &Known<'_>) -> Fields<'t> {
        let mut fields =
            Fields { found: BTreeMap::new(), misspelt: Vec::new(), span, what: known.what, unreadable: false };
        let named = |name: &str| known.fields.iter().copied().find(|field| *field == name);
        let mut unknown = Vec::new();
        for (key, value) in table.iter() {
            match named(key.get_ref()) {
                Some(field) => drop(fields.found.insert(field, value)),
                None => unknown.push((key, value)),
            }
        }
        for (key, value) in unknown {
            let name: &str = key.get_ref();
            let absent = known.suggest.iter().copied().filter(|field| !fields.found.contains_key(field));
            let near = if wrong.full() { None } else { nearest(name, absent) };
            let elsewhere = known.elsewhere.filter(|(names, _)| names.contains(&name)).map(|(_, place)| place);
            let help = match (elsewhere, near) {
                (Some(place), _) => Some(format!("`{name}` belongs {place}")),
                (None, Some(near)) => Some(format!("did you mean `{near}`?")),
                (None, None) => None,
            };
            let expected = known.suggest.join(", ");
            wrong.error(
                key.span(),
                format!("unknown field {} in {}, expected one of {expected}", quote(name), known.what),
                help,
            );
            match near.filter(|_| elsewhere.is_none()) {
                Some(field) => {
                    fields.found.insert(field, value);
                    fields.misspelt.push(field);
                }
                None => fields.unreadable = true,
            }
        }
        fields
    }

    /// Reports a field that is not there; `expected` is what it holds, with an example.
    pub fn require(&self, wrong: &mut Mistakes, name: &'static str, expected: &str) {
        if !self.found.contains_key(name) {
            wrong.missing(self.span.clone(), format!("missing field `{name}` in {}: {expected}", self.what), None);
        }
    }

    /// Whether the field is given.
    pub fn has(&self, name: &'static str) -> bool {
        self.found.contains_key(name)
    }

    /// A text in a table of this table.
    pub fn text_within(&self, table: &'static str, name: &str) -> Option<&str> {
        self.found.get(table)?.get_ref().as_table()?.get(name)?.get_ref().as_str()
    }

    /// The field as `read` understands it; where it does not, the mistake is noted with what was expected.
    fn read<T>(
        &mut self,
        wrong: &mut Mistakes,
        name: &'static str,
        expected: &str,
        read: impl FnOnce(&'t DeValue<'t>) -> Option<T>,
    ) -> Option<Spanned<T>> {
        let value = *self.found.get(name)?;
        let got = read(value.get_ref()).map(|got| Spanned::new(value.span(), got));
        if got.is_none() {
            self.unreadable = true;
            if !self.misspelt.contains(&name) {
                wrong.error(value.span(), format!("expected {expected}, found {}", found(value.get_ref())), None);
            }
        }
        got
    }

    /// A text.
    pub fn text(&mut self, wrong: &mut Mistakes, name: &'static str) -> Option<Spanned<String>> {
        self.read(wrong, name, "a text in quotes", |value| value.as_str().map(str::to_owned))
    }

    /// A duration, as it is written.
    pub fn duration(&mut self, wrong: &mut Mistakes, name: &'static str) -> Option<Spanned<String>> {
        self.read(wrong, name, "a duration in quotes, such as \"3s\"", |value| value.as_str().map(str::to_owned))
    }

    /// A whole number.
    pub fn whole_number(&mut self, wrong: &mut Mistakes, name: &'static str) -> Option<Spanned<i64>> {
        self.read(wrong, name, "a whole number", whole_number)
    }

    /// A number or a text.
    pub fn literal(&mut self, wrong: &mut Mistakes, name: &'static str) -> Option<Spanned<Literal>> {
        self.read(wrong, name, "a number, or a text with a unit such as \"85 C\"", literal)
    }

    /// A number, a text, or a list of them.
    pub fn one_or_many(&mut self, wrong: &mut Mistakes, name: &'static str) -> Option<Spanned<OneOrMany>> {
        let value = *self.found.get(name)?;
        let DeValue::Array(items) = value.get_ref() else {
            let expected = "a text, a number, or a list of them";
            let one = self.read(wrong, name, expected, literal)?;
            return Some(Spanned::new(one.span(), OneOrMany(vec![one])));
        };
        let mut many = Vec::new();
        for item in items.iter() {
            match literal(item.get_ref()) {
                Some(one) => many.push(Spanned::new(item.span(), one)),
                None => {
                    self.unreadable = true;
                    let got = found(item.get_ref());
                    wrong.error(item.span(), format!("expected a text or a number, found {got}"), None);
                }
            }
        }
        // A list of which nothing could be read is not an empty list.
        (many.len() == items.len() || !many.is_empty()).then(|| Spanned::new(value.span(), OneOrMany(many)))
    }

    /// A list of texts; one text alone is noted and read as a list of one. An element that is no text is left out.
    pub fn texts(
        &mut self,
        wrong: &mut Mistakes,
        name: &'static str,
        example: &str,
    ) -> Option<Spanned<Vec<Spanned<String>>>> {
        let value = *self.found.get(name)?;
        if let DeValue::String(one) = value.get_ref() {
            let written = quote(one);
            wrong.error(
                value.span(),
                format!("expected a list in brackets such as {example}, found the text {written}"),
                None,
            );
            return Some(Spanned::new(value.span(), vec![Spanned::new(value.span(), one.to_string())]));
        }
        let expected = format!("a list in brackets such as {example}");
        let items = self.read(wrong, name, &expected, |value| value.as_array())?;
        let mut texts = Vec::new();
        for item in items.get_ref().iter() {
            match item.get_ref().as_str() {
                Some(text) => texts.push(Spanned::new(item.span(), text.to_owned())),
                None => {
                    self.unreadable = true;
                    let got = found(item.get_ref());
                    wrong.error(item.span(), format!("expected a text in quotes, found {got}"), None);
                }
            }
        }
        Some(Spanned::new(items.span(), texts))
    }

    /// One of a closed set of names.
    pub fn choice<T: Copy>(
        &mut self,
        wrong: &mut Mistakes,
        name: &'static str,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        self.spanned_choice(wrong, name, choices).map(Spanned::into_inner)
    }

    /// The same, with its place.
    pub fn spanned_choice<T: Copy>(
        &mut self,
        wrong: &mut Mistakes,
        name: &'static str,
        choices: &[(&'static str, T)],
    ) -> Option<Spanned<T>> {
        let text = self.text(wrong, name)?;
        let chosen = choices.iter().find(|(choice, _)| choice == text.get_ref()).map(|(_, value)| *value);
        if chosen.is_none() {
            self.unreadable = true;
            unknown_choice(wrong, &text, choices.iter().map(|(choice, _)| *choice));
        }
        chosen.map(|chosen| Spanned::new(text.span(), chosen))
    }

    /// The value of a field as TOML has it, for forms that no other method reads.
    pub fn value(&self, name: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.found.get(name).copied()
    }

    /// A name alone, or a table.
    pub(super) fn named(&mut self, wrong: &mut Mistakes, name: &'static str, form: &str) -> Option<Named<'t>> {
        let span = self.span_of(name)?;
        let named = self.read(wrong, name, form, |value| match value {
            DeValue::String(text) => Some(Named::Alone(Spanned::new(span, text.to_string()))),
            DeValue::Table(table) => Some(Named::Table(table)),
            _ => None,
        })?;
        Some(named.into_inner())
    }

    /// Where the value of a field stands.
    pub fn span_of(&self, name: &'static str) -> Option<Range<usize>> {
        self.found.get(name).map(|value| value.span())
    }

    /// One table, as a list of one. A list in its place is noted.
    pub fn one_table(
        &mut self,
        wrong: &mut Mistakes,
        name: &'static str,
        form: &str,
    ) -> Vec<(&'t DeTable<'t>, Range<usize>)> {
        let expected = format!("one table, written {form}");
        let table = self.read(wrong, name, &expected, |value| value.as_table());
        table.map(|table| (*table.get_ref(), table.span())).into_iter().collect()
    }

    /// A table. A list of one table, `[[name]]`, is noted and read.
    pub fn table(&mut self, wrong: &mut Mistakes, name: &'static str, known: &Known<'_>) -> Option<Fields<'t>> {
        let value = *self.found.get(name)?;
        if let DeValue::Array(items) = value.get_ref()
            && let Some(first) = items.iter().next()
            && let DeValue::Table(table) = first.get_ref()
        {
            let message = format!("expected one table for {}, found a list", known.what);
            wrong.error(value.span(), message, None);
            return Some(Fields::of_table(wrong, table, first.span(), known));
        }
        let expected = format!("a table for {}", known.what);
        let table = self.read(wrong, name, &expected, |value| value.as_table())?;
        Some(Fields::of_table(wrong, table.get_ref(), value.span(), known))
    }

    /// A list of tables. One table alone is noted and read as a list of one.
    pub fn tables(
        &mut self,
        wrong: &mut Mistakes,
        name: &'static str,
        form: &str,
    ) -> Vec<(&'t DeTable<'t>, Range<usize>)> {
        let Some(value) = self.found.get(name).copied() else { return Vec::new() };
        if let DeValue::Table(table) = value.get_ref() {
            wrong.error(value.span(), format!("expected a list of tables, written {form}"), None);
            return vec![(table, value.span())];
        }
        let expected = format!("a list of tables, written {form}");
        let Some(items) = self.read(wrong, name, &expected, |value| value.as_array()) else { return Vec::new() };
        let mut tables = Vec::new();
        for item in items.get_ref().iter() {
            match item.get_ref() {
                DeValue::Table(table) => tables.push((table, item.span())),
                other => {
                    self.unreadable = true;
                    wrong.error(item.span(), format!("expected a table, written {form}, found {}", found(other)), None);
                }
            }
        }
        tables
    }

    /// A table of texts under names of the author's choice.
    pub fn labels(&mut self, wrong: &mut Mistakes, name: &'static str) -> BTreeMap<String, String> {
        let example = "a table of texts such as { team = \"vision\" }";
        let Some(table) = self.read(wrong, name, example, |value| value.as_table()) else { return BTreeMap::new() };
        let mut labels = BTreeMap::new();
        for (key, value) in table.get_ref().iter() {
            match value.get_ref().as_str() {
                Some(text) => drop(labels.insert(key.get_ref().to_string(), text.to_owned())),
                None => {
                    let got = found(value.get_ref());
                    wrong.error(value.span(), format!("expected a text in quotes, found {got}"), None);
                }
            }
        }
        labels
    }

    /// Each field that is there and one of `names`, read as [`Fields::one_or_many`] does.
    pub fn each(&mut self, wrong: &mut Mistakes, names: &[&'static str]) -> Vec<(&'static str, Spanned<OneOrMany>)> {
        names.iter().filter_map(|name| Some((*name, self.one_or_many(wrong, name)?))).collect()
    }
}

/// Reports a name that is not one of a closed set.
pub fn unknown_choice(
    wrong: &mut Mistakes,
    text: &Spanned<String>,
    choices: impl Iterator<Item = &'static str> + Clone,
) {
    let help = nearest(text.get_ref(), choices.clone()).map(|near| format!("did you mean `{near}`?"));
    let expected: Vec<&str> = choices.collect();
    wrong.error(text.span(), format!("{} is not one of {}", quote(text.get_ref()), expected.join(", ")), help);
}

fn whole_number(value: &DeValue<'_>) -> Option<i64> {
    let number = value.as_integer()?;
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// A number or a text.
pub fn literal(value: &DeValue<'_>) -> Option<Literal> {
    match value {
        DeValue::Integer(_) => whole_number(value).map(Literal::Integer),
        DeValue::Float(number) => number.as_str().parse().ok().map(Literal::Float),
        DeValue::String(text) => Some(Literal::Text(text.to_string())),
        DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// What stands there, in words.
pub fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the text {}", quote(text)),
        DeValue::Integer(number) => format!("the number {}", quote(number.as_str())),
        DeValue::Float(number) => format!("the number {}", quote(number.as_str())),
        DeValue::Boolean(value) => format!("`{value}`"),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(items) if items.is_empty() => "an empty list".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
