//! What tests reached of a policy: which rules matched, and which tests of their conditions were true and false.

use failsafe_core::{
    Policy,
    policy::{Condition, Truth},
};

/// What was reached, by the places of the rules in the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    /// The rules.
    pub rules: Vec<RuleCoverage>,
}

/// What was reached of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleCoverage {
    /// Its id.
    pub id: String,
    /// Decisions of it.
    pub matched: u64,
    /// Inputs that it judged and that made no decision.
    pub quiet: u64,
    /// Every event of its kind matches it, so that nothing leaves it quiet.
    pub always: bool,
    /// The tests of a condition of several parts.
    pub tests: Vec<TestCoverage>,
}

/// What was reached of one test of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestCoverage {
    /// The test, in words.
    pub test: String,
    /// It was true.
    pub held: bool,
    /// It was false.
    pub failed: bool,
    /// It was unknown.
    pub unknown: bool,
}

impl Coverage {
    /// Of a policy of which nothing was tested yet.
    pub fn of(policy: &Policy) -> Coverage {
        let tests = |when: &Condition| match when {
            Condition::Tree(tree) => {
                let new = |test| TestCoverage { test, held: false, failed: false, unknown: false };
                tree.leaves().into_iter().map(|leaf| new(leaf.to_string())).collect()
            }
            _ => Vec::new(),
        };
        let rule = |rule: &failsafe_core::policy::Rule| RuleCoverage {
            id: rule.id.clone(),
            matched: 0,
            quiet: 0,
            always: rule.when.event().is_some_and(|event| event.fields.is_empty()),
            tests: tests(&rule.when),
        };
        Coverage { rules: policy.rules.iter().map(rule).collect() }
    }

    /// With what another test reached.
    pub fn add(&mut self, other: &Coverage) {
        for (mine, theirs) in self.rules.iter_mut().zip(&other.rules) {
            mine.matched += theirs.matched;
            mine.quiet += theirs.quiet;
            for (mine, theirs) in mine.tests.iter_mut().zip(&theirs.tests) {
                mine.held |= theirs.held;
                mine.failed |= theirs.failed;
                mine.unknown |= theirs.unknown;
            }
        }
    }

    pub(crate) fn saw(&mut self, rule: usize, test: usize, truth: Truth) {
        if let Some(test) = self.rules.get_mut(rule).and_then(|rule| rule.tests.get_mut(test)) {
            match truth {
                Truth::True => test.held = true,
                Truth::False => test.failed = true,
                Truth::Unknown => test.unknown = true,
            }
        }
    }

    /// Rules that no test made match, and rules that no test left quiet.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for rule in &self.rules {
            if rule.matched == 0 {
                missing.push(format!("rule {}: no test makes it match", rule.id));
            }
            if rule.quiet == 0 && !rule.always {
                missing.push(format!("rule {}: no test gives it an input on which it does not match", rule.id));
            }
            for test in &rule.tests {
                let never = match (test.held, test.failed) {
                    (true, true) => continue,
                    (false, true) => "true",
                    (true, false) => "false",
                    (false, false) => "true or false",
                };
                missing.push(format!("rule {}: in no test is this {never}: {}", rule.id, test.test));
            }
        }
        missing
    }

    /// How many of the branches were reached: a rule has two, and so has each test of a condition.
    pub fn branches(&self) -> (usize, usize) {
        let of_rules =
            self.rules.iter().map(|rule| usize::from(rule.matched > 0) + usize::from(rule.quiet > 0 && !rule.always));
        let of_tests = self.rules.iter().flat_map(|rule| &rule.tests);
        let always = self.rules.iter().filter(|rule| rule.always).count();
        let all = 2 * (self.rules.len() + of_tests.clone().count()) - always;
        let tests: usize = of_tests.map(|test| usize::from(test.held) + usize::from(test.failed)).sum();
        (of_rules.sum::<usize>() + tests, all)
    }
}
