//! What entries say of a path.

use failsafe_ebpf::abi::Effects;
use proptest::prelude::*;

use super::{Asked, Kernel, Tables, answer, at, check, put};
use failsafe_matchers::fold::offline;
use failsafe_matchers::rules::{Effect, ExecList, PATH_MAX, PathRule, Rules, effects};
use failsafe_matchers::strategies::any_path_rule as any_rule;

impl Kernel {
    fn path(&mut self, table: u32, path: &str) -> Effects {
        let mut asked: Asked = [0; at::END];
        put(&mut asked, at::TABLE, &table.to_ne_bytes());
        put(&mut asked, at::PATH, path.as_bytes());
        let [exec, map, read, write, ..] = answer(&self.ask("parity_path", &asked)).to_le_bytes();
        if cfg!(target_endian = "big") {
            panic!("the word is read as little-endian")
        }
        Effects { exec, map, read, write }
    }
}

/// As of the folded table's own test, and some as long as a rule's path may be.
fn any_length() -> impl Strategy<Value = PathRule> {
    (any_rule(), prop_oneof![4 => Just(0), 1 => 200..PATH_MAX]).prop_map(|(mut rule, length)| {
        let missing = length.saturating_sub(rule.pattern.path.len());
        rule.pattern.path.push_str(&"é".repeat(missing / 2));
        rule
    })
}

/// A path by one of the rules': as it stands, longer, or cut.
#[derive(Clone, Debug)]
struct Near {
    of: prop::sample::Index,
    longer: String,
    shorter: usize,
}

fn near() -> impl Strategy<Value = Near> {
    let longer = prop_oneof![
        3 => Just(String::new()),
        3 => "[/abé]{1,3}",
        // Beyond what is compared, and up to what the kernel resolves.
        1 => (1usize..3600).prop_map(|n| "b".repeat(n)),
    ];
    (any::<prop::sample::Index>(), longer, 0usize..4).prop_map(|(of, longer, shorter)| Near {
        of,
        longer,
        shorter: shorter.saturating_sub(1),
    })
}

impl Near {
    fn path(&self, known: &[&str]) -> String {
        let mut path = (*self.of.get(known)).to_owned();
        for _ in 0..self.shorter.min(path.chars().count().saturating_sub(1)) {
            path.pop();
        }
        path + &self.longer
    }
}

#[test]
fn the_kernel_finds_of_a_path_what_the_rules_say_of_it() {
    let Some(kernel) = Kernel::load(&["parity_path"]) else { return };
    let strategy = (
        prop::collection::vec(any_length(), 0..8),
        prop::option::of((
            prop_oneof![Just(Effect::Observe), Just(Effect::Deny)],
            prop::collection::vec(any_length(), 0..4),
        )),
        prop::collection::vec(near(), 1..16),
    );
    check(kernel, 1500, &strategy, |kernel, (paths, list, asked)| {
        let exec =
            list.map(|(others, allow)| ExecList { others, allow: allow.into_iter().map(|r| r.pattern).collect() });
        let rules = Rules { paths, exec, ..Rules::default() };
        let tables = Tables { rules: offline(&rules), ..Tables::default() };
        let mut known = vec!["/a"];
        known.extend(rules.paths.iter().map(|r| r.pattern.path.as_str()));
        known.extend(rules.exec.iter().flat_map(|list| &list.allow).map(|p| p.path.as_str()));
        kernel.under(&tables, |kernel, table| {
            for path in asked.iter().map(|near| near.path(&known)) {
                prop_assert_eq!(kernel.path(table, &path), effects(&rules, &path), "{}", path);
                prop_assert_eq!(tables.rules.lookup(&path), effects(&rules, &path), "{}", path);
            }
            Ok(())
        })
    });
}
