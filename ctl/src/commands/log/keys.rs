//! The keys that a checkpoint may be signed with: those of a file, or those that the daemon left in the state folder.

use super::super::Place;
use crate::{
    exit::{Exit, Fail},
    render::clean,
};
use failsafe_attest::{AllowedKeys, KeyId};
use failsafe_journal::tree::signed::{KEY_NAME, KEYS_FILE};
use failsafe_tlog::{Keys, VerifierKey};
use std::path::Path;

/// Largest file of keys, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// Known keys, and whether they are this node's own: whoever can change the log of a node can change those too.
pub(super) struct Known {
    pub keys: Keys,
    pub own: bool,
}

/// The keys in `file`, or this node's own.
pub(super) fn known(place: &Place<'_>, file: Option<&Path>) -> Result<Known, Fail> {
    let own = place.state_dir.join(KEYS_FILE);
    let path = file.unwrap_or(&own);
    let bytes = super::read(path, "file of keys", MAX_BYTES).map_err(|fail| match file {
        Some(_) => fail,
        None => fail.advise("name the keys that you trust with --keys FILE"),
    })?;
    let shown = clean(&path.display().to_string());
    let text =
        String::from_utf8(bytes).map_err(|error| Fail::because(format!("{shown} is no file of keys"), &error))?;
    let keys = parse(&text).map_err(|why| Fail::new(Exit::Error, format!("{shown}: {why}")))?;
    Ok(Known { keys, own: file.is_none() })
}

/// Lines `KEYID BASE64 COMMENT`, as in an allowed-keys file, or `NAME+ID+KEY`, as other tools of transparency logs have them.
fn parse(text: &str) -> Result<Keys, String> {
    let mut keys = Vec::new();
    for (at, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = match line.split_whitespace().next() {
            Some(key) if key.contains('+') => VerifierKey::parse(line).map_err(|error| error.to_string()),
            id => allowed(line, id.unwrap_or_default()),
        };
        keys.push(key.map_err(|why| format!("line {}: {why}", at + 1))?);
    }
    if keys.is_empty() { Err("it has no key".to_owned()) } else { Ok(Keys::of(keys)) }
}

fn allowed(line: &str, id: &str) -> Result<VerifierKey, String> {
    let allowed = AllowedKeys::parse(line).map_err(|error| error.to_string().replacen("line 1: ", "", 1))?;
    let (public, _) = allowed.get(&KeyId(id.to_owned())).ok_or("expected `KEYID BASE64 COMMENT`")?;
    VerifierKey::new(KEY_NAME, public.bytes()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_attest::PublicKey;

    const KEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";

    #[test]
    fn both_forms_of_a_key_are_read_and_a_wrong_line_is_named() {
        let public = VerifierKey::parse(KEY).unwrap().public();
        let public = PublicKey::from_bytes(&public).unwrap();
        let line = format!("{} {} node 7", public.id(), public.base64());
        let keys = parse(&format!("# keys\n\n{KEY}\n{line}\n")).unwrap();
        let names: Vec<&str> = keys.iter().map(VerifierKey::name).collect();
        assert_eq!(names, ["example.com/foo", "failsafe"]);
        assert_eq!(parse("# none\n").unwrap_err(), "it has no key");
        assert!(
            parse(&format!("{line}\n{}\n", KEY.replace("foo", "bar"))).unwrap_err().starts_with("line 2: the id of")
        );
        assert!(parse(&format!("{line}\nabc def\n")).unwrap_err().starts_with("line 2: "));
    }
}
