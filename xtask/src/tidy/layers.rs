//! Layers inside a crate, and inside a module of many files: which module may use which, from the code's own paths.
//!
//! A module may use itself and the modules below it. Inside a module its files name each other, not what the module exports: an
//! export would hide which file is used. Test code is not looked at: a test may build what it tests from above.

use super::{Findings, files};
use crate::shell;
use anyhow::{Context, Result};
use std::{collections::BTreeSet, fs};
use syn::{
    Attribute, Item, UseTree,
    visit::{self, Visit},
};

/// A crate or a module of it, and the modules in it from the lowest to the highest. Modules of one row may not use each other.
struct Stack {
    /// The folder of its sources.
    source: &'static str,
    /// The path of the module that the folder holds, in its crate; empty for the crate itself.
    within: &'static [&'static str],
    rows: &'static [&'static [&'static str]],
}

const STACKS: &[Stack] = &[
    Stack {
        source: "daemon/src",
        within: &[],
        rows: &[
            &["causes", "counted", "fair", "platform", "policies", "redact", "signing", "skip", "systemd", "testing"],
            &["log", "tpm"],
            &["config"],
            &["guard"],
            &["sensors"],
            &["actuators", "node"],
            &["attest"],
            &["runs"],
            &["interpreter", "shadows"],
            &["pipeline"],
            &["watchers"],
            &["api"],
            &["supervisor"],
        ],
    },
    Stack {
        source: "daemon/src/guard",
        within: &["guard"],
        rows: &[
            &["attach", "files", "kernel_quota", "maps", "netns", "pin_folder", "probe", "resolver", "totals"],
            &["error", "left"],
            &["pins"],
            // The owner of programs and maps; what is above borrows it.
            &["object"],
            &["budgets", "handles", "host", "learnt", "members", "own", "tally"],
            &["live", "load", "provisional", "refusals", "syscalls", "tables"],
            // The owner of what is known about runs.
            &["ebpf"],
            &["latches"],
            &["counters"],
            &["carry"],
            &["early"],
            &["runs"],
            &["kernel"],
        ],
    },
    Stack {
        source: "daemon/core/src",
        within: &[],
        rows: &[
            &["actor", "changes", "decimal", "digest", "subject", "visible"],
            &["time"],
            &["unit"],
            &["event"],
            &["signal"],
            &["decision", "detect"],
            &["policy"],
            &["detectors", "discover", "drill", "input", "xid"],
            &["canary", "containment", "egress", "health", "klog", "shadow", "standing"],
            &["record"],
            &["engine", "incidents", "tally"],
            &["replay"],
            &["recording", "silence"],
        ],
    },
    Stack {
        source: "ctl/src",
        within: &[],
        rows: &[
            &["refusal", "text"],
            &["exit"],
            &["entry"],
            &["remote"],
            &["args", "bundle", "client", "incident"],
            &["incidents"],
            &["render"],
            &["digest"],
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
            let (module, file) = (stack.module_of(inside), syn::parse_file(&text).with_context(|| name.clone())?);
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

impl Stack {
    /// The path of the module that a file in the folder holds; the crate's root has none.
    fn module_of(&self, file: &str) -> Vec<String> {
        let mut parts: Vec<String> = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if parts.last().is_some_and(|last| last == "mod")
            || matches!(parts.as_slice(), [only] if only == "lib" || only == "main")
        {
            parts.pop();
        }
        self.within.iter().map(|part| (*part).to_owned()).chain(parts).collect()
    }

    /// What a path of the crate names in the folder; `None` for what lies elsewhere.
    fn inside<'a>(&self, path: &'a [String]) -> Option<&'a String> {
        let here = path.len() > self.within.len() && path.iter().zip(self.within).all(|(part, own)| part == own);
        here.then(|| &path[self.within.len()])
    }

    fn height(&self, module: &str) -> Option<usize> {
        self.rows.iter().position(|row| row.contains(&module))
    }

    fn judge(&self, module: &[String], file: &syn::File) -> Vec<String> {
        let Some(top) = self.inside(module) else { return Vec::new() };
        let Some(own) = self.height(top) else {
            return vec![format!("module `{top}` has no layer in xtask/src/tidy/layers.rs")];
        };
        if is_test(&file.attrs) {
            return Vec::new();
        }
        let mut paths = Paths { module: module.to_vec(), used: BTreeSet::new() };
        paths.visit_file(file);
        let used: BTreeSet<&String> = paths.used.iter().filter_map(|path| self.inside(path)).collect();
        let wrong = |used: &String| match self.height(used) {
            Some(height) if height >= own => {
                Some(format!("module `{top}` uses `{used}`, which is not below it (xtask/src/tidy/layers.rs)"))
            }
            None if !self.within.is_empty() => Some(format!(
                "module `{top}` uses `{used}` as {} exports it: name the module that has it",
                self.within.join("::")
            )),
            _ => None,
        };
        used.into_iter().filter(|used| *used != top).filter_map(wrong).collect()
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
    })
}

/// The paths that a file uses, from the crate's root.
struct Paths {
    module: Vec<String>,
    used: BTreeSet<Vec<String>>,
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
        base.extend_from_slice(rest);
        self.used.insert(base);
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

    const ROWS: &[&[&str]] = &[&["low", "beside"], &["middle"], &["high"]];
    const STACK: Stack = Stack { source: "src", within: &[], rows: ROWS };
    const INNER: Stack = Stack { source: "src/part", within: &["part"], rows: ROWS };

    fn judged(file: &str, text: &str) -> Vec<String> {
        judged_in(&STACK, file, text)
    }

    fn judged_in(stack: &Stack, file: &str, text: &str) -> Vec<String> {
        stack.judge(&stack.module_of(file), &syn::parse_file(text).unwrap())
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
        assert_eq!(test_modules(&STACK.module_of("low/mod.rs"), &file), [["low", "parity"]]);
    }

    #[test]
    fn the_files_of_a_module_form_a_stack_of_their_own() {
        for text in
            ["use super::low::Thing;", "use crate::part::low;", "use crate::high::Thing;", "use super::super::high::X;"]
        {
            assert_eq!(judged_in(&INNER, "middle.rs", text), Vec::<String>::new(), "{text}");
        }
        assert_eq!(judged_in(&INNER, "mod.rs", "pub use high::Everything;"), Vec::<String>::new());
        for (file, text) in [
            ("low.rs", "use super::high::Thing;"),
            ("low/deep.rs", "use super::super::middle::Thing;"),
            ("middle.rs", "use crate::part::high::Thing;"),
            ("stranger.rs", "fn f() {}"),
        ] {
            assert!(!judged_in(&INNER, file, text).is_empty(), "{file}: {text}");
        }
        let exported = judged_in(&INNER, "low.rs", "use super::Thing;");
        assert!(exported[0].contains("as part exports it"), "{exported:?}");
    }
}
