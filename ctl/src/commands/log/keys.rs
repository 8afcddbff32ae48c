//! The keys that a checkpoint may be signed with: those of a file, or those that the daemon left in the state folder.

use super::super::Place;
use crate::{
    exit::{Exit, Fail},
    render::clean,
};
use failsafe_attest::{
    AllowedKeys, KeyId, PublicKey,
    tpm::{EK_PREFIX, TPM_PREFIX},
};
use failsafe_journal::tree::signed::{KEY_NAME, KEYS_FILE};
use failsafe_tlog::{Keys, VerifierKey};
use std::{collections::BTreeMap, path::Path};

/// Largest file of keys, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// Known keys, and whether they are this node's own: whoever can change the log of a node can change those too.
pub(in crate::commands) struct Known {
    pub keys: Keys,
    pub own: bool,
    /// By key id.
    comments: BTreeMap<String, String>,
}

/// What is said of a key: which node it is of, in a list of several.
pub(in crate::commands) struct About {
    pub id: String,
    /// Of the line in the file of keys; empty if there is none.
    pub comment: String,
}

impl Known {
    /// What to do if a signature is by none of them, or the signed text is not as it was; `what` is what was signed.
    pub fn advice(&self, what: &str) -> String {
        match self.own {
            true => "name the keys that you trust with --keys FILE".to_owned(),
            false => format!(
                "the {what} was changed, or the keys of --keys are not those of its node: compare them with `failsafectl attest key \
                 show` there, and get the {what} again"
            ),
        }
    }

    /// The keys of the logs of a policy.
    pub fn of_logs(keys: Keys) -> Known {
        Known { keys, own: false, comments: BTreeMap::new() }
    }

    /// Those in the text of a file.
    pub fn parse(text: &[u8], own: bool) -> Result<Known, String> {
        let text = std::str::from_utf8(text).map_err(|error| error.to_string())?;
        let lines = parse(text)?;
        // A line without a name is of a key under the name of its log, which is not known here.
        let any_name: Vec<_> = lines.iter().filter(|line| !line.named).map(|line| line.key.public()).collect();
        let comments = lines.iter().map(|line| (id(&line.key), line.comment.clone())).collect();
        let keys = Keys::of(lines.into_iter().map(|line| line.key).collect()).with_any_name(any_name);
        Ok(Known { keys, own, comments })
    }

    /// The same keys for statements.
    pub fn allowed(&self) -> Result<AllowedKeys, String> {
        let mut lines = BTreeMap::new();
        for key in self.keys.iter() {
            let id = id(key);
            let comment = self.comments.get(&id).map(String::as_str).unwrap_or_default();
            let base64 = PublicKey::from_bytes(&key.public()).map(|public| public.base64()).unwrap_or_default();
            lines.insert(id.clone(), format!("{id} {base64} {comment}\n"));
        }
        AllowedKeys::parse(&lines.into_values().collect::<String>()).map_err(|error| error.to_string())
    }

    pub fn about(&self, key: &VerifierKey) -> About {
        let id = id(key);
        let comment = self.comments.get(&id).cloned().unwrap_or_default();
        About { id, comment }
    }
}

impl About {
    /// One line.
    pub fn text(&self) -> String {
        match self.comment.as_str() {
            "" => format!("{}, without a comment", self.id),
            comment => format!("{}, `{}`", self.id, clean(comment)),
        }
    }
}

fn id(key: &VerifierKey) -> String {
    // It was read as a key, so it is one.
    PublicKey::from_bytes(&key.public()).map(|public| public.id().0).unwrap_or_default()
}

/// The keys in `file`, or this node's own.
pub(in crate::commands) fn known(place: &Place<'_>, file: Option<&Path>) -> Result<Known, Fail> {
    if let Some(file) = file {
        return named(file);
    }
    let own = place.state_dir.join(KEYS_FILE);
    let bytes = super::read(&own, "file of keys", MAX_BYTES)
        .map_err(|fail| fail.advise("name the keys that you trust with --keys FILE"))?;
    parsed(&own, &bytes, true)
}

/// The keys in `file`.
pub(in crate::commands) fn named(file: &Path) -> Result<Known, Fail> {
    parsed(file, &super::read(file, "file of keys", MAX_BYTES)?, false)
}

fn parsed(path: &Path, bytes: &[u8], own: bool) -> Result<Known, Fail> {
    let shown = clean(&path.display().to_string());
    // A wrong argument, as for `attest`.
    let exit = if own { Exit::Error } else { Exit::Usage };
    Known::parse(bytes, own).map_err(|why| {
        Fail::new(exit, format!("{shown}: {why}")).advise(
            "each line is `KEYID BASE64 COMMENT`, as `attest key show` prints it, or `NAME+ID+KEY`, as `log checkpoint` prints it",
        )
    })
}

/// A line of a file of keys.
#[derive(Debug)]
struct Line {
    key: VerifierKey,
    comment: String,
    /// It has the name of the key, and stands for no other name.
    named: bool,
}

/// Lines `KEYID BASE64 COMMENT`, as in an allowed-keys file, or `NAME+ID+KEY`, as other tools of transparency logs have them.
/// Also their comments.
fn parse(text: &str) -> Result<Vec<Line>, String> {
    let mut keys = Vec::new();
    for (at, line) in text.lines().map(str::trim).enumerate() {
        // The key of a TPM signs no checkpoints.
        let of_tpm = |key: &str| key.starts_with(TPM_PREFIX) || key.starts_with(EK_PREFIX);
        let of_tpm = line.split_whitespace().nth(1).is_some_and(of_tpm);
        if line.is_empty() || line.starts_with('#') || of_tpm {
            continue;
        }
        let key = match line.split_whitespace().next() {
            Some(key) if key.contains('+') => {
                let key = VerifierKey::parse(line).map_err(|error| error.to_string());
                key.map(|key| Line { key, comment: String::new(), named: true })
            }
            id => allowed(line, id.unwrap_or_default()),
        };
        keys.push(key.map_err(|why| format!("line {}: {why}", at + 1))?);
    }
    if keys.is_empty() { Err("it has no key".to_owned()) } else { Ok(keys) }
}

fn allowed(line: &str, id: &str) -> Result<Line, String> {
    let allowed = AllowedKeys::parse(line).map_err(|error| error.to_string().replacen("line 1: ", "", 1))?;
    let (public, comment) = allowed.get(&KeyId(id.to_owned())).ok_or("expected `KEYID BASE64 COMMENT`")?;
    let key = VerifierKey::new(KEY_NAME, public.bytes()).map_err(|error| error.to_string())?;
    Ok(Line { key, comment: comment.to_owned(), named: false })
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
        let names: Vec<_> = keys.iter().map(|line| (line.key.name(), line.comment.as_str())).collect();
        assert_eq!(names, [("example.com/foo", ""), ("failsafe", "node 7")]);
        assert_eq!(parse(&format!("{line}\nabc tpm:AAAA its TPM\nabc ek:AAAA its maker\n")).unwrap().len(), 1);
        assert!(keys[0].named && !keys[1].named);
        assert_eq!(parse("# none\n").unwrap_err(), "it has no key");
        assert!(
            parse(&format!("{line}\n{}\n", KEY.replace("foo", "bar"))).unwrap_err().starts_with("line 2: the id of")
        );
        assert!(parse(&format!("{line}\nabc def\n")).unwrap_err().starts_with("line 2: "));
    }
}
