//! `attest verify --tpm-roots`: certificates of endorsement keys of TPMs, verified offline with the CAs of manufacturers.
//!
//! ```text
//! list of allowed keys:  KEYID tpm:KEY   KEYID ek:CERTIFICATE
//! quote ─► KEYID on the list ─► its certificates ─► a CA of --tpm-roots
//! ```
//!
//! Invariant: a certificate shows who made a TPM. That the key of a quote is in this TPM is what whoever put both lines on the list
//! found out by credential activation; every output says so.

use super::{read, shown};
use crate::{
    exit::{Exit, Fail},
    render::clean,
};
use failsafe_attest::{AllowedKeys, Verified};
use serde_json::{Value, json};
use std::path::Path;
use tokio_rustls::rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime, pem::PemObject};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
    x509::X509Name,
};

/// `tcg-kp-EKCertificate`, 2.23.133.8.1: the use of a certificate of an endorsement key.
const EK_CERTIFICATE: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x01];
/// Names of the manufacturer, model and version of a TPM in its certificate (TCG EK Credential Profile, 3.1.2).
const NAMES: [&str; 3] = ["2.23.133.2.1", "2.23.133.2.2", "2.23.133.2.3"];
/// Largest file of CAs.
const MAX_ROOTS: usize = 8 << 20;

/// The CAs of manufacturers that a verifier trusts.
pub(super) struct Roots(Vec<TrustAnchor<'static>>);

/// A certificate of an endorsement key that one of them signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endorsed {
    manufacturer: String,
    model: String,
    version: String,
    issuer: String,
    serial: String,
}

/// The certificates of the TPM key of a quote.
pub(super) struct Endorsement {
    good: Vec<Endorsed>,
    bad: Vec<String>,
}

impl Roots {
    /// Reads a file of certificates, PEM. Each of them is trusted: those between a root and an endorsement key too.
    ///
    /// # Errors
    /// It has none, or one that is broken.
    pub fn read(file: &Path) -> Result<Roots, Fail> {
        Roots::parse(&read(file, MAX_ROOTS)?).map_err(|why| Fail::usage(format!("{}: {why}", shown(file))))
    }

    fn parse(bytes: &[u8]) -> Result<Roots, String> {
        if bytes.len() > MAX_ROOTS {
            return Err(format!("it has more than {MAX_ROOTS} bytes"));
        }
        let mut anchors = Vec::new();
        for (at, certificate) in CertificateDer::pem_slice_iter(bytes).enumerate() {
            let wrong = |why: &dyn std::fmt::Display| format!("certificate {}: {why}", at + 1);
            let certificate = certificate.map_err(|error| wrong(&error))?;
            let anchor = webpki::anchor_from_trusted_cert(&certificate).map_err(|error| wrong(&error))?;
            anchors.push(anchor.to_owned());
        }
        if anchors.is_empty() { Err("it has no certificate in PEM form".to_owned()) } else { Ok(Roots(anchors)) }
    }

    /// Verifies a certificate, and reads whose TPM it is of.
    fn verify(&self, certificate: &[u8], now: UnixTime) -> Result<Endorsed, String> {
        let der = CertificateDer::from(certificate);
        let parsed = EndEntityCert::try_from(&der).map_err(|error| error.to_string())?;
        let usage = KeyUsage::required_if_present(EK_CERTIFICATE);
        parsed.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &self.0, &[], now, usage, None, None).map_err(
            |error| match error {
                webpki::Error::UnknownIssuer => "none of the CAs signed it".to_owned(),
                other => other.to_string(),
            },
        )?;
        about(certificate)
    }
}

/// The names in a certificate, which was verified.
fn about(certificate: &[u8]) -> Result<Endorsed, String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let names = parsed.subject_alternative_name().map_err(|error| error.to_string())?;
    let general = names.iter().flat_map(|names| &names.value.general_names);
    let in_directory = general.filter_map(|name| match name {
        GeneralName::DirectoryName(name) => Some(name),
        _ => None,
    });
    let directories: Vec<&X509Name<'_>> = in_directory.chain([parsed.subject()]).collect();
    let value = |wanted: &str| {
        let attributes = directories.iter().flat_map(|name| name.iter_attributes());
        let mut found = attributes.filter(|one| one.attr_type().to_id_string() == wanted);
        found.find_map(|one| one.as_str().ok()).unwrap_or("not named").to_owned()
    };
    let [manufacturer, model, version] = NAMES.map(value);
    Ok(Endorsed {
        manufacturer: letters(&manufacturer),
        model,
        version,
        issuer: parsed.issuer().to_string(),
        serial: parsed.raw_serial_as_string(),
    })
}

/// A manufacturer's id, such as `id:494E5443`, with the letters that it stands for.
fn letters(id: &str) -> String {
    let bytes = id.strip_prefix("id:").and_then(|digits| hex::decode(digits).ok()).unwrap_or_default();
    let text: String = bytes.iter().filter(|byte| **byte != 0).map(|byte| char::from(*byte)).collect();
    match text.is_empty() || !text.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
        true => id.to_owned(),
        false => format!("{} ({id})", text.trim()),
    }
}

impl Endorsement {
    /// Verifies the certificates that the list of allowed keys has of the key that quoted.
    ///
    /// # Errors
    /// There is no quote by an allowed key, the list has no certificate of it, or no CA signed one.
    pub fn of(file: &Path, verified: &Verified, keys: &AllowedKeys, roots: &Roots) -> Result<Endorsement, Fail> {
        let refused = |why: String| Fail::new(Exit::Tampered, format!("{}: {why}", shown(file)));
        let quote = verified.quote.as_ref().filter(|quote| quote.allowed.is_some());
        let quote = quote.ok_or_else(|| refused(clean(&crate::render::quote::summary(verified))))?;
        let certificates = keys.endorsements(&quote.key);
        if certificates.is_empty() {
            let why = format!("the list of allowed keys has no EK certificate of TPM key {}", quote.key);
            return Err(refused(why).advise(
                "enrol the key: `failsafectl attest key show` prints its certificates as lines `KEYID ek:...`, if the TPM has some",
            ));
        }
        // A certificate is verified at the time of the verification, like every certificate.
        let now = UnixTime::now();
        let mut endorsement = Endorsement { good: Vec::new(), bad: Vec::new() };
        for certificate in certificates {
            match roots.verify(certificate, now) {
                Ok(endorsed) => endorsement.good.push(endorsed),
                Err(why) => endorsement.bad.push(clean(&why)),
            }
        }
        match endorsement.good.is_empty() {
            true => {
                let why = endorsement.bad.join("; ");
                Err(refused(format!("no EK certificate of TPM key {} is valid: {why}", quote.key)).advise(
                    "--tpm-roots needs the CA of the TPM's manufacturer that signed the certificate, often one below its root",
                ))
            }
            false => Ok(endorsement),
        }
    }

    /// For people.
    pub fn page(&self) -> String {
        let mut out = String::new();
        for Endorsed { manufacturer, model, version, issuer, serial } in &self.good {
            let line = format!(
                "EK certificate valid: TPM by {manufacturer}, model {model}, version {version}; serial {serial}, issued by {issuer}"
            );
            out.push_str(&format!("{}\n", clean(&line)));
        }
        for why in &self.bad {
            out.push_str(&format!("another EK certificate of this key is not valid: {why}\n"));
        }
        out.push_str(
            "  the certificate shows who made a TPM; that the key of the quote is in it was for whoever enrolled the key to \
             find out (credential activation)\n",
        );
        out
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let one = |Endorsed { manufacturer, model, version, issuer, serial }: &Endorsed| json!({ "manufacturer": manufacturer, "model": model, "version": version, "issuer": issuer, "serial": serial });
        json!({ "valid": self.good.iter().map(one).collect::<Vec<_>>(), "not_valid": self.bad })
    }
}

#[cfg(test)]
mod tests;
