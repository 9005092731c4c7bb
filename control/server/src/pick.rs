//! Reads a few fields of a stored object, and skips the others without building them.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Error, Map, Value};
use std::{borrow::Cow, fmt};

/// One field of an object.
///
/// # Errors
/// The bytes are no object.
pub(crate) fn field(object: &[u8], name: &str) -> Result<Map<String, Value>, Error> {
    Fields { part: "", wanted: &[("", name)] }.deserialize(&mut serde_json::Deserializer::from_slice(object))
}

/// Fields of the parts of an object: `("spec", "nodeName")`.
///
/// # Errors
/// The bytes, or the parts in them, are no objects.
pub(crate) fn parts(object: &[u8], wanted: &[(&str, &str)]) -> Result<Map<String, Value>, Error> {
    Parts(wanted).deserialize(&mut serde_json::Deserializer::from_slice(object))
}

/// The fields of the parts of an object.
struct Parts<'a>(&'a [(&'a str, &'a str)]);

/// The fields of one part.
struct Fields<'a> {
    part: &'a str,
    wanted: &'a [(&'a str, &'a str)],
}

impl<'de> DeserializeSeed<'de> for Parts<'_> {
    type Value = Map<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Parts<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if self.0.iter().any(|(part, _)| *part == key) {
                let fields = map.next_value_seed(Fields { part: &key, wanted: self.0 })?;
                out.insert(key.into_owned(), Value::Object(fields));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(out)
    }
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = Map<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if self.wanted.contains(&(self.part, &*key)) {
                let value = map.next_value()?;
                out.insert(key.into_owned(), value);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(out)
    }
}
