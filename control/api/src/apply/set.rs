//! Sets of fields and their wire form, FieldsV1 (<https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management>).
//!
//! A set is a tree. Each node is a path element in its wire form (`f:name`, `k:{"name":"x"}`, `v:"x"`, `i:0`), which is canonical
//! (keys sorted, compact), so that elements compare as text. A node may be a member itself, have members below it, or both.

use serde_json::{Map, Value};
use std::{borrow::Cow, cmp::Ordering, fmt};

/// A set of field paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Sorted by element, each element once.
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    element: String,
    member: bool,
    below: FieldSet,
}

/// An invalid FieldsV1 value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A value must be an object.
    #[error("not an object: {0}")]
    NotAnObject(String),
    /// Not `f:`, `k:`, `v:`, `i:` or `.`.
    #[error("unknown path element type: {0}")]
    Element(String),
    /// Nested deeper than objects may be.
    #[error("nested too deep")]
    Depth,
}

/// Deepest set; objects are limited to less.
const MAX_DEPTH: usize = 128;

/// `f:name`.
pub(super) fn field(name: &str) -> String {
    let mut text = String::with_capacity(name.len() + 2);
    text.push_str("f:");
    text.push_str(name);
    text
}

/// `v:json`.
pub(super) fn value(value: &Value) -> String {
    match value {
        // 3.0 and 3 are one element.
        Value::Number(number) => format!("v:{}", crate::json::go_number(number)),
        value => format!("v:{value}"),
    }
}

/// `k:{"a":1,"b":"x"}`, the keys sorted.
pub(super) fn key<'a>(pairs: impl IntoIterator<Item = (&'a str, Cow<'a, Value>)>) -> String {
    let mut pairs: Vec<_> = pairs.into_iter().collect();
    pairs.sort_by(|a, b| a.0.cmp(b.0));
    let mut text = String::from("k:{");
    for (i, (name, value)) in pairs.iter().enumerate() {
        if i > 0 {
            text.push(',');
        }
        text.push_str(&Value::from(*name).to_string());
        text.push(':');
        text.push_str(&value.to_string());
    }
    text.push('}');
    text
}

/// The canonical form of an element from the wire.
fn canonical(text: &str) -> Result<String, Error> {
    let unknown = || Error::Element(text.to_owned());
    match text.get(..2) {
        Some("f:") => Ok(text.to_owned()),
        Some("v:") => Ok(value(&serde_json::from_str(&text[2..]).map_err(|_| unknown())?)),
        Some("i:") => Ok(format!("i:{}", text[2..].parse::<i64>().map_err(|_| unknown())?)),
        Some("k:") => {
            let pairs: Map<String, Value> = serde_json::from_str(&text[2..]).map_err(|_| unknown())?;
            Ok(key(pairs.iter().map(|(k, v)| (k.as_str(), Cow::Borrowed(v)))))
        }
        _ => Err(unknown()),
    }
}

impl FieldSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self { nodes: Vec::new() }
    }

    /// From paths of plain field names.
    pub fn from_fields(paths: &[&[&str]]) -> Self {
        let mut set = Self::new();
        for path in paths {
            let elements: Vec<String> = path.iter().map(|name| field(name)).collect();
            set.insert(&elements);
        }
        set
    }

    /// Parses FieldsV1.
    pub fn parse(fields: &Value) -> Result<Self, Error> {
        Self::parse_at(fields, 0)
    }

    fn parse_at(fields: &Value, depth: usize) -> Result<Self, Error> {
        let map = fields.as_object().ok_or_else(|| Error::NotAnObject(fields.to_string()))?;
        if depth > MAX_DEPTH {
            return Err(Error::Depth);
        }
        let mut nodes = Vec::with_capacity(map.len());
        for (name, below) in map {
            if name == "." {
                continue;
            }
            let entries = below.as_object().ok_or_else(|| Error::NotAnObject(below.to_string()))?;
            let member = entries.is_empty() || entries.contains_key(".");
            nodes.push(Node { element: canonical(name)?, member, below: Self::parse_at(below, depth + 1)? });
        }
        let mut set = Self { nodes };
        set.restore_order();
        Ok(set)
    }

    /// Encodes FieldsV1.
    pub fn into_value(self) -> Value {
        Value::Object(self.into_map(false))
    }

    fn into_map(self, dot: bool) -> Map<String, Value> {
        let mut map = Map::new();
        if dot && !self.nodes.is_empty() {
            map.insert(".".into(), Value::Object(Map::new()));
        }
        map.extend(self.nodes.into_iter().map(|n| (n.element, Value::Object(n.below.into_map(n.member)))));
        map
    }

    /// Adds one path of wire-form elements.
    pub(super) fn insert(&mut self, path: &[String]) {
        let Some((first, rest)) = path.split_first() else { return };
        let at = match self.find(first) {
            Ok(at) => at,
            Err(at) => {
                self.nodes.insert(at, Node { element: first.clone(), member: false, below: Self::new() });
                at
            }
        };
        if rest.is_empty() {
            self.nodes[at].member = true;
        } else {
            self.nodes[at].below.insert(rest);
        }
    }

    /// Appends a node unless it is empty. The caller restores the order afterwards.
    pub(super) fn push(&mut self, element: String, member: bool, below: Self) {
        if member || !below.nodes.is_empty() {
            self.nodes.push(Node { element, member, below });
        }
    }

    /// Sorts after [`Self::push`], and joins equal nodes.
    pub(super) fn restore_order(&mut self) {
        if !self.nodes.is_sorted_by(|a, b| a.element < b.element) {
            *self = Self::union_all([std::mem::take(self)]);
        }
    }

    /// The union of all sets. All nodes are sorted once and joined, instead of set by set.
    pub(super) fn union_all(sets: impl IntoIterator<Item = Self>) -> Self {
        let mut all: Vec<Node> = sets.into_iter().flat_map(|set| set.nodes).collect();
        all.sort_by(|a, b| a.element.cmp(&b.element));
        let mut nodes: Vec<Node> = Vec::with_capacity(all.len());
        let mut rest = all.into_iter().peekable();
        while let Some(mut first) = rest.next() {
            let mut below = Vec::new();
            while let Some(same) = rest.next_if(|next| next.element == first.element) {
                first.member |= same.member;
                below.push(same.below);
            }
            if !below.is_empty() {
                first.below = Self::union_all(std::iter::once(first.below).chain(below));
            }
            nodes.push(first);
        }
        Self { nodes }
    }

    fn find(&self, element: &str) -> Result<usize, usize> {
        self.nodes.binary_search_by(|node| node.element.as_str().cmp(element))
    }

    /// Whether it has no members.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether the path of this one element is a member.
    pub(super) fn has(&self, element: &str) -> bool {
        self.find(element).is_ok_and(|at| self.nodes[at].member)
    }

    /// The set below an element.
    pub(super) fn below(&self, element: &str) -> Option<&Self> {
        let node = &self.nodes[self.find(element).ok()?];
        (!node.below.is_empty()).then_some(&node.below)
    }

    /// The union.
    pub fn union(&self, other: &Self) -> Self {
        let mut nodes = Vec::with_capacity(self.nodes.len().max(other.nodes.len()));
        let (mut a, mut b) = (self.nodes.iter().peekable(), other.nodes.iter().peekable());
        loop {
            let order = match (a.peek(), b.peek()) {
                (Some(x), Some(y)) => x.element.cmp(&y.element),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            match order {
                Ordering::Less => nodes.extend(a.next().cloned()),
                Ordering::Greater => nodes.extend(b.next().cloned()),
                Ordering::Equal => {
                    if let (Some(x), Some(y)) = (a.next(), b.next()) {
                        let below = x.below.union(&y.below);
                        nodes.push(Node { element: x.element.clone(), member: x.member || y.member, below });
                    }
                }
            }
        }
        Self { nodes }
    }

    /// Adds the members of `other`.
    pub(super) fn add(&mut self, other: Self) {
        *self = Self::union_all([std::mem::take(self), other]);
    }

    /// Removes the members of `other`, as [`Self::difference`]; returns whether there were any.
    pub(super) fn subtract(&mut self, other: &Self) -> bool {
        let (mut changed, mut emptied) = (false, false);
        let mut take = |own: &mut Node, theirs: &Node| {
            if own.member && theirs.member {
                own.member = false;
                changed = true;
            }
            changed |= own.below.subtract(&theirs.below);
            emptied |= !own.member && own.below.is_empty();
        };
        // Walks the smaller side: many small sets meet one large set, or the other way round.
        if self.nodes.len() < other.nodes.len() {
            for own in &mut self.nodes {
                if let Ok(at) = other.find(&own.element) {
                    take(own, &other.nodes[at]);
                }
            }
        } else {
            for theirs in &other.nodes {
                if let Ok(at) = self.find(&theirs.element) {
                    take(&mut self.nodes[at], theirs);
                }
            }
        }
        if emptied {
            self.nodes.retain(|node| node.member || !node.below.is_empty());
        }
        changed
    }

    /// Builds from the nodes of `self` and, where `other` has the same element, that node.
    fn zip(&self, other: &Self, make: &impl Fn(&Node, Option<&Node>) -> Option<Node>) -> Self {
        let nodes = self.nodes.iter().filter_map(|n| make(n, other.find(&n.element).ok().map(|at| &other.nodes[at])));
        Self { nodes: nodes.collect() }
    }

    /// The intersection.
    pub fn intersection(&self, other: &Self) -> Self {
        self.zip(other, &|x, y| {
            let y = y?;
            node(&x.element, x.member && y.member, x.below.intersection(&y.below))
        })
    }

    /// The members that are not members of `other`; members below a member of `other` stay.
    pub fn difference(&self, other: &Self) -> Self {
        self.zip(other, &|x, y| match y {
            None => Some(x.clone()),
            Some(y) => node(&x.element, x.member && !y.member, x.below.difference(&y.below)),
        })
    }

    /// The members that are neither members of `other` nor below one.
    pub fn without(&self, other: &Self) -> Self {
        self.zip(other, &|x, y| match y {
            None => Some(x.clone()),
            Some(y) if y.member => None,
            Some(y) => node(&x.element, x.member, x.below.without(&y.below)),
        })
    }

    /// The members that have no members below them.
    pub fn leaves(&self) -> Self {
        let leaf = |n: &Node| node(&n.element, n.member && n.below.is_empty(), n.below.leaves());
        Self { nodes: self.nodes.iter().filter_map(leaf).collect() }
    }

    /// Rewrites each node, parents first.
    pub(super) fn map_nodes(&self, f: &mut dyn FnMut(&str, bool, &Self) -> (bool, Self)) -> Self {
        let mut set = Self::new();
        for n in &self.nodes {
            let (member, below) = f(&n.element, n.member, &n.below);
            set.push(n.element.clone(), member, below);
        }
        set
    }

    /// The members in the form for people (`.spec.ports[port=80,protocol="TCP"].name`), those of a level before deeper ones.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, prefix: &str, paths: &mut Vec<String>) {
        for node in self.nodes.iter().filter(|n| n.member) {
            paths.push(format!("{prefix}{}", show(&node.element)));
        }
        for node in self.nodes.iter().filter(|n| !n.below.is_empty()) {
            node.below.collect(&format!("{prefix}{}", show(&node.element)), paths);
        }
    }

    /// The members as paths of wire-form elements, in the order of [`Self::paths`].
    #[cfg(test)]
    pub(super) fn elements(&self) -> Vec<Vec<String>> {
        let own = self.nodes.iter().filter(|n| n.member).map(|n| vec![n.element.clone()]);
        let below = self.nodes.iter().flat_map(|n| {
            n.below.elements().into_iter().map(|mut path| {
                path.insert(0, n.element.clone());
                path
            })
        });
        own.chain(below).collect()
    }
}

impl fmt::Display for FieldSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.paths().join("\n"))
    }
}

fn node(element: &str, member: bool, below: FieldSet) -> Option<Node> {
    (member || !below.is_empty()).then(|| Node { element: element.to_owned(), member, below })
}

/// One element as error messages print it.
pub(super) fn show(element: &str) -> String {
    let (kind, text) = element.split_at(element.len().min(2));
    match kind {
        "k:" => {
            let pairs: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
            let pairs: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}={}", shown(v))).collect();
            format!("[{}]", pairs.join(","))
        }
        "v:" => format!("[={text}]"),
        "i:" => format!("[{text}]"),
        _ => format!(".{text}"),
    }
}

/// A value as structured-merge-diff prints it.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(list) => format!("[{}]", list.iter().map(shown).collect::<Vec<_>>().join(",")),
        Value::Object(map) => map.iter().map(|(name, value)| format!("{name}={}", shown(value))).collect(),
        scalar => scalar.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(fields: Value) -> FieldSet {
        FieldSet::parse(&fields).expect("FieldsV1")
    }

    #[test]
    fn fields_v1_round_trips() {
        for fields in [
            json!({}),
            json!({"f:spec": {}}),
            json!({"f:spec": {".": {}, "f:replicas": {}}}),
            json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}, "f:args": {"i:0": {}, "v:\"x\"": {}}}}}}),
            json!({"f:metadata": {"f:finalizers": {".": {}, "v:\"example.com/a\"": {}}}}),
        ] {
            assert_eq!(set(fields.clone()).into_value(), fields);
        }
    }

    #[test]
    fn elements_are_made_canonical() {
        let fields = set(json!({"f:ports": {"k:{\"protocol\": \"TCP\", \"port\": 80}": {}}}));
        assert_eq!(fields.into_value(), json!({"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {}}}));
        let twice = set(json!({"f:p": {"k:{\"a\": 1}": {"f:x": {}}, "k:{\"a\":1}": {"f:y": {}}}}));
        assert_eq!(twice.into_value(), json!({"f:p": {"k:{\"a\":1}": {"f:x": {}, "f:y": {}}}}));
    }

    #[test]
    fn what_is_not_a_set_is_refused() {
        for fields in
            [json!([]), json!({"f:a": 1}), json!({"x:a": {}}), json!({"k:{": {}}), json!({"i:x": {}}), json!({"é": {}})]
        {
            assert!(FieldSet::parse(&fields).is_err(), "{fields}");
        }
        let mut deep = json!({});
        for _ in 0..1000 {
            deep = json!({ "f:a": deep });
        }
        assert_eq!(FieldSet::parse(&deep), Err(Error::Depth));
    }

    #[test]
    fn the_algebra_keeps_parents_and_children_apart() {
        let parent = set(json!({"f:a": {}}));
        let child = set(json!({"f:a": {"f:b": {}}}));
        let both = set(json!({"f:a": {".": {}, "f:b": {}}}));
        assert_eq!(parent.union(&child), both);
        assert_eq!(both.difference(&parent), child);
        assert_eq!(both.difference(&child), parent);
        assert_eq!(parent.difference(&child), parent);
        assert_eq!(both.without(&parent), FieldSet::new());
        assert_eq!(both.without(&child), parent);
        assert_eq!(parent.intersection(&child), FieldSet::new());
        assert_eq!(both.intersection(&child), child);
        let mut left = both.clone();
        assert!(left.subtract(&parent) && !left.subtract(&parent));
        assert_eq!(left, child);
        left.add(parent.clone());
        assert_eq!(left, both);
        assert_eq!(both.leaves(), child);
        assert_eq!(parent.leaves(), parent);
    }

    #[test]
    fn paths_print_as_upstream_does() {
        let fields = set(json!({
            "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}}}, "f:type": {}},
            "f:metadata": {"f:finalizers": {"v:\"a\"": {}}, "f:labels": {".": {}, "f:app.kubernetes.io/name": {}}}}));
        assert_eq!(
            fields.paths(),
            [
                ".metadata.labels",
                ".metadata.finalizers[=\"a\"]",
                ".metadata.labels.app.kubernetes.io/name",
                ".spec.type",
                ".spec.ports[port=80,protocol=\"TCP\"]",
                ".spec.ports[port=80,protocol=\"TCP\"].name",
            ]
        );
    }
}
