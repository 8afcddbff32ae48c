//! A run before its command is executed: what its caller says it will execute, and where the caller itself may run.
//!
//! Invariant: command and environment are the caller's word (`claimed`): the program that executes the command is the caller's
//! own. They show an accident, not a lie.

use super::{environment, process, process::Process};
use crate::{
    attest::{GpuFacts, Roots, gpu},
    redact::Redactor,
};
use failsafe_attest::{Assurance, Fact, Json, Missing, Table};
use failsafe_core::GpuId;
use std::collections::BTreeMap;

/// What is known of a run before its command is executed.
pub struct Beginning {
    /// The process that will execute the command.
    pub pid: u32,
    /// The command with its arguments, as the caller says.
    pub command: Vec<String>,
    /// Variables that it will have, as the caller says; those that the table of factors does not name are dropped.
    pub environment: BTreeMap<String, String>,
    /// The GPUs that are asked for, each with the MIG devices in place of the whole.
    pub gpus: Vec<(GpuId, Vec<String>)>,
}

impl Beginning {
    /// The facts. Reads no memory of the process: that could block without end.
    pub fn facts(&self, roots: &Roots, gpus: &GpuFacts, table: &Table, redact: &Redactor) -> Vec<Fact> {
        let mut command = self.command.clone();
        redact.argv(&mut command, &[]);
        let mut facts = vec![
            claimed("run/command", Ok(Json::List(command.into_iter().map(Json::Text).collect()))),
            claimed("run/env", Ok(Json::from("read"))),
        ];
        for name in table.environment() {
            let value =
                self.environment.get(name).map_or(Ok(Json::Null), |value| environment::text(value.as_bytes(), redact));
            facts.push(claimed(&format!("run/env/{name}"), value));
        }
        let process = Process::open(&roots.proc, self.pid, &|_| true).ok().flatten();
        facts.extend(process::placement(process.as_slice(), None));
        facts.extend(gpu::run(gpus, &self.gpus));
        facts
    }
}

fn claimed(path: &str, value: Result<Json, Missing>) -> Fact {
    Fact { path: path.to_owned(), value, source: "failsafectl run".to_owned(), assurance: Assurance::Claimed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::id;

    #[test]
    fn only_named_variables_count_and_secrets_are_redacted() {
        let named = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let beginning = Beginning {
            pid: id(),
            command: ["train", "--token", "abcdef", "--lr=1"].map(str::to_owned).to_vec(),
            environment: [named("OMP_NUM_THREADS", "2"), named("AWS_SECRET_ACCESS_KEY", "x")].into(),
            gpus: Vec::new(),
        };
        let (table, redact) = (Table::built_in().unwrap(), Redactor::default());
        let facts = beginning.facts(&Roots::default(), &GpuFacts::default(), &table, &redact);
        let value = |path: &str| facts.iter().find(|fact| fact.path == path).map(|fact| fact.value.clone());
        assert_eq!(value("run/env/OMP_NUM_THREADS"), Some(Ok(Json::from("2"))));
        assert_eq!(value("run/env/NCCL_ALGO"), Some(Ok(Json::Null)));
        assert_eq!(value("run/env/AWS_SECRET_ACCESS_KEY"), None);
        assert!(matches!(value("run/cpu/count"), Some(Ok(Json::Int(1..)))));
        assert_eq!(value("run/gpu"), Some(Ok(Json::Int(0))));
        let command = value("run/command").unwrap().unwrap().canonical();
        assert!(command.contains("[redacted]") && !command.contains("abcdef"), "{command}");
    }
}
