//! A detector as recordings and digests have it. What is read is checked like what a policy's author writes: a recording may have been
//! altered, and a detector with a window of any length would take any memory.

use super::{Detect, Given, method};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use std::collections::BTreeMap;

#[derive(Serialize, Deserialize)]
struct Stored {
    method: String,
    params: BTreeMap<String, Given>,
}

impl Serialize for Detect {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let params = self.given.iter().map(|(name, given)| ((*name).to_owned(), given.clone())).collect();
        Stored { method: self.method.to_owned(), params }.serialize(s)
    }
}

impl<'de> Deserialize<'de> for Detect {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Detect, D::Error> {
        Detect::try_from(Stored::deserialize(d)?).map_err(D::Error::custom)
    }
}

impl TryFrom<Stored> for Detect {
    type Error = String;

    fn try_from(stored: Stored) -> Result<Detect, String> {
        let spec = method(&stored.method).ok_or_else(|| format!("no detector `{}`", stored.method))?;
        let mut given = BTreeMap::new();
        for (name, value) in stored.params {
            let param = spec.param(&name).ok_or_else(|| format!("{} has no parameter `{name}`", spec.name))?;
            given.insert(param.name, value);
        }
        Detect::new(spec, given).map_err(|(name, expected)| format!("`{name}` of {}: expected {expected}", spec.name))
    }
}
