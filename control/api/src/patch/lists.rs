//! The order of list elements in a strategic merge patch. Everything here is linear in the lists (apart from sorting), because a patch may be
//! hostile.

use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// The identity of an element: the value of its merge key, or the element itself without a merge key.
pub(super) fn identity<'a>(element: &'a Value, key: Option<&str>) -> Option<&'a Value> {
    match key {
        Some(key) => element.get(key),
        None => Some(element),
    }
}

/// Positions of the elements of a list by their identity; the first of equal ones.
struct Positions<'a> {
    places: HashMap<&'a Value, usize>,
    key: Option<&'a str>,
}

impl<'a> Positions<'a> {
    fn of(list: &'a [Value], key: Option<&'a str>) -> Self {
        let mut places = HashMap::with_capacity(list.len());
        for (at, element) in list.iter().enumerate() {
            if let Some(identity) = identity(element, key) {
                places.entry(identity).or_insert(at);
            }
        }
        Self { places, key }
    }

    fn find(&self, element: &Value) -> Option<usize> {
        self.places.get(identity(element, self.key)?).copied()
    }
}

/// The merged elements in upstream's order: those in the patch (or its `$setElementOrder`) in the patch's order, server-only ones in the
/// server's order; the two lists are merged so that a server-only element precedes another one only if it did on the server.
pub(super) fn ordered(
    merged: Vec<Value>,
    patch_order: &[Value],
    server_order: &[Value],
    key: Option<&str>,
) -> Vec<Value> {
    let (patch, server) = (Positions::of(patch_order, key), Positions::of(server_order, key));
    // Position in the patch's order, position in the server's order, element.
    let placed = merged.into_iter().map(|element| (patch.find(&element), server.find(&element), element));
    let (mut ours, mut theirs): (Vec<_>, Vec<_>) = placed.partition(|(in_patch, ..)| in_patch.is_some());
    ours.sort_by_key(|(in_patch, ..)| *in_patch);
    theirs.sort_by_key(|(_, in_server, _)| in_server.unwrap_or(usize::MAX));
    let mut result = Vec::with_capacity(ours.len() + theirs.len());
    let (mut ours, mut theirs) = (ours.into_iter().peekable(), theirs.into_iter().peekable());
    while let (Some((_, mine, _)), Some((_, other, _))) = (ours.peek(), theirs.peek()) {
        let server_first = matches!((other, mine), (Some(other), Some(mine)) if other < mine);
        result.extend(if server_first { theirs.next() } else { ours.next() });
    }
    result.extend(ours);
    result.extend(theirs);
    result.into_iter().map(|(_, _, element)| element).collect()
}

/// A list without duplicates; the first of equal elements stays.
pub(super) fn without_repetitions(mut list: Vec<Value>) -> Vec<Value> {
    let mut seen = HashSet::with_capacity(list.len());
    list.retain(|element| seen.insert(element.clone()));
    list
}
