//! Valid files, damaged at random: no parser panics, and nothing is verified that was not signed.

#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

use ed25519_dalek::{Signer as _, SigningKey};
use failsafe_tlog::{
    Checkpoint, Collector, ConsistencyFile, Cosigner, Frontier, Keys, Note, Policy, ProofFile, Signer, VerifierKey,
    WitnessKey, leaf_hash,
    tile::{Tile, decode_entries, decode_hashes, encode_entries},
    witness::judge,
};
use proptest::prelude::*;

#[path = "../../../tests/damage.rs"]
mod damage;
use damage::{damage, damaged};

struct Key(SigningKey, VerifierKey);

impl Signer for Key {
    fn key(&self) -> &VerifierKey {
        &self.1
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

fn key() -> Key {
    let key = SigningKey::from_bytes(&[1; 32]);
    let public = VerifierKey::new("node", &key.verifying_key().to_bytes()).unwrap();
    Key(key, public)
}

struct Witness(SigningKey, WitnessKey);

impl Cosigner for Witness {
    fn key(&self) -> &WitnessKey {
        &self.1
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

fn witness() -> Witness {
    let key = SigningKey::from_bytes(&[2; 32]);
    let public = WitnessKey::new("witness.example/w1", &key.verifying_key().to_bytes()).unwrap();
    Witness(key, public)
}

/// A policy with one log and a quorum of one witness.
fn policy() -> String {
    format!("# nodes\nlog {} url\nwitness w {}\ngroup g any w\nquorum g\n", key().1, witness().1)
}

fn first_request() -> ConsistencyFile {
    ConsistencyFile { old: 0, hashes: Vec::new(), checkpoint: checkpoint(11).sign(&key()).encode() }
}

/// A checkpoint that its log signed and that the witness cosigned.
fn cosigned() -> Vec<u8> {
    judge(&first_request(), None, &Keys::of(vec![key().1]), 1_700_000_000, &witness()).unwrap().note
}

fn checkpoint(size: u64) -> Checkpoint {
    let mut tree = Frontier::new();
    (0..size).for_each(|n| tree.push(leaf_hash(&n.to_be_bytes())));
    Checkpoint { origin: "node/log".into(), size, root: tree.root(), extensions: Vec::new() }
}

fn collected(mut collector: Collector) -> Vec<[u8; 32]> {
    (0..11_u64).for_each(|n| collector.push(leaf_hash(&n.to_be_bytes())));
    collector.finish().unwrap().0.remove(0)
}

fn proof() -> ProofFile {
    let hashes = collected(Collector::inclusion(&Frontier::new(), &[6], 11).unwrap());
    let checkpoint = checkpoint(11).sign(&key()).encode();
    ProofFile { extra: Some(6_u64.to_be_bytes().to_vec()), index: 6, hashes, checkpoint }
}

fn consistency() -> ConsistencyFile {
    let hashes = collected(Collector::consistency(&Frontier::new(), 6, 11).unwrap());
    ConsistencyFile { old: 6, hashes, checkpoint: checkpoint(11).sign(&key()).encode() }
}

proptest! {
    #[test]
    fn a_damaged_checkpoint_is_not_verified(changes in damage(64)) {
        let good = checkpoint(11).sign(&key()).encode();
        let bad = damaged(good.clone(), &changes);
        if let Ok(note) = Note::parse(&bad) {
            prop_assert_eq!(Note::parse(&note.encode()), Ok(note));
        }
        if let Ok((opened, _)) = Checkpoint::open(&bad, &Keys::of(vec![key().1])) {
            // A second signature line of the same key changes nothing that was signed.
            prop_assert_eq!(opened, checkpoint(11));
        }
        let text = key().1.to_string();
        let bad = damaged(text.clone().into_bytes(), &changes);
        if let Some(Ok(read)) = std::str::from_utf8(&bad).ok().map(VerifierKey::parse) {
            prop_assert_eq!(read.to_string().into_bytes(), bad);
        }
    }

    #[test]
    fn a_damaged_proof_proves_no_other_entry(changes in damage(64)) {
        let keys = Keys::of(vec![key().1]);
        let bad = damaged(proof().encode(), &changes);
        if let Ok(read) = ProofFile::parse(&bad)
            && let Ok(proved) = read.verify(&keys)
        {
            prop_assert_eq!((proved.entry, read.index), (6_u64.to_be_bytes().to_vec(), 6));
        }
        let bad = damaged(consistency().encode(), &changes);
        if let Ok(read) = ConsistencyFile::parse(&bad)
            && let Ok((new, _)) = read.open(&keys)
        {
            let forked = Checkpoint { root: [7; 32], ..checkpoint(6) };
            prop_assert!(read.verify(&forked, &new).is_err());
            prop_assert!(read.verify(&checkpoint(6), &new).is_err() || new == checkpoint(11));
        }
    }

    #[test]
    fn a_damaged_cosigned_checkpoint_is_refused_or_is_the_one_that_was_cosigned(changes in damage(64)) {
        let policy = Policy::parse(policy().as_bytes()).unwrap();
        let bad = damaged(cosigned(), &changes);
        if let Ok(accepted) = policy.accept(&bad) {
            prop_assert_eq!(accepted.checkpoint, checkpoint(11));
            prop_assert_eq!(accepted.cosigned, [("w".to_owned(), 1_700_000_000)]);
        }
        let text = witness().1.to_string();
        let bad = damaged(text.into_bytes(), &changes);
        if let Some(Ok(read)) = std::str::from_utf8(&bad).ok().map(WitnessKey::parse) {
            prop_assert_eq!(read.to_string().into_bytes(), bad);
        }
    }

    #[test]
    fn a_damaged_policy_is_refused_or_accepts_only_what_its_keys_signed(changes in damage(64)) {
        let bad = damaged(policy().into_bytes(), &changes);
        if let Ok(policy) = Policy::parse(&bad)
            && let Ok(accepted) = policy.accept(&cosigned())
        {
            prop_assert_eq!(accepted.log, key().1);
            prop_assert_eq!(accepted.checkpoint, checkpoint(11));
        }
    }

    #[test]
    fn a_damaged_request_to_a_witness_is_refused_or_is_the_one_that_the_log_signed(changes in damage(64)) {
        let keys = Keys::of(vec![key().1]);
        for good in [first_request(), consistency()] {
            let bad = damaged(good.encode(), &changes);
            if let Ok(request) = ConsistencyFile::parse(&bad)
                && let Ok(signed) = judge(&request, None, &keys, 1, &witness())
            {
                prop_assert_eq!((signed.checkpoint, request.old), (checkpoint(11), 0));
            }
        }
    }

    #[test]
    fn random_bytes_panic_no_parser(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Policy::parse(policy().as_bytes()).unwrap().accept(&bytes).is_err());
        let _policy = Policy::parse(&bytes);
        let _note = Note::parse(&bytes);
        let _proof = ProofFile::parse(&bytes);
        let _consistency = ConsistencyFile::parse(&bytes);
        let _entries = decode_entries(&bytes).map(Vec::from_iter);
    }

    #[test]
    fn damaged_tiles_are_refused_or_have_one_form(changes in damage(64)) {
        let entries: Vec<Vec<u8>> = (0..20_u8).map(|n| vec![n; usize::from(n) * 3]).collect();
        let bad = damaged(encode_entries(entries.iter().map(Vec::as_slice)).unwrap(), &changes);
        if let Ok(read) = decode_entries(&bad) {
            prop_assert_eq!(encode_entries(read).unwrap(), bad.clone());
        }
        if let Ok(hashes) = decode_hashes(&bad) {
            prop_assert_eq!(hashes.concat(), bad);
        }
        let bad = damaged(b"tile/entries/x001/x234/067.p/56".to_vec(), &changes);
        if let Some(Ok(tile)) = std::str::from_utf8(&bad).ok().map(Tile::parse) {
            prop_assert_eq!(tile.path().into_bytes(), bad);
        }
    }
}
