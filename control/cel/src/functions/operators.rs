//! Operators on values.

use super::Implementation;
use crate::{
    budget::{Budget, Error},
    equality::{Identities, compare, has, identity, list_type},
    schema::ListType,
    value::{List, Map, Text, Value},
};
use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

const OVERFLOW: Error = Error::Eval(std::borrow::Cow::Borrowed("integer overflow"));
const UNSIGNED_OVERFLOW: Error = Error::Eval(std::borrow::Cow::Borrowed("unsigned integer overflow"));

pub(super) fn implementation(name: &str) -> Option<Implementation> {
    Some(match name {
        "_+_" => |args, budget| match args {
            [a, b] => add(a, b, budget),
            _ => Err(Error::NO_SUCH_OVERLOAD),
        },
        "_-_" => |args, _| subtract(args),
        "_*_" => |args, _| multiply(args),
        "_/_" => |args, _| divide(args),
        "_%_" => |args, _| modulo(args),
        "-_" => |args, _| negate(args),
        "!_" => |args, _| match args {
            [Value::Bool(value)] => Ok(Value::Bool(!value)),
            _ => Err(Error::NO_SUCH_OVERLOAD),
        },
        "_<_" => |args, _| order(args, Ordering::is_lt),
        "_<=_" => |args, _| order(args, Ordering::is_le),
        "_>_" => |args, _| order(args, Ordering::is_gt),
        "_>=_" => |args, _| order(args, Ordering::is_ge),
        "@in" => contained,
        "size" => size,
        "cel.@mapInsert" => |args, budget| match args {
            [map, rest @ ..] => map_insert(map.clone(), rest, budget),
            [] => Err(Error::NO_SUCH_OVERLOAD),
        },
        _ => return None,
    })
}

fn order<'a>(args: &[Value<'a>], holds: fn(Ordering) -> bool) -> Result<Value<'a>, Error> {
    match args {
        [a, b] => Ok(Value::Bool(holds(compare(a, b)?))),
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}

/// `a + b`
pub(crate) fn add<'a>(a: &Value<'a>, b: &Value<'a>, budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.checked_add(*b).map(Value::Int).ok_or(OVERFLOW),
        (Value::Uint(a), Value::Uint(b)) => a.checked_add(*b).map(Value::Uint).ok_or(UNSIGNED_OVERFLOW),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
        (Value::String(a), Value::String(b)) => {
            budget.allocate(a.len().saturating_add(b.len()))?;
            let mut joined = String::with_capacity(a.len() + b.len());
            joined.push_str(a);
            joined.push_str(b);
            Ok(Value::String(Text::Shared(joined.into())))
        }
        (Value::Bytes(a), Value::Bytes(b)) => {
            budget.allocate(a.len().saturating_add(b.len()))?;
            Ok(Value::Bytes([&**a, &**b].concat().into()))
        }
        (Value::Duration(a), Value::Duration(b)) => {
            a.checked_add(*b).map(Value::Duration).ok_or(Error::Eval("duration overflow".into()))
        }
        (Value::Timestamp(stamp), Value::Duration(nanos)) | (Value::Duration(nanos), Value::Timestamp(stamp)) => {
            stamp.plus(*nanos).map(Value::Timestamp).ok_or(Error::Eval("timestamp overflow".into()))
        }
        (Value::List(a), Value::List(b)) => join_lists(a, b, budget).map(Value::List),
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}

/// Lists one after the other; a set takes what is new, a list by keys replaces what it has.
fn join_lists<'a>(a: &List<'a>, b: &List<'a>, budget: &mut Budget<'_>) -> Result<List<'a>, Error> {
    let schema = a.schema();
    let kind = list_type(schema);
    let mut joined = a.elements(budget)?;
    let more = b.elements(budget)?;
    if *kind == ListType::Atomic {
        joined.extend(more);
        return Ok(List::Owned(Arc::new(joined), schema));
    }
    let mut known = Identities::of(a, kind, budget)?;
    for element in more {
        let identity = identity(&element, kind, budget)?;
        match known.find(&identity) {
            Some(index) if *kind != ListType::Set => {
                if let Some(slot) = joined.get_mut(index) {
                    *slot = element;
                }
            }
            Some(_) => {}
            None => {
                // A list by keys does not look at what was appended, a set does.
                if *kind == ListType::Set {
                    known.insert(identity, joined.len());
                }
                joined.push(element);
            }
        }
    }
    Ok(List::Owned(Arc::new(joined), schema))
}

fn subtract<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    match args {
        [Value::Int(a), Value::Int(b)] => a.checked_sub(*b).map(Value::Int).ok_or(OVERFLOW),
        [Value::Uint(a), Value::Uint(b)] => a.checked_sub(*b).map(Value::Uint).ok_or(UNSIGNED_OVERFLOW),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a - b)),
        [Value::Duration(a), Value::Duration(b)] => {
            a.checked_sub(*b).map(Value::Duration).ok_or(Error::Eval("duration overflow".into()))
        }
        [Value::Timestamp(stamp), Value::Duration(nanos)] => {
            let earlier = nanos.checked_neg().and_then(|nanos| stamp.plus(nanos));
            earlier.map(Value::Timestamp).ok_or(Error::Eval("timestamp overflow".into()))
        }
        [Value::Timestamp(a), Value::Timestamp(b)] => {
            a.since(b).map(Value::Duration).ok_or(Error::Eval("timestamp overflow".into()))
        }
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}

fn multiply<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    match args {
        [Value::Int(a), Value::Int(b)] => a.checked_mul(*b).map(Value::Int).ok_or(OVERFLOW),
        [Value::Uint(a), Value::Uint(b)] => a.checked_mul(*b).map(Value::Uint).ok_or(UNSIGNED_OVERFLOW),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a * b)),
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}

fn divide<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => {
            Err(Error::Eval("division by zero".into()))
        }
        [Value::Int(a), Value::Int(b)] => a.checked_div(*b).map(Value::Int).ok_or(OVERFLOW),
        [Value::Uint(a), Value::Uint(b)] => a.checked_div(*b).map(Value::Uint).ok_or(UNSIGNED_OVERFLOW),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a / b)),
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}

fn modulo<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => Err(Error::Eval("modulus by zero".into())),
        [Value::Int(a), Value::Int(b)] => a.checked_rem(*b).map(Value::Int).ok_or(OVERFLOW),
        [Value::Uint(a), Value::Uint(b)] => a.checked_rem(*b).map(Value::Uint).ok_or(UNSIGNED_OVERFLOW),
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}

fn negate<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    match args {
        [Value::Int(a)] => a.checked_neg().map(Value::Int).ok_or(OVERFLOW),
        [Value::Double(a)] => Ok(Value::Double(-a)),
        [Value::Duration(a)] => a.checked_neg().map(Value::Duration).ok_or(Error::Eval("duration overflow".into())),
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}

fn contained<'a>(args: &[Value<'a>], budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
    match args {
        [needle, Value::List(list)] => has(list, needle, budget).map(Value::Bool),
        [key, Value::Map(map)] => Ok(Value::Bool(map.get(key, budget)?.is_some())),
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}

fn size<'a>(args: &[Value<'a>], budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
    let size = match args {
        [Value::String(text)] => {
            budget.pass(text.len())?;
            Some(text.chars().count())
        }
        [Value::Bytes(bytes)] => Some(bytes.len()),
        [Value::List(list)] => Some(list.len()),
        [Value::Map(map)] => map.len(),
        _ => None,
    };
    size.and_then(|size| i64::try_from(size).ok()).map(Value::Int).ok_or(Error::NO_SUCH_OVERLOAD)
}

/// A map with one more entry (key and value), or with those of another. Nothing may be there twice.
pub(crate) fn map_insert<'a>(
    map: Value<'a>,
    inserted: &[Value<'a>],
    budget: &mut Budget<'_>,
) -> Result<Value<'a>, Error> {
    let mut entries = match map {
        Value::Map(Map::Owned(entries)) => entries,
        Value::Map(other) => {
            let mut entries = BTreeMap::new();
            for key in other.keys()? {
                if let Some(value) = other.get(&key.clone().into(), budget)? {
                    entries.insert(key, value);
                }
            }
            Arc::new(entries)
        }
        _ => return Err(Error::NO_SUCH_OVERLOAD),
    };
    let mut more = Vec::new();
    match inserted {
        [key, value] => more.push((key.clone(), value.clone())),
        [Value::Map(map)] => {
            for key in map.keys()? {
                let key = key.into();
                if let Some(value) = map.get(&key, budget)? {
                    more.push((key, value));
                }
            }
        }
        _ => return Err(Error::NO_SUCH_OVERLOAD),
    }
    let copied = if Arc::get_mut(&mut entries).is_none() { entries.len() } else { 0 };
    budget.allocate((copied + more.len()).saturating_mul(3 * size_of::<Value<'_>>()))?;
    let target = Arc::make_mut(&mut entries);
    for (value, inserted) in more {
        let key = value.key().ok_or_else(|| Error::new("unsupported key type"))?;
        budget.pass(value.as_str().map_or(0, str::len))?;
        if target.insert(key, inserted).is_some() {
            let shown = super::conversions::shown(&value);
            return Err(Error::new(format!("insert failed: key {shown} already exists")));
        }
    }
    Ok(Value::Map(Map::Owned(entries)))
}
