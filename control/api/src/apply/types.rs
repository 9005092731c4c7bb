//! The schema for field ownership, with structured-merge-diff's rules where there is no schema: objects are granular, lists are atomic.

use super::set;
use crate::schema::{self, Arena, Field, ListType, NodeId, Schema, Shape as Kind, zero};
use serde_json::Value;
use std::borrow::Cow;

/// How a value is owned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape<'a> {
    /// As a whole: scalars and atomic values.
    Leaf,
    /// Field by field.
    Map,
    /// Scalar by scalar.
    Set,
    /// Item by item; these fields are the keys.
    Keyed(&'a [String]),
}

/// What Go writes for an unset field of a struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unset {
    /// No field.
    Absent,
    /// Null: a list, map, time or pointer without `omitempty`.
    Null,
    /// The zero of a scalar, or an empty struct.
    Zero,
}

/// The type of a value; without a node where there is no schema.
#[derive(Clone, Copy)]
pub(super) struct Type<'a> {
    arena: &'a Arena,
    node: Option<NodeId>,
    /// An empty value counts as present.
    written: bool,
}

impl<'a> Type<'a> {
    pub(super) fn of(schema: &'a Schema) -> Self {
        Self { arena: &schema.arena, node: Some(schema.node), written: false }
    }

    /// For an applied value that has not been decoded to Go's types: an empty value counts as present.
    pub(super) fn as_written(self) -> Self {
        Self { written: true, ..self }
    }

    pub(super) fn is_written(self) -> bool {
        self.written
    }

    fn at(self, node: Option<NodeId>) -> Self {
        Self { node, ..self }
    }

    /// How this value is owned.
    pub(super) fn shape(self, value: &Value) -> Shape<'a> {
        let node = self.node.map(|id| (id, self.arena.node(id)));
        match (value, node) {
            (Value::Object(_), Some((id, _))) if self.arena.is_atomic(id) => Shape::Leaf,
            (Value::Object(_), _) => Shape::Map,
            (Value::Array(_), Some((_, node))) => match &node.list {
                ListType::Atomic => Shape::Leaf,
                ListType::Set => Shape::Set,
                ListType::Map(keys) => Shape::Keyed(keys),
            },
            _ => Shape::Leaf,
        }
    }

    /// The kind of value that the schema requires. A time or quantity is any scalar.
    pub(super) fn wants(self) -> Kind {
        let Some(id) = self.node else { return Kind::Any };
        match self.arena.node(id).kind {
            schema::Kind::Time | schema::Kind::MicroTime => Kind::Quantity,
            _ => self.arena.shape(id),
        }
    }

    /// Whether an object may not have this field.
    pub(super) fn forbids(self, name: &str) -> bool {
        let Some(id) = self.node else { return false };
        let known = self.arena.child(id, name).is_some();
        self.arena.shape(id) == Kind::Object && !known && !self.arena.preserves_unknown(id)
    }

    /// The type of a field.
    pub(super) fn child(self, name: &str) -> Self {
        self.at(self.node.and_then(|id| self.arena.child(id, name)))
    }

    /// The type of a field, and whether the schema declares it by name.
    pub(super) fn child_declared(self, name: &str) -> (Self, bool) {
        match self.declared(name) {
            Some(field) => (self.at(Some(field.node)), true),
            None => (self.child(name), false),
        }
    }

    /// What Go writes for this field if it is unset.
    pub(super) fn unset(self, name: &str) -> Unset {
        match self.declared(name).filter(|field| field.always) {
            None => Unset::Absent,
            Some(field) if field.pointer => Unset::Null,
            Some(field) => match zero(self.arena.node(field.node).kind) {
                Value::Null => Unset::Null,
                _ => Unset::Zero,
            },
        }
    }

    /// Whether Go leaves out this map or list when it is empty. Of a custom resource no Go type is known.
    pub(super) fn omits_empty(self, name: &str) -> bool {
        let Some(field) = self.declared(name).filter(|_| !self.is_custom()) else { return false };
        matches!(self.arena.shape(field.node), Kind::Map | Kind::List) && !field.always
    }

    fn declared(self, name: &str) -> Option<&'a Field> {
        let fields = self.node.map_or(&[][..], |id| self.arena.fields(id));
        Some(&fields[fields.binary_search_by(|field| (*field.name).cmp(name)).ok()?])
    }

    fn is_custom(self) -> bool {
        self.node.is_some_and(|id| self.arena.go_type(id).starts_with("map["))
    }

    /// The type of a list's items.
    pub(super) fn item(self) -> Self {
        self.at(self.node.and_then(|id| self.arena.element(id)))
    }

    /// The path element of an item of this list; an error says why it has none.
    pub(super) fn element(self, shape: Shape<'_>, item: &Value) -> Result<String, String> {
        let Shape::Keyed(keys) = shape else {
            return match item {
                Value::Object(_) => Err("associative list without keys has an element that's a map type".into()),
                Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
                Value::Null => Err("associative list without keys has an element that's an explicit null".into()),
                scalar => Ok(set::value(scalar)),
            };
        };
        let map = match item {
            Value::Object(map) => map,
            Value::Null => return Err("associative list with keys may not have a null element".into()),
            _ => return Err("associative list with keys may not have non-map elements".into()),
        };
        let kind = self.item();
        let mut pairs = Vec::with_capacity(keys.len());
        for name in keys {
            if let Some(value) = map.get(name).map(Cow::Borrowed).or_else(|| kind.default_of(name)) {
                pairs.push((name.as_str(), value));
            }
        }
        if pairs.is_empty() {
            return Err(format!(
                "associative list with keys has an element that omits all key fields {keys:?} (and doesn't have default values for any key fields)"
            ));
        }
        Ok(set::key(pairs))
    }

    /// What a key that is left out stands for: its default, or the zero that Go's type has where it always writes the field.
    fn default_of(self, name: &str) -> Option<Cow<'a, Value>> {
        let field = self.declared(name)?;
        if let Some(default) = self.arena.node(field.node).default.as_deref() {
            return Some(Cow::Borrowed(default));
        }
        // A reference's name is the one optional key with a default upstream.
        let written = field.always || self.node.is_some_and(|id| self.arena.go_type(id) == "v1.LocalObjectReference");
        if !written {
            return None;
        }
        match self.arena.shape(field.node) {
            Kind::String if !field.pointer => Some(Cow::Owned(Value::from(""))),
            Kind::Integer => Some(Cow::Owned(Value::from(0))),
            _ => None,
        }
    }
}
