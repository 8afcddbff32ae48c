//! The kernel's log: which lines speak of the hardware, and what they say. Data, in `policies/kernel-log.toml`.
//!
//! Pure: bytes of a record in, at most one [`LogFact`] out. Invariants: no record, however long, broken or hostile, does more than
//! not fit; records that user space wrote, and records that quote text which a user chose, are evidence of nothing; a storm
//! is reported once a second for each pattern and device.

mod pattern;
mod quoting;
mod record;

pub use record::{Record, record};

use crate::{
    policy::diagnostic::{Diagnostic, Diagnostics},
    time::{MonoTime, Span},
    xid::{Advice, HealthImpact},
};
use pattern::{Captures, Pattern};
use serde::Deserialize;
use std::collections::{BTreeMap, VecDeque};
use toml::Spanned;

const BUILT_IN: &str = include_str!("../../../policies/kernel-log.toml");
/// Told again after this.
const AGAIN_AFTER: Span = Span::from_secs(1);
/// Patterns and devices remembered at most.
const KEPT: usize = 1_024;
/// Characters of a record that are kept.
const SHOWN: usize = 240;
/// Most `times` of a pattern.
const MOST_TIMES: u32 = 10_000;

/// A PCI address, without the function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bus {
    /// Domain.
    pub domain: u32,
    /// Bus.
    pub bus: u8,
    /// Device.
    pub device: u8,
}

impl Bus {
    /// Reads `0000:3b:00`, `00000000:3B:00.0` and `3b:00.0`.
    pub fn parse(text: &str) -> Option<Bus> {
        let text = text.split_once('.').map_or(text, |(before, _)| before);
        let mut parts = text.rsplit(':');
        let device = u8::from_str_radix(parts.next()?, 16).ok()?;
        let bus = u8::from_str_radix(parts.next()?, 16).ok()?;
        let domain = match parts.next() {
            Some(domain) => u32::from_str_radix(domain, 16).ok()?,
            None => 0,
        };
        parts.next().is_none().then_some(Bus { domain, bus, device })
    }
}

impl std::fmt::Display for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}", self.domain, self.bus, self.device)
    }
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogFact {
    /// An XID.
    Xid {
        /// Of which device.
        bus: Option<Bus>,
        /// Which.
        code: u64,
        /// The GPU instance that it is of, and the compute instance.
        slice: (Option<u32>, Option<u32>),
        /// What follows the number in the record, cut.
        text: String,
    },
    /// A GPU is lost from the bus.
    GpuLost {
        /// Which device.
        bus: Option<Bus>,
        /// The line.
        line: String,
    },
    /// Something else speaks against a device or the node.
    Note {
        /// Which device, where the line says it.
        bus: Option<Bus>,
        /// A stable word.
        reason: String,
        /// What it makes of the part.
        harm: HealthImpact,
        /// What to do.
        advice: Advice,
        /// In words, with the line.
        text: String,
    },
}

/// The patterns, and the records that came lately.
#[derive(Debug, Clone)]
pub struct Lines {
    patterns: Vec<Line>,
    recent: BTreeMap<(usize, Option<String>), Recent>,
}

/// The records of one pattern and device that came lately.
#[derive(Debug, Clone, Default)]
struct Recent {
    reported: Option<MonoTime>,
    came: VecDeque<MonoTime>,
}

#[derive(Debug, Clone)]
struct Line {
    pattern: Pattern,
    says: Says,
    times: usize,
    within: Span,
    apart: Span,
}

#[derive(Debug, Clone)]
enum Says {
    Xid,
    GpuLost,
    Nothing,
    Note { reason: String, harm: HealthImpact, advice: Advice, text: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    pattern: Vec<RawPattern>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPattern {
    line: Spanned<String>,
    says: Spanned<RawSays>,
    reason: Option<String>,
    health: Option<HealthImpact>,
    action: Option<Advice>,
    text: Option<String>,
    times: Option<Spanned<u32>>,
    within_s: Option<u32>,
    apart_s: Option<u32>,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum RawSays {
    Xid,
    GpuLost,
    Note,
    Nothing,
}

impl Lines {
    /// The built-in patterns.
    ///
    /// # Errors
    /// None in a build that passed its tests.
    pub fn built_in() -> Result<Lines, Diagnostics> {
        Lines::parse("policies/kernel-log.toml", BUILT_IN)
    }

    /// Reads patterns. `file` only names it in errors.
    ///
    /// # Errors
    /// All that is wrong, each with file, line, column and what was expected.
    pub fn parse(file: &str, text: &str) -> Result<Lines, Diagnostics> {
        let fail = |list| Diagnostics { file: file.to_owned(), list };
        let raw: Raw = toml::from_str(text).map_err(|error| fail(vec![Diagnostic::of_toml(text, &error)]))?;
        let mut wrong = Vec::new();
        let mut patterns = Vec::new();
        for raw in raw.pattern {
            let span = raw.line.span();
            match line(raw) {
                Ok(line) => patterns.push(line),
                Err(message) => wrong.push(Diagnostic::at(text, span, message, None)),
            }
        }
        if wrong.is_empty() { Ok(Lines { patterns, recent: BTreeMap::new() }) } else { Err(fail(wrong)) }
    }

    /// What a message of the kernel says; `None` for what fits nothing, quotes a user's text, or was reported a moment ago.
    pub fn hear(&mut self, message: &str, at: MonoTime) -> Option<LogFact> {
        if quoting::quotes_user_text(message) {
            return None;
        }
        let (index, captures) =
            self.patterns.iter().enumerate().find_map(|(n, line)| Some((n, line.pattern.fit(message)?)))?;
        let line = &self.patterns[index];
        let Captures { bus: device, name, code, count, gpu_instance, compute_instance, rest } = captures;
        let bus = device.and_then(Bus::parse);
        if let Says::Nothing = line.says {
            return None;
        }
        if let Says::Xid = line.says {
            // Storms of these are told apart by number, beside those of NVML.
            let number = |text: Option<&str>| text.and_then(|text| text.parse().ok());
            let slice = (number(gpu_instance), number(compute_instance));
            let text = rest.chars().take(SHOWN).collect();
            return Some(LogFact::Xid { bus, code: code?.parse().ok()?, slice, text });
        }
        // The function is a part of the device: each function of a network card that loses its link once is not one that
        // loses it repeatedly.
        let key = (index, device.or(name).map(str::to_ascii_lowercase));
        if self.recent.len() >= KEPT && !self.recent.contains_key(&key) {
            self.recent.pop_first();
        }
        let recent = self.recent.entry(key).or_default();
        // Records of one event come together.
        if recent.came.back().is_some_and(|last| at.since(*last) < line.apart) {
            return None;
        }
        // One record may stand for many errors (EDAC).
        let errors = count.map_or(1, |count| count.parse().unwrap_or(usize::MAX)).min(line.times);
        recent.came.extend(std::iter::repeat_n(at, errors));
        while recent.came.len() > line.times
            || recent.came.front().is_some_and(|first| line.times > 1 && at.since(*first) > line.within)
        {
            recent.came.pop_front();
        }
        if recent.came.len() < line.times || recent.reported.is_some_and(|last| at.since(last) < AGAIN_AFTER) {
            return None;
        }
        recent.reported = Some(at);
        let shown: String = message.chars().take(SHOWN).collect();
        Some(match &line.says {
            Says::Xid | Says::Nothing => return None,
            Says::GpuLost => LogFact::GpuLost { bus, line: shown },
            Says::Note { reason, harm, advice, text } => LogFact::Note {
                bus,
                reason: reason.clone(),
                harm: *harm,
                advice: *advice,
                text: format!("{text}: \"{shown}\""),
            },
        })
    }
}

fn line(raw: RawPattern) -> Result<Line, String> {
    let pattern = Pattern::parse(raw.line.get_ref())?;
    let says = match raw.says.into_inner() {
        RawSays::Xid if !pattern.has_code() => return Err("an XID's `line` needs {code}".into()),
        RawSays::Xid => Says::Xid,
        RawSays::GpuLost => Says::GpuLost,
        RawSays::Nothing => Says::Nothing,
        RawSays::Note => match (raw.reason, raw.health, raw.action, raw.text) {
            (Some(reason), Some(harm), Some(advice), Some(text)) if !reason.is_empty() => {
                Says::Note { reason, harm, advice, text }
            }
            _ => return Err("a note needs `reason`, `health`, `action` and `text`".into()),
        },
    };
    let times = raw.times.map_or(1, Spanned::into_inner);
    if !(1..=MOST_TIMES).contains(&times) || (times > 1) != raw.within_s.is_some() {
        return Err(format!("`times` from 2 to {MOST_TIMES} goes with `within_s`, and neither without the other"));
    }
    if raw.apart_s.is_some() && times == 1 {
        return Err("`apart_s` goes with `times`".into());
    }
    let seconds = |field: Option<u32>| Span::from_secs(u64::from(field.unwrap_or(0)));
    let (within, apart) = (seconds(raw.within_s), seconds(raw.apart_s));
    Ok(Line { pattern, says, times: usize::try_from(times).unwrap_or(usize::MAX), within, apart })
}

#[cfg(test)]
mod tests;
