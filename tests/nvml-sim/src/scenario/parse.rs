//! From a file to a `Scenario`, and from a failure to a message a person can act on:
//! `PATH:LINE:COLUMN: FIELD: what is wrong`.

use super::{Scenario, check, tables::ScenarioTable};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::{fs, io};
use thiserror::Error;

/// Why there is no scenario.
#[derive(Debug, Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("cannot read the scenario {}", path.display())]
    Read {
        /// The scenario file.
        path: PathBuf,
        /// What the read failed with.
        #[source]
        source: io::Error,
    },
    /// The file is not a scenario.
    #[error("{}:{line}:{column}: {field}: {message}", path.display())]
    Bad {
        /// The scenario file.
        path: PathBuf,
        /// Line of the fault, from 1.
        line: usize,
        /// Column of the fault, from 1.
        column: usize,
        /// The field, after its table's name (`gpu.temperature`).
        field: String,
        /// What is wrong with it.
        message: String,
    },
}

/// A fault found after the TOML was read: where in the text, and what.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) span: Range<usize>,
    pub(super) message: String,
}

pub(super) fn load(path: &Path) -> Result<Scenario, ScenarioError> {
    let text = fs::read_to_string(path).map_err(|source| ScenarioError::Read { path: path.to_owned(), source })?;
    parse(path, &text)
}

pub(super) fn parse(path: &Path, text: &str) -> Result<Scenario, ScenarioError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let table = super::wave::in_folder(folder, || toml::from_str::<ScenarioTable>(text))
        .map_err(|error| Problem { span: error.span().unwrap_or(0..0), message: error.message().to_owned() });
    table.and_then(|table| check::check(table, folder)).map_err(|problem| describe(path, text, problem))
}

fn describe(path: &Path, text: &str, problem: Problem) -> ScenarioError {
    let before = &text[..text.floor_char_boundary(problem.span.start)];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    let message = problem.message.trim().replace('\n', "; ");
    ScenarioError::Bad { path: path.to_owned(), line, column, field: field_at(text, line), message }
}

/// The name of the field that line `line` belongs to: the nearest `key =` at or above it,
/// after the nearest `[table]` header.
fn field_at(text: &str, line: usize) -> String {
    let above: Vec<&str> = text.lines().take(line).collect();
    let header = above.iter().rposition(|it| table_name(it).is_some());
    let table = header.and_then(|at| table_name(above[at]));
    let key = above.iter().skip(header.map_or(0, |at| at + 1)).rev().find_map(|it| key_name(it));
    match (table, key) {
        (Some(table), Some(key)) => format!("{table}.{key}"),
        (Some(name), None) | (None, Some(name)) => name.to_owned(),
        (None, None) => "scenario".to_owned(),
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.\"".contains(c))
}

fn table_name(line: &str) -> Option<&str> {
    let line = line.split('#').next()?.trim();
    let name = line.strip_prefix('[')?.strip_suffix(']')?;
    let name = name.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(name).trim();
    // A keyframe on a line of its own looks alike, but starts with a number.
    (is_name(name) && !name.starts_with(|c: char| c.is_ascii_digit())).then_some(name)
}

fn key_name(line: &str) -> Option<&str> {
    line.split_once('=').map(|(key, _)| key.trim()).filter(|key| is_name(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(Path::new("/s/case.toml"), text).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn messages_name_file_line_and_field() {
        let gpu = "[[gpu]]\nmodel = \"H100\"\n";
        for (text, expected) in [
            (format!("{gpu}temprature = 3\n"), "/s/case.toml:3:1: gpu.temprature: unknown field `temprature`"),
            (
                format!("{gpu}temperature = \"hot\"\n"),
                "/s/case.toml:3:15: gpu.temperature: \"hot\" is not a temperature in C",
            ),
            (
                format!("{gpu}power = [\n  [0, 90],\n  [5, 350000],\n]\n"),
                "/s/case.toml:5:7: gpu.power: 350000 is not a power",
            ),
            ("[[gpu]]\nmodel = \"H1000\"\n".to_owned(), "/s/case.toml:2:9: gpu.model: no model \"H1000\": known are"),
            ("clock = \"file\"\n".to_owned(), "/s/case.toml:1:9: clock: clock = \"file\" needs clock_file"),
            (format!("{gpu}uuid = \"A\"\n{gpu}uuid = \"A\"\n"), "/s/case.toml:6:8: gpu.uuid: the uuid A is used twice"),
            (format!("{gpu}[[gpu.event]]\nat = 1\n"), "gpu.event"),
            (
                format!("{gpu}[[gpu.process]]\npid = 1\npid_file = \"x\"\nmemory = 1\n"),
                "exactly one of pid and pid_file",
            ),
            (
                "[[fault]]\nfunction = \"nvmlDeviceGetTemprature\"\nhang = true\n".to_owned(),
                "/s/case.toml:2:12: fault.function: no exported function is named nvmlDeviceGetTemprature; did you mean nvmlDeviceGetTemperature?",
            ),
            (
                format!("{gpu}[[fault]]\nfunction = \"*\"\ngpu = 1\nhang = true\n"),
                "/s/case.toml:5:7: fault.gpu: there is no GPU 1: the scenario has 1",
            ),
            ("[[fault]]\nfunction = \"*\"\n".to_owned(), "says none of error, hang, corrupt and latency_us"),
            (
                "[[fault]]\nfunction = \"*\"\nerror = \"OOPS\"\n".to_owned(),
                "/s/case.toml:3:9: fault.error: no NVML error is named OOPS",
            ),
            (format!("{gpu}mig = [\"1g.5gb\", \"9g.5gb\"]\n"), "9g.5gb is not a MIG profile"),
            (
                format!("{gpu}power = {{ csv = \"none.csv\", column = \"x\" }}\n"),
                "cannot read the recording /s/none.csv",
            ),
            (format!("{gpu}power = {{ noise = 3 }}\n"), "one of value, keyframes, and csv"),
            ("[[gpu]]\n".to_owned(), "/s/case.toml:1:1: gpu: missing field `model`"),
            ("gpu = [\n".to_owned(), "/s/case.toml:"),
        ] {
            let message = error(&text);
            assert!(message.contains(expected), "{text}\n got {message}\nnot {expected}");
        }
    }
}
