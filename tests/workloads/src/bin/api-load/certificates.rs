//! An authority, the certificate of a node, and certificates of clients: `dns:client-N`, of which the first is administrator.

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use std::{fmt::Write, fs, path::Path};

pub fn write(folder: &Path, count: usize) -> Result<Value> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate()?;
    fs::write(folder.join("ca.crt"), params.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(params, key);
    let sign = |file: &str, name: &str, purpose| -> Result<()> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate()?;
        fs::write(folder.join(format!("{file}.crt")), params.signed_by(&key, &issuer)?.pem())?;
        fs::write(folder.join(format!("{file}.key")), key.serialize_pem())?;
        Ok(())
    };
    sign("node", "localhost", ExtendedKeyUsagePurpose::ServerAuth)?;
    let mut roles = String::new();
    for n in 0..count {
        let name = format!("client-{n}");
        sign(&name, &name, ExtendedKeyUsagePurpose::ClientAuth)?;
        let role = if n == 0 { "administrator" } else { "viewer" };
        writeln!(roles, "[[identity]]\nsan = \"dns:{name}\"\nrole = \"{role}\"")?;
    }
    fs::write(folder.join("roles.toml"), roles)?;
    Ok(json!({ "clients": count }))
}
