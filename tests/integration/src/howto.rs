//! Runs a how-to of docs/ as its reader would: writes the files that it shows, and types its commands, in order.
//!
//! | Block | What is done with it |
//! |---|---|
//! | after a line that ends with "`PATH`:" | written to PATH; below `/etc/failsafe` it is of the test's node |
//! | `console` | each command after `# ` (root) or `$ ` (a user) must succeed, and print the lines that follow |
//! | `sh` | run as one script of root; must succeed |
//! | after a line that begins with "*Not run by a test" | left out; the line says why |
//! | anything else | an error: no block is forgotten |
//!
//! Printed lines: each one that is shown must be printed, in this order. A word with a digit matches each other word with a digit, `...`
//! matches the rest of a line, or lines. A command that only reads is repeated until its output is as shown, or the patience is over.

use crate::{CommandOutput, NOBODY, Node, program, wait_for, wait_for_some};
use anyhow::{Context, Result, bail, ensure};
use std::{
    fs::{self, Permissions},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    thread,
};
use tempfile::TempDir;

/// Commands that change nothing, so that they can be repeated.
const READERS: [&str; 16] = [
    "cat ",
    "failsafectl discover list",
    "failsafectl discover test",
    "failsafectl describe",
    "failsafectl events",
    "failsafectl explain",
    "failsafectl list",
    "failsafectl mode show",
    "failsafectl node health",
    "failsafectl policy",
    "failsafectl stats",
    "podman logs",
    "podman ps",
    "scontrol show",
    "sinfo",
    "squeue",
];
const NOT_RUN: &str = "*Not run by a test";

/// A fenced block of a document.
#[derive(Debug, PartialEq, Eq)]
struct Block<'t> {
    line: usize,
    language: &'t str,
    /// The last line with text between it and the block before it.
    before: &'t str,
    text: String,
}

/// How many blocks were written, run and left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Files.
    pub files: usize,
    /// Blocks with commands.
    pub run: usize,
    /// Blocks that the document marks as not run.
    pub not_run: usize,
}

/// What runs a document.
#[derive(Debug)]
pub struct Howto<'n> {
    node: &'n mut Node,
    work: TempDir,
    path: String,
    variables: Vec<(String, String)>,
    files: Vec<(String, PathBuf)>,
}

impl<'n> Howto<'n> {
    /// On this node, with programs of these folders before those of the system.
    ///
    /// # Errors
    /// A folder cannot be made.
    pub fn new(node: &'n mut Node, folders: &[PathBuf]) -> Result<Howto<'n>> {
        let work = TempDir::with_prefix("failsafe-it-howto-")?;
        fs::set_permissions(work.path(), Permissions::from_mode(0o777))?;
        let bin = node.file("howto-bin");
        fs::create_dir_all(&bin)?;
        let built = program("failsafectl")?.parent().context("no folder")?.to_owned();
        let restart = node.file("restart").display().to_string();
        // The test restarts its own daemon, and answers with the exit code.
        let systemctl = format!(
            "#!/bin/sh\n[ \"$*\" = 'restart failsafed' ] || {{ echo \"not in this test: systemctl $*\" >&2; exit 1; }}\n\
             : > {restart}\nwhile [ -e {restart} ]; do sleep 0.05; done\nexit \"$(cat {restart}.code)\"\n"
        );
        let daemon = program("failsafed")?.display().to_string();
        let failsafed = format!("#!/bin/sh\nexec {daemon} --config {} \"$@\"\n", node.file("failsafed.toml").display());
        for (name, text) in [("systemctl", systemctl), ("failsafed", failsafed)] {
            fs::write(bin.join(name), text)?;
            fs::set_permissions(bin.join(name), Permissions::from_mode(0o755))?;
        }
        let all: Vec<String> =
            [&bin].into_iter().chain(folders).chain([&built]).map(|folder| folder.display().to_string()).collect();
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", all.join(":"));
        let variables = [("FAILSAFE_SOCKET", node.socket()), ("FAILSAFE_STATE_DIR", node.state_dir().to_owned())];
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value.display().to_string()));
        let files = vec![("/etc/failsafe".to_owned(), node.file(""))];
        Ok(Howto { work, path, variables: variables.collect(), files, node })
    }

    /// Sets a variable for all commands.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &Path) -> Self {
        self.variables.push((name.to_owned(), value.display().to_string()));
        self
    }

    /// Takes another path for this one, and for what lies below it, in commands and files.
    #[must_use]
    pub fn path(mut self, shown: &str, real: &Path) -> Self {
        self.files.push((shown.to_owned(), real.to_owned()));
        self
    }

    /// Runs `docs/NAME`.
    ///
    /// # Errors
    /// A block cannot be run, or does not do what the document shows; the error names its line.
    pub fn run(mut self, name: &str) -> Result<Counts> {
        let text = document(name)?;
        let mut counts = Counts::default();
        for block in blocks(&text) {
            self.block(&block, &mut counts).with_context(|| format!("docs/{name}:{}", block.line))?;
        }
        Ok(counts)
    }

    fn block(&mut self, block: &Block<'_>, counts: &mut Counts) -> Result<()> {
        if block.before.starts_with(NOT_RUN) {
            counts.not_run += 1;
        } else if let Some(path) = named_file(block.before) {
            counts.files += 1;
            self.write(path, &block.text)?;
        } else if block.language == "console" {
            counts.run += 1;
            for command in commands(&block.text)? {
                self.command(&command).with_context(|| format!("`{}`", command.text))?;
            }
        } else if block.language == "sh" {
            counts.run += 1;
            self.execute(&block.text, false)?.expect(0)?;
        } else {
            bail!("a block of `{}` that is neither a file, nor run, nor marked with `{NOT_RUN}`", block.language);
        }
        Ok(())
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.work.path().join(self.real(path));
        fs::create_dir_all(path.parent().context("a path without a folder")?)?;
        fs::write(&path, self.real(text)).with_context(|| format!("writing {}", path.display()))?;
        let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
        Ok(fs::set_permissions(&path, Permissions::from_mode(mode))?)
    }

    fn real(&self, text: &str) -> String {
        let replace = |text: String, (from, to): &(String, PathBuf)| {
            text.replace(from, to.display().to_string().trim_end_matches('/'))
        };
        self.files.iter().fold(text.to_owned(), replace)
    }

    fn command(&mut self, command: &Shown) -> Result<()> {
        let reads = READERS.iter().any(|reader| command.text.starts_with(reader));
        let expected = &command.output;
        let mut last = self.execute(&command.text, command.by_user)?;
        let is_as_shown =
            |got: &CommandOutput| got.code == 0 && is_shown(expected, &format!("{}\n{}", got.out, got.err));
        if reads && !is_as_shown(&last) {
            let repeated = wait_for("the output is as the document shows", || {
                last = self.execute(&command.text, command.by_user)?;
                Ok(is_as_shown(&last))
            });
            repeated.with_context(|| format!("shown:\n{}\nprinted: {last:?}", expected.join("\n")))?;
        }
        ensure!(is_as_shown(&last), "shown:\n{}\nprinted: {last:?}", expected.join("\n"));
        Ok(())
    }

    /// Runs a command, and restarts the daemon when it asks for that.
    fn execute(&mut self, text: &str, by_user: bool) -> Result<CommandOutput> {
        let mut bash = Command::new("bash");
        bash.args(["-e", "-o", "pipefail", "-c", &self.real(text)]).current_dir(self.work.path()).env_clear();
        bash.env("PATH", &self.path).env("HOME", self.work.path()).envs(self.variables.iter().cloned());
        if by_user {
            bash.uid(NOBODY).gid(NOBODY);
        }
        let running = thread::spawn(move || CommandOutput::of(&mut bash));
        let restart = self.node.file("restart");
        wait_for_some("the command ends", || {
            if restart.exists() {
                self.node.stop()?;
                let code = if self.node.restart().is_ok() { "0" } else { "1" };
                fs::write(self.node.file("restart.code"), code)?;
                fs::remove_file(&restart)?;
            }
            Ok(running.is_finished().then_some(()))
        })?;
        running.join().map_err(|_| anyhow::anyhow!("the thread of the command panicked"))?
    }
}

/// The text of `docs/NAME`.
///
/// # Errors
/// It cannot be read.
pub fn document(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

/// The block that a document shows for a file.
///
/// # Errors
/// There is none.
pub fn shown_file(document: &str, path: &str) -> Result<String> {
    let found = blocks(document).into_iter().find(|block| named_file(block.before) == Some(path));
    Ok(found.with_context(|| format!("no block for {path}"))?.text)
}

/// The path in a line that ends with "`PATH`:".
fn named_file(before: &str) -> Option<&str> {
    let path = before.strip_suffix("`:")?.rsplit('`').next()?;
    (path.contains(['/', '.']) && !path.contains(' ')).then_some(path)
}

fn blocks(text: &str) -> Vec<Block<'_>> {
    let (mut all, mut before, mut indent, mut open) = (Vec::new(), "", 0, None::<Block<'_>>);
    for (number, line) in text.lines().enumerate() {
        // Blocks of a list are indented.
        let bare = line.trim_start();
        match (bare.strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                indent = line.len() - bare.len();
                open = Some(Block { line: number + 1, language: language.trim(), before, text: String::new() });
            }
            (Some(_), Some(_)) => {
                all.extend(open.take());
                before = "";
            }
            (None, Some(block)) => {
                let line = line.strip_prefix(&" ".repeat(indent)).unwrap_or(bare);
                block.text.push_str(&format!("{line}\n"));
            }
            (None, None) if !bare.is_empty() => before = bare.trim_end(),
            (None, None) => {}
        }
    }
    all
}

/// A command of a `console` block, with what it prints.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    text: String,
    by_user: bool,
    output: Vec<String>,
}

fn commands(text: &str) -> Result<Vec<Shown>> {
    let mut all = Vec::<Shown>::new();
    let mut continues = false;
    for line in text.lines() {
        let line = line.trim_end();
        let prompt =
            ["# ", "$ "].into_iter().find_map(|prompt| Some((prompt, line.trim_start().strip_prefix(prompt)?)));
        match (prompt, all.last_mut()) {
            (_, Some(last)) if continues => last.text.push_str(&format!("\n{line}")),
            (Some((prompt, text)), _) => {
                all.push(Shown { text: text.to_owned(), by_user: prompt == "$ ", output: Vec::new() });
            }
            (None, Some(last)) => last.output.push(line.to_owned()),
            (None, None) => bail!("the first line of a console block has no prompt: {line}"),
        }
        continues = line.ends_with('\\') && all.last().is_some_and(|last| last.output.is_empty());
    }
    Ok(all)
}

/// Whether all lines that are shown are printed, in this order.
fn is_shown(expected: &[String], printed: &str) -> bool {
    let mut printed = printed.lines();
    let wanted = expected.iter().filter(|line| !line.trim().is_empty() && line.trim() != "...");
    wanted.into_iter().all(|line| printed.any(|other| is_same(line, other)))
}

fn is_same(shown: &str, printed: &str) -> bool {
    let (mut shown, mut printed) = (shown.split_whitespace(), printed.split_whitespace());
    let has_digit = |word: &str| word.bytes().any(|byte| byte.is_ascii_digit());
    let is_unit = |word: &str| ["B", "KiB", "MiB", "GiB", "us", "ms", "s"].contains(&word);
    loop {
        match (shown.next(), printed.next()) {
            (Some("..."), _) | (None, None) => return true,
            (Some(one), Some(other))
                if one == other || has_digit(one) && has_digit(other) || is_unit(one) && is_unit(other) => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_know_their_file_and_commands_their_output() {
        let text = "1. Write `/etc/a.toml`:\n\n   ```toml\n   [x]\n     y = 1\n   ```\n\n```sh\nls\n```\n\n*Not run by a test: no apt.*\n\n```sh\napt\n```\n";
        let all = blocks(text);
        assert_eq!(all.len(), 3);
        assert_eq!((named_file(all[0].before), all[0].text.as_str()), (Some("/etc/a.toml"), "[x]\n  y = 1\n"));
        assert_eq!((all[1].before, all[1].text.as_str()), ("", "ls\n"));
        assert!(all[2].before.starts_with(NOT_RUN) && named_file(all[2].before).is_none());
        let all = commands("# a \\\n  b\nout\n$ c\n").unwrap();
        assert_eq!((all[0].text.as_str(), all[0].by_user), ("a \\\n  b", false));
        assert_eq!(all[0].output, ["out"]);
        assert!(all[1].by_user && all[1].output.is_empty());
        assert!(commands("out\n").is_err());
    }

    #[test]
    fn shown_lines_must_be_printed_in_their_order_and_numbers_may_differ() {
        let shown = |lines: &[&str], printed: &str| {
            is_shown(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>(), printed)
        };
        assert!(shown(&["a 12 MiB", "...", "b"], "x\na   7.5 KiB\ny\nb\n"));
        assert!(shown(&["a ..."], "a b c\n"));
        assert!(!shown(&["b", "a"], "a\nb\n"));
        assert!(!shown(&["a 12"], "a x\n"));
        assert!(!shown(&["a"], "a b\n"));
        assert!(!shown(&["a b"], "a\n"));
    }
}
