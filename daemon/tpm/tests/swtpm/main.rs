//! The commands on a software TPM (swtpm), and what tpm2-tools say of the quote.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests; a failed unwrap is a failed test")]

mod node;

use base64::{Engine, engine::general_purpose::STANDARD};
use failsafe_tpm::{Credential, Endorsements, Quote, Quoted, Tpm, TpmError, Transport, signature};
use node::Swtpm;
use p256::{
    EncodedPoint,
    ecdsa::{Signature, VerifyingKey, signature::Verifier},
};
use std::{
    fs,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
};

/// The socket as a transport.
struct Socket(UnixStream);

impl Transport for Socket {
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.0.write_all(command)?;
        let mut answer = vec![0; 10];
        self.0.read_exact(&mut answer)?;
        let size = u32::from_be_bytes([answer[2], answer[3], answer[4], answer[5]]) as usize;
        answer.resize(size, 0);
        self.0.read_exact(&mut answer[10..])?;
        Ok(answer)
    }
}

fn connected(swtpm: &Swtpm) -> Tpm<Socket> {
    Tpm::new(Socket(swtpm.connect()))
}

const PCRS: [u8; 9] = [0, 1, 2, 3, 4, 5, 6, 7, 10];
const BOUND: [u8; 32] = [0xab; 32];

/// The key's public area, the values of the PCRs, and a quote over them.
fn quoted(tpm: &mut Tpm<Socket>, wanted: &[u8]) -> (failsafe_tpm::Public, failsafe_tpm::Pcrs, Quote) {
    let key = tpm.key().unwrap();
    let (pcrs, quote) = (tpm.pcrs(wanted).unwrap(), tpm.quote(&key, wanted, &BOUND).unwrap());
    tpm.flush(&key).unwrap();
    (key.public, pcrs, quote)
}

fn verifies(public: &failsafe_tpm::Public, quote: &Quote) -> bool {
    let point = EncodedPoint::from_untagged_bytes(public.point().into());
    let key = VerifyingKey::from_encoded_point(&point).unwrap();
    let signature = Signature::from_slice(&signature(&quote.signature).unwrap()).unwrap();
    key.verify(&quote.attest, &signature).is_ok()
}

#[test]
fn a_quote_covers_the_values_of_the_pcrs_and_what_it_was_bound_to() {
    let Some(swtpm) = Swtpm::start("a_quote_covers_the_values_of_the_pcrs_and_what_it_was_bound_to") else { return };
    let extend = ["10:sha256=1111111111111111111111111111111111111111111111111111111111111111"];
    let (done, text) = swtpm.tool("tpm2_pcrextend", &extend);
    assert!(done, "{text}");
    let (public, pcrs, quote) = quoted(&mut connected(&swtpm), &PCRS);
    assert!(verifies(&public, &quote));
    let Quoted { signer, qualifying, digest, pcrs: selected, .. } = quote.quoted;
    assert_eq!((qualifying.as_slice(), digest), (&BOUND[..], pcrs.digest()));
    assert_eq!((selected.as_slice(), signer), (&PCRS[..], public.qualified_name()));
    assert!(pcrs.0[&10] != [0; 32] && pcrs.0[&0] == [0; 32]);
}

#[test]
fn one_tpm_makes_one_key_and_another_tpm_another_one() {
    let Some(mut swtpm) = Swtpm::start("one_tpm_makes_one_key_and_another_tpm_another_one") else { return };
    let (first, _, before) = quoted(&mut connected(&swtpm), &PCRS);
    swtpm.reboot();
    let (again, _, after) = quoted(&mut connected(&swtpm), &PCRS);
    assert_eq!(first, again);
    assert_ne!(before.quoted.resets, after.quoted.resets, "a reboot is seen");
    let other = Swtpm::start("").unwrap();
    assert_ne!(connected(&other).key().unwrap().public, first);
}

#[test]
fn loaded_keys_do_not_fill_the_tpm() {
    let Some(swtpm) = Swtpm::start("loaded_keys_do_not_fill_the_tpm") else { return };
    let mut tpm = connected(&swtpm);
    for _ in 0..8 {
        quoted(&mut tpm, &PCRS);
    }
}

#[test]
fn tpm2_checkquote_accepts_the_quote_and_nothing_else() {
    let test = "tpm2_checkquote_accepts_the_quote_and_nothing_else";
    let Some(swtpm) = Swtpm::start(test) else { return };
    // tpm2_checkquote 5.4 reads a file of eight values at most.
    let (public, pcrs, quote) = quoted(&mut connected(&swtpm), &[0, 1, 2, 3, 7, 10]);
    let write = |name: &str, bytes: &[u8]| fs::write(swtpm.folder().join(name), bytes).unwrap();
    // tpm2-tools read a key as PEM: the point behind the fixed beginning of a P-256 key.
    let mut der = hex::decode("3059301306072a8648ce3d020106082a8648ce3d03010703420004").unwrap();
    der.extend(public.point());
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"));
    write("key.pem", pem.as_bytes());
    write("attest", &quote.attest);
    write("signature", &quote.signature);
    write("values", &pcrs.0.values().flatten().copied().collect::<Vec<u8>>());
    let check = |attest: &str, signature: &str, bound: &[u8]| {
        let bound = hex::encode(bound);
        let list = "sha256:0,1,2,3,7,10";
        let args = ["-u", "key.pem", "-m", attest, "-s", signature, "-q", &bound, "-f", "values", "-l", list];
        swtpm.tool("tpm2_checkquote", &args)
    };
    let (good, text) = check("attest", "signature", &BOUND);
    assert!(good, "{text}");
    assert!(!check("attest", "signature", &[0xac; 32]).0, "another nonce");
    let mut altered = quote.attest.clone();
    *altered.last_mut().unwrap() ^= 1;
    write("altered", &altered);
    assert!(!check("altered", "signature", &BOUND).0, "an altered quote");
    let mut altered = quote.signature.clone();
    *altered.last_mut().unwrap() ^= 1;
    write("altered-signature", &altered);
    assert!(!check("attest", "altered-signature", &BOUND).0, "an altered signature");
    let mut altered: Vec<u8> = pcrs.0.values().flatten().copied().collect();
    altered[0] ^= 1;
    write("values", &altered);
    assert!(!check("attest", "signature", &BOUND).0, "an altered value of a PCR");
}

#[test]
fn the_counter_counts_up_across_reboots_and_cannot_be_made_again_with_less() {
    let test = "the_counter_counts_up_across_reboots_and_cannot_be_made_again_with_less";
    let Some(mut swtpm) = Swtpm::start(test) else { return };
    let mut tpm = connected(&swtpm);
    assert_eq!(tpm.counter().unwrap(), None);
    let first = tpm.count().unwrap();
    assert_eq!(tpm.count().unwrap(), first + 1);
    drop(tpm);
    swtpm.reboot();
    let mut tpm = connected(&swtpm);
    assert_eq!(tpm.counter().unwrap(), Some(first + 1));
    drop(tpm);
    let (done, text) = swtpm.tool("tpm2_nvundefine", &["-C", "o", "0x0181f5af"]);
    assert!(done, "{text}");
    let mut tpm = connected(&swtpm);
    assert_eq!(tpm.counter().unwrap(), None);
    assert!(tpm.count().unwrap() > first + 1);
}

#[test]
fn an_index_of_somebody_else_at_the_place_of_the_counter_is_not_used() {
    let test = "an_index_of_somebody_else_at_the_place_of_the_counter_is_not_used";
    let Some(swtpm) = Swtpm::start(test) else { return };
    let (done, text) =
        swtpm.tool("tpm2_nvdefine", &["-C", "o", "-s", "8", "-a", "ownerwrite|ownerread|authwrite", "0x0181f5af"]);
    assert!(done, "{text}");
    let why = connected(&swtpm).count().unwrap_err().to_string();
    assert!(why.contains("TPM2_NV_ReadPublic") && why.contains("its attributes"), "{why}");
}

#[test]
fn certificates_of_endorsement_keys_are_read_as_tpm2_tools_read_them() {
    let test = "certificates_of_endorsement_keys_are_read_as_tpm2_tools_read_them";
    let Some(swtpm) = Swtpm::manufactured(test) else { return };
    let Endorsements { found, unread } = connected(&swtpm).endorsements().unwrap();
    assert!(unread.is_empty(), "{unread:?}");
    let indices: Vec<u32> = found.iter().map(|one| one.index).collect();
    assert!(indices.starts_with(&[0x01c0_0002]), "{indices:x?}");
    for one in &found {
        let (done, text) = swtpm.tool("tpm2_nvread", &["-o", "certificate", &format!("{:#x}", one.index)]);
        assert!(done, "{text}");
        assert_eq!(fs::read(swtpm.folder().join("certificate")).unwrap(), one.certificate, "{:#x}", one.index);
    }
}

#[test]
fn a_tpm_without_certificates_has_none_and_what_is_no_certificate_is_named() {
    let test = "a_tpm_without_certificates_has_none_and_what_is_no_certificate_is_named";
    let Some(swtpm) = Swtpm::start(test) else { return };
    let has_none = || {
        let Endorsements { found, unread } = connected(&swtpm).endorsements().unwrap();
        found.is_empty() && unread.is_empty()
    };
    assert!(has_none());
    let define = |index: &str, size: &str| {
        let args = ["-C", "o", "-s", size, "-a", "ownerwrite|ownerread|authread|no_da", index];
        let (done, text) = swtpm.tool("tpm2_nvdefine", &args);
        assert!(done, "{text}");
    };
    // A place that was reserved and never written.
    define("0x01c00002", "900");
    assert!(has_none());
    fs::write(swtpm.folder().join("zeros"), [0; 900]).unwrap();
    let (done, text) = swtpm.tool("tpm2_nvwrite", &["-C", "o", "-i", "zeros", "0x01c00002"]);
    assert!(done, "{text}");
    let Endorsements { found, unread } = connected(&swtpm).endorsements().unwrap();
    assert!(found.is_empty() && unread.len() == 1, "{unread:?}");
    let why = unread[0].2.to_string();
    assert!(why.contains("TPM2_NV_Read") && why.contains("the tag of a certificate is 0x0"), "{why}");
}

#[test]
fn a_hierarchy_with_a_password_and_a_bank_that_is_missing_are_named() {
    let Some(swtpm) = Swtpm::start("a_hierarchy_with_a_password_and_a_bank_that_is_missing_are_named") else { return };
    let (done, text) = swtpm.tool("tpm2_changeauth", &["-c", "e", "secret"]);
    assert!(done, "{text}");
    let mut tpm = connected(&swtpm);
    let why = tpm.key().unwrap_err().to_string();
    assert!(why.contains("TPM2_CreatePrimary") && why.contains("has a password"), "{why}");
    assert!(matches!(tpm.pcrs(&[24]), Err(TpmError::NoBank(24))));
    assert!(tpm.about().unwrap().contains("firmware"), "it still answers");
}

#[test]
fn a_secret_for_the_key_and_for_the_endorsement_key_of_the_tpm_is_decrypted_and_no_other() {
    let test = "a_secret_for_the_key_and_for_the_endorsement_key_of_the_tpm_is_decrypted_and_no_other";
    let (Some(swtpm), Some(other)) = (Swtpm::start(test), Swtpm::start(test)) else { return };
    let tool = |program: &str, args: &[&str]| {
        let (done, text) = swtpm.tool(program, args);
        assert!(done, "{program}: {text}");
    };
    let key = connected(&swtpm).key().unwrap().public;
    fs::write(swtpm.folder().join("secret"), [7; 32]).unwrap();
    for kind in ["rsa", "ecc"] {
        tool("tpm2_flushcontext", &["-t"]);
        tool("tpm2_createek", &["-Q", "-G", kind, "-c", "ek.ctx", "-u", "ek.pem", "-f", "pem"]);
        tool("tpm2_flushcontext", &["-t"]);
        let credential = |name: [u8; 32]| {
            let name = format!("000b{}", hex::encode(name));
            let args = ["-T", "none", "-G", kind, "-u", "ek.pem", "-s", "secret", "-n", &name, "-o", "credential"];
            tool("tpm2_makecredential", &args);
            Credential::parse(&fs::read(swtpm.folder().join("credential")).unwrap()).unwrap()
        };
        let activated = |swtpm: &Swtpm, credential: &Credential| {
            let mut tpm = connected(swtpm);
            let key = tpm.key().unwrap();
            let secret = tpm.activate(&key, credential);
            tpm.flush(&key).unwrap();
            secret.map_err(|error| error.to_string())
        };
        let (good, of_another) = (credential(key.digest()), credential([1; 32]));
        // Neither keys nor sessions fill the TPM.
        for _ in 0..5 {
            assert_eq!(activated(&swtpm, &good).as_deref(), Ok(&[7; 32][..]), "{kind}");
            let why = activated(&swtpm, &of_another).unwrap_err();
            assert!(why.contains("TPM2_ActivateCredential") && why.contains("not for this key"), "{kind}: {why}");
        }
        let why = activated(&other, &good).unwrap_err();
        assert!(why.contains("TPM2_ActivateCredential"), "{kind}: {why}");
    }
}
