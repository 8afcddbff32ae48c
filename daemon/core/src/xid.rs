//! The XID catalogue: what NVIDIA's driver reports of a GPU, what it means, and what to do. Data, in `policies/xid.toml`; a
//! node's own file may replace it.
//!
//! Invariants: the file is read strictly, and all that is wrong with it is told at once; a number that is not in it is told
//! as unknown, never as harmless.

mod dedup;
mod nvlink;
mod stated;

pub use dedup::{DedupResult, Storms};
pub use nvlink::{Judgement, NvLinkError};
pub use stated::Stated;

use crate::policy::diagnostic::{Diagnostic, Diagnostics, nearest};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};
use toml::Spanned;

/// The catalogue that is built in.
const BUILT_IN: &str = include_str!("../../../policies/xid.toml");
/// Largest file that is read.
const MAX_BYTES: usize = 1 << 20;

/// The catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue {
    /// Its name.
    pub name: String,
    /// The documents that its facts come from, by the names that XIDs give.
    pub sources: BTreeMap<String, String>,
    xids: BTreeMap<u64, Xid>,
    nvlink: Vec<nvlink::Row>,
}

/// One XID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xid {
    /// NVIDIA's number.
    pub code: u64,
    /// A few words.
    pub name: String,
    /// What it means, for a person.
    pub meaning: String,
    /// What to do.
    pub action: Advice,
    /// Which of [`Catalogue::sources`] says so.
    pub source: String,
    /// What it makes of the GPU.
    pub harm: HealthImpact,
    /// It comes of another XID, and says nothing beside it.
    pub follows: bool,
    /// So many on one GPU within a day mean broken hardware.
    pub repeated: Option<u32>,
    /// These XIDs are over with it.
    pub cancels: Vec<u64>,
}

/// What a person, or whoever acts for one, is advised to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Advice {
    /// Nothing; it is on record.
    RecordOnly,
    /// Start the run again.
    RestartApplication,
    /// Read what the driver asks for (`gpu.recovery_action`).
    AskDriver,
    /// Follow the vendor's workflow for it.
    FollowWorkflow,
    /// Move work away from the GPU, then look.
    DrainGpu,
    /// Move all work off the node, then do what the meaning says.
    DrainNode,
    /// Reset the GPU.
    ResetGpu,
    /// Boot the node anew.
    RebootNode,
    /// Look at the hardware.
    InspectHardware,
    /// Ask the vendor.
    ContactSupport,
}

/// What an XID makes of its GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthImpact {
    /// Nothing.
    None,
    /// It works, but not as it should.
    Degraded,
    /// It must not be used until somebody has dealt with it.
    Unhealthy,
}

impl Advice {
    /// The name in files and answers.
    pub fn name(self) -> &'static str {
        match self {
            Advice::RecordOnly => "record-only",
            Advice::RestartApplication => "restart-application",
            Advice::AskDriver => "ask-driver",
            Advice::FollowWorkflow => "follow-workflow",
            Advice::DrainGpu => "drain-gpu",
            Advice::DrainNode => "drain-node",
            Advice::ResetGpu => "reset-gpu",
            Advice::RebootNode => "reboot-node",
            Advice::InspectHardware => "inspect-hardware",
            Advice::ContactSupport => "contact-support",
        }
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    catalogue: RawHead,
    sources: BTreeMap<String, Spanned<String>>,
    xid: Vec<RawXid>,
    #[serde(default)]
    nvlink: Vec<nvlink::RawRow>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHead {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawXid {
    code: Spanned<u64>,
    name: Spanned<String>,
    meaning: String,
    action: Advice,
    source: Spanned<String>,
    health: HealthImpact,
    #[serde(default)]
    follows: bool,
    repeated: Option<Spanned<u32>>,
    #[serde(default)]
    cancels: Vec<Spanned<u64>>,
}

impl Catalogue {
    /// The built-in one.
    ///
    /// # Errors
    /// None in a build that passed its tests.
    pub fn built_in() -> Result<Catalogue, Diagnostics> {
        Catalogue::parse("policies/xid.toml", BUILT_IN)
    }

    /// Reads a catalogue. `file` only names it in errors.
    ///
    /// # Errors
    /// All that is wrong, each with file, line, column and what was expected.
    pub fn parse(file: &str, text: &str) -> Result<Catalogue, Diagnostics> {
        let fail = |list| Diagnostics { file: file.to_owned(), list };
        if text.len() > MAX_BYTES {
            let message = format!("the catalogue has {} bytes, expected at most {MAX_BYTES}", text.len());
            return Err(fail(vec![Diagnostic::at("", 0..0, message, None)]));
        }
        let raw: Raw = toml::from_str(text).map_err(|error| fail(vec![Diagnostic::of_toml(text, &error)]))?;
        let mut wrong = Vec::new();
        for (name, text_of) in raw.sources.iter().filter(|(_, it)| it.get_ref().trim().is_empty()) {
            wrong.push(Diagnostic::at(text, text_of.span(), format!("the source `{name}` says nothing"), None));
        }
        let codes: Vec<u64> = raw.xid.iter().map(|x| *x.code.get_ref()).collect();
        let mut xids = BTreeMap::new();
        let raw_sources = raw.sources;
        for raw in raw.xid {
            let code = *raw.code.get_ref();
            if raw.name.get_ref().trim().is_empty() {
                wrong.push(Diagnostic::at(text, raw.name.span(), format!("XID {code}: `name` is empty"), None));
            }
            let source = raw.source.get_ref();
            if !raw_sources.contains_key(source) {
                let message = format!("XID {code}: `source` is `{source}`, expected one of [sources]");
                let help = nearest(source, raw_sources.keys().map(String::as_str))
                    .map(|near| format!("did you mean `{near}`?"));
                wrong.push(Diagnostic::at(text, raw.source.span(), message, help));
            }
            if let Some(times) = raw.repeated.as_ref().filter(|t| *t.get_ref() < 2) {
                let message = format!("XID {code}: `repeated` is {}, expected 2 or more", times.get_ref());
                wrong.push(Diagnostic::at(text, times.span(), message, None));
            }
            for other in &raw.cancels {
                if !codes.contains(other.get_ref()) || *other.get_ref() == code {
                    let message =
                        format!("XID {code}: `cancels` names {}, expected another XID of this file", other.get_ref());
                    let known: Vec<String> = codes.iter().map(u64::to_string).collect();
                    let help = nearest(&other.get_ref().to_string(), known.iter().map(String::as_str))
                        .map(|near| format!("did you mean {near}?"));
                    wrong.push(Diagnostic::at(text, other.span(), message, help));
                }
            }
            let span = raw.code.span();
            let xid = Xid {
                code,
                name: raw.name.into_inner(),
                meaning: raw.meaning,
                action: raw.action,
                source: raw.source.into_inner(),
                harm: raw.health,
                follows: raw.follows,
                repeated: raw.repeated.map(Spanned::into_inner),
                cancels: raw.cancels.into_iter().map(Spanned::into_inner).collect(),
            };
            if xids.insert(code, xid).is_some() {
                wrong.push(Diagnostic::at(text, span, format!("`code` {code} is there twice"), None));
            }
        }
        let mut nvlink = Vec::new();
        for row in raw.nvlink {
            let span = row.xid.span();
            if !raw_sources.contains_key(row.source.get_ref()) {
                let message = format!("`source` is `{}`, expected one of [sources]", row.source.get_ref());
                wrong.push(Diagnostic::at(text, row.source.span(), message, None));
            }
            match row.build() {
                Ok(row) => nvlink.push(row),
                Err(message) => wrong.push(Diagnostic::at(text, span, format!("nvlink: {message}"), None)),
            }
        }
        if wrong.is_empty() {
            let sources = raw_sources.into_iter().map(|(name, text)| (name, text.into_inner())).collect();
            Ok(Catalogue { name: raw.catalogue.name, sources, xids, nvlink })
        } else {
            Err(fail(wrong))
        }
    }

    /// What is known of an XID.
    pub fn get(&self, code: u64) -> Option<&Xid> {
        self.xids.get(&code)
    }

    /// What an error of an NVLink unit makes of the GPU.
    pub fn judge_nvlink(&self, code: u64, error: &NvLinkError<'_>) -> Judgement {
        nvlink::judge(&self.nvlink, code, error)
    }

    /// The XID in words.
    pub fn describe(&self, code: u64) -> String {
        match self.get(code) {
            Some(xid) => format!("XID {code}, {}", xid.name),
            None => format!("XID {code}, which the catalogue `{}` does not know", self.name),
        }
    }

    /// Every XID that it knows, by number.
    pub fn xids(&self) -> impl Iterator<Item = &Xid> {
        self.xids.values()
    }

    /// How many XIDs it knows.
    pub fn len(&self) -> usize {
        self.xids.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.xids.is_empty()
    }
}

#[cfg(test)]
mod tests;
