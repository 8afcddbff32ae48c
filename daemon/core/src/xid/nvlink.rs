//! The errors of NVLink 5 units (XIDs 144 to 150): what one record means, by NVIDIA's table. Data, `[[nvlink]]` in the catalogue.
//!
//! Invariants: a record that no row fits is judged by the severity in it, never as harmless; a record that says `Fatal` asks for
//! a reset, unless the row is about a fatal error.

use super::{Advice, HealthImpact};
use serde::Deserialize;
use std::ops::RangeInclusive;
use toml::Spanned;

/// The XIDs of NVLink 5 units.
const XIDS: RangeInclusive<u64> = 144..=150;

/// An error of an NVLink unit, as the driver prints it: `UNIT SEVERITY XC0 i0 Link 01 (INTRINFO ERRORSTATUS ...)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvLinkError<'a> {
    /// The unit that reports it.
    pub unit: &'a str,
    /// The record says `Fatal`.
    pub fatal: bool,
    /// The first number; bits 20 to 25 are the sub-code.
    pub intrinfo: u32,
    /// The second number: which errors there are.
    pub status: u32,
}

/// What a record makes of the GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// The level.
    pub harm: HealthImpact,
    /// What to do.
    pub advice: Advice,
    /// A row of the table fits.
    pub known: bool,
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    xid: u64,
    units: Vec<String>,
    sub_codes: Vec<u32>,
    reset: Vec<u32>,
    ask_driver: Vec<u32>,
    inspect: Vec<u32>,
    ignore: Vec<u32>,
    reset_if: Vec<[u32; 2]>,
    fatal: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRow {
    pub(super) xid: Spanned<u64>,
    pub(super) source: Spanned<String>,
    units: Vec<String>,
    #[serde(default)]
    sub_codes: Vec<u32>,
    #[serde(default)]
    reset: Vec<u32>,
    #[serde(default)]
    ask_driver: Vec<u32>,
    #[serde(default)]
    inspect: Vec<u32>,
    #[serde(default)]
    ignore: Vec<u32>,
    #[serde(default)]
    reset_if: Vec<[u32; 2]>,
    #[serde(default)]
    fatal: bool,
}

impl RawRow {
    /// The row, or what is wrong with it.
    pub(super) fn build(self) -> Result<Row, String> {
        let xid = self.xid.into_inner();
        if !XIDS.contains(&xid) {
            return Err(format!("`xid` is {xid}, expected {} to {}", XIDS.start(), XIDS.end()));
        }
        if self.units.is_empty() {
            return Err("`units` is empty, expected the names of one unit".into());
        }
        let RawRow { units, sub_codes, reset, ask_driver, inspect, ignore, reset_if, fatal, .. } = self;
        let mut all: Vec<u32> = [&reset, &ask_driver, &inspect, &ignore].into_iter().flatten().copied().collect();
        all.sort_unstable();
        if all.is_empty() || all.windows(2).any(|two| two[0] == two[1]) {
            return Err("expected each error status once, in `reset`, `ask_driver`, `inspect` or `ignore`".into());
        }
        Ok(Row { xid, units, sub_codes, reset, ask_driver, inspect, ignore, reset_if, fatal })
    }
}

impl Row {
    fn fits(&self, xid: u64, error: &NvLinkError<'_>) -> bool {
        let sub_code = (error.intrinfo >> 20) & 0x3f;
        self.xid == xid
            && self.units.iter().any(|unit| unit == error.unit)
            && (self.sub_codes.is_empty() || self.sub_codes.contains(&sub_code))
    }

    /// What an error status asks for; `None` where the row does not name it.
    fn status(&self, status: u32) -> Option<(HealthImpact, Advice)> {
        if self.reset.contains(&status) {
            Some((HealthImpact::Unhealthy, Advice::ResetGpu))
        } else if self.inspect.contains(&status) {
            Some((HealthImpact::Degraded, Advice::InspectHardware))
        } else if self.ask_driver.contains(&status) {
            Some((HealthImpact::None, Advice::AskDriver))
        } else {
            self.ignore.contains(&status).then_some((HealthImpact::None, Advice::RecordOnly))
        }
    }

    /// What the record asks for; the worst of several errors at once.
    fn judge(&self, error: &NvLinkError<'_>) -> Option<(HealthImpact, Advice)> {
        let bits = (0..u32::BITS).map(|bit| 1 << bit).filter(|bit| error.status & bit != 0);
        let each = || bits.map(|bit| self.status(bit)).collect::<Option<Vec<_>>>()?.into_iter().max();
        let found = self.status(error.status).or_else(each)?;
        let reset = self.reset_if.iter().any(|[mask, value]| error.intrinfo & mask == *value);
        Some(if reset { (HealthImpact::Unhealthy, Advice::ResetGpu) } else { found })
    }
}

/// What an error makes of the GPU.
pub(super) fn judge(rows: &[Row], xid: u64, error: &NvLinkError<'_>) -> Judgement {
    let row = rows.iter().find(|row| row.fits(xid, error));
    let found = row.and_then(|row| Some((row, row.judge(error)?)));
    let known = found.is_some();
    let expected = found.is_some_and(|(row, (harm, _))| row.fatal || harm == HealthImpact::Unhealthy);
    let (harm, advice) = match found {
        _ if error.fatal && !expected => (HealthImpact::Unhealthy, Advice::ResetGpu),
        Some((_, found)) => found,
        None => (HealthImpact::Degraded, Advice::FollowWorkflow),
    };
    Judgement { harm, advice, known }
}

impl<'a> NvLinkError<'a> {
    /// Reads the driver's text, which begins with the unit.
    pub(super) fn parse(text: &'a str) -> Option<NvLinkError<'a>> {
        let (unit, rest) = text.split_once(' ')?;
        let named = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || matches!(c, '_' | '/');
        if unit.is_empty() || !unit.chars().all(named) {
            return None;
        }
        let (head, numbers) = rest.split_once('(')?;
        let mut words = head.split_whitespace();
        let fatal = match words.next()? {
            "Fatal" => true,
            "Nonfatal" | "Non-fatal" => false,
            _ => return None,
        };
        if !words.all(|word| word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')) {
            return None;
        }
        let mut numbers = numbers.split([' ', ')']).map(|number| {
            let digits = number.strip_prefix("0x")?;
            u32::from_str_radix(digits, 16).ok()
        });
        Some(NvLinkError { unit, fatal, intrinfo: numbers.next()??, status: numbers.next()?? })
    }
}
