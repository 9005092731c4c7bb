//! When values are equal, and which is less.

use crate::{
    budget::{Budget, Error},
    schema::{ListType, Schema, Shape},
    value::{Key, List, Map, Value},
};
use serde_json::Value as Json;
use std::cmp::Ordering;

/// Whether two values are equal. Values of different types are not; numbers are compared across their types.
pub(crate) fn equal<'a>(a: &Value<'a>, b: &Value<'a>, budget: &mut Budget<'_>) -> Result<bool, Error> {
    Ok(match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::String(a), Value::String(b)) => same_text(a.as_bytes(), b.as_bytes(), budget)?,
        (Value::Bytes(a), Value::Bytes(b)) => same_text(a, b, budget)?,
        (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
        (Value::Duration(a), Value::Duration(b)) => a == b,
        (Value::Type(a), Value::Type(b)) => a == b,
        (Value::Opaque(a), Value::Opaque(b)) => a == b,
        (Value::Optional(None), Value::Optional(None)) => true,
        (Value::Optional(Some(a)), Value::Optional(Some(b))) => {
            budget.work(1)?;
            equal(a, b, budget)?
        }
        (Value::List(a), Value::List(b)) => lists(a, b, budget)?,
        (Value::Map(a), Value::Map(b)) => maps(a, b, budget)?,
        (Value::Int(_) | Value::Uint(_) | Value::Double(_), Value::Int(_) | Value::Uint(_) | Value::Double(_)) => {
            numbers(a, b) == Some(Ordering::Equal)
        }
        _ => false,
    })
}

/// Whether a list has an element that equals a value.
pub(crate) fn has<'a>(list: &List<'a>, wanted: &Value<'a>, budget: &mut Budget<'_>) -> Result<bool, Error> {
    let found = list.find_map(budget, |_, element, budget| Ok(equal(&element, wanted, budget)?.then_some(())))?;
    Ok(found.is_some())
}

/// Whether two texts are the same. The cost of a list does not tell how long they are.
fn same_text(a: &[u8], b: &[u8], budget: &mut Budget<'_>) -> Result<bool, Error> {
    if a.len() != b.len() {
        return Ok(false);
    }
    budget.pass(a.len())?;
    Ok(a == b)
}

/// How two numbers are ordered; nothing for NaN.
fn numbers(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Int(a), Value::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Uint(a), Value::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Int(a), Value::Double(b)) => float(i128::from(*a), *b),
        (Value::Uint(a), Value::Double(b)) => float(i128::from(*a), *b),
        (Value::Double(a), Value::Int(b)) => float(i128::from(*b), *a).map(Ordering::reverse),
        (Value::Double(a), Value::Uint(b)) => float(i128::from(*b), *a).map(Ordering::reverse),
        _ => None,
    }
}

/// An integer of 64 bits against a double, which is compared as a double where it is in range, as Go does.
fn float(a: i128, b: f64) -> Option<Ordering> {
    #[expect(clippy::cast_precision_loss, reason = "as upstream compares")]
    let a = a as f64;
    a.partial_cmp(&b)
}

/// How two values are ordered.
pub(crate) fn compare(a: &Value<'_>, b: &Value<'_>) -> Result<Ordering, Error> {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => Ok(a.cmp(b)),
        (Value::String(a), Value::String(b)) => Ok(a.cmp(b)),
        (Value::Bytes(a), Value::Bytes(b)) => Ok(a.cmp(b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Ok(a.key().cmp(&b.key())),
        (Value::Duration(a), Value::Duration(b)) => Ok(a.cmp(b)),
        (Value::Int(_) | Value::Uint(_) | Value::Double(_), Value::Int(_) | Value::Uint(_) | Value::Double(_)) => {
            numbers(a, b).ok_or(Error::Eval("NaN values cannot be ordered".into()))
        }
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}

/// How a list is compared and joined.
pub(crate) fn list_type(schema: Option<&Schema>) -> &ListType {
    match schema.map(|schema| &schema.shape) {
        Some(Shape::List { kind, .. }) => kind,
        _ => &ListType::Atomic,
    }
}

fn lists<'a>(a: &List<'a>, b: &List<'a>, budget: &mut Budget<'_>) -> Result<bool, Error> {
    if a.len() != b.len() {
        return Ok(false);
    }
    match list_type(a.schema()) {
        ListType::Atomic => {
            let differs = a.find_map(budget, |index, element, budget| {
                let Some(other) = b.get(index, budget)? else { return Ok(Some(())) };
                Ok((!equal(&element, &other, budget)?).then_some(()))
            })?;
            Ok(differs.is_none())
        }
        ListType::Set => {
            let known = Identities::of(a, &ListType::Set, budget)?;
            let missing = b.find_map(budget, |_, element, budget| {
                Ok(known.find(&identity(&element, &ListType::Set, budget)?).is_none().then_some(()))
            })?;
            Ok(missing.is_none())
        }
        by_keys @ ListType::Map(_) => {
            let known = Identities::of(a, by_keys, budget)?;
            let differs = b.find_map(budget, |_, element, budget| {
                let Some(index) = known.find(&identity(&element, by_keys, budget)?) else { return Ok(Some(())) };
                let Some(other) = a.get(index, budget)? else { return Ok(Some(())) };
                Ok((!equal(&other, &element, budget)?).then_some(()))
            })?;
            Ok(differs.is_none())
        }
    }
}

/// What makes two elements of a set or of a list by keys the same: their scalars.
pub(crate) type Identity<'a> = Vec<Option<Key<'a>>>;

/// What an element is known by.
pub(crate) fn identity<'a>(
    element: &Value<'a>,
    kind: &ListType,
    budget: &mut Budget<'_>,
) -> Result<Identity<'a>, Error> {
    budget.work(1)?;
    let key = |value: &Value<'a>, budget: &mut Budget<'_>| {
        Ok(match value {
            // A float of a set of numbers; its bits keep it apart from any int.
            Value::Double(value) => Some(Key::String(crate::value::Text::Shared(format!("{value}").into()))),
            value => {
                budget.pass(value.as_str().map_or(0, str::len))?;
                value.key()
            }
        })
    };
    match (kind, element) {
        (ListType::Map(keys), Value::Map(fields)) => {
            let mut found = Vec::with_capacity(keys.len());
            for name in keys {
                let name = crate::escape::escape(name).unwrap_or_else(|| name.clone());
                let scalar = fields.field(&name, budget)?;
                found.push(scalar.map_or(Ok(None), |scalar| key(&scalar, budget))?);
            }
            Ok(found)
        }
        _ => Ok(vec![key(element, budget)?]),
    }
}

/// The elements of a list by what they are known by. A later element replaces an earlier one, as in a map of Go.
pub(crate) struct Identities<'a>(std::collections::BTreeMap<Identity<'a>, usize>);

impl<'a> Identities<'a> {
    pub(crate) fn of(list: &List<'a>, kind: &ListType, budget: &mut Budget<'_>) -> Result<Self, Error> {
        let mut found = std::collections::BTreeMap::new();
        list.each(budget, |index, element, budget| {
            found.insert(identity(&element, kind, budget)?, index);
            Ok(())
        })?;
        Ok(Self(found))
    }

    pub(crate) fn find(&self, identity: &Identity<'a>) -> Option<usize> {
        self.0.get(identity).copied()
    }

    pub(crate) fn insert(&mut self, identity: Identity<'a>, index: usize) {
        self.0.insert(identity, index);
    }
}

fn maps<'a>(a: &Map<'a>, b: &Map<'a>, budget: &mut Budget<'_>) -> Result<bool, Error> {
    if let (Map::Object(of, a), Map::Object(other, b)) = (a, b) {
        if of.name() != other.name() || a.len() != b.len() {
            return Ok(false);
        }
        for (name, value) in &**a {
            budget.work(1)?;
            let Some(other) = b.get(name) else { return Ok(false) };
            if !equal(value, other, budget)? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    let (Some(size), Some(other)) = (a.len(), b.len()) else { return Err(Error::NO_SUCH_OVERLOAD) };
    if size != other {
        return Ok(false);
    }
    if let (Map::Json(fields, Some(_)), Map::Json(others, Some(_))) = (a, b)
        && !hidden_fields(a, fields, others, budget)?
    {
        return Ok(false);
    }
    // Each key is copied and looked up twice.
    budget.work(size.saturating_mul(8))?;
    for key in a.keys()? {
        let key = Value::from(key);
        match (a.get(&key, budget)?, b.get(&key, budget)?) {
            (Some(value), Some(other)) => {
                if !equal(&value, &other, budget)? {
                    return Ok(false);
                }
            }
            (None, None) => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// Compares what expressions cannot see, where both objects have it.
fn hidden_fields<'a>(
    of: &Map<'a>,
    fields: &serde_json::Map<String, Json>,
    others: &serde_json::Map<String, Json>,
    budget: &mut Budget<'_>,
) -> Result<bool, Error> {
    let Map::Json(_, Some(Schema { shape: Shape::Object { properties, .. }, .. })) = of else { return Ok(true) };
    for (name, value) in fields.iter().filter(|(name, _)| !properties.contains_key(*name)) {
        budget.work(name.len())?;
        if let Some(other) = others.get(name)
            && !same_json(value, other, budget)?
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether JSON that expressions do not see is the same.
fn same_json(a: &Json, b: &Json, budget: &mut Budget<'_>) -> Result<bool, Error> {
    budget.work(1)?;
    match (a, b) {
        (Json::String(a), Json::String(b)) => same_text(a.as_bytes(), b.as_bytes(), budget),
        (Json::Array(a), Json::Array(b)) if a.len() == b.len() => {
            for (a, b) in a.iter().zip(b) {
                if !same_json(a, b, budget)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Json::Object(a), Json::Object(b)) if a.len() == b.len() => {
            for ((name, a), (other, b)) in a.iter().zip(b) {
                if !same_text(name.as_bytes(), other.as_bytes(), budget)? || !same_json(a, b, budget)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Json::Array(_), Json::Array(_)) | (Json::Object(_), Json::Object(_)) => Ok(false),
        (a, b) => Ok(a == b),
    }
}
