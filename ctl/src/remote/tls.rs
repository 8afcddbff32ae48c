//! The certificates of this side.

use crate::exit::Fail;
use std::{
    env,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        version::TLS13,
    },
};

/// Files in PEM.
#[derive(Debug, Clone)]
pub struct Files {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    /// These; where one is not given, that of `~/.config/failsafe`.
    pub fn new(ca: Option<PathBuf>, certificate: Option<PathBuf>, key: Option<PathBuf>) -> Files {
        let folder = folder();
        let or = |given: Option<PathBuf>, name: &str| given.unwrap_or_else(|| folder.join(name));
        Files { ca: or(ca, "ca.crt"), certificate: or(certificate, "client.crt"), key: or(key, "client.key") }
    }

    /// What makes connections: TLS 1.3, with the caller's certificate, to nodes whose certificates the authority signed.
    ///
    /// # Errors
    /// A file cannot be read or used; its option is named.
    pub fn connector(&self) -> Result<TlsConnector, Fail> {
        let mut roots = RootCertStore::empty();
        for ca in certificates("--tls-ca", &self.ca)? {
            roots.add(ca).map_err(|error| unusable("--tls-ca", &self.ca, &error))?;
        }
        let chain = certificates("--tls-cert", &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&read("--tls-key", &self.key)?)
            .map_err(|error| unusable("--tls-key", &self.key, &error))?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| Fail::because("cannot use TLS 1.3", &error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|error| unusable("--tls-cert and --tls-key", &self.certificate, &error))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

/// `$XDG_CONFIG_HOME/failsafe`, `~/.config/failsafe`, or without a home `/etc/failsafe` (XDG Base Directory Specification).
fn folder() -> PathBuf {
    let set = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")));
    config.unwrap_or_else(|| PathBuf::from("/etc")).join("failsafe")
}

fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Fail> {
    let bytes = read(option, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| unusable(option, path, &error))?;
    match found.is_empty() {
        true => Err(Fail::usage(format!("{option}: {} contains no certificate in PEM", path.display()))),
        false => Ok(found),
    }
}

fn read(option: &str, path: &Path) -> Result<Vec<u8>, Fail> {
    let advice = "to ask another node you need a certificate with a role there: docs/remote-access.md, \"Clients\"";
    super::read(option, path).map_err(|fail| fail.advise(advice))
}

fn unusable(option: &str, path: &Path, error: &dyn std::error::Error) -> Fail {
    Fail::because(format!("{option}: {} cannot be used", path.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_its_option() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| Some(dir.path().join(name));
        let fail = |files: &Files| files.connector().err().unwrap().message;
        let files = Files::new(path("ca"), path("cert"), path("key"));
        assert!(fail(&files).starts_with("--tls-ca: cannot read "), "{}", fail(&files));
        std::fs::write(dir.path().join("ca"), "no certificate").unwrap();
        assert!(fail(&files).ends_with("contains no certificate in PEM"), "{}", fail(&files));
    }
}
