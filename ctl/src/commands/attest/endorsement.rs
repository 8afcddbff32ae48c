//! `attest verify --tpm-roots`: certificates of endorsement keys of TPMs, verified offline with the CAs of manufacturers.
//!
//! ```text
//! list of allowed keys:  KEYID tpm:KEY   KEYID ek:CERTIFICATE
//! quote ─► KEYID on the list ─► its certificates ─► a CA of --tpm-roots
//! ```
//!
//! Invariant: a certificate shows who made a TPM. It does not show that the key of a quote is in this TPM: whoever enrolled the key
//! must have checked that by credential activation, and writes `activated` on the line of the certificate. Without that word nothing
//! is proved, and every output says so. One certificate that is not valid makes all of them worthless: the genuine one may be a copy
//! of another TPM's. A certificate that is in the file of CAs by mistake, and is of no CA, is refused; a CA that is not valid now is
//! not used.

use super::{expected::quoted, read, shown};
use crate::{
    exit::{Exit, Fail},
    render::clean,
};
use failsafe_attest::{AllowedKeys, Verified, key::ListedCertificate, tpm::ACTIVATED};
use serde_json::{Value, json};
use std::path::Path;
use tokio_rustls::rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime, pem::PemObject};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::{
    extensions::GeneralName,
    prelude::{ASN1Time, FromDer, X509Certificate},
    x509::{X509Name, X509Version},
};

/// `tcg-kp-EKCertificate`, 2.23.133.8.1: the use of a certificate of an endorsement key.
const EK_CERTIFICATE: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x01];
/// The same as text.
const EK_CERTIFICATE_ID: &str = "2.23.133.8.1";
/// Names of the manufacturer, model and version of a TPM in its certificate (TCG EK Credential Profile, 3.1.2).
const NAMES: [&str; 3] = ["2.23.133.2.1", "2.23.133.2.2", "2.23.133.2.3"];
/// For a name that a certificate does not have.
const NOT_NAMED: &str = "not named";
/// Largest file of CAs.
const MAX_ROOTS: usize = 8 << 20;

/// The CAs of manufacturers that a verifier trusts.
pub(super) struct Roots {
    anchors: Vec<TrustAnchor<'static>>,
    /// Those that are not valid now, in words.
    not_valid: Vec<String>,
}

/// A certificate of an endorsement key that one of them signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endorsed {
    manufacturer: String,
    model: String,
    version: String,
    issuer: String,
    serial: String,
}

/// The certificates of the TPM key of a quote, each of them valid, and whether the list says that the key was activated for it.
#[derive(Debug)]
pub(super) struct Endorsement(Vec<(Endorsed, bool)>);

impl Roots {
    /// Reads a file of certificates, PEM. Each of them is trusted: those between a root and an endorsement key too.
    ///
    /// # Errors
    /// It has none that is valid now, one that is broken, or one of no CA.
    pub fn read(file: &Path) -> Result<Roots, Fail> {
        Roots::parse(&read(file, MAX_ROOTS)?, UnixTime::now())
            .map_err(|why| Fail::usage(format!("{}: {}", shown(file), clean(&why))))
    }

    fn parse(bytes: &[u8], now: UnixTime) -> Result<Roots, String> {
        if bytes.len() > MAX_ROOTS {
            return Err(format!("it has more than {MAX_ROOTS} bytes"));
        }
        let (mut anchors, mut not_valid) = (Vec::new(), Vec::new());
        for (at, certificate) in CertificateDer::pem_slice_iter(bytes).enumerate() {
            let wrong = |why: &dyn std::fmt::Display| format!("certificate {}: {why}", at + 1);
            let certificate = certificate.map_err(|error| wrong(&error))?;
            let anchor = webpki::anchor_from_trusted_cert(&certificate).map_err(|error| wrong(&error))?;
            // An anchor is only a name and a key: the rest of its certificate is looked at here.
            match valid_authority(&certificate, now).map_err(|why| wrong(&why))? {
                Ok(()) => anchors.push(anchor.to_owned()),
                Err(why) => not_valid.push(wrong(&why)),
            }
        }
        match (anchors.is_empty(), not_valid.is_empty()) {
            (true, true) => Err("it has no certificate in PEM form".to_owned()),
            (true, false) => Err(format!("it has no CA that is valid now: {}", not_valid.join("; "))),
            (false, _) => Ok(Roots { anchors, not_valid }),
        }
    }

    /// Verifies a certificate, and reads whose TPM it is of.
    fn verify(&self, certificate: &[u8], now: UnixTime) -> Result<Endorsed, String> {
        let der = CertificateDer::from(certificate);
        let parsed = EndEntityCert::try_from(&der).map_err(|error| error.to_string())?;
        let usage = KeyUsage::required_if_present(EK_CERTIFICATE);
        parsed.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &self.anchors, &[], now, usage, None, None).map_err(
            |error| match error {
                webpki::Error::UnknownIssuer if self.not_valid.is_empty() => "none of the CAs signed it".to_owned(),
                webpki::Error::UnknownIssuer => {
                    format!("none of the CAs that are valid now signed it; not used: {}", self.not_valid.join("; "))
                }
                other => other.to_string(),
            },
        )?;
        about(certificate)
    }
}

/// Whether this is the certificate of a CA, and why it is not valid now, if it is not.
///
/// # Errors
/// It is of no CA, in words.
fn valid_authority(certificate: &[u8], now: UnixTime) -> Result<Result<(), String>, String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    if parsed.version() != X509Version::V3 {
        return Err("it is not of version 3, so that it does not say whether it is of a CA".to_owned());
    }
    let constraints = parsed.basic_constraints().map_err(|error| error.to_string())?;
    if !constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err("it is not the certificate of a CA (basicConstraints CA:TRUE)".to_owned());
    }
    let usage = parsed.key_usage().map_err(|error| error.to_string())?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err("its key may not sign certificates (keyUsage keyCertSign)".to_owned());
    }
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let now = ASN1Time::from_timestamp(seconds).map_err(|error| error.to_string())?;
    let validity = parsed.validity();
    Ok(match validity.is_valid_at(now) {
        true => Ok(()),
        false => Err(format!("it is valid from {} to {}", validity.not_before, validity.not_after)),
    })
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
        found.find_map(|one| one.as_str().ok()).unwrap_or(NOT_NAMED).to_owned()
    };
    let [manufacturer, model, version] = NAMES.map(value);
    if manufacturer == NOT_NAMED {
        return Err("it names no manufacturer of a TPM".to_owned());
    }
    let uses = parsed.extended_key_usage().map_err(|error| error.to_string())?;
    let has_use = uses.is_some_and(|uses| uses.value.other.iter().any(|one| one.to_id_string() == EK_CERTIFICATE_ID));
    if !has_use && (model == NOT_NAMED || version == NOT_NAMED) {
        // Any other certificate by the same CA would do.
        return Err("it has neither the use tcg-kp-EKCertificate nor the model and version of a TPM".to_owned());
    }
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
    /// There is no quote by an allowed key, the list has no certificate of it, or one of them is not valid.
    pub fn of(file: &Path, verified: &Verified, keys: &AllowedKeys, roots: &Roots) -> Result<Endorsement, Fail> {
        let failed = |exit, why: String| Fail::new(exit, format!("{}: {why}", shown(file)));
        let unknown = |why| failed(Exit::CannotKnow, why);
        let quote = quoted(verified).map_err(|why| unknown(clean(&why)))?;
        let certificates = keys.endorsements(&quote.key);
        if certificates.is_empty() {
            let why = format!("the list of allowed keys has no EK certificate of TPM key {}", quote.key);
            return Err(unknown(why).advise(
                "enrol the key: `failsafectl attest key show` prints its certificates as lines `KEYID ek:...`, if the TPM has some",
            ));
        }
        // A certificate is verified at the time of the verification, like every certificate.
        Endorsement::by(certificates, roots, UnixTime::now()).map_err(|why| {
            failed(Exit::Tampered, format!("TPM key {}: {}", quote.key, clean(&why))).advise(
                "keep only the line of the certificate for which the key was activated; --tpm-roots needs the CA of the TPM's \
                 manufacturer that signed it, often one below its root",
            )
        })
    }

    /// Verifies each of these certificates. Whoever can add a forged one to a list can add a copy of a genuine one beside it.
    fn by(certificates: &[ListedCertificate], roots: &Roots, now: UnixTime) -> Result<Endorsement, String> {
        let all = certificates.len();
        let one = |(at, listed): (usize, &ListedCertificate)| match roots.verify(&listed.der, now) {
            Ok(endorsed) => Ok((endorsed, listed.activated)),
            Err(why) => Err(format!("EK certificate {} of {all} is not valid: {why}", at + 1)),
        };
        certificates.iter().enumerate().map(one).collect::<Result<_, _>>().map(Endorsement)
    }

    /// Whether the list says of which of these TPMs the key is.
    pub fn is_activated(&self) -> bool {
        self.0.iter().any(|(_, activated)| *activated)
    }

    /// For people.
    pub fn page(&self) -> String {
        let mut out = String::new();
        for (Endorsed { manufacturer, model, version, issuer, serial }, activated) in &self.0 {
            let bound = if *activated { "" } else { ", but the key is not proved to be in this TPM" };
            let line = format!(
                "EK certificate valid{bound}: TPM by {manufacturer}, model {model}, version {version}; serial {serial}, issued by \
                 {issuer}"
            );
            out.push_str(&format!("{}\n", clean(&line)));
        }
        out.push_str(&match self.is_activated() {
            true => format!(
                "  the certificate shows who made a TPM, not that the key of the quote is in it: whoever wrote `{ACTIVATED}` on the \
                 list must have checked that by credential activation\n"
            ),
            false => format!(
                "  no `ek:` line of the key has the word `{ACTIVATED}`: anybody can copy the certificate of another TPM; enrol the \
                 key by credential activation\n"
            ),
        });
        out
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let one = |(Endorsed { manufacturer, model, version, issuer, serial }, activated): &(Endorsed, bool)| {
            json!({
                "manufacturer": manufacturer, "model": model, "version": version, "issuer": issuer, "serial": serial,
                "activated": activated,
            })
        };
        let key_in_tpm = if self.is_activated() { "activated, by the list" } else { "not proved" };
        json!({ "key_in_tpm": key_in_tpm, "valid": self.0.iter().map(one).collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests;
