//! Environment variables that can change results: those that the table of factors names, and no others.
//!
//! Invariant: `/proc/PID/environ` holds secrets. It is read into one buffer, which is overwritten before it is released; only
//! values of named variables are copied. What a program sets for itself after its start is not there.

use super::{common, process::Process};
use crate::{attest::files, platform::ProcFs, redact::Redactor};
use failsafe_attest::{Fact, Json, Missing};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
};

/// Bytes of one process's environment.
const MOST: usize = 1 << 20;
/// Longest value.
const VALUE: usize = 4 << 10;

const SOURCE: &str = "/proc/PID/environ, as it was when each program started";

pub(super) fn facts(
    proc: &ProcFs,
    processes: &[Process],
    names: &BTreeSet<String>,
    cut: Option<&str>,
    redact: &Redactor,
) -> Vec<Fact> {
    let mut values: BTreeMap<&str, BTreeSet<Json>> =
        names.iter().map(|name| (name.as_str(), BTreeSet::new())).collect();
    let mut problem = cut.map(Missing::unavailable);
    let mut read = 0;
    let mut buffer = vec![0; MOST + 1];
    for process in processes {
        let path = proc.path(process.id.pid, "environ");
        match fill(&path, &mut buffer) {
            // It ended, or is a zombie by now.
            Ok(0) => continue,
            Ok(length) if length > MOST => {
                let why = format!("the environment of process {} has more than {MOST} bytes", process.id.pid);
                problem.get_or_insert(Missing::unavailable(why));
            }
            Ok(length) => {
                read += 1;
                let found = named(&buffer[..length], names, redact);
                for (name, of) in &mut values {
                    of.insert(found.get(*name).cloned().unwrap_or(Json::Null));
                }
            }
            Err(error) if is_gone(&error) => continue,
            Err(error) => {
                problem.get_or_insert(files::missing(&path, &error));
            }
        }
        buffer.fill(0);
    }
    buffer.fill(0);
    std::hint::black_box(&buffer);
    if read == 0 {
        problem.get_or_insert(Missing::unavailable("no process of the run has an environment that can be read"));
    }
    let group = problem.clone().map_or_else(|| Ok(Json::from("read")), Err);
    let mut facts = vec![Fact::measured("run/env", SOURCE, group)];
    for (name, of) in values {
        // What some processes have is a fact only if all could be read.
        let value = problem.clone().map_or_else(|| Ok(common(of)), Err);
        facts.push(Fact::measured(format!("run/env/{name}"), SOURCE, value));
    }
    facts
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ESRCH)
}

/// Reads into the buffer, as much as there is room for.
fn fill(path: &std::path::Path, buffer: &mut [u8]) -> io::Result<usize> {
    let mut file = files::open(path)?;
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// The named variables. Of one that is there twice the first counts, as in getenv.
fn named(environment: &[u8], names: &BTreeSet<String>, redact: &Redactor) -> BTreeMap<String, Json> {
    let mut out = BTreeMap::new();
    for variable in environment.split(|byte| *byte == 0) {
        let Some(at) = variable.iter().position(|byte| *byte == b'=') else { continue };
        let (name, value) = (&variable[..at], &variable[at + 1..]);
        let Some(name) = names.iter().find(|wanted| wanted.as_bytes() == name) else { continue };
        if out.contains_key(name) {
            continue;
        }
        let cut = &value[..value.len().min(VALUE)];
        let mut text = vec![String::from_utf8_lossy(cut).into_owned()];
        redact.argv(&mut text, &[]);
        let mut text = text.remove(0);
        if value.len() > VALUE {
            text.push_str(&format!("... ({} bytes)", value.len()));
        }
        out.insert(name.clone(), Json::Text(text));
    }
    out
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
        assert_eq!(found["OMP_NUM_THREADS"], Json::from("4"));
        assert_eq!(found["XLA_FLAGS"], Json::from("--token=[redacted] --x"));
        let long = [b"NCCL_ALGO=".as_slice(), &vec![b'x'; 10_000]].concat();
        assert!(named(&long, &names, &Redactor::default())["NCCL_ALGO"].text().is_some_and(|text| text.len() < 4_200));
    }
}
