//! Included files: what becomes of them, and what is refused.

use super::*;
use crate::policy::{Policy, parse};
use std::collections::BTreeMap;

type Files = BTreeMap<&'static str, String>;

fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

fn include(name: &str, text: &str) -> String {
    format!("{{ file = \"{name}\", sha256 = \"{}\" }}", digest(text))
}

fn resolved(files: &Files, text: &str) -> Result<Resolved, String> {
    let mut load = |_: &str, name: &str| match files.get(name) {
        Some(text) => Ok((name.to_owned(), text.clone())),
        None => Err(format!("cannot read {name}: no such file")),
    };
    resolve("p.toml", text, &mut load).map_err(|wrong| wrong.to_string())
}

fn parsed(resolved: &Resolved) -> Result<Policy, String> {
    parse::parse("p.toml", &resolved.text).map_err(|wrong| resolved.placed(wrong).to_string())
}

const HEAD: &str = "[policy]\nname = \"p\"\nowner = \"o\"\n";

fn rule(id: &str) -> String {
    format!("[[rule]]\nid = \"{id}\"\nrationale = \"x\"\nwhen = {{ event = \"oom\" }}\nactions = [\"notify\"]\n")
}

#[test]
fn the_digest_covers_what_is_included() {
    let common = rule("common");
    let files = Files::from([("common.toml", common.clone())]);
    let main = format!("include = [\n  {},\n]\n{HEAD}{}", include("common.toml", &common), rule("own"));
    let one = resolved(&files, &main).unwrap();
    assert_eq!(one.files().collect::<Vec<_>>(), ["common.toml"]);
    let written = parse::parse("p", &format!("{HEAD}{}{common}", rule("own"))).unwrap();
    assert_eq!(parsed(&one).unwrap().digest(), written.digest());
}

#[test]
fn a_text_without_include_stays_as_it_is() {
    let main = format!("{HEAD}{}", rule("own"));
    assert_eq!(resolved(&Files::new(), &main).unwrap().text, main);
}

#[test]
fn mistakes_name_the_file_and_the_line_in_it() {
    let common = "# a comment\n\n[[rule]]\nid = \"common\"\nrationale = \"x\"\nwhen = { event = \"oom\" }\nactions = [\"notfy\"]\n";
    let files = Files::from([("common.toml", common.to_owned())]);
    let main = format!("include = [{}]\n{HEAD}{}", include("common.toml", common), rule("own").replace("oom", "om"));
    let wrong = parsed(&resolved(&files, &main).unwrap()).unwrap_err();
    assert!(wrong.contains("p.toml:8:18: rule.own.when.event: unknown event `om`"), "{wrong}");
    assert!(wrong.contains("common.toml:7:12: rule.common.actions: unknown action `notfy`"), "{wrong}");
}

#[test]
fn a_file_that_two_files_include_is_there_once() {
    let base = rule("base");
    let a = format!("include = [{}]\n{}", include("base.toml", &base), rule("a"));
    let b = format!("include = [{}]\n{}", include("base.toml", &base), rule("b"));
    let main = format!("include = [{}, {}]\n{HEAD}", include("a.toml", &a), include("b.toml", &b));
    let files = Files::from([("base.toml", base), ("a.toml", a), ("b.toml", b)]);
    let policy = parsed(&resolved(&files, &main).unwrap()).unwrap();
    assert_eq!(policy.rules.iter().map(|rule| rule.id.as_str()).collect::<Vec<_>>(), ["a", "base", "b"]);
}

#[test]
fn what_cannot_be_included_is_refused_with_file_and_line() {
    let good = rule("common");
    let section = "[egress]\nallow = []\n".to_owned();
    let inline = "rule = []\n".to_owned();
    let broken = "[[rule]\n".to_owned();
    let itself = "include = [{ file = \"itself.toml\", sha256 = \"0000000000000000000000000000000000000000000000000000000000000000\" }]\n".to_owned();
    let large = format!("# {}\n", "x".repeat(MAX_BYTES));
    let files = Files::from([
        ("good.toml", good.clone()),
        ("section.toml", section.clone()),
        ("inline.toml", inline.clone()),
        ("broken.toml", broken.clone()),
        ("itself.toml", itself.clone()),
        ("large.toml", large.clone()),
    ]);
    for (list, expected) in [
        (include("missing.toml", ""), "p.toml:2:1: cannot read missing.toml: no such file"),
        (include("good.toml", "other"), "p.toml:2:1: `good.toml` does not have the SHA-256"),
        (include("section.toml", &section), "section.toml:1:2: `egress` cannot stand in an included file"),
        (include("inline.toml", &inline), "inline.toml:1:1: expected [[rule]] in an included file"),
        (include("broken.toml", &broken), "broken.toml:1:"),
        (
            include("itself.toml", &itself),
            "itself.toml:1:12: `itself.toml` includes itself, through p.toml, itself.toml",
        ),
        (include("large.toml", &large), "the policy has more than 262144 bytes"),
        ("{ file = \"good.toml\" }".into(), "p.toml:2:1: expected exactly `file` and `sha256`"),
        ("{ file = \"good.toml\", sha256 = \"AB\" }".into(), "`AB`, expected 64 lower-case hex digits"),
        ("{ file = \"good.toml\", sha256 = \"x\", as = 1 }".into(), "expected exactly `file` and `sha256`"),
        ("\"good.toml\"".into(), "expected exactly `file` and `sha256`"),
    ] {
        let got = resolved(&files, &format!("include = [\n{list}\n]\n{HEAD}")).unwrap_err();
        assert!(got.contains(expected), "{list}\n{got}");
    }
    for (main, expected) in [
        (format!("include = \"good.toml\"\n{HEAD}"), "p.toml:1:11: expected include = [{ file"),
        (format!("{HEAD}[[include]]\nfile = \"good.toml\"\n"), "found [[include]]"),
    ] {
        let got = resolved(&files, &main).unwrap_err();
        assert!(got.contains(expected), "{got}");
    }
}

#[test]
fn depth_and_number_of_files_are_bounded() {
    let mut load = |_: &str, name: &str| Ok((name.to_owned(), rule(name)));
    let list =
        |n: usize| (0..n).map(|n| include(&format!("f{n}"), &rule(&format!("f{n}")))).collect::<Vec<_>>().join(", ");
    let main = |n: usize| format!("include = [{}]\n{HEAD}", list(n));
    assert!(resolve("p.toml", &main(MAX_FILES), &mut load).is_ok());
    let wrong = resolve("p.toml", &main(MAX_FILES + 1), &mut load).unwrap_err().to_string();
    assert!(wrong.contains("more than 32 files"), "{wrong}");

    let mut texts = vec![rule("last")];
    for n in 0..MAX_DEPTH {
        texts.push(format!("include = [{}]\n", include(&n.to_string(), &texts[n])));
    }
    let deep = |n: usize| format!("include = [{}]\n{HEAD}", include(&n.to_string(), &texts[n]));
    let mut load = |_: &str, name: &str| Ok((name.to_owned(), texts[name.parse::<usize>().unwrap()].clone()));
    assert!(resolve("p.toml", &deep(MAX_DEPTH - 1), &mut load).is_ok());
    let wrong = resolve("p.toml", &deep(MAX_DEPTH), &mut load).unwrap_err().to_string();
    assert!(wrong.contains("deeper than 8 levels"), "{wrong}");
}

#[test]
fn the_reader_of_the_daemon_refuses_include_and_names_nothing_that_follows_from_it() {
    let text = format!("include = []\n{HEAD}\n[[use]]\ntemplate = \"in-the-included-file\"\n");
    let wrong = parse::parse("p.toml", &text).unwrap_err().to_string();
    assert!(wrong.contains("the daemon does not read other files"), "{wrong}");
    assert!(wrong.contains("failsafectl policy resolve") && !wrong.contains("there is no template"), "{wrong}");
}
