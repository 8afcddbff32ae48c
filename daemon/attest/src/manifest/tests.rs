//! Manifests: their files, limits and facts, and how they count in a comparison.

use super::*;
use crate::{
    About, Assurance, Scope, Statement, Table, Verdict, compare,
    diff::{Kind, Options},
};

const FULL: &str = r#"
regime = "deterministic"
image = "sha256:00"
parent = "pretrain-7"
baseline = "step 12000"

[code]
repository = "https://git.example/train"
commit = "6b92a44"
dirty = false

[data.c4]
version = "3.0.1"
digest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

[seeds]
torch = 42
large = 9223372036854775807

[hyperparameters]
lr = 0.0003
betas = [0.9, 0.95]
schedule = "cosine"

[config]
flash_attention = true
"#;

fn manifest(text: &str) -> Manifest {
    Manifest::parse("m.toml", text).unwrap()
}

#[test]
fn a_manifest_becomes_claimed_facts_and_reads_back_from_its_canonical_text() {
    let full = manifest(FULL);
    let text = full.canonical().unwrap();
    assert_eq!(Manifest::from_json(text.as_bytes()).unwrap().canonical().unwrap(), text);
    assert_eq!(Manifest::from_json(text.as_bytes()).unwrap().facts(), full.facts());
    let facts = full.facts();
    assert!(facts.iter().all(|fact| fact.assurance == Assurance::Claimed && is_path(&fact.path)));
    let value = |path: &str| facts.iter().find(|fact| fact.path == path).map(|fact| fact.value.clone().unwrap());
    for (path, expected) in [
        ("run/manifest/code/commit", Json::from("6b92a44")),
        ("run/manifest/code/dirty", Json::Bool(false)),
        ("run/manifest/data/c4/version", Json::from("3.0.1")),
        ("run/manifest/seeds/torch", Json::Int(42)),
        ("run/manifest/seeds/large", Json::from("9223372036854775807")),
        ("run/manifest/hyperparameters/lr", Json::from("0.0003")),
        ("run/manifest/hyperparameters/betas", Json::List(vec![Json::from("0.9"), Json::from("0.95")])),
        ("run/manifest/config/flash_attention", Json::Bool(true)),
        ("run/manifest/regime", Json::from("deterministic")),
    ] {
        assert_eq!(value(path), Some(expected), "{path}");
    }
    assert_eq!(Manifest::parse("m.toml", "").unwrap().canonical().unwrap(), "{}");
}

#[test]
fn a_mistake_is_reported_with_file_and_line() {
    for (text, line, words) in [
        ("regime = \"strict\"", 1, "unknown name `strict`"),
        ("\n[code]\ncomit = \"a\"", 3, "unknown field `comit`"),
        ("[seeds]\ntorch = { a = 1 }", 2, "did not match any variant"),
        ("[data.c4]\ndigest = \"md5:00\"", 1, "expected sha256: and 64 hexadecimal digits"),
        ("[seeds]\n\"a/b\" = 1", 1, "is no name"),
        ("image = \"a\\nb\"", 1, "without control characters"),
        ("x = ", 1, "m.toml"),
    ] {
        let wrong = Manifest::parse("m.toml", text).unwrap_err().to_string();
        assert!(wrong.contains(words), "{wrong}");
        assert!(wrong.contains(&format!("m.toml:{line}")), "{wrong}");
    }
    let many: String = (0..=MAX_ENTRIES).map(|n| format!("s{n} = 1\n")).collect();
    let wrong = Manifest::parse("m.toml", &format!("[seeds]\n{many}")).unwrap_err().to_string();
    assert!(wrong.contains("`seeds` has 257 entries, expected at most 256"), "{wrong}");
    assert!(Manifest::parse("m.toml", &" ".repeat(MAX_BYTES + 1)).unwrap_err().to_string().contains("bytes"));
    assert!(Manifest::from_json(b"{\"seeds\":{\"a\":{}}}").is_err());
}

#[test]
fn every_text_is_shown_for_redaction_and_nothing_else_changes() {
    let mut full = manifest(FULL);
    let mut seen = Vec::new();
    full.texts(&mut |name, text| seen.push((name.to_owned(), text.clone())));
    assert_eq!(full, manifest(FULL));
    assert!(seen.contains(&("repository".to_owned(), "https://git.example/train".to_owned())));
    assert!(seen.contains(&("betas".to_owned(), "0.95".to_owned())), "{seen:?}");
    let mut empty = Manifest::default();
    empty.texts(&mut |_, _| {});
    assert_eq!(empty, Manifest::default());
}

#[test]
fn a_seed_that_differs_is_a_difference_in_results_and_a_missing_manifest_is_not_equal_to_one() {
    let table = Table::built_in().unwrap();
    let stated = |manifest: Option<Manifest>| {
        let mut facts = vec![crate::testing::fact("run/command", "train")];
        let regime = manifest.as_ref().and_then(|manifest| manifest.regime);
        facts.extend(manifest.iter().flat_map(Manifest::facts));
        let about = About { scope: Scope::Run, taken_ns: 1, version: "1", signer: None, nonce: &[], regime };
        Statement::of(facts, &table, &about)
    };
    let one = stated(Some(manifest(FULL)));
    let compared = |other: &Statement| compare(&[&one, other], &table, &Options::default());
    assert_eq!(compared(&one).verdict, Verdict::ResultEqual);
    assert!(compared(&one).regime_declared);
    let seed = compared(&stated(Some(manifest(&FULL.replace("torch = 42", "torch = 43")))));
    assert_eq!((seed.verdict, seed.differences[0].path.as_str()), (Verdict::ResultDiffers, "run/manifest/seeds/torch"));
    assert!(!seed.differences[0].reason.is_empty());
    let parent = compared(&stated(Some(manifest(&FULL.replace("pretrain-7", "pretrain-8")))));
    assert_eq!(parent.verdict, Verdict::ResultEqual, "the name of the parent changes nothing");
    // A manifest without a seed claims that there is none; no manifest claims nothing.
    let without = compared(&stated(Some(manifest(&FULL.replace("torch = 42", "")))));
    assert_eq!(without.verdict, Verdict::ResultDiffers);
    let missing = compared(&stated(None));
    assert_eq!(missing.verdict, Verdict::CannotKnow);
    assert!(missing.differences.iter().all(|one| one.kind == Kind::Unknown), "{:?}", missing.differences);
}

#[test]
fn numbers_are_named_by_section_and_texts_that_are_no_numbers_are_left_out() {
    let text = "[hyperparameters]\nlr = 0.0003\nbatch = 64\noptimizer = \"adam\"\nlist = [1, 2]\n[config]\nflash = true\n\
                most = \"3.5\"\nendless = inf\n[seeds]\ntorch = 42\n[data.c4]\nversion = \"3\"\n";
    let numbers = Manifest::parse("m.toml", text).unwrap().numbers();
    let shown: Vec<String> = numbers.iter().map(|(key, value)| format!("{key} {value}")).collect();
    assert_eq!(shown, ["config.most 3.5", "hyperparameters.batch 64", "hyperparameters.lr 0.0003", "seeds.torch 42"]);
    let canonical = Manifest::parse("m.toml", text).unwrap().canonical().unwrap();
    assert_eq!(Manifest::from_json(canonical.as_bytes()).unwrap().numbers(), numbers);
}
