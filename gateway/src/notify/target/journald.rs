//! The journal of systemd: one entry a message, with fields that can be searched, by its native protocol.

use super::{Delivery, Target};
use crate::notify::message::{Message, severity};
use anyhow::{Context, Result};
use failsafe_core::decision::Severity;
use tokio::net::UnixDatagram;

/// The id of all messages, for `journalctl MESSAGE_ID=`.
pub const MESSAGE_ID: &str = "5f1e8c1f0a4b4c3e9a53cb0a4e1d7b62";

/// The entry.
fn entry(message: &Message) -> Vec<u8> {
    let priority = match message.severity {
        _ if message.resolved => "5",
        Severity::Info => "6",
        Severity::Warning => "4",
        Severity::Critical => "2",
    };
    let run = message.run.clone().unwrap_or_default();
    let owner = run.owner_uid.map(|uid| uid.to_string()).unwrap_or_default();
    let mut entry = Vec::new();
    for (field, value) in [
        ("MESSAGE", message.summary.as_str()),
        ("MESSAGE_ID", MESSAGE_ID),
        ("PRIORITY", priority),
        ("SYSLOG_IDENTIFIER", "failsafe"),
        ("FAILSAFE_ID", &message.id),
        ("FAILSAFE_KEY", &message.key),
        ("FAILSAFE_INCIDENT", if message.key.starts_with("inc-") { &message.key } else { "" }),
        ("FAILSAFE_STANDING", &message.standing),
        ("FAILSAFE_SEVERITY", severity(message.severity)),
        ("FAILSAFE_RUN", &run.id),
        ("FAILSAFE_RUN_NAME", &run.name),
        ("FAILSAFE_OWNER_UID", &owner),
        ("FAILSAFE_RULE", message.rule.as_deref().unwrap_or_default()),
        ("FAILSAFE_CONDITION", &message.condition),
        ("FAILSAFE_VALUES", &message.values.join("\n")),
        ("FAILSAFE_DONE", &message.done.join("\n")),
        ("FAILSAFE_CONTACT", &message.contact),
        ("FAILSAFE_NEXT", &message.next),
    ] {
        if !value.is_empty() {
            // The form with a length: a value with a line end cannot add a field.
            entry.extend_from_slice(field.as_bytes());
            entry.push(b'\n');
            entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
            entry.extend_from_slice(value.as_bytes());
            entry.push(b'\n');
        }
    }
    entry
}

impl Target {
    pub(super) async fn journald(&self, message: &Message) -> Result<Delivery> {
        let socket = UnixDatagram::unbound()?;
        let sent = socket.send_to(&entry(message), &self.socket).await;
        sent.with_context(|| format!("{} cannot be written to", self.socket.display()))?;
        Ok(Delivery::Sent)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::notify::message::tests::frozen;
    use std::collections::BTreeMap;

    /// The fields of an entry.
    pub fn fields(mut entry: &[u8]) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        while let Some(end) = entry.iter().position(|byte| *byte == b'\n') {
            let name = String::from_utf8(entry[..end].to_vec()).unwrap();
            let (length, rest) = entry[end + 1..].split_at(8);
            let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            fields.insert(name, String::from_utf8(rest[..length].to_vec()).unwrap());
            assert_eq!(rest[length], b'\n');
            entry = &rest[length + 1..];
        }
        fields
    }

    #[test]
    fn a_value_with_line_ends_adds_no_field() {
        let mut message = frozen();
        message.values = vec!["a\nPRIORITY=0".into(), "b".into()];
        let fields = fields(&entry(&message));
        assert_eq!(fields["PRIORITY"], "2");
        assert_eq!(fields["FAILSAFE_INCIDENT"], "inc-5f0c9a1b2c3d-1");
        assert_eq!(fields["FAILSAFE_VALUES"], "a\nPRIORITY=0\nb");
        assert_eq!(fields["FAILSAFE_RUN_NAME"], "trainer");
    }
}
