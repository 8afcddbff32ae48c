//! What bad runs share and good ones lack.
//!
//! Invariants: a factor separates only if it is known in every statement: all bad ones have one value, and no good one has it. What
//! is not known somewhere can at most be a candidate. Nothing is guessed from a single side.

use crate::{
    diff::{Cell, cell, classed},
    factor::Class,
    statement::Statement,
    table::{Pattern, Regime, Table},
};
use serde::Serialize;
use std::collections::BTreeSet;

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Common {
    /// For which regime the classes are.
    pub regime: Regime,
    /// Factors that separate the bad statements from the good ones, the worst class first.
    pub separates: Vec<Shared>,
    /// Factors that may do so: a value is missing somewhere, and the known ones do not contradict.
    pub candidates: Vec<Shared>,
    /// Factors that were compared.
    pub compared: usize,
}

/// A factor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shared {
    /// Which.
    pub path: String,
    /// What a difference in it changes.
    pub class: Class,
    /// What the bad statements have.
    pub bad: Cell,
    /// What the good ones have, each value once.
    pub good: Vec<Cell>,
    /// In how many statements it is not known.
    pub unknown: usize,
    /// Why its class is what it is.
    pub reason: String,
    /// Who found that.
    pub citation: String,
    #[serde(skip)]
    rank: usize,
}

/// Looks for them. Classes are for `regime`; `None`: the least deterministic one that a statement names.
pub fn common(
    bad: &[&Statement],
    good: &[&Statement],
    table: &Table,
    regime: Option<Regime>,
    ignore: &[Pattern],
) -> Common {
    let all = || bad.iter().chain(good);
    let named = || all().map(|statement| statement.predicate.regime.name).max();
    let regime = regime.or_else(named).unwrap_or(Regime::Seeded);
    let paths: BTreeSet<&str> =
        all().flat_map(|statement| &statement.predicate.factors).map(|factor| factor.path.as_str()).collect();
    let mut answer = Common { regime, separates: Vec::new(), candidates: Vec::new(), compared: 0 };
    for path in paths.into_iter().filter(|path| !ignore.iter().any(|pattern| pattern.fits(path))) {
        answer.compared += 1;
        let cells = |of: &[&Statement]| of.iter().map(|statement| cell(statement, path)).collect::<Vec<_>>();
        let (of_bad, of_good) = (cells(bad), cells(good));
        let is_known = |cell: &&Cell| !matches!(cell, Cell::Unknown(_));
        let values = |cells: &[Cell]| cells.iter().filter(is_known).cloned().collect::<BTreeSet<Cell>>();
        let (bad_values, good_values) = (values(&of_bad), values(&of_good));
        let unknown = of_bad.iter().chain(&of_good).filter(|cell| !is_known(cell)).count();
        // All bad ones that are known agree, and no known good one has their value.
        let mut shared = bad_values.into_iter();
        let (Some(value), None) = (shared.next(), shared.next()) else { continue };
        if good_values.is_empty() || good_values.contains(&value) {
            continue;
        }
        let (rank, class, reason, citation) = classed(table, path, regime, all().copied());
        let good = good_values.into_iter().collect();
        let found = Shared { path: path.to_owned(), class, bad: value, good, unknown, reason, citation, rank };
        if unknown == 0 { answer.separates.push(found) } else { answer.candidates.push(found) }
    }
    for list in [&mut answer.separates, &mut answer.candidates] {
        list.sort_by(|a, b| (a.class, a.unknown, a.rank, &a.path).cmp(&(b.class, b.unknown, b.rank, &b.path)));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        factor::{Fact, Missing},
        statement::Scope,
        testing::{fact, statement},
    };

    fn run(threads: &str, kernel: &str, libraries: &[&str]) -> Statement {
        let mut facts = vec![
            fact("run/env", "read"),
            fact("run/env/OMP_NUM_THREADS", threads),
            fact("node/kernel/release", kernel),
            fact("run/library", "complete"),
        ];
        facts.extend(libraries.iter().map(|library| fact(&format!("run/library/{library}"), "build-id:1")));
        statement(Scope::Run, facts)
    }

    fn found(bad: &[&Statement], good: &[&Statement]) -> (Vec<String>, Vec<String>) {
        let answer = common(bad, good, &Table::built_in().unwrap(), None, &[]);
        let paths = |list: Vec<Shared>| list.into_iter().map(|one| one.path).collect();
        (paths(answer.separates), paths(answer.candidates))
    }

    #[test]
    fn the_factor_that_all_bad_runs_share_and_no_good_one_has_is_named_worst_class_first() {
        let bad = [run("2", "6.2", &["a.so", "x.so"]), run("2", "6.2", &["a.so"])];
        let good = [run("1", "6.1", &["a.so", "x.so"]), run("4", "6.0", &["a.so"])];
        let (bad, good): (Vec<_>, Vec<_>) = (bad.iter().collect(), good.iter().collect());
        assert_eq!(found(&bad, &good).0, ["run/env/OMP_NUM_THREADS", "node/kernel/release"]);
        // A good run with the same value: the factor explains nothing.
        let innocent = run("2", "6.1", &["a.so"]);
        assert_eq!(found(&bad, &[good[0], &innocent]).0, ["node/kernel/release"]);
        // Bad runs that do not agree share nothing.
        let other = run("3", "6.1", &["a.so"]);
        assert_eq!(found(&[bad[0], &other], &good), (vec![], vec![]));
    }

    #[test]
    fn a_library_that_only_bad_runs_loaded_separates_by_its_absence_elsewhere() {
        let (bad, good) = (run("1", "6.1", &["jpeg.so"]), run("1", "6.1", &[]));
        assert_eq!(found(&[&bad], &[&good]).0, ["run/library/jpeg.so"]);
        assert_eq!(found(&[&good], &[&bad]).0, ["run/library/jpeg.so"]);
    }

    #[test]
    fn what_is_not_known_everywhere_is_a_candidate_at_most() {
        let (bad, good) = (run("2", "6.1", &[]), run("1", "6.1", &[]));
        let missing = Fact::measured("run/env/OMP_NUM_THREADS", "a test", Err(Missing::unavailable("x")));
        let blind = statement(Scope::Run, vec![fact("run/env", "read"), missing]);
        assert_eq!(found(&[&bad], &[&good, &blind]).1, ["run/env/OMP_NUM_THREADS"]);
        assert_eq!(found(&[&bad, &blind], &[&good]).1, ["run/env/OMP_NUM_THREADS"]);
        // Nothing is known of the other side: that is no candidate.
        assert_eq!(found(&[&bad], &[&blind]), (vec![], vec![]));
        assert_eq!(found(&[&blind], &[&good]), (vec![], vec![]));
    }
}
