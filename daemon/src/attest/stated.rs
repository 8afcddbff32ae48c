//! From facts to a statement.

use failsafe_attest::{About, Class, Fact, Missing, PublicKey, Regime, Scope, Statement, Table};

/// Of what a statement is.
#[derive(Debug, Clone, Copy)]
pub struct StatedOf {
    /// A node or a run.
    pub scope: Scope,
    /// As the run's manifest declares it.
    pub regime: Option<Regime>,
    /// When, by the node's wall clock.
    pub taken_ns: i64,
}

/// The statement about these facts.
pub fn stated(facts: Vec<Fact>, table: &Table, of: StatedOf, signer: Option<PublicKey>, nonce: &[u8]) -> Statement {
    let StatedOf { scope, regime, taken_ns } = of;
    Statement::of(facts, table, &About { scope, taken_ns, version: env!("CARGO_PKG_VERSION"), signer, nonce, regime })
}

/// What identifies the node is not for every owner of a run: serial numbers, other runs' GPUs.
pub fn hide_identity(facts: &mut [Fact], table: &Table) {
    let hidden =
        |fact: &&mut Fact| fact.path.starts_with("node/") && table.class(&fact.path, Regime::Seeded) == Class::Identity;
    for fact in facts.iter_mut().filter(hidden) {
        fact.value = Err(Missing::denied("only root and the administrators' group read it"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_attest::Json;

    #[test]
    fn an_owner_gets_what_decides_about_results_and_not_what_identifies_the_node() {
        let table = Table::built_in().unwrap();
        let fact = |path: &str| Fact::measured(path, "a test", Ok(Json::from("x")));
        let mut facts = ["node/dmi/serial", "node/hostname", "node/gpu/0/uuid", "node/cpu/model", "run/id"].map(fact);
        hide_identity(&mut facts, &table);
        let shown: Vec<&str> = facts.iter().filter(|fact| fact.value.is_ok()).map(|fact| fact.path.as_str()).collect();
        assert_eq!(shown, ["node/cpu/model", "run/id"]);
        let of = StatedOf { scope: Scope::Run, regime: None, taken_ns: 1 };
        let statement = stated(facts.to_vec(), &table, of, None, &[]);
        assert!(statement.check().is_ok(), "a hidden factor is part of the statement");
    }
}
