//! What an XID makes of its GPU, by the catalogue and by what came before it.

use super::level::Level;
use crate::{
    time::{MonoTime, Span},
    xid::{Advice, Catalogue, Harm},
};
use std::collections::{BTreeMap, VecDeque};

/// An XID that follows others is looked at beside those of this long before it.
const WITH_OTHERS: Span = Span::from_secs(60);
/// Repetitions are counted over this.
const DAY: Span = super::checks::DAY;
/// Instants remembered of one XID.
const KEPT: usize = 64;

/// XIDs of one GPU.
#[derive(Debug, Clone, Default)]
pub(super) struct Xids {
    last_other: Option<MonoTime>,
    repeats: BTreeMap<u64, VecDeque<MonoTime>>,
}

/// A reason that an XID gives.
pub(super) struct Found {
    pub code: String,
    pub level: Level,
    pub text: String,
    pub advice: Advice,
}

/// What came of an XID.
pub(super) struct Verdict {
    pub found: Vec<Found>,
    /// Codes of reasons that are over.
    pub over: Vec<String>,
}

impl Xids {
    pub(super) fn hear(&mut self, catalogue: &Catalogue, code: u64, at: MonoTime) -> Verdict {
        let mut verdict = Verdict { found: Vec::new(), over: Vec::new() };
        let named = catalogue.describe(code);
        let Some(xid) = catalogue.get(code) else {
            self.last_other = Some(at);
            verdict.found.push(Found {
                code: reason(code),
                level: Level::Degraded,
                text: named,
                advice: Advice::ContactSupport,
            });
            return verdict;
        };
        verdict.over = xid.cancels.iter().map(|other| reason(*other)).collect();
        if xid.follows {
            // Beside its cause it says nothing. Alone it is what the catalogue says of it.
            if self.last_other.is_some_and(|other| at.since(other) <= WITH_OTHERS) {
                return verdict;
            }
        } else {
            self.last_other = Some(at);
        }
        let level = match xid.harm {
            Harm::None => None,
            Harm::Degraded => Some(Level::Degraded),
            Harm::Unhealthy => Some(Level::Unhealthy),
        };
        if let Some(level) = level {
            let text = format!("{named}: {}", xid.meaning);
            verdict.found.push(Found { code: reason(code), level, text, advice: xid.action });
        }
        if let Some(times) = xid.repeated {
            let seen = self.repeats.entry(code).or_default();
            seen.push_back(at);
            while seen.len() > KEPT || seen.front().is_some_and(|first| at.since(*first) > DAY) {
                seen.pop_front();
            }
            if seen.len() >= usize::try_from(times).unwrap_or(usize::MAX) {
                verdict.found.push(Found {
                    code: format!("{}-repeated", reason(code)),
                    level: Level::Degraded,
                    text: format!("{named}, {} times within a day on this GPU: perhaps its hardware", seen.len()),
                    advice: Advice::InspectHardware,
                });
            }
        }
        verdict
    }
}

fn reason(code: u64) -> String {
    format!("xid-{code}")
}
