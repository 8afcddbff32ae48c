//! `attest key`.

use super::{read, shown};
use crate::{
    args::{AttestActivateArgs, AttestRotateArgs, Output},
    client::{Client, block_on},
    commands::{
        Place,
        file::{free, save},
    },
    exit::{Exit, Fail},
    render::{attest as page, json, print},
};
use failsafe_attest::tpm::MAX_CREDENTIAL;
use failsafe_proto::v1 as pb;
use serde_json::json;

pub(in crate::commands) fn show(place: &Place<'_>, output: Output) -> Result<Exit, Fail> {
    let pb::ListKeysResponse { keys, no_tpm, no_endorsement } = block_on(async {
        let client = Client::connect(place.daemon).await?;
        Ok(client.attestation().list_keys(pb::ListKeysRequest {}).await?.into_inner())
    })?;
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    print(&if output.json() {
        json::text(
            &json!({ "keys": keys.iter().map(page::key_json).collect::<Vec<_>>(), "no_tpm": no_tpm, "no_endorsement": no_endorsement }),
        )
    } else {
        page::keys(&keys, (&no_tpm, &no_endorsement), &host, &place.zone)
    })?;
    Ok(Exit::Done)
}

pub(in crate::commands) fn activate(place: &Place<'_>, args: &AttestActivateArgs) -> Result<Exit, Fail> {
    free(&args.output, args.force)?;
    let credential = read(&args.credential, MAX_CREDENTIAL)?;
    let secret = block_on(async {
        let client = Client::connect(place.daemon).await?;
        let request = pb::ActivateKeyRequest { credential };
        Ok(client.attestation().activate_key(request).await?.into_inner().secret)
    })?;
    save(&args.output, args.force, &secret)?;
    print(&format!("{}: the secret, {} bytes; the verifier compares it\n", shown(&args.output), secret.len()))?;
    Ok(Exit::Done)
}

pub(in crate::commands) fn rotate(place: &Place<'_>, args: &AttestRotateArgs) -> Result<Exit, Fail> {
    let key = block_on(async {
        let client = Client::connect(place.daemon).await?;
        let request = pb::RotateKeyRequest { reason: args.reason.clone() };
        Ok(client.attestation().rotate_key(request).await?.into_inner().key.unwrap_or_default())
    })?;
    print(&if args.output.json() {
        json::text(&page::key_json(&key))
    } else {
        format!(
            "signs with {} from now on; add it to the lists of allowed keys (`failsafectl attest key show`)\n",
            key.keyid
        )
    })?;
    Ok(Exit::Done)
}
