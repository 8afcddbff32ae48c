//! NVLinks: which are up, and their errors, summed over the GPU.
//!
//! Counters have changed with every generation of NVLink: up to Ampere there are totals per GPU, Hopper counts per link under
//! one number for all links, Blackwell under others. The first that answers is taken.

use super::{Reader, groups::saturated};
use crate::sensors::nvml::sampler::raw::{self, FieldScope};
use failsafe_core::signal::Kind;
use nvml_wrapper::{Device, error::NvmlError};

/// Links that a GPU can have (`NVML_NVLINK_MAX_LINKS`).
pub const MAX_LINKS: u32 = 18;
const LINK_COUNT: u32 = 91;
const LINK_STATE: u32 = 165;
/// The scope of a link's field that means all of them.
const ALL_LINKS: u32 = u32::MAX;

/// Fields of one counter: totals of the GPU, and numbers that count per link, newest last.
struct Counter {
    kind: Kind,
    totals: &'static [u32],
    per_link: &'static [u32],
}

const COUNTERS: [Counter; 3] = [
    // Flits and data; then symbols received with errors.
    Counter { kind: Kind::GpuNvlinkCrcErrors, totals: &[38, 45], per_link: &[163, 208] },
    Counter { kind: Kind::GpuNvlinkReplays, totals: &[52], per_link: &[161] },
    Counter { kind: Kind::GpuNvlinkRecoveries, totals: &[59], per_link: &[162, 215] },
];
/// KiB.
const TRAFFIC: [(u32, Kind); 2] = [(138, Kind::GpuNvlinkSent), (139, Kind::GpuNvlinkReceived)];

impl Reader {
    pub(super) fn links(&mut self) {
        if !self.wanted(&Kind::GpuNvlinkLinks) && hang_on_links().all(|kind| !self.wanted(&kind)) {
            return;
        }
        let count_of = (Kind::GpuNvlinkLinks, (|n| Some(i64::from(*n))) as super::Get<u32>);
        let links = self.first("nvmlDeviceGetFieldValues", count_of, |d| count(d));
        let Some(links) = links.filter(|links| *links > 0) else {
            return self.without_links(links.is_none() && !self.absent.contains(&Kind::GpuNvlinkLinks));
        };
        self.one("nvmlDeviceGetNvLinkState", [(Kind::GpuNvlinkActive, |n| Some(*n))], |d| active(d, links));
        for counter in &COUNTERS {
            self.one("nvmlDeviceGetFieldValues", [(counter.kind.clone(), |n: &i64| Some(*n))], |d| {
                counted(d, counter, links)
            });
        }
        for (field, kind) in TRAFFIC {
            self.one("nvmlDeviceGetFieldValues", [(kind, |n: &i64| Some(*n))], |d| {
                sum(d, &[(field, ALL_LINKS)]).map(|kib| saturated(kib.saturating_mul(1_024)))
            });
        }
    }

    /// Where it is not known how many there are, it is not known either that there are none.
    fn without_links(&mut self, unknown: bool) {
        for kind in hang_on_links().filter(|kind| !self.absent.contains(kind)).collect::<Vec<_>>() {
            if !unknown {
                self.lacks(kind);
            } else if self.wanted(&kind) {
                self.sample.failing.push((kind.to_string(), "how many NVLinks there are cannot be read".to_owned()));
            }
        }
    }
}

/// What there is of a GPU with links only.
fn hang_on_links() -> impl Iterator<Item = Kind> {
    let counters = COUNTERS.into_iter().map(|counter| counter.kind);
    counters.chain(TRAFFIC.map(|(_, kind)| kind)).chain([Kind::GpuNvlinkActive])
}

/// How many NVLinks the GPU has.
pub fn count(device: &Device<'_>) -> Result<u32, NvmlError> {
    let count = sum(device, &[(LINK_COUNT, 0)])?;
    Ok(u32::try_from(count).unwrap_or(u32::MAX).min(MAX_LINKS))
}

/// How many of them are up: in one call where the driver has the field, else link by link.
fn active(device: &Device<'static>, links: u32) -> Result<i64, NvmlError> {
    let fields: Vec<FieldScope> = (0..links).map(|link| (LINK_STATE, link)).collect();
    let states: Result<Vec<i128>, _> = raw::field_values(device, &fields)?.into_iter().collect();
    match states {
        Ok(states) => Ok(states.iter().filter(|state| **state == 1).count() as i64),
        Err(NvmlError::NotSupported | NvmlError::InvalidArg) => {
            let up: Result<Vec<bool>, _> = (0..links).map(|link| device.link_wrapper_for(link).is_active()).collect();
            Ok(up?.into_iter().filter(|up| *up).count() as i64)
        }
        Err(error) => Err(error),
    }
}

fn counted(device: &Device<'_>, counter: &Counter, links: u32) -> Result<i64, NvmlError> {
    let totals: Vec<FieldScope> = counter.totals.iter().map(|field| (*field, 0)).collect();
    let mut answer = sum(device, &totals);
    for field in counter.per_link {
        if !matches!(answer, Err(NvmlError::NotSupported | NvmlError::InvalidArg)) {
            break;
        }
        let each: Vec<FieldScope> = (0..links).map(|link| (*field, link)).collect();
        answer = sum(device, &each);
    }
    answer.map(saturated)
}

/// The sum of fields; what an unknown field says is that there is none.
pub fn sum(device: &Device<'_>, fields: &[FieldScope]) -> Result<i128, NvmlError> {
    let sum = raw::field_values(device, fields)?.into_iter().sum::<Result<i128, _>>();
    sum.map_err(|error| if matches!(error, NvmlError::InvalidArg) { NvmlError::NotSupported } else { error })
}
