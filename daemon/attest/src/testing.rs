//! What the tests of this crate share: statements of chosen facts, signed by a key that is no secret.

use crate::{
    PublicKey, Statement, Table,
    envelope::seal,
    factor::Fact,
    json::Json,
    statement::{About, Scope},
};
use ed25519_dalek::{Signer, SigningKey};

/// The seed of the key that signs.
pub const SEED: u8 = 7;

/// The public key of a seed.
pub fn public(seed: u8) -> PublicKey {
    PublicKey::from(SigningKey::from_bytes(&[seed; 32]).verifying_key())
}

/// A fact with a text as its value.
pub fn fact(path: &str, value: &str) -> Fact {
    Fact::measured(path, "a test", Ok(Json::from(value)))
}

/// A statement about facts.
pub fn statement(scope: Scope, facts: Vec<Fact>) -> Statement {
    let about = About { scope, taken_ns: 1, version: "0", signer: Some(public(SEED)), nonce: &[1, 2], regime: None };
    Statement::of(facts, &Table::built_in().unwrap(), &about)
}

/// The envelope of a statement.
pub fn sealed(statement: &Statement) -> String {
    let key = SigningKey::from_bytes(&[SEED; 32]);
    seal(&statement.payload().unwrap(), &public(SEED), |message| key.sign(message).to_bytes()).unwrap()
}
