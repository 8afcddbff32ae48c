//! The phrases that STYLE.md bans, in what people read beside documents: texts in the source of programs, and comments of policies,
//! configurations and the interface.

use super::{Findings, prose::banned};
use crate::shell;
use anyhow::{Context, Result};
use proc_macro2::{TokenStream, TokenTree};
use std::path::Path;

/// Reads every file that git knows or would take.
///
/// # Errors
/// git cannot list the files, or one cannot be read.
pub fn check(findings: &mut Findings) -> Result<()> {
    let root = shell::root();
    for name in super::files(&["*.rs", "*.toml", "*.proto"])? {
        if is_test(&name) {
            continue;
        }
        let text = std::fs::read_to_string(root.join(&name)).with_context(|| format!("reading {name}"))?;
        judge(&name, &text, findings);
    }
    Ok(())
}

/// Texts of tests and of this program are read by contributors only.
fn is_test(name: &str) -> bool {
    let path = Path::new(name);
    let is = |part: &str| path.iter().any(|it| it == part);
    is("tests") || name.starts_with("xtask/") || name.starts_with("fuzz/") || name.ends_with("/tests.rs")
}

fn judge(name: &str, text: &str, findings: &mut Findings) {
    let mut found = |line: usize, text: &str| {
        for (phrase, better) in banned(&without_names(text)) {
            findings.wrong.push(format!("{name}:{line}: `{phrase}`: write {better}"));
        }
    };
    match Path::new(name).extension().and_then(|ending| ending.to_str()) {
        Some("toml") => comments(text, '#').for_each(|(line, comment)| found(line, comment)),
        Some("proto") => comments(text, '/').for_each(|(line, comment)| found(line, comment)),
        // A file that does not parse does not compile either.
        _ => text.parse().map_or((), |tokens| texts(tokens, &mut found)),
    }
}

/// The comment of each line that has one, with the number of the line. A `sign` in a text that is quoted begins none.
fn comments(text: &str, sign: char) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter_map(move |(number, line)| {
        let mut quoted = None;
        for (at, c) in line.char_indices() {
            match quoted {
                Some(quote) if c == quote => quoted = None,
                Some(_) => {}
                None if c == '"' || c == '\'' => quoted = Some(c),
                None if c == sign => return line.get(at..).map(|comment| (number + 1, comment)),
                None => {}
            }
        }
        None
    })
}

/// The literals of texts, without those that are comments of items, and without those of modules `tests`.
fn texts(tokens: TokenStream, found: &mut impl FnMut(usize, &str)) {
    let mut before = [String::new(), String::new()];
    for token in tokens {
        let shown = match &token {
            TokenTree::Group(group) => {
                if before != ["mod", "tests"] {
                    texts(group.stream(), found);
                }
                String::new()
            }
            TokenTree::Literal(literal) => {
                // A comment is an attribute `doc`.
                if before != ["doc", "="]
                    && let syn::Lit::Str(text) = syn::Lit::new(literal.clone())
                {
                    found(literal.span().start().line, &text.value());
                }
                String::new()
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) => token.to_string(),
        };
        before = [std::mem::take(&mut before[1]), shown];
    }
}

/// A text without what stands in braces: names of variables are no prose.
fn without_names(text: &str) -> String {
    let mut depth = 0_u32;
    text.chars()
        .filter(|c| {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => return depth == 0,
            }
            false
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(name: &str, text: &str) -> Vec<String> {
        let mut findings = Findings::default();
        judge(name, text, &mut findings);
        findings.wrong
    }

    #[test]
    fn texts_of_programs_are_judged_and_comments_names_and_tests_are_not() {
        let fine = "//! It is told.\n\n/// Told.\nfn told(told: u8) -> String { format!(\"{told} {}\", told) }\n\
                    mod tests { const A: &str = \"told\"; }\n";
        assert_eq!(wrong("a.rs", fine), Vec::<String>::new());
        let bad = "//! x\nfn f() -> String {\n    format!(\"nobody is told of {}\", 1)\n}\n";
        assert_eq!(wrong("a.rs", bad), ["a.rs:3: `told`: write reported, shown or sent"]);
        let error = "//! x\n#[error(\"not told\")]\nstruct E;\n";
        assert_eq!(wrong("a.rs", error), ["a.rs:2: `told`: write reported, shown or sent"]);
    }

    #[test]
    fn comments_of_policies_and_of_the_interface_are_judged_and_values_are_not() {
        assert_eq!(
            wrong("a.toml", "a = \"# told\"\nb = 1 # told\n"),
            ["a.toml:2: `told`: write reported, shown or sent"]
        );
        assert_eq!(
            wrong("a.proto", "// Told.\nstring told = 1;\n"),
            ["a.proto:1: `told`: write reported, shown or sent"]
        );
    }

    #[test]
    fn what_only_contributors_read_is_not_judged() {
        assert!(["tests/a.rs", "daemon/tests/b.rs", "ctl/src/a/tests.rs", "xtask/src/a.rs"].into_iter().all(is_test));
        assert!(!is_test("daemon/src/testing.rs") && !is_test("policies/a.toml"));
    }
}
