//! Environment variables that can change results: those that the table of factors names, and no others.
//!
//! Invariant: `/proc/PID/environ` holds secrets. It is read into one buffer, which is overwritten before it is released; only
//! values of named variables are copied. What a program sets for itself after its start is not there.

use super::{common, folder::is_gone, process::Process};
use crate::redact::Redactor;
use failsafe_attest::{Fact, Json, Missing};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
};
use zeroize::Zeroizing;

/// Bytes of one process's environment.
const MOST: usize = 1 << 20;
/// Bytes that almost every environment fits into.
const USUAL: usize = 64 << 10;
/// Longest value. A longer one is not kept in part: two that begin alike would be called equal.
const VALUE: usize = 4 << 10;

const SOURCE: &str = "/proc/PID/environ: memory of the process, which it can change";

/// `most`: bytes of all values that are kept.
pub(super) fn facts(
    processes: &[Process],
    names: &BTreeSet<String>,
    most: usize,
    cut: Option<&str>,
    redact: &Redactor,
) -> Vec<Fact> {
    let mut values: BTreeMap<&str, Result<BTreeSet<Json>, Missing>> =
        names.iter().map(|name| (name.as_str(), Ok(BTreeSet::new()))).collect();
    let mut problem = cut.map(Missing::unavailable);
    let (mut read, mut kept) = (0, 0);
    let mut buffer = Zeroizing::new(vec![0; USUAL]);
    for process in processes {
        let length = match process.folder.file("environ").and_then(|file| fill(file, &mut buffer)) {
            // It ended, or has none.
            Ok(0) => process.ended().map(|ended| (!ended).then_some(0)),
            Ok(length) if length > MOST => {
                let pid = process.id.pid;
                Err(Missing::unavailable(format!("the environment of process {pid} has more than {MOST} bytes")))
            }
            Ok(length) => Ok(Some(length)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(process.folder.missing("environ", &error)),
        };
        match length {
            Ok(Some(length)) => {
                read += 1;
                if is_overwritten(&buffer[..length]) {
                    let pid = process.id.pid;
                    problem.get_or_insert_with(|| {
                        Missing::unavailable(format!("process {pid} has overwritten the memory of its environment"))
                    });
                }
                let found = named(&buffer[..length], names, redact);
                for (name, of) in &mut values {
                    match found.get(*name).cloned().unwrap_or(Ok(Json::Null)) {
                        Err(missing) => *of = Err(missing),
                        Ok(value) => {
                            let Ok(all) = of else { continue };
                            let bytes = value.text().map_or(0, str::len);
                            kept += if all.insert(value) { bytes } else { 0 };
                        }
                    }
                }
            }
            Ok(None) => {}
            Err(missing) => {
                problem.get_or_insert(missing);
            }
        }
        buffer.fill(0);
        if kept > most {
            problem.get_or_insert(Missing::unavailable(format!("the values have more than {most} bytes, the limit")));
            break;
        }
    }
    if read == 0 {
        problem.get_or_insert(Missing::unavailable("no process of the run has an environment that can be read"));
    }
    let group = problem.clone().map_or_else(|| Ok(Json::from("read")), Err);
    let mut facts = vec![Fact::claimed("run/env", SOURCE, group)];
    for (name, of) in values {
        // What some processes have is a fact only if all could be read.
        let value = problem.clone().map_or_else(|| of.map(common), Err);
        facts.push(Fact::claimed(format!("run/env/{name}"), SOURCE, value));
    }
    facts
}

/// Reads a file into the buffer, at most one byte more than [`MOST`]. The buffer grows where it has to.
fn fill(mut file: impl Read, buffer: &mut Zeroizing<Vec<u8>>) -> io::Result<usize> {
    let mut length = 0;
    loop {
        if length == buffer.len() {
            if length > MOST {
                return Ok(length);
            }
            // Not `resize`, which leaves a copy in released memory. Here the old buffer is overwritten when it is dropped.
            let mut larger = Zeroizing::new(vec![0; MOST + 1]);
            larger[..length].copy_from_slice(buffer);
            *buffer = larger;
        }
        match file.read(&mut buffer[length..]) {
            Ok(0) => return Ok(length),
            Ok(n) => length += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether it is no list of variables any more: programs write the title of their process over it (setproctitle).
fn is_overwritten(environment: &[u8]) -> bool {
    let all = environment.strip_suffix(b"\0").unwrap_or(environment);
    !all.is_empty() && all.split(|byte| *byte == 0).any(|variable| !variable.contains(&b'='))
}

/// The named variables. Of one that is there twice the first counts, as in getenv.
fn named(environment: &[u8], names: &BTreeSet<String>, redact: &Redactor) -> BTreeMap<String, Result<Json, Missing>> {
    let mut out = BTreeMap::new();
    for variable in environment.split(|byte| *byte == 0) {
        let Some(at) = variable.iter().position(|byte| *byte == b'=') else { continue };
        let (name, value) = (&variable[..at], &variable[at + 1..]);
        let Some(name) = names.iter().find(|wanted| wanted.as_bytes() == name) else { continue };
        if out.contains_key(name) {
            continue;
        }
        out.insert(name.clone(), text(value, redact));
    }
    out
}

pub(super) fn text(value: &[u8], redact: &Redactor) -> Result<Json, Missing> {
    if value.len() > VALUE {
        let why = format!("a process has a value of {} bytes, more than the {VALUE} that are compared", value.len());
        return Err(Missing::unavailable(why));
    }
    let text =
        std::str::from_utf8(value).map_err(|_| Missing::unavailable("a process has a value that is not UTF-8"))?;
    Ok(Json::Text(redact.text(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_variables_are_kept_and_secrets_in_them_are_redacted() {
        let names = ["OMP_NUM_THREADS", "XLA_FLAGS", "NCCL_ALGO"].map(str::to_owned).into();
        let environment = b"PATH=/bin\0OMP_NUM_THREADS=4\0OMP_NUM_THREADS=8\0AWS_SECRET_ACCESS_KEY=s3cret\0XLA_FLAGS=--token=abcdef --x\0bad\0=y\0OMP_NUM_THREADSX=1";
        let found = named(environment, &names, &Redactor::default());
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found["OMP_NUM_THREADS"], Ok(Json::from("4")));
        assert_eq!(found["XLA_FLAGS"], Ok(Json::from("--token=[redacted] --x")));
    }

    #[test]
    fn an_environment_is_read_whole_up_to_its_limit() {
        for (length, expected) in [(0, 0), (USUAL, USUAL), (USUAL + 1, USUAL + 1), (MOST, MOST), (2 * MOST, MOST + 1)] {
            let bytes: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let mut buffer = Zeroizing::new(vec![0; USUAL]);
            assert_eq!(fill(bytes.as_slice(), &mut buffer).unwrap(), expected);
            assert_eq!(buffer[..expected], bytes[..expected]);
        }
    }

    #[test]
    fn a_value_that_is_too_long_or_not_utf8_is_not_kept_in_part() {
        let names = ["NCCL_ALGO".to_owned()].into();
        let of = |value: &[u8]| {
            named(&[b"NCCL_ALGO=".as_slice(), value].concat(), &names, &Redactor::default())["NCCL_ALGO"].clone()
        };
        assert!(of(&[b'x'; VALUE]).is_ok());
        assert!(of(&[b'x'; VALUE + 1]).unwrap_err().reason.contains("value of 4097 bytes"));
        assert!(of(b"Ring\xff").unwrap_err().reason.contains("not UTF-8"));
    }
}
