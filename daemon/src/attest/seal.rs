//! From facts to an envelope: signed by the node's key, with a TPM's quote beside it where there is one.
//!
//! Invariant: there is a statement whatever the TPM does. If it gives no quote, the statement has the reason.

use super::{StatedOf, stated};
use crate::{
    signing::NodeSigner,
    tpm::{NoTpm, NodeTpm, Reading},
};
use failsafe_attest::{
    Fact, Json, Missing, Statement, Table, TpmOf, TpmQuote,
    envelope::seal_quoted,
    json::JsonError,
    statement::MAX_TEXT,
    tpm::{TPM_FACTOR, pcr_facts, qualifying, verify},
};
use failsafe_core::visible::beginning;

/// How often PCRs that change are stated and quoted again.
const TRIES: usize = 3;

/// What a statement is made with, beside its facts.
pub struct Sealing<'a> {
    /// The node's key.
    pub signer: &'a NodeSigner,
    /// The node's TPM.
    pub tpm: &'a NodeTpm,
    /// The classes of factors.
    pub table: &'a Table,
    /// Of what it is.
    pub of: StatedOf,
    /// The verifier's nonce.
    pub nonce: &'a [u8],
}

impl Sealing<'_> {
    /// The envelope. `finish` adds what is not a fact. Blocks for the TPM's answers.
    ///
    /// # Errors
    /// A value is not allowed in a statement.
    pub fn seal(&self, facts: Vec<Fact>, finish: impl Fn(Statement) -> Statement) -> Result<String, JsonError> {
        let why = match self.quoted(&facts, &finish)? {
            Ok(envelope) => return Ok(envelope),
            Err(why) => why,
        };
        if let NoTpm::Failed(why) | NoTpm::NotNow(why) = &why {
            tracing::warn!(why, "a statement has no TPM quote");
        }
        let facts = facts.into_iter().chain([no_tpm(&why)]);
        let reason = why.to_string();
        let reason = beginning(&reason, MAX_TEXT);
        let statement = finish(self.stated(facts)).with_tpm(TpmOf::none(why.status(), reason));
        self.signed(&statement.payload()?, None)
    }

    fn quoted(
        &self,
        facts: &[Fact],
        finish: &impl Fn(Statement) -> Statement,
    ) -> Result<Result<String, NoTpm>, JsonError> {
        let mut reading = match self.tpm.read() {
            Ok(reading) => reading,
            Err(why) => return Ok(Err(why)),
        };
        for _ in 0..TRIES {
            let facts = facts.iter().cloned().chain(tpm_facts(&reading, true));
            let statement = finish(self.stated(facts)).with_tpm(TpmOf::quoted(&reading.key));
            let payload = statement.payload()?;
            let (quote, pcrs) = match self.tpm.quote(qualifying(self.nonce, payload.as_bytes())) {
                Ok(quoted) => quoted,
                Err(why) => return Ok(Err(why)),
            };
            if pcrs != reading.pcrs {
                reading.pcrs = pcrs;
                continue;
            }
            let quote = TpmQuote::of(&reading.key, &pcrs, &quote);
            // What a verifier would refuse is not given out: without a quote the statement is still good.
            return match verify(Some(&quote), &statement.predicate, payload.as_bytes(), None) {
                Ok(_) => self.signed(&payload, Some(quote)).map(Ok),
                Err(error) => Ok(Err(NoTpm::Failed(format!("the TPM gave a wrong quote: {error}")))),
            };
        }
        Ok(Err(NoTpm::NotNow(format!("the PCRs changed {TRIES} times while they were quoted"))))
    }

    fn stated(&self, facts: impl Iterator<Item = Fact>) -> Statement {
        stated(facts.collect(), self.table, self.of, Some(self.signer.public()), self.nonce)
    }

    fn signed(&self, payload: &str, quote: Option<TpmQuote>) -> Result<String, JsonError> {
        seal_quoted(payload, &self.signer.public(), |message| self.signer.sign(message), quote)
    }
}

/// The facts of the TPM, without a quote.
pub fn tpm_facts_of(tpm: &NodeTpm) -> Vec<Fact> {
    match tpm.read() {
        Ok(reading) => tpm_facts(&reading, false).collect(),
        Err(why) => vec![no_tpm(&why)],
    }
}

fn tpm_facts(reading: &Reading, quoted: bool) -> impl Iterator<Item = Fact> + '_ {
    let about = Fact::measured(TPM_FACTOR, "TPM", Ok(Json::from(reading.about.as_str())));
    std::iter::once(about).chain(pcr_facts(&reading.pcrs, quoted))
}

fn no_tpm(why: &NoTpm) -> Fact {
    let value = match why {
        NoTpm::Absent(_) => Ok(Json::Null),
        NoTpm::Disabled => Err(Missing::not_asked(why.to_string())),
        NoTpm::Failed(why) | NoTpm::NotNow(why) => Err(Missing::unavailable(why)),
    };
    Fact::measured(TPM_FACTOR, "TPM", value)
}
