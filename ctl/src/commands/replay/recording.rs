//! A recording as the engine takes it: inputs with the decisions that each caused, up to the last input of which all
//! decisions are sure to be there.

use super::{
    audit::Facts,
    found::{Section, Source},
};
use crate::{
    exit::{Exit, Fail, chain},
    render::clean,
};
use failsafe_core::{
    Input, Policy, PolicyDigest,
    decision::{Decision, Outcome},
    input::Run,
    recording::Reading,
    replay::Recorded,
};
use failsafe_journal::{RecordingEnd, RecordingReader, recording::RecordingError};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use std::collections::VecDeque;

/// What the header says this recording is.
const FORMAT: &str = "failsafe-recording";
/// The version that this program reads.
const VERSION: u64 = 1;

/// An open recording.
pub(super) struct Recording {
    reader: RecordingReader<Section>,
    entries: Reading,
    file: String,
    run: Run,
    policy: Policy,
    /// The last input read, with its decisions so far: whole only when the next input or the end mark has come.
    held: Vec<Recorded>,
    /// The decisions read so far, also those of an input that is left out.
    decisions: Vec<Decision>,
    outcomes: Vec<Outcome>,
    part: Option<u32>,
    engine: u32,
    ready: VecDeque<Recorded>,
    /// The decisions of the last input, if that is left out.
    left_out: Option<Vec<u32>>,
}

#[derive(Deserialize)]
struct Format {
    format: String,
    version: u64,
    /// Recordings of earlier versions have no number.
    part: Option<u32>,
    /// The engine that decided; recordings of earlier versions have none.
    engine: Option<u32>,
}

impl Recording {
    /// Opens a file and checks that its policy is the one that the run was pinned to.
    pub(super) fn open(source: Source) -> Result<Recording, Fail> {
        let shown = source.name;
        let reader = RecordingReader::new(source.bytes).map_err(|error| {
            let fail = Fail::because(format!("cannot read recording {}", clean(&shown)), &error);
            let exit = if matches!(error, RecordingError::HeaderChanged(_)) { Exit::Tampered } else { Exit::Error };
            Fail { exit, ..fail }
        })?;
        let bad = |what: String| Fail::new(Exit::Error, format!("{shown}: {what}"));
        let header = reader.header();
        let format: Format =
            Format::deserialize(header).map_err(|_| bad("the header has no format and version".to_owned()))?;
        if (format.format.as_str(), format.version) != (FORMAT, VERSION) {
            return Err(bad(format!("format {} version {} is not known", format.format, format.version)));
        }
        if let (Some(named), Some(written)) = (source.number, format.part)
            && named != written
        {
            return Err(Fail::new(Exit::Tampered, format!("{shown}: its header has the number {written}")));
        }
        let run: Run = part(header, "run").map_err(bad)?;
        let policy: Policy = part(header, "policy").map_err(bad)?;
        if policy.digest() != run.policy && written_policy(reader.header_text()) == Some(run.policy) {
            let message = format!(
                "{shown}: this program reads its policy {} to one with the digest {}: the policy has parts that this program does \
                 not know",
                run.policy,
                policy.digest()
            );
            let advice = "use the failsafectl of the failsafed that wrote the recording";
            return Err(Fail::new(Exit::Error, message).advise(advice));
        }
        if policy.digest() != run.policy {
            let message = format!(
                "{shown}: its policy has the digest {}, but the run was pinned to {}: the recording was changed",
                policy.digest(),
                run.policy
            );
            return Err(Fail::new(Exit::Tampered, message));
        }
        let (held, ready) = (Vec::new(), VecDeque::new());
        let part = format.part.or(source.number);
        let engine = format.engine.unwrap_or_else(|| reader.version());
        let entries = Reading::of(reader.version());
        Ok(Recording {
            reader,
            entries,
            file: shown,
            run,
            policy,
            held,
            decisions: Vec::new(),
            outcomes: Vec::new(),
            part,
            engine,
            ready,
            left_out: None,
        })
    }

    /// The engine that decided.
    pub(super) fn engine(&self) -> u32 {
        self.engine
    }

    /// The format version of the file.
    #[cfg(test)]
    pub(super) fn version(&self) -> u32 {
        self.reader.version()
    }

    /// The run.
    pub(super) fn run(&self) -> &Run {
        &self.run
    }

    /// The policy that it was pinned to.
    pub(super) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What is compared with the audit log, once it is read.
    pub(super) fn facts(&self) -> Facts<'_> {
        Facts {
            name: &self.file,
            run: &self.run,
            part: self.part,
            end: self.end(),
            frames: self.reader.frames(),
            hash: self.reader.hash(),
            decisions: &self.decisions,
            outcomes: &self.outcomes,
        }
    }

    /// How it ends, once read.
    pub(super) fn end(&self) -> RecordingEnd {
        self.reader.end().cloned().unwrap_or(RecordingEnd::Open)
    }

    /// The numbers of the decisions of the last input, if it is left out because further decisions of it may be missing.
    pub(super) fn left_out(&self) -> Option<&[u32]> {
        self.left_out.as_deref()
    }

    /// The name of the file.
    pub(super) fn file(&self) -> &str {
        &self.file
    }

    fn read(&mut self) -> Result<Option<Recorded>, RecordingError> {
        let frame = self.reader.next().transpose()?;
        let next = frame.map(|frame| frame.decode_as(&self.entries)).transpose()?;
        match &next {
            Some(Recorded::Decision(decision)) => self.decisions.push(decision.clone()),
            Some(Recorded::Input(Input::Outcome(outcome))) => self.outcomes.push(outcome.clone()),
            _ => {}
        }
        Ok(next)
    }
}

/// The digest of the policy as the header has it, byte for byte. A field named `policy` that holds an object is in no other place,
/// and quotes inside of strings are escaped.
fn written_policy(header: &[u8]) -> Option<PolicyDigest> {
    let begin = b"\"policy\":";
    let at = (0..header.len()).find(|at| header[*at..].starts_with(b"\"policy\":{"))?;
    let value = &header[at + begin.len()..];
    let mut values = serde_json::Deserializer::from_slice(value).into_iter::<IgnoredAny>();
    values.next()?.ok()?;
    Some(PolicyDigest::of_content(&value[..values.byte_offset()]))
}

fn part<T: DeserializeOwned>(header: &serde_json::Value, name: &str) -> Result<T, String> {
    T::deserialize(&header[name]).map_err(|error| format!("the header's {name} cannot be read: {error}"))
}

impl Iterator for &mut Recording {
    type Item = Result<Recorded, Fail>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() {
            match self.read() {
                Err(RecordingError::Decode { offset, .. }) if self.entries.unknown().is_some() => {
                    let what = self.entries.unknown().map(|unknown| unknown.to_string()).unwrap_or_default();
                    let message = format!("{}: the entry at byte {offset} cannot be read: {what}", self.file);
                    let advice = "use the failsafectl of the failsafed that wrote the recording";
                    return Some(Err(Fail::new(Exit::Error, message).advise(advice)));
                }
                Err(error) => {
                    let message = format!("{}: {}", self.file, chain(&error));
                    let exit = match error {
                        RecordingError::Damaged { .. } | RecordingError::Chain { .. } => Exit::Tampered,
                        _ => Exit::Error,
                    };
                    return Some(Err(Fail::new(exit, message).advise(
                        "keep the file, and compare it with copies made earlier; the decisions are in the audit log too",
                    )));
                }
                Ok(Some(next @ Recorded::Input(_))) => {
                    self.ready.extend(self.held.drain(..));
                    self.held.push(next);
                }
                Ok(Some(decision)) => self.held.push(decision),
                Ok(None) if self.held.is_empty() => return None,
                Ok(None) if self.end() == RecordingEnd::Finished => self.ready.extend(self.held.drain(..)),
                Ok(None) => {
                    let held = self.held.drain(..);
                    let decisions = held.filter_map(|entry| match entry {
                        Recorded::Decision(decision) => Some(decision.id.n),
                        Recorded::Input(_) => None,
                    });
                    self.left_out = Some(decisions.collect());
                    return None;
                }
            }
        }
        self.ready.pop_front().map(Ok)
    }
}
