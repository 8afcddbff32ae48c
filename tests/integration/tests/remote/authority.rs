//! A certificate authority, and the certificates of servers and clients that it signs.

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    date_time_ymd,
};

/// An authority that signs certificates.
pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, PEM.
pub struct Signed {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Result<Authority> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Authority { pem, issuer: Issuer::new(params, key) })
    }

    pub fn sign(&self, name: SanType, purpose: ExtendedKeyUsagePurpose, ended: bool) -> Result<Signed> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.subject_alt_names = vec![name];
        params.extended_key_usages = vec![purpose];
        if ended {
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        }
        let key = KeyPair::generate()?;
        Ok(Signed { certificate: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }

    pub fn server(&self) -> Result<Signed> {
        self.sign(SanType::DnsName("localhost".try_into()?), ExtendedKeyUsagePurpose::ServerAuth, false)
    }

    pub fn client(&self, identity: &str) -> Result<Signed> {
        self.sign(name(identity)?, ExtendedKeyUsagePurpose::ClientAuth, false)
    }
}

pub fn name(identity: &str) -> Result<SanType> {
    let (kind, name) = identity.split_once(':').context("no kind")?;
    Ok(match kind {
        "dns" => SanType::DnsName(name.try_into()?),
        "uri" => SanType::URI(name.try_into()?),
        _ => SanType::Rfc822Name(name.try_into()?),
    })
}
