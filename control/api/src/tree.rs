//! Builds a JSON value from any serde source, and records the paths of duplicate keys. Shared by JSON and YAML.

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    fmt::{self, Write},
};

/// How deep lists and objects may nest in a request body, in each of the three encodings. Go allows 10,000, which would overflow the stack
/// here: a recursive walk, drop or clone of a value must be safe on every thread. It is half of the 128 that `serde_json` accepts, because
/// a list or watch event around the object and `managedFields` within it add a few levels. The deepest honest body is a
/// CustomResourceDefinition, with about 40.
pub const MAX_DEPTH: usize = 64;
const TOO_DEEP: &str = "exceeded max depth";
/// Most objects and lists in a document. A non-empty one takes half a kilobyte, so that a body of brackets would take hundreds of times its
/// length. Honest documents have twenty bytes and more for each.
pub(crate) const MAX_BRANCHES: usize = 200_000;
const TOO_MANY: &str = "too many objects and lists";
/// Most problems that are listed.
pub(crate) const MAX_PROBLEMS: usize = 100;
/// Most bytes of the paths of listed problems.
pub(crate) const MAX_PATH_BYTES: usize = 64 << 10;
/// Longest path that is looked up, bytes, because each key of a document would cost the length of its path.
const MAX_PATH: usize = 512;

/// Whether lists and objects nest deeper than `most`. It walks no deeper than that.
pub fn nests_deeper(value: &Value, most: usize) -> bool {
    match value {
        Value::Array(list) => most == 0 || list.iter().any(|child| nests_deeper(child, most - 1)),
        Value::Object(map) => most == 0 || map.values().any(|child| nests_deeper(child, most - 1)),
        _ => false,
    }
}

/// A value with the paths of its duplicate keys (the last value wins).
pub(crate) struct Tree {
    pub value: Value,
    pub duplicates: Vec<String>,
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let walk = RefCell::new(Walk::default());
        let value = Node { walk: &walk, depth: 0 }.deserialize(deserializer)?;
        Ok(Self { value, duplicates: walk.into_inner().duplicates })
    }
}

/// Parses a document only to find the positions of the wanted paths.
pub(crate) struct Order<'a> {
    /// Paths and their ranks.
    pub wanted: HashMap<&'a str, Option<usize>>,
}

impl<'de> DeserializeSeed<'de> for &mut Order<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let wanted = self.wanted.keys().map(|k| (*k).to_owned()).collect();
        let walk = RefCell::new(Walk { wanted, ..Walk::default() });
        Node { walk: &walk, depth: 0 }.deserialize(deserializer)?;
        for (rank, path) in walk.into_inner().found.iter().enumerate() {
            if let Some(place) = self.wanted.get_mut(path.as_str()) {
                place.get_or_insert(rank);
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Walk {
    branches: usize,
    path: String,
    duplicates: Vec<String>,
    /// Bytes in `duplicates`.
    listed: usize,
    wanted: HashSet<String>,
    found: Vec<String>,
}

impl Walk {
    fn is_wanted(&self) -> bool {
        !self.wanted.is_empty() && self.path.len() <= MAX_PATH && self.wanted.contains(&self.path)
    }
}

#[derive(Clone, Copy)]
struct Node<'a> {
    walk: &'a RefCell<Walk>,
    depth: usize,
}

impl Node<'_> {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(TOO_DEEP));
        }
        let branches = &mut self.walk.borrow_mut().branches;
        *branches += 1;
        if *branches > MAX_BRANCHES {
            return Err(E::custom(TOO_MANY));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }

    fn enter_index(self, index: usize) -> usize {
        let walk = &mut *self.walk.borrow_mut();
        let mark = walk.path.len();
        write!(walk.path, "[{index}]").expect("a String takes all");
        if walk.is_wanted() {
            walk.found.push(walk.path.clone());
        }
        mark
    }

    fn enter_key(self, key: &str, again: bool) -> usize {
        let walk = &mut *self.walk.borrow_mut();
        let mark = walk.path.len();
        if mark > 0 {
            walk.path.push('.');
        }
        walk.path.push_str(key);
        if walk.is_wanted() {
            walk.found.push(walk.path.clone());
        } else if again
            && walk.duplicates.len() < MAX_PROBLEMS
            && (walk.listed == 0 || walk.listed + walk.path.len() <= MAX_PATH_BYTES)
            && !walk.duplicates.contains(&walk.path)
        {
            walk.listed += walk.path.len();
            walk.duplicates.push(walk.path.clone());
        }
        mark
    }

    fn leave(self, mark: usize) {
        self.walk.borrow_mut().path.truncate(mark);
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Value, E> {
        self.visit_f64(value as f64)
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Value, E> {
        self.visit_f64(value as f64)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let node = self.deeper()?;
        let mut values = Vec::new();
        loop {
            let mark = self.enter_index(values.len());
            let next = list.next_element_seed(node)?;
            self.leave(mark);
            match next {
                Some(value) => values.push(value),
                None => return Ok(Value::Array(values)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let node = self.deeper()?;
        let mut map = Map::new();
        while let Some(Key(key)) = entries.next_key()? {
            let mark = self.enter_key(&key, map.contains_key(&key));
            let value = entries.next_value_seed(node)?;
            self.leave(mark);
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// A key: in JSON a string, in YAML any scalar.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let walk = RefCell::new(Walk::default());
        // At the maximal depth, so that a list or mapping is refused as a key.
        let value = deserializer.deserialize_any(Node { walk: &walk, depth: MAX_DEPTH })?;
        Ok(Self(match value {
            Value::String(text) => text,
            other => other.to_string(),
        }))
    }
}
