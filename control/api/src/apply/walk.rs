//! Reads objects by their types: which fields an object has, and which two objects differ in.

use super::{
    set::{self, FieldSet},
    types::{Shape, Type, Unset},
};
use serde_json::{Map, Value};
use std::sync::LazyLock;

/// What differs between two objects. No field is in both sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Diff {
    /// Fields of the new object that are new or have a new value.
    pub(super) changed: FieldSet,
    /// Fields that only the old object has.
    pub(super) removed: FieldSet,
}

impl Diff {
    /// Whether the objects are equal.
    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }

    /// Without the fields in `ignored` and below them.
    pub(super) fn without(self, ignored: Option<&FieldSet>) -> Self {
        match ignored {
            Some(ignored) if !ignored.is_empty() => {
                Self { changed: self.changed.without(ignored), removed: self.removed.without(ignored) }
            }
            _ => self,
        }
    }

    fn push(&mut self, element: String, mark: Mark, below: Self) {
        if mark == Mark::Removed || !below.removed.is_empty() {
            self.removed.push(element.clone(), mark == Mark::Removed, below.removed);
        }
        self.changed.push(element, mark == Mark::Changed, below.changed);
    }

    fn restore_order(&mut self) {
        self.changed.restore_order();
        self.removed.restore_order();
    }
}

/// The result for a field itself, apart from the fields below it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Same,
    Changed,
    Removed,
}

/// One side of a comparison.
#[derive(Clone, Copy)]
enum Side<'a> {
    /// The field is absent.
    Absent,
    /// The field is not written, but the Go type always has it: a struct that is not a pointer, a required scalar. Upstream compares Go
    /// values, so that a write into the struct does not own the struct itself.
    Zero,
    There(&'a Value),
}

impl<'a> Side<'a> {
    fn value(self) -> Option<&'a Value> {
        match self {
            Self::There(value) if !value.is_null() => Some(value),
            _ => None,
        }
    }

    fn list(self) -> Option<&'a [Value]> {
        self.value()?.as_array().map(Vec::as_slice)
    }

    fn is_absent(self) -> bool {
        matches!(self, Self::Absent)
    }

    /// The side of a field of this one; `unset` is what the type has for an unset field.
    fn child(self, value: Option<&'a Value>, unset: Unset) -> Self {
        match (value, self, unset) {
            (Some(value), ..) => Self::There(value),
            (None, Self::Absent | Self::There(Value::Null), _) | (None, _, Unset::Absent) => Self::Absent,
            (None, _, Unset::Null) => Self::There(&Value::Null),
            (None, _, Unset::Zero) => Self::Zero,
        }
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

/// Whether this is a map or list without entries.
pub(super) fn is_hollow(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

/// The mark of a field that is compared as a whole.
fn leaf(old: Side<'_>, new: Side<'_>) -> Mark {
    match (old, new) {
        (Side::Absent | Side::Zero, Side::Absent | Side::Zero) => Mark::Same,
        (Side::Absent, Side::There(_)) => Mark::Changed,
        (Side::There(_), Side::Absent) => Mark::Removed,
        (Side::Zero, Side::There(v)) if is_zero(v) => Mark::Same,
        (Side::There(v), Side::Zero) if is_zero(v) => Mark::Same,
        (Side::Zero, Side::There(_)) => Mark::Changed,
        (Side::There(_), Side::Zero) => Mark::Removed,
        (Side::There(a), Side::There(b)) if a == b => Mark::Same,
        (Side::There(_), Side::There(_)) => Mark::Changed,
    }
}

/// The mark of a field that is compared by its content.
fn branch(old: Side<'_>, new: Side<'_>) -> Mark {
    match (old.is_absent(), new.is_absent()) {
        (true, false) => Mark::Changed,
        (false, true) => Mark::Removed,
        _ => Mark::Same,
    }
}

/// Compares two objects without their `metadata.managedFields`.
pub(super) fn diff(old: &Map<String, Value>, new: &Map<String, Value>, root: Type<'_>) -> Diff {
    let mut out = Diff::default();
    for name in names(old, new) {
        if name != "metadata" {
            diff_field(name, old.get(name), new.get(name), Side::Zero, Side::Zero, root, &mut out);
            continue;
        }
        let kind = root.child(name);
        let (a, b) = (object(old.get(name)), object(new.get(name)));
        let mut below = Diff::default();
        for name in names(a, b).filter(|name| *name != "managedFields") {
            diff_field(name, a.get(name), b.get(name), Side::Zero, Side::Zero, kind, &mut below);
        }
        below.restore_order();
        out.push("f:metadata".into(), Mark::Same, below);
    }
    out.restore_order();
    out
}

fn object(value: Option<&Value>) -> &Map<String, Value> {
    static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    value.and_then(Value::as_object).unwrap_or(&EMPTY)
}

fn names<'a>(old: &'a Map<String, Value>, new: &'a Map<String, Value>) -> impl Iterator<Item = &'a str> {
    old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))).map(String::as_str)
}

/// Compares one field of a map or struct; `parents` are the sides of that map or struct.
fn diff_field<'a>(
    name: &str,
    old: Option<&'a Value>,
    new: Option<&'a Value>,
    old_parent: Side<'a>,
    new_parent: Side<'a>,
    parent: Type<'_>,
    out: &mut Diff,
) {
    // Upstream compares Go values: an empty map is absent, so that no manager owns it, and it is removed with its last entry.
    let there = |value: Option<&'a Value>| value.filter(|value| !(is_hollow(value) && parent.omits_empty(name)));
    let (old, new) = (there(old), if parent.is_written() { new } else { there(new) });
    if old == new {
        return;
    }
    let unset = if old.is_none() || new.is_none() { parent.unset(name) } else { Unset::Absent };
    let (old, new) = (old_parent.child(old, unset), new_parent.child(new, unset));
    diff_value(set::field(name), old, new, parent.child(name), out);
}

fn diff_value(element: String, old: Side<'_>, new: Side<'_>, kind: Type<'_>, out: &mut Diff) {
    let sample = old.value().or(new.value());
    let shape = sample.map_or(Shape::Leaf, |value| kind.shape(value));
    let mut below = Diff::default();
    let mark = match shape {
        Shape::Map if same_kind(old, new, Value::is_object) => {
            let (a, b) = (object(old.value()), object(new.value()));
            if a.is_empty() && b.is_empty() {
                leaf(old, new)
            } else {
                for name in names(a, b) {
                    diff_field(name, a.get(name), b.get(name), old, new, kind, &mut below);
                }
                branch(old, new)
            }
        }
        Shape::Set | Shape::Keyed(_) if same_kind(old, new, Value::is_array) => {
            let (a, b) = (old.list().unwrap_or_default(), new.list().unwrap_or_default());
            if a.is_empty() && b.is_empty() {
                leaf(old, new)
            } else {
                diff_items(a, b, shape, kind, &mut below);
                branch(old, new)
            }
        }
        _ => leaf(old, new),
    };
    below.restore_order();
    out.push(element, mark, below);
}

fn same_kind(old: Side<'_>, new: Side<'_>, is: fn(&Value) -> bool) -> bool {
    old.value().is_none_or(is) && new.value().is_none_or(is)
}

/// The items of a list by their path elements, sorted; items without one are left out.
fn items<'a>(list: &'a [Value], shape: Shape<'_>, kind: Type<'_>) -> Vec<(String, &'a Value)> {
    let named = |item: &'a Value| Some((kind.element(shape, item).ok()?, item));
    let mut items: Vec<_> = list.iter().filter_map(named).collect();
    items.sort_by(|a, b| a.0.cmp(&b.0));
    items
}

fn diff_items(old: &[Value], new: &[Value], shape: Shape<'_>, kind: Type<'_>, out: &mut Diff) {
    let (old, new) = (items(old, shape, kind), items(new, shape, kind));
    let item = kind.item();
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        let element = match (old.get(i), new.get(j)) {
            (Some(a), Some(b)) => (&a.0).min(&b.0),
            (Some(a), None) => &a.0,
            (None, Some(b)) => &b.0,
            (None, None) => break,
        };
        let a = &old[i..i + old[i..].iter().take_while(|x| x.0 == *element).count()];
        let b = &new[j..j + new[j..].iter().take_while(|x| x.0 == *element).count()];
        i += a.len();
        j += b.len();
        diff_same_key(element.clone(), a, b, item, out);
    }
}

/// Compares the items with one key: normally one on either side. Several items with one key are one atomic value, as upstream.
fn diff_same_key(element: String, old: &[(String, &Value)], new: &[(String, &Value)], item: Type<'_>, out: &mut Diff) {
    match (old.len(), new.len()) {
        (0 | 1, 0 | 1) => {
            let (a, b) = (old.first().map(|x| x.1), new.first().map(|x| x.1));
            if a != b {
                let side = |value: Option<_>| value.map_or(Side::Absent, Side::There);
                diff_value(element, side(a), side(b), item, out);
            }
        }
        (2.., 2..) => {
            let same = old.len() == new.len() && old.iter().zip(new).all(|(a, b)| a.1 == b.1);
            out.push(element, if same { Mark::Same } else { Mark::Changed }, Diff::default());
        }
        (2.., few) => {
            // Several items became one, which counts as new.
            if few == 0 {
                out.push(element, Mark::Removed, Diff::default());
            } else {
                diff_value(element, Side::Absent, Side::There(new[0].1), item, out);
            }
        }
        (few, _) => {
            if few != 0 {
                diff_value(element.clone(), Side::There(old[0].1), Side::Absent, item, out);
            }
            out.push(element, Mark::Changed, Diff::default());
        }
    }
}

/// All fields of an object: leaves, list items, map entries; of structs only their fields.
pub(super) fn fields(object: &Map<String, Value>, root: Type<'_>) -> FieldSet {
    let mut out = FieldSet::new();
    map_fields(object, root, &mut out);
    out
}

fn map_fields(map: &Map<String, Value>, kind: Type<'_>, out: &mut FieldSet) {
    for (name, value) in map {
        let (child, declared) = kind.child_declared(name);
        let (leaf, below) = value_fields(value, child);
        let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
        out.push(set::field(name), leaf || empty || !declared, below);
    }
    out.restore_order();
}

/// Whether a value is a leaf, and the fields below it.
fn value_fields(value: &Value, kind: Type<'_>) -> (bool, FieldSet) {
    let mut out = FieldSet::new();
    match (kind.shape(value), value) {
        (Shape::Map, Value::Object(map)) => map_fields(map, kind, &mut out),
        (shape @ (Shape::Set | Shape::Keyed(_)), Value::Array(list)) => {
            let item = kind.item();
            let items = items(list, shape, kind);
            for (i, (element, value)) in items.iter().enumerate() {
                let twice = |at: Option<usize>| at.and_then(|at| items.get(at)).is_some_and(|x| x.0 == *element);
                let below = match twice(i.checked_sub(1)) || twice(Some(i + 1)) {
                    true => FieldSet::new(),
                    false => value_fields(value, item).1,
                };
                out.push(element.clone(), true, below);
            }
            out.restore_order();
        }
        _ => return (true, out),
    }
    (false, out)
}
