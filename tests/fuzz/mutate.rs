//! Changes JSON as a tree, so that hardly any change is lost in the parser: nodes are copied, replaced, removed, wrapped, and fields are
//! named as the target likes.

use libfuzzer_sys::fuzzer_mutate;
use serde_json::{Map, Value, json};

/// Longest text of one string that a change makes longer, bytes.
const LONGEST: usize = 256;

/// One change of a case, or of its bytes now and then, and wherever it is no JSON. `words` are fields and values that the target knows, with a space
/// between each two.
/// Returns the new size. It is the body of `fuzz_mutator!`.
pub fn mutate(data: &mut [u8], size: usize, max: usize, seed: u32, words: &str) -> usize {
    let mut chance = Chance(u64::from(seed) | 1 << 32);
    if chance.below(16) > 0
        && let Ok(mut case) = serde_json::from_slice::<Value>(&data[..size])
    {
        for _ in 0..=chance.below(3) {
            change(&mut case, &mut chance, words);
        }
        let text = case.to_string();
        if text.len() <= max {
            data[..text.len()].copy_from_slice(text.as_bytes());
            return text.len();
        }
    }
    fuzzer_mutate(data, size, max)
}

/// Numbers that follow from a seed: xorshift.
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % most.max(1) as u64).unwrap_or_default()
    }

    fn one_of<'a>(&mut self, words: &'a str) -> &'a str {
        let count = words.split(' ').count();
        words.split(' ').nth(self.below(count)).unwrap_or_default()
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

/// The node of this number, counted from the root.
fn nth<'a>(value: &'a mut Value, left: &mut usize) -> Option<&'a mut Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    match value {
        Value::Array(list) => list.iter_mut().find_map(|child| nth(child, left)),
        Value::Object(map) => map.values_mut().find_map(|child| nth(child, left)),
        _ => None,
    }
}

fn change(case: &mut Value, chance: &mut Chance, words: &str) {
    let nodes = count(case);
    let (mut from, mut number) = (chance.below(nodes), chance.below(nodes));
    let copy = nth(case, &mut from).cloned().unwrap_or_default();
    let Some(node) = nth(case, &mut number) else { return };
    match chance.below(8) {
        0 => *node = copy,
        1 => *node = small(chance, words),
        2 => *node = json!([node.take()]),
        3 => *node = json!({ chance.one_of(words): node.take() }),
        _ => change_node(node, copy, chance, words),
    }
}

/// A change within a list, an object or a scalar.
fn change_node(node: &mut Value, copy: Value, chance: &mut Chance, words: &str) {
    match node {
        Value::Array(list) => {
            let (last, at, other) =
                (list.len().saturating_sub(1), chance.below(list.len()), chance.below(list.len() + 1));
            match chance.below(5) {
                0 => list.insert(other, copy),
                1 => list.insert(other, small(chance, words)),
                2 if !list.is_empty() => list.insert(other, list[at].clone()),
                3 if !list.is_empty() => list.swap(at, other.min(last)),
                _ if !list.is_empty() => drop(list.remove(at)),
                _ => list.push(copy),
            }
        }
        Value::Object(map) => change_map(map, copy, chance, words),
        Value::String(text) => {
            let size = text.len();
            if chance.below(2) == 0 || size > LONGEST {
                *text = chance.one_of(words).to_owned();
                return;
            }
            let mut bytes = std::mem::take(text).into_bytes();
            bytes.resize(size + 16, 0);
            let most = bytes.len();
            let size = fuzzer_mutate(&mut bytes, size, most);
            *text = String::from_utf8_lossy(&bytes[..size]).into_owned();
        }
        other => *other = small(chance, words),
    }
}

fn change_map(map: &mut Map<String, Value>, copy: Value, chance: &mut Chance, words: &str) {
    let place = chance.below(map.len());
    let present = map.keys().nth(place).cloned();
    let word = chance.one_of(words).to_owned();
    match (chance.below(4), present) {
        (0, Some(name)) => drop(map.remove(&name)),
        (1, Some(name)) => {
            let value = map.remove(&name).unwrap_or_default();
            map.insert(word, value);
        }
        (2, _) => drop(map.insert(word, small(chance, words))),
        _ => drop(map.insert(word, copy)),
    }
}

/// A scalar, or a list or an object of next to nothing.
fn small(chance: &mut Chance, words: &str) -> Value {
    match chance.below(16) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(false),
        3 => json!(0),
        4 => json!(1),
        5 => json!(-1),
        6 => json!(2.5),
        7 => json!(1e300),
        8 => json!(i64::MAX),
        9 => json!(u64::MAX),
        10 => json!([]),
        11 => json!({}),
        12 => json!(""),
        13 => json!({ chance.one_of(words): chance.one_of(words) }),
        _ => json!(chance.one_of(words)),
    }
}
