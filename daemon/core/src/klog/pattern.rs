//! Patterns of kernel log records: regular expressions that begin at the record's first byte.
//!
//! A pattern cannot be reached by text that a user chooses: it begins with the driver's own literal prefix, and it has no
//! wildcard that could skip over a part of the record. The crate `regex` matches in linear time, so no record makes it slow.

use regex::Regex;

/// Names that a pattern may contain in braces, each with the expression that it stands for.
const NAMES: &[(&str, &str)] = &[
    ("bus", r"(?<bus>(?:[0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{1,2}:[0-9a-fA-F]{1,2}(?:\.[0-7])?)"),
    ("port", r"(?:[0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{1,2}:[0-9a-fA-F]{1,2}(?:\.[0-7])?"),
    // A record may be cut within a number, and 7 is another XID than 79: something must follow it.
    ("code", r"(?<code>[0-9]+)[^0-9]"),
    ("count", r"(?<count>[0-9]+)"),
    ("gpu-instance", r"(?<gi>[0-9]+)"),
    ("compute-instance", r"(?<ci>[0-9]+)"),
    // Names that the kernel gives to devices without a PCI address in the record.
    (
        "disk",
        r"(?<name>nvme[0-9]+(?:c[0-9]+)?n[0-9]+(?:p[0-9]+)?|sd[a-z]+[0-9]*|vd[a-z]+[0-9]*|md[0-9]+(?:p[0-9]+)?|dm-[0-9]+)",
    ),
    ("controller", r"(?<name>nvme[0-9]+)"),
    ("cpu", r"(?<name>CPU[0-9]+)"),
    // The name of a driver; a device's messages begin with it and the device's address.
    ("driver", r"[A-Za-z0-9_-]+"),
];
/// Fixed characters that a pattern must begin with.
const LITERAL_START: usize = 4;

/// A pattern.
#[derive(Debug, Clone)]
pub(super) struct Pattern(Regex);

/// The parts of a record that a pattern named.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Captures<'a> {
    /// The PCI address, with its function where the record has one.
    pub bus: Option<&'a str>,
    /// The device's name, where the record has no PCI address.
    pub name: Option<&'a str>,
    pub code: Option<&'a str>,
    /// How many errors the record stands for.
    pub count: Option<&'a str>,
    pub gpu_instance: Option<&'a str>,
    pub compute_instance: Option<&'a str>,
    /// What follows the part that the pattern fits.
    pub rest: &'a str,
}

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Pattern, String> {
        let literal = text.chars().take_while(|c| c.is_ascii_alphanumeric() || " -_:".contains(*c)).count();
        let escaped_start = text.starts_with(r"\{") || text.starts_with(r"\[") || text.starts_with('(');
        if literal < LITERAL_START
            && !escaped_start
            && !["{driver} {bus}", "{driver} {port}"].iter().any(|start| text.starts_with(start))
        {
            return Err(format!(
                "`line`: expected at least {LITERAL_START} fixed characters, or `{{driver}} {{bus}}`, at its beginning: a \
                 pattern fits from the first character of the record"
            ));
        }
        if let Some(wildcard) = [".*", ".+", ".{", ".?"].into_iter().find(|wildcard| text.contains(wildcard)) {
            return Err(format!(
                "`line`: `{wildcard}` could skip over text that a user chose; name the parts, for example with `\\S+` or `\\d+`"
            ));
        }
        let mut expanded = text.to_owned();
        for (name, expression) in NAMES {
            expanded = expanded.replace(&format!("{{{name}}}"), expression);
        }
        if let Some((_, rest)) = expanded.split_once('{')
            && let Some((unknown, _)) = rest.split_once('}')
            && unknown.starts_with(|c: char| c.is_ascii_lowercase())
        {
            let names: Vec<String> = NAMES.iter().map(|(name, _)| format!("{{{name}}}")).collect();
            return Err(format!("`line`: {{{unknown}}} is unknown, expected one of {}", names.join(", ")));
        }
        let built = regex::RegexBuilder::new(&format!(r"\A(?:{expanded})")).size_limit(1 << 18).build();
        built.map(Pattern).map_err(|error| format!("`line`: not a regular expression: {error}"))
    }

    pub(super) fn has_code(&self) -> bool {
        self.0.capture_names().flatten().any(|name| name == "code")
    }

    /// The named parts of the record, where the pattern fits its beginning.
    pub(super) fn fit<'a>(&self, record: &'a str) -> Option<Captures<'a>> {
        let found = self.0.captures(record)?;
        let part = |name| found.name(name).map(|part| part.as_str());
        Some(Captures {
            bus: part("bus"),
            name: part("name"),
            code: part("code"),
            count: part("count"),
            gpu_instance: part("gi"),
            compute_instance: part("ci"),
            rest: found.get(0).map_or("", |whole| &record[whole.end()..]),
        })
    }
}
