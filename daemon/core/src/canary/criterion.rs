//! One criterion: `MEASURE > NUMBER` or `MEASURE <= NUMBER`.

use super::{Arms, WHOLE};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What is measured. All are about runs, so that a run that is contained again and again counts once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Runs that the candidate contained.
    Contained,
    /// The same beyond as many as there would be at the share of the control runs.
    Excess,
    /// The share of the candidate's runs that it contained, in percent.
    Share,
}

impl Measure {
    /// The name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Measure::Contained => "contained",
            Measure::Excess => "excess",
            Measure::Share => "share",
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// `>`.
    Above,
    /// `<=`.
    AtMost,
}

/// A criterion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Criterion {
    /// What.
    pub measure: Measure,
    /// How.
    pub op: Op,
    /// With what: runs, or percent.
    pub bound: u32,
}

/// Not a criterion.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}`: expected contained, excess or share, then > or <=, then a whole number of runs, or of percent for share; as in \
     `excess > 2` or `share <= 5%`"
)]
pub struct BadCriterion(String);

impl FromStr for Criterion {
    type Err = BadCriterion;

    fn from_str(text: &str) -> Result<Criterion, BadCriterion> {
        let bad = || BadCriterion(text.chars().take(80).collect());
        let (left, op, right) = match (text.split_once("<="), text.split_once('>')) {
            (Some((left, right)), None) => (left, Op::AtMost, right),
            (None, Some((left, right))) => (left, Op::Above, right),
            _ => return Err(bad()),
        };
        let measure = [Measure::Contained, Measure::Excess, Measure::Share];
        let measure = measure.into_iter().find(|one| one.name() == left.trim()).ok_or_else(bad)?;
        let right = right.trim();
        let number = match (measure, right.strip_suffix('%')) {
            (Measure::Share, Some(percent)) => percent,
            (Measure::Share, None) | (_, Some(_)) => return Err(bad()),
            (_, None) => right,
        };
        if !number.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(bad());
        }
        let bound: u32 = number.parse().map_err(|_| bad())?;
        let most = if measure == Measure::Share { 100 } else { WHOLE };
        if bound > most {
            return Err(bad());
        }
        Ok(Criterion { measure, op, bound })
    }
}

impl TryFrom<String> for Criterion {
    type Error = BadCriterion;

    fn try_from(text: String) -> Result<Criterion, BadCriterion> {
        text.parse()
    }
}

impl From<Criterion> for String {
    fn from(criterion: Criterion) -> String {
        criterion.to_string()
    }
}

impl fmt::Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Criterion { measure, op, bound } = self;
        let op = match op {
            Op::Above => ">",
            Op::AtMost => "<=",
        };
        let unit = if *measure == Measure::Share { "%" } else { "" };
        write!(f, "{measure} {op} {bound}{unit}")
    }
}

impl Criterion {
    /// Whether it holds; none: that is not known yet. Without control runs, all of what the candidate contained is in excess, which can
    /// withdraw it and cannot promote it.
    #[must_use]
    pub fn holds(&self, arms: &Arms) -> Option<bool> {
        let (left, right) = self.sides(arms)?;
        Some(match self.op {
            Op::Above => left > right,
            Op::AtMost if self.measure == Measure::Excess && arms.control.runs == 0 => return None,
            Op::AtMost => left <= right,
        })
    }

    /// Both sides of the comparison, multiplied so that they are whole numbers.
    fn sides(&self, arms: &Arms) -> Option<(i128, i128)> {
        let Arms { candidate, control } = arms;
        let (contained, runs, bound) =
            (i128::from(candidate.contained), i128::from(candidate.runs), i128::from(self.bound));
        match self.measure {
            Measure::Contained => Some((contained, bound)),
            Measure::Excess if control.runs == 0 => Some((contained, bound)),
            Measure::Excess => {
                let (of, all) = (i128::from(control.contained), i128::from(control.runs));
                Some((contained * all - runs * of, bound * all))
            }
            Measure::Share => (runs > 0).then_some((contained * 100, bound * runs)),
        }
    }

    /// The measure as it is now.
    #[must_use]
    pub fn show(&self, arms: &Arms) -> String {
        let Arms { candidate, control } = arms;
        let (contained, runs) = (candidate.contained as f64, candidate.runs as f64);
        match self.measure {
            Measure::Contained => candidate.contained.to_string(),
            Measure::Excess if control.runs == 0 => format!("{contained}, without a control run"),
            Measure::Excess => format!("{:.1}", contained - runs * control.contained as f64 / control.runs as f64),
            Measure::Share if candidate.runs == 0 => "unknown: no run yet".into(),
            Measure::Share => format!("{:.1}%", contained * 100.0 / runs),
        }
    }
}
