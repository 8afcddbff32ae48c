//! One record of `/dev/kmsg`: `PRIORITY,SEQUENCE,MICROSECONDS,FLAGS[,...];MESSAGE`, see the kernel's ABI/testing/dev-kmsg.

use std::borrow::Cow;

/// A record that the kernel itself wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its number; a jump means that records were lost.
    pub sequence: u64,
    /// When, microseconds of the kernel's clock.
    pub micros: u64,
    /// The message. Line breaks, which the kernel writes as `\x0a`, are line breaks again; other escapes stay.
    pub message: Cow<'a, str>,
}

/// Reads the first line of a record; `None` for what user space wrote (facility other than 0), for what continues a record,
/// and for what is none.
pub fn record(line: &str) -> Option<Record<'_>> {
    let (head, message) = line.split_once(';')?;
    let mut fields = head.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let sequence = fields.next()?.parse().ok()?;
    let micros = fields.next()?.parse().ok()?;
    let message = message.trim_end();
    let message = if message.contains(r"\x0a") { message.replace(r"\x0a", "\n").into() } else { message.into() };
    // The low three bits are the level, the rest is the facility; the kernel's own is 0.
    (priority >> 3 == 0).then_some(Record { sequence, micros, message })
}
