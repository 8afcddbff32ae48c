//! What every document must be: lines that a terminal shows whole, links that lead somewhere, table cells that are read at a glance, and
//! none of the phrases that STYLE.md bans. What is code is not judged.

use super::Findings;
use crate::shell;
use anyhow::{Context, Result};
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// Columns of a line. A line with an address of the web may be longer: it cannot be broken.
const COLUMNS: usize = 120;
/// Words of a table cell.
const CELL: usize = 25;

/// Phrases that stand for something that has a name, with what to write in their place.
const BANNED: [(&str, &str); 12] = [
    ("told", "reported, shown or sent"),
    ("is said", "is reported"),
    ("speaks of", "names, or is about"),
    ("speaks against", "makes unhealthy, or is a reason against"),
    ("worth", "the enforcement level, or a number"),
    ("not kept", "NOT ENFORCED"),
    ("is paid", "overhead"),
    ("good for", "what it does"),
    ("in words", "as text"),
    ("stands for", "means, or counts as"),
    ("is of no matter", "does not matter"),
    ("by hand of", "by"),
];

/// A document: its links with their lines, and the anchors that others may link to.
struct Document {
    links: Vec<(usize, String)>,
    anchors: BTreeSet<String>,
}

/// Reads every document that git knows or would take.
///
/// # Errors
/// git cannot list the files, or one cannot be read.
pub fn check(findings: &mut Findings) -> Result<()> {
    let root = shell::root();
    let mut documents = BTreeMap::new();
    for name in super::files(&["*.md"])? {
        let text = std::fs::read_to_string(root.join(&name)).with_context(|| format!("reading {name}"))?;
        let document = judge(&name, &text, findings);
        documents.insert(PathBuf::from(name), document);
    }
    for (name, document) in &documents {
        for (line, link) in &document.links {
            if let Some(why) = broken(&root, &documents, name, link) {
                findings.wrong.push(format!("{}:{line}: the link `{link}` {why}", name.display()));
            }
        }
    }
    Ok(())
}

/// Judges the text of one document.
fn judge(name: &str, text: &str, findings: &mut Findings) -> Document {
    let mut wrong = |line: usize, what: String| findings.wrong.push(format!("{name}:{line}: {what}"));
    let mut generated = false;
    for (number, line) in text.lines().enumerate() {
        generated = (generated || line.starts_with("<!-- begin: ")) && !line.starts_with("<!-- end");
        if generated {
            continue;
        }
        let columns = line.chars().count();
        if columns > COLUMNS && !line.contains("://") {
            wrong(number + 1, format!("{columns} columns, at most {COLUMNS}"));
        }
    }
    let line_of = |offset: usize| text.get(..offset).map_or(0, |before| before.matches('\n').count()) + 1;
    let mut document = Document { links: Vec::new(), anchors: BTreeSet::new() };
    let (mut code, mut heading, mut cell) = (false, None::<String>, None::<String>);
    let mut paragraph = String::new();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (event, range) in
        Parser::new_ext(text, Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH).into_offset_iter()
    {
        let line = line_of(range.start);
        match event {
            Event::Start(Tag::CodeBlock(_)) => code = true,
            Event::End(TagEnd::CodeBlock) => code = false,
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                paragraph.push(' ');
                let slug = slug(&heading.take().unwrap_or_default());
                let again = seen.entry(slug.clone()).and_modify(|n| *n += 1).or_insert(0);
                document.anchors.insert(if *again == 0 { slug } else { format!("{slug}-{again}") });
            }
            Event::Start(Tag::TableCell) => cell = Some(String::new()),
            Event::End(TagEnd::TableCell) => {
                // The next cell is another text.
                paragraph.push(' ');
                let words = cell.take().unwrap_or_default().split_whitespace().count();
                if words > CELL {
                    wrong(line, format!("a table cell of {words} words, at most {CELL}"));
                }
            }
            Event::Start(Tag::Link { dest_url, .. }) => document.links.push((line, dest_url.to_string())),
            Event::Html(html) | Event::InlineHtml(html) => {
                document
                    .anchors
                    .extend(html.split("id=\"").skip(1).filter_map(|id| Some(id.split('"').next()?.to_owned())));
            }
            Event::Text(text) if !code => {
                paragraph.push_str(&text);
                [&mut heading, &mut cell].into_iter().flatten().for_each(|all| all.push_str(&text));
            }
            Event::Code(text) => {
                // Judged as one word: a value or command has no sentence.
                paragraph.push('`');
                if let Some(heading) = &mut heading {
                    heading.push_str(&text);
                }
                if let Some(cell) = &mut cell {
                    cell.push_str(&text.replace(' ', "_"));
                }
            }
            Event::SoftBreak | Event::HardBreak => {
                paragraph.push(' ');
                [&mut heading, &mut cell].into_iter().flatten().for_each(|all| all.push(' '));
            }
            Event::End(TagEnd::Paragraph | TagEnd::Item | TagEnd::TableRow) => {
                for (phrase, better) in banned(&paragraph) {
                    wrong(line, format!("`{phrase}`: write {better}"));
                }
                paragraph.clear();
            }
            _ => {}
        }
    }
    document
}

/// Banned phrases of a text, as whole words.
pub(super) fn banned(text: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let text = text.to_lowercase();
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '-');
    BANNED.into_iter().filter(move |(phrase, _)| {
        text.match_indices(phrase).any(|(at, found)| {
            let (before, after) =
                (text.get(..at).unwrap_or_default(), text.get(at + found.len()..).unwrap_or_default());
            !is_word(before.chars().next_back()) && !is_word(after.chars().next())
        })
    })
}

/// The anchor that GitHub makes of a heading.
fn slug(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Why a link leads nowhere; `None`: it is in order, or of the web.
fn broken(root: &Path, documents: &BTreeMap<PathBuf, Document>, from: &Path, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
    let target =
        if path.is_empty() { from.to_owned() } else { normal(&from.parent().unwrap_or(Path::new("")).join(path)) };
    if !root.join(&target).exists() {
        return Some(format!("leads to {}, which does not exist", target.display()));
    }
    let anchor = anchor.filter(|anchor| !anchor.is_empty())?;
    let document = documents.get(&target)?;
    (!document.anchors.contains(anchor)).then(|| format!("names no heading of {}", target.display()))
}

fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut out, part| {
        match part {
            Component::ParentDir => drop(out.pop()),
            Component::CurDir => {}
            other => out.push(other),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> Vec<String> {
        let mut findings = Findings::default();
        judge("a.md", text, &mut findings);
        findings.wrong
    }

    #[test]
    fn long_lines_cells_and_banned_phrases_are_found_and_code_is_not_judged() {
        assert!(wrong("# Title\n\nA `told` word, and retold.\n\n```\ntold\n```\n").is_empty());
        assert_eq!(wrong("x\n\nNobody is told.\n"), ["a.md:3: `told`: write reported, shown or sent"]);
        assert!(wrong(&"x".repeat(121))[0].starts_with("a.md:1: 121 columns"));
        assert!(wrong(&format!("https://{}", "x".repeat(121))).is_empty());
        let head = "| a | not kept |\n|---|---|\n| b | c |\n";
        assert_eq!(wrong(head), ["a.md:3: `not kept`: write NOT ENFORCED"]);
        let cell = "word ".repeat(26);
        assert_eq!(wrong(&format!("| a |\n|---|\n| {} |\n", &cell[..100])), Vec::<String>::new());
        assert!(wrong(&format!("| a |\n|---|\n| {cell} |\n")).iter().any(|it| it.contains("a table cell of 26 words")));
    }

    #[test]
    fn links_must_lead_to_files_and_headings() {
        let mut findings = Findings::default();
        let mut documents = BTreeMap::new();
        documents.insert(
            PathBuf::from("docs/a.md"),
            judge("a", "# The `x` way, done\n\n<a id=\"own\"></a>\n", &mut findings),
        );
        let root = shell::root();
        let from = Path::new("docs/b.md");
        let why = |link: &str| broken(&root, &documents, from, link);
        assert_eq!(why("https://example.org/#x"), None);
        assert_eq!(why("../README.md"), None);
        assert!(why("nowhere.md").unwrap().contains("does not exist"));
        // Of a document that is not there on disk only its anchors count.
        let here = |anchor: &str| documents[Path::new("docs/a.md")].anchors.contains(anchor);
        assert!(here("the-x-way-done") && here("own") && !here("another"));
    }
}
