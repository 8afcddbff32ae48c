//! A condition of several parts, compiled: its steps in the order in which they are judged.

use super::instance::Instance;
use crate::{
    decision::Confidence,
    engine::leaf::LeafState,
    policy::{Leaf, Node, Tree, Truth},
    time::MonoTime,
};
use std::ops::Not;

/// A condition, compiled.
#[derive(Debug, Clone, Default)]
pub(super) struct Program {
    pub(super) steps: Vec<Step>,
    pub(super) leaves: Vec<Leaf>,
}

/// One step of a compiled condition. Its parts come before it.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Leaf(usize),
    Not(usize),
    AtLeast { n: usize, of: Vec<usize> },
}

impl Program {
    pub(super) fn of(tree: &Tree) -> Program {
        let mut program = Program::default();
        program.add(&tree.root);
        program
    }

    /// The number of the step.
    fn add(&mut self, node: &Node) -> usize {
        let step = match node {
            Node::Leaf(leaf) => {
                self.leaves.push(leaf.clone());
                Step::Leaf(self.leaves.len() - 1)
            }
            Node::Not(part) => Step::Not(self.add(part)),
            many => {
                let of = many.parts().iter().map(|part| self.add(part)).collect();
                Step::AtLeast { n: many.needed(), of }
            }
        };
        self.steps.push(step);
        self.steps.len() - 1
    }

    /// The tests, with whether they had to hold, that made a step what it is; the confidence in it.
    pub(super) fn witnesses(
        &self,
        step: usize,
        wanted: bool,
        truths: &[Truth],
        out: &mut Vec<(usize, bool)>,
    ) -> Confidence {
        match self.steps.get(step) {
            None => Confidence::High,
            Some(Step::Leaf(leaf)) => {
                out.push((*leaf, wanted));
                self.leaves.get(*leaf).and_then(|leaf| leaf.confidence).unwrap_or(Confidence::High)
            }
            Some(Step::Not(part)) => self.witnesses(*part, !wanted, truths, out),
            Some(Step::AtLeast { n, of }) => {
                let agree = |part: &&usize| truths.get(**part) == Some(&Truth::from(wanted));
                let mut sure: Vec<Confidence> =
                    of.iter().filter(agree).map(|part| self.witnesses(*part, wanted, truths, out)).collect();
                sure.sort_by(|a, b| b.cmp(a));
                // So many of them suffice: the least certain of the most certain that do.
                let enough = if wanted { *n } else { of.len() + 1 - n };
                sure.get(enough.saturating_sub(1)).copied().unwrap_or(Confidence::High)
            }
        }
    }

    /// Whether the condition holds also without what would have been denied.
    pub(super) fn really_holds(&self, shared: &[LeafState], instance: &mut Instance) -> bool {
        let Instance { own, truths, real, now, .. } = instance;
        if truths.last() != Some(&Truth::True) {
            return false;
        }
        for (step, what) in self.steps.iter().enumerate() {
            let of = |part: &usize| real.get(*part).copied().unwrap_or_default();
            let truth = match what {
                Step::Leaf(n) => {
                    let truth = truths.get(step).copied().unwrap_or_default();
                    let is_observed = self.leaves.get(*n).is_some_and(|Leaf { test, .. }| {
                        let states = if test.is_of_gpus() { &**own } else { shared };
                        states.get(*n).is_some_and(|state| state.is_observed(test, *now))
                    });
                    if truth == Truth::True && is_observed { Truth::False } else { truth }
                }
                Step::Not(part) => of(part).not(),
                Step::AtLeast { n, of: parts } => Truth::at_least(*n, parts.iter().map(of)),
            };
            if let Some(slot) = real.get_mut(step) {
                *slot = truth;
            }
        }
        real.last() == Some(&Truth::True)
    }
}

pub(super) fn states(program: &Program, now: MonoTime) -> Vec<LeafState> {
    program.leaves.iter().map(|leaf| LeafState::new(&leaf.test, now)).collect()
}
