//! `[[discover]]`: a rule, the list of them, and what they say of a path.

use super::{pattern::Pattern, pattern::Stop, preset::Preset, supervisor::supervisor};
use crate::{
    decision::Mode,
    policy::diagnostic::{Diagnostic, Diagnostics},
    visible::beginning,
};
use serde::{
    Deserialize, Deserializer,
    de::{self, Error as _, SeqAccess, Visitor},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// The label that names the rule that a run was discovered by. Nobody else may set one that begins so.
pub const LABEL: &str = "failsafe.discover";

/// Most bytes of a label, and of its name.
pub const LABEL_BYTES: usize = 128;

/// Most rules of a configuration.
const MOST_RULES: usize = 64;

/// Names of a path's parts, with what they are.
pub type Labels = BTreeMap<String, String>;

/// Whether a run with these labels was discovered. Its scheduler fills an empty cgroup again, so the run ends when the cgroup
/// is removed.
pub fn is_discovered(labels: &Labels) -> bool {
    labels.contains_key(LABEL)
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawRule")]
pub struct Rule {
    /// Its name, unique in the configuration.
    pub name: String,
    /// The patterns, in the order in which they are tried.
    pub patterns: Vec<Pattern>,
    /// Name of the policy.
    pub policy: String,
    /// Name of a policy that is judged beside it, without effect.
    pub shadow: Option<String>,
    /// Whether the runs are bounded, or only watched.
    pub mode: Mode,
    /// Labels that every run gets.
    pub labels: Labels,
}

impl Rule {
    /// The names of all policies that it uses.
    pub fn policies(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.policy).chain(&self.shadow)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    #[serde(deserialize_with = "rule_name")]
    name: String,
    preset: Option<Preset>,
    #[serde(rename = "match", default, deserialize_with = "patterns")]
    patterns: Option<Vec<Pattern>>,
    #[serde(deserialize_with = "policy_name")]
    policy: String,
    #[serde(default, deserialize_with = "shadow_name")]
    shadow: Option<String>,
    #[serde(default = "enforce")]
    mode: RawMode,
    #[serde(default)]
    labels: Labels,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawMode {
    Enforce,
    Observe,
}

fn enforce() -> RawMode {
    RawMode::Enforce
}

/// Whether it names a policy or a rule: 1 to 64 letters, digits, `-`, `_`, and `.` not at the beginning. A name is also that of a file.
pub fn is_name(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=64).contains(&text.len()) && text.bytes().all(good) && !text.starts_with(['.', '-'])
}

// Checked while they are read: the position of the mistake is then that of the value.

fn rule_name<'d, D: Deserializer<'d>>(from: D) -> Result<String, D::Error> {
    let name = String::deserialize(from)?;
    let expected = || D::Error::custom(format!("name `{name}`: expected 1 to 64 letters, digits, `-`, `_`, `.`"));
    if is_name(&name) { Ok(name) } else { Err(expected()) }
}

fn policy_name<'d, D: Deserializer<'d>>(from: D) -> Result<String, D::Error> {
    let name = String::deserialize(from)?;
    let expected = || D::Error::custom(format!("policy `{name}`: expected the name of a policy, not a path"));
    if is_name(&name) { Ok(name) } else { Err(expected()) }
}

fn shadow_name<'d, D: Deserializer<'d>>(from: D) -> Result<Option<String>, D::Error> {
    let name = String::deserialize(from)?;
    let expected = || D::Error::custom(format!("shadow `{name}`: expected the name of a policy, not a path"));
    if is_name(&name) { Ok(Some(name)) } else { Err(expected()) }
}

/// A pattern, or a list of them.
struct Patterns;

impl<'d> Visitor<'d> for Patterns {
    type Value = Vec<Pattern>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a pattern, or a list of patterns")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<Pattern>, E> {
        Ok(vec![text.parse().map_err(E::custom)?])
    }

    fn visit_seq<A: SeqAccess<'d>>(self, mut list: A) -> Result<Vec<Pattern>, A::Error> {
        let mut all = Vec::new();
        while let Some(InList(pattern)) = list.next_element()? {
            all.push(pattern);
        }
        if all.is_empty() { Err(de::Error::custom("expected at least one pattern")) } else { Ok(all) }
    }
}

/// A pattern of a list: a mistake has its position.
struct InList(Pattern);

impl<'d> Deserialize<'d> for InList {
    fn deserialize<D: Deserializer<'d>>(from: D) -> Result<InList, D::Error> {
        struct One;

        impl Visitor<'_> for One {
            type Value = InList;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a pattern")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<InList, E> {
                text.parse().map(InList).map_err(E::custom)
            }
        }

        from.deserialize_str(One)
    }
}

fn patterns<'d, D: Deserializer<'d>>(from: D) -> Result<Option<Vec<Pattern>>, D::Error> {
    from.deserialize_any(Patterns).map(Some)
}

impl TryFrom<RawRule> for Rule {
    type Error = String;

    fn try_from(raw: RawRule) -> Result<Rule, String> {
        let RawRule { name, preset, patterns, policy, shadow, mode, labels } = raw;
        let patterns = match (preset, patterns) {
            (Some(preset), None) => preset.patterns()?,
            (None, Some(patterns)) => patterns,
            _ => return Err(format!("rule `{name}`: expected either `match` or `preset`")),
        };
        let short = |text: &str| text.len() <= LABEL_BYTES;
        if labels.len() > 16 || !labels.iter().all(|(key, value)| short(key) && short(value)) {
            return Err(format!("rule `{name}`: labels: expected at most 16, each key and value at most 128 bytes"));
        }
        if let Some(key) = labels.keys().find(|key| key.starts_with("failsafe.")) {
            return Err(format!("rule `{name}`: label `{key}`: names that begin with `failsafe.` are the daemon's"));
        }
        if shadow.as_ref() == Some(&policy) {
            return Err(format!("rule `{name}`: shadow: expected another policy than `{policy}`"));
        }
        let mode = match mode {
            RawMode::Enforce => Mode::Enforce,
            RawMode::Observe => Mode::Observe,
        };
        Ok(Rule { name, patterns, policy, shadow, mode, labels })
    }
}

/// The rules of a configuration, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    rules: Vec<Rule>,
}

/// A path that a rule matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// Its pattern.
    pub pattern: &'a Pattern,
    /// Labels from the path, those of the rule, and the rule's name.
    pub labels: Labels,
    /// The user that the path names, where it has `{uid}`.
    pub uid: Option<u32>,
    /// The path names a container: who its processes are says its image, not the host.
    pub container: bool,
}

/// Why a pattern does not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Miss<'a> {
    /// The rule.
    pub rule: &'a str,
    /// Its pattern.
    pub pattern: &'a str,
    /// Where they part.
    pub stop: Stop<'a>,
}

/// What the rules say of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Explained<'a> {
    /// It matches.
    Match(Match<'a>),
    /// A rule would match, but it is a supervisor's.
    Supervisor {
        /// The rule.
        rule: &'a str,
        /// Why.
        why: &'static str,
    },
    /// No pattern matches, each with the reason.
    None(Vec<Miss<'a>>),
}

impl Rules {
    /// These rules.
    ///
    /// # Errors
    /// Two have one name, or there are too many.
    pub fn new(rules: Vec<Rule>) -> Result<Rules, String> {
        if rules.len() > MOST_RULES {
            return Err(format!("expected at most {MOST_RULES} rules, not {}", rules.len()));
        }
        let mut names = BTreeSet::new();
        match rules.iter().find(|rule| !names.insert(&rule.name)) {
            Some(twice) => Err(format!("two rules are named `{}`", twice.name)),
            None => Ok(Rules { rules }),
        }
    }

    /// The rules.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rule of that name.
    pub fn get(&self, name: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.name == name)
    }

    /// Whether a cgroup below this path may match.
    pub fn lead_below(&self, path: &str) -> bool {
        self.leading_below(path).is_some()
    }

    /// The first rule that a cgroup below this path may match.
    pub fn leading_below(&self, path: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.patterns.iter().any(|pattern| pattern.leads_below(path)))
    }

    /// What the rules say of the path of a cgroup below the mount.
    pub fn explain<'a>(&'a self, path: &'a str) -> Explained<'a> {
        let mut misses = Vec::new();
        for rule in &self.rules {
            for pattern in &rule.patterns {
                match pattern.matches(path) {
                    Ok(found) => return of_match(rule, pattern, found, path),
                    Err(stop) => misses.push(Miss { rule: &rule.name, pattern: pattern.as_str(), stop }),
                }
            }
        }
        Explained::None(misses)
    }
}

/// The rules of a daemon's configuration, and where the paths of their patterns begin (`discovery.root`): of its files, each by its name
/// and its text, in the order in which the daemon merges them. Other sections are passed over: the daemon checks them.
///
/// # Errors
/// A text is no TOML, a rule is wrong, or an empty list follows rules.
pub fn of_config(files: &[(String, String)]) -> Result<(Rules, String), Diagnostics> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Section {
        root: Option<String>,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Config {
        discovery: Section,
    }
    let (mut rules, mut root) = (Vec::new(), String::new());
    for (file, text) in files {
        let wrong = |diagnostic| Diagnostics { file: file.clone(), list: vec![diagnostic] };
        let of_toml = |error| wrong(Diagnostic::of_toml(text, &error));
        let mut table = DeTable::parse(text).map_err(of_toml)?;
        let config: Config = toml::from_str(text).map_err(of_toml)?;
        root = config.discovery.root.unwrap_or(root);
        let Some(list) = table.get_mut().remove("discover") else { continue };
        let span = list.span();
        let DeValue::Array(list) = list.into_inner() else {
            return Err(wrong(Diagnostic::at(text, span, "discover: expected a list of tables, `[[discover]]`", None)));
        };
        if list.is_empty() && !rules.is_empty() {
            let why = "discover: an empty list does not remove the rules of earlier files: remove them there";
            return Err(wrong(Diagnostic::at(text, span, why, None)));
        }
        for entry in list {
            let span = entry.span();
            let at_entry = |why: String| wrong(Diagnostic::at(text, span.clone(), format!("discover: {why}"), None));
            let rule = Rule::deserialize(ValueDeserializer::from(entry)).map_err(|error| match error.span() {
                Some(_) => of_toml(error),
                None => at_entry(error.message().to_owned()),
            })?;
            rules.push(rule);
            Rules::new(rules.clone()).map_err(at_entry)?;
        }
    }
    Ok((Rules { rules }, root))
}

fn of_match<'a>(rule: &'a Rule, pattern: &'a Pattern, found: Labels, path: &str) -> Explained<'a> {
    if let Some(why) = supervisor(path) {
        return Explained::Supervisor { rule: &rule.name, why };
    }
    let uid = found.get("uid").and_then(|uid| uid.parse().ok());
    let container = found.contains_key("container");
    let mut labels = rule.labels.clone();
    // A long name, which a user may have chosen, is no reason to have no run.
    labels.extend(found.into_iter().map(|(key, value)| (key, beginning(&value, LABEL_BYTES).to_owned())));
    labels.insert(LABEL.into(), rule.name.clone());
    Explained::Match(Match { rule, pattern, labels, uid, container })
}
