//! A policy keeps its digest: recordings, `run.json` and the audit log name policies by it.

use super::{Policy, PolicyDigest};
use crate::policy::parse::parse;

macro_rules! policies {
    ($($name:literal $toml:literal;)*) => {
        [$((
            $name,
            include_str!(concat!("../../../../", $toml)),
            include_str!(concat!("../../../../tests/fixtures/policies/", $name, ".json")),
        ),)*]
    };
}

/// The name of each policy, its file, and what an earlier daemon kept of it.
const POLICIES: [(&str, &str, &str); 6] = policies! {
    "every-section" "tests/fixtures/policies/every-section.toml";
    "exfiltration" "policies/exfiltration.toml";
    "gpu-overheating" "policies/gpu-overheating.toml";
    "lockdown" "policies/lockdown.toml";
    "loss-divergence" "policies/loss-divergence.toml";
    "trainer-baseline" "policies/trainer-baseline.toml";
};

/// Name, version and digest of each policy that was ever in [`POLICIES`].
const DIGESTS: &str = include_str!("../../../../tests/fixtures/policies/digests.txt");

fn known(name: &str, version: u32) -> Option<&'static str> {
    let mut rows = DIGESTS.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.split_once(' '));
    rows.find(|(of, _)| *of == version.to_string()).map(|(_, digest)| digest)
}

#[test]
fn a_policy_that_did_not_change_has_the_digest_that_it_had() {
    for (name, toml, _) in POLICIES {
        let policy = parse(name, toml).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let (version, digest) = (policy.version, policy.digest().to_string());
        let row = format!("{name} {version} {digest}");
        assert_eq!(
            known(name, version),
            Some(digest.as_str()),
            "policy {name} version {version} has another digest than before.\n\
             If you changed the file: raise `version` in its [policy], and add this row to \
             tests/fixtures/policies/digests.txt:\n{row}\n\
             If you did not: the digest of every user's policy has changed, so that recordings are refused and restarted runs are \
             only guarded. Give a new field of a policy #[serde(default, skip_serializing_if = \"...\")], so that a policy without \
             it keeps its digest."
        );
    }
}

#[test]
fn a_policy_that_an_earlier_daemon_kept_keeps_its_digest() {
    for (name, _, kept) in POLICIES {
        let kept = kept.trim_end();
        let policy: Policy = serde_json::from_str(kept).unwrap_or_else(|error| {
            panic!("the policy {name} that an earlier daemon kept cannot be read: {error}. New fields need a default")
        });
        let text = serde_json::to_string(&policy).unwrap();
        assert_eq!(
            text, kept,
            "policy {name} is written otherwise than an earlier daemon did: its digest would be another. Give a new field \
             #[serde(default, skip_serializing_if = \"...\")], and neither move nor rename fields and variants"
        );
        assert_eq!(policy.digest(), PolicyDigest::of_content(kept.as_bytes()));
        let row = format!("{name} {} {}", policy.version, policy.digest());
        assert!(DIGESTS.lines().any(|line| line == row), "tests/fixtures/policies/digests.txt has no row {row}");
    }
}

#[test]
#[ignore = "writes files of the repository: for a policy that is new in `POLICIES`"]
fn write_what_is_kept_of_each_policy() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/policies");
    for (name, toml, kept) in POLICIES {
        let policy = parse(name, toml).unwrap();
        if kept.trim_end().is_empty() {
            std::fs::write(folder.join(format!("{name}.json")), serde_json::to_string(&policy).unwrap() + "\n")
                .unwrap();
        }
    }
}
