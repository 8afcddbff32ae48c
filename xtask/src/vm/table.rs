//! The table of `docs/kernel-support.md`: each program on each kernel, and how far it can be trusted there. Made of what
//! `kernel_probe` printed on the host and in the machines; names, hooks and assurances are held against the committed table,
//! figures are not, as they differ with every patch of a kernel and every load of a machine.

use super::Report;
use crate::shell;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const BEGIN: &str = "<!-- begin: cargo xtask vm --table -->";
const END: &str = "<!-- end -->";

/// One line of `kernel_probe`, or of `arm64/probe.py`.
#[derive(Debug, Clone, Deserialize)]
pub struct Program {
    name: String,
    hook: String,
    /// The daemon's, and only `kernel_probe` has it.
    #[serde(default)]
    group: String,
    state: String,
    verified_insns: Option<u32>,
    load_us: Option<u32>,
}

/// What a kernel took.
#[derive(Debug, Clone)]
pub struct Column {
    /// As `uname -r` says.
    pub release: String,
    /// In the order of the daemon's list.
    pub programs: Vec<Program>,
}

impl Program {
    /// Reads these lines.
    ///
    /// # Errors
    /// A line is not one.
    pub fn all<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<Program>> {
        lines.map(|line| serde_json::from_str(line).with_context(|| format!("a program's line: {line}"))).collect()
    }

    /// As in the object.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is one of those that watch a system call by its own function, of which the table has only one.
    pub fn watches_a_call(&self) -> bool {
        self.hook.starts_with("fentry/") && self.hook.contains("_sys_")
    }

    /// Whether the kernel was asked and did not take it.
    pub fn was_refused(&self) -> bool {
        self.state == "refused"
    }

    /// The word of the policy language, or `-`, for a program of this group.
    fn assurance(&self, group: &str) -> Result<&'static str> {
        Ok(match (self.state.as_str(), group) {
            ("loaded", "guard" | "lsm" | "lsmonneed" | "device" | "early") => "blocked-in-kernel",
            ("loaded", "life" | "meter" | "sight" | "stop") => "observed",
            // The registers of a call are the caller's; what it does by them is seen only at its own function.
            ("loaded", "syscall") if self.hook.ends_with("sys_enter") => "observed, arguments unreliable",
            ("loaded", "syscall") => "observed",
            ("refused" | "unused", _) => "-",
            (state, group) => {
                bail!("{}: xtask/src/vm/table.rs does not know {state} programs of group {group}", self.name)
            }
        })
    }

    fn cell(&self, group: &str) -> Result<String> {
        let assurance = self.assurance(group)?;
        let Some(insns) = self.verified_insns.filter(|_| self.state == "loaded") else {
            return Ok(assurance.to_owned());
        };
        let time = self.load_us.map(|us| format!(", {:.1} ms", f64::from(us) / 1000.0)).unwrap_or_default();
        Ok(format!("{assurance} ({insns} insns{time})"))
    }
}

impl Column {
    /// The running kernel's.
    ///
    /// # Errors
    /// The probe cannot be run here.
    pub fn of_host() -> Result<Column> {
        let probe = shell::built(false).join("examples").join("kernel_probe");
        let programs = Program::all(shell::read(&mut Command::new(probe))?.lines())?;
        let release = shell::read(Command::new("uname").arg("-r"))?.trim().to_owned();
        Ok(Column { release, programs })
    }

    /// `6.12` of `6.12.117+deb12-cloud-amd64`, `6.12 arm64` of `6.12.117+deb12-cloud-arm64`.
    fn series(&self) -> String {
        let series = self.release.split('.').take(2).collect::<Vec<_>>().join(".");
        if self.release.ends_with("arm64") { format!("{series} arm64") } else { series }
    }
}

/// Writes the table, or holds the committed one against the run. A kernel that the table has and this run has not (another
/// host's) is left as it is.
///
/// # Errors
/// The committed table is not what was found, or a file cannot be used.
pub fn settle(reports: &[Report], write: bool) -> Result<()> {
    let mut columns = vec![Column::of_host().context("probing this host")?];
    let (tested, asked): (Vec<_>, Vec<_>) = reports.iter().partition(|report| report.kernel.runs_tests());
    columns.extend(tested.iter().rev().chain(&asked).filter_map(|report| report.probe.clone()));
    let file = file();
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let (before, rest) = text.split_once(BEGIN).with_context(|| format!("{} has no {BEGIN}", file.display()))?;
    let (committed, after) = rest.split_once(END).with_context(|| format!("{} has no {END}", file.display()))?;
    let made = made(&columns)?;
    if write {
        let text = format!("{before}{BEGIN}\n{made}{END}{after}");
        return fs::write(&file, text).with_context(|| format!("writing {}", file.display()));
    }
    let wrong = differences(&parsed(committed), &parsed(&made));
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{} is not what was found (`cargo xtask vm --table` writes it):\n  {}", file.display(), wrong.join("\n  "))
}

fn file() -> PathBuf {
    shell::root().join("docs/kernel-support.md")
}

fn made(columns: &[Column]) -> Result<String> {
    let mut text = String::from("| Program | Hook |");
    columns.iter().for_each(|column| text.push_str(&format!(" {} |", column.series())));
    text.push_str("\n|---|---|");
    text.push_str(&"---|".repeat(columns.len()));
    text.push('\n');
    for program in columns.first().map(|column| column.programs.as_slice()).unwrap_or_default() {
        text.push_str(&format!("| `{}` | `{}` |", program.name, program.hook));
        for column in columns {
            let found = column.programs.iter().find(|other| other.name == program.name);
            text.push_str(&format!(" {} |", found.map_or_else(|| Ok("-".to_owned()), |it| it.cell(&program.group))?));
        }
        text.push('\n');
    }
    let releases: Vec<&str> = columns.iter().map(|column| column.release.as_str()).collect();
    text.push_str(&format!(
        "\nFigures of {}; those of all but the first on an emulated processor.\n",
        releases.join(", ")
    ));
    Ok(text)
}

/// `(program and hook, kernel, assurance)` of every cell.
fn parsed(table: &str) -> Vec<(String, String, String)> {
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter_map(|line| line.trim().strip_prefix('|')?.strip_suffix('|'))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let Some((head, rows)) = rows.split_first() else { return Vec::new() };
    let cells = rows.iter().skip(1).flat_map(|row| {
        let name = row.iter().take(2).copied().collect::<Vec<_>>().join(" ");
        head.iter().zip(row).skip(2).map(move |(kernel, cell)| {
            let assurance = cell.split_once(" (").map_or(*cell, |(assurance, _)| assurance);
            (name.clone(), (*kernel).to_owned(), assurance.to_owned())
        })
    });
    cells.collect()
}

/// What the run found and the committed table does not say, and what that says of the run's kernels and was not found.
fn differences(committed: &[(String, String, String)], found: &[(String, String, String)]) -> Vec<String> {
    let told = |(name, kernel, assurance): &(String, String, String)| format!("{name} on {kernel}: {assurance}");
    let ran = |kernel: &str| found.iter().any(|(_, other, _)| other == kernel);
    let missing = found.iter().filter(|cell| !committed.contains(cell)).map(|cell| format!("missing: {}", told(cell)));
    let gone = committed.iter().filter(|cell| ran(&cell.1) && !found.contains(cell));
    missing.chain(gone.map(|cell| format!("not so: {}", told(cell)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(release: &str, state: &str, insns: u32) -> Column {
        let line = format!(
            r#"{{"name":"fs_a","hook":"lsm/a","group":"lsm","state":"{state}","detail":"","verified_insns":{insns},"load_us":1500}}"#
        );
        Column { release: release.to_owned(), programs: Program::all(line.lines()).unwrap() }
    }

    #[test]
    fn a_table_shows_what_each_kernel_gives() {
        let table = made(&[column("6.18.44-x", "refused", 0), column("6.1.0-56-cloud-amd64", "loaded", 12)]).unwrap();
        let row = "| `fs_a` | `lsm/a` | - | blocked-in-kernel (12 insns, 1.5 ms) |\n";
        assert!(table.starts_with(&format!("| Program | Hook | 6.18 | 6.1 |\n|---|---|---|---|\n{row}")), "{table}");
    }

    #[test]
    fn figures_may_differ_and_assurances_may_not() {
        let table = |state, insns| parsed(&made(&[column("6.1.0-56", state, insns)]).unwrap());
        assert_eq!(differences(&table("loaded", 12), &table("loaded", 99)), Vec::<String>::new());
        let wrong = differences(&table("loaded", 12), &table("refused", 0));
        assert_eq!(wrong, ["missing: `fs_a` `lsm/a` on 6.1: -", "not so: `fs_a` `lsm/a` on 6.1: blocked-in-kernel"]);
    }

    #[test]
    fn kernels_that_did_not_run_are_left_alone() {
        let both = parsed(&made(&[column("6.18.1", "loaded", 1), column("6.1.0", "loaded", 1)]).unwrap());
        let one = parsed(&made(&[column("6.1.0", "loaded", 2)]).unwrap());
        assert_eq!(differences(&both, &one), Vec::<String>::new());
    }

    #[test]
    fn a_group_that_nobody_rated_is_an_error() {
        let line = r#"{"name":"a","hook":"b","group":"new","state":"loaded","verified_insns":1,"load_us":1}"#;
        assert!(Program::all(line.lines()).unwrap()[0].assurance("new").unwrap_err().to_string().contains("group new"));
    }
}
