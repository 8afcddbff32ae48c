//! The table at the end of a test, and whether it is as it should be.

use anyhow::{Result, bail};
use bypass::table::{Come, Row};
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use std::{fmt::Write as _, fs, path::Path};

/// Where the known leaks stand.
const THREAT_MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/threat-model.md");

/// What an attempt came to.
pub enum Judged {
    /// This, with its own words.
    Came(Come, String),
    /// Nothing: this kernel has not got what it needs, and answered so.
    Absent(String),
}

/// What became of every attempt of a subject.
pub struct Report {
    subject: String,
    lsm: bool,
    table: Table,
    wrong: String,
}

impl Report {
    /// Empty.
    pub fn new(subject: &str, lsm: bool) -> Report {
        let mut table = Table::new();
        table.load_preset(UTF8_HORIZONTAL_ONLY);
        table.set_header(["attempt", "as", "came to", "expected", "in its own words"]);
        Report { subject: subject.to_owned(), lsm, table, wrong: String::new() }
    }

    /// Adds one.
    pub fn add(&mut self, row: &Row, user: &str, expected: Come, judged: Result<Judged>) {
        let (came, words) = match judged {
            Err(error) => {
                let _ = writeln!(self.wrong, "{error:#}");
                ("not judged".to_owned(), String::new())
            }
            Ok(Judged::Absent(why)) => (format!("not judged here: {why}"), String::new()),
            Ok(Judged::Came(come, words)) => {
                self.compare(row, user, expected, come, &words);
                (shown(come), words)
            }
        };
        // At once: a test that is ended for its length has no table.
        eprintln!("{} as {user}: {came}, expected {} ({words})", row.attempt, shown(expected));
        self.table.add_row([row.attempt, user, &came, &shown(expected), &words]);
    }

    fn compare(&mut self, row: &Row, user: &str, expected: Come, come: Come, words: &str) {
        let what = format!("{} as {user}: {}, expected {} ({words})", row.attempt, shown(come), shown(expected));
        match (expected, come) {
            (Come::Leak(begin), Come::Leak(_)) => {
                let text = fs::read_to_string(Path::new(THREAT_MODEL)).unwrap_or_default();
                if !text.lines().any(|line| line.strip_prefix("| ").is_some_and(|line| line.starts_with(begin))) {
                    let _ = writeln!(self.wrong, "{what}: docs/threat-model.md has no row `{begin}`");
                }
            }
            (expected, come) if expected == come => {}
            (Come::Leak(_), _) => {
                let _ = writeln!(self.wrong, "{what}: take the leak off docs/threat-model.md and the table");
            }
            _ => _ = writeln!(self.wrong, "{what}"),
        }
    }

    /// Prints the table, and fails where an attempt came to something else than it should.
    pub fn close(self) -> Result<()> {
        let hooks = if self.lsm { "cgroup hooks and LSM" } else { "cgroup hooks only" };
        println!("{} ({hooks})\n{}", self.subject, self.table);
        if self.wrong.is_empty() { Ok(()) } else { bail!("{}", self.wrong) }
    }
}

fn shown(come: Come) -> String {
    match come {
        Come::Blocked => "blocked".to_owned(),
        Come::Contained => "contained".to_owned(),
        Come::Leak(why) => format!("known leak {why}").trim_end().to_owned(),
    }
}
