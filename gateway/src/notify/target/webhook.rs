//! A webhook: HTTP POST of a CloudEvent (1.0, structured, JSON), signed as Standard Webhooks describes it.

use super::{Delivery, Target};
use crate::{
    config::About,
    notify::message::{Message, time},
};
use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, Mac};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;
use sha2::Sha256;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the text of a secret begins with where it is base64.
const PREFIX: &[u8] = b"whsec_";
/// Shortest key, in bytes.
const KEY: usize = 16;

/// The key in the text of a secret.
pub fn key(secret: &[u8]) -> Result<Vec<u8>> {
    let key = match secret.strip_prefix(PREFIX) {
        Some(text) => BASE64_STANDARD.decode(text).context("expected base64 after whsec_")?,
        None => secret.to_vec(),
    };
    ensure!(key.len() >= KEY, "expected a key of at least {KEY} bytes");
    Ok(key)
}

/// The CloudEvent.
pub fn event(message: &Message) -> serde_json::Value {
    let of = match message.about {
        About::Incident => "incident",
        About::Health => "health",
        About::Test => "test",
    };
    json!({
        "specversion": "1.0",
        "id": message.id,
        "source": format!("/failsafe/{}", message.node),
        "type": format!("failsafe.v1.{of}"),
        "subject": message.key,
        "time": time(message.at_ns),
        "datacontenttype": "application/json",
        "data": super::super::json(message),
    })
}

/// The signature of a body.
fn signature(key: &[u8], id: &str, timestamp: u64, body: &[u8]) -> Result<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key)?;
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    Ok(format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes())))
}

impl Target {
    pub(super) async fn webhook(&self, message: &Message) -> Result<Delivery> {
        let body = serde_json::to_vec(&event(message))?;
        let mut headers = HeaderMap::new();
        let mut add = |name, value: &str| -> Result<()> {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value)?);
            Ok(())
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        add("webhook-id", &message.id)?;
        add("webhook-timestamp", &now.to_string())?;
        if let Some(secret) = &self.secret {
            add("webhook-signature", &signature(&key(&secret.read()?)?, &message.id, now, &body)?)?;
        }
        self.post("application/cloudevents+json", headers, body, true).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_signed_as_standard_webhooks_specifies() {
        // The example of the specification's libraries.
        let key = key(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        let signed = signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body).unwrap();
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_key_that_is_short_or_is_no_base64_is_refused() {
        for bad in [&b"short"[..], b"whsec_", b"whsec_c2hvcnQ=", b"whsec_%%%%%%%%%%%%%%%%%%%%%%%%%%%%"] {
            assert!(key(bad).is_err(), "{bad:?}");
        }
        assert_eq!(key(b"a plain text of 24 bytes").unwrap().len(), 24);
    }
}
