//! Functions of lists and sets.

use super::{Implementation, operators::add};
use crate::{
    budget::{Budget, Error},
    equality::{compare, equal, has},
    value::{List, Value},
};
use std::cmp::Ordering;

pub(super) fn implementation(name: &str, overload: Option<&str>) -> Option<Implementation> {
    Some(match (name, overload) {
        ("isSorted", _) => is_sorted,
        ("sum", Some("list_uint_sum_uint")) => |args, budget| sum(args, Value::Uint(0), budget),
        ("sum", Some("list_double_sum_double")) => |args, budget| sum(args, Value::Double(0.0), budget),
        ("sum", Some("list_duration_sum_duration")) => |args, budget| sum(args, Value::Duration(0), budget),
        ("sum", _) => |args, budget| sum(args, Value::Int(0), budget),
        ("min", _) => |args, budget| extreme(args, budget, "min", Ordering::Greater),
        ("max", _) => |args, budget| extreme(args, budget, "max", Ordering::Less),
        ("slice", _) => slice,
        ("flatten", _) => flatten,
        ("sort", _) => |args, budget| match args {
            [Value::List(list)] => sort(list, list, budget),
            _ => Err(Error::NO_SUCH_OVERLOAD),
        },
        ("@sortByAssociatedKeys", _) => |args, budget| match args {
            [Value::List(list), Value::List(keys)] => sort(list, keys, budget),
            _ => Err(Error::NO_SUCH_OVERLOAD),
        },
        ("lists.range", _) => range,
        ("reverse", _) => |args, budget| {
            let mut elements = list(args)?.elements(budget)?;
            elements.reverse();
            Ok(Value::list(elements))
        },
        ("distinct", _) => distinct,
        ("sets.contains", _) => |args, budget| sets(args, |a, b| contains_all(a, b, budget)),
        ("sets.equivalent", _) => {
            |args, budget| sets(args, |a, b| Ok(contains_all(a, b, budget)? && contains_all(b, a, budget)?))
        }
        ("sets.intersects", _) => |args, budget| sets(args, |a, b| intersect(a, b, budget)),
        _ => return None,
    })
}

fn list<'v, 'a>(args: &'v [Value<'a>]) -> Result<&'v List<'a>, Error> {
    if let [Value::List(list)] = args { Ok(list) } else { Err(Error::NO_SUCH_OVERLOAD) }
}

fn is_sorted<'a>(args: &[Value<'a>], budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
    let mut before: Option<Value<'a>> = None;
    let falls = list(args)?.find_map(budget, |_, element, _| {
        let falls = before.as_ref().map_or(Ok(false), |before| compare(before, &element).map(Ordering::is_gt))?;
        before = Some(element);
        Ok(falls.then_some(()))
    })?;
    Ok(Value::Bool(falls.is_none()))
}

fn sum<'a>(args: &[Value<'a>], zero: Value<'a>, budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
    let elements = list(args)?.elements(budget)?;
    let mut elements = elements.iter();
    // What is summed decides the type; only an empty list needs a zero.
    let Some(first) = elements.next() else { return Ok(zero) };
    elements.try_fold(first.clone(), |total, element| add(&total, element, budget))
}

fn extreme<'a>(
    args: &[Value<'a>],
    budget: &mut Budget<'_>,
    name: &str,
    replaced_if: Ordering,
) -> Result<Value<'a>, Error> {
    let mut best: Option<Value<'a>> = None;
    list(args)?.each(budget, |_, element, _| {
        best = match best.take() {
            Some(best) if compare(&best, &element)? != replaced_if => Some(best),
            _ => Some(element),
        };
        Ok(())
    })?;
    best.ok_or_else(|| Error::new(format!("{name} called on empty list")))
}

pub(super) fn index_of<'a>(args: &[Value<'a>], budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
    let [Value::List(list), wanted] = args else { return Err(Error::NO_SUCH_OVERLOAD) };
    let found = list.find_map(budget, |index, element, budget| {
        let index = i64::try_from(index).unwrap_or(i64::MAX);
        Ok(equal(&element, wanted, budget)?.then_some(index))
    })?;
    Ok(Value::Int(found.unwrap_or(-1)))
}

pub(super) fn last_index_of<'a>(args: &[Value<'a>], budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
    let [Value::List(list), wanted] = args else { return Err(Error::NO_SUCH_OVERLOAD) };
    for index in (0..list.len()).rev() {
        budget.work(1)?;
        if let Some(element) = list.get(index, budget)?
            && equal(&element, wanted, budget)?
        {
            return Ok(Value::Int(i64::try_from(index).unwrap_or(i64::MAX)));
        }
    }
    Ok(Value::Int(-1))
}

fn slice<'a>(args: &[Value<'a>], budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
    let [Value::List(list), Value::Int(start), Value::Int(end)] = args else { return Err(Error::NO_SUCH_OVERLOAD) };
    let fault = |what: String| Err(Error::new(format!("cannot slice({start}, {end}), {what}")));
    let (Ok(from), Ok(to)) = (usize::try_from(*start), usize::try_from(*end)) else {
        return fault("negative indexes not supported".to_owned());
    };
    if from > to {
        return fault("start index must be less than or equal to end index".to_owned());
    }
    if list.len() < to {
        return fault(format!("list is length {}", list.len()));
    }
    budget.allocate((to - from).saturating_mul(size_of::<Value<'_>>()))?;
    let elements: Result<Vec<_>, Error> = (from..to).filter_map(|index| list.get(index, budget).transpose()).collect();
    Ok(Value::list(elements?))
}

fn flatten<'a>(args: &[Value<'a>], budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
    let (list, depth) = match args {
        [Value::List(list)] => (list, 1),
        [Value::List(list), Value::Int(depth)] => (list, *depth),
        _ => return Err(Error::NO_SUCH_OVERLOAD),
    };
    if depth < 0 {
        return Err(Error::Eval("level must be non-negative".into()));
    }
    let mut flat = Vec::new();
    flatten_into(&mut flat, list, depth, budget)?;
    Ok(Value::list(flat))
}

fn flatten_into<'a>(
    flat: &mut Vec<Value<'a>>,
    list: &List<'a>,
    depth: i64,
    budget: &mut Budget<'_>,
) -> Result<(), Error> {
    list.each(budget, |_, element, budget| {
        match element {
            Value::List(inner) if depth > 0 => flatten_into(flat, &inner, depth - 1, budget)?,
            other => {
                budget.allocate(size_of::<Value<'_>>())?;
                flat.push(other);
            }
        }
        Ok(())
    })
}

/// The elements in the order of their keys.
fn sort<'a>(list: &List<'a>, keys: &List<'a>, budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
    if list.len() != keys.len() {
        return Err(Error::new(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} elements respectively",
            list.len(),
            keys.len()
        )));
    }
    let keys = keys.elements(budget)?;
    if let Some(first) = keys.first() {
        if compare(first, first).is_err() && !matches!(first, Value::Double(_)) {
            return Err(Error::Eval("list elements must be comparable".into()));
        }
        if keys.iter().any(|key| key.type_name() != first.type_name()) {
            return Err(Error::Eval("list elements must have the same type".into()));
        }
    }
    let mut both: Vec<_> = keys.into_iter().zip(list.elements(budget)?).collect();
    budget.work(both.len().saturating_mul(20))?;
    both.sort_by(|(a, _), (b, _)| compare(a, b).unwrap_or(Ordering::Equal));
    Ok(Value::list(both.into_iter().map(|(_, element)| element).collect()))
}

fn range<'a>(args: &[Value<'a>], budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
    let [Value::Int(count)] = args else { return Err(Error::NO_SUCH_OVERLOAD) };
    let size = usize::try_from(*count).unwrap_or(0);
    budget.allocate(size.saturating_mul(size_of::<Value<'_>>()))?;
    Ok(Value::list((0..*count).map(Value::Int).collect()))
}

fn distinct<'a>(args: &[Value<'a>], budget: &mut Budget<'_>) -> Result<Value<'a>, Error> {
    let mut found: Vec<Value<'a>> = Vec::new();
    'next: for element in list(args)?.elements(budget)? {
        for known in &found {
            budget.work(1)?;
            if equal(&element, known, budget)? {
                continue 'next;
            }
        }
        found.push(element);
    }
    Ok(Value::list(found))
}

fn sets<'a>(
    args: &[Value<'a>],
    holds: impl FnOnce(&List<'a>, &List<'a>) -> Result<bool, Error>,
) -> Result<Value<'a>, Error> {
    match args {
        [Value::List(a), Value::List(b)] => holds(a, b).map(Value::Bool),
        _ => Err(Error::NO_SUCH_OVERLOAD),
    }
}

fn contains_all<'a>(list: &List<'a>, part: &List<'a>, budget: &mut Budget<'_>) -> Result<bool, Error> {
    let missing = part.find_map(budget, |_, element, budget| Ok((!has(list, &element, budget)?).then_some(())))?;
    Ok(missing.is_none())
}

fn intersect<'a>(a: &List<'a>, b: &List<'a>, budget: &mut Budget<'_>) -> Result<bool, Error> {
    let found = a.find_map(budget, |_, element, budget| Ok(has(b, &element, budget)?.then_some(())))?;
    Ok(found.is_some())
}
