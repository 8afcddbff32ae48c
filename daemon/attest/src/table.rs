//! The table of factors: what a difference in each one changes, why, and who found that. Data, in `policies/factors.toml`.
//!
//! Invariants: the file is read strictly, and all that is wrong with it is reported at once; the first row that fits a path
//! applies; a path without a row has no class, and whoever asks decides.

use crate::{
    factor::Class,
    preflight::{Advice, Look, Part},
};
use failsafe_core::policy::diagnostic::{Diagnostic, Diagnostics, nearest};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fmt, str::FromStr};
use toml::Spanned;

/// The table that is built in.
const BUILT_IN: &str = include_str!("../../../policies/factors.toml");
/// Largest file that is read, bytes.
const MAX_BYTES: usize = 1 << 20;
/// Where the environment variables stand that are read.
const ENVIRONMENT: &str = "run/env/";

/// How deterministic a run is meant to be: it decides what a difference changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Regime {
    /// The framework's deterministic mode is on.
    Deterministic,
    /// Seeds are fixed; the deterministic mode is off.
    Seeded,
    /// An autotuner may choose other kernels when the timing changes.
    None,
}

impl Regime {
    /// The name in files and answers.
    pub fn name(self) -> &'static str {
        match self {
            Regime::Deterministic => "deterministic",
            Regime::Seeded => "seeded",
            Regime::None => "none",
        }
    }
}

impl fmt::Display for Regime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Regime {
    type Err = String;

    fn from_str(text: &str) -> Result<Regime, String> {
        let all = [Regime::Deterministic, Regime::Seeded, Regime::None];
        let found = all.into_iter().find(|regime| regime.name() == text);
        found.ok_or_else(|| "expected deterministic, seeded or none".to_owned())
    }
}

/// The table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name and version, as in `failsafe factors 1`.
    pub name: String,
    /// `sha256:HEX` of its text.
    pub digest: String,
    rows: Vec<Row>,
    /// What is warned of before a command is executed.
    pub preflight: Vec<Advice>,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pattern: Pattern,
    class: [Class; 3],
    /// Why a difference changes what its class says.
    pub reason: String,
    /// Who found that.
    pub citation: String,
}

impl Row {
    /// What a difference changes in this regime.
    pub fn class(&self, regime: Regime) -> Class {
        let [deterministic, seeded, none] = self.class;
        match regime {
            Regime::Deterministic => deterministic,
            Regime::Seeded => seeded,
            Regime::None => none,
        }
    }
}

/// Names paths: `*` inside a segment, `**` as the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<String>);

impl Pattern {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Pattern, String> {
        let parts: Vec<String> = text.split('/').map(str::to_owned).collect();
        if parts.iter().any(String::is_empty) {
            return Err("expected segments separated by `/`, none of them empty".to_owned());
        }
        let (last, before) = parts.split_last().ok_or("it is empty")?;
        if before.iter().any(|part| part.contains("**")) || (last.contains("**") && last != "**") {
            return Err("`**` means the rest of a path: expected it as the whole last segment".to_owned());
        }
        Ok(Pattern(parts))
    }

    /// Whether it names this path.
    pub fn fits(&self, path: &str) -> bool {
        let mut parts = path.split('/');
        for (n, pattern) in self.0.iter().enumerate() {
            let Some(part) = parts.next() else { return false };
            if pattern == "**" && n + 1 == self.0.len() {
                return true;
            }
            if !fits_segment(pattern, part) {
                return false;
            }
        }
        parts.next().is_none()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("/"))
    }
}

/// `*` stands for any text. Each fixed part is looked for as early as possible, which is right for one kind of wildcard.
pub(crate) fn fits_segment(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut left) = text.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let tail = parts.pop().unwrap_or_default();
    for part in parts {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(tail)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    table: RawHead,
    sources: BTreeMap<String, Spanned<String>>,
    factor: Vec<RawRow>,
    #[serde(default)]
    preflight: Vec<RawAdvice>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAdvice {
    variable: Option<String>,
    #[serde(default)]
    expect: Vec<String>,
    #[serde(default)]
    reject: Vec<String>,
    manifest: Option<Part>,
    #[serde(default)]
    programs: Vec<String>,
    #[serde(default)]
    uses: String,
    text: Spanned<String>,
    fix: String,
    source: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHead {
    name: String,
    version: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRow {
    path: Spanned<String>,
    class: RawClass,
    reason: Spanned<String>,
    source: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected `result`, `performance` or `identity`, or one of them for each of `deterministic`, `seeded` and `none`"
)]
enum RawClass {
    One(Class),
    Each(RawClasses),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClasses {
    deterministic: Class,
    seeded: Class,
    none: Class,
}

impl RawClass {
    fn each(&self) -> [Class; 3] {
        match self {
            RawClass::One(class) => [*class; 3],
            RawClass::Each(RawClasses { deterministic, seeded, none }) => [*deterministic, *seeded, *none],
        }
    }
}

impl Table {
    /// The built-in one.
    ///
    /// # Errors
    /// None in a build that passed its tests.
    pub fn built_in() -> Result<Table, Diagnostics> {
        Table::parse("policies/factors.toml", BUILT_IN)
    }

    /// Reads a table. `file` only names it in errors.
    ///
    /// # Errors
    /// All that is wrong, each with file, line, column and what was expected.
    pub fn parse(file: &str, text: &str) -> Result<Table, Diagnostics> {
        let fail = |list| Diagnostics { file: file.to_owned(), list };
        if text.len() > MAX_BYTES {
            let message = format!("the table has {} bytes, expected at most {MAX_BYTES}", text.len());
            return Err(fail(vec![Diagnostic::at("", 0..0, message, None)]));
        }
        let raw: Raw = toml::from_str(text).map_err(|error| fail(vec![Diagnostic::of_toml(text, &error)]))?;
        let mut wrong = Vec::new();
        for (name, source) in raw.sources.iter().filter(|(_, it)| it.get_ref().trim().is_empty()) {
            wrong.push(Diagnostic::at(text, source.span(), format!("the source `{name}` is empty"), None));
        }
        let mut rows: Vec<Row> = Vec::new();
        for RawRow { path, class, reason, source } in raw.factor {
            if reason.get_ref().trim().is_empty() {
                wrong.push(Diagnostic::at(text, reason.span(), "`reason` is empty", None));
            }
            let Some(citation) = raw.sources.get(source.get_ref()) else {
                let message = format!("`source` is `{}`, expected one of [sources]", source.get_ref());
                let help = nearest(source.get_ref(), raw.sources.keys().map(String::as_str));
                let help = help.map(|near| format!("did you mean `{near}`?"));
                wrong.push(Diagnostic::at(text, source.span(), message, help));
                continue;
            };
            let pattern = match Pattern::parse(path.get_ref()) {
                Ok(pattern) => pattern,
                Err(why) => {
                    wrong.push(Diagnostic::at(text, path.span(), format!("`path`: {why}"), None));
                    continue;
                }
            };
            // The simplest path that the row names: if an earlier row takes it, this one never applies to it.
            let simplest = pattern.to_string().replace("**", "x").replace('*', "x");
            if let Some(earlier) = rows.iter().find(|row| row.pattern.fits(&simplest)) {
                let message =
                    format!("`path` is `{pattern}`, but the earlier row `{}` takes its factors", earlier.pattern);
                wrong.push(Diagnostic::at(text, path.span(), message, None));
            }
            let (class, citation) = (class.each(), citation.get_ref().clone());
            rows.push(Row { pattern, class, reason: reason.into_inner(), citation });
        }
        let mut preflight = Vec::new();
        for row in raw.preflight {
            let RawAdvice { variable, expect, reject, manifest, programs, uses, text: what, fix, source } = row;
            let look = match (variable, manifest) {
                (Some(name), None) => Look::Variable { name, expect, reject },
                (None, Some(part)) if expect.is_empty() && reject.is_empty() => Look::Manifest(part),
                _ => {
                    let message = "expected `variable`, or `manifest` without `expect` and `reject`";
                    wrong.push(Diagnostic::at(text, what.span(), message, None));
                    continue;
                }
            };
            match raw.sources.get(source.get_ref()) {
                Some(citation) => {
                    let (what, citation) = (what.into_inner(), citation.get_ref().clone());
                    preflight.push(Advice { look, programs, uses, text: what, fix, citation });
                }
                None => {
                    let message = format!("`source` is `{}`, expected one of [sources]", source.get_ref());
                    wrong.push(Diagnostic::at(text, source.span(), message, None));
                }
            }
        }
        if !wrong.is_empty() {
            return Err(fail(wrong));
        }
        let name = format!("{} {}", raw.table.name, raw.table.version);
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(text.as_bytes())));
        Ok(Table { name, digest, rows, preflight })
    }

    /// The row of a path, and its place: earlier rows explain more differences.
    pub fn row(&self, path: &str) -> Option<(usize, &Row)> {
        self.rows.iter().enumerate().find(|(_, row)| row.pattern.fits(path))
    }

    /// The class of a path. One without a row can change results until somebody has looked at it.
    pub fn class(&self, path: &str, regime: Regime) -> Class {
        self.row(path).map_or(Class::Result, |(_, row)| row.class(regime))
    }

    /// The environment variables that are read.
    pub fn environment(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().filter_map(|row| match row.pattern.0.as_slice() {
            [run, env, name] if format!("{run}/{env}/") == ENVIRONMENT && !name.contains('*') => Some(name.as_str()),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "[table]\nname = \"t\"\nversion = 1\n[sources]\nme = \"measured here\"\n";

    fn row(path: &str, rest: &str) -> String {
        format!("[[factor]]\npath = \"{path}\"\nreason = \"why\"\nsource = \"me\"\n{rest}\n")
    }

    #[test]
    fn the_built_in_table_is_good_and_answers_by_regime() {
        let table = Table::built_in().unwrap();
        let class = |path, regime| table.class(path, regime);
        assert_eq!(class("run/library/libcudnn.so.9", Regime::Deterministic), Class::Result);
        assert_eq!(class("node/gpu/3/power-limit", Regime::Seeded), Class::Performance);
        assert_eq!(class("node/gpu/3/power-limit", Regime::None), Class::Result);
        assert_eq!(class("node/gpu/3/serial", Regime::None), Class::Identity);
        assert_eq!(class("run/id", Regime::None), Class::Identity);
        assert_eq!(class("somewhere/else", Regime::None), Class::Result, "unknown is not harmless");
        let names: Vec<&str> = table.environment().collect();
        assert!(names.contains(&"OMP_NUM_THREADS") && names.len() > 30, "{names:?}");
        assert!(names.iter().all(|name| !["PATH", "HOME", "AWS_SECRET_ACCESS_KEY"].contains(name)));
    }

    #[test]
    fn patterns_name_paths() {
        for (pattern, path, expected) in [
            ("a/*/c", "a/b/c", true),
            ("a/*/c", "a/b/b/c", false),
            ("a/lib*jpeg*", "a/libturbojpeg.so.8", true),
            ("a/lib*jpeg*", "a/libpng.so", false),
            ("a/*x*x", "a/x", false),
            ("a/*x*x", "a/xx", true),
            ("a/**", "a/b/c", true),
            ("a/**", "a", false),
            ("a/b", "a/b/c", false),
            ("a/b*b", "a/b", false),
            ("a/*.so.*", "a/libé.so.1", true),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().fits(path), expected, "{pattern} {path}");
        }
        for bad in ["", "a//b", "**/a", "a/b**", "/a"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_reported_with_its_line() {
        let class = "class = \"result\"";
        let text = format!("{HEAD}{}{}", row("a/*", class), row("a/b", class));
        let all = Table::parse("f.toml", &text).unwrap_err().to_string();
        assert!(all.contains("f.toml:12:8") && all.contains("the earlier row `a/*` takes"), "{all}");
        for (text, expected) in [
            (row("a", class).replace("\"me\"", "\"mee\""), "did you mean `me`?"),
            (row("a", class).replace("\"why\"", "\" \""), "`reason` is empty"),
            (row("a//b", class), "none of them empty"),
            (row("a", "class = \"resul\""), "`result`, `performance` or `identity`"),
            (row("a", "class = { deterministic = \"result\" }"), "for each of"),
            (row("a", &format!("{class}\nmore = 1")), "more"),
        ] {
            let why = Table::parse("f.toml", &format!("{HEAD}{text}")).unwrap_err().to_string();
            assert!(why.contains(expected), "{why}");
        }
        let two = format!("{HEAD}{}{}", row("a//b", class), row("c", class).replace("\"me\"", "\"x\""));
        assert_eq!(Table::parse("f.toml", &two).unwrap_err().list.len(), 2);
    }

    proptest::proptest! {
        /// Against the plain definition: try every split.
        #[test]
        fn wildcards_fit_as_the_plain_definition_says(pattern in "[ab*]{0,6}", text in "[ab]{0,6}") {
            fn plain(pattern: &[u8], text: &[u8]) -> bool {
                match pattern.split_first() {
                    None => text.is_empty(),
                    Some((b'*', rest)) => (0..=text.len()).any(|at| plain(rest, &text[at..])),
                    Some((c, rest)) => text.split_first().is_some_and(|(t, left)| t == c && plain(rest, left)),
                }
            }
            proptest::prop_assert_eq!(fits_segment(&pattern, &text), plain(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
