//! Layers inside a crate: which of its modules may use which, from the code's own paths.
//!
//! A module may use itself and the modules below it. Test code is not looked at: a test may build what it tests from above.

use super::{Findings, files};
use crate::shell;
use anyhow::{Context, Result};
use std::{collections::BTreeSet, fs};
use syn::{
    Attribute, Item, UseTree,
    visit::{self, Visit},
};

/// A crate, and its modules from the lowest to the highest. Modules of one row may not use each other.
struct Stack {
    /// The folder of its sources.
    source: &'static str,
    rows: &'static [&'static [&'static str]],
}

const STACKS: &[Stack] = &[
    Stack {
        source: "daemon/src",
        rows: &[
            &["counted", "platform", "redact", "signing", "skip", "systemd", "testing"],
            &["log"],
            &["config"],
            &["sensors"],
            &["guard"],
            &["actuators", "node"],
            &["attest"],
            &["runs"],
            &["interpreter"],
            &["pipeline"],
            &["watchers"],
            &["api"],
            &["supervisor"],
        ],
    },
    Stack {
        source: "daemon/core/src",
        rows: &[
            &["actor", "decimal", "digest", "subject"],
            &["time"],
            &["unit"],
            &["event"],
            &["signal"],
            &["decision"],
            &["policy"],
            &["detectors", "input", "xid"],
            &["health", "klog"],
            &["record"],
            &["engine"],
            &["replay"],
            &["recording", "silence"],
        ],
    },
    Stack {
        source: "ctl/src",
        rows: &[
            &["text"],
            &["exit"],
            &["entry"],
            &["args", "client", "incident"],
            &["incidents"],
            &["render"],
            &["commands"],
            &["testing"],
        ],
    },
];

/// Holds the sources against the stacks.
///
/// # Errors
/// A file cannot be read or parsed.
pub fn check(findings: &mut Findings) -> Result<()> {
    for stack in STACKS {
        let mut sources = Vec::new();
        for name in files(&[&format!("{}/*.rs", stack.source)])? {
            let text = fs::read_to_string(shell::root().join(&name)).with_context(|| name.clone())?;
            let inside = name.strip_prefix(stack.source).unwrap_or(&name).trim_start_matches('/');
            let (module, file) = (module_of(inside), syn::parse_file(&text).with_context(|| name.clone())?);
            sources.push((name, module, file));
        }
        let tests: BTreeSet<Vec<String>> =
            sources.iter().flat_map(|(_, module, file)| test_modules(module, file)).collect();
        for (name, module, file) in &sources {
            if !(1..=module.len()).any(|end| tests.contains(&module[..end])) {
                findings.wrong.extend(stack.judge(module, file).into_iter().map(|what| format!("{name}: {what}")));
            }
        }
    }
    Ok(())
}

/// The modules in files of their own that a file declares for tests only.
fn test_modules(module: &[String], file: &syn::File) -> Vec<Vec<String>> {
    let declared = file.items.iter().filter_map(|item| match item {
        Item::Mod(declared) if declared.content.is_none() && is_test(&declared.attrs) => {
            Some(declared.ident.to_string())
        }
        _ => None,
    });
    declared.map(|name| module.iter().cloned().chain([name]).collect()).collect()
}

/// The path of the module that a file holds; the crate's root has none.
fn module_of(file: &str) -> Vec<String> {
    let mut parts: Vec<String> = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| last == "mod")
        || matches!(parts.as_slice(), [only] if only == "lib" || only == "main")
    {
        parts.pop();
    }
    parts
}

impl Stack {
    fn height(&self, module: &str) -> Option<usize> {
        self.rows.iter().position(|row| row.contains(&module))
    }

    fn judge(&self, module: &[String], file: &syn::File) -> Vec<String> {
        let Some(top) = module.first() else { return Vec::new() };
        let Some(own) = self.height(top) else {
            return vec![format!("module `{top}` has no layer in xtask/src/tidy/layers.rs")];
        };
        if is_test(&file.attrs) {
            return Vec::new();
        }
        let mut paths = Paths { module: module.to_vec(), used: BTreeSet::new() };
        paths.visit_file(file);
        let used = paths.used.iter().filter(|used| *used != top);
        used.filter(|used| self.height(used).is_some_and(|height| height >= own))
            .map(|used| format!("module `{top}` uses `{used}`, which is not below it (xtask/src/tidy/layers.rs)"))
            .collect()
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
    })
}

/// The top-level modules that a file uses.
struct Paths {
    module: Vec<String>,
    used: BTreeSet<String>,
}

impl Paths {
    /// Takes a path in; one that begins with neither `crate` nor `super` is of this module or of another crate.
    fn take(&mut self, path: &[String]) {
        let mut base = self.module.clone();
        let mut rest = path;
        match rest.first().map(String::as_str) {
            Some("crate") => {
                base.clear();
                rest = &rest[1..];
            }
            Some("super") => {
                while rest.first().is_some_and(|part| part == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            _ => return,
        }
        self.used.extend(base.into_iter().chain(rest.iter().cloned()).next());
    }

    fn take_tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: String| before.iter().cloned().chain([name]).collect::<Vec<_>>();
        match tree {
            UseTree::Path(path) => self.take_tree(&with(path.ident.to_string()), &path.tree),
            UseTree::Name(name) => self.take(&with(name.ident.to_string())),
            UseTree::Rename(rename) => self.take(&with(rename.ident.to_string())),
            UseTree::Glob(_) => self.take(before),
            UseTree::Group(group) => group.items.iter().for_each(|item| self.take_tree(before, item)),
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast Item) {
        match item {
            Item::Use(used) if !is_test(&used.attrs) => self.take_tree(&[], &used.tree),
            Item::Mod(module) if is_test(&module.attrs) => {}
            Item::Mod(module) => {
                self.module.push(module.ident.to_string());
                visit::visit_item_mod(self, module);
                self.module.pop();
            }
            Item::Fn(function) if is_test(&function.attrs) => {}
            item => visit::visit_item(self, item),
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.take(&parts);
        visit::visit_path(self, path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STACK: Stack = Stack { source: "src", rows: &[&["low", "beside"], &["middle"], &["high"]] };

    fn judged(file: &str, text: &str) -> Vec<String> {
        STACK.judge(&module_of(file), &syn::parse_file(text).unwrap())
    }

    #[test]
    fn a_module_may_use_what_is_below_it() {
        for text in
            ["use crate::low::Thing;", "use super::{low, middle::self};", "fn f() { super::middle::parts::go() }"]
        {
            assert_eq!(judged("middle.rs", &text.replace("middle", "low")), Vec::<String>::new(), "{text}");
        }
        assert_eq!(judged("lib.rs", "pub use high::Everything;"), Vec::<String>::new());
        assert_eq!(
            judged("high/part/mod.rs", "use super::super::middle::X; use crate::high::Y;"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_module_that_uses_one_above_or_beside_it_is_found_however_the_path_is_written() {
        for (file, text) in [
            ("low.rs", "use crate::{middle, beside};"),
            ("low.rs", "fn f() -> crate::high::Thing { todo!() }"),
            ("low/part.rs", "use super::super::middle::Thing as Other;"),
            ("low/part.rs", "mod inner { use super::super::super::middle::*; }"),
            ("low.rs", "impl crate::middle::Trait for X {}"),
            ("stranger.rs", "fn f() {}"),
        ] {
            assert!(!judged(file, text).is_empty(), "{file}: {text}");
        }
    }

    #[test]
    fn test_code_may_use_every_module() {
        for text in ["#[cfg(test)] mod tests { use crate::high::X; }", "#![cfg(test)] use crate::high::X;"] {
            assert_eq!(judged("low.rs", text), Vec::<String>::new());
        }
        let file = syn::parse_file("#[cfg(test)] mod parity; mod other;").unwrap();
        assert_eq!(test_modules(&module_of("low/mod.rs"), &file), [["low", "parity"]]);
    }
}
