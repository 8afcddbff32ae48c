//! What `log` commands ask a daemon for instead of reading its files: for callers who may not read the state folder, and about other
//! nodes.
//!
//! Invariant: what a daemon answers is verified like what is read from files. The keys that it names are its own: whoever can change
//! the log of a node can change those too, so another node is asked only with `--keys`.

use super::{super::Place, keys::Known};
use crate::{
    args::STATE_DIR,
    client::{Client, Target, block_on},
    exit::{Exit, Fail},
    render::clean,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use failsafe_journal::{Entry, tree::signed::CHECKPOINT_FILE, tree::signed::SignedTree};
use failsafe_proto::v1 as pb;
use failsafe_tlog::{Checkpoint, Hash, ProofFile, leaf_hash, proof::verify_inclusion};
use std::{fs::File, io, path::Path};
use tonic::Status;

/// What messages call the checkpoint that a daemon sent.
pub(super) const SENT: &str = "the checkpoint from the daemon";

/// Whether the daemon is asked: where the caller says so, about another node, and where the caller may not read the state folder of
/// this node. A folder that the caller named may be a copy of another node's: the daemon of this node is never asked in its place.
///
/// # Errors
/// The named folder cannot be read.
pub(super) fn is_asked(place: &Place<'_>, from_daemon: bool) -> Result<bool, Fail> {
    if from_daemon || matches!(place.daemon, Target::Node(_)) {
        return Ok(true);
    }
    let refused = |error: io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    let unreadable = File::open(place.state_dir.join(CHECKPOINT_FILE)).is_err_and(refused);
    let asked = is_asked_instead(place.state_dir, unreadable)?;
    if asked {
        note!("failsafectl: you may not read {STATE_DIR}; the daemon of this node is asked (--from-daemon)");
    }
    Ok(asked)
}

/// Whether the daemon is asked in place of this folder, which may be one that the caller may not read.
fn is_asked_instead(state_dir: &Path, unreadable: bool) -> Result<bool, Fail> {
    if unreadable && state_dir != Path::new(STATE_DIR) {
        let message = format!("cannot read {}: permission denied", clean(&state_dir.display().to_string()));
        return Err(Fail::new(Exit::Denied, message).advise(
            "read it as its owner, or ask the daemon of this node, whose log may be another one, with --from-daemon",
        ));
    }
    Ok(unreadable)
}

/// What a program reads about where an answer is from.
pub(super) fn source(asked: bool) -> &'static str {
    if asked { "daemon" } else { "files" }
}

/// The keys of a file, those that the daemon of this node names if it is `asked`, or those of the state folder.
pub(super) fn known(place: &Place<'_>, file: Option<&Path>, asked: bool) -> Result<Known, Fail> {
    if !asked || file.is_some() {
        return super::keys::known(place, file);
    }
    if matches!(place.daemon, Target::Node(_)) {
        return Err(Fail::usage("name the keys that you trust with --keys FILE: another node could name any key"));
    }
    let listed = block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.attestation().list_keys(pb::ListKeysRequest {}).await?.into_inner().keys)
    })?;
    // The key of a TPM signs no checkpoints.
    let software = listed.iter().filter(|key| key.public_key.len() == 32);
    let line = |key: &pb::NodeKey| {
        let state = if key.retired_ns == 0 { "active" } else { "retired" };
        format!("{} {} {}, {state}\n", key.keyid, STANDARD.encode(&key.public_key), key.kind)
    };
    let text: String = software.map(line).collect();
    Known::parse(text.as_bytes(), true)
        .map_err(|why| Fail::new(Exit::Error, format!("the daemon sent keys that cannot be read: {why}")))
}

/// The latest signed checkpoint.
pub(super) fn checkpoint(place: &Place<'_>) -> Result<Vec<u8>, Fail> {
    block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.log().get_checkpoint(pb::GetCheckpointRequest {}).await?.into_inner().checkpoint)
    })
}

/// The proof that an entry is in the latest checkpoint. That the proof is right is checked; who signed the checkpoint is for the reader
/// of the proof to say.
pub(super) fn prove(place: &Place<'_>, entry: u64) -> Result<ProofFile, Fail> {
    let answer = block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.log().prove_inclusion(pb::ProveInclusionRequest { entry }).await?.into_inner())
    })?;
    let broken = |why: &dyn std::fmt::Display| {
        Fail::new(Exit::Error, format!("the daemon sent no proof of entry {entry}: {why}"))
    };
    let pb::ProveInclusionResponse { leaf, hashes, entry: bytes, checkpoint } = answer;
    let hashes = hashes_of(&hashes).ok_or_else(|| broken(&"a hash has not 32 bytes"))?;
    let of = Checkpoint::unverified(&checkpoint).map_err(|error| broken(&error))?;
    verify_inclusion(leaf, of.size, &leaf_hash(&bytes), &hashes, &of.root).map_err(|error| broken(&error))?;
    let first = SignedTree::of(of).map(|tree| tree.first);
    let index = Entry::parse(&bytes).map_err(|error| broken(&error))?.index;
    if index != entry || first.and_then(|first| first.checked_add(leaf)) != Some(entry) {
        return Err(broken(&format!("it is of entry {index}")));
    }
    Ok(ProofFile { extra: Some(bytes), index: leaf, hashes, checkpoint })
}

/// The hashes of a proof, and the newer checkpoint.
pub(super) type Extension = (Vec<Hash>, Vec<u8>);

/// The proof that the log of a newer checkpoint extends an older one. Or the refusal of the daemon, which may be a finding about the
/// log.
pub(super) fn extends(place: &Place<'_>, old: &[u8], new: &[u8]) -> Result<Result<Extension, Status>, Fail> {
    let answer = block_on(async {
        let client = Client::connect(place.daemon).await?;
        let request = pb::ProveConsistencyRequest { old_checkpoint: old.to_vec(), new_checkpoint: new.to_vec() };
        Ok(client.log().prove_consistency(request).await)
    })?;
    let pb::ProveConsistencyResponse { hashes, new_checkpoint, .. } = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Ok(Err(status)),
    };
    let hashes = hashes_of(&hashes)
        .ok_or_else(|| Fail::new(Exit::Error, "the daemon sent no proof: a hash has not 32 bytes"))?;
    Ok(Ok((hashes, new_checkpoint)))
}

fn hashes_of(hashes: &[Vec<u8>]) -> Option<Vec<Hash>> {
    hashes.iter().map(|hash| Hash::try_from(hash.as_slice()).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_of_this_node_is_not_asked_in_place_of_a_named_folder() {
        let of = |folder: &str, unreadable| is_asked_instead(Path::new(folder), unreadable).map_err(|fail| fail.exit);
        assert_eq!(of(STATE_DIR, true), Ok(true));
        assert_eq!(of(STATE_DIR, false), Ok(false));
        assert_eq!(of("/mnt/node7", false), Ok(false));
        assert_eq!(of("/mnt/node7", true), Err(Exit::Denied));
    }
}
