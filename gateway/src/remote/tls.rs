//! Certificates: read from files, and read again when the files change. A file with a mistake changes nothing.

use crate::config::Wrong;
use anyhow::{Context, Result, ensure};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio_rustls::rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version::TLS13,
};
use x509_parser::parse_x509_certificate;

/// Largest file, in bytes.
const FILE: u64 = 1 << 20;
/// A certificate that ends within this time is reported.
const SOON: i64 = 14 * 86_400;
/// It is reported again after this time.
const REMIND: Duration = Duration::from_secs(86_400);

/// When certificates end, for the metrics.
#[derive(Debug, Clone, Default)]
pub struct Expiries(Arc<Mutex<Vec<(&'static str, i64)>>>);

impl Expiries {
    /// Each certificate with its end, seconds since the epoch.
    pub fn get(&self) -> Vec<(&'static str, i64)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, expiries: Vec<(&'static str, i64)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = expiries;
    }
}

/// The files.
#[derive(Debug, Clone)]
pub struct Files {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: PathBuf,
}

/// What they contain.
#[derive(PartialEq, Eq)]
struct Texts {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Vec<u8>,
}

impl Files {
    /// These.
    pub fn new(certificate: &Path, key: &Path, client_ca: &Path) -> Files {
        Files { certificate: certificate.into(), key: key.into(), client_ca: client_ca.into() }
    }

    fn read(&self) -> Result<Texts> {
        let certificate = read("remote.certificate", &self.certificate)?;
        Ok(Texts {
            certificate,
            key: read("remote.key", &self.key)?,
            client_ca: read("remote.client_ca", &self.client_ca)?,
        })
    }
}

/// A mistake with the field that its text begins with.
fn wrong(error: &anyhow::Error) -> Wrong {
    let text = format!("{error:#}");
    let (field, message) = text.split_once(": ").unwrap_or(("remote", &text));
    // Two fields that do not fit.
    Wrong::new(field.split(',').next().unwrap_or_default(), message)
}

fn read(field: &str, path: &Path) -> Result<Vec<u8>> {
    failsafe_files::bounded(path, FILE).with_context(|| format!("{field}: {} cannot be read", path.display()))
}

/// The configuration of TLS in use.
pub struct Tls {
    files: Files,
    texts: Mutex<Texts>,
    config: RwLock<Arc<ServerConfig>>,
    expiries: Expiries,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be used.
    pub fn load(files: Files) -> Result<Tls> {
        let texts = files.read()?;
        let (config, ends) = build(&texts)?;
        let expiries = Expiries::default();
        expiries.set(ends);
        let tls = Tls { files, texts: Mutex::new(texts), config: RwLock::new(Arc::new(config)), expiries };
        tls.report();
        Ok(tls)
    }

    /// What is wrong with the files: all that cannot be read, or else the first mistake in them.
    pub fn check(files: &Files) -> Vec<Wrong> {
        let each = [
            read("remote.certificate", &files.certificate),
            read("remote.key", &files.key),
            read("remote.client_ca", &files.client_ca),
        ];
        let unread: Vec<Wrong> = each.iter().filter_map(|read| read.as_ref().err().map(wrong)).collect();
        if !unread.is_empty() {
            return unread;
        }
        files.read().and_then(|texts| build(&texts)).err().iter().map(wrong).collect()
    }

    /// For the next handshake.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When the certificates end.
    pub fn expiries(&self) -> Expiries {
        self.expiries.clone()
    }

    /// Looks at the files again and again, and reports certificates that end soon.
    pub async fn reload_each(&self, every: Duration) {
        let mut reported = tokio::time::Instant::now();
        let mut wrong = None;
        loop {
            tokio::time::sleep(every).await;
            match self.reload() {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!("the certificates are reloaded");
                    self.report();
                    wrong = None;
                }
                Err(error) => {
                    // Once for each mistake: files that are being replaced do not fit for a moment.
                    let error = format!("{error:#}");
                    if wrong.as_ref() != Some(&error) {
                        tracing::error!(error, "the certificates cannot be reloaded: the present ones stay in use");
                        wrong = Some(error);
                    }
                }
            }
            if reported.elapsed() >= REMIND {
                reported = tokio::time::Instant::now();
                self.report();
            }
        }
    }

    /// Whether the files changed and are in use now.
    fn reload(&self) -> Result<bool> {
        let texts = self.files.read()?;
        let mut present = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        if *present == texts {
            return Ok(false);
        }
        let (config, ends) = build(&texts)?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        self.expiries.set(ends);
        *present = texts;
        Ok(true)
    }

    fn report(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        for (certificate, ends) in self.expiries.get() {
            let left = ends.saturating_sub(i64::try_from(now).unwrap_or(i64::MAX));
            let days = left / 86_400;
            if left <= 0 {
                tracing::error!(certificate, "the certificate has expired");
            } else if left < SOON {
                tracing::warn!(certificate, days, "the certificate expires soon");
            }
        }
    }
}

/// TLS 1.3 with client certificates, and when the certificates end.
fn build(texts: &Texts) -> Result<(ServerConfig, Vec<(&'static str, i64)>)> {
    let parse = |field: &str, text: &[u8]| -> Result<Vec<CertificateDer<'static>>> {
        let all = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
        let all = all.with_context(|| format!("{field}: expected certificates in PEM"))?;
        ensure!(!all.is_empty(), "{field}: there is no certificate in it");
        Ok(all)
    };
    let chain = parse("remote.certificate", &texts.certificate)?;
    let authorities = parse("remote.client_ca", &texts.client_ca)?;
    let key = PrivateKeyDer::from_pem_slice(&texts.key).context("remote.key: expected a private key in PEM")?;
    let ends = |field: &str, certificate: &CertificateDer<'_>| -> Result<i64> {
        let (_, parsed) = parse_x509_certificate(certificate).with_context(|| format!("{field}: cannot be parsed"))?;
        Ok(parsed.validity().not_after.timestamp())
    };
    let mut first_end = i64::MAX;
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        first_end = first_end.min(ends("remote.client_ca", &authority)?);
        roots.add(authority).context("remote.client_ca: the certificate is no authority")?;
    }
    let own_end = chain.first().map_or(Ok(i64::MAX), |own| ends("remote.certificate", own))?;
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .context("remote.certificate, remote.key: they do not belong together")?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A session that is resumed would not be verified again.
    config.send_tls13_tickets = 0;
    Ok((config, vec![("node", own_end), ("client-ca", first_end)]))
}
