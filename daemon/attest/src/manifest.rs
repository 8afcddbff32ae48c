//! The manifest of a run: what its owner claims that it computes with and failsafe does not see, such as the commit of its code,
//! the versions of its data and its seeds. A TOML file for people; the canonical JSON of it in requests and in the audit log.
//!
//! Invariants: what is not understood is an error with its line; every text is bounded; a manifest read back from its canonical
//! text is the same. Nothing of it is measured: its facts have the assurance `claimed`.

use crate::{
    factor::{Fact, is_path},
    json::{Json, JsonError},
    table::Regime,
};
use failsafe_core::{
    policy::diagnostic::{Diagnostic, Diagnostics},
    signal::Real,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Largest manifest, bytes: of the file, and of its canonical text.
pub const MAX_BYTES: usize = 64 << 10;
/// Most entries of one section.
pub const MAX_ENTRIES: usize = 256;
/// Longest text, bytes.
pub const MAX_TEXT: usize = 1_024;
/// Longest name of an entry, bytes.
const MAX_NAME: usize = 128;

/// Where facts of a manifest come from.
const SOURCE: &str = "the manifest of the run";
/// The factor that shows that there is a manifest.
const GROUP: &str = "run/manifest";

/// A manifest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Manifest {
    /// How deterministic the run is meant to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regime: Option<Regime>,
    /// The source code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// Digest of the container image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Name or id of the run that this one continues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The checkpoint that the run begins with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<String>,
    /// The data, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, Data>,
    /// Seeds, by what they are for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub seeds: BTreeMap<String, Value>,
    /// Hyperparameters.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub hyperparameters: BTreeMap<String, Value>,
    /// Other settings.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, Value>,
}

/// Where the source code comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Code {
    /// Its repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Whether files differ from the commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dirty: Option<bool>,
}

/// A set of data.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Data {
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `sha256:HEX`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// A value. A number with a fraction, or one that other readers of JSON would round, is kept as text: statements have integers only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Raw")]
#[serde(untagged)]
pub enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// Text, or a number with a fraction.
    Text(String),
    /// Several.
    List(Vec<Value>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Raw {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Value>),
}

impl From<Raw> for Value {
    fn from(raw: Raw) -> Value {
        match raw {
            Raw::Bool(value) => Value::Bool(value),
            // Beyond it other readers of JSON round.
            Raw::Int(value) if value.unsigned_abs() > crate::json::MAX_INTEGER.unsigned_abs() => {
                Value::Text(value.to_string())
            }
            Raw::Int(value) => Value::Int(value),
            Raw::Float(value) => Value::Text(value.to_string()),
            Raw::Text(value) => Value::Text(value),
            Raw::List(values) => Value::List(values),
        }
    }
}

impl Value {
    fn json(&self) -> Json {
        match self {
            Value::Bool(value) => Json::Bool(*value),
            Value::Int(value) => Json::Int(*value),
            Value::Text(text) => Json::Text(text.clone()),
            Value::List(values) => Json::List(values.iter().map(Value::json).collect()),
        }
    }

    /// As a finite number, where it is one.
    fn number(&self) -> Option<f64> {
        match self {
            Value::Int(value) => Some(*value as f64),
            Value::Text(text) => text.parse::<f64>().ok().filter(|number| number.is_finite()),
            Value::Bool(_) | Value::List(_) => None,
        }
    }

    fn texts(&mut self, name: &str, change: &mut dyn FnMut(&str, &mut String)) {
        match self {
            Value::Text(text) => change(name, text),
            Value::List(values) => values.iter_mut().for_each(|value| value.texts(name, change)),
            Value::Bool(_) | Value::Int(_) => {}
        }
    }
}

impl Manifest {
    /// Reads the TOML file that people write. `file` only names it in errors.
    ///
    /// # Errors
    /// What is wrong, with file, line, column and what was expected.
    pub fn parse(file: &str, text: &str) -> Result<Manifest, Diagnostics> {
        let fail = |diagnostic| Diagnostics { file: file.to_owned(), list: vec![diagnostic] };
        if text.len() > MAX_BYTES {
            let message = format!("the manifest has {} bytes, expected at most {MAX_BYTES}", text.len());
            return Err(fail(Diagnostic::at("", 0..0, message, None)));
        }
        let manifest: Manifest = toml::from_str(text).map_err(|error| fail(Diagnostic::of_toml(text, &error)))?;
        manifest.check().map_err(|why| fail(Diagnostic::at(text, 0..0, why, None)))?;
        Ok(manifest)
    }

    /// Reads a canonical text.
    ///
    /// # Errors
    /// It is no manifest, or one that breaks a limit.
    pub fn from_json(bytes: &[u8]) -> Result<Manifest, JsonError> {
        let manifest: Manifest = Json::parse(bytes, MAX_BYTES)?.into_type()?;
        manifest.check().map_err(JsonError::Form)?;
        Ok(manifest)
    }

    /// Its canonical text (RFC 8785).
    ///
    /// # Errors
    /// A value is not allowed in a statement.
    pub fn canonical(&self) -> Result<String, JsonError> {
        Ok(Json::of(self)?.canonical())
    }

    /// Shows every text, with the name that it has, for redaction.
    pub fn texts(&mut self, change: &mut dyn FnMut(&str, &mut String)) {
        let Manifest { code, image, parent, baseline, data, seeds, hyperparameters, config, regime: _ } = self;
        let Code { repository, commit, dirty: _ } = code.get_or_insert_default();
        let own = [
            ("repository", repository),
            ("commit", commit),
            ("image", image),
            ("parent", parent),
            ("baseline", baseline),
        ];
        for (name, text) in own {
            text.iter_mut().for_each(|text| change(name, text));
        }
        if code.as_ref().is_some_and(|code| *code == Code::default()) {
            *code = None;
        }
        for (name, Data { version, digest }) in data {
            version.iter_mut().chain(digest).for_each(|text| change(name, text));
        }
        for (name, value) in seeds.iter_mut().chain(hyperparameters).chain(config) {
            value.texts(name, change);
        }
    }

    /// Its numbers, by section and name: what policies compare metrics with. A text that is a number counts as one, because a number
    /// with a fraction is kept as text.
    pub fn numbers(&self) -> BTreeMap<String, Real> {
        let sections = [("seeds", &self.seeds), ("hyperparameters", &self.hyperparameters), ("config", &self.config)];
        let of = |(section, values): (&'static str, &BTreeMap<String, Value>)| {
            let number = |(name, value): (&String, &Value)| Some((format!("{section}.{name}"), Real(value.number()?)));
            values.iter().filter_map(number).collect::<Vec<_>>()
        };
        sections.into_iter().flat_map(of).collect()
    }

    /// What it claims, as facts of a run.
    pub fn facts(&self) -> Vec<Fact> {
        let Manifest { regime, code, image, parent, baseline, data, seeds, hyperparameters, config } = self;
        let mut all = vec![(GROUP.to_owned(), Json::from("set"))];
        let mut text = |name: String, value: &Option<String>| {
            all.extend(value.iter().map(|value| (format!("{GROUP}/{name}"), Json::from(value.as_str()))));
        };
        text("image".to_owned(), image);
        text("parent".to_owned(), parent);
        text("baseline".to_owned(), baseline);
        if let Some(Code { repository, commit, .. }) = code {
            text("code/repository".to_owned(), repository);
            text("code/commit".to_owned(), commit);
        }
        for (name, Data { version, digest }) in data {
            text(format!("data/{name}/version"), version);
            text(format!("data/{name}/digest"), digest);
        }
        let dirty = code.as_ref().and_then(|code| code.dirty);
        all.extend(dirty.map(|dirty| (format!("{GROUP}/code/dirty"), Json::Bool(dirty))));
        all.extend(regime.map(|regime| (format!("{GROUP}/regime"), Json::from(regime.name()))));
        for (section, values) in [("seeds", seeds), ("hyperparameters", hyperparameters), ("config", config)] {
            all.extend(values.iter().map(|(name, value)| (format!("{GROUP}/{section}/{name}"), value.json())));
        }
        let claimed = |(path, value)| Fact::claimed(path, SOURCE, Ok(value));
        all.into_iter().map(claimed).collect()
    }

    fn check(&self) -> Result<(), String> {
        let Manifest { data, seeds, hyperparameters, config, .. } = self;
        let sections = [
            ("data", data.len()),
            ("seeds", seeds.len()),
            ("hyperparameters", hyperparameters.len()),
            ("config", config.len()),
        ];
        if let Some((section, n)) = sections.into_iter().find(|(_, n)| *n > MAX_ENTRIES) {
            return Err(format!("`{section}` has {n} entries, expected at most {MAX_ENTRIES}"));
        }
        let names = data.keys().chain(seeds.keys()).chain(hyperparameters.keys()).chain(config.keys());
        if let Some(name) = names.into_iter().find(|name| !is_name(name)) {
            return Err(format!(
                "`{}` is no name: expected 1 to {MAX_NAME} bytes without `/` and control characters",
                name.escape_debug()
            ));
        }
        for (name, Data { digest, .. }) in data {
            if let Some(digest) = digest.as_ref().filter(|digest| !is_digest(digest)) {
                return Err(format!(
                    "`data.{name}.digest` is `{}`, expected sha256: and 64 hexadecimal digits",
                    digest.escape_debug()
                ));
            }
        }
        let mut wrong = None;
        self.clone().texts(&mut |name, text| {
            if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
                wrong.get_or_insert_with(|| {
                    format!(
                        "`{name}` has a text of {} bytes, expected at most {MAX_TEXT}, without control characters",
                        text.len()
                    )
                });
            }
        });
        let bytes = self.canonical().map_err(|error| error.to_string())?.len();
        match wrong {
            Some(wrong) => Err(wrong),
            None if bytes > MAX_BYTES => Err(format!("it has {bytes} bytes, expected at most {MAX_BYTES}")),
            None => Ok(()),
        }
    }
}

fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME && !name.contains('/') && is_path(name)
}

/// Whether a text is a digest as manifests and checkpoints have it: `sha256:HEX`.
pub fn is_digest(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or_default();
    hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests;
