//! The file that `gateway.roles` names: which remote identity has which role.
//!
//! ```toml
//! [[identity]]
//! san = "dns:ops1.example.org"
//! role = "operator"
//! ```

use failsafe_core::policy::diagnostic::{Diagnostic, Diagnostics};
use serde::Deserialize;
use std::{collections::BTreeMap, fmt};
use toml::Spanned;

/// Largest number of identities.
const IDENTITIES: usize = 1_000;
/// Longest identity, in bytes.
const NAME: usize = 256;

/// What a remote identity may do. Each role may do what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RemoteRole {
    /// Read health, runs, events and metrics.
    Viewer,
    /// Freeze runs.
    Operator,
    /// Thaw and kill runs, cordon the node, have it observe.
    Administrator,
}

impl fmt::Display for RemoteRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RemoteRole::Viewer => "viewer",
            RemoteRole::Operator => "operator",
            RemoteRole::Administrator => "administrator",
        })
    }
}

/// Roles, by identity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roles(BTreeMap<String, RemoteRole>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    identity: Vec<Identity>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    san: Spanned<String>,
    role: RemoteRole,
}

impl Roles {
    /// Reads the text of the file.
    ///
    /// # Errors
    /// Mistakes, with their places.
    pub fn parse(file: &str, text: &str) -> Result<Roles, Diagnostics> {
        let (read, mut mistakes) = failsafe_files::alone::<File>(text);
        let mut roles = BTreeMap::new();
        for Identity { san, role } in read.into_iter().flat_map(|file| file.identity) {
            let field = || "identity.san".to_owned();
            let mut mistake = |message: &str| {
                mistakes.push(Diagnostic { field: field(), ..Diagnostic::at(text, san.span(), message, None) });
            };
            if !is_identity(san.get_ref()) {
                mistake(
                    "expected dns:NAME, uri:URI or email:ADDRESS, at most 256 printable ASCII characters without a space",
                );
            } else if roles.insert(san.get_ref().clone(), role).is_some() {
                mistake("this identity has a role already");
            } else if roles.len() > IDENTITIES {
                mistake(&format!("more than {IDENTITIES} identities"));
            }
        }
        mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
        if mistakes.is_empty() { Ok(Roles(roles)) } else { Err(Diagnostics { file: file.to_owned(), list: mistakes }) }
    }

    /// No identity has a role.
    ///
    /// # Errors
    /// None.
    pub fn none() -> Result<Roles, Diagnostics> {
        Ok(Roles::default())
    }

    /// The first of the identities that has a role.
    pub fn first<'a>(&self, identities: &'a [String]) -> Option<(&'a str, RemoteRole)> {
        identities.iter().find_map(|name| Some((name.as_str(), *self.0.get(name)?)))
    }
}

/// Whether the text has the form of an identity.
pub fn is_identity(text: &str) -> bool {
    let named =
        ["dns:", "uri:", "email:"].iter().any(|kind| text.strip_prefix(kind).is_some_and(|name| !name.is_empty()));
    named && text.len() <= NAME && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_identity_with_a_role_counts_and_nothing_is_matched_in_part() {
        let text = "[[identity]]\nsan = \"dns:a.example\"\nrole = \"viewer\"\n\n\
                    [[identity]]\nsan = \"uri:spiffe://x/admin\"\nrole = \"administrator\"\n";
        let roles = Roles::parse("roles.toml", text).unwrap();
        let first = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            roles.first(&names).map(|(name, role)| (name.to_owned(), role))
        };
        assert_eq!(first(&["dns:b", "dns:a.example"]), Some(("dns:a.example".into(), RemoteRole::Viewer)));
        for other in ["dns:A.example", "dns:a.example.org", "email:a.example", "uri:spiffe://x/admin/", ""] {
            assert_eq!(first(&[other]), None, "{other}");
        }
        assert_eq!(Roles::parse("roles.toml", "").unwrap(), Roles::default());
    }

    #[test]
    fn mistakes_name_their_line() {
        for (text, line, expected) in [
            ("[[identity]]\nsan = \"a.example\"\nrole = \"viewer\"\n", 2, "expected dns:NAME"),
            ("[[identity]]\nsan = \"dns:a b\"\nrole = \"viewer\"\n", 2, "expected dns:NAME"),
            ("[[identity]]\nsan = \"dns:a\"\nrole = \"root\"\n", 3, "root"),
            ("[[identities]]\n", 1, "identities"),
        ] {
            let mistakes = Roles::parse("roles.toml", text).unwrap_err();
            assert_eq!(mistakes.list[0].line, line, "{mistakes}");
            assert!(mistakes.to_string().contains(expected), "{mistakes}");
        }
        let many = "[[identity]]\nsan = \"a\"\nrole = \"viewer\"\n[[identity]]\nsan = \"dns:b\"\nrole = \"root\"\n\
                    [[identity]]\nsan = \"dns:c\"\n[[identity]]\nname = \"d\"\nsan = \"dns:d\"\nrole = \"viewer\"\n";
        let lines: Vec<usize> = Roles::parse("roles.toml", many).unwrap_err().list.iter().map(|it| it.line).collect();
        assert_eq!(lines, [2, 6, 7, 10], "every mistake of the file");
        let twice = "[[identity]]\nsan = \"dns:a\"\nrole = \"viewer\"\n".repeat(2);
        assert!(Roles::parse("roles.toml", &twice).unwrap_err().to_string().contains("has a role already"));
    }
}
