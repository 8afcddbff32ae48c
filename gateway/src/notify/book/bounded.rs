//! A map that knows how many bytes its values take, so that it can be bounded in them. It is stored as a plain map.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;

/// How many bytes a value takes, roughly.
pub trait Weigh {
    /// Without the key.
    fn weigh(&self) -> usize;
}

/// A map from a key to a value, with the sum of their bytes.
#[derive(Debug, Clone)]
pub struct Bounded<T> {
    all: BTreeMap<String, T>,
    bytes: usize,
}

impl<T> Default for Bounded<T> {
    fn default() -> Bounded<T> {
        Bounded { all: BTreeMap::new(), bytes: 0 }
    }
}

impl<T: Weigh> Bounded<T> {
    /// The value with this key.
    pub fn get(&self, key: &str) -> Option<&T> {
        self.all.get(key)
    }

    /// Whether there is one with this key.
    pub fn contains(&self, key: &str) -> bool {
        self.all.contains_key(key)
    }

    /// Adds or replaces a value.
    pub fn insert(&mut self, key: String, value: T) {
        self.remove(&key);
        self.bytes += key.len() + value.weigh();
        self.all.insert(key, value);
    }

    /// Removes a value.
    pub fn remove(&mut self, key: &str) -> Option<T> {
        let value = self.all.remove(key)?;
        self.bytes -= key.len() + value.weigh();
        Some(value)
    }

    /// Changes a value, if there is one with this key.
    pub fn change<R>(&mut self, key: &str, change: impl FnOnce(&mut T) -> R) -> Option<R> {
        let value = self.all.get_mut(key)?;
        let before = value.weigh();
        let result = change(value);
        self.bytes = self.bytes - before + value.weigh();
        Some(result)
    }

    /// All, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &T)> {
        self.all.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// How many bytes they take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl<T: Serialize> Serialize for Bounded<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.all.serialize(serializer)
    }
}

impl<'de, T: Weigh + Deserialize<'de>> Deserialize<'de> for Bounded<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bounded<T>, D::Error> {
        let all = BTreeMap::<String, T>::deserialize(deserializer)?;
        let bytes = all.iter().map(|(key, value)| key.len() + value.weigh()).sum();
        Ok(Bounded { all, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weigh for String {
        fn weigh(&self) -> usize {
            self.len()
        }
    }

    #[test]
    fn the_bytes_are_those_of_what_is_in_it_after_every_change_and_after_a_restart() {
        let mut bounded = Bounded::default();
        let text = "a".to_owned();
        bounded.insert("k1".into(), text.clone());
        bounded.insert("k2".into(), text.clone());
        assert_eq!(bounded.bytes(), 6);
        bounded.insert("k1".into(), "four".into());
        assert_eq!(bounded.bytes(), 9);
        bounded.change("k2", |text| text.push_str("bc"));
        assert_eq!((bounded.bytes(), bounded.change("k3", |_| ())), (11, None));
        let stored = serde_json::to_string(&bounded).unwrap();
        assert_eq!(serde_json::from_str::<Bounded<String>>(&stored).unwrap().bytes(), 11);
        bounded.remove("k1");
        bounded.remove("k1");
        assert_eq!((bounded.bytes(), bounded.len()), (5, 1));
    }
}
