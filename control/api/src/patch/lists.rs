//! How strategic merge patch brings list elements into order.

use serde_json::Value;

/// What identifies an element: its merge key's value, or the element itself where there is no merge key.
pub(super) fn identity<'a>(element: &'a Value, key: Option<&str>) -> Option<&'a Value> {
    match key {
        Some(key) => element.get(key),
        None => Some(element),
    }
}

/// Where an element stands in a list.
pub(super) fn position(list: &[Value], element: &Value, key: Option<&str>) -> Option<usize> {
    let wanted = identity(element, key)?;
    list.iter().position(|other| identity(other, key) == Some(wanted))
}

/// The merged elements, in upstream's order: those that the patch (or its `$setElementOrder`) names in the patch's order, those that only
/// the server has in the server's; the two are merged so that a server-only element comes first only where the server had it first.
pub(super) fn ordered(
    merged: Vec<Value>,
    patch_order: &[Value],
    server_order: &[Value],
    key: Option<&str>,
) -> Vec<Value> {
    let (mut ours, mut theirs): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|element| position(patch_order, element, key).is_some());
    ours.sort_by_key(|element| position(patch_order, element, key));
    theirs.sort_by_key(|element| position(server_order, element, key).unwrap_or(usize::MAX));
    let mut result = Vec::with_capacity(ours.len() + theirs.len());
    let (mut ours, mut theirs) = (ours.into_iter().peekable(), theirs.into_iter().peekable());
    while let (Some(mine), Some(server)) = (ours.peek(), theirs.peek()) {
        let server_first = match (position(server_order, server, key), position(server_order, mine, key)) {
            (Some(server), Some(mine)) => server < mine,
            _ => false,
        };
        result.extend(if server_first { theirs.next() } else { ours.next() });
    }
    result.extend(ours);
    result.extend(theirs);
    result
}

/// A list without repetitions; the first of each stays.
pub(super) fn without_repetitions(list: Vec<Value>) -> Vec<Value> {
    let mut result: Vec<Value> = Vec::with_capacity(list.len());
    for element in list {
        if !result.contains(&element) {
            result.push(element);
        }
    }
    result
}
