//! Reads a few fields of a stored object, and skips the others without building them.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Error, Map, Value};
use std::{borrow::Cow, fmt};

/// One field of an object.
///
/// # Errors
/// The bytes are no object.
pub(crate) fn field(object: &[u8], name: &str) -> Result<Map<String, Value>, Error> {
    read(object, Pick { part: Some(""), wanted: &[("", name)] })
}

/// Fields of the parts of an object: `("spec", "nodeName")`.
///
/// # Errors
/// The bytes, or the parts in them, are no objects.
pub(crate) fn parts(object: &[u8], wanted: &[(&str, &str)]) -> Result<Map<String, Value>, Error> {
    read(object, Pick { part: None, wanted })
}

fn read(object: &[u8], pick: Pick<'_>) -> Result<Map<String, Value>, Error> {
    pick.deserialize(&mut serde_json::Deserializer::from_slice(object))
}

/// What is read of an object.
#[derive(Clone, Copy)]
struct Pick<'a> {
    /// Of the object as a whole (`None`) the parts that are wanted; of a part its fields.
    part: Option<&'a str>,
    wanted: &'a [(&'a str, &'a str)],
}

impl<'de> DeserializeSeed<'de> for Pick<'_> {
    type Value = Map<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Pick<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            let value = match self.part {
                None if self.wanted.iter().any(|(part, _)| *part == key) => {
                    Value::Object(map.next_value_seed(Pick { part: Some(&key), ..self })?)
                }
                Some(part) if self.wanted.contains(&(part, &*key)) => map.next_value()?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            out.insert(key.into_owned(), value);
        }
        Ok(out)
    }
}
