//! `[drill]`: how often the node proves that it can stop a run.

use super::check::Wrong;
use failsafe_core::{drill::Schedule, time::Span};
use serde::{Deserialize, Deserializer, de::Error};

/// `[drill]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drill {
    /// Time between two drills; none: only those that an administrator asks for.
    pub every: Option<Length>,
    /// Largest random delay of each, so that the nodes of a cluster do not drill together.
    pub jitter: Length,
}

/// A length of time, as the configuration writes it: `24h`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Length(pub Span);

const SHORTEST: Span = Span::from_secs(10);
const LONGEST: Span = Span::from_secs(30 * 86_400);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Length, D::Error> {
        let text = String::deserialize(d)?;
        let span = Span::parse(&text).filter(|span| *span <= LONGEST);
        span.map(Length)
            .ok_or_else(|| Error::custom(format!("`{text}`: expected a time up to 30d, such as 24h or 30m")))
    }
}

impl Drill {
    /// What is wrong with it.
    pub(super) fn wrong(&self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        let Some(Length(every)) = self.every else { return wrong };
        if every < SHORTEST {
            wrong.push(Wrong::new("drill.every", format!("expected 10s to 30d, not {every}")));
        }
        if self.jitter.0 > every {
            wrong.push(Wrong::new("drill.jitter", format!("expected at most drill.every, which is {every}")));
        }
        wrong
    }

    /// When drills are done; none: there is no schedule.
    pub fn schedule(&self) -> Option<Schedule> {
        self.every.map(|every| Schedule { every: every.0, jitter: self.jitter.0 })
    }
}
