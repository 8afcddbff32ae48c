//! Reference values: what a node or a run is expected to have, made from statements that are known to be good.
//!
//! Invariants: a reference has only values that every statement had; what is left out is named. A value that is not known of the
//! node or run that is checked is never a match. The file is not signed: whoever uses it keeps it.

use crate::{
    diff::{Cell, Verdict, cell, classed},
    factor::{Class, is_path},
    json::{Json, JsonError},
    pcrs::PcrReference,
    statement::{Scope, Statement},
    table::{Pattern, Regime, Table},
};
use failsafe_tpm::Pcrs;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What the file says it is.
const KIND: &str = "failsafe-reference-values";
/// The version of its form.
const FORMAT: u32 = 1;

/// Reference values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Reference {
    /// [`KIND`].
    pub kind: String,
    /// [`FORMAT`].
    pub format: u32,
    /// Of what the statements were.
    pub scope: Scope,
    /// For which regime the classes are.
    pub regime: Regime,
    /// How many statements it was made from.
    pub statements: u32,
    /// The factors, each with its value; `null`: known to be absent.
    pub factors: BTreeMap<String, Expected>,
    /// What the PCRs of a TPM quote are expected to be.
    #[serde(default, skip_serializing_if = "PcrReference::is_empty")]
    pub pcrs: PcrReference,
    /// Factors of these classes that are left out, each with the reason.
    pub left_out: BTreeMap<String, String>,
}

/// What is expected of a factor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// What a difference in it changes.
    pub class: Class,
    /// The value.
    pub value: Json,
}

/// A factor that is not as expected, or not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// Which.
    pub path: String,
    /// What a difference in it changes.
    pub class: Class,
    /// What is expected.
    pub expected: Cell,
    /// What there is.
    pub found: Cell,
    /// Why its class is what it is.
    pub reason: String,
    /// Who found that.
    pub citation: String,
    #[serde(skip)]
    rank: usize,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// What it amounts to.
    pub verdict: Verdict,
    /// What differs or is not known, the worst first.
    pub mismatches: Vec<Mismatch>,
    /// Factors that are as expected.
    pub matches: usize,
}

/// Why there is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing to make it from.
    #[error("the statements are of nodes and of runs: expected only one kind")]
    Scopes,
    /// The statements have no value in common.
    #[error("no factor has one known value in all statements")]
    Nothing,
    /// The file.
    #[error("the reference values cannot be read: {0}")]
    Json(#[from] JsonError),
    /// Its content.
    #[error("the reference values are not valid: {0}")]
    Form(String),
}

impl Reference {
    /// From statements that are known to be good; identity factors, and those that `ignore` names, are left out.
    ///
    /// # Errors
    /// [`ReferenceError`].
    pub fn of(
        statements: &[&Statement],
        table: &Table,
        regime: Option<Regime>,
        ignore: &[Pattern],
    ) -> Result<Reference, ReferenceError> {
        let scopes: Vec<Scope> = statements.iter().map(|statement| statement.predicate.scope).collect();
        let scope = scopes.first().copied().ok_or(ReferenceError::Nothing)?;
        if scopes.iter().any(|other| *other != scope) {
            return Err(ReferenceError::Scopes);
        }
        let named = || statements.iter().map(|statement| statement.predicate.regime.name).max();
        let regime = regime.or_else(named).unwrap_or(Regime::Seeded);
        let paths: BTreeSet<&str> = statements
            .iter()
            .flat_map(|statement| &statement.predicate.factors)
            .map(|factor| factor.path.as_str())
            .collect();
        let (mut factors, mut left_out) = (BTreeMap::new(), BTreeMap::new());
        for path in paths.into_iter().filter(|path| !ignore.iter().any(|pattern| pattern.fits(path))) {
            let (_, class, ..) = classed(table, path, regime, statements.iter().copied());
            if class == Class::Identity {
                continue;
            }
            let cells: BTreeSet<Cell> = statements.iter().map(|statement| cell(statement, path)).collect();
            let mut cells = cells.into_iter();
            match (cells.next(), cells.next()) {
                (Some(Cell::Value(value)), None) => drop(factors.insert(path.to_owned(), Expected { class, value })),
                (Some(Cell::Absent), None) => {
                    factors.insert(path.to_owned(), Expected { class, value: Json::Null });
                }
                (Some(Cell::Unknown(why)), None) => drop(left_out.insert(path.to_owned(), why)),
                _ => drop(left_out.insert(path.to_owned(), "the statements differ".to_owned())),
            }
        }
        if factors.is_empty() {
            return Err(ReferenceError::Nothing);
        }
        let statements = u32::try_from(statements.len()).unwrap_or(u32::MAX);
        let pcrs = PcrReference::default();
        Ok(Reference { kind: KIND.to_owned(), format: FORMAT, scope, regime, statements, factors, pcrs, left_out })
    }

    /// The same with the PCRs that the quotes of all statements share. The caller verified the quotes.
    #[must_use]
    pub fn with_pcrs(mut self, quotes: &[Pcrs], ignore: &[Pattern]) -> Reference {
        let (pcrs, left_out) = PcrReference::of(quotes, ignore);
        self.pcrs = pcrs;
        self.left_out.extend(left_out);
        self
    }

    /// Reads a file of at most `most` bytes.
    ///
    /// # Errors
    /// [`ReferenceError`].
    pub fn parse(bytes: &[u8], most: usize) -> Result<Reference, ReferenceError> {
        let json = Json::parse(bytes, most)?;
        let text = |key: &str| json.get(key).and_then(Json::text).unwrap_or_default().to_owned();
        if text("kind") != KIND {
            return Err(ReferenceError::Form(format!("`kind` is `{}`, expected `{KIND}`", text("kind"))));
        }
        if let Some(Json::Int(format)) = json.get("format")
            && *format != i64::from(FORMAT)
        {
            return Err(ReferenceError::Form(format!("`format` is {format}, expected {FORMAT}")));
        }
        let reference: Reference = json.into_type()?;
        if let Some(path) = reference.factors.keys().find(|path| !is_path(path)) {
            return Err(ReferenceError::Form(format!("`{}` is no path of a factor", path.escape_debug())));
        }
        if reference.factors.is_empty() {
            return Err(ReferenceError::Form("it has no factor".to_owned()));
        }
        Ok(reference)
    }

    /// Whether bytes are meant to be reference values.
    pub fn is_meant(bytes: &[u8]) -> bool {
        // `kind` comes after all factors in the file.
        bytes.windows(KIND.len()).any(|window| window == KIND.as_bytes())
    }

    /// The file.
    ///
    /// # Errors
    /// A value is not allowed in it.
    pub fn text(&self) -> Result<String, JsonError> {
        Ok(Json::of(self)?.canonical())
    }

    /// Only the factors of nodes.
    #[must_use]
    pub fn of_node(mut self) -> Reference {
        self.factors.retain(|path, _| path.starts_with("node/"));
        self.left_out.retain(|path, _| path.starts_with("node/"));
        self
    }

    /// Checks a statement. What the reference left out because it was not known makes nothing equal.
    pub fn check(&self, statement: &Statement, table: &Table) -> Checked {
        let (mut mismatches, mut matches) = (Vec::new(), 0);
        for (path, Expected { class, value }) in &self.factors {
            let expected = if *value == Json::Null { Cell::Absent } else { Cell::Value(value.clone()) };
            let found = cell(statement, path);
            if found == expected {
                matches += 1;
                continue;
            }
            let (rank, _, reason, citation) = classed(table, path, self.regime, [statement]);
            mismatches.push(Mismatch { path: path.clone(), class: *class, expected, found, reason, citation, rank });
        }
        for (path, why) in &self.left_out {
            let (rank, class, reason, citation) = classed(table, path, self.regime, [statement]);
            if class == Class::Result {
                let expected = Cell::Unknown(format!("left out: {why}"));
                let found = cell(statement, path);
                mismatches.push(Mismatch { path: path.clone(), class, expected, found, reason, citation, rank });
            }
        }
        let open = |one: &Mismatch| matches!(one.found, Cell::Unknown(_)) || matches!(one.expected, Cell::Unknown(_));
        let any = |class, is_open| mismatches.iter().any(|one| one.class == class && open(one) == is_open);
        let has_result = self.factors.values().any(|expected| expected.class == Class::Result);
        let verdict = if any(Class::Result, false) {
            Verdict::ResultDiffers
        } else if any(Class::Result, true) || !has_result {
            Verdict::CannotKnow
        } else if any(Class::Performance, false) {
            Verdict::PerformanceDiffers
        } else {
            Verdict::ResultEqual
        };
        mismatches.sort_by(|a, b| (a.class, open(a), a.rank, &a.path).cmp(&(b.class, open(b), b.rank, &b.path)));
        Checked { verdict, mismatches, matches }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        factor::{Fact, Missing},
        testing::{fact, statement},
    };

    fn node(model: &str, memory: &str) -> Statement {
        let facts = [("node/cpu/model", model), ("node/memory", memory), ("node/hostname", memory)];
        statement(Scope::Node, facts.map(|(path, value)| fact(path, value)).to_vec())
    }

    fn made(statements: &[&Statement]) -> Reference {
        let made = Reference::of(statements, &Table::built_in().unwrap(), None, &[]).unwrap();
        let text = made.text().unwrap();
        assert_eq!(Reference::parse(text.as_bytes(), usize::MAX), Ok(made.clone()));
        assert!(Reference::is_meant(text.as_bytes()));
        made
    }

    fn checked(reference: &Reference, statement: &Statement) -> (Verdict, Vec<String>) {
        let checked = reference.check(statement, &Table::built_in().unwrap());
        (checked.verdict, checked.mismatches.into_iter().map(|one| one.path).collect())
    }

    #[test]
    fn a_reference_has_what_all_good_statements_share_and_names_what_they_do_not() {
        let reference = made(&[&node("a", "1"), &node("a", "2")]);
        assert_eq!(reference.factors.keys().collect::<Vec<_>>(), ["node/cpu/model"]);
        assert_eq!(reference.left_out["node/memory"], "the statements differ");
        assert_eq!(checked(&reference, &node("a", "3")), (Verdict::ResultEqual, vec![]));
        assert_eq!(checked(&reference, &node("b", "1")), (Verdict::ResultDiffers, vec!["node/cpu/model".into()]));
        let apart = Reference::of(&[&node("a", "1"), &node("b", "2")], &Table::built_in().unwrap(), None, &[]);
        assert_eq!(apart, Err(ReferenceError::Nothing));
        let run = statement(Scope::Run, vec![fact("run/command", "x")]);
        let mixed = Reference::of(&[&node("a", "1"), &run], &Table::built_in().unwrap(), None, &[]);
        assert_eq!(mixed, Err(ReferenceError::Scopes));
    }

    #[test]
    fn what_is_not_known_on_either_side_is_never_a_match() {
        let blind = |path: &str| Fact::measured(path, "a test", Err(Missing::unavailable("x")));
        let reference = made(&[&node("a", "1")]);
        let unread = statement(Scope::Node, vec![blind("node/cpu/model"), fact("node/memory", "1")]);
        assert_eq!(checked(&reference, &unread).0, Verdict::CannotKnow);
        let partly = statement(Scope::Node, vec![blind("node/cpu/flags"), fact("node/cpu/model", "a")]);
        let reference = made(&[&partly]);
        assert_eq!(checked(&reference, &partly).0, Verdict::CannotKnow);
        assert_eq!(checked(&made(&[&node("a", "1")]), &node("a", "2")).0, Verdict::PerformanceDiffers);
    }

    #[test]
    fn reference_values_of_runs_are_known_as_such_and_compared_by_those_of_the_node() {
        let mut facts = vec![fact("node/cpu/model", "a")];
        facts.extend((0..500).map(|n| fact(&format!("run/env/NAME_{n}"), "a value of a run")));
        let reference = made(&[&statement(Scope::Run, facts)]).of_node();
        assert_eq!(reference.factors.keys().collect::<Vec<_>>(), ["node/cpu/model"]);
        assert_eq!(checked(&reference, &node("a", "1")), (Verdict::ResultEqual, vec![]));
        assert_eq!(checked(&reference, &node("b", "1")).0, Verdict::ResultDiffers);
    }

    #[test]
    fn a_reference_keeps_the_pcrs_of_its_quotes_and_a_file_without_them_is_read() {
        let plain = made(&[&node("a", "1")]);
        assert!(plain.pcrs.is_empty() && !plain.text().unwrap().contains("pcrs"));
        let quote = |ten| Pcrs([(0, [1; 32]), (10, [ten; 32])].into());
        let reference = plain.with_pcrs(&[quote(2), quote(3)], &[]);
        let text = reference.text().unwrap();
        assert_eq!(Reference::parse(text.as_bytes(), usize::MAX), Ok(reference.clone()));
        assert_eq!(reference.pcrs.0.0.keys().collect::<Vec<_>>(), [&0]);
        // A PCR that differs between good nodes decides nothing about the factors.
        assert!(reference.left_out.contains_key("node/tpm/pcr/sha256/10"));
        assert_eq!(checked(&reference, &node("a", "1")), (Verdict::ResultEqual, vec![]));
        let wrong = text.replacen("\"0\"", "\"99\"", 1);
        let why = Reference::parse(wrong.as_bytes(), usize::MAX).unwrap_err().to_string();
        assert!(why.contains("the PCR `99`, expected a number from 0 to 23"), "{why}");
    }

    #[test]
    fn a_file_of_another_kind_form_or_version_is_refused() {
        let text = made(&[&node("a", "1")]).text().unwrap();
        for (from, to, expected) in [
            (KIND, "other", "`kind` is `other`"),
            ("\"format\":1", "\"format\":2", "`format` is 2"),
            ("\"regime\"", "\"regimes\"", "unknown field"),
            ("node/cpu/model", "node//model", "no path of a factor"),
        ] {
            let why = Reference::parse(text.replace(from, to).as_bytes(), usize::MAX).unwrap_err().to_string();
            assert!(why.contains(expected), "{why}");
        }
    }
}
