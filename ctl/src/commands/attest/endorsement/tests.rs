//! Certificates that the tests make: chains to CAs that are trusted or not, and every changed byte.

use super::*;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};

/// A CA with this name.
fn authority(name: &str) -> (Certificate, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    let certificate = params.clone().self_signed(&key).unwrap();
    (certificate, Issuer::new(params, key))
}

/// A DER structure.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag, u8::try_from(content.len()).unwrap()][..], content].concat()
}

/// The names of a TPM as its certificate has them: a directory name among the alternative names.
fn names(manufacturer: &str) -> CustomExtension {
    some_names(&[(1, manufacturer), (2, "model 7"), (3, "id:0002")])
}

fn some_names(names: &[(u8, &str)]) -> CustomExtension {
    let one = |(last, value): &(u8, &str)| {
        let oid = tlv(0x06, &[0x67, 0x81, 0x05, 0x02, *last]);
        tlv(0x31, &tlv(0x30, &[oid, tlv(0x0c, value.as_bytes())].concat()))
    };
    let sets = names.iter().map(one).collect::<Vec<_>>().concat();
    let directory = tlv(0xa4, &tlv(0x30, &sets));
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], tlv(0x30, &directory));
    extension.set_criticality(true);
    extension
}

/// A certificate of an endorsement key, changed by a test.
fn endorsed(issuer: &Issuer<'static, KeyPair>, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
    params.custom_extensions = vec![names("id:494E5443")];
    change(&mut params);
    params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().to_vec()
}

/// The CAs of a file that is read now.
fn parse(text: &str) -> Result<Roots, String> {
    Roots::parse(text.as_bytes(), UnixTime::now())
}

fn why(roots: &Roots, certificate: &[u8]) -> String {
    roots.verify(certificate, UnixTime::now()).unwrap_err()
}

#[test]
fn a_certificate_by_a_trusted_ca_names_the_maker_of_the_tpm() {
    let ((root, issuer), (other, _)) = (authority("a maker"), authority("another maker"));
    let certificate = endorsed(&issuer, |_| ());
    let roots = parse(&format!("{}{}", other.pem(), root.pem())).unwrap();
    let Endorsed { manufacturer, model, version, issuer, .. } = roots.verify(&certificate, UnixTime::now()).unwrap();
    assert_eq!(
        [manufacturer, model, version].map(String::from),
        ["INTC (id:494E5443)", "model 7", "id:0002"].map(String::from)
    );
    assert!(issuer.contains("a maker"), "{issuer}");
}

#[test]
fn a_certificate_that_is_not_of_an_endorsement_key_or_of_no_trusted_ca_is_refused() {
    let ((root, issuer), (other, _)) = (authority("a maker"), authority("a maker"));
    let roots = parse(&root.pem()).unwrap();
    let stranger = parse(&other.pem()).unwrap();
    // Another CA of the same name: the signature decides.
    assert!(!why(&stranger, &endorsed(&issuer, |_| ())).is_empty());
    let server = endorsed(&issuer, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    assert!(!why(&roots, &server).is_empty());
    let plain = endorsed(&issuer, |params| {
        params.extended_key_usages.clear();
        params.custom_extensions.clear();
    });
    assert_eq!(why(&roots, &plain), "it names no manufacturer of a TPM");
    let past = endorsed(&issuer, |params| params.not_after = rcgen::date_time_ymd(2001, 1, 1));
    assert!(!why(&roots, &past).is_empty());
    let authority = endorsed(&issuer, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert!(!why(&roots, &authority).is_empty());
}

/// The certificate of a CA, changed by a test, and what it signs with.
fn changed(change: impl FnOnce(&mut CertificateParams)) -> (Certificate, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "a changed maker");
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.clone().self_signed(&key).unwrap();
    (certificate, Issuer::new(params, key))
}

#[test]
fn a_ca_that_is_not_valid_now_is_not_used_and_is_named() {
    let (past, issuer) = changed(|params| params.not_after = rcgen::date_time_ymd(2001, 1, 1));
    let (future, _) = changed(|params| params.not_before = rcgen::date_time_ymd(3001, 1, 1));
    let alone = parse(&past.pem()).err().unwrap();
    assert!(alone.starts_with("it has no CA that is valid now: certificate 1: it is valid from"), "{alone}");
    let (other, _) = authority("a maker");
    let roots = parse(&format!("{}{}{}", other.pem(), past.pem(), future.pem())).unwrap();
    assert_eq!((roots.anchors.len(), roots.not_valid.len()), (1, 2));
    let refused = why(&roots, &endorsed(&issuer, |_| ()));
    assert!(refused.contains("valid now signed it; not used: certificate 2: it is valid from"), "{refused}");
    // A day before its end it was valid.
    let then = UnixTime::since_unix_epoch(std::time::Duration::from_secs(978_307_200 - 86_400));
    assert!(Roots::parse(past.pem().as_bytes(), then).is_ok());
}

#[test]
fn a_certificate_of_no_ca_is_no_root() {
    let (leaf, _) = changed(|params| params.is_ca = IsCa::NoCa);
    let (explicit, _) = changed(|params| params.is_ca = IsCa::ExplicitNoCa);
    let (signs_nothing, _) = changed(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
    let (good, _) = changed(|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]);
    assert!(parse(&good.pem()).is_ok());
    for (bad, expected) in [(leaf, "CA:TRUE"), (explicit, "CA:TRUE"), (signs_nothing, "keyCertSign")] {
        let why = parse(&format!("{}{}", good.pem(), bad.pem())).err().unwrap();
        assert!(why.starts_with("certificate 2: ") && why.contains(expected), "{why}");
    }
}

#[test]
fn a_certificate_without_its_use_must_name_the_whole_tpm() {
    let (root, issuer) = authority("a maker");
    let roots = parse(&root.pem()).unwrap();
    let without_use = |names| {
        endorsed(&issuer, |params| {
            params.extended_key_usages.clear();
            params.custom_extensions = vec![names];
        })
    };
    assert!(roots.verify(&without_use(names("id:494E5443")), UnixTime::now()).is_ok());
    let partly = why(&roots, &without_use(some_names(&[(1, "id:494E5443")])));
    assert!(partly.contains("neither the use tcg-kp-EKCertificate nor the model and version"), "{partly}");
    // With its use, it may lack the rest.
    let named = endorsed(&issuer, |params| params.custom_extensions = vec![some_names(&[(1, "id:494E5443")])]);
    assert!(roots.verify(&named, UnixTime::now()).is_ok());
}

#[test]
fn every_flipped_bit_of_a_certificate_is_detected() {
    let (root, issuer) = authority("a maker");
    let (roots, good) = (parse(&root.pem()).unwrap(), endorsed(&issuer, |_| ()));
    assert!(roots.verify(&good, UnixTime::now()).is_ok());
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(roots.verify(&bad, UnixTime::now()).is_err(), "bit {bit}");
    }
    for cut in 0..good.len() {
        assert!(roots.verify(&good[..cut], UnixTime::now()).is_err(), "cut at {cut}");
    }
}

#[test]
fn a_file_without_certificates_or_with_a_broken_one_is_named() {
    let parse = |text: &str| parse(text).err().unwrap();
    assert_eq!(parse("# nothing\n"), "it has no certificate in PEM form");
    let (good, _) = authority("a maker");
    let broken = format!("{}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", good.pem());
    assert!(parse(&broken).starts_with("certificate 2: "), "{}", parse(&broken));
}

#[test]
fn the_letters_of_a_manufacturer_are_shown_beside_its_id() {
    assert_eq!(letters("id:494E5443"), "INTC (id:494E5443)");
    assert_eq!(letters("id:53544D20"), "STM (id:53544D20)");
    assert_eq!(letters("id:00001014"), "id:00001014");
    assert_eq!(letters("not named"), "not named");
}

/// Certificates as a list has them, verified with the CA `a maker`.
fn judged(certificates: &[(&[u8], bool)], root: &Certificate) -> Result<Endorsement, String> {
    let listed = |(der, activated): &(&[u8], bool)| ListedCertificate { der: der.to_vec(), activated: *activated };
    let listed: Vec<ListedCertificate> = certificates.iter().map(listed).collect();
    Endorsement::by(&listed, &parse(&root.pem()).unwrap(), UnixTime::now())
}

#[test]
fn a_genuine_certificate_beside_a_forged_one_proves_nothing() {
    let ((root, issuer), (_, forger)) = (authority("a maker"), authority("a forger"));
    let (genuine, forged) = (endorsed(&issuer, |_| ()), endorsed(&forger, |_| ()));
    assert!(judged(&[(&genuine, true)], &root).is_ok());
    for activated in [true, false] {
        let why = judged(&[(&forged, activated), (&genuine, !activated)], &root).unwrap_err();
        assert!(why.starts_with("EK certificate 1 of 2 is not valid: "), "{why}");
        let why = judged(&[(&genuine, !activated), (&forged, activated)], &root).unwrap_err();
        assert!(why.starts_with("EK certificate 2 of 2 is not valid: "), "{why}");
    }
}

#[test]
fn a_certificate_without_activation_does_not_show_where_the_key_is() {
    let (root, issuer) = authority("a maker");
    let (one, two) = (endorsed(&issuer, |_| ()), endorsed(&issuer, |_| ()));
    let copied = judged(&[(&one, false)], &root).unwrap();
    assert!(!copied.is_activated());
    let page = copied.page();
    assert!(page.contains("the key is not proved to be in this TPM") && page.contains("`activated`"), "{page}");
    let json = copied.json();
    assert!(json["key_in_tpm"] == "not proved" && json["valid"][0]["activated"] == false, "{json}");
    let enrolled = judged(&[(&one, true), (&two, false)], &root).unwrap();
    assert!(enrolled.is_activated());
    let (page, json) = (enrolled.page(), enrolled.json());
    assert_eq!(page.matches("not proved to be in this TPM").count(), 1, "{page}");
    assert!(page.contains("must have checked that by credential activation"), "{page}");
    assert!(json["key_in_tpm"] == "activated, by the list" && json["valid"][1]["activated"] == false, "{json}");
}
