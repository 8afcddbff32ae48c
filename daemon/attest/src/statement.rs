//! A statement: an in-toto Statement v1 about one fingerprint, with three digests.
//!
//! ```text
//! facts + table of factors ─► factors, sorted by path ─► digests result ⊂ performance ⊂ full ─► Statement
//! ```
//!
//! Invariants: paths are sorted and stand once; the digests are those of the factors; the subject is the full digest. All of it
//! is checked again when a statement is read ([`Statement::check`]). The form is published as `docs/schemas/`.

use crate::{
    factor::{Class, Fact, Factor, Missing, Status, is_path},
    json::{Json, JsonError},
    key::{PublicKey, SOFTWARE_KEY},
    moment::Moment,
    table::{Regime, Table},
    tpm::{self, TpmOf},
};
use failsafe_core::{egress::Account, record::At};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, btree_map::Entry};

/// The type of an in-toto statement.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// The type of the predicate. It is a name: nothing is served there.
pub const PREDICATE_TYPE: &str = "https://failsafe.invalid/fingerprint/v1";
/// The version of the predicate's form.
pub const FORMAT: u32 = 1;
/// Most factors of a statement.
pub const MAX_FACTORS: usize = 50_000;
/// Longest source and reason of a factor, bytes: paths that a run chose stand in them.
pub const MAX_TEXT: usize = 256;
/// Longest nonce, bytes.
pub const MAX_NONCE: usize = 64;

/// What failsafe does not read in this version, so that no verdict seems to include it.
pub const NOT_COVERED: [&str; 5] = [
    "settings inside the process, such as the framework's deterministic mode, TF32 and cuDNN benchmark",
    "versions and order of the data",
    "Python packages and source files",
    "container image and runtime",
    "other nodes of the run and their ranks",
];

/// Of what a fingerprint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// A node.
    Node,
    /// A run, and the node that it is on.
    Run,
}

impl Scope {
    /// The name in statements and answers.
    pub fn name(self) -> &'static str {
        match self {
            Scope::Node => "node",
            Scope::Run => "run",
        }
    }
}

/// An in-toto Statement v1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// [`STATEMENT_TYPE`].
    #[serde(rename = "_type")]
    pub kind: String,
    /// One: the fingerprint, by its full digest.
    pub subject: Vec<Subject>,
    /// [`PREDICATE_TYPE`].
    #[serde(rename = "predicateType")]
    pub predicate_type: String,
    /// What is stated.
    pub predicate: Predicate,
}

/// What a statement is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// `fingerprint-of-node` or `fingerprint-of-run`.
    pub name: String,
    /// `sha256`: the full digest.
    pub digest: BTreeMap<String, String>,
}

/// What is stated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Predicate {
    /// [`FORMAT`].
    pub format: u32,
    /// Of what the fingerprint is.
    pub scope: Scope,
    /// When it was taken by the node's wall clock, ns since the epoch, as text.
    pub taken_ns: String,
    /// What took it.
    pub producer: Producer,
    /// Who signs.
    pub signer: SignerOf,
    /// The verifier's nonce, in hex; empty: none was given.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub nonce: String,
    /// Of which run, and of which moment, a stored statement is; none: it was made for a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moment: Option<Moment>,
    /// Whether a TPM quoted it; none: a version made it that did not look for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmOf>,
    /// What the run sent; only at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Account>,
    /// For which regime the classes are.
    pub regime: RegimeOf,
    /// Which table gave the classes.
    pub table: TableOf,
    /// The digests of the factors.
    pub digests: Digests,
    /// The factors, by path.
    pub factors: Vec<Factor>,
    /// What this version does not read.
    pub not_covered: Vec<String>,
}

/// The program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Producer {
    /// `failsafed`.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// Who signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SignerOf {
    /// [`SOFTWARE_KEY`], or `none`: it is not signed.
    pub kind: String,
    /// The public key, Base64; empty: none.
    pub public_key: String,
}

impl SignerOf {
    fn of(key: Option<PublicKey>) -> SignerOf {
        let kind = if key.is_some() { SOFTWARE_KEY } else { "none" };
        SignerOf { kind: kind.to_owned(), public_key: key.map(|key| key.base64()).unwrap_or_default() }
    }
}

/// A regime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegimeOf {
    /// Which.
    pub name: Regime,
    /// Whether the run declared it; otherwise it is assumed.
    pub declared: bool,
}

/// The table of factors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableOf {
    /// Its name and version.
    pub name: String,
    /// `sha256:HEX` of its text.
    pub digest: String,
}

/// The three digests. Each includes the one before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digests {
    /// Over the factors that can change results.
    pub result: DigestOf,
    /// Over those, and the factors that change speed.
    pub performance: DigestOf,
    /// Over all factors.
    pub full: DigestOf,
}

/// A digest of factors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DigestOf {
    /// SHA-256, hex.
    pub sha256: String,
    /// How many of the factors have no value. Equal digests mean equal factors only if this is 0.
    pub unknown: u32,
}

/// What a statement says beside its facts.
#[derive(Debug, Clone)]
pub struct About<'a> {
    /// Of what the fingerprint is.
    pub scope: Scope,
    /// By the node's wall clock.
    pub taken_ns: i64,
    /// The daemon's version.
    pub version: &'a str,
    /// The key that will sign; `None`: the statement is not signed.
    pub signer: Option<PublicKey>,
    /// The verifier's nonce.
    pub nonce: &'a [u8],
    /// The regime that the run declares.
    pub regime: Option<Regime>,
}

/// Why a statement that was signed is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// The payload is not a statement of this form.
    #[error("the statement cannot be read: {0}")]
    Json(#[from] JsonError),
    /// Another kind of statement.
    #[error("the {what} is `{found}`, expected `{expected}`")]
    Type {
        /// Which field.
        what: &'static str,
        /// Its value.
        found: String,
        /// What this version reads.
        expected: String,
    },
    /// It contradicts itself.
    #[error("the statement contradicts itself: {0}")]
    Contradiction(String),
}

impl Statement {
    /// The statement about these facts.
    pub fn of(facts: Vec<Fact>, table: &Table, about: &About<'_>) -> Statement {
        let regime = about.regime.unwrap_or(Regime::Seeded);
        let factors: Vec<Factor> = unique(facts).into_values().map(|fact| factor(fact, table, regime)).collect();
        let digests = digests(about.scope, &factors);
        let name = format!("fingerprint-of-{}", about.scope.name());
        let digest = [("sha256".to_owned(), digests.full.sha256.clone())].into();
        Statement {
            kind: STATEMENT_TYPE.to_owned(),
            subject: vec![Subject { name, digest }],
            predicate_type: PREDICATE_TYPE.to_owned(),
            predicate: Predicate {
                format: FORMAT,
                scope: about.scope,
                taken_ns: about.taken_ns.to_string(),
                producer: Producer { name: "failsafed".to_owned(), version: about.version.to_owned() },
                signer: SignerOf::of(about.signer),
                nonce: hex::encode(about.nonce),
                moment: None,
                tpm: None,
                egress: None,
                regime: RegimeOf { name: regime, declared: about.regime.is_some() },
                table: TableOf { name: table.name.clone(), digest: table.digest.clone() },
                digests,
                factors,
                not_covered: NOT_COVERED.map(str::to_owned).to_vec(),
            },
        }
    }

    /// The same as a stored statement of this moment.
    #[must_use]
    pub fn at(mut self, moment: Moment, egress: Option<Account>) -> Statement {
        self.predicate.moment = Some(moment);
        self.predicate.egress = egress;
        self
    }

    /// The same with what is known of the node's TPM.
    #[must_use]
    pub fn with_tpm(mut self, tpm: TpmOf) -> Statement {
        self.predicate.tpm = Some(tpm);
        self
    }

    /// Reads the payload of an envelope.
    ///
    /// # Errors
    /// It is no statement of this form, or contradicts itself.
    pub fn parse(payload: &[u8], most: usize) -> Result<Statement, StatementError> {
        let json = Json::parse(payload, most)?;
        // Before the form: a statement of another kind has another one.
        let text = |key: &str| json.get(key).and_then(Json::text).unwrap_or_default().to_owned();
        expect("statement type", text("_type"), STATEMENT_TYPE)?;
        expect("predicate type", text("predicateType"), PREDICATE_TYPE)?;
        if let Some(Json::Int(format)) = json.get("predicate").and_then(|predicate| predicate.get("format")) {
            expect("format of the predicate", format.to_string(), &FORMAT.to_string())?;
        }
        let canonical = json.canonical();
        let statement: Statement = json.into_type()?;
        // The account is of a type that ignores what it does not know.
        if Json::of(&statement)?.canonical() != canonical {
            let why = "it has a field that this version does not know, or one with its default value";
            return Err(StatementError::Contradiction(why.to_owned()));
        }
        statement.check()?;
        Ok(statement)
    }

    /// The payload.
    ///
    /// # Errors
    /// A value is not allowed in a statement.
    pub fn payload(&self) -> Result<String, JsonError> {
        Ok(Json::of(self)?.canonical())
    }

    /// Checks what the form does not say.
    ///
    /// # Errors
    /// [`StatementError::Contradiction`].
    pub fn check(&self) -> Result<(), StatementError> {
        let wrong = |why: String| Err(StatementError::Contradiction(why));
        let Predicate { scope, factors, digests: stated, taken_ns, nonce, moment, egress, .. } = &self.predicate;
        if factors.len() > MAX_FACTORS {
            return wrong(format!("it has {} factors, expected at most {MAX_FACTORS}", factors.len()));
        }
        if let Some(pair) = factors.windows(2).find(|pair| pair[0].path >= pair[1].path) {
            return wrong(format!("the factors are not sorted, or stand twice: `{}`", pair[1].path));
        }
        for factor in factors {
            let has_value = factor.status == Status::Ok;
            if !is_path(&factor.path) {
                return wrong(format!("`{}` is no path of a factor", factor.path.escape_debug()));
            }
            if (!has_value && factor.value != Json::Null) || has_value != factor.reason.is_empty() {
                return wrong(format!(
                    "`{}` has status `{}`, and value and reason of another",
                    factor.path,
                    factor.status.name()
                ));
            }
        }
        if digests(*scope, factors) != *stated {
            return wrong("its digests are not those of its factors".to_owned());
        }
        let subject = Subject {
            name: format!("fingerprint-of-{}", scope.name()),
            digest: [("sha256".to_owned(), stated.full.sha256.clone())].into(),
        };
        if self.subject != [subject] {
            return wrong("its subject is not the full digest of its factors".to_owned());
        }
        if taken_ns.parse::<i64>().is_err() || hex::decode(nonce).is_err() || nonce.len() > 2 * MAX_NONCE {
            return wrong("the time is no number, or the nonce is not hex".to_owned());
        }
        if let Some(why) = moment.as_ref().and_then(Moment::wrong) {
            return wrong(why.to_owned());
        }
        if let Some(why) = tpm::wrong(&self.predicate) {
            return wrong(why);
        }
        let at = moment.as_ref().map(|moment| moment.at);
        if (at.is_some() && *scope != Scope::Run) || egress.is_some() != (at == Some(At::End)) {
            return wrong("only a run has moments, and only its end has an account of what it sent".to_owned());
        }
        Ok(())
    }

    /// The factor of a path.
    pub fn factor(&self, path: &str) -> Option<&Factor> {
        let factors = &self.predicate.factors;
        let at = factors.binary_search_by(|factor| factor.path.as_str().cmp(path)).ok()?;
        factors.get(at)
    }
}

fn expect(what: &'static str, found: String, expected: &str) -> Result<(), StatementError> {
    if found == expected { Ok(()) } else { Err(StatementError::Type { what, found, expected: expected.to_owned() }) }
}

/// Each path once. Two readers that disagree know nothing.
fn unique(facts: Vec<Fact>) -> BTreeMap<String, Fact> {
    let mut out: BTreeMap<String, Fact> = BTreeMap::new();
    for fact in facts {
        match out.entry(fact.path.clone()) {
            Entry::Vacant(entry) => drop(entry.insert(fact)),
            Entry::Occupied(mut entry) if entry.get().value != fact.value => {
                entry.get_mut().value = Err(Missing::unavailable("two sources give different values"));
            }
            Entry::Occupied(_) => {}
        }
    }
    out
}

fn factor(fact: Fact, table: &Table, regime: Regime) -> Factor {
    let Fact { path, value, source, assurance } = fact;
    let class = table.class(&path, regime);
    let (value, status, reason) = match value {
        Ok(value) => (value, Status::Ok, String::new()),
        Err(Missing { status, reason }) => (Json::Null, status, reason),
    };
    Factor { path, value, class, source: cut(source), assurance, status, reason: cut(reason) }
}

/// At most [`MAX_TEXT`] bytes.
fn cut(mut text: String) -> String {
    const MARK: &str = "...";
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT - MARK.len()));
        text.push_str(MARK);
    }
    text
}

fn digests(scope: Scope, factors: &[Factor]) -> Digests {
    let over = |name: &str, upto: Class| {
        let chosen: Vec<&Factor> = factors.iter().filter(|factor| factor.class <= upto).collect();
        let entry = |factor: &&Factor| {
            let (path, status) = (Json::from(factor.path.as_str()), Json::from(factor.status.name()));
            Json::List(vec![path, status, factor.value.clone()])
        };
        let document = Json::Map(
            [
                ("domain".to_owned(), Json::from("failsafe-fingerprint-v1")),
                ("digest".to_owned(), Json::from(name)),
                ("scope".to_owned(), Json::from(scope.name())),
                ("factors".to_owned(), Json::List(chosen.iter().map(entry).collect())),
            ]
            .into(),
        );
        let unknown = chosen.iter().filter(|factor| factor.status != Status::Ok).count();
        let sha256 = hex::encode(Sha256::digest(document.canonical().as_bytes()));
        DigestOf { sha256, unknown: u32::try_from(unknown).unwrap_or(u32::MAX) }
    };
    Digests {
        result: over("result", Class::Result),
        performance: over("performance", Class::Performance),
        full: over("full", Class::Identity),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{fact, statement};

    #[test]
    fn each_digest_changes_with_its_factors_and_no_others() {
        let base = [("run/command", "a"), ("node/memory", "1"), ("node/hostname", "x")];
        let of = |changed: Option<&str>| {
            let facts =
                base.iter().map(|(path, value)| fact(path, if Some(*path) == changed { "other" } else { value }));
            statement(Scope::Run, facts.collect()).predicate.digests
        };
        let (before, result) = (of(None), of(Some("run/command")));
        let (performance, identity) = (of(Some("node/memory")), of(Some("node/hostname")));
        assert!(
            result.result != before.result && result.performance != before.performance && result.full != before.full
        );
        assert!(performance.result == before.result && performance.performance != before.performance);
        assert!(identity.performance == before.performance && identity.full != before.full);
        assert_eq!(before.full.unknown, 0);
    }

    #[test]
    fn a_factor_without_a_value_is_counted_and_its_digest_differs_from_absence() {
        let with =
            |value| statement(Scope::Node, vec![Fact::measured("node/cpu/flags", "here", value)]).predicate.digests;
        let (absent, unknown) = (with(Ok(Json::Null)), with(Err(Missing::unavailable("no"))));
        assert!(absent.result.sha256 != unknown.result.sha256);
        assert_eq!((absent.result.unknown, unknown.result.unknown), (0, 1));
    }

    #[test]
    fn long_sources_and_reasons_are_cut() {
        let long = "ü".repeat(10_000);
        let facts = vec![Fact::measured("run/library/x", &long, Err(Missing::unavailable(&long)))];
        let statement = statement(Scope::Run, facts);
        let factor = statement.factor("run/library/x").unwrap();
        for text in [&factor.source, &factor.reason] {
            assert!(text.len() <= MAX_TEXT && text.ends_with("ü..."), "{text}");
        }
        assert_eq!(statement.check(), Ok(()));
    }

    #[test]
    fn two_sources_that_disagree_give_no_value() {
        let one = statement(Scope::Node, vec![fact("node/cpu/model", "a"), fact("node/cpu/model", "b")]);
        assert_eq!(one.factor("node/cpu/model").unwrap().status, Status::Unavailable);
        assert!(statement(Scope::Node, vec![fact("node/a", "a"), fact("node/a", "a")]).factor("node/a").is_some());
    }

    #[test]
    fn a_statement_reads_back_and_every_contradiction_is_found() {
        let good = statement(Scope::Run, vec![fact("run/command", "a"), fact("node/cpu/model", "b")]);
        let payload = good.payload().unwrap();
        assert_eq!(Statement::parse(payload.as_bytes(), usize::MAX), Ok(good.clone()));
        let broken = |change: &dyn Fn(&mut Statement)| {
            let mut broken = good.clone();
            change(&mut broken);
            Statement::parse(broken.payload().unwrap().as_bytes(), usize::MAX).unwrap_err().to_string()
        };
        for (expected, change) in [
            ("the statement type is `x`", &(|it: &mut Statement| it.kind = "x".into()) as &dyn Fn(&mut Statement)),
            ("the predicate type is `x`", &|it| it.predicate_type = "x".into()),
            ("format of the predicate is `2`, expected `1`", &|it| it.predicate.format = 2),
            ("not sorted", &|it| it.predicate.factors.reverse()),
            ("not sorted, or stand twice", &|it| it.predicate.factors[1] = it.predicate.factors[0].clone()),
            ("digests are not those", &|it| it.predicate.factors[0].value = Json::from("c")),
            ("digests are not those", &|it| it.predicate.digests.result.unknown = 3),
            ("digests are not those", &|it| it.predicate.factors[0].class = Class::Identity),
            ("digests are not those", &|it| it.predicate.scope = Scope::Node),
            ("value and reason of another", &|it| it.predicate.factors[0].status = Status::Denied),
            ("subject is not the full digest", &|it| it.subject.clear()),
            ("nonce is not hex", &|it| it.predicate.nonce = "xy".into()),
            ("is no path", &|it| it.predicate.factors[0].path = "a//b".into()),
        ] {
            let why = broken(change);
            assert!(why.contains(expected), "{why}");
        }
        let unknown = payload.replacen("\"format\"", "\"formats\"", 1);
        assert!(matches!(
            Statement::parse(unknown.as_bytes(), usize::MAX),
            Err(StatementError::Json(JsonError::Form(_)))
        ));
    }
}
