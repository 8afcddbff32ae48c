//! May work be placed here: a yes or no with reasons, for schedulers.

mod constraints;

pub use constraints::{Constraints, Equipment, MigWanted, Traits};

use super::{Level, Reason, Target, View};
use crate::subject::{GpuId, RunId};
use std::collections::{BTreeMap, BTreeSet};

/// What is to be placed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// These GPUs.
    pub gpus: BTreeSet<GpuId>,
    /// Or so many, whichever; 0 with no GPU named: the node itself.
    pub count: usize,
    /// A degraded node or GPU will do.
    pub degraded: bool,
    /// GPUs that runs are on will do too.
    pub shared: bool,
    /// What each must be and have, and how they must lie.
    pub constraints: Constraints,
}

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// Yes or no.
    pub placeable: bool,
    /// The GPUs it could be placed on.
    pub gpus: BTreeSet<GpuId>,
    /// Why not; or what is to be known although it is a yes.
    pub reasons: Vec<String>,
}

/// A part on which nothing new is to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// Which.
    pub target: Target,
    /// How it stands: draining or unhealthy.
    pub level: Level,
    /// Why, the worst first.
    pub why: String,
}

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is {}: {}", self.target, self.level, self.why)
    }
}

impl View {
    /// Which of these GPUs, and whether the node itself, may not have work started on them without a word of whoever repairs
    /// them. The node counts for work without a GPU too. What is degraded or not seen is for the caller's policy to judge.
    pub fn closed(&self, gpus: &BTreeSet<GpuId>) -> Vec<Closed> {
        let closed = |target: Target, level: Level, reasons: &[Reason]| {
            let why: Vec<&str> =
                reasons.iter().filter(|r| r.level >= Level::Draining).map(|r| r.text.as_str()).collect();
            (level >= Level::Draining).then(|| Closed { target, level, why: why.join("; ") })
        };
        let parts = gpus.iter().filter_map(|gpu| Some((gpu, self.gpus.get(gpu)?)));
        let of_gpus = parts.filter_map(|(gpu, part)| closed(Target::Gpu(gpu.clone()), part.level, &part.reasons));
        closed(Target::Node, self.node_alone(), &self.node.reasons).into_iter().chain(of_gpus).collect()
    }

    /// Whether `wanted` may be placed, given which runs hold which GPUs, and what those are and have. Of so many GPUs, whichever, a
    /// set that lies together is looked for among those that fit, the healthy ones first.
    pub fn placeable(
        &self,
        wanted: &Wanted,
        held: &BTreeMap<GpuId, BTreeSet<RunId>>,
        equipment: &Equipment,
    ) -> Placement {
        let mut answer = Placement::default();
        let mut no = !accepted(self.node_alone(), wanted.degraded);
        if self.node_alone() > Level::Healthy {
            answer.reasons.extend(self.node.reasons.iter().map(|r| format!("node: {}", r.text)));
        }
        let fits = |gpu: &GpuId, answer: &mut Placement| -> bool {
            let Some(part) = self.gpus.get(gpu) else {
                answer.reasons.push(format!("{gpu}: this node has no such GPU"));
                return false;
            };
            if part.level > Level::Healthy {
                let why: Vec<&str> = part.reasons.iter().map(|r| r.text.as_str()).collect();
                answer.reasons.push(format!("{gpu} is {}: {}", part.level, why.join("; ")));
            }
            let runs =
                held.get(gpu).filter(|runs| !runs.is_empty() && !wanted.shared && !wanted.constraints.is_of_slices());
            if let Some(runs) = runs {
                let runs: Vec<String> = runs.iter().map(ToString::to_string).collect();
                answer.reasons.push(format!("{gpu} is held by run(s) {}", runs.join(", ")));
            }
            let against = wanted.constraints.against(gpu, equipment, wanted.shared);
            answer.reasons.extend(against.iter().map(|why| format!("{gpu}: {why}")));
            accepted(part.level, wanted.degraded) && runs.is_none() && against.is_empty()
        };
        if wanted.gpus.is_empty() {
            // Healthy ones first: a degraded one is taken only when it must be.
            let mut order: Vec<&GpuId> = self.gpus.keys().collect();
            order.sort_by_key(|gpu| self.gpus[*gpu].level);
            let fitting: Vec<&GpuId> = order.into_iter().filter(|gpu| fits(gpu, &mut answer)).collect();
            match wanted.constraints.together(&fitting, wanted.count, equipment) {
                Some(chosen) => answer.gpus = chosen,
                None => {
                    no = true;
                    let (count, fit) = (wanted.count, fitting.len());
                    answer.reasons.push(match fit < count {
                        true => format!("{count} GPU(s) wanted, {fit} free and fit"),
                        false => {
                            format!("{count} GPU(s) wanted, {fit} free and fit, but no {count} of them lie together")
                        }
                    });
                }
            }
        } else {
            for gpu in &wanted.gpus {
                if fits(gpu, &mut answer) {
                    answer.gpus.insert(gpu.clone());
                } else {
                    no = true;
                }
            }
            let named: Vec<&GpuId> = wanted.gpus.iter().collect();
            for (at, one) in named.iter().enumerate() {
                for apart in named[at + 1..].iter().filter_map(|other| wanted.constraints.apart(one, other, equipment))
                {
                    answer.reasons.push(apart);
                    no = true;
                }
            }
        }
        answer.placeable = !no;
        if no {
            answer.gpus.clear();
        }
        answer
    }

    /// The node without its GPUs: one bad GPU does not speak against work on the others.
    fn node_alone(&self) -> Level {
        self.node.reasons.iter().map(|reason| reason.level).max().unwrap_or(Level::Healthy)
    }
}

fn accepted(level: Level, degraded: bool) -> bool {
    level == Level::Healthy || (degraded && level == Level::Degraded)
}
