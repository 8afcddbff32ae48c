//! The kinds of targets: each writes a message in its own form and sends it once. Whether it is sent again is decided in
//! [`super::worker`].

mod alertmanager;
mod exec;
mod journald;
mod pagerduty;
mod webhook;

use super::{
    http::{self, Answer, Read, Url},
    message::Message,
};
use crate::{
    config::{self, Kind},
    secret::Secret,
};
use anyhow::{Context, Result, ensure};
use hyper::{
    StatusCode,
    body::Bytes,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio_rustls::rustls::ClientConfig;

/// What is quoted of an answer or of the output of a program, in characters.
const QUOTED: usize = 200;

/// What came of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// The target took it.
    Sent,
    /// It can be tried again, after this time where the target asks for one.
    Later(String, Option<Duration>),
    /// This message is not taken, now or later.
    Refused(String),
}

/// A target that can be sent to.
pub struct Target {
    kind: Kind,
    url: Option<Url>,
    secret: Option<Secret>,
    tls: Option<Arc<ClientConfig>>,
    command: Vec<String>,
    socket: PathBuf,
    timeout: Duration,
}

impl Target {
    /// Opens what the configuration names.
    ///
    /// # Errors
    /// The fields of which the file cannot be used, with the reasons.
    pub fn open(config: &config::Target) -> Result<Target, Vec<(&'static str, String)>> {
        let mut wrong = Vec::new();
        let mut note = |field, error: anyhow::Error| wrong.push((field, format!("{error:#}")));
        let kind = config.kind.unwrap_or(Kind::Journald);
        let text = match kind {
            Kind::Pagerduty if config.url.is_empty() => pagerduty::URL,
            _ => &config.url,
        };
        let mut url = None;
        if matches!(kind, Kind::Webhook | Kind::Alertmanager | Kind::Pagerduty) {
            match Url::parse(text, false) {
                Ok(read) => url = Some(read),
                Err(error) => note("url", anyhow::anyhow!(error)),
            }
        }
        let file = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
        let secret = file(&config.secret_file).map(Secret::at);
        if let Some(Err(error)) = secret.as_ref().map(|secret| secret.read().and_then(|text| usable(kind, &text))) {
            note("secret_file", error);
        }
        let mut tls = None;
        if url.as_ref().is_some_and(|url| url.tls) {
            match http::authorities(file(&config.ca_file).as_deref()) {
                Ok(config) => tls = Some(config),
                Err(error) => note("ca_file", error),
            }
        }
        if kind == Kind::Exec
            && let Err(error) = exec::may_be_executed(config.command.first().map_or("", String::as_str))
        {
            note("command", error);
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let (command, socket, timeout) = (config.command.clone(), config.socket.clone(), config.timeout());
        Ok(Target { kind, url, secret, tls, command, socket, timeout })
    }

    /// Whether messages to this target can be read on the way.
    pub fn is_sent_readable(config: &config::Target) -> bool {
        !config.url.is_empty() && Url::parse(&config.url, false).is_ok_and(|url| url.is_readable())
    }

    /// Whether it keeps alerts open until it gets their end.
    pub fn keeps_alerts(&self) -> bool {
        matches!(self.kind, Kind::Alertmanager | Kind::Pagerduty)
    }

    /// Whether it wants to hear of open alerts again.
    pub fn wants_again(&self) -> bool {
        self.kind == Kind::Alertmanager
    }

    /// Sends a message once.
    pub async fn send(&self, message: &Message) -> Delivery {
        self.send_all(std::slice::from_ref(message)).await
    }

    /// Sends messages once, of which those after the first are for targets that take several.
    pub async fn send_all(&self, messages: &[Message]) -> Delivery {
        let Some(message) = messages.first() else { return Delivery::Sent };
        let sent = async {
            match self.kind {
                Kind::Webhook => self.webhook(message).await,
                Kind::Alertmanager => self.alertmanager(messages).await,
                Kind::Pagerduty => self.pagerduty(message).await,
                Kind::Exec => self.exec(message).await,
                Kind::Journald => self.journald(message).await,
            }
        };
        // An answer over HTTP has to begin in time; its body is bounded apart.
        let body = if self.url.is_some() { 2 * http::BODY } else { Duration::ZERO };
        match tokio::time::timeout(self.timeout + body, sent).await {
            Ok(Ok(delivery)) => delivery,
            Ok(Err(error)) => Delivery::Later(format!("{error:#}"), None),
            Err(_) => Delivery::Later(format!("no answer within {} s", self.timeout.as_secs()), None),
        }
    }

    async fn post(
        &self,
        content_type: &'static str,
        headers: HeaderMap,
        body: Vec<u8>,
        of_url: bool,
    ) -> Result<Delivery> {
        let url = self.url.clone().context("no URL")?;
        let url = if of_url { url } else { url.join(alertmanager::PATH) };
        let (tls, body, read) = (self.tls.as_ref(), Bytes::from(body), Read::Failures);
        let mut answer = http::post(&url, tls, content_type, headers, body, self.timeout, read).await?;
        // A server may repeat what it got. The text is cut after this only.
        if let Some(Ok(secret)) = self.secret.as_ref().map(Secret::read) {
            answer.text = without(&answer.text, &String::from_utf8_lossy(&secret));
        }
        Ok(judged(&answer))
    }

    fn bearer(&self) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        if let Some(secret) = &self.secret {
            let token = String::from_utf8(secret.read()?).ok().context("secret_file: expected text")?;
            let mut value =
                HeaderValue::from_str(&format!("Bearer {token}")).context("secret_file: expected a token")?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(headers)
    }
}

/// What an answer means. A wrong address or secret can be put right: the message is kept meanwhile.
fn judged(answer: &Answer) -> Delivery {
    let said = format!("HTTP {}: {}", answer.status.as_u16(), quoted(&answer.text));
    match answer.status {
        status if status.is_success() => Delivery::Sent,
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
            Delivery::Refused(said)
        }
        _ => Delivery::Later(said, answer.after),
    }
}

/// The text without the secret. Where the text was cut within it, without its beginning.
fn without(text: &str, secret: &str) -> String {
    const SHOWN: &str = "[secret]";
    let text = text.replace(secret, SHOWN);
    let cut = (1..secret.len()).rev().filter_map(|length| secret.get(..length)).find(|begin| text.ends_with(begin));
    // One or two characters at the end are as good as none.
    match cut.filter(|begin| begin.len() > 2) {
        Some(begin) => format!("{}{SHOWN}", &text[..text.len() - begin.len()]),
        None => text,
    }
}

fn quoted(text: &str) -> String {
    failsafe_core::visible::clean(text.trim()).chars().take(QUOTED).collect()
}

/// Whether the secret can be used by this kind.
fn usable(kind: Kind, secret: &[u8]) -> Result<()> {
    match kind {
        Kind::Webhook => webhook::key(secret).map(drop),
        _ => ensure_plain(secret),
    }
}

fn ensure_plain(secret: &[u8]) -> Result<()> {
    ensure!(secret.iter().all(u8::is_ascii_graphic), "expected one line of printable ASCII characters");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_replaced_before_the_text_is_cut_and_its_beginning_at_the_end_as_well() {
        for (text, shown) in [
            ("key R0UT1NGKEY is wrong", "key [secret] is wrong"),
            ("R0UT1NGKEYR0UT1NGKEY", "[secret][secret]"),
            ("key R0UT1N", "key [secret]"),
            ("nothing of it R", "nothing of it R"),
            ("", ""),
        ] {
            assert_eq!(without(text, "R0UT1NGKEY"), shown);
        }
    }
}
