//! A pattern over the path of a cgroup: `system.slice/slurmstepd.scope/job_{job:number}/step_{step}/user`.
//!
//! A component is matched by a component. Within one, `{name}` takes one or more characters and names them, `{name:KIND}` only
//! those of a kind, `*` any number of characters.

use super::rule::Labels;
use regex::Regex;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Most components of a pattern, and most bytes.
const MOST_COMPONENTS: usize = 16;
const MOST_BYTES: usize = 512;
/// Kinds of captures, each with its expression and how it is named in errors.
const KINDS: [(&str, &str); 3] = [
    ("number", "[0-9]{1,10}"),
    // The id of a container.
    ("id", "[0-9a-f]{64}"),
    // The UID of a pod: with `-`, with `_` (as systemd's names have it), or 32 digits (static pods).
    ("uuid", "[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32}"),
];

/// A pattern.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    text: String,
    components: Vec<Component>,
}

#[derive(Debug, Clone)]
struct Component {
    text: String,
    expression: Regex,
    /// The expression without its ends.
    body: String,
    /// Captures of the kind `uuid`, which are written with `-` in labels.
    uuids: Vec<String>,
}

/// Where a path and a pattern part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop<'a> {
    /// A component does not fit.
    At {
        /// Which, from 1.
        component: usize,
        /// What the path has.
        found: &'a str,
        /// What the pattern asks for.
        expected: &'a str,
    },
    /// The path ends where the pattern goes on.
    Short {
        /// The next component of the pattern.
        expected: &'a str,
    },
    /// The pattern ends where the path goes on: it is inside a cgroup that matches.
    Inside,
}

impl fmt::Display for Stop<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::At { component, found, expected } => {
                write!(f, "component {component} is `{found}`, expected `{expected}`")
            }
            Stop::Short { expected } => write!(f, "it ends before `{expected}`"),
            Stop::Inside => f.write_str("it lies below a cgroup that matches"),
        }
    }
}

/// The components of a path below the mount. Empty ones are passed over.
fn components(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty())
}

impl Pattern {
    /// What the path's parts are called, if it matches whole.
    ///
    /// # Errors
    /// Where path and pattern part.
    pub fn matches<'a>(&'a self, path: &'a str) -> Result<Labels, Stop<'a>> {
        let mut labels = Labels::new();
        let mut parts = components(path);
        for (at, component) in self.components.iter().enumerate() {
            let Some(part) = parts.next() else { return Err(Stop::Short { expected: &component.text }) };
            if !component.takes(part, &mut labels) {
                return Err(Stop::At { component: at + 1, found: part, expected: &component.text });
            }
        }
        if parts.next().is_some() { Err(Stop::Inside) } else { Ok(labels) }
    }

    /// Whether a cgroup below this path may match: its components fit the first ones of the pattern, and the pattern goes on.
    pub fn leads_below(&self, path: &str) -> bool {
        let mut labels = Labels::new();
        let mut own = self.components.iter();
        components(path).all(|part| own.next().is_some_and(|own| own.takes(part, &mut labels))) && own.next().is_some()
    }

    /// The expression of a whole path, for one automaton over those of all patterns.
    pub(super) fn expression(&self) -> String {
        self.components.iter().map(|component| component.body.as_str()).collect::<Vec<_>>().join("/")
    }

    /// How many levels below the place where patterns begin its cgroups are.
    pub fn depth(&self) -> usize {
        self.components.len()
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn parse(text: &str) -> Result<Pattern, String> {
        let wrong = |why: &str| format!("pattern `{text}`: {why}");
        if text.len() > MOST_BYTES {
            return Err(wrong(&format!("expected at most {MOST_BYTES} bytes")));
        }
        if text.starts_with('/') || text.ends_with('/') || text.contains("//") || text.is_empty() {
            return Err(wrong("expected a path relative to the cgroup2 mount, such as `docker/{container:id}`"));
        }
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() > MOST_COMPONENTS {
            return Err(wrong(&format!("expected at most {MOST_COMPONENTS} components")));
        }
        if parts.iter().any(|part| matches!(*part, "." | "..")) {
            return Err(wrong("expected no `.` or `..`"));
        }
        let all: Result<Vec<Component>, String> = parts.iter().map(|part| Component::parse(part)).collect();
        let components = all.map_err(|why| wrong(&why))?;
        // A pattern that begins with a capture is rooted nowhere: any cgroup at the top could match.
        if parts[0].contains(['{', '*']) {
            return Err(wrong("its first component names no cgroup: expected one without `{...}` and `*`"));
        }
        let mut names: Vec<&str> = components.iter().flat_map(Component::names).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(wrong(&format!("`{{{}}}` is there twice", pair[0])));
        }
        Ok(Pattern { text: text.to_owned(), components })
    }
}

impl Component {
    fn takes(&self, part: &str, labels: &mut Labels) -> bool {
        let Some(found) = self.expression.captures(part) else { return false };
        for name in self.names() {
            if let Some(value) = found.name(name) {
                let value = value.as_str();
                let is_uuid = self.uuids.iter().any(|uuid| uuid == name);
                labels.insert(name.to_owned(), if is_uuid { value.replace('_', "-") } else { value.to_owned() });
            }
        }
        true
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.expression.capture_names().flatten()
    }

    fn parse(text: &str) -> Result<Component, String> {
        let (mut body, mut uuids) = (String::new(), Vec::new());
        let mut rest = text;
        // Two captures side by side could be parted anywhere.
        let mut open = false;
        while let Some(at) = rest.find(['{', '*', '}']) {
            let (literal, tail) = rest.split_at(at);
            body.push_str(&regex::escape(literal));
            if open && literal.is_empty() {
                return Err("expected characters between two of `{...}` and `*`".into());
            }
            open = true;
            if let Some(after) = tail.strip_prefix('*') {
                body.push_str("[^/]*");
                rest = after;
                continue;
            }
            let Some((inside, after)) = tail.strip_prefix('{').and_then(|inside| inside.split_once('}')) else {
                return Err("a brace is not paired: expected `{name}` or `{name:KIND}`".into());
            };
            let (name, kind) = inside.split_once(':').map_or((inside, None), |(name, kind)| (name, Some(kind)));
            let good = (1..=32).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
                && name.as_bytes()[0].is_ascii_lowercase();
            if !good {
                return Err(format!("`{{{inside}}}`: expected a name of 1 to 32 lower-case letters, digits and `_`"));
            }
            let of_kind = match kind {
                None => "[^/]+",
                Some(kind) => KINDS.iter().find(|(known, _)| *known == kind).map(|(_, of)| *of).ok_or_else(|| {
                    format!("`{{{inside}}}`: no kind is named `{kind}`: expected `number`, `id` or `uuid`")
                })?,
            };
            if kind == Some("uuid") {
                uuids.push(name.to_owned());
            }
            body.push_str(&format!("(?P<{name}>{of_kind})"));
            rest = after;
        }
        body.push_str(&regex::escape(rest));
        // `$` of this crate means the end of the text, not of a line: a name with a line break does not match.
        let expression = Regex::new(&format!("^{body}$")).map_err(|error| format!("component `{text}`: {error}"))?;
        Ok(Component { text: text.to_owned(), expression, body, uuids })
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Pattern, String> {
        Pattern::parse(&text)
    }
}

impl std::str::FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Pattern, String> {
        Pattern::parse(text)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> String {
        pattern.text
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn mistakes_in_patterns_are_named() {
        for (text, why) in [
            ("", "relative to the cgroup2 mount"),
            ("/docker/{container}", "relative to the cgroup2 mount"),
            ("docker//x", "relative to the cgroup2 mount"),
            ("{any}/x", "names no cgroup"),
            ("*.slice/x", "names no cgroup"),
            ("a/../b", "no `.` or `..`"),
            ("a/{b", "not paired"),
            ("a/b}", "not paired"),
            ("a/{B}", "lower-case"),
            ("a/{}", "lower-case"),
            ("a/{b}{c}", "between two"),
            ("a/{b}*", "between two"),
            ("a/{b}/{b}", "twice"),
            ("a/{b:word}", "no kind is named `word`"),
        ] {
            let found = text.parse::<Pattern>().unwrap_err();
            assert!(found.contains(why), "{text}: {found}");
        }
        assert!(format!("a/{}", "x".repeat(600)).parse::<Pattern>().is_err());
        assert!(vec!["a"; 17].join("/").parse::<Pattern>().is_err());
    }

    #[test]
    fn where_a_path_does_not_match_is_reported() {
        let slurm = pattern("system.slice/slurmstepd.scope/job_{job:number}/step_{step}/user");
        let at = |path| slurm.matches(path).unwrap_err().to_string();
        assert_eq!(at("system.slice/sshd.service"), "component 2 is `sshd.service`, expected `slurmstepd.scope`");
        assert_eq!(at("system.slice/slurmstepd.scope/job_7"), "it ends before `step_{step}`");
        assert_eq!(at("system.slice/slurmstepd.scope/job_7/step_0/user/task_0"), "it lies below a cgroup that matches");
        assert_eq!(
            at("system.slice/slurmstepd.scope/job_x/step_0/user"),
            "component 3 is `job_x`, expected `job_{job:number}`"
        );
    }

    #[test]
    fn a_literal_is_taken_literally_and_a_line_break_ends_no_name() {
        let docker = pattern("system.slice/docker-{container:id}.scope");
        let id = "0123456789abcdef".repeat(4);
        assert!(docker.matches(&format!("system.slice/docker-{id}.scope")).is_ok());
        assert!(docker.matches(&format!("system.slice/docker-{id}xscope")).is_err(), "the dot is a dot");
        assert!(docker.matches(&format!("system.slice/docker-{id}.scope\n")).is_err());
        assert!(docker.matches(&format!("system.slice/docker-{}.scope", &id[1..])).is_err());
        let any = pattern("a/{x}");
        assert_eq!(any.matches("a/b\\x2dc").unwrap()["x"], "b\\x2dc");
    }

    #[test]
    fn folders_above_a_match_are_known() {
        let slurm = pattern("system.slice/slurmstepd.scope/job_{job:number}/user");
        for above in ["", "system.slice", "system.slice/slurmstepd.scope", "system.slice/slurmstepd.scope/job_7"] {
            assert!(slurm.leads_below(above), "{above}");
        }
        for beside in ["user.slice", "system.slice/x", "system.slice/slurmstepd.scope/job_7/user"] {
            assert!(!slurm.leads_below(beside), "{beside}");
        }
    }
}
