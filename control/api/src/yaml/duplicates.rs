//! Duplicate keys as upstream's strict parser of YAML names them: by the line of the value.

use crate::show;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::{collections::HashSet, fmt};

/// The most that are named.
const MOST: usize = 100;

/// What is said of each, in their order.
#[derive(Default)]
pub(super) struct Duplicates(pub(super) Vec<String>);

impl Duplicates {
    fn take(&mut self, others: Self) {
        self.0.extend(others.0);
        self.0.truncate(MOST);
    }
}

impl<'de> Deserialize<'de> for Duplicates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Node)
    }
}

struct Node;

impl<'de> Visitor<'de> for Node {
    type Value = Duplicates;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Duplicates, E> {
        Ok(Duplicates::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Duplicates, E> {
        Ok(Duplicates::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Duplicates, E> {
        Ok(Duplicates::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Duplicates, E> {
        Ok(Duplicates::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Duplicates, E> {
        Ok(Duplicates::default())
    }

    fn visit_str<E>(self, _: &str) -> Result<Duplicates, E> {
        Ok(Duplicates::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Duplicates, A::Error> {
        let mut found = Duplicates::default();
        while let Some(inner) = items.next_element()? {
            found.take(inner);
        }
        Ok(found)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Duplicates, A::Error> {
        let (mut found, mut seen) = (Duplicates::default(), HashSet::new());
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value::<serde_yaml::Spanned<Duplicates>>()?;
            found.take(value.value);
            if seen.contains(&key) {
                let line = value.referenced.line();
                found.take(Duplicates(vec![format!("line {line}: key {} already set in map", show::quoted(&key))]));
            }
            seen.insert(key);
        }
        Ok(found)
    }
}
