//! Who a client is: the names that its certificate proves. The certificate is verified already.

use anyhow::{Context, Result, bail};
use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

/// Names of one certificate that are passed on.
const MOST: usize = 16;
/// Longest name, in bytes.
const NAME: usize = 256;

/// A client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The names of its certificate, in their order: at least one.
    pub identities: Vec<String>,
    /// When its certificate ends, seconds since the epoch.
    pub ends: i64,
}

impl Client {
    /// The client with this certificate.
    ///
    /// # Errors
    /// It names nobody.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Client> {
        let (_, parsed) = parse_x509_certificate(certificate).context("the certificate cannot be parsed")?;
        let names = parsed.subject_alternative_name().context("the subject alternative names cannot be parsed")?;
        let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        let identities: Vec<String> = names.iter().filter_map(identity).take(MOST).collect();
        if identities.is_empty() {
            bail!("the certificate has no subject alternative name of type DNS, URI or email");
        }
        Ok(Client { identities, ends: parsed.validity().not_after.timestamp() })
    }

    /// By what it is counted and logged.
    pub fn name(&self) -> String {
        self.identities.first().cloned().unwrap_or_default()
    }
}

/// The identity of a name; `None`: it cannot be one.
fn identity(name: &GeneralName<'_>) -> Option<String> {
    let identity = match name {
        GeneralName::DNSName(name) => format!("dns:{name}"),
        GeneralName::URI(name) => format!("uri:{name}"),
        GeneralName::RFC822Name(name) => format!("email:{name}"),
        _ => return None,
    };
    let is_plain = identity.len() <= NAME && identity.bytes().all(|byte| byte.is_ascii_graphic());
    (is_plain && !identity.ends_with(':')).then_some(identity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn client(names: Vec<SanType>) -> Result<Client> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Client::of(certificate.der())
    }

    #[test]
    fn names_are_kept_in_their_order_and_addresses_are_no_identity() {
        let ip = SanType::IpAddress([127, 0, 0, 1].into());
        let names = vec![
            ip.clone(),
            SanType::URI("spiffe://cluster/ops".try_into().unwrap()),
            SanType::DnsName("ops.example.org".try_into().unwrap()),
            SanType::Rfc822Name("ops@example.org".try_into().unwrap()),
        ];
        let client_of = client(names).unwrap();
        let expected = ["uri:spiffe://cluster/ops", "dns:ops.example.org", "email:ops@example.org"];
        assert_eq!(client_of.identities, expected);
        assert!(client(vec![ip]).is_err());
        assert!(client(Vec::new()).is_err());
    }

    #[test]
    fn a_name_that_could_end_a_header_or_is_empty_is_no_identity() {
        for name in ["a b", "a\r\nfailsafe-remote-identity: dns:admin", "", &"x".repeat(300)] {
            let uri = SanType::URI(name.try_into().unwrap());
            assert!(client(vec![uri]).is_err(), "{name:?}");
        }
    }
}
