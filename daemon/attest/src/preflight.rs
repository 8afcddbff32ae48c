//! What will not be reproducible of a command, by its environment and its manifest, before it is executed.
//!
//! The rows are data of the table of factors. Invariant: a row says what it looked at; what a program sets for itself is not seen.

use crate::manifest::Manifest;
use serde::{Deserialize, Serialize};

/// What a row looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// A variable: values that are good (empty: any), and values that are not.
    Variable {
        /// Its name.
        name: String,
        /// Values that are good; empty: any.
        expect: Vec<String>,
        /// Values that are not.
        reject: Vec<String>,
    },
    /// A part of the manifest.
    Manifest(Part),
}

/// A part of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// A seed.
    Seeds,
    /// The regime.
    Regime,
    /// The commit of the code.
    Code,
    /// A version or digest of data.
    Data,
}

/// A row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// What it looks at.
    pub look: Look,
    /// Programs that it is for; empty: all.
    pub programs: Vec<String>,
    /// What the command has to use for it to matter; empty: it always matters.
    pub uses: String,
    /// What will differ.
    pub text: String,
    /// What to do.
    pub fix: String,
    /// Who found that.
    pub citation: String,
}

/// A warning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// What was looked at, and what was found there.
    pub found: String,
    /// What the command has to use for it to matter; empty: it always matters.
    pub uses: String,
    /// What will differ.
    pub text: String,
    /// What to do.
    pub fix: String,
    /// Who found that.
    pub citation: String,
}

/// A command that is to be executed.
pub struct Planned<'a> {
    /// The last part of the paths of its first words: the program, and a script that it is given.
    pub programs: Vec<String>,
    /// The variables that it would get.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Its manifest.
    pub manifest: Option<&'a Manifest>,
}

/// The warnings for a command; those that always matter come first.
pub fn warnings(rows: &[Advice], planned: &Planned<'_>) -> Vec<Warning> {
    let concerned = |row: &&Advice| {
        let fits = |pattern: &String| planned.programs.iter().any(|name| crate::table::fits_segment(pattern, name));
        row.programs.is_empty() || row.programs.iter().any(fits)
    };
    let mut out: Vec<Warning> = rows.iter().filter(concerned).filter_map(|row| row.warning(planned)).collect();
    out.sort_by_key(|warning| !warning.uses.is_empty());
    out
}

impl Advice {
    fn warning(&self, planned: &Planned<'_>) -> Option<Warning> {
        let found = match &self.look {
            Look::Variable { name, expect, reject } => match (planned.variable)(name) {
                None => format!("{name} is not set"),
                Some(value) if reject.contains(&value) || (!expect.is_empty() && !expect.contains(&value)) => {
                    format!("{name} is `{value}`")
                }
                Some(_) => return None,
            },
            Look::Manifest(part) => match planned.manifest {
                None => format!("no manifest, so no {}", part.name()),
                Some(manifest) if !part.is_in(manifest) => format!("the manifest has no {}", part.name()),
                Some(_) => return None,
            },
        };
        let Advice { uses, text, fix, citation, .. } = self.clone();
        Some(Warning { found, uses, text, fix, citation })
    }
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Seeds => "seeds",
            Part::Regime => "regime",
            Part::Code => "commit of the code",
            Part::Data => "data",
        }
    }

    fn is_in(self, manifest: &Manifest) -> bool {
        match self {
            Part::Seeds => !manifest.seeds.is_empty(),
            Part::Regime => manifest.regime.is_some(),
            Part::Code => manifest.code.as_ref().is_some_and(|code| code.commit.is_some()),
            Part::Data => !manifest.data.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Table;
    use std::collections::BTreeMap;

    fn found(program: &str, variables: &[(&str, &str)], manifest: Option<&str>) -> Vec<String> {
        let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
        let manifest = manifest.map(|text| Manifest::parse("m", text).unwrap());
        let variable = |name: &str| variables.get(name).map(|value| (*value).to_owned());
        let planned = Planned { programs: vec![program.to_owned()], variable: &variable, manifest: manifest.as_ref() };
        warnings(&Table::built_in().unwrap().preflight, &planned).into_iter().map(|warning| warning.found).collect()
    }

    #[test]
    fn what_is_not_pinned_is_warned_of_and_what_always_matters_comes_first() {
        let all = found("python3", &[], None);
        assert_eq!(all[0], "OMP_NUM_THREADS is not set");
        for expected in ["no manifest, so no seeds", "PYTHONHASHSEED is not set", "CUBLAS_WORKSPACE_CONFIG is not set"]
        {
            assert!(all.iter().any(|one| one == expected), "{all:?}");
        }
        let place = |what: &str| all.iter().position(|one| one.starts_with(what)).unwrap();
        assert!(place("PYTHONHASHSEED") < place("CUBLAS"));
    }

    #[test]
    fn values_count_and_rows_are_for_their_programs() {
        let random = found("python3.11", &[("PYTHONHASHSEED", "random")], None);
        assert!(random.contains(&"PYTHONHASHSEED is `random`".to_owned()), "{random:?}");
        assert!(!found("sleep", &[], None).iter().any(|one| one.contains("PYTHONHASHSEED")));
        let workspace = |value| found("x", &[("CUBLAS_WORKSPACE_CONFIG", value)], None);
        assert!(workspace(":0:0").contains(&"CUBLAS_WORKSPACE_CONFIG is `:0:0`".to_owned()));
        assert!(!workspace(":16:8").iter().any(|one| one.contains("CUBLAS")));
    }

    #[test]
    fn a_whole_manifest_and_pinned_variables_leave_nothing() {
        let manifest = "regime = \"deterministic\"\n[seeds]\ntorch = 1\n[code]\ncommit = \"6b92a44\"\n[data.c4]\nversion = \"3\"\n";
        let pinned = [
            ("OMP_NUM_THREADS", "4"),
            ("PYTHONHASHSEED", "0"),
            ("CUBLAS_WORKSPACE_CONFIG", ":4096:8"),
            ("NVTE_ALLOW_NONDETERMINISTIC_ALGO", "0"),
            ("FLASH_ATTENTION_DETERMINISTIC", "1"),
            ("NCCL_ALGO", "Ring"),
            ("TF_DETERMINISTIC_OPS", "1"),
            ("MKL_CBWR", "COMPATIBLE"),
        ];
        assert_eq!(found("python3", &pinned, Some(manifest)), Vec::<String>::new());
        assert_eq!(found("python3", &pinned, Some("regime = \"seeded\"")).len(), 3);
    }
}
