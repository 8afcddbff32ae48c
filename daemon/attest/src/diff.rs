//! What differs between statements, and what that means for results.
//!
//! Invariants: a factor counts as equal only if every statement has its value and all values are the same. One that is missing
//! somewhere is a difference where that statement lists the whole group (a library that is not loaded), and unknown otherwise.
//! The class comes from this version's table, for one regime that the answer names.

use crate::{
    factor::{Class, Factor, Status},
    json::Json,
    statement::{Scope, Statement},
    table::{Pattern, Regime, Table},
};
use serde::Serialize;
use std::collections::BTreeSet;

/// What the differences amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every factor that can change results is known and equal, and none that changes speed is known to differ.
    ResultEqual,
    /// The same, but one that changes speed differs.
    PerformanceDiffers,
    /// A factor that can change results differs.
    ResultDiffers,
    /// No such factor is known to differ, but one of them is not known everywhere, or none was compared.
    CannotKnow,
}

impl Verdict {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::ResultEqual => "result-equal",
            Verdict::PerformanceDiffers => "performance-differs",
            Verdict::ResultDiffers => "result-differs",
            Verdict::CannotKnow => "cannot-know",
        }
    }
}

/// What is compared, and how.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Classes for this regime; `None`: the least deterministic one that a statement names.
    pub regime: Option<Regime>,
    /// Factors that are left out.
    pub ignore: Vec<Pattern>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// What it amounts to.
    pub verdict: Verdict,
    /// For which regime.
    pub regime: Regime,
    /// Whether every statement says that its run declared this regime.
    pub regime_declared: bool,
    /// What differs or is not known everywhere, the worst first.
    pub differences: Vec<Difference>,
    /// Factors that are equal: of each class.
    pub equal: Counts,
    /// Factors that were left out.
    pub ignored: usize,
    /// What no statement covers.
    pub not_covered: Vec<String>,
}

/// Numbers of factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// That can change results.
    pub result: usize,
    /// That change speed.
    pub performance: usize,
    /// That only say which machine or run it is.
    pub identity: usize,
}

/// One factor that is not equal everywhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Which.
    pub path: String,
    /// What a difference in it changes.
    pub class: Class,
    /// Whether it differs, or is only not known everywhere.
    pub kind: Kind,
    /// Its value in each statement, in their order.
    pub values: Vec<Cell>,
    /// Why its class is what it is.
    pub reason: String,
    /// Who found that.
    pub citation: String,
    #[serde(skip)]
    rank: usize,
}

/// How a factor is not equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Two statements have different values.
    Differs,
    /// One has no value.
    Unknown,
}

/// A factor in one statement.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cell {
    /// Its value.
    Value(Json),
    /// It has none, for sure.
    Absent,
    /// It may have one: status and reason.
    Unknown(String),
}

/// Compares statements.
pub fn compare(statements: &[&Statement], table: &Table, options: &Options) -> Comparison {
    let regimes = || statements.iter().map(|statement| &statement.predicate.regime);
    let regime = options.regime.or_else(|| regimes().map(|regime| regime.name).max()).unwrap_or(Regime::Seeded);
    let regime_declared = regimes().all(|of| of.declared && of.name == regime);
    let factors = statements.iter().flat_map(|statement| &statement.predicate.factors);
    let paths: BTreeSet<&str> = factors.map(|factor| factor.path.as_str()).collect();
    let (mut differences, mut equal, mut ignored) = (Vec::new(), Counts::default(), 0);
    for path in paths {
        if options.ignore.iter().any(|pattern| pattern.fits(path)) {
            ignored += 1;
            continue;
        }
        let values: Vec<Cell> = statements.iter().map(|statement| cell(statement, path)).collect();
        let (rank, class, reason, citation) = classed(table, path, regime, statements.iter().copied());
        let known: BTreeSet<&Cell> = values.iter().filter(|cell| !matches!(cell, Cell::Unknown(_))).collect();
        let kind = match (known.len(), values.iter().any(|cell| matches!(cell, Cell::Unknown(_)))) {
            (2.., _) => Kind::Differs,
            (_, true) => Kind::Unknown,
            _ => {
                match class {
                    Class::Result => equal.result += 1,
                    Class::Performance => equal.performance += 1,
                    Class::Identity => equal.identity += 1,
                }
                continue;
            }
        };
        differences.push(Difference { path: path.to_owned(), class, kind, values, reason, citation, rank });
    }
    differences.sort_by(|a, b| (a.class, a.kind, a.rank, &a.path).cmp(&(b.class, b.kind, b.rank, &b.path)));
    let mut not_covered: Vec<String> = Vec::new();
    for what in statements.iter().flat_map(|statement| &statement.predicate.not_covered) {
        if !not_covered.contains(what) {
            not_covered.push(what.clone());
        }
    }
    let verdict = verdict(&differences, equal);
    Comparison { verdict, regime, regime_declared, differences, equal, ignored, not_covered }
}

fn verdict(differences: &[Difference], equal: Counts) -> Verdict {
    let has = |class, kind| differences.iter().any(|one| one.class == class && one.kind == kind);
    if has(Class::Result, Kind::Differs) {
        Verdict::ResultDiffers
    } else if has(Class::Result, Kind::Unknown) || equal.result == 0 {
        Verdict::CannotKnow
    } else if has(Class::Performance, Kind::Differs) {
        Verdict::PerformanceDiffers
    } else {
        Verdict::ResultEqual
    }
}

/// What a difference in a factor changes: the place of its row, its class, the reason, and who found that.
pub(crate) fn classed<'a>(
    table: &Table,
    path: &str,
    regime: Regime,
    statements: impl IntoIterator<Item = &'a Statement>,
) -> (usize, Class, String, String) {
    match table.row(path) {
        Some((rank, row)) => (rank, row.class(regime), row.reason.clone(), row.citation.clone()),
        // Of another version: what that one says of it.
        None => {
            let stated = statements.into_iter().filter_map(|it| it.factor(path)).map(|factor| factor.class).min();
            let reason = "this version of failsafectl does not know the factor; the class is the statement's";
            (usize::MAX, stated.unwrap_or(Class::Result), reason.to_owned(), String::new())
        }
    }
}

/// A factor in one statement. What the statement does not list is absent only if it lists the whole group.
pub(crate) fn cell(statement: &Statement, path: &str) -> Cell {
    let unknown = |factor: &Factor| Cell::Unknown(format!("{}: {}", factor.status.name(), factor.reason));
    if let Some(factor) = statement.factor(path) {
        return match (factor.status, &factor.value) {
            (Status::Ok, Json::Null) => Cell::Absent,
            (Status::Ok, value) => Cell::Value(value.clone()),
            _ => unknown(factor),
        };
    }
    if statement.predicate.scope == Scope::Node && path.starts_with("run/") {
        return Cell::Unknown("not-asked: it is the fingerprint of a node".to_owned());
    }
    let mut group = path;
    while let Some((above, _)) = group.rsplit_once('/') {
        match statement.factor(above) {
            Some(factor) if factor.status == Status::Ok => return Cell::Absent,
            Some(factor) => return unknown(factor),
            None => group = above,
        }
    }
    Cell::Unknown("not-asked: the statement has no such factor".to_owned())
}

#[cfg(test)]
mod tests;
